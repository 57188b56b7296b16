"""Test files of unittest as the same tests for pytest; see `convert`."""

from lowvram_ft.data.unittest_style.convert import NotConvertible, collected_name, to_pytest, uses_unittest

__all__ = ["NotConvertible", "collected_name", "to_pytest", "uses_unittest"]
