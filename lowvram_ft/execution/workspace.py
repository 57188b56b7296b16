"""The private folder of a server: laid out for each job, put back whenever a run has touched it.

``code`` holds the modules, which a test may read; ``box`` is the test's own: ``work`` with the test file, where
it runs, and an empty ``home`` and ``tmp``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

TEST_FILE = "test_solution.py"
CODE, BOX, WORK, HOME, TEMPORARY = "code", "box", "box/work", "box/home", "box/tmp"

_Stamp = tuple[int, int, int, int]


class Workspace:
    """The folder, in the state in which a job finds it.

    Args:
        folder: an existing folder that nothing else uses.
        code: module texts by the file that holds each, under ``folder / "code"``.
        test: text of the test file.
        shared: more folders that a test can write, and that are emptied.
    """

    def __init__(self, folder: Path, code: Mapping[Path, str], test: str, shared: Iterable[Path] = ()) -> None:
        self.folder = folder
        self.work = folder / WORK
        self.shared = tuple(shared)
        self.texts = {**code, self.work / TEST_FILE: test}
        self._stamps: dict[str, _Stamp] = {}

    def lay_out(self) -> None:
        """Put the folder into its first state, whatever ran in it before, and go to ``work``.

        Raises:
            OSError: something in it cannot be removed.
        """
        if self._stamps and self._stamps == self._read_stamps():
            return
        os.chdir("/")
        for part in (self.folder / CODE, self.folder / BOX):
            part.mkdir(exist_ok=True)  # kept, not made anew: rules on what may be written name the folder itself
            empty(part)
        for part in self.shared:
            empty(part)
        for name in (WORK, HOME, TEMPORARY):
            (self.folder / name).mkdir()
        for file, text in self.texts.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
        os.chdir(self.work)
        self._stamps = self._read_stamps()

    def _read_stamps(self) -> dict[str, _Stamp]:
        stamps: dict[str, _Stamp] = {}
        pending = [str(part) for part in (self.folder / CODE, self.folder / BOX, *self.shared)]
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


def empty(folder: Path) -> None:
    """Remove all that a folder holds. Links are not followed.

    Raises:
        OSError: something cannot be removed.
    """
    os.chmod(folder, 0o700)
    for name in os.listdir(folder):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink()
    if os.listdir(folder):
        raise OSError(f"{folder}: cannot be emptied")


def remove_tree(folder: Path) -> None:
    """Delete a folder, also one whose parts were made unreadable. Links are not followed."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        os.chmod(folder, 0o700)
        for parent, names, _ in os.walk(folder):
            for name in names:
                path = os.path.join(parent, name)
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
        shutil.rmtree(folder, ignore_errors=True)
