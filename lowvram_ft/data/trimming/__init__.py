"""Rows that are too long: the tested definitions with what they call, and the tests that reach them."""

from lowvram_ft.data.trimming.trim import Piece, pieces

__all__ = ["Piece", "pieces"]
