"""Data: rows from files, the package and the hub; splits; tokens and masks."""
