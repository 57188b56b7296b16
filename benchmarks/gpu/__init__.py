"""What only a GPU can show: `run` does all of it in one go."""
