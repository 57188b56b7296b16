"""Small repositories of every layout: which module is paired with which test file, and rows that pass when run."""

import os
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from lowvram_ft.data.from_repo.facts import repository_name, repository_version
from lowvram_ft.data.from_repo.import_graph import Binding, ImportGraph, Target
from lowvram_ft.data.from_repo.pairs import find_pairs
from lowvram_ft.data.from_repo.source_tree import LeftOut, find_files
from lowvram_ft.data.syntax import parse
from lowvram_ft.errors import DataError

SHAPES = """
    def area(width, height):
        return width * height

    def perimeter(width, height):
        return 2 * (width + height)
"""
WORDS = """
    def shout(text):
        return text.upper() + "!"
"""
TEST_SHAPES = """
    from pkg.shapes import area, perimeter

    def test_area():
        assert area(2, 3) == 6

    def test_perimeter():
        assert perimeter(2, 3) == 10
"""
TEST_WORDS = """
    import pkg.words

    def test_shout():
        assert pkg.words.shout("hi") == "HI!"
"""


def write(folder, files):
    """Files by path; their texts are dedented."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"), encoding="utf-8")
    return folder


def paired(folder, *only, left_out=None):
    """Test file to modules, with the tests that reach each."""
    pairs = find_pairs(folder, only, left_out=left_out)
    return {(pair.test.relative, pair.code.module): [part.name for part in pair.tests] for pair in pairs}


BOTH = {
    "pkg.shapes": ["test_area", "test_perimeter"],
    "pkg.words": ["test_shout"],
}


# --- layouts


@pytest.mark.parametrize(
    ("source", "shapes", "words"),
    [
        ("src/pkg", "tests/test_shapes.py", "tests/test_words.py"),
        ("pkg", "tests/test_shapes.py", "tests/unit/test_words.py"),
        ("pkg", "pkg/tests/test_shapes.py", "pkg/tests/test_words.py"),
        ("pkg", "pkg/test_shapes.py", "pkg/words_test.py"),
        ("pkg", "test/shapes_test.py", "test/test_words.py"),
    ],
)
def test_modules_are_paired_with_their_tests_in_every_layout(tmp_path, source, shapes, words):
    files = {"__init__.py": "", "shapes.py": SHAPES, "words.py": WORDS}
    write(tmp_path, {f"{source}/{name}": text for name, text in files.items()})
    write(tmp_path, {shapes: TEST_SHAPES, words: TEST_WORDS})
    assert paired(tmp_path) == {(shapes, "pkg.shapes"): BOTH["pkg.shapes"], (words, "pkg.words"): BOTH["pkg.words"]}
    (pair, *_) = find_pairs(tmp_path)
    assert pair.code.root == (tmp_path / source).parent, "the folder that makes `import pkg` work"


@pytest.mark.parametrize("source", ["src/pkg", "pkg"])
def test_packages_without_init_files_are_known_by_how_they_are_imported(tmp_path, source):
    write(tmp_path, {f"{source}/shapes.py": SHAPES, "tests/test_shapes.py": TEST_SHAPES})
    (pair,) = find_pairs(tmp_path)
    assert (pair.code.module, pair.code.root) == ("pkg.shapes", (tmp_path / source).parent)


def test_a_single_module_beside_its_test_is_a_repository_too(tmp_path):
    write(tmp_path, {"shapes.py": SHAPES, "test_shapes.py": TEST_SHAPES.replace("pkg.shapes", "shapes")})
    assert paired(tmp_path) == {("test_shapes.py", "shapes"): ["test_area", "test_perimeter"]}


def test_an_installed_package_is_read_from_site_packages_and_from_its_own_folder(tmp_path):
    site = tmp_path / "site-packages"
    write(site, {"pkg/__init__.py": "", "pkg/shapes.py": SHAPES, "pkg/tests/__init__.py": ""})
    write(site, {"pkg/tests/test_shapes.py": TEST_SHAPES, "other/__init__.py": "", "other/test_x.py": TEST_SHAPES})
    for folder, only in ((site, ["pkg"]), (site / "pkg", [])):
        (pair,) = find_pairs(folder, only)
        assert (pair.code.module, pair.code.root, pair.repo) == ("pkg.shapes", site, "pkg")
        assert pair.test.package == "pkg.tests"
    assert len(find_pairs(site)) == 2, "without a choice, all of it is read"


def test_only_chooses_test_files_and_still_finds_modules_elsewhere_in_the_package(tmp_path):
    write(tmp_path, {"pkg/__init__.py": "", "pkg/shapes.py": SHAPES, "pkg/words.py": WORDS})
    write(tmp_path, {"pkg/a/test_shapes.py": TEST_SHAPES, "pkg/b/test_words.py": TEST_WORDS})
    assert list(paired(tmp_path, "pkg/a")) == [("pkg/a/test_shapes.py", "pkg.shapes")]


# --- names


def test_names_are_followed_through_reexports_stars_and_aliases(tmp_path):
    write(
        tmp_path,
        {
            "pkg/__init__.py": "from .inner import *\nfrom pkg.words import shout as yell\n",
            "pkg/inner/__init__.py": "from .shapes import *\n__all__ = ['area']\n__all__ += ['perimeter']\n",
            "pkg/inner/shapes.py": SHAPES,
            "pkg/words.py": WORDS,
            "tests/test_shapes.py": """
                import pkg as p

                def test_area():
                    assert p.area(1, 2) == 2

                def test_by_path():
                    assert p.inner.shapes.perimeter(1, 2) == 6
            """,
            "tests/test_loud.py": """
                from pkg import yell

                def test_loud():
                    assert yell("a") == "A!"
            """,
        },
    )
    assert paired(tmp_path) == {
        ("tests/test_loud.py", "pkg.words"): ["test_loud"],
        ("tests/test_shapes.py", "pkg.inner.shapes"): ["test_area", "test_by_path"],
    }
    (shapes,) = [pair for pair in find_pairs(tmp_path) if pair.code.module.endswith("shapes")]
    assert shapes.reexports == {
        "pkg": frozenset({"area", "perimeter"}),
        "pkg.inner": frozenset({"area", "perimeter"}),
    }


def graph_of(folder):
    graph = ImportGraph()
    for file in find_files(folder, LeftOut()):
        tree = parse(file.read())
        assert tree is not None
        graph.add(file, tree)
    return graph


def test_resolution_agrees_with_the_interpreter(tmp_path, monkeypatch):
    """Every public name of every module, as Python itself imports them."""
    write(
        tmp_path,
        {
            "ownpkg/__init__.py": "from .a import *\nfrom . import b\nfrom .b import only_b as renamed\nimport os\n",
            "ownpkg/a.py": "from .b import *\ndef first(): pass\ndef _hidden(): pass\nclass Thing: pass\n",
            "ownpkg/b.py": "__all__ = ['second', '_listed']\n"
            "def second(): pass\ndef only_b(): pass\ndef _listed(): pass\n",
            "ownpkg/c.py": "try:\n    from .gone import second\nexcept ImportError:\n    from .b import second\n"
            "import ownpkg.a as alias\nif True:\n    def third(): pass\n",
        },
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    graph = graph_of(tmp_path)
    checked = 0
    for module in sorted(graph.names):
        __import__(module)
        for name, value in vars(sys.modules[module]).items():
            if getattr(value, "__module__", "").startswith("ownpkg"):
                assert graph.resolve(module, name) == Target(value.__module__, value.__name__), (module, name)
                checked += 1
        for name in ("_hidden", "only_b", "os", "nothing"):
            if not hasattr(sys.modules[module], name):
                assert graph.resolve(module, name) is None, (module, name)
    assert checked >= 14
    assert graph.follow(Binding("ownpkg.c", "alias"), ["Thing", "method"]) == Target("ownpkg.a", "Thing")
    for name in [name for name in sys.modules if name.startswith("ownpkg")]:
        del sys.modules[name]


def test_modules_that_import_each_other_in_a_circle_have_no_name_that_neither_defines(tmp_path):
    write(tmp_path, {"a.py": "from b import *\nfrom b import x\n", "b.py": "from a import *\nfrom a import x\n"})
    graph = graph_of(tmp_path)
    assert graph.resolve("a", "x") is None
    assert graph.resolve("a", "anything") is None


def test_lazily_attached_names_are_found(tmp_path):
    lazy = """
        import lazy_loader as lazy
        __getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={"shapes": ["area"]})
    """
    write(tmp_path, {"pkg/__init__.py": lazy, "pkg/shapes.py": SHAPES})
    assert graph_of(tmp_path).resolve("pkg", "area") == Target("pkg.shapes", "area")


# --- which module


def test_a_test_file_named_for_a_concept_goes_to_the_module_that_it_uses(tmp_path):
    write(tmp_path, {"pkg/__init__.py": "", "pkg/shapes.py": SHAPES, "pkg/words.py": WORDS})
    write(tmp_path, {"tests/test_geometry.py": TEST_SHAPES})
    (pair,) = find_pairs(tmp_path)
    assert pair.code.module == "pkg.shapes"
    assert pair.evidence.alike == 0.0 and pair.evidence.share == 1.0
    assert "100% of what its tests use is defined there: area (1), perimeter (1)" in str(pair.evidence)


def test_names_that_every_test_file_uses_say_nothing(tmp_path):
    files = {"pkg/__init__.py": "", "pkg/base.py": "class Base:\n    pass\n"}
    for name in ("one", "two", "six"):
        files[f"pkg/{name}.py"] = f"def make_{name}(base):\n    return base\n"
        files[f"tests/test_{name}.py"] = f"""
            from pkg.base import Base
            from pkg.{name} import make_{name}

            def test_make():
                assert make_{name}(Base())
        """
    assert [module for _, module in paired(write(tmp_path, files))] == ["pkg.one", "pkg.six", "pkg.two"]


def test_a_test_file_for_two_modules_gives_two_pairs_each_with_its_own_tests(tmp_path):
    write(tmp_path, {"pkg/__init__.py": "", "pkg/shapes.py": SHAPES, "pkg/words.py": WORDS})
    both = dedent(TEST_SHAPES) + dedent(TEST_WORDS) + "def test_again():\n    assert pkg.words.shout('')\n"
    write(tmp_path, {"tests/test_all.py": both})
    assert paired(tmp_path) == {
        ("tests/test_all.py", "pkg.shapes"): ["test_area", "test_perimeter"],
        ("tests/test_all.py", "pkg.words"): ["test_shout", "test_again"],
    }


def test_a_module_of_the_test_files_own_name_goes_first_and_takes_no_stranger_with_it(tmp_path):
    make = "def make(n):\n    return n\n\ndef more(n):\n    return n\n"
    test = """
        from pkg.groups import group
        from pkg.makers import make, more

        def test_group():
            assert group(make(1)) == make(1)

        def test_make():
            assert make(1) and more(1)
    """
    write(tmp_path, {"pkg/__init__.py": "", "pkg/groups.py": "def group(n):\n    return n\n", "pkg/makers.py": make})
    write(tmp_path, {"tests/test_groups.py": test})
    assert paired(tmp_path) == {("tests/test_groups.py", "pkg.groups"): ["test_group"]}
    (tmp_path / "tests/test_groups.py").rename(tmp_path / "tests/test_things.py")
    assert list(paired(tmp_path)) == [("tests/test_things.py", "pkg.makers")], "without the name, its uses decide"


def test_a_test_file_that_uses_its_namesake_by_way_of_another_module_is_left_out(tmp_path):
    factory = "from pkg.type_a import TypeA\n\ndef create(kind):\n    return TypeA()\n"
    test = "from pkg.factory import create\n\ndef test_a():\n    assert create('A')\n"
    write(tmp_path, {"pkg/__init__.py": "", "pkg/factory.py": factory, "pkg/type_a.py": "class TypeA:\n    pass\n"})
    write(tmp_path, {"tests/test_type_A.py": test, "tests/test_factory.py": test})
    left_out = LeftOut()
    assert list(paired(tmp_path, left_out=left_out)) == [("tests/test_factory.py", "pkg.factory")]
    assert left_out.reasons == {"test file is named for a module that it does not use by name": 1}


def test_uses_are_followed_through_helpers_fixtures_classes_and_set_up(tmp_path):
    write(
        tmp_path,
        {
            "pkg/__init__.py": "",
            "pkg/shapes.py": SHAPES,
            "tests/test_shapes.py": """
                import pytest
                from pkg import shapes

                def helper():
                    return shapes.area(1, 1)

                @pytest.fixture
                def one():
                    return helper()

                def test_by_fixture(one):
                    assert one == 1

                def test_by_helper():
                    assert helper() == 1

                def test_not_at_all():
                    assert True

                def test_shadowed(shapes):
                    assert shapes.area

                class TestSetUp:
                    def setup_method(self):
                        self.area = shapes.area(2, 2)

                    def test_by_set_up(self):
                        assert self.area == 4
            """,
        },
    )
    assert paired(tmp_path) == {
        ("tests/test_shapes.py", "pkg.shapes"): ["test_by_fixture", "test_by_helper", "TestSetUp::test_by_set_up"]
    }


def test_test_files_that_use_nothing_of_the_repository_are_counted(tmp_path):
    write(tmp_path, {"pkg/__init__.py": "", "pkg/shapes.py": SHAPES, "tests/test_shapes.py": TEST_SHAPES})
    write(tmp_path, {"tests/test_own.py": "import os\n\ndef test_os():\n    assert os.name\n"})
    left_out = LeftOut()
    assert len(find_pairs(tmp_path, left_out=left_out)) == 1
    assert left_out.examples == {"test file uses no module of the repository that can be told": ["tests/test_own.py"]}


def test_modules_that_help_tests_are_not_under_test(tmp_path):
    helper = "def check(value):\n    assert value\n"
    test = """
        from pkg.testing import check
        from tests.common import check as other

        def test_check():
            check(1)
            other(1)
    """
    write(tmp_path, {"pkg/__init__.py": "", "pkg/shapes.py": SHAPES, "pkg/testing/__init__.py": helper})
    write(tmp_path, {"tests/__init__.py": "", "tests/common.py": helper, "tests/test_check.py": test})
    with pytest.raises(DataError, match="none of its 1 test files uses a module of it"):
        find_pairs(tmp_path)


# --- trees that are not as they should be


def test_broken_files_are_counted_and_the_rest_is_read(tmp_path):
    write(tmp_path, {"pkg/__init__.py": "", "pkg/shapes.py": SHAPES, "tests/test_shapes.py": TEST_SHAPES})
    write(tmp_path, {"pkg/old.py": "print 'two'\n", "pkg/deep.py": "x = " + "(" * 5000, "pkg/null.py": "x = '\0'\n"})
    (tmp_path / "pkg/latin.py").write_bytes(b"x = '\xe9'\n")
    (tmp_path / "pkg/huge.py").write_bytes(b"x = 1\n" * 500_000)
    (tmp_path / "pkg/loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "pkg/gone.py").symlink_to(tmp_path / "nowhere.py")
    os.mkfifo(tmp_path / "pkg/pipe.py")
    left_out = LeftOut()
    assert len(find_pairs(tmp_path, left_out=left_out)) == 1
    assert left_out.examples == {
        "does not parse": ["pkg/deep.py", "pkg/null.py", "pkg/old.py"],
        "is not UTF-8": ["pkg/latin.py"],
        "is larger than 2 MiB": ["pkg/huge.py"],
        "is a link": ["pkg/gone.py", "pkg/loop"],
    }


def test_junk_folders_are_passed_over_but_not_packages_of_the_same_name(tmp_path):
    write(tmp_path, {"pkg/__init__.py": "", "pkg/shapes.py": SHAPES, "tests/test_shapes.py": TEST_SHAPES})
    for folder in (
        ".venv/lib",
        "env",
        "node_modules/x",
        "build/lib/pkg",
        ".tox/py",
        "lib/site-packages/pkg",
        "__pycache__",
    ):
        write(tmp_path, {f"{folder}/test_shapes.py": TEST_SHAPES})
    write(tmp_path, {"myenv/pyvenv.cfg": "", "myenv/test_shapes.py": TEST_SHAPES})
    write(tmp_path, {"pkg/build/__init__.py": "", "pkg/build/test_shapes.py": TEST_SHAPES})
    assert [test for test, _ in paired(tmp_path)] == ["pkg/build/test_shapes.py", "tests/test_shapes.py"]


def test_the_result_does_not_depend_on_the_order_of_the_file_system(tmp_path, monkeypatch):
    write(tmp_path, {"pkg/__init__.py": "from .shapes import *\n", "pkg/shapes.py": SHAPES, "pkg/words.py": WORDS})
    write(tmp_path, {"tests/test_shapes.py": TEST_SHAPES, "tests/test_words.py": TEST_WORDS})
    forward = find_pairs(tmp_path)
    real = os.scandir

    class Backwards:
        def __init__(self, path):
            with real(path) as found:
                self.entries = list(found)[::-1]

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *exc):
            return None

    monkeypatch.setattr(os, "scandir", Backwards)
    assert find_pairs(tmp_path) == forward


def test_a_folder_without_tests_says_what_was_looked_for(tmp_path):
    write(tmp_path, {"pkg/__init__.py": "", "pkg/shapes.py": SHAPES, "pkg/test_data.py": "ROWS = [1]\n"})
    with pytest.raises(DataError) as caught:
        find_pairs(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: no test was found in 3 Python files (looked for functions test… and classes Test… in test_*.py, "
        "*_test.py, tests.py and folders tests/ and test/); name a repository that holds its tests"
    )


@pytest.mark.parametrize(
    ("make", "path", "only", "message"),
    [
        ({}, "gone", (), "there is no such folder"),
        ({"a.py": ""}, "a.py", (), "is a file"),
        ({"README.md": ""}, ".", (), "holds no Python file that can be imported"),
        ({"a.py": ""}, ".", ("b",), "there is no such file or folder; check the name"),
        ({"a/b.py": ""}, ".", ("a/c",), "there is no such file or folder; check the name"),
    ],
)
def test_a_wrong_folder_is_named(tmp_path, make, path, only, message):
    write(tmp_path, make)
    with pytest.raises(DataError, match=message):
        find_pairs(tmp_path / path, only)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("git@github.com:owner/thing.git", "owner/thing"),
        ("https://example.org/owner/thing", "owner/thing"),
        ("https://example.org/deep/owner/thing.git/", "owner/thing"),
        ("", "folder"),
    ],
)
def test_a_repository_is_named_by_its_remote_or_its_folder(tmp_path, url, name):
    folder = write(tmp_path / "folder", {".git/config": f'[core]\n\tbare\n[remote "origin"]\n\turl = {url}\n'})
    assert repository_name(folder) == name
    assert repository_name(Path("/x/site-packages")) == ""


def test_a_version_is_read_from_what_is_installed_then_the_commit_then_the_project(tmp_path):
    write(tmp_path, {"pyproject.toml": '[project]\nversion = "1.2"\n'})
    assert repository_version(tmp_path, tmp_path / "a", "pkg") == "1.2"
    commit, packed = "0123456789" * 4, "9876543210" * 4
    write(tmp_path, {".git/HEAD": "ref: refs/heads/main\n", ".git/packed-refs": f"{packed} refs/heads/main\n"})
    assert repository_version(tmp_path, tmp_path / "b", "pkg") == packed
    write(tmp_path, {".git/refs/heads/main": commit + "\n"})
    assert repository_version(tmp_path, tmp_path / "c", "pkg") == commit
    (tmp_path / "d/pkg-3.1.dist-info").mkdir(parents=True)
    (tmp_path / "d/pkg_other-9.dist-info").mkdir()
    assert repository_version(tmp_path, tmp_path / "d", "pkg") == "3.1"
    assert repository_version(tmp_path / "none", tmp_path / "none", "pkg") == ""


def test_progress_is_told_file_by_file(tmp_path):
    write(tmp_path, {"pkg/__init__.py": "", "pkg/shapes.py": SHAPES, "tests/test_shapes.py": TEST_SHAPES})
    told = []
    find_pairs(tmp_path, on_progress=lambda *step: told.append(step))
    assert told == [("read modules", 1, 3), ("read modules", 2, 3), ("read modules", 3, 3), ("read tests", 1, 1)]
