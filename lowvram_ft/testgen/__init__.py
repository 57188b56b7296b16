"""Writing tests for a user's own code."""

from lowvram_ft.inference.exports import given_or_newest, newest_export
from lowvram_ft.testgen.attempts.answers import NO_LOG, default_answers_path
from lowvram_ft.testgen.attempts.candidates import Effort
from lowvram_ft.testgen.attempts.traces import default_traces_path
from lowvram_ft.testgen.journal import Journal
from lowvram_ft.testgen.model import open_model
from lowvram_ft.testgen.outcome import Outcome
from lowvram_ft.testgen.scope import Settings
from lowvram_ft.testgen.targets.find import find, find_targets
from lowvram_ft.testgen.write import Model, prepare, write_tests

__all__ = [
    "NO_LOG",
    "Effort",
    "Journal",
    "Model",
    "Outcome",
    "Settings",
    "default_answers_path",
    "default_traces_path",
    "find",
    "find_targets",
    "given_or_newest",
    "newest_export",
    "open_model",
    "prepare",
    "write_tests",
]
