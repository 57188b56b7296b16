"""How a project keeps its tests: where those of a module go, and which of them are there."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from lowvram_ft.errors import UsageError
from lowvram_ft.testgen.marks import Mark, digest, read_mark
from lowvram_ft.testgen.placing import shown
from lowvram_ft.testgen.project import layout
from lowvram_ft.testgen.project.conftests import joined
from lowvram_ft.testgen.project.layout import Layout, Module, Votes
from lowvram_ft.testgen.project.survey import Project, Survey, find_project, module_of, survey
from lowvram_ft.testgen.project.test_files import affixes, certain_imports, core, pytest_name, stamp_of

__all__ = ["GENERATED", "Placement", "Project", "find_project", "place"]

GENERATED = "_generated"
"""What follows a module's name in the name of our tests, where a person's tests have the plain one."""


@dataclass(frozen=True)
class Placement:
    """A module, and where its tests go.

    Attributes:
        source: the module, resolved.
        import_root: folder that has to be on ``sys.path``.
        module: dotted name that it is imported by from there.
        test_file: where its new tests go.
        existing: test files of this module that are there, those named for it first.
        ours: the one of them that testgen wrote and nobody has edited; None where there is none.
        conftest: every ``conftest.py`` from the project's folder down to that of the test file, as one text.
        fixtures: names of the fixtures in it.
    """

    source: Path
    import_root: Path
    module: str
    test_file: Path
    existing: tuple[Path, ...]
    ours: Path | None
    conftest: str
    fixtures: tuple[str, ...]


def place(project: Project, source: Path, out: Path | None = None, taken: Collection[Path] = ()) -> Placement:
    """Find out where the tests of a module go.

    A file that a person wrote, or has edited since, is never the one: ours then gets a name of its own beside it.

    Args:
        project: that the module belongs to.
        source: the module.
        out: the user's own choice: a file, or a folder that is there.
        taken: places of other modules' new tests.

    Raises:
        UsageError: the module cannot be imported by a name; the place is taken by a person's file; a ``conftest.py``
            that pytest would load cannot be read.
    """
    path = Path(os.path.realpath(source))
    seen = survey(project, path)
    module = module_of(project, path, frozenset(name for _, _, names in seen.tests for name in names))
    named, importing = _existing(module, seen)
    ours = _ours(path, [*named, *importing], named)
    if out is not None:
        chosen = Path(os.path.abspath(out))
        if chosen.is_dir():
            chosen = chosen / _file_name(project, seen.votes, _usual_name(module, seen.votes))
        if chosen.suffix != ".py" or chosen.name in ("conftest.py", "__init__.py"):
            raise UsageError(f"{out}: is no place for tests; name a file such as test_{module.parts[-1]}.py")
        if chosen.exists() and _mark(chosen) is None:
            raise UsageError(f"{out}: exists already, and is not touched; give another place with --out")
        if chosen.exists() and _is_anothers(module, chosen):
            raise UsageError(f"{out}: holds the tests of another module; give another place with --out")
        ours = chosen if chosen.exists() else None
    elif ours is not None:
        chosen = ours
    else:
        chosen = _choose(project, seen, module, named, taken)
        ours = chosen if chosen.exists() else None
    conftest, fixtures = joined(project.root, chosen.parent)
    named = [path for path in named if _certain(path) or path in seen.by_fixtures]  # else it does not parse
    existing = dict.fromkeys([*named, *importing, *([ours] if ours is not None else [])])
    return Placement(path, module.root, module.name, chosen, tuple(existing), ours, conftest, fixtures)


def _existing(module: Module, seen: Survey) -> tuple[list[Path], list[Path]]:
    """(test files named for a module, others that import it)."""
    named, importing = [], []
    names = module.names()
    for path, about, imported in seen.tests:
        plain = about.removesuffix(GENERATED)
        if about in names or plain in names or plain.strip("_") in names:
            if layout.belongs(module, imported) == 1.0 or _is_beside(module, imported):
                named.append(path)
        elif module.name in imported and module.name in _certain(path) | seen.by_fixtures.get(path, frozenset()):
            importing.append(path)
    return named, importing


def _is_beside(module: Module, imported: frozenset[str]) -> bool:
    """Whether a test of a module's name is the module's though it imports only a package above, such as ``pkg``."""
    return layout.belongs(module, imported) > 0 and not any(
        name.rpartition(".")[2] == module.parts[-1] and name.startswith(f"{module.parts[0]}.") and name != module.name
        for name in imported
    )


def _mark(path: Path) -> Mark | None:
    try:
        return read_mark(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None  # what cannot be read is none of ours


def _ours(source: Path, files: list[Path], named: list[Path]) -> Path | None:
    """The file that testgen wrote for a module: by its name, or by the digest of the module in its first line."""
    code = None
    for path in files:
        mark = _mark(path)
        if mark is None:
            continue
        if path in named:
            return path
        if code is None:
            code = digest(source.read_text(encoding="utf-8-sig", errors="replace"))
        if mark.code == code:
            return path
    return None


def _usual_name(module: Module, votes: Votes) -> str:
    """What a module's test file is named for, by the ways of its project."""
    way = votes.layout(module.file.parent)
    return _about(module, way.name if way is not None else "stem", votes)


