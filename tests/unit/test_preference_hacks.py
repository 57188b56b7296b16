"""No trick wins a pair, as it stands or as what is made of it; honest tests do, however weak."""

import dataclasses

import pytest

from lowvram_ft.execution import Limits
from lowvram_ft.preference import judging
from lowvram_ft.preference.choosing import is_winner
from lowvram_ft.preference.hacks import find_hacks
from lowvram_ft.preference.judging import judge_answers
from lowvram_ft.preference.parts import make_winners
from lowvram_ft.preference.records import Answer, PreferenceTask
from lowvram_ft.progress import Progress
from lowvram_ft.recipe.preference import PreferenceSection
from tests.preference_texts import HONEST, NEW, TRICKS
from tests.unit.test_reasons import CODE

LENIENT = PreferenceSection(winning_score=0.0)
"""Whatever kills a mutant would win: nothing but being a trick stands in the way."""


def answers(task, texts):
    return [Answer(key, task.id, place, text, 50, "stop", 1.0) for place, (key, text) in enumerate(texts.items())]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What is judged: the honest, and the tricks that are seen in no text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "_LIMITS", Limits(wall_s=8.0, test_s=2.0))
        return run(tmp_path_factory.mktemp("judged"))


def run(folder):
    kinds = {"tricks": {name: text for name, text in TRICKS.items() if not find_hacks(text, CODE)}, "honest": HONEST}
    tasks = [PreferenceTask(kind, kind, "rows", CODE, "solution") for kind in kinds]
    asked = [answer for task in tasks for answer in answers(task, kinds[task.id])]
    quiet = Progress(quiet=True)
    judged = judge_answers(tasks, asked, folder / "judged.jsonl", quiet)
    made = make_winners(tasks, judged, folder / "made.jsonl", quiet)
    return {one.key: one for one in judged}, made


def test_there_are_enough_of_them():
    assert len(NEW) >= 20
    assert len(TRICKS) >= 100
    assert len(HONEST) >= 10


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_never_wins(found, name):
    if name in found[0]:
        assert not is_winner(found[0][name], LENIENT)
        assert found[0][name].why_not
    else:
        assert find_hacks(TRICKS[name], CODE)


def test_most_tricks_are_seen_in_their_text(found):
    run = [name for name in TRICKS if name in found[0]]
    assert 3 <= len(run) < len(TRICKS) / 3, run


def test_a_file_in_which_a_trick_is_seen_may_not_win_whatever_it_kills(found):
    best = found[0]["two values"]
    assert best.may_win
    assert not dataclasses.replace(best, hacks=(("test_a", "why"),)).may_win
    assert not dataclasses.replace(best, hacks=(("", "why"),)).may_win


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_test_may_win(found, name):
    one = found[0][name]
    assert (one.fate, one.hacks, one.idle, one.flaky) == ("passes_and_kills", (), (), "")
    assert is_winner(one, LENIENT)


def test_the_tricks_that_only_running_shows_are_told_by_running(found):
    """They hold nothing that a reader of their text objects to."""
    judged, _ = found
    assert not judged["a snapshot by a fixture"].hacks
    assert judged["a snapshot by a fixture"].idle == ("test_a",)
    for name in ("hangs on the order of tests", "hangs on the seed of hashes", "hangs on the order of a set"):
        assert judged[name].flaky.startswith("ran: test_")


def test_a_trick_in_one_test_leaves_the_others_good():
    text = "import inspect\nfrom solution import clamp\n\n\ndef test_a():\n    assert clamp(11, 0, 10) == 10\n"
    assert {hack.test for hack in find_hacks(text, CODE)} == {""}, "an import is the whole file's"
    text = text.replace("import inspect\n", "") + "\n\ndef test_b():\n    assert clamp.__code__.co_consts\n"
    assert {hack.test for hack in find_hacks(text, CODE)} == {"test_b"}


def test_the_same_code_as_data_is_no_copy():
    code = "def table():\n    names = ['a', 'b']\n    return {'a': [1, 2, 3], 'b': [4, 5, 6], 'c': names}\n"
    wanted = "{'a': [1, 2, 3], 'b': [4, 5, 6], 'c': ['a', 'b']}"
    test = f"from solution import table\n\n\ndef test_a():\n    assert table() == {wanted}\n"
    assert not find_hacks(test, code)
