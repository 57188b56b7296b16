"""The verdict on a run in a sentence, and the few figures that stand beside it."""

from __future__ import annotations

from typing import Any

from lowvram_ft.report.page.figures import percent, points, seconds, size
from lowvram_ft.report.page.reading import AFTER, BEFORE, Run

DECISIVE = "passes_and_kills"
"""The metric that the sentence is about: a file whose tests all pass, and that catches a planted fault."""
_GATES = {
    "gate_pass_rate": "whole files passing",
    "gate_mutation_score": "mutation score",
    "gate_s": "seconds a file (p95)",
}


def headline(run: Run) -> dict[str, Any]:
    """What to say first.

    Returns:
        ``verdict`` (``better``, ``worse``, ``undecided``, or empty where nothing was compared), ``sentence``,
        ``more`` (sentences below it), ``tiles`` (``label``, ``value``, ``note``, ``verdict``), ``gates``.
    """
    found = _compared(run)
    verdict, sentence = _sentence(found) if found is not None else ("", _unfinished(run))
    return {
        "verdict": verdict,
        "sentence": sentence,
        "more": [*_others(found), *_export(run), *_latency(run)],
        "tiles": _tiles(run, found),
        "gates": [_gate(gate) for gate in run.steps.get("gates", {}).get("gates", [])],
    }


def _compared(run: Run) -> dict[str, dict[str, Any]] | None:
    """Suite to the differences of its metrics; None where nothing was compared."""
    return run.steps.get("compare", {}).get("suites") or None


def _sentence(suites: dict[str, dict[str, Any]]) -> tuple[str, str]:
    name, metrics = next(iter(suites.items()))
    key = DECISIVE if DECISIVE in metrics else "passes"
    found = metrics[key]
    what = "pass and catch a planted fault" if key == DECISIVE else "pass"
    text = (
        f"{percent(found['after'])} of the test files that the trained model writes {what}; "
        f"before training, {percent(found['before'])}."
    )
    verdicts = {one[key]["verdict"] for one in suites.values() if key in one}
    verdict = found["verdict"] if len(verdicts) == 1 else "undecided"
    starts = {"better": "Better.", "worse": "Worse."}
    start = starts.get(verdict, f"Not decided at {found['tasks']} tasks.")
    if len(verdicts) > 1:
        start = "The suites disagree."
    return verdict, f"{start} {text}" if len(suites) == 1 else f"{start} On {name}, {text}"


def _others(suites: dict[str, dict[str, Any]] | None) -> list[str]:
    """How sure the first sentence is; and the other suites."""
    lines = []
    for number, (name, metrics) in enumerate((suites or {}).items()):
        key = DECISIVE if DECISIVE in metrics else "passes"
        found = metrics[key]
        sure = f"{points(found['interval'])} at 95 % confidence, {found['tasks']} tasks"
        if number == 0:
            lines.append(f"The difference is {sure}.")
        else:
            lines.append(f"On {name}: {percent(found['before'])} before, {percent(found['after'])} after ({sure}).")
    return lines


def _unfinished(run: Run) -> str:
    """What there is to say of a run that has not compared anything."""
    trained = [stage for stage in run.stages if f"train:{stage}" in run.steps]
    if not trained:
        begun = sorted({str(event.get("stage")) for event in run.events.get("trained", [])})
        return (
            f"Not finished: training of {' and '.join(begun)} has begun."
            if begun
            else "Not finished: nothing is trained yet."
        )
    if len(trained) < len(run.stages):
        return f"Not finished: {len(trained)} of {len(run.stages)} stages are trained."
    if "export" not in run.steps:
        return "Trained; not exported and not evaluated yet."
    if AFTER in run.steps:
        return "Trained, exported and evaluated; there is nothing to compare it with."
    evaluating = BEFORE in run.samples or AFTER in run.samples
    return f"Trained and exported; {'evaluation has begun' if evaluating else 'not evaluated yet'}."


def _export(run: Run) -> list[str]:
    verified = run.steps.get("verify")
    if verified is None:
        return []
    passed, every = sum(bool(check["ok"]) for check in verified["checks"]), len(verified["checks"])
    if not verified["ok"]:
        return [f"The exported file did not pass its verification ({passed} of {every} checks)."]
    if verified["kind"] != "reference":
        return [f"The exported file was checked by itself, and passed ({every} checks)."]
    return [f"The exported file holds what was trained: {every} checks against base + adapter passed."]


def _latency(run: Run) -> list[str]:
    bench = run.steps.get("bench")
    if bench is None:
        return []
    kept = "within" if bench["gate_met"] else "over"
    p95 = seconds(bench["file_s_p95"])
    return [f"A whole test file takes {p95} at the 95th percentile, {kept} the gate of {bench['gate_s']:g} s."]


def _tiles(run: Run, suites: dict[str, dict[str, Any]] | None) -> list[dict[str, str]]:
    tiles = []
    if suites:
        metrics = next(iter(suites.values()))
        for key, label in (
            (DECISIVE, "pass and catch a fault"),
            ("useful", "useful files"),
            ("mutation_score", "mutation score"),
        ):
            if (found := metrics.get(key)) is not None:
                tiles.append(
                    {
                        "label": label,
                        "value": percent(found["after"]),
                        "note": f"{percent(found['before'])} before",
                        "verdict": found.get("verdict", ""),
                    }
                )
    if (bench := run.steps.get("bench")) is not None:
        note = f"gate {bench['gate_s']:g} s, {bench['decode_tok_per_s']:.0f} tokens/s"
        verdict = "better" if bench["gate_met"] else "worse"
        tiles.append({"label": "a file, p95", "value": seconds(bench["file_s_p95"]), "note": note, "verdict": verdict})
    if (export := run.steps.get("export")) is not None:
        tiles.append(
            {"label": "model file", "value": size(export["size_bytes"]), "note": export["quant"], "verdict": ""}
        )
    peaks = [
        run.steps[step]["peak_memory_bytes"]
        for step in run.steps
        if step.startswith("train:") and run.steps[step].get("peak_memory_bytes")
    ]
    if peaks:
        tiles.append({"label": "training peak", "value": size(max(peaks)), "note": "of memory", "verdict": ""})
    return tiles


def _gate(gate: dict[str, Any]) -> dict[str, Any]:
    timed = gate["gate"] == "gate_s"
    wanted = f"at most {gate['wanted']:g} s" if timed else f"at least {percent(gate['wanted'])}"
    interval = gate.get("interval")
    return {
        "label": _GATES.get(gate["gate"], gate["gate"]),
        "suite": "" if timed else gate["suite"],
        "value": seconds(gate["value"]) if timed else percent(gate["value"]),
        "wanted": wanted,
        "verdict": gate.get("verdict") or ("met" if gate["met"] else "missed"),
        "note": f"{100 * interval[0]:.0f}–{100 * interval[1]:.0f} % at {gate['tasks']} tasks" if interval else "",
    }
