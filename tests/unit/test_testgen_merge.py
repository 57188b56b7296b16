"""Test files that become one: each test does what it did alone, shown by running them, and the text is as it was."""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from importlib.resources import files

import pytest

from lowvram_ft.data.trimming.trim import tests_of as names_of_tests
from lowvram_ft.data.trimming.trim import trim_test
from lowvram_ft.execution import run_tests
from lowvram_ft.testgen.texts.merge import CannotMerge, merge, restyle

MODULE = """\
LIMIT = 10
count = 0


class TooMuch(Exception):
    pass


def double(n):
    return 2 * n


def parse(text):
    return [int(part) for part in text.split(",")]


def check(n):
    if n > LIMIT:
        raise TooMuch(n)
    return n


def bump():
    global count
    count += 1
    return count


def dumps(value):
    return f"<{value}>"


def loud(n):
    return double(n) + 1
"""

HEAD = "import pytest\nfrom pkg.mod import double\n\n"


@cache
def outcomes(text):
    """Every test of a file with what became of it."""
    verdict = run_tests(MODULE, "pkg.mod", text)
    assert verdict.status == "ran", verdict.log
    return [(result.name, result.outcome) for result in verdict.results]


def without_numbers(found):
    """Outcomes by the names that tests had before they got a number."""
    return {(re.sub(r"(?<=\w)_\d+(?=::|\[|$)", "", name), outcome) for name, outcome in found}


