"""Where a project keeps the tests of a module: found out by a vote of the pairs of modules and tests that are there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lowvram_ft.testgen.targets.python_files import TEST_FOLDERS

_SAME_FOLDER = 10.0
"""How much more the pairs of a module's own folder count: large repositories keep several ways side by side."""
_MOST_NAMESAKES = 50
_ANCHORS = ("root", "above", "package", "folder")
_NESTS = ("flat", "inner", "package", "repository")
_NAMES = ("stem", "inner", "full", "parent")


@dataclass(frozen=True)
class Module:
    """A module of a project.

    Attributes:
        file: its path.
        root: folder that it is imported from.
        parts: of its dotted name.
    """

    file: Path
    root: Path
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its dotted name."""
        return ".".join(self.parts)

    @property
    def folders(self) -> tuple[str, ...]:
        """The packages that it lies in; a package does not lie in itself."""
        return self.parts[:-1]

    def cores(self) -> dict[str, str]:
        """What its tests may be named for, by the way of naming; a plain name of each, with no underscores about."""
        plain = [part.strip("_") or part for part in self.parts]
        return {
            "stem": plain[-1],
            "inner": "_".join(plain[1:] or plain),
            "full": "_".join(plain),
            "parent": "_".join(plain[-2:]),
        }

    def names(self) -> frozenset[str]:
        """All names of a test file for it, but for what stands before and after."""
        found = {self.parts[-1], "_".join(self.parts), "_".join(self.parts[1:]), "_".join(self.parts[-2:])}
        if self.file.name == "__init__.py":
            found |= {"init", "__init__"}
        return frozenset(found | set(self.cores().values())) - {""}


class Layout(NamedTuple):
    """A way to place tests.

    Attributes:
        anchor: that the path begins at: the project's ``root``, the folder ``above`` the package, the top ``package``,
            or the module's own ``folder``.
        tail: folders from there, such as ``tests`` and ``unit``.
        nest: which of the module's folders follow: none (``flat``), those in the package (``inner``), the ``package``
            too, or all from the ``repository``.
        name: what the file is named for: the module's ``stem``, or its dotted name from the ``inner`` package on, in
            ``full``, or with its ``parent`` alone.
    """

    anchor: str
    tail: tuple[str, ...]
    nest: str
    name: str

    def simplicity(self) -> tuple[int, ...]:
        """Of two ways that explain the same pairs, the smaller one is taken."""
        ranks = (_NESTS.index(self.nest), _NAMES.index(self.name), _ANCHORS.index(self.anchor))
        return len(self.tail), *ranks


@dataclass(frozen=True)
class Votes:
    """What the pairs of a project speak for.

    Attributes:
        all: by layout.
        near: by the folder of the module, and layout.
        affixes: by what stands before and after a module's name.
        underscores: by whether a private module's underscore is kept in the name of its test.
    """

    all: Mapping[Layout, float]
    near: Mapping[Path, Mapping[Layout, float]]
    affixes: Mapping[tuple[str, str], float]
    underscores: Mapping[bool, float]

    def layout(self, folder: Path) -> Layout | None:
        """The way for a module in a folder; None where nothing is known."""
        near = self.near.get(folder, {})
        best: tuple[float, tuple[int, ...]] | None = None
        chosen = None
        for layout, weight in self.all.items():
            rank = (-weight - _SAME_FOLDER * near.get(layout, 0.0), layout.simplicity())
            if best is None or rank < best:
                best, chosen = rank, layout
        return chosen


def anchors(module: Module, root: Path) -> dict[str, Path]:
    """The folders that a path to a module's tests may begin at."""
    found = {"root": root, "folder": module.file.parent}
    above = module.root.parent if module.root.name in ("src", "lib") and module.root != root else module.root
    if above.is_relative_to(root):
        found["above"] = above
    if len(module.parts) > 1 or module.file.name == "__init__.py":
        found["package"] = module.root / module.parts[0]
    return found


