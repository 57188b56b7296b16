"""What tests of the hub's commands need: the client on a loopback hub, and run directories made up of tiny parts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import gguf_export
from lowvram_ft.recipe import load
from lowvram_ft.run_dir import versions
from tests.loopback_hub import Hub

VERSIONS = {"python": "3.11.0", "lowvram-ft": "0.1.0", "torch": "2.13.0"}


def use_hub(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    """Let the client in this process talk to a loopback hub, with a token or none, and a cache of its own.

    The client reads its environment when it is imported.
    """
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)


def make_run(
    run: Path,
    adapter: Path,
    gguf: Path,
    *,
    recipe: str | Path = "demo",
    overrides: Sequence[str] = (),
    base: str = "smollm2-135m",
) -> Path:
    """A run directory as a finished run leaves it: its files are real, its figures are made up.

    Args:
        run: the directory to write.
        adapter: the PEFT folder that every stage gets.
        gguf: the file that it has exported.
        recipe: by whose values it ran.
        overrides: what was ``--set``.
        base: what the plan says.
    """
    resolved = load(str(recipe), overrides)
    export = run / "export" / f"{resolved.name}-F16.gguf"
    export.parent.mkdir(parents=True)
    shutil.copy(gguf, export)
    steps: dict[str, Any] = {"plan": {"base": base, "stages": {}}}
    for number, stage in enumerate(resolved.stages, 1):
        shutil.copytree(adapter, run / "stages" / stage.name / "adapter")
        steps[f"train:{stage.name}"] = {
            "engine": "reference",
            "device": "cpu",
            "data": {"train": 100 * number, "trained_tokens": 20_000 * number},
            "steps": 30 * number,
            "first_loss": 0.9,
            "last_loss": 0.4,
        }
    facts = {"gguf": str(export), "quant": "F16", "size_bytes": export.stat().st_size}
    steps["export"] = facts | {"sha256": gguf_export.sha256_of(export), "modelfile": "", "seconds": 1.0}
    scores = {"kl": 0.0011, "top1_agreement": 0.9915}
    steps["verify"] = {"ok": True, "kind": "reference", "scores": scores, "checks": []}
    latency = {"file_s_p50": 1.2, "file_s_p95": 3.4, "prompts": 8, "settings": {"n_gpu_layers": 0}}
    steps["bench"] = {"model": export.name, **latency}
    suites = list(resolved.final.eval.suites)
    for when, share in (("before", 0.25), ("after", 0.5)):
        steps[f"eval:{when}"] = {"suites": {suite: _means(share) for suite in suites}}
    better = {"before": 0.25, "after": 0.5, "difference": 0.25, "interval": [0.1, 0.4], "verdict": "better"}
    steps["compare"] = {"suites": {suite: {"passes": better} for suite in suites}}
    gate = {"gate": "gate_pass_rate", "value": 0.5, "wanted": 0.8, "met": False, "verdict": "missed"}
    steps["gates"] = {"gates": [gate | {"suite": suite, "interval": [0.3, 0.7], "tasks": 20} for suite in suites]}
    data = {
        "schema_version": 1,
        "digest": resolved.digest(),
        "command": f"lowvram-ft run {recipe} --out {run}",
        "started": "2026-11-23T01:19:37+0000",
        "versions": versions() | VERSIONS,
        "recipe": resolved.to_json(),
        "steps": steps,
    }
    (run / "run.json").write_text(json.dumps(data), encoding="utf-8")
    secret = {"code": "def secret_of_the_company(): ...", "prompt": "secret_of_the_company"}
    (run / "samples.jsonl").write_text(json.dumps(secret) + "\n", encoding="utf-8")
    return run


def _means(share: float) -> dict[str, Any]:
    return {
        "passes": share,
        "mutation_score": share / 2,
        "assertions_per_test": 2.5,
        "intervals": {"passes": [share - 0.2, share + 0.2], "mutation_score": [0.1, 0.3]},
        "tests_passed": 10,
        "tests": 20,
        "tasks": 20,
        "samples_per_task": 1,
        "reasons": {},
    }
