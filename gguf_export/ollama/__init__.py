"""Modelfiles: a chat template as Go's, and reading one back."""
