"""Test files in the style of unittest, each with a small module that it tests: written for the converter's tests."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """A module and a test file of it.

    Attributes:
        name: tells what is in the test file.
        code: the module, importable as ``solution``.
        test: the test file.
        last_python: the last Python whose unittest has what is used.
        stand_in: what the original needs in front of it to run on a Python that has it not yet.
    """

    name: str
    code: str
    test: str
    last_python: tuple[int, int] = (3, 99)
    stand_in: str = ""


MODULES: dict[str, str] = {}
PAIRS: list[Pair] = []


def _module(name: str, code: str) -> None:
    MODULES[name] = textwrap.dedent(code).lstrip("\n")


def _pair(name: str, module: str, body: str, head: str = "", **options: object) -> None:
    """A test file; one that imports nothing of unittest is the body of a class."""
    text = textwrap.dedent(body).lstrip("\n")
    if "import unittest" not in text and "from unittest import" not in text:
        heading = textwrap.dedent(head).lstrip("\n")
        start = f"import unittest\n{heading}from solution import *\n\n\nclass TestIt(unittest.TestCase):\n"
        text = start + textwrap.indent(text, "    ") + '\n\nif __name__ == "__main__":\n    unittest.main()\n'
    PAIRS.append(Pair(name, MODULES[module], text, **options))  # type: ignore[arg-type]


_module(
    "numbers",
    """
    class Shy(Exception):
        code = 3


    def add(a, b=1):
        return a + b


    def sign(x):
        if x > 0:
            return 1
        return -1 if x < 0 else 0


    def half(x):
        if x == 13:
            raise Shy("thirteen is odd 13")
        if not isinstance(x, (int, float)):
            raise TypeError("no number")
        return x / 2


    def even(x):
        return x % 2 == 0


    def maybe(x):
        return None if x < 0 else x
    """,
)
_module(
    "lists",
    """
    class Pile:
        def __init__(self, *items):
            self.items = list(items)

        def push(self, item):
            self.items.append(item)
            return len(self.items)

        def pop(self):
            if not self.items:
                raise IndexError("empty")
            return self.items.pop()

        def __len__(self):
            return len(self.items)

        def __eq__(self, other):
            return isinstance(other, Pile) and len(self.items) == len(other.items)


    def evens(n):
        return [i for i in range(n) if i % 2 == 0]


    def pair(n):
        return (n, n * 2)


    def letters(text):
        found = {}
        for letter in text:
            found[letter] = found.get(letter, 0) + 1
        return found


    def shared(a, b):
        return set(a) & set(b)


    def subsets(items):
        found = [[]]
        for item in items:
            found += [[*one, item] for one in found]
        return found


    def shout(text):
        if not text:
            raise ValueError("text is empty")
        return text.upper() + "!\\n"
    """,
)
_module(
    "floats",
    """
    from datetime import datetime, timedelta
    from decimal import Decimal


    def third(x):
        return x / 3


    def edge(n):
        return n * 0.005


    def money(x):
        return Decimal(x) / 8


    def spin(x):
        return complex(x, 0.001)


    def later(hours):
        return datetime(2020, 1, 1) + timedelta(hours=hours)


    def endless(x):
        return float("inf") if x > 1 else float("nan") if x == 1 else 2.0


    def word(x):
        return "a" * x


    def numbers(x):
        return [x / 2, x / 4]
    """,
)
_module(
    "effects",
    """
    import warnings

    log = []


    def note(text):
        log.append(text)
        return len(log)


    def old(x):
        if x > 2:
            warnings.warn("old is old", DeprecationWarning, stacklevel=2)
        if x > 4:
            warnings.warn("very old", UserWarning, stacklevel=2)
        return x


    def load(path):
        with open(path) as file:
            return file.read()


    def greet(name):
        return "Hello " + name


    def welcome(name):
        return greet(name) + "!"
    """,
)

_module(
    "odd",
    """
    class Lazy:
        def __init__(self, answer):
            self.answer = answer

        def __eq__(self, other):
            return self.answer if other == 5 else []


    class Strict:
        def __eq__(self, other):
            raise TypeError("cannot be compared")


    class Stubborn:
        def __eq__(self, other):
            return True

        def __ne__(self, other):
            return True


    def evens(n):
        return [0] if n != n + 1 else []


    def apply(function, x):
        return function(x) + 1


    class Account:
        def __init__(self, owner, balance=0):
            self.owner = owner
            self.balance = balance

        def pay(self, amount):
            if amount > self.balance:
                raise ValueError(f"{self.owner} has only {self.balance}")
            self.balance -= amount
            return self.balance

        def __repr__(self):
            if self.balance < 0:
                raise RuntimeError("in debt")
            return f"Account({self.owner!r}, {self.balance})"
    """,
)
# --- every assertion ---------------------------------------------------------------------------------------------

_pair(
    "equal",
    "numbers",
    """
    def test_equal(self):
        self.assertEqual(add(1, 2), 3)
        self.assertEqual(first=add(2), second=3)

    def test_not_equal(self):
        self.assertNotEqual(add(1, 2), 4)

    def test_fails(self):
        self.assertEqual(add(1, 2), 4)

    def test_fails_too(self):
        self.assertNotEqual(add(1, 2), 3)
    """,
)
_pair(
    "truth",
    "numbers",
    """
    def test_true(self):
        self.assertTrue(even(4))
        self.assertTrue(add(1, 2) == 3)
        self.assertTrue(not even(3))

    def test_false(self):
        self.assertFalse(even(3))
        self.assertFalse(even(3) or even(5))
        self.assertFalse(add(1) == 3)
        self.assertFalse(not even(4))
        self.assertFalse(sign(-3) in (0, 1))
        self.assertFalse(maybe(3) is None)

    def test_true_fails(self):
        self.assertTrue(even(3))

    def test_false_fails(self):
        self.assertFalse(even(4) and even(2))
    """,
)
_pair(
    "identity",
    "numbers",
    """
    def test_none(self):
        self.assertIsNone(maybe(-1))
        self.assertIsNotNone(maybe(0))
        self.assertIs(even(2), True)
        self.assertIsNot(even(2), False)
        self.assertIs(type(half(2)), float)

    def test_none_fails(self):
        self.assertIsNone(maybe(0))

    def test_not_none_fails(self):
        self.assertIsNotNone(maybe(-1))

    def test_is_fails(self):
        self.assertIs(add(1), even)
    """,
)
_pair(
    "membership",
    "lists",
    """
    def test_in(self):
        self.assertIn(2, evens(3))
        self.assertNotIn(1, evens(3))
        self.assertIn("a", letters("abc"))

    def test_in_fails(self):
        self.assertIn(3, evens(6))

    def test_not_in_fails(self):
        self.assertNotIn(4, evens(6))
    """,
)
_pair(
    "instances",
    "lists",
    """
    def test_isinstance(self):
        self.assertIsInstance(evens(2), list)
        self.assertIsInstance(pair(2), (list, tuple))
        self.assertNotIsInstance(pair(2), list)

    def test_isinstance_fails(self):
        self.assertIsInstance(shared([1], [1]), list, "a set")

    def test_not_isinstance_fails(self):
        self.assertNotIsInstance(shared([1], [1]), (set, frozenset))
    """,
)
_pair(
    "order",
    "numbers",
    """
    def test_order(self):
        self.assertGreater(add(1, 2), 2)
        self.assertGreaterEqual(add(1, 2), 3)
        self.assertLess(sign(-2), 0)
        self.assertLessEqual(sign(0), 0)

    def test_greater_fails(self):
        self.assertGreater(sign(2), 1)

    def test_greater_equal_fails(self):
        self.assertGreaterEqual(sign(2), 2)

    def test_less_fails(self):
        self.assertLess(sign(2), 1)

    def test_less_equal_fails(self):
        self.assertLessEqual(sign(2), 0)
    """,
)
_pair(
    "raises in a context",
    "numbers",
    """
    def test_raises(self):
        with self.assertRaises(Shy):
            half(13)

    def test_tuple(self):
        with self.assertRaises((ValueError, TypeError)):
            half("a")

    def test_exception(self):
        with self.assertRaises(Shy) as cm:
            half(13)
        self.assertEqual(str(cm.exception), "thirteen is odd 13")
        self.assertEqual(cm.exception.code, 3)
        self.assertIn("odd", cm.exception.args[0])

    def test_does_not_raise(self):
        with self.assertRaises(Shy):
            half(12)

    def test_raises_another(self):
        with self.assertRaises(ValueError, msg="told"):
            half("a")

    def test_two_in_a_row(self):
        with self.assertRaises(Shy) as context:
            half(13)
        self.assertTrue("thirteen" in str(context.exception))
        with self.assertRaises(TypeError) as context:
            half(None)
        self.assertEqual(context.exception.args, ("no number",))
    """,
)
_pair(
    "raises as a call",
    "numbers",
    """
    def test_call(self):
        self.assertRaises(Shy, half, 13)
        self.assertRaises((Shy, TypeError), half, x="a")

    def test_lambda(self):
        self.assertRaises(TypeError, lambda: half([]))

    def test_does_not_raise(self):
        self.assertRaises(Shy, half, 14)

    def test_argument_raises(self):
        self.assertRaises(TypeError, half, half("a"))

    def test_computed_argument(self):
        self.assertRaises(Shy, half, add(12))

    def test_starred(self):
        arguments = [13]
        self.assertRaises(Shy, half, *arguments)

    def test_named(self):
        arguments = {"x": 13}
        self.assertRaises(Shy, half, **arguments)

    def test_any(self):
        self.assertRaises(Exception, half, 13)

    def test_unknown_name(self):
        self.assertRaises(Exception, hallf, 13)
    """,
)
_pair(
    "raises with a pattern",
    "numbers",
    r"""
    def test_context(self):
        with self.assertRaisesRegex(Shy, r"odd \d+$") as cm:
            half(13)
        self.assertIsInstance(cm.exception, Exception)

    def test_call(self):
        self.assertRaisesRegex(Shy, "^thirteen", half, 13)

    def test_compiled(self):
        with self.assertRaisesRegex(Shy, re.compile("ODD", re.I)):
            half(13)

    def test_another_text(self):
        with self.assertRaisesRegex(Shy, "fourteen"):
            half(13)

    def test_no_exception(self):
        with self.assertRaisesRegex(Shy, "thirteen"):
            half(12)

    def test_empty_pattern(self):
        with self.assertRaisesRegex(Shy, ""):
            half(13)
    """,
    head="import re\n",
)
_pair(
    "raises kept in a variable",
    "lists",
    """
    def test_variable(self):
        raised = self.assertRaises(IndexError)
        with raised:
            Pile().pop()
        self.assertEqual(str(raised.exception), "empty")

    def test_without_its_exception(self):
        raised = self.assertRaises(IndexError)
        with raised:
            Pile(1).pop()
    """,
)
_pair(
    "nested contexts",
    "lists",
    """
    def test_nested(self):
        with self.assertRaises(ValueError) as outer:
            with self.assertRaises(IndexError) as inner:
                Pile().pop()
            self.assertEqual(str(inner.exception), "empty")
            shout("")
        self.assertEqual(str(outer.exception), "text is empty")
        self.assertEqual(str(inner.exception), "empty")

    def test_two_names(self):
        with self.assertRaises(IndexError) as first:
            Pile().pop()
        second = self.assertRaises(ValueError)
        with second:
            shout("")
        self.assertEqual(str(first.exception), "empty")

    def test_on_one_line(self):
        with self.assertRaises(IndexError), open("/dev/null") as file:
            self.assertEqual(file.read(), "")
            Pile().pop()

    def test_inner_does_not_raise(self):
        with self.assertRaises(ValueError):
            with self.assertRaises(IndexError):
                Pile(1).pop()
            shout("")
    """,
)
_pair(
    "assertions inside of raises",
    "lists",
    """
    def test_assertion_error_is_expected(self):
        with self.assertRaises(AssertionError):
            self.assertEqual(evens(3), [0])

    def test_assertion_error_does_not_come(self):
        with self.assertRaises(AssertionError):
            self.assertEqual(evens(3), [0, 2])
    """,
)
_pair(
    "warnings",
    "effects",
    """
    def test_warns(self):
        with self.assertWarns(DeprecationWarning):
            old(3)

    def test_warns_call(self):
        self.assertWarns(DeprecationWarning, old, 3)

    def test_pattern(self):
        with self.assertWarnsRegex(UserWarning, "^very"):
            old(5)
        self.assertWarnsRegex(DeprecationWarning, "is old", old, 5)

    def test_tuple(self):
        with self.assertWarns((UserWarning, RuntimeWarning)):
            old(5)

    def test_no_warning(self):
        with self.assertWarns(DeprecationWarning):
            old(2)

    def test_another_warning(self):
        with self.assertWarns(UserWarning):
            old(4)

    def test_another_text(self):
        with self.assertWarnsRegex(UserWarning, "new"):
            old(5)
    """,
)
_pair(
    "almost equal",
    "floats",
    """
    def test_default(self):
        self.assertAlmostEqual(third(1), 0.33333333)

    def test_default_fails(self):
        self.assertAlmostEqual(third(1), 0.333333)

    def test_places(self):
        self.assertAlmostEqual(third(2), 0.67, places=2)
        self.assertAlmostEqual(third(10), 3.33, 2)
        self.assertAlmostEqual(3.3333, third(10), places=4)

    def test_delta(self):
        self.assertAlmostEqual(third(10), 3, delta=0.5)
        self.assertAlmostEqual(third(10), 3.5, delta=0.5)

    def test_delta_fails(self):
        self.assertAlmostEqual(third(10), 3, delta=0.25)

    def test_variable(self):
        expected = 1.6667
        self.assertAlmostEqual(third(5), expected, places=3)

    def test_arithmetic(self):
        self.assertAlmostEqual(third(5), 5 / 3)
        self.assertAlmostEqual(third(math.pi), math.pi / 3, msg="a third")
        self.assertAlmostEqual(third(3), math.sqrt(1))

    def test_two_unknown(self):
        one, other = third(2), third(2.00000001)
        self.assertAlmostEqual(one, other)

    def test_two_unknown_fails(self):
        one, other = third(2), third(2.000001)
        self.assertAlmostEqual(one, other)
    """,
    head="import math\n",
)
_pair(
    "not almost equal",
    "floats",
    """
    def test_places(self):
        self.assertNotAlmostEqual(third(1), 0.333)
        self.assertNotAlmostEqual(third(1), 0.35, places=2)

    def test_places_fails(self):
        self.assertNotAlmostEqual(third(1), 0.33, places=2)

    def test_delta(self):
        self.assertNotAlmostEqual(third(1), 1, delta=0.5)

    def test_delta_fails(self):
        self.assertNotAlmostEqual(third(3), 1.5, delta=0.5)

    def test_nan(self):
        self.assertNotAlmostEqual(endless(1), 2.0)

    def test_nan_with_delta(self):
        self.assertNotAlmostEqual(endless(1), 2.0, delta=0.1)

    def test_list(self):
        self.assertNotAlmostEqual(numbers(2), 1.0)

    def test_two_unknown(self):
        one, other = endless(2), endless(3)
        self.assertNotAlmostEqual(one, other)
    """,
)
_pair(
    "almost equal on the edge",
    "floats",
    """
    def test_a_half(self):
        self.assertAlmostEqual(edge(1), 0, places=2)

    def test_a_half_below(self):
        self.assertAlmostEqual(0, edge(0.999999), places=2)

    def test_a_half_of_one(self):
        self.assertAlmostEqual(edge(100), 0, places=0)

    def test_near_two(self):
        self.assertAlmostEqual(2 + edge(1), 2.0, places=2)

    def test_near_two_above(self):
        self.assertAlmostEqual(2 + edge(1.0000001), 2.0, places=2)

    def test_small(self):
        self.assertAlmostEqual(edge(2), 0.005, places=2)

    def test_five_places(self):
        self.assertAlmostEqual(edge(0.001), 0.0, places=5)

    def test_seven_places(self):
        self.assertAlmostEqual(edge(0.00001), 0.0)

    def test_not_on_the_edge(self):
        self.assertNotAlmostEqual(edge(1), 0, places=2)
    """,
)
_pair(
    "almost equal without floats",
    "floats",
    """
    def test_decimal(self):
        result, expected = money(1), Decimal("0.125")
        self.assertAlmostEqual(result, expected)

    def test_decimal_near(self):
        result, expected = money(1), Decimal("0.1250000001")
        self.assertAlmostEqual(result, expected)

    def test_decimal_on_the_edge(self):
        result = money(1)
        self.assertAlmostEqual(result, Decimal("0.125"), places=2)

    def test_decimal_and_float(self):
        self.assertAlmostEqual(money(1), 0.125)

    def test_decimal_and_another_float(self):
        self.assertAlmostEqual(money(1), 0.1250000001)

    def test_complex(self):
        self.assertAlmostEqual(spin(1), 1.0, places=2)

    def test_complex_fails(self):
        self.assertAlmostEqual(spin(1), 1.0, places=4)

    def test_dates(self):
        self.assertAlmostEqual(later(1), datetime(2020, 1, 1), delta=timedelta(hours=1))

    def test_dates_fail(self):
        self.assertAlmostEqual(later(2), datetime(2020, 1, 1), delta=timedelta(minutes=90))

    def test_dates_apart(self):
        self.assertNotAlmostEqual(later(2), datetime(2020, 1, 1), delta=timedelta(minutes=90))

    def test_text(self):
        result = word(2)
        self.assertAlmostEqual("aa", result)

    def test_list(self):
        self.assertAlmostEqual(numbers(2), 1.0)

    def test_two_lists(self):
        result, expected = numbers(2), [1.0, 0.5]
        self.assertAlmostEqual(result, expected)

    def test_two_lists_near(self):
        result, expected = numbers(2), [1.0, 0.500000001]
        self.assertAlmostEqual(result, expected)

    def test_infinite(self):
        self.assertAlmostEqual(endless(2), float("inf"))

    def test_nan(self):
        self.assertAlmostEqual(endless(1), 1.0)

    def test_nan_is_no_nan(self):
        self.assertAlmostEqual(endless(1), float("nan"))

    def test_infinite_fails(self):
        self.assertAlmostEqual(endless(2), 1e300)
    """,
)
_pair(
    "patterns",
    "lists",
    r"""
    def test_regex(self):
        self.assertRegex(shout("ab"), r"^A")
        self.assertRegex(shout("ab"), re.compile("b!", re.IGNORECASE))
        self.assertNotRegex(shout("ab"), "[0-9]")

    def test_regex_fails(self):
        self.assertRegex(shout("ab"), r"^B")

    def test_not_regex_fails(self):
        self.assertNotRegex(shout("ab"), r"B!\n$")

    def test_variable(self):
        pattern = "A+B"
        self.assertRegex(shout("aab"), pattern)
        self.assertNotRegex(shout("b"), pattern)
    """,
    head="import re\n",
)
_pair(
    "counts",
    "lists",
    """
    def test_sorted(self):
        self.assertCountEqual(evens(5), [4, 2, 0])
        self.assertCountEqual([0, 2, 4], evens(5))
        self.assertCountEqual(shared("abc", "bcd"), ["c", "b"])

    def test_mixed(self):
        self.assertCountEqual([None, *evens(3)], [2, 0, None])

    def test_not_hashable(self):
        self.assertCountEqual(subsets([1, 2]), [[1, 2], [2], [1], []])

    def test_not_hashable_fails(self):
        self.assertCountEqual(subsets([1, 2]), [[1, 2], [2], [2], []])

    def test_twice(self):
        self.assertCountEqual(evens(3) + [0], [0, 2])

    def test_keys(self):
        self.assertCountEqual(letters("aab"), ["a", "b"])

    def test_keys_mixed(self):
        self.assertCountEqual(letters(["a", 1]), ["a", 1])

    def test_variable(self):
        expected = [2, 0]
        self.assertCountEqual(evens(3), expected, "evens below 3")

    def test_empty(self):
        self.assertCountEqual(evens(0), [])

    def test_pairs(self):
        self.assertCountEqual(letters("aab").items(), [("b", 1), ("a", 2)])
    """,
)
_pair(
    "types that are checked",
    "lists",
    """
    def test_list(self):
        self.assertListEqual(evens(5), [0, 2, 4])

    def test_list_is_a_tuple(self):
        self.assertListEqual(pair(2), [2, 4])

    def test_tuple(self):
        self.assertTupleEqual((2, 4), pair(2))

    def test_dict(self):
        self.assertDictEqual(letters("aab"), {"a": 2, "b": 1}, msg="counted")

    def test_dict_fails(self):
        self.assertDictEqual(letters("aab"), {"a": 2})

    def test_set(self):
        self.assertSetEqual(shared([1, 2], [2]), {2})

    def test_frozen_set(self):
        self.assertSetEqual(frozenset(shared([1, 2], [2])), {2})

    def test_keys_are_no_set(self):
        self.assertSetEqual(letters("ab").keys(), {"a", "b"})

    def test_text(self):
        self.assertMultiLineEqual(shout("ab"), "AB!\\n")

    def test_two_calls(self):
        self.assertListEqual(evens(3), evens(4))

    def test_two_calls_fail(self):
        self.assertListEqual(evens(3), evens(5))

    def test_variable(self):
        result = evens(3)
        self.assertListEqual(result, [0, 2])

    def test_custom_equal(self):
        self.assertEqual(Pile(1), Pile(2))
        self.assertNotEqual(Pile(1), Pile(2, 3))
    """,
)
_pair(
    "sequences",
    "lists",
    """
    def test_both_lists(self):
        self.assertSequenceEqual(list(pair(2)), [2, 4])

    def test_of_two_types(self):
        self.assertSequenceEqual(list(pair(2)), (2, 4))

    def test_of_two_types_fails(self):
        self.assertSequenceEqual(sorted(pair(2)), (4, 2))

    def test_type(self):
        self.assertSequenceEqual(evens(3), [0, 2], seq_type=list)

    def test_another_type(self):
        self.assertSequenceEqual(pair(3), [3, 6], seq_type=list)
    """,
)
_pair(
    "fail and skip",
    "numbers",
    """
    def test_fail(self):
        if add(1) != 3:
            self.fail("add is broken")
        try:
            half("a")
            self.fail()
        except TypeError:
            pass

    def test_fails(self):
        if even(2):
            self.fail(f"even is {even(2)}")

    def test_skip(self):
        if even(2):
            self.skipTest("even")
        self.assertEqual(add(1), 3)

    def test_no_skip(self):
        if even(3):
            self.skipTest("even")
        self.assertEqual(add(1), 2)
    """,
)
_pair(
    "old names",
    "numbers",
    """
    def test_equals(self):
        self.assertEquals(add(1), 2)
        self.assertNotEquals(add(1), 3)
        self.assert_(even(2))
        self.failUnless(even(2))
        self.failIf(even(3))
        self.failUnlessEqual(add(1), 2)
        self.failIfEqual(add(1), 3)
        self.failUnlessRaises(Shy, half, 13)

    def test_almost(self):
        self.assertAlmostEquals(half(1), 0.50000001)
        self.assertNotAlmostEquals(half(1), 0.6)
        self.failUnlessAlmostEqual(half(1), 0.5, places=3)
        self.failIfAlmostEqual(half(1), 0.51, places=2)

    def test_patterns(self):
        self.assertRegexpMatches(str(add(1)), "2")
        self.assertNotRegexpMatches(str(add(1)), "3")
        with self.assertRaisesRegexp(Shy, "odd"):
            half(13)

    def test_fails(self):
        self.assertEquals(add(1), 3)

    def test_subset(self):
        self.assertDictContainsSubset({"a": 2}, {"a": add(1), "b": 3})

    def test_subset_fails(self):
        self.assertDictContainsSubset({"a": 2, "c": 1}, {"a": add(1), "b": 3})
    """,
    last_python=(3, 11),
)
_pair(
    "new names",
    "lists",
    """
    def test_text(self):
        self.assertStartsWith(shout("ab"), "A")
        self.assertEndsWith(shout("ab"), ("?", "!\\n"))
        self.assertNotStartsWith(shout("ab"), "B")
        self.assertNotEndsWith(shout("ab"), "!")

    def test_text_fails(self):
        self.assertStartsWith(shout("ab"), "a")

    def test_attributes(self):
        self.assertHasAttr(Pile(), "items")
        self.assertNotHasAttr(Pile(), "things")
        self.assertIsSubclass(Pile, object)
        self.assertNotIsSubclass(Pile, list)

    def test_attributes_fail(self):
        self.assertHasAttr(Pile(), "things")
    """,
    stand_in="""
