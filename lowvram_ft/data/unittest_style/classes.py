"""Test classes of unittest as functions, or as plain classes, that pytest collects."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from lowvram_ft.data.unittest_style.contexts import TESTCASE, own_returns
from lowvram_ft.data.unittest_style.text import Edit, NotConvertible, Source, own_nodes, references
from lowvram_ft.data.unittest_style.values import is_literal

FIXTURES = {
    "setUp": "setup_method",
    "tearDown": "teardown_method",
    "setUpClass": "setup_class",
    "tearDownClass": "teardown_class",
}
MODULE_FIXTURES = {"setUpModule": "setup_module", "tearDownModule": "teardown_module"}
_IGNORED = frozenset({"maxDiff", "longMessage"})
_MARKS = frozenset({"skip", "skipIf", "skipUnless", "expectedFailure"})


@dataclass(frozen=True)
class Names:
    """What a file calls the members of unittest.

    Attributes:
        modules: names of the module itself.
        members: local name to its name in unittest.
    """

    modules: frozenset[str]
    members: dict[str, str]

    @classmethod
    def of(cls, tree: ast.Module) -> Names:
        """Read off the imports at the top of a file."""
        modules: set[str] = set()
        members: dict[str, str] = {}
        for node in tree.body:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name == "unittest" or (alias.name.startswith("unittest.") and alias.asname is None):
                        modules.add(alias.asname or "unittest")
            elif isinstance(node, ast.ImportFrom) and node.module in ("unittest", "unittest.case") and not node.level:
                members.update({alias.asname or alias.name: alias.name for alias in node.names})
        return cls(frozenset(modules), members)

    def resolve(self, node: ast.expr) -> str | None:
        """The name in unittest of what an expression names, such as ``"TestCase"`` or ``"mock.patch"``."""
        if isinstance(node, ast.Name):
            return self.members.get(node.id)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id in self.modules:
                return node.attr
            holder = self.resolve(node.value)
            return None if holder is None else f"{holder}.{node.attr}"
        return None


@dataclass(frozen=True)
class TestClass:
    """A class whose instances are test cases, or a mixin of one.

    Attributes:
        node: the class.
        family: the class and those of the file that it inherits from.
        is_mixin: whether it is no TestCase by itself.
    """

    __test__ = False

    node: ast.ClassDef
    family: tuple[ast.ClassDef, ...]
    is_mixin: bool

    @property
    def methods(self) -> list[ast.FunctionDef]:
        """Its own methods."""
        return [node for node in self.node.body if isinstance(node, ast.FunctionDef)]

    def defines(self, name: str) -> bool:
        """Whether it or one that it inherits from has a method of that name."""
        return any(isinstance(node, ast.FunctionDef) and node.name == name for c in self.family for node in c.body)

    @property
    def has_tests(self) -> bool:
        """Whether there are tests in it, its own or inherited."""
        return any(isinstance(node, ast.FunctionDef) and is_test(node) for c in self.family for node in c.body)


def is_test(node: ast.AST) -> bool:
    """Whether unittest takes a method for a test."""
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")


def find_classes(tree: ast.Module, names: Names) -> list[TestClass]:
    """The test classes of a file and their mixins.

    Raises:
        NotConvertible: one inherits from what is not in the file, or does not stand at its top.
    """
    top = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    families: dict[str, tuple[ast.ClassDef, ...]] = {}
    mixins: dict[str, ast.ClassDef] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        inherits = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in families]
        direct = [base for base in node.bases if names.resolve(base) == "TestCase"]
        for base in node.bases:
            name = names.resolve(base) or ast.unparse(base)
            if base not in direct and name.endswith("TestCase") and name not in families:
                known = name == "IsolatedAsyncioTestCase"
                raise NotConvertible(name if known else "a TestCase base class of its own")
        if not inherits and not direct:
            continue
        if node.keywords or top.get(node.name) is not node or node not in tree.body:
            raise NotConvertible("a TestCase class in an unusual place")
        family = [node]
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in families:
                family += families[base.id]
            elif base not in direct:
                mixins.update(_mixin(base, top))
                family.append(top[ast.unparse(base)])
        families[node.name] = tuple(dict.fromkeys(family))
    found = [TestClass(node, (node,), is_mixin=True) for node in mixins.values()]
    found += [TestClass(family[0], family, is_mixin=False) for family in families.values()]
    return sorted(found, key=lambda one: one.node.lineno)


def _mixin(base: ast.expr, top: dict[str, ast.ClassDef]) -> dict[str, ast.ClassDef]:
    node = top.get(base.id) if isinstance(base, ast.Name) else None
    if node is None or not all(isinstance(b, ast.Name) and b.id == "object" for b in node.bases):
        raise NotConvertible("a TestCase base class of its own")
    if node.name.startswith("Test"):
        raise NotConvertible("a mixin that is collected by itself")
    return {node.name: node}


def check_class(one: TestClass, tree: ast.Module) -> None:
    """Refuse what a plain class cannot do.

    Raises:
        NotConvertible: there is such a thing.
    """
    seen = set()
    for node in one.node.body:
        if isinstance(node, ast.AsyncFunctionDef):
            raise NotConvertible("an async test")
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            raise NotConvertible("a class in a test class")
        if isinstance(node, ast.FunctionDef):
            odd = node.name in TESTCASE - set(FIXTURES) or node.name in {"runTest", "__init__", "__new__"}
            if odd or node.name in FIXTURES.values():
                raise NotConvertible("a TestCase method of its own")
            if not node.args.args and not any("static" in ast.unparse(d) for d in node.decorator_list):
                raise NotConvertible("a method without self")
            _check_fixture(node)
            if is_test(node):
                _check_test(node, [*node.decorator_list, *(d for c in one.family for d in c.decorator_list)])
                if node.name in seen:
                    raise NotConvertible("two tests of one name")
                seen.add(node.name)
    tests = [node.name for node in one.methods if is_test(node)]
    if tests != sorted(tests) and shares_state(one, tree):  # unittest runs them by name
        raise NotConvertible("tests that share state out of order")


def _check_fixture(node: ast.FunctionDef) -> None:
    if node.name in ("setUp", "tearDown") and (node.decorator_list or not _takes_self_alone(node)):
        raise NotConvertible("an unusual setUp")
    of_class = node.name in ("setUpClass", "tearDownClass")
    if of_class and ([ast.unparse(d) for d in node.decorator_list] != ["classmethod"] or not _takes_self_alone(node)):
        raise NotConvertible("an unusual setUp")
    if node.name in FIXTURES and any(isinstance(n, ast.Yield | ast.YieldFrom) for n in own_nodes(node)):
        raise NotConvertible("an unusual setUp")


def _takes_self_alone(node: ast.FunctionDef) -> bool:
    return len([a for a in ast.walk(node.args) if isinstance(a, ast.arg)]) == 1 and len(node.args.args) == 1


def _check_test(node: ast.FunctionDef, decorators: list[ast.expr]) -> None:
    if any(isinstance(n, ast.Yield | ast.YieldFrom | ast.Await) for n in own_nodes(node)):
        raise NotConvertible("a test that yields")
    values = [found.value for found in own_returns(node) if found.value is not None]
    if any(not (isinstance(value, ast.Constant) and value.value is None) for value in values):
        raise NotConvertible("a test that returns a value")
    given = [decorator for decorator in decorators if is_patch(decorator)]
    plain = len(node.args.args) == len([a for a in ast.walk(node.args) if isinstance(a, ast.arg)])
    if not plain or node.args.defaults or len(node.args.args) - 1 > len(given):
        raise NotConvertible("a test with parameters")


def is_patch(decorator: ast.expr) -> bool:
    """Whether a decorator is ``mock.patch`` or one of its kin."""
    if not isinstance(decorator, ast.Call):
        return False
    return bool(re.fullmatch(r"((unittest\.)?mock\.)?patch(\.(object|dict|multiple))?", ast.unparse(decorator.func)))


def shares_state(one: TestClass, tree: ast.Module) -> bool:
    """Whether tests of a class may see what others did, as far as the file shows."""
    if any(isinstance(node, ast.Global) for node in ast.walk(tree)):
        return True
    for node in one.family:
        for statement in node.body:
            assigns = isinstance(statement, ast.Assign | ast.AnnAssign) and not _is_ignored(statement)
            value = statement.value if assigns and isinstance(statement, ast.Assign | ast.AnnAssign) else None
            if value is not None and not is_literal(value):
                return True
        holders = {"cls", *(c.name for c in one.family)}
        for part in ast.walk(node):
            if isinstance(part, ast.FunctionDef) and part.name == "setUpClass":
                return True
            if isinstance(part, ast.Attribute) and not isinstance(part.ctx, ast.Load):
                holder = part.value
                if isinstance(holder, ast.Name) and holder.id in holders:
                    return True
                if not isinstance(holder, ast.Name) and "__class__" in ast.unparse(holder):
                    return True
    return False


def _is_ignored(node: ast.stmt) -> bool:
    """``maxDiff = None`` in a class, ``self.maxDiff = None`` in a method."""
    if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not is_literal(node.value):
        return False
    target = node.targets[0]
    name = target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else ""
    return name in _IGNORED


def selfs_of(node: ast.FunctionDef) -> list[ast.Name]:
    """Uses of a method's own first parameter; none in a static method."""
    if not node.args.args or any("static" in ast.unparse(d) for d in node.decorator_list):
        return []
    return references(node, node.args.args[0].arg)


