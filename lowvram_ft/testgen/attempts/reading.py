"""Read from the text of a test file what each of its tests asserts. Nothing of it runs."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from lowvram_ft.data.row import SOLUTION
from lowvram_ft.data.syntax import parse
from lowvram_ft.execution import check_counts
from lowvram_ft.execution.shape import is_check
from lowvram_ft.testgen.attempts.assertions import NO_FACTS, Case, Check, FileFacts, TestFacts
from lowvram_ft.testgen.attempts.bindings import Function, Scope, file_scope, function_scope
from lowvram_ft.testgen.attempts.normal import Normal

_CODE_NAME = re.compile(rf"'({SOLUTION}\.\w+)'")
_LEAVES = frozenset({"skip", "xfail", "importorskip", "fail", "exit", "_exit", "quit"})
_REPLACES = frozenset({"patch", "object", "dict", "setattr", "delattr", "setitem", "multiple", "spy", "stub"})
_FREE_MARKS = ("pytest.mark.parametrize", "pytest.mark.usefixtures")


def read_tests(text: str, code: str) -> FileFacts:
    """What the tests of a file assert; nothing for a text that is no Python.

    Args:
        text: a test file, which imports the code as ``solution``.
        code: the code under test.
    """
    tree = parse(text)
    if tree is None:
        return NO_FACTS
    defined = _defined(code)
    scope = file_scope(tree, defined)
    found = {name: _facts(name, node, scope, owner) for name, node, owner in named_tests(tree.body)}
    return FileFacts(found, frozenset(_replaced(tree, scope, defined)))


def named_tests(
    body: Iterable[ast.stmt], prefix: str = "", owner: ast.ClassDef | None = None
) -> Iterator[tuple[str, Function, ast.ClassDef | None]]:
    """The test functions of a file by pytest's names, each with the class that it stands in."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield prefix + node.name, node, owner
        elif isinstance(node, ast.ClassDef):
            yield from named_tests(node.body, f"{prefix}{node.name}::", node)


def _facts(name: str, node: Function, file: Scope, owner: ast.ClassDef | None) -> TestFacts:
    reader = _Reader(node, file, owner)
    checks = tuple(reader.checks(node.body, ()))
    marks, cases = _marks(node, owner, Normal(file))
    calls = frozenset(reader.calls())
    said = " ".join([*(check.key for check in checks), *calls])
    return TestFacts(
        name,
        checks,
        check_counts(ast.Module([node], []))[0],
        frozenset(cases),
        frozenset(marks),
        frozenset(reader.leaves(node.body, ())),
        calls,
        frozenset(_CODE_NAME.findall(said)),
        min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]),
        node.end_lineno or node.lineno,
    )


