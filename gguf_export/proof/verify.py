"""Proof that a GGUF is what was trained: by itself, against what base + adapter answer, and against their weights.

Everything that runs llama.cpp runs in a child process, so a crash of the library is a failed check.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ..checkpoints.weights import Rounding
from ..child import require_llama_cpp
from ..errors import BrokenFileError
from ..quantize import QUANT_TYPES
from ..reading import GgufFile
from ..vocabulary.templates import Message
from .checks import (
    check_blocks,
    check_checksum,
    check_end_token,
    check_structure,
    check_template,
    check_values,
    check_vocabulary,
)
from .diagnosis import weight_checks
from .llama_checks import answer_check, run_llama, score_checks
from .reference import Reference
from .settings_check import check_settings
from .verification import THRESHOLDS, Check, Kind, Threshold, Verification
from .weights_check import Origin, compare_weights

DEFAULT_MESSAGES: Final = (
    {
        "role": "user",
        "content": "Write pytest tests for this function:\n\ndef add(a, b):\n    return a + b\n",
    },
)
DEFAULT_N_PREDICT: Final = 64

Report = Callable[[str], None]


def verify(
    gguf: Path,
    reference: Reference | None = None,
    *,
    base: Path | None = None,
    adapter: Path | Sequence[Path] | None = None,
    rounding: Rounding = "bf16",
    imatrix: Path | None = None,
    sha256: str | None = None,
    tokenizer_folder: Path | None = None,
    chat_template: str | None = None,
    end_token: str | None = None,
    messages: Sequence[Message] = DEFAULT_MESSAGES,
    n_predict: int = DEFAULT_N_PREDICT,
    require_stop: bool = False,
    threshold: Threshold | None = None,
    progress: Report | None = None,
) -> Verification:
    """Check a GGUF.

    Alone, it is checked by itself: structure, values, blocks, vocabulary, template, and that llama.cpp loads it. With
    ``reference``, its answers are held against those of base + adapter. With ``base``, its settings and weights are
    held against theirs, which costs about what the export did, and a fault is named.

    Args:
        gguf: the file.
        reference: what base + adapter answer.
        base: the model folder that the file was made from; settings, vocabulary and weights are compared with it.
        adapter: the adapter's folder, or several; ``None`` where the file is the base alone. Without ``base`` it is
            not looked at.
        rounding: what merged weights were rounded to, as in the export.
        imatrix: the importance matrix that the export was given.
        sha256: the checksum that the export reported.
        tokenizer_folder: a folder with the ``tokenizer.json`` that the file was made from; ``base`` by default.
        chat_template: the Jinja template that was trained, where it is known: the file has to hold it.
        end_token: the end token that was trained, where it is known: a template that leaves it to the tokenizer's
            settings does not tell it.
        messages: a conversation to answer.
        n_predict: how many tokens the answer may have.
        require_stop: fail where the answer does not end by itself within ``n_predict``; otherwise that is
            only reported, since a model that was not trained to may go on.
        threshold: limits against the reference; by the file's type when ``None``.
        progress: called with what is checked next.

    Returns:
        Every check that ran. A damaged file gives one failed check, not an exception.

    Raises:
        MissingLibraryError: llama-cpp-python is not installed.
        BrokenFileError: ``base``, ``adapter`` or ``tokenizer_folder`` is missing or damaged.
        UnsupportedError: ``base`` or ``adapter`` is not covered, or they do not belong together.
    """
    require_llama_cpp("verification")
    say = progress or (lambda _: None)
    kind: Kind = "standalone" if reference is None else "reference"
    no_scores: MappingProxyType[str, float] = MappingProxyType({})
    try:
        file = GgufFile(gguf)
    except BrokenFileError as error:
        return Verification((Check("structure", False, str(error)),), kind, no_scores, Path(gguf).name)
    quant = next((q for q in QUANT_TYPES.values() if q.ftype == file.get("general.file_type")), None)
    name = quant.name if quant is not None else "unknown"
    subject = f"{file.path.name} ({name})"
    exact: Any = quant.rounding if quant is not None and quant.rounding else rounding
    origin = Origin.open(base, adapter, exact, imatrix) if base is not None else None
    folder = tokenizer_folder or base
    say("structure and blocks")
    checks = [check_checksum(file.path, sha256)] if sha256 is not None else []
    checks += [check_structure(file, name), check_values(file), check_blocks(file)]
    if folder is not None:
        checks.append(check_vocabulary(file, folder))
    checks.append(check_end_token(file, reference, end_token))
    prompt, template_checks = check_template(file, messages, chat_template)
    checks += template_checks
    if origin is not None:
        say("weights against base + adapter")
        checks.append(check_settings(file, origin.checkpoint))
        checks += weight_checks(file, origin, compare_weights(file, origin))
    say("llama.cpp")
    result, more = run_llama(file, reference, folder, prompt, n_predict)
    checks += more
    checks += answer_check(result, n_predict, require_stop)
    checks += score_checks(result, threshold or THRESHOLDS.get(name, THRESHOLDS["Q4_K_S"]))
    scores = {key: float(value) for key, value in result.stages.get("reference", {}).items() if key != "stage"}
    return Verification(tuple(checks), kind, MappingProxyType(scores), subject, origin is not None)


def reject(path: Path, verification: Verification, out: Path | None = None) -> Path:
    """Rename a file that failed to ``NAME.rejected`` and write the reasons to ``NAME.rejected.txt``.

    Args:
        path: the file.
        verification: why it failed.
        out: the name that it was to have, where that is another one.

    Returns:
        The new name.
    """
    rejected, reasons = rejected_names(out or path)
    os.replace(path, rejected)
    reasons.write_text(verification.summary() + "\n", encoding="utf-8")
    return rejected


def rejected_names(out: Path) -> tuple[Path, Path]:
    """What a file that failed is called, and the file with the reasons."""
    return out.with_name(f"{out.name}.rejected"), out.with_name(f"{out.name}.rejected.txt")
