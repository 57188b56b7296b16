"""What tests are worth: against runs by hand, and against every subset of the tests of a file."""

import itertools
import textwrap

import pytest

from lowvram_ft.execution import Limits, judge
from lowvram_ft.execution.mutants import find_mutants
from lowvram_ft.testgen.subject import Subject, Worth
from lowvram_ft.testgen.texts.drop import drop_tests
from lowvram_ft.testgen.worth import measure as existing
from lowvram_ft.testgen.worth.measure import baseline, measure, measure_each, mutants_of, whole_statements
from lowvram_ft.testgen.worth.select import choose

CODE = """\
LIMIT = 3


def clamp(n):
    if n > LIMIT:
        return LIMIT
    return n


def both(left, right):
    return (
        left
        and right
    )


def sign(n):
    if n < 0:
        return "minus"
    return "plus"
"""
TEST = """\
import pytest

from solution import both, clamp, sign

SIDE = 3


@pytest.fixture
def big():
    return 9


def test_clamp(big):
    assert clamp(big) == 3
    assert clamp(1) == 1


@pytest.mark.parametrize("right", [1, 2])
def test_both(right):
    assert both(SIDE, right) == right


class TestSign:
    def test_minus(self):
        assert sign(-1) == "minus"

    def test_all(self):
        assert sign(-1) == "minus"
        assert sign(1) == "plus"


def test_wrong():
    assert clamp(9) == 4
    assert sign(0) == "plus"


def test_vacuous():
    assert both
"""


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """One for all: each folder takes a server of its own."""
    root = tmp_path_factory.mktemp("root")
    package = root / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "prices.py").write_text(CODE)
    return Subject(CODE, "shop.prices", root)


def file_of(folder, name, text):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def test_only_what_passes_is_worth_anything(subject):
    worth, verdict = measure(subject, TEST)
    assert verdict.n_tests == 7 and verdict.n_passed == 6
    without = drop_tests(TEST, ["test_wrong"])
    assert worth == measure(subject, without)[0]
    assert worth.lines == {1, 4, 5, 6, 7, 10, 11, 17, 18, 19, 20}
    failing = TEST[TEST.index("def test_wrong") : TEST.index("def test_vacuous")]
    assert measure(subject, f"from solution import clamp, sign\n{failing}")[0].killed == frozenset()


def test_killed_mutants_are_places_in_the_list_of_all(subject):
    worth, _ = measure(subject, TEST)
    by_hand = judge(CODE, "shop.prices", drop_tests(TEST, ["test_wrong"]), Limits(), subject.root).mutation
    assert by_hand is not None
    found = {place for place, mutant in enumerate(by_hand.mutants) if mutant.outcome in ("killed", "timeout")}
    assert worth.killed == found
    assert worth.mutants == by_hand.total


def test_the_sum_of_each_is_what_all_together_are_worth_for_every_subset(subject):
    text = drop_tests(TEST, ["test_wrong", "test_both", "test_vacuous"])
    each = measure_each(subject, text)
    assert list(each) == ["test_clamp", "TestSign::test_minus", "TestSign::test_all"]
    for size in range(1, len(each)):
        for names in itertools.combinations(each, size):
            together, _ = measure(subject, drop_tests(text, [name for name in each if name not in names]))
            summed = Worth()
            for name in names:
                summed |= each[name]
            assert together == summed


def test_each_test_alone_keeps_helpers_and_fixtures_and_cases(subject):
    each = measure_each(subject, TEST)
    assert each["test_clamp"].lines == {1, 4, 5, 6, 7, 10, 17}
    assert each["test_both"].lines == {1, 4, 10, 11, 17} and each["test_both"].killed
    assert each["TestSign::test_minus"].killed < each["TestSign::test_all"].killed
    assert each["test_wrong"] == Worth(mutants=each["test_clamp"].mutants)
    there = baseline(subject, [])
    assert each["test_vacuous"] == there.by_import
    assert choose(each, there.worth | there.by_import) == ["test_clamp", "test_both", "TestSign::test_all"]


def test_tests_that_a_class_inherits_count_for_where_they_are_defined(subject):
    text = """
    from solution import sign
    def test_helper_of_nobody():
        assert sign
    class Base:
        given = None
        def test_sign(self):
            assert sign(self.given[0]) == self.given[1]
    class TestMinus(Base):
        given = (-1, "minus")
    class TestPlus(Base):
        given = (1, "plus")
        def test_own(self):
            assert sign(0) == "plus"
    """
    each = measure_each(subject, textwrap.dedent(text))
    assert list(each) == ["test_helper_of_nobody", "Base::test_sign", "TestPlus::test_own"]
    assert {18, 19, 20} <= each["Base::test_sign"].lines


