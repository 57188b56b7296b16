"""`plan_memory`: every term of one configuration, the peak of each phase, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from lowvram_ft.errors import UsageError
from lowvram_ft.memory.breakdown import activation_terms, activations_leave, adapter_terms
from lowvram_ft.memory.machine import disk_terms, host_terms, machine_terms
from lowvram_ft.memory.setup import Budget, TrainingSetup
from lowvram_ft.memory.shape import ModelShape
from lowvram_ft.memory.terms import Place, Term
from lowvram_ft.memory.weights import embedding_place, weight_terms

FRAGMENTATION = 0.05
"""The share of what comes and goes that the allocator cannot use. Assumption; torch rounds to 512 bytes and
2 MiB segments (``CUDACachingAllocator.cpp``), and ``max_memory_reserved`` is what shows it."""

HEADROOM = 0.02
"""The share of what torch may reserve that a plan leaves free: what it may be wrong by."""

WEIGHTS = (
    "decoder weights",
    "norms and biases",
    "embedding",
    "head",
    "offloaded layers' statistics",
)
_TRAINED = ("LoRA weights", "optimizer state")
_STANDING = (*WEIGHTS, "dequantized copies", "layer slots", "cuBLAS workspace", *_TRAINED)
PHASES: dict[str, tuple[str, ...]] = {
    "load": (*WEIGHTS, "dequantized copies", "tables while loading", "loader"),
    "forward": (*_STANDING, "gradients", "inputs", "activations", "dequantized weight", "workspace"),
    "loss": (*_STANDING, "gradients", "inputs", "activations", "head slices", "loss"),
    "backward": (
        *_STANDING,
        *("gradients", "inputs", "activations", "recomputed layer", "workspace", "dequantized weight"),
    ),
    "optimizer": (*_STANDING, "gradients", "optimizer workspace"),
    "evaluation": (*_STANDING, "inputs", "recomputed layer", "dequantized weight", "head slices", "loss"),
}
"""Which terms on the training device exist in each phase of a run.

Gradients are there in the forward pass too, from the micro-batches before; not in an evaluation, which comes after an
optimizer step has dropped them. An evaluation is counted as if the last layer's tensors were still there in the loss.
"""
REFERENCES = (*WEIGHTS, "dequantized copies", "layer slots", "cuBLAS workspace", "LoRA weights", "inputs",
              "recomputed layer", "dequantized weight", "head slices", "loss")  # fmt: skip
"""Which terms exist while the reference log-probabilities of pairs are computed: before the first step, without
gradients. No second model is ever there."""

_HOST_ALWAYS = ("process", "system")
_HOST_MODEL = ("offloaded layers", "offloaded embedding", "offloaded head")
HOST_PHASES: dict[str, tuple[str, ...]] = {
    "loading": (*_HOST_ALWAYS, *_HOST_MODEL, "host loader"),
    "training": (
        *_HOST_ALWAYS,
        *_HOST_MODEL,
        *("data set", "offloaded activations", "paged optimizer state", "offloaded optimizer state"),
        *("optimizer copies", "best weights", "checkpoint copy"),
    ),
    "export": (*_HOST_ALWAYS, "merge"),
    "answers": (*_HOST_ALWAYS, "GGUF", "KV cache"),
}
"""Which terms the host holds beside what the training device holds.

