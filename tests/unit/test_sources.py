"""Rows in the shape of each data set, from files of our own."""

import json

import pytest

from lowvram_ft.data.jsonl import BrokenLines, read_rows
from lowvram_ft.data.objects import raw_objects
from lowvram_ft.data.row import build_prompt
from lowvram_ft.data.sources import SOURCES, load_rows, raw_rows
from lowvram_ft.data.sources.samples import held_out_rows
from lowvram_ft.data.sources.source import LeftOut
from lowvram_ft.errors import DataError
from lowvram_ft.recipe import DataSection

CODE = "def double(n):\n    return 2 * n\n"
TEST = "from solution import double\n\n\ndef test_double():\n    assert double(2) == 4\n"
BARE = "def test_double():\n    assert double(2) == 4\n"


def jsonl(tmp_path, *values):
    path = tmp_path / "rows.jsonl"
    lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def load(tmp_path, source, *values, **settings):
    """The rows of a file, and why others were left out."""
    section = DataSection(source=source, path=str(jsonl(tmp_path, *values)), **settings)
    rows, reasons = [], {}
    for raw in raw_rows(section):
        value, problem = raw.value()
        assert value is not None, problem
        try:
            rows += SOURCES[source].rows(value, raw.where)
        except LeftOut as left_out:
            reasons[left_out.reason] = reasons.get(left_out.reason, 0) + 1
    assert [row.id for row in rows] == [row.id for row in load_rows(section)]
    return rows, reasons


def kodcode(**changes):
    row = {"solution": CODE, "test": TEST, "question_id": "q1", "r1_correctness": "True", "subset": "Leetcode",
           "style": "instruct", "question": "Double a number.", "conversations": [{"value": "x"}]}  # fmt: skip
    return {key: value for key, value in {**row, **changes}.items() if value is not None}


# --- KodCode


@pytest.mark.parametrize("column", ["test", "test_code"])
def test_kodcode_tests_are_read_from_either_column(tmp_path, column):
    value = kodcode(test=None)
    value[column] = TEST
    (row,), _ = load(tmp_path, "kodcode", value)
    assert (row.id, row.group, row.source, row.module) == ("q1", "q1", "kodcode", "solution")
    assert (row.code, row.test) == (CODE, TEST)
    assert row.completion == TEST.strip()
    assert row.prompt == build_prompt(CODE), "the question teaches solving, and is not shown"
    assert row.meta == {"subset": "Leetcode", "style": "instruct"}


@pytest.mark.parametrize(("value", "kept"), [("True", 1), ("False", 0), (True, 1), (False, 0), (None, 1), ("", 0)])
def test_kodcode_rows_that_were_not_solved_are_left_out_though_the_string_false_is_truthy(tmp_path, value, kept):
    rows, reasons = load(tmp_path, "kodcode", kodcode(r1_correctness=value))
    assert len(rows) == kept
    assert reasons == ({} if kept else {"r1_correctness is not True": 1})


def test_kodcode_tests_without_an_import_get_one(tmp_path):
    (row,), _ = load(tmp_path, "kodcode", kodcode(test=BARE))
    assert row.test == TEST


def test_kodcode_rows_that_do_not_parse_are_left_out_and_counted(tmp_path):
    values = [kodcode(solution="def f(:"), kodcode(test="assert ("), kodcode(solution="x = '\0'"), kodcode()]
    rows, reasons = load(tmp_path, "kodcode", *values)
    assert len(rows) == 1
    assert reasons == {"does not parse": 3}


def test_a_missing_column_names_the_line_and_the_columns_that_are_there(tmp_path):
    with pytest.raises(DataError) as caught:
        load(tmp_path, "kodcode", kodcode(), {"code": CODE, "tests": TEST})
    assert str(caught.value) == (
        f"{tmp_path / 'rows.jsonl'}:2: no column solution (columns: code, tests); check data.source, or the file"
    )
    with pytest.raises(DataError, match=r"no column test or test_code \(columns: "):
        load(tmp_path, "kodcode", kodcode(test=None))


@pytest.mark.parametrize("nothing", ["", "  ", 5, [], {}, False])
def test_a_column_without_text_leaves_its_row_out(tmp_path, nothing):
    rows, reasons = load(tmp_path, "kodcode", kodcode(test=nothing), {**kodcode(), "solution": None}, kodcode())
    assert len(rows) == 1
    assert reasons == {"no text in test": 1, "no text in solution": 1}


def test_texts_that_are_too_large_or_no_unicode_leave_their_row_out(tmp_path):
    large = kodcode(solution=CODE + "# x\n" * 200_000)
    broken = json.dumps(kodcode()).replace("double(2)", "double('\\\\ud800')").replace("\\\\ud800", "\\ud800")
    rows, reasons = load(tmp_path, "kodcode", large, broken, kodcode())
    assert len(rows) == 1
    assert reasons == {"solution has more than 400,000 characters": 1, "test is no valid Unicode": 1}


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_become_those_that_python_reads(tmp_path, end):
    value = kodcode(test=TEST.replace("\n", end), solution=CODE.replace("\n", end))
    (row,), _ = load(tmp_path, "kodcode", value)
    assert (row.code, row.test) == (CODE, TEST)


