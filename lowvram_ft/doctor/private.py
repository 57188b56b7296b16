"""What a bug report must not hold: names of people and machines, tokens, what addresses reveal."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lowvram_ft.doctor.check import Check

_HOMES = re.compile(r"(?P<above>/home/|/Users/|/media/|/run/media/|[A-Za-z]:[\\/]Users[\\/])(?P<name>[^\\/\s'\":;,]+)")
_TOKENS = re.compile(r"\b(?:hf|sk|gh[opsu]|glpat|xox[abp])[-_][A-Za-z0-9_-]{8,}")
_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")
_SECRET = re.compile(r"(?i)token|secret|password|api_?key")


@dataclass(frozen=True)
class Private:
    """What is taken out of a report on this machine.

    Attributes:
        home: the user's folder, which is shown as ``~``.
        user: shown as ``USER`` where it stands alone; empty for none.
        hosts: names of this machine, shown as ``HOST``.
        secrets: values of variables that hold one.
    """

    home: str
    user: str = ""
    hosts: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()

    @classmethod
    def of_machine(cls, environ: Mapping[str, str] = os.environ) -> Private:
        """This machine's."""
        name = socket.gethostname()
        hosts = dict.fromkeys(part for part in (name, name.partition(".")[0]) if part and part != "localhost")
        home = str(Path.home())
        user = environ.get("USER") or environ.get("USERNAME") or Path(home).name
        secrets = tuple(value for key, value in environ.items() if _SECRET.search(key) and len(value) >= 8)
        return cls(home, "" if user == "root" else user, tuple(hosts), secrets)

    def clean(self, text: str) -> str:
        """A text without any of it."""
        for secret in self.secrets:
            text = text.replace(secret, "TOKEN")
        text = _LOGIN.sub("", _TOKENS.sub("TOKEN", text))
        if len(self.home) > 1:
            text = re.sub(rf"{re.escape(self.home)}(?![\w.-])", "~", text)
        text = _HOMES.sub(lambda match: f"{match['above']}USER", text)
        for host in self.hosts:
            text = _word(host).sub("HOST", text)
        return _word(self.user).sub("USER", text) if self.user else text

    def check(self, found: Check) -> Check:
        """A line without any of it."""
        mend = None if found.mend is None else self.clean(found.mend)
        return replace(found, found=self.clean(found.found), mend=mend)


def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
