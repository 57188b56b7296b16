"""Training: one TRL trainer under two engines."""
