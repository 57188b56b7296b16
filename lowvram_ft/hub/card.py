"""The model card: what it is, how to run it, what it was trained on, how well it does, its limits, its licence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lowvram_ft import __version__
from lowvram_ft.errors import LowvramError
from lowvram_ft.hub.artifacts import Artifact
from lowvram_ft.hub.licences import Licence
from lowvram_ft.hub.metadata import is_trained, metadata
from lowvram_ft.hub.names import local_path_in
from lowvram_ft.hub.training_facts import evaluation, table, training
from lowvram_ft.hub.usage import usage

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

KIT = "https://github.com/lowvram-ft/lowvram-ft"
_MARK = re.compile(r"\n<!-- lowvram-ft push: ([0-9a-f]{16}) -->\s*$")


@dataclass(frozen=True)
class Contents:
    """What a repository holds after a push.

    Attributes:
        repo_id: the repository.
        has_adapter: whether it has PEFT's files.
        ggufs: quantization to file name.
        loras: adapters alone as GGUFs.
        sums: file name to size in bytes and SHA-256, of what is sent now.
        private: whether others see it.
        adapter_repo: the repository of the adapter that a GGUF was made of; None where it is not on the hub.
    """

    repo_id: str
    has_adapter: bool
    ggufs: Mapping[str, str]
    loras: Sequence[str]
    sums: Mapping[str, tuple[int, str]]
    private: bool
    adapter_repo: str | None = None


def model_card(artifact: Artifact, contents: Contents, licence: Licence, parts: Sequence[tuple[str, Licence]]) -> str:
    """The card's text.

    Args:
        artifact: what is sent.
        contents: what the repository holds then.
        licence: of the result.
        parts: what it was made of, each with its licence.

    Raises:
        LowvramError: it would name a path of this machine. A defect of the kit: nothing is sent then.
    """
    from huggingface_hub import ModelCard

    head = metadata(
        artifact,
        contents.repo_id,
        licence,
        contents.has_adapter,
        bool(contents.ggufs or contents.loras),
        contents.adapter_repo,
    )
    run = artifact.run
    lines = [f"# {contents.repo_id.partition('/')[2]}", "", *_summary(artifact, contents), *_files(contents)]
    lines += usage(
        contents.repo_id,
        artifact.base,
        (artifact.adapter or {}) if contents.has_adapter else None,
        contents.ggufs,
        contents.loras,
        writes_tests=run is not None,
        private=contents.private,
    )
    if run is not None:
        lines += training(run) + evaluation(run, artifact)
    else:
        lines += ["## What it was trained on", "", "Not known to the program that wrote this card.", ""]
        lines += ["## How well it does", "", "It has not been evaluated. Nothing is known of how well it does.", ""]
        lines += _verified(artifact)
    lines += _limits(artifact) + _licence(licence, parts) + _repeat(artifact)
    text = "\n".join(lines).rstrip() + "\n"
    found = next((path for line in f"{text}\n{head}".splitlines() if (path := local_path_in(line))), None)
    if found is not None:
        raise LowvramError(
            f"model card: would name a path of this machine ({found}); nothing was sent, please report it"
        )
    card: ModelCard = ModelCard(f"---\n{head}\n---\n\n{text}")
    return signed(str(card))


def signed(text: str) -> str:
    """A card with the mark by which it is known again, and known not to have been edited since."""
    body = _MARK.sub("", text).rstrip() + "\n"
    return f"{body}\n<!-- lowvram-ft push: {_digest(body)} -->\n"


def is_ours(text: str) -> bool:
    """Whether a card was written by this module."""
    return _MARK.search(text) is not None


def is_edited(text: str) -> bool:
    """Whether a card that this module has written was changed since."""
    found = _MARK.search(text)
    return found is not None and found[1] != _digest(_MARK.sub("", text).rstrip() + "\n")


def is_empty(text: str) -> bool:
    """Whether a card has no text of its own, as those that the hub's web page makes."""
    body = re.sub(r"(?s)\A---\n.*?\n---\s*", "", text.replace("\r\n", "\n"))
    return not body.strip()


