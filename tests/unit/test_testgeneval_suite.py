"""The suite ``testgeneval``: its rows, what is run inside a checkout, and what is judged by its text alone."""

import json
import re
import subprocess
from io import StringIO

import pytest
from rich.console import Console

from lowvram_ft.data.evaluation_code import evaluation_tasks
from lowvram_ft.errors import DataError, MachineError
from lowvram_ft.evaluation.evaluate import evaluate, gates
from lowvram_ft.evaluation.static import read_text, summarize_static
from lowvram_ft.evaluation.suites import load_suite, load_suites
from lowvram_ft.inference import Completion
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import DataSection, EvalSection
from lowvram_ft.report.table import print_suites
from lowvram_ft.run_dir import read_jsonl

PRICES = """from .rates import RATE


def gross(net):
    if net < 0:
        raise ValueError(net)
    return net + RATE
"""
LOST = "import a_module_that_nobody_has\n\n\ndef lost():\n    return 1\n"
ROW = {
    "repo": "acme/shop", "code_file": "src/shop/prices.py", "test_file": "tests/test_prices.py", "code_src": PRICES,
    "test_src": "def test_x(): pass", "instance_id": "acme__shop-1", "id": "1",
}  # fmt: skip
TEST = (
    "import pytest\n\nfrom solution import gross\n\n\ndef test_gross():\n    assert gross(1) == 8\n\n\n"
    "def test_refused():\n    with pytest.raises(ValueError):\n        gross(-1)\n"
)


def jsonl(tmp_path, *rows):
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def repos(tmp_path):
    package = tmp_path / "repos" / "acme__shop" / "src" / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "rates.py").write_text("RATE = 7\n")
    (package / "prices.py").write_text("def gross(net): return 'as it was before'\n")
    return tmp_path / "repos"


class Says:
    name = "says"

    def __init__(self, answer: str = TEST) -> None:
        self.answer = answer

    def generate(self, prompts, sampling, n=1):
        return [[Completion(self.answer, 1, 1, "stop", 1.0, 0.1)] * n for _ in prompts]

    def close(self) -> None:
        pass


def run(tmp_path, tasks, answer=TEST):
    samples = tmp_path / "samples.jsonl"
    found = evaluate(lambda: Says(answer), tasks, EvalSection(), samples, "eval", Progress(quiet=True))
    return found, list(read_jsonl(samples))


# --- rows


def test_rows_are_keyed_on_id_since_instance_ids_repeat(tmp_path):
    path = jsonl(tmp_path, ROW, ROW | {"id": "2"}, ROW | {"id": "", "code_src": "x = 1"})
    tasks = load_suite(f"testgeneval:{path}")
    assert [task.id for task in tasks][:2] == ["1", "2"]
    assert len({task.id for task in tasks}) == 3
    assert {task.module for task in tasks} == {"shop.prices"}
    assert [task.id for task in load_suite(f"testgeneval:{path}", 1)] == ["1"]
    with pytest.raises(DataError, match=r"dev\.jsonl:2: id 1 is there twice"):
        load_suite(f"testgeneval:{jsonl(tmp_path, ROW, ROW)}")


def test_unittest_style_and_stubs_are_no_hindrance(tmp_path):
    odd = ROW | {"id": "2", "test_src": "import unittest\nclass T(unittest.TestCase):\n    def runTest(self): ..."}
    stubs = [ROW | {"id": "3", "code_src": ""}, ROW | {"id": "4", "code_src": "{% template %}"}]
    assert [task.id for task in load_suite(f"testgeneval:{jsonl(tmp_path, ROW, odd, *stubs)}")] == ["1", "2"]


def test_a_row_of_another_shape_says_where(tmp_path):
    with pytest.raises(DataError, match=r"dev\.jsonl:1: no column code_src \(columns: text\)"):
        load_suite(f"testgeneval:{jsonl(tmp_path, {'text': 'x'})}")
    with pytest.raises(DataError, match="no such file"):
        load_suite("testgeneval:gone.jsonl")


