"""``gguf-export BASE OUT`` (or ``python -m gguf_export``): the exporter by itself, from the command line."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import (
    QUANT_TYPES,
    Adapter,
    BrokenFileError,
    Checkpoint,
    ExportError,
    ExportResult,
    Stage,
    TrainedChat,
    UnsupportedError,
    Verification,
    VerificationFailed,
    export,
    modelfile,
    read_template,
    require_llama_cpp,
    staged,
    template_of,
    trained_chat,
    verify,
)
from .errors import EXPLAINED_AT
from .vocabulary.trained import end_token_of

_EVERY_S = 10.0
_MIN_CONTEXT = 256


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, verify, write a Modelfile, or verify a file that is there; the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _require_sense(parser, options)
    try:
        with _sigterm_raises():
            return _run(options) if options.check is None else _check(options)
    except ExportError as error:
        print(f"error: {error}\nsee {EXPLAINED_AT}#{type(error).__name__.lower()}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print("stopped; nothing is half-written: run the same command again", file=sys.stderr)
        return 143 if isinstance(stop, _Terminated) else 130


def _say(text: str) -> None:
    """Print to stdout; where nobody reads it any longer (``gguf-export … | head``), nothing else changes."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end


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


def _require_sense(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with exit code 2 where arguments do not go together."""
    if options.check is not None:
        if options.out is not None:
            parser.error(f"--check FILE BASE writes nothing (got an output too: {options.out})")
    elif options.out is None:
        parser.error("OUT is missing: the .gguf to write (or give --check FILE to verify one)")
    elif options.out.suffix.lower() != ".gguf":
        parser.error(f"OUT: the name of a GGUF ends in .gguf (got {options.out}); give {options.out}.gguf")


def _run(options: argparse.Namespace) -> int:
    if options.verify:
        require_llama_cpp("verification")  # before anything is written
    chat = _trained(options)
    with staged(options.out) as stage:
        result = export(
            options.base,
            options.adapter or None,
            stage.path,
            quant=options.quant,
            rounding=options.rounding,
            imatrix=options.imatrix,
            eos_token=options.eos_token or chat.end_token,
            chat_template=chat.template,
            progress=_progress(options.quiet),
        )
        said = _report(stage, result, chat, options)
        found = None
        if options.verify:
            found = _verified(stage.path, options, chat.template, result.sha256, result.eos_token)
        if found is not None:
            said |= {"ok": found.ok, "verification": _checks(found)}
            _require(found, stage, said, options)
        stage.publish()
    if options.json:
        _say(json.dumps(said, indent=2))
        return 0
    if found is not None:
        _say(found.summary())
    _say(f"{stage.out}: {result.quant}, {result.size_bytes / 1e6:.1f} MB in {result.seconds:.1f} s")
    _say(f"sha256 {result.sha256}")
    _say(said["modelfile"] or f"no Modelfile: {said['modelfile_problem']}")
    return 0


def _check(options: argparse.Namespace) -> int:
    """Verify a file that is there, and leave it as it is."""
    if not options.check.is_file():
        raise BrokenFileError(f"{options.check}: no such file; give the .gguf to verify")
    template = end_token = None
    if options.adapter or options.chat_template or template_of(options.base):
        chat = _trained(options)
        template, end_token = chat.template, end_token_of(options.base, chat)
    found = _verified(options.check, options, template, None, options.eos_token or end_token)
    if options.json:
        _say(json.dumps({"path": str(options.check), "ok": found.ok, "verification": _checks(found)}, indent=2))
    else:
        _say(found.summary())
    return 0 if found.ok else VerificationFailed.exit_code


def _trained(options: argparse.Namespace) -> TrainedChat:
    """The chat format that was trained; which one that is, is told."""
    Checkpoint.open(options.base)
    if options.adapter:
        Adapter.load(options.adapter)
    given = read_template(options.chat_template) if options.chat_template else None
    chat = trained_chat(options.base, options.adapter or (), given)
    if not options.quiet:
        base_alone = [] if options.adapter else ["no --adapter: this is the base alone"]
        print(*base_alone, chat.taken, *chat.notes, sep="\n", file=sys.stderr)
    return chat


def _verified(
    path: Path, options: argparse.Namespace, template: str | None, sha256: str | None, end_token: str | None
) -> Verification:
    return verify(
        path,
        base=options.base,
        adapter=options.adapter or None,
        rounding=options.rounding,
        imatrix=options.imatrix,
        sha256=sha256,
        chat_template=template,
        end_token=end_token,
    )


def _checks(found: Verification) -> dict[str, Any]:
    return {"ok": found.ok, "checks": [asdict(check) for check in found.checks]}


def _require(found: Verification, stage: Stage, said: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Keep a file that failed under another name, and end."""
    if found.ok:
        return
    earlier = stage.out.is_file()
    kept = stage.reject(found)
    if options.json:
        _say(json.dumps({**said, "path": str(kept), "modelfile": None}, indent=2))
    failed = "; ".join(f"{check.name}: {check.detail}" for check in found.failed)
    stays = f"; {stage.out} is the earlier one, as it was" if earlier else ""
    raise VerificationFailed(f"{kept}: does not pass its verification ({failed}); it is kept for a look{stays}")


def _report(stage: Stage, result: ExportResult, chat: TrainedChat, options: argparse.Namespace) -> dict[str, Any]:
    """What was written, and a Modelfile beside it where the template can be expressed in Go's."""
    said: dict[str, Any] = {
        "path": str(stage.out),
        "ok": None,
        "quant": result.quant,
        "sha256": result.sha256,
        "size_bytes": result.size_bytes,
        "seconds": round(result.seconds, 2),
        "quantizers": dict(result.quantizers),
        "eos_token": result.eos_token,
        "chat_template": chat.taken.removeprefix("chat template: "),
        "notes": list(chat.notes),
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


def _context(text: str) -> int:
    """A context length in tokens."""
    if not text.isdecimal() or int(text) < _MIN_CONTEXT:
        raise argparse.ArgumentTypeError(f"a number of tokens, {_MIN_CONTEXT} or more (got {text!r})")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gguf-export",
        usage="gguf-export BASE OUT [--adapter FOLDER] [options]\n"
        "       gguf-export --check FILE BASE [--adapter FOLDER]",
        description="Merge LoRA adapters into a base model and write a verified GGUF, or verify one that is there.",
    )
    parser.add_argument("base", type=Path, metavar="BASE", help="model folder in the hub's layout")
    parser.add_argument("out", type=Path, metavar="OUT", nargs="?", help="the .gguf to write")
    parser.add_argument(
        "--adapter",
        type=Path,
        action="append",
        metavar="FOLDER",
        help="PEFT adapter folder; several in the order of their training (none: the base alone)",
    )
    parser.add_argument("--quant", default="Q4_K_M", help=f"{', '.join(QUANT_TYPES)} (Q4_K_M)")
    parser.add_argument("--rounding", default="bf16", help="bf16, f16 or f32: of merged weights (bf16)")
    parser.add_argument("--imatrix", type=Path, metavar="FILE", help="importance matrix of llama.cpp's llama-imatrix")
    parser.add_argument(
        "--chat-template",
        type=Path,
        metavar="FILE",
        help="Jinja template that was trained (the adapter's own where it brings one, else the base's)",
    )
    parser.add_argument("--eos-token", metavar="TEXT", help="end token that was trained (the template's)")
    parser.add_argument("--n-ctx", type=_context, default=4096, metavar="N", help="context in the Modelfile (4096)")
    parser.add_argument("--no-verify", dest="verify", action="store_false", help="do not check the file")
    parser.add_argument("--check", type=Path, metavar="FILE", help="verify this file against BASE; write nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and no notes on stderr")
    return parser


if __name__ == "__main__":
    sys.exit(main())
