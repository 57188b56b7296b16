"""How the stages were trained: losses and speed step by step, memory against its plan, and where the rows went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowvram_ft.report.page.figures import NOTHING, count, seconds, size
from lowvram_ft.report.page.reading import Run

MAX_POINTS = 1500
"""Of a curve: more than a screen can show; of longer runs every n-th step is drawn."""


def stages(run: Run) -> list[dict[str, Any]]:
    """Facts of each stage that has begun: ``name``, ``facts`` (label to text), ``notches``, ``done``."""
    found = []
    for name in run.stages:
        result = run.steps.get(f"train:{name}")
        if result is None and not any(event.get("stage") == name for event in run.events.get("trained", [])):
            continue
        facts = _facts(result) if result is not None else {"steps": f"{_last_step(run, name)}, not finished"}
        notches = [f"step {notch['step']}: {notch['words']}" for notch in (result or {}).get("notches", [])]
        found.append({"name": name, "facts": facts, "notches": notches, "done": result is not None})
    return found


def _facts(result: Mapping[str, Any]) -> dict[str, str]:
    best = result.get("best_eval_loss")
    data = result.get("data", {})
    facts = {
        "steps": f"{count(result.get('steps'))} of {count(result.get('planned_steps'))}",
        "loss": f"{_loss(result.get('first_loss'))} to {_loss(result.get('last_loss'))}",
        "best validation loss": _loss(best) if best is not None else NOTHING,
        "rows": f"{count(data.get('train'))} trained on, {count(data.get('eval'))} for validation",
        "tokens": f"{count(data.get('trained_tokens'))} carry loss; the longest row has {count(data.get('longest'))}",
        "engine": f"{result.get('engine')} on {result.get('device')}, {result.get('dtype')}",
    }
    if result.get("last_reward_margin") is not None:
        facts["reward margin"] = f"{_loss(result['first_reward_margin'])} to {_loss(result['last_reward_margin'])}"
    if result.get("round") is not None:
        facts["round that counts"] = str(result["round"])
    return facts


def curves(run: Run) -> dict[str, Any]:
    """Every optimizer step of all stages, one after the other.

    Returns:
        ``trained`` (``at``, the step counted over all stages, ``stage``, ``loss``, ``learning_rate``, ``tok_per_s``,
        ``memory`` in GiB, ``reward_margin``, ``reward_accuracy``), ``validated`` (``at``, ``stage``, ``loss``),
        ``starts`` (``at`` and ``stage``), ``planned`` (GiB that the plan gives each stage, where that can be held
        against what is measured).
    """
    events = sorted(
        [*run.events.get("trained", []), *run.events.get("validated", [])], key=lambda event: str(event["time"])
    )
    trained, validated, starts, offsets = [], [], [], {}
    at, stage, last = 0, None, 0
    for event in events:
        new_pass = event["event"] == "trained" and event["step"] < last
        if event["stage"] != stage or new_pass:
            if event["stage"] != stage or event["step"] == 1:  # a next round begins at 1, a resumed one further on
                offsets[event["stage"]] = at
                starts.append({"at": at, "stage": event["stage"]})
            stage = event["stage"]
        place = offsets[event["stage"]] + event["step"]
        if event["event"] == "validated":
            validated.append({"at": place, "stage": stage, "loss": event["eval_loss"]})
            continue
        at, last = max(at, place), event["step"]
        trained.append(_point(event, place))
    latest = {point["at"]: point for point in trained}  # of a step that was done again after a kill, the last counts
    every = list(latest.values())
    return {
        "trained": every[:: max(1, len(every) // MAX_POINTS)],
        "validated": validated,
        "starts": starts,
        "planned": [
            {"stage": name, "GiB": round(planned / (1 << 30), 3)} for name, planned in _planned_peaks(run).items()
        ],
    }


def memory(run: Run) -> list[dict[str, Any]]:
    """What each stage was planned to take and what it took, term by term.

    Returns:
        Stages, each with ``name``, ``device``, ``rows`` (``term``, ``planned``, ``measured``, ``difference``,
        ``formula``), ``bars`` (MiB, for the chart), ``peak`` (``planned``, ``measured``, ``what``), ``phases``.
    """
    found = []
    measured = {event["stage"]: event for event in run.events.get("measured", [])}
    for name, stage in run.steps.get("plan", {}).get("stages", {}).items():
        plan, seen = stage["plan"], measured.get(name, {}).get("measured_bytes", {})
        terms = [
            term for term in plan["terms"] if term["where"] != "disk" and (term["bytes"] or seen.get(term["name"]))
        ]
        training = _training_terms(plan)
        rows = [_term(term, plan["device"], training, seen) for term in sorted(terms, key=lambda one: -one["bytes"])]
        result = run.steps.get(f"train:{name}", {})
        planned = _planned_peaks(run).get(name)
        taken = result.get("peak_memory_bytes")
        found.append(
            {
                "name": name,
                "device": "the card" if plan["device"] == "gpu" else "the host (there is no card)",
                "rows": rows,
                "bars": [*_peak(planned, taken), *(bar for row in rows if row["trains"] for bar in row["bars"])],
                "planned": size(planned),
                "measured": size(taken),
                "share": f"{100 * taken / planned:.0f} %" if taken and planned else NOTHING,
                "usable": size(plan["usable_gpu_bytes"] if plan["device"] == "gpu" else plan["ram_bytes"]),
                "phases": [(phase["name"], size(phase["bytes"])) for phase in plan["phases"]],
                "given_up": stage.get("steps") or [],
            }
        )
    return found


def _term(term: Mapping[str, Any], device: str, training: set[str], seen: Mapping[str, int]) -> dict[str, Any]:
    name, planned = term["name"], term["bytes"]
    trains = term["where"] == device and name in training
    measured = seen.get(name) if term["where"] == device else None
    bars = [{"term": name, "what": "planned", "MiB": round(planned / (1 << 20), 2)}]
    if measured is not None:
        bars.append({"term": name, "what": "measured", "MiB": round(measured / (1 << 20), 2)})
    return {
        "term": name,
        "where": {"gpu": "card", "host": "host"}[term["where"]],
        "planned": size(planned),
        "measured": size(measured) if measured is not None else "not measured apart",
        "off": f"{100 * (measured / planned - 1):+.1f} %" if measured is not None and planned else "",
        "formula": term["formula"],
        "trains": trains,
        "bars": bars,
    }


def _peak(planned: int | None, taken: int | None) -> list[dict[str, Any]]:
    """Bars of all terms together."""
    return [
        {"term": "peak", "what": what, "MiB": round(n_bytes / (1 << 20), 2)}
        for what, n_bytes in (("planned", planned), ("measured", taken))
        if n_bytes
    ]


def _training_terms(plan: Mapping[str, Any]) -> set[str]:
    """Terms that are there while a step is done, on the device that trains."""
    return {
        name
        for phase in plan["phases"]
        if phase["name"] in ("forward", "loss", "backward", "optimizer")
        for name in phase["terms"]
    }


def _planned_peaks(run: Run) -> dict[str, int]:
    """Stage to what the plan says of that which is measured: the card's memory, or that of the process on the host."""
    found = {}
    for name, stage in run.steps.get("plan", {}).get("stages", {}).items():
        plan = stage["plan"]
        if plan["device"] == "gpu":
            found[name] = plan["peak_gpu_bytes"]
            continue
        bytes_of = {term["name"]: term["bytes"] for term in plan["terms"] if term["where"] == "host"}
        training = next((phase["bytes"] for phase in plan["host_phases"] if phase["name"] == "training"), None)
        if training is not None:  # what the rest of the machine takes is no part of the process
            found[name] = training - bytes_of.get("system", 0)
    return found


