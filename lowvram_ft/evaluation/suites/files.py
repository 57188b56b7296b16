"""Tasks of a file: JSONL with ``task_id``, or one JSON list with ``id``. Every problem is told at once."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lowvram_ft.data.jsonl import BrokenLines, read_rows
from lowvram_ft.data.row import SOLUTION
from lowvram_ft.data.sources.samples import SELF_CORRECTION, sample_path
from lowvram_ft.data.syntax import parse
from lowvram_ft.errors import DataError
from lowvram_ft.evaluation.suites.task import REFINEMENTS, Task, make_task

_SHOWN = 20
"""Problems named in a message; the rest are counted."""
_OPTIONAL_TEXTS = ("module", "entry_point", "reference_test")


def jsonl_tasks(suite: str, path: Path) -> list[Task]:
    """The tasks of a JSONL file.

    Args:
        suite: their name.
        path: one object a line: ``task_id`` (text or a number) and ``code``; optionally ``module``, ``entry_point``,
            ``wrong_solutions`` (a list of code) and ``reference_test``.

    Raises:
        DataError: the file is missing, or has lines that are no task; names them all.
    """
    broken = BrokenLines()
    rows = list(read_rows(path, "skip", broken))
    problems = [(number, f"is no object ({reason}); mend the line") for number, reason in broken.found]
    return _tasks(suite, str(path), rows, "task_id", problems)


def self_correction_tasks(suite: str, path: Path | None) -> list[Task]:
    """Tasks whose writer sees its failures and may try again.

    Args:
        suite: their name.
        path: a JSON list of objects: ``id`` and ``code``, and what `jsonl_tasks` knows; None for those of the kit.

    Raises:
        DataError: the file is missing, no JSON list, or has entries that are no task; names them all.
    """
    file = path if path is not None else sample_path(SELF_CORRECTION)
    if not file.is_file():
        raise DataError(f"{file}: no such file; give a JSON list of objects with id and code")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{file}: is no JSON ({error}); mend it") from error
    if not isinstance(values, list):
        raise DataError(f"{file}: needs a list of objects with id and code (got a {type(values).__name__}); mend it")
    return _tasks(suite, str(file), list(enumerate(values, 1)), "id", [], REFINEMENTS)


def _tasks(
    suite: str,
    file: str,
    values: Iterable[tuple[int, Any]],
    name: str,
    problems: list[tuple[int, str]],
    refinements: int = 0,
) -> list[Task]:
    tasks: list[Task] = []
    first: dict[str, int] = {}
    for number, value in values:
        found = _problems(value, name)
        if not found and first.setdefault(str(value[name]), number) != number:
            found = [f"{name} {value[name]!r} is at {first[str(value[name])]} already; give it another"]
        if found:
            problems += [(number, problem) for problem in found]
        else:
            tasks.append(_task(suite, value, name, refinements))
    if problems:
        lines = [f"{file}:{number}: {problem}" for number, problem in sorted(problems)]
        more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        raise DataError("\n".join([*lines[:_SHOWN], *more]))
    return tasks


def _task(suite: str, value: Mapping[str, Any], name: str, refinements: int) -> Task:
    return make_task(
        suite,
        str(value[name]),
        value["code"],
        value.get("module") or SOLUTION,
        entry_point=value.get("entry_point") or "",
        wrong_solutions=tuple(value.get("wrong_solutions") or ()),
        reference_test=value.get("reference_test") or "",
        refinements=refinements,
    )


def _problems(value: Any, name: str) -> list[str]:
    """What is wrong with an entry, each thing by its key."""
    if not isinstance(value, dict):
        return [f"is no object (got a {type(value).__name__}); write one"]
    code = value.get("code")
    if not isinstance(code, str) or not code.strip() or not _is_name(value.get(name)):
        return [f"needs {name} and code (columns: {', '.join(sorted(value)) or 'none'}); add them"]
    wrong = value.get("wrong_solutions") or []
    kinds = [f"{key} is no text; write one" for key in _OPTIONAL_TEXTS if not _is_text(value.get(key))]
    if not isinstance(wrong, list) or not all(isinstance(text, str) and text.strip() for text in wrong):
        kinds.append("wrong_solutions is no list of code; write one")
    if kinds:
        return kinds
    texts = [("code", code)] + [(f"wrong_solutions[{place}]", text) for place, text in enumerate(wrong)]
    entry, module = value.get("entry_point") or "", value.get("module") or SOLUTION
    found = []
    if not all(part.isidentifier() for part in module.split(".")):
        found.append(f"module {module!r} is no name that can be imported; give another")
    for key, text in texts:
        found += _code_problems(key, text, entry)
    if (value.get("reference_test") or "").strip() and parse(value["reference_test"]) is None:
        found.append("reference_test does not parse; mend it")
    return found


def _code_problems(key: str, text: str, entry: str) -> list[str]:
    tree = parse(text)
    if tree is None:
        return [f"{key} does not parse; mend it"]
    if entry and entry not in _defined(tree):
        return [f"{key} does not define {entry}; name what is there as entry_point"]
    return []


def _defined(tree: ast.Module) -> set[str]:
    """Names that the top of a module binds, in ``if`` and ``try`` too."""
    scopes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names: set[str] = set()
    waiting: list[ast.AST] = [*tree.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, scopes):
            names.add(node.name)
        elif isinstance(node, ast.Name):
            names |= {node.id} if isinstance(node.ctx, ast.Store) else set()
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
        elif not isinstance(node, ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return names


def _is_name(value: Any) -> bool:
    return (isinstance(value, str) and bool(value.strip())) or type(value) is int


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)
