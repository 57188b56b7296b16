"""Code without tests, to write some for: found, and never any that models are evaluated on."""

from lowvram_ft.preference.tasks.collect import collect_tasks, inputs_digest, refuse_evaluation_tasks, supplied
from lowvram_ft.preference.tasks.supply import Supply, read_supply, write_supply

__all__ = [
    "Supply",
    "collect_tasks",
    "inputs_digest",
    "read_supply",
    "refuse_evaluation_tasks",
    "supplied",
    "write_supply",
]
