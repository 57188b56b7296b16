"""The one import line of a test: by examples, by running tests before and after, and over the kit's own samples."""

import json
import time
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowvram_ft.data.imports import CannotNormalize, import_from_solution
from lowvram_ft.data.imports import solution_line as imports
from lowvram_ft.execution import run_tests

CODE = """\
import math

LIMIT = 3
counter = 0


def f(a=1):
    return a


def g():
    return f()


def sum(values):
    return -1


def test_connection():
    return True


def bump():
    global counter
    counter += 1


class Box:
    pass
"""
TEST = "\n\n\ndef test_a():\n    assert {}\n"


def samples():
    folder = files("lowvram_ft.data") / "samples"
    for name in ("functions", "modules"):
        for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def normalized(test, code=CODE, module="solution", **options):
    """The result, which a second time must not change."""
    found = import_from_solution(test, code, module, **options)
    assert import_from_solution(found, code, module, **options) == found, "normalizing twice changes something"
    return found


def verdicts(code, test, module="solution"):
    verdict = run_tests(code, module, test)
    return verdict.status, [(result.name, result.outcome) for result in verdict.results]


# --- what is imported


@pytest.mark.parametrize(
    ("head", "uses", "line"),
    [
        ("from solution import *", "f() == g()", "from solution import f, g"),
        ("from solution import g, f", "f() == g()", "from solution import f, g"),
        ("from solution import f, g, Box", "f() == g()", "from solution import f, g"),
        ("from solution import (\n    g,  # why\n    f,\n)", "f() == g()", "from solution import f, g"),
        ("from solution import f as ff", "ff()", "from solution import f as ff"),
        ("from solution import f", "f() == g()", "from solution import f, g"),
        ("from solution import f", "f() == sum([1])", "from solution import f"),
        ("from solution import *", "f() == sum([1])", "from solution import f, sum"),
        ("from solution import f", "f() == math.pi", "from solution import f, math"),
        ("from solution import LIMIT", "LIMIT == 3", "from solution import LIMIT"),
        ("from solution import f, g", "f() == eval('g()')", "from solution import f, g"),
        ("from solution import f  # noqa: F401", "f()", "from solution import f  # noqa: F401"),
    ],
)
def test_one_sorted_line_holds_the_names_that_are_used(head, uses, line):
    assert normalized(head + TEST.format(uses)) == line + TEST.format(uses)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def test_a():\n    assert f()\n", "from solution import f\n\n\ndef test_a():\n    assert f()\n"),
        ("\n\nimport os\n\nassert f()\n", "\n\nfrom solution import f\nimport os\n\nassert f()\n"),
        ('"""Doc."""\nassert f()\n', '"""Doc."""\n\nfrom solution import f\n\n\nassert f()\n'),
        ('"""Doc."""\n\nimport os\nassert f()', '"""Doc."""\n\nfrom solution import f\nimport os\nassert f()'),
        (
            '"""Doc."""\nfrom __future__ import annotations\nimport os\nassert f()\n',
            '"""Doc."""\nfrom __future__ import annotations\n\nfrom solution import f\nimport os\nassert f()\n',
        ),
        (
            "#!/bin/x\n# coding: utf-8\nassert f()\n",
            "#!/bin/x\n# coding: utf-8\nfrom solution import f\n\n\nassert f()\n",
        ),
        ("assert f()", "from solution import f\n\n\nassert f()"),
        ("import os\r\nassert f()\r\n", "from solution import f\r\nimport os\r\nassert f()\r\n"),
    ],
)
def test_a_test_without_an_import_gets_it_after_docstring_and_future(before, after):
    assert normalized(before) == after


def test_a_name_that_the_test_binds_itself_is_its_own():
    own = "from solution import *\n\n\ndef f():\n    return 7\n\n\ndef test_a():\n    assert f() == 7 and g()\n"
    assert normalized(own).startswith("from solution import g\n")
    shadowed = (
        "from solution import *\n\nold = f()\n\n\ndef f():\n    return 7\n\n\ndef test_a():\n    assert f() == 7\n"
    )
    assert normalized(shadowed).startswith("from solution import f\n"), "it is read before the test binds it"


