"""The modules and the test files of a project, and what each test file imports."""

from __future__ import annotations

import ast
import fnmatch
import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowvram_ft.data.syntax import absolute_module, parse
from lowvram_ft.testgen.targets.python_files import MAX_BYTES, TEST_FOLDERS, TEST_PATTERNS, is_test_path, python_files

MOST_FILES = 20_000
"""Test files that are read; of more, those first by path."""
_IMPORT = re.compile(
    rb"(?m)^[ \t]*(?:from[ \t]+(?P<module>[.\w]+)[ \t]+import[ \t]*(?P<names>\([^)]*\)|[^\n#;]*)"
    rb"|import[ \t]+(?P<modules>[^\n#;]+))"
)
_NAME = re.compile(rb"[\w.]+(?=[ \t]*(?:as\b|[,)\n\r#]|$))")


Stamp = tuple[int, int]
"""Of a file: when it was changed last (ns), and its size."""


@dataclass(frozen=True)
class Tree:
    """The Python files of a project, by path.

    Attributes:
        modules: code, such as may be under test.
        tests: what pytest would collect.
        stamps: of each test file.
        conftests: every ``conftest.py`` with its stamp.
    """

    modules: tuple[Path, ...]
    tests: tuple[Path, ...]
    stamps: tuple[Stamp, ...]
    conftests: tuple[tuple[Path, Stamp], ...] = ()


def read_tree(root: Path, patterns: Sequence[str], lone: bool, source: Path) -> Tree:
    """List the files of a project; nothing is read but their names.

    Args:
        root: the project's folder.
        patterns: ``python_files`` of pytest.
        lone: there is no project: only the folder itself, its ``tests`` and the source's package are looked at.
        source: the module that tests are written for.
    """
    modules: list[Path] = []
    tests: list[Path] = []
    stamps: list[Stamp] = []
    conftests: list[tuple[Path, Stamp]] = []
    for path in _lone_files(root, source) if lone else python_files(root):
        parts = path.relative_to(root).parts
        if _is_collected(parts, patterns):
            if len(tests) < MOST_FILES:
                tests.append(path)
                stamps.append(stamp_of(path))
        elif path.name == "conftest.py":
            conftests.append((path, stamp_of(path)))
        elif not is_test_path(parts):
            modules.append(path)
    return Tree(tuple(modules), tuple(tests), tuple(stamps), tuple(conftests))


def stamp_of(path: Path) -> Stamp:
    """What tells a file's text from what it was, without reading it."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _lone_files(root: Path, source: Path) -> list[Path]:
    """A lone file may lie in a user's home: all that is below is not its project."""
    found = {path for path in root.glob("*.py") if path.is_file() and not path.is_symlink()}
    below = {root / name for name in TEST_FOLDERS}
    if source.parent != root:
        below.add(root / source.relative_to(root).parts[0])
    for folder in below:
        if folder.is_dir() and not folder.is_symlink():
            found.update(python_files(folder))
    return sorted(found, key=lambda path: path.parts)


def _is_collected(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    name = parts[-1]
    if name in ("conftest.py", "__init__.py"):
        return False
    for pattern in patterns:
        if "/" in pattern:
            fits = fnmatch.fnmatch("/".join(parts), pattern) or fnmatch.fnmatch("/".join(parts), f"*/{pattern}")
        else:
            fits = fnmatch.fnmatch(name, pattern)
        # a pattern that fits every file says nothing by itself
        if fits and (pattern.replace("*", "") not in ("", ".py") or not TEST_FOLDERS.isdisjoint(parts[:-1])):
            return True
    return False


def imports_of(path: Path, stamp: Stamp, package: str) -> frozenset[str]:
    """What a test file imports, at a glance: modules, and ``module.name`` for each name taken from one.

    Args:
        path: the test file.
        stamp: of its text, so that a changed file is read again.
        package: that a relative import in it begins at; empty for none.
    """
    return _glance(path, package, stamp)


@functools.lru_cache(maxsize=2 * MOST_FILES)
def _glance(path: Path, package: str, stamp: Stamp) -> frozenset[str]:
    if stamp[1] > MAX_BYTES:
        return frozenset()
    try:
        data = path.read_bytes()
    except OSError:
        return frozenset()  # pytest cannot read it either
    found: set[str] = set()
    for match in _IMPORT.finditer(data):
        if match["modules"] is not None:
            found.update(name.decode("utf-8", "replace") for name in _NAME.findall(match["modules"]))
            continue
        module = _absolute(match["module"].decode("utf-8", "replace"), package)
        if module:
            found.add(module)
            found.update(f"{module}.{name.decode('utf-8', 'replace')}" for name in _NAME.findall(match["names"]))
    return frozenset(found)


def _absolute(module: str, package: str) -> str:
    name = module.lstrip(".")
    node = ast.ImportFrom(module=name or None, names=[], level=len(module) - len(name))
    return absolute_module(node, package) or ""


@functools.lru_cache(maxsize=4096)
def certain_imports(path: Path, stamp: Stamp, package: str) -> frozenset[str]:
    """What `imports_of` gives, by the syntax tree: text in a string that looks like an import is none."""
    if stamp[1] > MAX_BYTES:
        return frozenset()
    try:
        tree = parse(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError):
        tree = None
    return frozenset(_imported(tree, package)) if tree is not None else frozenset()


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported(node, package)


def imported(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    """What one statement imports: modules, and ``module.name`` for each name taken from one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    module = absolute_module(node, package)
    if module:
        yield module
        yield from (f"{module}.{alias.name}" for alias in node.names)


def affixes(patterns: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """What stands before and after a module's name in the names of test files, as in ``("test_", "")``.

    Args:
        patterns: ``python_files`` of pytest; those that say nothing of this are passed over.
    """
    found = []
    for pattern in patterns:
        name = pattern.rpartition("/")[2]
        if name.endswith(".py") and name.count("*") == 1 and "[" not in name and "?" not in name and name != "*.py":
            before, after = name.removesuffix(".py").split("*")
            found.append((before + "_" * (bool(before) and before[-1].isalnum()), after))
    if not found and any(pattern.rpartition("/")[2] in ("*.py", "*") for pattern in patterns):
        found.append(("test_", ""))
    return tuple(dict.fromkeys(found)) or affixes(TEST_PATTERNS)


def core(path: Path, known: Sequence[tuple[str, str]]) -> str:
    """What a test file is named for: ``mod`` of ``test_mod.py``; empty where its name follows no pattern."""
    for before, after in known:
        stem = path.stem
        if stem.startswith(before) and stem.endswith(after) and len(stem) > len(before) + len(after):
            return stem[len(before) : len(stem) - len(after)]
    return ""


def pytest_name(path: Path) -> str:
    """The name that pytest imports a test file by, with ``--import-mode`` prepend or append."""
    parts = [path.stem]
    folder = path.parent
    while os.path.isfile(folder / "__init__.py") and folder != folder.parent:
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts)
