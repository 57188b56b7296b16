"""One test file of all that was found for a module: what adds something, written as the project writes its tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from lowvram_ft.data.row import SOLUTION
from lowvram_ft.testgen.attempts.answers import Tried, bodies
from lowvram_ft.testgen.attempts.candidates import Found
from lowvram_ft.testgen.attempts.findings import Dropped
from lowvram_ft.testgen.marks import marked, read_mark
from lowvram_ft.testgen.outcome import Kept, Outcome
from lowvram_ft.testgen.placing import NewFile, shown
from lowvram_ft.testgen.project.place import Placement, Project
from lowvram_ft.testgen.project.style import Style, format_with
from lowvram_ft.testgen.scope import Scope
from lowvram_ft.testgen.subject import Worth
from lowvram_ft.testgen.texts.drop import drop_tests, speaks_of_solution
from lowvram_ft.testgen.texts.manners import grouped, quoted
from lowvram_ft.testgen.texts.merge import CannotMerge, merge, restyle
from lowvram_ft.testgen.texts.unused_imports import without_unused_imports
from lowvram_ft.testgen.worth.measure import measure
from lowvram_ft.testgen.worth.select import choose, why_dropped


def assemble(
    outcome: Outcome,
    scope: Scope,
    project: Project,
    placement: Placement,
    before: str | None,
    found: Sequence[Found],
    model: str,
) -> tuple[Outcome, NewFile | None, dict[str, Tried]]:
    """One file of all that adds something.

    Args:
        outcome: as far as it is known.
        scope: what tests are held against.
        project: how it keeps its tests.
        placement: where these go.
        before: what is there now; None where there is nothing.
        found: what the model wrote.
        model: its name.

    Returns:
        (outcome, the file to be placed; None where nothing is, what each test came to by its body).
    """
    package = placement.module.partition(".")[0]
    texts = [text for part in found for text in part.texts]
    foreign = [text for text in texts if package != SOLUTION and speaks_of_solution(text)]
    texts = [text for text in texts if text not in foreign]
    told = [Dropped("", f"an answer needs a module named {SOLUTION}, which your project has not")] * len(foreign)
    outcome = dataclasses.replace(outcome, dropped=(*outcome.dropped, *told))
    if not texts:
        return outcome, None, {}
    together, left_out = _merged(texts, package)
    outcome = dataclasses.replace(outcome, dropped=(*outcome.dropped, *left_out))
    each = scope.measure_each(together)
    chosen = choose(each, scope.base, by=scope.settings.by)
    reasons = why_dropped(each, chosen, scope.base, by=scope.settings.by)
    tried = _tried(together, each, ())
    dropped = [Dropped(name, reason) for name, reason in reasons.items()]
    outcome = dataclasses.replace(outcome, dropped=(*outcome.dropped, *dropped))
    if not chosen:
        return dataclasses.replace(outcome, status="nothing to add"), None, tried
    new = without_unused_imports(drop_tests(together, [name for name in each if name not in chosen]))
    new = _in_style(new, project.style, placement.module)
    ours = _body(before) if placement.ours is not None else None
    whole, left_out = (new, ()) if ours is None else _merged([ours, new], package)
    if left_out:
        return dataclasses.replace(outcome, dropped=(*outcome.dropped, *left_out), status="nothing to add"), None, tried
    text, reason = format_with(project.style, whole, placement.test_file)
    worth, verdict = measure(scope.subject, text, max_mutants=scope.settings.max_mutants, lines=scope.lines)
    failing = [result for result in verdict.results if result.outcome != "passed"]
    allowed = {result.name for result in scope.there.failing.get(placement.ours, ())} if placement.ours else set()
    if not verdict.results or any(result.name not in allowed for result in failing):
        what = failing[0].message.partition("\n")[0] if failing else verdict.status
        lost = [Dropped(name, f"fails beside the others: {what}") for name in chosen]
        return dataclasses.replace(outcome, dropped=(*outcome.dropped, *lost)), None, tried
    text = marked(text, model, scope.subject.code)
    outcome = dataclasses.replace(
        outcome,
        status="unchanged" if text == before else "written",
        test_file=shown(placement.test_file),
        kept=tuple(Kept(name, len(each[name].lines), len(each[name].killed)) for name in chosen),
        text=text,
        notes=(*outcome.notes, *([f"not formatted: {reason}"] if reason else [])),
    )
    outcome = scope.with_reach(outcome, worth)
    file = None if text == before else NewFile(placement.test_file, text, before)
    return outcome, file, _tried(together, each, chosen)


def _tried(together: str, each: Mapping[str, Worth], chosen: Collection[str]) -> dict[str, Tried]:
    """What each test came to."""
    texts = bodies(together)
    return {
        texts[name]: Tried(worth.killed, worth.mutants, name in chosen) for name, worth in each.items() if name in texts
    }


def _in_style(test: str, style: Style, module: str) -> str:
    """As the project's own tests are written; line breaks are left to its formatter."""
    test = restyle(test, style.imports, module)
    if style.classes:
        test = grouped(test, "Test" + "".join(part.capitalize() for part in module.rpartition(".")[2].split("_")))
    return test if style.formatter is not None else quoted(test, style.quotes)


def _merged(texts: Sequence[str], package: str) -> tuple[str, tuple[Dropped, ...]]:
    """One file of several; what cannot be taken in is left out."""
    taken = list(texts)
    left_out: list[Dropped] = []
    while True:
        try:
            return merge(taken, first_party={package}), tuple(left_out)
        except CannotMerge as error:
            left_out.append(Dropped("", f"cannot be put into one file with the others: {error.reason}"))
            del taken[error.place]


def _body(before: str | None) -> str | None:
    """A file of ours without its first line."""
    if before is None or read_mark(before) is None:
        return None
    return before.replace("\r\n", "\n").partition("\n")[2]