def _about(module: Module, way: str, votes: Votes) -> str:
    last = module.parts[-1]
    about = module.cores()[way]
    kept = votes.underscores.get(True, 0.0) > votes.underscores.get(False, 0.0)
    return about.removesuffix(last.strip("_")) + last if kept and last.strip("_") else about


def _file_name(project: Project, votes: Votes, about: str) -> str:
    """A name that pytest collects, built as most of the project's are."""
    known = affixes(project.python_files)
    before, after = max(known, key=lambda pair: (votes.affixes.get(pair, 0.0), -known.index(pair)))
    return f"{before}{about}{after}.py"


def _choose(project: Project, seen: Survey, module: Module, named: list[Path], taken: Collection[Path]) -> Path:
    """Where a new file goes."""
    names = {pytest_name(path): path for path in (*taken, *(path for path, _, _ in seen.tests))}
    if named:
        own = _most_usual(project, seen.votes, module, named)
        pair = next(iter(affix for affix in affixes(project.python_files) if core(own, [affix])))
        return _generated(project, own.parent, core(own, [pair]), pair, module, names, taken)
    way = seen.votes.layout(module.file.parent)
    folder = _folder(project, module, way)
    for about in _abouts(module, way, seen.votes):
        path = folder / _file_name(project, seen.votes, about)
        if path in taken:
            continue
        if not os.path.lexists(path) and not _clashes(project, path, names):
            return path
        if path.exists() and _mark(path) is not None and not _is_anothers(module, path):
            return path
    about = _about(module, way.name if way is not None else "stem", seen.votes)
    known = affixes(project.python_files)
    pair = max(known, key=lambda pair: (seen.votes.affixes.get(pair, 0.0), -known.index(pair)))
    return _generated(project, folder, about, pair, module, names, taken)


def _is_anothers(module: Module, path: Path) -> bool:
    """Whether a file of ours is that of another module, by what it imports."""
    return module.name not in _certain(path)


def _certain(path: Path) -> frozenset[str]:
    """What a test file imports; nothing of one that is huge or does not parse."""
    return certain_imports(path, stamp_of(path), pytest_name(path).rpartition(".")[0])


def _abouts(module: Module, way: Layout | None, votes: Votes) -> Iterator[str]:
    """Names for a module's tests, the project's own way first, then longer ones that other modules do not have."""
    ways = [way.name if way is not None else "stem", "parent", "inner", "full"]
    yield from dict.fromkeys(_about(module, name, votes) for name in ways)


def _generated(
    project: Project,
    folder: Path,
    about: str,
    pair: tuple[str, str],
    module: Module,
    names: dict[str, Path],
    taken: Collection[Path],
) -> Path:
    """A name for our tests beside a person's of the plain name."""
    plain = about.removesuffix(GENERATED)
    path = folder / f"{pair[0]}{plain}{GENERATED}{pair[1]}.py"
    if os.path.lexists(path) and _mark(path) is None:
        raise UsageError(f"{shown(path)}: exists already, as does {plain}'s own; give another place with --out")
    if path not in taken and not _clashes(project, path, names):
        return path
    for way in ("parent", "inner", "full"):
        other = folder / f"{pair[0]}{module.cores()[way]}{GENERATED}{pair[1]}.py"
        if other not in taken and not os.path.lexists(other) and not _clashes(project, other, names):
            return other
    raise UsageError(
        f"{shown(path)}: pytest cannot tell it from {shown(names[pytest_name(path)])}; give another place with --out"
    )


def _clashes(project: Project, path: Path, names: dict[str, Path]) -> bool:
    """Whether pytest would import another test file by the same name, and refuse one of both."""
    if project.import_mode == "importlib":
        return False
    other = names.get(pytest_name(path))
    return other is not None and other != path


def _most_usual(project: Project, votes: Votes, module: Module, named: list[Path]) -> Path:
    """Of several test files of a module, the one that lies where most of the project's do."""
    way = votes.layout(module.file.parent)
    usual = layout.path_of(way, module, project.root) if way is not None else None
    return min(named, key=lambda path: (path.parent != usual, len(path.parts), path.parts))


def _folder(project: Project, module: Module, way: Layout | None) -> Path:
    """The folder of a new test file."""
    if way is not None:
        found = layout.path_of(way, module, project.root)
        if found is not None:
            return found
    if project.test_roots:
        near = [root for root in project.test_roots if root.parent in module.file.parents]
        return max(near, key=lambda root: len(root.parent.parts)) if near else project.test_roots[0]
    return module.file.parent if project.lone else project.root / "tests"
