"""A model that gets better by being used: it learns from what testgen kept, and is replaced only by a better one."""
