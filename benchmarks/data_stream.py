"""300,000 rows through filters, duplicates and tokenization: speed beside the bare tokenizer, and memory.

    python benchmarks/data_stream.py [--rows 300000] [--middle 50000]

The rows are synthetic, in KodCode's shape and half as long again: functions and tests that are put together from parts
with a seed. One in a hundred is drawn so that it repeats another with other names of locals. The bare tokenizer encodes
the rendered texts of the same rows, in batches over all CPUs, and does nothing else.
Writes ``results/data_stream.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lowvram_ft import models
from lowvram_ft.data.prepare import prepare
from lowvram_ft.data.row import build_prompt
from lowvram_ft.hardware import detect
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import from_folder
from lowvram_ft.run_dir import versions

RESULTS = Path(__file__).parent / "results" / "data_stream.json"
MAX_LENGTH = 2048
NOUNS = (
    "value",
    "item",
    "total",
    "entry",
    "score",
    "price",
    "weight",
    "level",
    "index",
    "count",
    "node",
    "edge",
    "word",
)
VERBS = (
    "merge",
    "split",
    "count",
    "reverse",
    "rotate",
    "scale",
    "trim",
    "group",
    "rank",
    "shift",
    "fold",
    "join",
    "pack",
)
STATEMENTS = (
    "{a} = [{b} * {n} for {b} in {a} if {b} % {m} != {k}]",
    "for {b} in {a}:\n        if {b} > {n}:\n            {c} += {b} - {m}\n        else:\n            {c} -= {k}",
    "if len({a}) < {n}:\n        return [{m}, {c}]",
    "if not isinstance({a}, list):\n        raise TypeError('{v} needs a list of {x}s, got number {n}')",
    "{c} = sum({a}[{k}:]) + {n}",
    "{a} = sorted({a}, key=lambda {b}: ({b} % {n}, -{b}))",
    "while {c} > {n} * {m}:\n        {c} //= {k} + 2",
    "{c} = max({c}, {n}) if {a} else min({c}, {m})",
    "{a} = [{b} for {b}, _ in zip({a}, range({n}))] + [{c}] * ({k} + 1)",
    "{c} += len(set({a})) * {n} - {m}",
    "try:\n        {c} = {a}[{k}] ** 2 + {n}\n    except IndexError:\n        {c} = {m}",
    "{a} = {a}[{k}:] + {a}[:{k}]",
    "{c} = {{'{x}': {n}, '{v}': {m}}}.get(str({c}), {c} + {k})",
    "{a} = [({b} ^ {n}) & {m} for {b} in {a}]",
)


def rows(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Objects in KodCode's shape."""
    chance = random.Random(seed)
    for number in range(count):
        drawn = random.Random(chance.getrandbits(62) if number % 100 else seed + number // 100 // 2)
        names = random.Random(chance.getrandbits(62)).sample(NOUNS, 3)
        verb, noun = drawn.choice(VERBS), drawn.choice(NOUNS)
        function = f"{verb}_{noun}_{drawn.randrange(1000)}"
        body = []
        for _ in range(drawn.randint(5, 14)):
            numbers = {key: drawn.randrange(1, 97) for key in "nm"}
            parts = dict(zip("abc", names, strict=True)) | numbers | {"k": drawn.randrange(0, 7), "v": verb, "x": noun}
            body.append("    " + drawn.choice(STATEMENTS).format(**parts))
        a, _, c = names
        doc = f'    """{verb.title()} the {noun}s of a list.\n\n    Args:\n        {a}: whole numbers.\n    """\n'
        code = f"def {function}({a}):\n{doc}    {c} = 0\n" + "\n".join(body) + f"\n    return {a}, {c}\n"
        tests = []
        for case in range(drawn.randint(4, 9)):
            values = [drawn.randrange(-99, 99) for _ in range(drawn.randint(0, 8))]
            tests.append(
                f"def test_{function}_{case}():\n    result, rest = {function}({values})\n"
                f"    assert isinstance(result, list)\n    assert rest == {drawn.randrange(-500, 500)}\n"
            )
        head = f"from solution import {function}\n\n\n" if drawn.random() < 0.75 else ""
        yield {
            "question_id": f"synthetic_{number}",
            "solution": code,
            "test": head + "\n\n".join(tests),
            "r1_correctness": "True",
            "subset": "Synthetic",
            "style": "instruct",
        }


class Memory:
    """Peak of what this process and its children hold: anonymous memory, and all that is resident (shared in parts)."""

    def __init__(self) -> None:
        self.peak_anonymous = self.peak_proportional = self.peak_own = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            found = [_memory(pid) for pid in [os.getpid(), *_children(os.getpid())]]
            self.peak_anonymous = max(self.peak_anonymous, sum(one["Anonymous"] for one in found))
            self.peak_proportional = max(self.peak_proportional, sum(one["Pss"] for one in found))
            self.peak_own = max(self.peak_own, found[0]["Anonymous"])


def _children(pid: int) -> list[int]:
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(child) for child in (thread / "children").read_text().split()]
        except OSError:
            continue
    return found + [grandchild for child in found for grandchild in _children(child)]


