"""Judging on the workers of a local Ray cluster, held against this process's own pool."""

import importlib.util
import json
import os
import subprocess
import sys
import time
import uuid
from importlib.resources import files
from pathlib import Path

import pytest

from lowvram_ft.data.row import Row
from lowvram_ft.data.verify import verify_rows
from lowvram_ft.errors import MachineError
from lowvram_ft.execution import Limits, VerdictCache, judge, ray_pool, run_many, run_tests, worker
from lowvram_ft.execution.place import judged_by
from lowvram_ft.execution.worker import work
from tests.tiny_runs import write_recipe

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'lowvram-ft[ray]'"
)

CODE = "def double(x):\n    return 2 * x\n"
HEAD = "from solution import double\n\n\n"
PASSES = HEAD + "def test_double():\n    assert double(3) == 6\n"
OTHERS = [
    HEAD + "def test_double():\n    assert double(3) == 7\n",
    HEAD + "def test_one():\n    assert double(1) == 2\n\n\ndef test_other():\n    assert double(2) == 5\n",
    HEAD + "def test_endless():\n    while True: pass\n",
    "Here is a test for your function:\n",
    "",
    "x = '\ud800'\n",  # half a surrogate pair, as a model's tokens may end in
    "import nothing_of_that_name\n\n\ndef test_a():\n    assert nothing_of_that_name.x == 1\n",
    "import os\n\n\ndef test_a():\n    os._exit(0)\n",
    "import signal\n\nimport pytest\n\n\ndef test_interrupted():\n    with pytest.raises(KeyboardInterrupt):\n"
    "        signal.raise_signal(signal.SIGINT)\n",
]
LIMITS = Limits(test_s=1.0)


