"""Duplicates and contamination: what is found, what is wrongly merged, and what it costs.

    python benchmarks/duplicates.py [--rows 300000] [--kodcode rows.jsonl]

Real code is that of the samples, of HumanEval (the extra ``demo``), of 3,000 functions of the standard library, and of
a file of KodCode rows where one is named. The index is filled with pieces spliced from stretches of real normal forms.
Writes ``results/duplicates.json``.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import statistics
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from lowvram_ft.data.duplicates.fingerprints import (
    MIN_SHINGLES,
    NUM_PERM,
    THRESHOLD,
    Contamination,
    DuplicateIndex,
    Fingerprint,
    detection_probability,
    fingerprint,
    shingles,
    sketch,
)
from lowvram_ft.data.duplicates.normalize import Part, normal_form
from lowvram_ft.data.evaluation_code import humaneval_problems
from lowvram_ft.hardware import detect
from lowvram_ft.run_dir import versions
from tests.planted_duplicates import NEAR, SAME, library_codes, rewritten, sample_codes

RESULTS = Path(__file__).parent / "results" / "duplicates.json"


def ms_a_row(work: Callable[[Any], object], rows: Sequence[Any], repeats: int = 5) -> float:
    """The fastest of some passes, in milliseconds of this process's CPU time."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        for row in rows:
            work(row)
        times.append(time.process_time() - begin)
    return 1000 * min(times) / len(rows)


def speed(codes: Sequence[str]) -> dict[str, float]:
    """Milliseconds a row by step."""
    trees = [ast.parse(code) for code in codes]
    wholes = [normal_form(tree).whole for tree in trees]
    prints = [found for tree in trees if (found := fingerprint(tree)) is not None]
    index = DuplicateIndex()
    for number, code in enumerate(library_codes(3000)):
        if (found := fingerprint(code)) is not None and number % 2:
            index.add(found)
    contamination = Contamination(tasks())
    return {
        "rows": len(codes),
        "mean_characters": statistics.mean(map(len, codes)),
        "mean_tokens": statistics.mean(len(whole.tokens) for whole in wholes),
        "long_enough_for_minhash": sum(bool(found.sketch) for found in prints) / len(prints),
        "parse_ms": ms_a_row(ast.parse, codes),
        "normal_form_ms": ms_a_row(normal_form, trees),
        "minhash_ms": ms_a_row(sketch, wholes),
        "fingerprint_ms": ms_a_row(fingerprint, trees),
        "index_ms": ms_a_row(index.add, prints, repeats=1),
        "contamination_ms": ms_a_row(contamination.found, prints),
    }


def tasks() -> list[tuple[str, str]]:
    """HumanEval: id and code of every problem."""
    return [(problem["task_id"], problem["prompt"] + problem["canonical_solution"]) for problem in humaneval_problems()]


def long_enough(code: str) -> bool:
    return len(shingles(normal_form(ast.parse(code)).whole)) >= MIN_SHINGLES


def recall(codes: Sequence[str]) -> dict[str, Any]:
    """Share of the rewrites that are found, by kind, and of the small changes also whatever the length."""
    found, made = Counter[str](), Counter[str]()
    for number, code in enumerate(codes):
        original = fingerprint(code)
        if original is None:
            continue
        for kind, changed in rewritten(code, (*SAME, *NEAR), number):
            print_ = fingerprint(changed)
            assert print_ is not None
            index = DuplicateIndex()
            index.add(original)
            match = index.add(print_)
            near = any(kind == rewrite.__name__ for rewrite in NEAR)
            right = match is not None and match.exact is not near
            for name in [f"{kind}, any length"] * near + [kind] * (
                not near or (long_enough(code) and long_enough(changed))
            ):
                made[name] += 1
                found[name] += right
    return {kind: {"made": made[kind], "found": found[kind], "recall": found[kind] / made[kind]} for kind in made}


def merged(codes: Sequence[str]) -> dict[str, Any]:
    """All that is merged in a set of distinct code, for a person to judge; and how many pairs of neighbours are."""
    index, near, exact = DuplicateIndex(), [], 0
    prints = [found for code in codes if (found := fingerprint(code)) is not None]
    parsed = [code for code in codes if fingerprint(code) is not None]
    for number, print_ in enumerate(prints):
        match = index.add(print_)
        if match is not None and match.exact:
            exact += 1
        elif match is not None:
            names = [title(parsed[place]) for place in (match.row, number)]
            near.append({"similarity": round(match.similarity, 3), "rows": names})
    pairs = 0
    for first, second in pairwise(prints):
        pair = DuplicateIndex()
        pair.add(first)
        pairs += pair.add(second) is not None
    count = len(prints)
    return {"rows": count, "pairs": count * (count - 1) // 2, "exact": exact, "near": near, "neighbours": count - 1,
            "neighbours_merged": pairs}  # fmt: skip


def title(code: str) -> str:
    return next((n.name for n in ast.parse(code).body if isinstance(n, ast.FunctionDef | ast.ClassDef)), code[:30])


