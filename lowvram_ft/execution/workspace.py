"""The private folder of a server: laid out for each job, put back whenever a run has touched it.

``code`` holds the modules, which a test may read; ``box`` is the test's own: ``work`` with the test file, and what
lies beside it, where it runs, and an empty ``home`` and ``tmp``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

TEST_FILE = "test_solution.py"
CODE, BOX, WORK, HOME, TEMPORARY = "code", "box", "box/work", "box/home", "box/tmp"

_Stamp = tuple[int, int, int, int]
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


class Workspace:
    """The folder, in the state in which a job finds it.

    Args:
        folder: an existing folder that nothing else uses.
        code: module texts by the file that holds each, under ``folder / "code"``.
        test: text of the test file.
        shared: more folders that a test can write, and that are emptied.
        beside: texts of the files beside the test file, by their paths relative to it.
    """

    def __init__(
        self,
        folder: Path,
        code: Mapping[Path, str],
        test: str,
        shared: Iterable[Path] = (),
        beside: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.work = folder / WORK
        self.shared = tuple(shared)
        others = {self.work / name: text for name, text in (beside or {}).items()}
        self.texts = {**code, **others, self.work / TEST_FILE: test}
        self._stamps: dict[str, _Stamp] = {}

    def lay_out(self) -> None:
        """Put the folder into its first state, whatever ran in it before, and go to ``work``.

        Raises:
            OSError: something in it cannot be removed, or a file would lie outside of it.
        """
        if self._is_untouched():
            return
        self.clear()
        for name in (WORK, HOME, TEMPORARY):
            (self.folder / name).mkdir()
        for file, text in self.texts.items():
            if not file.is_relative_to(self.folder) or ".." in file.parts:
                raise OSError(f"{file}: lies outside of the job's folder")
            file.parent.mkdir(parents=True, exist_ok=True)
            _write(file, text)
        os.chdir(self.work)
        self._stamps = dict(self._read_stamps())

    def replace(self, file: Path, text: str) -> None:
        """Give a file another text, in the folder as it is laid out, and whenever it is laid out from here on.

        Args:
            file: one of those that the folder was made with.
            text: its new text.

        Raises:
            OSError: it cannot be written.
        """
        if self.texts[file] == text:
            return
        self.texts[file] = text
        if self._stamps:
            _write(file, text)
            self._stamps[str(file)] = _stamp(os.lstat(file))

    def clear(self) -> None:
        """Leave nothing in the folder, and go out of it.

        Raises:
            OSError: something in it cannot be removed.
        """
        os.chdir("/")
        for part in (self.folder / CODE, self.folder / BOX):
            if part.is_symlink() or part.is_file():  # where no layer holds them, tests can put anything in their place
                part.unlink()
            # kept, not made anew: rules on what may be written name the folder itself
            part.mkdir(parents=True, exist_ok=True)
            empty(part)
        for part in self.shared:
            empty(part)
        self._stamps = {}

    def _is_untouched(self) -> bool:
        found = 0
        for path, stamp in self._read_stamps():
            if self._stamps.get(path) != stamp:
                return False
            found += 1
        return 0 < found == len(self._stamps)

    def _read_stamps(self) -> Iterator[tuple[str, _Stamp]]:
        """Folders before what they hold. The time is the one that no program can set."""
        pending = [str(part) for part in (self.folder / CODE, self.folder / BOX, *self.shared)]
        while pending:
            path = pending.pop()
            try:
                status = os.lstat(path)
                yield path, _stamp(status)
                if stat.S_ISDIR(status.st_mode):
                    pending.extend(os.path.join(path, name) for name in os.listdir(path))
            except OSError:
                yield path, (0, 0, 0, 0)


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_ino, status.st_mode, status.st_ctime_ns, status.st_size


def empty(folder: Path) -> None:
    """Remove all that a folder holds, however deep, also what was made unreadable. Links are not followed.

    Raises:
        OSError: something cannot be removed.
    """
    os.chmod(folder, 0o700)
    top = os.open(folder, _FOLDER)
    try:
        prefix = f".{os.urandom(8).hex()}-"
        found = _clear(top, top, prefix, 0)
        # folders are moved up before they are cleared: depth costs neither stack nor descriptors
        for place in itertools.count():
            if place == found:
                break
            with contextlib.suppress(OSError):
                below = os.open(f"{prefix}{place}", _FOLDER, dir_fd=top)
                try:
                    found = _clear(below, top, prefix, found)
                finally:
                    os.close(below)
                os.rmdir(f"{prefix}{place}", dir_fd=top)
    finally:
        os.close(top)
    if os.listdir(folder):
        raise OSError(f"{folder}: cannot be emptied")


def remove_tree(folder: Path) -> None:
    """Delete a folder with all that it holds, or as much of it as can be. Links are not followed."""
    with contextlib.suppress(OSError):
        empty(folder)
        folder.rmdir()


def _clear(folder: int, top: int, prefix: str, found: int) -> int:
    """Delete the files, move the folders to ``top`` under numbered names; how many of these there are now."""
    with os.scandir(folder) as entries:
        kinds = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in kinds:
        with contextlib.suppress(OSError):
            if is_folder:
                os.chmod(name, 0o700, dir_fd=folder)  # moving a folder takes the right to write in it
                os.rename(name, f"{prefix}{found}", src_dir_fd=folder, dst_dir_fd=top)
                found += 1
            else:
                os.unlink(name, dir_fd=folder)
    return found
