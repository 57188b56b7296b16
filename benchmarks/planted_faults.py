"""Faults planted in an export of a fine-tuned SmolLM2, and what verification says of each.

    python benchmarks/planted_faults.py RUN_DIRECTORY

Takes the adapter of a finished demo run. The clean Q4_K_M file has to pass, with its KL divergence and agreement
against base + adapter printed; each faulty one has to fail, by the name of its fault. Writes
``results/planted_faults.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from gguf_export import GgufFile, Reference, export, verify
from gguf_export.families.architectures import TensorPlan
from lowvram_ft.data.sources.samples import held_out_rows
from lowvram_ft.embedded_model import dequantized
from lowvram_ft.hardware import detect
from lowvram_ft.rendering import from_folder

RESULTS = Path(__file__).parent / "results" / "planted_faults.json"
ROWS = 8


def wrong_permutation(base: Path, adapter: Path, out: Path) -> None:
    right = TensorPlan.reorder
    TensorPlan.reorder = lambda _, rows: rows  # type: ignore[method-assign,assignment]
    try:
        export(base, adapter, out)
    finally:
        TensorPlan.reorder = right  # type: ignore[method-assign]


def wrong_end_token(base: Path, adapter: Path, out: Path) -> None:
    export(base, adapter, out, eos_token="<|endoftext|>")


def wrong_template(base: Path, adapter: Path, out: Path) -> None:
    trained = from_folder(base).template
    template = trained.replace("<|im_end|>", "<|im_end|> ")
    if template == trained:
        raise SystemExit("the template was not changed; plant another fault")
    export(base, adapter, out, chat_template=template)


def corrupted_block(base: Path, adapter: Path, out: Path) -> None:
    export(base, adapter, out)
    tensors = [tensor for tensor in GgufFile(out).tensors if tensor.name == "blk.17.ffn_down.weight"]
    with out.open("r+b") as file:
        file.seek(int(tensors[0].data_offset) + tensors[0].n_bytes // 2)
        file.write(np.random.default_rng(0).bytes(144))


def another_base(base: Path, adapter: Path, out: Path) -> None:
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        other = shutil.copytree(base, Path(folder) / "other")
        weights = load_file(other / "model.safetensors")
        rng = np.random.default_rng(0)
        for name, values in weights.items():
            if values.ndim == 2:
                noise = rng.standard_normal(values.shape, np.float32) * np.float32(0.02)
                weights[name] = (values.astype(np.float32) + noise).astype(values.dtype)
        save_file(weights, other / "model.safetensors", {"format": "pt"})
        export(other, adapter, out)


def alpha_off_by_two(base: Path, adapter: Path, out: Path) -> None:
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        other = shutil.copytree(adapter, Path(folder) / "adapter")
        config = json.loads((other / "adapter_config.json").read_text())
        config["lora_alpha"] *= 2
        (other / "adapter_config.json").write_text(json.dumps(config))
        export(base, other, out)


FAULTS: dict[str, tuple[Callable[[Path, Path, Path], None], str]] = {
    "wrong permutation": (wrong_permutation, "row order"),
    "wrong end token": (wrong_end_token, "end token"),
    "wrong template": (wrong_template, "chat template"),
    "one corrupted block": (corrupted_block, "corrupted block"),
    "adapter of another base": (another_base, "base"),
    "alpha off by two": (alpha_off_by_two, "adapter scale"),
}
"""How each fault is planted, and the name of the check that has to fail."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run of the demo")
    arguments = parser.parse_args()
    from lowvram_ft.training.answers import write_reference

    base, adapter = dequantized(), arguments.run / "stages" / "traces" / "adapter"
    chat = from_folder(base)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "m.gguf"
        write_reference(base, adapter, list(held_out_rows())[:ROWS], chat, Path(temporary) / "reference.npz")
        reference = Reference.load(Path(temporary) / "reference.npz")
        result = export(base, adapter, out)
        began = time.perf_counter()
        clean = verify(
            out, reference, base=base, adapter=adapter, sha256=result.sha256, chat_template=chat.template, n_predict=64
        )
        seconds = round(time.perf_counter() - began, 1)
        print(clean.summary(), flush=True)
        found["clean"] = {"ok": clean.ok, "scores": dict(clean.scores), "seconds": seconds}
        for fault, (plant, name) in FAULTS.items():
            plant(base, adapter, out)
            judged = verify(out, base=base, adapter=adapter, chat_template=chat.template, n_predict=1)
            failed = {check.name: check.detail for check in judged.failed}
            found[fault] = {"named": name in failed, "failed": failed}
            verdict = "named" if name in failed else "NOT NAMED"
            print(f"{fault}: {verdict}: {failed.get(name, sorted(failed))}", flush=True)
    machine = detect()
    RESULTS.write_text(
        json.dumps(
            {
                "command": "python benchmarks/planted_faults.py runs/demo",
                "date": date.today().isoformat(),
                "cpu": machine.cpu_model,
                **found,
            },
            indent=2,
        )
        + "\n"
    )
    wrong = [fault for fault, judged in found.items() if not judged.get("ok", judged.get("named"))]
    if wrong:
        raise SystemExit(f"not as they have to be: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
