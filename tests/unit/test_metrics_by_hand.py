"""Every metric of an evaluation on small real files: run, mutated, and worked out by hand.

The code under test has four statements (``def``, ``if``, two ``return``), two branch destinations, and nineteen
mutants: ``>`` becomes one of ==, !=, <, <=, >=, is, is not (7), the condition is negated (1), and ``-`` becomes one of
+ * / // % ** >> << | & ^ (11).
"""

from collections import Counter

import pytest

from lowvram_ft.evaluation.evaluate import evaluate, score
from lowvram_ft.evaluation.metrics import Scores, pass_at_k, speed, summarize
from lowvram_ft.evaluation.suites.task import make_task
from lowvram_ft.execution import judge
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import EvalSection
from lowvram_ft.run_dir import read_jsonl
from tests.scripted_model import ByPrompt

CODE = """\
def gap(a, b):
    if a > b:
        return a - b
    return b
"""

MUTANTS = 7 + 1 + 11

# (6, 2) alone goes through the subtraction. There + 8, * 12, / 3.0, // 3, % 0, ** 36, >> 1, << 24, | 6, & 2 are no 4,
# but 6 ^ 2 is: 10 of 11. Of the comparisons, ==, <, <=, is and "not" send (6, 2) to 2; != and "is not" send (2, 6) to
# -4; >= sends (7, 7) to 0: 8 of 8.
ALL_BUT_ONE = """\
from solution import gap


def test_above():
    assert gap(6, 2) == 4
    assert gap(7, 7) == 7


def test_below():
    assert gap(2, 6) == 6
"""

# The failing test runs the subtraction, so every line and branch is reached. What passes, (2, 6), does not reach it: of
# its 11 mutants none is killed. !=, <, <=, "is not" and "not" send (2, 6) to -4; ==, >= and is leave it: 5 of 8.
ONE_FAILS = """\
from solution import gap


def test_below():
    assert gap(2, 6) == 6


def test_wrong():
    assert gap(6, 2) == 3
"""

# No subtraction: 3 of 4 statements, 1 of 2 branches. (2, 6) kills as above; (5, 5) becomes 0 by ==, >= and is: 8 of 8.
HALF = """\
from solution import gap


def test_below_and_equal():
    assert gap(2, 6) == 6
    assert gap(5, 5) == 5
"""

# Passes on every mutant: -4 is not None either. Code that returns None fails it, so that it observes something.
WEAK = """\
from solution import gap


def test_something_comes_back():
    assert gap(2, 6) is not None
"""

NO_PYTHON = "def test_above(:\n    assert gap(6, 2) == 4\n"

NO_CHECK = "from solution import gap\n\n\ndef test_above():\n    gap(6, 2)\n    gap(2, 6)\n"

WRONG = {
    "equal numbers are subtracted": CODE.replace("a > b", "a >= b"),  # (7, 7) and (5, 5) become 0
    "nothing is subtracted": "def gap(a, b):\n    return b\n",  # (6, 2) becomes 2
    "the other way round": CODE.replace("a - b", "b - a"),  # (6, 2) becomes -4
    "exclusive or": CODE.replace("a - b", "a ^ b"),  # 6 ^ 2 is 4: none of the files here can tell
}

FILES = {
    "all but one": ALL_BUT_ONE,
    "one fails": ONE_FAILS,
    "half": HALF,
    "weak": WEAK,
    "no Python": NO_PYTHON,
    "no check": NO_CHECK,
}

WORKED = {
    "all but one": Scores(True, 2, 2, True, True, 4 / 4, 2 / 2, 18 / MUTANTS, True, True, 3 / 2),
    "one fails": Scores(True, 2, 1, False, True, 4 / 4, 2 / 2, 5 / MUTANTS, True, True, 2 / 2),
    "half": Scores(True, 1, 1, True, True, 3 / 4, 1 / 2, 8 / MUTANTS, True, True, 2 / 1),
    "weak": Scores(True, 1, 1, True, False, 3 / 4, 1 / 2, 0.0, True, True, 1 / 1),
    "no Python": Scores(False, 0, 0, False, False, 0.0, 0.0, 0.0),
    "no check": Scores(False, 1, 0, False, False, 0.0, 0.0, 0.0, parses=True, collects=True),
}
"""In the order of the fields: writes_tests, n_tests, n_passed, passes, useful, line_coverage, branch_coverage,
mutation_score, parses, collects, assertions_per_test."""

