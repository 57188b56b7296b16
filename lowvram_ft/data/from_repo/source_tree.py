"""The Python files of a repository: which there are, what they are imported as, and what was passed over."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lowvram_ft.errors import DataError

MAX_BYTES = 2 << 20
"""A larger file is taken for generated."""

_EXAMPLES = 5

_JUNK = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages", "venv", "env", "virtualenv"})
_JUNK_UNLESS_PACKAGE = frozenset({"build", "dist", "_build", "target", "htmlcov"})
_TEST_FOLDERS = frozenset({"test", "tests", "unit_tests", "unittests", "testsuite"})
_TEST_NAME = re.compile(r"^(test_.*|.*_tests?|tests?)$")
_IMPORT = re.compile(rb"(?m)^[ \t]*(?:from|import)[ \t]+([\w.]+)")


@dataclass(frozen=True)
class SourceFile:
    """One file that could be read.

    Attributes:
        path: absolute.
        relative: from the repository's folder, with ``/``.
        root: the folder that has to be on ``sys.path`` for the file to be importable.
        module: its import path from there.
        is_package: whether it is an ``__init__.py``.
        is_test: whether its name or its folder says that it belongs to the tests.
    """

    path: Path
    relative: str
    root: Path
    module: str
    is_package: bool
    is_test: bool

    @property
    def package(self) -> str:
        """What a relative import in it starts from; empty where it is in no package."""
        return self.module if self.is_package else self.module.rpartition(".")[0]

    def read(self) -> str:
        """Its text.

        Raises:
            OSError: it cannot be read.
            UnicodeDecodeError: it is not UTF-8.
        """
        return self.path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


@dataclass
class LeftOut:
    """What could not be used, by reason.

    Attributes:
        reasons: how many there were.
        examples: the first few of each.
    """

    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, what: str) -> None:
        """Count one more."""
        self.reasons[reason] += 1
        named = self.examples.setdefault(reason, [])
        if len(named) < _EXAMPLES:
            named.append(what)

    def merge(self, other: LeftOut) -> None:
        """Count what ``other`` has counted."""
        self.reasons.update(other.reasons)
        for reason, named in other.examples.items():
            mine = self.examples.setdefault(reason, [])
            mine += named[: _EXAMPLES - len(mine)]


def find_files(folder: Path, left_out: LeftOut, only: Sequence[str] = ()) -> tuple[SourceFile, ...]:
    """Walk over a repository, in the order of names, and find what each Python file is imported as.

    Links are not followed. Hidden folders, virtual environments, caches and build output are passed over, and so
    is ``site-packages``, unless ``folder`` is one itself.

    Args:
        folder: the repository, or a folder with installed packages, or one package.
        left_out: collects what cannot be read.
        only: names of the folders and modules directly in ``folder`` that are read; all of them if empty.

    Returns:
        The files by path, whatever order the file system gives them in.

    Raises:
        DataError: there is no such folder, or one of ``only`` is not in it.
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "there is no such folder"
        raise DataError(f"{folder}: {what}; name the folder of a repository or of an installed package")
    for name in only:
        if not (folder / name).exists():
            raise DataError(f"{folder / name}: there is no such file or folder; check the name")
    paths = sorted(_walk(folder, frozenset(only), left_out), key=lambda path: path.parts)
    return tuple(_place(folder, paths))


def _walk(folder: Path, only: frozenset[str], left_out: LeftOut) -> Iterator[Path]:
    def leave_out(reason: str, path: Path) -> None:
        left_out.add(reason, path.relative_to(folder).as_posix())

    pending = [folder]
    while pending:
        place = pending.pop()
        try:
            with os.scandir(place) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            leave_out(f"cannot be read ({error.strerror})", place)
            continue
        for entry in entries:
            if place == folder and only and entry.name not in only:
                continue
            path = Path(entry.path)
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                leave_out(f"cannot be read ({error.strerror})", path)
                continue
            if stat.S_ISLNK(status.st_mode):
                if path.is_dir() or path.suffix == ".py":
                    leave_out("is a link", path)
            elif stat.S_ISDIR(status.st_mode):
                if not _is_junk(path):
                    pending.append(path)
            elif path.suffix == ".py" and stat.S_ISREG(status.st_mode):
                if status.st_size > MAX_BYTES:
                    leave_out(f"is larger than {MAX_BYTES >> 20} MiB", path)
                else:
                    yield path


def _is_junk(folder: Path) -> bool:
    name = folder.name
    if name.startswith(".") or name in _JUNK or name.endswith((".egg-info", ".dist-info")):
        return True
    if (folder / "pyvenv.cfg").exists():
        return True
    return name in _JUNK_UNLESS_PACKAGE and not (folder / "__init__.py").exists()


def _place(folder: Path, paths: Sequence[Path]) -> Iterator[SourceFile]:
    """Give every file its import root and module name.

    A file's root is the first folder above it without an ``__init__.py``. Packages without one (PEP 420) are known
    by what the repository imports: ``import pkg.mod`` makes ``src/pkg/mod.py`` a module of ``src``.
    """
    packages = {path.parent for path in paths if path.name == "__init__.py"}
    imported = _imported(paths)
    roots = _declared_roots(folder, paths)
    for path in paths:
        if not path.stem.isidentifier():
            continue  # a script that nothing can import
        root = path.parent
        while root in packages or (root != root.parent and not root.is_relative_to(folder) and _is_package(root)):
            root = root.parent
        for other in roots:
            name = _module_name(path, other)
            if other != root and root.is_relative_to(other) and _is_imported(name, imported):
                root = other
                break
        name = _module_name(path, root)
        if not name or not all(part.isidentifier() for part in name.split(".")):
            continue
        inside = path.relative_to(folder)
        is_test = bool(_TEST_NAME.match(path.stem)) or path.stem == "conftest"
        is_test = is_test or not _TEST_FOLDERS.isdisjoint(inside.parts[:-1])
        yield SourceFile(path, inside.as_posix(), root, name, path.name == "__init__.py", is_test)


def _is_package(folder: Path) -> bool:
    return (folder / "__init__.py").is_file()


def _module_name(path: Path, root: Path) -> str:
    if not path.is_relative_to(root):
        return ""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_imported(name: str, imported: frozenset[str]) -> bool:
    """Whether somebody imports the module, or its folder, by this name. A name of one part proves nothing."""
    return "." in name and (name in imported or name.rpartition(".")[0] in imported)


def _imported(paths: Iterable[Path]) -> frozenset[str]:
    names: set[str] = set()
    for path in paths:
        try:
            found = _IMPORT.findall(path.read_bytes())
        except OSError:
            continue  # reported where the file is read for good
        for raw in found:
            names.add(raw.decode("ascii", "replace"))
    return frozenset(names)


def _declared_roots(folder: Path, paths: Sequence[Path]) -> tuple[Path, ...]:
    """Folders that may be import roots of packages without ``__init__.py``, the likeliest first."""
    found = [folder / "src", *(folder / name for name in _from_pyproject(folder / "pyproject.toml")), folder]
    found += [path.parent for path in paths if path.name == "conftest.py"]
    return tuple(dict.fromkeys(root for root in found if root.is_dir()))


def _from_pyproject(file: Path) -> list[str]:
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    named: list[object] = []
    for keys in (
        ("tool", "pytest", "ini_options", "pythonpath"),
        ("tool", "setuptools", "packages", "find", "where"),
        ("tool", "setuptools", "package-dir", ""),
    ):
        value: object = data
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        named += value if isinstance(value, list) else [value]
    return [os.path.normpath(name) for name in named if isinstance(name, str) and not os.path.isabs(name)]
