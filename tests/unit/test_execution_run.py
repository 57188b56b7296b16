"""Running test files: outcomes, limits, attempts to cheat, several modules, coverage."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from lowvram_ft.errors import DataError, MachineError
from lowvram_ft.execution import Limits, Variation, Verdict, run_many, run_stream, run_tests
from lowvram_ft.execution.limits import count_descendants
from lowvram_ft.execution.pool import close_default_pool, default_pool

CODE = '''\
def half(n):
    """Half of an even number."""
    if n % 2:
        raise ValueError("odd")
    return n // 2


def unused(a, b):
    if a:
        return 1
    return [
        b,
        a,
    ]
'''
QUICK = Limits(wall_s=6.0, cpu_s=6.0, test_s=0.5)


def run(test: str, limits: Limits = QUICK, code: str = CODE, module: str = "solution", root=None) -> Verdict:
    return run_tests(code, module, textwrap.dedent(test), limits, root)


def outcomes(verdict: Verdict) -> dict[str, str]:
    return {result.name: result.outcome for result in verdict.results}


@pytest.fixture(scope="module", autouse=True)
def nothing_left(tmp_path_factory):
    """The tests leave neither folder nor process behind once the pool is closed."""
    import tempfile

    close_default_pool()
    place = tmp_path_factory.mktemp("private")
    children = count_descendants(100)  # other tests may have some, such as the resource tracker of multiprocessing
    before, tempfile.tempdir = tempfile.tempdir, str(place)
    yield
    tempfile.tempdir = before
    close_default_pool()
    assert list(place.iterdir()) == []
    assert count_descendants(100) <= children


def marked_processes(mark: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "cmdline").read_bytes().decode(errors="replace"):
                found.append(entry.name)
        except OSError:
            continue
    return found


def test_every_kind_of_outcome_is_told_apart():
    verdict = run(
        """
        import pytest
        from solution import half

        @pytest.fixture
        def broken():
            raise RuntimeError("no fixture")

        class TestHalf:
            @pytest.mark.parametrize("n", [2, 4])
            def test_even(self, n):
                assert half(n) * 2 == n

        def test_odd():
            with pytest.raises(ValueError):
                half(3)

        def test_wrong():
            assert half(2) == 2

        def test_fixture(broken):
            pass

        @pytest.mark.skip
        def test_later():
            pass

        @pytest.mark.xfail
        def test_expected():
            assert half(2) == 9
        """
    )
    assert verdict.status == "ran"
    assert outcomes(verdict) == {
        "TestHalf::test_even[2]": "passed",
        "TestHalf::test_even[4]": "passed",
        "test_odd": "passed",
        "test_wrong": "failed",
        "test_fixture": "error",
        "test_later": "skipped",
        "test_expected": "skipped",
    }
    assert (verdict.n_tests, verdict.n_passed, verdict.assertions) == (7, 3, 4)
    assert verdict.writes_tests and verdict.collects and not verdict.all_passed
    assert "E   assert 1 == 2" in verdict.log and "no fixture" in verdict.log
    assert "/tmp" not in verdict.log and "private" not in verdict.log
    assert next(r for r in verdict.results if r.name == "test_wrong").message.startswith("assert 1 == 2")
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_all_passed_needs_every_test_to_pass():
    assert run("from solution import half\ndef test_a():\n    assert half(2) == 1\n").all_passed
    skipped = "import pytest\n@pytest.mark.skip\ndef test_a():\n    assert half(2) == 1\n"
    assert not run(skipped).all_passed


def test_syntax_error_in_the_test():
    verdict = run("def test_a(:\n    pass\n")
    assert verdict.status == "syntax_error"
    assert not verdict.parses and not verdict.writes_tests and "line 1" in verdict.log


@pytest.mark.parametrize("test", ["x = 1\n", "", "import pytest\npytest.skip('no', allow_module_level=True)\n"])
def test_no_tests(test):
    verdict = run(test)
    assert verdict.status == "no_tests"
    assert not verdict.all_passed and not verdict.writes_tests


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("from solution import missing", "ImportError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(0)", "SystemExit"),
    ],
)
def test_error_at_import_is_a_collection_error(head, told):
    verdict = run(f"{head}\ndef test_a():\n    assert len('a')\n")
    assert verdict.status == "collection_error"
    assert told in verdict.log
    assert verdict.results == () and not verdict.all_passed and verdict.writes_tests


def test_code_that_does_not_parse_is_a_collection_error():
    patient = Limits(wall_s=60.0, cpu_s=60.0, test_s=60.0)  # no warm process: test_s has all imports in it
    verdict = run("import solution\ndef test_a():\n    assert solution\n", patient, code="def f(:\n")
    assert verdict.status == "collection_error"


def test_timeout_kills_an_infinite_loop_and_leaves_the_others_their_turn():
    verdict = run(
        """
        from solution import half
        def test_a():
            while True:
                pass
        def test_b():
            while True:
                try:
                    half(2)
                except BaseException:
                    raise
        def test_c():
            assert half(2) == 1
        """
    )
    assert verdict.status == "ran"
    assert outcomes(verdict) == {"test_a": "timeout", "test_b": "timeout", "test_c": "passed"}
    assert not verdict.all_passed


def test_a_timeout_in_the_middle_of_measuring_leaves_nothing_locked():
    """coverage.py's own lock, taken when the time of a test is up, would hang all that follows."""
    test = """
        from solution import half
        def test_a():
            while True:
                half(2)
        def test_b():
            assert half(2) == 1
    """
    limits = Limits(wall_s=6.0, test_s=0.2)
    found = run_many(lambda _: outcomes(run(test, limits)), range(30), workers=2)
    assert found == [{"test_a": "timeout", "test_b": "passed"}] * 30