@pytest.mark.parametrize("name", ["f", "[f for f in ()]", "(lambda f: f)(1)", "{'f': 1}['f']", "os.f"])
def test_only_a_name_that_python_would_look_up_in_the_module_counts(name):
    uses = f"from solution import g\nimport os\n\n\ndef test_a():\n    assert g() and {name}\n"
    assert normalized(uses).startswith("from solution import f, g\n" if name == "f" else "from solution import g\n")


def test_names_of_a_star_import_in_the_code_are_found_by_being_unknown():
    code = "from os.path import *\n\n\ndef f():\n    return join('a', 'b')\n"
    found = normalized("def test_a():\n    assert f() == join('a', 'b') and len('a')\n", code)
    assert found.startswith("from solution import f, join\n")


# --- other ways to import


@pytest.mark.parametrize(
    ("head", "uses", "line", "after"),
    [
        ("import solution", "solution.f() == 1", "from solution import f", "f() == 1"),
        ("import solution as s", "s.f(s.g())", "from solution import f, g", "f(g())"),
        ("import pkg.mod as m", "'é' and m.f(m.g())", "from solution import f, g", "'é' and f(g())"),
        ("import pkg.mod", "pkg.mod.f()", "from solution import f", "f()"),
        ("import pkg", "pkg.mod.f()", "from solution import f", "f()"),
        ("from pkg import mod", "mod.f() + mod . g()", "from solution import f, g", "f() + g()"),
        ("from pkg import mod as m, other", "m.f(other)", "from pkg import other\nfrom solution import f", "f(other)"),
        ("from pkg.mod import g, f as h", "h(g())", "from solution import f as h, g", "h(g())"),
        ("import os, solution", "solution.f(os)", "import os\nfrom solution import f", "f(os)"),
        ("from .mod import f", "f()", "from solution import f", "f()"),
        ("from . import mod", "mod.f()", "from solution import f", "f()"),
        ("import solution", "sum([1]) and solution.sum([1])", "from solution import sum as solution_sum",
         "sum([1]) and solution_sum([1])"),
        ("import solution as s", "s.test_connection()", "from solution import test_connection as s_test_connection",
         "s_test_connection()"),
        ("import pkg.mod\nimport pkg.other", "pkg.mod.f(pkg.other.f)", "from solution import f\nimport pkg.other",
         "f(pkg.other.f)"),
    ],
)  # fmt: skip
def test_attributes_of_the_module_become_names(head, uses, line, after):
    assert normalized(head + TEST.format(uses), module="pkg.mod", package="pkg") == line + TEST.format(after)


def test_relative_imports_are_understood_by_the_tests_own_package():
    test = "from ..mod import f" + TEST.format("f()")
    assert normalized(test, module="pkg.mod", package="pkg.tests").startswith("from solution import f\n")
    with pytest.raises(CannotNormalize):
        import_from_solution(test, CODE, "pkg.mod", package="")
    assert "..mod" in import_from_solution(test + "\ng()", CODE, "pkg.mod", package="other.deep.tests")


def test_reexports_become_names_and_the_rest_of_the_package_stays():
    test = "import networkx as nx\nfrom networkx import g, Graph" + TEST.format(
        "nx.f(nx.Graph()) and nx.sub.Box(g, Graph)"
    )
    found = normalized(
        test, module="networkx.algorithms.x", reexports={"networkx": {"f", "g"}, "networkx.sub": ["Box"]}
    )
    assert found == (
        "import networkx as nx\nfrom solution import Box, f, g\nfrom networkx import Graph"
        + TEST.format("f(nx.Graph()) and Box(g, Graph)")
    )
    alone = normalized("import networkx as nx" + TEST.format("nx.f()"), module="n.x", reexports={"networkx": {"f"}})
    assert alone == "from solution import f" + TEST.format("f()")


