"""LoRA on experts that are stacked in one parameter, as PEFT trains and saves it with transformers 5.

PEFT wraps the parameter (``target_parameters``; ``target_modules`` that name the experts' projections become that).
The factors of all experts lie in one pair, ``A [experts * r, in]`` with an expert's rows side by side, and
``B [out, r * experts]`` with an expert's columns ``experts`` apart (``peft.tuners.lora.layer.ParamWrapper``). Two
wrapped parameters of one module are nested: the inner one is called ``base_layer``, and no name says which parameter
it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.shards import Float32, TensorInfo, row_range
from ..errors import BrokenFileError, UnsupportedError
from .sums import add_product

STACK = ".mlp.experts"
"""How the module that holds the experts of a layer ends."""

Pair = tuple[TensorInfo, TensorInfo]


@dataclass(frozen=True)
class ExpertLowRank:
    """What one expert gets from the factors of all of them.

    Attributes:
        a: ``[experts * r, in]``.
        b: ``[out, r * experts]``.
        scale: ``alpha / r``, or ``alpha / sqrt(r)`` for rsLoRA.
        expert: which one.
        n_experts: of how many.
        first_row: where its rows begin in ``out``: up lies behind gate.
        n_rows: how many rows it has.
    """

    a: TensorInfo
    b: TensorInfo
    scale: float
    expert: int
    n_experts: int
    first_row: int
    n_rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor that it changes."""
        return (self.n_rows, self.a.shape[1])

    def apply(self, values: Float32, rows: slice | None) -> Float32:
        """The rows after the change; ``values`` is overwritten."""
        start, stop = row_range(self.shape, rows)
        rank = self.a.shape[0] // self.n_experts
        b = self.b.read(slice(self.first_row + start, self.first_row + stop))[:, self.expert :: self.n_experts]
        return add_product(values, b, self.a.read(slice(self.expert * rank, (self.expert + 1) * rank)), self.scale)


def require_known_parameters(path: Path, parameters: list[str] | None) -> None:
    """Check that ``target_parameters`` names nothing but experts and the router.

    Raises:
        UnsupportedError: it names another parameter.
    """
    for name in parameters or ():
        if name.split(".")[-1] not in ("gate_up_proj", "down_proj") and not name.endswith("gate.weight"):
            raise UnsupportedError(
                f"{path}: target_parameters {name!r} is not covered; train modules, or merge with PEFT's "
                "merge_and_unload and export the merged folder without an adapter"
            )


def expert_changes(
    path: Path,
    config: Mapping[str, Any],
    module: str,
    pairs: Mapping[str, Pair],
    scale_of: Callable[[str], tuple[int, float]],
) -> dict[str, ExpertLowRank]:
    """What the factors of one layer's experts do, by base tensor.

    Args:
        path: the adapter's file, for messages.
        config: ``adapter_config.json``.
        module: the module that holds the experts, as ``model.layers.0.mlp.experts``.
        pairs: A and B by the name of the wrapper: ``module``, and ``module.base_layer`` where there are two.
        scale_of: rank and scale of a parameter, by its full name.

    Raises:
        BrokenFileError: the factors have other shapes than the settings say.
    """
    changes: dict[str, ExpertLowRank] = {}
    for parameter, (a, b) in _by_parameter(path, config, module, pairs).items():
        rank, scale = scale_of(f"{module}.{parameter}")
        n_experts = a.shape[0] // rank
        parts = ("gate", "up") if parameter == "gate_up_proj" else ("down",)
        if a.shape[0] % rank or a.shape[0] != b.shape[1] or b.shape[0] % len(parts):
            raise BrokenFileError(
                f"{path}: {module}.{parameter}: factors of shape {list(a.shape)} and {list(b.shape)}, its config says "
                f"rank {rank}; save the adapter again"
            )
        n_rows = b.shape[0] // len(parts)
        for expert in range(n_experts):
            for position, part in enumerate(parts):
                name = f"{module}.{expert}.{part}_proj.weight"
                changes[name] = ExpertLowRank(a, b, scale, expert, n_experts, position * n_rows, n_rows)
    return changes


def _by_parameter(path: Path, config: Mapping[str, Any], module: str, pairs: Mapping[str, Pair]) -> dict[str, Pair]:
    """Which parameter each pair belongs to: by the settings where there is one, by the shapes where there are two."""
    if len(pairs) == 1:
        targets = {str(name).split(".")[-1] for name in config.get("target_parameters") or ()}
        targets &= {"gate_up_proj", "down_proj"}
        if len(targets) == 1:
            return {targets.pop(): next(iter(pairs.values()))}
    elif len(pairs) == 2:
        for first, second in ((module, f"{module}.base_layer"), (f"{module}.base_layer", module)):
            gate_up, down = pairs[first], pairs[second]
            hidden, inner = gate_up[0].shape[1], down[0].shape[1]
            if gate_up[1].shape[0] == 2 * inner and down[1].shape[0] == hidden:
                return {"gate_up_proj": gate_up, "down_proj": down}
    raise BrokenFileError(
        f"{path}: {module}: cannot tell which factors are those of gate_up_proj and which of down_proj; "
        "save the adapter again, with its target_parameters"
    )
