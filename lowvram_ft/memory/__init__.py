"""How much memory a stage needs: pure functions of a ``config.json``, a configuration and a budget.

No torch, no GPU and no file is touched here::

    shape = ModelShape.from_config(json.loads(text))
    budget = Budget(vram_bytes=4 * 2**30, ram_bytes=16 * 2**30)
    result = fit(shape, TrainingSetup(), budget, ["offload_layers"])
    result.plan.fits, result.setup.offload_layers, result.plan.term("optimizer state").formula
"""

from lowvram_ft.memory.fit import ALLOW, Fit, fit
from lowvram_ft.memory.plan import MemoryPlan, Phase, plan_memory
from lowvram_ft.memory.setup import Budget, Kernels, Optimizer, Platform, TrainingSetup
from lowvram_ft.memory.shape import FAMILIES, LINEAR_NAMES, Linear, ModelShape
from lowvram_ft.memory.terms import Place, Term, nf4_bytes

__all__ = [
    "ALLOW",
    "FAMILIES",
    "LINEAR_NAMES",
    "Budget",
    "Fit",
    "Kernels",
    "Linear",
    "MemoryPlan",
    "ModelShape",
    "Optimizer",
    "Phase",
    "Place",
    "Platform",
    "Term",
    "TrainingSetup",
    "fit",
    "nf4_bytes",
    "plan_memory",
]
