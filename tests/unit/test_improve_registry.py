"""Generations: whole or not there, switched by one rename, and gone back to bit for bit."""

import hashlib
import io
import os
import shutil
import signal
from pathlib import Path

import pytest

from lowvram_ft.errors import ModelError, UsageError
from lowvram_ft.improve import registry
from lowvram_ft.improve.attempt import next_number
from lowvram_ft.improve.home import Home
from lowvram_ft.inference.in_use import read_in_use
from lowvram_ft.inference.opening import choose_model
from tests.improve_home import begin, model_files

FACTS = {"parent": 0, "base": "b", "recipe": {}, "repositories": {}, "trained": [], "time": "t"}


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "data", tmp_path / "cache")
    begin(home)
    return home


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def adopt(home, number, tmp_path):
    model = model_files(tmp_path / f"new-{number}", f"model {number}")
    registry.place(home, number, model.adapter, model.gguf, FACTS)
    registry.adopt(home, number)


def test_going_back_restores_every_byte_also_after_two_adoptions(home, tmp_path):
    before = {0: contents(home.models / "0")}
    for number in (1, 2):
        adopt(home, number, tmp_path)
        before[number] = contents(home.models / str(number))
        assert registry.in_use(home).number == number
    for number in (1, 0):
        assert registry.rollback(home).number == number
        assert contents(registry.in_use(home).folder) == before[number]
        assert registry.in_use(home).gguf.read_text() == f"gguf of model {number}"
    with pytest.raises(UsageError, match="no model before"):
        registry.rollback(home)


def test_a_model_that_was_gone_back_from_is_not_put_into_use_again(home, tmp_path):
    adopt(home, 1, tmp_path)
    registry.rollback(home)
    registry.adopt(home, 1)
    assert registry.in_use(home).number == 0
    assert next_number(home) == 2


@pytest.mark.parametrize("file", ["model.gguf", "adapter/adapter_model.safetensors", "adapter/more.bin"])
def test_a_model_that_was_changed_is_not_gone_back_to(home, tmp_path, file):
    adopt(home, 1, tmp_path)
    (home.models / "0" / file).write_text("something else")
    with pytest.raises(ModelError, match=f"was changed since it was made \\({file}\\)"):
        registry.rollback(home)
    assert registry.in_use(home).number == 1


def test_improved_names_the_model_in_use(home, tmp_path, monkeypatch):
    monkeypatch.setenv("LOWVRAM_FT_DATA", str(home.root))
    assert choose_model("improved").text == str(home.models / "0" / "model.gguf")
    adopt(home, 1, tmp_path)
    choice = choose_model("improved")
    assert (choice.kind, choice.text, choice.short) == ("gguf", str(home.models / "1" / "model.gguf"), "improved")
    monkeypatch.setenv("LOWVRAM_FT_DATA", str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match=r"begin with one that was trained: lowvram-ft improve --from RUN"):
        choose_model("improved")


CALLS = [(os, name) for name in ("mkdir", "rename", "replace", "fsync", "open", "unlink", "rmdir")] + [(io, "open")]


def counted(real, tick):
    """A call that ticks before and after: a file that is opened to be written is empty in between."""

    def run(*arguments, **named):
        tick()
        found = real(*arguments, **named)
        tick()
        return found

    return run


def killed_at(call: int, action) -> bool:
    """Do something in a process that is killed before or after one of its calls that change files; whether it was."""
    process = os.fork()
    if process:
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert status in (0, -signal.SIGKILL), status
        return status != 0
    left = call

    def tick():
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    try:
        for module, name in CALLS:
            setattr(module, name, counted(getattr(module, name), tick))
        action()
        os._exit(0)
    finally:
        os._exit(9)


def test_killed_at_any_step_of_adopting_and_going_back_a_whole_model_is_in_use_and_the_next_call_ends_it(tmp_path):
    folder = tmp_path / "start"
    home = Home(folder / "data", folder / "cache")
    begin(home)
    before = contents(home.models / "0")
    model = model_files(tmp_path / "new", "model 1")

    def adopting(home):
        registry.sweep(home)
        registry.place(home, 1, model.adapter, model.gguf, FACTS)
        registry.adopt(home, 1)

    call, seen, killed = 0, set(), True
    while killed:
        shutil.rmtree(tmp_path / "now", ignore_errors=True)
        shutil.copytree(folder, tmp_path / "now")
        now = Home(tmp_path / "now" / "data", tmp_path / "now" / "cache")
        killed = killed_at(call, lambda now=now: adopting(now))
        used = registry.in_use(now)
        registry.require_whole(used)
        seen.add(used.number)
        adopting(now)
        assert registry.in_use(now).number == 1
        assert read_in_use(now.root).history == (0,)
        # and back, killed at the same step
        killed_at(call, lambda now=now: registry.rollback(now))
        registry.require_whole(registry.in_use(now))
        if registry.in_use(now).number == 1:
            registry.rollback(now)
        assert contents(registry.in_use(now).folder) == before
        assert not list(now.root.rglob("*.tmp"))
        call += 1
    assert seen == {0, 1} and call > 15