def drop_ignored(source: Source, classes: list[TestClass]) -> list[Edit]:
    """Edits that take ``maxDiff`` and its kin out."""
    edits = []
    for one in classes:
        for node in ast.walk(one.node):
            for block in ("body", "orelse", "finalbody"):
                body = getattr(node, block, None)
                body = body if isinstance(body, list) else []
                for statement in body:
                    if isinstance(statement, ast.Assign) and _is_ignored(statement):
                        edits.append(without(source, statement, alone=len(body) == 1))
    return edits


def without(source: Source, statement: ast.stmt, *, alone: bool) -> Edit:
    """An edit that takes a statement out, with its line where nothing else stands there."""
    start, end = source.start(statement), source.end(statement)
    if alone or not source.alone(statement):
        return Edit(start, end, "pass")
    return Edit(source.line_start(start), min(source.line_end(end) + 1, len(source.text)), "")


def marks(source: Source, node: ast.FunctionDef | ast.ClassDef, names: Names) -> Iterator[Edit]:
    """Edits that turn the decorators of unittest into marks of pytest.

    Raises:
        NotConvertible: a decorator may be anything.
    """
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        name = names.resolve(call.func if call is not None else decorator)
        if name in _MARKS:
            yield Edit(source.start(decorator), source.end(decorator), _mark(source, name, call))
        elif not is_patch(decorator) and (isinstance(node, ast.ClassDef) or is_test(node)):
            raise NotConvertible("a decorator of its own")


