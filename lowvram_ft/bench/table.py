"""Measurements as lines for people."""

from __future__ import annotations

from collections.abc import Sequence

from lowvram_ft.bench.compare import Way
from lowvram_ft.bench.latency import BenchResult
from lowvram_ft.bench.tune import DECODED, Trial


def latency(found: BenchResult) -> list[str]:
    """One prompt at a time, and the gate."""
    lines = [
        f"model            {found.model}",
        f"prompts          {found.prompts}, {found.prompt_tokens:.0f} tokens on average",
        f"answers          {found.new_tokens:.0f} tokens on average, {found.cut_off} cut off",
        f"prefill          {found.prefill_tok_per_s:.1f} tokens/s (median)",
        f"first token      {found.first_token_s_p50:.2f} s (median), {found.first_token_s_p95:.2f} s (p95)",
        f"decoding         {found.decode_tok_per_s:.1f} tokens/s (median), {how(found)}",
        f"whole file       {found.file_s_p50:.2f} s (median), {found.file_s_p95:.2f} s (p95)",
    ]
    if not found.prompt_tokens:  # a server that does not count them
        lines = [line for line in lines if not line.startswith("prefill")]
    if found.memory is not None:
        parts = [("model", "model_bytes"), ("KV cache", "kv_cache_bytes"), ("process at its peak", "peak_rss_bytes")]
        sizes = [(name, found.memory[key]) for name, key in parts]
        shown = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in sizes if size is not None)
        lines.append(f"memory           {shown}")
    return [*lines, f"gate {found.gate_s:g} s        {'met' if found.gate_met else 'missed'}"]


def how(found: BenchResult) -> str:
    """How answers were decoded."""
    if found.decoding == "lookup":
        return f"prompt lookup, {found.tokens_per_batch:.2f} tokens a batch"
    ways = {"server": "as the server does it", "adapter": "base and adapter by PyTorch"}
    return ways.get(found.decoding, "one token at a time")


def trials(found: Sequence[Trial]) -> list[str]:
    """What was tried; empty where nothing was."""
    if not found:
        return []
    rows = [
        f"{trial.n_threads:>7}  {'yes' if trial.repack else 'no':<6}  {trial.prefill_s:>9.3f}  "
        f"{DECODED / trial.decode_s:>8.1f}"
        for trial in found
    ]
    return ["threads  repack  prefill s  decode tokens/s", *rows, ""]


def ways(found: Sequence[Way]) -> list[str]:
    """Ways of decoding, a line each; times are of the first one."""
    width = max(len(way.name) for way in found)
    head = f"\n{'':<{width}}  seqs  tokens/s  times  a batch  accepted  same text  KV MiB"
    rows = [
        f"{way.name:<{width}}  {way.n_parallel:>4}  {way.tok_per_s:>8.1f}  {way.speed_up:>5.2f}  "
        f"{way.tokens_per_batch:>7.2f}  {'' if way.accepted is None else f'{way.accepted:.0%}':>8}  "
        f"{f'{way.same_text}/{way.prompts}':>9}  {way.kv_cache_bytes / 2**20:>6.0f}"
        for way in found
    ]
    return [head, *rows]
