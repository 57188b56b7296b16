"""Functions of a module, each as a text of its own: with the helpers, constants and imports that it needs."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from lowvram_ft.data.from_repo.rows import absolute_imports
from lowvram_ft.data.syntax import UNREADABLE, parse
from lowvram_ft.data.trimming.statements import read_statements, split_lines
from lowvram_ft.data.trimming.trim import trim_code
from lowvram_ft.preference.tasks.pure import beyond_the_standard_library, unfit, unsteady

MOST_TEXT_LINES = 120
"""Lines of a function and all that it needs."""


@dataclass(frozen=True)
class Cut:
    """A function that was cut out of its module.

    Attributes:
        name: of the function.
        line: that it begins in.
        code: its text, with what it needs.
        alone: whether it imports nothing but pure modules of the standard library.
        imports: what else it imports, in words; empty where ``alone``.
    """

    name: str
    line: int
    code: str
    alone: bool
    imports: str


def cut_functions(text: str, package: str, refused: Counter[str]) -> Iterator[Cut]:
    """The functions at the top of a module that a test can pin down.

    Args:
        text: of the module.
        package: that it lies in; empty for none.
        refused: counts the others, by reason.
    """
    tree = parse(text)
    if tree is None:
        refused["does not parse"] += 1
        return
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = Counter(node.name for node in functions)
    whole: str | None = None
    for node in functions:
        problem = unfit(node) or unsteady(ast.Module([node], []))
        if problem is None and names[node.name] > 1:
            problem = "is defined several times"
        if problem is None:
            whole = whole if whole is not None else absolute_imports(text, package)
            code = trim_code(whole, [node.name])
            problem, cut = _examined(node, code)
            if cut is not None:
                yield cut
        if problem is not None:
            refused[problem] += 1


def _examined(node: ast.FunctionDef, code: str) -> tuple[str | None, Cut | None]:
    """Why the text of a function is no task, or what it is."""
    if code.count("\n") > MOST_TEXT_LINES:
        return f"needs more than {MOST_TEXT_LINES} lines", None
    tree = parse(code)
    if tree is None:
        return "does not parse", None
    problem = unsteady(tree)
    if problem is not None:
        return problem, None
    try:
        statements = read_statements(tree.body, split_lines(code))
    except UNREADABLE:
        return "is nested too deeply", None
    values = frozenset(
        name for one in statements for name in one.binds if isinstance(one.nodes[0], ast.Assign | ast.AnnAssign)
    )
    if any(one.changes & values for one in statements):
        return "keeps state in a global variable", None
    beyond = beyond_the_standard_library(tree)
    return None, Cut(node.name, node.lineno, code.strip() + "\n", beyond is None, beyond or "")
