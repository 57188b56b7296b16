"""Find out how a project's tests are written: imports, classes, quotes, the length of lines, the formatter."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.data.from_repo.import_graph import statements
from lowvram_ft.data.syntax import parse
from lowvram_ft.testgen.project.pytest_settings import read_ini, read_toml
from lowvram_ft.testgen.project.style import DEFAULT_LENGTH, Style, command_for
from lowvram_ft.testgen.project.test_files import Tree
from lowvram_ft.testgen.targets.python_files import MAX_BYTES

SAMPLE = 40
"""Test files that are read; of more, some from all over the project."""
_RUFF_FILES = (".ruff.toml", "ruff.toml")
_HOOKS = re.compile(r"(?m)^\s*-\s*id:\s*['\"]?(ruff-format|black)\b")


def find_style(root: Path, tree: Tree) -> Style:
    """Find out how a project's tests are written.

    Args:
        root: the project's folder.
        tree: its files.

    Raises:
        UsageError: a file of the project's configuration cannot be read.
    """
    seen = _seen(root, tree)
    length, quotes, formatter = _configured(root)
    return Style(
        imports="module" if seen["module"] > seen["from"] else "from",
        classes=seen["method"] > seen["function"],
        quotes=quotes or ("'" if seen["'"] > seen['"'] else '"'),
        line_length=length or DEFAULT_LENGTH,
        formatter=formatter,
    )


@functools.lru_cache(maxsize=4)
def _seen(root: Path, tree: Tree) -> Counter[str]:
    """Count what a sample of the tests does."""
    seen: Counter[str] = Counter()
    known = frozenset(_top_name(root, module) for module in tree.modules)
    for path in tree.tests[:: max(1, len(tree.tests) // SAMPLE)][:SAMPLE]:
        try:
            if path.stat().st_size > MAX_BYTES:
                continue
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError):
            continue  # one file less in a sample
        parsed = parse(text)
        if parsed is not None:
            _look(parsed, known, seen)
            _count_quotes(text, seen)
    return seen


def _top_name(root: Path, module: Path) -> str:
    """The first part of a module's name, near enough to tell the project's own imports from others."""
    parts: Sequence[str] = module.relative_to(root).with_suffix("").parts
    if parts[0] in ("src", "lib") and len(parts) > 1:
        parts = parts[1:]
    return parts[0]


def _look(tree: ast.Module, packages: frozenset[str], seen: Counter[str]) -> None:
    # `from pkg import mod` takes a module; by convention these names are lower case and used with a dot
    dotted = {part.value.id for part in ast.walk(tree) if _is_dotted(part)}  # type: ignore[attr-defined]
    for node in statements(tree.body):
        if isinstance(node, ast.Import):
            seen["module"] += sum(alias.name.partition(".")[0] in packages for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").partition(".")[0] in packages):
            whole = all((alias.asname or alias.name) in dotted and alias.name.islower() for alias in node.names)
            seen["module" if whole else "from"] += 1
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            seen["function"] += node.name.startswith("test")
        elif isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
            seen["method"] += sum(part.name.startswith("test") for part in methods)


def _is_dotted(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)


def _count_quotes(text: str, seen: Counter[str]) -> None:
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.STRING:
                body = token.string.lstrip("rRbBuUfF")
                other = "'" if body[0] == '"' else '"'
                if not body.startswith(('"""', "'''")) and other not in body:
                    seen[body[0]] += 1
    except (tokenize.TokenError, IndentationError):
        return  # what was counted so far stays


def _configured(root: Path) -> tuple[int | None, str | None, tuple[str, ...] | None]:
    """Length of lines, quotation mark and formatter, as far as the project's files name them."""
    tool = _table(read_toml(root / "pyproject.toml"), "tool")
    ruff = next((read_toml(root / name) for name in _RUFF_FILES if (root / name).is_file()), _table(tool, "ruff"))
    has_ruff = "ruff" in tool or any((root / name).is_file() for name in _RUFF_FILES)
    black = _table(tool, "black")
    lengths = [ruff.get("line-length"), black.get("line-length"), *_ini_lengths(root)]
    length = next((value for value in lengths if isinstance(value, int) and 20 <= value <= 1000), None)
    style = _table(ruff, "format").get("quote-style")
    quotes = {"single": "'", "double": '"'}.get(style if isinstance(style, str) else "")
    hooks = set(_HOOKS.findall(_text(root / ".pre-commit-config.yaml")))
    if "format" in ruff or "ruff-format" in hooks or (has_ruff and "black" not in tool and "black" not in hooks):
        wanted: tuple[str, ...] | None = ("ruff", "format")
    elif "black" in tool or "black" in hooks:
        wanted = ("black",)
    else:
        wanted = None
    return length, quotes, wanted if wanted is not None and command_for(wanted[0]) is not None else None


def _ini_lengths(root: Path) -> list[int]:
    found = []
    for name, section in (
        ("setup.cfg", "flake8"),
        ("tox.ini", "flake8"),
        (".flake8", "flake8"),
        ("setup.cfg", "pycodestyle"),
    ):
        parser = read_ini(root / name)
        value = parser.get(section, "max-line-length", fallback=None) or parser.get(
            section, "max_line_length", fallback=""
        )
        match = re.match(r"\s*(\d+)", value or "")
        if match:
            found.append(int(match[1]))
    return found


def _table(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = table.get(name)
    return value if isinstance(value, dict) else {}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
