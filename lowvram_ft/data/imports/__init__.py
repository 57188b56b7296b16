"""One convention for all sources: a test imports what it tests by ``from solution import a, b``."""

from lowvram_ft.data.imports.solution_line import CannotNormalize, import_from_solution

__all__ = ["CannotNormalize", "import_from_solution"]
