"""Which rows are duplicates, which are not, and which contain evaluation code."""

from __future__ import annotations

import ast
import difflib
import dis
import itertools
import os
import pickle
import random
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowvram_ft.data.duplicates.fingerprints import (
    MIN_SHINGLES,
    NUM_PERM,
    SKETCH_BYTES,
    THRESHOLD,
    Contamination,
    DuplicateIndex,
    Fingerprint,
    Match,
    detection_probability,
    fingerprint,
    shingles,
)
from lowvram_ft.data.duplicates.hash_table import EMPTY, LONGEST_RUN, HashTable
from lowvram_ft.data.duplicates.normalize import normal_form
from tests.planted_duplicates import NEAR, SAME, library_codes, rewritten, sample_codes

SAMPLES = sample_codes()
DISTINCT = [
    ("def is_even(n):\n    return n % 2 == 0", "def is_odd(n):\n    return n % 2 == 1"),
    ("def f(xs):\n    return sum(x ** 2 for x in xs)", "def f(xs):\n    return sum(x ** 3 for x in xs)"),
    ("def f(a, b):\n    return a if a > b else b", "def f(a, b):\n    return a if a < b else b"),
    ("def f(s):\n    return s.upper()", "def f(s):\n    return s.lower()"),
    ("def f(s):\n    return s == s[::-1]", "def f(s):\n    return s[::-1]"),
    ("def f(xs):\n    return sorted(xs)", "def f(xs):\n    return sorted(xs, reverse=True)"),
    ("def f(n):\n    return n * f(n - 1) if n else 1", "def f(n):\n    return n + f(n - 1) if n else 0"),
    ("def f(a, b):\n    return a & b", "def f(a, b):\n    return a | b"),
    (
        "def largest(xs):\n    best = xs[0]\n    for x in xs:\n        if x > best: best = x\n    return best",
        "def smallest(xs):\n    best = xs[0]\n    for x in xs:\n        if x < best: best = x\n    return best",
    ),
    (
        "def f(s):\n    n = 0\n    for c in s:\n        if c in 'aeiou':\n            n += 1\n    return n",
        "def f(s):\n    n = 0\n    for c in s:\n        if c not in 'aeiou':\n            n += 1\n    return n",
    ),
    (
        "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a",
        "def lcm(a, b):\n    x, y = a, b\n    while y:\n        x, y = y, x % y\n    return a * b // x",
    ),
    (
        "def f(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a",
        "def f(n):\n    a, b = 2, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a",
    ),
]


def known(code: str | ast.Module) -> Fingerprint:
    found = fingerprint(code)
    assert found is not None
    return found


def set_of(code: str) -> set[int]:
    return set(shingles(normal_form(ast.parse(code)).whole).tolist())


def jaccard(first: str, second: str) -> float:
    a, b = set_of(first), set_of(second)
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("rewrite", SAME, ids=lambda rewrite: rewrite.__name__)
def test_a_rewritten_row_is_an_exact_duplicate_of_the_right_one(rewrite: object) -> None:
    index = DuplicateIndex()
    originals = [index.add(known(code)) for code in SAMPLES]
    for number, code in enumerate(SAMPLES):
        for _, changed in rewritten(code, (rewrite,), number):  # type: ignore[arg-type]
            match = index.add(known(changed))
            assert match is not None and match.exact and match.similarity == 1.0
            first = originals[number]
            assert match.row == (number if first is None or not first.exact else first.row)


@cache
def planted() -> list[tuple[Match | None, float]]:
    """What the index says of each planted near duplicate that is long enough, and the true similarity."""
    found = []
    for number, code in enumerate([*SAMPLES, *library_codes(420)]):
        if len(set_of(code)) < MIN_SHINGLES:
            continue
        for _, changed in rewritten(code, NEAR, number):
            index = DuplicateIndex()
            assert index.add(known(code)) is None
            if len(set_of(changed)) >= MIN_SHINGLES:
                found.append((index.add(known(changed)), jaccard(code, changed)))
    return found


def test_planted_near_duplicates_are_found() -> None:
    assert len(planted()) > 300
    hits = [match for match, _ in planted() if match is not None and match.row == 0 and not match.exact]
    assert len(hits) / len(planted()) >= 0.99


def test_what_is_merged_among_a_thousand_rows_is_nearly_the_same_text() -> None:
    rows = [*SAMPLES, *library_codes(740)][:1000]
    index = DuplicateIndex()
    exact = near = 0
    for row in rows:
        match = index.add(known(row))
        if match is None:
            continue
        if match.exact:
            exact += 1
            assert bytecode(row) == bytecode(rows[match.row]), f"{rows[match.row]}\n-----\n{row}"
        else:
            near += 1
            assert likeness(row, rows[match.row]) >= 0.7, f"{rows[match.row]}\n-----\n{row}"
    assert exact + near < 20
    assert near > 0


