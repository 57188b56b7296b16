"""Planting faults: which mutants there are, which count, and what the tests find."""

import functools
import json
import textwrap

import pytest

from lowvram_ft.execution import Judgement, Limits, MutationReport, judge, mutation_analysis
from lowvram_ft.execution.mutants import find_mutants
from lowvram_ft.execution.pool import default_pool
from lowvram_ft.execution.reach import Reach, same_code

CODE = '''\
import functools


def clamp(x, low, high):
    """Bring x between low and high."""
    if low > high:
        raise ValueError("low > high")
    if x < low:
        return low
    return high if x > high else x


def total(numbers):
    result = 0
    for number in numbers:
        if number == 3:
            continue
        result += number * 2
    return -result
'''
HEAD = "import pytest\nfrom solution import clamp, total\n"
SUITES = {
    "no assertion": "def test_a():\n    clamp(1, 0, 3)\n    total([1])\n",
    "weak": "def test_a():\n    assert clamp(1, 0, 3) is not None\n    assert total([]) == 0\n",
    "fair": "def test_a():\n    assert clamp(1, 0, 3) == 1\n    assert total([1]) == -2\n",
    "strong": "def test_a():\n    assert clamp(-1, 0, 3) == 0\n    assert clamp(4, 0, 3) == 3\n"
    "    assert clamp(2, 0, 3) == 2\n    assert clamp(2, 2, 2) == 2\n"
    "    assert total([1, 3, 5]) == -12\n"
    "def test_b():\n    with pytest.raises(ValueError):\n        clamp(1, 3, 2)\n",
}
SAMPLES = [
    CODE,
    textwrap.dedent(
        """\
        from dataclasses import dataclass

        @dataclass(frozen=True)
        class Point:
            x: int | None = 0
            @property
            # a comment
            def far(self) -> bool:
                return not self.x is None and self.x ** 2 >= 1e2 or ~self.x == +5

        def find(items, *rest, **more):
            for i, item in enumerate(items):
                while not item:
                    break
                try:
                    item = int(item)
                except (ValueError, TypeError):
                    continue
                except KeyError as error:
                    assert error, "no"
                if item != i is not None and 1 < item <= 3 << 1:
                    return f"{item + 1}" if item else lambda q: q % 2
            return [n // 2 - 1 for n in items if n & 1 ^ 0x0f]
        """
    ),
    "def f(a):\r\n\tif a  >  1:\r\n\t\treturn a+1\r\n\treturn -a\r\n",
    'TEXT = """two\nlines"""; N = 10\n\ndef g(x, y=3):\n    return (\n        x\n        + y\n    ) == N\n',
    "def m(x):\n    match x:\n        case 1:\n            return True\n"
    "        case _ if x > 2:\n            return None",
]


@functools.cache
def analysed(suite: str) -> MutationReport:
    return mutation_analysis(CODE, "solution", HEAD + SUITES[suite])


@pytest.mark.parametrize("code", SAMPLES)
def test_mutants_are_those_of_cosmic_ray(code):
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    expected = {}
    for name in operator_names():
        kind = get_operator(name)
        if kind.arguments():
            continue
        occurrence = 0
        while (text := mutate_code(code, kind(), occurrence)) is not None:
            expected[name, occurrence] = text
            occurrence += 1
    edits = find_mutants(code)
    assert {(edit.operator, edit.occurrence): edit.apply(code) for edit in edits} == expected
    assert len(edits) == len(expected) > 4
    assert [edit.line for edit in edits] == sorted(edit.line for edit in edits)


def test_diff_shows_the_changed_lines():
    edit = next(edit for edit in find_mutants(CODE) if edit.line == 8 and edit.text == ">")
    assert edit.diff(CODE) == "-    if x < low:\n+    if x > low:"


def test_planted_suites_come_out_in_the_order_of_their_strength():
    reports = {name: analysed(name) for name in SUITES}
    scores = [report.score for report in reports.values()]
    assert scores == sorted(scores) and len(set(scores)) == len(scores)
    assert len({report.total for report in reports.values()}) == 1, "the denominator is the code's, not the tests'"
    assert scores[-1] > 0.7
    for report in reports.values():
        assert report.total == report.killed + report.timed_out + report.survived
        assert report.not_covered <= report.survived
        assert MutationReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    # with an assertion nowhere, only a mutant that raises by itself can be found
    raising = [m for m in reports["no assertion"].mutants if m.outcome == "killed"]
    assert all("not low > high" in m.diff or "-    if low" in m.diff or "@" in m.diff for m in raising)


def test_a_test_that_runs_one_line_and_asserts_nothing_scores_zero_over_all_mutants():
    report = mutation_analysis(CODE, "solution", "import solution\ndef test_a():\n    solution.total([])\n")
    assert report.killed == report.timed_out == 0 and report.score == 0.0
    assert report.not_covered > 10
    assert report.total == analysed("strong").total


def test_bytecode_equals_and_broken_mutants_are_left_out():
    code = "from typing import Literal\n\n\ndef f(x):\n    return x if 1 - 1 + 2 - 2 == 0 else x + 1\n"
    test = "from solution import f\ndef test_a():\n    assert f(1) == 1\n"
    report = mutation_analysis(code, "solution", test)
    equal = [m for m in report.mutants if m.outcome == "equivalent"]
    assert report.equivalent_bytecode == len(equal) > 0
    assert report.total == len(report.mutants) - report.equivalent_bytecode - report.incompetent
    broken = mutation_analysis(
        "def f(x):\n    for _ in x:\n        break\n    return 'a' * -1 if x else *x,\n", "solution", test
    )
    assert broken.total == 0 and broken.score is None


