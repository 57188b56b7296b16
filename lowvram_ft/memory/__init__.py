"""How much memory a stage needs: pure functions of a ``config.json``, a configuration and a budget.

No torch, no GPU and no file is touched here::

    shape = ModelShape.from_config(json.loads(text))
    budget = Budget(vram_bytes=4 * 2**30, ram_bytes=16 * 2**30)
    result = fit(shape, TrainingSetup(), budget, ["offload_layers"])
    result.plan.fits, result.setup.offload_layers, result.plan.term("optimizer state").formula
"""

from lowvram_ft.memory.cards import CARDS, Card, find_card
from lowvram_ft.memory.fit import Fit, fit
from lowvram_ft.memory.levers import ALLOW, CLASSES, DEFAULT_ALLOW, LEVERS, Change
from lowvram_ft.memory.plan import MemoryPlan, Phase, plan_memory
from lowvram_ft.memory.search import Candidate
from lowvram_ft.memory.setup import HEAD_SLICE_ROWS, Budget, Head, Kernels, Optimizer, Platform, TrainingSetup
from lowvram_ft.memory.shape import FAMILIES, LINEAR_NAMES, Linear, ModelShape
from lowvram_ft.memory.speed import StepTime, step_time
from lowvram_ft.memory.terms import Place, Term, nf4_bytes

__all__ = [
    "ALLOW",
    "CARDS",
    "CLASSES",
    "DEFAULT_ALLOW",
    "FAMILIES",
    "HEAD_SLICE_ROWS",
    "LEVERS",
    "LINEAR_NAMES",
    "Budget",
    "Candidate",
    "Card",
    "Change",
    "Fit",
    "Head",
    "Kernels",
    "Linear",
    "MemoryPlan",
    "ModelShape",
    "Optimizer",
    "Phase",
    "Place",
    "Platform",
    "StepTime",
    "Term",
    "TrainingSetup",
    "find_card",
    "fit",
    "nf4_bytes",
    "plan_memory",
    "step_time",
]