def test_a_thousand_pairs_of_neighbours_that_differ_are_not_merged() -> None:
    rows = [*SAMPLES, *library_codes(800)]
    pairs = [(a, b) for a, b in itertools.pairwise(rows) if likeness(a, b) < 0.7]
    assert len(pairs) >= 1000
    for first, second in pairs:
        index = DuplicateIndex()
        assert index.add(known(first)) is None
        match = index.add(known(second))
        assert match is None, f"{first}\n-----\n{second}"


@pytest.mark.parametrize(("first", "second"), DISTINCT)
def test_similar_short_functions_are_told_apart(first: str, second: str) -> None:
    index = DuplicateIndex()
    assert index.add(known(first)) is None
    assert index.add(known(second)) is None
    assert index.add(known(first)) is not None


def likeness(first: str, second: str) -> float:
    """Share of words in common, in order, docstrings and hints aside: an oracle that knows nothing of shingles."""
    matcher = difflib.SequenceMatcher(None, bare(first), bare(second), autojunk=False)
    return matcher.ratio() if matcher.real_quick_ratio() >= 0.7 and matcher.quick_ratio() >= 0.7 else 0.0


@cache
def bare(code: str) -> list[str]:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node, False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.unparse(tree).split()


def bytecode(code: str) -> list[tuple[str, int | None]]:
    """What the compiler makes of each function, which knows locals by number."""
    blocks, found = [compile(code, "<test>", "exec", optimize=2, dont_inherit=True)], []
    while blocks:
        block = blocks.pop()
        blocks += [constant for constant in block.co_consts if isinstance(constant, type(block))]
        if block.co_flags & 2:
            found += [(step.opname, step.arg) for step in dis.get_instructions(block) if step.opname != "NOP"]
    return found


def test_the_similarity_is_estimated_as_the_formula_says() -> None:
    errors = []
    for match, true in planted():
        if match is not None and true < 1:  # 1 where only the number of repeats changed: nothing to estimate
            agree = true + (1 - true) / 16
            errors.append((match.similarity - true) / ((agree * (1 - agree) / NUM_PERM) ** 0.5 * 16 / 15))
    assert len(errors) > 300
    assert abs(np.mean(errors)) < 0.25
    assert 0.75 < np.std(errors) < 1.2


def test_as_many_pairs_are_found_as_the_s_curve_says() -> None:
    random_numbers = np.random.default_rng(7)
    for similarity in (0.72, 0.79, 0.86):
        found, pairs = 0, 300
        for _ in range(pairs):
            first = random_numbers.integers(0, 16, NUM_PERM)
            other = np.where(
                random_numbers.random(NUM_PERM) < similarity, first, random_numbers.integers(0, 16, NUM_PERM)
            )
            index = DuplicateIndex()
            index.add(sketched(first, b"a"))
            found += index.add(sketched(other, b"b")) is not None
        expected = detection_probability(similarity)
        tolerance = 3 * (max(expected * (1 - expected), 1 / pairs) / pairs) ** 0.5 + 0.02
        assert abs(found / pairs - expected) < tolerance, (similarity, found, expected)


def sketched(values: np.ndarray, name: bytes) -> Fingerprint:
    packed = (values[0::2] | values[1::2] << 4).astype(np.uint8).tobytes()
    return Fingerprint((name * 16)[:16], packed)


def test_the_s_curve_rises_from_nothing_to_certainty_around_the_threshold() -> None:
    curve = [detection_probability(similarity / 100) for similarity in range(0, 101)]
    assert curve == sorted(curve)
    assert curve[65] < 1e-4 and curve[90] > 0.999
    assert 0.2 < detection_probability(THRESHOLD) < 0.8


def test_rows_are_numbered_in_the_order_of_the_calls() -> None:
    a, b = known("def f(x): return x + 1"), known("def f(x): return x + 2")
    index = DuplicateIndex()
    assert [index.add(row) is None for row in (a, a, b)] == [True, False, True]
    again = [index.add(row) for row in (b, a)]
    assert [match.row for match in again if match is not None] == [2, 0]


def test_kept_near_duplicates_are_compared_with_later_rows() -> None:
    values = np.random.default_rng(3).integers(0, 16, NUM_PERM)
    chain = [values.copy()]
    for step in range(2):
        values[step * 50 : step * 50 + 50] = (values[step * 50 : step * 50 + 50] + 1) % 16
        chain.append(values.copy())
    rows = [sketched(link, bytes([65 + number])) for number, link in enumerate(chain)]
    dropping, keeping = DuplicateIndex(), DuplicateIndex(keep_near=True)
    assert [match.row if match else None for match in map(dropping.add, rows)] == [None, 0, None]
    assert [match.row if match else None for match in map(keeping.add, rows)] == [None, 0, 1]


