"""Where tasks come from, and what is never one."""

from __future__ import annotations

import ast
import json
from collections import Counter
from dataclasses import replace

import pytest

from lowvram_ft.data.evaluation_code import humaneval_problems
from lowvram_ft.data.prepare import prepare
from lowvram_ft.data.sources.samples import held_out_rows
from lowvram_ft.data.split import group_hash, sides
from lowvram_ft.errors import DataError
from lowvram_ft.execution import Limits, run_tests
from lowvram_ft.preference.tasks import (
    Supply,
    collect_tasks,
    inputs_digest,
    library,
    read_supply,
    refuse_evaluation_tasks,
    supplied,
    write_supply,
)
from lowvram_ft.preference.tasks.pure import unfit, unsteady
from lowvram_ft.preference.tasks.sieve import EVALUATION
from lowvram_ft.preference.tasks.standalone import cut_functions
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import DataSection, PreferenceSection
from tests.planted_duplicates import SAME, rewritten
from tests.unit.test_prepare import CHAT

QUIET = Progress(quiet=True)

FUNCTION = '''def run_lengths(text, least=1):
    """Runs of equal characters that are long enough."""
    found = []
    for letter in text:
        if found and found[-1][0] == letter:
            found[-1][1] += 1
        else:
            found.append([letter, 1])
    return [(letter, n) for letter, n in found if n >= least]
'''
HELPED = '''"""Words."""

import os
import re

from pkg import other

WORD = re.compile(r"[a-z]+")
UNUSED = 3


def _plural(word):
    return word + "s" if WORD.match(word) else word


def plurals(words, least):
    """Plurals of the longer words."""
    found = []
    for word in words:
        if len(word) > least:
            found.append(_plural(word))
    return found


def combined(words, n):
    """Words by the rule of another module."""
    result = []
    for word in words:
        if other.fits(word, n):
            result.append(word.upper())
    return result


def where(name):
    place = os.getcwd()
    if name:
        place += name
    return place
'''
ALONE = HELPED.partition("def combined")[0].replace("from pkg import other\n", "")
OTHER = "def fits(word, n):\n    if n < 0:\n        raise ValueError(n)\n    short = len(word) < n\n    return short\n"
EVALUATION_CODE = '''def scores_of(rows, bonus):
    """Total of each row, those below zero left out."""
    totals = {}
    for name, points in rows:
        totals[name] = totals.get(name, 0) + points
        if points > bonus:
            totals[name] += bonus
    return {name: total for name, total in totals.items() if total >= 0}
'''


@pytest.fixture
def unimported(monkeypatch):
    """Nothing is imported to see whether it can be."""
    monkeypatch.setattr("lowvram_ft.preference.tasks.sieve._import_problem", lambda _: None)


def collected(*tasks, data=None, suites=(), leave_out=(), **settings):
    settings = {"max_tasks": 500, **settings}
    section = PreferenceSection(tasks=tasks, **settings)
    return collect_tasks(section, data or DataSection(), suites, QUIET, leave_out=leave_out)


def repository(folder, **files):
    for name, text in files.items():
        path = folder / f"{name.replace('_in_', '/').replace('package', '__init__')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return f"repository:{folder}"


def function(code) -> ast.FunctionDef:
    (node,) = ast.parse(code).body
    return node


def refused(supply) -> Counter:
    return sum((Counter(facts["refused"]) for facts in supply.facts["sources"].values()), Counter())


def suite_of(path, *codes):
    path.write_text("".join(json.dumps({"task_id": f"t{n}", "code": code}) + "\n" for n, code in enumerate(codes)))
    return f"jsonl:{path}"


# --- functions


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (FUNCTION.replace("run_lengths", "_run"), "is private"),
        (FUNCTION.replace("(text, least=1)", "()"), "has no parameter"),
        (FUNCTION.replace("return [(letter, n)", "found = [(letter, n)"), "gives nothing back"),
        ("def f(a):\n    b = a + 1\n    return b\n", "has fewer than 4 statements and branches"),
        ("def f(a):\n    def g():\n        return a\n    b = 1\n    c = 2\n    g()\n", "gives nothing back"),
        ("def f(a):\n" + "    a += 1\n" * 70 + "    return a\n", "has more than 60 lines"),
        (FUNCTION, None),
        ("def f(a, b):\n    return [x for x in a if x and x != b or a]\n", None),
        ("def f(a):\n    b = 1\n    for c in a:\n        b += c\n        yield b\n", None),
    ],
)
def test_functions_that_a_test_can_pin_down(code, reason):
    assert unfit(function(code)) == reason