def _digest(text: str) -> str:
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]


def _summary(artifact: Artifact, contents: Contents) -> list[str]:
    base = f"[{artifact.base}](https://huggingface.co/{artifact.base})"
    whole = f"a fine-tune of {base}" if is_trained(artifact) else f"a model made of {base}"
    what = []
    if contents.has_adapter:
        what.append(f"a LoRA adapter of {base}")
    if contents.ggufs:
        joined = "that adapter merged into its base" if contents.has_adapter else whole
        what.append(f"{joined}, as GGUF ({', '.join(contents.ggufs)})")
    if contents.loras and not what:
        what.append(f"a LoRA adapter of {base}, as GGUF")
    sentence = f"This is {', and '.join(what)}."
    if artifact.run is not None:
        sentence += (
            " It writes [pytest](https://pytest.org) tests for Python code: the prompt holds the code under test, the "
            "answer is the test file."
        )
    kit = artifact.run.versions.get("lowvram-ft", __version__) if artifact.run else None
    if kit is not None:
        sentence += f" Trained with [lowvram-ft]({KIT}) {kit}."
    return [sentence, ""]


def _files(contents: Contents) -> list[str]:
    rows = [
        (f"`{name}`", f"{size:,}", f"`{digest}`")
        for name, (size, digest) in contents.sums.items()
        if name.endswith((".gguf", ".safetensors"))
    ]
    return table(("file", "bytes", "SHA-256"), rows)


def _verified(artifact: Artifact) -> list[str]:
    if artifact.gguf is None or artifact.gguf.verified is None:
        return []
    return [f"`{artifact.gguf.name}` was verified by the program that exported it (lowvram-ft export).", ""]


def _limits(artifact: Artifact) -> list[str]:
    lines = ["## Limits", ""]
    run = artifact.run
    if run is None:
        return [*lines, f"Those of its base model, [{artifact.base}](https://huggingface.co/{artifact.base}).", ""]
    longest = max(stage.settings["train"]["max_length"] for stage in run.stages)
    lines += [
        f"- Python and pytest alone, one module at a time. It was trained on at most {longest:,} tokens, prompt and "
        "answer together; longer code is outside of what it has seen.",
        "- A test that passes shows what the code does, not what it should do: where the code is wrong, the test may "
        "hold it to that. Read what you keep.",
        "- What it writes is code from a model: run it in a sandbox.",
    ]
    if run.evaluation:
        lines.append("- The figures above are of these tasks and this quantization, and of nothing else.")
    if run.own_data:
        lines.append("- It was trained on files of its author's, and may repeat parts of them.")
    return [*lines, ""]


def _licence(licence: Licence, parts: Sequence[tuple[str, Licence]]) -> list[str]:
    lines = ["## Licence", "", *table(("part", "licence"), [(part, each.title) for part, each in parts])]
    commercial = {
        True: "Neither the base nor the data are known to forbid commercial use; their licences decide.",
        False: "**No commercial use**: a part that it was made of forbids it.",
        None: "Who may use it for what is not known, since the licence of a part is not.",
    }[licence.commercial]
    if licence.known:
        link = f" ([text]({licence.link}))" if licence.link and licence.link.startswith("http") else ""
        lines.append(f"As a whole, the stricter of them: **{licence.title}**{link}. {commercial}")
    else:
        lines.append(commercial)
    return [*lines, "", "This is an overview, not legal advice; the licence texts decide.", ""]


def _repeat(artifact: Artifact) -> list[str]:
    run = artifact.run
    if run is None:
        return []
    lines = ["## Repeat it", ""]
    if run.recipe_text is not None:
        lines += [
            "With this recipe as `recipe.toml`:",
            "",
            "```toml",
            *run.recipe_text.rstrip().splitlines(),
            "```",
            "",
        ]
    lines += ["```", run.command, "```", ""]
    if "PLACEHOLDER" in run.command + (run.recipe_text or ""):
        lines += ["`PLACEHOLDER` stands for a file, a folder or a data set of the author's.", ""]
    return lines