def test_loop_that_swallows_its_timeout_ends_with_the_file():
    begin = time.monotonic()
    verdict = run(
        """
        def test_a():
            assert 1 + 1 == 2
        def test_b():
            while True:
                try:
                    while True:
                        pass
                except BaseException:
                    pass
        def test_c():
            assert 1 + 1 == 2
        """,
        Limits(wall_s=2.0, test_s=0.3),
    )
    assert verdict.status == "timeout" and time.monotonic() - begin < 15
    assert outcomes(verdict) == {"test_a": "passed", "test_b": "timeout", "test_c": "error"}


def test_endless_import_is_a_timeout():
    verdict = run("while True:\n    pass\n")
    assert verdict.status == "timeout" and verdict.results == ()


def test_memory_is_limited():
    test = "def test_a():\n    assert len(bytearray(800 << 20)) > 0\n"
    assert outcomes(run(test, Limits(memory_bytes=512 << 20))) == {"test_a": "failed"}
    assert outcomes(run(test, Limits(memory_bytes=2 << 30))) == {"test_a": "passed"}


def test_flood_of_output_is_swallowed():
    verdict = run(
        """
        import os
        def test_a():
            block = b"x" * (1 << 20)
            for _ in range(1024):
                os.write(1, block)
            assert len(block) == 1 << 20
        """,
        Limits(output_bytes=1000),
    )
    assert verdict.all_passed and len(verdict.log) < 3000


def test_large_files_are_refused():
    test = "def test_a():\n    open('big', 'wb').write(bytes(20 << 20))\n    assert 1 + 1 == 2\n"
    assert outcomes(run(test)) == {"test_a": "failed"}


def test_daemon_left_behind_is_killed():
    mark = f"left-behind-{os.getpid()}"
    verdict = run(
        f"""
        import subprocess, sys
        def test_a():
            code = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(60)"
            child = subprocess.Popen([sys.executable, "-c", code, "{mark}"], start_new_session=True)
            assert child.wait() == 0
        """,
        Limits(),
    )
    assert verdict.all_passed
    assert marked_processes(mark) == []


@pytest.mark.parametrize(
    "cheat",
    [
        "import os\ndef test_a():\n    os._exit(0)\n",
        "import sys\ndef test_a():\n    sys.exit(0)\n",
        "import os\nos._exit(0)\ndef test_a():\n    assert half\n",
        "import os, signal\ndef test_a():\n    os.kill(os.getpid(), signal.SIGKILL)\n",
        "import pytest\ndef test_a():\n    pytest.exit('done', returncode=0)\n",
        "import pytest\ndef test_a():\n    pytest.skip('fine')\n",
        "import atexit, os\natexit.register(os._exit, 0)\nprint('1 passed in 0.01s')\nraise SystemExit(0)\n",
        "def test_a():\n    print('===== 1 passed in 0.01s =====')\n    assert 1 == 2\n",
        "import os\ndef test_a():\n    os.write(3, b'x')\n    os.kill(os.getppid(), 9)\n    assert 1 == 2\n",
        "import _pytest.python\n_pytest.python.Function.runtest = lambda self: None\n"
        "def test_a():\n    assert 1 == 2\n",
        "from _pytest import runner\nrunner.pytest_runtest_call.__code__ = (lambda item: None).__code__\n"
        "def test_a():\n    assert 1 == 2\n",
        "import pytest, sys\nclass P:\n    @pytest.hookimpl(wrapper=True)\n"
        "    def pytest_runtest_makereport(self):\n"
        "        r = yield\n        r.outcome = 'passed'\n        return r\n"
        "def test_0(request):\n    request.config.pluginmanager.register(P())\n"
        "def test_a():\n    assert 1 == 2\n",
    ],
)
def test_a_failing_file_cannot_make_itself_pass(cheat):
    verdict = run(cheat)
    assert not verdict.all_passed
    assert "test_a" not in verdict.passing


