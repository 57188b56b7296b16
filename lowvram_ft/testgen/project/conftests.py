"""The ``conftest.py`` files that pytest would load for a test, as one text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from lowvram_ft.data.from_repo.fixtures import fixture_name, is_fixture
from lowvram_ft.data.from_repo.import_graph import statements
from lowvram_ft.data.syntax import absolute_module, parse
from lowvram_ft.errors import UsageError
from lowvram_ft.testgen.project.test_files import pytest_name


def joined(root: Path, folder: Path) -> tuple[str, tuple[str, ...]]:
    """The files from a project's folder down to that of a test: what a later one defines goes before.

    Args:
        root: the project's folder.
        folder: of the test, that need not be there yet.

    Returns:
        (text, names of the fixtures in it, sorted). Relative imports are written out; ``from __future__`` comes first.

    Raises:
        UsageError: one of the files cannot be read, or does not parse.
    """
    futures: dict[str, None] = {}
    texts: list[str] = []
    fixtures: set[str] = set()
    for file in _files(root, folder):
        text, tree = _read(file)
        fixtures.update(_fixtures(tree))
        text, named = _apart(text, tree, pytest_name(file).rpartition(".")[0])
        futures.update(dict.fromkeys(named))
        texts.append(text.strip("\n") + "\n")
    if not texts:
        return "", ()
    first = f"from __future__ import {', '.join(futures)}\n\n" if futures else ""
    return first + "\n\n".join(texts), tuple(sorted(fixtures))


def _files(root: Path, folder: Path) -> Iterator[Path]:
    """From the project's folder down; of a test outside of it, that of its own folder alone."""
    inside = folder.is_relative_to(root)
    above = [part for part in (folder, *folder.parents) if part.is_relative_to(root)] if inside else [folder]
    for part in reversed(above):
        file = part / "conftest.py"
        if file.is_file():
            yield file


def _read(file: Path) -> tuple[str, ast.Module]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: is not UTF-8 text (byte {error.start}); convert it") from error
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); check who may read it") from error
    tree = parse(text)
    if tree is None:
        raise UsageError(f"{file}: does not parse, so pytest can run no test beside it; mend it first")
    return text, tree


def _fixtures(tree: ast.Module) -> Iterator[str]:
    for node in statements(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_fixture(node):
            yield fixture_name(node)


def _apart(text: str, tree: ast.Module, package: str) -> tuple[str, list[str]]:
    """A file without its ``from __future__`` lines, and with absolute imports; and what it wants of the future."""
    lines = text.splitlines(keepends=True) if "\f" not in text else re.split(r"(?<=\n)", text)
    futures: list[str] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        first = node.lineno - 1
        if node.module == "__future__" and not node.level:
            futures += [alias.name for alias in node.names]
            for number in range(first, node.end_lineno or node.lineno):
                lines[number] = ""
        elif node.level and package:
            module = absolute_module(node, package)
            if module:
                head, tail = lines[first][: node.col_offset], lines[first][node.col_offset :]
                lines[first] = head + re.sub(r"^from\s+[.\s]+[\w.]*", f"from {module}", tail, count=1).replace(
                    f"from {module}import", f"from {module} import", 1
                )
    return "".join(lines), futures
