"""The private folder of a job: laid out once, put back whenever a run has touched it, removed at the end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

TEST_FILE = "test_solution.py"

_Stamp = tuple[int, int, int, int]


class Workspace:
    """``code`` with the modules, ``work`` with the test file, and an empty ``home`` and ``tmp``.

    Args:
        folder: an existing folder that nothing else uses.
        code: module texts by the file that holds each, under ``folder / "code"``.
        test: text of the test file.
    """

    def __init__(self, folder: Path, code: Mapping[Path, str], test: str) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.texts = {**code, self.work / TEST_FILE: test}
        self._stamps: dict[str, _Stamp] = {}

    def lay_out(self) -> None:
        """Put the folder into its first state, whatever ran in it before, and go to ``work``."""
        if self._stamps and self._stamps == self._read_stamps():
            return
        os.chdir("/")
        for name in ("code", "home", "tmp", "work"):
            part = self.folder / name
            if part.is_symlink() or part.is_file():
                part.unlink()
            elif part.exists():
                remove_tree(part)
            part.mkdir()
        for file, text in self.texts.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
        os.chdir(self.work)
        self._stamps = self._read_stamps()

    def _read_stamps(self) -> dict[str, _Stamp]:
        stamps: dict[str, _Stamp] = {}
        pending = [str(self.folder / name) for name in ("code", "home", "tmp", "work")]
        while pending:
            path = pending.pop()
            try:
                stat = os.lstat(path)
                stamps[path] = (stat.st_ino, stat.st_mode, stat.st_mtime_ns, stat.st_size)
                if os.path.isdir(path) and not os.path.islink(path):
                    pending.extend(os.path.join(path, name) for name in os.listdir(path))
            except OSError:
                stamps[path] = (0, 0, 0, 0)
        return stamps


def remove_tree(folder: Path) -> None:
    """Delete a folder, also one whose parts were made unreadable. Links are not followed."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        for parent, names, _ in os.walk(folder):
            for name in names:
                path = os.path.join(parent, name)
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
        shutil.rmtree(folder, ignore_errors=True)
