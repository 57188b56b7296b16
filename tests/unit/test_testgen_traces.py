"""Traces of refinements: from the loop to a file, and from the file to rows of stage C."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lowvram_ft.data.prepare import prepare
from lowvram_ft.data.sources import load_rows
from lowvram_ft.data.verify import verify_rows
from lowvram_ft.errors import MachineError
from lowvram_ft.inference import Completion
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import ChatFormat
from lowvram_ft.testgen.attempts.candidates import Effort, write_candidates
from lowvram_ft.testgen.attempts.traces import Trace, append_traces, default_traces_path
from lowvram_ft.testgen.subject import Subject, Unit

CHAT = ChatFormat(
    "{% for m in messages %}{{ m.content }}<end>{% endfor %}",
    {},
    None,
    "<end>",
    lambda text: [ord(one) for one in text],
)
CODE = '''\
"""Prices."""


def total(prices, tax=0.0):
    """The sum — with tax."""
    if not prices:
        raise ValueError("no prices")
    return sum(prices) * (1 + tax)
'''
FAILING = """\
import pytest
from solution import total


@pytest.mark.parametrize("prices, wanted", [([1, 2], 3), ([5], 5)])
def test_total(prices, wanted):
    assert total(prices) == wanted


def test_tax():
    assert total([10], tax=quarter) == 12.5


def test_nothing():
    with pytest.raises(ValueError, match="no prices"):
        total([], empty=True)
"""
MENDED = FAILING.replace("tax=quarter", "tax=0.25").replace("[], empty=True", "[]")


class Scripted:
    name = "scripted"

    def __init__(self, *answers):
        self.answers, self.prompts = list(answers), []

    def generate(self, prompts, sampling, n=1):
        self.prompts += prompts
        return [[Completion(self.answers.pop(0), 10, 10, "stop", 1.0, 0.1)] for _ in prompts]

    def close(self):
        pass


@pytest.fixture(scope="module")
def refined(tmp_path_factory):
    """Traces of a refinement, and the prompts that were sent, of a module with another name in a project."""
    generator = Scripted(f"Here you are:\n```python\n{FAILING}```", MENDED)
    subject = Subject(CODE, "prices", tmp_path_factory.mktemp("project"))
    (found,) = write_candidates(
        generator, subject, [Unit("", CODE, frozenset())], Effort(samples=0), enough=lambda *_: True
    )
    return found, generator.prompts


def section(path: Path) -> DataSection:
    return DataSection(source="failure_traces", path=str(path))


def test_the_prompt_of_a_trace_as_a_training_row_is_the_prompt_that_was_sent(refined, tmp_path):
    found, prompts = refined
    path = tmp_path / "traces.jsonl"
    assert append_traces(path, found.traces) == 1
    (row,) = load_rows(section(path))
    assert row.prompt == prompts[1]
    assert "### Failing test:\n" in row.prompt and "### Pytest output:\n" in row.prompt
    assert "prices.py" not in row.prompt
    assert row.completion == MENDED.strip()


def test_a_trace_becomes_a_prepared_row_whose_failed_test_fails_and_whose_fixed_test_passes(refined, tmp_path):
    path = tmp_path / "traces.jsonl"
    append_traces(path, refined[0].traces)
    prepared = prepare(section(path), CHAT, 4000, tmp_path / "set")
    (example,) = prepared.train
    (verdict,) = verify_rows([example.row])
    assert (verdict.executed, verdict.passes, verdict.flaky) == (True, True, False)
    assert verdict.failed_test_fails is True
    assert verdict.mutation_score > 0.5
    assert verdict.problem(0.0) is None


def test_a_refinement_that_says_less_or_that_still_fails_is_no_trace(tmp_path):
    for answer in (
        MENDED.replace("== 12.5", ">= 0"),
        MENDED.replace("    assert total(prices) == wanted", "    assert total(prices)"),
        MENDED.replace("== 12.5", "== 13"),
        MENDED.partition("def test_nothing")[0],
        MENDED + "\n\ndef test_more():\n    total([1])\n",
    ):
        subject = Subject(CODE, "prices", tmp_path)
        generator = Scripted(FAILING, answer)
        effort = Effort(refinements=1, samples=0)
        (found,) = write_candidates(generator, subject, [Unit("", CODE, frozenset())], effort, enough=lambda *_: True)
        assert found.traces == ()


def test_a_refinement_that_needs_its_project_is_no_trace(tmp_path):
    (tmp_path / "rates.py").write_text("BASE = 2\n")
    code = "from rates import BASE\n\n\ndef scaled(n):\n    return n * BASE\n"
    failing = "from solution import scaled\n\n\ndef test_scaled():\n    assert scaled(two) == 4\n"
    generator = Scripted(failing, failing.replace("two", "2"))
    (found,) = write_candidates(
        generator, Subject(code, "scales", tmp_path), [Unit("", code, frozenset())], Effort(samples=0),
        enough=lambda *_: True,
    )  # fmt: skip
    assert (len(found.texts), found.traces) == (1, ())


# --- the file


def trace(number: int) -> Trace:
    return Trace(f"def f():\n    return {number}\n", "failed ü", "E   \x1b", "fixed")


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_trace_is_written_once(tmp_path):
    path = tmp_path / "traces.jsonl"
    assert append_traces(path, [trace(1), trace(2), trace(1)]) == 2
    assert append_traces(path, [trace(2), trace(3)]) == 1
    assert append_traces(path, []) == 0
    assert [Trace(**record) for record in read(path)] == [trace(1), trace(2), trace(3)]


def test_lines_of_others_stay(tmp_path):
    path = tmp_path / "traces.jsonl"
    path.write_text('{"id": "mine", "code": "x"}\n[1]\nnot json\n')
    append_traces(path, [trace(1)])
    assert path.read_text().startswith('{"id": "mine", "code": "x"}\n[1]\nnot json\n')
    assert len(path.read_text().splitlines()) == 4


def test_the_file_and_its_folder_are_for_the_user_alone(tmp_path):
    path = tmp_path / "share" / "lowvram-ft" / "traces.jsonl"
    append_traces(path, [trace(1)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in path.parent.iterdir())


def test_the_default_is_where_programs_keep_data(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for setting in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", setting)
        assert default_traces_path() == tmp_path / ".local" / "share" / "lowvram-ft" / "traces.jsonl"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_traces_path() == tmp_path / "data" / "lowvram-ft" / "traces.jsonl"
    assert not (tmp_path / "data").exists()


def test_several_writers_at_once_write_every_trace_once_and_whole(tmp_path):
    path = tmp_path / "traces.jsonl"
    with ThreadPoolExecutor(3) as pool:  # the lock is on the open file: threads are to it what processes are
        counts = list(pool.map(lambda number: append_traces(path, [trace(number % 20)]), range(60)))
    assert sorted(record["code"] for record in read(path)) == sorted(trace(number).code for number in range(20))
    assert sum(counts) == 20


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match=r"traces\.jsonl"):
        append_traces(tmp_path / "file" / "traces.jsonl", [trace(1)])
