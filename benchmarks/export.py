"""Export in one pass beside the official route, on random weights of real shapes.

    python benchmarks/export.py [--models qwen2.5-coder-3b deepseek-coder-6.7b] [--folder DIR] [--keep]

The official route is PEFT's merge, llama.cpp's ``convert_hf_to_gguf.py``, then ``llama_model_quantize`` with all cores.
Each part runs in a process of its own; its anonymous memory and the files of the folder are watched. Bytes are compared
in two ways: the whole file with that of ``llama_model_quantize`` over the exact export, which has to be the same; and
with the official route's, where PEFT sums in float32 and the last bit of some products is another one. Writes
``results/export.json``. Needs about 50 GB of disk for a 7B.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from lowvram_ft.hardware import detect
from tests.gguf_models import make_tokenizer

RESULTS = Path(__file__).parent / "results" / "export.json"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK = 16
MODELS: dict[str, dict[str, Any]] = {
    "tiny": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 1536, "vocab_size": 4096,
        "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "max_position_embeddings": 4096,
    },
    "qwen2.5-coder-3b": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 2048, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "intermediate_size": 11008, "vocab_size": 151936,
        "tie_word_embeddings": True, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "rope_theta": 1000000.0,
    },
    "deepseek-coder-6.7b": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 11008, "vocab_size": 32256,
        "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "max_position_embeddings": 16384, "rope_theta": 100000.0,
        "rope_scaling": {"type": "linear", "factor": 4.0},
    },
}  # fmt: skip

OURS = """
import json, sys
from pathlib import Path
from gguf_export import export
base, adapter, out, quant = sys.argv[1:]
result = export(Path(base), Path(adapter), Path(out), quant=quant, metadata={"name": "Merged"})
print(json.dumps({"sha256": result.sha256, "seconds": result.seconds, "quantizers": dict(result.quantizers)}))
"""
MERGE = """
import sys
from pathlib import Path
from tests.official_route import peft_merge
peft_merge(Path(sys.argv[1]), [Path(sys.argv[2])], Path(sys.argv[3]), sys.argv[4])
"""
CONVERT = """
import sys
from tests.official_route import Conversion, convert
convert([Conversion(sys.argv[1], sys.argv[2], "bf16")])
"""
QUANTIZE = """
import os, sys, llama_cpp
settings = llama_cpp.llama_model_quantize_default_params()
settings.ftype, settings.nthread = int(sys.argv[3]), len(os.sched_getaffinity(0))
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), settings))
"""


def layer_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensors of one decoder layer."""
    hidden, head = config["hidden_size"], config["hidden_size"] // config["num_attention_heads"]
    wide, narrow = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    inner = config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (wide, hidden),
        "self_attn.k_proj.weight": (narrow, hidden),
        "self_attn.v_proj.weight": (narrow, hidden),
        "self_attn.o_proj.weight": (hidden, wide),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if config["model_type"] == "qwen2":
        shapes |= {f"self_attn.{name}_proj.bias": (n,) for name, n in (("q", wide), ("k", narrow), ("v", narrow))}
    return shapes