def ruff(folder, select):
    command = [sys.executable, "-m", "ruff", "check", "-q", "--isolated", "--no-cache", "--select", select, "."]
    command += ["--config", "lint.isort.combine-as-imports=true"]  # one line a module
    command += ["--config", "lint.isort.known-first-party=['pkg']", "--output-format", "concise"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


# texts whose tests all pass alone, and how many tests there are in the one file
CONFLICTS = {
    "tests of one name": (
        [HEAD + "def test_a():\n    assert double(1) == 2\n", HEAD + "def test_a():\n    assert double(2) == 4\n"], 2,
    ),
    "a third test of the name": (
        [HEAD + f"def test_a():\n    assert double({n}) == {2 * n}\n" for n in (1, 2, 3)], 3,
    ),
    "the name that a second one would get is taken": (
        [
            HEAD + "def test_a():\n    assert double(1) == 2\n\ndef test_a_2():\n    assert double(5) == 10\n",
            HEAD + "def test_a():\n    assert double(2) == 4\n",
        ], 3,
    ),
    "equal tests": ([HEAD + "def test_a():\n    assert double(1) == 2\n"] * 2, 1),
    "equal tests of two names": (
        [HEAD + f"def test_{n}():\n    assert double(1) == 2\n" for n in "ab"], 1,
    ),
    "equal tests whose helpers differ": (
        [HEAD + f"def h():\n    return {n}\n\ndef test_{n}():\n    assert double(h()) in (2, 4)\n" for n in (1, 2)], 2,
    ),
    "helpers that differ": (
        [HEAD + f"def h():\n    return {n}\n\ndef test_{n}():\n    assert double(h()) == {2 * n}\n" for n in (1, 2)], 2,
    ),
    "equal helpers on constants that differ": (
        [
            HEAD + f"N = {n}\n\ndef h():\n    return double(N)\n\ndef test_{n}():\n    assert h() == {2 * n}\n"
            for n in (1, 2)
        ], 2,
    ),
    "constants that differ": (
        [HEAD + f"N = {n}\n\ndef test_{n}():\n    assert double(N) == {2 * n}\n" for n in (1, 2)], 2,
    ),
    "constants in f-strings": (
        [
            HEAD + f'N = {n}\n\ndef test_{n}():\n    N_is = 0\n    assert f"N {{double(N)!r:>3}} {{N}}" "N"'
            f' f"{{N + N_is}}" == "N   {2 * n} {n}N{n}"\n'
            for n in (1, 2)
        ], 2,
    ),
    "a local variable of a constant's name": (
        [
            HEAD + "N = 1\n\ndef test_1():\n    assert double(N) == 2\n",
            HEAD + "N = 2\n\ndef test_2():\n    assert double(N) == 4\n\n"
            "def test_3():\n    N = 7\n    assert [N for _ in 'a'] == [7]\n",
        ], 3,
    ),
    "a comprehension's variable of a constant's name": (
        [
            HEAD + "N = 1\n\ndef test_1():\n    assert double(N) == 2\n",
            HEAD + "N = 2\n\ndef test_2():\n    assert [N for N in (5,)] == [5] and N == 2 and double(N) == 4\n",
        ], 2,
    ),
    "a keyword argument of a constant's name": (
        [
            HEAD + "n = 1\n\ndef test_1():\n    assert double(n) == 2\n",
            HEAD + "n = 2\n\ndef test_2():\n    assert double(n=n) == 4\n",
        ], 2,
    ),
    "an attribute of a helper's name": (
        [
            HEAD + "def h():\n    return 1\n\ndef test_1():\n    assert double(h()) == 2\n",
            HEAD + "class X:\n    h = 5\n\ndef h():\n    return 2\n\n"
            "def test_2():\n    assert double(h()) + X.h == 9\n",
        ], 2,
    ),
    "fixtures that differ": (
        [
            HEAD + f"@pytest.fixture\ndef n():\n    return {n}\n\ndef test_{n}(n):\n    assert double(n) == {2 * n}\n"
            for n in (1, 2)
        ], 2,
    ),
    "equal fixtures": (
        [
            HEAD + f"@pytest.fixture\ndef n():\n    return 1\n\ndef test_{n}(n):\n    assert double(n) == {n}\n"
            for n in (2,)
        ] + [HEAD + "@pytest.fixture\ndef n():\n    return 1\n\ndef test_3(n):\n    assert double(n) + n == 3\n"], 2,
    ),
    "fixtures on fixtures that differ": (
        [
            HEAD + f"@pytest.fixture\ndef n():\n    return {n}\n\n@pytest.fixture\ndef m(n):\n    return double(n)\n\n"
            f"def test_{n}(m):\n    assert m == {2 * n}\n"
            for n in (1, 2)
        ], 2,
    ),
    "fixtures asked for by getfixturevalue": (
        [
            HEAD + f"@pytest.fixture\ndef n():\n    return {n}\n\n"
            f'def test_{n}(request):\n    assert double(request.getfixturevalue("n")) == {2 * n}\n'
            for n in (1, 2)
        ], 2,
    ),
    "fixtures asked for by usefixtures": (
        [
            HEAD + f"seen = []\n\n@pytest.fixture\ndef n():\n    seen.append({n})\n\n"
            f'@pytest.mark.usefixtures("n")\ndef test_{n}():\n    assert seen == [{n}] and double(1) == 2\n'
            for n in (1, 2)
        ], 2,
    ),
    "fixtures used in an f-string": (
        [
            HEAD + f"@pytest.fixture\ndef n():\n    return {n}\n\n"
            f'def test_{n}(n):\n    assert f"n{{double(n)}}{{n:02}}" == "n{2 * n}0{n}"\n'
            for n in (1, 2)
        ], 2,
    ),
    "a parameter that hides a fixture": (
        [
            HEAD + "@pytest.fixture\ndef n():\n    return 1\n\ndef test_1(n):\n    assert double(n) == 2\n",
            HEAD + "@pytest.fixture\ndef n():\n    return 2\n\ndef test_2(n):\n    assert double(n) == 4\n\n"
            '@pytest.mark.parametrize("n", [5, 6])\ndef test_3(n):\n    assert double(n) in (10, 12)\n',
        ], 4,
    ),
    "a fixture of a class that hides one of the file": (
        [
            HEAD + "@pytest.fixture\ndef n():\n    return 1\n\ndef test_1(n):\n    assert double(n) == 2\n",
            HEAD + "@pytest.fixture\ndef n():\n    return 2\n\nclass TestX:\n    @pytest.fixture\n    def n(self, n):\n"
            "        return n + 5\n\n    def test_2(self, n):\n        assert double(n) == 14\n",
        ], 2,
    ),
    "fixtures with a name of their own": (
        [
            HEAD + f'@pytest.fixture(name="n")\ndef _make():\n    return {n}\n\n'
            f"def test_{n}(n):\n    assert double(n) == {2 * n}\n"
            for n in (1, 2)
        ], 2,
    ),
    "a fixture that hides pytest's own, which another file uses": (
        [
            HEAD + "@pytest.fixture\ndef tmp_path():\n    return 1\n\n"
            "def test_1(tmp_path):\n    assert double(tmp_path) == 2\n",
            HEAD + "def test_2(tmp_path):\n    assert tmp_path.is_dir() and double(1) == 2\n",
        ], 2,
    ),
    "a fixture that builds on pytest's own": (
        [
            HEAD + "def test_2(tmp_path):\n    assert not (tmp_path / 'x').exists() and double(1) == 2\n",
            HEAD + "@pytest.fixture\ndef tmp_path(tmp_path):\n    (tmp_path / 'x').mkdir()\n    return tmp_path\n\n"
            "def test_1(tmp_path):\n    assert (tmp_path / 'x').is_dir() and double(1) == 2\n",
        ], 2,
    ),
    "module fixtures that tests change": (
        [
            HEAD + "@pytest.fixture(scope='module')\ndef box():\n    return []\n\n"
            f"def test_{n}(box):\n    box.append(double(1))\n    assert len(box) == 1 + {n} * 0\n"
            for n in (1, 2)
        ], 2,
    ),
    "lists that tests change": (
        [HEAD + f"box = []\n\ndef test_{n}():\n    box.append(double({n}))\n    assert box == [{2 * n}]\n"
         for n in (1, 2)], 2,
    ),
    "a counter that a helper changes": (
        [
            HEAD + "calls = 0\n\ndef h():\n    global calls\n    calls += 1\n    return calls\n\n"
            f"def test_{n}():\n    assert h() == 1 and double({n}) == {2 * n}\n"
            for n in (1, 2)
        ], 2,
    ),
    "imports of one name": (
        [
            HEAD + "import json\n\ndef test_1():\n    assert json.dumps(double(1)) == '2'\n",
            HEAD + "from pkg import mod as json\n\ndef test_2():\n    assert json.dumps(double(1)) == '<2>'\n",
        ], 2,
    ),
    "imports of one name from two modules": (
        [
            HEAD + "from json import dumps\n\ndef test_1():\n    assert dumps(double(1)) == '2'\n",
            HEAD + "from pkg.mod import dumps\n\ndef test_2():\n    assert dumps(double(1)) == '<2>'\n",
        ], 2,
    ),
    "an import and a helper of one name": (
        [
            "from pkg.mod import parse\n\ndef test_1():\n    assert parse('1,2') == [1, 2]\n",
            "from pkg.mod import double\n\ndef parse(n):\n    return n + 1\n\n"
            "def test_2():\n    assert parse(double(1)) == 3\n",
        ], 2,
    ),
    "a helper and an import of one name": (
        [
            "from pkg.mod import double\n\ndef parse(n):\n    return n + 1\n\n"
            "def test_2():\n    assert parse(double(1)) == 3\n",
            "from pkg.mod import parse\n\ndef test_1():\n    assert parse('1,2') == [1, 2]\n",
        ], 2,
    ),
    "one thing under two names": (
        [
            "from pkg.mod import double\n\ndef test_1():\n    assert double(1) == 2\n",
            "from pkg.mod import double as twice\n\ndef test_2():\n    assert twice(2) == 4\n",
        ], 2,
    ),
    "two submodules of a package": (
        [
            "import os.path\nimport pkg.mod\n\ndef test_1():\n    assert pkg.mod.double(1) == len(os.path.sep) * 2\n",
            "import os\nimport pkg.mod\n\ndef test_2():\n    assert os.sep and pkg.mod.double(2) == 4\n",
        ], 2,
    ),
    "a star beside a helper of one of its names": (
        [
            "from pkg.mod import *\n\ndef test_1():\n    assert parse('3') == [3]\n",
            "from pkg.mod import double\n\ndef parse(n):\n    return n + 1\n\n"
            "def test_2():\n    assert parse(double(1)) == 3\n",
        ], 2,
    ),
    "a helper that hides what is built in": (
        [
            HEAD + "def sum(a):\n    return 7\n\ndef test_1():\n    assert sum([double(1)]) == 7\n",
            HEAD + "def test_2():\n    assert sum([double(1), 1]) == 3\n",
        ], 2,
    ),
    "an import after the path was changed": (
        [
            "import sys\n\nsys.path.insert(0, '/nowhere')\n\nfrom pkg.mod import double\n\n"
            "def test_1():\n    assert double(1) == 2\n",
            "from pkg.mod import loud as double\n\ndef test_2():\n    assert double(2) == 5\n",
        ], 2,
    ),
    "an import in a try": (
        [
            "try:\n    from pkg.mod import nothing\nexcept ImportError:\n    from pkg.mod import double as nothing\n\n"
            "def test_1():\n    assert nothing(1) == 2\n",
            "def nothing():\n    from pkg.mod import double\n    return double\n\n"
            "def test_2():\n    assert nothing()(2) == 4\n",
        ], 2,
    ),
    "test classes of one name": (
        [HEAD + f"class TestX:\n    def test_a(self):\n        assert double({n}) == {2 * n}\n" for n in (1, 2)], 2,
    ),
    "test classes with set-up": (
        [
            HEAD + f"class TestX:\n    def setup_method(self):\n        self.n = {n}\n\n"
            f"    def test_a(self):\n        assert double(self.n) == {2 * n}\n"
            for n in (1, 2)
        ], 2,
    ),
    "classes that inherit from helpers that differ": (
        [
            HEAD + f"class Base:\n    n = {n}\n\nclass TestX{n}(Base):\n    def test_a(self):\n"
            f"        assert double(self.n) == {2 * n}\n"
            for n in (1, 2)
        ], 2,
    ),
    "classes of unittest": (
        [
            f"import unittest\nfrom pkg.mod import double\n\nclass Case(unittest.TestCase):\n    def test_a(self):\n"
            f"        self.assertEqual(double({n}), {2 * n})\n"
            for n in (1, 2)
        ], 2,
    ),
    "parametrized by constants that differ": (
        [
            HEAD + f"CASES = [({n}, {2 * n})]\n\n@pytest.mark.parametrize(('n', 'expected'), CASES)\n"
            "def test_a(n, expected):\n    assert double(n) == expected\n"
            for n in (1, 2)
        ], 2,
    ),
    "marks of one file": (
        [
            HEAD + "pytestmark = pytest.mark.skip(reason='slow')\n\ndef test_1():\n    assert double(1) == 2\n",
            HEAD + "def test_2():\n    assert double(2) == 4\n",
        ], 2,
    ),
    "marks that differ": (
        [
            HEAD + "pytestmark = [pytest.mark.skipif(True, reason='a'), pytest.mark.filterwarnings('ignore')]\n\n"
            "class TestX:\n    def test_1(self):\n        assert double(1) == 2\n",
            HEAD + "pytestmark = pytest.mark.filterwarnings('error')\n\n@pytest.mark.parametrize('n', [1])\n"
            "def test_2(n):\n    assert double(n) == 2\n",
        ], 2,
    ),
    "equal set-up of the module": (
        [
            HEAD + "ready = []\n\ndef setup_function():\n    double(1)\n\n"
            f"def test_{n}():\n    assert double({n}) == {2 * n}\n"
            for n in (1, 2)
        ], 2,
    ),
    "a global statement": (
        [
            HEAD + f"N = {n}\n\ndef test_{n}():\n    global N\n    N += 1\n    assert double(N) == {2 * n + 2}\n"
            for n in (1, 2)
        ], 2,
    ),
    "two names in one assignment": (
        [HEAD + f"a, b = {n}, {n + 1}\n\ndef test_{n}():\n    assert double(a) == {2 * n} and b == {n + 1}\n"
         for n in (1, 2)], 2,
    ),
    "names of other alphabets": (
        [
            HEAD + f'größe = {n}\n\ndef test_{n}():\n'
            f'    ü = "äöü"; assert ü and double(größe) == {2 * n}; assert größe\n'
            for n in (1, 2)
        ], 2,
    ),
    "a helper with decorators and a nested function": (
        [
            HEAD + "import functools\n\ndef twice(f):\n    @functools.wraps(f)\n    def inner(*args):\n"
            f"        return f(*args) * {n}\n    return inner\n\n@twice\ndef h(n):\n    return double(n)\n\n"
            f"def test_{n}():\n    assert h(1) == {2 * n}\n"
            for n in (1, 2)
        ], 2,
    ),
    "a walrus and a lambda": (
        [
            HEAD + f"f = lambda n: n * {n}\n\ndef test_{n}():\n    assert (g := f(double(1))) == {2 * n} and g\n"
            for n in (1, 2)
        ], 2,
    ),
    "async and plain helpers": (
        [
            HEAD + "import asyncio\n\nasync def h():\n    return 1\n\n"
            "def test_1():\n    assert double(asyncio.run(h())) == 2\n",
            HEAD + "def h():\n    return 2\n\ndef test_2():\n    assert double(h()) == 4\n",
        ], 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFLICTS)
def test_in_one_file_every_test_does_what_it_did_alone(case):
    texts, count = CONFLICTS[case]
    merged = merge(texts, first_party=["pkg"])
    alone = {found for text in texts for found in without_numbers(outcomes(text))}
    together = outcomes(merged)
    assert len(together) == count, merged
    if case not in ("equal tests of two names",):
        assert without_numbers(together) == alone, merged
    assert {outcome for _, outcome in together} <= {"passed", "skipped"}, merged
    assert merge([merged], first_party=["pkg"]) == merged
    assert merge(texts, first_party=["pkg"]) == merged


def test_there_are_enough_cases_and_laying_files_end_to_end_fails_most_of_them():
    assert len(CONFLICTS) >= 45
    lost = 0
    for texts, count in list(CONFLICTS.values())[:12]:
        together = run_tests(MODULE, "pkg.mod", "\n\n".join(texts))
        lost += together.n_passed != count
    assert lost >= 8


def test_no_import_stands_twice_and_all_are_in_order(tmp_path):
    for number, (case, (texts, _)) in enumerate(CONFLICTS.items()):
        merged = merge(texts, first_party=["pkg"])
        plain = all("import *" not in text and "sys.path" not in text and "try:" not in text for text in texts)
        if plain:
            (tmp_path / f"case_{number}.py").write_text(f"# {case}\n{merged}")
    rows = samples("modules") + samples("functions")
    for number, row in enumerate(rows):
        names = names_of_tests(row["test"])
        (tmp_path / f"row_{number}.py").write_text(merge([trim_test(row["test"], [name]) for name in names]))
    assert len(list(tmp_path.glob("*.py"))) > 200
    assert not ruff(tmp_path, "F811,I001")
    unused = ruff(tmp_path, "F401")
    assert {line.split("`")[1] for line in unused.splitlines() if "`" in line and "F401" in line} <= {"pytest"}


def test_what_ruff_is_asked_for_can_be_found(tmp_path):
    (tmp_path / "a.py").write_text("import pytest\nimport ast\nimport pytest\n\nprint(pytest)\n")
    found = ruff(tmp_path, "F811,F401,I001")
    assert all(code in found for code in ("F811", "F401", "I001"))


# --- the text

ONE = '''\
# who wrote it

"""What it is about."""

from __future__ import annotations

import re, os
import pytest
from pkg.mod import (  # the module
    double,
)

# -- helpers


def h( n ):   # as it is
    """Doc."""
    return   n


class TestA:

    def test_x(self):
        # why
        assert double( h(1) )==2 and re and os


# the end
'''
TWO = '''\
"""Another."""
from pkg.mod import parse, double as d, TooMuch, LIMIT
import numpy as np


def h( n ):   # as it is
    """Doc."""
    return   n


def test_y():
    """Doc: h."""
    assert parse("h, 1") and d(h(2)) and np and TooMuch and LIMIT   # the end


if __name__ == "__main__":
    pytest.main()
'''


def test_the_file_is_written_as_its_parts_were():
    expected = '''\
# who wrote it
"""What it is about."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest

from pkg.mod import LIMIT, TooMuch, double, double as d, parse


# -- helpers


def h( n ):   # as it is
    """Doc."""
    return   n


class TestA:

    def test_x(self):
        # why
        assert double( h(1) )==2 and re and os


# the end


def test_y():
    """Doc: h."""
    assert parse("h, 1") and d(h(2)) and np and TooMuch and LIMIT   # the end
'''
    assert merge([ONE, TWO], first_party=["pkg"]) == expected
    assert merge([expected], first_party=["pkg"]) == expected


def test_the_order_of_the_files_is_that_of_their_tests():
    forward, backward = merge([ONE, TWO]), merge([TWO, ONE])
    assert forward.index("test_x") < forward.index("test_y")
    assert backward.index("test_y") < backward.index("test_x")
    assert backward.count("def h(") == forward.count("def h(") == 1


def test_of_no_file_nothing_is_left_and_a_file_without_imports_stays():
    assert merge([]) == "\n"
    assert merge(["def test_a():\n    pass\n"]) == "def test_a():\n    pass\n"
    assert merge(["\ufeffimport os\r\n\r\n\r\ndef test_a():\r\n    os\r\n"]) == "import os\n\n\ndef test_a():\n    os\n"


def test_long_imports_are_wrapped():
    names = [f"a_rather_long_name_{n}" for n in range(6)]
    merged = merge([f"from pkg.mod import {', '.join(reversed(names))}\n\n\ndef test_a():\n    pass\n"])
    assert merged.startswith("from pkg.mod import (\n    a_rather_long_name_0,\n")
    assert max(map(len, merged.splitlines())) <= 88


REFUSED = {
    "does not parse": ["def test_a():\n    pass\n", "def test_a(:\n"],
    "autouse": [
        HEAD + "@pytest.fixture(autouse=True)\ndef n():\n    yield\n\ndef test_1():\n    pass\n",
        HEAD + "def test_2():\n    pass\n",
    ],
    "set-up of the module": ["def setup_module():\n    pass\n", "def test_2():\n    pass\n"],
    "skips the module": ["import pytest\nnp = pytest.importorskip('numpy')\n", "def test_2():\n    pass\n"],
    "marks from elsewhere": ["from x import MARKS\npytestmark = MARKS\n", "def test_2():\n    pass\n"],
    "names looked up by strings": [
        "N = 1\n\ndef test_1():\n    assert N == 1\n",
        "N = 2\n\ndef test_2():\n    assert globals()['N'] == 2\n",
    ],
    "set-up that only looks equal": [
        f"import pytest\nN = {n}\n\n@pytest.fixture(autouse=True)\ndef f():\n    return N\n\n"
        f"def test_{n}():\n    pass\n"
        for n in (1, 2)
    ],
    "indirect parameters": [
        f"import pytest\n\n@pytest.fixture\ndef n(request):\n    return request.param + {n}\n\n"
        f"@pytest.mark.parametrize('n', [1], indirect=True)\ndef test_{n}(n):\n    assert n == 1 + {n}\n"
        for n in (1, 2)
    ],
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_mean_something_else_is_refused_with_its_place(case):
    with pytest.raises(CannotMerge, match=r"^test file [12]: cannot be merged") as caught:
        merge(REFUSED[case])
    assert caught.value.reason
    rest = [text for place, text in enumerate(REFUSED[case]) if place != caught.value.place]
    ast.parse(merge(rest))


# --- the files that come with the kit


def samples(name):
    lines = (files("lowvram_ft.data") / "samples" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("row", samples("modules")[::2] + samples("functions")[::16], ids=lambda row: row["id"])
def test_the_halves_of_a_sample_are_worth_the_whole(row):
    names = names_of_tests(row["test"])
    halves = [trim_test(row["test"], names[start::2]) for start in (0, 1) if names[start::2]]
    whole = run_tests(row["code"], "solution", row["test"])
    merged = merge(halves)
    assert sorted((r.name, r.outcome) for r in run_tests(row["code"], "solution", merged).results) == sorted(
        (r.name, r.outcome) for r in whole.results
    )


@pytest.mark.parametrize("name", ["functions", "modules", "held_out"])
def test_a_sample_alone_keeps_its_definitions_and_is_not_changed_again(name):
    for row in samples(name):
        merged = merge([row["test"]])
        assert merge([merged]) == merged
        assert merge([row["test"], row["test"]]) == merged
        kept = [ast.dump(n) for n in ast.parse(merged).body if not isinstance(n, ast.Import | ast.ImportFrom)]
        was = [ast.dump(n) for n in ast.parse(row["test"]).body if not isinstance(n, ast.Import | ast.ImportFrom)]
        assert kept == was


# --- how the module is imported

NAMES = """\
import pytest

from pkg.mod import TooMuch, check, double as d


def test_a():
    check = 1
    assert d(check) == 2 and f"{d(2)} d" == "4 d"


@pytest.mark.parametrize("n", [11, 12])
def test_b(n):
    with pytest.raises(TooMuch):  # d
        check(n)
"""
OF_MODULE = """\
import pytest

from pkg import mod


def test_a():
    check = 1
    assert mod.double(check) == 2 and f"{mod.double(2)} d" == "4 d"


@pytest.mark.parametrize("n", [11, 12])
def test_b(n):
    with pytest.raises(mod.TooMuch):  # d
        mod.check(n)
"""


def test_names_become_attributes_of_the_module():
    assert restyle(NAMES, "module", "pkg.mod") == OF_MODULE
    assert outcomes(NAMES) == outcomes(OF_MODULE)


@pytest.mark.parametrize(
    ("line", "use"), [("from pkg import mod", "mod"), ("import pkg.mod as m", "m"), ("import pkg.mod", "pkg.mod")]
)
def test_attributes_of_the_module_become_names(line, use):
    text = f"import json\n{line}\n\ndef test_a():\n    assert {use}.double( 1 )  == 2 and {use}.TooMuch and json\n"
    new = restyle(text, "from", "pkg.mod")
    expected = "import json\nfrom pkg.mod import TooMuch, double\n\ndef test_a():\n    assert double( 1 )  == 2"
    assert new == expected + " and TooMuch and json\n"
    assert outcomes(new) == outcomes(text)


def test_there_and_back_is_the_same():
    text = "from pkg.mod import double\n\n\ndef test_a():\n    assert double(1) == 2\n"
    assert restyle(restyle(text, "module", "pkg.mod"), "from", "pkg.mod") == text
    top = text.replace("pkg.mod", "mod")
    assert restyle(top, "module", "mod").startswith("import mod\n")
    assert restyle(restyle(top, "module", "mod"), "from", "mod") == top


UNSAFE_NAMES = {
    "the module's name is taken": "from pkg.mod import double\n\n"
    "def test_a():\n    mod = 2\n    assert double(1) == mod\n",
    "bound again": "from pkg.mod import double\ndouble = len\n\ndef test_a():\n    assert double([1]) == 1\n",
    "declared global": "from pkg.mod import double\n\ndef test_a():\n    global double\n    double = 1\n",
    "patched by a string": "from unittest.mock import patch\nfrom pkg.mod import double\n\ndef test_a():\n"
    "    with patch('pkg.mod.double', None):\n        assert double(1) == 2\n",
    "a star": "from pkg.mod import *\n\ndef test_a():\n    assert double(1) == 2\n",
    "by strings": "from pkg.mod import double\n\ndef test_a():\n    assert eval('double(1)') == 2\n",
    "printed with its name": "from pkg.mod import count\n\ndef test_a():\n    assert f'{count=}' == 'count=0'\n",
    "another module": "from pkg.other import double\n\ndef test_a():\n    assert double(1) == 2\n",
    "no Python": "from pkg.mod import (\n",
}
UNSAFE_MODULES = {
    "the name is taken": "from pkg import mod\n\ndef test_a():\n    double = 2\n    assert mod.double(1) == double\n",
    "the module is handed on": "from pkg import mod\n\ndef test_a(monkeypatch):\n"
    "    monkeypatch.setattr(mod, 'LIMIT', 1)\n    assert mod.check(1) == 1\n",
    "a value that the module binds anew": "from pkg import mod\n\ndef test_a():\n    assert mod.bump() == mod.count\n",
    "assigned": "from pkg import mod\n\ndef test_a():\n    mod.LIMIT = 1\n    assert mod.check(1) == 1\n",
    "private": "from pkg import mod\n\ndef test_a():\n    assert mod._x() == 1\n",
    "built in": "from pkg import mod\n\ndef test_a():\n    assert mod.sum() == sum([1])\n",
    "collected by pytest": "from pkg import mod\n\ndef test_a():\n    assert mod.test_it() == 1\n",
    "patched by a string": "from unittest.mock import patch\nfrom pkg import mod\n\ndef test_a():\n"
    "    with patch('pkg.mod.double', len):\n        assert mod.double([1]) == 1\n",
    "bound again": "from pkg import mod\nmod = mod\n\ndef test_a():\n    assert mod.double(1) == 2\n",
}


@pytest.mark.parametrize("case", UNSAFE_NAMES)
def test_names_stay_where_the_module_would_mean_something_else(case):
    assert restyle(UNSAFE_NAMES[case], "module", "pkg.mod") == UNSAFE_NAMES[case]


@pytest.mark.parametrize("case", UNSAFE_MODULES)
def test_the_module_stays_where_names_would_mean_something_else(case):
    assert restyle(UNSAFE_MODULES[case], "from", "pkg.mod") == UNSAFE_MODULES[case]


def test_a_file_in_the_wanted_style_stays():
    assert restyle(NAMES, "from", "pkg.mod") == NAMES
    assert restyle(OF_MODULE, "module", "pkg.mod") == OF_MODULE


@pytest.mark.parametrize("row", samples("modules")[::5], ids=lambda row: row["id"])
def test_samples_pass_in_either_style(row):
    text = row["test"].replace("from solution import", "from pkg.mod import")
    other = restyle(text, "module", "pkg.mod")
    assert other != text
    results = [run_tests(row["code"], "pkg.mod", t) for t in (text, other)]
    assert [(r.name, r.outcome) for r in results[0].results] == [(r.name, r.outcome) for r in results[1].results]
