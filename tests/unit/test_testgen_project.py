"""How a project keeps its tests: where those of a module go, what is there, and how they are written."""

import ast
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lowvram_ft.errors import UsageError
from lowvram_ft.testgen.marks import marked
from lowvram_ft.testgen.project import fixture_imports
from lowvram_ft.testgen.project import style as style_module
from lowvram_ft.testgen.project.place import find_project, place
from lowvram_ft.testgen.project.style import Style, format_with

CODE = "def f():\n    return 1\n"
PYPROJECT = "[project]\nname = 'pkg'\nversion = '1'\n"


def tree(folder: Path, files: dict[str, str]) -> Path:
    """Write files; of a test file, ``@pkg.mod`` stands for a test of that module."""
    folder = folder.resolve()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        is_test = text.startswith("@")
        path.write_text(f"from {text[1:]} import f\n\n\ndef test_f():\n    assert f() == 1\n" if is_test else text)
    return folder


def placed(folder: Path, source: str, out: Path | None = None):
    path = folder / source
    return place(find_project(path), path, out)


def goes_to(folder: Path, source: str) -> str:
    return placed(folder, source).test_file.relative_to(folder.resolve()).as_posix()


def package(*modules: str, src: str = "") -> dict[str, str]:
    files = {}
    for module in modules:
        path = Path(src, *module.split("."))
        files[f"{path}.py"] = CODE
        for parent in path.parents:
            if len(parent.parts) > len(Path(src).parts):
                files[f"{parent}/__init__.py"] = ""
    return files


