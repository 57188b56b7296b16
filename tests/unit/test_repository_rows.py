"""Rows of small repositories: what a test file needs comes with it, the rest is dropped with its reason, all pass."""

from pathlib import Path

import pytest

from lowvram_ft.data.from_repo.conftest_fixtures import PLUGIN, TANGLED, Conftest, Fixtures
from lowvram_ft.data.from_repo.import_graph import Target
from lowvram_ft.data.from_repo.pairs import find_pairs
from lowvram_ft.data.from_repo.rows import absolute_imports, rows, shorten_paths
from lowvram_ft.data.from_repo.running import keep_passing, verified
from lowvram_ft.data.from_repo.source_tree import LeftOut
from lowvram_ft.data.syntax import parse
from lowvram_ft.execution import Limits, run_tests
from tests.unit.test_repository import SHAPES, TEST_SHAPES, WORDS, write

LIMITS = Limits(wall_s=10.0, test_s=1.0)


def rows_of(folder, *, kinds=("file",), left_out=None):
    return [row for pair in find_pairs(folder) for row in rows(pair, left_out, kinds=kinds)]


def package(tmp_path, test, **files):
    """A package ``pkg`` with ``shapes.py``, and a test file beside its ``conftest.py``."""
    write(tmp_path, {"pkg/__init__.py": "", "pkg/shapes.py": SHAPES, "tests/test_shapes.py": test})
    return write(tmp_path, {name.replace("__", "/") + ".py": text for name, text in files.items()})


def run(row):
    return run_tests(row["code_src"], row["module"], row["test_src"], LIMITS, Path(row["root"]))


def passing(row):
    """Names of the tests of a row, all of which pass; and which would not if the code were another."""
    verdict = run(row)
    assert verdict.all_passed, verdict.log
    broken = {**row, "code_src": row["code_src"].replace("*", "+")}
    assert broken == row or not run(broken).all_passed, "the code of the row is what its tests run"
    return [result.name for result in verdict.results]


# --- rows


def test_a_whole_module_becomes_a_row_that_passes(tmp_path):
    (row,) = rows_of(package(tmp_path, TEST_SHAPES))
    assert passing(row) == ["test_area", "test_perimeter"]
    assert {key: row[key] for key in ("repo", "code_file", "test_file", "module", "origin", "kind", "names")} == {
        "repo": tmp_path.name,
        "code_file": "pkg/shapes.py",
        "test_file": "tests/test_shapes.py",
        "module": "pkg.shapes",
        "origin": "pkg.shapes",
        "kind": "file",
        "names": ["area", "perimeter"],
    }
    assert row["root"] == str(tmp_path)
    assert row["code_src"] == (tmp_path / "pkg/shapes.py").read_text(encoding="utf-8")
    assert "from solution import area, perimeter" in row["test_src"]
    assert row["id"].startswith("pkg/shapes.py@tests/test_shapes.py#")


def test_rows_are_the_same_every_time_and_change_their_id_with_their_text(tmp_path):
    package(tmp_path, TEST_SHAPES)
    first = rows_of(tmp_path, kinds=("file", "function"))
    assert rows_of(tmp_path, kinds=("file", "function")) == first
    assert len({row["id"] for row in first}) == len(first) == 3
    write(tmp_path, {"pkg/shapes.py": SHAPES + "\n    SIDES = 4\n"})
    assert rows_of(tmp_path)[0]["id"] != first[0]["id"]


def test_each_definition_becomes_a_row_of_its_own_that_runs_as_solution(tmp_path):
    code = """
        from . import words
        from .words import shout as loud

        SCALE = 3

        def scaled(width):
            return width * SCALE

        def named(width):
            return loud(words.shout(str(scaled(width))))

        def unrelated():
            return 0 * 0
    """
    test = """
        from pkg.shapes import named, scaled, unrelated

        def test_scaled():
            assert scaled(2) == 6

        def test_named():
            assert named(2) == "6!!"

        def test_both():
            assert scaled(1) == 3 and unrelated() == 0
    """
    package(tmp_path, test, pkg__words=WORDS)
    write(tmp_path, {"pkg/shapes.py": code})
    left_out = LeftOut()
    by_name = {row["names"][0]: row for row in rows_of(tmp_path, kinds=("function",), left_out=left_out)}
    assert {row["module"] for row in by_name.values()} == {"solution"}
    assert passing(by_name["scaled"]) == ["test_scaled"]
    assert passing(by_name["named"]) == ["test_named"]
    assert "from pkg.words import shout as loud" in by_name["named"]["code_src"]
    assert "unrelated" not in by_name["named"]["code_src"] + by_name["named"]["test_src"]
    assert left_out.examples == {"definition is reached by tests of others only": ["pkg/shapes.py::unrelated"]}


