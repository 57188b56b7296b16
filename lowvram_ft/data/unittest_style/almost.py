"""``assertAlmostEqual`` and its kin: ``pytest.approx`` where it means the same for every value."""

from __future__ import annotations

import ast
import math

from lowvram_ft.data.unittest_style.site import MULTIPLICATION, SUM, Site
from lowvram_ft.data.unittest_style.text import NotConvertible
from lowvram_ft.data.unittest_style.values import is_literal


def almost_equal(given: dict[str, ast.expr], site: Site) -> list[str]:
    """``assertAlmostEqual``: statements, and then the condition.

    Raises:
        NotConvertible: places or delta are not known.
    """
    first, second = given["first"], given["second"]
    numbers, other = _numbers(first, second, site)
    number = second if other is first else first
    if "delta" in given:
        delta = given["delta"]
        widths = site.scope.numbers(delta)
        if numbers is not None and widths is not None and all(width >= 0 for width in widths):
            return [_approx(other, number, site.text(delta), site)]
        if _is_duration(delta):
            return [f"abs({_difference(first, second, site)}) <= {site.operand(delta)}"]
        if not site.scope.is_there(delta) and widths is None:  # it may not come to it
            raise NotConvertible("assertAlmostEqual with an unknown delta")
        return _or_equal(first, second, f"abs({{}}) <= {_as_format(site.operand(delta))}", site)
    places = _places(given)
    check = f"round(abs({{}}), {places}) == 0"
    if numbers is None:
        return _or_equal(first, second, check, site)
    if all(same_as_rounding(value, places) for value in numbers):
        tolerance = f"0.{'0' * places}5" if places < 4 else f"5e-{places + 1}"
        return [_approx(other, number, tolerance, site)]
    return [check.format(_difference(first, second, site))]  # a number less itself is 0


def _approx(actual: ast.expr, expected: ast.expr, tolerance: str, site: Site) -> str:
    site.needs.add("pytest")
    return f"{site.operand(actual)} == pytest.approx({site.text(expected)}, abs={tolerance}, rel=0)"


def _or_equal(first: ast.expr, second: ast.expr, check: str, site: Site) -> list[str]:
    """Equal ones may have a difference that is not 0 (infinities), or none (texts)."""
    before, left, right = _twice(first, second, site)
    return [*before, f"{left} == {right} or {check.format(f'{left} - {right}')}"]


def _as_format(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _twice(first: ast.expr, second: ast.expr, site: Site) -> tuple[list[str], str, str]:
    """Both operands so that they can be used twice, and what has to come before."""
    before: list[str] = []
    sides: list[str] = []
    for node, names in ((first, ("actual", "actual_value")), (second, ("expected", "expected_value"))):
        if _repeats(node, site):
            sides.append(site.operand(node, MULTIPLICATION + 1))
        else:
            name = site.fresh(*names)
            before.append(f"{name} = {site.text(node)}")
            sides.append(name)
    return before, sides[0], sides[1]


def _repeats(node: ast.expr, site: Site) -> bool:
    """Whether an expression may be evaluated twice."""
    exact = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Decimal", "Fraction")
    literal_arguments = isinstance(node, ast.Call) and not node.keywords and all(is_literal(a) for a in node.args)
    return (exact and literal_arguments) or site.scope.harmless(node, methods=False)


def not_almost_equal(given: dict[str, ast.expr], site: Site) -> list[str]:
    """``assertNotAlmostEqual``: statements, and then the condition.

    A list, or NaN with a delta, fails there, and is no ``pytest.approx`` of anything: so that is not taken.

    Raises:
        NotConvertible: places or delta are not known.
    """
    first, second = given["first"], given["second"]
    numbers, _ = _numbers(first, second, site)
    widths = site.scope.numbers(given["delta"]) if "delta" in given else []
    if widths is None or any(width < 0 for width in widths):
        if not _is_duration(given["delta"]):
            raise NotConvertible("assertNotAlmostEqual with an unknown delta")
        numbers = [0]
    if "delta" in given:
        check = f"abs({{}}) > {_as_format(site.operand(given['delta']))}"
    else:
        check = f"round(abs({{}}), {_places(given)}) != 0"
    if numbers is not None and all(math.isfinite(number) for number in numbers):
        return [check.format(_difference(first, second, site))]
    before, left, right = _twice(first, second, site)
    return [*before, f"not {left} == {right} and {check.format(f'{left} - {right}')}"]


def _numbers(first: ast.expr, second: ast.expr, site: Site) -> tuple[list[float | int] | None, ast.expr]:
    """The values of the side that is a plain number, and the other side."""
    site.needs.update(("abs", "round"))
    numbers = site.scope.numbers(second)
    return (numbers, first) if numbers is not None else (site.scope.numbers(first), second)


def _difference(first: ast.expr, second: ast.expr, site: Site) -> str:
    return f"{site.operand(first, SUM)} - {site.operand(second, MULTIPLICATION)}"


def _places(given: dict[str, ast.expr]) -> int:
    node = given.get("places")
    if node is None or (isinstance(node, ast.Constant) and node.value is None):
        return 7
    if isinstance(node, ast.Constant) and type(node.value) is int and 0 <= node.value <= 15:
        return node.value
    raise NotConvertible("assertAlmostEqual with unknown places")


def same_as_rounding(number: float, places: int) -> bool:
    """Whether ``abs(x - number) <= 5e-(places + 1)`` and ``round(abs(x - number), places) == 0`` agree on every x.

    The only difference that they can disagree on is the tolerance itself, where the float nearest to it is a
    little more than it. Near most numbers no float is just so far away.
    """
    tolerance = float(f"5e-{places + 1}")
    if round(tolerance, places) == 0 or not math.isfinite(number):
        return True
    for edge in (number - tolerance, number + tolerance):
        for x in (math.nextafter(edge, -math.inf), edge, math.nextafter(edge, math.inf)):
            if abs(x - number) == tolerance:
                return False
    return True


def _is_duration(node: ast.expr) -> bool:
    """``timedelta(seconds=1)`` and its kin, not negative."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    values = [*node.args, *(keyword.value for keyword in node.keywords)]
    return name == "timedelta" and all(
        isinstance(v, ast.Constant) and type(v.value) in (int, float) and v.value >= 0  # type: ignore[operator]
        for v in values
    )
