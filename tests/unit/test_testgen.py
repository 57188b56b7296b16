"""Writing tests for a user's file, with a generator that answers what it is told to."""

import ast
import io
import subprocess
import sys
from pathlib import Path

import pytest

from lowvram_ft.data.row import build_prompt
from lowvram_ft.errors import UsageError
from lowvram_ft.inference import Completion
from lowvram_ft.progress import Progress
from lowvram_ft.testgen import newest_export, open_model, write_tests
from lowvram_ft.testgen import write as write_module
from lowvram_ft.testgen.texts import drop_tests, import_real_module
from lowvram_ft.testgen.write import MAX_ATTEMPTS, locate

CODE = "def half(n):\n    return n // 2\n"
GOOD = "from solution import half\n\n\ndef test_half():\n    assert half(5) == 2\n"
BAD = "\n\ndef test_wrong():\n    assert half(5) == 9\n"


class Scripted:
    """Gives its answers one after the other."""

    name = "scripted"

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), []

    def generate(self, prompts, sampling, n=1):
        self.asked.append((list(prompts), sampling))
        text = self.answers[min(len(self.asked), len(self.answers)) - 1]
        return [[Completion(text, 10, 10, "stop", 1.0, 0.1)]]

    def close(self) -> None:
        pass


def source(folder: Path, name: str = "my_module.py", code: str = CODE) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    return path


def write(path: Path, *answers: str, **settings):
    generator = Scripted(*answers)
    return write_tests(path, generator, Progress(quiet=True), **settings), generator


