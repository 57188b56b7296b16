"""A task for a cloud GPU where a laptop is not enough: a file for SkyPilot, which has an environment of its own."""

from lowvram_ft.cloud.accelerators import ACCELERATORS, Accelerator, Choice, choose
from lowvram_ft.cloud.task import CloudTask, cloud_task, write_task

__all__ = ["ACCELERATORS", "Accelerator", "Choice", "CloudTask", "choose", "cloud_task", "write_task"]
