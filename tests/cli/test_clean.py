"""``lowvram-ft clean``: it shows what lies where, frees what nothing needs, and nothing that it did not list."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DeleteCacheStrategy, HFCacheInfo

import lowvram_ft.clean.removing
from lowvram_ft.clean import Item, Places, chosen, free, survey
from lowvram_ft.clean.items import listed
from lowvram_ft.errors import RunDirectoryError, UsageError
from lowvram_ft.improve.home import Home
from lowvram_ft.inference.in_use import InUse, write_in_use
from tests.cli.conftest import Cli
from tests.cli.running import failed, files
from tests.machines import write

ALL_STEPS = ("plan", "train:form", "train:own", "export", "verify", "gates")


def make_run(path: Path, *steps: str, base: str = "smollm2-135m", adapter: Path | None = None) -> Path:
    """A run directory as `run` leaves it after some steps."""
    model = {"base": base, "adapter": str(adapter) if adapter else None}
    recipe = {"model": model, "export": {"quant": "Q8_0"}}
    data = {
        "schema_version": 1,
        "digest": "d",
        "command": "lowvram-ft run mine",
        "recipe": {"name": "mine", "stages": [{"name": name, "recipe": recipe} for name in ("form", "own")]},
        "steps": {step: {"base": base} if step == "plan" else {} for step in steps},
    }
    return write(
        path,
        {
            "run.json": json.dumps(data),
            ".lock": "",
            "stages/form/adapter/adapter_model.safetensors": "a" * 10,
            "stages/form/checkpoints/checkpoint-3/optimizer.pt": "b" * 100,
            "stages/own/checkpoints/checkpoint-5/optimizer.pt": "c" * 200,
            "stages/own/checkpoints/damaged-4/optimizer.pt": "d" * 300,
            "export/mine-Q8_0.gguf": "result",
            "export/mine-Q8_0.Modelfile": "result",
            "export/base-Q8_0.gguf": "e" * 400,
            "export/mine-form-Q8_0.gguf": "f" * 500,
            "export/mine-Q8_0.gguf.rejected": "g" * 600,
        },
    )


def make_hub(folder: Path, *models: str, revision: str | None = None) -> None:
    """A cache in the hub's own layout."""
    for name in models:
        top = folder / f"models--{name.replace('/', '--')}"
        commit = revision or hashlib.sha1(name.encode()).hexdigest()
        (top / "snapshots" / commit).mkdir(parents=True)
        write(top, {"blobs/abc": name * 50, "refs/main": commit})
        (top / "snapshots" / commit / "model.safetensors").symlink_to(Path("../../blobs/abc"))


@pytest.fixture
def cleaned(here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`clean` where hub, cache, data and runs are the test's own."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("LOWVRAM_FT_DATA", str(tmp_path / "data"))
    return lambda *arguments: here("clean", *arguments)


def items(cli: Cli, *arguments: object) -> dict[str, dict[str, Any]]:
    outcome = cli(*arguments, "--json")
    assert (outcome.code, outcome.stderr) == (0, "")
    return {each["name"]: each for each in json.loads(outcome.stdout)["items"]}


def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "hub", Home(tmp_path / "data", tmp_path / ".cache"), (tmp_path / "runs",))


def found(tmp_path: Path, name: str) -> Item:
    return next(item for item in survey(places(tmp_path)) if item.name.endswith(name))


def test_an_empty_machine(cleaned: Cli) -> None:
    assert cleaned().stdout == "nothing is here\n"
    assert cleaned("cache", "--yes").stdout == "nothing that nothing needs\nnothing was freed; to free it: --yes\n"


def test_without_a_group_everything_is_shown_and_nothing_freed(cleaned: Cli, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "mine", *ALL_STEPS)
    make_hub(tmp_path / "hub", "Qwen/Qwen3-0.6B")
    before = files(tmp_path)
    outcome = cleaned("--yes")
    assert (outcome.code, outcome.stderr) == (0, "")
    for name in (
        "Qwen/Qwen3-0.6B",
        "runs/mine/stages/form/checkpoints",
        "runs/mine",
        "a result: freed where it is named",
    ):
        assert name in outcome.stdout
    assert outcome.stdout.splitlines()[-1].endswith(" can be freed: lowvram-ft clean hub checkpoints exports")
    assert files(tmp_path) == before


def test_of_a_finished_run_the_result_stays(cleaned: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "mine", *ALL_STEPS)
    outcome = cleaned("checkpoints", "exports", "--yes")
    assert (outcome.code, outcome.stdout.splitlines()[-1]) == (0, "freed 2.1 KiB")
    assert files(run) == [
        ".lock", "export/mine-Q8_0.Modelfile", "export/mine-Q8_0.gguf", "run.json",
        "stages/form/adapter/adapter_model.safetensors",
    ]  # fmt: skip
    assert items(cleaned)["runs/mine"]["kept"] == "a result: freed where it is named"


