"""The program of the child process: ``python -m gguf_export._child``, see ``child.py``."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any, TextIO

_LOG_LINES: list[str] = []


def main() -> int:
    """Read a request, do it, report each stage on standard output."""
    _die_with_parent()
    request = json.loads(sys.stdin.read())
    # The library may print on standard output: keep it for the report, and send the rest to standard error.
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        if request["task"] == "quantize":
            _quantize(request, report)
        else:
            from .proof._child_checks import run_checks

            run_checks(request, lambda **entry: _say(report, **entry), silence_llama())
    except Exception as error:
        reasons = [*filter(None, _LOG_LINES[:2]), str(error) or repr(error)]
        _say(report, stage="error", message="; ".join(reasons)[:400].replace("\n", " "))
        return 1
    _say(report, stage="done")
    return 0


def silence_llama() -> Any:
    """Import llama_cpp with its log kept in memory (errors only) instead of printed."""
    import llama_cpp

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def keep(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        if level == 4:  # GGML_LOG_LEVEL_ERROR
            _LOG_LINES.append(text.decode(errors="replace").strip())

    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    # The library calls it as long as it lives.
    llama_cpp._gguf_export_log_callback = keep
    return llama_cpp


def _quantize(request: dict[str, Any], report: TextIO) -> None:
    llama_cpp = silence_llama()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = request["ftype"]
    params.nthread = request["n_threads"]
    _say(report, begin="quantize")
    code = llama_cpp.llama_model_quantize(request["source"].encode(), request["out"].encode(), ctypes.byref(params))
    if code != 0:
        raise RuntimeError(f"llama_model_quantize returned {code}")
    _say(report, stage="quantize")


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent is killed, so that nothing goes on writing."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _say(report: TextIO, **entry: Any) -> None:
    report.write(json.dumps(entry) + "\n")
    report.flush()


if __name__ == "__main__":
    sys.exit(main())
