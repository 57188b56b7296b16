"""What is wrong with weights that are not those of base + adapter, said by name.

Which tensors differ tells much: one place is damage; only q and k, rows in another order; what the adapter does not
touch, another base. Where only what the adapter changes differs, the change that the file holds is fitted to the one
that it should hold: ``file - base = c * (merged - base) + error``. Noise of the type is independent of the change, so
``c`` comes out to a percent or two even where one weight's noise is ten times its change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..checkpoints.weights import Float32
from ..reading import GgufFile
from .verification import Check
from .weights_check import Origin, TensorComparison, dequantized, float_rows

_ROUNDING_ERROR: Final = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
"""The most that a rounding changes a value by, as a share of it."""

_FITTED_SLABS: Final = 64
_NAMED: Final = 3
_ORDERED: Final = ("attn_q.weight", "attn_k.weight", "attn_q.bias", "attn_k.bias")


@dataclass(frozen=True)
class _Fit:
    """How much of the adapter's change a file holds.

    Attributes:
        scale: 1 where it holds it as it is, 0 where it does not hold it.
        uncertainty: standard error of ``scale``.
        unexplained: what is left, over what the types explain; near 1 where nothing else differs.
    """

    scale: float
    uncertainty: float
    unexplained: float

    @property
    def tolerance(self) -> float:
        """How far ``scale`` may be from a number that it stands for."""
        return 4 * self.uncertainty + 0.05


def weight_checks(file: GgufFile, origin: Origin, compared: Sequence[TensorComparison]) -> list[Check]:
    """One passed check, or failed ones by the name of the fault.

    Args:
        file: the GGUF.
        origin: what it has to hold.
        compared: what `compare_weights` found.
    """
    foreign = _foreign_tensors(file, origin)
    if foreign:
        return [Check("base", False, f"the file is of another base model: {_listed(foreign)}")]
    wrong = [item for item in compared if item.wrong]
    throughout = [item for item in wrong if item.is_wrong_throughout]
    if not throughout and (weak := _weak_fault(file, origin, compared)) is not None:
        return [weak]
    if not wrong:
        return [Check("weights", True, _praise(origin, compared))]
    places = [item for item in wrong if not item.is_wrong_throughout]
    checks = []
    if len(throughout) == 1 and _is_alone(throughout[0], compared):
        places, throughout = wrong, []
    if throughout:
        # In a tensor where most rows differ, a few far ones are part of the same fault.
        places = [item for item in places if item.n_same >= 0.5 * item.n_rows]
        checks.append(_named(file, origin, compared, throughout))
    if places:
        checks.append(_damage(places))
    return checks


def _weak_fault(file: GgufFile, origin: Origin, compared: Sequence[TensorComparison]) -> Check | None:
    """A fault of an adapter that changes each weight by less than its type does: it shows only in the sum of all."""
    changed = [item for item in compared if origin.changes(item.plan)]
    if sum(item.n_same for item in changed) >= 0.5 * sum(item.n_rows for item in changed):
        return None
    fit = _fit({tensor.name: tensor for tensor in file.tensors}, origin, changed)
    if abs(fit.scale - 1) <= fit.tolerance:
        return None
    return _adapter_check(fit, _listed([item.plan.name for item in changed]))


def _foreign_tensors(file: GgufFile, origin: Origin) -> list[str]:
    """Tensors that the file and the base do not share, or share in name alone."""
    shapes = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in file.tensors}
    found = []
    for name, plan in origin.plans.items():
        if name not in shapes:
            found.append(f"{name} is missing")
        elif shapes[name] != plan.shape:
            found.append(f"{name} is {list(shapes[name])}, the base's {list(plan.shape)}")
    known = {*origin.plans, "rope_freqs.weight"}
    return [*found, *(f"{name} is not in the base" for name in shapes if name not in known)]


def _named(
    file: GgufFile, origin: Origin, compared: Sequence[TensorComparison], wrong: Sequence[TensorComparison]
) -> Check:
    """The fault that explains tensors which differ throughout."""
    names = _listed([item.plan.name for item in wrong])
    tensors = {tensor.name: tensor for tensor in file.tensors}
    if all(item.plan.name.endswith(_ORDERED) for item in wrong):
        order = _order(tensors, origin, wrong)
        if order is not None:
            return Check("row order", False, f"wrong permutation of rows in {names}: {order}")
    untouched = [item.plan.name for item in wrong if not origin.changes(item.plan)]
    if untouched or origin.adapter is None:
        likeness = _likeness(tensors, origin, wrong)
        whose = "which the adapter does not change" if origin.adapter is not None else "and no adapter was given"
        detail = f"the file was made from another base: {_listed(untouched)} differ, {whose} ({likeness})"
        return Check("base", False, detail)
    fit = _fit(tensors, origin, [item for item in compared if origin.changes(item.plan)])
    return _adapter_check(fit, names)


def _adapter_check(fit: _Fit, names: str) -> Check:
    off = fit.tolerance
    if fit.unexplained < 1.3 and abs(fit.scale - 1) > off:
        if abs(fit.scale) < off:
            return Check("adapter", False, f"the file holds the base alone, without the adapter ({names} differ)")
        return Check(
            "adapter scale",
            False,
            f"the adapter was added {fit.scale:.2f} times where it should be added once: "
            f"lora_alpha or r is not what was trained ({names} differ)",
        )
    share = f"its change is there {fit.scale:.2f} times, and explains only {1 / fit.unexplained:.0%} of the difference"
    if abs(fit.scale - 1) <= off:
        share = "it is in the file, but something else is, too"
    return Check("adapter", False, f"the file holds another adapter than this one: {share} ({names} differ)")


def _fit(tensors: dict[str, Any], origin: Origin, items: Sequence[TensorComparison]) -> _Fit:
    """Least squares of what the file holds beyond the base, on what it should hold beyond it."""
    noise, energy, count = 0.0, 0.0, 0
    sums = []
    for item, rows, ordered in _slabs(origin, items):
        theirs = dequantized(tensors[item.plan.name], rows).reshape(ordered.shape).astype(np.float64)
        base = origin.rows(item.plan, rows, adapted=False).astype(np.float64)
        change, held = ordered - base, theirs - base
        sums.append((float((held * change).sum()), float((change**2).sum()), float((held**2).sum())))
        noise += _noise(origin, item, ordered)
        energy += float((ordered.astype(np.float64) ** 2).sum())
        count += ordered.size
    along, square, total = (sum(column) for column in zip(*sums, strict=True))
    if square == 0:
        return _Fit(0.0, 0.0, 1.0)
    scale = along / square
    left = max(0.0, total - scale * along)
    # The base, what it should be and what it is were each rounded once.
    floor = noise + 2.0**-20 * square + _ROUNDING_ERROR[origin.rounding] ** 2 * energy
    return _Fit(scale, float(np.sqrt(left / max(1, count) / square)), left / max(floor, 1e-30))


def _noise(origin: Origin, item: TensorComparison, values: Float32) -> float:
    """The sum of squared errors that storing these values costs."""
    import gguf

    kind = gguf.GGMLQuantizationType[item.type_name]
    stored = origin.stored(item.plan, item.type_name).encode(values).reshape(-1).view(np.uint8)
    decoded = float_rows(kind, stored.reshape(values.size // values.shape[-1], -1)).reshape(values.shape)
    return float(((decoded.astype(np.float64) - values) ** 2).sum())


def _slabs(origin: Origin, items: Sequence[TensorComparison]) -> Iterator[tuple[TensorComparison, slice, Float32]]:
    """Some of the rows of tensors, one slab a tensor, as the file has to hold them."""
    step = max(1, len(items) // _FITTED_SLABS)
    for item in items[::step]:
        if len(item.plan.shape) == 2:
            yield item, item.slabs[0], origin.rows(item.plan, item.slabs[0])


def _order(tensors: dict[str, Any], origin: Origin, wrong: Sequence[TensorComparison]) -> str | None:
    """In which order the rows lie; ``None`` where they are not the right rows in any order."""
    items = [item for item in wrong if len(item.plan.shape) == 2]
    orders: tuple[tuple[str, Callable[[TensorComparison, slice], Float32]], ...] = (
        ("they lie as in the checkpoint", lambda item, rows: origin.rows(item.plan, rows, ordered=False)),
        ("they were reordered twice", lambda item, rows: item.plan.reorder(origin.rows(item.plan, rows))),
    )
    for what, expected in orders:
        if items and all(
            _is_near(dequantized(tensors[item.plan.name], item.slabs[0]), expected(item, item.slabs[0]))
            for item in items
        ):
            return what
    matched = [_matching(tensors, origin, item) for item in items]
    if matched and min(matched) > 0.9:
        return "they are the right rows in another order"
    return None


def _is_near(theirs: Float32, values: Float32) -> bool:
    return bool(((theirs - values) ** 2).sum() < 0.05 * (values**2).sum())


def _matching(tensors: dict[str, Any], origin: Origin, item: TensorComparison) -> float:
    """The share of rows that are most like a row of the right tensor, each like another one."""
    rows = slice(0, min(item.slabs[0].stop, max(item.plan.rows_per_unit, 256)))
    values, theirs = origin.rows(item.plan, rows), dequantized(tensors[item.plan.name], rows)
    likeness = _directions(theirs) @ _directions(values).T
    best = likeness.argmax(axis=1)
    good = likeness.max(axis=1) > 0.9
    return len(set(best[good].tolist())) / len(values)


def _directions(rows: Float32) -> Float32:
    norms = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-30))
    return np.asarray(rows / norms, dtype=np.float32)


def _likeness(tensors: dict[str, Any], origin: Origin, wrong: Sequence[TensorComparison]) -> str:
    """How alike the weights are, in words that tell a sibling from a stranger."""
    products = []
    for item, rows, values in _slabs(origin, wrong):
        theirs = dequantized(tensors[item.plan.name], rows).reshape(values.shape)
        norm = float(np.linalg.norm(theirs) * np.linalg.norm(values))
        products.append(float((theirs * values).sum()) / norm if norm else 0.0)
    if not products:
        return "only vectors differ"
    mean = float(np.mean(products))
    kind = "another state of the same model" if mean > 0.5 else "another model of the same shape"
    return f"correlation {mean:.2f}: {kind}"


def _is_alone(item: TensorComparison, compared: Sequence[TensorComparison]) -> bool:
    """Whether a tensor of few rows differs among many that do not: that is damage, not another model."""
    return item.n_rows <= 2 and len(compared) > 1


def _damage(items: Sequence[TensorComparison]) -> Check:
    places = [f"{item.plan.name} row {row}, from weight {weight}" for item in items for row, weight in item.wrong]
    noun = "one row" if len(places) == 1 else f"{len(places)} rows"
    detail = f"{noun} differ from base + adapter by more than the type explains: {_listed(places)}"
    return Check("corrupted block", False, detail)


def _praise(origin: Origin, compared: Sequence[TensorComparison]) -> str:
    rows, same = sum(item.n_rows for item in compared), sum(item.n_same for item in compared)
    n_values = sum(item.n_rows * (item.plan.shape[-1] if item.plan.shape else 1) for item in compared)
    what = "base + adapter" if origin.adapter is not None else "the base"
    whole = sum(item.all_rows for item in compared)
    some = "" if rows == whole else f" in a sample of {rows} of {whole} rows"
    exact = "byte for byte"
    if same < rows:
        exact = f"{same / rows:.1%} of the rows byte for byte, the rest within the type's error"
    return f"{len(compared)} tensors hold {what}{some}: {n_values / 1e6:.1f} million weights compared, {exact}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