@pytest.mark.parametrize(
    "line",
    [
        "import random\nx = random.random()", "import time\nx = time.time()", "import socket", "import subprocess",
        "from datetime import datetime\nx = datetime.now()", "def f(a):\n    return open(a).read()", "x = input()",
        "import sys\nx = sys._getframe()", "import threading", "import ctypes", "def f(a):\n    print(a)",
        "def f(a):\n    global x\n    x = a", "def f(a):\n    return hash(a)", "import os\nx = os.environ['A']",
        "from pathlib import Path\nx = Path('a').read_text()", "def f(a):\n    return id(a)", "x = eval('1')",
    ],
)  # fmt: skip
def test_what_hangs_on_the_world_is_told(line):
    assert unsteady(ast.parse(line)) is not None


def test_a_function_is_cut_with_what_it_needs_and_nothing_else():
    why: Counter[str] = Counter()
    cuts = {cut.name: cut for cut in cut_functions(HELPED, "pkg", why)}
    assert set(cuts) == {"plurals", "combined"}
    plurals = cuts["plurals"]
    assert plurals.alone
    assert "_plural" in plurals.code and "WORD" in plurals.code
    assert not any(word in plurals.code for word in ("UNUSED", "os", "other", "combined"))
    test = "from solution import plurals\n\n\ndef test_it():\n    assert plurals(['ab', 'a'], 1) == ['abs']\n"
    assert run_tests(plurals.code, "solution", test, Limits()).all_passed
    assert not cuts["combined"].alone
    assert HELPED.splitlines()[plurals.line - 1] == "def plurals(words, least):"
    assert why["hangs on time, chance or the machine"] == 1


def test_state_beside_a_function_is_told():
    code = "SEEN = {}\n\n\n" + FUNCTION.replace("    found = []\n", "    found = []\n    SEEN[text] = least\n")
    why: Counter[str] = Counter()
    assert not list(cut_functions(code, "", why))
    assert why == {"keeps state in a global variable": 1}


# --- the standard library and what is installed


@pytest.fixture
def small_library(tmp_path, monkeypatch, own_cache):
    """A standard library of a few files."""
    folder = tmp_path / "lib"
    repository(
        folder, textwrap=ALONE, string=FUNCTION, _private=FUNCTION,
        test_in_test_string=FUNCTION, json_in_package=FUNCTION, nobody=FUNCTION,
    )  # fmt: skip
    monkeypatch.setattr(library, "library_folder", lambda: folder)
    return folder


def test_the_standard_library_gives_public_functions_each_once(small_library):
    supply = collected("standard_library")
    ids = {task.id for task in supply.tasks}
    assert "standard_library/textwrap.plurals" in ids
    assert len(ids & {"standard_library/string.run_lengths", "standard_library/json.run_lengths"}) == 1
    assert len(ids) == 2
    assert refused(supply)["repeats another task"] == 1
    task = next(task for task in supply.tasks if task.id == "standard_library/textwrap.plurals")
    assert (task.source, task.module, task.root) == ("standard_library", "solution", None)
    assert {key: task.meta[key] for key in ("file", "line", "licence")} == {
        "file": "textwrap.py", "line": 15, "licence": "PSF-2.0",
    }  # fmt: skip
    assert task.meta["version"].startswith("3.")


def test_the_library_is_read_once_a_version(small_library, monkeypatch):
    first = collected("standard_library")
    monkeypatch.setattr(library, "_scan", lambda *_: pytest.fail("read again"))
    assert collected("standard_library") == first
    (small_library / "bisect.py").write_text(FUNCTION)
    with pytest.raises(pytest.fail.Exception):
        collected("standard_library")


def test_a_cache_that_is_broken_is_made_anew(small_library, own_cache):
    first = collected("standard_library")
    (place,) = (own_cache / "tasks").iterdir()
    place.write_text("{ no json")
    assert collected("standard_library") == first


def test_functions_of_the_real_library_stand_alone(own_cache, monkeypatch):
    whole = library.standard_library()
    names = {"textwrap.py", "colorsys.py", "statistics.py", "base64.py", "shlex.py", "random.py", "os.py"}
    assert names <= {relative for _, relative in whole.files}
    few = replace(whole, files=tuple(file for file in whole.files if file[1] in names))
    monkeypatch.setattr(library, "standard_library", lambda: few)
    supply = collected("standard_library", max_tasks=12)
    origins = {task.meta["origin"] for task in supply.tasks}
    assert len(supply.tasks) == 12
    assert len(origins) > 2
    assert not origins & {"random", "os"}
    for task in supply.tasks:
        names = {node.name for node in ast.parse(task.code).body if isinstance(node, ast.FunctionDef)}
        assert task.meta["function"] in names


