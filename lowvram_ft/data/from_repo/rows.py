"""Pairs of a repository to training rows in TestGenEval's shape. Nothing is run."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lowvram_ft.data.from_repo.conftest_fixtures import Conftest, Fixtures, after_imports
from lowvram_ft.data.from_repo.import_graph import bindings, read_names
from lowvram_ft.data.from_repo.names import dotted_name, names_in
from lowvram_ft.data.from_repo.pairs import Pair
from lowvram_ft.data.from_repo.parts_of_tests import TestPart
from lowvram_ft.data.from_repo.source_tree import LeftOut, SourceFile
from lowvram_ft.data.imports import CannotNormalize, import_from_solution
from lowvram_ft.data.imports.edits import Edits
from lowvram_ft.data.row import SOLUTION
from lowvram_ft.data.syntax import absolute_module, parse
from lowvram_ft.data.trimming import trim
from lowvram_ft.data.unittest_style import NotConvertible, to_pytest, uses_unittest

RowObject = dict[str, Any]

_ELSEWHERE = "uses modules that are not importable from the code's root"
_RELATIVE = re.compile(r"^from\s*\.[.\s\\]*[\w.]*\s*import\b")


def rows(
    pair: Pair, left_out: LeftOut | None = None, *, kinds: Iterable[str] = ("file", "function")
) -> Iterator[RowObject]:
    """The rows of a pair: the whole module, then each of its functions and classes that tests reach on its own.

    A row has the columns ``id``, ``repo``, ``version``, ``code_file``, ``test_file``, ``code_src``, ``test_src``,
    ``module`` (what ``code_src`` is served as), ``origin`` (the module that it is from), ``root`` (the folder that
    has to be importable), ``kind`` (``"file"`` or ``"function"``), ``names`` (what is under test) and ``why``.

    Args:
        pair: a module and its test file.
        left_out: collects tests and definitions that cannot be used.
        kinds: which rows.
    """
    left_out = left_out if left_out is not None else LeftOut()
    try:
        code, test = pair.code.read(), pair.test.read()
    except (OSError, UnicodeDecodeError):
        left_out.add("changed while it was read", pair.test.relative)
        return
    chosen = tuple(_usable(pair, left_out))
    prepared = _prepare(pair, code, test, chosen, left_out) if chosen else None
    if prepared is None:
        return
    for kind in kinds:
        if kind == "file":
            yield _file_row(pair, code, prepared, chosen)
        else:
            yield from _function_rows(pair, code, prepared, left_out)


@dataclass(frozen=True)
class _Usable:
    """A test that can run alone, and the fixtures of a ``conftest.py`` that it takes."""

    part: TestPart
    fixtures: frozenset[str]


def _usable(pair: Pair, left_out: LeftOut) -> Iterator[_Usable]:
    fixtures = Fixtures(_conftests(pair.test))
    for part in pair.tests:
        problem = part.problems[0] if part.problems else None
        if problem is None and part.name in pair.requires:
            problem = _ELSEWHERE
        if problem is None and part.fixtures:
            problem = fixtures.problem(part.fixtures)
        if problem is None:
            yield _Usable(part, part.fixtures)
        else:
            left_out.add(f"test {problem}", f"{pair.test.relative}::{part.name}")


def _conftests(test: SourceFile) -> tuple[Conftest, ...]:
    """Those that pytest would load for a test file, the nearest first, up to the repository's folder."""
    found = []
    folder = test.path.parent
    for _ in range(test.relative.count("/") + 1):
        file = folder / "conftest.py"
        try:
            text = file.read_bytes().decode("utf-8-sig") if file.is_file() else None
        except (OSError, UnicodeDecodeError):
            text = None  # reported by the walk
        if text is not None and folder.is_relative_to(test.root):
            found.append(Conftest(text, ".".join(folder.relative_to(test.root).parts)))
        elif text is not None:
            found.append(Conftest(text, ""))
        folder = folder.parent
    return tuple(found)


