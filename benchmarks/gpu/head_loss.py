"""The loss over a head on the card, on the host and in NF4, beside torch's own cross-entropy: seconds, peak, error.

    python -m benchmarks.gpu.head_loss VOCAB HIDDEN POSITIONS REPETITIONS

Prints one JSON object as its last line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def main() -> None:
    print(json.dumps(compare(*map(int, sys.argv[1:5]))))


def compare(vocab: int, width: int, positions: int, repetitions: int) -> dict[str, Any]:
    """Each way over the same random inputs, forward and backward."""
    import torch

    from lowvram_ft.training.vocabulary.head_loss import head_nll
    from lowvram_ft.training.vocabulary.tables import DeviceTable, HostTable, Nf4Table

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((vocab, width), generator=generator, dtype=torch.float32).mul_(0.02).bfloat16()
    hidden = torch.randn((positions, width), generator=generator).bfloat16().to(device)
    labels = torch.randint(0, vocab, (positions,), generator=generator).to(device)

    def plain(table: Any) -> Any:
        def loss(states: Any) -> Any:
            return torch.nn.functional.cross_entropy((states @ table.T).float(), labels, reduction="sum")

        return loss

    ways: dict[str, Callable[[], Any]] = {
        "torch cross_entropy": lambda: plain(weight.to(device)),
        "slices, head on the device": lambda: _with(head_nll, labels, DeviceTable(weight.to(device))),
        "slices, head on the host": lambda: _with(head_nll, labels, HostTable(weight, device)),
        "slices, NF4 head": lambda: _with(head_nll, labels, Nf4Table(weight, device)),
    }
    found: dict[str, Any] = {"vocab": vocab, "hidden": width, "positions": positions, "ways": {}}
    reference: Any = None
    for name, make in ways.items():
        try:
            measured, gradient = _measure(make(), hidden, repetitions)
        except torch.OutOfMemoryError as error:
            found["ways"][name] = {"fits": False, "error": str(error).splitlines()[0]}
            continue
        reference = gradient if reference is None else reference
        measured["gradient_off_by"] = float((gradient.float() - reference.float()).norm() / reference.float().norm())
        found["ways"][name] = measured
    return found


def _with(loss: Callable[..., Any], labels: Any, table: Any) -> Callable[[Any], Any]:
    return lambda states: loss(states, labels, table)


def _measure(loss: Callable[[Any], Any], hidden: Any, repetitions: int) -> tuple[dict[str, Any], Any]:
    """Seconds of forward and backward (median), what is held before and at the peak, and the gradient."""
    import torch

    cuda = hidden.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    seconds = []
    for _ in range(repetitions + 1):
        states = hidden.clone().requires_grad_()
        if cuda:
            torch.cuda.synchronize()
        began = time.monotonic()
        value = loss(states)
        value.backward()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - began)
    measured = {"fits": True, "seconds": sorted(seconds[1:])[repetitions // 2], "loss": float(value.detach())}
    if cuda:
        measured["held_bytes"] = held
        measured["peak_bytes"] = torch.cuda.max_memory_allocated()
    return measured, states.grad


if __name__ == "__main__":
    main()
