"""Charts of what changes with the steps of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lowvram_ft.report.page.charts import AFTER, MUTED, Rows, Spec, chart, colours

_AT = {
    "field": "at",
    "type": "quantitative",
    "title": "optimizer step",
    "axis": {"tickMinStep": 1},
    "scale": {"nice": False},
}


def losses(curves: Mapping[str, Any]) -> Spec:
    """Training loss of every step, validation losses as points, and where each stage begins."""
    trained = [{**point, "what": "training"} for point in curves["trained"] if point["loss"] is not None]
    validated = [{**point, "what": "validation"} for point in curves["validated"]]
    colour = {
        "field": "what",
        "type": "nominal",
        "scale": {"domain": ["training", "validation"], "range": [AFTER, "var(--accent-2)"]},
        "legend": {"title": None, "orient": "top"},
    }
    tooltip = [{"field": "stage"}, {"field": "at", "title": "step"}, {"field": "loss", "format": ".4f"}]
    shared = {
        "x": _AT,
        "y": {"field": "loss", "type": "quantitative", "title": "loss", "scale": {"zero": False}},
        "color": colour,
        "tooltip": tooltip,
    }
    return chart(
        [],
        layer=[
            *_starts(curves),
            {
                "data": {"values": trained},
                "mark": {"type": "line", "strokeWidth": 1.6},
                "encoding": {**shared, "detail": {"field": "stage"}},
            },
            {
                "data": {"values": trained},
                "mark": {"type": "point", "filled": True, "size": 12, "opacity": 0.8},
                "encoding": shared,
            },
            {
                "data": {"values": validated},
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
                "encoding": shared,
            },
        ],
        height=240,
    )


def curve(curves: Mapping[str, Any], field: str, title: str, *, planned: Rows = ()) -> Spec:
    """One figure of every step; with what the plan gives each stage as a dashed line, where that is known."""
    values = [point for point in curves["trained"] if point.get(field) is not None]
    y = {"field": field, "type": "quantitative", "title": title, "scale": {"zero": field in ("tok_per_s", "memory")}}
    if field == "learning_rate":
        y["axis"] = {"format": "~e"}
    layers: list[Spec] = [
        *_starts(curves, words=False),
        {
            "data": {"values": values},
            "mark": {"type": "line", "strokeWidth": 1.6, "point": {"size": 14, "color": AFTER}, "color": AFTER},
            "encoding": {
                "x": _AT,
                "y": y,
                "detail": {"field": "stage"},
                "tooltip": [{"field": "stage"}, {"field": "at", "title": "step"}, {"field": field, "title": title}],
            },
        },
    ]
    spans = _spans(curves, planned)
    if spans:
        layers.append(
            {
                "data": {"values": spans},
                "mark": {"type": "rule", "strokeDash": [4, 4], "strokeWidth": 1.5, "color": "var(--accent-2)"},
                "encoding": {
                    "x": {"field": "from", "type": "quantitative"},
                    "x2": {"field": "to"},
                    "y": {"field": "GiB", "type": "quantitative", "title": title},
                    "tooltip": [{"field": "stage"}, {"field": "GiB", "title": "planned, GiB"}],
                },
            }
        )
    return chart([], layer=layers, height=130)


def overlaid(values: Rows, runs: Sequence[str], field: str, title: str) -> Spec:
    """One figure of every step of several runs, a line a run.

    Args:
        values: ``run``, ``at`` and the field.
        runs: their names, in order.
        field: what is drawn.
        title: of the axis.
    """
    return chart(
        [value for value in values if value.get(field) is not None],
        mark={"type": "line", "strokeWidth": 1.8},
        encoding={
            "x": _AT,
            "y": {"field": field, "type": "quantitative", "title": title, "scale": {"zero": False}},
            "color": {
                "field": "run",
                "type": "nominal",
                "scale": {"domain": list(runs), "range": colours(len(runs))},
                "legend": {
                    "title": None,
                    "orient": "top",
                    "symbolType": "stroke",
                    "symbolStrokeWidth": 2,
                },
            },
            "tooltip": [{"field": "run"}, {"field": "at", "title": "step"}, {"field": field, "title": title}],
        },
        height=220,
    )


def _starts(curves: Mapping[str, Any], *, words: bool = True) -> list[Spec]:
    """Where each stage begins, as a line with its name; nothing where there is one alone."""
    starts = [{**start, "at": start["at"] + 0.5} for start in curves["starts"]]
    if len(starts) < 2:
        return []
    x = {"field": "at", "type": "quantitative"}
    rule: Spec = {"data": {"values": starts[1:]}, "mark": {"type": "rule", "color": MUTED}, "encoding": {"x": x}}
    if not words:
        return [rule]
    text = {"type": "text", "align": "left", "dx": 3, "y": -6, "color": "var(--soft)", "fontSize": 11, "limit": 70}
    return [rule, {"data": {"values": starts}, "mark": text, "encoding": {"x": x, "text": {"field": "stage"}}}]


def _spans(curves: Mapping[str, Any], planned: Rows) -> list[dict[str, Any]]:
    """From which step to which a stage's plan holds."""
    of_stage = {one["stage"]: one["GiB"] for one in planned}
    ends = [start["at"] for start in curves["starts"][1:]] + [curves["trained"][-1]["at"] if curves["trained"] else 0]
    return (
        [
            {"from": start["at"], "to": end, "stage": start["stage"], "GiB": of_stage[start["stage"]]}
            for start, end in zip(curves["starts"], ends, strict=True)
            if start["stage"] in of_stage
        ]
        if curves["starts"]
        else []
    )