def test_a_definition_that_cannot_stand_beside_its_module_is_served_in_its_place(tmp_path):
    code = """
        from pkg import registry

        @registry.register
        def area(width, height):
            return width * height

        @registry.register
        def perimeter(width, height):
            return 2 * (width + height)
    """
    registry = """
        KNOWN = {}

        def register(function):
            if function.__name__ in KNOWN:
                raise KeyError(function.__name__)
            KNOWN[function.__name__] = function
            return function
    """
    package(tmp_path, "import pkg\n" + TEST_SHAPES.replace("\n    ", "\n"), pkg__registry=registry)
    write(tmp_path, {"pkg/shapes.py": code, "pkg/__init__.py": "from pkg.shapes import *\n"})
    found = rows_of(tmp_path, kinds=("function",))
    kept = [keep_passing(row, limits=LIMITS) for row in found]
    assert [(row["names"], row["module"]) for row in kept] == [(["area"], "pkg.shapes"), (["perimeter"], "pkg.shapes")]
    assert [passing(row) for row in kept] == [["test_area"], ["test_perimeter"]]


def test_names_that_come_through_the_package_are_imported_from_solution(tmp_path):
    test = """
        import pkg as p

        class TestArea:
            def test_area(self):
                assert p.area(2, 3) == 6
                assert p.shout("a") == "A!"
    """
    package(tmp_path, test, pkg__words=WORDS)
    write(tmp_path, {"pkg/__init__.py": "from .shapes import *\nfrom .words import shout\n"})
    (row,) = [row for row in rows_of(tmp_path) if row["origin"] == "pkg.shapes"]
    assert "from solution import area" in row["test_src"] and "p.shout" in row["test_src"]
    assert passing(row) == ["TestArea::test_area"]


# --- what a test needs besides


CONFTEST = """
    import pytest
    from pkg import words
    from pkg.words import shout as loud

    SIDE = 3

    def double(number):
        return 2 * number

    @pytest.fixture(params=[1, 2])
    def factor(request):
        return request.param

    @pytest.fixture
    def side(factor):
        return double(SIDE) * factor

    @pytest.fixture(name="word")
    def make_word():
        return words.shout(loud("a"))

    @pytest.fixture
    def option(request):
        return request.config.getoption("--side")

    @pytest.fixture
    def data():
        return open(__file__).read()
"""


def test_fixtures_of_conftest_files_come_with_the_test(tmp_path):
    test = '''
        """Shapes."""
        import pytest
        from pkg.shapes import area

        LEFT = 1

        def test_side(side, tmp_path):
            assert area(side, 1) in (6, 12)

        def test_word(word, side):
            assert area(len(word), side)
    '''
    package(tmp_path, test, tests__conftest=CONFTEST, pkg__words=WORDS)
    (row,) = rows_of(tmp_path)
    assert passing(row) == ["test_side[1]", "test_side[2]", "test_word[1]", "test_word[2]"]
    assert "def option" not in row["test_src"] and row["test_src"].count("import pytest") == 1


THROUGH = """
    import pytest
    from pkg import shapes

    @pytest.fixture
    def area():
        return shapes.area

    @pytest.fixture
    def around(area):
        from pkg.shapes import perimeter
        return perimeter
"""
ONLY_THROUGH = """
    def test_area(area):
        assert area(2, 3) == 6

    def test_perimeter(perimeter):
        assert perimeter(2, 3) == 10

    def test_nothing():
        assert True
"""


