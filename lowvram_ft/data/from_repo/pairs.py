"""A user's own repository: which of its modules is tested by which of its test files, and why one would think so.

A test file is paired with a module by three things: the share of what its tests use that the module defines (names
that many test files use count little, as in TF-IDF), how alike their names are, and whether their folders mirror
each other.
"""

from __future__ import annotations

import ast
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowvram_ft.data.from_repo.evidence import Evidence, alike, bare_name, below, mirrors
from lowvram_ft.data.from_repo.facts import repository_name, repository_version
from lowvram_ft.data.from_repo.fixture_parts import above, with_fixtures
from lowvram_ft.data.from_repo.import_graph import Binding, ImportGraph, Target
from lowvram_ft.data.from_repo.parts_of_tests import FixturePart, TestPart, read_fixture_parts, read_test_parts
from lowvram_ft.data.from_repo.source_tree import LeftOut, SourceFile, find_files
from lowvram_ft.data.syntax import parse
from lowvram_ft.errors import DataError

PAIRS_PER_TEST_FILE = 2
_MIN_SCORE = 0.4
_MIN_SHARE = 0.3
_MIN_SHARE_BESIDE = 0.25
_SAME_NAME = 0.8
_KINDRED = 0.5

_NO_CODE = frozenset({"docs", "doc", "examples", "example", "benchmarks", "benchmark", "asv_bench"})
_HELPERS = frozenset({"testing", "_testing", "test_utils", "testutils"})
"""Folders of modules that help tests: code under test only where the test file lies in them too."""
_NO_MODULE = frozenset({"setup", "conftest", "noxfile", "fabfile", "__main__"})


@dataclass(frozen=True)
class Pair:
    """A module and a test file that tests it.

    Attributes:
        repo: name of the repository.
        version: of the package, or the commit; empty where neither is known.
        code: the module.
        test: the test file.
        tests: those of its tests that use the module.
        reexports: for dotted paths that the tests can go, the names there that the module defines.
        requires: modules of the repository that are not importable from the module's root, by test.
        evidence: why they are a pair.
    """

    repo: str
    version: str
    code: SourceFile
    test: SourceFile
    tests: tuple[TestPart, ...]
    reexports: Mapping[str, frozenset[str]]
    requires: Mapping[str, tuple[str, ...]]
    evidence: Evidence


