"""Every answer of the model that was run, with what became of it: kept on this machine for ``lowvram-ft improve``."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lowvram_ft.data.syntax import parse
from lowvram_ft.hardware import data_dir
from lowvram_ft.testgen.attempts.findings import Claim, Fate
from lowvram_ft.testgen.attempts.log import append_once

ANSWERS = "answers.jsonl"
NO_LOG = "LOWVRAM_FT_NO_LOG"
"""Where this is set in the environment, testgen keeps neither answers nor traces."""


@dataclass(frozen=True)
class Answered:
    """One answer, as it was examined.

    Attributes:
        unit: the definition that it is about; empty for the whole module.
        code: what the model was shown, importable as ``solution``.
        prompt: the user message.
        text: the test file in the answer; it imports ``solution``.
        sample: 0 for the greedy first answer, from 1 for sampled ones.
        turn: 0 for an answer to the code, from 1 for one that mends the answer before.
        fate: what became of it.
        kept_text: its tests that pass, as they import the real module.
        checks: (subject, key) of each check that passes, see `lowvram_ft.testgen.attempts.assertions.Check`.
        n_tokens: tokens of the answer.
        finish: ``stop`` where the model ended by itself, ``length`` where it was cut off.
        seconds: wall time.
    """

    unit: str
    code: str
    prompt: str
    text: str
    sample: int
    turn: int
    fate: Fate
    kept_text: str
    checks: tuple[tuple[str, str], ...]
    n_tokens: int
    finish: str
    seconds: float


@dataclass(frozen=True)
class Tried:
    """What one test of a module came to.

    Attributes:
        killed: planted faults of the module that it finds by itself.
        of: how many there are.
        kept: whether it is in the file that is placed.
    """

    killed: frozenset[int]
    of: int
    kept: bool


@dataclass(frozen=True)
class LoggedAnswer:
    """One answer in ``answers.jsonl``; where it is from stands beside.

    Attributes:
        unit: see `Answered`.
        code: see there.
        prompt: see there.
        text: see there.
        sample: see there.
        turn: see there.
        fate: see there.
        disputes: whether it expects what the code does where another answer expects something else: the code may be
            wrong there, and nothing is to be learnt from it.
        score: share of the module's planted faults that its kept tests find, each by itself, 0 to 1.
        kept: whether a test of it is in the file that was placed.
        n_tokens: see `Answered`.
        finish: see there.
        seconds: see there.
    """

    unit: str
    code: str
    prompt: str
    text: str
    sample: int
    turn: int
    fate: Fate
    disputes: bool
    score: float
    kept: bool
    n_tokens: int
    finish: str
    seconds: float


def default_answers_path() -> Path:
    """``answers.jsonl`` where the kit keeps what is the user's, see `lowvram_ft.hardware.data_dir`."""
    return data_dir() / ANSWERS


def to_log(
    answered: Iterable[Answered], claims: Sequence[Claim], tried: Mapping[str, Tried]
) -> tuple[LoggedAnswer, ...]:
    """What is kept of a module's answers.

    Args:
        answered: all of them.
        claims: every contradiction that one of them met.
        tried: what each test came to, by its body as `bodies` has it.
    """
    claimed: dict[str, set[str]] = {}
    for claim in claims:
        if claim.subject:
            claimed.setdefault(claim.subject, set()).add(claim.key)
    return tuple(_logged(one, claimed, tried) for one in answered)


def _logged(one: Answered, claimed: Mapping[str, set[str]], tried: Mapping[str, Tried]) -> LoggedAnswer:
    mine = [tried[body] for body in bodies(one.kept_text).values() if body in tried]
    killed = frozenset[int]().union(*(test.killed for test in mine))
    of = max((test.of for test in mine), default=0)
    return LoggedAnswer(
        one.unit,
        one.code,
        one.prompt,
        one.text,
        one.sample,
        one.turn,
        one.fate,
        any(claimed.get(subject, {key}) - {key} for subject, key in one.checks),
        len(killed) / of if of else 0.0,
        any(test.kept for test in mine),
        one.n_tokens,
        one.finish,
        one.seconds,
    )


def bodies(text: str) -> dict[str, str]:
    """The tests of a file, each without its name, so that one that was renamed beside others is still known.

    Args:
        text: a test file; one that does not parse has none.

    Returns:
        Normal form by name, as ``TestX::test_y``.
    """
    tree = parse(text) if text else None
    found: dict[str, str] = {}
    for node in tree.body if tree is not None else ():
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        for one in inside:
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name.startswith("test"):
                parts = [*one.decorator_list, one.args, *one.body]
                found[prefix + one.name] = "\n".join(map(ast.dump, parts))
    return found


def append_answers(path: Path, answers: Iterable[LoggedAnswer], about: Iterable[Mapping[str, str]]) -> int:
    """Add answers to a JSONL file, each once, however often it is given and by however many processes.

    Args:
        path: the file; made for the user alone.
        answers: what to add.
        about: further columns of each, in their order: where it is from, which model gave it, and when it was added.

    Returns:
        How many were new.

    Raises:
        MachineError: the file cannot be read or written.
    """
    records = [{**asdict(one), **more} for one, more in zip(answers, about, strict=True)]
    return append_once(path, records, answer_key)


def answer_key(record: Mapping[str, object]) -> str:
    """What tells an answer from the others: the question, the answer, and who gave it when asked how."""
    parts = [str(record.get(name)) for name in ("model", "module", "prompt", "text", "sample", "turn")]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
