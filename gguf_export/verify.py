"""Proof that a GGUF is what was trained: by itself, and against what base + adapter answer.

Everything that runs llama.cpp runs in a child process, so a crash of the library is a failed check.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from .child import ChildResult, require_llama_cpp, run_child
from .errors import BrokenFileError, UnsupportedError
from .quantize import QUANT_TYPES
from .reading import GgufFile
from .reference import Reference
from .templates import Message, render, text_after_answer
from .tokenizer import CONTROL, USER_DEFINED

DEFAULT_MESSAGES: Final = (
    {
        "role": "user",
        "content": "Write pytest tests for this function:\n\ndef add(a, b):\n    return a + b\n",
    },
)
DEFAULT_N_PREDICT: Final = 64

PROBE_STRINGS: Final = (
    "def f(x):\n    return x  # two spaces\n",
    "class A:\n\tdef __init__(self):\n\t\tself.n = 0\n\n\n",
    "assert f'{a!r}' == \"it's 3.14, 100 or 1_000_000\"\r\n",
    "    leading and trailing spaces   ",
    "naïve café, Grüße, Ελληνικά, русский, 日本語, 한국어",
    "🚀 ✅ 3 33 333 3333 !!! ... ->> == != ''''",
)
"""Texts whose token ids llama.cpp must find as the tokenizer does."""


@dataclass(frozen=True)
class Threshold:
    """How far a type may be from the reference.

    Attributes:
        max_kl: mean KL divergence, in nats.
        min_top1_agreement: share of positions with the same most likely token.
    """

    max_kl: float
    min_top1_agreement: float


THRESHOLDS: Final[Mapping[str, Threshold]] = MappingProxyType(
    {
        "F32": Threshold(0.001, 0.98),
        "F16": Threshold(0.002, 0.98),
        "BF16": Threshold(0.005, 0.97),
        "Q8_0": Threshold(0.01, 0.97),
        "Q6_K": Threshold(0.03, 0.95),
        "Q5_K_M": Threshold(0.08, 0.90),
        "Q4_K_M": Threshold(0.20, 0.85),
        "Q4_K_S": Threshold(0.25, 0.82),
    }
)
"""Limits by type, wide enough for a model of 135M parameters, which loses most to 4 bits."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what was checked.
        ok: whether it passed.
        detail: what was found, in one line.
    """

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Verification:
    """What was checked, and how.

    Attributes:
        checks: in the order in which they ran.
        kind: ``"reference"`` where the file was held against what base + adapter answer.
        scores: numbers of the reference: ``kl``, ``top1_agreement``, ``perplexity``, ….
    """

    checks: tuple[Check, ...]
    kind: Literal["standalone", "reference"]
    scores: Mapping[str, float]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    def summary(self) -> str:
        """A line for each check."""
        lines = [f"{'ok' if check.ok else 'FAILED':6} {check.name}: {check.detail}" for check in self.checks]
        return "\n".join([f"verified ({self.kind}):", *lines])


def verify(
    gguf: Path,
    reference: Reference | None = None,
    *,
    tokenizer_folder: Path | None = None,
    messages: Sequence[Message] = DEFAULT_MESSAGES,
    n_predict: int = DEFAULT_N_PREDICT,
    require_stop: bool = False,
    threshold: Threshold | None = None,
) -> Verification:
    """Check a GGUF.

    Args:
        gguf: the file.
        reference: what base + adapter answer; without it the file is checked by itself.
        tokenizer_folder: a folder with the ``tokenizer.json`` that the file was made from.
        messages: a conversation to answer.
        n_predict: how many tokens the answer may have.
        require_stop: fail where the answer does not end by itself within ``n_predict``; otherwise that is
            only reported, since a model that was not trained to may go on.
        threshold: limits against the reference; by the file's type when ``None``.

    Returns:
        Every check that ran. A damaged file gives one failed check, not an exception.

    Raises:
        MissingLibraryError: llama-cpp-python is not installed.
    """
    require_llama_cpp("verification")
    kind: Literal["standalone", "reference"] = "standalone" if reference is None else "reference"
    try:
        file = GgufFile(gguf)
    except BrokenFileError as error:
        return Verification((Check("structure", False, str(error)),), kind, MappingProxyType({}))
    name = next((q.name for q in QUANT_TYPES.values() if q.ftype == file.get("general.file_type")), "unknown")
    checks = [Check("structure", True, f"{len(file.tensors)} tensors, {name}"), _check_scales(file)]
    checks.append(_check_end_token(file, reference))
    prompt, template_check = _render(file, messages)
    checks.append(template_check)
    if prompt:
        stages, more = _run_llama(file, reference, tokenizer_folder, prompt, n_predict)
        checks += more
        checks += _check_answer(stages, n_predict, require_stop)
        checks += _check_scores(stages, threshold or THRESHOLDS.get(name, THRESHOLDS["Q4_K_S"]))
        scores = {k: float(v) for k, v in stages.stages.get("reference", {}).items() if k != "stage"}
    else:
        scores = {}
    return Verification(tuple(checks), kind, MappingProxyType(scores))


def reject(path: Path, verification: Verification) -> Path:
    """Rename a file that failed to ``NAME.rejected`` and write the reasons to ``NAME.rejected.txt``.

    Returns:
        The new name.
    """
    rejected = path.with_name(f"{path.name}.rejected")
    reasons = path.with_name(f"{path.name}.rejected.txt")
    os.replace(path, rejected)
    reasons.write_text(verification.summary() + "\n", encoding="utf-8")
    return rejected


def _check_scales(file: GgufFile) -> Check:
    broken = file.tensors_not_finite()
    if broken:
        return Check("values", False, f"{len(broken)} tensors hold values that are not finite: {broken[0]}")
    return Check("values", True, "every value and every block's scale is finite")


def _check_end_token(file: GgufFile, reference: Reference | None) -> Check:
    """Check that the file stops where training did."""
    name = "end token"
    index = file.get("tokenizer.ggml.eos_token_id")
    if index is None or not 0 <= index < file.n_tokens:
        return Check(name, False, f"id {index} is not in the vocabulary")
    text = file.token(index)
    if reference is not None:
        ends = {int(row.token_ids[-1]) for row in reference.sequences}
        if ends != {index}:
            trained = ", ".join(file.token(end) for end in sorted(ends) if end < file.n_tokens)
            return Check(name, False, f"the file ends answers with {text}, training with {trained}")
    template = file.get("tokenizer.chat_template")
    if template:
        try:
            after = text_after_answer(template, bos_token=file.special_text("bos"), eos_token=text)
        except UnsupportedError:
            after = text
        types = file.get("tokenizer.ggml.token_type", [])
        written = [
            special
            for special in (file.token(i) for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED))
            if special in after
        ]
        if written and text not in written:
            return Check(name, False, f"the file ends answers with {text}, its template with {written[0]}")
    return Check(name, True, f"{text} (id {index})")


def _render(file: GgufFile, messages: Sequence[Message]) -> tuple[str, Check]:
    template = file.get("tokenizer.chat_template")
    if not template:
        return "", Check("chat template", False, "there is none; export with the template that was trained")
    try:
        prompt = render(template, messages, bos_token=file.special_text("bos"), eos_token=file.special_text("eos"))
    except UnsupportedError as error:
        return "", Check("chat template", False, str(error))
    return prompt, Check("chat template", True, f"renders a prompt of {len(prompt)} characters")


def _run_llama(
    file: GgufFile, reference: Reference | None, tokenizer_folder: Path | None, prompt: str, n_predict: int
) -> tuple[ChildResult, list[Check]]:
    """Run the child; check that it lives, and its token ids."""
    texts, expected, origin = _expected_ids(file, reference, tokenizer_folder, prompt)
    with tempfile.TemporaryDirectory() as folder:
        request: dict[str, Any] = {
            "task": "check",
            "model": str(file.path),
            "texts": texts,
            "prompt": prompt,
            "n_predict": n_predict,
        }
        if reference is not None and reference.sequences:
            request["reference"] = str(Path(folder) / "reference.npz")
            reference.save(Path(request["reference"]))
        result = run_child(request)
    checks = []
    if "load" in result.stages:
        checks.append(Check("llama.cpp", True, "loads the file"))
    if result.problem is not None:
        checks.append(Check("llama.cpp", False, f"failed in step {result.stage}: {result.problem}"))
    found = result.stages.get("tokenize", {}).get("ids")
    if found is not None and expected:
        wrong = [text for text, ours, theirs in zip(texts, expected, found, strict=True) if ours != theirs]
        detail = (
            f"llama.cpp's token ids differ from {origin}, for example of {wrong[0][:60]!r}"
            if wrong
            else (f"{len(texts)} texts give the token ids of {origin}")
        )
        checks.append(Check("token ids", not wrong, detail))
    return result, checks


def _expected_ids(
    file: GgufFile, reference: Reference | None, tokenizer_folder: Path | None, prompt: str
) -> tuple[list[str], list[list[int]], str]:
    """Texts, the token ids that they must have, and where these come from."""
    texts: list[str] = []
    expected: list[list[int]] = []
    origins = []
    if tokenizer_folder is not None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(Path(tokenizer_folder) / "tokenizer.json"))
        texts += [*PROBE_STRINGS, prompt]
        expected += [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        origins.append("its tokenizer.json")
    template = file.get("tokenizer.chat_template")
    rows = reference.sequences if reference is not None else ()
    for row in rows:
        if row.messages is not None:
            bos, eos = file.special_text("bos"), file.special_text("eos")
            texts.append(render(template, row.messages, bos_token=bos, eos_token=eos))
            expected.append([int(token) for token in row.token_ids[: row.completion_start]])
    if any(row.messages is not None for row in rows):
        origins.append("the trained prompts")
    return texts, expected, " and ".join(origins)


def _check_answer(result: ChildResult, n_predict: int, require_stop: bool) -> list[Check]:
    answer = result.stages.get("answer")
    if answer is None:
        return []
    if answer["end"] >= 0:
        return [Check("answer", True, f"ends by itself after {answer['n_tokens']} tokens")]
    detail = f"no end token within {n_predict} tokens"
    return [Check("answer", not require_stop, detail if require_stop else f"{detail} (not required)")]


def _check_scores(result: ChildResult, limit: Threshold) -> list[Check]:
    scores = result.stages.get("reference")
    if scores is None:
        return []
    kl, agreement = scores["kl"], scores["top1_agreement"]
    return [
        Check(
            "KL divergence",
            kl <= limit.max_kl,
            f"{kl:.5f} nats a token over {scores['n_tokens']} tokens (limit {limit.max_kl})",
        ),
        Check(
            "top-1 agreement",
            agreement >= limit.min_top1_agreement,
            f"{agreement:.4f} (limit {limit.min_top1_agreement})",
        ),
    ]
