"""Checkpoints are whole or not there, and a damaged one is passed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lowvram_ft.training.recovery.checkpoints import (
    STAGING,
    Position,
    checkpoints_in,
    damaged_checkpoints,
    is_whole,
    newest_checkpoint,
    prune,
    publish,
    read_position,
    seal,
    write_position,
)


def _write(folder: Path, step: int, text: str = "weights") -> Path:
    staged = folder / STAGING / f"checkpoint-{step}"
    staged.mkdir(parents=True)
    (staged / "adapter_model.safetensors").write_text(text * 100)
    (staged / "empty").write_text("")
    write_position(staged, Position(tokens=step))
    seal(staged)
    return publish(staged, folder)


def test_a_checkpoint_is_whole_once_it_has_its_name(tmp_path: Path) -> None:
    path = _write(tmp_path, 5)
    assert path == tmp_path / "checkpoint-5" == newest_checkpoint(tmp_path)
    assert read_position(path) == Position(tokens=5)


def test_what_lies_aside_is_no_checkpoint(tmp_path: Path) -> None:
    _write(tmp_path / "other", 5).rename(tmp_path / STAGING)
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "missing") is None


def _truncate(path: Path) -> None:
    weights = path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def _flip_a_bit(path: Path) -> None:
    weights = path / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(bytes(content))


def _remove_a_file(path: Path) -> None:
    (path / "empty").unlink()


def _grow_an_empty_file(path: Path) -> None:
    (path / "empty").write_text("0")


def _truncate_the_checksums(path: Path) -> None:
    sums = path / "checksums.json"
    sums.write_text(sums.read_text()[:-20])


def _remove_the_checksums(path: Path) -> None:
    (path / "checksums.json").unlink()


def _empty_the_checksums(path: Path) -> None:
    (path / "checksums.json").write_text("{}")


def _replace_the_checksums(path: Path) -> None:
    (path / "checksums.json").write_text('["adapter_model.safetensors"]')


def _replace_a_file_by_a_folder(path: Path) -> None:
    (path / "empty").unlink()
    (path / "empty").mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip_a_bit,
        _remove_a_file,
        _grow_an_empty_file,
        _truncate_the_checksums,
        _remove_the_checksums,
        _empty_the_checksums,
        _replace_the_checksums,
        _replace_a_file_by_a_folder,
    ],
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    older, newer = _write(tmp_path, 5), _write(tmp_path, 10)
    assert is_whole(newer)
    damage(newer)
    assert not is_whole(newer)
    assert newest_checkpoint(tmp_path) == older
    assert damaged_checkpoints(tmp_path) == [newer]


def test_all_are_damaged(tmp_path: Path) -> None:
    paths = [_write(tmp_path, step) for step in (5, 10)]
    for path in paths:
        _flip_a_bit(path)
    assert newest_checkpoint(tmp_path) is None
    assert damaged_checkpoints(tmp_path) == paths[::-1]


def test_newest_is_by_number_and_not_by_name(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        _write(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-1000").write_text("no folder")
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-100", "checkpoint-10", "checkpoint-9"]


def test_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    _write(tmp_path, 5, "damaged")
    path = _write(tmp_path, 5, "whole")
    assert is_whole(path)
    assert "whole" in (path / "adapter_model.safetensors").read_text()
    assert [child.name for child in tmp_path.iterdir() if child.name != STAGING] == ["checkpoint-5"]


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        _write(tmp_path, step)
    prune(tmp_path)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-15", "checkpoint-10"]