ACCEPTED = {"all but one": 1, "one fails": 4, "half": 3, "weak": 4, "no Python": 4, "no check": 4}
"""Of the four wrong solutions, by the tests that pass on the code; a file without such a test refuses nothing."""


@pytest.mark.parametrize("name", FILES)
def test_a_judged_file_has_the_scores_that_were_worked_out(name):
    assert score(judge(CODE, "solution", FILES[name])) == WORKED[name]


def test_the_mutants_are_those_that_were_counted():
    found = judge(CODE, "solution", ALL_BUT_ONE).mutation
    kinds = Counter(mutant.operator.partition("Operator")[0].removeprefix("core/Replace") for mutant in found.mutants)
    assert kinds == {"Comparison": 7, "core/AddNot": 1, "Binary": 11}
    survivors = [mutant.operator for mutant in found.mutants if mutant.outcome == "survived"]
    assert survivors == ["core/ReplaceBinaryOperator_Sub_BitXor"]
    half = judge(CODE, "solution", HALF).mutation
    assert (half.killed, half.survived, half.not_covered) == (8, 11, 11)


def test_scores_would_not_agree_with_another_file():
    assert (
        score(judge(CODE, "solution", ALL_BUT_ONE.replace("gap(7, 7) == 7", "gap(3, 7) == 7"))) != WORKED["all but one"]
    )


# --- a whole evaluation: one task a file


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    tasks = [make_task("by hand", name, f"# {name}\n{CODE}", wrong_solutions=tuple(WRONG.values())) for name in FILES]
    samples = tmp_path_factory.mktemp("by_hand") / "samples.jsonl"
    model = ByPrompt({f"# {name}\n": text for name, text in FILES.items()})
    found = evaluate(lambda: model, tasks, EvalSection(), samples, "eval", Progress(quiet=True))
    return found["suites"]["by hand"], {record["task"]: record for record in read_jsonl(samples)}


@pytest.mark.parametrize("name", FILES)
def test_false_acceptance_and_rejection_of_a_file(evaluated, name):
    record = evaluated[1][name]
    assert sum(record["accepted_wrong_solutions"]) == ACCEPTED[name]
    assert record["scores"]["false_acceptance"] == ACCEPTED[name] / 4
    assert record["scores"]["false_rejection"] == float(not WORKED[name].passes)


def test_which_wrong_solutions_are_accepted(evaluated):
    accepted = {
        name: [wrong for wrong, took in zip(WRONG, record["accepted_wrong_solutions"], strict=True) if took]
        for name, record in evaluated[1].items()
    }
    assert accepted["all but one"] == ["exclusive or"]
    assert accepted["half"] == ["nothing is subtracted", "the other way round", "exclusive or"]


def test_the_means_of_six_files(evaluated):
    means, _ = evaluated
    by_hand = {
        "parses": 5 / 6,  # all but "no Python"
        "collects": 5 / 6,
        "writes_tests": 4 / 6,  # nor "no check"
        "single_tests_pass": (1 + 1 / 2 + 1 + 1 + 0 + 0) / 6,
        "useful": 3 / 6,  # "all but one", "one fails", "half"
        "passes": 3 / 6,  # "all but one", "half", "weak"
        "passes_and_kills": 2 / 6,  # "all but one", "half"
        "line_coverage": (1 + 1 + 3 / 4 + 3 / 4 + 0 + 0) / 6,
        "branch_coverage": (1 + 1 + 1 / 2 + 1 / 2 + 0 + 0) / 6,
        "mutation_score": (18 + 5 + 8 + 0 + 0 + 0) / 19 / 6,
        "assertions_per_test": (3 / 2 + 1 + 2 + 1 + 0 + 0) / 6,
        "false_acceptance": (1 + 4 + 3 + 4 + 4 + 4) / 4 / 6,
        "false_rejection": (0 + 1 + 0 + 0 + 1 + 1) / 6,
        "pass@1": 3 / 6,
        # lines that are not blank: 6, 5, 4, 3, 2, 4
        "test_lines": (6 + 5 + 4 + 3 + 2 + 4) / 6,
    }
    assert {key: means[key] for key in by_hand} == pytest.approx(by_hand)
    assert (means["tests"], means["tests_passed"]) == (2 + 2 + 1 + 1 + 0 + 1, 2 + 1 + 1 + 1)
    assert (means["tasks"], means["samples_per_task"], means["pass@3"]) == (6, 1, None)
    assert means["reasons"] == {
        "passes and kills": 2, "some tests fail": 1, "kills nothing": 1, "no Python": 1, "no check": 1,
    }  # fmt: skip


