"""The private folder of a server: laid out for each job, put back whenever a run has touched it.

``code`` holds the modules, which a test may read; ``box`` is the test's own: ``work`` with the test file, where
it runs, and an empty ``home`` and ``tmp``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

TEST_FILE = "test_solution.py"
CODE, BOX, WORK, HOME, TEMPORARY = "code", "box", "box/work", "box/home", "box/tmp"

_Stamp = tuple[int, int, int, int]
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


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
    """Remove all that a folder holds, however deep, also what was made unreadable. Links are not followed.

    Raises:
        OSError: something cannot be removed.
    """
    os.chmod(folder, 0o700)
    top = os.open(folder, _FOLDER)
    try:
        removed = f".{os.urandom(8).hex()}-"
        found = _remove_files(top, top, removed, 0)
        # a folder's folders are moved up before it goes: depth costs neither stack nor descriptors
        for position in itertools.count():
            if position == found:
                break
            name = f"{removed}{position}"
            os.chmod(name, 0o700, dir_fd=top)
            below = os.open(name, _FOLDER, dir_fd=top)
            try:
                found = _remove_files(below, top, removed, found)
            finally:
                os.close(below)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def remove_tree(folder: Path) -> None:
    """Delete a folder, if it can be, with all that it holds. Links are not followed."""
    with contextlib.suppress(OSError):
        empty(folder)
        folder.rmdir()


def _remove_files(folder: int, top: int, removed: str, found: int) -> int:
    """Delete what is no folder, move the folders to ``top`` under names of their own; how many there are now."""
    with os.scandir(folder) as entries:
        kinds = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in kinds:
        if is_folder:
            os.chmod(name, 0o700, dir_fd=folder)  # moving a folder takes the right to write in it
            os.rename(name, f"{removed}{found}", src_dir_fd=folder, dst_dir_fd=top)
            found += 1
        else:
            os.unlink(name, dir_fd=folder)
    return found
