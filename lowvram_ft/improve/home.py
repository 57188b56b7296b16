"""Where everything lies: one folder of the user's, on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lowvram_ft.errors import RunDirectoryError, cannot_write
from lowvram_ft.hardware import cache_dir, data_dir
from lowvram_ft.testgen.attempts.answers import ANSWERS
from lowvram_ft.testgen.attempts.traces import TRACES


@dataclass(frozen=True)
class Home:
    """Paths of what is kept. Nothing is made by asking for one.

    Attributes:
        root: the folder, see `lowvram_ft.hardware.data_dir`.
        cache: see `lowvram_ft.hardware.cache_dir`.
    """

    root: Path
    cache: Path

    @classmethod
    def of_user(cls) -> Home:
        """The user's own."""
        return cls(data_dir(), cache_dir())

    @property
    def answers(self) -> Path:
        """Answers that testgen judged."""
        return self.root / ANSWERS

    @property
    def traces(self) -> Path:
        """Failures that were mended."""
        return self.root / TRACES

    @property
    def consent(self) -> Path:
        """That the user agreed."""
        return self.root / "consent.json"

    @property
    def ledger(self) -> Path:
        """Every attempt; holds no code."""
        return self.root / "attempts.jsonl"

    @property
    def judged(self) -> Path:
        """What answers are worth without their project."""
        return self.root / "judged.jsonl"

    @property
    def samples(self) -> Path:
        """What models wrote for the held-out tasks."""
        return self.root / "held_out.jsonl"

    @property
    def work(self) -> Path:
        """The attempt that is under way."""
        return self.root / "work"

    @property
    def attempt(self) -> Path:
        """What that attempt is; it is there last, so that all else is whole where it is."""
        return self.work / "attempt.json"

    @property
    def models(self) -> Path:
        """Generations."""
        return self.root / "models"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other commands out while one changes something here.

        Raises:
            RunDirectoryError: another process is at work.
            MachineError: the folder cannot be made.
        """
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            self.root.mkdir(mode=0o700, exist_ok=True)
            lock = os.open(self.root / ".improve.lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise cannot_write(self.root, error) from error
        try:
            try:
                import fcntl
            except ImportError:  # Windows: no advisory locks of this kind; nothing is promised there
                yield
                return
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunDirectoryError(f"{self.root}: another improve is at work here; wait for it") from error
            yield
        finally:
            os.close(lock)