def test_mutants_that_do_not_compile_are_incompetent():
    code = "def f(x):\n    print(*x, 2)\n    return x\n"
    report = mutation_analysis(code, "solution", "from solution import f\ndef test_a():\n    assert f([1]) == [1]\n")
    assert report.incompetent == sum(m.outcome == "incompetent" for m in report.mutants)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x = 1", "x = 1\n\n", True),
        ("\n\ndef f():\n    return 2", "def f():\n    return 2", True),
        ("x = 1", "x = True", False),
        ("x = 0.0", "x = -0.0", False),
        ("x = (1, 2)", "x = (1, 2.0)", False),
        ("def f():\n    return 2", "def f():\n    return 3", False),
        ("f.a", "f.b", False),
        ("def f(a): return a", "def f(b): return b", False),
        ("try:\n    f()\nexcept A: pass", "try:\n    f()\nexcept B: pass", False),
    ],
)
def test_same_code_compares_everything_but_lines(one, other, same):
    assert same_code(compile(one, "a", "exec"), compile(other, "a", "exec")) is same


def test_reach_covers_whole_statements_and_headers():
    text = "def f(a):\n    if a:\n        return (\n            a +\n            1\n        )\n"
    text += "    while True:\n        a = 2\n"
    code = compile(text, "a", "exec")
    reach = Reach(text, code, {1, 2, 4})
    assert all(reach.reaches(line) for line in (1, 2, 3, 4, 5))
    assert not reach.reaches(8)


def test_endless_mutants_are_timeouts_and_count_as_found():
    code = "def count(n):\n    i = 0\n    while i < n:\n        i += 1\n    return i\n"
    report = mutation_analysis(
        code, "solution", "from solution import count\ndef test_a():\n    assert count(3) == 3\n"
    )
    assert report.timed_out >= 1
    assert report.score == (report.killed + report.timed_out) / report.total > report.killed / report.total


def test_only_the_module_under_test_is_mutated():
    code = "# module: pkg.a\nfrom .b import two\n\ndef f(x):\n    return x + two()\n"
    code += "# module: pkg.b\ndef two():\n    return 2\n"
    report = mutation_analysis(code, "pkg.a", "from solution import f\ndef test_a():\n    assert f(3) == 5\n")
    assert report.total > 5
    assert {mutant.line for mutant in report.mutants} == {4}
    assert report.score == pytest.approx(1.0)


def test_failing_tests_find_nothing():
    test = HEAD + "def test_bad():\n    assert total([1]) == 7\n" + SUITES["fair"]
    whole = mutation_analysis(CODE, "solution", test)
    assert whole.score == analysed("fair").score
    assert mutation_analysis(CODE, "solution", test, tests=["test_bad"]).score == 0.0


def test_selected_tests_alone_count():
    strong = HEAD + SUITES["strong"]
    only = mutation_analysis(CODE, "solution", strong, tests=["test_b"])
    assert 0 < only.score < analysed("strong").score


def test_judge_uses_the_passing_tests_alone():
    test = HEAD + SUITES["fair"] + "def test_bad():\n    assert total([2]) == 7\n"
    judgement = judge(CODE, "solution", test)
    assert not judgement.verdict.all_passed and judgement.verdict.n_passed == 1
    assert judgement.useful
    assert judgement.mutation_score == analysed("fair").score
    assert Judgement.from_json(json.loads(json.dumps(judgement.to_json()))) == judgement


@pytest.mark.parametrize(
    "test",
    [
        "def test_a(:\n",
        "x = 1\n",
        HEAD + "def test_a():\n    assert total([1]) == 7\n",
        "import os; os._exit(0)",
    ],
)
def test_nothing_that_passes_is_worth_nothing(test):
    judgement = judge(CODE, "solution", test)
    assert judgement.mutation is None and judgement.mutation_score == 0.0 and not judgement.useful


def test_tests_that_pass_only_beside_a_failing_one_do_not_count():
    test = (
        "from solution import total\nseen = []\n"
        "def test_a():\n    seen.append(1)\n    assert total([1]) == 7\n"
        "def test_b():\n    assert seen\n    assert total([1]) == -2\n"
    )
    judgement = judge(CODE, "solution", test, Limits(wall_s=10))
    assert judgement.verdict.passing == ("test_b",)
    assert judgement.mutation is not None and judgement.mutation.killed == 0 and not judgement.useful


def test_a_file_that_a_mutant_leaves_behind_is_gone_for_the_next():
    test = (
        "from pathlib import Path\nfrom solution import total\n"
        "def test_a():\n    assert not Path('seen').exists()\n    Path('seen').touch()\n    total([])\n"
    )
    assert mutation_analysis(CODE, "solution", test).killed == 0


def test_a_mutant_cannot_be_told_by_looking_at_its_loader():
    test = "import solution\ndef test_a():\n    assert solution\n"
    test += "    assert getattr(solution.__spec__.loader, 'mutated', None) is None\n"
    assert mutation_analysis(CODE, "solution", test).killed == 0


def test_slow_files_keep_their_server_while_mutants_hang(monkeypatch):
    """A mutant gets no longer than the whole file may take, so that its server is not given up in between."""
    monkeypatch.setattr("lowvram_ft.execution.pool._PATIENCE_S", 3.0)
    code = "import time\ndef wait(n):\n    while n > 0:\n        n = n - 1\n        time.sleep(0.1)\n    return n\n"
    test = "from solution import wait\ndef test_a():\n    assert wait(4) == 0\n"
    limits = Limits(wall_s=2.0, cpu_s=30.0, test_s=2.0)
    replaced = default_pool().replaced
    report = mutation_analysis(code, "solution", test, limits, max_mutants=8)
    assert report.timed_out > 0
    assert default_pool().replaced == replaced
