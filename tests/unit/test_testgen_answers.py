"""What testgen logs of each answer: what became of it, and whether the code may be wrong there."""

import json
import stat

import pytest

from lowvram_ft.data.row import build_prompt
from lowvram_ft.inference import Completion
from lowvram_ft.testgen.attempts.answers import (
    Answered,
    Tried,
    append_answers,
    bodies,
    default_answers_path,
    to_log,
)
from lowvram_ft.testgen.attempts.candidates import Effort, write_candidates
from lowvram_ft.testgen.subject import Subject, Unit

CODE = '''\
def area(width, height):
    """Of a rectangle."""
    if width < 0:
        raise ValueError("width")
    return width * height
'''
GOOD = "from solution import area\n\n\ndef test_area():\n    assert area(2, 3) == 6\n"
WRONG = GOOD.replace("== 6", "== 7")
BROKEN = GOOD.replace("area(2, 3)", "area(two, 3)")
HALF = GOOD + "\n\ndef test_broken():\n    assert area(three, 3) == 9\n"
EMPTY = "There are no tests for this."
NOTHING = "from solution import area\n\n\ndef test_area():\n    area(2, 3)\n"


class Scripted:
    name = "scripted"

    def __init__(self, *answers):
        self.answers = list(answers)

    def generate(self, prompts, sampling, n=1):
        return [[Completion(self.answers.pop(0), 10, 11, "stop", 1.25, 0.1)] for _ in prompts]

    def close(self):
        pass


def found_for(tmp_path, *answers, samples=0, refinements=0):
    """What came of answers, the later ones refinements or samples."""
    unit = Unit("area", CODE, frozenset())
    effort = Effort(refinements=refinements, samples=samples)
    (found,) = write_candidates(
        Scripted(*answers), Subject(CODE, "shapes", tmp_path), [unit], effort, enough=lambda *_: False
    )
    return found


@pytest.mark.parametrize(
    ("answer", "fate"),
    [
        (GOOD, "passes"),
        (HALF, "some pass"),
        (BROKEN, "fails"),
        (NOTHING, "fails"),
        (EMPTY, "no test"),
        (WRONG, "contradicts"),
        (GOOD + WRONG.replace("from solution import area", "").replace("test_area", "test_wrong"), "contradicts"),
    ],
)
def test_the_fate_of_an_answer(tmp_path, answer, fate):
    (one,) = found_for(tmp_path, answer).answered
    assert (one.fate, one.unit, one.code, one.sample, one.turn) == (fate, "area", CODE, 0, 0)
    assert one.prompt == build_prompt(CODE)
    assert (one.n_tokens, one.finish, one.seconds) == (11, "stop", 1.25)


def test_a_refinement_is_logged_with_its_own_prompt(tmp_path):
    first, second = found_for(tmp_path, BROKEN, GOOD, refinements=1).answered
    assert (first.turn, first.fate, second.turn, second.fate) == (0, "fails", 1, "passes")
    assert "### Failing test:" in second.prompt


def test_a_test_that_was_bent_to_the_code_stays_a_contradiction(tmp_path):
    fates = [one.fate for one in found_for(tmp_path, WRONG, GOOD, refinements=1).answered]
    assert fates == ["contradicts", "contradicts"]


def test_an_answer_that_says_the_opposite_of_a_contradiction_disputes_it(tmp_path):
    found = found_for(tmp_path, WRONG, GOOD, GOOD.replace("area(2, 3) == 6", "area(4, 5) == 20"), samples=2)
    logged = to_log(found.answered, found.claims, {})
    assert [(one.fate, one.disputes) for one in logged] == [
        ("contradicts", False),
        ("passes", True),  # the code says 6, another answer 7: who is right is not known
        ("passes", False),
    ]


def test_an_answer_is_kept_where_one_of_its_tests_is_and_its_score_is_what_its_tests_find_together():
    text = (
        "from shapes import area\n\n\ndef test_a():\n    assert area(1, 2)\n\n\ndef test_b():\n    assert area(2, 2)\n"
    )
    renamed = {name.replace("test_a", "test_a_2"): body for name, body in bodies(text).items()}
    tried = {
        renamed["test_a_2"]: Tried(frozenset({1, 2}), 8, False),
        renamed["test_b"]: Tried(frozenset({2, 3}), 8, True),
    }
    facts = ("area", CODE, "p", "t", 0, 0, "passes")
    kept, other = to_log(
        [
            Answered(*facts, text, (), 1, "stop", 0.1),
            Answered(*facts, text.partition("def test_b")[0], (), 1, "stop", 0.1),
        ],
        [],
        tried,
    )
    assert (kept.score, kept.kept, other.score, other.kept) == (3 / 8, True, 2 / 8, False)
    assert bodies("not python (") == {} == bodies("")
    assert list(bodies("class TestX:\n    def test_y(self):\n        pass\n")) == ["TestX::test_y"]


def test_the_log_is_private_and_holds_each_answer_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWVRAM_FT_DATA", str(tmp_path / "data"))
    path = default_answers_path()
    assert path == tmp_path / "data" / "answers.jsonl"
    found = found_for(tmp_path, BROKEN, GOOD, refinements=1)
    logged = to_log(found.answered, found.claims, {})
    about = {"repository": "shop", "root": "/src", "module": "shapes", "time": "now", "model": "m"}
    assert append_answers(path, logged, [about] * 2) == 2
    assert append_answers(path, logged, [{**about, "time": "later"}] * 2) == 0
    assert append_answers(path, logged, [{**about, "model": "another"}] * 2) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    first = json.loads(path.read_text().splitlines()[0])
    assert first["repository"] == "shop" and first["fate"] == "fails" and first["text"].startswith("from solution")
