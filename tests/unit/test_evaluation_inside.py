"""Evaluation code that hides: renamed, reformatted, edited, inside of other code, or cut out of a task."""

from __future__ import annotations

import json

import pytest

from lowvram_ft.data.duplicates.inside import ENOUGH_TOKENS, LEAST_TOKENS, Inside
from lowvram_ft.data.duplicates.normalize import normal_form
from lowvram_ft.data.evaluation_code import evaluation_found, evaluation_tasks, humaneval_problems
from lowvram_ft.data.sources import load_rows
from lowvram_ft.data.syntax import parse
from lowvram_ft.errors import DataError
from lowvram_ft.recipe import DataSection
from tests.planted_duplicates import NEAR, SAME, library_codes, rewritten

TASKS, _ = evaluation_tasks(DataSection(), ())
INSIDE = Inside(TASKS)
CODE = '''def total_of(values, least):
    """Sum of the values above a bound."""
    total = 0
    for value in values:
        if value > least:
            total += 2 * value
        else:
            total -= value // 3
    if total < 0:
        raise ValueError("too little")
    return [total, least, len(values)]
'''
OTHER = "import math\n\n\ndef area(radius):\n    return math.pi * radius ** 2\n"


def n_tokens(code: str) -> int:
    return len(normal_form(parse(code)).whole.tokens)


def indented(code: str) -> str:
    return "".join(f"    {line}" if line.strip() else line for line in code.splitlines(keepends=True))


def test_every_evaluation_task_is_found_however_it_is_written():
    assert len(TASKS) > 200
    for number, (name, code) in enumerate(TASKS):
        assert INSIDE.found(code) is not None, name
        for rewrite, text in rewritten(code, SAME, number):
            assert INSIDE.found(text) is not None, (name, rewrite)


def test_an_edited_or_an_added_line_hides_no_task_of_some_length():
    for number, (name, code) in enumerate(TASKS):
        for rewrite, text in rewritten(code, NEAR, number):
            least = LEAST_TOKENS if rewrite == "changed_constant" else 2 * ENOUGH_TOKENS
            if n_tokens(code) >= least:
                assert INSIDE.found(text) is not None, (name, rewrite, text)


@pytest.mark.parametrize("place", range(3, 12))
def test_any_one_line_may_be_another(place):
    lines = CODE.splitlines(keepends=True)
    if lines[place - 1].rstrip().endswith((":", '"""')):
        pytest.skip("opens a block")
    indent = lines[place - 1][: -len(lines[place - 1].lstrip())]
    lines[place - 1] = f"{indent}seen = sorted(str(each) for each in (1, 2))\n"
    assert Inside([("mine", CODE)]).found("".join(lines)) == "mine"


def test_it_is_found_inside_of_a_longer_module_a_class_a_function_and_a_block():
    inside = Inside([("mine", CODE)])
    method = CODE.replace("(values", "(self, values")
    others = "\n\n".join(indented(code.replace("(", "(self, ", 1)) for code in library_codes(12))
    for text in (
        f"{OTHER}\n\n{CODE}\n\n{OTHER.replace('area', 'volume')}",
        f"class Sums:\n    def __init__(self):\n        self.n = 1\n\n{others}\n\n{indented(method)}",
        f"def make(n):\n{others}\n\n{indented(CODE)}\n    return total_of\n",
        f"try:\n    import numpy\nexcept ImportError:\n{others}\n\n{indented(CODE)}",
    ):
        assert parse(text) is not None
        assert inside.found(text) == "mine"
    assert inside.found(OTHER) is None


def test_what_is_cut_out_of_a_longer_task_is_found():
    module = f"{OTHER}\n\nclass Sums:\n{indented(CODE.replace('(values', '(self, values'))}\n\n{CODE}"
    inside = Inside([("module", module)])
    assert inside.found(CODE) == "module"
    assert inside.found(OTHER) == "module"
    assert Inside([("module", module.rpartition("def total_of")[0])]).found(CODE) == "module", "as a method only"


def test_other_code_is_let_through():
    rows = list(load_rows(DataSection()))
    found = [row.id for row in rows if INSIDE.found(row.code)]
    assert len(found) < 0.04 * len(rows), found
    library = library_codes(400)
    assert sum(INSIDE.found(code) is not None for code in library) <= 4


def test_short_code_that_does_something_else_is_let_through():
    inside = Inside([("even", "def is_even(n):\n    return n % 2 == 0\n")])
    assert inside.found("def odd(k):\n    return k % 2 == 0\n") == "even"
    assert inside.found("def is_odd(n):\n    return n % 2 == 1\n") is None


def test_the_share_of_two_pieces_is_that_of_their_longest_common_subsequence():
    import itertools
    import random

    from lowvram_ft.data.duplicates.inside import _Known, _Piece

    def longest(a, b):
        row = [0] * (len(b) + 1)
        for x in a:
            last = 0
            for place, y in enumerate(b, 1):
                last, row[place] = row[place], last + 1 if x == y else max(row[place], row[place - 1])
        return row[-1]

    rng = random.Random(0)
    for n, m in itertools.product((1, 5, 70, 150), repeat=2):
        a, b = ([rng.randrange(9) for _ in range(size)] for size in (n, m))
        known = _Known("x", _Piece(a, b"", frozenset()))
        assert known.share_of(_Piece(b, b"", frozenset())) == pytest.approx(2 * longest(a, b) / (n + m))


def test_codes_are_held_against_the_kits_own_tasks_and_those_of_the_suites(tmp_path):
    problem = humaneval_problems()[0]
    known = problem["prompt"] + problem["canonical_solution"]
    assert evaluation_found([OTHER, known, CODE], ()) == [(1, "HumanEval/0")]
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({"task_id": "mine", "code": CODE}) + "\n")
    suites = [f"jsonl:{path}"]
    assert evaluation_found([OTHER, CODE], suites) == [(1, f"{path} mine")]
    path.write_text(json.dumps({"task_id": "other", "code": OTHER}) + "\n")
    assert evaluation_found([OTHER, CODE], suites) == [(0, f"{path} other")], "a file that was changed is read again"


def test_code_of_testgeneval_counts_where_its_file_is_named(tmp_path):
    path = tmp_path / "testgeneval.jsonl"
    row = {"id": "t1", "code_src": f"{OTHER}\n\n{CODE}", "code_file": "a/b.py", "test_src": "", "test_file": "t.py"}
    path.write_text(json.dumps(row) + "\n")
    assert [place for place, _ in evaluation_found([CODE, "x = 1\n"], [f"testgeneval:{path}"])] == [0]


def test_a_suite_whose_file_is_missing_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        evaluation_found([CODE], [f"jsonl:{tmp_path / 'gone.jsonl'}"])