def test_what_a_run_goes_on_from_stays_unless_it_is_named(cleaned: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "mine", "plan", "train:form")
    listed = items(cleaned, "checkpoints", "exports", "runs")
    name = "runs/mine/stages/own/checkpoints"
    assert listed[name]["kept"] == "the run goes on from them"
    assert {each["name"] for each in listed.values() if each["chosen"]} == {
        "runs/mine/stages/form/checkpoints", f"{name}/damaged", "runs/mine/export/mine-Q8_0.gguf.rejected",
    }  # fmt: skip
    assert cleaned("checkpoints", "exports", "runs", "--yes").code == 0
    assert (run / "stages/own/checkpoints/checkpoint-5").is_dir()
    assert (run / "export/base-Q8_0.gguf").is_file()
    assert not (run / "stages/form/checkpoints").exists()
    assert not (run / "stages/own/checkpoints/damaged-4").exists()
    assert cleaned(name, "--yes").code == 0
    assert not (run / "stages/own/checkpoints").exists()
    assert cleaned("runs/mine/", "--yes").code == 0
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_that_is_at_work_is_never_freed(cleaned: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "mine", *ALL_STEPS)
    write(tmp_path / ".cache", {"prepared/abc/train.arrow": "x"})
    before = files(tmp_path)
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert all(each["kept"] for each in items(cleaned).values())
        assert cleaned("checkpoints", "exports", "runs", "cache", "--yes").code == 0
        refused = failed(2, "clean runs/mine: a command is at work there; it is not freed")
        assert cleaned("runs/mine", "--yes") == refused
        assert cleaned("cache/prepared", "--yes").code == 2
    assert files(tmp_path) == before


def test_a_run_that_another_one_continues_says_so(cleaned: Cli, tmp_path: Path) -> None:
    first = make_run(tmp_path / "runs" / "first", *ALL_STEPS)
    make_run(tmp_path / "runs" / "second", "plan", adapter=first / "stages" / "form" / "adapter")
    assert items(cleaned)["runs/first"]["kept"] == "runs/second continues its adapter"


