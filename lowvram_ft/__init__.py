"""Fine-tune a code model to write pytest tests on a small GPU, export it to GGUF, and prove the result."""

__version__ = "0.1.0"
