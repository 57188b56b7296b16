"""Files beside a test: a conftest's fixtures and hooks, other files, what is refused, what a server does not keep."""

import textwrap

import pytest

from lowvram_ft.errors import DataError
from lowvram_ft.execution import Limits, VerdictCache, judge, mutation_analysis, run_tests
from lowvram_ft.execution.pool import Question, close_default_pool, default_pool
from lowvram_ft.execution.sandbox import bubblewrap

CODE = "def half(n):\n    return n // 2\n\n\ndef double(n):\n    return n * 2\n"
QUICK = Limits(wall_s=6.0, cpu_s=6.0, test_s=1.0)
FIXTURE = """
import pytest

@pytest.fixture
def four():
    return 4
"""
USES_FOUR = """
from solution import half

def test_a(four):
    assert half(four) == 2
"""


def run(test: str, conftest: str | None = None, code: str = CODE, root=None, **others: str):
    beside = {} if conftest is None else {"conftest.py": textwrap.dedent(conftest)}
    return run_tests(code, "solution", textwrap.dedent(test), QUICK, root, beside={**beside, **others})


def outcomes(verdict):
    return {result.name: result.outcome for result in verdict.results}


@pytest.fixture(scope="module", autouse=True)
def own_pool():
    close_default_pool()
    yield
    close_default_pool()


def test_a_fixture_of_a_conftest_is_found_and_without_it_is_not():
    assert run(USES_FOUR, FIXTURE).all_passed
    assert run(USES_FOUR).results[0].message == "fixture 'four' not found"


def test_one_server_keeps_nothing_of_the_conftest_of_an_earlier_job():
    replaced = default_pool().replaced
    other = FIXTURE.replace("return 4", "return 6")
    assert outcomes(run(USES_FOUR, FIXTURE)) == {"test_a": "passed"}
    assert outcomes(run(USES_FOUR, other)) == {"test_a": "failed"}
    assert outcomes(run(USES_FOUR)) == {"test_a": "error"}
    gone = "import importlib.util\ndef test_a():\n    assert importlib.util.find_spec('conftest') is None\n"
    assert run(gone).all_passed
    assert default_pool().replaced == replaced


def test_autouse_fixtures_overriding_and_every_scope_work():
    verdict = run(
        """
        import os
        import pytest

        @pytest.fixture
        def name(name):
            return name + " of the test"

        def test_autouse():
            assert os.environ["MODE"] == "on"

        def test_overridden(name, order, tmp_path):
            assert name == "name of the test"
            assert order == ["session", "module"]
            assert tmp_path.is_dir()

        class TestClass:
            def test_method(self, order):
                assert order == ["session", "module"]
        """,
        """
        import pytest

        @pytest.fixture(autouse=True)
        def mode(monkeypatch):
            monkeypatch.setenv("MODE", "on")

        @pytest.fixture
        def name():
            return "name"

        @pytest.fixture(scope="session")
        def begun():
            return ["session"]

        @pytest.fixture(scope="module")
        def order(begun):
            begun.append("module")
            yield begun
        """,
    )
    assert verdict.all_passed and verdict.n_tests == 3


def test_hooks_of_a_conftest_have_their_say():
    verdict = run(
        """
        import pytest

        def test_option(request):
            assert request.config.getoption("--slow") is False
            assert request.config.was_configured and request.session.was_started

        @pytest.mark.slow
        def test_skipped():
            assert len("a") == 2

        def test_removed():
            assert len("a") == 2

        def test_numbers(number):
            assert number

        @pytest.mark.later
        def test_forgiven():
            assert len("a") == 2
        """,
        """
        import pytest

        def pytest_addoption(parser):
            parser.addoption("--slow", action="store_true", default=False)

        def pytest_configure(config):
            config.addinivalue_line("markers", "slow: takes long")
            config.was_configured = True

        def pytest_sessionstart(session):
            session.was_started = True

        def pytest_generate_tests(metafunc):
            if "number" in metafunc.fixturenames:
                metafunc.parametrize("number", [1, 2])

        @pytest.hookimpl(trylast=True)
        def pytest_collection_modifyitems(config, items):
            items[:] = [item for item in items if item.name != "test_removed"]
            for item in items:
                if "slow" in item.keywords and not config.getoption("--slow"):
                    item.add_marker(pytest.mark.skip(reason="slow"))

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if report.failed and "later" in item.keywords:
                report.outcome = "passed"
            return report
        """,
    )
    assert outcomes(verdict) == {
        "test_option": "passed",
        "test_skipped": "skipped",
        "test_numbers[1]": "passed",
        "test_numbers[2]": "passed",
        "test_forgiven": "passed",
    }