def test_what_was_changed_is_named():
    verdict = run("import _pytest.python\n_pytest.python.Function.runtest = None\ndef test_a():\n    assert 1 == 2\n")
    assert verdict.results[0].message == "the test file changes pytest itself: Function.runtest"


def test_patched_coverage_is_noticed():
    verdict = run(
        """
        import coverage
        def test_a():
            coverage.Coverage.analysis2 = lambda *_: ("", [1], [], [], "")
            assert 1 + 1 == 2
        """
    )
    assert verdict.coverage is None and not verdict.all_passed


@pytest.mark.parametrize(
    "record",
    [
        '{"kind": "coverage", "numbers": {"bogus": 1}, "raw_lines": []}',
        '{"kind": "coverage", "numbers": None, "raw_lines": ["x"]}',
        '{"kind": "report", "name": "test_a", "outcome": "passed", "when": "call", "duration_s": float("nan"), '
        '"message": "", "text": ""}',
        '{"kind": "report", "name": "test_a", "outcome": "failed", "when": "call", "duration_s": 0.1, '
        '"message": "x" * 10_000, "text": ""}',
        '{"kind": "done", "exit_code": 0, "marks_s": []}',
        '{"kind": ["done"]}',
        '{"kind": "collected", "names": [1], "dropped": []}',
    ],
)
def test_a_forged_record_of_another_form_does_not_count_and_harms_nobody(record):
    verdict = run(
        f"""
        import gc, types
        def test_a():
            sends = [f for f in gc.get_objects() if isinstance(f, types.FunctionType) and f.__name__ == "send"]
            for send in sends:
                send({record})
            assert sends
        """
    )
    assert verdict.status == "ran" and verdict.coverage is not None
    assert 0 <= verdict.results[0].duration_s < 10 and len(verdict.results[0].message) <= 300
    assert run("def test_a():\n    assert 1 + 1 == 2\n").all_passed


def test_a_test_that_removes_its_folder_has_a_verdict_and_harms_nobody():
    replaced = default_pool().replaced
    verdict = run("import os, shutil\ndef test_a():\n    shutil.rmtree(os.getcwd())\n    assert 1 == 2\n")
    assert outcomes(verdict) == {"test_a": "failed"}
    assert run("def test_a():\n    assert 1 + 1 == 2\n").all_passed
    assert default_pool().replaced == replaced


def test_what_a_test_calls_itself_is_printable():
    verdict = run('globals()["test_\\x1b[31m\\nFAKE \\udc80"] = lambda: 1 / 0\n')
    (result,) = verdict.results
    assert result.name == r"test_\x1b[31m\nFAKE \udc80"
    for text in (result.name, result.message, verdict.log):
        assert text.replace("\n", "").isprintable()
        text.encode()


def test_thousands_of_tests_are_reported_in_seconds():
    test = "import pytest\n@pytest.mark.parametrize('n', range(1500))\ndef test_a(n):\n    assert n >= 0\n"
    begin = time.monotonic()
    verdict = run(test, Limits(wall_s=60.0, cpu_s=60.0))
    assert verdict.n_passed == 1500
    assert time.monotonic() - begin < 40


def test_a_file_that_needs_gigabytes_to_compile_is_told_as_such():
    lines = [f"{' ' * depth}try:\n{' ' * (depth + 1)}pass\n{' ' * depth}finally:\n" for depth in range(18)]
    verdict = run("".join(lines) + " " * 18 + "pass\ndef test_a():\n    assert 1 + 1 == 2\n")
    assert verdict.status in ("syntax_error", "killed", "timeout") and not verdict.all_passed
    assert run("def test_a():\n    assert 1 + 1 == 2\n").all_passed


def test_exit_in_the_middle_keeps_what_was_reported():
    verdict = run(
        """
        import os
        def test_a():
            assert 1 + 1 == 2
        def test_b():
            os._exit(0)
        def test_c():
            assert 1 + 1 == 2
        """
    )
    assert verdict.status == "killed" and verdict.coverage is None
    assert outcomes(verdict) == {"test_a": "passed", "test_b": "killed", "test_c": "error"}
    assert "exit code 0" in verdict.log


