"""What torch's ``DistributedDataParallel`` has to be told about a model of which only the adapter is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def own_card() -> int:
    """The number of the card that this process trains on; 0 where there is none."""
    return int(torch.cuda.current_device()) if torch.cuda.is_available() else 0


def leave_frozen_alone(model: Any) -> None:
    """Keep DDP from everything that is not trained. Every process has loaded it from the same files.

    Without this, DDP sends all frozen weights from process 0 to the others when it begins, and refuses a model of which
    some are in host memory. accelerate refuses the latter too, by the map that the loader left.

    Args:
        model: a ``peft.PeftModel``, before it is wrapped.
    """
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    frozen += [name for name, _ in model.named_buffers()]
    torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen)
    devices = {weight.device for weight in model.parameters() if weight.requires_grad}
    for module in model.modules():
        if len(getattr(module, "hf_device_map", None) or {}) > 1 and len(devices) == 1:
            (device,) = devices
            module.hf_device_map = {"": device}


def through_wrapper(wrapper: Any, model: Any, method: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``method(model, *arguments)`` inside of the wrapper's forward.

    DDP averages the gradients of a backward pass only if the forward pass went through it; a loss that reaches into the
    model past it trains every process by itself, without a word.

    Args:
        wrapper: what the trainer calls the model: DDP around it, or the model itself.
        model: what is inside.
        method: of the loss.
        arguments: handed on to it.
    """
    if wrapper is model:
        return method(model, *arguments)
    own = model.__dict__.get("forward")  # accelerate's autocast is one
    model.forward = lambda *given: method(model, *given)
    try:
        return wrapper(*arguments)
    finally:
        del model.forward
        if own is not None:
            model.forward = own
