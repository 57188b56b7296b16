"""A row's code may hold several modules: take them apart."""

from __future__ import annotations

import re

SOLUTION = "solution"
"""The name that every test file imports from."""

_HEADING = re.compile(r"^# module: ([A-Za-z_][\w.]*)[ \t]*\r?\n", re.MULTILINE)


def split_modules(code: str, module: str = SOLUTION) -> dict[str, str]:
    """Texts of the modules in ``code`` by name, the one under test first.

    A line ``# module: pkg.mod`` begins a module's text. ``code`` that does not begin with such a line is
    one module as a whole, named ``module``.
    """
    parts = _HEADING.split(code)
    if len(parts) == 1 or parts[0].strip():
        return {module: code}
    return dict(zip(parts[1::2], parts[2::2], strict=True))
