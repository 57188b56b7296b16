"""New files in a user's tree: all or none, whenever it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from lowvram_ft.errors import MachineError, UsageError
from lowvram_ft.testgen import placing
from lowvram_ft.testgen.placing import NewFile, place_files, read_before


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def three(tmp_path: Path) -> list[NewFile]:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_old.py").write_text("old\n")
    return [
        NewFile(tmp_path / "tests" / "test_a.py", "a\n", None),
        NewFile(tmp_path / "tests" / "test_old.py", "new\n", "old\n"),
        NewFile(tmp_path / "tests" / "deep" / "er" / "test_c.py", "c\n", None),
    ]


def test_all_are_written_and_nothing_else(tmp_path: Path, three: list[NewFile]):
    place_files(three)
    assert tree(tmp_path) == {
        "tests": None, "tests/test_a.py": b"a\n", "tests/test_old.py": b"new\n", "tests/deep": None,
        "tests/deep/er": None, "tests/deep/er/test_c.py": b"c\n",
    }  # fmt: skip


@pytest.mark.parametrize("change", ["another text", "gone", "there now"])
def test_what_was_changed_meanwhile_stops_all(tmp_path: Path, three: list[NewFile], change: str):
    if change == "another text":
        three[1].path.write_text("mine\n")
    elif change == "gone":
        three[1].path.unlink()
    else:
        three[0].path.write_text("mine\n")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="was changed while tests were written; run the command again"):
        place_files(three)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("moment", "call"),
    [("_rename", 0), *((moment, call) for moment in ("_make_folders", "_write") for call in (0, 1, 2))],
)
def test_interrupted_at_any_moment_the_tree_has_all_or_is_as_it_was(
    tmp_path: Path, three: list[NewFile], monkeypatch: pytest.MonkeyPatch, number: int, moment: str, call: int
):
    before, calls = tree(tmp_path), []
    inner = getattr(placing, moment)

    def interrupted(*values: object) -> None:
        inner(*values)
        calls.append(1)
        if len(calls) == call + 1:
            signal.raise_signal(number)

    class TerminatedError(BaseException):
        pass

    def terminate(*_: object) -> None:
        raise TerminatedError

    monkeypatch.setattr(placing, moment, interrupted)
    old = signal.signal(signal.SIGTERM, terminate)
    try:
        with pytest.raises((KeyboardInterrupt, TerminatedError)):
            place_files(three)
        assert signal.getsignal(signal.SIGTERM) is terminate
    finally:
        signal.signal(signal.SIGTERM, old)
    found = tree(tmp_path)
    if moment == "_rename":
        assert found["tests/test_a.py"] == b"a\n" and found["tests/test_old.py"] == b"new\n"
        assert not [name for name in found if ".tmp-" in name]
    else:
        assert found == before


def test_where_one_cannot_be_renamed_the_others_are_put_back(
    tmp_path: Path, three: list[NewFile], monkeypatch: pytest.MonkeyPatch
):
    before = tree(tmp_path)
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == "test_c.py":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(MachineError, match=r"test_c\.py"):
        place_files(three)
    assert tree(tmp_path) == before


def test_a_file_where_a_folder_is_needed_is_told(tmp_path: Path):
    (tmp_path / "tests").write_text("a file\n")
    with pytest.raises(UsageError, match="is not a folder; give another place with --out"):
        place_files([NewFile(tmp_path / "tests" / "test_a.py", "a\n", None)])
    with pytest.raises(UsageError, match="is not a file; give another place with --out"):
        read_before(tmp_path)
    (tmp_path / "latin").write_bytes(b"\xe9\n")
    with pytest.raises(UsageError, match=r"is not UTF-8 text \(byte 0\)"):
        read_before(tmp_path / "latin")
    assert read_before(tmp_path / "none") is None


def test_rights_and_line_ends_stay(tmp_path: Path):
    path = tmp_path / "test_x.py"
    path.write_bytes(b"old\r\n")
    path.chmod(0o640)
    place_files([NewFile(path, "new\r\n", read_before(path))])
    assert path.read_bytes() == b"new\r\n"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_diff_is_one_that_git_applies(tmp_path: Path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    old = tmp_path / "test_old.py"
    old.write_text("one\ntwo\nthree")
    files = [
        NewFile(old, "one\n2\nthree\nfour\n", "one\ntwo\nthree"),
        NewFile(tmp_path / "tests" / "test_new.py", "new\nwithout an end", None),
    ]
    patch = "".join(file.diff(str(file.path.relative_to(tmp_path))) for file in files)
    command = ["git", "-C", str(tmp_path), "apply", "-"]
    subprocess.run(command, input=patch, text=True, check=True, env={**os.environ, "LC_ALL": "C"})
    assert [file.path.read_text() for file in files] == [file.text for file in files]


def test_one_file_for_two_modules_is_a_defect_that_is_told(tmp_path: Path):
    file = NewFile(tmp_path / "test_a.py", "a\n", None)
    with pytest.raises(ValueError, match="one file for several modules"):
        place_files([file, NewFile(tmp_path / "." / "test_a.py", "b\n", None)])
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_two_renames_waits_until_all_are_placed(
    three: list[NewFile], monkeypatch: pytest.MonkeyPatch, number: int
):
    replace = Path.replace

    class TerminatedError(BaseException):
        pass

    def terminate(*_: object) -> None:
        raise TerminatedError

    def interrupted(self: Path, target: Path) -> Path:
        found = replace(self, target)
        if target.name == "test_a.py":
            signal.raise_signal(number)
        return found

    monkeypatch.setattr(Path, "replace", interrupted)
    old = signal.signal(signal.SIGTERM, terminate)
    try:
        with pytest.raises((KeyboardInterrupt, TerminatedError)):
            place_files(three)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert [file.path.read_text() for file in three] == ["a\n", "new\n", "c\n"]
