"""A stage of preferences in a run: its steps, its rounds, and what a kill costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.errors import DataError, RecipeError
from lowvram_ft.pipeline import Job, evaluating, policy, run_all, train
from lowvram_ft.pipeline.exporting import export
from lowvram_ft.recipe import PreferenceSection, load
from lowvram_ft.report.table import report
from lowvram_ft.run_dir import RunDir
from tests.preference_runs import FAILS, ROWS, Played, job_of, play, write_preference_recipe
from tests.tiny_runs import events, steps

ROUND = ["policy:d/1", "sample:d/1", "judge:d/1", "pairs:d/1", "train_round:d/1"]
HELD_OUT = 4
ONE_STAGE = '[[stages]]\nname = "d"\ntrain.method = "dpo"\n'


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    found = Played()
    play(monkeypatch, found)
    return found


def trained(job: Job) -> Path:
    with job.at_work():
        job.plan()
        return train(job)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_part_is_a_step(tmp_path: Path, played: Played) -> None:
    run = tmp_path / "run"
    adapter = trained(job_of(write_preference_recipe(tmp_path), run, played))
    assert list(steps(run)) == ["plan", "train:sft", "tasks:d", *ROUND, "train:d"]
    kinds = [(e["event"], e["step"]) for e in events(run) if e["event"] in ("begun", "finished")]
    assert kinds == [(kind, step) for step in steps(run) for kind in ("begun", "finished")]
    folder = run / "stages" / "d" / "rounds" / "1"
    assert played.opened == ["policy-F16.gguf"]
    assert len(lines(folder / "answers.jsonl")) == 4 * 4
    (_, _, no_pairs), (out, before, pairs) = played.trained
    assert (no_pairs, out, before) == ([], folder, run / "stages" / "sft" / "adapter")
    tests = {row.test.strip() for row in ROWS}
    assert {pair["chosen"] for pair in pairs if "chosen" in pair} <= tests and pairs
    assert {pair["rejected"] for pair in pairs if "rejected" in pair} == {FAILS.strip()}
    assert adapter == run / "stages" / "d" / "adapter"
    assert (adapter / "adapter_model.safetensors").read_text().startswith("1 from ")
    assert not list(folder.glob("policy*")), "the file is not needed any more"


def test_the_policy_is_the_export_of_the_stage_before_where_that_is_made(tmp_path: Path, played: Played) -> None:
    run = tmp_path / "run"
    recipe = write_preference_recipe(tmp_path, text="[eval]\nafter_each_stage = true\n")
    trained(job_of(recipe, run, played))
    assert [path.name for path in played.exported] == ["tiny-sft-F16.gguf"]
    assert played.opened == ["tiny-sft-F16.gguf"]
    assert (run / "export" / "tiny-sft-F16.gguf").is_file()
    assert "policy:d/1" not in steps(run)


def test_a_first_stage_learns_from_the_base_itself(tmp_path: Path, played: Played) -> None:
    trained(job_of(write_preference_recipe(tmp_path, stages=ONE_STAGE), tmp_path / "run", played))
    assert played.opened == ["base-F16.gguf"]
    assert played.trained[0][1] is None
    assert any("d: continues no adapter: the base model itself answers" in said for said in played.said)


def test_winners_alone_are_enough_for_rft(tmp_path: Path, played: Played) -> None:
    """Where every answer is good, there is no pair, but there are winners."""
    played.solves = lambda *_: True
    recipe = write_preference_recipe(tmp_path, stages=ONE_STAGE)
    trained(job_of(recipe, tmp_path / "rft", played, "train.method=rft"))
    assert len(played.trained) == 1
    with pytest.raises(DataError, match=r"no winner has a loser .*; take harder tasks"):
        trained(job_of(recipe, tmp_path / "dpo", played))
    assert len(played.trained) == 1


def test_pairs_that_are_given_ask_nobody(tmp_path: Path, played: Played) -> None:
    given = tmp_path / "given.jsonl"
    pair = {
        "prompt": "Tests for: def f(): return 1",
        "code": "def f():\n    return 1\n",
        "chosen": "a",
        "rejected": "b",
    }
    given.write_text(json.dumps(pair) + "\n")
    run = tmp_path / "run"
    trained(job_of(write_preference_recipe(tmp_path, pairs=str(given)), run, played))
    assert (played.opened, played.exported) == ([], [])
    assert [name for name in steps(run) if name.endswith("d/1")] == ["pairs:d/1", "train_round:d/1"]
    ((_, _, learned),) = played.trained[1:]
    assert [(one["chosen"], one["rejected"]) for one in learned] == [("a", "b")]
    given.write_text("changed meanwhile")
    kept = run / "stages" / "d" / "rounds" / "1" / "pairs"
    assert [one["chosen"] for one in lines(kept / "pairs.jsonl")] == ["a"], "the run has its own copy"


def test_a_server_may_be_the_policy(tmp_path: Path, played: Played) -> None:
    recipe = write_preference_recipe(tmp_path, url="http://localhost:9/v1#mine")
    trained(job_of(recipe, tmp_path / "run", played))
    assert (played.opened, played.exported) == (["http://localhost:9/v1#mine"], [])


@pytest.mark.parametrize("key", ["pairs", "url"])
def test_several_rounds_need_a_model_of_each(tmp_path: Path, key: str) -> None:
    recipe = write_preference_recipe(tmp_path, **{key: "http://localhost:9/v1", "rounds": 2})
    with pytest.raises(RecipeError, match=f"rounds: 2 with {key}: .*set rounds = 1"):
        load(str(recipe))


@pytest.mark.parametrize("name", ["before", "after"])
def test_a_stage_cannot_be_called_as_an_evaluation(tmp_path: Path, name: str) -> None:
    stages = f'[[stages]]\nname = "{name}"\n[[stages]]\nname = "d"\n'
    recipe = write_preference_recipe(tmp_path, stages=stages)
    assert len(load(str(recipe)).stages) == 2
    with pytest.raises(RecipeError, match=f"stages: {name}: is the name of an evaluation"):
        load(str(recipe), ["eval.after_each_stage=true"])


def rounds_recipe(folder: Path) -> Path:
    return write_preference_recipe(folder, rounds=3, held_out_tasks=HELD_OUT)


def test_rounds_end_where_the_held_out_tasks_no_longer_improve(tmp_path: Path, played: Played) -> None:
    """The model after round 1 solves more of them, the one after round 2 fewer."""
    run = tmp_path / "run"
    _solve_held_out(played, {"1": 1, "2": 3, "3": 2})
    job = job_of(rounds_recipe(tmp_path), run, played)
    adapter = trained(job)
    found = steps(run)
    assert [name for name in found if name.startswith("train_round")] == ["train_round:d/1", "train_round:d/2"]
    kept = found["train:d"]
    shares = [(one["round"], one["means"]["passes_and_kills"]) for one in kept["held_out"]]
    assert shares == [(0, 0.25), (1, 0.75), (2, 0.5)]
    assert kept["held_out"][1]["since_best"]["passes_and_kills"]["gained"] == 2
    assert kept["round"] == 1
    assert (adapter / "adapter_model.safetensors").read_text().startswith("1 from ")
    # what was measured is what is handed out: it is not exported again
    n_exported = len(played.exported)
    with job.at_work():
        exported = export(job, adapter)
    assert len(played.exported) == n_exported
    out = run / "export" / "tiny-F16.gguf"
    assert exported["gguf"] == str(out)
    assert out.read_text() == f"GGUF of {run / 'stages' / 'd' / 'rounds' / '1' / 'adapter'}"
    assert out.with_suffix(".Modelfile").read_text() == "FROM ./tiny-F16.gguf\n"
    assert not list((run / "stages").rglob("*.gguf"))


@pytest.mark.parametrize(("greedy", "kept"), [({"1": 2, "2": 2}, 0), ({"1": 0, "2": 1, "3": 2, "4": 3}, 3)])
def test_the_best_round_may_be_none_or_the_last(
    tmp_path: Path, played: Played, greedy: dict[str, int], kept: int
) -> None:
    run = tmp_path / "run"
    _solve_held_out(played, greedy)
    adapter = trained(job_of(rounds_recipe(tmp_path), run, played))
    found = steps(run)["train:d"]
    assert (found["round"], len(found["held_out"])) == (kept, len(greedy))
    source = run / "stages" / (f"d/rounds/{kept}" if kept else "sft") / "adapter" / "adapter_model.safetensors"
    assert (adapter / "adapter_model.safetensors").read_text() == source.read_text()


def test_without_held_out_tasks_every_round_is_done(tmp_path: Path, played: Played) -> None:
    run = tmp_path / "run"
    adapter = trained(job_of(write_preference_recipe(tmp_path, rounds=2), run, played))
    begun = [before for _, before, _ in played.trained]
    assert begun == [None, run / "stages" / "sft" / "adapter", run / "stages" / "d" / "rounds" / "1" / "adapter"]
    assert (adapter / "adapter_model.safetensors").read_text().startswith("2 from ")
    assert not [name for name in steps(run) if name.startswith("held_out")]
    assert any("no task is held out" in said for said in played.said)


def _solve_held_out(played: Played, greedy: dict[str, int]) -> None:
    """Let the model that a round begins with solve so many of the held-out tasks, and every other answer to the rest.

    Args:
        played: gets the model.
        greedy: number of the round to number of tasks.
    """

    def solves(model: str, task: int, answer: int) -> bool:
        if task < HELD_OUT:
            return task < greedy[Path(model).parent.name if "rounds" in model else "1"]
        return answer % 2 == 0

    played.solves = solves


def test_killed_at_any_step_it_asks_judges_and_trains_once(
    tmp_path: Path, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the result of each step is recorded, and after: the same command goes on."""
    run = tmp_path / "run"
    _solve_held_out(played, {"1": 1, "2": 3, "3": 2})
    recipe = rounds_recipe(tmp_path)
    finish = RunDir.finish
    killed: set[tuple[str, str]] = set()

    def deadly(self: RunDir, step: str, result: Any) -> None:
        if ("before", step) not in killed:
            killed.add(("before", step))
            raise KeyboardInterrupt
        finish(self, step, result)
        if ("after", step) not in killed:
            killed.add(("after", step))
            raise KeyboardInterrupt

    monkeypatch.setattr(RunDir, "finish", deadly)
    adapter = None
    for _ in range(100):
        try:
            adapter = trained(job_of(recipe, run, played))
            break
        except KeyboardInterrupt:
            continue
    assert adapter is not None
    names = set(steps(run))
    assert killed == {(when, step) for when in ("before", "after") for step in names}
    assert len(killed) > 30
    assert steps(run)["train:d"]["round"] == 1
    sampled = [(model, task) for model, task, greedy in played.asked if not greedy]
    assert len(sampled) == len(set(sampled)) == 2 * 4, "two rounds of four tasks, each asked once"
    measured = [(model, task) for model, task, greedy in played.asked if greedy]
    assert len(measured) == len(set(measured)) == 3 * 4
    for number in (1, 2):
        judged = [record["key"] for record in lines(run / f"stages/d/rounds/{number}/judged.jsonl")]
        assert len(judged) == len(set(judged)) == 4 * 4


