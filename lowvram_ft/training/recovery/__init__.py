"""A training that is never lost: one attempt, its checkpoints, memory that runs out, and requests to end."""