def test_nothing_of_the_callers_environment_is_seen(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    test = """
        import os, sys
        from pathlib import Path
        def test_a():
            assert "SECRET_TOKEN" not in os.environ
            assert Path.home().parent == Path.cwd().parent
            assert sys.stdin.read() == ""
    """
    monkeypatch.setenv("HOME", "/nowhere")
    verdict = run(test)
    assert outcomes(verdict) == {"test_a": "failed"}, "pytest itself refuses to read stdin"
    assert outcomes(run(test.replace("assert sys.stdin", "assert open('/dev/stdin')"))) == {"test_a": "passed"}


def test_several_modules_are_importable_and_the_first_is_the_solution():
    code = textwrap.dedent(
        """\
        # module: shop.cart
        from .price import PRICES
        from shop import NAME

        def total(items):
            return sum(PRICES[item] for item in items)
        # module: shop
        NAME = "shop"
        # module: shop.price
        PRICES = {"tea": 3}
        """
    )
    verdict = run(
        """
        import solution, shop.cart, shop.price
        from solution import total
        def test_a():
            assert solution is shop.cart and solution.__name__ == "shop.cart"
            assert total(["tea"]) == shop.price.PRICES["tea"]
            assert shop.cart.NAME == "shop"
        """,
        code=code,
    )
    assert verdict.all_passed, verdict.log
    assert verdict.coverage is not None and verdict.coverage.statements == 4


def test_relative_imports_with_a_root_use_the_given_text(tmp_path):
    package = tmp_path / "tree" / "pkg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from .mod import value\n")
    (package / "other.py").write_text("BASE = 40\n")
    (package / "data.txt").write_text("hello")
    (package / "mod.py").write_text("def value():\n    return 'the text on disk'\n")
    code = textwrap.dedent(
        """\
        from pathlib import Path
        from .other import BASE

        def value():
            return BASE + 2

        def text():
            return (Path(__file__).parent / "data.txt").read_text()
        """
    )
    test = """
        import pkg, pkg.mod, solution
        from solution import value, text
        def test_a():
            assert value() == 42 == pkg.value() and text() == "hello"
            assert solution is pkg.mod
    """
    verdict = run(test, code=code, module="pkg.mod", root=tmp_path / "tree")
    assert verdict.all_passed, verdict.log
    assert verdict.coverage is not None and verdict.coverage.line_rate == 1.0
    assert sorted(path.name for path in package.iterdir()) == [
        "__init__.py",
        "data.txt",
        "mod.py",
        "other.py",
    ]
    assert not run(test, code=code, module="pkg.mod").all_passed, "without the root, the rest is missing"


def test_coverage_equals_coverage_pys_own_report(tmp_path):
    test = "from solution import half, unused\ndef test_a():\n"
    test += "    assert half(4) == 2 and unused(0, 1) == [1, 0]\n"
    coverage = run(test).coverage
    (tmp_path / "solution.py").write_text(CODE)
    (tmp_path / "test_it.py").write_text(test)
    for step in ("run --branch --include=solution.py -m pytest -q test_it.py", "json -o out.json"):
        subprocess.run([sys.executable, "-m", "coverage", *step.split()], cwd=tmp_path, check=True, capture_output=True)
    (entry,) = json.loads((tmp_path / "out.json").read_text())["files"].values()
    assert coverage is not None
    assert coverage.covered_lines == tuple(entry["executed_lines"])
    assert coverage.missing_lines == tuple(entry["missing_lines"]) != ()
    summary = entry["summary"]
    assert (coverage.statements, coverage.branches) == (summary["num_statements"], summary["num_branches"])
    assert coverage.covered_statements == summary["covered_lines"]
    assert coverage.covered_branches == summary["covered_branches"]
    assert coverage.line_rate == 6 / 8 and coverage.branch_rate == 0.5


def test_module_that_is_never_imported_is_uncovered():
    coverage = run("def test_a():\n    assert 1 + 1 == 2\n").coverage
    assert coverage is not None and coverage.covered_lines == () and coverage.statements == 8


@pytest.mark.parametrize("module", ["../x/y", "a./tmp/x", "", "a\0b"])
def test_a_module_that_is_a_path_is_refused(module):
    with pytest.raises(DataError, match="is no name of a module"):
        run("def test_a():\n    assert 1 + 1 == 2\n", module=module)


def test_a_job_that_cannot_be_laid_out_is_the_machines_problem_and_no_verdict():
    """A name longer than file systems take stands for a full disk: nothing of the job has run."""
    with pytest.raises(MachineError, match=r"execution: .*File name too long"):
        run("def test_a():\n    assert 1 + 1 == 2\n", module="m" * 300)
    assert run("def test_a():\n    assert 1 + 1 == 2\n").all_passed