def test_an_installed_package_is_found_by_its_name_or_by_what_is_imported(own_cache):
    for name in ("PyYAML", "yaml", "pyyaml"):
        (package,) = library.installed(name)
        assert (package.name, package.licence, package.source) == ("pyyaml", "MIT", "installed")
    with pytest.raises(DataError, match="installed:no-such-thing: no such package"):
        library.installed("no-such-thing")


def test_of_what_is_installed_the_kit_itself_and_tests_are_left_out():
    packages = {package.name: package for package in library.installed("")}
    assert "lowvram-ft" not in packages and len(packages) > 20
    paths = [relative for package in packages.values() for _, relative in package.files]
    assert not any("/tests/" in path or path.startswith(("test_", "_")) or "sitecustomize" in path for path in paths)


# --- rows


def test_rows_that_are_kept_back_are_no_tasks(unimported):
    data = DataSection(subset="functions", eval_share=0.2, test_share=0.2)
    supply = collected("rows", data=data)
    told = refused(supply)
    assert told["row is kept back (eval)"] > 10 and told["row is kept back (test)"] > 10
    assert not {task.meta["row"] for task in supply.tasks} & {row.id for row in held_out_rows()}


@pytest.mark.parametrize("settings", [{}, {"max_rows": 30}, {"eval_share": 0.0001}])
def test_they_are_the_rows_that_training_reads(tmp_path, settings, unimported):
    data = DataSection(subset="functions", **settings)
    prepared = prepare(data, CHAT, 900, tmp_path / "set")
    trained = {example.row.id for example in prepared.train}
    section = PreferenceSection(max_tasks=500)
    supply = collect_tasks(section, data, (), QUIET, chat=CHAT, max_length=900)
    there = {task.meta["row"] for task in supply.tasks}
    others = sum(count for reason, count in refused(supply).items() if not reason.startswith("row"))
    assert there <= trained
    assert len(trained) - len(there) == others < 0.1 * len(trained) + 1
    assert not {example.row.id for example in prepared.eval} & there


def test_every_subset_has_tasks_and_none_repeats_another(unimported):
    supply = collected("rows")
    parts = Counter(task.meta["row"].partition("/")[0] for task in supply.tasks)
    assert parts["modules"] and parts["traces"] and len(parts) > 4
    assert len({task.digest for task in supply.tasks}) == len(supply.tasks) > 150


# --- the user's own repository


def test_functions_of_a_repository_stand_alone_or_keep_its_folder(tmp_path):
    source = repository(
        tmp_path / "mine", pkg_in_package="from pkg.words import combined\n", pkg_in_words=HELPED, pkg_in_other=OTHER,
        tests_in_test_words=FUNCTION, setup=FUNCTION,
    )  # fmt: skip
    supply = collected(source)
    tasks = {task.meta["function"]: task for task in supply.tasks}
    assert set(tasks) == {"plurals", "combined", "fits"}
    assert tasks["plurals"].root is None
    assert tasks["combined"].root == tmp_path / "mine"
    assert tasks["combined"].id == "repository/mine/pkg/words.py::combined"
    test = "from solution import combined\n\n\ndef test_it():\n    assert combined(['ab', 'abc'], 3) == ['AB']\n"
    one = tasks["combined"]
    assert run_tests(one.code, one.module, test, Limits(), one.root).all_passed


def test_relative_imports_of_a_repository_are_found(tmp_path):
    words = HELPED.replace("from pkg import other", "from . import other")
    supply = collected(repository(tmp_path, pkg_in_package="", pkg_in_words=words, pkg_in_other=OTHER))
    assert "combined" in {task.meta["function"] for task in supply.tasks}


def test_what_cannot_be_imported_is_no_task(tmp_path):
    broken = HELPED.replace("from pkg import other", "from missing_package import other")
    supply = collected(repository(tmp_path, words=broken))
    assert [task.meta["function"] for task in supply.tasks] == ["plurals"]
    assert refused(supply)["cannot be imported"] == 1


# --- never from evaluation


