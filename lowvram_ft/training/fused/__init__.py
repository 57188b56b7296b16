"""The reference engine's sums on the CPU, with fewer passes over memory. See ``docs/training.md``."""

from lowvram_ft.training.fused.loss import head_nll
from lowvram_ft.training.fused.switch import Fused, fuse

__all__ = ["Fused", "fuse", "head_nll"]
