"""The charts as Vega-Lite specifications. Colours are names of the page's own, so that they follow its theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
"""A name, not an address that anything is fetched from."""
BEFORE, AFTER, GOOD, BAD, MUTED = "var(--before)", "var(--after)", "var(--good)", "var(--bad)", "var(--line)"
SEVERAL = tuple(f"var(--series-{number})" for number in range(1, 7))
"""For runs side by side; a seventh has the first one's colour again."""
_KINDS = {
    "passes and kills": "var(--kind-1)",
    "some tests fail": "var(--kind-2)",
    "kills nothing": "var(--kind-3)",
    "fails": "var(--kind-4)",
    "skipped": "var(--kind-5)",
    "no check": "var(--kind-6)",
    "no test": "var(--kind-7)",
    "not collected": "var(--kind-8)",
    "no Python": "var(--kind-9)",
}
_OTHER_KIND = "var(--kind-10)"

Spec = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]


def rates(values: Rows, names: Sequence[str], colours: Sequence[str] = (BEFORE, AFTER)) -> Spec:
    """Rates with their intervals, a row a metric, in percent.

    Args:
        values: ``metric``, ``when``, ``value``, ``low``, ``high``.
        names: what ``when`` may be, in order.
        colours: of each name.
    """
    if len(names) == 1:
        colours = colours[-1:]
    shared = {
        "y": {
            "field": "metric",
            "type": "nominal",
            "sort": None,
            "title": None,
            "axis": {"labelLimit": 150, "ticks": False},
        },
        "yOffset": {"field": "when", "type": "nominal", "sort": list(names), "scale": {"paddingOuter": 0.4}},
        "color": {
            "field": "when",
            "type": "nominal",
            "sort": list(names),
            "scale": {"domain": list(names), "range": list(colours)},
            "legend": {"title": None, "orient": "top"} if len(names) > 1 else None,
        },
        "tooltip": [
            {"field": "metric", "title": "metric"},
            {"field": "when", "title": "when"},
            {"field": "value", "title": "%"},
            {"field": "low", "title": "from"},
            {"field": "high", "title": "to"},
        ],
    }
    x = {"type": "quantitative", "scale": {"domain": [0, 100]}, "title": "% of tasks, with intervals of 95 %"}
    return chart(
        values,
        layer=[
            {
                "mark": {"type": "rule", "strokeWidth": 5, "opacity": 0.35, "strokeCap": "round"},
                "encoding": {**shared, "x": {"field": "low", **x}, "x2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                "encoding": {**shared, "x": {"field": "value", **x}},
            },
        ],
        height=len({value["metric"] for value in values}) * (10 + 15 * len(names)),
    )


def reasons(values: Rows, names: Sequence[str]) -> Spec:
    """What became of the files, a bar an evaluation, the best kinds first."""
    kinds = list(dict.fromkeys(value["kind"] for value in sorted(values, key=lambda value: value["order"])))
    return chart(
        values,
        mark={"type": "bar", "height": {"band": 0.72}},
        encoding={
            "y": {"field": "when", "type": "nominal", "sort": list(names), "title": None, "axis": {"ticks": False}},
            "x": {
                "field": "files",
                "type": "quantitative",
                "title": "files",
                "stack": "zero",
                "axis": {"tickMinStep": 1},
            },
            "order": {"field": "order"},
            "color": {
                "field": "kind",
                "type": "nominal",
                "scale": {"domain": kinds, "range": [_KINDS.get(kind, _OTHER_KIND) for kind in kinds]},
                "legend": {"title": None, "orient": "bottom", "columns": 3},
            },
            "tooltip": [{"field": "when"}, {"field": "kind"}, {"field": "files"}],
        },
        height=34 * len({value["when"] for value in values}),
    )


def terms(bars: Rows) -> Spec:
    """Memory of each term of the plan beside what was measured of it, the largest first."""
    order = list(dict.fromkeys(bar["term"] for bar in bars))
    return chart(
        bars,
        mark={"type": "bar", "cornerRadiusEnd": 2},
        encoding={
            "y": {
                "field": "term",
                "type": "nominal",
                "sort": order,
                "title": None,
                "axis": {"ticks": False, "labelLimit": 150},
            },
            "yOffset": {"field": "what", "sort": ["planned", "measured"]},
            "x": {"field": "MiB", "type": "quantitative", "title": "MiB"},
            "color": {
                "field": "what",
                "type": "nominal",
                "scale": {"domain": ["planned", "measured"], "range": [BEFORE, AFTER]},
                "legend": {"title": None, "orient": "top"},
            },
            "tooltip": [{"field": "term"}, {"field": "what"}, {"field": "MiB"}],
        },
        height=22 * len(order),
    )


def funnel(bars: Rows) -> Spec:
    """Rows that each step kept and dropped, in the order in which rows meet the steps."""
    return chart(
        bars,
        mark={"type": "bar", "cornerRadiusEnd": 2},
        encoding={
            "y": {
                "field": "step",
                "type": "nominal",
                "sort": {"field": "place"},
                "title": None,
                "axis": {"ticks": False},
            },
            "x": {"field": "rows", "type": "quantitative", "title": None, "stack": "zero", "axis": {"tickMinStep": 1}},
            "order": {"field": "what", "sort": "descending"},
            "color": {
                "field": "what",
                "type": "nominal",
                "scale": {"domain": ["kept", "dropped"], "range": [AFTER, MUTED]},
                "legend": None if all(bar["what"] == "kept" for bar in bars) else {"title": None, "orient": "top"},
            },
            "tooltip": [{"field": "step"}, {"field": "what"}, {"field": "rows"}],
        },
        height=24 * len({bar["step"] for bar in bars}),
    )


def latency(found: Mapping[str, Any]) -> Spec:
    """Seconds of each prompt against the gate; of older runs, median and 95th percentile alone."""
    points, marks, gate = found["points"], found["marks"], found["gate_s"]
    most = max([gate, *(mark["s"] for mark in marks), *(point["s"] for point in points)])
    x = {"field": "s", "type": "quantitative", "title": "seconds", "scale": {"domain": [0, most * 1.08], "nice": False}}
    y = {
        "field": "what",
        "type": "nominal",
        "sort": ["first token", "whole file"],
        "title": None,
        "axis": {"ticks": False},
    }
    return chart(
        [],
        layer=[
            {
                "data": {"values": points},
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.55, "color": AFTER},
                "encoding": {"x": x, "y": y, "tooltip": [{"field": "prompt"}, {"field": "s", "title": "seconds"}]},
            },
            {
                "data": {"values": marks},
                "mark": {"type": "tick", "thickness": 2.5, "size": 30, "color": "var(--ink)"},
                "encoding": {"x": x, "y": y, "tooltip": [{"field": "mark"}, {"field": "s", "title": "seconds"}]},
            },
            *(
                {
                    "data": {"values": [mark for mark in marks if mark["mark"] == word]},
                    "mark": {"type": "text", "dy": -23, "align": align, "fontSize": 10, "color": "var(--soft)"},
                    "encoding": {"x": x, "y": y, "text": {"field": "mark"}},
                }
                for word, align in (("median", "right"), ("p95", "left"))
            ),
            {
                "data": {"values": [{"s": gate, "label": f"gate {gate:g} s"}]},
                "mark": {"type": "rule", "strokeDash": [5, 4], "strokeWidth": 1.5, "color": "var(--bad)"},
                "encoding": {"x": x, "tooltip": [{"field": "label"}]},
            },
            {
                "data": {"values": [{"s": gate, "label": f"gate {gate:g} s"}]},
                "mark": {"type": "text", "align": "right", "dx": -5, "y": 9, "color": "var(--bad)"},
                "encoding": {"x": x, "text": {"field": "label"}},
            },
        ],
        height=124,
    )


def colours(n: int) -> list[str]:
    """A colour for each of several runs."""
    return [SEVERAL[number % len(SEVERAL)] for number in range(n)]


def chart(values: Rows, *, height: Any, **rest: Any) -> Spec:
    """A chart as wide as its place on the page."""
    return {"$schema": SCHEMA, "width": "container", "height": height, "data": {"values": list(values)}, **rest}