class _Reader:
    """Reads one test function."""

    def __init__(self, node: Function, file: Scope, owner: ast.ClassDef | None) -> None:
        self.normal = Normal(function_scope(node, file, owner))
        self.helpers = {
            name for name, definition in file.definitions.items() if any(map(is_check, ast.walk(definition)))
        }

    def checks(self, body: Sequence[ast.stmt], path: tuple[str, ...]) -> Iterator[Check]:
        """Every check in a block and below, up to where the block is left."""
        for node in body:
            if isinstance(node, ast.Return | ast.Raise | ast.Break | ast.Continue):
                return
            place = self.normal.place(node)
            if isinstance(node, ast.Assert):
                yield from (self._check(part, node, place, path) for part in _conjuncts(node.test))
            elif isinstance(node, ast.Expr) and self._asserts(node.value):
                yield self._check(node.value, node, place, path)
            elif isinstance(node, ast.With | ast.AsyncWith) and any(is_check(item.context_expr) for item in node.items):
                yield self._check(node, node, place, path)
            for inner, condition in self._blocks(node, place):
                yield from self.checks(inner, (*path, condition))

    def leaves(self, body: Sequence[ast.stmt], path: tuple[str, ...]) -> Iterator[str]:
        """Where the function may be left."""
        for node in body:
            place = self.normal.place(node)
            if isinstance(node, ast.Return | ast.Raise | ast.Break | ast.Continue):
                yield repr((path, self.normal.key(node, place)[0]))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _called(node.value) in _LEAVES:
                yield repr((path, self.normal.key(node, place)[0]))
            for inner, condition in self._blocks(node, place):
                yield from self.leaves(inner, (*path, condition))

    def calls(self) -> Iterator[str]:
        """The normal form of every call of the code under test."""
        for line in self.normal.scope.lines:
            place = self.normal.place(line.node)
            for part in line.parts:
                for node in ast.walk(self.normal.form(part, place)):
                    if isinstance(node, ast.Call) and _uses_code(node):
                        yield ast.dump(node)

    def _asserts(self, value: ast.expr) -> bool:
        if is_check(value):
            return True
        return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in self.helpers

    def _check(self, part: ast.expr | ast.stmt, node: ast.stmt, place: int, path: tuple[str, ...]) -> Check:
        form = self.normal.form(part, place)
        along = self.normal.taken_along(form, place)
        subject, expected, certain = _sides(form, part)
        key = repr((path, ast.dump(form), along))
        last = node.end_lineno or node.lineno
        return Check(key, subject, expected, _is_exact(part), certain, node.lineno, last)

    def _blocks(self, node: ast.stmt, place: int) -> Iterator[tuple[list[ast.stmt], str]]:
        """The blocks in a statement, each with the condition under which it runs, and what it makes of a failure."""

        def said(what: str, *nodes: ast.AST) -> str:
            return repr((what, [self.normal.key(one, place) for one in nodes]))

        match node:
            case ast.If() | ast.While():
                kind = type(node).__name__
                yield node.body, said(kind, node.test)
                yield node.orelse, said(f"{kind} else", node.test)
            case ast.For() | ast.AsyncFor():
                yield node.body, said("for", node.target, node.iter)
                yield node.orelse, said("for else", node.target, node.iter)
            case ast.With() | ast.AsyncWith():
                yield node.body, said("with", *node.items)
            case ast.Try() | ast.TryStar():
                yield node.body, said("try", *node.handlers)
                for handler in node.handlers:
                    yield handler.body, said("except", *([handler.type] if handler.type is not None else []))
                yield node.orelse, said("try else", *node.handlers)
                yield node.finalbody, "finally"
            case ast.Match():
                for case in node.cases:
                    yield case.body, said("match", node.subject, case.pattern)


def _conjuncts(test: ast.expr) -> list[ast.expr]:
    """``a and b`` asserts ``a``, then ``b``."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return [part for value in test.values for part in _conjuncts(value)]
    return [test]


def _sides(form: ast.AST, part: ast.AST) -> tuple[str, str | None, bool]:
    """Subject and expectation of a check, and whether it is certain."""
    if isinstance(form, ast.Compare) and len(form.ops) == 1 and isinstance(form.ops[0], ast.Eq | ast.Is):
        sides = (form.left, form.comparators[0])
        ours = [side for side in sides if _uses_code(side)]
        if len(ours) == 1:
            other = sides[1] if sides[0] is ours[0] else sides[0]
            return ast.dump(ours[0]), _literal(other), False
    certain = False
    if isinstance(part, ast.Compare) and len(part.ops) == 1 and isinstance(part.ops[0], ast.Eq | ast.Is | ast.LtE):
        same = ast.dump(part.left) == ast.dump(part.comparators[0])
        certain = same and not any(isinstance(node, ast.Call) for node in ast.walk(part))
    return ast.dump(form), None, certain


def _is_exact(part: ast.AST) -> bool:
    """Whether one value, or one kind of exception, makes a check hold, and no other."""
    if isinstance(part, ast.Compare):
        return all(isinstance(operator, ast.Eq | ast.Is) for operator in part.ops)
    return isinstance(part, ast.With | ast.AsyncWith | ast.Call)


def _literal(node: ast.AST) -> str | None:
    try:
        return repr(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _uses_code(node: ast.AST) -> bool:
    prefix = f"{SOLUTION}."
    return any(isinstance(part, ast.Name) and part.id.startswith(prefix) for part in ast.walk(node))


def _called(call: ast.Call) -> str:
    """The last name of what is called; that of a normal form has dots in it."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else str(getattr(call.func, "id", ""))
    return name.rpartition(".")[2]


