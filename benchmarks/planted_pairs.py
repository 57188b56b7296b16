"""Planted pairs of evaluations, and how often an interval of the difference of their means holds the true one.

Each task has a place between 0 and 1 on either side, correlated by the task; what a model scores there follows from the
place and from how good the model is (``rate``). Places are drawn once for all settings of a number of tasks, so that
settings share their luck.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ends = tuple[Floats, Floats]
Method = Callable[[Floats, Floats], Ends]

CHUNK = 1000
"""Simulations at a time, for the memory."""


def one_sample(place: Floats, rate: float, answers: Floats) -> Floats:  # noqa: ARG001 (one signature)
    """Passed or not."""
    return (place < rate).astype(float)


def several_samples(place: Floats, rate: float, answers: Floats) -> Floats:
    """Share of the answers that pass; tasks differ in how hard they are, half at random."""
    return (answers < np.where(place < rate, 0.5 + 0.5 * rate, 0.5 * rate)).mean(0)


def scores(place: Floats, rate: float, answers: Floats) -> Floats:  # noqa: ARG001 (one signature)
    """0 where no test passes, else the cube root of a uniform variate: mean 0.75."""
    return np.where(place < rate, np.cbrt(np.maximum(1 - place / rate, 0.0)), 0.0)


def coverage(place: Floats, rate: float, answers: Floats) -> Floats:  # noqa: ARG001 (one signature)
    """0 where no test passes, all of 1 for six in ten of the others, the rest from 0.3 to 1: mean 0.86."""
    within = place / rate
    return np.where(within < 0.6, 1.0, np.where(within < 1.0, 0.3 + 1.75 * (1 - within), 0.0))


def spread(place: Floats, rate: float, answers: Floats) -> Floats:  # noqa: ARG001 (one signature)
    """Without a point of its own anywhere: Beta(rate / (1 - rate), 1)."""
    return (1 - place) ** ((1 - rate) / rate)


@dataclass(frozen=True)
class Kind:
    """What a task's value is.

    Attributes:
        draw: of places, a rate and the answers' luck.
        mean: by the rate.
        answers: a task.
    """

    draw: Callable[[Floats, float, Floats], Floats]
    mean: Callable[[float], float]
    answers: int = 0


def _several(rate: float) -> float:
    return rate * (0.5 + 0.5 * rate) + (1 - rate) * 0.5 * rate


KINDS = {
    "one sample": Kind(one_sample, lambda rate: rate),
    "three samples": Kind(several_samples, _several, 3),
    "scores": Kind(scores, lambda rate: 0.75 * rate),
    "ten samples": Kind(several_samples, _several, 10),
    "coverage": Kind(coverage, lambda rate: 0.86 * rate),
    "spread": Kind(spread, lambda rate: rate),
}


@dataclass(frozen=True)
class Grid:
    """Settings: every kind, with every rate before and after, and every correlation of the two.

    Attributes:
        kinds: of `KINDS`.
        rates: before, and after.
        together: correlations of the normal variates that places are drawn from.
    """

    kinds: tuple[str, ...]
    rates: tuple[float, ...]
    together: tuple[float, ...]


@dataclass
class Tally:
    """Of one setting: sums over simulations."""

    held: dict[str, float] = field(default_factory=dict)
    width: dict[str, float] = field(default_factory=dict)
    gained: float = 0.0
    lost: float = 0.0


def normal(z: Floats) -> Floats:
    """The normal distribution's function, by Abramowitz and Stegun, 26.2.17: right to 1e-7."""
    t = 1 / (1 + 0.2316419 * np.abs(z))
    poly = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    upper = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * poly
    return np.where(z > 0, 1 - upper, upper)


def effective(changes: Floats) -> Floats:
    """How many equal changes would have this sum and this sum of squares."""
    squares = (changes**2).sum(-1)
    return np.where(squares > 0, changes.sum(-1) ** 2 / np.maximum(squares, 1e-300), 0.0)


def settings(
    grid: Grid, n: int, simulations: int, methods: Callable[[str, int], Mapping[str, Method]], seed: int
) -> Iterator[dict[str, object]]:
    """Simulate a grid.

    Args:
        grid: the settings.
        n: tasks.
        simulations: of each setting.
        methods: kind and number of tasks to the methods that are tried, by name.
        seed: of the places.

    Yields:
        A setting each: ``kind``, ``tasks``, ``rates``, ``together``, ``true`` difference, ``gained`` and ``lost`` (mean
        effective number of tasks that change for the better, and for the worse), ``held`` (method to the share of
        simulations in which its interval holds the true difference), ``width``.
    """
    for together in grid.together:
        rng = np.random.default_rng([seed, n, round(100 * together)])
        tallies: dict[tuple[str, float, float], Tally] = {}
        for start in range(0, simulations, CHUNK):
            shape = (min(CHUNK, simulations - start), n)
            one = rng.standard_normal(shape)
            two = together * one + math.sqrt(1 - together**2) * rng.standard_normal(shape)
            places = normal(one), normal(two)
            for kind in grid.kinds:
                luck = [rng.random((KINDS[kind].answers, *shape)) for _ in places]
                sides = [
                    {rate: KINDS[kind].draw(place, rate, answers) for rate in grid.rates}
                    for place, answers in zip(places, luck, strict=True)
                ]
                for old in grid.rates:
                    for new in grid.rates:
                        tally = tallies.setdefault((kind, old, new), Tally())
                        true = KINDS[kind].mean(new) - KINDS[kind].mean(old)
                        _count(tally, methods(kind, n), sides[0][old], sides[1][new], true)
        for (kind, old, new), tally in tallies.items():
            yield {
                "kind": kind, "tasks": n, "rates": [old, new], "together": together,
                "true": round(KINDS[kind].mean(new) - KINDS[kind].mean(old), 6),
                "gained": round(tally.gained / simulations, 2), "lost": round(tally.lost / simulations, 2),
                "held": {name: round(count / simulations, 5) for name, count in tally.held.items()},
                "width": {name: round(total / simulations, 4) for name, total in tally.width.items()},
            }  # fmt: skip


def _count(tally: Tally, methods: Mapping[str, Method], before: Floats, after: Floats, true: float) -> None:
    change = after - before
    tally.gained += float(effective(np.maximum(change, 0.0)).sum())
    tally.lost += float(effective(np.maximum(-change, 0.0)).sum())
    for name, method in methods.items():
        low, high = method(before, after)
        inside = (low <= true + 1e-12) & (true - 1e-12 <= high)
        tally.held[name] = tally.held.get(name, 0.0) + float(inside.sum())
        tally.width[name] = tally.width.get(name, 0.0) + float((high - low).sum())
