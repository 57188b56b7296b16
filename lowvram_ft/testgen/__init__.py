"""Writing tests for a user's own file."""

from lowvram_ft.testgen.model import newest_export, open_model
from lowvram_ft.testgen.write import TestgenResult, check, write_tests

__all__ = ["TestgenResult", "check", "newest_export", "open_model", "write_tests"]