def test_rows_without_an_id_are_told_apart_by_their_code(tmp_path):
    rows, _ = load(tmp_path, "kodcode", kodcode(question_id=None), kodcode(question_id=None, solution=CODE + "x = 1\n"))
    assert len({row.id for row in rows}) == 2


# --- TestGenEval


def testgeneval(**changes):
    test = "from pkg.sub.mod import double\n\n\ndef test_double():\n    assert double(2) == 4\n"
    row = {"code_src": CODE, "test_src": test, "code_file": "pkg/sub/mod.py", "test_file": "tests/test_mod.py",
           "repo": "owner/name", "id": "7", "instance_id": "owner__name-1"}  # fmt: skip
    return {key: value for key, value in {**row, **changes}.items() if value is not None}


testgeneval.__test__ = False


def test_testgeneval_rows_are_keyed_on_id_and_grouped_by_repository(tmp_path):
    rows, _ = load(tmp_path, "testgeneval", testgeneval(), testgeneval(id="8"), testgeneval(id="9", repo="other/name"))
    assert [row.id for row in rows] == ["7", "8", "9"]
    assert [row.group for row in rows] == ["owner/name", "owner/name", "other/name"]
    assert {row.module for row in rows} == {"pkg.sub.mod"}
    assert {row.test for row in rows} == {TEST}
    assert {row.meta["instance_id"] for row in rows} == {"owner__name-1"}


@pytest.mark.parametrize(("file", "module"), [("pkg/__init__.py", "pkg"), ("mod.py", "mod"), ("src/b/c.py", "b.c")])
def test_a_file_of_a_repository_becomes_a_module(tmp_path, file, module):
    test = testgeneval()["test_src"].replace("pkg.sub.mod", module)
    (row,), _ = load(tmp_path, "testgeneval", testgeneval(code_file=file, test_src=test))
    assert (row.module, row.test) == (module, TEST)


def test_testgeneval_files_that_do_not_parse_are_left_out(tmp_path):
    rows, reasons = load(tmp_path, "testgeneval", testgeneval(code_src="print 'two'"), testgeneval())
    assert len(rows) == 1
    assert reasons == {"does not parse": 1}


# --- CodeRM


def coderm(tests, **changes):
    tests = tests if isinstance(tests, str) else json.dumps(tests)
    return {
        "task_id": 12,
        "question": "?",
        "code_ground_truth": CODE,
        "code_generate": "x",
        "unit_tests": tests,
        **changes,
    }


def test_coderm_takes_the_test_with_the_least_false_acceptance_then_rejection(tmp_path):
    tests = [
        {"code": BARE + "# a\n", "FAR": 0.5, "FRR": 0.0},
        {"code": BARE + "# b\n", "FAR": 0.1, "FRR": 0.2},
        {"code": BARE + "# c\n", "FAR": 0.1, "FRR": 0.1},
        {"code": BARE + "# d\n"},
    ]
    (row,), _ = load(tmp_path, "coderm", coderm(tests))
    assert row.test.endswith("# c\n")
    assert (row.id, row.group, row.source, row.meta) == ("12", "12", "coderm", {"FAR": 0.1, "FRR": 0.1})
    assert row.test.startswith(TEST)


@pytest.mark.parametrize(
    "tests", [[], "null", "{}", "5", '"text"', [{"FAR": 0.0}], [3], [{"code": " "}], [{"code": 3}]]
)
def test_coderm_rows_without_a_test_are_left_out(tmp_path, tests):
    assert load(tmp_path, "coderm", coderm(tests)) == ([], {"no unit test": 1})


def test_a_coderm_test_that_is_no_unicode_gives_way_to_the_next(tmp_path):
    tests = [{"code": "x = '\ud800'\n" + TEST, "FAR": 0.0, "FRR": 0.0}, {"code": TEST, "FAR": 0.5, "FRR": 0.0}]
    (row,), _ = load(tmp_path, "coderm", coderm(json.dumps(tests)))
    assert row.test == TEST
    assert load(tmp_path, "coderm", coderm(json.dumps(tests[:1])))[1] == {"code is no valid Unicode": 1}


def test_coderm_tests_may_come_as_a_list_too(tmp_path):
    value = coderm("[]") | {"unit_tests": [{"code": BARE, "FAR": 0, "FRR": 0}]}
    (row,), _ = load(tmp_path, "coderm", value)
    assert row.completion.endswith(BARE.strip())


