"""Answers that are drawn: none is asked for twice, and each hangs on its own task alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lowvram_ft.data.evaluation_code import humaneval_problems
from lowvram_ft.errors import DataError, GenerationError, PromptTooLong, UsageError
from lowvram_ft.inference import Completion, Sampling
from lowvram_ft.inference.openai_compatible import OpenAICompatible
from lowvram_ft.preference.records import PreferenceTask
from lowvram_ft.preference.sampling import answer_key, open_policy, sample, weights_digest
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import PreferenceSection
from lowvram_ft.run_dir import append_jsonl, read_jsonl
from tests.chat_servers import serving

QUIET = Progress(quiet=True)
SECTION = PreferenceSection(samples_per_task=3)
TASKS = [PreferenceTask(f"t{n}", f"t{n}", "rows", f"LIMIT = {n}\n", "solution") for n in range(6)]


class Whole:
    """Answers whole lists; what it says tells all that its draws hang on.

    Args:
        dies: number of the prompt, from 1, before which it is interrupted.
        too_long: what a prompt holds that does not fit.
    """

    name = "whole"

    def __init__(self, dies: int = 0, too_long: str = "no such text") -> None:
        self.dies = dies
        self.too_long = too_long
        self.asked: list[tuple[str, int, int]] = []
        self.closed = 0

    def generate(self, prompts: Sequence[str], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        return [self.answers(prompt, sampling, place, n) for place, prompt in enumerate(prompts)]

    def answers(self, prompt: str, sampling: Sampling, place: int, n: int) -> list[Completion]:
        if self.too_long in prompt:
            raise PromptTooLong("prompt 1: is too long")
        if len(self.asked) + 1 == self.dies:
            raise KeyboardInterrupt
        self.asked.append((prompt, sampling.first, n))
        code = next(line for line in prompt.splitlines() if line.startswith("LIMIT"))
        return [
            Completion(
                f"{code} {sampling.stream(place, i)}", 50, 20, "stop" if sampling.first + i else "length", 0.5, 0.1
            )
            for i in range(n)
        ]

    def close(self) -> None:
        self.closed += 1


class Each(Whole):
    """Hands answers over one by one, the last prompt first."""

    n_prompt_tokens_read: int | None = 0

    def generate_each(self, prompts, sampling, n, answered) -> None:
        for place in reversed(range(len(prompts))):
            try:
                found = self.answers(prompts[place], sampling, place, n)
                self.n_prompt_tokens_read += found[0].n_prompt_tokens
                answered(place, found)
            except PromptTooLong as problem:
                answered(place, problem)


def run(path: Path, model: Whole, tasks=TASKS, section=SECTION, digest="weights", **more):
    return sample(tasks, lambda: model, digest, section, path, QUIET, **more)


def never():
    raise AssertionError("the model is opened for nothing")


def texts(answers) -> dict[tuple[str, int], str]:
    return {(answer.task, answer.sample): answer.text for answer in answers}


def records(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines())


@pytest.fixture(params=[Whole, Each])
def kind(request):
    return request.param


def test_every_task_gets_its_answers_in_the_order_of_the_tasks(tmp_path, kind):
    model = kind()
    answers, facts = run(tmp_path / "a.jsonl", model)
    assert [(answer.task, answer.sample) for answer in answers] == [(f"t{n}", i) for n in range(6) for i in range(3)]
    assert all(f"LIMIT = {answer.task[1:]} " in answer.text for answer in answers)
    assert len({answer.text for answer in answers}) == 18
    assert model.closed == 1
    asked = facts.pop("asked")
    assert facts == {"tasks": 6, "answers": 18, "too_long": [], "cut_off": 6 / 18, "mean_tokens": 20.0}
    assert (asked["answers"], asked["tokens"], asked["prompt_tokens"]) == (18, 360, 900)
    assert asked["prompt_tokens_read"] == (300 if kind is Each else None)
    assert asked["tokens_per_s"] == pytest.approx(360 / asked["seconds"], rel=0.2)
    assert asked["answers_per_s"] == pytest.approx(asked["tokens_per_s"] / 20)


def test_what_is_there_is_not_asked_for_again_and_no_model_is_opened(tmp_path, kind):
    path = tmp_path / "a.jsonl"
    first, _ = run(path, kind())
    before = path.read_bytes()
    again, facts = sample(TASKS, never, "weights", SECTION, path, QUIET)
    assert again == first and facts["asked"] is None and path.read_bytes() == before


@pytest.mark.parametrize("dies", [1, 2, 4, 6])
def test_an_interrupted_run_keeps_what_is_finished_and_ends_as_one_that_was_not(tmp_path, kind, dies):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    expected, _ = run(whole, kind())
    dead = kind(dies=dies)
    with pytest.raises(KeyboardInterrupt):
        run(cut, dead)
    assert dead.closed == 1
    assert len(list(read_jsonl(cut))) == 3 * (dies - 1)
    after = kind()
    found, _ = run(cut, after)
    assert found == expected and records(cut) == records(whole)
    assert not {prompt for prompt, _, _ in dead.asked} & {prompt for prompt, _, _ in after.asked}


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_torn_line_costs_itself_alone(tmp_path, kind, left):
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    expected, _ = run(whole, kind())
    lines = whole.read_text().splitlines(keepends=True)
    kept = 3 * 2 + left
    torn.write_text("".join(lines[:kept]) + lines[kept][:25])
    model = kind()
    found, _ = run(torn, model)
    assert found == expected and records(torn) == records(whole)
    asked = sum(n for _, _, n in model.asked)
    assert asked == 18 - kept, "what stands before the torn line is not asked for again"


def test_a_line_that_was_spoilt_in_the_middle_is_asked_for_and_no_other_is_there_twice(tmp_path, kind):
    whole, spoilt = tmp_path / "whole.jsonl", tmp_path / "spoilt.jsonl"
    expected, _ = run(whole, kind())
    lines = whole.read_text().splitlines(keepends=True)
    spoilt.write_text("".join([*lines[:4], "{spoilt\n", *lines[5:]]))
    found, _ = run(spoilt, kind())
    assert found == expected
    assert sorted(json.dumps(record) for record in read_jsonl(spoilt)) == [
        json.dumps(json.loads(line)) for line in records(whole)
    ]


def test_an_answer_hangs_on_no_other_task_and_on_no_place(tmp_path, kind):
    everything, _ = run(tmp_path / "a.jsonl", kind())
    some, _ = run(tmp_path / "b.jsonl", kind(), [TASKS[4], TASKS[1]])
    assert texts(some).items() <= texts(everything).items()
    longer, _ = run(tmp_path / "c.jsonl", kind(), TASKS[::-1])
    assert texts(longer) == texts(everything)


def test_more_answers_a_task_ask_for_the_new_ones_alone(tmp_path, kind):
    path = tmp_path / "a.jsonl"
    few, _ = run(path, kind())
    model = kind()
    many, _ = run(path, model, section=SECTION.model_copy(update={"samples_per_task": 5}))
    assert {(first, n) for _, first, n in model.asked} == {(3, 2)}
    assert texts(few).items() < texts(many).items()
    fresh, _ = run(tmp_path / "b.jsonl", kind(), section=SECTION.model_copy(update={"samples_per_task": 5}))
    assert texts(fresh) == texts(many)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"temperature": 0.5}, {"min_p": 0.2}, {"max_new_tokens": 9}, {"digest": "others"}, {"code": 1}],
)
def test_answers_of_other_weights_settings_or_code_are_not_taken(tmp_path, kind, change):
    path = tmp_path / "a.jsonl"
    run(path, kind())
    model = kind()
    tasks = [replace(task, code=f"{task.code}x = 1\n") for task in TASKS] if "code" in change else TASKS
    settings = {key: value for key, value in change.items() if key not in ("digest", "code")}
    run(path, model, tasks, SECTION.model_copy(update=settings), change.get("digest", "weights"))
    assert len(model.asked) == 6


def test_a_key_is_of_one_answer(tmp_path):
    keys = {answer_key(task, "w", SECTION, number) for task in TASKS for number in range(9)}
    assert len(keys) == 54


def test_a_prompt_that_is_too_long_is_passed_over_once_and_counted(tmp_path, kind):
    path = tmp_path / "a.jsonl"
    answers, facts = run(path, kind(too_long="LIMIT = 2"))
    assert facts["too_long"] == ["t2"] and {answer.task for answer in answers} == {"t0", "t1", "t3", "t4", "t5"}
    again, facts = sample(TASKS, never, "weights", SECTION, path, QUIET)
    assert again == answers and facts["too_long"] == ["t2"]


def test_tasks_with_the_same_code_are_asked_for_once(tmp_path, kind):
    model = kind()
    twins = [TASKS[0], replace(TASKS[0], id="twin")]
    answers, _ = run(tmp_path / "a.jsonl", model, twins)
    assert len(model.asked) == 1
    assert [answer.task for answer in answers] == ["t0"] * 3 + ["twin"] * 3


def test_evaluation_code_is_refused_before_anything_is_asked(tmp_path):
    problem = humaneval_problems()[7]
    planted = replace(TASKS[0], id="planted", code=problem["prompt"] + problem["canonical_solution"])
    with pytest.raises(DataError, match=r"planted: holds an evaluation task.*HumanEval/7"):
        sample([*TASKS, planted], never, "weights", SECTION, tmp_path / "a.jsonl", QUIET)
    suite = tmp_path / "suite.jsonl"
    suite.write_text(json.dumps({"task_id": "mine", "code": TASKS[3].code}) + "\n")
    with pytest.raises(DataError, match=r"t3: holds an evaluation task.*mine"):
        sample(TASKS, never, "weights", SECTION, tmp_path / "a.jsonl", QUIET, suites=[f"jsonl:{suite}"])


def test_lines_that_are_no_answers_do_no_harm(tmp_path, kind):
    path = tmp_path / "a.jsonl"
    path.write_text("[1, 2]\nnonsense\n{}\n")
    append_jsonl(path, {"key": "of something else"})
    answers, _ = run(path, kind())
    assert len(answers) == 18


def test_progress_names_the_model_and_tells_how_fast(tmp_path, capsys):
    sample(TASKS, Whole, "weights", SECTION, tmp_path / "a.jsonl", Progress())
    told = capsys.readouterr().err
    assert "sampling whole: 0/6" in told and "sampling whole: 6/6" in told and "tok/s" in told


def test_a_policy_is_a_file_or_a_server(tmp_path):
    with pytest.raises(UsageError, match="no server is named"):
        open_policy(None, SECTION, 1024)
    with serving(lambda request: request.says("assert 1")) as server:
        opened = open_policy(None, SECTION.model_copy(update={"url": server.url}), 1024, many=2)()
        assert isinstance(opened, OpenAICompatible) and opened.model == "tiny"
    path = tmp_path / "w.gguf"
    path.write_bytes(b"GGUF")
    digests = {weights_digest(path)}
    path.write_bytes(b"GGUF1")
    digests.add(weights_digest(path))
    assert len(digests) == 2


# --- a server


def test_a_server_hands_answers_over_as_they_come_and_a_long_prompt_stops_no_other(tmp_path):
    def behaviour(request) -> None:
        prompt = request.body["messages"][0]["content"]
        if "LIMIT = 2" in prompt:
            request.answer(400, '{"error": {"message": "no room", "code": "context_length_exceeded"}}')
        else:
            n = request.body.get("n", 1)
            request.says(*(f"{request.body['seed']} {i}" for i in range(n)))

    with serving(behaviour) as server:
        section = SECTION.model_copy(update={"url": server.url})
        path = tmp_path / "a.jsonl"
        answers, facts = sample(TASKS, open_policy(None, section, 0), "url", section, path, QUIET)
        assert facts["too_long"] == ["t2"] and len(answers) == 15
        body = server.requests[0].body
        assert (body["n"], body["temperature"], body["min_p"]) == (3, 0.8, 0.05)
        asked = len(server.requests)
        other, _ = sample(TASKS[::-1], open_policy(None, section, 0), "url", section, tmp_path / "b.jsonl", QUIET)
        assert texts(other) == texts(answers)
        assert len(server.requests) == 2 * asked
        sample(TASKS, open_policy(None, section, 0), "url", section, path, QUIET)
        assert len(server.requests) == 2 * asked


def test_a_server_that_fails_leaves_what_was_finished(tmp_path):
    def behaviour(request) -> None:
        if "LIMIT = 4" in request.body["messages"][0]["content"]:
            request.answer(400, '{"error": {"message": "broken"}}')
        else:
            request.says("a", "b", "c")

    with serving(behaviour) as server:
        section = SECTION.model_copy(update={"url": server.url})
        path = tmp_path / "a.jsonl"
        with pytest.raises(GenerationError, match="broken"):
            sample(TASKS, open_policy(None, section, 0, many=1), "url", section, path, QUIET)
    assert {record["task"] for record in read_jsonl(path)} == {"t0", "t1", "t2", "t3"}
