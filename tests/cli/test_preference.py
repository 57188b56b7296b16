"""The parts of a round by hand, as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.pipeline import by_hand, policy, round
from lowvram_ft.preference import sampling
from tests.cli.conftest import Cli
from tests.cli.running import failed, files
from tests.preference_runs import FAILS, Played, write_preference_recipe

PARTS = ("tasks", "sample", "judge", "pairs")


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    """Tasks, the model that answers, and the judge are played; the commands and the choice of pairs are not."""
    found = Played()
    monkeypatch.setattr(by_hand, "supplied", found.collect)
    monkeypatch.setattr(policy, "open_policy", found.open)
    monkeypatch.setattr(round, "judge_answers", found.judge)
    monkeypatch.setattr(sampling, "refuse_evaluation_tasks", lambda *_: None)
    return found


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_preference_recipe(tmp_path)


def do(cli: Cli, part: str, *more: object) -> Any:
    model = ("--model", "http://localhost:9/v1#mine") if part == "sample" else ()
    return cli("preference", part, "tiny.toml", "--out", "out", *model, "-q", *more)


@pytest.mark.usefixtures("recipe")
def test_each_part_takes_up_what_the_one_before_wrote(here: Cli, tmp_path: Path, played: Played) -> None:
    for part in PARTS:
        outcome = do(here, part, "--json")
        assert (outcome.code, outcome.stderr) == (0, "")
    facts = json.loads(outcome.stdout)
    assert (facts["pairs"], facts["folder"]) == (4, "out/pairs")
    assert files(tmp_path / "out") == [
        "answers.jsonl", "judged.jsonl", "pairs/README.md", "pairs/pairs.json", "pairs/pairs.jsonl",
        "pairs/winners.jsonl", "sampled.json", "tasks.json",
    ]  # fmt: skip
    assert len(played.asked) == 4
    assert do(here, "sample").stdout.startswith("model: http://localhost:9/v1#mine\n")
    assert len(played.asked) == 4, "asked once"
    assert "fates: passes and kills 8, " in do(here, "judge").stdout


@pytest.mark.parametrize(("part", "missing", "first"), [
    ("sample", "tasks.json", "tasks tiny.toml --out out"),
    ("judge", "tasks.json", "tasks tiny.toml --out out"),
    ("pairs", "tasks.json", "tasks tiny.toml --out out"),
])  # fmt: skip
@pytest.mark.usefixtures("played", "recipe")
def test_a_part_too_early_names_the_one_before(here: Cli, part: str, missing: str, first: str) -> None:
    assert do(here, part) == failed(2, f"out/{missing}: no such file; run first: lowvram-ft preference {first}")


@pytest.mark.usefixtures("played", "recipe")
def test_judging_needs_answers(here: Cli) -> None:
    do(here, "tasks")
    command = "lowvram-ft preference sample tiny.toml --out out --model MODEL"
    assert do(here, "judge") == failed(2, f"out/sampled.json: no such file; run first: {command}")


@pytest.mark.usefixtures("recipe")
def test_answers_of_other_settings_are_not_taken(here: Cli, played: Played) -> None:
    do(here, "tasks")
    do(here, "sample")
    outcome = do(here, "judge", "--set", "preference.seed=7")
    problem = "out: answers are missing (the tasks or the settings have changed since); sample again"
    assert outcome == failed(2, problem)
    assert len(played.asked) == 4


@pytest.mark.usefixtures("recipe")
def test_no_pair_says_what_to_do(here: Cli, played: Played) -> None:
    played.solves = lambda *_: False
    for part in PARTS:
        outcome = do(here, part)
    assert outcome.code == 2
    assert outcome.stderr.startswith("error: out/pairs: no answer wins (4 of 4 tasks never solved")
    assert "raise preference.samples_per_task" in outcome.stderr


@pytest.mark.usefixtures("recipe")
def test_a_kill_while_sampling_keeps_what_was_answered(here: Cli, played: Played) -> None:
    do(here, "tasks")
    played.stops_after = 2
    stopped = do(here, "sample")
    assert stopped.code == 130 and "nothing is half-written" in stopped.stderr
    assert do(here, "sample").code == 0
    assert len(played.asked) == len(set(played.asked)) == 4


@pytest.mark.usefixtures("played", "recipe")
def test_show_puts_pairs_side_by_side(here: Cli) -> None:
    for part in PARTS:
        do(here, part)
    outcome = here("preference", "show", "out", "--n", "2")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.splitlines()[-1] == "2 of 4 pairs in out/pairs"
    assert outcome.stdout.count("assert solution is None") == 2
    assert outcome.stdout.count("kills 50 % of the mutants; 20 tokens") == 2
    assert outcome.stdout.count("kills 0 % of the mutants; 20 tokens") == 2
    found = json.loads(here("preference", "show", "out/pairs", "--json").stdout)
    assert (found["count"], len(found["pairs"])) == (4, 3)
    assert {pair["rejected"] for pair in found["pairs"]} == {FAILS.strip()}
    assert len({pair["group"] for pair in found["pairs"]}) == 3


def test_show_of_something_else(here: Cli, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    problem = "out: holds no pairs.jsonl; give the folder of a pair set, such as OUT/pairs"
    assert here("preference", "show", "out") == failed(2, problem)


def test_pairs_are_for_a_stage_that_learns_from_them(here: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("{}\n")
    outcome = here("train", "demo", "--pairs", "mine.jsonl", "--out", "run")
    assert outcome.code == 2
    assert (
        "train.method is sft in every stage, and pairs are for dpo or rft; add --set train.method=dpo" in outcome.stderr
    )
    assert not (tmp_path / "run").exists()


def test_pairs_that_are_missing_are_told_before_anything_is_written(here: Cli, tmp_path: Path) -> None:
    outcome = here("train", "demo", "--pairs", "mine.jsonl", "--set", "train.method=dpo", "--out", "run")
    problem = f"{tmp_path}/mine.jsonl: no such file; give a JSONL file with one object a line"
    assert outcome == failed(2, problem)
    assert not (tmp_path / "run").exists()