def nested(module: Module, root: Path) -> dict[str, tuple[str, ...]]:
    """The folders that may follow."""
    found: dict[str, tuple[str, ...]] = {"flat": (), "inner": module.folders[1:], "package": module.folders}
    if module.file.is_relative_to(root):
        parts = module.file.parent.relative_to(root).parts
        found["repository"] = parts[:-1] if module.file.name == "__init__.py" else parts
    return found


def path_of(layout: Layout, module: Module, root: Path) -> Path | None:
    """The folder of a module's tests; None where the layout's anchor does not exist for it."""
    start = anchors(module, root).get(layout.anchor)
    after = nested(module, root).get(layout.nest)
    return start.joinpath(*layout.tail, *after) if start is not None and after is not None else None


def explain(module: Module, folder: Path, named: str, root: Path) -> Iterator[Layout]:
    """Every way by which a test file of a module lies in a folder and is named as it is.

    Args:
        module: under test.
        folder: of the test file.
        named: what the test file is named for.
        root: the project's folder.
    """
    ways = [way for way, plain in module.cores().items() if named.strip("_") == plain or named == plain]
    if named == module.parts[-1] and "stem" not in ways:
        ways.append("stem")
    if not ways:
        return
    places = nested(module, root)
    for anchor, start in anchors(module, root).items():
        if not folder.is_relative_to(start):
            continue
        below = folder.relative_to(start).parts
        for nest, after in places.items():
            if anchor == "folder" and nest != "flat":
                continue
            if after and below[-len(after) :] != after:
                continue
            tail = below[: len(below) - len(after)]
            if _is_tail(anchor, tail):
                for way in ways:
                    yield Layout(anchor, tail, nest, way)


def _is_tail(anchor: str, tail: tuple[str, ...]) -> bool:
    """Whether folders are such as tests are kept in; the package's own ones are not."""
    if anchor == "folder":
        return not tail or (len(tail) == 1 and tail[0] in TEST_FOLDERS)
    if anchor == "package":
        return bool(tail) and tail[0] in TEST_FOLDERS
    return not tail or any(part in TEST_FOLDERS or "test" in part.lower() for part in tail)


def count(
    modules: Sequence[Module], tests: Sequence[tuple[Path, str, tuple[str, str], frozenset[str]]], root: Path
) -> Votes:
    """Let the pairs of a project vote.

    Args:
        modules: code.
        tests: of each test file its path, what it is named for, what stands around that, and what it imports.
        root: the project's folder.
    """
    by_name: dict[str, list[Module]] = defaultdict(list)
    for module in modules:
        for name in module.names():
            by_name[name].append(module)
    everywhere: dict[Layout, float] = defaultdict(float)
    near: dict[Path, dict[Layout, float]] = defaultdict(lambda: defaultdict(float))
    around: dict[tuple[str, str], float] = defaultdict(float)
    underscores: dict[bool, float] = defaultdict(float)
    for path, named, affix, imported in tests:
        namesakes = by_name.get(named, [])
        if len(namesakes) > _MOST_NAMESAKES:
            namesakes = [module for module in namesakes if module.name in imported]
        weighed = [(belongs(module, imported), module) for module in namesakes]
        strongest = max((weight for weight, _ in weighed), default=0.0)
        if not strongest:
            continue
        around[affix] += strongest
        for weight, module in weighed:
            if weight < strongest:
                continue
            stem = module.parts[-1]
            if stem.startswith("_") and stem.strip("_"):
                underscores[named == stem or named.endswith(f"_{stem}")] += weight
            for layout in explain(module, path.parent, named, root):
                everywhere[layout] += weight
                near[module.file.parent][layout] += weight
    return Votes(everywhere, near, around, underscores)


def belongs(module: Module, imported: frozenset[str]) -> float:
    """How much speaks for a test file of a module's name being the module's, by what it imports, 0 to 1."""
    if module.name in imported:
        return 1.0
    if any(".".join(module.parts[:length]) in imported for length in range(1, len(module.parts))):
        return 0.5
    return 0.0
