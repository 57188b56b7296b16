"""What is made of the good tests of answers."""

import dataclasses

import pytest

from lowvram_ft.preference.choosing import is_winner
from lowvram_ft.preference.hacks import find_hacks
from lowvram_ft.preference.judging import judge_answers
from lowvram_ft.preference.parts import join, make_winners, prune, single_tests
from lowvram_ft.preference.records import Answer
from lowvram_ft.progress import Progress
from lowvram_ft.recipe.preference import PreferenceSection
from lowvram_ft.run_dir import read_jsonl
from tests.judged_files import CODE, task, winner

QUIET = Progress(quiet=True)
HEAD = "import math\nimport pytest\nfrom solution import double\n\n\n"
GOOD = "def test_good():\n    assert double(2) == 4\n"
BAD = "def test_bad():\n    assert math.floor(double(2)) == 5\n"
CASES = (
    "@pytest.mark.parametrize('x, want', [(1, 2), (2, 5), (-1, 0)])\ndef test_cases(x, want):\n"
    "    assert double(x) == want\n"
)
NEGATIVE = "def test_negative():\n    assert double(-3) == 0\n"
ZERO = "def test_zero():\n    assert double(-1) == 0\n    assert double(0) == 0\n"


def judged_as(test, passing, failing=(), **fields):
    return winner(test, fate="useful", passing=tuple(passing), failing=tuple(failing), **fields)


def test_failing_tests_go_and_imports_with_them():
    left = prune(judged_as(HEAD + BAD + "\n\n" + GOOD, ["test_good"], ["test_bad"]))
    assert left == "from solution import double\n\n\ndef test_good():\n    assert double(2) == 4\n"


def test_failing_cases_go_and_the_others_stay():
    names = ["test_cases[1-2]", "test_cases[-1-0]"]
    one = judged_as(HEAD + CASES, names, ["test_cases[2-5]"], mixed=(("test_cases", (1,), 3),))
    left = prune(one)
    assert left is not None
    assert "[(1, 2), (-1, 0)]" in left
    assert "(2, 5)" not in left


def test_tricks_and_what_observes_nothing_go_too():
    text = HEAD + GOOD + "\n\n" + BAD.replace("bad", "trick") + "\n\n" + NEGATIVE
    names = ["test_good", "test_trick", "test_negative"]
    one = judged_as(text, names, hacks=(("test_trick", "why"),), idle=("test_negative",))
    assert prune(one) == "from solution import double\n\n\n" + GOOD


def test_nothing_is_made_of_a_file_that_is_a_trick_as_a_whole_or_that_is_good():
    text = HEAD + GOOD + "\n\n" + BAD
    assert prune(judged_as(text, ["test_good"], ["test_bad"], hacks=(("", "why"),))) is None
    assert prune(judged_as(text, [], ["test_bad", "test_good"])) is None
    assert prune(judged_as(HEAD + GOOD, ["test_good"])) is None
    assert prune(judged_as("no Python (", ["test_good"])) is None


def test_each_test_alone_has_what_it_needs():
    helper = "def four():\n    return 4\n\n\n"
    files = single_tests(HEAD + helper + GOOD.replace("4", "four()") + "\n\n" + BAD)
    assert len(files) == 2
    assert "def four()" in files[0] and "test_bad" not in files[0] and "import math" not in files[0]
    assert "import math" in files[1] and "test_good" not in files[1]
    assert single_tests(GOOD) == [GOOD]
    assert single_tests("x = 1\n") == []


def part(test, *killed):
    return winner("from solution import double\n\n\n" + test, killed=killed, passing=("t",))


def test_joined_tests_are_those_that_add_most():
    parts = [part(GOOD, 1, 2, 3), part(NEGATIVE, 3, 4), part(ZERO, 4, 5, 6, 7), part(BAD, 1, 2)]
    ((text, used),) = join(parts, longest=1000, usual=0)
    assert used == (parts[2], parts[0]), "the one that kills most, then what adds to it, and no more"
    assert text.count("def test_") == 2 and text.count("import") == 1
    compile(text, "test", "exec")


def test_a_joined_file_is_no_longer_than_it_may_be():
    parts = [part(GOOD, 1, 2, 3), part(ZERO, 4, 5, 6, 7)]
    ((text, _),) = join(parts, longest=1000, usual=0)
    assert len(join(parts, longest=len(text.strip()), usual=0)) == 1
    assert join(parts, longest=len(text.strip()) - 1, usual=0) == []


def test_where_answers_are_longer_a_second_file_goes_on():
    parts = [part(GOOD, 1, 2, 3), part(NEGATIVE, 3), part(ZERO, 4, 5)]
    lean, full = join(parts, longest=1000, usual=1000)
    assert len(lean[1]) == 2 and len(full[1]) == 3
    assert len(full[0]) > len(lean[0])


def test_a_single_part_that_kills_all_is_not_joined():
    assert join([part(GOOD, 1, 2, 3), part(NEGATIVE, 3)], longest=1000, usual=0) == []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    texts = {
        "half": HEAD + BAD + "\n\n" + GOOD,
        "other half": HEAD + NEGATIVE + "\n\n" + BAD,
        "trick": HEAD + GOOD + "\n\ndef test_looks():\n    assert double.__code__.co_consts\n",
        "wrong": HEAD + BAD + "\n\n" + BAD.replace("bad", "worse") + "\n\n" + BAD.replace("bad", "worst"),
    }
    answers = [Answer(key, "t", place, text, 60, "stop", 1.0) for place, (key, text) in enumerate(texts.items())]
    judged = judge_answers([task()], answers, folder / "judged.jsonl", QUIET)
    return folder, judged, make_winners([task()], judged, folder / "made.jsonl", QUIET)


def test_what_is_made_is_judged_as_a_whole_and_says_of_what(made):
    _, judged, found = made
    lenient = PreferenceSection(winning_score=0.0)
    assert not any(is_winner(one, lenient) for one in judged)
    assert found
    assert all(is_winner(one, lenient) and one.made_of and one.key == f"made/{one.text}" for one in found)
    assert not any(find_hacks(one.test, CODE) for one in found)
    joined = [one for one in found if set(one.made_of) >= {"half", "other half"}]
    assert joined and joined[0].test.count("def test_") == 2
    best = max(found, key=lambda one: one.mutation_score)
    assert best in joined, "together they kill more than each of them"
    assert max(len(one.test) for one in found) <= max(len(one.test) for one in judged)
    assert all(10 < one.n_tokens < 60 for one in found)


def test_it_is_judged_once(made, monkeypatch):
    folder, judged, found = made
    texts = [record["text"] for record in read_jsonl(folder / "made.jsonl") if record["step"] == "judged"]
    assert len(texts) == len(set(texts))

    def refuse(function, jobs, **_):
        assert not list(jobs)
        return []

    monkeypatch.setattr("lowvram_ft.preference.judging.run_many", refuse)
    assert make_winners([task()], judged, folder / "made.jsonl", QUIET) == found
    assert dataclasses.replace(found[0], key="") != found[0]
