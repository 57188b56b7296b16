"""How often the intervals of an evaluation hold the truth, beside the methods that they were chosen over.

    python benchmarks/intervals.py [SIMULATIONS]

Draws tasks from distributions whose true mean, or true difference before to after, is known, and counts how often it
lies inside. Takes some minutes on one core with 2,000 simulations. Prints a table and writes
``results/intervals.json``.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lowvram_ft.evaluation.comparison import rate_difference_ends, share_difference_ends
from lowvram_ft.evaluation.intervals import NORMAL, share_ends, student_t
from lowvram_ft.hardware import detect
from lowvram_ft.run_dir import versions

RESULTS = Path(__file__).parent / "results" / "intervals.json"
TASKS = (40, 164)
RATES = (0.05, 0.5, 0.95)
PAIRS = ((0.05, 0.05), (0.05, 0.15), (0.05, 0.5), (0.05, 0.95), (0.5, 0.5), (0.5, 0.6), (0.95, 0.85), (0.95, 0.95))
TOGETHER = (0.0, 0.7)
"""Correlation of before and after: of the normal variates that tasks are drawn from."""
RESAMPLES = 500

Floats = npt.NDArray[np.float64]
Ends = tuple[Floats, Floats]


def one_sample(place: Floats, rate: float, rng: np.random.Generator) -> Floats:  # noqa: ARG001 (one signature)
    """Passed or not."""
    return (place < rate).astype(float)


def three_samples(place: Floats, rate: float, rng: np.random.Generator) -> Floats:
    """Share of three answers that pass; tasks differ in how hard they are, half at random."""
    hard = np.where(place < rate, 0.5 + 0.5 * rate, 0.5 * rate)
    return rng.binomial(3, hard) / 3


def scores(place: Floats, rate: float, rng: np.random.Generator) -> Floats:  # noqa: ARG001 (one signature)
    """0 where no test passes, else the cube root of a uniform variate: mean 0.75."""
    return np.where(place < rate, np.cbrt(1 - place / rate), 0.0)


KINDS: dict[str, tuple[Callable[[Floats, float, np.random.Generator], Floats], Callable[[float], float]]] = {
    "one sample": (one_sample, lambda rate: rate),
    "three samples": (three_samples, lambda rate: rate * (0.5 + 0.5 * rate) + (1 - rate) * 0.5 * rate),
    "scores": (scores, lambda rate: 0.75 * rate),
}


def student(values: Floats) -> Ends:
    half = student_t(values.shape[-1] - 1) * values.std(-1, ddof=1) / math.sqrt(values.shape[-1])
    return values.mean(-1) - half, values.mean(-1) + half


def percentiles(values: Floats, rng: np.random.Generator) -> Ends:
    """The percentile bootstrap."""
    n = values.shape[-1]
    counts = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).T / n
    low, high = np.quantile(values @ counts, [0.025, 0.975], axis=-1)
    return low, high


def wald(values: Floats) -> Ends:
    half = NORMAL * values.std(-1) / math.sqrt(values.shape[-1])
    return values.mean(-1) - half, values.mean(-1) + half


def tango(before: Floats, after: Floats) -> Ends:
    gained, lost = (after > before).sum(-1).astype(float), (after < before).sum(-1).astype(float)
    return rate_difference_ends(gained, lost, before.shape[-1])


def means(kind: str, rate: float, n: int, simulations: int, rng: np.random.Generator) -> dict[str, object]:
    draw, mean = KINDS[kind]
    values = draw(rng.random((simulations, n)), rate, rng)
    ends = {
        "ours": share_ends(values),
        "percentile bootstrap": percentiles(values, rng),
        "Student": student(values),
    }
    return {"of": "mean", "kind": kind, "tasks": n, "rate": rate, "true": mean(rate)} | held(ends, mean(rate))


def differences(
    kind: str, pair: tuple[float, float], together: float, n: int, simulations: int, rng: np.random.Generator
) -> dict[str, object]:
    draw, mean = KINDS[kind]
    one = rng.standard_normal((simulations, n))
    two = together * one + math.sqrt(1 - together**2) * rng.standard_normal((simulations, n))
    before, after = (draw(normal(z), rate, rng) for z, rate in zip((one, two), pair, strict=True))
    true = mean(pair[1]) - mean(pair[0])
    ends = {
        "ours": tango(before, after) if kind == "one sample" else share_difference_ends(before, after),
        "percentile bootstrap": percentiles(after - before, rng),
        "Student": student(after - before),
        "Wald": wald(after - before),
    }
    setting = {"of": "difference", "kind": kind, "tasks": n, "rates": pair, "together": together, "true": true}
    return setting | held(ends, true)


def normal(z: Floats) -> Floats:
    """The normal distribution's function, by Abramowitz and Stegun, 26.2.17: right to 1e-7."""
    t = 1 / (1 + 0.2316419 * np.abs(z))
    poly = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    upper = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * poly
    return np.where(z > 0, 1 - upper, upper)


def held(ends: dict[str, Ends], true: float) -> dict[str, object]:
    """Share of simulations in which each interval holds the truth, and its mean width."""
    return {
        "held": {
            name: float(((low <= true + 1e-12) & (true - 1e-12 <= high)).mean()) for name, (low, high) in ends.items()
        },
        "width": {name: float((high - low).mean()) for name, (low, high) in ends.items()},
    }


def main(simulations: int) -> None:
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    found = [means(kind, rate, n, simulations, rng) for kind in KINDS for n in TASKS for rate in RATES]
    found += [
        differences(kind, pair, together, n, simulations, rng)
        for kind in KINDS
        for n in TASKS
        for pair in PAIRS
        for together in TOGETHER
    ]
    for row in found:
        where = f"{row['rate']:.2f}" if row["of"] == "mean" else "{:.2f} > {:.2f}".format(*row["rates"])  # type: ignore[misc]
        shares = "  ".join(f"{name} {100 * share:5.1f}" for name, share in row["held"].items())  # type: ignore[attr-defined]
        print(f"{row['of']:10} {row['kind']:13} n {row['tasks']:3}  {where:12} r {row.get('together', 0)}  {shares}")
    machine = detect()
    known = {
        "simulations": simulations,
        "seconds": round(time.perf_counter() - began, 1),
        "hardware": {"cpu": machine.cpu_model, "cpus": machine.cpu_count},
        "versions": versions() | {"numpy": np.__version__},
        "date": time.strftime("%Y-%m-%d"),
        "rows": found,
    }
    RESULTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
