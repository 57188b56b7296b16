"""What speaks for a test file's being the one of a module: uses, names, folders."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_SHARE, _ALIKE, _FOLDER = 0.5, 0.35, 0.15
_LONG_ENOUGH = 4
_LAYOUT = frozenset({"test", "tests", "unit_tests", "unittests", "testsuite", "unit", "integration", "src", "lib"})


@dataclass(frozen=True)
class Evidence:
    """Why a test file is taken to test a module.

    Attributes:
        share: of what its tests use, weighted by how rare each name is, 0 to 1.
        alike: how alike the names are, 0 to 1.
        folder: how well the folders mirror each other, 0 to 1.
        used: definitions of the module and how many tests use each, the most used first.
    """

    share: float
    alike: float
    folder: float
    used: tuple[tuple[str, int], ...]

    @property
    def score(self) -> float:
        """The three together, 0 to 1."""
        return _SHARE * self.share + _ALIKE * self.alike + _FOLDER * self.folder

    def __str__(self) -> str:
        names = ", ".join(f"{name} ({tests})" for name, tests in self.used[:4])
        more = f" and {len(self.used) - 4} more" if len(self.used) > 4 else ""
        return (
            f"score {self.score:.2f}: {self.share:.0%} of what its tests use is defined there: {names}{more}; "
            f"names {self.alike:.0%} alike, folders {self.folder:.0%}"
        )


def below(parts: tuple[str, ...], tops: set[str]) -> tuple[str, ...]:
    """What is left of a folder without what the layout adds: ``src``, ``tests``, the package's own name."""
    return tuple(part for part in parts if part not in _LAYOUT and part not in tops)


def mirrors(one: tuple[str, ...], other: tuple[str, ...]) -> float:
    """The share of two folders that is the same from their beginning, 0 to 1."""
    if not one and not other:
        return 1.0
    same = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        same += 1
    return same / max(len(one), len(other))


def bare_name(stem: str) -> str:
    """What a test file, or a module, is named for: ``test_unionfind`` and ``union_find`` for the same."""
    return re.sub(r"^tests?_|_tests?$", "", stem).replace("_", "").lower()


def alike(test_stem: str, module: str, used: Collection[str]) -> float:
    """How alike ``test_x_y`` and ``pkg.x.y`` are: 1.0 where one names the other, 0.8 where it names what is in it."""
    plain = re.sub(r"^tests?_|_tests?$", "", test_stem).strip("_")
    parts = [part.strip("_") for part in module.split(".")]
    if plain and plain in (parts[-1], "_".join(parts[-2:]), "_".join(parts), "".join(parts[-2:])):
        return 1.0
    mine, others = _words(plain), _words(parts[-1])
    if not mine or not others:
        return 0.0
    if mine == others or "".join(plain.split("_")) == "".join(parts[-1].split("_")):
        return 0.95
    initials = "".join(word[0] for word in parts[-1].split("_") if word)
    if plain in used or mine in map(_words, used) or (plain == initials and len(initials) > 2):
        return 0.8
    common = len(mine & others) / len(mine | others)
    contained = 0.75 if mine <= others or others <= mine else 0.0
    short, long = sorted((plain, parts[-1]), key=len)
    begins = 0.6 if len(short) >= _LONG_ENOUGH and long.startswith(short) else 0.0
    return max(common, contained, begins)


def _words(name: str) -> frozenset[str]:
    spread = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return frozenset(word.removesuffix("s") for word in re.split(r"_+", spread) if word)
