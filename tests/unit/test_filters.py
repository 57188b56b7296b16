"""Which rows teach: each constraint with a test file that breaks it, and one beside it that does not."""

import textwrap

import pytest

from lowvram_ft.data.filters import broken_constraint, too_few_assertions
from lowvram_ft.data.row import make_row

CODE = "def double(n):\n    return 2 * n\n"
GOOD = "from solution import double\n\n\ndef test_double():\n    assert double(2) == 4\n"


def row(test: str = GOOD, code: str = CODE):
    return make_row(id="1", group="1", source="kodcode", code=code, test=textwrap.dedent(test))


BROKEN = {
    "uses hypothesis": [
        "from hypothesis import given\n" + GOOD,
        "import hypothesis.strategies as st\n" + GOOD,
    ],
    "unittest style": ["import unittest\nclass TestIt(unittest.TestCase):\n    def test_a(self):\n        pass\n"],
    "uses the network": [
        "import requests\n" + GOOD,
        "from urllib import request\n" + GOOD,
        "import http.client\n" + GOOD,
        "def test_a():\n    import socket\n    assert socket\n",
    ],
    "starts processes": [
        "import subprocess\n" + GOOD,
        "import os\ndef test_a():\n    assert os.system('true') == 0\n",
        "from multiprocessing import Pool\n" + GOOD,
    ],
    "sleeps": [
        "import time\ndef test_a():\n    time.sleep(1)\n    assert 1\n",
        "from time import sleep\ndef test_a():\n    sleep(1)\n    assert 1\n",
    ],
    "measures time": [
        "import time\ndef test_a():\n    begin = time.time()\n    assert time.time() - begin < 1\n",
        "def test_a():\n    from timeit import timeit\n    assert timeit(lambda: 1, number=1) < 1\n",
        "from time import perf_counter\ndef test_a():\n    assert perf_counter() > 0\n",
    ],
    "touches files outside of tmp_path": [
        "def test_a():\n    with open('x.txt') as file:\n        assert file\n",
        "import os\ndef test_a():\n    os.remove('x')\n    assert 1\n",
        "import tempfile\ndef test_a():\n    assert tempfile.mkdtemp()\n",
        "from pathlib import Path\ndef test_a():\n    assert Path('x').write_text('a')\n",
        "import shutil\ndef test_a():\n    assert shutil.copy('a', 'b')\n",
    ],
    "reads standard input": [
        "import sys\ndef test_a(monkeypatch):\n    monkeypatch.setattr(sys, 'stdin', None)\n    assert not sys.stdin\n",
        "def test_a():\n    assert input() == 'a'\n",
    ],
}
KEPT = [
    GOOD,
    "def test_a(tmp_path):\n    path = tmp_path / 'a'\n    path.write_text('x')\n    assert open(path).read() == 'x'\n",
    "from unittest.mock import patch\n" + GOOD,
    "import os\ndef test_a():\n    assert os.path.join('a', 'b') == 'a/b'\n",
    "import datetime\ndef test_a():\n    assert datetime.time(1).hour == 1\n",
    "def test_a():\n    assert 'open'.replace('o', 'O') == 'Open'\n",
    "import time\ndef test_a():\n    assert time.struct_time\n",
    "from solution import requests\ndef test_a():\n    assert requests == 1\n",
    "import os\ndef test_a(monkeypatch):\n    monkeypatch.setenv('A', 'b')\n    assert os.environ['A'] == 'b'\n",
]


@pytest.mark.parametrize(("reason", "test"), [(reason, test) for reason, tests in BROKEN.items() for test in tests])
def test_a_test_that_breaks_a_constraint_is_left_out_for_it(reason, test):
    assert broken_constraint(row(test)) == reason


@pytest.mark.parametrize("test", KEPT)
def test_what_only_looks_like_it_is_kept(test):
    assert broken_constraint(row(test)) is None


def test_code_that_reads_standard_input_is_left_out_whatever_its_test_does():
    assert broken_constraint(row(code="def ask():\n    return input('name? ')\n")) == "reads standard input"
    assert broken_constraint(row(code="import sys\ndef f():\n    return sys.stdin.read()\n")) == "reads standard input"
    assert broken_constraint(row(code="def f(input):\n    return [input]\n")) is None


@pytest.mark.parametrize(
    ("test", "least", "reason"),
    [
        (GOOD, 1, None),
        (GOOD, 2, "fewer than 2 assertions"),
        ("x = 1\n", 1, "no test function"),
        ("def test_a():\n    print(1)\n", 1, "fewer than 1 assertion"),
        ("def test_a():\n    assert True\n", 1, "fewer than 1 assertion"),
        (
            "def test_a(): f()\ndef test_b(): f()\ndef test_c(): assert f()\n",
            1,
            "most tests assert nothing",
        ),
        ("def test_a():\n    f()\ndef test_b():\n    assert f()\n", 1, None),
        ("import pytest\ndef test_a():\n    with pytest.raises(ValueError):\n        f()\n", 1, None),
    ],
)
def test_a_test_that_asserts_too_little_is_left_out(test, least, reason):
    assert too_few_assertions(row(test), least) == reason