def test_a_mutant_that_breaks_the_import_is_found_by_each_test_that_imports_the_module(subject):
    code = "SIZE = 4\nif not SIZE:\n    raise ValueError\n\n\ndef no(n):\n    return not n\n"
    given = Subject(code, "no", subject.root)
    text = """
    def test_no():
        from solution import no
        assert no(0)
    def test_import():
        import no
    def test_nothing():
        assert len("a") == 1
    """
    text = textwrap.dedent(text)
    each = measure_each(given, text)
    by_import = baseline(given, []).by_import
    assert {find_mutants(code)[place].line for place in by_import.killed} == {2}
    for name, worth in each.items():
        alone, _ = measure(given, drop_tests(text, [other for other in each if other != name]))
        assert worth == alone
    assert each["test_import"].killed == by_import.killed < each["test_no"].killed
    assert each["test_nothing"].killed == frozenset() and each["test_nothing"].mutants == by_import.mutants
    inner = measure_each(given, text, lines=frozenset({7}))
    assert inner["test_nothing"] == inner["test_import"] == Worth(mutants=inner["test_no"].mutants)


def test_a_file_that_cannot_be_taken_apart_has_no_tests(subject):
    assert measure_each(subject, "def test_a(:\n") == {}
    assert measure_each(subject, "x = 1\n") == {}
    worth, verdict = measure(subject, "def test_a(:\n")
    assert worth == Worth() and verdict.status == "syntax_error"


def test_every_measurement_of_a_module_tries_the_same_sample(subject):
    """Also where tests reach different parts of it."""
    code = "def one(n):\n    return [10, 20, 30, 40][n]\n\n\ndef two(n):\n    return [50, 60, 70, 80][n]\n"
    given = Subject(code, "tables", subject.root)
    every, some = mutants_of(code, max_mutants=None), mutants_of(code, max_mutants=8)
    assert len(every) == len(find_mutants(code)) == 16 and len(some) == 8 and some < every
    head = "from solution import one, two\n"
    texts = [
        "def test_one():\n    assert [one(n) for n in (0, 1, 2)] == [10, 20, 30]\n",
        "def test_two():\n    assert [two(n) for n in (1, 3)] == [60, 80]\n",
    ]
    sums = Worth()
    for text in texts:
        sampled = measure(given, head + text, max_mutants=8)[0]
        assert sampled.killed == measure(given, head + text)[0].killed & some
        assert sampled.killed and sampled.mutants == 8
        sums |= sampled
    assert sums == measure(given, head + "".join(texts), max_mutants=8)[0]
    each = measure_each(given, head + "".join(texts), max_mutants=8)
    assert each["test_one"] | each["test_two"] == sums


def test_outside_of_the_lines_that_are_of_interest_nothing_counts(subject):
    lines = frozenset({12, 19})
    worth, _ = measure(subject, TEST, lines=lines)
    assert worth.lines == {11, 19}
    edits = find_mutants(CODE)
    assert {edits[place].line for place in worth.killed} <= {11, 12, 13, 14, 19}
    whole, _ = measure(subject, TEST)
    assert worth.killed == {place for place in whole.killed if edits[place].line in (11, 12, 13, 14, 19)}
    there = baseline(subject, [], lines=lines)
    assert there.statements == there.missing_lines == (11, 19)
    assert {mutant.line for mutant in there.survivors.values()} == {edits[place].line for place in worth.killed}


def test_a_line_stands_for_its_whole_statement_and_a_header_for_itself():
    assert whole_statements(CODE, frozenset({13})) == {11, 12, 13, 14}
    assert whole_statements(CODE, frozenset({5})) == {5}
    assert whole_statements(CODE, frozenset({2, 99})) == {2, 99}


