"""Draw the pictures of the docs from what the code computes, or check that those that are there show the same.

    python docs/pictures.py           draws them anew (extra ``docs``: matplotlib)

A picture holds its figures as JSON in its ``<desc>``: `stale_pictures` compares those, so that the check needs no
plotting library and does not depend on its version. ``python docs/generate.py --check`` runs it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape, unescape
from io import StringIO
from pathlib import Path
from typing import Any

from memory_blocks import GIB, MIB, RAM, wanted

from lowvram_ft.memory import DEFAULT_ALLOW, Budget, ModelShape, fit
from lowvram_ft.memory.plan import MemoryPlan, plan_memory
from lowvram_ft.models import resolve

IMAGES = Path(__file__).resolve().parent / "images"
BASE = "deepseek-ai/deepseek-coder-6.7b-instruct"
VRAM_GIB, TOKENS = 4, 2048
GROUPS: Mapping[str, tuple[str, ...]] = {
    "frozen weights, 4 bits": (
        *("decoder weights", "norms and biases", "embedding", "head", "offloaded layers' statistics"),
        *("dequantized copies", "tables while loading", "loader"),
    ),
    "slots of streamed layers": ("layer slots",),
    "adapter, gradients, optimizer": ("LoRA weights", "gradients", "optimizer state", "optimizer workspace"),
    "hidden states": ("inputs", "activations"),
    "one layer, computed again": ("recomputed layer", "workspace", "dequantized weight"),
    "output head and loss": ("head slices", "loss"),
    "allocator": ("fragmentation", "cuBLAS workspace"),
}
"""What the terms of a plan are called in a picture; a term that has no group is an error."""
COLOURS = ("#3a506b", "#5bc0be", "#e0a030", "#0b6e4f", "#c8553d", "#7b4397", "#9a9a9a")


def _shape() -> ModelShape:
    return ModelShape.from_config(resolve(BASE).config or {})


def phases() -> dict[str, Any]:
    """MiB of each group of terms in each phase of stage A on a 4 GiB card."""
    budget = Budget(VRAM_GIB * GIB, RAM)
    plan = fit(_shape(), wanted(TOKENS), budget, DEFAULT_ALLOW).plan
    return {
        "title": f"DeepSeek-Coder-6.7B, {TOKENS:,} tokens a row, on a {VRAM_GIB} GiB card: what is on it when",
        "budget_mib": plan.usable_gpu_bytes // MIB,
        "outside_mib": VRAM_GIB * 1024 - plan.usable_gpu_bytes // MIB,
        "peaks": {phase.name: round(phase.bytes / MIB) for phase in plan.phases},
        "phases": {phase.name: _grouped(plan, phase.terms, phase.bytes) for phase in plan.phases},
    }


def _grouped(plan: MemoryPlan, names: Sequence[str], peak: int) -> dict[str, int]:
    group_of = {name: group for group, terms in GROUPS.items() for name in terms}
    found = dict.fromkeys(GROUPS, 0)
    here = {term.name: term.bytes for term in plan.terms if term.where == plan.device}
    for name in names:
        found[group_of[name]] += here.get(name, 0)
    found["allocator"] += peak - sum(found.values())  # fragmentation is a share of the phase's own terms
    return {group: round(n_bytes / MIB) for group, n_bytes in found.items()}


def levers() -> dict[str, Any]:
    """Peak MiB on the card as one lever after the other is pulled, down to what the plan chooses."""
    shape, start, budget = _shape(), wanted(TOKENS), Budget(VRAM_GIB * GIB, RAM)
    chosen = fit(shape, start, budget, DEFAULT_ALLOW).setup
    setup = replace(start, gradient_checkpointing=False, load_in_4bit=False)
    steps = [("LoRA on 16-bit weights", setup)]
    for name, change in (
        ("weights in 4 bits (NF4)", {"load_in_4bit": True}),
        ("activations computed again", {"gradient_checkpointing": True}),
        ("embedding and head on the host", {"offload_embedding": chosen.offload_embedding, "head": chosen.head}),
        (
            "optimizer and hidden states too",
            {
                "optimizer": chosen.optimizer,
                "offload_optimizer": chosen.offload_optimizer,
                "offload_activations": chosen.offload_activations,
            },
        ),
        (
            f"{chosen.offload_layers} of {shape.num_hidden_layers} layers stream from the host",
            {"offload_layers": chosen.offload_layers, "slot_layers": chosen.slot_layers},
        ),
    ):
        setup = replace(setup, **change)
        steps.append((name, setup))
    peaks = {name: plan_memory(shape, setup, budget).peak_gpu_bytes // MIB for name, setup in steps}
    title = f"DeepSeek-Coder-6.7B, {TOKENS:,} tokens a row: the peak on the card, one lever after the other"
    return {"title": title, "budget_mib": budget.usable_gpu_bytes // MIB, "peaks": peaks}


def _draw_phases(facts: Mapping[str, Any]) -> str:
    figure, axes = _figure(facts["title"], 3.6)
    names = list(facts["phases"])
    left = [0] * len(names)
    for group, colour in zip(GROUPS, COLOURS, strict=True):
        widths = [facts["phases"][name][group] for name in names]
        axes.barh(names, widths, left=left, color=colour, label=group)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, name in enumerate(names):
        axes.text(40, place, f"{facts['peaks'][name]:,}", va="center", fontsize=8, color="white")
    _budget(axes, facts["budget_mib"])
    axes.set_xlim(0, facts["budget_mib"] * 1.06)
    figure.legend(*axes.get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False, fontsize=8)
    figure.subplots_adjust(left=0.12, right=0.97, top=0.82, bottom=0.36)
    return _svg(figure, facts)


def _draw_levers(facts: Mapping[str, Any]) -> str:
    figure, axes = _figure(facts["title"], 3.0)
    names, peaks = list(facts["peaks"]), list(facts["peaks"].values())
    axes.barh(names, peaks, color=[COLOURS[3] if peak <= facts["budget_mib"] else COLOURS[4] for peak in peaks])
    for place, peak in enumerate(peaks):
        axes.text(max(peak, facts["budget_mib"]) + 200, place, f"{peak:,}", va="center", fontsize=8)
    _budget(axes, facts["budget_mib"])
    axes.set_xlim(0, max(peaks) * 1.1)
    figure.subplots_adjust(left=0.34, right=0.97, top=0.8, bottom=0.18)
    return _svg(figure, facts)


def _figure(title: str, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "lowvram-ft", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.4, height))
    figure.suptitle(title, fontsize=10, x=0.02, ha="left")
    axes.set_xlabel("MiB", fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _budget(axes: Any, mib: int) -> None:
    axes.axvline(mib, color="#b00020", linewidth=1.2, linestyle="--")
    label = f"{mib:,} MiB for torch"
    axes.text(mib, 1.02, label, transform=axes.get_xaxis_transform(), color="#b00020", fontsize=8, ha="center")


def _svg(figure: Any, facts: Mapping[str, Any]) -> str:
    """The picture with its figures inside, and with a title for who cannot see it."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    inside = f"<title>{escape(facts['title'])}</title>\n<desc>{escape(json.dumps(facts))}</desc>\n"
    head, tag, rest = text.getvalue().partition("<svg ")
    attributes, end, body = rest.partition(">\n")
    drawn = head + tag + attributes + end + inside + body
    return "\n".join(line.rstrip() for line in drawn.splitlines()) + "\n"


PICTURES: Mapping[str, tuple[Callable[[], dict[str, Any]], Callable[[Mapping[str, Any]], str]]] = {
    "memory-phases.svg": (phases, _draw_phases),
    "memory-levers.svg": (levers, _draw_levers),
}
"""File to what it shows and what draws it."""


def stale_pictures(images: Path = IMAGES) -> list[str]:
    """Pictures that are not there, or whose figures are not what the code says now."""
    found = []
    for name, (facts, _) in PICTURES.items():
        path = images / name
        inside = re.search(r"<desc>(.*?)</desc>", path.read_text(encoding="utf-8")) if path.is_file() else None
        if inside is None or json.loads(unescape(inside[1])) != facts():
            found.append(f"images/{name}: is not what the code says; run: python docs/pictures.py")
    return found


def main() -> int:
    """Draw every picture; the exit code."""
    for name, (facts, draw) in PICTURES.items():
        (IMAGES / name).write_text(draw(facts()), encoding="utf-8")
        print(IMAGES / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