import unittest


class _New(unittest.TestCase):
    def assertStartsWith(self, s, prefix):
        self.assertTrue(s.startswith(prefix))

    def assertEndsWith(self, s, suffix):
        self.assertTrue(s.endswith(suffix))

    def assertNotStartsWith(self, s, prefix):
        self.assertFalse(s.startswith(prefix))

    def assertNotEndsWith(self, s, suffix):
        self.assertFalse(s.endswith(suffix))

    def assertHasAttr(self, obj, name):
        self.assertTrue(hasattr(obj, name))

    def assertNotHasAttr(self, obj, name):
        self.assertFalse(hasattr(obj, name))

    def assertIsSubclass(self, cls, superclass):
        self.assertTrue(issubclass(cls, superclass))

    def assertNotIsSubclass(self, cls, superclass):
        self.assertFalse(issubclass(cls, superclass))


unittest.TestCase = _New
""",
)

# --- arguments, precedence, layout -------------------------------------------------------------------------------

_pair(
    "messages",
    "numbers",
    """
    def test_constant(self):
        self.assertEqual(add(1), 2, "one more")
        self.assertTrue(even(2), msg="even")
        self.assertIsNone(maybe(-1), msg=None)

    def test_formatted(self):
        for number in (1, 2, 3):
            self.assertEqual(add(number), number + 1, f"of {number}")

    def test_evaluated_although_it_passes(self):
        result = half(2)
        self.assertTrue(result, f"{result:.1f}")

    def test_message_fails(self):
        self.assertEqual(add(1), 2, f"{half('a')}")

    def test_fails_with_one(self):
        self.assertEqual(add(1), 3, msg="told %s" % add(1))
    """,
)
_pair(
    "precedence",
    "numbers",
    """
    def test_or(self):
        self.assertEqual(maybe(0) or 3, 3)
        self.assertEqual(3, maybe(0) or 3)
        self.assertEqual(even(2) and 3, 3)
        self.assertEqual(not even(2), False)

    def test_not_or(self):
        self.assertFalse(even(3) or even(5))
        self.assertFalse(even(2) and even(5))

    def test_not_or_fails(self):
        self.assertFalse(even(3) or even(2))

    def test_conditional(self):
        self.assertEqual(1 if even(2) else 2, 1)
        self.assertFalse(1 if even(3) else 0)
        self.assertIn(1, [1] if even(2) else [])

    def test_lambda(self):
        self.assertEqual((lambda x: add(x))(1), 2)
        self.assertTrue(lambda: even(3))

    def test_comparison(self):
        self.assertEqual(add(1) == 2, True)
        self.assertTrue(1 < add(1) < 3)
        self.assertFalse(1 < add(1) < 2)
        self.assertEqual(True, 1 in [add(0)])

    def test_walrus(self):
        self.assertEqual(x := add(1), 2)
        self.assertTrue(y := even(x))
        self.assertIs(y, True)

    def test_generator(self):
        self.assertTrue(all(even(x) for x in (2, 4)))
        self.assertTrue(even(x) for x in (1, 3))
        self.assertIn(2, (add(x) for x in range(3)))
        self.assertEqual(sum(add(x) for x in range(3)), 6)

    def test_bits(self):
        self.assertEqual(add(1) | 1, 3)
        self.assertEqual(4 & add(4) ^ 1, 5)
        self.assertFalse(even(3) | even(5))

    def test_starred(self):
        self.assertEqual(add(*[1, 2]), 3)
        self.assertEqual([*[add(1)], 2], [2, 2])
        self.assertEqual(add(**{"a": 1, "b": 5}), 6)
    """,
)
_pair(
    "several lines",
    "lists",
    """
    def test_lines(self):
        self.assertEqual(
            evens(5),
            [
                0,  # the first
                2,
                4,
            ],
        )
        self.assertEqual(
            letters(
                "aab"
            ),  # counted
            # then
            {
                "a": 2,
                "b": 1,
            },
            "told",
        )

    def test_operators(self):
        self.assertEqual(
            len(evens(5))
            + 1,
            4
        )
        self.assertTrue(
            evens(3) == [0, 2]
            and evens(1) == [0]
        )
        self.assertFalse(evens(1)
                         == [1])

    def test_long(self):
        self.assertEqual(
            [evens(5), evens(6), evens(7), evens(8)],
            [[0, 2, 4], [0, 2, 4], [0, 2, 4, 6], [0, 2, 4, 6]],
        )

    def test_text(self):
        self.assertEqual(shout(\"\"\"a
    b\"\"\"), "A\\n    B!\\n")
        self.assertEqual(shout("é" "ü"), "ÉÜ!\\n"); self.assertEqual(evens(1), [0])
        if evens(1): self.assertEqual(evens(2), [0])
        self.assertEqual(shout('a' \\
            'b'), "AB!\\n")

    def test_text_fails(self):
        self.assertEqual(shout(\"\"\"a
    b\"\"\"), "A\\nB!\\n")
    """,
)
_pair(
    "text of several lines in a class",
    "lists",
    '''
    import unittest
    from solution import shout


    class TestShout(unittest.TestCase):
        """The class
        has a docstring."""

        # a comment of the class
        def test_a(self):
            """A docstring
            of two lines."""
            text = """
        indented
    """
            # a comment inside

            self.assertEqual(shout(text), """
        INDENTED
    !\\n""")
            self.assertEqual(len(shout(f"""
              {text}
            """)), 53)
    # less indented

        def test_b(self): self.assertEqual(shout("a"), "A!\\n")

        # at the end
    ''',
)

# --- subTest and loops -------------------------------------------------------------------------------------------

_pair(
    "loops over cases",
    "numbers",
    """
    def test_cases(self):
        cases = [
            (1, 1, 2),  # small
            (2, 5, 7),
            (-1, 1, 0),
        ]
        for a, b, expected in cases:
            with self.subTest(a=a, b=b):
                self.assertEqual(add(a, b), expected)

    def test_one_fails(self):
        for x, expected in [(1, 1), (0, 1), (-4, -1)]:
            with self.subTest(x=x):
                self.assertEqual(sign(x), expected)

    def test_numbered(self):
        '''Each of them.'''
        for i, (x, expected) in enumerate([(2, True), (3, False)]):
            with self.subTest(f"case {i}"):
                self.assertEqual(even(x), expected)

    def test_single(self):
        for x in (2, 4, 6):
            self.assertTrue(even(x), f"{x} is even")

    def test_bare_tuples(self):
        for x in 2, 4:
            self.assertTrue(even(x))

    def test_bare_pairs(self):
        cases = (2, True), (3, False)
        for x, expected in cases:
            self.assertEqual(even(x), expected)

    def test_types(self):
        for bad in ["a", None, [1], {}]:
            with self.subTest(bad=bad), self.assertRaises(TypeError):
                half(bad)

    def test_errors(self):
        for bad, error in ((13, Shy), ("a", TypeError)):
            with self.assertRaises(error):
                half(bad)

    def test_range(self):
        for x in range(3):
            with self.subTest(x=x):
                self.assertEqual(add(x), x + 1)

    def test_dictionary(self):
        for x, expected in {1: 1, -2: -1}.items():
            with self.subTest(msg="sign", x=x):
                self.assertEqual(sign(x), expected)

    def test_records(self):
        cases = [{"x": 1, "expected": 2}, {"x": 5, "expected": 6}]
        for case in cases:
            with self.subTest(case=case["x"]):
                self.assertEqual(add(case["x"]), case["expected"])
    """,
)
_pair(
    "loops that carry something",
    "lists",
    """
    def test_total(self):
        total = 0
        for x in [1, 2, 3]:
            total += len(evens(x))
        self.assertEqual(total, 4)

    def test_pile(self):
        pile = Pile()
        for i, x in enumerate([5, 6, 7]):
            with self.subTest(i=i):
                self.assertEqual(pile.push(x), i + 1)
        self.assertEqual(len(pile), 3)

    def test_previous(self):
        for x in [2, 4, 6]:
            size = len(evens(x)) + 0
            self.assertEqual(size, x // 2)

    def test_break(self):
        for x in [1, 2, 3]:
            if x == 2:
                break
            self.assertEqual(evens(x), [0])

    def test_nested(self):
        for a in [1, 2]:
            with self.subTest(a=a):
                for b in [0, 1]:
                    with self.subTest(b=b):
                        self.assertEqual(len(evens(a + b)), (a + b + 1) // 2)

    def test_blocks(self):
        with self.subTest("first"):
            self.assertEqual(evens(1), [0])
        with self.subTest("second"):  # with a comment
            # and another
            self.assertEqual(evens(3), [0, 2])
        with self.subTest("third"): self.assertEqual(evens(0), [])

    def test_second_block_fails(self):
        with self.subTest("first"):
            self.assertEqual(evens(1), [0])
        with self.subTest("second"):
            self.assertEqual(evens(3), [0, 2, 4])
    """,
)

# --- fixtures and classes ----------------------------------------------------------------------------------------

_pair(
    "set-up and tear-down",
    "lists",
    """
    import unittest
    from solution import Pile

    seen = []


    class TestPile(unittest.TestCase):
        def setUp(self):
            self.pile = Pile(1, 2)
            seen.append("up")

        def tearDown(self):
            seen.append("down")

        def test_a_pop(self):
            self.assertEqual(self.pile.pop(), 2)
            self.assertEqual(seen, ["up"])

        def test_b_push(self):
            self.assertEqual(self.pile.push(3), 3)
            self.assertEqual(seen, ["up", "down", "up"])

        def test_c_fails(self):
            self.assertEqual(len(self.pile), 3)

        def test_d_after_a_failure(self):
            self.assertEqual(seen.count("down"), 3)
    """,
)
_pair(
    "fixtures that fail",
    "lists",
    """
    import unittest
    from solution import Pile


    class TestSetUp(unittest.TestCase):
        def setUp(self):
            self.top = Pile().pop()

        def test_a(self):
            self.assertTrue(True)


    class TestTearDown(unittest.TestCase):
        def setUp(self):
            self.pile = Pile(1)

        def tearDown(self):
            self.pile.pop()

        def test_a(self):
            self.assertEqual(len(self.pile), 1)

        def test_b(self):
            self.assertEqual(self.pile.pop(), 1)


    class TestClass(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            Pile().pop()

        def test_a(self):
            self.assertTrue(True)


    class TestSkips(unittest.TestCase):
        def setUp(self):
            if len(Pile(1)) == 1:
                self.skipTest("one")

        def test_a(self):
            self.assertEqual(1, 2)
    """,
)
_pair(
    "fixtures of class and module",
    "lists",
    """
    import unittest
    from solution import Pile, evens

    order = []


    def setUpModule():
        order.append("module")


    def tearDownModule():
        order.clear()


    class PileTests(unittest.TestCase):
        limit = 3
        names = ["a", "b"]

        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            cls.pile = Pile(*cls.names)
            order.append("class")

        @classmethod
        def tearDownClass(cls):
            cls.pile = None
            order.append("end")

        def setUp(self):
            super().setUp()
            order.append("test")

        def test_a(self):
            self.assertEqual(order, ["module", "class", "test"])
            self.assertEqual(len(self.pile), 2)

        def test_b(self):
            self.assertEqual(self.pile.push(1), self.limit)
            self.assertEqual(PileTests.limit, 3)

        def test_c(self):
            self.assertEqual(len(self.pile), 3)


    class AfterTest(unittest.TestCase):
        def test_order(self):
            self.assertEqual(order[-1], "end")
            self.assertEqual(evens(3), [0, 2])
    """,
)
_pair(
    "clean-ups",
    "effects",
    """
    import unittest
    from solution import log, note


    class TestLog(unittest.TestCase):
        def setUp(self):
            self.start = note("start")
            self.addCleanup(log.clear)
            self.addCleanup(note, "never seen")

        def tearDown(self):
            self.seen = list(log)
            note("down")

        def test_a(self):
            self.assertEqual(self.start, 1)
            self.assertEqual(note("a"), 2)

        def test_b(self):
            self.assertEqual(log, ["start"])


    class TestInTest(unittest.TestCase):
        def test_a(self):
            self.addCleanup(log.clear)
            self.addCleanup(lambda: note("last"))
            self.assertEqual(note("a"), 1)

        def test_b(self):
            self.assertEqual(note("b"), 1)
            self.assertEqual(log, ["b"])

        def test_c(self):
            self.addCleanup(log.index, "nothing")
            self.assertEqual(log, ["b"])


    class TestFails(unittest.TestCase):
        def setUp(self):
            log.clear()
            self.addCleanup(note, "cleaned")
            log[3]

        def test_a(self):
            self.assertEqual(len(log), 1)
    """,
)
_pair(
    "helpers and attributes",
    "numbers",
    """
    import unittest
    from solution import add, even, half, Shy


    class TestHelpers(unittest.TestCase):
        maxDiff = None
        longMessage = True
        step = 2

        def check(self, x, expected, *, what="sum"):
            self.assertEqual(add(x, self.step), expected, what)

        def assertEven(self, x):
            self.assertTrue(even(x), f"{x!r} is odd")

        @staticmethod
        def make(x):
            return x * 2

        @property
        def three(self):
            return 3

        def refuse(self, x):
            with self.assertRaises(Shy):
                half(x)

        def test_check(self):
            self.maxDiff = None
            self.check(1, self.three)

        def test_check_fails(self):
            self.check(1, 4, what="wrong")

        def test_even(self):
            self.assertEven(self.make(3))

        def test_even_fails(self):
            self.assertEven(3)

        def test_refuse(self):
            self.refuse(13)

        def test_refuse_fails(self):
            self.refuse(12)

        def test_own_class(self):
            class Box:
                def __init__(self, x):
                    self.x = x

                def test(self, x):
                    return self.x == x

            def check(x):
                self.assertTrue(Box(2).test(x))

            check(add(1))
            self.assertEqual(type(self).step, 2)
            self.assertEqual(self.__class__.step, 2)
    """,
)
_pair(
    "inheritance",
    "lists",
    """
    import unittest
    from solution import Pile, evens


    class Base(unittest.TestCase):
        size = 1

        def setUp(self):
            self.pile = Pile(*range(self.size))

        def check_size(self):
            self.assertEqual(len(self.pile), self.size)


    class SmallTest(Base):
        def test_size(self):
            self.check_size()


    class BigTest(Base):
        size = 3

        def setUp(self):
            super().setUp()
            self.pile.push(9)

        def test_last(self):
            self.assertEqual(self.pile.pop(), 9)
            self.check_size()

        def test_size(self):
            self.check_size()


    class TestMore(SmallTest):
        size = 2

        def test_more(self):
            self.assertListEqual(evens(self.size), [0])
    """,
)
_pair(
    "mixins",
    "lists",
    """
    import unittest
    from solution import Pile, letters


    class PileChecks(object):
        def check(self, pile, *items):
            self.assertEqual(pile.items, list(items))

        def test_empty(self):
            self.check(self.make())


    class Other(PileChecks, unittest.TestCase):
        def make(self):
            return Pile()

        def test_push(self):
            pile = self.make()
            pile.push(1)
            self.check(pile, 1)


    class TestFull(PileChecks, unittest.TestCase):
        def make(self):
            return Pile(1)

        def test_letters(self):
            self.assertEqual(letters("a"), {"a": 1})
    """,
)
_pair(
    "several classes",
    "numbers",
    """
    from unittest import TestCase, main
    import unittest.mock
    from solution import add, even


    class Add(TestCase):
        def test_small(self):
            self.assertEqual(add(1), 2)

        def test_big(self):
            self.assertEqual(add(10**6, 1), 1000001)


    class Even(TestCase):
        def test_small(self):
            self.assertTrue(even(2))

        def test_odd(self):
            self.assertTrue(even(3))


    def test_plain():
        assert add(2) == 3


    class TestSign(TestCase):
        def test_other(self):
            self.assertEqual(add(-1), 0)


    if __name__ == "__main__":
        main()
    """,
)
_pair(
    "skips",
    "numbers",
    """
    import sys
    import unittest
    from solution import add, even

    HERE = "yes"


    @unittest.skip("later")
    class TestLater(unittest.TestCase):
        def test_a(self):
            self.assertEqual(add(1), 3)


    @unittest.skipUnless(sys.version_info >= (3, 0), "old")
    class TestNow(unittest.TestCase):
        @unittest.skip("not this")
        def test_a(self):
            self.assertEqual(add(1), 3)

        @unittest.skipIf(sys.platform == "none", reason="no platform")
        def test_b(self):
            self.assertEqual(add(1), 2)

        @unittest.skipIf(HERE, "a text")
        def test_c(self):
            self.assertEqual(add(1), 3)

        @unittest.skipUnless(HERE and even(2), "never")
        def test_d(self):
            self.assertEqual(add(2), 3)

        @unittest.skip
        def test_e(self):
            self.assertEqual(add(2), 4)
    """,
)
_pair(
    "expected failures",
    "numbers",
    """
    import unittest as ut
    from solution import add, half


    class TestFailures(ut.TestCase):
        @ut.expectedFailure
        def test_fails(self):
            self.assertEqual(add(1), 3)

        @ut.expectedFailure
        def test_raises(self):
            half("a")

        @ut.expectedFailure
        def test_passes(self):
            self.assertEqual(add(1), 2)

        @ut.expectedFailure
        def test_loop(self):
            for x in (1, 2, 3):
                self.assertEqual(add(x), 2)

        @ut.expectedFailure
        def test_raises_nothing(self):
            with self.assertRaises(TypeError):
                half(2)
    """,
)
_pair(
    "mocks",
    "effects",
    """
    import unittest
    from unittest import mock
    from unittest.mock import MagicMock, mock_open, patch
    import solution
    from solution import load, welcome


    class TestMocks(unittest.TestCase):
        @patch("solution.greet")
        def test_patched(self, greet):
            greet.return_value = "Hi"
            self.assertEqual(welcome("Ann"), "Hi!")
            greet.assert_called_once_with("Ann")

        @mock.patch.object(solution, "greet", new=lambda name: name)
        def test_replaced(self):
            self.assertEqual(welcome("Ann"), "Ann!")

        @patch("solution.note")
        @patch("solution.greet", side_effect=ValueError("no"))
        def test_two(self, greet, note):
            with self.assertRaises(ValueError) as cm:
                welcome("Ann")
            self.assertEqual(str(cm.exception), "no")
            self.assertFalse(note.called)

        def test_context(self):
            with patch("builtins.open", mock_open(read_data="text")) as opened:
                self.assertEqual(load("x"), "text")
            opened.assert_called_once()

        def test_called_wrongly(self):
            with patch("solution.greet", MagicMock(return_value="")) as greet:
                self.assertEqual(welcome("Bob"), "!")
            greet.assert_called_once_with("Ann")


    @patch("solution.greet")
    class TestPatchedClass(unittest.TestCase):
        def setUp(self):
            self.name = "Ann"

        def test_a(self, greet):
            greet.return_value = "Hi"
            self.assertEqual(welcome(self.name), "Hi!")
    """,
)
_pair(
    "module of mock by its long name",
    "effects",
    """
    import unittest, unittest.mock
    from solution import welcome


    class TestMocks(unittest.TestCase):
        @unittest.mock.patch("solution.greet", return_value="Hi")
        def test_patched(self, greet):
            self.assertEqual(welcome("Ann"), "Hi!")

        def test_real(self):
            self.assertEqual(welcome("Ann"), "Hello Ann!")
    """,
)

# --- the frame of a file -----------------------------------------------------------------------------------------

_pair(
    "imports under other names",
    "numbers",
    '''
    """A file with a docstring."""
    from __future__ import annotations

    import os, unittest as ut
    from unittest import TestCase as Case, mock
    import solution as s


    class AddTestCase(Case):
        def test_a(self):
            self.assertEqual(s.add(1), 2)

        @mock.patch("solution.add", return_value=4)
        def test_b(self, add):
            self.assertEqual(s.add(2), 4)
            self.assertTrue(os.sep)


    class HalfTest(ut.TestCase):
        def test_half(self):
            with self.assertRaises(s.Shy):
                s.half(13)


    if "__main__" == __name__:
        ut.main(verbosity=2)
    ''',
)
_pair(
    "a file that knows pytest",
    "numbers",
    """
    import re
    from collections import Counter
    from unittest import TestCase

    import pytest

    from solution import add, even


    @pytest.fixture
    def two():
        return 2


    def test_fixture(two):
        assert even(two)


    class Test_Add(TestCase):
        def test_a(self):
            with pytest.raises(TypeError):
                add("a")
            self.assertRegex(str(add(1)), "2")
            self.assertCountEqual([add(1), None], [None, 2])


    @pytest.mark.parametrize("x", [1, 3])
    def test_odd(x):
        assert not even(x)
    """,
)
_pair(
    "tabs",
    "numbers",
    """
    import unittest
    from solution import add, sign


    class TestTabs(unittest.TestCase):
    \tdef test_a(self):
    \t\tfor x in [1, 2]:
    \t\t\twith self.subTest(x=x):
    \t\t\t\tself.assertEqual(sign(x), 1)

    \tdef test_b(self):
    \t\tself.assertRaises(TypeError, add, None)
    \t\tself.assertEqual(
    \t\t\tadd(1),
    \t\t\t[
    \t\t\t\t2,
    \t\t\t][0])
    """,
)
_pair(
    "other letters",
    "lists",
    """
    def test_größe(self):
        self.assertEqual(shout("ärger"), "ÄRGER!\\n", "mit Ü"); self.assertIn("ß", "straße")
        self.assertEqual(letters("日本日"), {"日": 2, "本": 1}); self.assertTrue(evens(1))

    def test_cases(self):
        for text, expected in [("é", "É!\\n"),
                               ("\\t", "\\t!\\n"), ("a b", "A B!\\n"), ("\\x00", "\\x00!\\n"), ("ſ", "S!\\n")]:
            with self.subTest(text=text):
                self.assertEqual(shout(text), expected)
    """,
)
_pair(
    "line ends of another system",
    "numbers",
    "import unittest\r\nfrom solution import add\r\n\r\nclass TestAdd(unittest.TestCase):\r\n"
    "    def test_a(self):\r\n        text = '''a\r\n b'''\r\n        self.assertEqual(len(text), add(3))\r\n"
    "        self.assertEqual(\r\n            add(1),\r\n            2)\r\n",
)
_pair(
    "one name twice",
    "numbers",
    """
    import unittest
    from solution import add, even


    class FirstTest(unittest.TestCase):
        def test_it(self):
            self.assertEqual(add(1), 2)


    class SecondTest(unittest.TestCase):
        def test_it(self):
            self.assertTrue(even(2))

        def test_second(self):
            self.assertTrue(even(3))


    class ThirdTest(unittest.TestCase):
        def test_third(self):
            self.assertTrue(even(4))
    """,
)
_pair(
    "private names",
    "lists",
    """
    import unittest
    from solution import Pile


    class TestPrivate(unittest.TestCase):
        def test_private(self):
            pile = Pile(1)
            pile.__hidden = 2
            self.assertEqual(vars(pile)["_TestPrivate__hidden"], 2)
            self.assertRaises(AttributeError, lambda: pile.__items)
    """,
)
_pair(
    "comments",
    "numbers",
    """
    # The first comment
    import unittest  # of the library

    # about the import
    from solution import add, even


    # about the class
    class TestComments(unittest.TestCase):  # on its line
        # before the first

        # about a
        def test_a(self):  # on its line
            # before
            self.assertEqual(add(1), 2)  # beside

            # alone

        # about b
        def test_b(self):
            for x, y in [  # cases
                (2, True),
                # odd
                (3, False),
            ]:  # loop
                # in the loop
                self.assertEqual(even(x), y)  # end


    # about nothing


    if __name__ == "__main__":  # pragma: no cover
        unittest.main()
    # the last comment
    """,
)

# --- more of what people write -----------------------------------------------------------------------------------

_pair(
    "numbers that are near, in a loop",
    "floats",
    """
    import math
    import unittest
    from solution import third

    EXPECTED = 0.6667
    PLACES = 3


    class TestThird(unittest.TestCase):
        def test_cases(self):
            cases = [(1, 0.333), (2, 0.667), (-4, -1.333)]
            for x, expected in cases:
                with self.subTest(x=x):
                    self.assertAlmostEqual(third(x), expected, places=3)

        def test_with_zero(self):
            for x, expected in ((0, 0), (3, 1), (0.0151, 0)):
                self.assertAlmostEqual(third(x), expected, places=2)

        def test_module_constant(self):
            self.assertAlmostEqual(third(2), EXPECTED, delta=10 ** -4)
            self.assertNotAlmostEqual(third(2.5), EXPECTED, 2)

        def test_item(self):
            case = {"x": math.tau, "y": 2.0944}
            self.assertAlmostEqual(third(case["x"]), case["y"], places=4)

        def test_item_fails(self):
            case = {"x": math.tau, "y": 2.0944}
            self.assertAlmostEqual(third(case["x"]), case["y"])

        def test_two_calls(self):
            self.assertAlmostEqual(third(2), third(4) / 2)

        def test_two_calls_fail(self):
            self.assertAlmostEqual(third(2), third(4), 3, "not near")

        def test_two_calls_apart(self):
            self.assertNotAlmostEqual(third(2), third(4))
    """,
)
_pair(
    "deltas",
    "floats",
    """
    def test_unknown_delta(self):
        delta = third(1)
        self.assertAlmostEqual(third(3), third(4), delta=delta)

    def test_unknown_delta_fails(self):
        delta = third(0.5)
        self.assertAlmostEqual(third(3), third(4), delta=delta)

    def test_exact_delta(self):
        self.assertAlmostEqual(third(3), 1.5, delta=0.5)
        self.assertAlmostEqual(third(3), 1, delta=0)

    def test_zero_delta_fails(self):
        self.assertAlmostEqual(third(1), 0.3333333333, delta=0)

    def test_negative_delta(self):
        width = -1
        result, expected = third(3), third(3)
        self.assertAlmostEqual(result, expected, delta=width)

    def test_negative_delta_fails(self):
        result, expected = third(3), third(3.1)
        width = -1
        self.assertAlmostEqual(result, expected, delta=width)

    def test_infinite(self):
        result, other = endless(2), endless(3)
        self.assertAlmostEqual(result, other, delta=1)

    def test_dates_that_are_equal(self):
        self.assertAlmostEqual(later(0), datetime(2020, 1, 1), delta=timedelta())
    """,
)
_pair(
    "odd equality",
    "odd",
    """
    import unittest
    from solution import Lazy, Strict, Stubborn, evens


    class TestOdd(unittest.TestCase):
        def test_result_is_no_bool(self):
            self.assertEqual(Lazy([1]), 5)
            self.assertNotEqual(Lazy([1]), 6)

        def test_result_is_empty(self):
            self.assertEqual(Lazy([]), 5)

        def test_equality_raises(self):
            self.assertEqual(Strict(), 1)

        def test_equal_and_not_equal(self):
            self.assertEqual(Stubborn(), 1)
            self.assertNotEqual(Stubborn(), 1)
            self.assertFalse(Stubborn() != 1 and Stubborn() == 2)

        def test_order_of_the_sides(self):
            self.assertEqual(1, Stubborn())
            self.assertIn(3, [Stubborn()])
            self.assertListEqual([Stubborn()], [7])

        def test_a_list_by_its_own_account(self):
            self.assertListEqual(Stubborn(), [7])

        def test_nan(self):
            nan = float("nan")
            self.assertEqual([nan], [nan])
            self.assertNotEqual(nan, nan)
            self.assertFalse(nan == nan)
            self.assertCountEqual(evens(nan), [0])
    """,
)
_pair(
    "callbacks",
    "odd",
    """
    import unittest
    from solution import apply


    class TestApply(unittest.TestCase):
        def test_callback(self):
            seen = []

            def callback(x):
                self.assertEqual(x, 3)
                seen.append(x)
                return x

            self.assertEqual(apply(callback, 3), 4)
            self.assertEqual(seen, [3])

        def test_callback_fails(self):
            def callback(x):
                self.assertEqual(x, 4)
                return x

            apply(callback, 3)

        def test_class_with_self(self):
            class Twice:
                def __call__(self, x):
                    self.last = x
                    return 2 * x

            twice = Twice()
            self.assertEqual(apply(twice, 3), 7)
            self.assertEqual(twice.last, 3)

        def test_lambda_with_self(self):
            self.assertEqual(apply(lambda self: self * 3, 2), 7)
    """,
)
_pair(
    "an account",
    "odd",
    """
    import unittest
    from solution import Account


    class AccountTests(unittest.TestCase):
        def setUp(self):
            self.account = Account("Ann", 10)
            self.assertEqual(self.account.balance, 10)

        def tearDown(self):
            self.assertGreaterEqual(self.account.balance, 0)

        def test_pay(self):
            self.assertEqual(self.account.pay(3), 7, f"{self.account} has paid")

        def test_pay_all(self):
            self.account.pay(10)
            self.assertEqual(self.account.balance, 0)
            self.assertRaises(ValueError, self.account.pay, 1)

        def test_pay_too_much(self):
            with self.assertRaises(ValueError) as excinfo:
                self.account.pay(11)
            self.assertEqual(str(excinfo.exception), "Ann has only 10")

        def test_message_that_may_fail(self):
            account = Account("Bob")
            account.pay(0)
            self.assertEqual(account.owner, "Bob", msg=f"{account}")

        def test_debt(self):
            self.account.balance = -1

        def test_loop(self):
            for amount in [1, 2, 3]:
                with self.subTest(amount=amount):
                    self.account.pay(amount)
            self.assertEqual(self.account.balance, 4)

        def test_pattern(self):
            owner = "Ann"
            with self.assertRaisesRegex(ValueError, f"{owner} has"):
                self.account.pay(100)
            self.assertRegex(repr(self.account), rf"^Account\\('{owner}'")
    """,
)
_pair(
    "taken names",
    "lists",
    """
    def test_actual(self):
        actual, expected, message = 1, 2, "x"
        self.assertListEqual(evens(actual), [0])
        self.assertTupleEqual(pair(actual), (actual, expected), f"{message}")
        self.assertDictEqual(letters(message), {"x": 1})

    def test_excinfo(self):
        excinfo = 3
        with self.assertRaises(IndexError) as cm:
            Pile().pop()
        self.assertEqual(str(cm.exception), "empty")
        self.assertEqual(excinfo, 3)
    """,
)
_pair(
    "one-liners",
    "lists",
    """
    def test_with(self):
        with self.assertRaises(IndexError): Pile().pop()
        with self.assertRaises(IndexError) as e: Pile().pop()
        self.assertTrue(e.exception.args); self.assertTrue(evens(1))

    def test_if(self):
        if evens(1): self.assertEqual(evens(1), [0])
        else: self.fail("none")
        for n in (1, 2): self.assertEqual(evens(n), [0])

    def test_pass(self): self.assertEqual(evens(1), [0]); self.assertEqual(evens(3), [0, 2])

    def test_fails(self): self.assertEqual(evens(1), [1])
    """,
)
_pair(
    "try",
    "lists",
    """
    def test_try(self):
        try:
            Pile().pop()
        except IndexError as error:
            self.assertEqual(str(error), "empty")
        else:
            self.fail("no exception")

    def test_finally(self):
        pile = Pile(1)
        try:
            self.assertEqual(pile.pop(), 2)
        finally:
            self.assertEqual(len(pile), 0)

    def test_assertion_is_caught(self):
        try:
            self.assertEqual(evens(1), [1])
        except AssertionError:
            caught = True
        self.assertTrue(caught)

    def test_anything_is_caught(self):
        try:
            self.assertEqual(evens(1), [1])
        except Exception as error:
            self.assertIsInstance(error, AssertionError)
    """,
)
_pair(
    "cases that make odd names",
    "lists",
    """
    def test_texts(self):
        for text in ["a", "", "x" * 3, "[]", "a::b", "a/b", "-", " "]:
            if text:
                self.assertTrue(shout(text).endswith("!\\n"))

    def test_long(self):
        for text in ["a",
                     "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"
                     "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"]:
            self.assertEqual(len(shout(text)), len(text) + 2)

    def test_same(self):
        for n, expected in [(1, [0]), (1, [0]), (2, [0])]:
            self.assertEqual(evens(n), expected)

    def test_empty(self):
        for n in []:
            self.assertEqual(evens(n), [1])

    def test_mutable(self):
        for items, size in [([], 1), ([1], 2)]:
            with self.subTest(items=items):
                items.append(3)
                self.assertEqual(len(items), size)
                self.assertEqual(len(Pile(*items)), size)
    """,
)
_pair(
    "helpers that fail",
    "lists",
    """
    import contextlib
    import unittest
    from solution import Pile, evens


    class TestHelpers(unittest.TestCase):
        def expect(self, condition):
            if not condition:
                self.fail("not so")

        @contextlib.contextmanager
        def filled(self, *items):
            pile = Pile(*items)
            yield pile
            self.assertEqual(len(pile), 0)

        @classmethod
        def numbers(cls):
            return [1, 2]

        def test_expect(self):
            self.expect(evens(1))

        def test_expect_fails(self):
            self.expect(evens(0))

        def test_filled(self):
            with self.filled(1) as pile:
                pile.pop()

        def test_filled_fails(self):
            with self.filled(*self.numbers()) as pile:
                pile.pop()
    """,
)
_pair(
    "cases in a class",
    "numbers",
    """
    import unittest
    from solution import sign


    class TestSign(unittest.TestCase):
        cases = [(3, 1), (-3, -1)]
        zero: int = 0

        def test_cases(self):
            for x, expected in self.cases:
                with self.subTest(x=x):
                    self.assertEqual(sign(x), expected)

        def test_a_zero(self):
            self.assertEqual(sign(self.zero), 0)
            with self.subTest("nested"), self.subTest("twice"):
                self.assertEqual(sign(0.0), 0)
    """,
)
_pair(
    "empty classes",
    "numbers",
    """
    import unittest
    from solution import add


    class Base(unittest.TestCase):
        '''Nothing in it.'''


    class TestNothing(unittest.TestCase):
        pass


    class TestAdd(Base):
        maxDiff = None

        def test_a(self):
            self.assertEqual(add(1), 2)


    class TestSuper(unittest.TestCase):
        def setUp(self):
            super().setUp()

        def test_b(self):
            self.assertEqual(add(1), 2)

        def test_nothing(self):
            pass
    """,
)
_pair(
    "more warnings",
    "effects",
    """
    def test_among_others(self):
        with self.assertWarns(UserWarning):
            self.assertEqual(old(5), 5)
        with self.assertWarns(DeprecationWarning):
            self.assertEqual(old(5), 5)

    def test_in_a_variable(self):
        warned = self.assertWarns(UserWarning)
        with warned:
            old(5)

    def test_lambda(self):
        self.assertWarns(UserWarning, lambda: old(6))

    def test_exception(self):
        with self.assertWarns(UserWarning):
            welcome(3)
    """,
)
