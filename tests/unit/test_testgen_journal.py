from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lowvram_ft.testgen.journal import KEPT_S, Journal


def test_what_is_put_is_got_and_other_questions_have_no_answer(tmp_path: Path):
    journal = Journal(tmp_path / "new")
    key = journal.key({"code": "a", "names": ["f"]})
    assert journal.get(key) is None
    journal.put(key, {"text": "x\ud800"})
    assert journal.get(key) == {"text": "x\ud800"}
    assert journal.key({"names": ["f"], "code": "a"}) == key
    assert journal.key({"code": "a", "names": ["g"]}) != key


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_broken_result_is_none(tmp_path: Path, content: bytes):
    journal = Journal(tmp_path)
    (tmp_path / "k.json").write_bytes(content)
    assert journal.get("k") is None


def test_old_results_go_and_young_ones_stay(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.put("old", {})
    journal.put("young", {})
    os.utime(tmp_path / "old.json", (time.time() - KEPT_S - 60,) * 2)
    journal.put("new", {})
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["new", "young"]