def test_what_is_reached_through_fixtures_of_conftest_files_alone_is_tested_all_the_same(tmp_path):
    nearer = "import pytest\n\n@pytest.fixture\ndef perimeter(around):\n    return around\n"
    package(tmp_path, ONLY_THROUGH, conftest=THROUGH, tests__conftest=nearer, pkg__words=WORDS)
    [pair] = find_pairs(tmp_path)
    assert (pair.code.module, [part.name for part in pair.tests]) == ("pkg.shapes", ["test_area", "test_perimeter"])
    [row] = rows_of(tmp_path)
    assert passing(row) == ["test_area", "test_perimeter"]


def test_a_fixture_that_overrides_one_of_a_conftest_above_takes_both(tmp_path):
    above = "import pytest\n\n@pytest.fixture\ndef side():\n    return 2\n"
    test = "from pkg.shapes import area\n\ndef test_side(side):\n    assert area(side, 1) == 4\n"
    package(tmp_path, test, conftest=above)
    assert passing({**rows_of(tmp_path)[0], "test_src": rows_of(tmp_path)[0]["test_src"].replace("4", "2")})
    write(tmp_path, {"tests/conftest.py": "import pytest\n\n@pytest.fixture\ndef side(side):\n    return side * 2\n"})
    left_out = LeftOut()
    assert rows_of(tmp_path, left_out=left_out) == [], "two functions of one name cannot stand in one file"
    assert left_out.reasons == {f"test {TANGLED}": 1}


ABOVE = """import pytest
from pkg.words import shout


@pytest.fixture
def tool():
    return shout


@pytest.fixture
def used(tool):
    return tool
"""


def test_a_fixture_gets_what_it_asks_for_from_the_nearest_conftest(tmp_path):
    nearer = "import pytest\nfrom pkg.shapes import area\n\n@pytest.fixture\ndef tool():\n    return area\n"
    test = "def test_used(used):\n    assert used(2, 3) == 6\n"
    package(tmp_path, test, conftest=ABOVE, tests__conftest=nearer, pkg__words=WORDS)
    [pair] = find_pairs(tmp_path)
    assert (pair.code.module, [part.uses for part in pair.tests]) == ("pkg.shapes", [{Target("pkg.shapes", "area")}])
    left_out = LeftOut()
    found = rows_of(tmp_path, left_out=left_out)
    assert [passing(row) for row in found] == [["test_used"]], left_out.reasons


def test_fixtures_that_a_mark_of_the_class_asks_for_count(tmp_path):
    above = "import pytest\nfrom pkg.shapes import area\n\n"
    above += "@pytest.fixture\ndef put(request):\n    request.cls.area = area\n"
    test = """import pytest


@pytest.mark.usefixtures("put")
class TestArea:
    def test_area(self):
        assert type(self).area(2, 3) == 6
"""
    package(tmp_path, test, tests__conftest=above, pkg__words=WORDS)
    assert [pair.code.module for pair in find_pairs(tmp_path)] == ["pkg.shapes"]


@pytest.mark.parametrize(
    ("argument", "reason"),
    [("option", TANGLED), ("data", TANGLED), ("nowhere", PLUGIN)],
)
def test_tests_with_fixtures_that_cannot_be_had_are_dropped(tmp_path, argument, reason):
    test = dedented(f"def test_taken({argument}):\n    assert area(1, 1)\n") + TEST_AREA_ALONE
    package(tmp_path, test, tests__conftest=CONFTEST, pkg__words=WORDS)
    left_out = LeftOut()
    (row,) = rows_of(tmp_path, left_out=left_out)
    assert passing(row) == ["test_area"]
    assert left_out.examples == {f"test {reason}": ["tests/test_shapes.py::test_taken"]}


def test_only_what_pytest_fills_counts_as_a_fixture(tmp_path):
    test = """
        from unittest import mock
        import pytest
        from pkg.shapes import area

        @pytest.fixture(name="two")
        def make_two():
            return 2

        @pytest.mark.parametrize(("a", "b"), [(1, 1)])
        @mock.patch("os.getcwd")
        def test_arguments(getcwd, a, b, two, capsys, default=1, *, monkeypatch):
            def test_nested(unknown):
                return unknown
            assert area(a, b) == test_nested(default) == two / 2

        @pytest.mark.parametrize("a, b", [(1, 1)])
        class TestThem:
            @mock.patch("os.getcwd", new=len)
            def test_more(self, a, b):
                assert area(a, b) == 1
    """
    left_out = LeftOut()
    (row,) = rows_of(package(tmp_path, test), left_out=left_out)
    assert passing(row) == ["test_arguments[1-1]", "TestThem::test_more[1-1]"]
    assert not left_out.reasons


