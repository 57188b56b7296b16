"""What was found for a module, kept until the user's files change: a call that was interrupted goes on from there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lowvram_ft.errors import RunDirectoryError
from lowvram_ft.hardware import cache_dir
from lowvram_ft.run_dir import read_json, write_json

VERSION = 2
"""Raised whenever the same question may have another answer."""
KEPT_S = 30 * 86400.0


class Journal:
    """Results by what they depend on, in the user's cache.

    Args:
        folder: made when something is put into it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_dir() / "testgen"

    def key(self, facts: Mapping[str, Any]) -> str:
        """The name of a result.

        Args:
            facts: all that it depends on, as JSON types.
        """
        text = json.dumps([VERSION, facts], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def get(self, key: str) -> dict[str, Any] | None:
        """A result; None where there is none, or what is there is broken."""
        try:
            found = read_json(self.folder / f"{key}.json")
        except (OSError, RunDirectoryError):
            return None
        return found if isinstance(found, dict) else None

    def put(self, key: str, result: Mapping[str, Any]) -> None:
        """Keep a result, and throw away those that nobody has asked for in a month.

        Raises:
            MachineError: the cache cannot be written.
        """
        write_json(self.folder / f"{key}.json", dict(result))
        oldest = time.time() - KEPT_S
        for path in self.folder.glob("*.json"):
            with suppress(OSError):  # another process may have thrown it away
                if path.stat().st_mtime < oldest:
                    path.unlink()