def decontamination(distinct: Sequence[str]) -> dict[str, Any]:
    """Rewritten HumanEval solutions, alone and beside a helper, and distinct rows."""
    problems = tasks()
    contamination = Contamination(problems)
    helper = "def helper_of_mine(values):\n    return [value for value in values if value]\n"
    found, made = Counter[str](), Counter[str]()
    for number, (_, code) in enumerate(problems):
        for kind, changed in rewritten(code, (*SAME, *NEAR), number):
            for where, row in ((kind, changed), (f"{kind}, beside a helper", f"{changed}\n\n{helper}")):
                made[where] += 1
                print_ = fingerprint(row)
                hit = None if print_ is None else contamination.found(print_)
                found[where] += hit is not None
    wrong = []
    for code in distinct:
        print_ = fingerprint(code)
        hit = None if print_ is None else contamination.found(print_)
        if hit is not None:
            wrong.append([title(code), hit])
    planted = {kind: {"made": made[kind], "found": found[kind]} for kind in made}
    return {"planted": planted, "distinct_rows": len(distinct), "distinct_rows_found": wrong}


def s_curve(pairs: int) -> list[dict[str, float]]:
    """How many of the pairs of a similarity are found, beside the theory: random sets of 400 tokens, some changed."""
    numbers = random.Random(0)
    hits: dict[float, list[tuple[float, bool]]] = {}
    for number in range(pairs):
        tokens = [numbers.randrange(2**63) for _ in range(400)]
        other = list(tokens)
        for place in numbers.sample(range(400), numbers.randint(5, 40)):
            other[place] = numbers.randrange(2**63)
        first, second = Part(array("Q", tokens), b"a" * 16), Part(array("Q", other), number.to_bytes(16, "big"))
        a, b = set(shingles(first).tolist()), set(shingles(second).tolist())
        similarity = len(a & b) / len(a | b)
        index = DuplicateIndex()
        index.add(Fingerprint(first.digest, sketch(first)))
        hit = index.add(Fingerprint(second.digest, sketch(second))) is not None
        hits.setdefault(round(similarity * 50) / 50, []).append((detection_probability(similarity), hit))
    return [
        {"similarity": at, "pairs": len(found), "found": statistics.mean(hit for _, hit in found),
         "theory": statistics.mean(theory for theory, _ in found)}
        for at, found in sorted(hits.items()) if len(found) >= 30
    ]  # fmt: skip


def spliced(rows: int) -> Iterator[Fingerprint]:
    """Fingerprints of token streams of 30 to 120 tokens, spliced from stretches of 4 to 12 tokens of real code."""
    numbers = np.random.default_rng(0)
    stretches: list[list[int]] = []
    for code in [*sample_codes(), *library_codes(1000)]:
        tokens = list(normal_form(ast.parse(code)).whole.tokens)
        start = 0
        while start < len(tokens):
            stretches.append(tokens[start : (start := start + int(numbers.integers(4, 13)))])
    for number in range(rows):
        tokens, length = array("Q"), numbers.integers(30, 121)
        for choice in numbers.integers(0, len(stretches), 40):
            tokens.extend(stretches[choice])
            if len(tokens) >= length:
                break
        yield Fingerprint(number.to_bytes(8, "little") * 2, sketch(Part(tokens, b"")))


def growth(rows: int) -> list[dict[str, float]]:
    """Fill an index in a process of its own, which does nothing else; bytes and time as it grows."""
    command = [sys.executable, __file__, "--fill", str(rows)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in printed.splitlines()]


def fill(rows: int) -> None:
    step = max(rows // 6, 1)
    prints = spliced(rows)
    index, spent, with_sketch, duplicates = DuplicateIndex(), 0.0, 0, 0
    first = next(prints)
    index.add(first)
    start = resident_bytes("VmRSS")
    for number, print_ in enumerate(prints, 2):
        begin = time.process_time()
        duplicates += index.add(print_) is not None
        spent += time.process_time() - begin
        with_sketch += bool(print_.sketch)
        if number % step == 0:
            line = {
                "rows": number,
                "with_sketch": with_sketch,
                "duplicates": duplicates,
                "bytes_a_row": index.nbytes / number,
                "resident_bytes_a_row": (resident_bytes("VmRSS") - start) / number,
                "peak_resident_bytes": resident_bytes("VmHWM"),
                "index_ms": 1000 * spent / number,
            }
            print(json.dumps(line), flush=True)


def resident_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--kodcode", type=Path)
    parser.add_argument("--fill", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        fill(options.fill)
        return
    lines = options.kodcode.read_text("utf-8").splitlines() if options.kodcode else []
    kodcode = [json.loads(line)["solution"] for line in lines]
    own = [*sample_codes(), *dict.fromkeys(kodcode)]
    library = list(library_codes(3000))
    machine = detect()
    result = {
        "settings": {"num_perm": NUM_PERM, "min_shingles": MIN_SHINGLES, "threshold": THRESHOLD},
        "speed": {"samples": speed(sample_codes()), **({"kodcode": speed(kodcode)} if kodcode else {})},
        "recall": recall([*own, *(code for _, code in tasks()), *library[:800]]),
        "merged": merged([*own, *(code for _, code in tasks()), *library[:2000]]),
        "decontamination": decontamination([*own, *library][:3000]),
        "s_curve": s_curve(3000),
        "growth": growth(options.rows),
        "kodcode_rows": len(kodcode),
        "hardware": {"cpu": machine.cpu_model, "cpus": machine.cpu_count, "ram_bytes": machine.ram_total_bytes},
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("speed", "recall", "decontamination", "growth")}, indent=1))


if __name__ == "__main__":
    main()
