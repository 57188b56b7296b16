"""The tasks of an evaluation, a row each; and what a row opens to: code, test, mutants, log. Bounded in size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lowvram_ft.report.page.reading import BEFORE, Run
from lowvram_ft.report.page.source_lines import colours, coverage_marks, lines_above, outcome_marks

MAX_TEXT = 20_000
"""Most characters of one text on the page; the whole one is in ``samples.jsonl``."""
MAX_SURVIVORS = 40
"""Most mutants of one test file that are shown."""
MAX_DETAILS_BYTES = 3_200_000
"""Of everything that rows open to, over all runs of a page: with the charts it stays below 5 MB."""


@dataclass
class Details:
    """What rows open to, as far as there is room.

    Attributes:
        left: bytes that may still be added.
        texts: every text once, with the colours of its tokens; what rows open to names them by their places.
        rows: what each row opens to; None where there was no room.
    """

    left: int = MAX_DETAILS_BYTES
    texts: list[list[str]] = field(default_factory=list)
    rows: list[list[dict[str, Any]] | None] = field(default_factory=list)
    _known: dict[str, int] = field(default_factory=dict)

    def add(self, evaluations: list[tuple[str, Mapping[str, Any]]]) -> int:
        """Add what one row opens to.

        Args:
            evaluations: what each is called, and the record of ``samples.jsonl``.

        Returns:
            Its place in `rows`.
        """
        if self.left > 0:
            before = sum(len(text) + len(spans) for text, spans in self.texts)
            found = [self._one(name, record) for name, record in evaluations]
            new = sum(len(text) + len(spans) for text, spans in self.texts) - before
            self.left -= len(json.dumps(found)) + new
            self.rows.append(found)
        else:
            self.rows.append(None)
        return len(self.rows) - 1

    def _text(self, text: str | None, *, python: bool = True) -> int:
        """The place of a text."""
        whole = text or ""
        shown = whole[:MAX_TEXT]
        if len(whole) > MAX_TEXT:
            shown += f"\n# … {len(whole) - MAX_TEXT:,} more characters: see samples.jsonl"
        if shown not in self._known:
            self._known[shown] = len(self.texts)
            self.texts.append([shown, colours(shown) if python else ""])
        return self._known[shown]

    def _one(self, name: str, record: Mapping[str, Any]) -> dict[str, Any]:
        verdict, mutants = record.get("verdict") or {}, record.get("mutants")
        coverage = verdict.get("coverage")
        survivors = (mutants or {}).get("survivors", [])
        above = lines_above(record.get("code") or "")
        found = {
            "name": name,
            "reason": record.get("reason", ""),
            "code": self._text(record.get("code")),
            "covered": coverage_marks(record.get("code") or "", coverage),
            "test": self._text(record.get("test")),
            "outcomes": outcome_marks(record.get("test") or "", verdict.get("results", [])),
            "results": [[r["name"], r["outcome"], r.get("message", "")] for r in verdict.get("results", [])[:200]],
            "log": self._text(verdict.get("log"), python=False),
            "survivors": [
                [one["line"] + above, one["operator"].rpartition("/")[2], one["diff"]]
                for one in survivors[:MAX_SURVIVORS]
            ],
            "hidden": max(0, len(survivors) - MAX_SURVIVORS),
            "mutants": None if mutants is None else [mutants["total"], mutants["killed"], mutants.get("timed_out", 0)],
            "tokens": [record.get("n_prompt_tokens"), record.get("n_tokens"), record.get("finish")],
            "lines": None
            if coverage is None
            else [
                coverage["covered_statements"],
                coverage["statements"],
                coverage["covered_branches"],
                coverage["branches"],
            ],
        }
        if record.get("answer") != record.get("test"):
            found["answer"] = self._text(record.get("answer"), python=False)
        return found


def rows(run: Run, details: Details) -> dict[str, Any]:
    """A row for each sample, with its last evaluation beside its first.

    Args:
        run: the run.
        details: what rows open to is added to it.

    Returns:
        ``columns`` (names of the evaluations), ``rows``, ``suites``, ``kinds`` (of reasons, in the last one),
        ``closed``: how many rows do not open, because there was no room.
    """
    evaluations = {step: name for step, name in run.evaluations.items() if step in run.samples}
    if not evaluations:
        return {"columns": [], "rows": [], "suites": [], "kinds": [], "closed": 0}
    steps = list(evaluations)
    last = steps[-1]
    keys = dict.fromkeys(key for step in reversed(steps) for key in run.samples[step])
    found = [_row(run, key, steps, evaluations, details) for key in keys]
    kinds = sorted({row["kinds"][-1] for row in found if row["kinds"][-1]})
    return {
        "columns": [evaluations[step] for step in ([BEFORE, last] if BEFORE in steps and last != BEFORE else [last])],
        "rows": found,
        "suites": sorted({row["suite"] for row in found}),
        "kinds": kinds,
        "closed": sum(details.rows[row["details"]] is None for row in found),
    }


def _row(
    run: Run, key: tuple[str, str, int], steps: list[str], evaluations: Mapping[str, str], details: Details
) -> dict[str, Any]:
    suite, task, sample = key
    records = [(step, run.samples[step][key]) for step in steps if key in run.samples[step]]
    place = details.add([(evaluations[step], record) for step, record in reversed(records)])
    last = run.samples[steps[-1]].get(key)
    first = run.samples[BEFORE].get(key) if BEFORE in steps and steps[-1] != BEFORE else None
    shown = [BEFORE, steps[-1]] if BEFORE in steps and steps[-1] != BEFORE else [steps[-1]]
    scores = (last or {}).get("scores") or {}
    return {
        "suite": suite,
        "task": task,
        "sample": sample,
        "details": place,
        "kinds": [_kind(run.samples[step].get(key)) for step in shown],
        "change": _change(first, last),
        "n_passed": scores.get("n_passed"),
        "n_tests": scores.get("n_tests"),
        "line_coverage": scores.get("line_coverage"),
        "branch_coverage": scores.get("branch_coverage"),
        "mutation_score": scores.get("mutation_score"),
    }


def _kind(record: Mapping[str, Any] | None) -> str:
    return str(record.get("reason", "")).partition(":")[0] if record is not None else ""


def _change(first: Mapping[str, Any] | None, last: Mapping[str, Any] | None) -> str:
    """``gained`` where the last file is worth more than the first, ``lost``, ``same``; empty with one of them alone."""
    worths = [_worth(record) for record in (first, last)]
    if worths[0] is None or worths[1] is None:
        return ""
    return "same" if worths[0] == worths[1] else "gained" if worths[1] > worths[0] else "lost"


def _worth(record: Mapping[str, Any] | None) -> tuple[float, ...] | None:
    scores = record.get("scores") if record is not None else None
    if not scores:
        return None
    return float(scores["passes"] and scores["useful"]), round(scores["mutation_score"], 6)
