"""Verification: the file alone, its weights against base + adapter, its answers against a reference."""