def find_pairs(
    root: Path,
    only: Sequence[str] = (),
    *,
    left_out: LeftOut | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[Pair]:
    """Pair the modules of a repository with the test files that test them.

    Args:
        root: the repository; or a folder with installed packages; or an installed package that ships its tests.
        only: paths from ``root``; test files elsewhere are not looked at. Modules are found in the whole of the
            folders directly in ``root`` that these are in.
        left_out: collects what could not be used.
        on_progress: called with what is being done, how many files are done, and how many there are.

    Returns:
        The pairs, by test file and then by score. They depend on what the files hold alone.

    Raises:
        DataError: there is no such folder, no Python in it, no test, or no test that uses a module.
    """
    left_out = left_out if left_out is not None else LeftOut()
    folder = Path(os.path.abspath(root))
    wanted = tuple(os.path.normpath(path).replace(os.sep, "/") for path in only)
    files = find_files(folder, left_out, tuple(dict.fromkeys(path.partition("/")[0] for path in wanted)))
    for path in wanted:
        if not (folder / path).exists():
            raise DataError(f"{folder / path}: there is no such file or folder; check the name")
    graph, tests = _read(files, wanted, left_out, on_progress)
    _require_tests(folder, files, tests)
    suite = _Suite(folder, graph, tests)
    pairs = [pair for file in tests for pair in suite.pairs(file, left_out)]
    if not pairs:
        raise DataError(
            f"{folder}: none of its {len(tests)} test files uses a module of it in a way that can be read (looked at "
            "their imports and the names in their tests); check that the folder holds the package as well as its tests"
        )
    return pairs


def _require_tests(folder: Path, files: Sequence[SourceFile], tests: Mapping[SourceFile, object]) -> None:
    if not files:
        raise DataError(f"{folder}: holds no Python file that can be imported; name the folder of a repository")
    if not tests:
        raise DataError(
            f"{folder}: no test was found in {len(files)} Python files (looked for functions test… and classes Test… "
            "in test_*.py, *_test.py, tests.py and folders tests/ and test/); name a repository that holds its tests"
        )


def _read(
    files: Sequence[SourceFile],
    wanted: Sequence[str],
    left_out: LeftOut,
    on_progress: Callable[[str, int, int], None] | None,
) -> tuple[ImportGraph, dict[SourceFile, tuple[TestPart, ...]]]:
    """Every file is parsed, and its tree forgotten: a large repository's trees do not fit in memory together."""
    graph = ImportGraph()
    suspects: list[SourceFile] = []
    helpers: list[SourceFile] = []
    for place, file in enumerate(files):
        tree = _tree(file, left_out)
        if tree is None:
            continue
        graph.add(file, tree)
        inside = not wanted or any(f"{file.relative}/".startswith(f"{path}/") for path in wanted)
        if file.path.name == "conftest.py":
            helpers.append(file)
        elif file.is_test and inside:
            suspects.append(file)
        if on_progress is not None:
            on_progress("read modules", place + 1, len(files))
    conftests: dict[Path, dict[str, FixturePart]] = {}
    for file in helpers:
        tree = _tree(file, left_out)
        conftests[file.path.parent] = read_fixture_parts(tree, file, graph) if tree is not None else {}
    tests: dict[SourceFile, tuple[TestPart, ...]] = {}
    for place, file in enumerate(suspects):
        tree = _tree(file, left_out)
        parts = read_test_parts(tree, file, graph) if tree is not None else ()
        if parts:
            offered = above(file.path, conftests)
            tests[file] = tuple(with_fixtures(part, offered) for part in parts)
        if on_progress is not None:
            on_progress("read tests", place + 1, len(suspects))
    return graph, tests


def _tree(file: SourceFile, left_out: LeftOut) -> ast.Module | None:
    try:
        tree = parse(file.read())
    except OSError as error:
        left_out.add(f"cannot be read ({error.strerror})", file.relative)
        return None
    except UnicodeDecodeError:
        left_out.add("is not UTF-8", file.relative)
        return None
    if tree is None:
        left_out.add("does not parse", file.relative)
    return tree


class _Suite:
    """All test files of a repository, and how often each name is used by them."""

    def __init__(self, folder: Path, graph: ImportGraph, tests: Mapping[SourceFile, tuple[TestPart, ...]]) -> None:
        self.folder = folder
        self.repo = repository_name(folder)
        self.graph = graph
        self.tests = tests
        self.tops = {file.module.partition(".")[0] for file in graph.files.values() if not file.is_test}
        self.by_name: dict[str, list[str]] = {}
        for module in graph.files:
            self.by_name.setdefault(bare_name(module.rpartition(".")[2]), []).append(module)
        users = Counter(target for parts in tests.values() for target in {t for part in parts for t in part.uses})
        self.weight = {target: math.log((len(tests) + 1) / count) for target, count in users.items()}

    def pairs(self, test: SourceFile, left_out: LeftOut) -> list[Pair]:
        """The modules that a test file mainly exercises: none, one or two."""
        found = [(self._evidence(test, module), module) for module in self._candidates(test)]
        found.sort(key=lambda one: (-one[0].score, one[1]))
        if not found:
            left_out.add("test file uses no module of the repository that can be told", test.relative)
            return []
        namesakes = self._namesakes(test)
        named = [one for one in found if one[1] in namesakes and one[0].score >= _MIN_SCORE]
        if namesakes and not named:
            left_out.add("test file is named for a module that it does not use by name", test.relative)
            return []
        kept = (named or [one for one in found if _is_main(one[0])])[:1]
        kept += [one for one in found if kept and one != kept[0] and _is_beside(one[0], kept[0][0])]
        if not kept:
            left_out.add("test file exercises no module mainly", test.relative)
        return [self._pair(test, module, evidence) for evidence, module in kept[:PAIRS_PER_TEST_FILE]]

    def _namesakes(self, test: SourceFile) -> set[str]:
        """Modules with the test file's name in the folder that mirrors its own."""
        plain = bare_name(test.path.stem)
        folder = below(Path(test.relative).parts[:-1], self.tops)
        return {
            module
            for module in self.by_name.get(plain, ())
            if below(tuple(module.split(".")[:-1]), self.tops) == folder and _is_code(self.graph.files[module], test)
        }

    def _candidates(self, test: SourceFile) -> list[str]:
        used = {target.module for part in self.tests[test] for target in part.uses if target.name}
        return sorted(module for module in used if _is_code(self.graph.files[module], test))

    def _evidence(self, test: SourceFile, module: str) -> Evidence:
        mine, whole = 0.0, 0.0
        used: Counter[str] = Counter()
        for part in self.tests[test]:
            heaviest: dict[str, float] = {}  # one name a module: a module of units or symbols is no more tested by it
            for target in part.uses:
                if target.name and _is_code(self.graph.files[target.module], test):
                    heaviest[target.module] = max(heaviest.get(target.module, 0.0), self.weight[target])
                    used[target.name] += target.module == module
            mine += heaviest.get(module, 0.0)
            whole += sum(heaviest.values())
        used = +used
        ranked = sorted(used.items(), key=lambda item: (-item[1], item[0]))
        file = self.graph.files[module]
        parts = below(Path(test.relative).parts[:-1], self.tops)
        above = below(tuple(module.split(".")) if file.is_package else tuple(module.split(".")[:-1]), self.tops)
        return Evidence(mine / whole, alike(test.path.stem, module, used), mirrors(parts, above), tuple(ranked))

    def _pair(self, test: SourceFile, module: str, evidence: Evidence) -> Pair:
        code = self.graph.files[module]
        tests = tuple(part for part in self.tests[test] if any(use.module == module and use.name for use in part.uses))
        requires = {part.name: self._elsewhere(part, code) for part in tests}
        return Pair(
            repo=self.repo or module.partition(".")[0],
            version=repository_version(self.folder, code.root, module.partition(".")[0]),
            code=code,
            test=test,
            tests=tests,
            reexports=self._reexports(test, module),
            requires={name: modules for name, modules in requires.items() if modules},
            evidence=evidence,
        )

    def _elsewhere(self, part: TestPart, code: SourceFile) -> tuple[str, ...]:
        files = {use.module: self.graph.files[use.module] for use in part.uses if use.module in self.graph.files}
        return tuple(sorted(module for module, file in files.items() if file.root != code.root))

    def _reexports(self, test: SourceFile, module: str) -> dict[str, frozenset[str]]:
        """Which names of the module its packages, and the paths that the tests go, pass on."""
        names = [name for name in sorted(self.graph.names[module].defined) if not name.startswith("__")]
        parts = module.split(".")
        others = {".".join(parts[:depth]) for depth in range(1, len(parts))}
        others |= {path for part in self.tests[test] for path in part.paths}
        others |= {binding.module for binding in self.graph.names[test.module].imported.values()}
        found: dict[str, frozenset[str]] = {}
        for other in sorted(others - {module, ""}):
            top, *rest = other.split(".")
            there = self.graph.follow(Binding(top), rest)
            if there is None or there.name:
                continue
            passed_on = {name for name in names if self.graph.resolve(there.module, name) == Target(module, name)}
            if passed_on:
                found[other] = frozenset(passed_on)
        return found


def _is_main(evidence: Evidence) -> bool:
    if evidence.score < _MIN_SCORE:
        return False
    return evidence.share >= _MIN_SHARE or evidence.alike >= _SAME_NAME


def _is_beside(evidence: Evidence, first: Evidence) -> bool:
    """Whether a second module is tested in earnest too."""
    if evidence.score < _MIN_SCORE:
        return False
    if first.alike >= _SAME_NAME and evidence.alike < _KINDRED:
        return False
    return evidence.share >= _MIN_SHARE_BESIDE and evidence.share >= first.share / 2


def _is_code(file: SourceFile, test: SourceFile) -> bool:
    if file.is_test or file.path.stem in _NO_MODULE:
        return False
    folders = file.relative.split("/")
    if not _HELPERS.isdisjoint(folders[:-1]) and _HELPERS.isdisjoint(test.relative.split("/")):
        return False
    return _NO_CODE.isdisjoint(folders[:-1])
