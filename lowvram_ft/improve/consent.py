"""Nothing is learnt from a user's code before the user has agreed, once."""

from __future__ import annotations

import time
from collections.abc import Callable

from lowvram_ft.errors import UsageError
from lowvram_ft.improve.home import Home
from lowvram_ft.run_dir import write_json

QUESTION = (
    "improve trains a model on your own code: on what testgen kept in {root}. Everything stays on this machine; "
    "improve --list shows what is there, improve --forget removes it."
)


def given(home: Home) -> bool:
    """Whether the user has agreed."""
    return home.consent.is_file()


def require(home: Home, *, yes: bool, ask: Callable[[str], bool] | None) -> bool:
    """Have the user agree, unless that has happened.

    Args:
        home: where it is kept.
        yes: the user has agreed on the command line.
        ask: shows a text and returns whether the user agrees; None where nobody can be asked.

    Returns:
        Whether the user agrees. Where not, nothing is written.

    Raises:
        UsageError: nobody can be asked.
    """
    if given(home):
        return True
    text = QUESTION.format(root=home.root)
    if not yes:
        if ask is None:
            raise UsageError(f"improve: needs your consent once ({text}); give --yes, or run it in a terminal")
        if not ask(text):
            return False
    with home.alone():
        write_json(home.consent, {"agreed": True, "to": text, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
    return True
