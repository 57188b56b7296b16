"""The reference engine's sums on the CPU, with fewer passes over memory. See ``docs/training.md``."""

from lowvram_ft.training.fused.switch import Fused, fuse

__all__ = ["Fused", "fuse"]
