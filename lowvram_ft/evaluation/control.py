"""Two controls that no test of behaviour fails, and no other passes.

*The same code written otherwise*: a test that fails on it looks at how code is written, not at what it does. It kills
every mutant without testing anything: it compares the source, the bytecode, or the lines that run.

*Code that does nothing*: each function only returns an empty object, or None. A file whose tests pass on both observes
nothing: its assertions cannot fail, are swallowed, or are about something else. What it kills are mutants that crash.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Collection
from pathlib import Path

from lowvram_ft.execution import Judgement, Limits, Verdict, mutation_analysis, run_tests
from lowvram_ft.execution.modules import split_modules

LOOKS = "fails on the same code written otherwise: it looks at how the code is written, not at what it does"
"""Message of a test that does."""

IDLE = "passes as well on code that does nothing, where each function returns an empty object, or None"
"""Message of the tests of a file that observes nothing."""

_UNUSED = '[__name__, "the same, written otherwise"]'
"""Changes lines, bytecode, constants and names of a function, and nothing that it does."""

_HIDDEN = """\
exec(compile(bytes.fromhex("{digits}").decode("utf-8", "surrogatepass"), __file__, "exec", dont_inherit=True))
"""


def written_otherwise(code: str, module: str) -> str | None:
    """Code that does the same with another text, other line numbers and other bytecode; None where it is no Python.

    Docstrings, signatures and local names stay: a test may look at those.

    Args:
        code: as for `lowvram_ft.execution.run_tests`.
        module: the same.
    """
    found = []
    for name, text in split_modules(code, module).items():
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                _insert(node.body)
        _insert(tree.body)
        # as hexadecimal digits, so that no line of the file is as it was
        digits = ast.unparse(ast.fix_missing_locations(tree)).encode("utf-8", "surrogatepass").hex()
        found.append((name, _HIDDEN.format(digits=digits)))
    return _joined(dict(found))


def _joined(texts: dict[str, str]) -> str:
    """The opposite of `split_modules`."""
    if len(texts) == 1:
        return next(iter(texts.values()))
    return "".join(f"# module: {name}\n{text}" for name, text in texts.items())


def does_nothing(code: str, module: str, result: str) -> str | None:
    """Code with the functions and methods of the module under test emptied; None where it is no Python, or has none.

    Args:
        code: as for `lowvram_ft.execution.run_tests`.
        module: the same.
        result: the expression that they return, or yield.
    """
    texts = split_modules(code, module)
    target = next(iter(texts))
    try:
        tree = ast.parse(texts[target])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    emptied = _Emptied(result)
    tree = ast.fix_missing_locations(emptied.visit(tree))
    return _joined(texts | {target: ast.unparse(tree) + "\n"}) if emptied.count else None


def examined(
    judgement: Judgement,
    code: str,
    module: str,
    test: str,
    limits: Limits,
    root: Path | None,
    only: Collection[int] | None = None,
) -> Judgement:
    """The same judgement, with both controls: what a file is credited with, it has tested.

    Tests that fail on the same code written otherwise count as failed. Of a file that observes nothing, no assertion
    counts. Both say so in the messages of their tests. A control that was stopped by the clock says nothing.

    Args:
        judgement: of ``test``.
        code: as for `lowvram_ft.execution.judge`.
        module: the same.
        test: the same.
        limits: the same.
        root: the same.
        only: the same.

    Raises:
        MachineError: the processes that run tests cannot be started.
    """
    verdict = judgement.verdict
    if not verdict.passing or not verdict.writes_tests:
        return judgement
    if _observes_nothing(judgement, code, module, test, limits, root):
        results = tuple(
            dataclasses.replace(result, message=IDLE) if result.outcome == "passed" else result
            for result in verdict.results
        )
        return Judgement.from_parts(dataclasses.replace(verdict, results=results, assertions=0), None)
    return _without_readers(judgement, code, module, test, limits, root, only)


def _observes_nothing(
    judgement: Judgement, code: str, module: str, test: str, limits: Limits, root: Path | None
) -> bool:
    if _sees_more_than_functions(judgement, code, module, test):
        return False
    for result in ("object()", "None"):
        idle = does_nothing(code, module, result)
        passing = run_tests(idle, module, test, limits, root).passing if idle is not None else ()
        if not set(judgement.verdict.passing) <= set(passing):
            return False
    return True


def _sees_more_than_functions(judgement: Judgement, code: str, module: str, test: str) -> bool:
    """Whether there is something beside the bodies of functions that the tests may look at: constants, fields."""
    tree = ast.parse(next(iter(split_modules(code, module).values())))
    spans = [
        (node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    found = [] if judgement.mutation is None else judgement.mutation.mutants
    if any(
        mutant.outcome in ("killed", "timeout") and not any(first <= mutant.line <= last for first, last in spans)
        for mutant in found
    ):
        return True
    fields = ast.Assign | ast.AnnAssign | ast.AugAssign
    if any(isinstance(part, fields) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for part in node.body):
        return True
    own = {
        name.id
        for node in tree.body
        if isinstance(node, fields)
        for name in ast.walk(node)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    }
    asked = ast.walk(ast.parse(test))
    return any(
        (isinstance(node, ast.Name) and node.id in own) or (isinstance(node, ast.Attribute) and node.attr in own)
        for node in asked
    )


def _without_readers(
    judgement: Judgement,
    code: str,
    module: str,
    test: str,
    limits: Limits,
    root: Path | None,
    only: Collection[int] | None,
) -> Judgement:
    other = written_otherwise(code, module)
    if other is None:
        return judgement
    again = run_tests(other, module, test, limits, root)
    if again.status not in ("ran", "collection_error"):  # stopped by the clock, which says nothing of the test
        return judgement
    outcomes = {result.name: result.outcome for result in again.results}
    readers = {name for name in judgement.verdict.passing if outcomes.get(name, "error") in ("failed", "error")}
    if not readers:
        return judgement
    results = tuple(
        dataclasses.replace(result, outcome="failed", message=LOOKS) if result.name in readers else result
        for result in judgement.verdict.results
    )
    verdict: Verdict = dataclasses.replace(judgement.verdict, results=results)
    if not verdict.passing:
        return Judgement.from_parts(verdict, None)
    again_killed = mutation_analysis(code, module, test, limits, root, tests=verdict.passing, only=only)
    return Judgement.from_parts(verdict, again_killed)


def _insert(body: list[ast.stmt]) -> None:
    """Behind the docstring and what must come first."""
    place = 0
    while place < len(body) and (
        (place == 0 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant))
        or (isinstance(first := body[place], ast.ImportFrom) and first.module == "__future__")
    ):
        place += 1
    body.insert(place, ast.parse(_UNUSED).body[0])


_SETS_UP = {"__init__", "__post_init__", "__init_subclass__", "__set_name__", "__setattr__", "__delattr__"}
"""Methods that may return nothing but None."""


class _Emptied(ast.NodeTransformer):
    """Functions and methods without what they do; their signatures, decorators and docstrings stay."""

    def __init__(self, result: str) -> None:
        self.result = result
        self.count = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Not what is inside: it goes."""
        self.count += 1
        docstring = node.body[:1] if ast.get_docstring(node) is not None else []
        yields = any(isinstance(part, ast.Yield | ast.YieldFrom) for part in ast.walk(node))
        result = "None" if node.name in _SETS_UP else self.result
        text = f"yield {result}" if yields else f"return {result}"
        node.body = [*docstring, *_statements(text)]
        return node

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]


def _statements(text: str) -> list[ast.stmt]:
    return ast.parse(text).body
