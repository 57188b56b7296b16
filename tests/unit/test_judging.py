"""Judging answers: what each is worth, each text once, and nothing twice after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from lowvram_ft.errors import DataError
from lowvram_ft.preference import judging
from lowvram_ft.preference.judged import FATES, Judged, mixed_cases
from lowvram_ft.preference.judging import judge_answers, summarize, text_key
from lowvram_ft.preference.records import Answer
from lowvram_ft.progress import Progress
from lowvram_ft.run_dir import read_jsonl
from tests.judged_files import CODE, task, winner
from tests.preference_child import EACH, N_TEXTS

QUIET = Progress(quiet=True)
HEAD = "import pytest\nfrom solution import double\n\n\n"
TEXTS = {
    "passes_and_kills": HEAD + "def test_a():\n    assert double(2) == 4\n",
    "useful": HEAD + "def test_a():\n    assert double(2) == 4\n\n\ndef test_b():\n    assert double(2) == 5\n",
    "fails": HEAD + "def test_a():\n    assert double(2) == 5\n",
    "no_test": "Here is what I would test.\n",
}
NAMED = "from solution import name\n\n\ndef test_a():\n    assert name() == 'a'\n"
TASKS = [task(), task("plain", code="def name():\n    return 'a'\n"), task("twin")]
CASES = HEAD + (
    "@pytest.mark.parametrize('x, want', [(1, 2), (2, 5), (-1, 0), (3, 7)])\ndef test_a(x, want):\n"
    "    assert double(x) == want\n"
)


def answer(key, text, name="t", finish="stop"):
    return Answer(key, name, 0, text, n_tokens=40, finish=finish, seconds=1.0)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    asked = [answer(fate, text) for fate, text in TEXTS.items()]
    asked.append(answer("again", TEXTS["passes_and_kills"]))
    asked.append(answer("fenced", f"Sure:\n\n```python\n{TEXTS['passes_and_kills']}```\nThat is all of it.\n"))
    asked.append(answer("cases", CASES))
    asked.append(answer("cut off", TEXTS["passes_and_kills"] + "\n\ndef test_c():\n    assert dou", finish="length"))
    asked.append(answer("of nobody", TEXTS["fails"], name="another"))
    asked.append(answer("passes", NAMED, name="plain"))
    asked.append(answer("twin", TEXTS["passes_and_kills"], name="twin"))
    return folder, asked, judge_answers(TASKS, asked, folder / "judged.jsonl", QUIET)


def test_every_answer_has_its_fate(judged):
    found = {one.key: one for one in judged[2]}
    assert {fate: found[fate].fate for fate in FATES} == {fate: fate for fate in FATES}
    best, useful = found["passes_and_kills"], found["useful"]
    assert best.may_win and best.flaky == ""
    assert (best.passing, best.failing, best.n_tests) == (("test_a",), (), 1)
    assert 0 < best.mutation_score < 1 and len(best.killed) == round(best.mutation_score * best.n_mutants)
    assert (useful.passing, useful.failing) == (("test_a",), ("test_b",))
    assert useful.flaky is None, "it cannot win: it is not run again"
    assert useful.good_tests == ("test_a",)
    assert found["no_test"].reason.startswith("no Python")
    assert (found["passes"].n_mutants, found["passes"].flaky) == (0, ""), "there is nothing to kill"
    assert found["cases"].mixed == (("test_a", (1, 3), 4),)


def test_the_same_text_is_judged_once_and_answers_to_other_tasks_not_at_all(judged):
    folder, asked, found = judged
    assert [one.key for one in found] == [one.key for one in asked if one.task != "another"]
    records = [record for record in read_jsonl(folder / "judged.jsonl") if record["step"] == "judged"]
    assert len(records) == len({record["text"] for record in records}) == len(TEXTS) + 2
    same = {one.text for one in found if one.key in ("passes_and_kills", "again", "fenced", "cut off", "twin")}
    assert same == {text_key(task(), TEXTS["passes_and_kills"])}
    assert [one.task for one in found] == [one.task for one in asked if one.task != "another"], "twins share judgements"


def test_tokens_are_those_of_the_test_file_alone(judged):
    found = {one.key: one for one in judged[2]}
    assert found["passes_and_kills"].n_tokens == 40
    assert 20 < found["fenced"].n_tokens < 40


def test_what_is_written_down_is_not_run_again(judged, monkeypatch):
    folder, asked, found = judged

    def refuse(function, jobs, **_):
        assert not list(jobs)
        return []

    monkeypatch.setattr(judging, "run_many", refuse)
    assert judge_answers(TASKS, asked, folder / "judged.jsonl", QUIET) == found


def test_another_code_or_another_judge_is_another_question(monkeypatch):
    text = NAMED
    first = text_key(task(), text)
    assert text_key(task(code=CODE + "\n"), text) != first
    assert text_key(task(), text + "\n") != first
    assert text_key(task("another"), text) == first, "the name of a task is no part of it"
    monkeypatch.setattr(judging, "_versions", lambda: "another")
    assert text_key(task(), text) != first


def test_a_package_that_is_gone_is_told(tmp_path):
    gone = task(root=tmp_path / "gone")
    with pytest.raises(DataError, match=r"t: its package cannot be imported .*collect the tasks again"):
        judge_answers([gone], [answer("k", NAMED)], tmp_path / "judged.jsonl", QUIET)


def test_counts(judged):
    found = summarize(judged[2])
    assert (found["answers"], found["tasks"]) == (10, 3)
    assert found["fates"] == {"passes_and_kills": 5, "passes": 1, "useful": 2, "fails": 1, "no_test": 1}
    assert sum(found["fates"].values()) == found["answers"]
    assert summarize([])["mean_tokens"] is None


def test_it_goes_to_json_and_back(judged):
    for one in judged[2]:
        assert Judged.from_json(json.loads(json.dumps(one.to_json()))) == one
    trick = winner("x", hacks=(("test_a", "why"),), mixed=(("test_a", (1,), 3),), made_of=("k",))
    assert Judged.from_json(json.loads(json.dumps(trick.to_json()))) == trick


def test_mixed_cases_are_those_of_which_some_pass():
    outcomes = [("test_a[1]", "passed"), ("test_a[2]", "failed"), ("test_b[1]", "failed"), ("test_c", "passed")]
    assert mixed_cases(outcomes) == (("test_a", (1,), 2),)


def lines(folder):
    path = folder / "judged.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def begin(folder):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-m", "tests.preference_child", str(folder)], env=environment)


def wait_for_lines(folder, count, process):
    deadline = time.monotonic() + 60
    while lines(folder) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path):
    total = N_TEXTS * 3  # each text, and twice in another order
    known: list[tuple] = []
    calls_before = 0
    for moment in (1, N_TEXTS - 1, N_TEXTS + 3, total - 2, total):
        process = begin(tmp_path)
        wait_for_lines(tmp_path, moment, process)
        if moment < total:
            process.send_signal(signal.SIGKILL)
        process.wait(60)
        calls = (tmp_path / "calls").read_text().splitlines()
        judged_now = [line.split()[1] for line in calls[calls_before:] if line.startswith("judged")]
        assert not set(judged_now) & {text for step, text, _ in known if step == "judged"}, "judged again"
        calls_before = len(calls)
        records = list(read_jsonl(tmp_path / "judged.jsonl"))
        known = [(record["step"], record["text"], record.get("variation")) for record in records]
        assert max(Counter(known).values()) == 1
    assert (tmp_path / "done").exists()
    assert len(known) == total
    assert len({text for _, text, _ in known}) == N_TEXTS
    assert EACH > 1, "every text is in several answers"


def test_ctrl_c_ends_it_in_order(tmp_path):
    process = begin(tmp_path)
    wait_for_lines(tmp_path, 2, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    assert not (tmp_path / "done").exists()
    assert (tmp_path / "judged.jsonl").read_bytes().endswith(b"\n")
    assert all(json.loads(line) for line in (tmp_path / "judged.jsonl").read_text().splitlines())
