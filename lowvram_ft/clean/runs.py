"""Run directories: checkpoints that nothing needs, files between, and runs as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowvram_ft.clean.items import CLEANING, Item, item
from lowvram_ft.errors import RunDirectoryError
from lowvram_ft.run_dir import RunDir

LAST_STEP = "gates"
"""Of a run; a run by hand (``train``) has none, and counts as finished where every stage is."""
AT_WORK = "a command is at work there"


@dataclass(frozen=True)
class FoundRun:
    """A run directory.

    Attributes:
        path: the folder.
        name: as it is shown.
        data: its ``run.json``.
        locked: whether a command is at work in it.
    """

    path: Path
    name: str
    data: dict[str, Any]
    locked: bool

    @property
    def stages(self) -> list[str]:
        """Names of its stages."""
        return [str(stage["name"]) for stage in self.data["recipe"]["stages"]]

    def trained(self, stage: str) -> bool:
        """Whether a stage's training has finished."""
        return f"train:{stage}" in self.data["steps"]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return LAST_STEP in self.data["steps"]

    @property
    def bases(self) -> set[str]:
        """The base models that it trains."""
        planned = self.data["steps"].get("plan", {}).get("base")
        return (
            {planned} if planned else {str(stage["recipe"]["model"]["base"]) for stage in self.data["recipe"]["stages"]}
        )

    @property
    def adapters(self) -> list[Path]:
        """Adapters of elsewhere that it continues."""
        found = [stage["recipe"]["model"].get("adapter") for stage in self.data["recipe"]["stages"]]
        return [Path(path).resolve() for path in found if path]


def find_runs(folders: Sequence[Path]) -> list[FoundRun]:
    """Every run in some folders, and those that are runs themselves; a link is no run.

    Args:
        folders: of runs, or run directories.
    """
    found: dict[Path, FoundRun] = {}
    for folder in folders:
        own = [folder] if (folder / "run.json").is_file() else sorted(folder.glob("*/")) if folder.is_dir() else []
        for path in own:
            if path.is_symlink() or not (path / "run.json").is_file() or CLEANING in path.name:
                continue
            try:
                data = RunDir(path).data
            except RunDirectoryError:
                continue  # of another version, or damaged: nobody here can say what it is worth
            found.setdefault(path.resolve(), FoundRun(path, str(path), data, is_locked(path)))
    return list(found.values())


def is_locked(run: Path) -> bool:
    """Whether a command is at work in a run directory; asking makes no file there."""
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks of this kind
        return False
    try:
        with (run / ".lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def run_items(runs: Sequence[FoundRun], folders: Sequence[Path]) -> Iterator[Item]:
    """What lies in the runs, and what a kill left of one that was being removed."""
    for run in runs:
        found = [*_checkpoints(run), *_exports(run), _whole(run, runs)]
        yield from (each for each in found if each is not None)
    for folder in folders:
        for left in sorted(folder.glob(f".*{CLEANING}*")) if folder.is_dir() else ():
            rest = item("checkpoints", str(left), "what was left of a run that was being removed", [left], folder)
            if rest is not None:
                yield rest


def _checkpoints(run: FoundRun) -> Iterator[Item | None]:
    for stage in run.stages:
        folder = run.path / "stages" / stage / "checkpoints"
        name = f"{run.name}/stages/{stage}/checkpoints"
        if run.trained(stage) or run.locked:
            kept = AT_WORK if run.locked else None
            what = "checkpoints of a stage that has finished" if run.trained(stage) else "checkpoints"
            yield item("checkpoints", name, what, [folder], run.path, kept=kept, named=not run.locked, run=run.path)
            continue
        broken = [*folder.glob("damaged-*"), folder / ".saving"]
        yield item(
            "checkpoints", f"{name}/damaged", "damaged and half-written checkpoints", broken, run.path, run=run.path
        )
        whole = "checkpoints to go on from"
        resumed = "the run goes on from them"
        there = any(folder.glob("checkpoint-*"))
        if there:
            yield item("checkpoints", name, whole, [folder], run.path, kept=resumed, run=run.path)


def _exports(run: FoundRun) -> Iterator[Item | None]:
    """GGUFs and merged weights that the result does not need: never the last stage's own."""
    export, last = run.path / "export", run.data["recipe"]["name"]
    quant = run.data["recipe"]["stages"][-1]["recipe"]["export"]["quant"]
    final = f"{last}-{quant}"
    kept = AT_WORK if run.locked else None if run.finished else "the run is not finished, and may need it"
    groups = {
        "the base alone, to compare with": sorted(export.glob(f"base-{quant}.*")),
        "earlier stages": [
            path for stage in run.stages[:-1] for path in sorted(export.glob(f"{last}-{stage}-{quant}.*"))
        ],
        "rejected by their verification": sorted(export.glob("*.rejected*")),
        "what answered in rounds": sorted(run.path.glob("stages/*/rounds/*/policy-*.gguf")),
        "16-bit weights": [path for path in sorted(export.glob("*")) if _merged(path)],
    }
    for what, found in groups.items():
        paths = [path for path in found if not path.name.startswith(f"{final}.") or ".rejected" in path.name]
        rejected = what.startswith("rejected")  # a run writes it anew, whatever lies there
        own = kept if run.locked or not rejected else None
        first = next((path for path in paths if path.suffix == ".gguf"), next(iter(paths), run.path))
        name = f"{run.name}/{first.relative_to(run.path)}"
        yield item("exports", name, what, paths, run.path, kept=own, named=not run.locked, run=run.path)


def _merged(path: Path) -> bool:
    """Whether a folder holds merged weights."""
    return path.is_dir() and not path.is_symlink() and any(path.glob("*.safetensors"))


def _whole(run: FoundRun, runs: Sequence[FoundRun]) -> Item | None:
    root = run.path.resolve().parent
    continued = [other.name for other in runs if other is not run and not other.finished and _begins_in(other, run)]
    if run.locked:
        kept = AT_WORK
    elif continued:
        kept = f"{', '.join(continued)} continues its adapter"
    elif run.finished:
        kept = "a result: freed where it is named"
    else:
        done = len(run.data["steps"])
        kept = f"not finished ({done} steps are): the same command goes on; freed where it is named"
    return item("runs", run.name, "a whole run", [run.path], root, kept=kept, named=not run.locked, run=run.path)


def _begins_in(other: FoundRun, run: FoundRun) -> bool:
    return any(path.is_relative_to(run.path.resolve()) for path in other.adapters)