def dedented(text):
    return "from pkg.shapes import area\n\n" + text + "\n"


TEST_AREA_ALONE = "def test_area():\n    assert area(2, 3) == 6\n"


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ("import subprocess\n\ndef test_x():\n    assert area(1, 1) and subprocess.run(['ls'])\n",
         "starts other programs"),
        ("import urllib.request\n\ndef test_x():\n    assert area(1, urllib.request.urlopen('x'))\n",
         "needs the network"),
        ("from pathlib import Path\nHERE = Path(__file__)\n\ndef test_x():\n    assert area(1, HERE)\n",
         "reads files beside the test file"),
        ("import pytest\n\n@pytest.mark.skip\ndef test_x():\n    assert area(1, 1)\n",
         "is marked to be skipped, to fail, or as slow"),
        ("from ..other import thing\n\ndef test_x():\n    assert area(1, thing)\n",
         "imports relative to a package that it is not in"),
        ("from common import thing\n\ndef test_x():\n    assert area(1, thing())\n",
         "uses modules that are not importable from the code's root"),
    ],
)  # fmt: skip
def test_tests_that_cannot_run_alone_are_dropped_and_the_others_stay(tmp_path, test, reason):
    package(tmp_path, dedented(test) + TEST_AREA_ALONE, tests__common="def thing():\n    return 1\n")
    left_out = LeftOut()
    (row,) = rows_of(tmp_path, left_out=left_out)
    assert passing(row) == ["test_area"]
    assert left_out.examples == {f"test {reason}": ["tests/test_shapes.py::test_x"]}


def test_helpers_of_the_test_package_are_imported_by_their_full_name(tmp_path):
    test = """
        from .common import thing
        from ..shapes import area

        def test_x():
            assert area(1, thing()) == 5
    """
    write(tmp_path, {"pkg/__init__.py": "", "pkg/shapes.py": SHAPES, "pkg/tests/__init__.py": ""})
    write(tmp_path, {"pkg/tests/test_shapes.py": test, "pkg/tests/common.py": "def thing():\n    return 5\n"})
    (row,) = rows_of(tmp_path)
    assert "from pkg.tests.common import thing" in row["test_src"]
    assert passing(row) == ["test_x"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from . import a\n", "from pkg.sub import a\n"),
        ("from .. import (\n    a,  # why\n    b,\n)\n", "from pkg import (\n    a,  # why\n    b,\n)\n"),
        ("from .x.y import z as é; from ..w import v\n", "from pkg.sub.x.y import z as é; from pkg.w import v\n"),
        ("def f():\n    from .x import y\n", "def f():\n    from pkg.sub.x import y\n"),
        ("from ...... import a\n", "from ...... import a\n"),
        ("s = 'from .x import y'\n", "s = 'from .x import y'\n"),
        ("from .x import (\n", "from .x import (\n"),
    ],
)
def test_relative_imports_become_absolute_and_nothing_else_changes(text, expected):
    assert absolute_imports(text, "pkg.sub") == expected
    assert absolute_imports(text, "") == text


PATHS = {"a.b": frozenset({"f"}), "a": frozenset({"g"})}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import a as x\n\ny = x.b.f(x.b.z, x.g)\n", "import a as x\nimport a.b.m as m\n\ny = m.f(x.b.z, x.g)\n"),
        ("from a import b\nz = b.f\n", "from a import b\nz = b.f\n"),
        ("import a.b\nm = 1\nz = a.b.f, m\n", "import a.b\nimport a.b.m as m_module\nm = 1\nz = m_module.f, m\n"),
        ("import a as x\ndef t(x):\n    x.b.f\n", "import a as x\ndef t(x):\n    x.b.f\n"),
        ("import other as a\na.b.f\n", "import other as a\na.b.f\n"),
        ("a.b.f(\n", "a.b.f(\n"),
    ],
)
def test_long_paths_to_the_module_become_its_own_name(text, expected):
    assert shorten_paths(text, "a.b.m", PATHS) == expected


