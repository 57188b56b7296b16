"""``lowvram-ft testgen`` on projects: where tests land, that they run, that nothing else changes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

import lowvram_ft.testgen
from lowvram_ft.testgen import write as write_module
from lowvram_ft.testgen.marks import read_mark
from tests.chat_servers import Request, serving
from tests.cli.conftest import Cli
from tests.cli.running import MODULE, environment
from tests.scripted_model import Answer, ByPrompt

CALC = '''\
"""Sums."""


def add(a, b):
    """Add."""
    return a + b


def clamp(n, low, high):
    """Keep n between two limits."""
    if low > high:
        raise ValueError("limits")
    if n < low:
        return low
    if n > high:
        return high
    return n
'''
TEXTS = '''\
from shop.calc import add


def shout(text):
    """Make it loud."""
    return text.upper() + "!" * add(1, 0)
'''
CALC_TESTS = """\
import pytest

from solution import add, clamp


def test_add():
    assert add(2, 3) == 5


def test_clamp():
    assert clamp(5, 1, 3) == 3
    assert clamp(0, 1, 3) == 1
    assert clamp(2, 1, 3) == 2
    assert clamp(1, 1, 3) == 1
    assert clamp(3, 1, 3) == 3


def test_limits():
    with pytest.raises(ValueError):
        clamp(1, 3, 2)
    assert clamp(2, 2, 2) == 2
"""
TEXTS_TESTS = "from solution import shout\n\n\ndef test_shout():\n    assert shout('a') == 'A!'\n"
ANSWERS: dict[str, Answer] = {"def shout": TEXTS_TESTS, "def clamp": CALC_TESTS, "def add": CALC_TESTS}
MODEL = ("--model", "scripted.gguf")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A small git repository in the src layout, with a test that a person wrote."""
    repo = tmp_path
    (repo / "src" / "shop").mkdir(parents=True)
    (repo / "tests").mkdir()
    (repo / "pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1"\n\n[tool.pytest.ini_options]\n'
                                         'testpaths = ["tests"]\npythonpath = ["src"]\n')  # fmt: skip
    (repo / ".gitignore").write_text(".cache/\n__pycache__/\n")
    (repo / "src" / "shop" / "__init__.py").touch()
    (repo / "src" / "shop" / "calc.py").write_text(CALC)
    (repo / "src" / "shop" / "texts.py").write_text(TEXTS)
    (repo / "src" / "shop" / "dates.py").write_text("def leap(year):\n    return year % 4 == 0\n")
    (repo / "tests" / "test_dates.py").write_text(
        "from shop.dates import leap\n\n\ndef test_leap():\n    assert leap(2024)\n    assert not leap(2023)\n"
    )
    git(repo, "init", "-q")
    commit(repo)
    return repo


def git(repo: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=repo, check=True, capture_output=True, text=True)
    return done.stdout


def commit(repo: Path) -> None:
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "state")


def changes(repo: Path) -> list[str]:
    """What differs from the commit, a path each."""
    return sorted(line[3:] for line in git(repo, "status", "--porcelain", "-uall").splitlines())


def own_pytest(repo: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The project's own pytest."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=repo, capture_output=True, text=True, env=env, check=False)


def script(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Answer] = ANSWERS, **more: Any) -> ByPrompt:
    model = ByPrompt(answers, **more)
    monkeypatch.setattr(lowvram_ft.testgen, "open_model", lambda _model, _n_ctx, **_: model)
    monkeypatch.setattr("lowvram_ft.inference.opening.check_file", lambda _choice: None)
    monkeypatch.setenv("XDG_DATA_HOME", str(Path.cwd() / ".cache" / "data"))
    return model


def modules(outcome: Any) -> list[dict[str, Any]]:
    """What ``--json`` says of each module."""
    assert outcome.stderr == "" or outcome.code == 0, outcome.stderr
    return list(json.loads(outcome.stdout)["modules"])