def _prepare(pair: Pair, code: str, test: str, chosen: tuple[_Usable, ...], left_out: LeftOut) -> str | None:
    """The test file with the chosen tests alone, importing what it tests from ``solution``, in pytest's style."""
    where = f"{pair.test.relative} with {pair.code.module}"
    test = absolute_imports(test, pair.test.package)
    text = trim.trim_test(test, [one.part.name for one in chosen])
    wanted = frozenset(name for one in chosen for name in one.fixtures)
    if wanted:
        inlined = Fixtures(_conftests(pair.test)).inline(text, wanted)
        if inlined is None:
            left_out.add("test file has another meaning for a name that a fixture in conftest.py uses", where)
            return None
        text = inlined
    try:
        tree = parse(text)
        if tree is not None and uses_unittest(tree):
            text = to_pytest(text)
        text = shorten_paths(text, pair.code.module, pair.reexports)
        return import_from_solution(text, code, pair.code.module, package=pair.test.package, reexports=pair.reexports)
    except NotConvertible as problem:
        left_out.add(f"test file: unittest style: {problem.reason}", where)
    except CannotNormalize as problem:
        left_out.add(f"test file: {problem.reason}", where)
    return None


def absolute_imports(text: str, package: str) -> str:
    """``text`` with its relative imports made absolute; those that lead out of ``package`` stay.

    Args:
        text: a module.
        package: the package that it lies in.
    """
    tree = parse(text)
    if tree is None or not package:
        return text
    edits = Edits(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            module = absolute_module(node, package)
            if module is not None:
                edits.replace(node, _RELATIVE.sub(f"from {module} import", edits.text_of(node)))
    return edits.result()


def shorten_paths(text: str, module: str, reexports: Mapping[str, Collection[str]]) -> str:
    """Where ``nx.community.f`` is the module's ``f``, it becomes ``quality.f``, with an ``import … as quality``.

    Args:
        text: a test file without relative imports.
        module: the module under test.
        reexports: dotted paths and the names of the module that are found there.
    """
    tree = parse(text)
    if tree is None:
        return text
    bound = {name: where for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)
             for name, where in bindings(node, "")}  # fmt: skip
    taken = {node.id for node in names_in([tree]) if not isinstance(node.ctx, ast.Load)}
    taken |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    alias = module.rpartition(".")[2].strip("_")
    while alias in taken or alias in bound or not alias or re.search(rf"\b{alias}\b", text):
        alias += "_module"
    edits, found = Edits(text), False
    for node in ast.walk(tree):
        inner = node.value if isinstance(node, ast.Attribute) else None
        chain = dotted_name(inner) if isinstance(inner, ast.Attribute) else ()
        if not chain or inner is None or chain[0] not in bound or chain[0] in taken:
            continue
        start = bound[chain[0]]
        path = ".".join((start.module, *([start.name] if start.name else []), *chain[1:]))
        if isinstance(node, ast.Attribute) and node.attr in reexports.get(path, ()):
            edits.replace(inner, alias)
            found = True
    if not found:
        return text
    edits.insert_before_line(after_imports(tree) + 1, f"import {module} as {alias}\n")
    return edits.result()


def _file_row(pair: Pair, code: str, test: str, chosen: tuple[_Usable, ...]) -> RowObject:
    module = pair.code.module
    names = sorted({use.name for one in chosen for use in one.part.uses if use.module == module and use.name})
    return _row(pair, "file", code, test, module, names)


def _function_rows(pair: Pair, code: str, test: str, left_out: LeftOut) -> Iterator[RowObject]:
    """One row for each definition that some tests reach without reaching another that it does not need."""
    alone = absolute_imports(code, pair.code.package)
    reached = trim.reached(alone, test)
    for name in trim.definitions(alone):
        tests = [one for one, names in reached.items() if name in names]
        if not tests:
            continue
        where = f"{pair.code.relative}::{name}"
        part = trim.trim_code(alone, [name])
        tree = parse(part)
        there = read_names(tree, "").defined if tree is not None else frozenset()
        own = [one for one in tests if reached[one] <= there]
        if not own:
            left_out.add("definition is reached by tests of others only", where)
            continue
        kept = trim.trim_test(test, own)
        try:
            kept = import_from_solution(kept, part)
        except CannotNormalize as problem:
            left_out.add(f"definition: {problem.reason}", where)
            continue
        yield _row(pair, "function", part, kept, SOLUTION, [name])


def _row(pair: Pair, kind: str, code: str, test: str, module: str, names: list[str]) -> RowObject:
    place = pair.code.relative if kind == "file" else f"{pair.code.relative}::{names[0]}"
    digest = hashlib.sha256("\0".join((code, test)).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return {
        "id": f"{place}@{pair.test.relative}#{digest}",
        "repo": pair.repo,
        "version": pair.version,
        "code_file": pair.code.relative,
        "test_file": pair.test.relative,
        "code_src": code,
        "test_src": test,
        "module": module,
        "origin": pair.code.module,
        "root": str(pair.code.root),
        "kind": kind,
        "names": names,
        "why": str(pair.evidence),
    }
