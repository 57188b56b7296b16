"""Tasks for a cloud GPU: the smallest card that holds a recipe whole, what is copied there, what is run there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import lowvram_ft
from lowvram_ft.cloud import ACCELERATORS, CloudTask, choose, cloud_task, write_task
from lowvram_ft.cloud import accelerators as accelerators_module
from lowvram_ft.cloud import task as task_module
from lowvram_ft.errors import DataError, MachineError, RecipeError, UsageError
from lowvram_ft.recipe import load, shipped_recipes

GIB = 2**30
KEYS = {"name", "workdir", "resources", "file_mounts", "setup", "run"}
"""Of SkyPilot's task schema, those that are used. `benchmarks/validate_cloud.py` asks SkyPilot itself."""
LARGE = ("model.base=Qwen/Qwen2.5-Coder-7B-Instruct", "quantization.load_in_4bit=false")
RESOURCES = {"accelerators", "memory", "disk_size", "use_spot"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to start from, with the rows that the shipped recipes name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "failure_traces.jsonl").write_text("{}\n")
    return tmp_path


def _task(
    recipe: str, *overrides: str, gpu: str | None = None, spot: bool = False, bucket: str | None = None
) -> CloudTask:
    file = Path("task.yaml")
    return cloud_task(load(recipe, overrides), overrides, gpu=gpu, spot=spot, bucket=bucket, file=file)


