"""All that PEFT can save for LoRA, on tiny models: a merged folder answers as the live PEFT model does."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16
from safetensors.numpy import load_file

from gguf_export import Adapter, Checkpoint, GgufFile, export, merge_to_safetensors
from gguf_export.adapters.files import _REFUSED
from gguf_export.errors import UnsupportedError
from tests.gguf_models import make_adapter, make_tiny_model

PROJECTIONS = ["q_proj", "v_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora rslora": {"use_dora": True, "use_rslora": True, "rank_pattern": {"v_proj": 3}},
    "lora bias": {"lora_bias": True},
    "all biases": {"bias": "all"},
    "biases of LoRA layers": {"bias": "lora_only"},
    "embedding": {"target_modules": [*PROJECTIONS, "embed_tokens"]},
    "head": {"target_modules": [*PROJECTIONS, "lm_head"]},
    "embedding and head": {"target_modules": [*PROJECTIONS, "embed_tokens", "lm_head"]},
    "embedding, kept tied": {"target_modules": [*PROJECTIONS, "embed_tokens"], "ensure_weight_tying": True},
    "head, kept tied": {"target_modules": [*PROJECTIONS, "lm_head"], "ensure_weight_tying": True},
    "whole embedding": {"modules_to_save": ["embed_tokens"]},
    "whole head": {"modules_to_save": ["lm_head"]},
    "whole embedding and head": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "whole embedding, kept tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "whole head, kept tied": {"modules_to_save": ["lm_head"], "ensure_weight_tying": True},
    "norms and an MLP": {"modules_to_save": ["norm", "layers.1.mlp", "k_proj"]},
    "some tokens": {"trainable_token_indices": [3, 5]},
    "other tokens of the head": {"trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [1, 2]}},
}
UNTIES = {
    "embedding",
    "head",
    "embedding and head",
    "whole embedding",
    "whole head",
    "whole embedding and head",
    "other tokens of the head",
}
"""Kinds after which a tied embedding and head are no longer the same matrix."""
MERGED_WRONGLY = {
    "embedding",
    "head",
    "embedding and head",
    "embedding, kept tied",
    "head, kept tied",
    "other tokens of the head",
}
"""Kinds for which PEFT 0.21's own merge of a tied model is another model than the one that was trained."""
IDS = list(range(5, 60))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {tied: make_tiny_model(root / str(tied), "qwen2", tied) for tied in (True, False)}


def _live(base: Path, adapters: list[Path]) -> Any:
    """The model as it was trained: each adapter on top of the ones before."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for position, adapter in enumerate(adapters):
        model = PeftModel.from_pretrained(model, adapter)
        if position + 1 < len(adapters):
            model = model.merge_and_unload()
    return model.eval()


def _logits(model: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return np.asarray(model(torch.tensor([IDS])).logits[0].float().numpy())


def _merged(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_answer_as_the_live_model(
    bases: dict[bool, Path], tmp_path: Path, kind: str, tied: bool
) -> None:
    settings = {"r": 4, "target_modules": PROJECTIONS} | KINDS[kind]
    adapter = make_adapter(bases[tied], tmp_path / "adapter", **settings)
    folder = merge_to_safetensors(bases[tied], adapter, tmp_path / "merged", "f32")
    model = _merged(folder)
    assert model.config.tie_word_embeddings == (tied and kind not in UNTIES)
    live = _logits(_live(bases[tied], [adapter]))
    assert np.abs(_logits(_merged(bases[tied])) - live).max() > 0.1, "the adapter has to change something"
    np.testing.assert_allclose(_logits(model), live, rtol=0, atol=2e-4)
    if tied:
        peft = _logits(_live(bases[tied], [adapter]).merge_and_unload())
        assert (np.abs(peft - live).max() > 0.1) == (kind in MERGED_WRONGLY)


def test_a_chain_answers_as_stages_that_were_merged_in_between(bases: dict[bool, Path], tmp_path: Path) -> None:
    """Stage B is trained on base + A, and carries a copy of an embedding that A has changed."""
    base = bases[False]
    first = make_adapter(base, tmp_path / "a", r=4, target_modules=["embed_tokens", "q_proj"])
    after_first = merge_to_safetensors(base, first, tmp_path / "after-a", "f32")
    second = make_adapter(after_first, tmp_path / "b", seed=1, r=2, use_rslora=True, target_modules=["embed_tokens"])
    third = make_adapter(after_first, tmp_path / "c", seed=2, use_dora=True)
    chain = merge_to_safetensors(base, [first, second, third], tmp_path / "merged", "f32")
    np.testing.assert_allclose(_logits(_merged(chain)), _logits(_live(base, [first, second, third])), rtol=0, atol=2e-4)
    with pytest.raises(UnsupportedError, match="carries its own copy of a base weight, and it differs"):
        Adapter.load(second).check_fits(Checkpoint.open(base))


def test_dora_differs_from_pefts_merge_by_roundings_only(bases: dict[bool, Path], tmp_path: Path) -> None:
    """A norm is a sum over a row, and its last bit depends on the order of summation."""
    adapter = make_adapter(bases[False], tmp_path / "adapter", use_dora=True)
    peft = _live(bases[False], [adapter]).merge_and_unload().state_dict()
    ours = load_file(merge_to_safetensors(bases[False], adapter, tmp_path / "merged", "f32") / "model.safetensors")
    pairs = [(values.astype(bfloat16), peft[name].numpy().astype(bfloat16)) for name, values in ours.items()]
    different = sum(np.count_nonzero(mine != its) for mine, its in pairs)
    assert different / sum(mine.size for mine, _ in pairs) < 1e-4
    for mine, its in pairs:
        np.testing.assert_allclose(mine.astype(np.float32), its.astype(np.float32), rtol=2**-7)


def test_a_head_of_its_own_is_in_the_gguf(bases: dict[bool, Path], tmp_path: Path) -> None:
    names = {}
    for kind in ("plain", "head"):
        settings = {"r": 4, "target_modules": PROJECTIONS} | KINDS[kind]
        adapter = make_adapter(bases[True], tmp_path / kind, **settings)
        path = export(bases[True], adapter, tmp_path / f"{kind}.gguf", quant="Q8_0").path
        names[kind] = {tensor.name for tensor in GgufFile(path).tensors}
    assert names["head"] - names["plain"] == {"output.weight"}


def test_tied_tokens_beside_an_untied_head_are_refused(bases: dict[bool, Path], tmp_path: Path) -> None:
    tokens = make_adapter(bases[True], tmp_path / "t", target_modules=PROJECTIONS, trainable_token_indices=[3])
    head = make_adapter(bases[True], tmp_path / "h", target_modules=["lm_head"])
    with pytest.raises(UnsupportedError, match="trainable_token_indices of a tied embedding beside another change"):
        Adapter.load([tokens, head]).fitted(Checkpoint.open(bases[True]))


def test_every_variant_that_peft_knows_is_covered_or_refused() -> None:
    from peft import LoraConfig

    variants = {field.name for field in fields(LoraConfig) if field.metadata.get("is_lora_variant")}
    assert "use_dora" in variants, "PEFT marks the settings that change the arithmetic"
    assert variants - set(_REFUSED) == {"use_dora"}
