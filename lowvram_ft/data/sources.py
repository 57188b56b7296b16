"""Where rows come from: one function for each shape of a data set, from a file, the package, or the hub.

===============  ==========================================================  =====================
source           columns that are read                                       licence
===============  ==========================================================  =====================
samples          id, kind, code, test (and failed_test, failure_log)         Apache-2.0, ships with the kit
kodcode          solution, test or test_code, question_id, r1_correctness    CC-BY-NC-4.0
testgeneval      code_src, test_src, code_file, repo, id                     CC-BY-NC-4.0
coderm           code_ground_truth, unit_tests (JSON in a string), task_id   Apache-2.0
failure_traces   code, failed_test, failure_log, fixed_test                  the user's own
===============  ==========================================================  =====================
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from lowvram_ft.data.jsonl import BrokenLines, read_rows
from lowvram_ft.data.row import SOLUTION, Row, import_from_solution, make_row
from lowvram_ft.errors import DataError, MachineError
from lowvram_ft.recipe import DataSection

HUB_IDS = {
    "kodcode": "KodCode/KodCode-V1-SFT-R1",
    "testgeneval": "kjain14/testgeneval",
    "coderm": "KAKA22/CodeRM-UnitTest",
}
SAMPLE_FILES = {"functions": "functions.jsonl", "modules": "modules.jsonl", "traces": "traces.jsonl"}
HELD_OUT = "held_out.jsonl"

Object = Mapping[str, Any]


@dataclass
class Dropped:
    """Rows that a source left out, by reason."""

    reasons: Counter[str] = field(default_factory=Counter)
    broken: BrokenLines = field(default_factory=BrokenLines)


def load_rows(section: DataSection, dropped: Dropped | None = None) -> Iterator[Row]:
    """The rows that a recipe's ``[data]`` section names, in their order, at most ``max_rows``.

    Args:
        section: the section.
        dropped: collects what was left out and why.

    Raises:
        DataError: a file is missing or broken, or a column is missing.
        MachineError: the hub cannot be reached.
    """
    left_out = dropped if dropped is not None else Dropped()
    convert = CONVERTERS[section.source]
    kept = 0
    for where, value in _objects(section, left_out):
        row = convert(value, where, left_out)
        if row is None:
            continue
        yield row
        kept += 1
        if section.max_rows is not None and kept >= section.max_rows:
            if section.broken_lines == "fatal":  # the file is not read to its end, where they are refused otherwise
                left_out.broken.refuse(Path(where.rpartition(":")[0]))
            return


def held_out_rows() -> Iterator[Row]:
    """The sample functions that are kept for evaluation, and never trained on."""
    path = Path(str(files("lowvram_ft.data") / "samples" / HELD_OUT))
    for number, value in read_rows(path):
        row = _sample(value, f"{path.name}:{number}", Dropped())
        if row is not None:
            yield row


def failed_tests(section: DataSection) -> dict[str, str]:
    """Row id to the failed test of a failure trace, for the rows that have one."""
    found: dict[str, str] = {}
    left_out = Dropped()
    for where, value in _objects(section, left_out):
        if isinstance(value.get("failed_test"), str):
            row = _failure_trace(value, where, left_out)
            if row is not None:
                found[row.id] = value["failed_test"]
    return found


def _objects(section: DataSection, left_out: Dropped) -> Iterator[tuple[str, Object]]:
    if section.path is not None:
        yield from _from_files([Path(section.path)], section, left_out)
    elif section.source == "samples":
        names = [SAMPLE_FILES[section.subset]] if section.subset else list(SAMPLE_FILES.values())
        folder = Path(str(files("lowvram_ft.data") / "samples"))
        yield from _from_files([folder / name for name in names], section, left_out)
    elif section.source == "failure_traces":
        raise DataError('data.path: failure traces come from a file; set data.path = "failure_traces.jsonl"')
    else:
        yield from _from_hub(section.hub_id or HUB_IDS[section.source], section.split)


def _from_files(paths: list[Path], section: DataSection, left_out: Dropped) -> Iterator[tuple[str, Object]]:
    for path in paths:
        for number, value in read_rows(path, section.broken_lines, left_out.broken):
            yield f"{path}:{number}", value


def _from_hub(hub_id: str, split: str) -> Iterator[tuple[str, Object]]:
    """Rows of a data set on the hub, or in a local folder of its layout, streamed: one shard is open at a time."""
    import httpx
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    try:
        splits = load_dataset(hub_id, streaming=True)
        if split not in splits:
            raise DataError(f"data.split: {hub_id} has no split {split} (splits: {', '.join(splits)}); use one of them")
        for number, value in enumerate(splits[split]):
            yield f"{hub_id}[{split}] row {number}", value
    except (DatasetsError, HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        if constants.HF_HUB_OFFLINE:
            raise MachineError(
                f"{hub_id}: cannot be loaded, since HF_HUB_OFFLINE is set; unset it, or set data.path to a JSONL file"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MachineError(
            f"{hub_id}: cannot be loaded ({reason}); check the name and the network, or set data.path to a JSONL file"
        ) from error


def _column(value: Object, where: str, *names: str) -> str:
    """The first of the named columns that is there, as text.

    Raises:
        DataError: none of them is there; names what was.
    """
    for name in names:
        found = value.get(name)
        if isinstance(found, str) and found.strip():
            return found
    raise DataError(
        f"{where}: no text in column {' or '.join(names)} (columns: {', '.join(sorted(value)) or 'none'}); "
        "check data.source, or the file"
    )


def _names(code: str) -> tuple[str, ...] | None:
    """Public names that a module defines at its top; None where it does not parse."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return None
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return tuple(node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_"))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def _sample(value: Object, where: str, left_out: Dropped) -> Row | None:
    if "failed_test" in value:
        return _failure_trace(value, where, left_out)
    name = _column(value, where, "id")
    return make_row(
        id=name,
        group=name,
        source="samples",
        code=_column(value, where, "code"),
        test=_column(value, where, "test"),
        module=str(value.get("module") or SOLUTION),
        meta={"kind": value.get("kind", "")},
    )


def _kodcode(value: Object, where: str, left_out: Dropped) -> Row | None:
    code = _column(value, where, "solution")
    test = _column(value, where, "test", "test_code")
    if str(value.get("r1_correctness", "True")) != "True":  # the column holds the strings "True" and "False"
        left_out.reasons["r1_correctness is not True"] += 1
        return None
    names = _names(code)
    if names is None or _names(test) is None:
        left_out.reasons["does not parse"] += 1
        return None
    name = str(value.get("question_id") or _digest(code))
    return make_row(
        id=name,
        group=name,
        source="kodcode",
        code=code,
        test=import_from_solution(test, SOLUTION, names),
        meta={"subset": value.get("subset", ""), "style": value.get("style", "")},
    )


def _testgeneval(value: Object, where: str, left_out: Dropped) -> Row | None:
    code, test = _column(value, where, "code_src"), _column(value, where, "test_src")
    file = _column(value, where, "code_file")
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if _names(code) is None or _names(test) is None:
        left_out.reasons["does not parse"] += 1
        return None
    return make_row(
        id=str(value.get("id") or _digest(file, code)),
        group=str(value.get("repo") or "unknown"),
        source="testgeneval",
        code=code,
        test=import_from_solution(test, module, _names(code) or ()),
        module=module,
        meta={
            "code_file": file,
            "test_file": value.get("test_file", ""),
            "instance_id": value.get("instance_id", ""),
        },
    )


def _coderm(value: Object, where: str, left_out: Dropped) -> Row | None:
    code = _column(value, where, "code_ground_truth")
    raw = value.get("unit_tests")
    try:
        tests = json.loads(raw) if isinstance(raw, str) else raw
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: unit_tests: is not JSON ({error}); download the data set again") from error
    listed = [item for item in tests if isinstance(item, Mapping)] if isinstance(tests, list) else []
    named = [item for item in listed if isinstance(item.get("code"), str) and item["code"].strip()]
    if not named:
        left_out.reasons["no unit test"] += 1
        return None
    best = min(named, key=lambda item: (_rate(item.get("FAR")), _rate(item.get("FRR")), len(str(item["code"]))))
    names, test = _names(code), str(best["code"])
    if names is None or _names(test) is None:
        left_out.reasons["does not parse"] += 1
        return None
    name = str(value.get("task_id", _digest(code)))
    return make_row(
        id=name,
        group=name,
        source="coderm",
        code=code,
        test=import_from_solution(test, SOLUTION, names),
        meta={"FAR": best.get("FAR"), "FRR": best.get("FRR")},
    )


def _rate(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 1.0


def _failure_trace(value: Object, where: str, left_out: Dropped) -> Row | None:
    code, fixed = _column(value, where, "code"), _column(value, where, "fixed_test", "test")
    failed = _column(value, where, "failed_test")
    log = _column(value, where, "failure_log")
    if _names(code) is None or _names(fixed) is None:
        left_out.reasons["does not parse"] += 1
        return None
    name = str(value.get("id") or _digest(code, failed, fixed))
    return make_row(
        id=name,
        group=str(value.get("group") or _digest(code)),
        source="failure_traces",
        code=code,
        test=import_from_solution(fixed, SOLUTION, _names(code) or ()),
        module=str(value.get("module") or SOLUTION),
        failed_test=failed,
        failure_log=log,
        meta={"kind": value.get("kind", "")},
    )


CONVERTERS: Mapping[str, Callable[[Object, str, Dropped], Row | None]] = {
    "samples": _sample,
    "kodcode": _kodcode,
    "testgeneval": _testgeneval,
    "coderm": _coderm,
    "failure_traces": _failure_trace,
}