# --- running


def test_tests_that_do_not_pass_are_dropped_one_by_one(tmp_path):
    test = """
        import time
        import pytest
        from pkg.shapes import area

        def test_good():
            assert area(2, 3) == 6

        def test_wrong():
            assert area(2, 3) == 7

        @pytest.mark.parametrize("side", [1, 2])
        def test_half_wrong(side):
            assert area(side, 1) == 1

        def test_skipped():
            pytest.skip("not here")
            assert area(1, 1)

        def test_endless():
            assert area(1, 1)
            time.sleep(30)
    """
    package(tmp_path, test)
    (row,) = rows_of(tmp_path)
    left_out = LeftOut()
    kept = keep_passing(row, left_out, LIMITS)
    assert passing(kept) == ["test_good"]
    assert "import time" not in kept["test_src"]
    assert left_out.reasons == {"test failed": 2, "test skipped": 1, "test timeout": 1}
    assert kept["id"] == row["id"]


def test_tests_that_others_left_no_time_for_get_their_turn(tmp_path):
    test = """
        import time
        import pytest
        from pkg.shapes import area

        @pytest.mark.parametrize("side", range(9))
        def test_endless(side):
            time.sleep(30 * area(1, 1))

        def test_last():
            assert area(2, 3) == 6
    """
    (row,) = rows_of(package(tmp_path, test))
    left_out = LeftOut()
    kept = keep_passing(row, left_out, Limits(wall_s=3.0, test_s=0.5))
    assert passing(kept) == ["test_last"]
    assert left_out.reasons == {"test timeout": 1}


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ("import no_such_module\n\ndef test_x():\n    assert area(1, no_such_module.x)\n",
         "file: cannot be imported alone (ModuleNotFoundError)"),
        ("def test_x():\n    assert area(1, 1) == 2\n", "file: none of its tests passes"),
    ],
)  # fmt: skip
def test_a_row_without_a_passing_test_is_dropped_with_its_reason(tmp_path, test, reason):
    (row,) = rows_of(package(tmp_path, dedented(test)))
    left_out = LeftOut()
    assert keep_passing(row, left_out, LIMITS) is None
    assert left_out.reasons == {reason: 1}


def test_verified_gives_the_rows_that_pass_in_their_order(tmp_path):
    package(tmp_path, TEST_SHAPES)
    good = rows_of(tmp_path, kinds=("file", "function"))
    bad = {**good[1], "id": "bad", "code_src": "def area(width, height):\n    return 0\n"}
    left_out, told = LeftOut(), []
    kept = list(verified([good[0], bad, good[2]], left_out, on_row=lambda *step: told.append(step), workers=2))
    assert [row["id"] for row in kept] == [good[0]["id"], good[2]["id"]]
    assert told == [(1, True), (2, False), (3, True)]
    assert left_out.reasons == {"function: none of its tests passes": 1}


# --- fixtures


def test_fixtures_whose_names_mean_something_else_in_the_test_file_stay():
    fixtures = Fixtures(
        [Conftest("import pytest\nimport json as words\n\n@pytest.fixture\ndef a():\n    return words\n", "")]
    )
    assert fixtures.problem(["a"]) is None
    assert fixtures.inline("import words\n\ndef test_x(a):\n    assert a\n", ["a"]) is None
    moved = fixtures.inline("import json as words\n\ndef test_x(a):\n    assert a\n", ["a"])
    assert moved is not None and moved.count("import json as words") == 1


def test_inlined_text_parses_after_any_beginning():
    fixtures = Fixtures([Conftest("import pytest\n\n@pytest.fixture\ndef a():\n    return 1\n", "")])
    for begin in (
        "",
        '"""Doc."""\n',
        "from __future__ import annotations\n",
        "x = 1\n",
        "import pytest, os\n",
        "# note\n",
    ):
        text = fixtures.inline(begin + "def test_x(a):\n    assert a\n", ["a"])
        assert text is not None and parse(text) is not None, begin
        assert run_tests("", "empty", text, LIMITS).all_passed, text