def test_coderm_tests_that_are_no_json_leave_their_row_out(tmp_path):
    assert load(tmp_path, "coderm", coderm('[{"code": "x')) == ([], {"unit_tests is not JSON": 1})
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no column unit_tests \(columns: code_generate, "):
        load(tmp_path, "coderm", {key: text for key, text in coderm("[]").items() if key != "unit_tests"})


# --- failure traces, samples


def trace(**changes):
    row = {"code": CODE, "failed_test": TEST.replace("4", "5"), "failure_log": "E  assert 4 == 5", "fixed_test": TEST}
    return {**row, **changes}


def test_a_failure_trace_shows_the_failure_and_teaches_the_fix(tmp_path):
    (row,), _ = load(tmp_path, "failure_traces", trace())
    assert row.prompt == build_prompt(CODE, failing=TEST.replace("4", "5"), output="E  assert 4 == 5")
    assert row.completion == TEST.strip()
    assert row.source == "failure_traces"


def test_traces_of_one_code_are_one_group(tmp_path):
    other = trace(fixed_test=TEST + "\n\ndef test_more():\n    assert double(0) == 0\n")
    rows, _ = load(tmp_path, "failure_traces", trace(), other, trace(code=CODE + "# other\n"))
    assert len({row.id for row in rows}) == 3
    assert rows[0].group == rows[1].group != rows[2].group


@pytest.mark.parametrize("column", ["code", "failed_test", "failure_log", "fixed_test"])
def test_a_failure_trace_needs_all_of_its_columns(tmp_path, column):
    assert load(tmp_path, "failure_traces", trace(**{column: ""})) == ([], {f"no text in {column}": 1})
    value = trace()
    del value[column]
    with pytest.raises(DataError, match=f"no column {column}"):
        load(tmp_path, "failure_traces", value)


def test_the_failed_test_goes_with_its_row(tmp_path):
    rows, _ = load(tmp_path, "failure_traces", trace(id="t1"), trace(id="t2", failed_test="assert 0"))
    assert {row.id: row.meta["failed_test"] for row in rows} == {"t1": TEST.replace("4", "5"), "t2": "assert 0"}


def test_the_rows_that_ship_come_whole_or_by_subset():
    sizes = {subset: len(list(load_rows(DataSection(subset=subset)))) for subset in ("functions", "modules", "traces")}
    assert len(list(load_rows(DataSection()))) == sum(sizes.values())
    assert {row.source for row in load_rows(DataSection(subset="traces"))} == {"failure_traces"}


def test_held_out_rows_never_come_with_the_others():
    held_out = {row.id for row in held_out_rows()}
    assert held_out
    assert not held_out & {row.id for row in load_rows(DataSection())}


def test_no_more_objects_are_read_than_asked_for(tmp_path):
    values = [kodcode(r1_correctness="False"), *[kodcode(question_id=f"q{i}") for i in range(5)]]
    rows, reasons = load(tmp_path, "kodcode", *values, max_read=3)
    assert [row.id for row in rows] == ["q0", "q1"]
    assert reasons == {"r1_correctness is not True": 1}


def test_every_source_of_a_recipe_is_there():
    assert set(SOURCES) == set(DataSection.model_fields["source"].annotation.__args__)
    assert {name for name, source in SOURCES.items() if source.hub_id} == {"kodcode", "testgeneval", "coderm"}


@pytest.mark.parametrize("source", ["failure_traces", "repository"])
def test_a_source_without_a_file_or_a_hub_says_what_to_set(source):
    with pytest.raises(DataError, match=rf'comes from a file; set data\.path = "{source}\.jsonl"'):
        next(iter(raw_objects(DataSection(source=source), (), None)))


# --- broken lines


BROKEN = ['{"a": 1}', "", "{oops", "[1]", '{"b": 2}', "null"]


def test_broken_lines_are_fatal_all_at_once_with_their_numbers(tmp_path):
    path = jsonl(tmp_path, *BROKEN)
    read = []
    with pytest.raises(DataError) as caught:
        read.extend(read_rows(path))
    assert str(caught.value) == (
        f"{path}: 3 broken lines: line 3 (not JSON: Expecting property name enclosed in double quotes), "
        "line 4 (a list, not an object), line 6 (a NoneType, not an object); "
        'mend them, or pass over them with data.broken_lines = "skip"'
    )


def test_broken_lines_can_be_passed_over_and_are_reported(tmp_path):
    report = BrokenLines()
    assert list(read_rows(jsonl(tmp_path, *BROKEN), "skip", report)) == [(1, {"a": 1}), (5, {"b": 2})]
    assert [number for number, _ in report.found] == [3, 4, 6]


def test_a_file_without_broken_lines_reports_none(tmp_path):
    report = BrokenLines()
    assert list(read_rows(jsonl(tmp_path, '{"a": 1}'), "fatal", report)) == [(1, {"a": 1})]
    assert report.found == []


def test_many_broken_lines_are_counted_and_the_first_named(tmp_path):
    with pytest.raises(DataError) as caught:
        list(read_rows(jsonl(tmp_path, *["x"] * 9)))
    assert "9 broken lines" in str(caught.value)
    assert "line 5 (" in str(caught.value) and "line 6 (" not in str(caught.value)
    assert "and 4 more" in str(caught.value)


def test_bytes_that_are_no_utf8_and_endless_nesting_are_broken_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": "\xff"}\n' + b"[" * 100_000 + b'\n{"b": 2}\r\n')
    report = BrokenLines()
    assert [number for number, _ in read_rows(path, "skip", report)] == [3]
    assert report.found == [(1, "not UTF-8"), (2, "nested too deep")]


def test_a_missing_file_is_told_as_such(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file; give a JSONL file"):
        list(read_rows(tmp_path / "gone.jsonl"))