def hub_folder(tmp_path, **splits):
    folder = tmp_path / "hub"
    folder.mkdir()
    for split, row in splits.items():
        (folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    files = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n")
    return folder


def test_a_folder_in_the_hubs_layout_gives_its_dev_split_alone(tmp_path):
    rows = {split: ROW | {"id": split, "code_src": f"def {split}(): return 1"} for split in ("train", "dev", "test")}
    folder = hub_folder(tmp_path, **rows)
    assert [task.id for task in load_suite(f"testgeneval:{folder}")] == ["dev"]


def test_a_folder_without_a_dev_split_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no split dev \(splits: train\)"):
        load_suite(f"testgeneval:{hub_folder(tmp_path, train=ROW)}")


def test_without_a_network_the_hub_is_told_in_one_line(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(MachineError, match=r"kjain14/testgeneval: cannot be loaded"):
        load_suite("testgeneval")


def test_what_is_evaluated_on_never_reaches_training(tmp_path):
    with pytest.raises(ValueError, match="must never reach training"):
        DataSection(source="testgeneval", split="dev")
    path = jsonl(tmp_path, ROW)
    for source in ("samples", "testgeneval"):
        section = DataSection(source=source, path="x.jsonl" if source == "testgeneval" else None)
        tasks, _ = evaluation_tasks(section, (f"testgeneval:{path}",))
        assert ("testgeneval dev 1", PRICES) in tasks


# --- what is run, and what is not


def test_without_repositories_nothing_is_run_and_it_says_so(tmp_path):
    tasks = load_suite(f"testgeneval:{jsonl(tmp_path, ROW)}")
    assert [(task.suite.rpartition(" ")[2], task.root) for task in tasks] == [("(static)", None)]
    found, (record,) = run(tmp_path, tasks)
    assert (record["scores"], record["verdict"], record["mutants"]) == (None, None, None)
    assert record["not_executed"] == "needs its repository; give --repos"
    (means,) = found["suites"].values()
    assert means == {
        "static": True, "tasks": 1, "samples_per_task": 1, "parses": 1.0, "writes_tests": 1.0,
        "assertions_per_test": 1.0, "tests": 2,
    }  # fmt: skip
    assert gates(found, EvalSection()) == []


def test_inside_a_checkout_tests_are_run_against_the_code_of_the_row(tmp_path, repos):
    path = jsonl(tmp_path, ROW, ROW | {"id": "2", "repo": "acme/other"})
    tasks = load_suites(EvalSection(suites=(f"testgeneval:{path}",), repos=str(repos)))
    found, (ran, static) = run(tmp_path, tasks)
    assert ran["scores"]["passes"] and ran["scores"]["line_coverage"] == 1 and ran["scores"]["mutation_score"] > 0.5
    assert static["not_executed"] == f"no checkout of acme/other in {repos}"
    assert {suite: means["tasks"] for suite, means in found["suites"].items()} == {
        f"testgeneval:{path}": 1,
        f"testgeneval:{path} (static)": 1,
    }
    assert [gate["suite"] for gate in gates(found, EvalSection())] == [f"testgeneval:{path}"] * 2


def test_a_test_that_fails_in_a_checkout_scores_what_it_deserves(tmp_path, repos):
    tasks = load_suite(f"testgeneval:{jsonl(tmp_path, ROW)}", repos=repos)
    _, (record,) = run(tmp_path, tasks, "from solution import gross\n\n\ndef test_x():\n    assert gross(1) == 2\n")
    assert not record["scores"]["passes"]


def test_a_module_whose_dependencies_are_missing_is_not_counted_against_the_model(tmp_path, repos):
    row = ROW | {"code_src": LOST, "code_file": "src/shop/lost.py"}
    found, (record,) = run(tmp_path, load_suite(f"testgeneval:{jsonl(tmp_path, row)}", repos=repos))
    assert record["scores"] is None
    assert record["not_executed"] == (
        "shop.lost cannot be imported here: ModuleNotFoundError: No module named 'a_module_that_nobody_has'"
    )
    assert all(means["static"] for means in found["suites"].values())


def test_a_checkout_at_another_commit_is_not_run(tmp_path, repos):
    folder = repos / "acme__shop"
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    (task,) = load_suite(f"testgeneval:{jsonl(tmp_path, ROW | {'base_commit': '0' * 40})}", repos=repos)
    assert task.root is None and "and not at 000000000000" in task.not_executed


# --- static facts


@pytest.mark.parametrize(
    ("test", "facts"),
    [
        (TEST, (True, True, 2, 2)),
        ("def test_x(:\n", (False, False, 0, 0)),
        ("def test_x():\n    pass\n", (True, False, 1, 0)),
        ("", (True, False, 0, 0)),
    ],
)
def test_the_text_of_a_file_tells_whether_it_asserts(test, facts):
    assert tuple(read_text(test).values()) == facts


def test_static_means_weigh_every_task_the_same():
    def record(task, test):
        return {"suite": "s", "task": task, "static": read_text(test)}

    found = summarize_static([record("a", TEST), record("a", ""), record("b", "def test_x(:")])["s"]
    assert (found["parses"], found["writes_tests"], found["tests"]) == (0.5, 0.25, 2)
    assert (found["tasks"], found["samples_per_task"], found["assertions_per_test"]) == (2, 1, 0.25)


def test_a_static_suite_is_shown_without_any_rate_that_needs_a_run(tmp_path):
    found, _ = run(tmp_path, load_suite(f"testgeneval:{jsonl(tmp_path, ROW)}"))
    console = Console(width=200, record=True, file=StringIO())
    print_suites({**found, "samples": "x"}, console)
    text = " ".join(console.export_text().split())
    assert "(static): 1 tasks, read and not run" in text
    assert re.search(r"writes tests +100\.0 %", text) and re.search(r"tests passing / all +– / 2", text)
    for rate in ("whole files passing", "mutation", "coverage", "Pass@1"):
        assert rate not in text
