"""How often the intervals of an evaluation hold the truth, beside the methods that they were chosen over.

    python benchmarks/intervals.py [SIMULATIONS]

Plants means, and differences before to after, that are known (`planted_pairs`), and counts how often an interval holds
them, for five numbers of tasks. The method for differences of means was chosen by looking at settings like those of
`CHOSEN_ON`, with other seeds; those of `HELD_OUT` are other kinds of values, rates and correlations. Takes about three
minutes on one core. Prints tables and writes ``results/intervals.json``. For rates with one sample a task,
``tests/unit/test_coverage_exact.py`` adds up every outcome.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from planted_pairs import KINDS, Ends, Floats, Grid, Method, settings

from lowvram_ft.evaluation.comparison import rate_difference_ends, share_difference_ends
from lowvram_ft.evaluation.intervals import NORMAL, share_ends, student_t
from lowvram_ft.hardware import detect
from lowvram_ft.run_dir import versions

RESULTS = Path(__file__).parent / "results" / "intervals.json"
TASKS = (20, 40, 100, 164, 500)
CHOSEN_ON = Grid(("one sample", "three samples", "scores"), (0.02, 0.05, 0.1, 0.5, 0.9, 0.95, 0.98), (0.0, 0.7))
HELD_OUT = Grid(("ten samples", "coverage", "spread"), (0.005, 0.04, 0.2, 0.35, 0.65, 0.8, 0.96), (0.3, 0.85))
FEW = 3.0
"""Tasks that are expected to change in one of the two directions: below that, coverage can hardly be exact."""
SEED = 1
RESAMPLES = 300
RESAMPLED = 40
"""Tasks up to which the percentile bootstrap is tried on differences: it is slow, and with more tasks it does well."""


def student(values: Floats) -> Ends:
    half = student_t(values.shape[-1] - 1) * values.std(-1, ddof=1) / math.sqrt(values.shape[-1])
    return values.mean(-1) - half, values.mean(-1) + half


def wald(values: Floats) -> Ends:
    half = NORMAL * values.std(-1) / math.sqrt(values.shape[-1])
    return values.mean(-1) - half, values.mean(-1) + half


def percentiles(values: Floats) -> Ends:
    """The percentile bootstrap, with the same resamples for all."""
    n = values.shape[-1]
    counts = np.random.default_rng(n).multinomial(n, np.full(n, 1 / n), RESAMPLES).T / n
    low, high = np.quantile(values @ counts, [0.025, 0.975], axis=-1)
    return low, high


def tango(before: Floats, after: Floats) -> Ends:
    gained, lost = (after > before).sum(-1).astype(float), (after < before).sum(-1).astype(float)
    return rate_difference_ends(gained, lost, before.shape[-1])


def mover(before: Floats, after: Floats) -> Ends:
    """Gains less losses, each with the interval of a mean of shares of the largest change, put together by MOVER.

    Zou and Donner 2008, "Construction of confidence limits about effect measures", equation 8, with the correlation.
    """
    largest = np.abs(after - before).max(-1)
    scale = np.where(largest > 0, largest, 1.0)
    change = (after - before) / scale[..., None]
    gains, losses = np.maximum(change, 0.0), np.maximum(-change, 0.0)
    gain, loss = gains.mean(-1), losses.mean(-1)
    gain_low, gain_high = share_ends(gains, widest=0.0)
    loss_low, loss_high = share_ends(losses, widest=0.0)
    both = gains.std(-1) * losses.std(-1)
    # a task gains or loses, never both: the covariance is minus the product of the means
    correlation = np.where(both > 1e-12, -gain * loss / np.maximum(both, 1e-12), 0.0)

    def reach(one: Floats, other: Floats) -> Floats:
        return np.sqrt(np.maximum(one**2 - 2 * correlation * one * other + other**2, 0.0))

    low = gain - loss - reach(gain - gain_low, loss_high - loss)
    high = gain - loss + reach(gain_high - gain, loss - loss_low)
    return scale * np.maximum(low, -1.0), scale * np.minimum(high, 1.0)


def methods(kind: str, n: int) -> dict[str, Method]:
    """What is tried on a difference."""
    found: dict[str, Method] = {
        "this kit": tango if kind == "one sample" else share_difference_ends,
        "MOVER": mover,
        "Student": lambda before, after: student(after - before),
        "Wald": lambda before, after: wald(after - before),
    }
    if n <= RESAMPLED:
        found["percentile bootstrap"] = lambda before, after: percentiles(after - before)
    return found


def means(kind: str, rate: float, n: int, simulations: int) -> dict[str, Any]:
    """One setting of a mean: share of the simulations in which an interval holds it, and its width."""
    rng = np.random.default_rng([SEED, n, round(1000 * rate)])
    shape = (simulations, n)
    one = KINDS[kind]
    values, true = one.draw(rng.random(shape), rate, rng.random((one.answers, *shape))), one.mean(rate)
    ends = {"this kit": share_ends(values), "percentile bootstrap": percentiles(values), "Student": student(values)}
    inside = {name: (low <= true + 1e-12) & (true - 1e-12 <= high) for name, (low, high) in ends.items()}
    return {
        "kind": kind, "tasks": n, "rate": rate, "true": round(true, 6),
        "held": {name: float(held.mean()) for name, held in inside.items()},
        "width": {name: round(float((high - low).mean()), 4) for name, (low, high) in ends.items()},
    }  # fmt: skip


def table(title: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """A line for each kind, number of tasks and method: least and most, and how many settings are off."""
    rows = list(rows)
    for kind, n in sorted({(row["kind"], row["tasks"]) for row in rows}):
        some = [row for row in rows if (row["kind"], row["tasks"]) == (kind, n)]
        for name in some[0]["held"]:
            shares = [100 * row["held"][name] for row in some]
            width = np.mean([row["width"][name] for row in some])
            print(
                f"{title:11} {kind:13} n {n:3}  {name:20} {min(shares):5.1f} to {max(shares):5.1f}  of {len(some)}: "
                f"{sum(share < 93 for share in shares):2} below 93, {sum(share > 97 for share in shares):2} above 97, "
                f"mean width {width:.3f}"
            )


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of differences, by number of tasks, and means of shares apart from rates: what the docs say.

    Settings in which fewer than `FEW` tasks are expected to change for the better, or for the worse, are counted apart.
    """
    found = []
    for n in sorted({row["tasks"] for row in rows}):
        for rates in (True, False):
            some = [row for row in rows if row["tasks"] == n and (row["kind"] == "one sample") == rates]
            for name in some[0]["held"] if some else ():
                usual = [row["held"][name] for row in some if min(row["gained"], row["lost"]) >= FEW]
                rare = [row["held"][name] for row in some if min(row["gained"], row["lost"]) < FEW]
                found.append({"tasks": n, "of": "rates" if rates else "means", "method": name} | {
                    f"{which}_{key}": value
                    for which, shares in (("usual", usual), ("rare", rare))
                    for key, value in _counts(shares).items()
                } | {"width": round(float(np.mean([row["width"][name] for row in some])), 4)})  # fmt: skip
    return found


