"""Tests are written, run and mended, and never bent to the code."""
