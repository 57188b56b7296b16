"""Functions of a user's own repository, without its tests. Nothing of it is run to find them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path

from lowvram_ft.data.from_repo.source_tree import LeftOut, SourceFile, find_files
from lowvram_ft.data.row import SOLUTION
from lowvram_ft.preference.records import PreferenceTask
from lowvram_ft.preference.tasks.standalone import cut_functions
from lowvram_ft.progress import Progress

_SCRIPTS = frozenset({"setup.py", "noxfile.py", "fabfile.py", "conf.py"})
_OTHER_PACKAGES = "imports other packages"


def code_files(folder: Path, refused: Counter[str]) -> list[SourceFile]:
    """The modules of a repository: no tests, no scripts of its tools.

    Raises:
        DataError: there is no such folder.
    """
    left_out = LeftOut()
    files = find_files(folder, left_out)
    refused.update({f"file {reason}": count for reason, count in left_out.reasons.items()})
    return [file for file in files if not file.is_test and file.path.name not in _SCRIPTS]


def repository_tasks(folder: Path, progress: Progress, refused: Counter[str]) -> list[PreferenceTask]:
    """The functions of a repository, as tasks.

    What needs nothing but the standard library stands alone. Anything else keeps the folder that its imports are found
    in as its ``root``; its own text is served as ``solution``, with absolute imports, so that the rest of the package
    meets its modules as they are.

    Args:
        folder: the repository.
        progress: where a person reads how far it is.
        refused: counts other functions, by reason.

    Raises:
        DataError: there is no such folder.
    """
    folder = Path(os.path.expanduser(folder))
    files = code_files(folder, refused)
    tasks = []
    for number, file in enumerate(files, 1):
        progress.step(f"reading {folder}", number, len(files), "files")
        try:
            text = file.read()
        except (OSError, UnicodeDecodeError):
            refused["is in a file that cannot be read"] += 1
            continue
        for cut in cut_functions(text, file.package, refused):
            name = f"repository/{folder.resolve().name}/{file.relative}::{cut.name}"
            meta = {
                "function": cut.name,
                "origin": file.module,
                "file": str(file.path),
                "line": cut.line,
                "licence": "the user's own",
            }
            root = None if cut.alone else file.root
            tasks.append(PreferenceTask(name, name, "repository", cut.code, SOLUTION, root, meta))
    return tasks


def repository_digest(folder: Path) -> str:
    """Changes when a module of a repository does.

    Raises:
        DataError: there is no such folder.
    """
    digest = hashlib.sha256()
    for file in code_files(Path(os.path.expanduser(folder)), Counter()):
        digest.update(file.relative.encode("utf-8", "surrogatepass") + b"\0")
        try:
            digest.update(hashlib.sha256(file.path.read_bytes()).digest())
        except OSError:
            digest.update(b"unreadable")
    return digest.hexdigest()
