"""Running a model: one protocol for a GGUF in process, a live adapter, and an OpenAI-compatible URL."""

from lowvram_ft.inference.protocol import Completion, Generator, Sampling, answer_each, percentile

__all__ = ["Completion", "Generator", "Sampling", "answer_each", "percentile"]
