"""Run code that a model wrote: its tests, what they cover, and which planted faults they find."""

from lowvram_ft.execution.cache import VerdictCache
from lowvram_ft.execution.executor import judge, mutation_analysis, run_tests
from lowvram_ft.execution.limits import Limits
from lowvram_ft.execution.log import trim_log
from lowvram_ft.execution.many import run_many, run_stream
from lowvram_ft.execution.shape import Shape, check_counts, read_shape
from lowvram_ft.execution.variation import Variation
from lowvram_ft.execution.verdict import (
    Coverage,
    Judgement,
    Mutant,
    MutationReport,
    TestResult,
    Verdict,
)

__all__ = [
    "Coverage",
    "Judgement",
    "Limits",
    "Mutant",
    "MutationReport",
    "Shape",
    "TestResult",
    "Variation",
    "Verdict",
    "VerdictCache",
    "check_counts",
    "judge",
    "mutation_analysis",
    "read_shape",
    "run_many",
    "run_stream",
    "run_tests",
    "trim_log",
]
