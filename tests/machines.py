"""Machines that are not at hand: a laptop with a card, one without, and a driver that says what a test wants."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lowvram_ft.hardware import Gpu, Hardware

GIB = 2**30
MIB = 2**20
RTX_3050 = Gpu("NVIDIA GeForce RTX 3050 Laptop GPU", 4 * GIB, 3 * GIB, (8, 6), "560.35")
LAPTOP = Hardware(
    gpus=(RTX_3050,),
    no_gpu_reason=None,
    cuda_driver_version="12.6",
    cpu_count=8,
    cpu_model="a CPU",
    cpu_flags=("avx2",),
    ram_total_bytes=16 * GIB,
    ram_available_bytes=12 * GIB,
    disk_free_bytes=100 * GIB,
    platform="linux",
    python_version="3.11.7",
)
NO_GPU = replace(LAPTOP, gpus=(), no_gpu_reason="no NVIDIA driver answers", cuda_driver_version=None)


class FakeNvmlError(Exception):
    pass


def fake_nvml(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    calls = {
        "NVMLError": FakeNvmlError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "560.35",
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 12060,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=4 * GIB, free=3 * GIB),
        "nvmlDeviceGetCudaComputeCapability": lambda _: (8, 6),
        "nvmlDeviceGetName": lambda _: b"NVIDIA GeForce RTX 3050 Laptop GPU",
    }
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**(calls | changes)))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root
