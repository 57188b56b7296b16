"""The command line in float32, and with one of the things broken that several processes depend on.

python tests/rank_main.py [--break WHAT]… train …
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from lowvram_ft.cli import main
from lowvram_ft.training import cpu_trainer
from lowvram_ft.training.engines import reference
from lowvram_ft.training.processes import order

RANK = int(os.environ.get("RANK", "0"))


def _past_the_wrapper() -> None:
    """The loss reaches past DDP: no gradient is averaged."""
    cpu_trainer.through_wrapper = lambda wrapper, model, method, *arguments: method(model, *arguments)


def _own_tokens() -> None:
    """Each process divides by its own tokens."""
    from transformers import Trainer

    counted = Trainer.get_batch_samples

    def own(self: Any, *arguments: Any) -> Any:
        batches, _ = counted(self, *arguments)
        # what would be right if all processes had as many tokens as this one
        return batches, sum(batch["labels"][:, 1:].ne(-100).sum() for batch in batches) * self.args.world_size

    Trainer.get_batch_samples = own


def _trainers_order() -> None:
    """The trainer's own sampler."""
    order.put_in_order = lambda trainer: None


def _round_again() -> None:
    """accelerate fills up the last step of an epoch with its first rows."""
    init = order.EpochOrder.__init__

    def unpadded(self: Any, *arguments: Any, **named: Any) -> None:
        init(self, *arguments, **named | {"multiple": 1})

    order.EpochOrder.__init__ = unpadded  # type: ignore[method-assign]


def _fails() -> None:
    """The second process fails in its second step."""

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **named: Any) -> None:
        from lowvram_ft.errors import MachineError

        if RANK == 1 and state.global_step == 2:
            raise MachineError("card 1: is on fire; put it out")

    from lowvram_ft.training.reporting.callbacks import Report

    Report.on_step_end = on_step_end


def _dies() -> None:
    """The second process is killed in its second step."""

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **named: Any) -> None:
        if RANK == 1 and state.global_step == 2:
            os.kill(os.getpid(), 9)

    from lowvram_ft.training.reporting.callbacks import Report

    Report.on_step_end = on_step_end


WAYS = {
    "wrapper": _past_the_wrapper,
    "tokens": _own_tokens,
    "order": _trainers_order,
    "blanks": _round_again,
    "fails": _fails,
    "dies": _dies,
}

if __name__ == "__main__":
    reference.compute_dtype = lambda device: "float32"
    while sys.argv[1] == "--break":
        WAYS[sys.argv[2]]()
        del sys.argv[1:3]
    main()
