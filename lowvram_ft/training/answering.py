"""Answers of a base model with its adapter, as it was trained: prompts in padded batches, through the engines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lowvram_ft.errors import GenerationError, LowvramError, ModelError, PromptTooLong
from lowvram_ft.hardware import detect
from lowvram_ft.inference.adapter import CONFIG, adapter_folder, adapter_name
from lowvram_ft.inference.decoding import choose
from lowvram_ft.inference.protocol import Completion, Sampling
from lowvram_ft.models import BaseModel, materialize, named_by_path, resolve
from lowvram_ft.recipe import HardwareSection, QuantizationSection
from lowvram_ft.rendering import ChatFormat, from_folder
from lowvram_ft.training import engines
from lowvram_ft.training.arguments import keep_quiet
from lowvram_ft.training.recovery.out_of_memory import free_memory, let_go, shortage_of

BATCH = 8
"""Answers at a time; halved where memory runs out."""
ENDS = ("<|im_end|>", "<|endoftext|>", "<|EOT|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "</s>")
"""Control tokens that end an answer wherever a vocabulary has them, as llama.cpp takes them by their names
(``llama-vocab.cpp``, ``special_eog_ids``), so that an adapter ends where its export does."""


@dataclass(frozen=True)
class Sources:
    """What an adapter needs.

    Attributes:
        base: the base model.
        chain: PEFT folders, first trained first; each was trained on the ones before, merged.
        quantization: how the base was held in training.
    """

    base: BaseModel
    chain: tuple[Path, ...]
    quantization: QuantizationSection


def sources_of(folder: Path) -> Sources:
    """Find an adapter's base model: where ``adapter_config.json`` says, else where the run says that it lies in.

    Raises:
        ModelError: it cannot be found, or the adapter's settings are broken.
    """
    chain = [folder]
    while True:
        named = _base_named_by(chain[0])
        below = adapter_folder(Path(named))
        if below is None:
            break
        if below.resolve() in {each.resolve() for each in chain}:
            raise ModelError(f"{folder}: is its own base model ({named}); correct base_model_name_or_path in {CONFIG}")
        chain.insert(0, below)
    recipe = _recipe_of(folder)
    section = QuantizationSection(**recipe["quantization"]) if recipe else QuantizationSection(load_in_4bit=False)
    return Sources(_base(folder, named, recipe["model"]["base"] if recipe else None), tuple(chain), section)


def _base_named_by(folder: Path) -> str:
    path = folder / CONFIG
    try:
        named = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: is not a PEFT adapter's ({error}); give an adapter folder") from error
    if not isinstance(named, str) or not named:
        raise ModelError(f"{path}: names no base model; set base_model_name_or_path to a folder or a hub id")
    return named


def _recipe_of(folder: Path) -> dict[str, Any] | None:
    """The recipe that an adapter was trained by, where it lies in its run as ``RUN/stages/NAME/adapter``."""
    absolute = folder.resolve()
    if len(absolute.parents) < 3:
        return None
    path, stage = absolute.parents[2] / "run.json", absolute.parent.name
    try:
        stages = json.loads(path.read_text(encoding="utf-8"))["recipe"]["stages"]
        return next((each["recipe"] for each in stages if each["name"] == stage), None)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no run, or another program's file of that name


def _base(folder: Path, named: str, in_recipe: str | None) -> BaseModel:
    """The base model by the name that training left, which is often a path of the machine that it ran on."""
    if Path(named).is_dir():
        return resolve(named)
    for candidate in (named_by_path(named), in_recipe, named):
        try:
            if candidate is not None:
                return resolve(candidate)
        except ModelError:
            continue
    raise ModelError(
        f"{folder}: its base model is not here ({named}); put it there, or set base_model_name_or_path in {CONFIG} to "
        "its folder or hub id"
    )


class Answerer:
    """A loaded base model with its adapter.

    Args:
        folder: the adapter.
        n_ctx: most tokens of a prompt and its answer.
        dtype: to compute in; None for what training takes.

    Raises:
        ModelError: see `sources_of`; or the two do not fit together.
        MachineError: memory runs out, or a download fails.
    """

    def __init__(self, folder: Path, *, n_ctx: int, dtype: str | None = None) -> None:
        keep_quiet()
        found = sources_of(folder)
        base = materialize(found.base)
        self._engine = engines.choose(HardwareSection(), detect())
        try:
            loaded = self._engine.load_frozen(base, found.quantization, found.chain, n_ctx, dtype)
        except Exception as error:
            if isinstance(error, LowvramError) or shortage_of(error, "cpu") is None:
                raise
            raise GenerationError(
                f"{folder}: no memory for {found.base.id} with its adapter; close other programs, or make a GGUF of "
                "it: lowvram-ft export"
            ) from error
        self._name = adapter_name(folder)
        self._base_id = found.base.id
        self._model, self._device, self._dtype = loaded.model, loaded.device, loaded.dtype
        self._chat = from_folder(base)
        self._decode = _decoder(base)
        self._ends = end_ids(self._model, self._chat)
        self._n_ctx = min(n_ctx, int(self._model.config.max_position_embeddings))
        self._batch = BATCH
        self._settle()

    def facts(self) -> dict[str, Any]:
        """What the process that asks is told first."""
        return {"base": self._base_id, "n_ctx": self._n_ctx, "dtype": self._dtype, "engine": self._engine.name}

    def answer(self, prompts: Sequence[str], sampling: Sampling, n: int) -> list[list[Completion]]:
        """Answer prompts; see `lowvram_ft.inference.Generator`.

        Raises:
            PromptTooLong: a prompt and its answer do not fit into the context.
            GenerationError: memory runs out with one answer at a time.
        """
        rendered = [list(self._chat.render(prompt).input_ids) for prompt in prompts]
        for number, ids in enumerate(rendered):
            if len(ids) + sampling.max_new_tokens > self._n_ctx:
                raise PromptTooLong(
                    f"prompt {number + 1}: has {len(ids)} tokens, and {sampling.max_new_tokens} more are to follow "
                    f"(the context is {self._n_ctx}); shorten the code, or raise n_ctx"
                )
        # alike in length, so that little is padded
        waiting = sorted(((p, i) for p in range(len(prompts)) for i in range(n)), key=lambda row: len(rendered[row[0]]))
        found: dict[tuple[int, int], Completion] = {}
        while waiting:
            rows = waiting[: self._batch]
            answers = self._answer_batch([rendered[p] for p, _ in rows], rows, sampling)
            if answers is None:
                self._batch = max(1, len(rows) // 2)
                continue
            found.update(zip(rows, answers, strict=True))
            waiting = waiting[len(rows) :]
        return [[found[p, i] for i in range(n)] for p in range(len(prompts))]

    def _answer_batch(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[tuple[int, int]], sampling: Sampling
    ) -> list[Completion] | None:
        """The answers of one batch; None where it has to be smaller.

        Raises:
            GenerationError: one at a time is too much.
        """
        try:
            return self._generate(prompts, rows, sampling)
        except Exception as error:
            if shortage_of(error, self._device) is None:
                raise
            let_go(error)
            free_memory()
            if len(rows) == 1:
                raise GenerationError(
                    f"{self._name}: out of memory over a prompt of {len(prompts[0])} tokens; shorten the code, or make "
                    "a GGUF of it: lowvram-ft export"
                ) from None
            return None

    def _generate(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[tuple[int, int]], sampling: Sampling
    ) -> list[Completion]:
        import torch

        began = time.perf_counter()
        longest = max(len(ids) for ids in prompts)
        pad = self._model.generation_config.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in prompts], device=self._device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=self._device)
        chooser = _chooser(rows, sampling)
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=sampling.max_new_tokens,
                logits_processor=[chooser],
            )
        seconds = time.perf_counter() - began
        first = (chooser.first or began) - began
        return [
            self._completion(len(prompt), row[longest:].tolist(), seconds, first)
            for prompt, row in zip(prompts, out, strict=True)
        ]

    def _completion(self, n_prompt: int, tokens: list[int], seconds: float, first_s: float) -> Completion:
        end = next((place for place, token in enumerate(tokens) if token in self._ends), None)
        text = tokens if end is None else tokens[:end]
        return Completion(
            text=self._decode(text),
            n_prompt_tokens=n_prompt,
            n_tokens=len(text) + (end is not None),
            finish="length" if end is None else "stop",
            seconds=seconds,
            first_token_s=first_s,
        )

    def _settle(self) -> None:
        """Greedy, without the penalties that a model's own ``generation_config.json`` may ask for."""
        from transformers import GenerationConfig

        ends = sorted(self._ends)
        self._model.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=ends, pad_token_id=ends[0], use_cache=True
        )


