"""What passes from one step to the next: tasks, answers, and what answers are worth."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowvram_ft.data.row import build_prompt


@dataclasses.dataclass(frozen=True)
class PreferenceTask:
    """Code without tests, to write some for.

    Attributes:
        id: unique among the tasks of a round, such as ``"standard_library/textwrap.shorten"``.
        group: what stays on one side of a split; tasks of nearly the same code have one.
        source: ``rows``, ``standard_library``, ``installed`` or ``repository``.
        code: the code under test; parts of several modules carry a ``# module: pkg.mod`` comment before each.
        module: name that the code is imported by.
        root: folder that the code's own imports are found in, for a repository; None elsewhere.
        meta: where it is from: file, line, version, licence.
    """

    id: str
    group: str
    source: str
    code: str
    module: str
    root: Path | None = None
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The user message."""
        return build_prompt(self.code)

    @property
    def digest(self) -> str:
        """A hash of what an answer and its worth depend on."""
        parts = [self.code, self.module, None if self.root is None else str(self.root)]
        return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Fields alone, as JSON types."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "root": None if self.root is None else str(self.root), "meta": dict(self.meta)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PreferenceTask:
        """The task that `to_json` turned into ``data``."""
        return cls(**{**data, "root": None if data["root"] is None else Path(data["root"])})


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model wrote for a task.

    Attributes:
        key: hash of the task, the model's weights and how tokens were chosen, with the number of the answer.
        task: id of the task.
        sample: number of the answer among those to the same task.
        text: the whole answer, without the end token.
        n_tokens: tokens of the answer, the end token included.
        finish: ``stop`` where the model ended by itself, ``length`` where it was cut off.
        seconds: wall time.
    """

    key: str
    task: str
    sample: int
    text: str
    n_tokens: int
    finish: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Fields alone, as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Answer:
        """The answer that `to_json` turned into ``data``."""
        return cls(**data)