def test_a_fixture_or_parameter_of_the_same_name_makes_an_alias():
    test = "import solution\n\n\ndef test_a(f):\n    assert f == solution.f() == solution.g()\n"
    assert normalized(test) == (
        "from solution import f as solution_f, g\n\n\ndef test_a(f):\n    assert f == solution_f() == g()\n"
    )


def test_imports_inside_functions_move_to_the_top():
    first = "import os\n\n\ndef test_a():\n    from solution import f\n\n    assert f()\n"
    test = first + "\n\ndef test_b():\n    import solution\n"
    assert normalized(test) == (
        "from solution import f\nimport os\n\n\ndef test_a():\n    assert f()\n\n\ndef test_b():\n    pass\n"
    )


@pytest.mark.parametrize(
    "test",
    [
        "try:\n    from solution import f\nexcept ImportError:\n    f = None\n\nassert f()\n",
        "def test_a(monkeypatch):\n    monkeypatch.setenv('A', 'b')\n    from solution import f\n\n    assert f()\n",
        "import solution as m\nimport importlib\n\n\ndef test_a():\n    importlib.reload(m)\n    assert m.f()\n",
        "class TestA:\n    from solution import f\n\n    def test_a(self):\n        assert self.f\n",
    ],
)
def test_imports_that_depend_on_their_place_stay(test):
    assert normalized(test) == test
    real = test.replace("import solution as m", "import pkg.mod as m").replace("from solution", "from pkg.mod")
    assert normalized(real, module="pkg.mod") == test


def test_the_module_itself_and_the_names_that_are_patched_in_it_stay():
    test = (
        "from pkg import mod\n\n\ndef test_a(monkeypatch):\n    monkeypatch.setattr(mod, 'g', len)\n"
        "    with patch('pkg.mod.Box'):\n        assert mod.f() == mod.g() == mod.Box()\n    mod.bump()\n"
        "    assert mod.counter == 1\n"
    )
    after = test.replace("from pkg import mod\n", "import solution as mod\nfrom solution import bump, f\n")
    assert normalized(test, module="pkg.mod") == after.replace("mod.f()", "f()").replace("mod.bump()", "bump()")


def test_positions_in_fstrings_and_nested_functions_are_right():
    body = "    def inner(x=s.f()):\n        return f'é {s.g()} {x}'\n    assert inner()\n"
    test = f"import solution as s\n\n\ndef test_a():\n{body}"
    found = normalized(test)
    assert verdicts(CODE, found) == ("ran", [("test_a", "passed")])
    assert "x=f()" in found


# --- what cannot be normalized


@pytest.mark.parametrize(
    ("test", "code", "reason"),
    [
        ("def test_a(:\n", CODE, "test does not parse"),
        ("x = '\0'", CODE, "test does not parse"),
        ("x = '\ud800'", CODE, "test does not parse"),
        ("x = " + "(" * 5000, CODE, "test does not parse"),
        ("def test_a(): assert f()", "def f(:", "code does not parse"),
        ("def test_a(): assert 1", CODE, "tests nothing of the code"),
        ("from solution import f\ndef test_a(): assert 1", CODE, "tests nothing of the code"),
        ("from solution import *\ndef f(): pass\ndef test_a(): assert f()", CODE, "tests nothing of the code"),
        ("def test_a(): assert math.pi", CODE, "tests nothing of the code"),
        ("from other import f\ndef test_a(): assert f()", CODE, "tests nothing of the code"),
    ],
)
def test_what_cannot_be_normalized_says_why_in_countable_words(test, code, reason):
    with pytest.raises(CannotNormalize) as caught:
        import_from_solution(test, code)
    assert caught.value.reason == str(caught.value) == reason


def outcome(test, code=CODE):
    """The result, or the reason why there is none."""
    try:
        return import_from_solution(test, code)
    except CannotNormalize as error:
        return error.reason


