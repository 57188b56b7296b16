"""Small changes to test files, and which model is taken."""

import ast
import os
from pathlib import Path

import pytest

from lowvram_ft.errors import ModelError, UsageError
from lowvram_ft.inference.exports import export_of
from lowvram_ft.testgen import given_or_newest, newest_export, open_model
from lowvram_ft.testgen.texts.drop import drop_tests, import_real_module


def source(folder: Path, name: str, code: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    return path


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


def test_the_newest_export_is_taken_and_never_a_base_model(tmp_path):
    assert newest_export(tmp_path) is None
    for age, name in enumerate(["new/export/m.gguf", "old/export/m.gguf", "x/export/base-m.gguf"]):
        path = source(tmp_path, name, "")
        os.utime(path, (1000 - age * 100, 1000 - age * 100 + 500 * ("base" in name)))
    assert newest_export(tmp_path) == tmp_path / "new" / "export" / "m.gguf"


def test_without_a_model_and_without_an_export_the_user_is_told_where_was_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOWVRAM_FT_MODEL", raising=False)
    with pytest.raises(UsageError) as told:
        open_model(None, 512)
    assert str(told.value) == (
        f"--model: no export under {tmp_path / 'runs'}; if it lies elsewhere, say where: --model "
        "path/to/lowvram-ft/runs/demo/export/demo-Q8_0.gguf (or keep that path in LOWVRAM_FT_MODEL); or make one here "
        "with: lowvram-ft demo"
    )


def test_the_variable_stands_in_for_what_was_not_given_and_before_the_newest_export(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    newest = source(tmp_path, "runs/mine/export/m.gguf", "")
    mine = str(source(tmp_path, "mine.gguf", ""))
    assert given_or_newest(None, environ={}) == newest.relative_to(tmp_path)
    assert given_or_newest(None, environ={"LOWVRAM_FT_MODEL": mine}) == mine
    assert given_or_newest("other", environ={"LOWVRAM_FT_MODEL": mine}) == "other"
    assert given_or_newest(None, environ={"LOWVRAM_FT_MODEL": "owner/name"}) == "owner/name"
    gone = {"LOWVRAM_FT_MODEL": "gone.gguf"}
    with pytest.raises(UsageError, match=r"LOWVRAM_FT_MODEL: no such file \(got gone.gguf\); set it to an absolute"):
        given_or_newest(None, environ=gone)
    with pytest.raises(UsageError, match="LOWVRAM_FT_MODEL: no such file"):
        given_or_newest(None, environ={"LOWVRAM_FT_MODEL": "~/of-nobody/runs/demo"})


def test_only_a_run_stands_for_its_newest_export(tmp_path):
    source(tmp_path, "models/export/a.gguf", "")
    assert export_of(tmp_path / "models") is None
    assert export_of(tmp_path / "models" / "export") is None
    source(tmp_path, "models/run.json", "{}")
    found = tmp_path / "models/export/a.gguf"
    assert export_of(tmp_path / "models") == export_of(tmp_path / "models" / "export") == found


def test_a_base_model_alone_and_a_link_that_leads_nowhere_are_no_export(tmp_path):
    source(tmp_path, "runs/base-coder/run.json", "{}")
    source(tmp_path, "runs/base-coder/export/base-Q8_0.gguf", "")
    (tmp_path / "runs/base-coder/export/moved.gguf").symlink_to(tmp_path / "nowhere.gguf")
    with pytest.raises(ModelError, match="has exported nothing yet"):
        export_of(tmp_path / "runs/base-coder")
    own = source(tmp_path, "runs/base-coder/export/base-coder-Q8_0.gguf", "")
    assert export_of(tmp_path / "runs/base-coder") == newest_export(tmp_path / "runs") == own
