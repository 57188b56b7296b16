"""One convention for all sources: a test imports what it tests by ``from solution import a, b``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType

from lowvram_ft.data.imports.edits import Edits
from lowvram_ft.data.imports.parts import Code
from lowvram_ft.data.imports.rewriting import NothingTested, rewrite
from lowvram_ft.data.imports.scopes import BUILTINS, MODULE_ATTRIBUTES, TopNames, top_names
from lowvram_ft.data.imports.writing import add_lines
from lowvram_ft.data.syntax import UNREADABLE, parse
from lowvram_ft.execution.modules import SOLUTION, split_modules

_NO_REEXPORTS: Mapping[str, Collection[str]] = MappingProxyType({})
_OUR_LINE = re.compile(r"^from solution import (\w+(?:, \w+)*)[ \t]*(?:#.*)?$", re.MULTILINE)
_SOLUTION_WORD = re.compile(r"\bsolution\b")
_BY_STRING = ("eval", "exec", "globals")
_RELATIVE = re.compile(r"from\s*\.")
_GLOBAL = re.compile(r"global\s+(\w[\w, \t]*)")
_OPEN = re.compile(r"import\s*\*|def __getattr__\b")


class CannotNormalize(ValueError):
    """A test cannot be brought to the convention.

    Attributes:
        reason: why, in a few words without the row's own names, so that rows can be counted by it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def import_from_solution(
    test: str,
    code: str,
    module: str = SOLUTION,
    *,
    package: str = "",
    reexports: Mapping[str, Collection[str]] = _NO_REEXPORTS,
) -> str:
    """Make a test import what it tests by one line ``from solution import a, b``, and nothing else.

    The line holds the names that the test uses, sorted, and stands where the first import of the code stood, or
    after the docstring and the ``__future__`` imports. Attributes of the module (``m.f``) become names (``f``, or
    ``m_f`` where something else is called ``f``), and imports that nothing uses any longer go. Where the test needs
    the module itself (``monkeypatch.setattr(m, ...)``, ``importlib.reload(m)``), an ``import solution as m`` stays,
    and names that it patches stay attributes. An import that may depend on its place (in a ``try``, a ``with``, or
    after a patch) stays there, with its path changed. Strings are never changed: the executor serves the module under
    its real name too. Everything else keeps its format and its comments. A normalized test is not changed again.

    Args:
        test: a test file, which may take the code's names for granted, as after ``from solution import *``.
        code: text of the module under test, or of several (see `split_modules`).
        module: path that the test imports it by, such as ``"django.utils.text"``; ``solution`` is understood too.
        package: the package that the test file itself lies in, for relative imports; empty where it is in none.
        reexports: packages, and those names of the code that they re-export:
            ``{"networkx": {"pagerank"}}`` makes ``nx.pagerank`` a name of the code, and leaves ``nx.Graph`` alone.

    Raises:
        CannotNormalize: one of the two does not parse, or the test uses no name of the code.
    """
    text = next(iter(split_modules(code, module).values()))
    names = top_names(text)
    if names is None:
        raise CannotNormalize("code does not parse")
    rebound = frozenset(name for line in _GLOBAL.findall(text) for name in re.findall(r"\w+", line))
    defined = Code(names.bound, _OPEN.search(text) is not None, names.imported, rebound)
    if not _may_import_otherwise(test, module, reexports):
        quick = _quickly(test, defined)
        if quick is not None:
            return quick
    tree = parse(test)
    if tree is None:
        raise CannotNormalize("test does not parse")
    try:
        return rewrite(test, tree, defined, module, package, reexports)
    except NothingTested:
        raise CannotNormalize("tests nothing of the code") from None
    except UNREADABLE:
        raise CannotNormalize("test is nested too deeply") from None


def _may_import_otherwise(test: str, module: str, reexports: Mapping[str, Collection[str]]) -> bool:
    """Whether a test may import the code by another name than ``solution``, or use it by strings."""
    if module != SOLUTION and (SOLUTION not in test or module.rpartition(".")[2] in test):
        return True
    if any(package in test for package in reexports):
        return True
    return any(word in test for word in _BY_STRING) or _RELATIVE.search(test) is not None


def _quickly(test: str, code: Code) -> str | None:
    """The result for the two cases that most rows are: one right line, or none at all; None for all others."""
    mentions = len(_SOLUTION_WORD.findall(test))
    line = _OUR_LINE.search(test) if mentions == 1 else None
    if mentions and line is None:
        return None
    names = top_names(test)
    if names is None:
        return None
    return _without_line(test, code, names) if line is None else _with_line(test, code, names, line)


def _with_line(test: str, code: Code, names: TopNames, line: re.Match[str]) -> str | None:
    imported = sorted(set(line[1].split(", ")))
    missing = (names.used - names.bound - BUILTINS - MODULE_ATTRIBUTES) & code.names
    clear = names.bound.issuperset(imported) and not names.bound_again.intersection(imported)
    if (
        missing
        or code.is_open
        or not clear
        or code.imported.issuperset(imported)
        or not names.used.issuperset(imported)
    ):
        return None
    return test[: line.start(1)] + ", ".join(imported) + test[line.end(1) :]


def _without_line(test: str, code: Code, names: TopNames) -> str | None:
    if (names.bound - names.imported) & code.names or code.is_open:
        return None
    needed = sorted((names.used - names.bound - MODULE_ATTRIBUTES) & code.names)
    if code.imported.issuperset(needed):
        raise CannotNormalize("tests nothing of the code")
    begin = test.lstrip()
    if begin.startswith(("import ", "from ", "def ", "class ", "@")) and not begin.startswith("from __future__"):
        edits = Edits(test)
        add_lines(edits, (), [f"from solution import {', '.join(needed)}"])
        return edits.result()
    return None
