"""Rows in processes of their own; rows that are out to do harm: counted, contained, and never fatal unless asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.data import candidates
from lowvram_ft.data.prepare import prepare
from lowvram_ft.data.prepared import Prepared
from lowvram_ft.data.verify_recipe import verifier
from lowvram_ft.errors import DataError
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import from_folder

CODE = '''def {name}(values):
    """Sum of the values above {n}, doubled."""
    total = 0
    for value in values:
        if value > {n}:
            total += 2 * value
    return total
'''
TEST = """def test_{name}():
    assert {name}([{n}, {n} + 1]) == 2 * ({n} + 1)
    assert {name}([]) == 0
"""


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A row in KodCode's shape; its constant makes it differ from the others."""
    name = f"total_above_{number}"
    return {
        "question_id": f"q{number}",
        "solution": CODE.format(name=name, n=number),
        "test": TEST.format(name=name, n=number),
        "r1_correctness": "True",
        **changes,
    }


def files_of(prepared: Prepared) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in prepared.folder.iterdir()}


def test_several_processes_give_the_same_bytes_as_one(tmp_path: Path, tiny_llama: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row(number % 700, question_id=f"q{number}")) for number in range(candidates.FEW + 200)]
    lines[5], lines[900] = '{"cut', json.dumps(row(900, r1_correctness="False"))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    section = DataSection(source="kodcode", path=str(path), eval_share=0.1, test_share=0.1, max_rows=500)
    chat = from_folder(tiny_llama)
    alone = files_of(prepare(section, chat, 2048, tmp_path / "a", workers=1))
    assert files_of(prepare(section, chat, 2048, tmp_path / "b", workers=2)) == alone
    facts = json.loads(alone["prepared.json"])
    assert (facts["train"] + facts["eval"] + facts["test"], facts["funnel"]["read"]) == (500, candidates.FEW + 200)
    assert facts["dropped"]["exact duplicate"] > 400


def test_a_wrong_column_in_a_process_ends_with_its_line(tmp_path: Path, tiny_llama: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row(number)) for number in range(candidates.FEW + 200)]
    lines[1100] = json.dumps({"code": "x"})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    section = DataSection(source="kodcode", path=str(path))
    with pytest.raises(DataError, match=r"rows\.jsonl:1101: no column solution \(columns: code\)"):
        prepare(section, from_folder(tiny_llama), 2048, tmp_path / "a", workers=2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


HARM = {
    "loops for ever": "def test_it():\n    while not total_above_{n}([]):\n        pass\n    assert total_above_{n}",
    "forks": "def test_it():\n    for _ in range(200):\n        os.fork()\n    assert total_above_{n}([]) == 0\n",
    "eats memory": "def test_it():\n    assert total_above_{n}(bytes(1 << 20) for _ in [bytes(10 << 30)]) == 0\n",
    "ends the process": "def test_it():\n    assert total_above_{n}([]) == 0\n    os._exit(0)\n",
    "writes outside": "def test_it():\n    total_above_{n}([])\n    assert open('{canary}', 'w').write('x')\n",
}
"""Tests that a static look does not find fault with, or may not."""


def test_rows_that_do_harm_are_contained_and_counted(tmp_path: Path, tiny_llama: Path) -> None:
    canary = tmp_path / "canary"
    lines = [json.dumps(row(number)).encode() for number in range(4)]
    harm = {n: "import os\n" + test.format(n=n, canary=canary) for n, test in enumerate(HARM.values(), 100)}
    lines += [json.dumps(row(n, test=test)).encode() for n, test in harm.items()]
    lines += [
        b'{"question_id": "\xff\xfe"}',
        json.dumps(row(200, solution=CODE.format(name="total_above_200", n=200) + "# x\n" * 1_300_000)).encode(),
        json.dumps(row(201, test=None)).encode(),
        json.dumps(row(202, solution="(" * 5000 + ")" * 5000)).encode(),
        json.dumps(row(203, solution="x = '\0'")).encode(),
        json.dumps(row(204, test=f"def test_it():\n    assert '{chr(0xD800)}'\n")).encode(),
        json.dumps(row(205))[:-40].encode(),
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    section = DataSection(source="kodcode", path=str(path), verify=True, filters=("assertions",))
    verify = verifier(section, Progress(quiet=True))
    prepared = prepare(section, from_folder(tiny_llama), 4096, tmp_path / "set", verify=verify)
    kept = [example.row.id for side in (prepared.train, prepared.eval) for example in side]
    assert sorted(kept) == ["q0", "q1", "q2", "q3"]
    assert not canary.exists()
    noted = [json.loads(line) for line in (prepared.folder / "dropped.jsonl").read_text().splitlines()]
    reasons = {one["where"].rpartition(":")[2] or one["id"]: one["reason"] for one in noted}
    assert {reasons[f"q{n}"] for n in harm} == {"its test fails"}
    assert [reasons[str(number)] for number in range(10, 17)] == [
        "broken line: not UTF-8",
        "solution has more than 400,000 characters",
        "no text in test",
        "does not parse",
        "does not parse",
        "test is no valid Unicode",
        "broken line: not JSON",
    ]
    fatal = section.model_copy(update={"broken_lines": "fatal"})
    with pytest.raises(DataError, match=r"2 broken lines: line 10 \(not UTF-8\), line 16 \(not JSON"):
        prepare(fatal, from_folder(tiny_llama), 4096, tmp_path / "other", verify=verify)