def test_what_the_tests_of_a_project_reach_and_find(subject, tmp_path):
    good = file_of(
        tmp_path, "test_good.py", "from shop.prices import sign\ndef test_a():\n    assert sign(1) == 'plus'\n"
    )
    mixed = file_of(
        tmp_path,
        "test_mixed.py",
        """
        import pytest
        from shop.prices import sign
        def test_a():
            assert sign(-1) == "minus"
        def test_b():
            assert sign(-1) == "plus"
        @pytest.mark.skip
        def test_c():
            assert sign(-1) == "plus"
        """,
    )
    found = baseline(subject, [good, mixed, good])
    both = measure(subject, good.read_text())[0] | measure(subject, mixed.read_text())[0]
    assert found.worth == both and (found.n_tests, found.n_passed) == (4, 2) and found.not_run == {}
    assert [(file, [r.name for r in results]) for file, results in found.failing.items()] == [(mixed, ["test_b"])]
    assert found.statements == (1, 4, 5, 6, 7, 10, 11, 17, 18, 19, 20)
    assert found.missing_lines == (5, 6, 7, 11)
    by_hand = judge(CODE, "shop.prices", "def test_a():\n    import shop.prices\n", Limits(), subject.root).mutation
    assert by_hand is not None
    counted = {n for n, mutant in enumerate(by_hand.mutants) if mutant.outcome not in ("equivalent", "incompetent")}
    assert found.survivors.keys() == counted - both.killed - found.by_import.killed
    assert {mutant.line for mutant in found.survivors.values()} >= {5, 13}
    assert all(mutant.diff.startswith("-") for mutant in found.survivors.values())
    assert found.problem == ""


def test_a_project_without_tests_has_its_import_and_every_mutant_to_find(subject):
    found = baseline(subject, [])
    assert found.worth == Worth(mutants=found.by_import.mutants) and found.worth.mutants == len(find_mutants(CODE))
    assert found.by_import.lines == {1, 4, 10, 17}
    assert found.missing_lines == (5, 6, 7, 11, 18, 19, 20)
    assert (found.n_tests, found.n_passed, found.not_run, found.failing) == (0, 0, {}, {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_thing\n", "needs the module no_such_thing"),
        ("from .helpers import x\n", "imports from its own package"),
        ("def test_a(mocker):\n    assert mocker\n", "needs a fixture 'mocker'"),
        ("from pathlib import Path\ndef test_a():\n    assert Path('rows.csv').read_text()\n", "reads rows.csv"),
        ("def test_a(:\n", "does not parse"),
        ("x = 1\n", "holds no tests"),
        ("import os\nos._exit(0)\n", "ends its process"),
        ("import pytest\n@pytest.mark.skip\ndef test_a():\n    assert 1 == 1\n", "skips itself"),
        ("def test_a():\n    assert 1 == 2\ndef test_b():\n    assert 1 == 2\n", "every test: assert 1 == 2"),
        ("async def test_a():\n    assert 1\n", "async"),
        (b"# \xff\n", "UTF-8"),
    ],
)
def test_a_file_that_does_not_run_here_has_its_reason(subject, tmp_path, text, reason):
    path = tmp_path / "test_there.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = baseline(subject, [path])
    assert reason in found.not_run[path] and found.n_passed == 0
    assert found.worth == Worth(mutants=found.by_import.mutants)


def test_a_file_that_never_ends_is_told_as_such(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(existing, "_LIMITS", Limits(wall_s=3.0, cpu_s=3.0, test_s=0.5))
    path = file_of(tmp_path, "test_slow.py", "while True:\n    pass\n")
    assert "takes too long" in baseline(subject, [path]).not_run[path]


def test_a_module_that_cannot_be_imported_says_why(subject):
    found = baseline(Subject("import no_such_thing\n", "broken", subject.root), [])
    assert "needs the module no_such_thing" in found.problem and found.worth == Worth()
    wrong = Subject(CODE, "prices", subject.root, {"conftest.py": "raise ValueError('no database')\n"})
    assert baseline(wrong, []).problem == (
        "the project's conftest.py cannot be loaded here: ValueError: no database"
    )  # fmt: skip


def test_fixtures_of_the_project_are_there(subject, tmp_path):
    conftest = "import pytest\nfrom shop.prices import clamp\n@pytest.fixture\ndef nine():\n    return clamp(9)\n"
    given = Subject(subject.code, subject.module, subject.root, {"conftest.py": conftest})
    text = "def test_a(nine):\n    assert nine == 3\ndef test_b(nine):\n    assert nine\n"
    each = measure_each(given, text)
    assert 6 in each["test_a"].lines and each["test_b"].killed < each["test_a"].killed
    assert measure(subject, text)[1].n_passed == 0
    path = file_of(tmp_path, "test_there.py", text)
    assert baseline(given, [path]).worth == measure(given, text)[0]
