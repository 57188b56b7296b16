"""Source files for the page: a letter for each line that says what became of it, and the colours of its tokens."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String, _TokenType

from lowvram_ft.data.syntax import parse
from lowvram_ft.execution.modules import split_modules

COVERED, MISSED, NEITHER = "c", "m", " "
_OUTCOMES = {"passed": "p", "skipped": "s"}
"""Of a test; every other outcome is a failure."""
FAILED = "f"
_COLOURS: tuple[tuple[_TokenType, str], ...] = (
    (Comment, "c"),
    (String, "s"),
    (Number, "n"),
    (Keyword, "k"),
    (Operator.Word, "k"),
    (Name.Decorator, "d"),
    (Name.Function, "f"),
    (Name.Class, "f"),
)


def coverage_marks(code: str, coverage: Mapping[str, Any] | None) -> str:
    """A letter for each line of the code under test: `COVERED`, `MISSED` or `NEITHER`.

    coverage.py speaks of the first lines of statements; the other lines of a statement get the same letter.

    Args:
        code: of one module, or of several; the first one is the one that is covered.
        coverage: as in ``samples.jsonl``; None where it was not measured.
    """
    lines = code.split("\n")
    if coverage is None:
        return ""
    above = lines_above(code)
    target = next(iter(split_modules(code).values()))
    marks = [NEITHER] * len(lines)
    statements = _statements(target)
    for key, letter in (("covered_lines", COVERED), ("missing_lines", MISSED)):
        for line in coverage[key]:
            for number in range(line, statements.get(line, line) + 1):
                if 0 < number + above <= len(lines):
                    marks[number + above - 1] = letter
    return "".join(marks).rstrip()


def lines_above(code: str) -> int:
    """Lines above the module under test, whose own lines are counted from 1: one, where several stand in a row."""
    target = next(iter(split_modules(code).values()))
    return code[: code.find(target)].count("\n")


def outcome_marks(test: str, results: Iterable[Mapping[str, Any]]) -> str:
    """A letter for each line of a test file: what became of the test that it belongs to (``p``, ``s``, `FAILED`).

    Of several results of one function, such as parameters, a failure counts before a skip, a skip before a pass.

    Args:
        test: the file.
        results: ``verdict.results`` of ``samples.jsonl``.
    """
    worst: dict[str, str] = {}
    for result in results:
        name = str(result["name"]).partition("[")[0]
        letter = _OUTCOMES.get(str(result["outcome"]), FAILED)
        worst[name] = min(worst.get(name, letter), letter, key=(FAILED, "s", "p").index)
    tree = parse(test)
    if not worst or tree is None:
        return ""
    marks = [NEITHER] * len(test.split("\n"))
    for name, node in _functions(tree, ""):
        if name in worst:
            for number in range(node.lineno, min(node.end_lineno or node.lineno, len(marks)) + 1):
                marks[number - 1] = worst[name]
    return "".join(marks).rstrip()


def colours(text: str) -> str:
    """The tokens of Python code: the letter of a colour and a length each, such as ``k3,1,f8``; no letter is plain."""
    runs: list[tuple[str, int]] = []
    for _, kind, value in PythonLexer().get_tokens_unprocessed(text):  # not `get_tokens`, which changes line ends
        letter = next((letter for wanted, letter in _COLOURS if kind in wanted), "")
        if runs and (runs[-1][0] == letter or not value.strip()):
            runs[-1] = (runs[-1][0], runs[-1][1] + len(value))
        else:
            runs.append((letter, len(value)))
    return ",".join(f"{letter}{length}" for letter, length in runs)


def _statements(code: str) -> dict[int, int]:
    """First line of each statement to its last; of one with a body, to the last line of its head."""
    tree = parse(code)
    found: dict[int, int] = {}
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            found[node.lineno] = max(node.lineno, last)
    return found


def _functions(node: ast.AST, prefix: str) -> Iterable[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Test functions by the names that pytest gives them, those in classes too."""
    for child in getattr(node, "body", ()):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{child.name}", child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}::")