def disguised():
    """Evaluation code as it is, and as it might be met elsewhere."""
    forms = dict(rewritten(EVALUATION_CODE, SAME, 3))
    forms |= {
        "as it is": EVALUATION_CODE,
        "without docstring": EVALUATION_CODE.replace('    """Total of each row, those below zero left out."""\n', ""),
        "one edited line": EVALUATION_CODE.replace("if points > bonus:", "if points * 2 >= len(name):"),
        "inside a module": f"import math\n\n\ndef area(r):\n    return math.pi * r * r\n\n\n{EVALUATION_CODE}",
    }
    return forms


@pytest.mark.parametrize("form", sorted(disguised()))
@pytest.mark.parametrize("place", ["repository", "rows"])
def test_planted_evaluation_code_is_refused(tmp_path, form, place, unimported):
    suite = suite_of(tmp_path / "suite.jsonl", EVALUATION_CODE)
    code = disguised()[form]
    if place == "repository":
        source, data = repository(tmp_path / "mine", mod=code, good=FUNCTION), DataSection()
    else:
        source, path = "rows", tmp_path / "rows.jsonl"
        test = "import solution\n\n\ndef test_it():\n    assert solution\n"
        codes = {"planted": code, "good": FUNCTION, "kept back": OTHER}
        rows = [{"id": name, "code": text, "test": test} for name, text in codes.items()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = DataSection(path=str(path), eval_share=0.3, seed=seed_that_trains_on(codes))
    supply = collected(source, data=data, suites=[suite])
    assert refused(supply)[EVALUATION] == 1
    assert supply.facts["evaluation_tasks"][0].endswith("t0")
    assert refused(collected(source, data=data))[EVALUATION] == 0, "it is the suite that tells"
    refuse_evaluation_tasks(supply.tasks, [suite])


def seed_that_trains_on(codes) -> int:
    """A seed with which all rows but the last are trained on."""
    wanted = [0] * (len(codes) - 1) + [1]
    return next(
        seed for seed in range(1000) if sides([group_hash(n, seed) for n in codes], 0.3, 0.0).tolist() == wanted
    )


def test_the_kits_own_held_out_rows_and_humaneval_are_refused_whatever_the_suites(tmp_path):
    problem = humaneval_problems()[10]
    row = next(row for row in held_out_rows() if "    for " in row.code)
    files = {"a": problem["prompt"] + problem["canonical_solution"], "b": row.code, "good": FUNCTION}
    supply = collected(repository(tmp_path, **files))
    assert [task.meta["function"] for task in supply.tasks] == ["run_lengths"]
    assert refused(supply)[EVALUATION] >= 2


def test_a_function_that_was_cut_out_of_an_evaluation_task_is_refused(tmp_path):
    suite = suite_of(tmp_path / "suite.jsonl", f"{HELPED}\n\n{EVALUATION_CODE}")
    with pytest.raises(DataError, match=EVALUATION):
        collected(repository(tmp_path / "mine", mod=EVALUATION_CODE), suites=[suite])


def test_a_list_of_tasks_with_evaluation_code_is_refused_whoever_wrote_it(tmp_path):
    supply = collected(repository(tmp_path, good=FUNCTION))
    planted = [*supply.tasks, replace(supply.tasks[0], id="planted", code=EVALUATION_CODE)]
    suite = suite_of(tmp_path / "suite.jsonl", EVALUATION_CODE)
    refuse_evaluation_tasks(planted, ())
    with pytest.raises(DataError, match=r"planted: holds an evaluation task.*t0"):
        refuse_evaluation_tasks(planted, [suite])


# --- the draw


def many_functions(count):
    return "\n\n".join(
        f"def f{n}(a):\n    b = {n} + a\n    if b > {n}:\n        b -= {n} ** 2\n    return b\n" for n in range(count)
    )


def test_tasks_are_drawn_by_the_seed_and_held_out_ones_are_never_among_them(tmp_path, unimported):
    source = repository(tmp_path, many=many_functions(60))
    drawn = {seed: collected(source, max_tasks=20, held_out_tasks=10, seed=seed) for seed in (0, 1)}
    assert drawn[0] == collected(source, max_tasks=20, held_out_tasks=10, seed=0)
    for supply in drawn.values():
        assert (len(supply.tasks), len(supply.held_out)) == (20, 10)
        assert not {task.id for task in supply.tasks} & {task.id for task in supply.held_out}
        assert supply.facts["sources"][source]["not_drawn"] == 30
    assert {task.id for task in drawn[0].tasks} != {task.id for task in drawn[1].tasks}
    assert {task.id for task in drawn[0].held_out} != {task.id for task in drawn[1].held_out}


def test_nearly_equal_tasks_are_on_one_side(tmp_path, unimported):
    near = "\n\n".join(
        FUNCTION.replace("run_lengths", f"runs{n}").replace("least=1", f"least={n}").replace("+= 1", f"+= {n}")
        for n in range(12)
    )
    supply = collected(repository(tmp_path, near=near, many=many_functions(12)), max_tasks=14, held_out_tasks=6)
    there, away = ({task.group for task in side} for side in (supply.tasks, supply.held_out))
    assert there and away and not there & away
    assert len({task.group for task in collected(repository(tmp_path, near=near)).tasks}) < 24


def test_few_tasks_are_shared_between_the_two_sides(tmp_path, unimported):
    supply = collected(repository(tmp_path, many=many_functions(9)), max_tasks=20, held_out_tasks=10)
    assert (len(supply.tasks), len(supply.held_out)) == (6, 3)


def test_every_source_has_the_same_share(tmp_path, small_library, unimported):
    first = repository(tmp_path / "a", many=many_functions(40))
    supply = collected(first, "standard_library", max_tasks=12)
    counts = Counter(task.source for task in supply.tasks)
    assert counts == {"repository": 10, "standard_library": 2}, "what one source lacks another one gives"


def test_what_is_to_be_left_out_is(tmp_path, unimported):
    source = repository(tmp_path, many=many_functions(5))
    everything = collected(source).tasks
    left = collected(source, leave_out=[everything[0].id, everything[1].digest])
    assert {task.id for task in left.tasks} == {task.id for task in everything[2:]}


def test_where_no_task_is_left_it_is_said_why(tmp_path):
    source = repository(tmp_path, mod="def f():\n    return 1\n")
    with pytest.raises(DataError, match=r"no task is left \(repository:.*: 1 has no parameter\); name another source"):
        collected(source)
    with pytest.raises(DataError, match="there is no such folder"):
        collected(f"repository:{tmp_path / 'gone'}")


# --- on the disk


def test_a_supply_comes_back_as_it_was_and_an_edited_one_is_noticed(tmp_path):
    supply = collected(
        repository(tmp_path, pkg_in_package="", pkg_in_words=HELPED, pkg_in_other=OTHER), held_out_tasks=1
    )
    path = tmp_path / "tasks.json"
    write_supply(path, supply)
    assert read_supply(path) == supply
    path.write_text(path.read_text().replace("longer words", "shorter words"))
    with pytest.raises(DataError, match="was edited"):
        read_supply(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="delete it"):
        read_supply(path)


def test_a_supply_is_made_once_for_the_same_inputs(tmp_path, monkeypatch, unimported):
    source = repository(tmp_path / "mine", many=many_functions(6))
    path, section = tmp_path / "tasks.json", PreferenceSection(tasks=(source,), max_tasks=4)
    suite = suite_of(tmp_path / "suite.jsonl", EVALUATION_CODE)
    first = supplied(path, section, DataSection(), [suite], QUIET)
    with monkeypatch.context() as patch:
        patch.setattr("lowvram_ft.preference.tasks.collect._find", lambda *_: pytest.fail("found again"))
        assert supplied(path, section, DataSection(), [suite], QUIET) == first
    keys = {inputs_digest(section, DataSection(), [suite])}
    keys.add(inputs_digest(section.model_copy(update={"seed": 1}), DataSection(), [suite]))
    keys.add(inputs_digest(section, DataSection(), []))
    keys.add(inputs_digest(section, DataSection(), [suite], ["x"]))
    keys.add(inputs_digest(section.model_copy(update={"tasks": ("rows", source)}), DataSection(), [suite]))
    suite_of(tmp_path / "suite.jsonl", OTHER)
    keys.add(inputs_digest(section, DataSection(), [suite]))
    (tmp_path / "mine" / "new.py").write_text(FUNCTION)
    keys.add(inputs_digest(section, DataSection(), [suite]))
    assert len(keys) == 7
    again = supplied(path, section, DataSection(), [suite], QUIET)
    assert again.facts["inputs"] != first.facts["inputs"]
    assert read_supply(path) == again


def test_an_empty_supply_can_be_written(tmp_path):
    write_supply(tmp_path / "tasks.json", Supply((), ()))
    assert read_supply(tmp_path / "tasks.json") == Supply((), (), {})
