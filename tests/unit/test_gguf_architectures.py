"""Model families: names, the order of rows, rope settings, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from gguf_export.checkpoints.weights import Checkpoint, TensorInfo
from gguf_export.errors import BrokenFileError, UnsupportedError
from gguf_export.families.architectures import (
    TensorPlan,
    family_of,
    plan_tensors,
    rope_factors,
    rope_settings,
)

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
LAYER = {
    "self_attn.q_proj": (16, 16),
    "self_attn.k_proj": (8, 16),
    "self_attn.v_proj": (8, 16),
    "self_attn.o_proj": (16, 16),
    "mlp.gate_proj": (24, 16),
    "mlp.up_proj": (24, 16),
    "mlp.down_proj": (16, 24),
    "input_layernorm": (16,),
    "post_attention_layernorm": (16,),
}


def _checkpoint(drop: str = "", extra: dict[str, tuple[int, ...]] | None = None, **config: Any) -> Checkpoint:
    shapes = {"model.embed_tokens.weight": (32, 16), "model.norm.weight": (16,)}
    shapes |= {f"model.layers.0.{name}.weight": shape for name, shape in LAYER.items()}
    shapes |= extra or {}
    tensors = {n: TensorInfo(Path("m"), "F32", s, 0) for n, s in shapes.items() if n != drop}
    return Checkpoint(Path("base"), MappingProxyType(CONFIG | config), MappingProxyType(tensors))


def test_rows_of_each_head_are_interleaved() -> None:
    plan = TensorPlan("blk.0.attn_q.weight", "q", (24, 3), n_heads=3, keep_f32=False)
    rows = np.arange(72, dtype=np.float32).reshape(24, 3)
    expected = np.empty_like(rows)
    for head in range(3):
        for pair in range(4):
            expected[head * 8 + 2 * pair] = rows[head * 8 + pair]
            expected[head * 8 + 2 * pair + 1] = rows[head * 8 + pair + 4]
    np.testing.assert_array_equal(plan.reorder(rows), expected)
    # whole heads of a slab are reordered as in the whole tensor
    np.testing.assert_array_equal(plan.reorder(rows[8:16]), expected[8:16])
    assert plan.rows_per_unit == 8


def test_only_llamas_q_and_k_are_reordered() -> None:
    for architecture, expected in (
        ("LlamaForCausalLM", {"attn_q": 4, "attn_k": 2}),
        ("Qwen2ForCausalLM", {}),
    ):
        checkpoint = _checkpoint(architectures=[architecture])
        plans = plan_tensors(checkpoint, family_of(checkpoint))
        assert {p.name.split(".")[2]: p.n_heads for p in plans if p.n_heads} == expected
        assert {p.name for p in plans if p.keep_f32} == {
            "output_norm.weight",
            "blk.0.attn_norm.weight",
            "blk.0.ffn_norm.weight",
        }


def test_a_tied_head_in_the_file_is_left_out() -> None:
    head = {"lm_head.weight": (32, 16)}
    for tied, expected in ((True, False), (False, True)):
        checkpoint = _checkpoint(extra=head, tie_word_embeddings=tied)
        names = [plan.name for plan in plan_tensors(checkpoint, family_of(checkpoint))]
        assert ("output.weight" in names) is expected


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "architecture GemmaForCausalLM is not covered"),
        ({"architectures": None, "model_type": "mamba"}, "model_type mamba"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope_type dynamic"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_type longrope"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"use_sliding_window": True, "sliding_window": 4096}, "sliding_window"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_what_is_not_covered_is_refused_by_name(config: dict[str, Any], setting: str) -> None:
    with pytest.raises(UnsupportedError, match=setting) as caught:
        family_of(_checkpoint(**config))
    assert "convert_hf_to_gguf.py" in str(caught.value)


def test_settings_that_change_nothing_are_taken() -> None:
    family_of(_checkpoint(use_sliding_window=False, sliding_window=32768, partial_rotary_factor=1.0))


def test_missing_foreign_and_misshapen_tensors() -> None:
    family = family_of(_checkpoint())
    with pytest.raises(BrokenFileError, match=r"1 tensors are missing \(the first: blk\.0\.ffn_up\.weight\)"):
        plan_tensors(_checkpoint(drop="model.layers.0.mlp.up_proj.weight"), family)
    with pytest.raises(BrokenFileError, match=r"output\.weight"):
        plan_tensors(_checkpoint(tie_word_embeddings=False), family)
    with pytest.raises(UnsupportedError, match=r"vision\.weight: not a tensor of a Llama model"):
        plan_tensors(_checkpoint(extra={"vision.weight": (1,)}), family)
    with pytest.raises(BrokenFileError, match=r"up_proj\.weight: shape \[24, 16\], config\.json says \[99, 16\]"):
        plan_tensors(_reshaped(), family)


def _reshaped() -> Checkpoint:
    shapes = {
        "model.layers.0.mlp.gate_proj.weight": (99, 16),
        "model.layers.0.mlp.down_proj.weight": (16, 99),
    }
    return _checkpoint(intermediate_size=99, extra=shapes)


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 1e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e5, "factor": 4.0}},
    ],
)
def test_old_and_new_rope_settings_are_the_same(config: dict[str, Any]) -> None:
    assert rope_settings(_checkpoint(**config)) == {"rope_type": "linear", "rope_theta": 1e5, "factor": 4.0}


def test_llama3_factors_keep_short_and_divide_long_wavelengths() -> None:
    assert rope_factors(_checkpoint()) is None
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    factors = rope_factors(_checkpoint(head_dim=64, rope_theta=500000.0, rope_scaling=scaling))
    assert factors is not None
    assert factors.shape == (32,) and factors[0] == 1.0 and factors[-1] == 8.0
    assert np.all(np.diff(factors) >= 0) and np.any((factors > 1) & (factors < 8))