def sample_rows(n):
    text = (files("lowvram_ft.data") / "samples" / "functions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()[:n]]


def without_times(value):
    """The same, with no durations; a mutant that is stopped and one that fails are both found."""
    if isinstance(value, dict):
        found = {key: without_times(part) for key, part in value.items() if key not in ("duration_s",)}
        if found.get("operator") and found["outcome"] == "timeout":
            found["outcome"] = "killed"
        if "timed_out" in found:
            found["killed"] += found.pop("timed_out")
        return found
    return [without_times(part) for part in value] if isinstance(value, list | tuple) else value


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two workers."""
    said = []
    with ray_pool.judged_at("local:2", said.append):
        yield said


def here(function, jobs):
    """The same jobs in this process's own pool."""
    from lowvram_ft.execution import place

    taker, place._elsewhere = place._elsewhere, None
    try:
        return run_many(function, jobs)
    finally:
        place._elsewhere = taker


def test_two_workers_give_the_verdicts_of_the_local_pool(cluster):
    assert cluster == ["ray: local:2: 2 jobs at a time on 1 node(s)"]
    jobs = [(row["code"], row["test"]) for row in sample_rows(3)] + [(CODE, test) for test in [PASSES, *OTHERS]]
    where = []

    def one(job):
        return judge(job[0], "solution", job[1], LIMITS)

    remote = [without_times(found.to_json()) for found in run_many(one, jobs, on_result=lambda *_: where.append(1))]
    local = [without_times(found.to_json()) for found in here(one, jobs)]
    assert len(where) == len(jobs)
    for (_, test), there, found in zip(jobs, remote, local, strict=True):
        assert there == found, test
    statuses = {found["verdict"]["status"] for found in local}
    assert statuses >= {"ran", "syntax_error", "no_tests", "collection_error"}, "the files are not varied enough"
    assert any(found["mutation_score"] > 0 for found in local)
    outcomes = {result["outcome"] for found in local for result in found["verdict"]["results"]}
    assert outcomes >= {"passed", "failed", "timeout"}


def test_the_order_and_the_hash_seed_of_a_variation_reach_the_worker():
    from lowvram_ft.execution import Variation

    test = "def test_hash():\n    assert hash('a') == {}\n"
    seen = [
        json.loads(subprocess.run([sys.executable, "-c", "print(hash('a'))"], env={"PYTHONHASHSEED": seed}, check=True,
                                  capture_output=True).stdout) for seed in ("1", "2")
    ]  # fmt: skip
    for value, seed in ((seen[0], 1), (seen[1], 2)):
        variation = Variation(order=1, hash_seed=seed)
        assert run_tests(CODE, "solution", test.format(value), variation=variation).all_passed
        assert not run_tests(CODE, "solution", test.format(value + 1), variation=variation).all_passed


def test_a_job_that_brings_its_worker_down_three_times_reads_as_killed(tmp_path):
    tries = tmp_path / "tries"

    def deadly(item):
        import os

        if "def test_deadly" in item:
            with open(tries, "a") as file:
                file.write("x")
            os._exit(7)
        from lowvram_ft.execution.worker import work

        return work(item)

    import ray

    with judged_by(ray_pool.RayPool(ray, "local:2", deadly)), VerdictCache(tmp_path / "verdicts") as cache:
        deadly_test = PASSES.replace("test_double", "test_deadly")
        found, other = run_many(lambda test: judge(CODE, "solution", test, cache=cache), [deadly_test, PASSES])
        assert found.verdict.status == "killed"
        assert "brought down its worker, 3 times" in found.verdict.log
        assert found.mutation_score == 0.0
        assert tries.read_text() == "xxx"
        assert other.verdict.all_passed and other.useful, "it took another job with it"
        assert run_many(lambda test: judge(CODE, "solution", test, cache=cache), [PASSES])[0] == other
        assert cache.hits == 1, "a verdict of the cluster was not kept, or that of a lost worker was"


def test_a_job_that_brings_its_worker_down_once_is_judged(tmp_path):
    mark = tmp_path / "mark"

    def once(item):
        import os

        if not os.path.exists(mark):
            open(mark, "w").close()
            os._exit(7)
        from lowvram_ft.execution.worker import work

        return work(item)

    import ray

    with judged_by(ray_pool.RayPool(ray, "local:2", once)):
        assert run_tests(CODE, "solution", PASSES).all_passed
    assert mark.exists()


def test_ctrl_c_cancels_what_runs_and_keeps_what_was_judged(tmp_path):
    began = tmp_path / "began"

    def endless(item):
        import time

        if "def test_endless" in item:
            open(began, "w").close()
            while True:
                time.sleep(0.1)
        from lowvram_ft.execution.worker import work

        return work(item)

    import ray

    def interrupt(place, _):
        while not began.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    with VerdictCache(tmp_path / "verdicts") as cache:

        def one(test):
            return run_tests(CODE, "solution", test, cache=cache)

        with judged_by(ray_pool.RayPool(ray, "local:2", endless)), pytest.raises(KeyboardInterrupt):
            run_many(one, [PASSES, *[OTHERS[2]] * 3], on_result=interrupt)
        assert one(PASSES).all_passed and cache.hits == 1, "what was judged before is lost"
    assert run_tests(CODE, "solution", PASSES).all_passed, "the workers do not come back"


def test_a_folder_that_a_worker_cannot_read_is_named(tmp_path, monkeypatch):
    pool = ray_pool.RayPool(__import__("ray"), "local:2", work)
    assert pool.root_problem(tmp_path) is None
    gone = tmp_path / "gone"
    assert f"{gone} is not on 1" in (pool.root_problem(gone) or "")
    with judged_by(pool):
        with pytest.raises(MachineError, match=r"worker .*gone is not there; put it where"):
            run_tests(CODE, "pkg.doubling", PASSES, root=gone)
        (tmp_path / "pkg").mkdir()
        (tmp_path / "pkg" / "other.py").write_text("N = 2\n")
        code = "from .other import N\n\n\ndef double(x):\n    return N * x\n"
        facts = {"source": "repository", "module": "pkg.doubling"}
        rows = [Row("a", "a", code=code, test=PASSES, prompt="", completion="", meta={"root": str(tmp_path)}, **facts)]
        assert [(found.executed, found.passes) for found in verify_rows(rows)] == [(True, True)]
        monkeypatch.setattr(pool, "root_problem", lambda _: "it is not on node 7")
        (found,) = verify_rows(rows)
        assert (found.executed, found.reason) == (False, "not executed: it is not on node 7")


def test_a_worker_with_another_version_is_refused_by_name(monkeypatch):
    ours = worker.judge_versions() | {"lowvram-ft": "9.9.9 (rules 0)", "python": "3.99.1"}
    monkeypatch.setattr(worker, "judge_versions", lambda: ours)
    with pytest.raises(
        MachineError, match=r"lowvram-ft 0.* and not 9\.9\.9.*python 3\.1\d.* and not 3\.99\.1; install"
    ):
        run_tests(CODE, "solution", PASSES)
    monkeypatch.setattr(ray_pool, "judge_versions", lambda: ours)
    with pytest.raises(MachineError, match=r"node .*: it has lowvram-ft 0.* and not 9\.9\.9"):
        ray_pool.RayPool(__import__("ray"), "local:2", work)


def living(mark):
    """Processes that were started with a variable of this value in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found.append((folder / "cmdline").read_bytes())
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_command_leaves_nothing_behind_and_its_results_alone_on_stdout(tmp_path):
    mark = uuid.uuid4().hex
    home = tmp_path / "home"
    home.mkdir()
    recipe = write_recipe(tmp_path, tmp_path)
    command = [sys.executable, "-m", "lowvram_ft", "data", "verify", str(recipe), "--no-cache", "--json"]
    run = subprocess.run(
        [*command, "--ray", "local:2", "--set", "data.max_read=2"],
        env={**os.environ, "LOWVRAM_FT_TEST_MARK": mark, "HOME": str(home)},
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert (found["rows"], found["executed"], found["passing"], found["bad"]) == (2, 2, 2, [])
    lines = [line for line in run.stderr.splitlines() if "ray" in line.lower()]
    assert lines == ["ray: local:2: 2 jobs at a time on 1 node(s)"], "Ray is not quiet"
    until = time.monotonic() + 30
    while (left := living(mark.encode())) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left
    assert not (home / ".ray").exists()