def _marks(node: Function, owner: ast.ClassDef | None, normal: Normal) -> tuple[list[str], list[Case]]:
    """Marks and decorators of a test and its class; those of ``parametrize`` as cases."""
    marks: list[str] = []
    cases: list[Case] = []
    for decorator in [*node.decorator_list, *(owner.decorator_list if owner is not None else [])]:
        form = normal.form(decorator, -1)
        name = ast.unparse(form.func if isinstance(form, ast.Call) else form)
        if name == _FREE_MARKS[0] and isinstance(form, ast.Call):
            cases += _cases(form, normal)
        elif name not in _FREE_MARKS:
            marks.append(repr((ast.dump(form), normal.taken_along(form, -1))))
    return marks, cases


def _cases(mark: ast.Call, normal: Normal) -> Iterator[Case]:
    given = {keyword.arg: keyword.value for keyword in mark.keywords}
    arguments = [*mark.args[:2], *(given[name] for name in ("argnames", "argvalues") if name in given)]
    if len(arguments) != 2:
        yield Case(ast.dump(mark), "")
        return
    names, values = arguments
    spelt = _names_of(names)
    if not isinstance(values, ast.List | ast.Tuple):
        yield Case(repr((spelt, ast.dump(values), normal.taken_along(values, -1))), "")
        return
    for value in values.elts:
        parts = list(value.elts) if isinstance(value, ast.Tuple | ast.List) and "," in spelt else [value]
        if isinstance(value, ast.Call) and _called(value) == "param":
            marked = [keyword for keyword in value.keywords if keyword.arg != "id"]
            parts = [*value.args, *(keyword.value for keyword in marked)]
        along = normal.taken_along(value, -1)
        yield Case(repr((spelt, [ast.dump(part) for part in parts[:-1]], along)), ast.dump(parts[-1]) if parts else "")


def _names_of(node: ast.expr) -> str:
    """``"a, b"``, ``("a", "b")`` and ``["a", "b"]`` are one."""
    if isinstance(node, ast.Constant):
        return repr([name.strip() for name in str(node.value).split(",") if name.strip()])
    parts = [getattr(part, "value", None) for part in getattr(node, "elts", [])]
    return repr(parts) if all(isinstance(part, str) for part in parts) else ast.dump(node)


def _defined(code: str) -> frozenset[str]:
    """Functions, classes and values that the code under test defines itself."""
    tree = parse(code)
    found: set[str] = set()
    for node in tree.body if tree is not None else []:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(found)


def _replaced(tree: ast.Module, scope: Scope, defined: Collection[str]) -> Iterator[str]:
    """Names of the code that something in the file assigns to, or patches."""
    normal = Normal(scope)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            yield from _code_names(normal.form(node, -1), defined)
        elif isinstance(node, ast.Call) and _called(node) in _REPLACES:
            yield from _patched(node, normal, defined)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            yield from [SOLUTION] if _literal(node.slice) == repr(SOLUTION) else []
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name in defined:
            yield node.name


def _patched(call: ast.Call, normal: Normal, defined: Collection[str]) -> Iterator[str]:
    """``patch("solution.f")``, ``setattr(solution, "f", …)``, ``patch.object(Account, "withdraw")``."""
    texts = [node.value for node in call.args if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    for text in texts:
        owner, _, name = text.partition(".")
        if owner == SOLUTION and (not name or name.partition(".")[0] in defined):
            yield name or SOLUTION
    if call.args:
        form = normal.form(call.args[0], -1)
        if isinstance(form, ast.Name) and form.id == SOLUTION:
            yield from (text for text in texts if text in defined)
        else:
            yield from _code_names(form, defined)


def _code_names(form: ast.AST, defined: Collection[str]) -> Iterator[str]:
    for found in _CODE_NAME.findall(ast.dump(form)):
        if found.partition(".")[2] in defined:
            yield found.partition(".")[2]