def test_plugins_that_a_conftest_names_or_registers_are_let_in():
    verdict = run(
        "def test_a(here, there):\n    assert here + there == 3\n",
        """
        import pytest

        pytest_plugins = ["more.fixtures"]

        class Here:
            @pytest.fixture
            def here(self):
                return 1

        def pytest_configure(config):
            config.pluginmanager.register(Here())
        """,
        **{
            "more/__init__.py": "",
            "more/fixtures.py": "import pytest\n@pytest.fixture\ndef there():\n    return 2\n",
        },
    )
    assert verdict.all_passed


@pytest.mark.parametrize(
    "cheat",
    [
        "import conftest\nconftest.pytest_runtest_makereport.__code__ = GOOD.__code__\n",
        "def test_0(request):\n    request.config.pluginmanager.register(__import__('types').ModuleType('m'))\n",
        "import _pytest.python\n_pytest.python.Function.runtest = lambda self: None\n",
        "pytest_plugins = ['more']\n",
    ],
)
def test_a_test_file_cannot_make_itself_pass_beside_a_conftest(cheat):
    conftest = "def pytest_runtest_makereport(item, call):\n    return None\n"
    good = """
import pytest
def GOOD(item, call):
    return pytest.TestReport(item.nodeid, item.location, {}, "passed", None, call.when)
"""
    verdict = run(f"{good}{cheat}def test_a():\n    assert 1 == 2\n", conftest, **{"more.py": ""})
    assert not verdict.all_passed and "test_a" not in verdict.passing
    assert "the test file changes pytest itself" in verdict.log


@pytest.mark.parametrize(
    ("conftest", "told"),
    [
        ("import json\nimport no_such_module\n", "No module named 'no_such_module'"),
        ("def f(:\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("def pytest_configure(config):\n    raise ValueError('no setting')\n", "ValueError: no setting"),
        ("def pytest_collection_modifyitems(items):\n    raise ValueError('no items')\n", "ValueError: no items"),
        ("import _pytest.python\n_pytest.python.Function.runtest = None\n", "conftest.py changes pytest itself"),
    ],
)
def test_a_conftest_that_fails_is_a_collection_error_with_its_message(conftest, told):
    verdict = run("def test_a():\n    assert len('a') == 1\n", conftest)
    assert verdict.status == "collection_error"
    assert told in verdict.log
    assert str(bubblewrap.FOLDER) not in verdict.log and "box/work" not in verdict.log


def test_the_place_in_a_conftest_that_fails_is_told():
    verdict = run("def test_a():\n    assert len('a') == 1\n", "\ndef wrong():\n    return 1 / 0\n\nwrong()\n")
    assert "ImportError while loading conftest.py\nconftest.py:5: in <module>" in verdict.log
    assert "conftest.py:3: in wrong" in verdict.log and "beside.py" not in verdict.log


def test_a_conftest_that_never_ends_is_a_timeout():
    verdict = run("def test_a():\n    assert len('a') == 1\n", "while True:\n    pass\n")
    assert verdict.status == "timeout"


def test_files_beside_a_test_are_read_and_put_back():
    test = """
    from pathlib import Path
    import helper
    def test_read():
        assert Path("data/rows.txt").read_text() == "a\\nb\\n" and helper.N == 3
        Path("data/rows.txt").write_text("changed")
        Path("conftest.py").unlink()
        Path("helper.py").write_text("N = 4")
    def test_half():
        from solution import half
        assert half(4) == 2
    """
    beside = {"data/rows.txt": "a\nb\n", "helper.py": "N = 3\n", "conftest.py": ""}
    found = judge(CODE, "solution", textwrap.dedent(test), QUICK, beside=beside)
    assert found.verdict.all_passed
    assert found.useful  # each mutant finds the files as they were: else none would be run
    assert outcomes(run("from pathlib import Path\ndef test_a():\n    assert not Path('data').exists()\n")) == {
        "test_a": "passed"
    }


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/x", "../x", "a/../../x", "a/..", "./x", "a//b", "", ".", "a\\b", "a\0"),
        *("test_solution.py", "test_solution.py/x", "test_solution/__init__.py"),
    ],
)
def test_a_path_that_cannot_lie_beside_a_test_is_refused(path):
    with pytest.raises(DataError, match="beside: "):
        run_tests(CODE, "solution", USES_FOUR, QUICK, beside={path: ""})


def test_a_file_that_is_a_folder_too_is_refused():
    with pytest.raises(DataError, match="which is a file"):
        run_tests(CODE, "solution", USES_FOUR, QUICK, beside={"a": "", "a/b/c": ""})


