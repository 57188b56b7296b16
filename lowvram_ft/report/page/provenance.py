"""What was run: the command that repeats it, versions, hashes, and every setting with where it came from."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from lowvram_ft.report.page.figures import plain, seconds, size
from lowvram_ft.report.page.reading import Run


def provenance(run: Run) -> dict[str, Any]:
    """What was run.

    Returns:
        ``command`` (to repeat it), ``facts``, ``versions``, ``hashes`` (``what``, ``hash``, ``size``), ``stages``
        (``name``, ``chosen`` settings and the ``rest``), ``checks`` of the export, ``scores``.
    """
    data = run.data
    base = run.steps.get("plan", {}).get("base")
    return {
        "command": repeat(str(data.get("command", ""))),
        "facts": {
            "recipe": data["recipe"].get("name", ""),
            "base model": base or "not planned yet",
            "started": data.get("started", ""),
            "machine": _machine(data.get("machine") or {}),
            "run directory": str(run.path),
        },
        "versions": dict(data.get("versions", {})),
        "hashes": list(_hashes(run)),
        "stages": [_settings(stage) for stage in data["recipe"].get("stages", [])],
        "checks": run.steps.get("verify", {}).get("checks", []),
        "scores": {
            key.replace("_", " "): plain(value) for key, value in run.steps.get("verify", {}).get("scores", {}).items()
        },
    }


def repeat(command: str) -> str:
    """The command as a user types it, whatever file it was started from."""
    try:
        words = shlex.split(command)
    except ValueError:  # what is no shell command is shown as it is
        return command
    return shlex.join(["lowvram-ft", *words[1:]]) if words else ""


def latency(run: Run) -> dict[str, Any] | None:
    """What the benchmark found: ``facts``, ``points`` (seconds of each prompt), ``marks``, ``gate_s``; None before."""
    bench = run.steps.get("bench")
    if bench is None:
        return None
    settings, memory = bench.get("settings") or {}, bench.get("memory") or {}
    return {
        "facts": {
            "whole file": f"{seconds(bench['file_s_p50'])} median, {seconds(bench['file_s_p95'])} p95",
            "first token": f"{seconds(bench['first_token_s_p50'])} median, {seconds(bench['first_token_s_p95'])} p95",
            "reading the prompt": f"{bench['prefill_tok_per_s']:.0f} tokens/s",
            "writing": f"{bench['decode_tok_per_s']:.1f} tokens/s",
            "prompts": f"{bench['prompts']}, {bench['prompt_tokens']:.0f} tokens on average",
            "answers": f"{bench['new_tokens']:.0f} tokens on average, {bench['cut_off']} cut off",
            "settings": plain({key: value for key, value in settings.items() if value is not None}),
            "memory": ", ".join(
                f"{key.removesuffix('_bytes').replace('_', ' ')} {size(value)}" for key, value in memory.items()
            ),
        },
        "points": [
            {"s": value, "what": what, "prompt": number}
            for what, key in (("whole file", "file_s"), ("first token", "first_token_s"))
            for number, value in enumerate(bench.get(key) or (), 1)
        ],
        "marks": [
            {"s": round(bench["file_s_p50"], 3), "what": "whole file", "mark": "median"},
            {"s": round(bench["file_s_p95"], 3), "what": "whole file", "mark": "p95"},
            {"s": round(bench["first_token_s_p50"], 3), "what": "first token", "mark": "median"},
            {"s": round(bench["first_token_s_p95"], 3), "what": "first token", "mark": "p95"},
        ],
        "gate_s": bench["gate_s"],
        "met": bench["gate_met"],
    }


def _machine(found: Mapping[str, Any]) -> str:
    """The machine in words; older runs do not say."""
    if not found:
        return "not recorded"
    cards = [f"{gpu['name']} ({size(gpu['bytes'])}, driver {gpu['driver']})" for gpu in found["gpus"]] or ["no GPU"]
    host = f"{found['cpus']} CPUs ({found['cpu'] or 'model not known'}), {size(found['ram_bytes'])} of memory"
    return ", ".join([*cards, host, str(found["platform"])])


def _hashes(run: Run) -> Iterator[dict[str, str]]:
    yield {"what": "resolved recipe", "hash": run.data.get("digest", ""), "size": ""}
    for step, result in run.steps.items():
        if step.startswith("export") and "sha256" in result:
            yield {
                "what": str(result["gguf"]).rpartition("/")[2],
                "hash": result["sha256"],
                "size": size(result["size_bytes"]),
            }
        data = result.get("data") if step.startswith("train:") else None
        if data:
            name = step.removeprefix("train:")
            if fingerprint := (data.get("source") or {}).get("fingerprint"):
                yield {"what": f"{name}: source", "hash": fingerprint, "size": ""}
            hashes = data.get("sha256") or {}
            for file, value in hashes.items() if isinstance(hashes, Mapping) else [("pairs", hashes)]:
                yield {"what": f"{name}: {file}", "hash": value, "size": ""}


def _settings(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that something else than a default decided, with what it was; and all of them, to look up."""
    recipe, origin = stage["recipe"], stage["origin"]
    rows = [
        {"key": f"{section}.{key}", "value": plain(value), "origin": origin.get(f"{section}.{key}", "")}
        for section, values in recipe.items()
        if isinstance(values, Mapping)
        for key, value in values.items()
    ]
    chosen = [row for row in rows if row["origin"] not in ("default", "")]
    return {"name": stage["name"], "chosen": chosen, "rest": [row for row in rows if row not in chosen]}
