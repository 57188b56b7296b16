"""What base + adapter answer on held-out rows, teacher-forced: what an export is held against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf_export import Reference, ReferenceSequence
from lowvram_ft.data.row import Row
from lowvram_ft.errors import ModelError
from lowvram_ft.rendering import ChatFormat
from lowvram_ft.training.arguments import keep_quiet
from lowvram_ft.training.engines.reference import continue_adapter

GREEDY_ROWS = 4
GREEDY_TOKENS = 32
"""Greedy answers cost a forward pass a token: a few are enough to show beside those of the export."""


def write_reference(
    model: Path, adapter: Path | Sequence[Path] | None, rows: Sequence[Row], chat: ChatFormat, out: Path
) -> None:
    """Write log-probabilities of base + adapter over the completions of rows, on 16-bit weights.

    The weights are those of the checkpoint (16 bits), the arithmetic is float32, so that only the export differs.

    Args:
        model: folder of the base model.
        adapter: PEFT folder, or a chain of them, first trained first; None for the base alone.
        rows: held-out rows.
        chat: the model's chat format.
        out: the ``.npz`` to write.

    Raises:
        ModelError: the model or the adapter cannot be loaded.
    """
    keep_quiet()
    import torch
    from transformers import AutoModelForCausalLM

    try:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ModelError(f"{model}: cannot be loaded ({error}); download it again") from error
    chain = [] if adapter is None else [adapter] if isinstance(adapter, Path) else list(adapter)
    for position, folder in enumerate(chain):
        loaded = continue_adapter(loaded, folder, trainable=False)
        if position + 1 < len(chain):  # the next one was trained on the merged model
            loaded = loaded.merge_and_unload()
    loaded.eval()
    sequences = []
    with torch.inference_mode():
        for index, row in enumerate(rows):
            rendered = chat.render(row.prompt, row.completion)
            start = rendered.completion_mask.index(1)
            logits = loaded(input_ids=torch.tensor([rendered.input_ids])).logits[0, start - 1 : -1].float().numpy()
            prompt = torch.tensor([rendered.input_ids[:start]])
            greedy = _greedy(loaded, prompt, rendered.input_ids[-1]) if index < GREEDY_ROWS else None
            messages = chat.messages(row.prompt)
            sequences.append(
                ReferenceSequence.from_logits(rendered.input_ids, start, logits, messages, greedy_ids=greedy)
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    Reference(tuple(sequences)).save(out)


def _greedy(model: Any, prompt: Any, end: int) -> list[int]:
    """The most likely token after each other, up to and with the end token.

    Args:
        model: base + adapter.
        prompt: token ids ``[1, n]``.
        end: the end token that was trained.
    """
    output = model(input_ids=prompt, use_cache=True)
    answer: list[int] = []
    while len(answer) < GREEDY_TOKENS:
        token = output.logits[:, -1:].argmax(dim=-1)
        answer.append(int(token))
        if answer[-1] == end:
            break
        output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
    return answer