def _counts(shares: list[float]) -> dict[str, float | int | None]:
    return {
        "settings": len(shares),
        "below_93": sum(share < 0.93 for share in shares),
        "above_97": sum(share > 0.97 for share in shares),
        "least": min(shares, default=None),
        "most": max(shares, default=None),
    }


def main(simulations: int) -> None:
    began = time.perf_counter()
    found: dict[str, list[dict[str, Any]]] = {
        "means": [means(kind, rate, n, simulations) for n in TASKS for kind in KINDS for rate in CHOSEN_ON.rates],
        "differences": [row for n in TASKS for row in settings(CHOSEN_ON, n, simulations, methods, SEED)],
        "differences, held out": [row for n in TASKS for row in settings(HELD_OUT, n, simulations, methods, SEED)],
    }
    table("mean", found["means"])
    summaries = {title: summary(rows) for title, rows in found.items() if title != "means"}
    for title, lines in summaries.items():
        print(title, *lines, sep="\n")
    machine = detect()
    known = {
        "command": f"python benchmarks/intervals.py {simulations}",
        "simulations": simulations,
        "seed": SEED,
        "seconds": round(time.perf_counter() - began, 1),
        "hardware": {"cpu": machine.cpu_model, "cpus": machine.cpu_count},
        "versions": versions() | {"numpy": np.__version__},
        "date": time.strftime("%Y-%m-%d"),
    }
    RESULTS.write_text(written(known, found, summaries), encoding="utf-8")


def written(
    known: Mapping[str, Any], found: Mapping[str, list[dict[str, Any]]], summaries: Mapping[str, list[dict[str, Any]]]
) -> str:
    """A row a line; ``held`` and ``width`` as lists, in the order of ``methods`` (the last ones may be left out)."""
    methods = {title: max((list(row["held"]) for row in rows), key=len) for title, rows in found.items()}
    short = {
        title: [row | {"held": list(row["held"].values()), "width": list(row["width"].values())} for row in rows]
        for title, rows in found.items()
    }
    text = json.dumps(known | {"methods": methods}, indent=1)[:-2]
    for title, rows in (short | {f"{title}, summary": lines for title, lines in summaries.items()}).items():
        lines = ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in rows)
        text += f",\n {json.dumps(title)}: [\n  {lines}\n ]"
    return text + "\n}\n"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