def _mark(source: Source, name: str | None, call: ast.Call | None) -> str:
    if name == "expectedFailure" and call is None:
        return "pytest.mark.xfail(strict=True)"
    if name == "skip" and call is None:
        return "pytest.mark.skip"
    values = [] if call is None else [*call.args, *(k.value for k in call.keywords if k.arg == "reason")]
    wanted = 1 if name == "skip" else 2
    given = 0 if call is None else len(call.args) + len(call.keywords)
    if not len(values) == given == wanted or any(isinstance(value, ast.Starred) for value in values):
        raise NotConvertible("an unusual skip")
    reason = source.text[source.start(values[-1]) : source.end(values[-1])]
    if name == "skip":
        return f"pytest.mark.skip(reason={reason})"
    condition = source.text[source.start(values[0]) : source.end(values[0])]
    if isinstance(values[0], ast.NamedExpr | ast.Lambda) or any(isinstance(v, ast.GeneratorExp) for v in values):
        raise NotConvertible("an unusual skip")
    if name == "skipUnless":
        simple = isinstance(values[0], ast.Name | ast.Attribute | ast.Call | ast.Constant)
        condition = f"not {condition}" if simple else f"not ({condition})"
    elif not isinstance(values[0], ast.Compare) and condition not in ("True", "False"):
        condition = f"bool({condition})"  # pytest takes a text for an expression that is to be evaluated
    return f"pytest.mark.skipif({condition}, reason={reason})"


def is_mark(decorator: ast.expr, names: Names) -> bool:
    """Whether a decorator is one of unittest's own."""
    return names.resolve(decorator.func if isinstance(decorator, ast.Call) else decorator) in _MARKS


def check_expected_failures(classes: list[TestClass], names: Names, tree: ast.Module) -> None:
    """A mark also covers what fails in fixtures, which unittest reports.

    Raises:
        NotConvertible: an expected failure meets a fixture.
    """
    for one in classes:
        every: list[ast.ClassDef | ast.FunctionDef] = [one.node, *one.methods]
        for node in every:
            expected = [d for d in node.decorator_list if names.resolve(d) == "expectedFailure"]
            if not expected:
                continue
            fixtures = any(one.defines(name) for name in FIXTURES) or any(
                isinstance(other, ast.FunctionDef) and other.name in MODULE_FIXTURES for other in tree.body
            )
            attributes = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
            if node is one.node or fixtures or attributes & {"subTest", "addCleanup"}:
                raise NotConvertible("expectedFailure beside a fixture")


def check_rest(classes: list[TestClass], source: Source) -> None:
    """Refuse every use of ``TestCase`` that has not been converted so far.

    Raises:
        NotConvertible: there is one.
    """
    own = {node.name for one in classes for c in one.family for node in c.body if isinstance(node, ast.FunctionDef)}
    for one in classes:
        for method in one.methods:
            for name in selfs_of(method):
                above = source.parents[name]
                if isinstance(above, ast.Attribute):
                    _check_attribute(above.attr, own)
                elif not (isinstance(above, ast.Call) and ast.unparse(above.func) in ("type", "super")):
                    raise NotConvertible("self passed on")
        holders = {"cls", "super()", *(node.name for node in one.family)}
        for node in ast.walk(one.node):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in holders:
                _check_attribute(node.attr, own)


def _check_attribute(name: str, own: set[str]) -> None:
    if name in ("assertLogs", "assertNoLogs", "addCleanup"):
        raise NotConvertible(name)
    if name in FIXTURES or name in own:
        return
    if name in TESTCASE:
        raise NotConvertible("an assertion method as a value" if name.startswith("assert") else f"TestCase.{name}")
    if re.match(r"assert[A-Z]", name):
        raise NotConvertible("an assertion method that there is not")