By the export, the model is gone. Answers come from llama.cpp: on the card only where it was built for one, and then not
of what torch reserves.
"""


@dataclass(frozen=True)
class Phase:
    """The peak of one phase, on the device that trains or on the host.

    Attributes:
        name: ``load``, ``references`` (of pairs), ``forward``, ``loss``, ``backward``, ``optimizer``, ``evaluation``;
            on the host ``loading``, ``training``, ``export``, ``answers``.
        bytes: the sum of its terms.
        terms: their names.
    """

    name: str
    bytes: int
    terms: tuple[str, ...]


@dataclass(frozen=True)
class MemoryPlan:
    """What one configuration needs, and whether a budget holds it.

    Attributes:
        device: ``gpu``, or ``host`` where there is no card.
        terms: every summand; names are unique.
        phases: the peaks on the device.
        host_phases: the peaks on the host; without a card, with what the device holds at its peak.
        peak_gpu_bytes: the largest of them on the card: what torch reserves; context and desktop are
            terms of their own and not in it. 0 without a card.
        usable_gpu_bytes: the card less context and desktop.
        peak_host_bytes: the most that the host holds, with what is left to the rest of the machine.
        ram_bytes: the host's memory.
        disk_bytes: what a run writes and downloads.
        fits: card (with `HEADROOM` left), host and, where its size is known, disk.
        offload_layers: decoder layers that stay on the host.
        notes: what a reader should know about these numbers.
    """

    device: Place
    terms: tuple[Term, ...]
    phases: tuple[Phase, ...]
    host_phases: tuple[Phase, ...]
    peak_gpu_bytes: int
    usable_gpu_bytes: int
    peak_host_bytes: int
    ram_bytes: int
    disk_bytes: int
    fits: bool
    offload_layers: int
    notes: tuple[str, ...]

    @property
    def missing_gpu_bytes(self) -> int:
        """By how much the peak is above what a plan may fill; 0 or less where it is not."""
        return self.peak_gpu_bytes - fillable(self.usable_gpu_bytes)

    def term(self, name: str) -> Term:
        """The term of that name.

        Raises:
            KeyError: there is none.
        """
        for term in self.terms:
            if term.name == name:
                return term
        raise KeyError(name)

    def to_json(self) -> dict[str, object]:
        """The whole plan as JSON values."""
        return asdict(self)


def fillable(usable_gpu_bytes: int) -> int:
    """What a plan may fill of what torch may reserve."""
    return int(usable_gpu_bytes * (1.0 - HEADROOM))


def plan_memory(shape: ModelShape, setup: TrainingSetup, budget: Budget) -> MemoryPlan:
    """Add up one configuration, term by term.

    Args:
        shape: the base model.
        setup: the configuration, complete: nothing is searched here (see `fit`).
        budget: the machine.

    Raises:
        UsageError: more layers are to stay on the host than the model has.
    """
    device: Place = "host" if budget.vram_bytes is None else "gpu"
    # Without a card there is no other place for a layer to go.
    offload = setup.offload_layers if device == "gpu" else 0
    terms = _training_terms(shape, setup, device)
    here = {term.name: term.bytes for term in terms if term.where == device}
    phases = tuple(_phase(name, (*keys, "fragmentation"), here) for name, keys in phases_of(setup).items())
    peak = max(phase.bytes for phase in phases)
    terms += [*host_terms(shape, setup, device), *machine_terms(budget, device)]
    terms += disk_terms(shape, setup, terms)
    host_phases = _host_phases(terms, phases, device)
    peak_host = max(phase.bytes for phase in host_phases)
    peak_gpu = peak if device == "gpu" else 0
    disk = sum(term.bytes for term in terms if term.where == "disk")
    return MemoryPlan(
        device=device,
        terms=tuple(terms),
        phases=phases,
        host_phases=host_phases,
        peak_gpu_bytes=peak_gpu,
        usable_gpu_bytes=budget.usable_gpu_bytes,
        peak_host_bytes=peak_host,
        ram_bytes=budget.ram_bytes,
        disk_bytes=disk,
        fits=peak_gpu <= fillable(budget.usable_gpu_bytes)
        and peak_host <= budget.ram_bytes
        and (budget.disk_bytes is None or disk <= budget.disk_bytes),
        offload_layers=offload,
        notes=tuple(_notes(shape, setup, device)),
    )


def card_peak(shape: ModelShape, setup: TrainingSetup) -> int:
    """``peak_gpu_bytes`` of a plan, and nothing else of it: a search asks for it hundreds of times.

    Raises:
        UsageError: as `plan_memory`.
    """
    here = {term.name: term.bytes for term in _training_terms(shape, setup, "gpu") if term.where == "gpu"}
    return max(sum(here.get(key, 0) for key in keys) for keys in phases_of(setup).values()) + here["fragmentation"]


def phases_of(setup: TrainingSetup) -> dict[str, tuple[str, ...]]:
    """The phases of a training on the device, in order, with the names of their terms."""
    if not setup.compares_pairs:
        return PHASES
    load, *rest = PHASES.items()
    return dict((load, ("references", REFERENCES), *rest))


def _training_terms(shape: ModelShape, setup: TrainingSetup, device: Place) -> list[Term]:
    """The terms of what is loaded and trained, wherever they are.

    Raises:
        UsageError: more layers are to stay on the host than the model has.
    """
    if setup.offload_layers > shape.num_hidden_layers:
        raise UsageError(
            f"memory plan: offload_layers: more than the model has "
            f"(got {setup.offload_layers} of {shape.num_hidden_layers}); lower it"
        )
    terms = [
        *weight_terms(shape, setup, device, setup.offload_layers if device == "gpu" else 0),
        *adapter_terms(shape, setup, device),
        *activation_terms(shape, setup, device),
    ]
    return [*terms, _fragmentation({term.name: term.bytes for term in terms if term.where == device}, device)]


def _phase(name: str, keys: tuple[str, ...], here: Mapping[str, int]) -> Phase:
    present = tuple(key for key in keys if key in here)
    return Phase(name, sum(here[key] for key in present), present)


def _host_phases(terms: list[Term], phases: tuple[Phase, ...], device: Place) -> tuple[Phase, ...]:
    """The peaks on the host. Where it is the device too, the model is loaded and trained in its memory."""
    there = {term.name: term.bytes for term in terms if term.where == "host"}
    found = [_phase(name, keys, there) for name, keys in HOST_PHASES.items()]
    if device == "gpu":
        return tuple(found)
    trains = max(phases[1:], key=lambda phase: phase.bytes)
    added = {"loading": phases[0], "training": trains}
    return tuple(
        Phase(phase.name, phase.bytes + added[phase.name].bytes, phase.terms + added[phase.name].terms)
        if phase.name in added
        else phase
        for phase in found
    )


def _fragmentation(here: Mapping[str, int], device: Place) -> Term:
    """Of what comes and goes in a step; what loading takes for a moment is given back before the first one."""
    steps = [keys for name, keys in PHASES.items() if name != "load"]
    moving = max(sum(here.get(key, 0) for key in keys if key not in _STANDING) for keys in steps)
    return Term(
        "fragmentation",
        device,
        int(moving * FRAGMENTATION),
        f"{FRAGMENTATION} x {moving} that come and go",
        "assumption; torch CUDACachingAllocator.cpp rounds to 512 bytes in 2 MiB segments",
    )


def _notes(shape: ModelShape, setup: TrainingSetup, device: Place) -> list[str]:
    notes = []
    if setup.compares_pairs:
        notes.append("both sequences of a pair go through the model together; the reference is on the disk")
    if device == "host":
        notes.append("no GPU: everything is in host memory, and nothing can be offloaded")
    elif setup.offload_embedding and shape.tie_word_embeddings and embedding_place(shape, setup, device) == "device":
        notes.append("the embedding is the head too, so it stays on the card")
    if device == "gpu" and setup.optimizer == "paged_adamw_8bit":
        notes.append("paged optimizer state is counted on the host; it visits the card in the optimizer step")
    if device == "gpu" and setup.offload_activations and not activations_leave(setup, device):
        notes.append("rows are too short or not checkpointed: activations stay on the card")
    if setup.kernels == "fused":
        if setup.lora_dropout:
            notes.append("lora_dropout above 0 turns Unsloth's fused LoRA off; 0 would save memory")
        notes.append("activations of the fused kernels follow their source and hold no measurement yet")
    return notes
