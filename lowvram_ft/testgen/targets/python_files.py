"""The Python files below a folder, and which of them are code under test."""

from __future__ import annotations

import ast
import fnmatch
import keyword
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from lowvram_ft.data.from_repo.import_graph import statements
from lowvram_ft.data.syntax import parse
from lowvram_ft.testgen.targets.git import listed

MAX_BYTES = 1 << 20
"""A larger file is taken for generated."""
TEST_PATTERNS = ("test_*.py", "*_test.py")
"""pytest's own ``python_files``."""
TEST_FOLDERS = frozenset({"test", "tests", "testing", "unit_tests", "unittests", "testsuite"})

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

_NO_TESTS_ALONE = frozenset({"testing"})
"""Folders that hold tests in some projects, and in others code for the tests of their users."""
_JUNK = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages", "venv", "env", "virtualenv"})
_JUNK_UNLESS_PACKAGE = frozenset({"build", "dist", "_build", "htmlcov"})
_SCRIPTS = frozenset({"setup.py", "noxfile.py", "fabfile.py"})
_GENERATED_NAME = re.compile(r"_pb2(_grpc)?\.py$")
_GENERATED = re.compile(
    r"(?im)^#.*(@generated|generated\b.*\b(do not|don'?t) (edit|change|track)|(do not|don'?t) (edit|change).*generated)"
)
_HEAD = 2000


def python_files(folder: Path) -> list[Path]:
    """The Python files below a folder, in the order of their paths.

    What git ignores is passed over, and so are links, hidden folders, virtual environments, caches and build output.

    Args:
        folder: absolute; itself never passed over.
    """
    found = listed(folder)
    paths = list(_walk(folder)) if found is None else [folder / name for name in found if _is_wanted(folder, name)]
    return sorted(paths, key=lambda path: path.parts)


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        below = Path(place)
        folders[:] = sorted(name for name in folders if not _is_junk(below / name) and not (below / name).is_symlink())
        for name in files:
            path = below / name
            if name.endswith(".py") and path.is_file() and not path.is_symlink():
                yield path


def _is_wanted(folder: Path, name: str) -> bool:
    """Whether a file that git lists is there, and lies in no folder that is passed over."""
    path = folder / name
    if path.is_symlink() or not path.is_file():
        return False
    inside = PurePosixPath(name).parent
    return not any(_is_junk(folder / part) for part in (inside, *inside.parents) if part.name)


def _is_junk(folder: Path) -> bool:
    name = folder.name
    if name.startswith(".") or name in _JUNK or name.endswith((".egg-info", ".dist-info")):
        return True
    if (folder / "pyvenv.cfg").exists():
        return True
    return name in _JUNK_UNLESS_PACKAGE and not (folder / "__init__.py").exists()


def is_test_name(name: str, patterns: Sequence[str] = ()) -> bool:
    """Whether a file's name says that it belongs to the tests.

    Args:
        name: the last part of its path.
        patterns: the project's ``python_files``, beside pytest's own; one that fits every file says nothing.
    """
    telling = [pattern for pattern in patterns if "/" not in pattern and pattern.replace("*", "") not in ("", ".py")]
    return name == "conftest.py" or any(fnmatch.fnmatch(name, pattern) for pattern in (*TEST_PATTERNS, *telling))


def is_test_path(parts: Sequence[str], patterns: Sequence[str] = ()) -> bool:
    """Whether a path, from the project's folder, is that of a test or of a helper of tests."""
    folders = TEST_FOLDERS - _NO_TESTS_ALONE
    return is_test_name(parts[-1], patterns) or any(part in folders for part in parts[:-1])


def why_not(path: Path, parts: Sequence[str], patterns: Sequence[str] = ()) -> str:
    """Why a file that was found in a folder is not code under test; empty where it is.

    Args:
        path: the file.
        parts: its path from the project's folder, or as much of it as is known.
        patterns: the project's ``python_files``.
    """
    name = parts[-1]
    if is_test_path(parts, patterns):
        return "is a test, or lies with the tests"
    if name in _SCRIPTS and not (path.parent / "__init__.py").exists():
        return "is a script of the project's tools"
    if name == "conf.py" and not {"doc", "docs"}.isdisjoint(parts):
        return "is the configuration of the documentation"
    if "migrations" in parts[:-1]:
        return "is a migration"
    if not path.stem.isidentifier() or keyword.iskeyword(path.stem):
        return "has no name to import it by"
    try:
        if path.stat().st_size > MAX_BYTES:
            return f"is larger than {MAX_BYTES >> 20} MiB"
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return "is not UTF-8 text"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if _GENERATED_NAME.search(name) or _GENERATED.search(text[:_HEAD]):
        return "is generated"
    tree = parse(text)
    if tree is None:
        return "does not parse"
    if name in ("test.py", "tests.py") and holds_tests(tree):
        return "is a test, or lies with the tests"
    return "" if is_testable(tree) else "holds no function and no class"


def holds_tests(tree: ast.Module) -> bool:
    """Whether a module defines what pytest would collect."""
    for node in statements(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            return True
        if isinstance(node, ast.ClassDef) and any(
            isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) and part.name.startswith("test")
            for part in node.body
        ):
            return True
    return False


def is_testable(tree: ast.Module) -> bool:
    """Whether a module defines something that a test can be about: a function, or a class with anything in it."""
    for node in statements(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return True
        if isinstance(node, ast.ClassDef) and (node.decorator_list or any(not _is_empty(part) for part in node.body)):
            return True
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Lambda):
            return True
    return False


def _is_empty(node: ast.stmt) -> bool:
    """A ``pass``, a docstring or an ellipsis."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