def own_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """The user's own pytest, without the plugins of this environment."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=alone)


def collect(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return own_pytest(folder, "--collect-only", *options)


# ---------------------------------------------------------------- the project


@pytest.mark.parametrize(
    ("marker", "text"),
    [
        ("pyproject.toml", "[tool.pytest.ini_options]\n"),
        ("pyproject.toml", "[tool.pytest]\n"),
        ("pyproject.toml", PYPROJECT),
        ("pyproject.toml", "[tool.poetry]\nname = 'x'\n"),
        ("pytest.ini", ""),
        (".pytest.ini", "[pytest]\n"),
        ("pytest.toml", ""),
        ("tox.ini", "[pytest]\n"),
        ("setup.cfg", "[tool:pytest]\n"),
        ("setup.cfg", "[metadata]\nname = x\n"),
        ("setup.py", ""),
        (".git/HEAD", ""),
    ],
)
def test_the_root_is_the_nearest_folder_that_is_a_project(tmp_path, marker, text):
    root = tree(tmp_path / "home" / "mine", {marker: text, **package("pkg.sub.mod")})
    tree(tmp_path / "home", {"setup.py": ""})
    assert find_project(root / "pkg" / "sub" / "mod.py").root == root
    assert not find_project(root / "pkg" / "sub" / "mod.py").lone


@pytest.mark.parametrize(
    ("file", "text"), [("pyproject.toml", "[tool.ruff]\n"), ("setup.cfg", "[flake8]\n"), ("a.ini", "")]
)
def test_other_settings_make_no_project(tmp_path, file, text):
    root = tree(tmp_path, {f"a/{file}": text, "setup.py": "", **package("a.b.mod")})
    assert find_project(root / "a" / "b" / "mod.py").root == root


def test_a_package_that_can_be_built_alone_belongs_to_the_repository_around_it(tmp_path):
    root = tree(tmp_path, {"pyproject.toml": PYPROJECT, "pkg/pyproject.toml": PYPROJECT, **package("pkg.mod")})
    assert find_project(root / "pkg" / "mod.py").root == root


def test_pytest_takes_the_same_root(tmp_path):
    root = tree(tmp_path, {"setup.cfg": "[tool:pytest]\n", **package("pkg.mod"), "pkg/tests/test_mod.py": "@pkg.mod"})
    told = collect(root / "pkg" / "tests", "-v").stdout
    assert f"rootdir: {root}" in told
    assert find_project(root / "pkg" / "mod.py").root == root


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "pyproject.toml",
            "[tool.pytest.ini_options]\ntestpaths = ['checks', 'none']\npython_files = 'check_*.py'\n"
            "pythonpath = ['code']\naddopts = '-ra --import-mode=importlib'\n",
        ),
        (
            "pytest.toml",
            "[pytest]\ntestpaths = ['checks']\npython_files = ['check_*.py']\npythonpath = ['code']\n"
            "addopts = ['--import-mode', 'importlib']\n",
        ),
        (
            "pytest.ini",
            "[pytest]\ntestpaths =\n    checks\npython_files = check_*.py\npythonpath = code\n"
            "addopts = --import-mode importlib\n",
        ),
        (
            "setup.cfg",
            "[tool:pytest]\ntestpaths = chec*\npython_files = check_*.py\npythonpath = code\n"
            "addopts = --import-mode=importlib\n",
        ),
    ],
)
def test_the_configuration_of_pytest_is_read_from_every_file_that_holds_one(tmp_path, file, text):
    root = tree(tmp_path, {file: text, "code/mod.py": CODE, "checks/check_other.py": "@other", "code/other.py": CODE})
    found = find_project(root / "code" / "mod.py")
    assert found.test_roots == (root / "checks",)
    assert (found.python_files, found.pythonpath, found.import_mode) == (("check_*.py",), (root / "code",), "importlib")
    assert placed(root, "code/mod.py").test_file == root / "checks" / "check_mod.py"
    assert placed(root, "code/mod.py").module == "mod"


def test_a_configuration_above_counts_within_the_repository(tmp_path):
    files = {"pytest.ini": "[pytest]\npython_files = check_*.py\n", "libs/a/setup.py": "", **package("libs.a.pkg.mod")}
    root = tree(
        tmp_path, {name: text for name, text in files.items() if name not in ("libs/__init__.py", "libs/a/__init__.py")}
    )
    assert find_project(root / "libs/a/pkg/mod.py").python_files == ("check_*.py",)
    (root / "libs" / ".git").mkdir()
    assert find_project(root / "libs/a/pkg/mod.py").python_files == ("test_*.py", "*_test.py")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pyproject.toml", "[tool\n"),
        ("pytest.ini", "testpaths = x\n"),
        ("setup.cfg", "[a]\n  b\n c = [\n[\n"),
        ("tox.ini", b"[pytest]\nx = \xff\n"),
        ("pytest.ini", "[pytest]\ntestpaths = 'a\n"),
        ("pyproject.toml", "[tool.pytest.ini_options]\ntestpaths = 3\n"),
        ("pytest.ini", "[pytest]\naddopts = --import-mode=nothing\n"),
    ],
)
def test_a_broken_configuration_is_named(tmp_path, file, text):
    root = tree(tmp_path, {"mod.py": CODE})
    (root / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    if file == "setup.cfg":
        (root / file).write_text("no section\n")
    with pytest.raises(UsageError) as caught:
        find_project(root / "mod.py")
    assert str(caught.value).startswith(str(root / file))


# ---------------------------------------------------------------- import names


@pytest.mark.parametrize(
    ("files", "source", "import_root", "module"),
    [
        (package("pkg.sub.mod", src="src"), "src/pkg/sub/mod.py", "src", "pkg.sub.mod"),
        (package("pkg.sub.mod"), "pkg/sub/mod.py", ".", "pkg.sub.mod"),
        (package("pkg.sub.mod"), "pkg/sub/__init__.py", ".", "pkg.sub"),
        ({"mod.py": CODE}, "mod.py", ".", "mod"),
        ({"src/ns/part/mod.py": CODE, "src/ns/part/__init__.py": ""}, "src/ns/part/mod.py", "src", "ns.part.mod"),
        ({"ns/part/mod.py": CODE}, "ns/part/mod.py", ".", "ns.part.mod"),
        ({"ns/part/mod.py": CODE, "tests/test_a.py": "@mod"}, "ns/part/mod.py", "ns/part", "mod"),
        ({"my-scripts/mod.py": CODE}, "my-scripts/mod.py", "my-scripts", "mod"),
        ({"lib/ns/mod.py": CODE, "pytest.ini": "[pytest]\npythonpath = lib\n"}, "lib/ns/mod.py", "lib", "ns.mod"),
        (package("src.mod"), "src/mod.py", ".", "src.mod"),
    ],
)
def test_a_module_is_named_as_its_tests_import_it(tmp_path, files, source, import_root, module):
    root = tree(tmp_path, {"setup.py": "", **files})
    found = placed(root, source)
    assert (found.import_root, found.module) == ((root / import_root).resolve(), module)
    probe = subprocess.run([sys.executable, "-c", f"import {module}"], cwd=found.import_root, check=False)
    assert probe.returncode == 0


@pytest.mark.parametrize(
    ("source", "why"),
    [("pkg/class.py", "class is a keyword"), ("pkg/my-mod.py", "my-mod is no name"), ("2x.py", "2x is no name")],
)
def test_a_module_without_a_name_is_refused(tmp_path, source, why):
    root = tree(tmp_path, {"setup.py": "", "pkg/__init__.py": "", source: CODE})
    with pytest.raises(UsageError, match=why):
        placed(root, source)


# ---------------------------------------------------------------- where a new file goes

MODULES = ("pkg.a", "pkg.b", "pkg.sub.c", "pkg.sub.d", "pkg.sub.deep.e", "pkg.sub.new", "pkg.other.g")


@pytest.mark.parametrize(
    ("tests", "expected"),
    [
        # mirrored, with the package's own folder, without it, and with src
        (["tests/pkg/test_a.py", "tests/pkg/sub/test_c.py"], "tests/pkg/sub/test_new.py"),
        (["tests/test_a.py", "tests/sub/test_c.py"], "tests/sub/test_new.py"),
        (["tests/src/pkg/test_a.py", "tests/src/pkg/sub/test_c.py"], "tests/src/pkg/sub/test_new.py"),
        (["tests/unit/test_a.py", "tests/unit/sub/deep/test_e.py"], "tests/unit/sub/test_new.py"),
        # flat
        (["tests/test_a.py", "tests/test_b.py"], "tests/test_new.py"),
        (["tests/test_a.py", "tests/test_c.py", "tests/test_e.py"], "tests/test_new.py"),
        (["tests/test_a.py", "tests/test_sub_c.py", "tests/test_sub_deep_e.py"], "tests/test_sub_new.py"),
        (["tests/test_pkg_a.py", "tests/test_pkg_sub_c.py"], "tests/test_pkg_sub_new.py"),
        (["tests/unit/test_a.py", "tests/unit/test_c.py", "tests/other/test_d.py"], "tests/unit/test_new.py"),
        (["test/test_a.py", "test/test_c.py"], "test/test_new.py"),
        (["test_a.py", "test_c.py"], "test_new.py"),
        # beside the module
        (["src/pkg/test_a.py", "src/pkg/sub/test_c.py"], "src/pkg/sub/test_new.py"),
        (["src/pkg/a_test.py", "src/pkg/sub/deep/e_test.py"], "src/pkg/sub/new_test.py"),
        # in the package
        (["src/pkg/tests/test_a.py", "src/pkg/sub/tests/test_c.py"], "src/pkg/sub/tests/test_new.py"),
        (["src/pkg/tests/test_a.py", "src/pkg/tests/sub/test_c.py"], "src/pkg/tests/sub/test_new.py"),
        (["src/pkg/tests/test_a.py", "src/pkg/tests/test_c.py"], "src/pkg/tests/test_new.py"),
        # nothing but a folder, or nothing
        (["tests/conftest.py"], "tests/test_new.py"),
        ([], "tests/test_new.py"),
    ],
)
def test_a_new_file_goes_where_the_project_would_put_it(tmp_path, tests, expected):
    by_stem = {module.rpartition(".")[2]: module for module in MODULES}
    files = {test: "@" + by_stem[Path(test).stem.removeprefix("test_").removesuffix("_test").rpartition("_")[2]]
             for test in tests if "conftest" not in test}  # fmt: skip
    files |= {test: "" for test in tests if "conftest" in test}
    root = tree(tmp_path, {"pyproject.toml": PYPROJECT, **package(*MODULES, src="src"), **files})
    assert goes_to(root, "src/pkg/sub/new.py") == expected


def test_of_two_ways_that_explain_the_same_pairs_the_one_that_fits_other_folders_is_taken(tmp_path):
    root = tree(tmp_path, {"setup.py": "", **package(*MODULES), "tests/sub/test_c.py": "@pkg.sub.c"})
    assert goes_to(root, "pkg/other/g.py") == "tests/other/test_g.py"


def test_names_alone_are_no_pair(tmp_path):
    """Many packages hold a ``utils``: the test of one says nothing of the others."""
    root = tree(
        tmp_path,
        {
            "setup.py": "", **package("pkg.a.utils", "pkg.b.utils", "pkg.b.new"),
            "tests/a/test_utils.py": "@pkg.a.utils", "tests/wrong/test_utils.py": "import json\n",
        },
    )  # fmt: skip
    assert goes_to(root, "pkg/b/new.py") == "tests/b/test_new.py"
    assert placed(root, "pkg/b/utils.py").existing == ()
    assert placed(root, "pkg/a/utils.py").existing == (root / "tests/a/test_utils.py",)


def test_where_parts_of_a_project_differ_a_modules_own_folder_decides(tmp_path):
    near = {f"pkg/old/test_m{n}.py": f"@pkg.old.m{n}" for n in range(3)}
    far = {f"tests/test_n{n}.py": f"@pkg.new.n{n}" for n in range(5)}
    modules = [f"pkg.old.m{n}" for n in range(4)] + [f"pkg.new.n{n}" for n in range(6)]
    root = tree(tmp_path, {"setup.py": "", **package(*modules), **near, **far})
    assert goes_to(root, "pkg/old/m3.py") == "pkg/old/test_m3.py"
    assert goes_to(root, "pkg/new/n5.py") == "tests/test_n5.py"


def test_private_modules_keep_their_underscore_where_others_do(tmp_path):
    files = package("pkg._a", "pkg._b", "pkg._new")
    root = tree(tmp_path / "kept", {"setup.py": "", **files, "tests/test__a.py": "@pkg._a"})
    assert goes_to(root, "pkg/_new.py") == "tests/test__new.py"
    root = tree(tmp_path / "dropped", {"setup.py": "", **files, "tests/test_a.py": "@pkg._a"})
    assert goes_to(root, "pkg/_new.py") == "tests/test_new.py"


def test_a_lone_file_has_its_test_beside_it_and_its_home_is_not_searched(tmp_path):
    root = tree(tmp_path / "home", {"mod.py": CODE, "photos/tests/test_mod.py": "@mod", "photos/mod.py": CODE})
    found = find_project(root / "mod.py")
    assert (found.root, found.lone) == (root, True)
    assert goes_to(root, "mod.py") == "test_mod.py"
    root = tree(tmp_path / "other", {"mod.py": CODE, "tests/test_x.py": "@x"})
    assert goes_to(root, "mod.py") == "tests/test_mod.py"
    root = tree(tmp_path / "third", package("pkg.sub.mod"))
    assert goes_to(root, "pkg/sub/mod.py") == "pkg/sub/test_mod.py"


def test_a_package_and_a_main_module_have_tests_of_their_names(tmp_path):
    root = tree(tmp_path, {"setup.py": "", **package("pkg.sub.mod", "pkg.__main__")})
    assert goes_to(root, "pkg/sub/__init__.py") == "tests/test_sub.py"
    assert goes_to(root, "pkg/__init__.py") == "tests/test_pkg.py"
    assert goes_to(root, "pkg/__main__.py") == "tests/test_main.py"


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("*_test.py", "mod_test.py"),
        ("check_*.py", "check_mod.py"),
        ("test*.py", "test_mod.py"),
        ("*Test.py *_spec.py", "modTest.py"),
        ("*.py", "test_mod.py"),
        ("tests.py test_*.py", "test_mod.py"),
    ],
)
def test_pytest_collects_the_name(tmp_path, patterns, expected):
    root = tree(
        tmp_path, {"pytest.ini": f"[pytest]\npython_files = {patterns}\n", "mod.py": CODE, "tests/helper.txt": ""}
    )
    assert goes_to(root, "mod.py") == f"tests/{expected}"
    tree(root, {f"tests/{expected}": "def test_a(): pass\n"})
    assert f"tests/{expected}::test_a" in collect(root).stdout


# ---------------------------------------------------------------- files that are there

OURS = "from pkg.mod import f\n\n\ndef test_f():\n    assert f() == 1\n"


def test_a_persons_file_is_never_taken_and_ours_lies_beside_it(tmp_path):
    root = tree(tmp_path, {"setup.py": "", **package("pkg.mod"), "tests/unit/test_mod.py": "@pkg.mod"})
    found = placed(root, "pkg/mod.py")
    assert found.test_file == root / "tests/unit/test_mod_generated.py"
    assert (found.existing, found.ours) == ((root / "tests/unit/test_mod.py",), None)
    tree(root, {"tests/unit/test_mod_generated.py": marked(OURS, "m", CODE)})
    again = placed(root, "pkg/mod.py")
    assert again.test_file == again.ours == root / "tests/unit/test_mod_generated.py"
    assert again.existing == (root / "tests/unit/test_mod.py", root / "tests/unit/test_mod_generated.py")
    tree(root, {"tests/unit/test_mod_generated.py": marked(OURS, "m", CODE) + "# edited\n"})
    with pytest.raises(UsageError, match=r"test_mod_generated.py: exists already.*--out"):
        placed(root, "pkg/mod.py")


def test_what_we_wrote_is_written_again_until_somebody_edits_it(tmp_path):
    root = tree(tmp_path, {"setup.py": "", **package("pkg.mod")})
    first = placed(root, "pkg/mod.py").test_file
    assert first == root / "tests/test_mod.py"
    tree(root, {"tests/test_mod.py": marked(OURS, "m", CODE)})
    again = placed(root, "pkg/mod.py")
    assert (again.test_file, again.ours, again.existing) == (first, first, (first,))
    tree(root, {"tests/test_mod.py": marked(OURS, "m", CODE) + "\n\ndef test_mine(): pass\n"})
    edited = placed(root, "pkg/mod.py")
    assert (edited.test_file, edited.ours) == (root / "tests/test_mod_generated.py", None)
    assert edited.existing == (first,)


def test_a_file_that_we_wrote_elsewhere_is_found_by_what_it_says_of_the_module(tmp_path):
    root = tree(tmp_path, {"setup.py": "", **package("pkg.mod", "pkg.other")})
    tree(root, {"tests/test_special.py": marked(OURS, "m", CODE)})
    assert placed(root, "pkg/mod.py").test_file == root / "tests/test_special.py"
    (root / "pkg/mod.py").write_text(CODE + "\n\ndef g(): pass\n")  # no longer said to be of this text
    assert placed(root, "pkg/mod.py").test_file == root / "tests/test_mod.py"


def test_ours_of_another_module_of_the_name_is_not_overwritten(tmp_path):
    root = tree(tmp_path, {"setup.py": "", **package("pkg.a.mod", "pkg.b.mod")})
    first = placed(root, "pkg/a/mod.py").test_file
    tree(root, {first.relative_to(root).as_posix(): marked(OURS.replace("pkg.mod", "pkg.a.mod"), "m", CODE)})
    assert first == root / "tests/test_mod.py"
    assert goes_to(root, "pkg/b/mod.py") == "tests/test_b_mod.py"
    assert goes_to(root, "pkg/a/mod.py") == "tests/test_mod.py"


def test_out_is_the_users_choice(tmp_path):
    root = tree(tmp_path, {"setup.py": "", **package("pkg.mod"), "tests/mine.py": "", "tests/test_mod.py": "@pkg.mod"})
    assert placed(root, "pkg/mod.py", root / "new" / "t.py").test_file == root / "new" / "t.py"
    (root / "folder").mkdir()
    assert placed(root, "pkg/mod.py", root / "folder").test_file == root / "folder" / "test_mod.py"
    with pytest.raises(UsageError, match="exists already, and is not touched"):
        placed(root, "pkg/mod.py", root / "tests" / "mine.py")
    tree(root, {"tests/mine.py": marked(OURS, "m", CODE)})
    found = placed(root, "pkg/mod.py", root / "tests" / "mine.py")
    assert found.ours == found.test_file == root / "tests" / "mine.py"
    tree(root, {"tests/mine.py": marked(OURS.replace("pkg.mod", "pkg.other"), "m", CODE)})
    with pytest.raises(UsageError, match="holds the tests of another module"):
        placed(root, "pkg/mod.py", root / "tests" / "mine.py")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from pkg.mod import f\n", True),
        ("import pkg.mod as m\n", True),
        ("import os, pkg.mod\n", True),
        ("from pkg import (\n    other,\n    mod,\n)\n", True),
        ("def test_a():\n    from pkg.mod import f\n", True),
        ("from pkg import other\n", False),
        ("from pkg.models import x\n", False),
        ('TEXT = """\nfrom pkg.mod import f\n"""\n', False),
        ("# import pkg.mod\n", False),
        ("from pkg.mod import f\n\ndef broken(:\n", False),
        ("from pkg.mod import f\nX = '" + "x" * (1 << 20) + "'\n", False),
    ],
)
def test_tests_of_another_name_are_found_by_their_imports(tmp_path, text, found):
    root = tree(tmp_path, {"setup.py": "", **package("pkg.mod", "pkg.other"), "tests/test_story.py": text})
    assert placed(root, "pkg/mod.py").existing == ((root / "tests/test_story.py",) if found else ())


def test_a_test_file_that_does_not_parse_is_passed_over_and_not_overwritten(tmp_path):
    files = {"tests/test_mod.py": "from pkg.mod import f\n\ndef broken(:\n"}
    root = tree(tmp_path, {"setup.py": "", **package("pkg.mod"), **files})
    found = placed(root, "pkg/mod.py")
    assert (found.existing, found.test_file) == ((), root / "tests/test_mod_generated.py")


def test_relative_imports_of_tests_in_the_package_count(tmp_path):
    root = tree(
        tmp_path,
        {
            "setup.py": "", **package("pkg.mod"), "pkg/tests/__init__.py": "",
            "pkg/tests/test_story.py": "from ..mod import f\n", "pkg/tests/test_other.py": "from .. import mod\n",
        },
    )  # fmt: skip
    assert [path.name for path in placed(root, "pkg/mod.py").existing] == ["test_other.py", "test_story.py"]


def test_a_changed_test_file_is_read_again(tmp_path):
    root = tree(tmp_path, {"setup.py": "", **package("pkg.mod"), "tests/test_story.py": "import json\n"})
    assert placed(root, "pkg/mod.py").existing == ()
    tree(root, {"tests/test_story.py": "import json, pkg.mod\n"})
    assert len(placed(root, "pkg/mod.py").existing) == 1


# ---------------------------------------------------------------- names that pytest can tell apart


def test_a_base_name_that_pytest_would_refuse_is_not_used(tmp_path):
    root = tree(
        tmp_path,
        {
            "setup.py": "", **package("pkg.a.x", "pkg.a.utils", "pkg.b.y", "pkg.b.utils"),
            "tests/a/test_x.py": "@pkg.a.x", "tests/b/test_y.py": "@pkg.b.y", "tests/a/test_utils.py": "@pkg.a.utils",
        },
    )  # fmt: skip
    chosen = placed(root, "pkg/b/utils.py").test_file
    assert chosen == root / "tests/b/test_b_utils.py"
    refused = tree(root, {"tests/b/test_utils.py": "@pkg.b.utils"}) / "tests/b/test_utils.py"
    assert "import file mismatch" in collect(root).stdout  # what the plain name would do
    refused.rename(chosen)
    assert collect(root).returncode == 0


@pytest.mark.parametrize("way", ["importlib", "packages"])
def test_where_pytest_can_tell_them_apart_the_plain_name_is_used(tmp_path, way):
    files = {"tests/__init__.py": "", "tests/a/__init__.py": "", "tests/b/__init__.py": ""} if way == "packages" else {}
    options = "addopts = --import-mode=importlib\n" if way == "importlib" else ""
    root = tree(
        tmp_path,
        {
            "pytest.ini": f"[pytest]\npythonpath = .\n{options}",
            **package("pkg.a.x", "pkg.a.utils", "pkg.b.y", "pkg.b.utils"),
            "tests/a/test_x.py": "@pkg.a.x", "tests/b/test_y.py": "@pkg.b.y", "tests/a/test_utils.py": "@pkg.a.utils",
            **files,
        },
    )  # fmt: skip
    chosen = placed(root, "pkg/b/utils.py").test_file
    assert chosen == root / "tests/b/test_utils.py"
    tree(root, {"tests/b/test_utils.py": "@pkg.b.utils"})
    assert collect(root).returncode == 0


# ---------------------------------------------------------------- conftest.py


THROUGH = """
import pytest
import pkg.b
from pkg import a

