"""Fine-tune a code model to write pytest tests on a small GPU, export it to GGUF, and prove the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowvram_ft.testgen.writer import TestWriter

__version__ = "0.1.0"
__all__ = ["TestWriter", "__version__"]


def __getattr__(name: str) -> Any:
    """``TestWriter``, imported when it is asked for: the command line starts without what it needs (PEP 562)."""
    if name == "TestWriter":
        from lowvram_ft.testgen.writer import TestWriter

        return TestWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
