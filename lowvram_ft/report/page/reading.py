"""What a run directory holds, read once: ``run.json``, ``events.jsonl``, ``samples.jsonl``."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowvram_ft.errors import RunDirectoryError
from lowvram_ft.run_dir import RunDir, read_jsonl

BEFORE, AFTER = "eval:before", "eval:after"


@dataclass(frozen=True)
class Run:
    """A run, as far as it has come.

    Attributes:
        label: what it is called on the page; of several, no two are called the same.
        path: its folder.
        data: ``run.json``.
        events: ``events.jsonl``, by kind, in their order.
        samples: ``samples.jsonl``, by step of the evaluation and then by suite, task and number of the sample; of
            records with one key the last counts.
    """

    label: str
    path: Path
    data: Mapping[str, Any]
    events: Mapping[str, list[dict[str, Any]]]
    samples: Mapping[str, dict[tuple[str, str, int], dict[str, Any]]]

    @property
    def steps(self) -> Mapping[str, Any]:
        """The finished steps."""
        found: Mapping[str, Any] = self.data["steps"]
        return found

    @property
    def stages(self) -> list[str]:
        """Names of the stages that the recipe has."""
        return [stage["name"] for stage in self.data["recipe"].get("stages", [])]

    @property
    def evaluations(self) -> dict[str, str]:
        """Step of each evaluation that has begun to what it is called, in the order in which they are compared."""
        between = [f"eval:{name}" for name in self.stages]
        known = {BEFORE: "before", **{step: step.removeprefix("eval:") for step in between}, AFTER: "after"}
        return {step: name for step, name in known.items() if step in self.samples or step in self.steps}


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read run directories.

    Args:
        paths: the folders.

    Raises:
        RunDirectoryError: one is no run directory, or damaged.
    """
    names = [str(RunDir(path).data["recipe"].get("name", "")) for path in paths]
    return [_read(path, label) for path, label in zip(paths, _labels(paths, names), strict=True)]


def _read(path: Path, label: str) -> Run:
    run = RunDir(path)
    data = run.data
    events: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in _objects(run.events):
        events[str(event.get("event"))].append(event)
    samples: dict[str, dict[tuple[str, str, int], dict[str, Any]]] = defaultdict(dict)
    for record in _objects(run.samples):
        try:
            key = str(record["suite"]), str(record["task"]), int(record["sample"])
        except (KeyError, TypeError, ValueError) as error:
            said = json.dumps(record)[:80]
            raise RunDirectoryError(f"{run.samples}: a line is not a sample ({said}); take that line out") from error
        samples[str(record.get("step"))][key] = record
    return Run(label, path, data, dict(events), dict(samples))


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    return (line for line in read_jsonl(path) if isinstance(line, dict))


def _labels(paths: Sequence[Path], names: Sequence[str]) -> list[str]:
    """What to call runs: by their recipes; those of one recipe by their folders, or else with a number."""
    found = []
    for number, (path, name) in enumerate(zip(paths, names, strict=True), 1):
        folders = [other.resolve().name for other, its in zip(paths, names, strict=True) if its == name]
        folder = path.resolve().name
        if len(folders) > 1:
            found.append(folder if folders.count(folder) == 1 and folder not in names else f"{name} ({number})")
        else:
            found.append(name)
    return found
