"""Where the rows of a stage came from, which of them were kept, and how answers became pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowvram_ft.report.page.figures import count, percent, plain
from lowvram_ft.report.page.reading import Run


def funnels(run: Run) -> list[dict[str, Any]]:
    """The data of each stage.

    Returns:
        Of each: ``name``, ``source``, ``facts``, ``rows`` (``step``, ``in``, ``out``, ``reasons``), ``bars`` (for the
        chart), ``split``; of data whose funnel is not recorded, ``rows`` is empty.
    """
    found = []
    for name in run.stages:
        data = run.steps.get(f"train:{name}", {}).get("data")
        if data is None:
            continue
        funnel, source = data.get("funnel") or {}, data.get("source") or {}
        rows = [
            {
                "step": step["step"],
                "in": count(step["in"]),
                "out": count(step["out"]),
                "reasons": _reasons(step["reasons"]),
            }
            for step in funnel.get("steps", [])
        ]
        dropped = data.get("dropped") or {}
        found.append(
            {
                "name": name,
                "source": plain(source.get("name")) if source else data.get("kind", ""),
                "licence": source.get("licence"),
                "fingerprint": source.get("fingerprint"),
                "rows": rows,
                "bars": _bars(name, funnel),
                "split": f"{count(data.get('train'))} to train on, {count(data.get('eval'))} for validation, "
                f"{count(data.get('test'))} kept out",
                "dropped": _reasons(dropped) if dropped and not rows else "",
                "tokens": f"{count(data.get('tokens'))} tokens; median row {count(data.get('median'))}, "
                f"longest {count(data.get('longest'))}",
                "notes": data.get("notes") or [],
            }
        )
    return found


def rounds(run: Run) -> list[dict[str, Any]]:
    """The rounds of stages that learn from answers.

    Returns:
        Of each: ``stage``, ``number``, ``bars`` (answers ► distinct texts ► may win ► pairs, for the chart), ``facts``
        (label to text), ``held_out``.
    """
    found = []
    for stage in run.stages:
        numbers = sorted(
            int(step.rpartition("/")[2])
            for step in run.steps
            if step.startswith((f"sample:{stage}/", f"pairs:{stage}/"))
        )
        for number in dict.fromkeys(numbers):
            sampled, judged, pairs, trained, held_out = (
                run.steps.get(f"{kind}:{stage}/{number}", {})
                for kind in ("sample", "judge", "pairs", "train_round", "held_out")
            )
            found.append(
                {
                    "stage": stage,
                    "number": number,
                    "bars": _round_bars(sampled, judged, pairs),
                    "facts": _round_facts(sampled, judged, pairs, trained),
                    "held_out": _held_out(held_out),
                }
            )
    return found


def _bars(name: str, funnel: Mapping[str, Any]) -> list[dict[str, Any]]:
    bars = []
    for place, step in enumerate(funnel.get("steps", [])):
        about = {"stage": name, "step": step["step"], "place": place}
        bars.append({**about, "rows": step["out"], "what": "kept"})
        if step["in"] > step["out"]:
            bars.append({**about, "rows": step["in"] - step["out"], "what": "dropped"})
    return bars


def _round_bars(
    sampled: Mapping[str, Any], judged: Mapping[str, Any], pairs: Mapping[str, Any]
) -> list[dict[str, Any]]:
    counted = (
        ("answers", sampled.get("answers")),
        ("different texts", judged.get("texts")),
        ("may win", pairs.get("winners")),
        ("pairs", pairs.get("pairs")),
    )
    return [
        {"step": label, "rows": value, "place": place, "what": "kept"}
        for place, (label, value) in enumerate(counted)
        if value is not None
    ]


def _round_facts(
    sampled: Mapping[str, Any], judged: Mapping[str, Any], pairs: Mapping[str, Any], trained: Mapping[str, Any]
) -> dict[str, str]:
    facts = {}
    if sampled:
        facts["answered by"] = (
            f"{sampled.get('model')}, {count(sampled.get('answers'))} answers to {count(sampled.get('tasks'))} tasks"
        )
        facts["cut off"] = percent(sampled.get("cut_off"))
    if judged:
        facts["what became of them"] = _reasons(judged.get("fates") or {})
        facts["tricks found"] = _reasons(judged.get("tricks") or {}) or "none"
    if pairs:
        facts["why texts cannot win"] = _reasons(
            {reason: number for reason, number in (pairs.get("not_winning") or {}).items() if reason != "may win"}
        )
        lengths = (pairs.get("lengths") or {}).get("after") or {}
        if lengths.get("ratio") is not None:
            facts["length of winners to losers"] = f"{lengths['ratio']:.2f}"
    if trained:
        facts["trained"] = (
            f"{count(trained.get('steps'))} steps, loss {trained['first_loss']:.3f} to {trained['last_loss']:.3f}"
        )
    return facts


def _held_out(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    means = found.get("means") or {}
    return [(key.replace("_", " "), percent(value)) for key, value in means.items()]


def _reasons(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{count(number)} {str(reason).replace('_', ' ')}" for reason, number in counts.items() if number)