def test_a_kill_in_the_middle_of_sampling_loses_no_answer(tmp_path: Path, played: Played) -> None:
    recipe = write_preference_recipe(tmp_path)
    run = tmp_path / "run"
    played.stops_after = 3
    with pytest.raises(KeyboardInterrupt):
        trained(job_of(recipe, run, played))
    assert 0 < len(played.asked) < 4
    trained(job_of(recipe, run, played))
    assert len(played.asked) == len(set(played.asked)) == 4


def test_an_export_that_was_deleted_is_made_again_for_sampling_alone(tmp_path: Path, played: Played) -> None:
    recipe = write_preference_recipe(tmp_path)
    run = tmp_path / "run"
    played.stops_after = 1
    with pytest.raises(KeyboardInterrupt):
        trained(job_of(recipe, run, played))
    (policy,) = (run / "stages").rglob("policy*.gguf")
    policy.unlink()
    job = job_of(recipe, run, played)
    trained(job)
    assert played.exported == [policy, policy]
    trained(job)
    assert played.exported == [policy, policy]


def test_a_run_evaluates_every_stage_on_what_the_next_one_samples_from(
    tmp_path: Path, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = {"file_s_p95": 1.0, "gate_s": 10.0, "gate_met": True}
    monkeypatch.setattr(evaluating, "evaluate_tasks", played.evaluate)
    monkeypatch.setattr(evaluating, "LlamaCpp", lambda gguf, n_ctx: played.open(gguf, PreferenceSection(), n_ctx)())
    monkeypatch.setattr("lowvram_ft.pipeline.run.bench", lambda job, _: job.step("bench", lambda: bench))
    run = tmp_path / "run"
    text = "[eval]\nafter_each_stage = true\nmax_tasks = 6\n"
    run_all(job_of(write_preference_recipe(tmp_path, text=text), run, played))
    assert list(steps(run)) == [
        "plan", "train:sft", "export_stage:sft", "eval:sft", "tasks:d", *ROUND[1:], "train:d", "export", "verify",
        "export:base", "bench", "eval:before", "eval:after", "compare", "compare:stages", "gates",
    ]  # fmt: skip
    assert [path.name for path in played.exported] == ["tiny-sft-F16.gguf", "tiny-F16.gguf", "base-F16.gguf"]
    assert played.opened == ["tiny-sft-F16.gguf", "tiny-sft-F16.gguf", "base-F16.gguf", "tiny-F16.gguf"]
    found = report(run)["stage_by_stage"]["samples"]
    assert [stage["name"] for stage in found] == ["base", "sft", "d"]
    assert [stage["means"]["tasks"] for stage in found] == [6, 6, 6]


def test_with_nothing_played_but_the_answers(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real tasks, judge, pairs, training and export, of a random model; another one answers in its place."""
    played = Played()
    monkeypatch.setattr(policy, "open_policy", played.open)
    run = tmp_path / "run"
    recipe = write_preference_recipe(
        tmp_path, tiny_llama, '[hardware]\nengine = "reference"\n', ONE_STAGE, max_tasks=3, samples_per_task=2
    )
    adapter = trained(job_of(recipe, run, played, "train.max_steps=1"))
    found = steps(run)
    assert played.opened == ["base-F16.gguf"]
    assert found["judge:d/1"]["fates"]["passes_and_kills"] == found["judge:d/1"]["fates"]["fails"] == 3
    assert found["pairs:d/1"]["pairs"] == 3
    assert found["train:d"]["steps"] == 1 and found["train:d"]["round"] == 1
    assert found["train:d"]["first_loss"] > 0
    assert (adapter / "adapter_config.json").is_file()
