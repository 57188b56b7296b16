"""Write tests for a Python file: generate, run, keep what passes, put it beside the file."""

from __future__ import annotations

import ast
import keyword
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lowvram_ft.data.row import build_prompt
from lowvram_ft.errors import UsageError
from lowvram_ft.execution import Judgement, Limits, judge
from lowvram_ft.execution.sandbox import choose as choose_sandbox
from lowvram_ft.inference import Generator, Sampling
from lowvram_ft.inference.extraction import extract_test
from lowvram_ft.progress import Progress
from lowvram_ft.run_dir import write_text
from lowvram_ft.testgen.texts import drop_tests, import_real_module

MAX_ATTEMPTS = 4
"""Answers asked for before giving up; the first is greedy, the others are sampled."""


@dataclass(frozen=True)
class TestgenResult:
    """What became of one file.

    Attributes:
        source: the user's file.
        module: the name that its tests import.
        test_file: what was written; None where no generated test passes.
        passed: names of the tests that were kept.
        dropped: names of the generated tests that fail, and were left out.
        line_coverage: share of the statements that the kept tests reach, 0 to 1.
        mutation_score: share of the mutants that they kill, 0 to 1.
        attempts: answers that were asked for.
        text: the test file.
    """

    __test__ = False

    source: str
    module: str
    test_file: str | None
    passed: tuple[str, ...]
    dropped: tuple[str, ...]
    line_coverage: float
    mutation_score: float
    attempts: int
    text: str

    def to_json(self) -> dict[str, Any]:
        """Every value."""
        return asdict(self)


@dataclass(frozen=True)
class _Draft:
    text: str
    judgement: Judgement
    dropped: tuple[str, ...]


def locate(source: Path) -> tuple[Path, str]:
    """The folder that a file's package lies in, and the file's importable name.

    Args:
        source: a ``.py`` file.

    Returns:
        (folder for ``sys.path``, dotted name).
    """
    path = source.resolve()
    parts = [] if path.name == "__init__.py" else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def check(source: Path, out: Path | None = None, dry_run: bool = False) -> tuple[str, Path]:
    """What can be refused before a model is loaded.

    Args:
        source: the user's file.
        out: another place for the test file.
        dry_run: nothing will be written.

    Returns:
        (the file's text, the test file that will be written).

    Raises:
        UsageError: the file is missing, is no Python, or has a test file already.
        MachineError: there is no sandbox to run its tests in.
    """
    code = _read(source)
    target = out or source.with_name(f"test_{source.stem}.py")
    if target.exists() and not dry_run:
        raise UsageError(f"{target}: exists already, and is not touched; give another place with --out")
    choose_sandbox()
    return code, target


def write_tests(
    source: Path,
    generator: Generator,
    progress: Progress,
    *,
    out: Path | None = None,
    max_new_tokens: int = 512,
    dry_run: bool = False,
) -> TestgenResult:
    """Write ``test_NAME.py`` beside a file.

    The model writes ``from solution import …``; what is kept imports the real module. A test that fails on the code is
    left out and reported. An existing file is never touched.

    Args:
        source: the user's file.
        generator: the model.
        progress: where a person reads what is going on.
        out: another place for the test file.
        max_new_tokens: most tokens of an answer.
        dry_run: write nothing.

    Raises:
        UsageError: the file is missing, is no Python, or has a test file already.
        GenerationError: the file is longer than the model's context.
    """
    code, target = check(source, out, dry_run)
    root, module = locate(source)
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in module.split(".")):
        raise UsageError(f"{source}: cannot be imported as {module}; give it a name that Python can import")
    prompt = build_prompt(code)
    best: _Draft | None = None
    attempts = 0
    while attempts < MAX_ATTEMPTS and (best is None or not best.judgement.useful):
        sampling = Sampling(temperature=0.0 if attempts == 0 else 0.7, max_new_tokens=max_new_tokens, seed=attempts)
        attempts += 1
        progress.step(f"testgen {source.name}", attempts, MAX_ATTEMPTS, "attempts")
        answer = generator.generate([prompt], sampling)[0][0]
        test = extract_test(answer.text, cut_off=answer.finish == "length")
        draft = _draft(code, module, root, test)
        if draft is not None and (best is None or _worth(draft) > _worth(best)):
            best = draft
    if best is None:
        return TestgenResult(str(source), module, None, (), (), 0.0, 0.0, attempts, "")
    if not dry_run:
        write_text(target, best.text)
    coverage = best.judgement.verdict.coverage
    return TestgenResult(
        source=str(source),
        module=module,
        test_file=None if dry_run else str(target),
        passed=best.judgement.verdict.passing,
        dropped=best.dropped,
        line_coverage=(coverage.line_rate or 0.0) if coverage is not None else 0.0,
        mutation_score=best.judgement.mutation_score,
        attempts=attempts,
        text=best.text,
    )


def _draft(code: str, module: str, root: Path, test: str) -> _Draft | None:
    """Run an answer, leave out what fails, run what is left under the module's real name; None if nothing passes."""
    first = judge(code, module, test, Limits(), root)
    if not first.verdict.n_passed or not first.verdict.writes_tests:
        return None
    failed = sorted({_function(r.name) for r in first.verdict.results if r.outcome != "passed"})
    text = import_real_module(drop_tests(test, failed), module)
    second = judge(code, module, text, Limits(), root)
    if not second.verdict.all_passed or not second.verdict.writes_tests:
        return None
    return _Draft(text, second, tuple(failed))


def _worth(draft: _Draft) -> tuple[float, int]:
    return draft.judgement.mutation_score, draft.judgement.verdict.n_passed


def _function(name: str) -> str:
    """``TestX::test_y[a-1]`` to ``TestX::test_y``."""
    return re.sub(r"\[.*\]$", "", name, flags=re.DOTALL)


def _read(source: Path) -> str:
    if not source.is_file():
        raise UsageError(f"{source}: no such file; give the path of a .py file")
    if source.suffix != ".py":
        raise UsageError(f"{source}: is not a Python file; give the path of a .py file")
    try:
        code = source.read_text(encoding="utf-8")
        ast.parse(code)
    except UnicodeDecodeError as error:
        raise UsageError(f"{source}: is not UTF-8 text (byte {error.start}); convert it") from error
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno is not None else ""  # null bytes have no line
        raise UsageError(f"{source}{line}: does not parse ({error.msg}); mend it first") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source}: does not parse ({error}); mend it first") from error
    return code
