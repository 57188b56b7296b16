"""Functions of the interpreter's standard library and of installed packages. Nothing of them is run to find them.

Reading thousands of files takes minutes, so that what was found is kept in the user's cache, by version.
"""

from __future__ import annotations

import hashlib
import re
import sys
import sysconfig
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lowvram_ft.data.pick import draw
from lowvram_ft.data.row import SOLUTION
from lowvram_ft.errors import DataError, MachineError, RunDirectoryError
from lowvram_ft.hardware import cache_dir
from lowvram_ft.preference.records import PreferenceTask
from lowvram_ft.preference.tasks.standalone import Cut, cut_functions
from lowvram_ft.progress import Progress
from lowvram_ft.run_dir import read_json, write_json

VERSION = 1
"""Of what is looked for: another one does not read the cache of this one."""
MOST_FILES = 100
"""Files of a package that are read where all packages are asked for; drawn by their names."""
MOST_BYTES = 300_000
"""A larger file is taken for tables, or generated."""
_OWN = frozenset({"lowvram-ft", "gguf-export"})
_TESTS = re.compile(r"^(tests?|testing|.*_tests?|test_.*|conftest|idle_test)$")
_JUNK = frozenset(
    {"idlelib", "lib2to3", "ensurepip", "venv", "pydoc_data", "turtledemo", "tkinter", "distutils", "site-packages"}
    | {
        "dist-packages",
        "encodings",
        "ctypes",
        "multiprocessing",
        "msilib",
        "curses",
        "lib-dynload",
        "antigravity",
        "this",
    }
    | {"vendor", "vendored", "extern", "third_party", "examples", "benchmarks", "docs", "doc", "scripts"}
    | {"sitecustomize", "usercustomize", "setup"}
)
"""Folders and modules without functions of their own, or with nothing to learn from."""


@dataclass(frozen=True)
class Package:
    """Python files that belong together.

    Attributes:
        name: of the distribution; empty for the standard library.
        version: its own, or Python's.
        licence: as it says of itself.
        files: path, and the path that it is imported by, with ``/``.
    """

    name: str
    version: str
    licence: str
    files: tuple[tuple[Path, str], ...]

    @property
    def source(self) -> str:
        """As a task names it."""
        return "installed" if self.name else "standard_library"

    @property
    def key(self) -> str:
        """Changes when what is found in it may."""
        names = sorted(relative for _, relative in self.files)
        facts = (VERSION, sys.version, self.name, self.version, names)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def standard_library() -> Package:
    """The interpreter's own, without what is private, and without its tests."""
    folder = library_folder()
    files = [(path, path.relative_to(folder).as_posix()) for path in sorted(folder.rglob("*.py"))]
    public = [each for each in files if _top(each[1]) in sys.stdlib_module_names and _is_wanted(each[1])]
    return Package("", sys.version.split()[0], "PSF-2.0", tuple(public))


def library_folder() -> Path:
    """Where the interpreter's own modules lie."""
    return Path(sysconfig.get_paths()["stdlib"])


def installed(wanted: str) -> list[Package]:
    """What is installed beside the kit, by name.

    Args:
        wanted: a distribution, or a package that one brings; empty for all of them.

    Raises:
        DataError: there is nothing of the name, or it brings no Python files.
    """
    wanted_names = {_normal(wanted)} | {_normal(name) for name in metadata.packages_distributions().get(wanted, ())}
    found: dict[str, Package] = {}
    for distribution in metadata.distributions():
        name = _normal(distribution.metadata["Name"] or "")
        if name in _OWN or name in found or (wanted and name not in wanted_names):
            continue
        paths = [(Path(str(distribution.locate_file(file))), file.as_posix()) for file in distribution.files or ()]
        files = [each for each in paths if each[1].endswith(".py") and _is_wanted(each[1]) and each[0].is_file()]
        if not wanted and len(files) > MOST_FILES:
            files = sorted(files, key=lambda each: draw(0, each[1]))[:MOST_FILES]
        if files:
            found[name] = Package(name, distribution.version, _licence(distribution), tuple(sorted(files)))
    if wanted and not found:
        raise DataError(
            f"preference.tasks: installed:{wanted}: no such package with Python files is installed; install it, or "
            "name another"
        )
    return [found[name] for name in sorted(found)]


def package_tasks(package: Package, progress: Progress, refused: Counter[str]) -> list[PreferenceTask]:
    """The functions of a package that stand alone, as tasks; from the cache where it was read before.

    Args:
        package: where to look.
        progress: where a person reads how far it is.
        refused: counts other functions, by reason.
    """
    place = cache_dir() / "tasks" / f"{package.key}.json"
    found = _cached(place)
    if found is None:
        found = _scan(package, progress)
        with suppress(MachineError):  # a cache that cannot be written: it is read again next time
            write_json(place, found)
    refused.update(found["refused"])
    return [_task(package, value) for value in found["functions"]]


def _scan(package: Package, progress: Progress) -> dict[str, Any]:
    refused: Counter[str] = Counter()
    functions: list[dict[str, Any]] = []
    title = f"reading {package.name or 'the standard library'}"
    for number, (path, relative) in enumerate(package.files, 1):
        progress.step(title, number, len(package.files), "files")
        text = _read(path, refused)
        module = _module(relative)
        folder = module if relative.endswith("/__init__.py") else module.rpartition(".")[0]
        for cut in cut_functions(text, folder, refused) if text else ():
            if cut.alone:
                functions.append({**asdict(cut), "module": module, "file": relative})
            else:
                refused[cut.imports] += 1
    return {"functions": functions, "refused": dict(refused)}


def _read(path: Path, refused: Counter[str]) -> str:
    """A file's text; empty where it is not read."""
    try:
        if path.stat().st_size > MOST_BYTES:
            refused["is in a very long file"] += 1
            return ""
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, UnicodeDecodeError):
        refused["is in a file that cannot be read"] += 1
        return ""


def _task(package: Package, value: dict[str, Any]) -> PreferenceTask:
    cut = Cut(*(value[name] for name in ("name", "line", "code", "alone", "imports")))
    name = f"{package.source}/{value['module']}.{cut.name}"
    meta = {
        "function": cut.name,
        "origin": value["module"],
        "file": value["file"],
        "line": cut.line,
        "package": package.name or "python",
        "version": package.version,
        "licence": package.licence,
    }
    return PreferenceTask(name, name, package.source, cut.code, SOLUTION, meta=meta)


def _cached(place: Path) -> dict[str, Any] | None:
    try:
        found = read_json(place) if place.is_file() else None
    except (OSError, RunDirectoryError):
        return None
    return found if isinstance(found, dict) and {"functions", "refused"} <= found.keys() else None


def _is_wanted(relative: str) -> bool:
    """Whether a file is public code: no part of its path is private, a test or junk."""
    parts = relative.removesuffix(".py").removesuffix("/__init__").split("/")
    return all(_is_public(part) for part in parts)


def _is_public(part: str) -> bool:
    return part.isidentifier() and not part.startswith("_") and part not in _JUNK and not _TESTS.match(part)


def _top(relative: str) -> str:
    return relative.removesuffix(".py").partition("/")[0]


def _module(relative: str) -> str:
    return relative.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _licence(distribution: metadata.Distribution) -> str:
    facts = distribution.metadata
    for line in (facts[key] for key in ("License-Expression", "License") if key in facts):
        if line and len(line) < 80 and "\n" not in line:
            return str(line)
    named = [line.rpartition(" :: ")[2] for line in facts.get_all("Classifier") or () if line.startswith("License ::")]
    return ", ".join(named) or "unknown"
