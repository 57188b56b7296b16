"""``python -m gguf_export BASE OUT``: the exporter by itself, from the command line."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import (
    QUANT_TYPES,
    ExportError,
    ExportResult,
    Stage,
    UnsupportedError,
    Verification,
    VerificationFailed,
    export,
    modelfile,
    require_llama_cpp,
    staged,
    verify,
)
from .errors import EXPLAINED_AT

_EVERY_S = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, verify, write a Modelfile; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        with _sigterm_raises():
            return _run(options)
    except ExportError as error:
        print(f"error: {error}\nsee {EXPLAINED_AT}#{type(error).__name__.lower()}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print("stopped; nothing is half-written: run the same command again", file=sys.stderr)
        return 143 if isinstance(stop, _Terminated) else 130


class _Terminated(KeyboardInterrupt):
    """The system or another program asked for an end: what was begun is tidied up as after Ctrl-C."""


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """While it is entered, SIGTERM raises `_Terminated`, where nobody else takes care of it."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(*_: object) -> None:
        raise _Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run(options: argparse.Namespace) -> int:
    if options.verify:
        require_llama_cpp("verification")  # before anything is written
    progress = _progress(options.quiet)
    with staged(options.out) as stage:
        result = export(
            options.base,
            options.adapter or None,
            stage.path,
            quant=options.quant,
            rounding=options.rounding,
            imatrix=options.imatrix,
            eos_token=options.eos_token,
            chat_template=options.chat_template.read_text(encoding="utf-8") if options.chat_template else None,
            progress=progress,
        )
        said = _report(stage, result, options)
        found = _verification(stage, result, options) if options.verify else None
        if found is not None:
            said["verification"] = {"ok": found.ok, "checks": [asdict(check) for check in found.checks]}
            _require(found, stage)
        stage.publish()
    if options.json:
        print(json.dumps(said, indent=2))
        return 0
    if found is not None:
        print(found.summary())
    print(f"{stage.out}: {result.quant}, {result.size_bytes / 1e6:.1f} MB in {result.seconds:.1f} s")
    print(f"sha256 {result.sha256}")
    print(said["modelfile"] or f"no Modelfile: {said['modelfile_problem']}")
    return 0


def _verification(stage: Stage, result: ExportResult, options: argparse.Namespace) -> Verification:
    return verify(
        stage.path,
        base=options.base,
        adapter=options.adapter or None,
        rounding=options.rounding,
        imatrix=options.imatrix,
        sha256=result.sha256,
        chat_template=result.chat_template,
    )


def _require(found: Verification, stage: Stage) -> None:
    if not found.ok:
        earlier = stage.out.is_file()
        kept = stage.reject(found)
        failed = "; ".join(f"{check.name}: {check.detail}" for check in found.failed)
        stays = f"; {stage.out} is the earlier one, as it was" if earlier else ""
        raise VerificationFailed(f"{kept}: does not pass its verification ({failed}); it is kept for a look{stays}")


def _report(stage: Stage, result: ExportResult, options: argparse.Namespace) -> dict[str, Any]:
    """What was written, and a Modelfile beside it where the template can be expressed in Go's."""
    said: dict[str, Any] = {
        "path": str(stage.out),
        "quant": result.quant,
        "sha256": result.sha256,
        "size_bytes": result.size_bytes,
        "seconds": round(result.seconds, 2),
        "quantizers": dict(result.quantizers),
        "eos_token": result.eos_token,
        "modelfile": None,
        "modelfile_problem": None,
    }
    try:
        text = modelfile(
            stage.out.name,
            chat_template=result.chat_template,
            eos_tokens=[result.eos_token],
            num_ctx=options.n_ctx,
            bos_token=result.bos_token,
            add_bos=result.add_bos,
        )
    except UnsupportedError as error:
        said["modelfile_problem"] = str(error)
    else:
        stage.path.with_suffix(".Modelfile").write_text(text, encoding="utf-8")
        said["modelfile"] = str(stage.out.with_suffix(".Modelfile"))
    return said


def _progress(quiet: bool) -> Callable[[str, float], None]:
    """Lines on stderr, with the time left; one that is written over where a person looks on."""
    began, last, live = time.monotonic(), 0.0, sys.stderr.isatty()

    def report(step: str, share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if quiet or (share < 1 and now - last < (0.2 if live else _EVERY_S)):
            return
        last = now
        left = f", {(now - began) / share * (1 - share):.0f} s left" if 0.01 < share < 1 else ""
        line = f"{step}: {100 * share:.0f} % in {now - began:.0f} s{left}"
        print(f"\r\x1b[2K{line}" if live else line, end="" if live and share < 1 else "\n", file=sys.stderr, flush=True)

    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gguf_export", description="Merge LoRA adapters into a base model and write a verified GGUF."
    )
    parser.add_argument("base", type=Path, help="model folder in the hub's layout")
    parser.add_argument("out", type=Path, help="the .gguf to write")
    parser.add_argument(
        "--adapter", type=Path, action="append", help="PEFT adapter folder; several in the order of their training"
    )
    parser.add_argument("--quant", default="Q4_K_M", help=f"{', '.join(QUANT_TYPES)} (Q4_K_M)")
    parser.add_argument("--rounding", default="bf16", help="bf16, f16 or f32: of merged weights (bf16)")
    parser.add_argument("--imatrix", type=Path, help="importance matrix of llama.cpp's llama-imatrix")
    parser.add_argument("--chat-template", type=Path, help="file with the Jinja template that was trained (the base's)")
    parser.add_argument("--eos-token", help="end token that was trained (the template's)")
    parser.add_argument("--n-ctx", type=int, default=4096, help="context in the Modelfile (4096)")
    parser.add_argument("--no-verify", dest="verify", action="store_false", help="do not check the file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    return parser


if __name__ == "__main__":
    sys.exit(main())