def pytest_on(path: Path) -> subprocess.CompletedProcess:
    """The user's own pytest, in the user's own folder."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path.name]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)


def test_a_test_file_is_written_beside_the_module_and_imports_it(tmp_path):
    path = source(tmp_path)
    found, generator = write(path, GOOD)
    target = tmp_path / "test_my_module.py"
    assert target.read_text() == GOOD.replace("solution", "my_module") == found.text
    assert found.test_file == str(target)
    assert (found.module, found.passed, found.dropped, found.attempts) == ("my_module", ("test_half",), (), 1)
    assert found.line_coverage == 1.0
    assert found.mutation_score > 0
    assert generator.asked[0][0] == [build_prompt(CODE)]
    assert pytest_on(target).returncode == 0


def test_tests_that_fail_are_left_out_and_named(tmp_path):
    found, _ = write(source(tmp_path), GOOD + BAD)
    assert (found.passed, found.dropped) == (("test_half",), ("test_wrong",))
    assert Path(found.test_file).read_text() == GOOD.replace("solution", "my_module")


def test_where_nothing_passes_nothing_is_written_and_every_attempt_is_made(tmp_path):
    path = source(tmp_path)
    wrong = GOOD.replace("== 2", "== 3")
    found, generator = write(path, wrong, "I cannot.", "def test_x(:", "def test_nothing():\n    pass\n")
    assert (found.test_file, found.passed, found.text, found.attempts) == (None, (), "", MAX_ATTEMPTS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["my_module.py"]
    temperatures = [sampling.temperature for _, sampling in generator.asked]
    assert temperatures[0] == 0.0 and min(temperatures[1:]) > 0
    assert len({sampling.seed for _, sampling in generator.asked}) == MAX_ATTEMPTS


def test_a_later_answer_that_finds_faults_is_taken_over_one_that_finds_none(tmp_path, monkeypatch):
    monkeypatch.setattr(write_module, "MAX_ATTEMPTS", 2)
    weak = "from solution import half\n\n\ndef test_weak():\n    assert callable(half)\n"
    found, _ = write(source(tmp_path), weak, f"```python\n{GOOD}```")
    assert (found.attempts, found.passed) == (2, ("test_half",))
    other = tmp_path / "other"
    found, _ = write(source(other), weak)
    assert (found.attempts, found.passed, found.mutation_score) == (2, ("test_weak",), 0.0)


@pytest.mark.parametrize("out", [None, "elsewhere.py"])
def test_a_file_that_exists_is_never_touched(tmp_path, out):
    path = source(tmp_path)
    target = tmp_path / (out or "test_my_module.py")
    target.write_text("mine")
    with pytest.raises(UsageError, match="exists already, and is not touched; give another place with --out"):
        write(path, GOOD, out=target if out else None)
    assert target.read_text() == "mine"


def test_a_dry_run_writes_nothing_even_where_a_file_is_there(tmp_path):
    path = source(tmp_path)
    (tmp_path / "test_my_module.py").write_text("mine")
    found, _ = write(path, GOOD, dry_run=True)
    assert found.test_file is None
    assert found.text == GOOD.replace("solution", "my_module")
    assert (tmp_path / "test_my_module.py").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_another_place_is_written_to(tmp_path):
    found, _ = write(source(tmp_path), GOOD, out=tmp_path / "tests" / "test_it.py")
    assert found.test_file == str(tmp_path / "tests" / "test_it.py")
    assert Path(found.test_file).is_file()


def test_a_module_inside_a_package_with_relative_imports_is_tested_under_its_full_name(tmp_path):
    source(tmp_path, "pkg/__init__.py", "")
    source(tmp_path, "pkg/sub/__init__.py", "")
    source(tmp_path, "pkg/base.py", "TWO = 2\n")
    path = source(tmp_path, "pkg/sub/mod.py", "from ..base import TWO\n\n\ndef half(n):\n    return n // TWO\n")
    found, _ = write(path, GOOD + BAD)
    target = tmp_path / "pkg" / "sub" / "test_mod.py"
    assert target.read_text() == GOOD.replace("solution", "pkg.sub.mod")
    assert (found.module, found.dropped) == ("pkg.sub.mod", ("test_wrong",))
    assert pytest_on(target).returncode == 0


def test_locate_climbs_to_the_folder_that_holds_the_package(tmp_path):
    source(tmp_path, "pkg/__init__.py", "")
    assert locate(source(tmp_path, "pkg/mod.py")) == (tmp_path.resolve(), "pkg.mod")
    assert locate(tmp_path / "pkg" / "__init__.py") == (tmp_path.resolve(), "pkg")
    assert locate(source(tmp_path, "plain/mod.py")) == ((tmp_path / "plain").resolve(), "mod")


def test_a_class_of_which_every_test_fails_goes_as_a_whole_and_its_namesakes_stay(tmp_path):
    classes = (
        "from solution import half\n\n\n"
        'class TestBad:\n    """Wrong."""\n\n    def test_it(self):\n        assert half(2) == 5\n\n\n'
        "class TestGood:\n    def test_it(self):\n        assert half(5) == 2\n\n"
        "    def test_more(self):\n        assert half(2) == 7\n"
    )
    found, _ = write(source(tmp_path), classes)
    assert found.passed == ("TestGood::test_it",)
    assert found.dropped == ("TestBad::test_it", "TestGood::test_more")
    assert "TestBad" not in found.text


def test_a_parametrized_test_of_which_one_case_fails_is_left_out(tmp_path):
    cases = (
        GOOD.replace("from", "import pytest\nfrom", 1)
        + '\n\n@pytest.mark.parametrize("n, wanted", [(4, 2), (6, 9)], ids=["a::b", "c]"])\n'
        "def test_cases(n, wanted):\n    assert half(n) == wanted\n"
    )
    found, _ = write(source(tmp_path), cases)
    assert (found.passed, found.dropped) == (("test_half",), ("test_cases",))
    assert "parametrize" not in found.text


def test_dropping_leaves_the_rest_letter_for_letter():
    test = (
        "import x\n\n\n@deco\n@more(\n    1,\n)\nasync def test_a():\n    pass\n\n\ndef test_b():  # keep\n    pass\n"
    )
    assert drop_tests(test, ["test_a"]) == "import x\n\n\ndef test_b():  # keep\n    pass\n"
    assert drop_tests(test, []) == test
    assert drop_tests(test, ["test_c"]) == test
    nested = "def test_a():\n    def test_b():\n        pass\n    test_b()\n"
    assert drop_tests(nested, ["test_b"]) == nested
    ast.parse(drop_tests("class TestA:\n    def test_x(self):\n        pass\n", ["TestA::test_x"]))


@pytest.mark.parametrize(
    ("line", "rewritten"),
    [
        ("from solution import a, b", "from pkg.mod import a, b"),
        ("    from solution import a", "    from pkg.mod import a"),
        ("import solution", "import pkg.mod as solution"),
        ("import solution as s", "import pkg.mod as s"),
        ('with patch("solution.time"):', 'with patch("pkg.mod.time"):'),
        ("monkeypatch.setattr('solution.time', 1)", "monkeypatch.setattr('pkg.mod.time', 1)"),
        ("import solutions", "import solutions"),
        ("from solutions import a", "from solutions import a"),
        ("assert solution == 3", "assert solution == 3"),
        ('assert name == "solution.py"', 'assert name == "solution.py"'),
    ],
)
def test_the_import_line_becomes_that_of_the_real_module(line, rewritten):
    assert import_real_module(f"{line}\n", "pkg.mod") == f"{rewritten}\n"


@pytest.mark.parametrize("name", ["my-module.py", "2nd.py", "class.py"])
def test_a_name_that_python_cannot_import_is_told_before_the_model_is_asked(tmp_path, name):
    generator = Scripted(GOOD)
    with pytest.raises(UsageError, match="give it a name that Python can import"):
        write_tests(source(tmp_path, name), generator, Progress(quiet=True))
    assert generator.asked == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.py", b"def f(:\n", r"a\.py:1: does not parse"), ("a.py", b"x = '\xff'\n", "is not UTF-8 text"),
        ("a.py", b"x = '\0'\n", "does not parse"), ("a.txt", b"x = 1\n", "is not a Python file"),
        ("gone.py", None, "no such file"),
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_read_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        write(tmp_path / name, GOOD)


def test_attempts_are_told(tmp_path):
    stream = io.StringIO()
    write_tests(source(tmp_path), Scripted(GOOD), Progress(stream))
    assert "testgen my_module.py: 1/4" in stream.getvalue()


def test_the_newest_export_is_taken_and_never_a_base_model(tmp_path):
    import os

    assert newest_export(tmp_path) is None
    for age, name in enumerate(["new/export/m.gguf", "old/export/m.gguf", "x/export/base-m.gguf"]):
        path = source(tmp_path, name, "")
        os.utime(path, (1000 - age * 100, 1000 - age * 100 + 500 * ("base" in name)))
    assert newest_export(tmp_path) == tmp_path / "new" / "export" / "m.gguf"


def test_without_a_model_and_without_an_export_the_user_is_told_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="give a GGUF, or make one with: lowvram-ft demo"):
        open_model(None, 512)
