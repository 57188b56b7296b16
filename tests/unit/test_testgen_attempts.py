"""The loop that writes tests and mends them, with a model that answers what it is told to."""

import pytest

from lowvram_ft.data.row import build_prompt
from lowvram_ft.errors import GenerationError, PromptTooLong
from lowvram_ft.execution import Limits
from lowvram_ft.inference import Completion
from lowvram_ft.inference.extraction import extract_test
from lowvram_ft.testgen.attempts import examine
from lowvram_ft.testgen.attempts.candidates import Effort, write_candidates
from lowvram_ft.testgen.subject import Subject, Unit

AREA = "def area(w, h):\n    return w + h\n"
WRONG_CODE_TEST = "from solution import area\n\n\ndef test_area():\n    assert area(2, 3) == 6\n"
GREEDY = Effort(samples=0)


class Scripted:
    """Answers each prompt with the next text for the code in it; with the last one when there are no more.

    Args:
        answers: by a piece of the code.
    """

    name = "scripted"

    def __init__(self, answers):
        self.answers = {code: list(texts) for code, texts in answers.items()}
        self.asked = []

    def generate(self, prompts, sampling, n=1):
        self.asked.append((list(prompts), sampling))
        return [[Completion(self._next(prompt), 10, 10, "stop", 1.0, 0.1)] for prompt in prompts]

    def _next(self, prompt):
        (texts,) = (texts for code, texts in self.answers.items() if code in prompt)
        return texts.pop(0) if len(texts) > 1 else texts[0]

    def close(self):
        pass


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One folder for all: the processes that run tests are started once for each."""
    return tmp_path_factory.mktemp("project")


def found_for(root, code, *answers, effort=GREEDY, enough=lambda unit, texts: bool(texts), **settings):
    """What comes of one unit that is the whole module, and the model that was asked."""
    generator = Scripted({code.strip(): answers})
    subject = Subject(code, settings.pop("module", "shapes"), root, **settings)
    (found,) = write_candidates(generator, subject, [Unit("", code, frozenset())], effort, enough=enough)
    return found, generator


def found_for_each(root, code, answers):
    """What comes of as many units as there are scripts, side by side, and all prompts."""
    units = [Unit("", f"{code}\n\n# {way}.\n", frozenset()) for way in answers]
    generator = Scripted({f"# {way}.\n": texts for way, texts in answers.items()})
    found = write_candidates(
        generator, Subject(code, "shapes", root), units, GREEDY, enough=lambda unit, texts: bool(texts)
    )
    return dict(zip(answers, found, strict=True)), [prompts for prompts, _ in generator.asked]


def with_imports(body):
    return "import pytest\nfrom solution import area\n\n\n" + body


BENT = {
    "another value": "def test_area():\n    assert area(2, 3) == 5\n",
    "another value, the other way round": "def test_area():\n    assert 5 == area(2, 3)\n",
    "approx": "def test_area():\n    assert area(2, 3) == pytest.approx(6, abs=2)\n",
    "in": "def test_area():\n    assert area(2, 3) in (5, 6)\n",
    "is not None": "def test_area():\n    assert area(2, 3) is not None\n",
    "at most": "def test_area():\n    assert area(2, 3) <= 6\n",
    "not equal": "def test_area():\n    assert area(2, 3) != 6\n",
    "only its type": "def test_area():\n    assert isinstance(area(2, 3), int)\n",
    "or": "def test_area():\n    assert area(2, 3) == 6 or area(2, 3) == 5\n",
    "try and except": (
        "def test_area():\n    try:\n        assert area(2, 3) == 6\n    except AssertionError:\n"
        "        assert area(0, 0) == 0\n"
    ),
    "if": "def test_area():\n    if area(2, 3) == 6:\n        assert area(2, 3) == 6\n    assert area(0, 0) == 0\n",
    "suppressed": (
        "import contextlib\n\ndef test_area():\n    assert area(0, 0) == 0\n"
        "    with contextlib.suppress(AssertionError):\n        assert area(2, 3) == 6\n"
    ),
    "an expected AssertionError": (
        "def test_area():\n    with pytest.raises(AssertionError):\n        assert area(2, 3) == 6\n"
    ),
    "skipped": "@pytest.mark.skip\ndef test_area():\n    assert area(2, 3) == 6\n",
    "skipped inside": "def test_area():\n    pytest.skip('no')\n    assert area(2, 3) == 6\n",
    "expected to fail": "@pytest.mark.xfail\ndef test_area():\n    assert area(2, 3) == 6\n",
    "returns before": "def test_area():\n    assert area(0, 0) == 0\n    return\n    assert area(2, 3) == 6\n",
    "returns where it would fail": (
        "def test_area():\n    if area(2, 3) != 6:\n        return\n    assert area(2, 3) == 6\n"
    ),
    "a call without a check": "def test_area():\n    area(2, 3)\n    assert area(0, 0) == 0\n",
    "nothing": "def test_area():\n    pass\n",
    "always true": "def test_area():\n    assert True\n",
    "another name": "def test_adds():\n    assert area(2, 3) == 5\n",
    "another name, spelt with keywords": "def test_adds():\n    assert area(h=3, w=2) == 5\n",
    "other arguments": "def test_area():\n    assert area(3, 3) == 6\n",
    "other arguments by a variable": "def test_area():\n    w, h = 3, 3\n    assert area(w, h) == 6\n",
    "another expectation by a variable": "def test_area():\n    wanted = 5\n    assert area(2, 3) == wanted\n",
    "parametrized": (
        "@pytest.mark.parametrize('w, h, wanted', [(2, 3, 5), (0, 0, 0)])\n"
        "def test_area(w, h, wanted):\n    assert area(w, h) == wanted\n"
    ),
    "the code replaced by a function": (
        "def area(w, h):\n    return w * h\n\n\ndef test_area():\n    assert area(2, 3) == 6\n"
    ),
    "the code replaced by a lambda": (
        "def test_area():\n    area = lambda w, h: w * h\n    assert area(2, 3) == 6\n"
    ),
    "the code patched by name": (
        "import solution\n\n\ndef test_area(monkeypatch):\n    monkeypatch.setattr('solution.area', lambda w, h: 6)\n"
        "    assert solution.area(2, 3) == 6\n"
    ),
    "the code patched as an object": (
        "import solution\n\n\ndef test_area(monkeypatch):\n"
        "    monkeypatch.setattr(solution, 'area', lambda w, h: 6)\n    assert solution.area(2, 3) == 6\n"
    ),
    "the code assigned": (
        "import solution\nsolution.area = lambda w, h: 6\n\n\ndef test_area():\n    assert solution.area(2, 3) == 6\n"
    ),
    "an object that equals everything": (
        "from unittest.mock import ANY\n\n\ndef test_area():\n    assert area(2, 3) == ANY\n"
    ),
    "taken out": "def test_zero():\n    assert area(0, 0) == 0\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def bent(root):
    return found_for_each(root, AREA, {way: [WRONG_CODE_TEST] + 2 * [with_imports(BENT[way])] for way in BENT})


@pytest.mark.parametrize("way", BENT)
def test_a_test_that_the_code_contradicts_is_reported_however_it_is_bent(bent, way):
    found = bent[0][way]
    (contradiction,) = found.contradictions
    assert (contradiction.test, contradiction.assertion) == ("test_area", "assert area(2, 3) == 6")
    assert contradiction.message.startswith("assert 5 == 6")
    assert contradiction.text == WRONG_CODE_TEST.replace("solution", "shapes")
    assert not contradiction.disputed
    assert found.texts == ()
    assert found.traces == ()
    assert found.dropped, "it went without a word"
    assert found.answers >= 2, "it was never asked to mend"


# --- honest repairs

STORE = """\
import os

