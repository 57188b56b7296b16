"""The base models that are tried, and what may be made of them."""

from __future__ import annotations

from dataclasses import dataclass

from lowvram_ft.models import EMBEDDED, BaseModel, resolve


@dataclass(frozen=True)
class Candidate:
    """A base model.

    Attributes:
        base: as in ``model.base``.
        commercial: whether its licence allows commercial use.
    """

    base: str
    commercial: bool = True


CANDIDATES = (
    Candidate("Qwen/Qwen2.5-Coder-7B-Instruct"),
    Candidate("deepseek-ai/deepseek-coder-6.7b-instruct"),
    Candidate("Qwen/Qwen3-4B-Instruct-2507"),
    Candidate("Qwen/Qwen2.5-Coder-3B-Instruct", commercial=False),
    Candidate("Qwen/Qwen2.5-Coder-1.5B-Instruct"),
    Candidate("deepseek-ai/deepseek-coder-1.3b-instruct"),
    Candidate("Qwen/Qwen2.5-Coder-0.5B-Instruct"),
    Candidate(EMBEDDED),
)
"""The best at code first, by size within a kind. Qwen3-1.7B and 0.6B are left out: they think before they answer."""


def candidates(base: str | None) -> tuple[Candidate, ...]:
    """All of them, or the one that the user wants.

    Raises:
        ModelError: it is no model.
    """
    if base is None:
        return CANDIDATES
    found = resolve(base)
    return (next((each for each in CANDIDATES if each.base == found.id), Candidate(found.id)),)


def licence_of(model: BaseModel) -> str:
    """Of a base model, in words."""
    return model.licence or "see its page"