def test_run_many_keeps_the_order_and_streams():
    seen = []
    jobs = [2, 3, 4]
    results = run_many(
        lambda n: run(f"from solution import half\ndef test_a():\n    assert half({n}) == {n // 2}\n"),
        jobs,
        workers=2,
        on_result=lambda place, verdict: seen.append((place, verdict.all_passed)),
    )
    assert [verdict.all_passed for verdict in results] == [True, False, True]
    assert sorted(seen) == [(0, True), (1, False), (2, True)]


def test_results_stream_in_order_and_jobs_are_taken_only_as_they_are_needed():
    taken = []

    def jobs():
        for number in range(40):
            taken.append(number)
            yield number

    def slow_first(number):
        time.sleep(0.5 if number == 0 else 0.0)
        return number

    stream = run_stream(slow_first, jobs(), workers=2)
    assert next(stream) == 0
    assert len(taken) <= 10, "a result that is late holds the jobs back"
    assert list(stream) == list(range(1, 40)) and taken == list(range(40))


def test_a_stream_that_is_left_early_leaves_nothing_running():
    sleepy = "import time\ndef test_a():\n    time.sleep({})\n"
    begin = time.monotonic()
    for verdict in run_stream(lambda s: run(sleepy.format(s), Limits(wall_s=50, test_s=50)), [0, 45, 45], workers=2):
        assert verdict.status == "ran"
        break
    assert time.monotonic() - begin < 20


def test_a_server_that_a_job_kills_is_replaced():
    before = default_pool().replaced
    # inside its own namespace or rules, a test cannot reach the server: it is killed here from outside
    (server,) = default_pool()._idle[-1:] or [None]
    if server is None:
        run("def test_a():\n    assert 1 + 1 == 2\n")
        (server,) = default_pool()._idle[-1:]
    server.process.kill()
    server.process.wait()
    assert run("def test_a():\n    assert 1 + 1 == 2\n").all_passed
    assert default_pool().replaced == before + 1


def test_interrupt_kills_the_children():
    def stop(place, verdict):
        raise KeyboardInterrupt

    begin = time.monotonic()
    sleepy = "import time\ndef test_a():\n    time.sleep({})\n"
    with pytest.raises(KeyboardInterrupt):
        run_many(
            lambda s: run(sleepy.format(s), Limits(wall_s=50, test_s=50)),
            [0, 45, 45, 45],
            workers=2,
            on_result=stop,
        )
    assert time.monotonic() - begin < 20


def test_import_is_cheap_and_loads_no_pytest():
    names = "('pytest', 'coverage', 'cosmic_ray', 'parso')"
    code = f"import lowvram_ft.execution, sys; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- another order, another hash seed

HANGS_ON_ORDER = """
    seen = []

    def test_first():
        seen.append(1)

    def test_second():
        assert seen

    class TestThird:
        def test_a(self):
            pass

        def test_b(self):
            pass
"""
HANGS_ON_HASHES = """
    def test_order_of_a_set():
        assert list({"a", "b", "c", "d", "e", "f"}) == %r
"""


def test_another_order_finds_a_test_that_needs_an_earlier_one():
    usual = run(HANGS_ON_ORDER)
    assert usual.all_passed
    orders = set()
    for order in range(6):
        varied = run_tests(CODE, "solution", textwrap.dedent(HANGS_ON_ORDER), QUICK, variation=Variation(order))
        assert sorted(outcomes(varied)) == sorted(outcomes(usual))
        names = [result.name for result in varied.results]
        assert abs(names.index("TestThird::test_a") - names.index("TestThird::test_b")) == 1, "a class was torn apart"
        assert varied.all_passed == (names.index("test_first") < names.index("test_second"))
        orders.add(tuple(names))
    assert len(orders) > 2


def test_another_hash_seed_finds_a_test_that_needs_the_order_of_a_set():
    (shown,) = run("def test_it():\n    raise ValueError(''.join({'a', 'b', 'c', 'd', 'e', 'f'}))").results
    order = list(shown.message.removeprefix("ValueError: "))
    assert sorted(order) == list("abcdef")
    test = textwrap.dedent(HANGS_ON_HASHES % order)
    assert run(test).all_passed
    varied = [run_tests(CODE, "solution", test, QUICK, variation=Variation(hash_seed=seed)) for seed in (1, 2)]
    assert [verdict.all_passed for verdict in varied] == [False, False]
    assert run(test).all_passed, "the usual server is not lost"
