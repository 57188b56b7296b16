"""Prompt-lookup decoding against plain decoding, ours and llama-cpp-python's, on the held-out prompts.

    python benchmarks/bench_decoding.py MODEL.gguf [--prompts 8] [--rounds 2] [--suite samples]

Every round runs every way once, in turn; a figure is the median over rounds. Threads: all CPUs, for every way. With
--cpu-time the clock is the process's CPU time: with one thread it is what a quiet machine's wall clock would show,
whatever else runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from lowvram_ft.evaluation.suites import load_suite
from lowvram_ft.hardware import cpu_count, detect
from lowvram_ft.inference import Sampling
from lowvram_ft.inference.llama import LlamaCpp
from lowvram_ft.inference.settings import KV_TYPES, EngineSettings, KvType
from lowvram_ft.run_dir import write_json

N_CTX = 2048
CLOCK: Callable[[], float] = time.perf_counter
KV_TYPE: KvType = "f16"
Answers = tuple[list[list[int] | str], int, float]
"""Texts, tokens, seconds."""


def ours(model: Path, decoding: Any, n_parallel: int | None, threads: int) -> tuple[LlamaCpp, Callable[..., Answers]]:
    settings = EngineSettings(n_threads=threads, n_threads_batch=threads, kv_type=KV_TYPE)
    generator = LlamaCpp(model, n_ctx=N_CTX, n_parallel=n_parallel, settings=settings, decoding=decoding)
    generator.shapes()

    def run(prompts: list[list[int]], most: int) -> Answers:
        generator.forget()
        began = CLOCK()
        rows = [row[0] for row in generator.generate_from_ids(prompts, Sampling(max_new_tokens=most))]
        return [row.text for row in rows], sum(row.n_tokens for row in rows), CLOCK() - began

    return generator, run


def peers(model: Path, draft: int | None, threads: int, generator: LlamaCpp) -> tuple[Any, Callable[..., Answers]]:
    import llama_cpp
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    lookup = None if draft is None else LlamaPromptLookupDecoding(num_pred_tokens=draft)
    peer = llama_cpp.Llama(
        str(model), n_ctx=N_CTX, n_threads=threads, n_threads_batch=threads, verbose=False, draft_model=lookup,
        flash_attn=True, type_k=KV_TYPES[KV_TYPE].ggml_type, type_v=KV_TYPES[KV_TYPE].ggml_type,
    )  # fmt: skip

    def run(prompts: list[list[int]], most: int) -> Answers:
        texts, count, began = [], 0, CLOCK()
        for ids in prompts:
            peer.reset()
            tokens: list[int] = []
            for token in peer.generate(ids, temp=0.0, repeat_penalty=1.0):
                tokens.append(token)
                if generator.native.is_end(token) or len(tokens) == most:
                    break
            count += len(tokens)
            texts.append(generator.detokenize(tokens[:-1] if generator.native.is_end(tokens[-1]) else tokens))
        return texts, count, CLOCK() - began

    return peer, run


def measure(model: Path, suite: str, n_prompts: int, rounds: int, most: int, threads: int) -> dict[str, Any]:
    generator, one = ours(model, "unpadded", 1, threads)
    tasks = load_suite(suite)
    step = max(1, len(tasks) // n_prompts)
    prompts = [list(generator.chat.render(task.prompt).input_ids) for task in tasks[::step][:n_prompts]]
    made = [ours(model, decoding, n, threads) for decoding, n in (
        ("plain", 1), ("lookup", 1), ("unpadded", None), ("plain", None), ("lookup", None),
    )]  # fmt: skip
    theirs = [peers(model, draft, threads, generator) for draft in (None, 10, 2)]
    names = [
        "plain, one token at a time", "plain, exact sizes", "prompt lookup", "in parallel, any size",
        "in parallel, exact sizes", "in parallel, prompt lookup", "llama-cpp-python, plain",
        "llama-cpp-python, LlamaPromptLookupDecoding, 10 tokens (its default)",
        "llama-cpp-python, LlamaPromptLookupDecoding, 2 tokens (its advice for a CPU)",
    ]  # fmt: skip
    runs = [one, *(run for _, run in made), *(run for _, run in theirs)]
    for run in runs:
        run(prompts[:1], 8)
    found: dict[str, list[Answers]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, run in zip(names, runs, strict=True):
            found[name].append(run(prompts, most))
    shapes = generator.shapes()
    print(f"sizes that agree: {shapes.least} to {shapes.most}; auto is {_auto(model, threads)}")
    base = statistics.median(count / seconds for _, count, seconds in found[names[0]])
    rows = [_row(name, found[name], base, found[names[0]][0][0], found[names[1]][0][0]) for name in names]
    for opened in (generator, *(g for g, _ in made), *(peer for peer, _ in theirs)):
        opened.close()
    return {"prompts": len(prompts), "shapes": shapes.to_json(), "auto": _auto(model, threads), "ways": rows}


def _auto(model: Path, threads: int) -> str:
    generator = LlamaCpp(model, n_ctx=N_CTX, n_parallel=1, settings=EngineSettings(threads, threads, kv_type=KV_TYPE))
    try:
        return generator.resolved()
    finally:
        generator.close()


def _row(name: str, rounds: list[Answers], base: float, plain: list[Any], exact: list[Any]) -> dict[str, Any]:
    rate = statistics.median(count / seconds for _, count, seconds in rounds)
    row = {
        "way": name,
        "tok_per_s": round(rate, 1),
        "speed_up": round(rate / base, 2),
        "same_text_as_one_token_at_a_time": sum(a == b for a, b in zip(rounds[0][0], plain, strict=True)),
        "same_text_as_exact_sizes": sum(a == b for a, b in zip(rounds[0][0], exact, strict=True)),
        "seconds": [round(seconds, 2) for _, _, seconds in rounds],
    }
    print(f"{row['tok_per_s']:>7}  {row['speed_up']:>5}  same {row['same_text_as_one_token_at_a_time']:>3} "
          f"{row['same_text_as_exact_sizes']:>3}  {name}", flush=True)  # fmt: skip
    return row


def main() -> None:
    global CLOCK, KV_TYPE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--suite", default="samples")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "decoding.json")
    parser.add_argument("--cpu-time", action="store_true", help="only with --threads 1")
    parser.add_argument("--kv-type", choices=sorted(KV_TYPES), default="f16", help="of keys and values")
    options = parser.parse_args()
    KV_TYPE = options.kv_type
    if options.cpu_time:
        if options.threads != 1:
            parser.error("--cpu-time: counts every thread; only with --threads 1")
        CLOCK = time.process_time
    found = measure(
        options.model, options.suite, options.prompts, options.rounds, options.max_new_tokens, options.threads
    )
    hardware = detect()
    entry = {
        "model": options.model.name,
        "model_sha256": hashlib.sha256(options.model.read_bytes()).hexdigest(),
        "suite": options.suite,
        "threads": options.threads,
        "kv_type": KV_TYPE,
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": hardware.cpu_model,
        "cpu_flags": list(hardware.cpu_flags),
        "cpu_count": hardware.cpu_count,
        "llama_cpp_python": metadata.version("llama-cpp-python"),
        "clock": "cpu" if options.cpu_time else "wall",
        "note": options.note,
        **found,
    }
    kept = json.loads(options.out.read_text()) if options.out.is_file() else []
    same = ("model", "suite", "threads", "kv_type")
    kept = [old for old in kept if any(old.get(key, "f16") != entry[key] for key in same)]
    write_json(options.out, [*kept, entry])


if __name__ == "__main__":
    main()