def test_every_row_is_found_again_as_the_index_grows() -> None:
    random_numbers = np.random.default_rng(1)
    rows = [sketched(random_numbers.integers(0, 16, NUM_PERM), random_numbers.bytes(16)) for _ in range(4000)]
    index = DuplicateIndex()
    assert all(index.add(row) is None for row in rows)
    for number in range(0, 4000, 7):
        near = np.frombuffer(rows[number].sketch, np.uint8).copy()
        near[100:110] ^= 0x11
        match = index.add(Fingerprint(random_numbers.bytes(16), near.tobytes()))
        assert match is not None and (match.row, match.exact) == (number, False)
        match = index.add(rows[number])
        assert match is not None and (match.row, match.exact) == (number, True)
    assert index.nbytes / 4000 < 400  # a fixed start apart; benchmarks/duplicates.py measures 300,000


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=300), st.integers(1, 4))
def test_a_table_finds_what_a_dictionary_finds(keys: list[int], bands: int) -> None:
    stored = np.array([[key * 2654435761 % 2**32 for key in keys]] * bands, dtype=np.uint32).reshape(bands, -1)
    table = HashTable(bands, lambda band, count: stored[band, :count])
    for row in range(len(keys)):
        wanted = stored[:, row]
        band, rows, free = table.look_up(wanted)
        for number in range(bands):
            of_band = rows[band == number]
            right = {int(one) for one in of_band if stored[number, one] == wanted[number]}
            assert right == {earlier for earlier in range(row) if stored[number, earlier] == wanted[number]}
        table.insert(free)


def test_a_key_that_very_many_rows_share_costs_no_more_and_hides_no_other() -> None:
    count = 4000
    stored = np.full((1, count), 77, dtype=np.uint32)
    stored[0, ::10] = np.random.default_rng(2).integers(0, 2**32, count // 10, dtype=np.uint32)
    table = HashTable(1, lambda band, n: stored[band, :n])
    for row in range(count):
        table.insert(table.look_up(stored[:, row])[2])
    _, rows, _ = table.look_up(np.array([77], dtype=np.uint32))
    assert 0 < len(rows) <= LONGEST_RUN and EMPTY not in rows
    found = sum(row in table.look_up(stored[:, row])[1] for row in range(0, count, 10))
    assert found >= 0.98 * count / 10


HELPER = "def helper_of_mine(values):\n    return [value for value in values if value]\n"


@pytest.mark.parametrize("beside", ["", HELPER], ids=["alone", "beside a helper"])
def test_evaluation_code_is_found_however_it_is_rewritten(beside: str) -> None:
    tasks = [(f"task {number}", code) for number, code in enumerate(SAMPLES)]
    contamination = Contamination(tasks)
    made = 0
    for number, code in enumerate(SAMPLES[::2]):
        for _, changed in rewritten(code, SAME, number):
            future = changed.startswith("from __future__")
            row = known(f"{changed}\n\n{beside}" if future else f"{beside}\n\n{changed}")
            found = contamination.found(row)
            assert found is not None, changed
            made += 1
    assert made > 800


def test_other_code_is_not_taken_for_evaluation_code() -> None:
    contamination = Contamination([(f"task {number}", code) for number, code in enumerate(SAMPLES)])
    taken = [code for code in library_codes(740) if contamination.found(known(code)) is not None]
    assert taken == []


def test_one_function_of_an_evaluation_file_is_found_among_others() -> None:
    task = "def first(a):\n    return a[0] ** 2 - 1\n\ndef second(b):\n    return b[-1] ** 3 + 1\n"
    row = "def mine(c):\n    return c\n\ndef other(z):\n    return z[-1] ** 3 + 1\n"
    assert Contamination([("t", task)]).found(known(row)) == "t"
    assert Contamination([("t", task)]).found(known(row.replace("3", "4"))) is None
    assert Contamination([]).found(known(row)) is None
    assert Contamination([("broken", "def f(:")]).found(known(row)) is None


def test_a_fingerprint_is_small_and_goes_from_process_to_process() -> None:
    code = max(SAMPLES[:100], key=len)
    found = known(code)
    assert len(found.sketch) in (0, SKETCH_BYTES) and pickle.loads(pickle.dumps(found)) == found
    assert len(pickle.dumps(known(DISTINCT[0][0]))) < 400
    script = f"from lowvram_ft.data.duplicates.fingerprints import fingerprint; print(fingerprint({code!r}))"
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        printed = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
        )
        assert printed.stdout.strip() == repr(found)


@pytest.mark.parametrize("code", ["", "# a comment", "import os", '"""Doc."""', "def f(:", "\0", "(" * 9999])
def test_code_with_nothing_to_compare_has_no_fingerprint(code: str) -> None:
    assert fingerprint(code) is None


def test_a_syntax_tree_and_its_text_have_the_same_fingerprint() -> None:
    for code in SAMPLES[:30]:
        assert fingerprint(code) == fingerprint(ast.parse(code))


def test_very_long_code_is_compared_too() -> None:
    numbers = random.Random(0)
    lines = [f"    x{numbers.randrange(50)} = g{numbers.randrange(999)}({numbers.randrange(999)})" for _ in range(3000)]
    long = "def f():\n" + "\n".join(lines)
    index = DuplicateIndex()
    assert index.add(known(long)) is None
    match = index.add(known(long + "\n    return 1"))
    assert match is not None and not match.exact
