"""What was predicted beside what was measured, and the contestants beside each other. Nothing here needs a card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowvram_ft.memory.cards import known_card

PEAK_TOLERANCE = 0.05
"""A predicted peak is right within so much."""
PEAK_SHORT = 0.02
"""By more than this, none may be below what was measured."""
SPEED_TOLERANCE = 0.15
"""A predicted speed is right within so much."""
MIB = 1 << 20


def hold(plan: Mapping[str, Any], run: Mapping[str, Any], gpu: str | None) -> dict[str, Any]:
    """A prediction beside what was measured; measured figures are null without a card.

    Args:
        plan: of `StagePlan.to_json`.
        run: of `train_once`.
        gpu: as the driver names the card; None without one.

    Returns:
        ``predicted_bytes``, ``measured_bytes``, and ``off``: by what share the prediction is above (below: negative);
        the same of tokens a second, as ``predicted_tok_per_s``, ``measured_tok_per_s`` and ``speed_off``. A speed is
        predicted for the card at hand alone: null where the table has none of its name.
    """
    predicted = plan["plan"]["peak_gpu_bytes"]
    measured = max((run[key] for key in ("load_reserved_bytes", "end_reserved_bytes") if key in run), default=None)
    card, time = known_card(gpu) if gpu else None, plan["time"]
    speed = time["tok_per_s"] if time is not None and card is not None and card.name == time["card"] else None
    seen = run.get("tok_per_s") if gpu else None
    return {
        "predicted_bytes": predicted,
        "measured_bytes": measured,
        "off": predicted / measured - 1 if measured else None,
        "predicted_tok_per_s": speed,
        "measured_tok_per_s": seen,
        "speed_off": speed / seen - 1 if speed and seen else None,
        "fits": run["fits"],
    }


def summary(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How the predictions of all parts did.

    Peaks are to be within `PEAK_TOLERANCE`, none more than `PEAK_SHORT` below; speeds within `SPEED_TOLERANCE`.
    ``of_resident`` is the speed of a capped part beside that of the same training with everything on the card.
    """
    offs, speeds = _known(results, "off"), _known(results, "speed_off")
    return {
        "configurations": len(offs),
        "within_5_percent": sum(abs(off) <= PEAK_TOLERANCE for off in offs.values()),
        "more_than_2_percent_below": sorted(name for name, off in offs.items() if off < -PEAK_SHORT),
        "off": offs,
        "speeds": len(speeds),
        "speeds_within_15_percent": sum(abs(off) <= SPEED_TOLERANCE for off in speeds.values()),
        "speed_off": speeds,
        "of_resident": of_resident(results),
    }


def of_resident(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The measured speed of each part beside that of its resident twin, where both ran."""
    found = {}
    for name, one in results.items():
        capped, resident = _speed(one), _speed(results.get(f"{name}, resident", {}))
        if capped and resident:
            found[name] = capped / resident
    return found


def table(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown: every part that ran under the cap, the contestants of a training below each other."""
    lines = ["| training | by | peak MiB (predicted) | tokens/s (predicted) |", "| --- | --- | ---: | ---: |"]
    for one in results.values():
        part, run, held = one["part"], one.get("run"), one.get("held", {})
        who = part["engine"] + ("" if part["capped"] else ", resident")
        if run is None:
            said, speed = f"did not run: {_last_line(one.get('why', ''))}", ""
        elif not run["fits"]:
            said, speed = f"does not fit: out of memory at {run['at']}", ""
        else:
            peer = held.get("predicted_bytes") is None
            said = _beside(held.get("measured_bytes"), held.get("predicted_bytes"), MIB, peer)
            speed = _beside(held.get("measured_tok_per_s"), held.get("predicted_tok_per_s"), 1, peer)
        lines.append(f"| {part['model']} {part['max_length']} | {who} | {said} | {speed} |")
    return lines


def _known(results: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, float]:
    found = {name: one.get("held", {}).get(key) for name, one in results.items()}
    return {name: off for name, off in found.items() if off is not None}


def _speed(one: Mapping[str, Any]) -> float | None:
    held = one.get("held", {})
    return held.get("measured_tok_per_s") if held.get("fits") else None


def _beside(measured: float | None, predicted: float | None, unit: int, peer: bool) -> str:
    shown = "not measured" if measured is None else f"{measured / unit:,.0f}"
    if peer:
        return shown
    return f"{shown} ({'none' if predicted is None else f'{predicted / unit:,.0f}'})"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].replace("|", "/")[:120] if lines else "it ended without a word"