def test_mutants_are_killed_through_a_fixture():
    conftest = """
    import pytest
    from solution import half

    @pytest.fixture
    def halved():
        return half(9)
    """
    test = "def test_a(halved):\n    assert halved == 4\n"
    report = mutation_analysis(
        CODE, "solution", test, QUICK, beside={"conftest.py": textwrap.dedent(conftest)}, max_mutants=None
    )
    killed = [mutant for mutant in report.mutants if mutant.outcome == "killed"]
    assert killed and {mutant.line for mutant in killed} == {2}
    through_import = mutation_analysis(
        "LIMIT = 5\n", "solution", "def test_a(limit):\n    assert limit == 5\n", QUICK,
        beside={"conftest.py": "import pytest\nimport solution\nSEEN = solution.LIMIT\n"
                "@pytest.fixture\ndef limit():\n    return SEEN\n"},
    )  # fmt: skip
    assert through_import.score == 1.0


def test_a_mutant_that_breaks_the_import_of_a_conftest_is_killed():
    conftest = "from solution import double\nassert double(3) == 6\n"
    report = mutation_analysis(CODE, "solution", "def test_a():\n    assert len('a')\n", QUICK,
                               beside={"conftest.py": conftest})  # fmt: skip
    assert {mutant.outcome for mutant in report.mutants if mutant.line == 6} == {"killed"}
    assert {mutant.outcome for mutant in report.mutants if mutant.line == 2} == {"not_covered"}


def test_what_a_conftest_forgives_kills_no_mutant():
    conftest = """
    import pytest
    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item, call):
        report = yield
        if report.failed:
            report.outcome = "passed"
        return report
    """
    test = "from solution import half\ndef test_a():\n    assert half(9) == 4\n"
    report = mutation_analysis(CODE, "solution", test, QUICK, beside={"conftest.py": textwrap.dedent(conftest)})
    assert report.killed == 0 and report.survived == report.total
    assert mutation_analysis(CODE, "solution", test, QUICK).killed > 0


def test_coverage_counts_what_a_conftest_runs():
    conftest = "from solution import double\ndouble(2)\n"
    verdict = run("def test_a():\n    assert len('a')\n", conftest)
    assert verdict.coverage is not None and verdict.coverage.covered_lines == (1, 5, 6)


def test_only_the_mutants_that_are_asked_for_are_run():
    test = "from solution import half, double\ndef test_a():\n    assert half(9) == 4 and double(3) == 6\n"
    every = judge(CODE, "solution", test, QUICK).mutation
    assert every is not None
    places = {number for number, mutant in enumerate(every.mutants) if mutant.outcome == "killed"}
    asked = frozenset(sorted(places)[::3])
    some = judge(CODE, "solution", test, QUICK, only=asked).mutation
    assert some is not None
    assert {number for number, mutant in enumerate(some.mutants) if mutant.outcome == "killed"} == asked
    assert {mutant.outcome for number, mutant in enumerate(some.mutants) if number not in asked} == {"not_asked"}
    assert some.total == len(asked) and some.score == 1.0 and some.interval is None
    none = judge(CODE, "solution", test, QUICK, only=()).mutation
    assert none is not None and none.total == 0 and none.score is None
    assert [(m.line, m.diff) for m in none.mutants] == [(m.line, m.diff) for m in every.mutants]


def test_tests_that_are_named_are_the_only_ones_that_run():
    test = "def test_a():\n    from solution import half\n    assert half(2) == 1\ndef test_b():\n    assert 1 == 2\n"
    verdict = run_tests(CODE, "solution", test, QUICK, tests=["test_a"])
    assert outcomes(verdict) == {"test_a": "passed"} and verdict.all_passed


def test_a_question_without_files_is_what_it_was_before_there_could_be_any():
    plain = Question(CODE, "solution", USES_FOUR, QUICK, None, True, None).to_json()
    assert sorted(plain) == [
        "code", "hash_seed", "limits", "max_mutants", "module", "mutants", "order", "selected", "test"
    ]  # fmt: skip
    assert Question(CODE, "solution", USES_FOUR, QUICK, None, True, None, beside={}).to_json() == plain


def test_another_conftest_is_another_question(tmp_path):
    with VerdictCache(tmp_path / "verdicts.sqlite3") as cache:

        def asked(beside, only=None):
            return judge(CODE, "solution", USES_FOUR, QUICK, cache=cache, beside=beside, only=only)

        first = asked({"conftest.py": FIXTURE})
        assert first.verdict.all_passed and not asked(None).verdict.all_passed
        assert not asked({"conftest.py": FIXTURE.replace("4", "6")}).verdict.all_passed
        assert asked({"conftest.py": FIXTURE}, only=[0]).mutation != first.mutation
        assert cache.hits == 0
        assert asked({"conftest.py": FIXTURE}) == first and cache.hits == 1