def test_models_of_the_hub_are_freed_by_its_own_client(cleaned: Cli, tmp_path: Path) -> None:
    make_hub(tmp_path / "hub", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B", "someone/else")
    write(tmp_path / "hub", {"models--Qwen--Qwen3-1.7B/blobs/x.incomplete": "half"})
    make_run(tmp_path / "runs" / "mine", "plan", base="Qwen/Qwen3-1.7B")
    listed = items(cleaned, "hub")
    assert listed["Qwen/Qwen3-1.7B"]["kept"] == "runs/mine is not finished, and needs it"
    assert "other programs" in listed["someone/else"]["kept"]
    assert listed["hub/unfinished"]["kept"] == "one of them may be going on"
    assert cleaned("hub", "--yes").code == 0
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == [
        "models--Qwen--Qwen3-1.7B",
        "models--someone--else",
    ]
    assert cleaned("someone/else", "--yes").code == 0
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == ["models--Qwen--Qwen3-1.7B"]


def test_of_two_models_with_one_revision_the_one_that_is_meant_is_freed(cleaned: Cli, tmp_path: Path) -> None:
    names = [f"someone/{letter}" for letter in "abcd"]
    make_hub(tmp_path / "hub", *names, revision="0" * 40)
    for name in names[1:]:
        assert cleaned(name, "--yes").code == 0
    assert [path.name for path in (tmp_path / "hub").iterdir()] == ["models--someone--a"]


def test_what_the_hubs_client_would_remove_elsewhere_is_left_alone(
    cleaned: Cli, tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_hub(tmp_path / "hub", "Qwen/Qwen3-0.6B")
    strategy = DeleteCacheStrategy(0, frozenset({outside / "precious.txt"}), frozenset(), frozenset(), frozenset())
    monkeypatch.setattr(HFCacheInfo, "delete_revisions", lambda *_: strategy)
    outcome = cleaned("hub", "--yes")
    assert (outcome.code, "it is left alone" in outcome.stderr) == (2, True)
    assert (outside / "precious.txt").is_file()


def test_what_the_set_up_compiled_and_what_is_left_of_one_that_was_broken_off(cleaned: Cli, tmp_path: Path) -> None:
    cache = tmp_path / ".cache" / "wheels"
    write(cache, {"0123abcd/llama.whl": "w" * 300, "tmpold/log": "o" * 200, "tmpnew/log": "n" * 100})
    shown = items(cleaned)
    assert {name: (shown[name]["group"], shown[name]["bytes"]) for name in shown} == {
        "cache/wheels": ("cache", 300),
        "cache/wheels/tmp": ("cache", 300),
    }
    assert shown["cache/wheels/tmp"]["kept"] == "a set-up may be compiling there"
    for name in ("tmpold", "tmpnew"):
        os.utime(cache / name, (1000, 1000))
    assert items(cleaned)["cache/wheels/tmp"]["kept"] is None
    assert cleaned("cache/wheels/tmp", "--yes").code == 0
    assert files(cache) == ["0123abcd/llama.whl"]
    assert cleaned("cache", "--yes").code == 0
    assert files(cache) == []


@pytest.mark.parametrize("word", ["runs/demo", "./demo", "a/b/demo"])
def test_a_run_that_is_not_there_is_told_with_where_was_looked(cleaned: Cli, word: str) -> None:
    where = "no such path; runs are looked for in runs/ (--runs FOLDER)"
    assert cleaned(word, "--yes") == failed(2, f"clean {word}: {where}")
    assert "looked for in runs/, more/ (--runs" in cleaned(word, "--runs", "runs", "--runs", "more").stderr
    assert "Qwen/none: is not in the table" in cleaned("Qwen/none").stderr


def test_the_kits_own_cache_and_nothing_else_that_lies_there(cleaned: Cli, tmp_path: Path) -> None:
    theirs = {
        "prepared/a/train.arrow": "x",
        "models/m/config.json": "x",
        "verdicts.sqlite3": "x",
        "verdicts.sqlite3-wal": "x",
    }
    write(tmp_path / ".cache", theirs | {"mine/precious.txt": "x"})
    assert cleaned("cache", "--yes").code == 0
    assert files(tmp_path / ".cache") == ["mine/precious.txt"]


def test_the_model_that_testgen_uses_stays(cleaned: Cli, tmp_path: Path) -> None:
    data = write(tmp_path / "data", {f"models/{number}/model.gguf": "x" * 100 for number in range(4)})
    write(data, {"models/.9.tmp/model.gguf": "x", "answers.jsonl": "{}", "work/run/events.jsonl": "x"})
    write_in_use(data, InUse(3, (1,), (0, 1, 3)))
    listed = items(cleaned)
    assert listed["improve/3"]["kept"] == "testgen --model improved uses it"
    assert listed["improve/1"]["kept"] == "improve --rollback goes back to it"
    assert cleaned("improve", "--yes").code == 0
    assert sorted(path.name for path in (data / "models").iterdir()) == ["1", "3"]
    assert (data / "answers.jsonl").is_file() and not (data / "work").exists()
    refused = failed(2, "clean improve/3: testgen --model improved uses it; it is not freed")
    assert cleaned("improve/3", "--yes") == refused
    assert cleaned("improve/1", "--yes").code == 0
    write(data, {"work/attempt.json": "{}"})
    assert "an attempt is under way" in items(cleaned)["improve/work"]["kept"]


# --- it asks


def test_without_a_terminal_and_yes_nothing_is_freed(cleaned: Cli, tmp_path: Path) -> None:
    write(tmp_path / ".cache", {"prepared/a/train.arrow": "x"})
    for arguments in (("cache",), ("cache", "--dry-run", "--yes"), ("cache", "--json")):
        assert cleaned(*arguments).code == 0
        assert files(tmp_path / ".cache") == ["prepared/a/train.arrow"]
    assert cleaned("cache").stdout.splitlines()[-1] == "nothing was freed; to free it: --yes"
    freed = json.loads(cleaned("cache", "--json", "--yes").stdout)
    assert (freed["bytes"], freed["freed_bytes"]) == (1, 1)
    assert files(tmp_path / ".cache") == []


def test_on_a_terminal_it_asks(cleaned: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    write(tmp_path / ".cache", {"prepared/a/train.arrow": "x"})
    for answer, left in (("n", ["prepared/a/train.arrow"]), ("y", [])):
        monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
        monkeypatch.setattr(sys, "stderr", Terminal())
        assert cleaned("cache").code == 0
        assert files(tmp_path / ".cache") == left


# --- it cannot remove what it did not list


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What must never be touched."""
    return write(tmp_path / "outside", {"precious.txt": "x" * 50, "run.json": "{}", "checkpoint-1/optimizer.pt": "x"})


def test_links_are_neither_listed_nor_followed(cleaned: Cli, tmp_path: Path, outside: Path) -> None:
    run = make_run(tmp_path / "runs" / "mine", *ALL_STEPS)
    shutil.rmtree(run / "stages" / "own" / "checkpoints")
    (run / "stages" / "own" / "checkpoints").symlink_to(outside)
    (run / "stages" / "form" / "checkpoints" / "checkpoint-9").symlink_to(outside)
    (tmp_path / "runs" / "linked").symlink_to(run)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "prepared").symlink_to(outside)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "models--Qwen--Qwen3-0.6B").symlink_to(outside)
    (tmp_path / "data" / "models").mkdir(parents=True)
    (tmp_path / "data" / "models" / "7").symlink_to(outside)
    listed = items(cleaned)
    assert set(listed) == {
        "runs/mine", "runs/mine/stages/form/checkpoints", "runs/mine/export/base-Q8_0.gguf",
        "runs/mine/export/mine-form-Q8_0.gguf", "runs/mine/export/mine-Q8_0.gguf.rejected",
    }  # fmt: skip
    assert listed["runs/mine/stages/form/checkpoints"]["bytes"] == 100, "what a link points to is not counted"
    for name in ("runs/linked", "cache/prepared", "improve/7", str(outside), "runs/mine/stages/own/checkpoints"):
        assert cleaned(name, "--yes").code == 2, name
    assert cleaned("hub", "cache", "checkpoints", "exports", "improve", "runs/mine", "--yes").code == 0
    assert not run.exists()
    assert files(outside) == ["checkpoint-1/optimizer.pt", "precious.txt", "run.json"]


@pytest.mark.parametrize("name", ["/", ".", "..", "runs/..", "runs/mine/export", "runs/mine/../../outside", "hub/x"])
def test_other_paths_are_refused(cleaned: Cli, tmp_path: Path, name: str) -> None:
    make_run(tmp_path / "runs" / "mine", *ALL_STEPS)
    before = files(tmp_path)
    outcome = cleaned(name, "--yes")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "is not in the table" in outcome.stderr
    assert files(tmp_path) == before


@pytest.mark.parametrize("what", ["link", "folder", "parent", "gone"])
def test_what_changed_since_it_was_listed_is_left_alone(tmp_path: Path, outside: Path, what: str) -> None:
    run = make_run(tmp_path / "runs" / "mine", *ALL_STEPS)
    item = found(tmp_path, "stages/form/checkpoints")
    place = run / "stages" / "form"
    if what == "parent":
        place.rename(run / "moved")
        place.symlink_to(write(tmp_path / "elsewhere", {"checkpoints/precious.txt": "x"}))
    else:
        (place / "checkpoints").rename(run / "moved")
    if what == "link":
        (place / "checkpoints").symlink_to(outside)
    if what == "folder":
        write(place, {"checkpoints/new.txt": "x"})
    before = files(tmp_path)
    with pytest.raises(RunDirectoryError, match="it is left alone"):
        free(item, places(tmp_path).home)
    assert files(tmp_path) == before


def test_another_file_system_in_it_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "runs" / "mine", *ALL_STEPS)
    monkeypatch.setattr(lowvram_ft.clean.removing, "devices_of", lambda _: {1, 2})
    with pytest.raises(RunDirectoryError, match="another file system is mounted in it"):
        free(found(tmp_path, "runs/mine"), places(tmp_path).home)
    assert (run / "run.json").is_file()


def test_a_run_that_began_since_it_was_listed_is_left_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "mine", *ALL_STEPS)
    item = found(tmp_path, "runs/mine")
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunDirectoryError, match="another command is at work here"):
            free(item, places(tmp_path).home)
    assert (run / "run.json").is_file()


def test_a_removal_that_is_killed_leaves_no_half_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cleaned: Cli
) -> None:
    run = make_run(tmp_path / "runs" / "mine", *ALL_STEPS)

    def killed(path: Path) -> None:
        (path / "run.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lowvram_ft.clean.removing.shutil, "rmtree", killed)
        assert cleaned("runs/mine", "--yes").code == 130
    assert not run.exists()
    [left] = items(cleaned).values()
    assert left["what"] == "what was left of a run that was being removed"
    assert cleaned("checkpoints", "--yes").code == 0
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_name_that_nothing_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not in the table; take a group"):
        chosen([], ["everything"])


def test_a_link_is_no_item(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "link").symlink_to(outside / "precious.txt")
    (tmp_path / "below").symlink_to(outside)
    names = [
        tmp_path / "link",
        tmp_path / "below",
        tmp_path / "below" / "precious.txt",
        tmp_path,
        outside.parent.parent,
    ]
    assert [listed(path, tmp_path.resolve()) for path in names[:2]] == [None, None]
    assert listed(names[2], (tmp_path / "elsewhere").resolve()) is None, "a path through a link lies where that leads"
    assert [listed(path, tmp_path.resolve()) for path in names[3:]] == [None, None]
    assert listed(outside / "precious.txt", tmp_path.resolve()) == outside.resolve() / "precious.txt"
