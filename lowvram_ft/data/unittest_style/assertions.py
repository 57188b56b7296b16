"""Assertion methods of ``unittest.TestCase`` as plain ``assert`` statements that mean the same.

What each method checks is read off CPython's ``Lib/unittest/case.py`` (3.11 to 3.13).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence

from lowvram_ft.data.unittest_style.almost import almost_equal, not_almost_equal
from lowvram_ft.data.unittest_style.site import ATOM, COMPARISON, Site, arguments, strength
from lowvram_ft.data.unittest_style.text import NotConvertible
from lowvram_ft.data.unittest_style.values import is_literal, literal

ALIASES = {
    "assert_": "assertTrue",
    "assertEquals": "assertEqual",
    "assertNotEquals": "assertNotEqual",
    "assertAlmostEquals": "assertAlmostEqual",
    "assertNotAlmostEquals": "assertNotAlmostEqual",
    "assertRegexpMatches": "assertRegex",
    "assertNotRegexpMatches": "assertNotRegex",
    "assertRaisesRegexp": "assertRaisesRegex",
    "failUnless": "assertTrue",
    "failIf": "assertFalse",
    "failUnlessEqual": "assertEqual",
    "failIfEqual": "assertNotEqual",
    "failUnlessAlmostEqual": "assertAlmostEqual",
    "failIfAlmostEqual": "assertNotAlmostEqual",
    "failUnlessRaises": "assertRaises",
}
"""Old names, all gone in Python 3.12."""

_COMPARE = {
    "assertEqual": ("first", "==", "second"),
    "assertNotEqual": ("first", "!=", "second"),
    "assertIs": ("expr1", "is", "expr2"),
    "assertIsNot": ("expr1", "is not", "expr2"),
    "assertIn": ("member", "in", "container"),
    "assertNotIn": ("member", "not in", "container"),
    "assertGreater": ("a", ">", "b"),
    "assertGreaterEqual": ("a", ">=", "b"),
    "assertLess": ("a", "<", "b"),
    "assertLessEqual": ("a", "<=", "b"),
}
_CALL = {
    "assertIsInstance": ("obj", "cls", "isinstance({}, {})"),
    "assertNotIsInstance": ("obj", "cls", "not isinstance({}, {})"),
    "assertIsSubclass": ("cls", "superclass", "issubclass({}, {})"),
    "assertNotIsSubclass": ("cls", "superclass", "not issubclass({}, {})"),
    "assertHasAttr": ("obj", "name", "hasattr({}, {})"),
    "assertNotHasAttr": ("obj", "name", "not hasattr({}, {})"),
    "assertStartsWith": ("s", "prefix", ".startswith"),
    "assertNotStartsWith": ("s", "prefix", ".startswith"),
    "assertEndsWith": ("s", "suffix", ".endswith"),
    "assertNotEndsWith": ("s", "suffix", ".endswith"),
}
_TYPED = {
    "assertListEqual": ("list1", "list2", "list"),
    "assertTupleEqual": ("tuple1", "tuple2", "tuple"),
    "assertDictEqual": ("d1", "d2", "dict"),
    "assertMultiLineEqual": ("first", "second", "str"),
    "assertSetEqual": ("set1", "set2", "(set, frozenset)"),
}
_PARAMETERS = {
    **{name: (left, right, "msg") for name, (left, _, right) in _COMPARE.items()},
    **{name: (first, second, "msg") for name, (first, second, _) in (_CALL | _TYPED).items()},
    "assertTrue": ("expr", "msg"),
    "assertFalse": ("expr", "msg"),
    "assertIsNone": ("obj", "msg"),
    "assertIsNotNone": ("obj", "msg"),
    "assertAlmostEqual": ("first", "second", "places", "msg", "delta"),
    "assertNotAlmostEqual": ("first", "second", "places", "msg", "delta"),
    "assertRegex": ("text", "expected_regex", "msg"),
    "assertNotRegex": ("text", "unexpected_regex", "msg"),
    "assertCountEqual": ("first", "second", "msg"),
    "assertSequenceEqual": ("seq1", "seq2", "msg", "seq_type"),
    "assertDictContainsSubset": ("subset", "dictionary", "msg"),
}
_OTHER_WAY_ROUND: dict[type[ast.cmpop], str] = {ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is"}


def handles(name: str) -> bool:
    """Whether `convert` knows the assertion method."""
    return ALIASES.get(name, name) in _PARAMETERS


def convert(name: str, call: ast.Call, site: Site) -> list[str]:
    """Lines, without indentation, that mean what the call of an assertion method means.

    Raises:
        NotConvertible: there are none of which that is certain.
    """
    name = ALIASES.get(name, name)
    given = arguments(call, _PARAMETERS[name])
    message = given.pop("msg", None)
    if isinstance(message, ast.Constant) and message.value is None:
        message = None
    *before, condition = _check(name, given, site)
    told = ""
    if message is not None:
        told = f", {site.operand(message, 1)}"
        if not site.scope.formats(message):  # unittest evaluates it before it is known whether it is told
            if any(isinstance(node, ast.NamedExpr) for node in ast.walk(call)):
                raise NotConvertible("a message after an assignment expression")
            variable = site.fresh("message", "failure_message")
            before.insert(0, f"{variable} = {site.operand(message, 1)}")
            told = f", {variable}"
    return [*before, *_broken(condition, told, site)]


def _broken(condition: str, told: str, site: Site) -> Iterator[str]:
    """An assert statement, over several lines where it was so and is too long for one."""
    line = f"assert {condition}{told}"
    several = site.statement.lineno != site.statement.end_lineno
    if "\n" in line or len(site.indent) + len(line) <= 100 or not several or strength(_expression(condition)) == ATOM:
        yield line
        return
    tree = _expression(condition)
    if isinstance(tree, ast.Compare) and condition.isascii():
        at = tree.left.end_col_offset or 0
        while condition.startswith(")", at):
            at += 1
        yield "assert ("
        yield f"    {condition[:at].strip()}"
        yield f"    {condition[at:].strip()}"
        yield f"){told}"
        return
    yield line


def _expression(text: str) -> ast.expr:
    return ast.parse(f"({text})", mode="eval").body


def _check(name: str, given: dict[str, ast.expr], site: Site) -> list[str]:
    """Statements, and then the condition."""
    first, *others = given.values()
    if name in _COMPARE:
        if name in ("assertIs", "assertIsNot") and any(_is_fresh(node) for node in (first, others[0])):
            raise NotConvertible("identity of a literal")
        return [f"{site.operand(first)} {_COMPARE[name][1]} {site.operand(others[0])}"]
    if name in _CALL:
        return [_called(name, first, others[0], site)]
    if name in _TYPED:
        return _typed_equal(first, others[0], _TYPED[name][2], site)
    if name == "assertTrue":
        return [_true(first, site)]
    if name == "assertFalse":
        return [_false(first, site)]
    if name in ("assertIsNone", "assertIsNotNone"):
        return [f"{site.operand(first)} is {'not ' if name == 'assertIsNotNone' else ''}None"]
    return _SPECIAL[name](given, site)


def _is_fresh(node: ast.expr) -> bool:
    """A literal whose identity nobody knows."""
    return is_literal(node) and not (isinstance(node, ast.Constant) and node.value in (None, True, False, ...))


def _called(name: str, first: ast.expr, second: ast.expr, site: Site) -> str:
    pattern = _CALL[name][2]
    if pattern.startswith("."):
        negation = "not " if "Not" in name else ""
        return f"{negation}{site.operand(first, ATOM)}{pattern}({site.text(second)})"
    site.needs.add(pattern.removeprefix("not ").partition("(")[0])
    return pattern.format(site.text(first), site.text(second))


def _true(node: ast.expr, site: Site) -> str:
    if isinstance(node, ast.Tuple):
        raise NotConvertible("an assertion that cannot fail")
    return site.operand(node, 1)


def _false(node: ast.expr, site: Site) -> str:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _true(node.operand, site)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _OTHER_WAY_ROUND:
        right = site.operand(node.comparators[0])
        return f"{site.operand(node.left)} {_OTHER_WAY_ROUND[type(node.ops[0])]} {right}"
    return f"not {site.operand(node, COMPARISON + 1)}"


def _typed_equal(first: ast.expr, second: ast.expr, kind: str, site: Site) -> list[str]:
    """``first == second``, and both are of a type. Where the type is certain, it is not checked."""
    kinds = {"(set, frozenset)": (set, frozenset), "list": (list,), "tuple": (tuple,), "dict": (dict,), "str": (str,)}
    before: list[str] = []
    sides: list[str] = []
    for node, names in ((first, ("actual", "actual_value")), (second, ("expected", "expected_value"))):
        known = site.scope.kind(node)
        if known is not None:
            if known not in kinds[kind]:
                raise NotConvertible("a type-checked assertion on another type")
            sides.append(site.operand(node))
            continue
        name = site.text(node)
        if not isinstance(node, ast.Name):
            name = site.fresh(*names)
            before.append(f"{name} = {site.text(node)}")
        sides.append(name)
        site.needs.add("isinstance")
        before.append(f"assert isinstance({name}, {kind})")
    assigned_last = sorted(before, key=lambda line: line.startswith("assert "))
    return [*assigned_last, f"{sides[0]} == {sides[1]}"]


def _sequence_equal(given: dict[str, ast.expr], site: Site) -> list[str]:
    first, second = given["seq1"], given["seq2"]
    wanted = given.get("seq_type")
    if isinstance(wanted, ast.Name) and wanted.id in ("list", "tuple"):
        return _typed_equal(first, second, wanted.id, site)
    kinds = site.scope.kind(first), site.scope.kind(second)
    if wanted is None and None not in kinds and {*kinds} <= {list, tuple, str}:
        if kinds[0] is kinds[1]:
            return [f"{site.operand(first)} == {site.operand(second)}"]
        if is_literal(first) or is_literal(second):
            site.needs.add("list")
            return [f"list({site.text(first)}) == list({site.text(second)})"]
    raise NotConvertible("assertSequenceEqual on unknown types")  # it indexes both, which nothing short says


def _regex(given: dict[str, ast.expr], site: Site) -> list[str]:
    """An empty pattern fails by itself in ``assertRegex``: it has to be known that it is none."""
    negated = "unexpected_regex" in given
    text, pattern = given["text"], given["unexpected_regex" if negated else "expected_regex"]
    known = [node.value for node in site.scope.literals(pattern) or [] if isinstance(node, ast.Constant)]
    compiled = isinstance(pattern, ast.Call) and ast.unparse(pattern.func) == "re.compile"
    filled = isinstance(pattern, ast.JoinedStr) and any(isinstance(part, ast.Constant) for part in pattern.values)
    if not negated and not (known and all(known)) and not compiled and not filled:
        raise NotConvertible("assertRegex with an unknown pattern")
    fixed = known or isinstance(pattern, ast.Name) or site.scope.formats(pattern)
    in_any_order = fixed or site.scope.harmless(text, methods=False)
    if not in_any_order and not (compiled and all(_is_flag(node) for node in getattr(pattern, "args", ()))):
        raise NotConvertible("assertRegex with an unknown pattern")
    site.needs.add("re")
    return [f"{'not ' if negated else ''}re.search({site.text(pattern)}, {site.text(text)})"]


def _is_flag(node: ast.expr) -> bool:
    """A text, or ``re.IGNORECASE`` and its kin."""
    return is_literal(node) or all(isinstance(n, ast.Name | ast.Attribute | ast.Load) for n in ast.walk(node))


def _count_equal(given: dict[str, ast.expr], site: Site) -> list[str]:
    """``sorted`` where the elements of one side are known to have a total order, ``Counter`` where they hash."""
    first, second = given["first"], given["second"]
    for node in (second, first):
        known = [_elements(value) for value in site.scope.literals(node) or []]
        if not known or None in known:
            continue
        elements = [element for some in known for element in some or []]
        if _have_an_order(elements):
            site.needs.add("sorted")
            return [" == ".join(_sorted(side, site) for side in (first, second))]
        if all(_hashes(element) for element in elements):
            site.needs.update(("Counter", "list"))
            return [" == ".join(_counted(side, site) for side in (first, second))]
    raise NotConvertible("assertCountEqual on unknown elements")


def _elements(node: ast.expr) -> list[object] | None:
    value = literal(node)
    return list(value) if isinstance(value, list | tuple | set | str) else None


def _have_an_order(values: Sequence[object]) -> bool:
    """Whether ``<`` orders any two of the values for certain."""
    if all(isinstance(value, int | float) and value == value for value in values):
        return True
    if all(isinstance(value, tuple) for value in values):
        rows = [value for value in values if isinstance(value, tuple)]
        if len({len(row) for row in rows}) == 1:
            return all(_have_an_order(column) for column in zip(*rows, strict=True))
    for kind in (list, tuple):
        if all(isinstance(value, kind) for value in values):
            return _have_an_order([item for value in values if isinstance(value, kind) for item in value])
    return all(isinstance(value, str) for value in values)


def _hashes(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_hashes(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str | complex)


def _sorted(node: ast.expr, site: Site) -> str:
    if isinstance(node, ast.List) and is_literal(node):
        value = literal(node)
        if value == sorted(value):
            return site.text(node)
    return f"sorted({site.text(node)})"


def _counted(node: ast.expr, site: Site) -> str:
    text = site.text(node)
    return f"Counter({text})" if site.scope.kind(node) in (list, tuple, set, str) else f"Counter(list({text}))"


def _contains_subset(given: dict[str, ast.expr], site: Site) -> list[str]:
    if not isinstance(given["subset"], ast.Dict) or not is_literal(given["subset"]):
        raise NotConvertible("assertDictContainsSubset on unknown values")
    return [f"{site.operand(given['dictionary'], ATOM)}.items() >= {site.text(given['subset'])}.items()"]


_SPECIAL: dict[str, Callable[[dict[str, ast.expr], Site], list[str]]] = {
    "assertSequenceEqual": _sequence_equal,
    "assertAlmostEqual": almost_equal,
    "assertNotAlmostEqual": not_almost_equal,
    "assertRegex": _regex,
    "assertNotRegex": _regex,
    "assertCountEqual": _count_equal,
    "assertDictContainsSubset": _contains_subset,
}
