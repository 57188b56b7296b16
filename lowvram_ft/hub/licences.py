"""Under which licence a fine-tuned model may be passed on: the stricter of what its base and its data ask for.

An overview for a model card, not legal advice (see docs/licences.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

PERMISSIVE = frozenset({"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "psf-2.0", "python-2.0", "cc0-1.0"})
"""Licences, by the hub's ids, that ask for no more than that their notice is kept."""
_NON_COMMERCIAL = re.compile(r"(^|-)nc(-|$)|non-?commercial|research", re.IGNORECASE)


@dataclass(frozen=True)
class Licence:
    """A licence as the hub writes it.

    Attributes:
        id: of the hub's list; ``other`` for one that is not on it, ``unknown`` where nobody has said.
        title: as people call it.
        name: ``license_name``, where ``id`` is ``other``.
        link: ``license_link``, where ``id`` is ``other``.
    """

    id: str
    title: str
    name: str | None = None
    link: str | None = None

    @property
    def known(self) -> bool:
        """Whether anybody has said which it is."""
        return self.id != "unknown"

    @property
    def permissive(self) -> bool:
        """Whether it asks for no more than that its notice is kept."""
        return self.id in PERMISSIVE

    @property
    def commercial(self) -> bool | None:
        """Whether it allows commercial use; None where that is not known."""
        if not self.known:
            return None
        return not _NON_COMMERCIAL.search(f"{self.id} {self.name or ''}".replace(" ", "-"))


UNKNOWN = Licence("unknown", "not known")
_NAMED = {
    "DeepSeek licence (other)": Licence(
        "other",
        "DeepSeek licence",
        "deepseek-license",
        "https://github.com/deepseek-ai/deepseek-coder/blob/main/LICENSE-MODEL",
    ),
    "Qwen research licence (non-commercial)": Licence(
        "other",
        "Qwen research licence",
        "qwen-research",
        "https://huggingface.co/Qwen/Qwen2.5-Coder-3B-Instruct/blob/main/LICENSE",
    ),
}
"""What the kit's facts call a licence that is not on the hub's list."""


def licence_of(text: str | None, link: str | None = None) -> Licence:
    """A licence by the words of the kit's facts, or of a model's page: ``Apache-2.0``, ``cc-by-nc-4.0``.

    Args:
        text: the words; None where there are none.
        link: where it is written down, for one that is not on the hub's list.
    """
    if not text or text.lower() == "unknown":
        return UNKNOWN
    if text in _NAMED:
        return _NAMED[text]
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.\-]*", text):
        return Licence(text.lower(), text) if link is None else Licence("other", text, text.lower(), link)
    return UNKNOWN


def stricter(licences: Sequence[Licence]) -> Licence:
    """What a model stands under whose parts stand under several licences.

    Permissive parts do not change what another part asks for. Parts that ask for different things are named together:
    all of them hold. Where a part is not known, neither is the whole, unless another one forbids commercial use, which
    holds whatever the unknown one says.

    Args:
        licences: of the base, and of everything that it was trained on.
    """
    asking = list(dict.fromkeys(licence for licence in licences if licence.known and not licence.permissive))
    if any(not licence.known for licence in licences) and not any(each.commercial is False for each in asking):
        return UNKNOWN
    if not asking:
        return licences[0] if licences else UNKNOWN
    if len(asking) == 1:
        return asking[0]
    names = [licence.name or licence.id for licence in asking]
    titles = " and ".join(licence.title for licence in asking)
    return Licence("other", titles, "-and-".join(names), next((each.link for each in asking if each.link), "README.md"))
