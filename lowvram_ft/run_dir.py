"""The run directory: paths, atomic writes, ``run.json``, ``events.jsonl``, ``samples.jsonl``.

Layout::

    RUN/
      run.json                 what was run, and which steps have finished (schema: docs/run-directory.md)
      events.jsonl             what happened when, one object a line
      samples.jsonl            every prompt, answer and verdict, one object a line
      stages/NAME/adapter/     a standard PEFT folder for each stage
      stages/NAME/checkpoints/ the trainer's own
      export/                  the GGUF, its Modelfile, verification.json
      eval/before|after/       the metrics of one evaluation

A step's result is written under a temporary name, flushed to the disk and renamed, so a reader never sees half of it.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from lowvram_ft.errors import RunDirectoryError, cannot_write

RUN_SCHEMA_VERSION = 1
VERSIONED = (
    "lowvram-ft", "torch", "transformers", "peft", "trl", "datasets", "accelerate", "bitsandbytes", "unsloth",
    "llama-cpp-python", "gguf", "tokenizers", "cosmic-ray", "coverage", "pytest",
)  # fmt: skip
"""Packages whose versions a run records."""


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: temporary name, fsync, rename.

    Raises:
        MachineError: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value atomically, indented."""
    write_text(path, _dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON value.

    Raises:
        RunDirectoryError: it is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{path}: no such file; is this a run directory?") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunDirectoryError(f"{path}: is not valid JSON ({error}); delete it to start again") from error


def append_jsonl(path: Path, *records: Mapping[str, Any]) -> None:
    """Append records to a JSONL file, in one write, flushed to the disk; a line that a kill cut off is taken out.

    Raises:
        MachineError: the disk is full, or the file cannot be written.
    """
    text = "".join(_dumps(record) + "\n" for record in records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.truncate(_end_of_last_line(file))
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def _dumps(value: Any, indent: int | None = None) -> str:
    """JSON as people read it; halves of surrogate pairs, which UTF-8 does not have, stay escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()


def _end_of_last_line(file: BinaryIO) -> int:
    """Bytes up to the last line end, that one included."""
    position = file.seek(0, os.SEEK_END)
    while position > 0:
        start = max(0, position - 8192)
        file.seek(start)
        found = file.read(position - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file; a last line that was cut off by a kill is passed over."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            with suppress(json.JSONDecodeError, UnicodeDecodeError):
                yield json.loads(line)


class RunDir:
    """A run directory, and what is known of the run in it.

    Args:
        path: the folder; made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_json = path / "run.json"
        self.events = path / "events.jsonl"
        self.samples = path / "samples.jsonl"

    @property
    def data(self) -> dict[str, Any]:
        """What ``run.json`` holds.

        Raises:
            RunDirectoryError: it is missing or broken.
        """
        value = read_json(self.run_json)
        if not isinstance(value, dict) or value.get("schema_version") != RUN_SCHEMA_VERSION:
            raise RunDirectoryError(
                f"{self.run_json}: is not a run of this version (schema {value.get('schema_version')!r} "
                f"instead of {RUN_SCHEMA_VERSION}); use another --out"
                if isinstance(value, dict)
                else f"{self.run_json}: is not a run; use another --out"
            )
        return value

    def start(
        self,
        *,
        recipe: Mapping[str, Any],
        digest: str,
        versions: Mapping[str, str],
        command: str,
        machine: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin a run here, or take up the one that is here. One that has trained nothing yet is begun anew.

        Raises:
            RunDirectoryError: a run of another recipe is here, or something else.
        """
        self.refuse_foreign()
        if self.run_json.is_file():
            data = self.data
            found = data.get("digest")
            if found == digest:
                self.event("resumed")
                return
            if data["steps"].keys() - {"plan"} or any(self.path.glob("stages/*/checkpoints/checkpoint-*")):
                raise RunDirectoryError(
                    f"{self.path}: holds a run of another recipe or other settings ({found}, this is {digest}); "
                    "use another --out, or delete it"
                )
            self.samples.unlink(missing_ok=True)  # of the other settings: they are not to be taken up
        write_json(
            self.run_json,
            {
                "schema_version": RUN_SCHEMA_VERSION,
                "digest": digest,
                "command": command,
                "started": _now(),
                "versions": dict(versions),
                "machine": dict(machine or {}),
                "recipe": recipe,
                "steps": {},
            },
        )
        self.event("started")

    def refuse_foreign(self) -> None:
        """Leave a folder alone that holds something else than a run.

        Raises:
            RunDirectoryError: there are files here, and no ``run.json`` among them.
        """
        if self.run_json.is_file() or not self.path.is_dir():
            return
        if any(child.name != ".lock" and ".tmp-" not in child.name for child in self.path.iterdir()):
            raise RunDirectoryError(f"{self.path}: is not empty and holds no run; use another --out")

    def finished(self, step: str) -> dict[str, Any] | None:
        """The result of a step that has finished, else None."""
        result = self.data["steps"].get(step)
        return result if result is None else dict(result)

    def finish(self, step: str, result: Mapping[str, Any]) -> None:
        """Record that a step has finished, with its result."""
        data = self.data
        data["steps"][step] = dict(result)
        write_json(self.run_json, data)
        self.event("finished", step=step)

    def event(self, kind: str, **fields: Any) -> None:
        """Add a line to ``events.jsonl``."""
        append_jsonl(self.events, {"time": _now(), "event": kind, **fields})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second command out of this directory while one is at work in it.

        Raises:
            RunDirectoryError: another process holds it, or the folder holds something else than a run.
            MachineError: the folder cannot be made.
        """
        self.refuse_foreign()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        with lock as file:
            try:
                import fcntl
            except ImportError:  # Windows: no advisory locks of this kind; nothing is promised there
                yield
                return
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunDirectoryError(f"{self.path}: another command is at work here; wait for it") from error
            yield


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def versions() -> dict[str, str]:
    """Versions of Python and of what a result depends on; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
