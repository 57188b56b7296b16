"""How fast a GGUF is on this machine: latency and the gate, settings tuned, ways of decoding beside each other."""

from lowvram_ft.bench.compare import Way, compare
from lowvram_ft.bench.latency import BenchResult, bench, bench_server, summarize
from lowvram_ft.bench.tune import Trial, tune

__all__ = ["BenchResult", "Trial", "Way", "bench", "bench_server", "compare", "summarize", "tune"]