def made():
    return a.Thing()

@pytest.fixture
def thing():
    return made()

@pytest.fixture(name="local")
def _local():
    from pkg.sub.c import f
    return f

@pytest.fixture
def other():
    return pkg.b.f
"""


def test_a_test_file_that_reaches_a_module_through_a_fixture_alone_is_the_modules(tmp_path):
    nearer = "import pytest\n\n@pytest.fixture\ndef thing(thing):\n    return thing\n"
    root = tree(
        tmp_path,
        {
            "setup.py": "", **package("pkg.a", "pkg.b", "pkg.sub.c"), "conftest.py": THROUGH,
            "tests/unit/conftest.py": nearer,
            "tests/unit/test_a.py": "def test_f(thing):\n    assert thing\n",
            "tests/unit/test_deep.py": "class TestC:\n    def test_f(self, local):\n        assert local\n",
            "tests/unit/test_more.py": "def test_f():\n    thing = other = 1\n    assert thing\n",
        },
    )  # fmt: skip
    found = {name: [path.name for path in placed(root, f"pkg/{name}.py").existing] for name in ("a", "b", "sub/c")}
    assert found == {"a": ["test_a.py"], "b": [], "sub/c": ["test_deep.py"]}
    assert goes_to(root, "pkg/a.py") == "tests/unit/test_a_generated.py"
    assert goes_to(root, "pkg/b.py") == "tests/unit/test_b.py"
    (root / "conftest.py").write_text(THROUGH.replace("a.Thing()", "pkg.b.f()"))
    assert [path.name for path in placed(root, "pkg/b.py").existing] == ["test_a.py"]


def test_each_test_file_is_looked_through_once_however_many_fixtures_there_are(tmp_path, monkeypatch):
    fixtures = "".join(f"\n\n@pytest.fixture\ndef thing_{n}():\n    return pkg.mod.f\n" for n in range(60))
    files = {f"tests/unit/test_{n}.py": f"def test_f(thing_{n}):\n    assert thing_{n}\n" for n in range(20)}
    conftest = f"import pkg.mod\nimport pytest\n{fixtures}"
    root = tree(tmp_path, {"setup.py": "", **package("pkg.mod"), "conftest.py": conftest, **files})
    read = []
    parse = fixture_imports.parse
    monkeypatch.setattr(fixture_imports, "parse", lambda text: (read.append(text), parse(text))[1])
    assert len(placed(root, "pkg/mod.py").existing) == 20
    assert sorted(read) == sorted([conftest, *files.values()])


def test_every_conftest_down_to_the_test_is_joined_and_runs_as_one(tmp_path):
    root = tree(
        tmp_path,
        {
            "setup.py": "", **package("pkg.mod"), "tests/unit/test_other.py": "@pkg.other", "pkg/other.py": CODE,
            "conftest.py": "from __future__ import annotations\nimport pytest\n\n"
            "@pytest.fixture\ndef both():\n    return 'root'\n",
            "tests/__init__.py": "",
            "tests/data.py": "VALUE = 7\n",
            "tests/conftest.py": '"""Text."""\nfrom __future__ import (\n    annotations,\n    division,\n)\n'
            "import pytest\nfrom .data import VALUE\n\n"
            "@pytest.fixture(name='named')\ndef _named():\n    return VALUE\n",
            "tests/unit/conftest.py": "import pytest\n\nif True:\n\n"
            "    @pytest.fixture()\n    def both():\n        return 'unit'\n",
            "tests/cli/conftest.py": "raise RuntimeError\n",
        },
    )  # fmt: skip
    found = placed(root, "pkg/mod.py")
    assert found.test_file == root / "tests/unit/test_mod.py"
    assert found.fixtures == ("both", "named")
    assert found.conftest.startswith("from __future__ import annotations, division\n")
    assert found.conftest.count("__future__") == 1
    away = tree(
        tmp_path / "away",
        {
            "pytest.ini": f"[pytest]\npythonpath = {root}\n", "conftest.py": found.conftest,
            "test_it.py": "def test_it(both, named):\n    assert (both, named) == ('unit', 7)\n",
        },
    )  # fmt: skip
    done = own_pytest(away)
    assert done.returncode == 0, done.stdout


def test_without_a_conftest_there_is_no_text_and_a_broken_one_is_named(tmp_path):
    root = tree(tmp_path, {"setup.py": "", **package("pkg.mod")})
    assert (placed(root, "pkg/mod.py").conftest, placed(root, "pkg/mod.py").fixtures) == ("", ())
    tree(root, {"conftest.py": "def (:\n"})
    with pytest.raises(UsageError, match=r"conftest\.py: does not parse"):
        placed(root, "pkg/mod.py")


# ---------------------------------------------------------------- style


def styled(folder: Path, tests: dict[str, str], **files: str) -> Style:
    root = tree(folder, {"setup.py": "", **package("pkg.mod", "pkg.other"), **tests, **files})
    return find_project(root / "pkg/mod.py").style


def test_style_is_that_of_the_tests_that_are_there(tmp_path):
    first = styled(
        tmp_path / "a", {"tests/test_a.py": "from pkg.mod import f\n\ndef test_f():\n    assert f() == 'a'\n"}
    )
    assert (first.imports, first.classes, first.quotes, first.line_length) == ("from", False, "'", 88)
    text = "import pkg.mod\nfrom pkg import other\n\n"
    text += 'class TestF:\n    def test_f(self):\n        assert other.f("a", "b\'")\n'
    second = styled(tmp_path / "b", {"tests/test_a.py": text})
    assert (second.imports, second.classes, second.quotes) == ("module", True, '"')
    assert styled(tmp_path / "c", {}) == Style()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"pyproject.toml": "[tool.ruff]\nline-length = 120\n"}, (120, ("ruff", "format"))),
        ({"ruff.toml": "line-length = 99\n[format]\nquote-style = 'single'\n"}, (99, ("ruff", "format"))),
        ({"pyproject.toml": "[tool.black]\nline-length = 79\n"}, (79, ("black",))),
        ({"pyproject.toml": "[tool.ruff]\nline-length = 100\n[tool.black]\n"}, (100, ("black",))),
        ({"pyproject.toml": "[tool.ruff.format]\n[tool.black]\n"}, (88, ("ruff", "format"))),
        ({".pre-commit-config.yaml": "repos:\n- hooks:\n  - id: black\n"}, (88, ("black",))),
        ({".pre-commit-config.yaml": "repos:\n- hooks:\n  - id: ruff-format\n"}, (88, ("ruff", "format"))),
        ({"setup.cfg": "[flake8]\nmax-line-length = 110  # wide\n"}, (110, None)),
        ({}, (88, None)),
    ],
)
def test_the_formatter_is_the_projects_where_it_is_installed(tmp_path, monkeypatch, files, expected):
    tools = tree(tmp_path / "bin", {"ruff": "", "black": ""})
    for name in ("ruff", "black"):
        (tools / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    found = styled(tmp_path / "mine", {}, **files)
    assert (found.line_length, found.formatter) == expected
    monkeypatch.setattr(style_module, "command_for", lambda name: None)
    monkeypatch.setattr("lowvram_ft.testgen.project.conventions.command_for", lambda name: None)
    assert styled(tmp_path / "mine", {}, **files).formatter is None


UGLY = "import os\ndef test_a( ):\n    assert   1\n"


def formatter(folder: Path, monkeypatch, body: str) -> Style:
    """A command of our own in the place of a formatter."""
    script = folder / "tool"
    script.write_text(f"#!{sys.executable}\nimport sys, time\ntext = sys.stdin.read()\n{body}\n")
    script.chmod(stat.S_IRWXU)
    monkeypatch.setattr(style_module, "command_for", lambda name: str(script) if name == "tool" else None)
    return Style(formatter=("tool", "format"))


def test_text_is_formatted_on_standard_input_for_the_files_own_place(tmp_path, monkeypatch):
    body = "print(text.replace('( )', '()').replace('   1', ' 1') + '# ' + ' '.join(sys.argv[1:]), end='')"
    style = formatter(tmp_path, monkeypatch, body)
    file = tmp_path / "not" / "there" / "test_a.py"
    text, reason = format_with(style, UGLY, file)
    assert reason == ""
    assert text == f"import os\ndef test_a():\n    assert 1\n# format --quiet --stdin-filename {file} -"
    assert format_with(Style(), UGLY, file) == (UGLY, "")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("sys.exit('no such option')", "tool failed with 1 (no such option)"),
        ("print('x = 1')", "tool answered with other code"),
        ("print('def (')", "tool answered with other code"),
        ("pass", "tool answered with other code"),
        ("sys.stdout.buffer.write(b'\\xff')", "tool answered with what is not UTF-8"),
        ("time.sleep(600)", "tool gave no answer in 1 s"),
    ],
)
def test_where_the_formatter_fails_the_text_stays_and_the_reason_is_told(tmp_path, monkeypatch, body, why):
    monkeypatch.setattr(style_module, "TIMEOUT_S", 1.0 if "sleep" in body else 60.0)
    style = formatter(tmp_path, monkeypatch, body)
    assert format_with(style, UGLY, tmp_path / "test_a.py") == (UGLY, why)
    assert format_with(Style(formatter=("gone",)), UGLY, tmp_path / "a.py") == (UGLY, "gone is not installed")


def test_ruff_formats_by_the_projects_own_settings(tmp_path):
    if style_module.command_for("ruff") is None:
        pytest.skip("ruff is not installed")
    root = tree(
        tmp_path, {"ruff.toml": "line-length = 20\n[format]\nquote-style = 'single'\n", "setup.py": "", "mod.py": CODE}
    )
    project = find_project(root / "mod.py")
    assert project.style == Style(quotes="'", line_length=20, formatter=("ruff", "format"))
    text, reason = format_with(project.style, 'x = f("aaaaaaaa", "bbbbbbbb")\n', root / "tests" / "test_mod.py")
    assert (text, reason) == ("x = f(\n    'aaaaaaaa',\n    'bbbbbbbb',\n)\n", "")
    assert ast.parse(text)
