"""A look at a project: its folder, where its modules are imported from, its test files."""

from __future__ import annotations

import functools
import keyword
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lowvram_ft.errors import UsageError
from lowvram_ft.testgen.project import layout
from lowvram_ft.testgen.project.conventions import find_style
from lowvram_ft.testgen.project.fixture_imports import through_fixtures
from lowvram_ft.testgen.project.layout import Module, Votes
from lowvram_ft.testgen.project.pytest_settings import find_root, read_settings
from lowvram_ft.testgen.project.style import Style
from lowvram_ft.testgen.project.test_files import Tree, affixes, core, imports_of, pytest_name, read_tree
from lowvram_ft.testgen.targets.python_files import TEST_FOLDERS, TEST_PATTERNS


@dataclass(frozen=True)
class Project:
    """A project, as far as its tests are concerned.

    Attributes:
        root: its folder, where pytest would take its ``rootdir``; of a file outside of all projects, the folder that
            its package is imported from.
        test_roots: folders that tests are kept in: those of the configuration, else what is there.
        python_files: patterns of the names of test files.
        pythonpath: folders that pytest's configuration puts on ``sys.path``.
        import_mode: of pytest: ``prepend``, ``append`` or ``importlib``.
        style: how its tests are written.
        lone: whether there is no project around the file.
        configured: whether ``test_roots`` are what the configuration says.
    """

    root: Path
    test_roots: tuple[Path, ...] = ()
    python_files: tuple[str, ...] = TEST_PATTERNS
    pythonpath: tuple[Path, ...] = ()
    import_mode: str = "prepend"
    style: Style = field(default_factory=Style)
    lone: bool = False
    configured: bool = False


@dataclass(frozen=True)
class Survey:
    """The modules of a project, its test files, and what they say of how it keeps them.

    Attributes:
        modules: code, by path.
        tests: of each test file its path, what it is named for, and what it imports, through fixtures as well.
        votes: of the pairs of both.
        by_fixtures: of test files, what they import through fixtures alone, where that is something.
    """

    modules: tuple[Module, ...]
    tests: tuple[tuple[Path, str, frozenset[str]], ...]
    votes: Votes
    by_fixtures: Mapping[Path, frozenset[str]] = field(default_factory=dict)


def find_project(source: Path) -> Project:
    """The project that a module belongs to.

    Args:
        source: a ``.py`` file.

    Raises:
        UsageError: a file of the project's configuration cannot be read.
    """
    path = Path(os.path.realpath(source))
    found = find_root(path.parent)
    root = found if found is not None else _package_parent(path.parent)
    settings = read_settings(root)
    testpaths = tuple(folder for folder in settings.testpaths if folder.is_relative_to(root))
    tree = read_tree(root, settings.python_files, found is None, path)
    test_roots = testpaths or _test_roots(root, tree)
    return Project(
        root=root,
        test_roots=test_roots,
        python_files=settings.python_files,
        pythonpath=settings.pythonpath,
        import_mode=settings.import_mode,
        style=find_style(root, tree),
        lone=found is None,
        configured=bool(testpaths),
    )


def survey(project: Project, source: Path) -> Survey:
    """Look at the modules and tests of a project; what has not changed since the last look is not read again.

    Args:
        project: to look at.
        source: the module that tests are written for.
    """
    return _survey(project, read_tree(project.root, project.python_files, project.lone, source))


@functools.lru_cache(maxsize=4)
def _survey(project: Project, tree: Tree) -> Survey:
    known = affixes(project.python_files)
    conftests = dict(tree.conftests)
    described, voting = [], []
    by_fixtures: dict[Path, frozenset[str]] = {}
    for path, stamp in zip(tree.tests, tree.stamps, strict=True):
        imported = imports_of(path, stamp, pytest_name(path).rpartition(".")[0])
        through = through_fixtures(path, stamp, conftests)
        if through:
            by_fixtures[path] = through
            imported |= through
        named = core(path, known)
        described.append((path, named, imported))
        if named:
            affix = next(pair for pair in known if core(path, [pair]))
            voting.append((path, named, affix, imported))
    imported_by_tests = frozenset(name for _, _, names in described for name in names)
    packages: dict[Path, Path] = {}
    modules = []
    for path in tree.modules:
        root, name = _import_root(path, project, imported_by_tests, packages)
        if name:
            modules.append(Module(path, root, tuple(name.split("."))))
    counted = [entry for entry in voting if _is_in_test_roots(entry[0], project)] or voting
    votes = layout.count(modules, counted, project.root)
    return Survey(tuple(modules), tuple(described), votes, by_fixtures)


def _is_in_test_roots(path: Path, project: Project) -> bool:
    """Whether pytest collects a file when it is called without arguments."""
    return not project.configured or any(path.is_relative_to(root) for root in project.test_roots)


def module_of(project: Project, source: Path, imported: frozenset[str]) -> Module:
    """What a file is imported as, and from where.

    Args:
        project: that it belongs to.
        source: the file, resolved.
        imported: what the project's tests import.

    Raises:
        UsageError: Python cannot import it by a name.
    """
    root, name = _import_root(source, project, imported, {})
    if not name:
        raise UsageError(f"{source}: has no name to be imported by; name a module of a package")
    for part in name.split("."):
        if not part.isidentifier() or keyword.iskeyword(part):
            what = "a keyword" if keyword.iskeyword(part) else "no name in Python"
            raise UsageError(f"{source}: cannot be imported as {name} ({part} is {what}); rename it")
    return Module(source, root, tuple(name.split(".")))


def _import_root(
    path: Path, project: Project, imported: frozenset[str], packages: dict[Path, Path]
) -> tuple[Path, str]:
    """The folder for ``sys.path`` and the dotted name of a file.

    A folder without ``__init__.py`` may be a package all the same (PEP 420): below ``src`` or a folder of pytest's
    ``pythonpath`` it is one; below the project's own folder where its name can be one, unless tests import the file
    without it.
    """
    parent = packages.get(path.parent)
    if parent is None:
        parent = packages[path.parent] = _package_parent(path.parent)
    certain = [*project.pythonpath, project.root / "src", project.root / "lib"]
    roots = sorted((root for root in certain if _is_above(root, parent)), key=lambda root: -len(root.parts))
    if roots and not (roots[0].name == "lib" and roots[0] not in project.pythonpath and _is_package(roots[0])):
        return roots[0], _name(path, roots[0])
    if not project.lone and _is_above(project.root, parent):
        name, plain = _name(path, project.root), _name(path, parent)
        may_be = all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split("."))
        if may_be and (name in imported or plain not in imported):
            return project.root, name
    return parent, _name(path, parent)


def _is_above(root: Path, folder: Path) -> bool:
    return folder == root or folder.is_relative_to(root)


def _name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_package(folder: Path) -> bool:
    return os.path.isfile(folder / "__init__.py")


def _package_parent(folder: Path) -> Path:
    """The first folder from here up that is not a package with an ``__init__.py``."""
    while _is_package(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def _test_roots(root: Path, tree: Tree) -> tuple[Path, ...]:
    """The folders named for tests that are there: the project's own before those of its packages."""
    found = {root / name for name in TEST_FOLDERS if (root / name).is_dir() and name != "testing"}
    for path in tree.tests:
        parts = path.relative_to(root).parts[:-1]
        place = next((number for number, part in enumerate(parts) if part in TEST_FOLDERS), None)
        if place is not None:
            found.add(root.joinpath(*parts[: place + 1]))
    return tuple(sorted(found, key=lambda folder: (len(folder.parts), folder.name != "tests", folder.parts)))