_store = {}


def put(key, value):
    if key in _store:
        raise KeyError(key)
    _store[key] = value
    return len(_store)


def clear():
    _store.clear()


def region():
    return os.environ["REGION"].lower()


def scaled(value, factor):
    return value * factor
"""

HONEST = {
    "a missing import": (
        "def test_scaled():\n    assert scaled(math.floor(2.5), 3) == 6\n",
        "import math\n\n\ndef test_scaled():\n    assert scaled(math.floor(2.5), 3) == 6\n",
    ),
    "a missing import of the code": (
        "from solution import scale\n\n\ndef test_scaled():\n    assert scale(2, 3) == 6\n",
        "def test_scaled():\n    assert scaled(2, 3) == 6\n",
    ),
    "a fixture that does not exist": (
        "def test_scaled(two):\n    assert scaled(two, 3) == 6\n",
        "@pytest.fixture\ndef two():\n    return 2\n\n\ndef test_scaled(two):\n    assert scaled(two, 3) == 6\n",
    ),
    "too few arguments": (
        "def test_scaled():\n    assert scaled(2) == 6\n",
        "def test_scaled():\n    assert scaled(2, 3) == 6\n",
    ),
    "a file that does not parse": (
        "def test_scaled(:\n    assert scaled(2, 3) == 6\n",
        "def test_scaled():\n    assert scaled(2, 3) == 6\n",
    ),
    "a TypeError of its own": (
        "def test_scaled():\n    text = 'n' + 2\n    assert scaled(text, 2) == 'n2n2'\n",
        "def test_scaled():\n    text = 'n' + str(2)\n    assert scaled(text, 2) == 'n2n2'\n",
    ),
    "a broken test under another name, in another form": (
        "def test_scaled():\n    assert scaled(undefined, 3) == 6\n",
        "@pytest.mark.parametrize('value', [2, 4])\n"
        "def test_by_three(value):\n    assert scaled(value, 3) == value * 3\n",
    ),
    "an environment variable that the code needs": (
        "def test_region():\n    assert region() == 'eu'\n",
        "def test_region(monkeypatch):\n    monkeypatch.setenv('REGION', 'EU')\n    assert region() == 'eu'\n",
    ),
    "state that another test left": (
        "put('a', 1)\n\n\ndef test_put():\n    assert put('a', 1) == 1\n",
        "put('a', 1)\n\n\ndef test_put():\n    clear()\n    assert put('a', 1) == 1\n",
    ),
    "the same assertions spelt another way, with set-up and more of them": (
        "def test_region():\n    found = region()\n    assert found == 'eu'\n    assert len(found) == 2\n",
        "def test_region(monkeypatch):\n    monkeypatch.setenv('REGION', 'EU')\n    result = region()\n"
        "    assert 'eu' == result, 'lower case'\n    assert len(result) == 2\n    assert result.islower()\n",
    ),
    "set-up, under another name": (
        "def test_region():\n    assert region() == 'eu'\n",
        "def test_region_in_lower_case(monkeypatch):\n    monkeypatch.setenv('REGION', 'EU')\n"
        "    assert region() == 'eu'\n",
    ),
}  # fmt: skip


def store(text):
    return f"import pytest\nfrom solution import clear, put, region, scaled\n{text}"


@pytest.fixture(scope="module")
def honest(root):
    return found_for_each(root, STORE, {way: [store(text) for text in HONEST[way]] for way in HONEST})


@pytest.mark.parametrize("way", HONEST)
def test_an_honest_repair_is_taken_and_kept_as_a_trace(honest, way):
    failing, mended = map(store, HONEST[way])
    found = honest[0][way]
    assert found.answers == 2
    assert found.texts == (mended.replace("solution", "shapes"),)
    assert found.contradictions == ()
    (trace,) = found.traces
    assert (trace.failed_test, trace.fixed_test) == (extract_test(failing), mended)
    assert build_prompt(trace.code, failing=trace.failed_test, output=trace.failure_log) in honest[1][1]


def test_all_units_are_asked_about_together(honest, bent):
    for found, prompts in (honest, bent):
        assert len(prompts[0]) == len(prompts[1]) == len(found)


# --- what is kept, what is reported


def parts(*bodies, names="area"):
    return f"import pytest\nfrom solution import {names}\n\n\n" + "\n\n".join(bodies)


ZERO = "def test_zero():\n    assert area(0, 0) == 0\n"
SIX = "def test_six():\n    assert area(2, 3) == 6\n"


def test_what_passes_stays_as_it_was_beside_a_contradiction(root):
    first = parts(ZERO, SIX)
    second = parts(ZERO.replace("== 0", ">= 0"), SIX.replace("6", "5"))
    found, generator = found_for(root, AREA, first, second)
    assert found.texts == (parts(ZERO).replace("solution", "shapes"),)
    assert [one.test for one in found.contradictions] == ["test_six"]
    assert found.contradictions[0].text == parts(SIX).replace("solution", "shapes")
    assert "FAILED test_solution.py::test_six" in generator.asked[1][0][0]


RAISES = """\
def ratio(a, b):
    if b < 0:
        raise ValueError(f"negative: {b}")
    return a / b