def test_tests_land_where_the_project_keeps_them_and_run_and_a_second_call_changes_nothing(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = script(monkeypatch)
    outcome = here("testgen", "src/shop/calc.py", *MODEL, "-q")
    assert outcome.code == 0, outcome.stderr
    assert changes(shop) == ["tests/test_calc.py"]
    text = (shop / "tests" / "test_calc.py").read_text()
    assert read_mark(text) is not None
    assert "from shop.calc import add, clamp" in text and "solution" not in text
    ran = own_pytest(shop)
    assert ran.returncode == 0, ran.stdout
    assert "wrote tests/test_calc.py" in outcome.stdout
    assert "+def test_clamp():" in outcome.stdout, "the diff is shown"
    assert model.closed == 1
    before, asked = (shop / "tests" / "test_calc.py").stat().st_mtime_ns, len(model.prompts)
    again = here("testgen", "src/shop/calc.py", *MODEL, "-q")
    assert again.code == 0 and "tests/test_calc.py is up to date" in again.stdout
    assert (len(model.prompts), (shop / "tests" / "test_calc.py").stat().st_mtime_ns) == (asked, before)


def test_a_second_call_changes_nothing_where_the_cache_is_gone(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = script(monkeypatch)
    here("testgen", "src/shop/calc.py", *MODEL, "-q")
    text, asked = (shop / "tests" / "test_calc.py").read_text(), len(model.prompts)
    shutil.rmtree(shop / ".cache")
    again = here("testgen", "src/shop/calc.py", *MODEL, "-q")
    assert again.code == 0
    assert (shop / "tests" / "test_calc.py").read_text() == text
    assert len(model.prompts) > asked or "nothing to add" in again.stdout


def test_a_folder_has_each_of_its_modules_tested(here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch)
    found = modules(here("testgen", "src/shop", *MODEL, "-q", "--json"))
    assert [one["source"] for one in found] == ["src/shop/calc.py", "src/shop/dates.py", "src/shop/texts.py"]
    status = {Path(one["source"]).stem: one["status"] for one in found}
    assert status["calc"] == status["texts"] == "written"
    assert changes(shop) == ["tests/test_calc.py", "tests/test_texts.py"]
    assert own_pytest(shop).returncode == 0
    calc = found[0]
    assert calc["lines"]["after"] == calc["lines"]["of"] > calc["lines"]["before"]
    assert 0 < calc["mutants"]["after"] <= calc["mutants"]["of"]
    assert {kept["name"] for kept in calc["kept"]} <= {"test_add", "test_clamp", "test_limits"}


def test_tests_that_reach_a_module_through_a_fixture_are_where_we_begin(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shop / "tests" / "conftest.py").write_text(
        "import pytest\nfrom shop import calc\n\n\n@pytest.fixture\ndef plus():\n    return calc.add\n"
    )
    (shop / "tests" / "test_calc.py").write_text("def test_plus(plus):\n    assert plus(2, 3) == 5\n")
    commit(shop)
    script(monkeypatch)
    [found] = modules(here("testgen", "src/shop/calc.py", *MODEL, "-q", "--json"))
    assert found["existing"] == [1, 1]
    assert found["lines"]["before"] > 2, "what the test reaches counts, not only the definitions"
    assert found["mutants"]["before"] > 0
    assert changes(shop) == ["tests/test_calc_generated.py"]
    assert "test_add" not in {kept["name"] for kept in found["kept"]}, "it adds nothing to what is there"
    assert own_pytest(shop).returncode == 0


def test_of_one_function_only_that_is_asked_for(here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = script(
        monkeypatch, {"def add": "from solution import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n"}
    )
    found = modules(here("testgen", "src/shop/calc.py::add", *MODEL, "-q", "--json"))
    assert all("clamp" not in prompt for prompt in model.prompts)
    assert found[0]["lines"]["of"] < 5
    assert changes(shop) == ["tests/test_calc.py"]
    more = script(monkeypatch, {"def clamp": CALC_TESTS.replace("add, clamp", "clamp").replace(
        "def test_add():\n    assert add(2, 3) == 5\n\n\n", "")})  # fmt: skip
    here("testgen", "src/shop/calc.py::clamp", *MODEL, "-q")
    text = (shop / "tests" / "test_calc.py").read_text()
    assert more.prompts and "def test_add" in text and "def test_clamp" in text, "what was there stays"
    assert own_pytest(shop).returncode == 0


def test_of_changed_code_only_what_changed_is_asked_for(here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = script(monkeypatch)
    nothing = here("testgen", "--changed", *MODEL, "-q")
    assert (nothing.code, none.prompts) == (0, [])
    assert "nothing changed" in nothing.stdout
    path = shop / "src" / "shop" / "calc.py"
    path.write_text(CALC.replace("        return low\n", "        n = low\n        return n\n"))
    model = script(monkeypatch)
    found = modules(here("testgen", "--changed", *MODEL, "-q", "--json"))
    assert [one["source"] for one in found] == ["src/shop/calc.py"]
    assert model.prompts and found[0]["lines"]["of"] <= 4
    assert changes(shop) == ["src/shop/calc.py", "tests/test_calc.py"]
    assert own_pytest(shop).returncode == 0


def test_what_a_person_wrote_or_edited_is_never_touched(here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = "def test_mine():\n    from shop.calc import add\n    assert add(0, 0) == 0\n"
    (shop / "tests" / "test_calc.py").write_text(mine)
    commit(shop)
    script(monkeypatch)
    assert here("testgen", "src/shop/calc.py", *MODEL, "-q").code == 0
    assert changes(shop) == ["tests/test_calc_generated.py"]
    ours = shop / "tests" / "test_calc_generated.py"
    edited = ours.read_text() + "\n\ndef test_by_hand():\n    assert True\n"
    ours.write_text(edited)
    refused = here("testgen", "src/shop/calc.py", *MODEL, "-q", "--again")
    assert refused.code == 2 and "give another place with --out" in refused.stderr
    assert ours.read_text() == edited and (shop / "tests" / "test_calc.py").read_text() == mine
    other = here("testgen", "src/shop/calc.py", *MODEL, "-q", "--out", "tests/test_more.py")
    assert other.code == 0
    assert ours.read_text() == edited
    taken = here("testgen", "src/shop/calc.py", *MODEL, "-q", "--out", "tests/test_dates.py")
    assert taken.code == 2 and "exists already, and is not touched" in taken.stderr


def test_a_dry_run_shows_the_diff_and_writes_nothing(here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, {"def clamp": [CALC_TESTS.replace("import pytest\n", ""), CALC_TESTS]})
    outcome = here("testgen", "src/shop/calc.py", *MODEL, "-q", "--dry-run")
    assert outcome.code == 0 and "would write tests/test_calc.py" in outcome.stdout
    patch = outcome.stdout[outcome.stdout.index("--- /dev/null") :]
    assert changes(shop) == []
    assert not (shop / ".cache" / "data").exists(), "no trace either"
    subprocess.run(["git", "apply", "-"], cwd=shop, input=patch, text=True, check=True)
    assert own_pytest(shop).returncode == 0


def test_a_failure_is_mended_and_its_trace_is_what_stage_c_reads(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = script(monkeypatch, {"def clamp": [CALC_TESTS.replace("import pytest\n\n", ""), CALC_TESTS]})
    outcome = here("testgen", "src/shop/calc.py", *MODEL, "-q")
    assert outcome.code == 0
    first, second = model.prompts[:2]
    assert "### Failing test:" not in first
    assert "### Failing test:\nfrom solution import add, clamp" in second
    assert "### Pytest output:" in second and "NameError" in second
    traces = shop / ".cache" / "data" / "lowvram-ft" / "traces.jsonl"
    assert str(traces) in outcome.stdout
    records = [json.loads(line) for line in traces.read_text().splitlines()]
    columns = {"code", "failed_test", "failure_log", "fixed_test"}
    assert [set(record) for record in records] == [columns | {"repository", "root", "module", "time"}]
    assert own_pytest(shop).returncode == 0
    again = script(monkeypatch)
    here("testgen", "src/shop/texts.py", *MODEL, "-q", "--no-traces")
    assert again.prompts and len(traces.read_text().splitlines()) == 1


def test_a_real_bug_is_reported_and_no_test_is_bent_to_it(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shop / "src" / "shop" / "calc.py"
    path.write_text(CALC.replace("    return a + b", "    return a - b"))
    bent = CALC_TESTS.replace("add(2, 3) == 5", "add(2, 3) == -1")
    script(monkeypatch, {"def clamp": [CALC_TESTS, bent]})
    outcome = here("testgen", "src/shop/calc.py", *MODEL, "-q")
    assert outcome.code == 0
    assert "possible bug in src/shop/calc.py, or a wrong test: test_add" in outcome.stdout
    assert "assert add(2, 3) == 5" in outcome.stdout
    text = (shop / "tests" / "test_calc.py").read_text()
    assert "== -1" not in text and "test_add" not in text and "test_clamp" in text
    found = modules(here("testgen", "src/shop/calc.py", *MODEL, "-q", "--json"))
    assert [one["test"] for one in found[0]["contradictions"]] == ["test_add"], "told again by the second call"


def test_a_test_of_ours_that_fails_since_the_code_changed_stays_and_is_reported(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch)
    here("testgen", "src/shop/calc.py", *MODEL, "-q")
    text = (shop / "tests" / "test_calc.py").read_text()
    path = shop / "src" / "shop" / "calc.py"
    path.write_text(CALC.replace("    return a + b", "    return a - b"))
    script(monkeypatch, {})
    found = modules(here("testgen", "src/shop/calc.py", *MODEL, "-q", "--json"))[0]
    assert [one["test"] for one in found["contradictions"]] == ["test_add"]
    assert "it passed when it was written, and the code has changed" in found["contradictions"][0]["message"]
    assert (shop / "tests" / "test_calc.py").read_text() == text
    assert own_pytest(shop).returncode == 1
    double = "from solution import twice\n\n\ndef test_twice():\n    assert twice(4) == 8\n"
    path.write_text(path.read_text() + "\n\ndef twice(n):\n    return 2 * n\n")
    script(monkeypatch, {"def twice": double})
    found = modules(here("testgen", "src/shop/calc.py", *MODEL, "-q", "--json"))[0]
    after = (shop / "tests" / "test_calc.py").read_text()
    assert found["status"] == "written" and "def test_twice" in after
    assert "def test_add" in after, "what fails is not taken away"
    assert [one["test"] for one in found["contradictions"]] == ["test_add"]


@pytest.mark.parametrize("option", ["--only-uncovered", "--kill-survivors"])
def test_only_what_the_tests_that_are_there_leave_open_is_kept(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    person = (
        "from shop.calc import add, clamp\n\n\ndef test_add():\n    assert add(2, 3) == 5\n\n\n"
        "def test_x():\n    assert clamp(5, 1, 3) == 3\n    assert clamp(0, 1, 3) == 1\n"
        "    assert clamp(2, 1, 3) == 2\n"
    )
    (shop / "tests" / "test_calc.py").write_text(person)
    commit(shop)
    script(monkeypatch)
    found = modules(here("testgen", "src/shop/calc.py", *MODEL, "-q", "--json", option))[0]
    assert found["existing"] == [2, 2]
    assert changes(shop) == ["tests/test_calc_generated.py"]
    names = [kept["name"] for kept in found["kept"]]
    assert names == ["test_limits"] if option == "--only-uncovered" else "test_add" not in names
    gained = found["lines"] if option == "--only-uncovered" else found["mutants"]
    assert gained["after"] > gained["before"] > 0
    assert own_pytest(shop).returncode == 0


def test_where_nothing_is_left_the_model_is_not_even_opened(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shop / "tests" / "test_calc.py").write_text(CALC_TESTS.replace("solution", "shop.calc"))
    model = script(monkeypatch)
    found = modules(here("testgen", "src/shop/calc.py", *MODEL, "-q", "--json", "--only-uncovered"))[0]
    assert (found["status"], model.prompts, model.closed) == ("nothing to add", [], 0)


def test_fixtures_of_the_projects_conftest_work_and_are_shown(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shop / "tests" / "conftest.py").write_text(
        "import pytest\n\nfrom shop.calc import add\n\n\n@pytest.fixture\ndef three():\n    return add(1, 2)\n"
    )
    answer = "from solution import shout\n\n\ndef test_shout(three):\n    assert shout('a' * three) == 'AAA!'\n"
    model = script(monkeypatch, {"def shout": answer})
    assert here("testgen", "src/shop/texts.py", *MODEL, "-q").code == 0
    assert "def test_shout(three)" in (shop / "tests" / "test_texts.py").read_text()
    assert "### Existing tests:" in model.prompts[0] and "def three():" in model.prompts[0]
    assert own_pytest(shop).returncode == 0


def test_a_file_is_written_as_the_projects_own_tests_are(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shop / "tests" / "test_dates.py").write_text(
        "from shop import dates\n\n\nclass TestLeap:\n    def test_leap(self):\n"
        "        assert dates.leap(2024), 'a leap year'\n        assert not dates.leap(2023), 'none'\n"
    )
    script(monkeypatch, {"def shout": TEXTS_TESTS.replace("'", '"')})
    assert here("testgen", "src/shop/texts.py", *MODEL, "-q").code == 0
    text = (shop / "tests" / "test_texts.py").read_text().partition("\n")[2]
    assert text == (
        "from shop import texts\n\n\nclass TestTexts:\n    def test_shout(self):\n"
        "        assert texts.shout('a') == 'A!'\n"
    )
    assert own_pytest(shop).returncode == 0


def test_a_module_that_cannot_be_imported_is_told_and_takes_no_other_with_it(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shop / "src" / "shop" / "broken.py").write_text("import no_such_package\n\n\ndef f():\n    return 1\n")
    model = script(monkeypatch)
    alone = here("testgen", "src/shop/broken.py", *MODEL, "-q")
    assert alone.code == 2 and model.prompts == []
    assert "src/shop/broken.py: cannot be imported as shop.broken" in alone.stderr
    assert "no_such_package" in alone.stderr
    both = here("testgen", "src/shop/broken.py", "src/shop/texts.py", *MODEL, "-q")
    assert both.code == 0 and "cannot be imported" in both.stdout
    assert changes(shop) == ["src/shop/broken.py", "tests/test_texts.py"]


def test_where_no_test_passes_nothing_is_written(here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = script(monkeypatch, {})
    outcome = here("testgen", "src/shop/texts.py", *MODEL, "-q", "--samples", "1")
    assert outcome.code == 1
    assert "no generated test passes after" in outcome.stdout
    assert changes(shop) == [] and model.prompts


def test_modules_of_one_name_get_files_of_their_own(here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("north", "south"):
        (shop / "src" / package).mkdir()
        (shop / "src" / package / "__init__.py").touch()
        (shop / "src" / package / "rates.py").write_text(f"def {package}_rate(n):\n    return n + {len(package)}\n")
    (shop / "src" / "north" / "run-me.py").write_text("def f():\n    return 1\n")
    script(monkeypatch, {f"def {name}_rate": f"from solution import {name}_rate\n\n\ndef test_rate():\n"
                         f"    assert {name}_rate(1) == 6\n" for name in ("north", "south")})  # fmt: skip
    found = modules(here("testgen", "src/north", "src/south", *MODEL, "-q", "--json"))
    assert [one["status"] for one in found] == ["written", "written"], "what has no name to import is passed over"
    assert len({one["test_file"] for one in found}) == 2
    assert own_pytest(shop).returncode == 0


@pytest.mark.parametrize(
    ("line", "call", "kept"),
    [
        ("import os, solution", "solution.shout('a')", True),
        ("import pytest, solution as s", "s.shout('a')", True),
        ("from solution import(shout)", "shout('a')", True),
        ("import importlib\n\nshout = importlib.import_module('solution').shout", "shout('a')", False),
    ],
)
def test_no_file_needs_the_name_that_only_the_model_knows(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch, line: str, call: str, kept: bool
) -> None:
    script(monkeypatch, {"def shout": f"{line}\n\n\ndef test_shout():\n    assert {call} == 'A!'\n"})
    found = modules(here("testgen", "src/shop/texts.py", *MODEL, "-q", "--json", "--samples", "0"))[0]
    assert bool(found["kept"]) is kept
    assert own_pytest(shop).returncode == 0
    if not kept:
        assert "an answer needs a module named solution, which your project has not" in found["dropped"][-1]["reason"]


@pytest.mark.parametrize("out", ["tests/conftest.py", "tests/__init__.py", "notes.txt", "tests/x"])
def test_a_place_that_pytest_does_not_look_at_is_refused(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    model = script(monkeypatch)
    outcome = here("testgen", "src/shop/calc.py", *MODEL, "-q", "--out", out)
    problem = f"error: {out}: is no place for tests; name a file such as test_calc.py\n"
    assert (outcome.code, outcome.stderr) == (2, problem)
    assert (model.prompts, changes(shop)) == ([], [])


def test_where_the_cache_and_the_traces_cannot_be_written_the_tests_are(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, {"def clamp": [CALC_TESTS.replace("import pytest\n\n", ""), CALC_TESTS]})
    (shop / ".cache").mkdir(exist_ok=True)
    (shop / ".cache" / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(shop / ".cache" / "file" / "below"))
    monkeypatch.setattr("lowvram_ft.testgen.journal.cache_dir", lambda: shop / ".cache" / "file")
    found = modules(here("testgen", "src/shop/calc.py", *MODEL, "-q", "--json"))[0]
    assert changes(shop) == ["tests/test_calc.py"] and found["status"] == "written"
    assert ["not kept for the next call" in note for note in found["notes"]].count(True) == 1
    assert ["nothing is kept for training" in note for note in found["notes"]].count(True) == 1


def test_a_link_stays_a_link(here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, {"def add": "from solution import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n"})
    here("testgen", "src/shop/calc.py::add", *MODEL, "-q")
    path, real = shop / "tests" / "test_calc.py", shop / "tests" / "kept.txt"
    path.rename(real)
    path.symlink_to("kept.txt")
    script(monkeypatch)
    assert here("testgen", "src/shop/calc.py::clamp", *MODEL, "-q").code == 0
    assert path.is_symlink() and "def test_clamp" in real.read_text()


def test_a_coroutine_without_a_plugin_is_a_broken_test_and_no_bug(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = "from solution import shout\n\n\nasync def test_a():\n    assert shout('a') == 'A!'\n"
    script(monkeypatch, {"def shout": [answer, TEXTS_TESTS]})
    found = modules(here("testgen", "src/shop/texts.py", *MODEL, "-q", "--json"))[0]
    assert found["contradictions"] == [] and found["status"] == "written"


@pytest.mark.parametrize("places", [("src/shop/calc.py", "src/shop/texts.py")])
def test_interrupted_between_any_two_steps_the_tree_is_as_it_was_and_the_next_call_goes_on(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch, places: tuple[str, ...]
) -> None:
    def interrupt_at(limit: int):
        def on_prompt(number: int) -> None:
            if number == limit:
                raise KeyboardInterrupt

        return on_prompt

    steps = script(monkeypatch)
    here("testgen", *places, *MODEL, "-q", "--dry-run")
    total = len(steps.prompts)
    assert total >= 2
    shutil.rmtree(shop / ".cache")
    for limit in range(1, total + 1):
        model = script(monkeypatch, on_prompt=interrupt_at(limit))
        stopped = here("testgen", *places, *MODEL, "-q", "--again")
        assert (stopped.code, changes(shop), model.closed) == (130, [], 1)
    last = script(monkeypatch)
    assert here("testgen", *places, *MODEL, "-q").code == 0
    assert changes(shop) == ["tests/test_calc.py", "tests/test_texts.py"]
    assert not any("def clamp" in prompt for prompt in last.prompts), "the first module was done already"


@pytest.mark.parametrize("step", ["write_for_module", "place_files"])
def test_interrupted_in_a_step_the_tree_is_as_it_was(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    script(monkeypatch)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write_module, step, interrupted)
        assert here("testgen", "src/shop/calc.py", *MODEL, "-q").code == 130
    assert changes(shop) == []
    assert here("testgen", "src/shop/calc.py", *MODEL, "-q").code == 0
    assert changes(shop) == ["tests/test_calc.py"]


def test_interrupted_after_the_files_were_placed_the_tree_has_them(
    here: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(write_module, "append_traces", interrupted)
    assert here("testgen", "src/shop/calc.py", *MODEL, "-q").code == 130
    assert changes(shop) == ["tests/test_calc.py"]
    assert own_pytest(shop).returncode == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("at", [1, 2])
def test_a_signal_at_an_answer_leaves_the_tree_as_it_was(shop: Path, number: int, code: int, at: int) -> None:
    processes: list[subprocess.Popen[str]] = []
    answered: list[int] = []

    def answer(request: Request) -> None:
        prompt = request.body["messages"][0]["content"]
        answered.append(1)
        if len(answered) == at:
            processes[0].send_signal(number)
            return
        request.says(TEXTS_TESTS if "def shout" in prompt else CALC_TESTS)

    with serving(answer) as server:
        command = [*MODULE, "testgen", "src/shop/calc.py", "src/shop/texts.py", "--model", server.url, "-q"]
        env = environment(shop / ".cache", XDG_DATA_HOME=str(shop / ".cache" / "data"))
        processes.append(subprocess.Popen(command, cwd=shop, env=env, stderr=subprocess.PIPE, text=True))
        _, errors = processes[0].communicate(timeout=120)
    assert (processes[0].returncode, errors) == (
        code, "\nstopped; nothing is half-written: run the same command again\n",
    )  # fmt: skip
    assert changes(shop) == []


PACKAGING_TESTS = {
    "def canonicalize_name": """\
import pytest

from solution import InvalidName, canonicalize_name, is_normalized_name


def test_canonicalize_name():
    assert canonicalize_name("Foo_Bar.baz--qux") == "foo-bar-baz-qux"


def test_is_normalized_name():
    assert is_normalized_name("foo-bar")
    assert not is_normalized_name("Foo")


def test_an_invalid_name():
    with pytest.raises(InvalidName):
        canonicalize_name("-x", validate=True)
""",
    "class Version": """\
import pytest

from solution import InvalidVersion, Version, parse


def test_order():
    assert parse("1.0a1") < parse("1.0") < parse("1.0.post1") < parse("2")


def test_parts():
    version = Version("1!2.3.4rc1+local.5")
    assert (version.epoch, version.release, version.pre, version.local) == (1, (2, 3, 4), ("rc", 1), "local.5")
    assert version.is_prerelease


def test_invalid():
    with pytest.raises(InvalidVersion):
        Version("one")
""",
    "class Requirement": """\
import pytest

from solution import InvalidRequirement, Requirement


def test_parts():
    found = Requirement("name[extra] >= 1.0 ; python_version > '3'")
    assert (found.name, found.extras, str(found.specifier)) == ("name", {"extra"}, ">=1.0")
    assert found.url is None and found.marker is not None


def test_text():
    assert str(Requirement("a[c,b]>=1")) == "a[b,c]>=1"
    assert Requirement("a") == Requirement("a") and Requirement("a") != Requirement("b")


def test_invalid():
    with pytest.raises(InvalidRequirement):
        Requirement("1 2")
""",
}  # fmt: skip


def test_three_modules_of_an_installed_package(here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the sources of ``packaging``, as they lie in its own repository."""
    source = Path(str(distribution("packaging").locate_file("packaging")))
    shutil.copytree(source, tmp_path / "src" / "packaging", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "packaging"\nversion = "0"\n'
                                             '[tool.pytest.ini_options]\npythonpath = ["src"]\n')  # fmt: skip
    (tmp_path / ".gitignore").write_text(".cache/\n__pycache__/\n")
    git(tmp_path, "init", "-q")
    commit(tmp_path)

    def answer(prompt: str) -> str:
        return next((text for phrase, text in PACKAGING_TESTS.items() if phrase in prompt), "I do not know.")

    script(monkeypatch, {"### Code Under Test:": answer})
    names = ("utils", "version", "requirements")
    places = [f"src/packaging/{name}.py" for name in names]
    found = modules(here("testgen", *places, *MODEL, "-q", "--json", "--samples", "0", "--refine", "0"))
    assert [one["status"] for one in found] == ["written"] * 3, [one["notes"] for one in found]
    assert changes(tmp_path) == sorted(f"tests/test_{name.strip('_')}.py" for name in names)
    assert all(one["lines"]["after"] > one["lines"]["before"] for one in found)
    ran = own_pytest(tmp_path, "tests")
    assert ran.returncode == 0, ran.stdout
    texts = [path.read_text() for path in sorted((tmp_path / "tests").glob("test_*.py"))]
    again = modules(here("testgen", *places, *MODEL, "-q", "--json", "--samples", "0", "--refine", "0"))
    assert [one["status"] for one in again] == ["unchanged"] * 3
    assert [path.read_text() for path in sorted((tmp_path / "tests").glob("test_*.py"))] == texts