def _written(task: CloudTask) -> dict[str, Any]:
    write_task(task, Path("task.yaml"))
    found = yaml.safe_load(Path("task.yaml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("spot", [False, True])
@pytest.mark.parametrize("recipe", [path.stem for path in shipped_recipes()])
def test_every_shipped_recipe_makes_a_task(recipe: str, spot: bool) -> None:
    found = _written(_task(recipe, spot=spot))
    assert found.keys() <= KEYS and found["resources"].keys() <= RESOURCES
    assert found["resources"].get("use_spot", False) is spot
    assert f" run {recipe} --out runs/{recipe}" in found["run"]
    for script in (found["setup"], found["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for place, source in found.get("file_mounts", {}).items():
        assert isinstance(source, dict) if place == "~/lowvram-ft-kept" else Path(source).exists()


def test_the_smallest_card_that_holds_all_of_it_is_chosen() -> None:
    """A larger model, and one that is not quantized, need a larger card; the one before it does not hold them."""
    assert choose(load("stage_a_kodcode")).accelerator.name == "T4"
    found = choose(load("stage_a_kodcode", LARGE))
    assert found.accelerator.name == "L4" and found.stand_ins == ("A10G", "A10") and not found.given_up
    peak = max(plan.fit.plan.peak_gpu_bytes for plan in found.plans.values())
    assert ACCELERATORS[0].vram_bytes < peak < found.accelerator.vram_bytes
    assert all(plan.model.id == "Qwen/Qwen2.5-Coder-7B-Instruct" for plan in found.plans.values())


def test_cards_of_one_size_stand_in_for_each_other() -> None:
    body = _written(_task("stage_a_kodcode", *LARGE))
    assert body["resources"]["accelerators"] == {"L4": 1, "A10G": 1, "A10": 1}


def test_a_card_that_is_wanted_is_taken_with_what_it_costs() -> None:
    small = choose(load("stage_a_kodcode", LARGE), "t4")
    assert small.accelerator.name == "T4" and small.stand_ins == ()
    assert small.given_up
    assert any("given up" in note for note in _task("stage_a_kodcode", *LARGE, gpu="T4").notes)
    assert choose(load("demo"), "H100:4").count == 4


def test_what_fits_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators_module, "ACCELERATORS", ACCELERATORS[:1])
    whole = ["quantization.load_in_4bit=false", "train.max_length=16384", "hardware.allow=[]"]
    with pytest.raises(MachineError, match=r"does not fit on T4 \(15.0 GiB\).*lowvram-ft plan"):
        choose(load("stage_a_kodcode", whole))
    with pytest.raises(MachineError, match="does not fit on T4"):
        choose(load("stage_a_kodcode", whole), "T4")


@pytest.mark.parametrize("gpu", ["RTX3090", "T4:0", "T4:9", "T4:two", "", "T4;rm"])
def test_an_unknown_gpu_is_refused(gpu: str) -> None:
    with pytest.raises(UsageError, match="--gpu: unknown"):
        choose(load("demo"), gpu)


def test_the_command_is_told_of_the_machine_there() -> None:
    """What the recipe says of the laptop would hold the plan down to 4 GiB."""
    command = _task("stage_a_kodcode", "train.max_steps=20").command
    assert "--set train.max_steps=20" in command
    assert "--set hardware.vram_gib=15.00" in command and "--set hardware.ram_gib=" in command
    assert "hardware." not in _task("demo").command  # says nothing of a machine


def test_several_gpus_train_together() -> None:
    task = _task("stage_a_kodcode", gpu="L4:2")
    assert task.body["resources"]["accelerators"] == {"L4": 2}
    assert task.command.startswith(".venv/bin/torchrun --nproc_per_node 2 -m lowvram_ft run stage_a_kodcode")
    assert task.choice.ram_gib == 2 * _task("stage_a_kodcode", gpu="L4").choice.ram_gib
    with pytest.raises(RecipeError, match="3 processes cannot share it evenly"):
        _task("stage_a_kodcode", gpu="L4:3")


def test_files_that_a_recipe_names_are_copied_to_where_it_finds_them(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "data").mkdir()
    elsewhere = folder / "data" / "tasks.jsonl"
    elsewhere.write_text("{}\n")
    (folder / "data" / "rows.jsonl").write_text("{}\n")
    (folder / "mine" / "base.toml").write_text('schema_version = 1\n[data]\nsource = "repository"\n')
    (folder / "mine" / "r.toml").write_text(
        'schema_version = 1\nextends = "base.toml"\n[data]\npath = "data/rows.jsonl"\n'
        f'[eval]\nsuites = ["samples", "jsonl:{elsewhere}"]\n'
    )
    task = _task("mine/r.toml")
    assert task.body["file_mounts"] == {
        str(elsewhere): str(elsewhere),
        "~/lowvram-ft/data/rows.jsonl": str(folder / "data" / "rows.jsonl"),
        "~/lowvram-ft/recipe/base.toml": str(folder / "mine" / "base.toml"),
        "~/lowvram-ft/recipe/r.toml": str(folder / "mine" / "r.toml"),
    }
    assert " run recipe/r.toml --out runs/r" in task.command


def test_a_recipe_that_ships_with_the_kit_is_not_copied() -> None:
    assert "file_mounts" not in _task("stage_a_kodcode").body
    assert list(_task("testing_agent").body["file_mounts"]) == ["~/lowvram-ft/failure_traces.jsonl"]


def test_a_file_that_is_missing_or_lies_above_is_refused(folder: Path) -> None:
    (folder / "failure_traces.jsonl").unlink()
    with pytest.raises(DataError, match=r"failure_traces.jsonl: no such file"):
        _task("stage_c_failure_traces")
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / "below").mkdir()
    os.chdir(folder / "below")
    with pytest.raises(UsageError, match="above the current folder"):
        _task("stage_c_failure_traces", "data.path=../rows.jsonl")


def test_a_bucket_is_named_for_this_user_and_recipe_and_filled_in_order() -> None:
    place = "~/lowvram-ft-kept"
    bucket = _task("demo", spot=True).body["file_mounts"][place]
    assert bucket == _task("demo", spot=True).body["file_mounts"][place]
    assert bucket["name"] != _task("demo", "train.seed=1", spot=True).body["file_mounts"][place]["name"]
    assert bucket["mode"] == "MOUNT_CACHED" and bucket["config"] == {"mount_cached": {"transfers": 1}}
    assert 3 <= len(bucket["name"]) <= 63
    given = _task("demo", spot=True, bucket="gs://mine/runs").body["file_mounts"][place]
    assert given["source"] == "gs://mine/runs" and "name" not in given
    assert _task("demo", spot=True, bucket="mine").body["file_mounts"][place]["name"] == "mine"
    with pytest.raises(UsageError, match="--spot alone"):
        _task("demo", bucket="mine")


def test_a_file_of_somebody_else_is_not_overwritten() -> None:
    task = _task("demo")
    write_task(task, Path("task.yaml"))
    write_task(task, Path("task.yaml"))
    Path("task.yaml").write_text("name: mine\n")
    with pytest.raises(UsageError, match="was not written by this command"):
        write_task(task, Path("task.yaml"))


def test_the_kit_comes_from_the_checkout_or_from_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    body = _task("demo").body
    assert (Path(body["workdir"]) / "pyproject.toml").is_file() and "sky_workdir[cuda,demo]" in body["setup"]
    monkeypatch.setattr(task_module, "_checkout", lambda: None)
    body = _task("demo").body
    assert "workdir" not in body and f"lowvram-ft[cuda,demo]=={lowvram_ft.__version__}" in body["setup"]


def test_the_command_writes_the_file_and_says_what_comes_next(folder: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "lowvram_ft", "cloud", "demo", "--json"], capture_output=True, text=True, check=True
    )
    found = json.loads(run.stdout)
    assert found["file"] == "demo.sky.yaml" and (folder / "demo.sky.yaml").is_file()
    assert yaml.safe_load((folder / "demo.sky.yaml").read_text()) == found["task"]
    assert [step["command"] for step in found["next_steps"]][1].startswith("sky launch -c lowvram-demo")
    assert found["next_steps"][-1]["command"] == "sky down lowvram-demo"


RSYNC = """#!{python}
import os, shutil, sys
from fnmatch import fnmatch
from pathlib import Path
words = sys.argv[1:]
skipped = [words[i + 1] for i, word in enumerate(words) if word == "--exclude"]
source, target = (Path(word) for word in words[-2:])
def left_out(name):
    return any(name == "./" + each[1:] if each[0] == "/" else Path(name).name == each for each in skipped)
def copy(folder, there, name="."):
    there.mkdir(parents=True, exist_ok=True)
    for child in folder.iterdir():
        inner = name + "/" + child.name
        if left_out(inner):
            continue
        if child.is_dir():
            copy(child, there / child.name, inner)
        else:
            shutil.copy2(child, there / child.name)
    if "--delete" in words:
        for child in there.iterdir():
            if not (folder / child.name).exists() and not left_out(name + "/" + child.name):
                shutil.rmtree(child) if child.is_dir() else child.unlink()
copy(source, target)
"""


def _on_a_machine(home: Path, bucket: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a spot task's script in a home of its own; ``rsync`` is a copy of files with its options."""
    (home / "bin").mkdir(parents=True)
    (home / "lowvram-ft").mkdir()
    (home / "lowvram-ft-kept").symlink_to(bucket)
    rsync = home / "bin" / "rsync"
    rsync.write_text(RSYNC.replace("{python}", sys.executable))
    rsync.chmod(0o755)
    script = task_module._run(command, "runs/x", spot=True)
    return subprocess.run(
        ["bash", "-c", script],
        env={"HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_run_goes_on_on_the_next_machine(tmp_path: Path) -> None:
    """The first machine ends with a step done and a checkpoint; the second finds both, and leaves the newest."""
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    first = _on_a_machine(
        tmp_path / "first",
        bucket,
        "a=runs/x/stages/a/checkpoints; mkdir -p $a/checkpoint-1 $a/.saving; touch runs/x/.lock $a/.saving/x;"
        " echo 1 > runs/x/run.json; echo w > $a/checkpoint-1/w; exit 7",
    )
    assert first.returncode == 7, first.stderr
    kept = {str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file()}
    assert kept == {"runs/x/run.json", "runs/x/stages/a/checkpoints/checkpoint-1/w"}
    second = _on_a_machine(
        tmp_path / "second",
        bucket,
        "cat runs/x/run.json runs/x/stages/a/checkpoints/checkpoint-1/w; echo 22 > runs/x/run.json;"
        " mv runs/x/stages/a/checkpoints/checkpoint-1 runs/x/stages/a/checkpoints/checkpoint-2",
    )
    assert second.returncode == 0 and second.stdout == "1\nw\n", second.stderr
    assert (bucket / "runs/x/run.json").read_text() == "22\n"
    assert [path.name for path in (bucket / "runs/x/stages/a/checkpoints").iterdir()] == ["checkpoint-2"]
