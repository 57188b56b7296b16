"""The checks that llama.cpp answers: what is asked of the child process, and what its answers mean."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..child import ChildResult, run_child
from ..errors import UnsupportedError
from ..reading import GgufFile
from ..vocabulary.templates import render
from .reference import Reference
from .verification import Check, Threshold

PROBE_STRINGS: Final = (
    "def f(x):\n    return x  # two spaces\n",
    "class A:\n\tdef __init__(self):\n\t\tself.n = 0\n\n\n",
    "assert f'{a!r}' == \"it's 3.14, 100 or 1_000_000\"\r\n",
    "    leading and trailing spaces   ",
    "naïve café, Grüße, Ελληνικά, русский, 日本語, 한국어",
    "🚀 ✅ 3 33 333 3333 !!! ... ->> == != ''''",
    "\n\n\n\t \t  \n x\u00a0y\u200bz \u0301e\u0301 ﬁ Ⅷ ½ 𝒳",
    "import os, sys\nprint(os.path.join('a', *sys.argv[1:]), file=sys.stderr)  # noqa: T201\n",
)
"""Texts whose token ids llama.cpp must find as the tokenizer does, and turn back into the same bytes."""

_FEWEST_ENDS: Final = 10
"""How much less likely than before the end of an answer may become: four bits alone cost a factor of two."""


def run_llama(
    file: GgufFile, reference: Reference | None, tokenizer_folder: Path | None, prompt: str, n_predict: int
) -> tuple[ChildResult, list[Check]]:
    """Run the child; check that it lives, and its token ids.

    Args:
        file: the GGUF.
        reference: what base + adapter answer.
        tokenizer_folder: holds the ``tokenizer.json`` that token ids are held against.
        prompt: a rendered conversation to answer; ``""`` for none.
        n_predict: how many tokens the answer may have.
    """
    tokenizer = _tokenizer(tokenizer_folder)
    texts = [] if tokenizer is None else [_normalized(tokenizer, text) for text in (*PROBE_STRINGS, prompt) if text]
    expected = [] if tokenizer is None else [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    trained, trained_ids, problem = _trained_prompts(file, reference)
    trained = [_normalized(tokenizer, text) for text in trained]
    with tempfile.TemporaryDirectory() as folder:
        request: dict[str, Any] = {
            "task": "check",
            "model": str(file.path),
            "texts": [*texts, *trained],
            "probes": PROBE_STRINGS,
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
    checks += _round_trip(result)
    found = result.stages.get("tokenize", {}).get("ids")
    if found is not None and texts:
        checks.append(_same_ids("token ids", "its tokenizer.json", texts, expected, found[: len(texts)]))
    if found is not None and trained:
        check = _same_ids("prompts", "training", trained, trained_ids, found[len(texts) :])
        checks.append(check if check.ok else replace(check, detail=f"wrong template: {check.detail}"))
    if problem:
        checks.append(Check("prompts", False, f"wrong template: it refuses a trained prompt ({problem})"))
    return result, checks


def answer_check(result: ChildResult, n_predict: int, require_stop: bool) -> list[Check]:
    """Whether the answer to one conversation ends by itself."""
    answer = result.stages.get("answer")
    if answer is None:
        return []
    if answer["end"] >= 0:
        return [Check("answer", True, f"ends by itself after {answer['n_tokens']} tokens")]
    detail = f"no end token within {n_predict} tokens"
    return [Check("answer", not require_stop, detail if require_stop else f"{detail} (not required)")]


def score_checks(result: ChildResult, limit: Threshold) -> list[Check]:
    """What the reference says, against the limits of the type."""
    scores = result.stages.get("reference")
    if scores is None:
        return []
    kl, agreement = scores["kl"], scores["top1_agreement"]
    ratio = scores["perplexity"] / scores["reference_perplexity"]
    checks = [
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
        Check(
            "perplexity",
            ratio <= limit.max_perplexity_ratio,
            f"{scores['perplexity']:.4f}, base + adapter {scores['reference_perplexity']:.4f} "
            f"(at most {limit.max_perplexity_ratio} times)",
        ),
    ]
    return [*checks, _ends(scores), *_greedy(scores)]


def _round_trip(result: ChildResult) -> list[Check]:
    pieces = result.stages.get("tokenize", {}).get("pieces")
    if pieces is None:
        return []
    wrong = [text for text, hexed in zip(PROBE_STRINGS, pieces, strict=True) if bytes.fromhex(hexed) != text.encode()]
    if wrong:
        detail = f"{len(wrong)} texts change on the way to tokens and back, for example {wrong[0][:60]!r}"
        return [Check("round trip", False, detail)]
    return [Check("round trip", True, f"{len(pieces)} texts come back from their tokens unchanged")]


def _ends(scores: dict[str, Any]) -> Check:
    """The end token is about as likely where answers end as it is for base + adapter."""
    found, expected = math.exp(scores["end_logprob"]), math.exp(scores["reference_end_logprob"])
    detail = f"end with a probability of {found:.3f}, for base + adapter {expected:.3f} (at least a {_FEWEST_ENDS}th)"
    return Check("end of answers", found * _FEWEST_ENDS >= expected, detail)


def _greedy(scores: dict[str, Any]) -> list[Check]:
    if not scores["n_greedy"]:
        return []
    detail = (
        f"{scores['n_greedy_same']} of {scores['n_greedy']} are those of base + adapter from the first token to the "
        f"last; the same start is {scores['greedy_start']:.0%} of their length (not required)"
    )
    return [Check("greedy answers", True, detail)]


def _same_ids(name: str, origin: str, texts: list[str], expected: list[list[int]], found: list[list[int]]) -> Check:
    wrong = [text for text, ours, theirs in zip(texts, expected, found, strict=True) if ours != theirs]
    if wrong:
        detail = (
            f"{len(wrong)} of {len(texts)} texts do not have the token ids of {origin}, for example {wrong[0][:60]!r}"
        )
        return Check(name, False, detail)
    return Check(name, True, f"{len(texts)} texts have the token ids of {origin}")


def _tokenizer(folder: Path | None) -> Any:
    """The ``tokenizers.Tokenizer`` of a folder; None without one."""
    if folder is None:
        return None
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))


def _normalized(tokenizer: Any, text: str) -> str:
    """The text after its tokenizer's normalizer: NFC for Qwen, nothing for others that are exported.

    llama.cpp has no normalizer, in any file: an accent that is a character of its own stays one there. What is to be
    compared is the vocabulary, so both get the same text.
    """
    if tokenizer is None or tokenizer.normalizer is None:
        return text
    return str(tokenizer.normalizer.normalize_str(text))


def _trained_prompts(file: GgufFile, reference: Reference | None) -> tuple[list[str], list[list[int]], str]:
    """The reference's prompts as the file's template writes them, their token ids in training, and what failed."""
    template = file.get("tokenizer.chat_template")
    rows = reference.sequences if reference is not None and template else ()
    bos, eos = file.special_text("bos"), file.special_text("eos")
    texts, ids = [], []
    for row in rows:
        if row.messages is not None:
            try:
                texts.append(render(template, row.messages, bos_token=bos, eos_token=eos))
            except UnsupportedError as error:
                return [], [], str(error)
            ids.append([int(token) for token in row.token_ids[: row.completion_start]])
    return texts, ids, ""
