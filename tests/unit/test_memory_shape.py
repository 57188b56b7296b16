"""Parameter counts against transformers' own modules on the meta device, and configs that are refused."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lowvram_ft.errors import ModelError
from lowvram_ft.memory import LINEAR_NAMES, ModelShape

CONFIGS = {
    "llama, untied (DeepSeek-Coder-1.3B)": {
        "model_type": "llama",
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "intermediate_size": 5504,
        "vocab_size": 32256,
        "tie_word_embeddings": False,
    },
    "llama, tied (SmolLM2-135M)": {
        "model_type": "llama",
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "llama with every bias": {
        "model_type": "llama",
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 512,
        "vocab_size": 300,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "mistral": {
        "model_type": "mistral",
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 96,
        "intermediate_size": 512,
        "vocab_size": 300,
    },
    "qwen2, untied (Qwen2.5-Coder-7B)": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "qwen2, tied (Qwen2.5-Coder-0.5B)": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "qwen3, tied (Qwen3-4B)": {
        "model_type": "qwen3",
        "hidden_size": 2560,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 9728,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "qwen3, untied, with bias": {
        "model_type": "qwen3",
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "intermediate_size": 512,
        "vocab_size": 300,
        "tie_word_embeddings": False,
        "attention_bias": True,
    },
}


def meta_model(config):
    config = dict(config)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_part_counts_what_transformers_builds(config):
    model = meta_model(config)
    model.tie_weights()
    shape = ModelShape.from_config(config)
    layer = model.model.layers[0]
    linears = {name: module for name, module in layer.named_modules() if name.split(".")[-1] in LINEAR_NAMES}

    assert shape.n_parameters == sum(p.numel() for p in model.parameters())
    assert shape.n_layer == sum(p.numel() for p in layer.parameters())
    assert shape.n_layer_linear == sum(module.weight.numel() for module in linears.values())
    assert shape.n_layer_bias == sum(module.bias.numel() for module in linears.values() if module.bias is not None)
    assert shape.n_layer_norm == sum(p.numel() for name, p in layer.named_parameters() if "norm" in name)
    assert shape.n_embedding == model.get_input_embeddings().weight.numel()
    assert shape.n_head == (0 if config.get("tie_word_embeddings") else model.lm_head.weight.numel())
    for linear in shape.linears:
        module = next(module for name, module in linears.items() if name.endswith(linear.name))
        assert (linear.in_features, linear.out_features, linear.bias) == (
            module.in_features,
            module.out_features,
            module.bias is not None,
        )


def test_an_old_llama_config_without_key_value_heads_has_one_a_head():
    config = dict(CONFIGS["llama, untied (DeepSeek-Coder-1.3B)"])
    del config["num_key_value_heads"]
    assert ModelShape.from_config(config).num_key_value_heads == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, r"model_type: not supported \(got 'gpt2'\); use one of llama, mistral"),
        ({"model_type": "qwen3_moe"}, "'qwen3_moe'"),
        ({"model_type": None}, "got None"),
        ({"hidden_size": None}, r"hidden_size: must be a positive whole number \(got nothing\)"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"vocab_size": "32256"}, r"vocab_size: .*\(got '32256'\)"),
        ({"num_key_value_heads": 5}, "num_key_value_heads: must divide"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings: must be true or false"),
    ],
)
def test_a_config_that_cannot_be_planned_is_refused_by_name(change, message):
    config = CONFIGS["llama, untied (DeepSeek-Coder-1.3B)"] | change
    with pytest.raises(ModelError, match=message):
        ModelShape.from_config(config)


def test_qwen_without_key_value_heads_is_refused():
    config = dict(CONFIGS["qwen3, tied (Qwen3-4B)"])
    del config["num_key_value_heads"]
    with pytest.raises(ModelError, match="num_key_value_heads"):
        ModelShape.from_config(config)
