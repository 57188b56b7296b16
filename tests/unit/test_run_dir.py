"""The run directory: atomic writes, what a kill leaves behind, and whose run it is."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.errors import MachineError, RunDirectoryError
from lowvram_ft.run_dir import RunDir, append_jsonl, read_json, read_jsonl, write_json, write_text

START = {"recipe": {"name": "r"}, "digest": "d1", "versions": {"python": "3"}, "command": "run", "machine": {"cpus": 2}}


def start(path: Path, **changes) -> RunDir:
    run = RunDir(path)
    run.start(**(START | changes))
    return run


def test_a_file_is_written_with_the_folders_above_it(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "ü\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "ü\n".encode()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, broken):
    path = tmp_path / "run.json"
    write_text(path, "old")

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    if broken == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(MachineError, match=r"run\.json: cannot be written \(no space left .*\); free some") as caught:
        write_text(path, "new")
    assert caught.value.exit_code == 3
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="cannot be written"):
        append_jsonl(tmp_path / "events.jsonl", {"a": 1})


def test_a_folder_that_cannot_be_made_is_told_as_such(tmp_path):
    (tmp_path / "file").write_text("")
    for action in (lambda p: write_text(p, ""), lambda p: append_jsonl(p, {})):
        with pytest.raises(MachineError, match=r"cannot be written .*check the path"):
            action(tmp_path / "file" / "x.json")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES)
def test_any_json_comes_back_even_halves_of_surrogate_pairs(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "x.json"
    write_json(path, value)
    assert read_json(path) == value
    append_jsonl(path.with_suffix(".jsonl"), {"value": value})
    assert list(read_jsonl(path.with_suffix(".jsonl"))) == [{"value": value}]


def test_json_is_readable_for_people(tmp_path):
    write_json(tmp_path / "x.json", {"b": "é", "a": [1]})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "b": "é",\n  "a": [\n    1\n  ]\n}\n'


def test_a_missing_or_broken_json_says_what_to_do(tmp_path):
    with pytest.raises(RunDirectoryError, match="no such file; is this a run directory"):
        read_json(tmp_path / "run.json")
    for content in (b"{", b"\xff"):
        (tmp_path / "run.json").write_bytes(content)
        with pytest.raises(RunDirectoryError, match=r"is not valid JSON .*delete it"):
            read_json(tmp_path / "run.json")


@pytest.mark.parametrize("cut", range(1, len('{"key": "é"}\n'.encode()) + 1))
def test_a_record_that_a_kill_cut_off_anywhere_is_lost_alone(tmp_path, cut):
    """The file is read as if the record had never been begun, and the next one is not lost with it."""
    path = tmp_path / "samples.jsonl"
    append_jsonl(path, {"key": "one"}, {"key": "two"})
    whole = path.read_bytes()
    path.write_bytes(whole + '{"key": "é"}\n'.encode()[:-cut])
    assert [record["key"] for record in read_jsonl(path)] == ["one", "two"]
    append_jsonl(path, {"key": "three"})
    assert [record["key"] for record in read_jsonl(path)] == ["one", "two", "three"]
    assert path.read_bytes() == whole + b'{"key": "three"}\n'


def test_a_long_record_that_was_cut_off_is_taken_out_too(tmp_path):
    path = tmp_path / "samples.jsonl"
    for before in (b"", b'{"a": 1}\n'):
        path.write_bytes(before + b"x" * 50_000)
        append_jsonl(path, {"b": 2})
        assert path.read_bytes() == before + b'{"b": 2}\n'


def test_whole_records_are_never_taken_out(tmp_path):
    path = tmp_path / "events.jsonl"
    for number in range(50):
        append_jsonl(path, {"n": number, "text": "x" * 1000})
    assert [record["n"] for record in read_jsonl(path)] == list(range(50))


def test_a_jsonl_that_is_not_there_holds_nothing(tmp_path):
    assert list(read_jsonl(tmp_path / "gone.jsonl")) == []


def test_a_run_is_begun_and_taken_up_again(tmp_path):
    run = start(tmp_path / "run")
    assert run.finished("plan") is None
    run.finish("plan", {"base": "x"})
    again = start(tmp_path / "run")
    assert again.finished("plan") == {"base": "x"}
    assert again.data["recipe"] == {"name": "r"}
    assert [e["event"] for e in read_jsonl(run.events)] == ["started", "finished", "resumed"]
    assert [e.get("step") for e in read_jsonl(run.events)] == [None, "plan", None]


def test_a_run_of_other_settings_is_not_touched(tmp_path):
    run = start(tmp_path)
    run.finish("train:a", {})
    before = run.run_json.read_bytes()
    with pytest.raises(RunDirectoryError, match=r"other settings \(d1, this is d2\); use another --out, or delete it"):
        start(tmp_path, digest="d2")
    assert run.run_json.read_bytes() == before


def test_a_run_that_trained_nothing_is_begun_anew_without_the_others_samples(tmp_path):
    run = start(tmp_path)
    run.finish("plan", {})
    append_jsonl(run.samples, {"key": "eval:before/s/1/0"})
    again = start(tmp_path, digest="d2")
    assert (again.data["digest"], again.data["steps"]) == ("d2", {})
    assert list(read_jsonl(again.samples)) == []


def test_the_same_run_keeps_its_samples(tmp_path):
    append_jsonl(start(tmp_path).samples, {"key": "k"})
    assert list(read_jsonl(start(tmp_path).samples)) == [{"key": "k"}]


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunDirectoryError, match="is not empty and holds no run; use another --out"):
        start(tmp_path)
    with pytest.raises(RunDirectoryError, match="is not empty"), RunDir(tmp_path).lock():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": 99}', "schema 99 instead of 1"),
        ("[]", "is not a run; use another --out"),
        ("{", "not valid JSON"),
    ],
)
def test_a_run_of_another_version_or_a_damaged_one_is_refused(tmp_path, content, message):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunDirectoryError, match=message):
        start(tmp_path)


def test_a_second_command_in_the_same_directory_is_kept_out(tmp_path):
    """Another process asks, because a lock belongs to a process's open file."""
    ask = (
        "import sys; from pathlib import Path; from lowvram_ft.run_dir import RunDir\n"
        "with RunDir(Path(sys.argv[1])).lock(): print('in')"
    )

    def other() -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", ask, str(tmp_path)], capture_output=True, text=True, check=False)

    with RunDir(tmp_path).lock():
        refused = other()
    assert "another command is at work here; wait for it" in refused.stderr
    assert "in" not in refused.stdout
    assert other().stdout == "in\n"


def test_run_json_holds_what_was_run(tmp_path):
    data = json.loads(start(tmp_path).run_json.read_text())
    assert data.pop("started").startswith("20")
    assert data == {"schema_version": 1, "steps": {}, **START}
