"""How far a download from the hub is, through the bar that its client lets others make."""

from __future__ import annotations

import os
from typing import Any

from lowvram_ft.progress.memory import GIB
from lowvram_ft.progress.progress import Progress


def bar_class(progress: Progress, title: str) -> type[Any]:
    """A class in place of ``tqdm.auto.tqdm``, for ``snapshot_download(tqdm_class=…)``: it draws nothing and reports.

    Args:
        progress: where a person reads it.
        title: what is downloaded.
    """
    from tqdm import tqdm

    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  as long as the bars, which outlive this call

    class Bar(tqdm):  # type: ignore[misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # the hub's own classes take one
            super().__init__(*args, **{**kwargs, "file": nowhere, "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            """Report bytes; the sum grows while files are found, so that it is never called done."""
            shown: bool | None = super().update(n)
            if self.unit == "B" and self.total and str(self.desc).startswith("Download") and self.n < self.total:
                progress.step(title, round(self.n / GIB, 2), round(self.total / GIB + 0.01, 2), "GiB")
            return shown

    return Bar