def _memory(pid: int) -> dict[str, int]:
    sizes = {"Anonymous": 0, "Pss": 0}
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sizes:
                sizes[name] = int(value.split()[0]) << 10
    except (OSError, ValueError):  # it has just ended
        return {"Anonymous": 0, "Pss": 0}
    return sizes


def one_pass(path: Path, count: int, folder: Path) -> dict[str, Any]:
    """Prepare the first ``count`` rows of a file, and measure."""
    chat = from_folder(models.materialize(models.resolve("smollm2-135m")))
    section = DataSection(source="kodcode", path=str(path), max_read=count)
    with Memory() as memory:
        begin = time.monotonic()
        prepared = prepare(section, chat, MAX_LENGTH, folder / "set")
        seconds = time.monotonic() - begin
    facts = prepared.to_json()
    return {
        "rows": count,
        "seconds": seconds,
        "rows_per_s": count / seconds,
        "kept": facts["train"] + facts["eval"],
        "dropped": facts["dropped"],
        "median_tokens": facts["median"],
        "peak_anonymous_bytes": memory.peak_anonymous,
        "peak_proportional_bytes": memory.peak_proportional,
        "peak_anonymous_bytes_of_the_main_process": memory.peak_own,
    }


def bare_tokenizer(path: Path, count: int) -> dict[str, Any]:
    """The tokenizer alone, on the texts that are trained on, in batches over all CPUs."""
    from tokenizers import Tokenizer

    folder = models.materialize(models.resolve("smollm2-135m"))
    chat = from_folder(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    seconds, done, batch = 0.0, 0, []
    with path.open(encoding="utf-8") as file:
        for line in file:
            value = json.loads(line)
            batch.append(chat.render(build_prompt(value["solution"]), value["test"].strip()).text)
            if len(batch) == 1000:
                begin = time.monotonic()
                tokenizer.encode_batch(batch, add_special_tokens=False)
                seconds += time.monotonic() - begin
                done += len(batch)
                batch = []
            if done >= count:
                break
    return {"rows": done, "seconds": seconds, "rows_per_s": done / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--middle", type=int, default=50_000)
    parser.add_argument("--bare", type=int, default=30_000, help="rows for the bare tokenizer, before and after")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="data-stream-") as name:
        folder = Path(name)
        path = folder / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for row in rows(options.rows):
                file.write(json.dumps(row) + "\n")
        bare = [bare_tokenizer(path, options.bare)]
        passes = [one_pass(path, count, folder) for count in (options.middle, options.rows)]
        bare.append(bare_tokenizer(path, options.bare))
        size = path.stat().st_size
    speed = sum(one["rows"] for one in bare) / sum(one["seconds"] for one in bare)
    own = "peak_anonymous_bytes_of_the_main_process"
    grown = passes[1][own] - passes[0][own]
    sizes = f"--rows {options.rows} --middle {options.middle} --bare {options.bare}"
    machine = detect()
    result = {
        "command": f"python benchmarks/data_stream.py {sizes}",
        "date": time.strftime("%Y-%m-%d"),
        "hardware": {"cpu": machine.cpu_model, "cpus": machine.cpu_count, "ram_bytes": machine.ram_total_bytes},
        "versions": versions(),
        "bytes_a_row_in_the_file": size / options.rows,
        "bare_tokenizer": {"before_and_after": bare, "rows_per_s": speed},
        "passes": passes,
        "share_of_the_bare_tokenizer": passes[1]["rows_per_s"] / speed,
        "grown_bytes_a_row": grown / (options.rows - options.middle),
        "targets": {"share": 0.25, "grown_bytes_a_row": 300, "peak_bytes": 3 << 29},
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    last = passes[1]
    print(f"bare tokenizer {speed:.0f} rows/s; {last['rows']} rows at {last['rows_per_s']:.0f} rows/s, ", end="")
    print(f"{100 * result['share_of_the_bare_tokenizer']:.1f} % of it (target 25)")
    print(f"peak {last['peak_anonymous_bytes'] / 2**20:.0f} MiB in all processes (target 1536), ", end="")
    print(f"{result['grown_bytes_a_row']:.0f} bytes a row from {options.middle} to {options.rows} (target 300)")
    print(f"kept {last['kept']}, left out {last['dropped']}")


if __name__ == "__main__":
    main()