@pytest.mark.parametrize("depth", [50, 500, 5000])
def test_deep_nesting_is_survived(depth):
    for deep in ("-" * depth + "f()", "f" + ".a" * depth, "+".join(["f()"] * depth)):
        found = outcome(f"import solution\nassert solution.g({deep})")
        assert found.startswith("from solution import f, g\n") or (
            depth > 50 and found in ("test does not parse", "test is nested too deeply")
        )


# --- over real tests


def test_the_samples_are_normalized_already_and_come_back_from_other_forms():
    count = 0
    for row in samples():
        module = row.get("module", "solution")
        assert normalized(row["test"], row["code"], module) == row["test"], row["id"]
        lines = [line for line in row["test"].splitlines(True) if not line.startswith("from solution import")]
        bare = "".join(lines).lstrip("\n")
        found = normalized(bare, row["code"], module)
        line = next(line for line in row["test"].splitlines() if line.startswith("from solution import"))
        assert line in found.splitlines(), row["id"]
        count += 1
    assert count > 100


@pytest.mark.parametrize("form", ["bare", "star", "module", "alias", "inside"])
def test_verdicts_are_the_same_before_and_after(form):
    """Running both is the oracle; the tests of one sample, in another form each time."""
    checked = 0
    for row in list(samples())[::50]:
        line = next(line for line in row["test"].splitlines() if line.startswith("from solution import"))
        names = line.removeprefix("from solution import ").split(", ")
        other = {
            "bare": "",
            "star": "from solution import *",
            "module": "import solution",
            "alias": "import solution as s",
            "inside": "",
        }[form]
        test = row["test"].replace(line, other)
        if form in ("module", "alias"):
            prefix = "solution" if form == "module" else "s"
            for name in names:
                test = imports.re.sub(rf"(?<![\w.\"']){name}\(", f"{prefix}.{name}(", test)
        elif form == "inside":
            test = imports.re.sub(r"(?m)^(def test_\w+\(.*\):\n)", rf"\1    {line}\n", test)
        before = "from solution import *\n" + test if form == "bare" else test
        after = normalized(test, row["code"], row.get("module", "solution"))
        expected = verdicts(row["code"], before, row.get("module", "solution"))
        assert verdicts(row["code"], after, row.get("module", "solution")) == expected, row["id"]
        checked += expected[0] == "ran"
    assert checked >= 3


LINES = st.sampled_from(
    ["import solution", "import solution as s", "from solution import *", "from solution import f", "import os",
     "from solution import g as gg", "f = 3", "assert f()", "assert s.f()", "assert solution.g()", "s.LIMIT = 4",
     "def test_a(f): solution.f(f)", "def test_b():\n    import solution as z\n    z.f()", "assert gg()", "# note", "",
     "def test_c():\n    from solution import f, Box\n\n    return f(Box)", "importlib.reload(solution)"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(LINES, max_size=8))
def test_a_second_time_changes_nothing_and_the_result_parses(lines):
    test = "\n".join(lines)
    found = outcome(test)
    if found == "tests nothing of the code":
        return
    compile(found, "test", "exec")
    assert import_from_solution(found, CODE) == found
    assert "import *" not in found


def test_the_common_cases_are_decided_without_a_tree(monkeypatch):
    monkeypatch.setattr(imports, "parse", None)
    assert normalized("from solution import f" + TEST.format("f()")).startswith("from solution import f\n")
    assert normalized("import pytest" + TEST.format("f()")).startswith("from solution import f\n")
    with pytest.raises(TypeError):
        import_from_solution("import solution" + TEST.format("solution.f()"), CODE)


def test_a_common_row_costs_under_a_millisecond():
    test = "import pytest\n\n" + "".join(f"\n\ndef test_{i}():\n    assert f({i}) == {i}\n" for i in range(10))
    best = 1.0
    for _ in range(20):
        begin = time.process_time()
        for _ in range(10):
            import_from_solution(test, CODE)
        best = min(best, (time.process_time() - begin) / 10)
    assert best < 1e-3
