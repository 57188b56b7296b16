"""The page itself: what was read, in its templates, with its scripts."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from lowvram_ft import __version__
from lowvram_ft.errors import LowvramError, MachineError, UsageError
from lowvram_ft.progress import Progress
from lowvram_ft.report.page import charts, charts_of_training
from lowvram_ft.report.page.headline import headline
from lowvram_ft.report.page.provenance import latency, provenance
from lowvram_ft.report.page.reading import Run, read_runs
from lowvram_ft.report.page.results import stage_by_stage, suites
from lowvram_ft.report.page.rows_of_data import funnels, rounds
from lowvram_ft.report.page.side_by_side import side_by_side
from lowvram_ft.report.page.tasks import Details, rows
from lowvram_ft.report.page.training import curves, durations, memory, stages
from lowvram_ft.report.page.vega import bundle, for_html
from lowvram_ft.run_dir import RunDir, write_text

PAGE = "report.html"
"""Name of the page in a run directory."""
_GENERATOR = '<meta name="generator" content="lowvram-ft'
"""What tells a page of ours from other files."""


def write_page(runs: Sequence[Path], out: Path) -> Path:
    """Write the page of runs; a file that holds the same already is left alone.

    Args:
        runs: run directories.
        out: the file.

    Returns:
        ``out``.

    Raises:
        RunDirectoryError: one is no run directory.
        UsageError: the file is there, and is no page of ours.
        MachineError: the file cannot be written.
    """
    text = page(runs)
    found = out.read_bytes() if out.is_file() else None
    if found is not None and _GENERATOR.encode() not in found[:4000]:
        raise UsageError(f"{out}: is there already and is no page of lowvram-ft; name another file with --html")
    if found != text.encode("utf-8"):
        write_text(out, text)
    return out


def write_page_of(run: RunDir, progress: Progress) -> None:
    """Write the page of a run into its directory; where that cannot be done, say so: the run is worth what it is.

    Args:
        run: the run.
        progress: where a person reads it.
    """
    try:
        write_page([run.path], run.path / PAGE)
    except LowvramError as error:
        progress.say(f"the page of the run is not written: {error}")


def place_of(runs: Sequence[Path]) -> Path:
    """Where a page goes that nobody named a place for: into its run; of several, into the current folder."""
    return runs[0] / PAGE if len(runs) == 1 else Path(PAGE)


def open_page(out: Path) -> None:
    """Open a page in the user's browser.

    Raises:
        MachineError: none can be started.
    """
    import webbrowser

    if not webbrowser.open(out.resolve().as_uri()):
        raise MachineError(f"{out}: no browser could be started; open the file in one")


def page(paths: Sequence[Path]) -> str:
    """The page of one run, or of several side by side.

    Args:
        paths: run directories.

    Raises:
        RunDirectoryError: one is no run directory.
    """
    runs = read_runs(paths)
    names = [run.label for run in runs]
    parts = _Parts()
    views = [_view(run, number, parts) for number, run in enumerate(runs)]
    together = _together(runs, parts) if len(runs) > 1 else None
    data = {"charts": parts.charts, "texts": parts.details.texts, "rows": parts.details.rows}
    scripts = [bundle(), for_html(_file("page.js"))]
    text = _template().render(
        title=" and ".join(names) if len(names) < 4 else f"{len(names)} runs",
        runs=views,
        together=together,
        version=__version__,
        style=_file("page.css"),
        scripts=scripts,
        data=_json_for_html(data),
        policy=_policy(scripts),
    )
    return _encodable(text)


class _Parts:
    """What the views of a page share: its charts, and what rows open to."""

    def __init__(self) -> None:
        self.charts: dict[str, charts.Spec] = {}
        self.details = Details()

    def chart(self, name: str, spec: charts.Spec) -> str:
        """Add a chart; its name, for the template."""
        self.charts[name] = spec
        return name


def _view(run: Run, number: int, parts: _Parts) -> dict[str, Any]:
    """Everything that the template says of one run."""
    own = f"run-{number}"
    found, timed = curves(run), latency(run)
    results = suites(run)
    for place, suite in enumerate(results):
        columns = list(dict.fromkeys(value["when"] for value in suite["values"]))
        if columns:
            suite["chart"] = parts.chart(f"{own}-rates-{place}", charts.rates(suite["values"], columns))
        if suite["reasons"]:
            every = list(dict.fromkeys(value["when"] for value in suite["reasons"]))
            suite["reasons_chart"] = parts.chart(f"{own}-reasons-{place}", charts.reasons(suite["reasons"], every))
    planned, data, learned = memory(run), funnels(run), rounds(run)
    for place, stage in enumerate(planned):
        stage["chart"] = parts.chart(f"{own}-memory-{place}", charts.terms(stage["bars"])) if stage["bars"] else None
    for place, one in enumerate([*data, *learned]):
        one["chart"] = parts.chart(f"{own}-funnel-{place}", charts.funnel(one["bars"])) if one["bars"] else None
    return {
        "id": own,
        "label": run.label,
        "headline": headline(run),
        "suites": results,
        "stage_by_stage": stage_by_stage(run),
        "stages": stages(run),
        "curves": _curves(own, found, parts),
        "memory": planned,
        "data": data,
        "rounds": learned,
        "latency": timed,
        "latency_chart": parts.chart(f"{own}-latency", charts.latency(timed)) if timed is not None else None,
        "tasks": rows(run, parts.details),
        "provenance": provenance(run),
        "durations": durations(run),
    }


def _curves(own: str, found: dict[str, Any], parts: _Parts) -> dict[str, Any]:
    """Names of the charts of training: ``losses``, and ``small`` ones with their titles."""
    if not found["trained"]:
        return {"losses": None, "small": []}
    wanted = (
        ("learning_rate", "learning rate"),
        ("tok_per_s", "tokens/s"),
        ("memory", "memory, GiB"),
        ("reward_margin", "reward margin"),
        ("reward_accuracy", "winner preferred"),
    )
    small = []
    for field, title in wanted:
        if any(point.get(field) is not None for point in found["trained"]):
            planned = found["planned"] if field == "memory" else ()
            spec = charts_of_training.curve(found, field, title, planned=planned)
            note = "dashed: what the plan gives" if planned else ""
            small.append({"title": title, "note": note, "chart": parts.chart(f"{own}-{field}", spec)})
    return {"losses": parts.chart(f"{own}-losses", charts_of_training.losses(found)), "small": small}


def _together(runs: Sequence[Run], parts: _Parts) -> dict[str, Any]:
    found = side_by_side(runs)
    names = found["labels"]
    for place, suite in enumerate(found["suites"]):
        spec = charts.rates(suite["values"], names, charts.colours(len(names)))
        suite["chart"] = parts.chart(f"together-rates-{place}", spec)
    losses = found.pop("losses")
    found["losses_chart"] = (
        parts.chart("together-losses", charts_of_training.overlaid(losses, names, "loss", "loss")) if losses else None
    )
    return found


@cache
def _template() -> Any:
    """The page's template, with escaping of everything that is not marked as the kit's own."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lowvram_ft.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _file(name: str) -> str:
    return files("lowvram_ft.report.page").joinpath("templates", name).read_text(encoding="utf-8")


def _json_for_html(value: Any) -> str:
    """JSON that may stand inside of a ``<script>`` element: no ``<``, ``>`` or ``&`` is left in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return "".join(_ESCAPED.get(letter, letter) for letter in text) if _ESCAPED.keys() & set(text) else text


_ESCAPED = {letter: f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}


def _policy(scripts: Sequence[str]) -> str:
    """A content security policy: these scripts and no others, no address at all. Vega compiles its expressions."""
    hashes = (
        base64.b64encode(hashlib.sha256(_encodable(script).encode("utf-8")).digest()).decode() for script in scripts
    )
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:"


def _encodable(text: str) -> str:
    """Text without halves of surrogate pairs, which UTF-8 does not have."""
    return text.encode("utf-8", "replace").decode("utf-8")