def _point(event: Mapping[str, Any], place: int) -> dict[str, Any]:
    memory_bytes, rate = event.get("memory_bytes"), event.get("tok_per_s")
    point = {
        "at": place,
        "stage": event["stage"],
        "loss": event.get("loss"),
        "learning_rate": event.get("learning_rate"),
        "tok_per_s": rate or None,  # nothing is timed in the first step
        "memory": None if memory_bytes is None else round(memory_bytes / (1 << 30), 3),
    }
    more = {key: event[key] for key in ("reward_margin", "reward_accuracy") if event.get(key) is not None}
    return point | more


def _last_step(run: Run, stage: str) -> str:
    steps = [event for event in run.events.get("trained", []) if event.get("stage") == stage]
    return f"{steps[-1]['step']} of {steps[-1]['steps']}"


def _loss(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def durations(run: Run) -> list[tuple[str, str]]:
    """Step to how long it took, as far as its beginning and its end are known; a step that was resumed has no time."""
    import datetime

    begun: dict[str, list[datetime.datetime]] = {}
    for event in run.events.get("begun", []):
        begun.setdefault(event["step"], []).append(datetime.datetime.fromisoformat(event["time"]))
    found = []
    for event in run.events.get("finished", []):
        starts = begun.get(event["step"], [])
        if len(starts) == 1:
            took = datetime.datetime.fromisoformat(event["time"]) - starts[0]
            found.append((event["step"], seconds(took.total_seconds())))
    return found
