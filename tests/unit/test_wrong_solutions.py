"""False acceptance and false rejection, counted by running the files."""

import pytest

from lowvram_ft.evaluation.evaluate import evaluate
from lowvram_ft.evaluation.suites import make_task
from lowvram_ft.inference import Completion
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import EvalSection
from lowvram_ft.run_dir import read_jsonl

RIGHT = "def largest(values):\n    return max(values) if values else None\n"
FIRST = "def largest(values):\n    return values[0] if values else None\n"
CRASHES = "def largest(values):\n    return max(values)\n"
HANGS = "def largest(values):\n    while not values:\n        pass\n    return max(values)\n"
OUT = "import os\n\n\ndef largest(values):\n    return max(values) if values else os._exit(0)\n"
HEAD = "from solution import largest\n\n\n"
SORTED = "def test_descending():\n    assert largest([3, 2, 1]) == 3\n"
MIXED = "def test_mixed():\n    assert largest([1, 3, 2]) == 3\n"
NOTHING = "def test_nothing():\n    assert largest([]) is None\n"
MISTAKEN = "def test_mistaken():\n    assert largest([1]) == 2\n"


class Says:
    name = "says"

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def generate(self, prompts, sampling, n=1):
        return [[Completion(self.answer, 1, 1, "stop", 1.0, 0.1)] * n for _ in prompts]

    def close(self) -> None:
        pass


def record_of(tmp_path, test, wrong=(FIRST, CRASHES)):
    task = make_task("s", "largest", RIGHT, wrong_solutions=wrong)
    samples = tmp_path / "samples.jsonl"
    evaluate(lambda: Says(test), [task], EvalSection(), samples, "eval", Progress(quiet=True))
    (record,) = read_jsonl(samples)
    return record


@pytest.mark.parametrize(
    ("test", "accepted", "rejected"),
    [
        (HEAD + SORTED, [True, True], 0.0),
        (HEAD + SORTED + "\n\n" + MIXED, [False, True], 0.0),
        (HEAD + MIXED + "\n\n" + NOTHING, [False, False], 0.0),
        (HEAD + MISTAKEN + "\n\n" + NOTHING, [True, False], 1.0),  # what fails on the correct code rejects nothing
        (HEAD + MISTAKEN, [True, True], 1.0),
        (HEAD + "def test_no_check():\n    largest([])\n", [True, True], 1.0),  # a crash is no check
        ("I cannot do that.", [True, True], 1.0),
        ("", [True, True], 1.0),
    ],
    ids=["weak", "better", "good", "half mistaken", "mistaken", "without checks", "prose", "empty"],
)
def test_wrong_solutions_that_the_passing_tests_accept(tmp_path, test, accepted, rejected):
    record = record_of(tmp_path, test)
    assert record["accepted_wrong_solutions"] == accepted
    assert record["scores"]["false_acceptance"] == sum(accepted) / 2
    assert record["scores"]["false_rejection"] == rejected


def test_a_wrong_solution_that_hangs_or_ends_the_process_is_rejected(tmp_path):
    record = record_of(tmp_path, HEAD + NOTHING, (HANGS, OUT))
    assert record["accepted_wrong_solutions"] == [False, False]


def test_a_task_without_wrong_solutions_has_neither_rate(tmp_path):
    record = record_of(tmp_path, HEAD + SORTED, ())
    assert record["scores"]["false_acceptance"] is record["scores"]["false_rejection"] is None
    assert "accepted_wrong_solutions" not in record
