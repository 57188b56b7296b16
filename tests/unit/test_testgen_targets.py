"""What a user asks tests for: files, definitions, folders, and what changed in git."""

import os
import subprocess
from pathlib import Path

import pytest

from lowvram_ft.errors import MachineError, UsageError
from lowvram_ft.testgen.subject import Target
from lowvram_ft.testgen.targets.changed import SAME_CODE
from lowvram_ft.testgen.targets.find import find, find_targets, read_code

CODE = '''\
import os
from typing import TYPE_CHECKING

LIMIT = 3


def parse(text):
    """Take a text apart."""
    parts = text.split()
    return parts


class Reader:
    size = 4

    @property
    def name(self):
        return "x"

    class Inner:
        def deep(self):
            return 1

    async def read(self):
        return 2


if TYPE_CHECKING:

    def hidden(): ...


try:
    import json
except ImportError:

    def fallback():
        return None
'''


@pytest.fixture(autouse=True)
def _own_git(tmp_path, monkeypatch):
    """No settings of the machine's own git, and no repository around."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.resolve().parent))
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def repository(folder: Path, files: dict[str, str]) -> Path:
    tree(folder, files)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def names(targets, folder: Path) -> list[str]:
    return [target.file.relative_to(folder.resolve()).as_posix() for target in targets]


# ---------------------------------------------------------------- files and names


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("parse", "parse"),
        ("Reader", "Reader"),
        ("Reader.read", "Reader.read"),
        ("Reader::read", "Reader.read"),
        ("Reader.name", "Reader.name"),
        ("Reader::Inner::deep", "Reader.Inner.deep"),
        ("hidden", "hidden"),
        ("fallback", "fallback"),
    ],
)
def test_a_definition_is_found_by_its_name(tmp_path, asked, expected):
    tree(tmp_path, {"calc.py": CODE})
    found = find_targets([f"calc.py::{asked}"], cwd=tmp_path)
    assert found == [Target((tmp_path / "calc.py").resolve(), (expected,))]


def test_a_file_is_meant_as_a_whole(tmp_path):
    tree(tmp_path, {"calc.py": CODE})
    assert find_targets(["calc.py"], cwd=tmp_path) == [Target((tmp_path / "calc.py").resolve())]
    assert find_targets([str(tmp_path / "calc.py")]) == [Target((tmp_path / "calc.py").resolve())]


def test_several_places_in_a_file_are_joined_and_the_whole_file_includes_them(tmp_path):
    tree(tmp_path, {"calc.py": CODE, "b.py": "def f(): pass\n"})
    found = find_targets(["calc.py::parse", "b.py", "calc.py::Reader.read", "./calc.py::parse"], cwd=tmp_path)
    assert [(t.file.name, t.names) for t in found] == [("calc.py", ("parse", "Reader.read")), ("b.py", ())]
    found = find_targets(["calc.py::parse", "calc.py", "calc.py::Reader"], cwd=tmp_path)
    assert [(t.file.name, t.names) for t in found] == [("calc.py", ())]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("calc.py::prase", "did you mean calc.py::parse?"),
        ("calc.py::deep", "did you mean calc.py::Reader.Inner.deep?"),
        ("calc.py::zzz", "name one of parse, Reader, Reader.name"),
        ("calc.py::LIMIT", "LIMIT is a variable"),
        ("calc.py::Reader.size", "Reader.size is a variable"),
        ("calc.py::os", "os is an imported module"),
        ("calc.py::TYPE_CHECKING", "TYPE_CHECKING is imported from typing"),
        ("calc.py::", "names no definition"),
        ("calc.py::Reader::", "no function, class or method"),
        ("none.py", "no such file"),
        ("none.py::f", "no such file"),
        ("x" * 5000, "no such file"),
        ("nul\0.py", "names no file"),
        ("", "names no file"),
        ("::", "names no file"),
        ("::f", "names no file"),
        ("notes.txt", "is not a Python file"),
        ("folder::f", "is a folder"),
        ("latin.py", "is not UTF-8 text (byte 5)"),
        ("broken.py", "broken.py:2: does not parse"),
        ("null.py", "does not parse"),
        ("deep.py", "does not parse"),
        ("empty.py", "has nothing to test"),
        ("test_calc.py", "is a test file itself"),
        ("loop.py", "no such file"),
    ],
)
def test_what_cannot_be_tested_is_refused_with_what_to_do(tmp_path, asked, message):
    tree(
        tmp_path,
        {
            "calc.py": CODE, "notes.txt": "", "folder/a.py": "def f(): pass\n", "broken.py": "x = 1\ndef f(:\n",
            "null.py": "x = 1\0\n", "deep.py": "x = " + "(" * 5000 + ")" * 5000 + "\n", "empty.py": "X = 1\n",
            "test_calc.py": "def test_a(): assert 1\n",
        },
    )  # fmt: skip
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\n")
    (tmp_path / "loop.py").symlink_to("loop.py")
    with pytest.raises(UsageError) as caught:
        find_targets([asked], cwd=tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path) not in str(caught.value)  # a file is named as the user named it
    assert ";" in str(caught.value)  # and what to do


def test_no_place_at_all_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no file was given"):
        find_targets([], cwd=tmp_path)


def test_a_module_with_a_byte_order_mark_or_a_name_like_a_test_is_read(tmp_path):
    (tmp_path / "bom.py").write_bytes(b"\xef\xbb\xbfdef f(): pass\n")
    tree(tmp_path, {"test_bench.py": "def helper(): pass\n"})
    assert read_code(tmp_path / "bom.py") == "def f(): pass\n"
    assert len(find_targets(["bom.py", "test_bench.py"], cwd=tmp_path)) == 2


# ---------------------------------------------------------------- folders

F = "def f():\n    return 1\n"
PROJECT = {
    "pyproject.toml": "[project]\nname = 'pkg'\n[tool.pytest.ini_options]\npython_files = ['check_*.py']\n",
    "pkg/__init__.py": "from pkg.a import f\n",
    "pkg/a.py": F,
    "pkg/sub/__init__.py": F,
    "pkg/sub/b.py": "class Plain:\n    x = 1\n",
    "pkg/errors.py": 'class Lost(Exception):\n    """Lost."""\n\n\nclass Found(Exception):\n    pass\n',
    "pkg/constants.py": "A = 1\n",
    "pkg/tests.py": "def test_f():\n    assert 1\n",
    "pkg/tests/test_a.py": F,
    "pkg/tests/helpers.py": F,
    "pkg/test_c.py": F,
    "pkg/c_test.py": F,
    "pkg/check_d.py": F,
    "pkg/conftest.py": F,
    "pkg/x_pb2.py": F,
    "pkg/made.py": "# @generated by a tool\n" + F,
    "pkg/version.py": "# file generated by setuptools_scm\n# don't change, don't track in version control\n" + F,
    "pkg/migrations/0001_initial.py": F,
    "pkg/old.py": "print 'two'\n",
    "pkg/build/__init__.py": "",
    "pkg/build/kept.py": F,
    "setup.py": F,
    "docs/conf.py": F,
    "build/lib/a.py": F,
    "dist/a.py": F,
    "node_modules/x/a.py": F,
    ".hidden/a.py": F,
    "myenv/pyvenv.cfg": "",
    "myenv/lib/a.py": F,
    "local/a.py": F,
    "pkg.egg-info/a.py": F,
    ".gitignore": "local/\n",
}
KEPT = ["pkg/a.py", "pkg/build/kept.py", "pkg/sub/__init__.py", "pkg/sub/b.py"]


def test_a_folder_stands_for_its_code_under_test(tmp_path):
    tree(tmp_path, {**PROJECT, "pkg/version.py": "# generated by scm, do not edit\n" + F})
    (tmp_path / "pkg" / "again").symlink_to(tmp_path / "pkg", target_is_directory=True)
    (tmp_path / "pkg" / "linked.py").symlink_to("a.py")
    assert names(find_targets(["."], cwd=tmp_path), tmp_path) == ["local/a.py", *KEPT]  # no git: nothing is ignored


def test_what_git_ignores_is_left_out_but_not_where_it_is_named(tmp_path):
    files = {name: text for name, text in PROJECT.items() if name != "pkg/version.py"}
    repository(tmp_path, files)
    tree(tmp_path, {"pkg/new é/file.py": F, "pkg/no-name.py": F, "pkg/lambda.py": F})  # untracked
    (tmp_path / "pkg" / "again").symlink_to(tmp_path / "pkg", target_is_directory=True)
    found = find(["."], cwd=tmp_path)
    assert names(found.targets, tmp_path) == ["pkg/a.py", "pkg/build/kept.py", "pkg/new é/file.py", *KEPT[2:]]
    reasons = {path.relative_to(tmp_path.resolve()).as_posix(): reason for path, reason in found.left_out.items()}
    assert reasons["pkg/old.py"] == "does not parse"
    assert reasons["pkg/no-name.py"] == reasons["pkg/lambda.py"] == "has no name to import it by"
    assert reasons["pkg/check_d.py"] == reasons["pkg/tests.py"] == "is a test, or lies with the tests"
    assert reasons["pkg/errors.py"] == reasons["pkg/__init__.py"] == "holds no function and no class"
    assert reasons["pkg/x_pb2.py"] == reasons["pkg/made.py"] == "is generated"
    assert reasons["pkg/migrations/0001_initial.py"] == "is a migration"
    assert names(find_targets(["local"], cwd=tmp_path), tmp_path) == ["local/a.py"]


def test_the_order_is_the_users_and_sorted_within_a_folder(tmp_path):
    tree(tmp_path, {"b/z.py": F, "b/a.py": F, "a/x.py": F, "b/sub/k.py": F})
    found = find_targets(["b", "a", "b/a.py"], cwd=tmp_path)
    assert names(found, tmp_path) == ["b/a.py", "b/sub/k.py", "b/z.py", "a/x.py"]


def test_a_folder_without_anything_to_test_says_why(tmp_path):
    tree(tmp_path, {"tests/test_a.py": F, "tests/b.py": F, "empty/notes.txt": "", "p/a.py": "X = 1\n"})
    with pytest.raises(UsageError, match=r"tests: nothing to test in it \(2 Python files: is a test"):
        find_targets(["tests"], cwd=tmp_path)
    with pytest.raises(UsageError, match=r"empty: nothing to test in it \(no Python file"):
        find_targets(["empty"], cwd=tmp_path)
    with pytest.raises(UsageError, match=r"p: nothing .*1 Python file: holds no function and no class"):
        find_targets(["p"], cwd=tmp_path)


def test_a_project_that_lies_in_a_folder_named_for_tests_is_no_test(tmp_path):
    root = tree(tmp_path / "tests" / "mine", {"pyproject.toml": "[project]\nname='x'\n", "pkg/a.py": F})
    assert names(find_targets(["pkg"], cwd=root), root) == ["pkg/a.py"]


# ---------------------------------------------------------------- what changed

OLD = "def a():\n    x = 1\n    return x\n\n\ndef b():\n    return 2\n"


def changed(folder: Path, revision: str = "", *places: str):
    return {
        target.file.relative_to(folder.resolve()).as_posix(): sorted(target.lines)
        for target in find_targets(places, changed=revision, cwd=folder)
    }


def test_staged_unstaged_untracked_and_committed_lines_are_found(tmp_path):
    repository(tmp_path, {"one.py": OLD, "two.py": OLD, "same.py": OLD, "gone.py": OLD, "notes.txt": ""})
    git(tmp_path, "tag", "start")
    (tmp_path / "one.py").write_text(OLD.replace("return 2", "return 3"))
    git(tmp_path, "commit", "-qam", "second")
    (tmp_path / "two.py").write_text(OLD.replace("x = 1", "x = 5"))
    git(tmp_path, "add", "two.py")
    (tmp_path / "two.py").write_text(OLD.replace("x = 1", "x = 5").replace("return x", "return -x"))
    (tmp_path / "gone.py").unlink()
    (tmp_path / "three.py").write_text(F)
    expected = {"three.py": [1, 2], "two.py": [2, 3]}
    assert changed(tmp_path) == changed(tmp_path, "HEAD") == expected
    assert changed(tmp_path, "start") == changed(tmp_path, "HEAD~1") == {**expected, "one.py": [7]}


def test_a_branch_is_compared_with_where_it_began(tmp_path):
    repository(tmp_path, {"one.py": OLD, "two.py": OLD})
    git(tmp_path, "checkout", "-q", "-b", "topic")
    (tmp_path / "one.py").write_text(OLD.replace("2", "3"))
    git(tmp_path, "commit", "-qam", "mine")
    git(tmp_path, "checkout", "-q", "main")
    (tmp_path / "two.py").write_text(OLD.replace("2", "4"))
    git(tmp_path, "commit", "-qam", "theirs")
    git(tmp_path, "checkout", "-q", "topic")
    assert changed(tmp_path, "main...") == {"one.py": [7]}
    assert changed(tmp_path, "main") == {"one.py": [7], "two.py": [7]}


@pytest.mark.parametrize("name", ["with space.py", 'quo"te.py', "naïve é.py", "tab\tx.py", "new\nline.py", "-dash.py"])
def test_odd_names_are_read_as_they_are(tmp_path, name):
    name, new = f"{name}/m.py", f"new{name}/m.py"
    repository(tmp_path, {name: OLD, "z.py": OLD})
    (tmp_path / name).write_text(OLD.replace("return 2", "return 3"))
    (tmp_path / "z.py").write_text(OLD.replace("x = 1", "x = 2"))
    tree(tmp_path, {new: F})
    assert changed(tmp_path) == {name: [7], "z.py": [2], new: [1, 2]}


def test_a_renamed_file_counts_for_what_changed_in_it(tmp_path):
    repository(tmp_path, {"old name/m.py": OLD * 4, "moved.py": OLD * 3})
    git(tmp_path, "mv", "old name", "new name")
    git(tmp_path, "mv", "moved.py", "there.py")
    (tmp_path / "new name" / "m.py").write_text((OLD * 4).replace("return 2", "return 3", 1))
    assert changed(tmp_path) == {"new name/m.py": [7]}
    found = find([], changed="", cwd=tmp_path)
    assert {path.name: reason for path, reason in found.left_out.items()} == {
        "there.py": "its name or its mode changed, and nothing in it"
    }


def test_where_lines_were_only_taken_out_those_around_count(tmp_path):
    repository(tmp_path, {"a.py": OLD, "first.py": "import os\n" + OLD, "last.py": OLD + "    # end\n    b()\n"})
    (tmp_path / "a.py").write_text(OLD.replace("    x = 1\n", ""))
    (tmp_path / "first.py").write_text(OLD)
    (tmp_path / "last.py").write_text(OLD)
    assert changed(tmp_path) == {"a.py": [1, 2], "first.py": [1], "last.py": [7]}


def test_a_line_of_code_that_became_a_comment_was_taken_out(tmp_path):
    repository(tmp_path, {"a.py": OLD})
    (tmp_path / "a.py").write_text(OLD.replace("    x = 1\n", "    # x = 1\n"))
    assert changed(tmp_path) == {"a.py": [1, 3]}


def test_comments_docstrings_and_layout_alone_are_no_change(tmp_path):
    code = '"""One."""\n\ndef a(x):\n    """Two."""\n    return [x, 1]  # three\n'
    repository(tmp_path, {"a.py": code, "b.py": code, "c.py": code})
    (tmp_path / "a.py").write_text(code.replace("One", "Eins").replace("Two", "Zwei").replace("three", "drei"))
    (tmp_path / "b.py").write_text(code.replace("[x, 1]", "[\n        x,\n        1,\n    ]"))
    (tmp_path / "c.py").write_text(code.replace("Two", "Zwei").replace("[x, 1]", "[x, 2]"))
    found = find([], changed="", cwd=tmp_path)
    assert [(t.file.name, sorted(t.lines)) for t in found.targets] == [("c.py", [5])]
    assert {path.name: reason for path, reason in found.left_out.items()} == {"a.py": SAME_CODE, "b.py": SAME_CODE}


def test_before_the_first_commit_everything_is_new(tmp_path):
    tree(tmp_path, {"a.py": F, "b.py": F})
    git(tmp_path, "init", "-q")
    assert changed(tmp_path) == {"a.py": [1, 2], "b.py": [1, 2]}
    git(tmp_path, "add", "a.py")
    assert changed(tmp_path) == changed(tmp_path, "HEAD") == {"a.py": [1, 2], "b.py": [1, 2]}


def test_places_and_names_narrow_what_changed(tmp_path):
    repository(tmp_path, {"p/a.py": OLD, "q/b.py": OLD, "q/test_b.py": OLD})
    for name in ("p/a.py", "q/b.py", "q/test_b.py"):
        (tmp_path / name).write_text(OLD.replace("return 2", "return 3"))
    assert changed(tmp_path, "", "q") == {"q/b.py": [7]}
    assert changed(tmp_path, "", "p/a.py::b", "q/b.py::a") == {"p/a.py": [7]}
    assert find_targets(["q/b.py::a"], changed="", cwd=tmp_path) == []
    assert list(find(["q/b.py::a"], changed="", cwd=tmp_path).left_out.values()) == [
        "nothing changed in what was named"
    ]
    git(tmp_path, "commit", "-qam", "x")
    assert find_targets(["q"], changed="", cwd=tmp_path) == []
    assert list(find(["q/b.py"], changed="", cwd=tmp_path).left_out.values()) == ["did not change"]


def test_a_file_in_the_place_of_the_revision_is_told_where_it_belongs(tmp_path, monkeypatch):
    repository(tmp_path, {"src/a.py": OLD})
    monkeypatch.chdir(tmp_path)
    for word, kind in [("src/a.py", "a file"), ("src/a.py::b", "a file"), ("src", "a folder")]:
        with pytest.raises(UsageError) as told:
            find_targets([], changed=word)
        assert str(told.value) == f"--changed {word}: is {kind}: put it before --changed, or: --changed HEAD {word}"
    git(tmp_path, "tag", "src")
    assert find_targets([], changed="src") == []
    with pytest.raises(UsageError, match=r"gone\.py: is no revision of"):
        find_targets([], changed="gone.py")


def test_from_a_folder_below_the_whole_repository_is_meant(tmp_path):
    repository(tmp_path, {"p/a.py": OLD, "q/b.py": OLD})
    (tmp_path / "q" / "b.py").write_text(OLD.replace("2", "3"))
    found = find_targets([], changed="", cwd=tmp_path / "p")
    assert names(found, tmp_path) == ["q/b.py"]


def test_a_submodule_is_a_repository_of_its_own(tmp_path):
    repository(tmp_path / "lib", {"inner.py": OLD})
    repository(tmp_path / "app", {"outer.py": OLD})
    git(tmp_path / "app", "submodule", "--quiet", "add", str(tmp_path / "lib"), "vendor")
    git(tmp_path / "app", "commit", "-qm", "submodule")
    (tmp_path / "app" / "vendor" / "inner.py").write_text(OLD.replace("2", "3"))
    (tmp_path / "app" / "outer.py").write_text(OLD.replace("2", "3"))
    assert changed(tmp_path / "app") == {"outer.py": [7]}
    assert changed(tmp_path / "app", "", "vendor") == {"vendor/inner.py": [7]}


def test_settings_of_the_users_git_change_nothing(tmp_path, monkeypatch):
    repository(tmp_path, {"a b/m.py": OLD, "c.py": OLD})
    for key, value in (
        ("diff.noprefix", "true"), ("diff.external", "false"), ("color.ui", "always"), ("diff.context", "9"),
        ("diff.interHunkContext", "9"), ("core.quotePath", "false"), ("diff.renames", "copies"),
        ("diff.relative", "true"),
    ):  # fmt: skip
        git(tmp_path, "config", key, value)
    (tmp_path / ".gitattributes").write_text("*.py -diff\n")
    for name in ("a b/m.py", "c.py"):
        (tmp_path / name).write_text(OLD.replace("x = 1", "x = 2").replace("return 2", "return 3"))
    assert changed(tmp_path) == {"a b/m.py": [2, 7], "c.py": [2, 7]}
    monkeypatch.chdir(tmp_path)
    assert len(find_targets([], changed="")) == 2


def test_a_file_that_became_a_module_and_a_link_to_one(tmp_path):
    repository(tmp_path, {"a.py": OLD, "real.py": OLD})
    (tmp_path / "link.py").symlink_to("real.py")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "link")
    (tmp_path / "link.py").unlink()
    (tmp_path / "link.py").write_text(F)
    (tmp_path / "a.py").unlink()
    (tmp_path / "a.py").symlink_to("real.py")
    (tmp_path / "real.py").write_text(OLD.replace("2", "3"))
    assert changed(tmp_path) == {"link.py": [1, 2], "real.py": [7]}


def test_windows_line_ends_and_form_feeds_do_not_shift_lines(tmp_path):
    repository(tmp_path, {"a.py": "x = 1\n\f\n" + OLD})
    (tmp_path / "a.py").write_text("x = 1\n\f\n" + OLD.replace("2", "3"))
    (tmp_path / "crlf.py").write_bytes(OLD.replace("\n", "\r\n").encode())
    assert changed(tmp_path) == {"a.py": [9], "crlf.py": [1, 2, 3, 4, 5, 6, 7]}


@pytest.mark.parametrize("revision", ["nowhere", "--output=x", "main..HEAD", "HEAD~9", "main...other", "nowhere..."])
def test_an_unknown_revision_is_refused(tmp_path, revision):
    repository(tmp_path, {"a.py": OLD})
    with pytest.raises(UsageError, match=r"is no revision of .*; give a branch, a tag or a commit"):
        find_targets([], changed=revision, cwd=tmp_path)
    assert not (tmp_path / "x").exists()


def test_without_a_repository_or_without_git_the_user_is_told_what_to_do(tmp_path, monkeypatch):
    tree(tmp_path, {"a.py": OLD})
    with pytest.raises(UsageError, match=r"is in no git repository; run git init and commit, or name the files"):
        find_targets([], changed="", cwd=tmp_path)
    with pytest.raises(UsageError, match="is in no git repository"):
        find_targets(["a.py"], changed="", cwd=tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match=r"git: not installed .*; install it, or name the files"):
        find_targets([], changed="", cwd=tmp_path)
    assert names(find_targets(["."], cwd=tmp_path), tmp_path) == ["a.py"]  # folders are read without it


@pytest.mark.parametrize("refresh", ["true", "false"])
def test_files_that_were_only_touched_do_not_shift_the_lines_of_others(tmp_path, refresh):
    repository(tmp_path, {"a.py": OLD, "b.py": OLD, "c.py": OLD})
    git(tmp_path, "config", "diff.autoRefreshIndex", refresh)
    for name in ("a.py", "b.py"):
        os.utime(tmp_path / name, ns=(1, 1))
    (tmp_path / "c.py").write_text(OLD.replace("2", "3"))
    assert changed(tmp_path) == {"c.py": [7]}