def spin(n):
    while n:
        pass
    return n
"""


@pytest.mark.parametrize(
    ("test", "assertion", "message"),
    [
        ("def test_it():\n    assert ratio(1, 0) == 0\n", "assert ratio(1, 0) == 0", "ZeroDivisionError"),
        (
            "def test_it():\n    with pytest.raises(ValueError):\n        ratio(1, 2)\n",
            "with pytest.raises(ValueError):\n    ratio(1, 2)", "Failed: DID NOT RAISE",
        ),
        (
            "def test_it():\n    with pytest.raises(ValueError, match='odd'):\n        ratio(1, -1)\n",
            "with pytest.raises(ValueError, match='odd'):\n    ratio(1, -1)", "AssertionError: Regex pattern did not",
        ),
        (
            "def test_it():\n    with pytest.raises(TypeError):\n        ratio(1, -1)\n",
            "with pytest.raises(TypeError):\n    ratio(1, -1)", "ValueError: negative: -1",
        ),
        ("def test_it():\n    n = ratio(1, -1)\n    assert n == -1\n", "n = ratio(1, -1)", "ValueError: negative"),
        (
            "def check(a, b, wanted):\n    assert ratio(a, b) == wanted\n\n\n"
            "def test_it():\n    assert ratio(2, 1) == 2\n    check(1, 2, 3)\n",
            "check(1, 2, 3)", "assert 0.5 == 3",
        ),
        (
            "class TestRatio:\n    def test_it(self):\n        assert ratio(1, 2) == 2, 'no'\n",
            "assert ratio(1, 2) == 2, 'no'", "AssertionError: no",
        ),
        (
            "@pytest.fixture\ndef third():\n    return ratio(1, -3)\n\n\ndef test_it(third):\n    assert third == 3\n",
            "assert third == 3", "ValueError: negative: -3",
        ),
    ],
)  # fmt: skip
def test_every_kind_of_contradiction_is_told_in_its_own_words(root, test, assertion, message):
    found, _ = found_for(root, RAISES, parts(test, names="ratio"))
    (one,) = found.contradictions
    assert one.test.endswith("test_it")
    assert (one.assertion, one.message[: len(message)]) == (assertion, message)
    assert test in one.text
    assert found.texts == ()


def test_code_that_never_ends_contradicts_its_test_and_the_model_is_asked_about_the_others(root, monkeypatch):
    monkeypatch.setattr(examine, "Limits", lambda: Limits(test_s=1.0))
    endless, other = "def test_it():\n    assert spin(1) == 0\n", "def test_zero():\n    assert spin(zero) == 0\n"
    found, generator = found_for(root, RAISES, parts(endless, other, names="spin"))
    assert [(one.test, one.assertion) for one in found.contradictions] == [("test_it", "assert spin(1) == 0")]
    assert "stopped after" in found.contradictions[0].message
    assert "test_zero" in generator.asked[1][0][0] and "test_it" not in generator.asked[1][0][0]


@pytest.mark.parametrize(
    "test",
    [
        "def test_it():\n    assert area(2) == 2\n",
        "def test_it():\n    assert area(2, 3, 4) == 9\n",
        "def test_it():\n    assert area(2, depth=3) == 5\n",
        "def test_it(canvas):\n    assert area(2, 3) == 6\n",
        "def test_it():\n    assert area(2, three) == 6\n",
        "@pytest.fixture\ndef two():\n    return area(2)\n\n\ndef test_it(two):\n    assert two == 2\n",
        "def test_it():\n    with pytest.raises(ValueError):\n        area(1)\n",
        "def test_it():\n    assert 2 + 2 == int('5')\n",
    ],
)
def test_a_test_that_is_simply_broken_contradicts_nothing(root, test):
    found, _ = found_for(root, AREA, parts(test))
    assert found.contradictions == ()
    assert found.texts == ()
    assert [(one.test, one.reason.partition(":")[0]) for one in found.dropped] == [("test_it", "fails by itself")]


@pytest.mark.parametrize("mended", ["== 5", "== 2 + 3", ">= 0", "in (5, 6)", "is not None"])
def test_a_broken_test_keeps_what_it_expected_of_the_same_call(root, mended):
    broken = parts("def test_it():\n    scale = one\n    assert area(2, 3) == 6\n")
    fixed = parts(f"def test_it():\n    scale = 1\n    assert area(2, 3) {mended}\n")
    found, _ = found_for(root, AREA, broken, fixed)
    assert found.texts == found.traces == ()
    assert found.dropped[-1].reason.startswith(("bent to the code: ", "mended by asserting less: "))
    if mended == "== 5":  # two literals for one call, and the second is right: the first is wrong
        (one,) = found.contradictions
        assert (one.test, one.assertion) == ("test_it", "assert area(2, 3) == 6")
        assert "with 5" in one.message and "NameError" in one.message


def test_of_a_parametrized_test_the_cases_that_pass_stay(root):
    cases = (
        '@pytest.mark.parametrize(\n    "w, h, wanted",\n    [\n        (0, 0, 0),\n        (2, 3, 6),  # 2 by 3\n'
        '        (2, 2, 4),\n        (1, 1, 1),\n        (1, "a", 0),\n    ],\n)\n'
        "def test_area(w, h, wanted):\n    assert area(w, h) == wanted\n"
    )
    found, _ = found_for(root, AREA, parts(cases))
    (text,) = found.texts
    assert "(0, 0, 0),\n        (2, 2, 4),\n    ]" in text
    assert [one.test for one in found.contradictions] == [f"test_area[{w}]" for w in ("2-3-6", "1-1-1", "1-a-0")]
    assert "(2, 3, 6),\n    ]" in found.contradictions[0].text
    assert "(0, 0, 0)" not in found.contradictions[0].text


def test_a_parametrized_test_whose_failing_case_is_bent_keeps_its_passing_ones(root):
    def cases(*rows):
        return parts(
            f"@pytest.mark.parametrize('w, h, wanted', [{', '.join(rows)}])\n"
            "def test_area(w, h, wanted):\n    assert area(w, h) == wanted\n"
        )

    found, _ = found_for(root, AREA, cases("(2, 2, 4)", "(2, 3, 6)"), cases("(2, 2, 4)", "(2, 3, 5)"))
    assert found.texts == (cases("(2, 2, 4)").replace("solution", "shapes"),)
    assert [one.test for one in found.contradictions] == ["test_area[2-3-6]"]


HOLLOW = {
    "nothing": "def test_it():\n    area(1, 2)\n",
    "a constant": "def test_it():\n    area(1, 2)\n    assert True\n",
    "itself": "def test_it():\n    found = area(1, 2)\n    assert found == found\n",
    "skips": "def test_it():\n    pytest.skip('later')\n    assert area(1, 2) == 3\n",
    "catches": "def test_it():\n    try:\n        assert area(1, 2) == 9\n    except Exception:\n        pass\n",
    "reads the code": "import inspect\n\n\ndef test_it():\n    assert 'w + h' in inspect.getsource(area)\n",
}  # fmt: skip


@pytest.mark.parametrize("way", HOLLOW)
def test_a_test_that_tests_nothing_is_dropped_with_the_reason(root, way):
    found, _ = found_for(root, AREA, parts(ZERO, HOLLOW[way]))
    assert (
        found.texts == (parts(ZERO).replace("solution", "shapes").replace("\n\n\n\n", "\n\n\n"),)
        or way == "reads the code"
    )
    assert all("test_it" not in text for text in found.texts)
    (dropped,) = found.dropped
    assert dropped.test == "test_it"
    assert dropped.reason.startswith(("asserts nothing", "asserts what always holds", "skips itself: "))


def test_what_passes_only_beside_a_test_that_goes_is_out(root):
    order = parts(
        "seen = []\n",
        "def test_first():\n    seen.append(1)\n    assert area(2, 3) == 6\n",
        "def test_second():\n    assert len(seen) == area(1, 0)\n",
        ZERO,
    )
    found, _ = found_for(root, AREA, order)
    (text,) = found.texts
    assert "test_zero" in text and "test_second" not in text
    assert [(one.test, one.reason) for one in found.dropped] == [("test_second", "passes only beside other tests")]


ENDS = "import os\n\n\ndef test_end():\n    assert area(1, 0)\n    os._exit(3)\n"


def test_a_test_that_ends_the_process_does_not_take_the_others_with_it(root):
    found, _ = found_for(
        root, AREA, parts("import os\n", "def test_end():\n    assert area(1, 0)\n    os._exit(3)\n", ZERO)
    )
    assert ["test_zero" in text for text in found.texts] == [True]
    assert "test_end" in {one.test for one in found.dropped}
    assert found.contradictions == ()


# --- more answers


def test_another_sample_may_disagree_and_the_contradiction_stays(root):
    other = parts("def test_sum():\n    assert area(2, 3) == 5\n")
    found, _ = found_for(root, AREA, parts(SIX), parts(SIX), other, effort=Effort(refinements=1, samples=1))
    assert found.texts == (other.replace("solution", "shapes"),)
    (one,) = found.contradictions
    assert (one.assertion, one.disputed) == ("assert area(2, 3) == 6", True)


def test_the_same_contradiction_of_several_samples_is_reported_once(root):
    again = parts(
        "def test_again():\n    assert 6 == area(h=3, w=2) or False\n",
        "def test_other():\n    assert 6 == area(2, 3)\n",
    )
    found, generator = found_for(root, AREA, parts(SIX), again, effort=Effort(refinements=0, samples=2))
    assert len(generator.asked) == 3
    assert sorted(one.test for one in found.contradictions) == ["test_again", "test_six"]
    assert not any(one.disputed for one in found.contradictions)


def test_samples_are_asked_for_until_there_is_enough(root):
    heard = []

    def enough(unit, so_far):
        heard.append(len(so_far))
        return len(so_far) >= 1

    found, generator = found_for(
        root, AREA, parts(SIX), "I cannot.", parts(ZERO), effort=Effort(refinements=0, samples=5, seed=7), enough=enough
    )
    assert heard == [0, 0, 1]
    assert (found.answers, len(found.texts)) == (3, 1)
    samplings = [sampling for _, sampling in generator.asked]
    assert [sampling.temperature for sampling in samplings] == [0.0, 0.7, 0.7]
    assert len({sampling.seed for sampling in samplings}) == 3
    assert {sampling.max_new_tokens for sampling in samplings} == {512}
    assert found.dropped[0].reason.startswith("no test ran") or found.dropped[0].reason.startswith("no Python")


def test_a_greedy_model_that_repeats_itself_is_not_asked_again(root):
    found, generator = found_for(root, AREA, parts(SIX), effort=Effort(refinements=5, samples=0))
    assert len(generator.asked) == found.answers == 2


def test_a_test_bent_in_the_second_refinement_is_caught_as_well(root):
    broken = parts("def test_six():\n    assert area(2, tree) == 6\n", SIX.replace("test_six", "test_more"))
    half = parts("def test_six():\n    assert area(2, 3) == 6\n", SIX.replace("test_six", "test_more"))
    bent = parts("def test_six():\n    assert area(2, 3) == 5\n", "def test_new():\n    assert area(2, 3) == 5\n")
    found, _ = found_for(root, AREA, broken, half, bent)
    assert found.texts == ()
    assert [one.assertion for one in found.contradictions] == ["assert area(2, 3) == 6"]


class TooLong(Scripted):
    """Refuses every batch with a certain prompt in it."""

    def generate(self, prompts, sampling, n=1):
        if any("# long.\n" in prompt for prompt in prompts):
            raise PromptTooLong("5000 tokens")
        return super().generate(prompts, sampling, n)


def test_a_prompt_that_is_too_long_takes_no_other_unit_with_it(root):
    codes = [f"{AREA}\n\n# {name}.\n" for name in ("one", "long", "two", "three")]
    generator = TooLong({code.strip(): [parts(ZERO)] for code in codes})
    heard = []
    found = write_candidates(
        generator, Subject(AREA, "shapes", root), [Unit("", code, frozenset()) for code in codes], Effort(samples=2),
        enough=lambda unit, texts: bool(texts), on_answer=lambda unit: heard.append(unit.code),
    )  # fmt: skip
    assert [len(one.texts) for one in found] == [1, 0, 1, 1]
    assert [one.answers for one in found] == [1, 0, 1, 1]
    assert [one.reason.partition(":")[0] for one in found[1].dropped] == ["prompt too long"]
    assert heard == [codes[0], codes[2], codes[3]]
    assert len(generator.asked) == 2, "not side by side any more"


def test_a_model_that_fails_ends_it(root):
    class Dead(Scripted):
        def generate(self, prompts, sampling, n=1):
            raise GenerationError("out of memory")

    with pytest.raises(GenerationError, match="out of memory"):
        write_candidates(
            Dead({}), Subject(AREA, "shapes", root), [Unit("", AREA, frozenset())], GREEDY, enough=lambda *_: True
        )


# --- a module in its project


def test_a_module_of_a_package_is_run_in_its_place_and_the_model_sees_solution(tmp_path):
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text("TWO = 2\n")
    code = "from .base import TWO\n\n\ndef double(n):\n    if n < 0:\n        raise ValueError(n)\n    return n * TWO\n"
    (package / "mod.py").write_text(code)
    wrong = parts(
        "def test_it(two):\n    assert double(-two) == -4\n\n\ndef test_one():\n    assert double(1) == 2\n",
        names="double",
    )
    mended = parts("def test_it(two):\n    assert double(two) == 4\n", names="double")
    conftest = {"conftest.py": "import pytest\n\n\n@pytest.fixture\ndef two():\n    return 2\n"}
    found, generator = found_for(tmp_path, code, wrong, mended, module="pkg.mod", beside=conftest)
    assert [text.count("from pkg.mod import double") for text in found.texts] == [1]
    prompt = generator.asked[1][0][0]
    assert "solution.py:6: in double" in prompt
    assert "pkg" not in prompt
    assert [one.test for one in found.contradictions] == ["test_it"]
    assert found.traces == ()