def end_ids(model: Any, chat: ChatFormat) -> frozenset[int]:
    """The tokens that end an answer: the chat format's, the model's own, and those that are known by their name."""
    found = {chat.encode(chat.end_token)[0]}
    for config in (model.config, model.generation_config):
        named = config.eos_token_id
        found.update([named] if isinstance(named, int) else named or [])
    for name in ENDS:
        if name in chat.control:
            found.update(chat.encode(name))
    return frozenset(found)


def _decoder(folder: Path) -> Callable[[Sequence[int]], str]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))


def _chooser(rows: Sequence[tuple[int, int]], sampling: Sampling) -> Any:
    """A ``LogitsProcessor`` that leaves each row the one token that it is to take, and notes when the first came.

    A row's draws depend on (seed, prompt, sample) alone, not on its neighbours.
    """
    from transformers import LogitsProcessor

    class Chooser(LogitsProcessor):  # type: ignore[misc]
        first: float | None = None

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            del input_ids
            self.first = self.first or time.perf_counter()
            if sampling.temperature <= 0:
                return scores
            logits = scores.float().cpu().numpy()
            only = scores.new_full(scores.shape, -np.inf)
            for place, rng in enumerate(rngs):
                only[place, choose(logits[place], sampling, rng)] = 0.0
            return only

    rngs = [np.random.default_rng(sampling.stream(prompt, sample)) for prompt, sample in rows]
    return Chooser()
