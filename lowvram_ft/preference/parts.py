"""Winners made of parts: the good tests of one answer, or of several answers to a task.

*Pruned*: a file without its tests that fail, observe nothing, or are a trick; without the failing cases of its
parametrized tests; without imports that nothing needs any longer.

*Joined*: of the single tests of all answers to a task, the one that kills most mutants, then the one that kills most of
those that are left (greedy set cover, Chvatal 1979), until none adds anything. It may not get longer than the longest
answer. Where that is short, a second one goes on with tests that add nothing, up to the usual length of an answer: the
choice of pairs needs winners that are no shorter than losers.

What is made is a new file, and judged like any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from lowvram_ft.data.syntax import parse
from lowvram_ft.preference.judged import Judged, function_of
from lowvram_ft.preference.judging import Text, judge_texts
from lowvram_ft.preference.records import PreferenceTask
from lowvram_ft.progress import Progress
from lowvram_ft.testgen.attempts.reading import named_tests
from lowvram_ft.testgen.texts.drop import drop_cases, drop_tests
from lowvram_ft.testgen.texts.merge import CannotMerge, merge
from lowvram_ft.testgen.texts.unused_imports import without_unused_imports

MOST_SINGLE_TESTS = 24
"""Tests of all answers to a task that are judged by themselves."""


def make_winners(
    tasks: Sequence[PreferenceTask], judged: Sequence[Judged], log: Path, progress: Progress
) -> list[Judged]:
    """Make files of the good tests of answers, and judge them.

    Args:
        tasks: what the answers are to.
        judged: the answers.
        log: a JSONL file of what was judged, see `lowvram_ft.preference.judging.judge_texts`.
        progress: where a person reads how far it is.

    Returns:
        What was made, whatever it is worth, by task; no text twice, and none that an answer holds already.

    Raises:
        DataError: the folder of a task's package is not there.
        MachineError: the processes that run tests cannot be started.
    """
    answers: dict[str, list[Judged]] = {task.id: [] for task in tasks}
    for one in judged:
        answers[one.task].append(one)
    pruned = [text for task in tasks for text in _pruned_texts(task, answers[task.id])]
    found = judge_texts(pruned, log, progress, "judging what is left of answers")
    singles = [text for task in tasks for text in _single_tests(task, answers[task.id], found)]
    parts: dict[str, list[Judged]] = {task.id: [] for task in tasks}
    for one in judge_texts(singles, log, progress, "judging single tests"):
        if one.may_win and one.fate == "passes_and_kills":
            parts[one.task].append(one)
    joined = [text for task in tasks for text in _joined_texts(task, parts[task.id], answers[task.id])]
    found += judge_texts(joined, log, progress, "judging joined tests")
    return _unique([_with_tokens(one, answers[one.task]) for one in found], judged)


def prune(one: Judged) -> str | None:
    """What is left of a file without its bad tests and cases; None where nothing is, or nothing was bad."""
    tree = parse(one.test)
    if tree is None or one.whole_file_hacks:
        return None
    tricks = {test for test, _ in one.hacks} | {function_of(name) for name in one.idle}
    text, rescued = one.test, set()
    for name, places, count in one.mixed:
        if name not in tricks and (fewer := drop_cases(text, name, places, count)) is not None:
            text = fewer
            rescued.add(name)
    keep = {*one.good_tests, *rescued}
    names = [name for name, _, _ in named_tests(tree.body)]
    if not keep & set(names):
        return None
    dropped = [name for name in names if name not in keep]
    left = without_unused_imports(drop_tests(text, dropped)) if dropped else text
    return None if left.strip() == one.test.strip() or parse(left) is None else left


def single_tests(test: str) -> list[str]:
    """A file for each test of a file, with all that stands beside the tests; none for a text that is no Python."""
    tree = parse(test)
    names = [name for name, _, _ in named_tests(tree.body)] if tree is not None else []
    if len(names) < 2:
        return [test] if names else []
    found = []
    for name in dict.fromkeys(names):
        alone = drop_tests(test, [other for other in names if other != name])
        if parse(alone) is not None:
            found.append(without_unused_imports(alone))
    return found


def join(parts: Sequence[Judged], longest: int, usual: int) -> list[tuple[str, tuple[Judged, ...]]]:
    """Files of single tests that kill, together, as many mutants as fit.

    Args:
        parts: files of a single test each, which pass and kill.
        longest: most characters of a file.
        usual: characters up to which a second file goes on with tests that kill nothing more.

    Returns:
        At most two files, each with the parts that it is made of; none where a single part kills as much.
    """
    order = sorted(parts, key=lambda part: (-len(part.killed), len(part.test), part.text))
    taken: list[Judged] = []
    text, killed = "", set[int]()
    left = list(order)
    while left:
        best = max(left, key=lambda part: len(set(part.killed) - killed))  # the first of those that are alike
        left.remove(best)
        if not set(best.killed) - killed:
            break
        longer = _merged([*taken, best], longest)
        if longer is not None:
            taken.append(best)
            text = longer
            killed |= set(best.killed)
    found = [(text, tuple(taken))] if len(taken) > 1 else []
    full, more = text, list(taken)
    for part in order:
        if len(full) >= usual or part in more:
            continue
        longer = _merged([*more, part], longest)
        if longer is not None and longer != full:
            full, more = longer, [*more, part]
    if len(more) > len(taken):
        found.append((full, tuple(more)))
    return found


def _merged(parts: Sequence[Judged], longest: int) -> str | None:
    """One file of several, None where they cannot be one, or where it gets too long."""
    try:
        text = merge([part.test for part in parts])
    except CannotMerge:
        return None
    return text if len(text.strip()) <= longest and parse(text) is not None else None


def _pruned_texts(task: PreferenceTask, answers: Sequence[Judged]) -> list[Text]:
    """Of files whose passing tests kill something, and that cannot win as they are."""
    found = []
    for one in answers:
        if one.killed and not one.may_win and (left := prune(one)) is not None:
            found.append(Text("", task, left, (one.key,)))
    return _first_of_each(found)


def _single_tests(task: PreferenceTask, answers: Sequence[Judged], pruned: Sequence[Judged]) -> list[Text]:
    """Of every file that passes and is no trick, whatever it was made of: the more it kills, the sooner."""
    good = [one for one in [*answers, *(one for one in pruned if one.task == task.id)] if one.may_win and one.killed]
    good.sort(key=lambda one: (-len(one.killed), one.text))
    texts = [Text("", task, test, one.made_of or (one.key,)) for one in good for test in single_tests(one.test)]
    return _first_of_each(texts)[:MOST_SINGLE_TESTS]


def _joined_texts(task: PreferenceTask, parts: Sequence[Judged], answers: Sequence[Judged]) -> list[Text]:
    lengths = [len(one.test.strip()) for one in answers if one.test.strip()]
    if len(parts) < 2 or not lengths:
        return []
    files = join(parts, max(lengths), round(median(lengths)))
    return [
        Text("", task, text, tuple(dict.fromkeys(key for part in used for key in part.made_of))) for text, used in files
    ]


def _first_of_each(texts: Sequence[Text]) -> list[Text]:
    """Each text once, of the first answer that holds it."""
    return list({text.hash: text for text in reversed(texts)}.values())[::-1]


def _with_tokens(one: Judged, answers: Sequence[Judged]) -> Judged:
    """With an estimate of its tokens, by those of the answers to its task; 0 where these are not known."""
    known = [(other.n_tokens, len(other.test.strip())) for other in answers if other.n_tokens]
    tokens, characters = sum(n for n, _ in known), sum(length for _, length in known)
    n_tokens = max(1, round(len(one.test.strip()) * tokens / characters)) if characters else 0
    return dataclasses.replace(one, key=f"made/{one.text}", n_tokens=n_tokens)


def _unique(made: Sequence[Judged], judged: Sequence[Judged]) -> list[Judged]:
    seen = {one.text for one in judged}
    found: Mapping[str, Judged] = {one.text: one for one in reversed(made) if one.text not in seen}
    return list(found.values())[::-1]
