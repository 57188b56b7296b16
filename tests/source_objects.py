"""One function and its test as an object of each source, in the columns that the real data sets have."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """A function that adds a number to a text's length, and what its test says.

    Attributes:
        number: makes it unlike the others.
        name: of the function.
        text: any text, which code, test, comments and logs hold.
        cases: how many asserts the test has.
        tail: blank that follows the test.
    """

    number: int
    name: str
    text: str
    cases: int
    tail: str

    @property
    def code(self) -> str:
        return f"def {self.name}(text):\n    # {self._comment}\n    return len(text + {self.text!r}) + {self.number}\n"

    @property
    def asserts(self) -> list[str]:
        value = len(self.text) + self.number
        return [f"assert {self.name}({'x' * case!r}) == {value + case}" for case in range(self.cases)]

    def test(self, module: str = "solution") -> str:
        """A pytest file that imports from a module."""
        return f"from {module} import {self.name}\n\n\ndef test_{self.name}():\n" + "".join(
            f"    {line}  # {self._comment}\n" for line in self.asserts
        )

    @property
    def _comment(self) -> str:
        return repr(self.text)[1:-1]

    @property
    def unittest(self) -> str:
        lines = [line.removeprefix("assert ").partition(" == ")[::2] for line in self.asserts]
        body = "".join(f"        self.assertEqual({found}, {value})\n" for found, value in lines)
        return f"import unittest\n\n\nclass Test(unittest.TestCase):\n    def test_{self.name}(self):\n{body}"


def _kodcode(task: Task) -> dict[str, Any]:
    bare = task.test().partition("\n\n\n")[2] if task.number % 2 else task.test()
    return {"question_id": f"q{task.number}", "question": task.text, "solution": task.code,
            "test": bare + task.tail, "r1_correctness": "True", "subset": "S", "style": "instruct",
            "conversations": [{"from": "human", "value": task.text}]}  # fmt: skip


def _testgeneval(task: Task) -> dict[str, Any]:
    return {"id": task.number, "repo": f"o/r{task.number % 3}", "instance_id": "i", "version": "1",
            "code_file": "src/pkg/mod.py", "test_file": "tests/test_mod.py", "code_src": task.code,
            "test_src": task.test("pkg.mod") + task.tail}  # fmt: skip


def _coderm(task: Task) -> dict[str, Any]:
    tests = [{"code": "no python", "FAR": 0.0, "FRR": 0.0}, {"code": task.unittest + task.tail, "FAR": 0.1, "FRR": 0.2}]
    return {"task_id": f"t{task.number}", "question": task.text, "code_ground_truth": task.code,
            "unit_tests": json.dumps(tests)}  # fmt: skip


def _failure_traces(task: Task) -> dict[str, Any]:
    return {"id": f"f{task.number}", "code": task.code, "failed_test": task.test().replace("==", "!="),
            "failure_log": f"E   assert {task.text}", "fixed_test": task.test() + task.tail}  # fmt: skip


def _repository(task: Task) -> dict[str, Any]:
    return {"id": f"m{task.number}", "repo": "mine", "root": "", "kind": "function", "code_file": "pkg/mod.py",
            "test_file": "tests/test_mod.py", "module": "pkg.mod", "code_src": task.code,
            "test_src": task.test() + task.tail}  # fmt: skip


def _winners(task: Task) -> dict[str, Any]:
    return {"id": f"w{task.number}", "code": task.code, "completion": task.test() + task.tail, "module": task.name}


OBJECTS: dict[str, Callable[[Task], dict[str, Any]]] = {
    "kodcode": _kodcode,
    "testgeneval": _testgeneval,
    "coderm": _coderm,
    "failure_traces": _failure_traces,
    "repository": _repository,
    "winners": _winners,
}
"""By the name of the source; the one that is missing reads rows of the package."""
