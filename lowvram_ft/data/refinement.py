"""The prompt in which a model sees a test file of its own fail: the same in training, evaluation and use."""

from __future__ import annotations

from collections import Counter

from lowvram_ft.data.row import build_prompt
from lowvram_ft.execution import Verdict


def refinement_prompt(code: str, test: str, verdict: Verdict) -> str:
    """The prompt for another try, as a failure trace has it in training.

    Args:
        code: the code under test.
        test: the file that fails.
        verdict: of that file.
    """
    return build_prompt(code, failing=test, output=pytest_output(verdict))


def pytest_output(verdict: Verdict) -> str:
    """What pytest said of a file; a line of counts, as at the end of its output, where nothing failed."""
    if verdict.log.strip():
        return verdict.log
    counts = Counter(result.outcome for result in verdict.results)
    line = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "no tests ran"
    return line if verdict.writes_tests or not counts else f"{line}, no test asserts anything"
