"""A training is nobody's business: TRL's trainers report to the hub unless they are told not to."""

from __future__ import annotations

import huggingface_hub.constants
import pytest
from huggingface_hub.utils import _telemetry, send_telemetry

from lowvram_ft.training.arguments import keep_quiet


def test_nothing_is_reported_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_telemetry, "_start_telemetry_thread", lambda: None)
    sent: list[object] = []
    monkeypatch.setattr(_telemetry._TELEMETRY_QUEUE, "put", sent.append)
    send_telemetry("trl/DPOTrainer")
    assert len(sent) == 1, "it would be"
    keep_quiet()
    send_telemetry("trl/DPOTrainer")
    assert len(sent) == 1
