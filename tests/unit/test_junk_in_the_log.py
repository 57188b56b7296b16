"""Junk through a whole evaluation: what ``samples.jsonl`` says that it is worth, and why."""

import pytest

from lowvram_ft.evaluation.evaluate import evaluate
from lowvram_ft.evaluation.metrics import METRICS
from lowvram_ft.evaluation.suites.task import make_task
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import EvalSection
from lowvram_ft.run_dir import read_jsonl
from tests.scripted_model import ByPrompt
from tests.unit.test_reasons import CODE, HONEST

WRONG = CODE.replace("return high if value > high else value", "return value")

JUNK = {
    "empty": ("", "empty: there is no test file in the answer"),
    "prose": ("The function keeps a number in a range. It looks right to me.", "no Python: line 1: "),
    "no assertions": (
        "from solution import clamp\n\n\ndef test_a():\n    clamp(5, 0, 10)\n    print(clamp(11, 0, 10))\n",
        "no check: asserts nothing",
    ),
    "skips itself": (
        "import pytest\nfrom solution import clamp\n\n\ndef test_a():\n    pytest.skip('later')\n"
        "    assert clamp(5, 0, 10) == 5\n",
        "skipped: all of 1 test: Skipped: later",
    ),
    "catches everything": (
        "from solution import clamp\n\n\ndef test_a():\n    try:\n        assert clamp(5, 0, 10) == 7\n"
        "    except Exception:\n        pass\n",
        "no check: catches every failure of its own assertions",
    ),
    "reads the source": (
        "import inspect\nfrom solution import clamp\n\n\ndef test_a():\n"
        "    assert 'return low' in inspect.getsource(clamp)\n",
        "no check: reads the source of the code under test",
    ),
    # no word of it looks like junk: only the controls tell
    "equals anything": (
        "from unittest.mock import ANY\nfrom solution import clamp\n\n\ndef test_a():\n"
        "    assert clamp(5, 0, 10) == ANY\n",
        "no check: passes as well on code that does nothing",
    ),
    "reads it by a detour": (
        "import solution\n\n\ndef test_a():\n    assert 'return low' in solution.__loader__.get_source('solution')\n",
        "fails: 1 failed of 1 test; the first: fails on the same code written otherwise",
    ),
}
"""What a model answers, and how the reason in the log begins."""

PARSES = set(JUNK) - {"prose"}
RUNS = {"reads it by a detour"}
"""Its test counts as failed, not as none: it ran, and covers what it covers."""


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    answers = {f"# {name}\n": answer for name, (answer, _) in JUNK.items()} | {"# honest\n": HONEST}
    tasks = [make_task("junk", mark[2:-1], mark + CODE, wrong_solutions=(WRONG,)) for mark in answers]
    samples = tmp_path_factory.mktemp("junk") / "samples.jsonl"
    model = ByPrompt(answers)
    found = evaluate(lambda: model, tasks, EvalSection(), samples, "eval:before", Progress(quiet=True))
    return found["suites"]["junk"], {record["task"]: record for record in read_jsonl(samples)}


@pytest.mark.parametrize("name", JUNK)
def test_the_log_says_what_junk_is_worth_and_why(evaluated, name):
    answer, begins = JUNK[name]
    record = evaluated[1][name]
    assert record["reason"].startswith(begins)
    assert (record["answer"], record["step"], record["suite"]) == (answer, "eval:before", "junk")
    scores = record["scores"]
    worth = {"useful", "passes", "mutation_score", "n_passed"}
    worth |= set() if name in RUNS else {"writes_tests", "line_coverage", "branch_coverage", "assertions_per_test"}
    assert {key for key in worth if scores[key]} == set()
    assert scores["parses"] == (name in PARSES)
    # it refuses no wrong solution, and does refuse the right one
    assert (scores["false_acceptance"], scores["false_rejection"]) == (1.0, 1.0)
    assert record["accepted_wrong_solutions"] == [True]


def test_an_honest_file_among_junk_is_worth_all(evaluated):
    record = evaluated[1]["honest"]
    assert record["reason"].startswith("passes and kills: 6 of 6 tests pass; ")
    scores = record["scores"]
    assert (scores["passes"], scores["useful"], scores["line_coverage"], scores["false_acceptance"]) == (
        True,
        True,
        1,
        0,
    )
    assert scores["mutation_score"] > 0.7


def test_junk_lowers_the_means_and_is_counted_by_its_reason(evaluated):
    means, records = evaluated
    n = len(JUNK) + 1
    assert len(records) == means["tasks"] == n
    for key in ("passes", "useful", "passes_and_kills", "single_tests_pass", "pass@1"):
        assert means[key] == pytest.approx(1 / n), "no file is left out of an average"
    assert {key for key in METRICS if means[key] > 2 / n} == {"parses", "collects"}
    assert means["reasons"] == {
        "empty": 1, "no Python": 1, "no check": 4, "skipped": 1, "fails": 1, "passes and kills": 1,
    }  # fmt: skip
