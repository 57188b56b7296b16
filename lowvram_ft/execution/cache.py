"""Verdicts of earlier runs, by what they depend on: text, module name, limits, and the versions of what judged.

A verdict that hangs on the clock (a time-out, a process that was killed) is not kept, nor is one that read a
package's folder: another file of it may have changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lowvram_ft import __version__
from lowvram_ft.errors import MachineError
from lowvram_ft.execution.verdict import MutationReport, Verdict
from lowvram_ft.hardware import cache_dir

_MOST_ROWS = 300_000
_JUDGES = ("pytest", "coverage", "cosmic-ray", "parso")
_UNSTABLE = frozenset({"timeout", "killed"})
_SCHEMA = "CREATE TABLE IF NOT EXISTS verdicts (key BLOB PRIMARY KEY, answer BLOB) WITHOUT ROWID"

_RULES = 4
"""Raised where the same file gets another verdict: what counts as a check, what a test can find out of a mutant."""


def judge_versions() -> dict[str, str]:
    """The versions that a verdict depends on, by name: of the kit and its rules, of Python, and of what judges."""
    kit = {"lowvram-ft": f"{__version__} (rules {_RULES})", "python": platform.python_version()}
    return kit | {name: importlib.metadata.version(name) for name in _JUDGES}


class VerdictCache:
    """An SQLite file that several threads and processes may use at the same time.

    Args:
        path: the file; made where it is missing, made anew where it is no database.

    Raises:
        MachineError: the file or its folder cannot be made. Reading and writing raise it too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hits = 0
        self._lock = threading.Lock()
        self._salt = json.dumps(list(judge_versions().values()))
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._database = self._open()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                path.unlink()
                self._database = self._open()

    @classmethod
    def of_user(cls) -> VerdictCache:
        """The one in the user's cache folder."""
        return cls(cache_dir() / "verdicts.sqlite3")

    def get(self, question: dict[str, Any]) -> tuple[Verdict, MutationReport | None] | None:
        """What was answered to the same question; None where nothing was."""
        with self._lock, self._errors():
            row = self._database.execute("SELECT answer FROM verdicts WHERE key = ?", (self._key(question),)).fetchone()
            self.hits += row is not None
        if row is None:
            return None
        answer = json.loads(zlib.decompress(row[0]))
        mutation = answer["mutation"]
        return Verdict.from_json(answer["verdict"]), None if mutation is None else MutationReport.from_json(mutation)

    def put(self, question: dict[str, Any], verdict: Verdict, mutation: MutationReport | None) -> None:
        """Keep an answer, unless it hangs on the clock."""
        if verdict.status in _UNSTABLE or any(result.outcome in _UNSTABLE for result in verdict.results):
            return
        answer = {"verdict": verdict.to_json(), "mutation": None if mutation is None else mutation.to_json()}
        blob = zlib.compress(json.dumps(answer).encode(), 1)
        with self._lock, self._errors(), self._database:
            self._database.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (self._key(question), blob))

    def __enter__(self) -> VerdictCache:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; drop a tenth of it where it has grown too long."""
        with self._lock, self._errors(), self._database:
            (rows,) = self._database.execute("SELECT count(*) FROM verdicts").fetchone()
            if rows > _MOST_ROWS:  # keys are hashes: any tenth of them is a random one
                self._database.execute("DELETE FROM verdicts WHERE key < ?", (bytes([26]),))
        self._database.close()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=30.0, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = OFF")  # what a power cut takes is judged again
            database.execute(_SCHEMA)
        except sqlite3.Error:
            database.close()
            raise
        return database

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise MachineError(
                f"{self.path}: cannot be used ({error}); free some space, delete the file, set LOWVRAM_FT_CACHE, "
                "or use --no-cache"
            ) from error

    def _key(self, question: dict[str, Any]) -> bytes:
        text = json.dumps(question, sort_keys=True)
        return hashlib.sha256(f"{self._salt}\0{text}".encode()).digest()
