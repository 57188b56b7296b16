"""``assertRaises`` and its kin, ``fail`` and ``skipTest`` as what pytest has for them."""

from __future__ import annotations

import ast
import builtins
import unittest
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from lowvram_ft.data.unittest_style.assertions import ALIASES
from lowvram_ft.data.unittest_style.site import ATOM, Site, arguments
from lowvram_ft.data.unittest_style.text import Edit, NotConvertible, Source, own_nodes
from lowvram_ft.data.unittest_style.values import Scope, is_literal, literal

TESTCASE = frozenset(name for name in dir(unittest.TestCase) if not name.startswith("__"))
"""What a test class has of ``TestCase`` in the Python that runs."""

_CONTEXTS = {
    "assertRaises": ("raises", 1),
    "assertRaisesRegex": ("raises", 2),
    "assertWarns": ("warns", 1),
    "assertWarnsRegex": ("warns", 2),
}
_OUTCOMES = {"fail": ("fail", "msg"), "skipTest": ("skip", "reason")}
_CATCH_ASSERTIONS = frozenset({"AssertionError", "Exception", "BaseException", "failureException"})


@dataclass(frozen=True)
class Method:
    """A method of a test class, or of a mixin.

    Attributes:
        source: the test file.
        node: the method.
        selfs: uses of its first parameter.
        module: what the names of the module stand for.
        is_test: whether it is a test.
    """

    source: Source
    node: ast.FunctionDef
    selfs: frozenset[ast.AST]
    module: Scope
    is_test: bool

    @cached_property
    def scope(self) -> Scope:
        """What its names stand for."""
        return Scope(self.node, self.module)

    def called(self, node: ast.AST | None) -> str | None:
        """The modern name of the method of ``self`` that an expression calls."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.value in self.selfs:
            return ALIASES.get(node.func.attr, node.func.attr)
        return None

    def calls(self, *names: str) -> list[ast.Call]:
        """All calls of these methods of ``self``."""
        every = (node for node in ast.walk(self.node) if isinstance(node, ast.Call))
        return [node for node in every if self.called(node) in names]


def is_context(name: str | None) -> bool:
    """Whether the assertion method checks what code does, and not a value."""
    return name in _CONTEXTS


def is_outcome(name: str | None) -> bool:
    """``fail`` or ``skipTest``."""
    return name in _OUTCOMES


def outcome(call: ast.Call, name: str, site: Site) -> list[str]:
    """``self.fail`` and ``self.skipTest``, as a statement."""
    function, parameter = _OUTCOMES[name]
    given = arguments(call, (parameter,)) if call.args or call.keywords or parameter == "reason" else {}
    site.needs.add("pytest")
    reason = given.get(parameter)
    told = "" if reason is None or (isinstance(reason, ast.Constant) and reason.value is None) else site.text(reason)
    return [f"pytest.{function}({told})"]


def call_form(call: ast.Call, name: str, site: Site) -> list[str]:
    """``self.assertRaises(Error, function, argument)`` as a statement.

    unittest evaluates function and arguments before it begins to watch. So does ``pytest.raises`` with a function,
    which is taken where evaluating them may do what is expected of the call.
    """
    function, count = _CONTEXTS[name]
    if len(call.args) <= count or any(isinstance(argument, ast.Starred) for argument in call.args[:count]):
        raise NotConvertible("assertRaises in another place")
    called, rest = call.args[count], call.args[count + 1 :]
    if isinstance(called, ast.Constant):
        raise NotConvertible("assertRaises of a constant")
    site.needs.add("pytest")
    expected = call.args[0]
    context = f"pytest.{function}({site.text(expected)}{_match(call.args[1:count], site)})"
    if isinstance(called, ast.Lambda) and not rest and not call.keywords and _is_plain(called):
        return [f"with {context}:", f"    {site.operand(called.body, 1)}"]
    values = [*rest, *(keyword.value for keyword in call.keywords)]
    if _may_stand_inside(expected, called, values, site) and all(keyword.arg for keyword in call.keywords):
        told = [*(site.text(value) for value in rest), *(f"{k.arg}={site.text(k.value)}" for k in call.keywords)]
        return [f"with {context}:", f"    {site.operand(called, ATOM)}({', '.join(told)})"]
    if count == 2:
        raise NotConvertible("assertRaisesRegex of a call with computed arguments")
    every = [site.source.render(*_whole(value, site), site.edits) for value in (called, *rest)]
    named = [f"{k.arg}={site.text(k.value)}" if k.arg else f"**{site.text(k.value)}" for k in call.keywords]
    return [f"pytest.{function}({', '.join([site.text(expected), *every, *named])})"]


def _whole(node: ast.expr, site: Site) -> tuple[int, int]:
    site.kept.append((site.source.start(node), site.source.end(node)))
    return site.kept[-1]


def _is_plain(function: ast.Lambda) -> bool:
    parameters = function.args
    some = any(isinstance(node, ast.arg) for node in ast.walk(parameters))
    odd = ast.Yield | ast.YieldFrom | ast.Await | ast.NamedExpr
    return not some and not any(isinstance(node, odd) for node in ast.walk(function.body))


def _may_stand_inside(expected: ast.expr, called: ast.expr, values: list[ast.expr], site: Site) -> bool:
    if any(isinstance(value, ast.Starred) for value in values):
        return False
    if not site.scope.harmless(called) or not all(site.scope.harmless(value, methods=False) for value in values):
        return False
    risky = {"Exception", "BaseException"}
    if isinstance(called, ast.Attribute):
        risky.add("AttributeError")
    names = {node.id for node in ast.walk(ast.Tuple([called, *values], ast.Load())) if isinstance(node, ast.Name)}
    if names <= site.source.bound | set(dir(builtins)) and not isinstance(called, ast.Attribute):
        return True
    return not catches(expected, frozenset(risky | {"NameError"}), site.scope)


def catches(expected: ast.expr | None, names: frozenset[str], scope: Scope) -> bool:
    """Whether a handler for ``expected`` may catch one of the named exceptions; True where it is not known."""
    if expected is None:
        return True
    if isinstance(expected, ast.Tuple):
        return any(catches(item, names, scope) for item in expected.elts)
    if isinstance(expected, ast.Attribute):
        return expected.attr in names
    return not isinstance(expected, ast.Name) or expected.id in names or expected.id in scope.bindings


def _match(pattern: list[ast.expr], site: Site) -> str:
    if not pattern or (is_literal(pattern[0]) and not literal(pattern[0])):
        return ""
    return f", match={site.text(pattern[0])}"


def contexts(method: Method, taken: set[str], needs: set[str]) -> list[Edit]:
    """Edits of ``with self.assertRaises(…) as cm``, of ``cm = self.assertRaises(…)``, and of ``cm.exception``.

    Raises:
        NotConvertible: the context is used in another way.
    """
    edits: list[Edit] = []
    names: dict[str, str] = {}
    for node in ast.walk(method.node):
        if isinstance(node, ast.With):
            for item in node.items:
                name = method.called(item.context_expr)
                if name in _CONTEXTS and isinstance(item.context_expr, ast.Call):
                    edits.append(_context(item.context_expr, name, method, taken, needs))
                    if isinstance(item.optional_vars, ast.Name):
                        names.setdefault(item.optional_vars.id, name)
                    elif item.optional_vars is not None:
                        raise NotConvertible("another use of the context of assertRaises")
        elif isinstance(node, ast.Assign) and method.called(node.value) in _CONTEXTS:
            name = method.called(node.value) or ""
            target = node.targets[0]
            is_context_form = isinstance(node.value, ast.Call) and len(node.value.args) <= _CONTEXTS[name][1]
            if not isinstance(target, ast.Name) or len(node.targets) > 1 or not is_context_form:
                raise NotConvertible("another use of the context of assertRaises")
            assert isinstance(node.value, ast.Call)
            edits.append(_context(node.value, name, method, taken, needs))
            names.setdefault(target.id, name)
    for variable, name in names.items():
        new = "excinfo" if len(names) == 1 and "excinfo" not in taken else variable
        edits += _renamed(variable, new, _CONTEXTS[name][0], method)
    return edits


def _context(call: ast.Call, name: str, method: Method, taken: set[str], needs: set[str]) -> Edit:
    function, count = _CONTEXTS[name]
    parameters = ("expected", "expected_regex")[:count]
    long_names = ("expected_exception", "expected_warning")
    keywords = [ast.keyword("expected" if k.arg in long_names else k.arg, k.value) for k in call.keywords]
    given = arguments(ast.Call(call.func, call.args, keywords), (*parameters, "msg"))
    if len(call.args) > count or ("msg" in given and not method.scope.formats(given["msg"])):
        raise NotConvertible("assertRaises in another place")
    statement = next(above for above, _ in method.source.above(call) if isinstance(above, ast.stmt))
    site = Site(method.source, statement, method.scope, taken, [], needs)
    needs.add("pytest")
    text = f"pytest.{function}({site.text(given['expected'])}{_match([given[p] for p in parameters[1:]], site)})"
    return Edit(method.source.start(call), method.source.end(call), text)


def _renamed(variable: str, new: str, function: str, method: Method) -> list[Edit]:
    """``cm.exception`` becomes ``excinfo.value``."""
    source, edits = method.source, []
    uses = [node for node in ast.walk(method.node) if isinstance(node, ast.Name) and node.id == variable]
    loads = [source.parents[node] for node in uses if isinstance(node.ctx, ast.Load)]
    values = [node for node in loads if isinstance(node, ast.Attribute)]
    entered = [node for node in loads if isinstance(node, ast.withitem) and node.optional_vars is None]
    stores = [node for node in uses if not isinstance(node.ctx, ast.Load)]
    assigned = [node for node in stores if isinstance(source.parents[node], ast.Assign)]
    bound_once = len(assigned) == len(entered) == len(stores) == 1 if assigned else not entered
    if len(values) + len(entered) != len(loads) or not bound_once or variable in _parameters(method.node):
        raise NotConvertible("another use of the context of assertRaises")
    if not all(assigned or _is_bound_by_context(node, method) for node in stores):
        raise NotConvertible("another use of the context of assertRaises")
    if any(node.attr != "exception" or not isinstance(node.ctx, ast.Load) for node in values):
        raise NotConvertible("another use of the context of assertRaises")
    if values and function == "warns":
        raise NotConvertible("another use of the context of assertRaises")
    if assigned and new == variable and values:
        raise NotConvertible("no free name")
    for node in values:
        if any(isinstance(above, ast.JoinedStr) for above, _ in source.above(node)):
            raise NotConvertible("the exception of assertRaises in an f-string")  # Python 3.11 gives no places there
        edits.append(Edit(source.start(node), source.end(node), f"{new}.value"))
    if not assigned:
        edits += [Edit(source.start(node), source.end(node), new) for node in stores]
    elif values:
        edits += [Edit(end, end, f" as {new}") for end in (source.end(item.context_expr) for item in entered)]
    return edits


def _parameters(function: ast.FunctionDef) -> set[str]:
    return {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}


def _is_bound_by_context(name: ast.Name, method: Method) -> bool:
    item = method.source.parents[name]
    return isinstance(item, ast.withitem) and method.called(item.context_expr) in _CONTEXTS


def check_places(method: Method, helpers: list[Method]) -> None:
    """Refuse what would be caught, or not be caught any more.

    ``pytest.fail``, ``pytest.skip`` and a failing ``pytest.raises`` raise what ``except Exception`` does not catch;
    ``pytest.warns`` has its say on an exception that passes through it, where unittest has none.

    Raises:
        NotConvertible: there is such a place.
    """
    helpers_raise = any(helper.calls(*_CONTEXTS, *_OUTCOMES) for helper in helpers)
    skips = any(one.calls("skipTest") for one in (method, *helpers))
    if skips and method.calls("subTest"):
        raise NotConvertible("skipTest beside a subTest")
    for call in (node for node in ast.walk(method.node) if isinstance(node, ast.Call)):
        name = method.called(call)
        if name is None:
            continue
        own = name in _CONTEXTS or name in _OUTCOMES
        if own or (helpers_raise and isinstance(call.func, ast.Attribute) and call.func.attr not in TESTCASE):
            _check_place(call, name, method)


def _check_place(call: ast.Call, name: str, method: Method) -> None:
    names = _CATCH_ASSERTIONS
    if not method.is_test and "Warns" in name:
        raise NotConvertible("assertWarns in a helper")
    warns = name.startswith("assertWarns")
    in_function = False
    for node, child in method.source.above(call):
        if node is method.node:
            break
        in_function = in_function or isinstance(node, ast.FunctionDef | ast.Lambda | ast.AsyncFunctionDef)
        if warns and (in_function or any(_listens(context, method) for context in _entered(node, child))):
            raise NotConvertible("assertWarns in another one")
        if "Raises" in name and any(_listens(context, method) for context in _entered(node, child)):
            raise NotConvertible(
                "assertRaises in assertWarns"
            )  # it lets go of frames, and so may warn of what is in them
        if any(warns or catches(expected, names, method.scope) for expected in caught_by(node, child, method)):
            raise NotConvertible("a failure that is caught")
    if in_function and any(
        catches(expected, names, method.scope)
        for node in ast.walk(method.node)
        for child in ast.iter_child_nodes(node)
        for expected in caught_by(node, child, method)
    ):
        raise NotConvertible("a failure that is caught")


def _listens(context: ast.expr, method: Method) -> bool:
    """Whether a context records warnings: what unittest keeps from it, pytest passes on to it."""
    name = method.called(context) or ast.unparse(context)
    return "arn" in name


def _entered(node: ast.AST, child: ast.AST) -> list[ast.expr]:
    """The contexts of a ``with`` that have been entered when it comes to ``child``."""
    if not isinstance(node, ast.With):
        return []
    place = node.items.index(child) if isinstance(child, ast.withitem) else len(node.items)
    return [item.context_expr for item in node.items[:place]]


def caught_by(node: ast.AST, child: ast.AST, method: Method) -> Iterator[ast.expr | None]:
    """What exceptions from ``child`` are caught by the ``try`` or ``with`` right above it; None for all."""
    if isinstance(node, ast.Try | ast.TryStar) and child in node.body:
        yield from (handler.type for handler in node.handlers)
    for context in _entered(node, child):
        if method.called(context) in ("assertRaises", "assertRaisesRegex") and isinstance(context, ast.Call):
            yield context.args[0] if context.args else None
        elif isinstance(context, ast.Call) and ast.unparse(context.func).endswith(("suppress", "raises")):
            yield from context.args


def own_returns(function: ast.FunctionDef) -> list[ast.Return]:
    """The return statements of a function itself."""
    return [node for node in own_nodes(function) if isinstance(node, ast.Return)]
