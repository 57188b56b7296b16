"""The shape of a model, read from its ``config.json``, and what it counts up to.

Shape legend used in this package: H hidden size, A attention width (heads x head size),
K key/value width (kv heads x head size), I intermediate size, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from lowvram_ft.errors import ModelError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""The ``model_type`` values whose layers are known here."""

LINEAR_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of one decoder layer, as PEFT's ``target_modules`` names them."""


@dataclass(frozen=True)
class Linear:
    """One linear layer of a decoder layer.

    Attributes:
        name: as in ``target_modules``.
        in_features: width of the input.
        out_features: width of the output.
        bias: whether it has a bias of ``out_features`` values.
    """

    name: str
    in_features: int
    out_features: int
    bias: bool

    @property
    def n_weights(self) -> int:
        """Values in the weight, without the bias."""
        return self.in_features * self.out_features


@dataclass(frozen=True)
class ModelShape:
    """Everything about a decoder model that its memory depends on.

    Source: ``LlamaConfig``, ``MistralConfig``, ``Qwen2Config``, ``Qwen3Config`` and their
    ``modeling_*.py`` in transformers 5.

    Attributes:
        family: ``model_type`` of the config.
        hidden_size: H.
        num_hidden_layers: L.
        num_attention_heads: query heads.
        num_key_value_heads: key/value heads.
        head_dim: size of one head.
        intermediate_size: I.
        vocab_size: V.
        tie_word_embeddings: whether the head is the embedding itself.
        qkv_bias: whether q, k and v have biases.
        o_bias: whether the attention output has one.
        mlp_bias: whether gate, up and down have biases.
        qk_norm: whether each query and key head is normalized (Qwen3).
    """

    family: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> ModelShape:
        """Read a shape from the content of a ``config.json``.

        Args:
            config: the parsed file.

        Raises:
            ModelError: the family is not known here, or a number is missing or impossible.
        """
        family = config.get("model_type")
        if family not in FAMILIES:
            raise ModelError(
                f"config.json: model_type: not supported (got {family!r}); use one of {', '.join(FAMILIES)}"
            )
        family = str(family)
        hidden = _positive(config, "hidden_size")
        heads = _positive(config, "num_attention_heads")
        # Llama leaves both out of its oldest configs: every head its own key, heads share the width.
        kv_heads = _positive(config, "num_key_value_heads", heads if family == "llama" else None)
        head_dim = _positive(config, "head_dim", None if family == "qwen3" else hidden // heads)
        if heads % kv_heads:
            raise ModelError(
                f"config.json: num_key_value_heads: must divide num_attention_heads "
                f"(got {kv_heads} and {heads}); check the file"
            )
        attention_bias = family in ("llama", "qwen3") and _flag(config, "attention_bias")
        return cls(
            family=family,
            hidden_size=hidden,
            num_hidden_layers=_positive(config, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            intermediate_size=_positive(config, "intermediate_size"),
            vocab_size=_positive(config, "vocab_size"),
            tie_word_embeddings=_flag(config, "tie_word_embeddings"),
            qkv_bias=family == "qwen2" or attention_bias,
            o_bias=attention_bias,
            mlp_bias=family == "llama" and _flag(config, "mlp_bias"),
            qk_norm=family == "qwen3",
        )

    @property
    def attention_width(self) -> int:
        """A: query heads x head size."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_width(self) -> int:
        """K: key/value heads x head size."""
        return self.num_key_value_heads * self.head_dim

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """The seven linear layers of one decoder layer, in the order of `LINEAR_NAMES`."""
        hidden, attention, kv = self.hidden_size, self.attention_width, self.key_value_width
        return (
            Linear("q_proj", hidden, attention, self.qkv_bias),
            Linear("k_proj", hidden, kv, self.qkv_bias),
            Linear("v_proj", hidden, kv, self.qkv_bias),
            Linear("o_proj", attention, hidden, self.o_bias),
            Linear("gate_proj", hidden, self.intermediate_size, self.mlp_bias),
            Linear("up_proj", hidden, self.intermediate_size, self.mlp_bias),
            Linear("down_proj", self.intermediate_size, hidden, self.mlp_bias),
        )

    @property
    def n_embedding(self) -> int:
        """Values in the embedding."""
        return self.vocab_size * self.hidden_size

    @property
    def n_head(self) -> int:
        """Values in the head that the embedding does not hold already: 0 where they are tied."""
        return 0 if self.tie_word_embeddings else self.n_embedding

    @cached_property
    def n_layer_linear(self) -> int:
        """Weights of one layer's linear layers, without biases: what NF4 quantizes."""
        return sum(linear.n_weights for linear in self.linears)

    @property
    def n_layer_bias(self) -> int:
        """Biases of one layer."""
        return sum(linear.out_features for linear in self.linears if linear.bias)

    @property
    def n_layer_norm(self) -> int:
        """Norm weights of one layer: two of H, and two of the head size with q/k norm."""
        return 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)

    @property
    def n_layer(self) -> int:
        """All values of one layer."""
        return self.n_layer_linear + self.n_layer_bias + self.n_layer_norm

    @property
    def n_parameters(self) -> int:
        """All values of the model; a tied embedding counts once."""
        return self.n_embedding + self.n_head + self.num_hidden_layers * self.n_layer + self.hidden_size


def _positive(config: Mapping[str, object], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None and default is not None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        got = "nothing" if value is None else repr(value)
        raise ModelError(f"config.json: {key}: must be a positive whole number (got {got}); check the file")
    return value


def _flag(config: Mapping[str, object], key: str) -> bool:
    value = config.get(key, False)  # transformers' default for each flag that is read here
    if not isinstance(value, bool):
        raise ModelError(f"config.json: {key}: must be true or false (got {value!r}); check the file")
    return value
