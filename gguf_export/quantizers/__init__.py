"""Blocks of few bits: which tensor gets which type, and code that writes ggml's bytes."""