def write_model(folder: Path, config: dict[str, Any]) -> Path:
    """A random bf16 model with a tokenizer, one shard, a few hundred MB of memory."""
    make_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], config["hidden_size"]),
        "model.norm.weight": (config["hidden_size"],),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    for layer in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in layer_shapes(config).items()}
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}  # type: ignore[dict-item]
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    pool = (rng.standard_normal(1 << 26, dtype=np.float32) * 0.02).astype(ml_dtypes.bfloat16)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            left = int(np.prod(shape))
            while left:  # stretches of one pool, each from another place
                start = int(rng.integers(0, pool.size // 2))
                part = pool[start : start + left]
                file.write(part.tobytes())
                left -= part.size
    return folder


def write_adapter(folder: Path, config: dict[str, Any]) -> Path:
    """A LoRA of rank 16 on all seven projections, as PEFT saves it."""
    from safetensors.numpy import save_file

    folder.mkdir()
    rng = np.random.default_rng(1)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, shape in layer_shapes(config).items():
            module = name.removesuffix(".weight")
            if module.endswith(PROJECTIONS):
                prefix = f"base_model.model.model.layers.{layer}.{module}.lora_"
                tensors[f"{prefix}A.weight"] = rng.standard_normal((RANK, shape[1]), dtype=np.float32) * np.float32(
                    0.02
                )
                tensors[f"{prefix}B.weight"] = rng.standard_normal((shape[0], RANK), dtype=np.float32) * np.float32(
                    0.02
                )
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 32, "bias": "none",
                "target_modules": list(PROJECTIONS), "base_model_name_or_path": ""}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def folder_bytes(folder: Path) -> int:
    """What the files of a folder take on the disk."""
    found = 0
    for path in folder.rglob("*"):
        try:
            found += path.stat().st_blocks * 512 if path.is_file() else 0
        except FileNotFoundError:
            continue
    return found


def measured(script: str, arguments: list[str], folder: Path) -> dict[str, Any]:
    """Run a script; wall and CPU time, peak anonymous memory of it and its children, peak of new bytes on the disk."""
    before = folder_bytes(folder)
    peaks = {"anonymous": 0, "disk": 0}
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_WAIT_POLICY": "PASSIVE"}
    os.sync()
    began, children = time.perf_counter(), os.times()
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            peaks["anonymous"] = max(peaks["anonymous"], anonymous_bytes(process.pid))
            peaks["disk"] = max(peaks["disk"], folder_bytes(folder) - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, errors = process.communicate()
    seconds = time.perf_counter() - began
    ended.set()
    watcher.join()
    if process.returncode != 0:
        raise SystemExit(errors.decode()[-3000:])
    now = os.times()
    cpu = now.children_user + now.children_system - children.children_user - children.children_system
    return {
        "seconds": round(seconds, 1),
        "cpu_s": round(cpu, 1),
        "peak_anonymous_mib": round(peaks["anonymous"] / 2**20, 1),
        "peak_new_disk_gb": round(max(peaks["disk"], folder_bytes(folder) - before) / 1e9, 2),
        "output": output.decode().strip().splitlines()[-1:] or [""],
    }


def anonymous_bytes(pid: int) -> int:
    """Anonymous memory (``RssAnon``) of a process and all its children."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                total += int(line.split()[1]) << 10
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += anonymous_bytes(int(child))
    except (FileNotFoundError, ProcessLookupError):
        pass
    return total


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compare(name: str, folder: Path) -> dict[str, Any]:
    """Both routes over one model."""
    config = MODELS[name]
    base = write_model(folder / "base", config)
    adapter = write_adapter(folder / "adapter", config)
    n_parameters = (base / "model.safetensors").stat().st_size // 2
    out = folder / "out"
    out.mkdir()
    say(f"{name}: {n_parameters / 1e9:.2f} billion weights written")
    ours = measured(OURS, [str(base), str(adapter), str(out / "ours.gguf"), "Q4_K_M"], out)
    answer = json.loads(ours.pop("output")[0])
    ours["quantizers"] = answer["quantizers"]
    ours["output_gb"] = round((out / "ours.gguf").stat().st_size / 1e9, 2)
    say(f"{name}: one pass: {json.dumps(ours)}")
    dtype = "float32" if 4 * n_parameters < 0.6 * detect().ram_total_bytes else "bfloat16"
    parts = {"merge": measured(MERGE, [str(base), str(adapter), str(out / "merged"), dtype], out)}
    say(f"{name}: merge: {json.dumps(parts['merge'])}")
    parts["convert"] = measured(CONVERT, [str(out / "merged"), str(out / "merged.gguf")], out)
    say(f"{name}: convert: {json.dumps(parts['convert'])}")
    new_disk = folder_bytes(out) - folder_bytes(out / "ours.gguf") - (out / "ours.gguf").stat().st_blocks * 512
    shutil.rmtree(out / "merged")
    parts["quantize"] = measured(QUANTIZE, [str(out / "merged.gguf"), str(out / "theirs.gguf"), "15"], out)
    say(f"{name}: quantize: {json.dumps(parts['quantize'])}")
    for part in parts.values():
        part.pop("output")
    theirs = {
        "parts": parts,
        "merged_in": dtype,
        "seconds": round(sum(part["seconds"] for part in parts.values()), 1),
        "peak_anonymous_mib": max(part["peak_anonymous_mib"] for part in parts.values()),
        "peak_new_disk_gb": round((new_disk + (out / "theirs.gguf").stat().st_size) / 1e9, 2),
    }
    differing = share_that_differs(out / "ours.gguf", out / "theirs.gguf")
    (out / "merged.gguf").unlink()
    (out / "theirs.gguf").unlink()
    say(f"{name}: everything is timed; now the exact export is quantized by llama.cpp, to compare bytes")
    measured(OURS, [str(base), str(adapter), str(out / "exact.gguf"), "BF16"], out)
    measured(QUANTIZE, [str(out / "exact.gguf"), str(out / "again.gguf"), "15"], out)
    return {
        "weights": n_parameters,
        "one_pass": ours,
        "official": theirs,
        "times_as_fast": round(theirs["seconds"] / ours["seconds"], 2),
        "bytes_that_differ_from_official": differing,
        "same_file_as_quantizing_the_exact_export": answer["sha256"] == sha256_of(out / "again.gguf"),
    }


def share_that_differs(one: Path, other: Path) -> float:
    """The share of the weights' bytes that differ between two files of the same tensors, 0 to 1.

    Raises:
        SystemExit: a name, a type or a shape differs.
    """
    import gguf

    n_different = n_bytes = 0
    for a, b in zip(gguf.GGUFReader(one).tensors, gguf.GGUFReader(other).tensors, strict=True):
        if (a.name, a.tensor_type, a.data.nbytes) != (b.name, b.tensor_type, b.data.nbytes):
            raise SystemExit(f"{a.name} {a.tensor_type.name} here, {b.name} {b.tensor_type.name} there")
        n_different += int(np.count_nonzero(a.data.view(np.uint8) != b.data.view(np.uint8)))
        n_bytes += a.data.nbytes
    return n_different / n_bytes


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["qwen2.5-coder-3b", "deepseek-coder-6.7b"], choices=MODELS)
    parser.add_argument("--folder", type=Path, default=None, help="where to write the models (a temporary one)")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    machine = detect()
    result: dict[str, Any] = {
        "command": "python benchmarks/export.py",
        "date": date.today().isoformat(),
        "cpu": machine.cpu_model,
        "cores": len(os.sched_getaffinity(0)),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("llama-cpp-python", "llvmlite", "numpy", "torch", "peft", "transformers")
        },
        "models": {},
    }
    for name in arguments.models:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            result["models"][name] = compare(name, Path(folder))
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps({name: result["models"][name]}, indent=2))


if __name__ == "__main__":
    main()
