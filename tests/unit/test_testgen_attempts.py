"""The loop that writes tests and mends them, with a model that answers what it is told to."""

import pytest

from lowvram_ft.data.row import build_prompt
from lowvram_ft.inference import Completion
from lowvram_ft.inference.extraction import extract_test
from lowvram_ft.testgen.attempts import Effort, write_candidates
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
