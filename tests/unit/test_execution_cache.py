"""Verdicts of earlier runs: what is kept, what is not, and what a broken file does."""

import json
import threading

import pytest

from lowvram_ft.errors import MachineError
from lowvram_ft.execution import Judgement, Limits, VerdictCache, judge, run_many, run_tests
from lowvram_ft.execution import cache as cache_module
from lowvram_ft.execution.pool import Server, ServerLost
from lowvram_ft.execution.verdict import TestResult, Verdict

CODE = "def half(n):\n    return n // 2\n"
TEST = "from solution import half\n\n\ndef test_half():\n    assert half(4) == 2\n"


@pytest.fixture
def cache(tmp_path):
    found = VerdictCache(tmp_path / "sub" / "verdicts.sqlite3")
    yield found
    found.close()


def verdict(status="ran", outcome="passed") -> Verdict:
    return Verdict(status, (TestResult("test_a", outcome, 0.1, ""),), 1, "", None, 0.2)


def test_the_same_question_is_answered_without_running(cache):
    first = judge(CODE, "solution", TEST, cache=cache)
    assert cache.hits == 0
    assert judge(CODE, "solution", TEST, cache=cache) == first
    assert cache.hits == 1
    assert first.mutation is not None and first.mutation.total > 0


@pytest.mark.parametrize(
    "other",
    [
        {"code": CODE + "\n"},
        {"module": "halves"},
        {"test": TEST + "\n"},
        {"limits": Limits(test_s=4.0)},
    ],
)
def test_another_text_module_or_limit_is_another_question(cache, other):
    question = {"code": CODE, "module": "solution", "test": TEST, "limits": Limits()}
    run_tests(**question, cache=cache)
    run_tests(**(question | other), cache=cache)
    assert cache.hits == 0


def test_a_verdict_alone_is_no_answer_to_who_wants_mutants(cache):
    run_tests(CODE, "solution", TEST, cache=cache)
    assert judge(CODE, "solution", TEST, cache=cache).mutation is not None
    assert cache.hits == 0


@pytest.mark.parametrize(
    "found", [verdict("timeout"), verdict("killed"), verdict(outcome="timeout"), verdict(outcome="killed")]
)
def test_what_hangs_on_the_clock_is_not_kept(cache, found):
    cache.put({"n": 1}, found, None)
    assert cache.get({"n": 1}) is None
    cache.put({"n": 1}, verdict(), None)
    assert cache.get({"n": 1}) == (verdict(), None)


def test_a_package_folder_is_never_cached(cache, tmp_path):
    for _ in range(2):
        assert run_tests(CODE, "solution", TEST, root=tmp_path, cache=cache).all_passed
    assert cache.hits == 0


def test_another_version_of_a_judge_asks_again(cache, monkeypatch):
    cache.put({"n": 1}, verdict(), None)
    monkeypatch.setattr(cache_module, "__version__", "9.9")
    other = VerdictCache(cache.path)
    assert other.get({"n": 1}) is None and cache.get({"n": 1}) is not None
    other.close()


def test_a_file_that_is_no_database_is_made_anew(tmp_path):
    path = tmp_path / "verdicts.sqlite3"
    path.write_bytes(b"no database" * 1000)
    cache = VerdictCache(path)
    cache.put({"n": 1}, verdict(), None)
    assert cache.get({"n": 1}) is not None
    cache.close()


def test_a_cache_that_has_grown_too_long_loses_a_tenth(cache, monkeypatch):
    monkeypatch.setattr(cache_module, "_MOST_ROWS", 1000)
    for number in range(1100):
        cache.put({"n": number}, verdict(), None)
    cache.close()
    again = VerdictCache(cache.path)
    kept = sum(again.get({"n": number}) is not None for number in range(1100))
    assert 900 < kept < 1080
    again.close()
    cache._database = again._open()


def test_threads_and_processes_share_a_file(cache):
    other = VerdictCache(cache.path)
    threads = [
        threading.Thread(target=lambda part=part: [part.put({"n": n}, verdict(), None) for n in range(200)])
        for part in (cache, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(cache.get({"n": n}) is not None for n in range(200))
    other.close()


def test_answers_survive_the_file_exactly(cache):
    bad = TEST.replace("== 2", "== 3") + '\n\ndef test_text():\n    assert "é\\udcff" == half(2)\n'
    found = run_many(lambda test: judge(CODE, "solution", test, cache=cache), [TEST, bad], workers=2)
    again = run_many(lambda test: judge(CODE, "solution", test, cache=cache), [TEST, bad], workers=2)
    assert again == found and cache.hits == 2
    assert all(Judgement.from_json(json.loads(json.dumps(one.to_json()))) == one for one in found)


def test_a_report_that_a_lost_server_left_half_done_is_not_kept(cache, monkeypatch):
    real = Server.read

    def lost(self, patience_s):
        answer = real(self, patience_s)
        if answer["kind"] == "mutant":
            raise ServerLost("ended")
        return answer

    monkeypatch.setattr(Server, "read", lost)
    half = judge(CODE, "solution", TEST, cache=cache)
    monkeypatch.setattr(Server, "read", real)
    whole = judge(CODE, "solution", TEST, cache=cache)
    assert cache.hits == 0
    assert half.mutation is not None and whole.mutation is not None
    assert half.mutation.killed < whole.mutation.killed


def fill(cache):
    for number in range(1000):
        cache.put({"n": number}, verdict(), None)


def test_a_cache_that_cannot_be_opened_or_written_says_what_to_do(tmp_path):
    with pytest.raises(MachineError, match=r"cannot be used \(unable to open database file\); .* --no-cache"):
        VerdictCache(tmp_path)  # a folder
    with VerdictCache(tmp_path / "full.sqlite3") as small:
        small._database.execute("PRAGMA max_page_count = 4")
        with pytest.raises(MachineError, match=r"full\.sqlite3: cannot be used \(database or disk is full\)"):
            fill(small)
