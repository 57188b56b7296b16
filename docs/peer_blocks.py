"""The block of compare.md: this kit beside others, each line from what a benchmark wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
GIB = 1 << 30
CONTESTANTS = {
    "older_trl_defaults": "PEFT + TRL, their defaults",
    "older_trl_best": "PEFT + TRL, best flags",
    "transformers_loss_best": "PEFT + TRL with transformers' loss, best flags",
    "unsloth": "Unsloth's CPU backend",
}
PYTESTS = {
    "pytest": "a pytest process a file, no plugins",
    "pytest_with_plugins": "the same with the plugins that were installed",
    "coverage_pytest": "the same with coverage.py",
}
MUTATION = {"cosmic_ray": "cosmic-ray, no plugins", "cosmic_ray_with_plugins": "cosmic-ray, with plugins"}

Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]


def peers_block(table: Table) -> str:
    """Tables of training, export, quantizers, running tests and decoding: theirs, ours, how many times as fast."""
    return "\n".join([_training(table), _export(table), _quantizers(table), _execution(table), _decoding(table)])


def _load(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _where(entry: dict[str, Any]) -> str:
    machine = entry.get("hardware", entry)
    cpu = f"{machine['cpu']}, {machine.get('cpus', machine.get('cores'))} cores"
    return f"{cpu}, {entry['date']}"


def _training(table: Table) -> str:
    entry = _load("training")
    ours, others = entry["contestants"]["reference"], entry["contestants"]
    rows = [(
        "this kit", f"{ours['tok_per_s']:.0f}", "", f"{ours['peak_bytes'] / GIB:.1f}", f"{ours['losses'][-1]:.3f}",
    )]  # fmt: skip
    for key, label in CONTESTANTS.items():
        times = ours["tok_per_s"] / others[key]["tok_per_s"]
        peak, loss = others[key]["peak_bytes"] / GIB, others[key]["losses"][-1]
        rows.append((label, f"{others[key]['tok_per_s']:.0f}", f"{times:.2f}", f"{peak:.1f}", f"{loss:.3f}"))
    told = "; ".join(f"{found['what']}: {found['reason']}" for found in entry["cannot_run"].values())
    head = ("trainer", "tokens/s", "this kit is times as fast", "peak GiB", "loss of the last step")
    about = f"SmolLM2-135M, the same rows in the same order on a CPU; {_where(entry)}; `python -m benchmarks.training`."
    return f"### Training, without a card\n\n{about}\n\n{table(head, rows)}\nCould not run there: {told}.\n"


def _export(table: Table) -> str:
    entry = _load("export")
    rows = []
    for name, found in entry["models"].items():
        one, other = found["one_pass"], found["official"]
        rows.append((
            name, f"{one['seconds']:.1f} s", f"{other['seconds']:.1f} s", f"{found['times_as_fast']:.1f}",
            f"{one['peak_anonymous_mib']:,.0f} MiB", f"{other['peak_anonymous_mib']:,.0f} MiB",
            f"{one['peak_new_disk_gb']:.1f} GB", f"{other['peak_new_disk_gb']:.1f} GB",
        ))  # fmt: skip
    head = ("model", "this kit", "PEFT, then llama.cpp twice", "times as fast", "memory", "theirs", "disk", "theirs")
    return (
        f"### Base + adapter to Q4_K_M\n\n{_where(entry)}; `python benchmarks/export.py`. The files are the same, byte "
        f"for byte ([how that was compared](export.md#one-pass)).\n\n{table(head, rows)}"
    )


def _quantizers(table: Table) -> str:
    entry = _load("quantizers")
    rows = []
    for name, found in entry["types"].items():
        rates = found["million_weights_per_s"]
        ours, theirs, times = rates["lanes_1_thread"], rates["ggml_1_thread"], rates["ratio_1_thread"]
        rows.append((name, f"{ours:,.0f}", f"{theirs:,.0f}", f"{times:.1f}", f"{found['identity']['differing']}"))
    head = ("type", "million weights/s", "ggml's", "times as fast", "bytes that differ")
    about = f"One thread; {_where(entry)}; `python benchmarks/quantizers.py`."
    return f"### Quantizers\n\n{about}\n\n{table(head, rows)}"


def _execution(table: Table) -> str:
    entry = _load("execution_speed")
    files, mutants = entry["files"], entry["mutants"]
    ours = files["files_per_s"]["ours"]["median"]
    rows = [
        ("test files/s", f"{ours:.1f}", label, f"{files['files_per_s'][key]['median']:.1f}",
         f"{files['ours_times'][key]:.1f}")
        for key, label in PYTESTS.items()
    ]  # fmt: skip
    executed = mutants["mutants_per_s"]["ours_executed"]["median"]
    rows += [
        ("mutants/s", f"{executed:.1f}", label, f"{mutants['mutants_per_s'][key]['median']:.1f}",
         f"{mutants['ours_executed_times'][key]:.1f}")
        for key, label in MUTATION.items()
    ]  # fmt: skip
    verdicts = f"{len(files['other_verdict'])} files and {len(mutants['verdicts']['differences'])} mutants"
    about = (
        f"{entry['workers']} workers on both sides; {_where(entry)}; `{entry['command']}`. Other verdicts: {verdicts}."
    )
    head = ("", "this kit, sandboxed", "beside", "theirs", "times as fast")
    return f"### Running tests and mutants\n\n{about}\n\n{table(head, rows)}"


def _decoding(table: Table) -> str:
    entry = next(found for found in _load("decoding") if found["threads"] == 2 and "kv_type" not in found)
    rows = [(way["way"], f"{way['tok_per_s']:.1f}", f"{way['speed_up']:.2f}") for way in entry["ways"]]
    machine = f"{entry['cpu']}, {entry['cpu_count']} cores, {entry['date']}"
    about = f"{entry['model']}, {entry['threads']} threads; {machine}; `python benchmarks/bench_decoding.py`."
    return f"### Decoding\n\n{about}\n\n{table(('way', 'tokens/s', 'times the plain one'), rows)}"
