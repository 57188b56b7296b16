"""The child process that answers for an adapter; `lowvram_ft.inference.adapter` starts it and talks to it."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from lowvram_ft.errors import LowvramError
from lowvram_ft.inference.adapter import ERRORS
from lowvram_ft.inference.protocol import Sampling


def main() -> int:
    """Load what the first line names, then answer a line with a line until there is none.

    Returns:
        The exit code.
    """
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    questions: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, questions), daemon=True).start()
    try:
        answerer = _load(json.loads(questions.get()))
    except LowvramError as error:
        _reply(replies, _error(error))
        return 1
    _reply(replies, answerer.facts())
    while True:
        question = json.loads(questions.get())
        try:
            rows = answerer.answer(question["prompts"], Sampling(**question["sampling"]), question["n"])
            _reply(replies, {"answers": [[asdict(answer) for answer in row] for row in rows]})
        except LowvramError as error:
            _reply(replies, _error(error))


def _load(setup: dict[str, Any]) -> Any:
    from lowvram_ft.training.answering import Answerer

    return Answerer(Path(setup["folder"]), n_ctx=setup["n_ctx"], dtype=setup["dtype"])


def _read(source: IO[bytes], questions: queue.Queue[bytes]) -> None:
    """Hand lines on; the end of them is the end of who asked, and an answer on its way is for nobody."""
    for line in source:
        questions.put(line)
    os._exit(0)


def _error(error: LowvramError) -> dict[str, Any]:
    """An error as the parent raises it again: of the narrowest kind that it knows."""
    known = [kind.__name__ for kind in type(error).__mro__ if kind.__name__ in ERRORS]
    return {"error": [known[0] if known else "GenerationError", str(error)]}


def _reply(replies: IO[bytes], value: dict[str, Any]) -> None:
    replies.write(json.dumps(value).encode() + b"\n")
    replies.flush()


if __name__ == "__main__":
    sys.exit(main())