def test_the_interval_of_three_passes_among_six_tasks(evaluated):
    # Wilson by hand: z² 3.8415; centre 1/2; half z √(n + z²) / (2 (n + z²)) = 1.96 / (2 √9.8415) = 0.3124
    assert evaluated[0]["intervals"]["passes"] == pytest.approx((0.1876, 0.8124), abs=1e-4)


# --- several samples, and time


def test_pass_at_k_of_three_samples_a_task(tmp_path):
    answers = {
        "# two of three\n": [HALF, ONE_FAILS, HALF],  # pass@1 2/3; every set of three holds a pass
        "# one of three\n": [NO_PYTHON, ONE_FAILS, HALF],  # 1/3
        "# none\n": [NO_CHECK, ONE_FAILS, NO_PYTHON],
    }
    tasks = [make_task("three", mark[2:-1], mark + CODE) for mark in answers]
    section = EvalSection(samples_per_task=3)
    found = evaluate(
        lambda: ByPrompt(answers), tasks, section, tmp_path / "samples.jsonl", "eval", Progress(quiet=True)
    )["suites"]["three"]
    assert (found["pass@1"], found["pass@3"]) == pytest.approx(((2 + 1 + 0) / 9, 2 / 3))
    assert (found["passes"], found["useful"]) == pytest.approx((3 / 9, (3 + 2 + 1) / 9))


def test_pass_at_k_of_five_samples():
    # a and b pass, c, d and e do not: of the ten sets of three, one (c, d, e) holds no pass; of the ten pairs, three
    assert pass_at_k(5, 2, 3) == pytest.approx(9 / 10)
    assert pass_at_k(5, 2, 2) == pytest.approx(7 / 10)
    assert pass_at_k(5, 2, 1) == pytest.approx(2 / 5)


def test_samples_of_a_task_are_averaged_before_tasks():
    scores = {name: WORKED[name].to_json() for name in WORKED}
    log = [{"suite": "s", "task": "a", "scores": scores[name]} for name in ("half", "no check", "no check", "no check")]
    log.append({"suite": "s", "task": "b", "scores": scores["half"]})
    found = summarize(log)["s"]
    assert found["passes"] == (1 / 4 + 1) / 2, "not 2 / 5"
    assert found["line_coverage"] == (3 / 16 + 3 / 4) / 2


def test_seconds_a_file_and_tokens_a_second():
    # twenty files, each generated alone, 1 s to 20 s: the 10th and the 19th are the least with 50 and 95 % at or below
    # them. The median of twenty lies between the 6th and the 15th with 1 - 2 * 21700 / 2^20 = 95.9 %, where 21700 is
    # C(20, 0) + … + C(20, 5) = 1 + 20 + 190 + 1140 + 4845 + 15504; between the 7th and the 14th with 88.5 %.
    batches = [[{"seconds": float(second), "n_tokens": 30 + second}] for second in range(20, 0, -1)]
    found = speed(batches)
    files = found["seconds_per_file"]
    assert (files["p50"], files["p95"], files["batches"]) == (10.0, 19.0, 20)
    assert files["p50_interval"] == (6.0, 15.0)
    assert files["p95_interval"][1] is None
    # 20 × 30 + 210 tokens in 210 s: all tokens by all seconds, not the mean of rates (which is 6.4)
    assert found["tok_per_s"]["value"] == pytest.approx(810 / 210)
