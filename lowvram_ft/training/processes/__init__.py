"""Several processes for one run: who they are, what DDP must be told, and the order of the rows for all of them."""
