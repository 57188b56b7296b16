"""The model families that can be exported, a file each."""

from __future__ import annotations

from typing import Final

from .family import Family
from .llama import LLAMA
from .qwen2 import QWEN2
from .qwen3 import QWEN3
from .qwen3_moe import QWEN3_MOE

FAMILIES: Final[tuple[Family, ...]] = (LLAMA, QWEN2, QWEN3, QWEN3_MOE)

__all__ = ["FAMILIES", "Family"]
