"""Embedding and head: where their tables are kept, how rows are read from there, and the loss over them."""
