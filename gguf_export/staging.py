"""A place beside the output where a GGUF lies until it has passed its verification.

What is there under the final name, of an earlier export most often, stays until the new file is known to be right; what
fails, or is broken off, takes nothing away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import ExportError
from .files import cleaned_temporaries, prepare_output, sync, temporary_path
from .proof.verification import Verification
from .proof.verify import reject, rejected_names

_BESIDE: Final = (".reference.npz", ".verification.json", ".Modelfile")
"""What may lie beside a GGUF under its name, in the order in which it is put there: the Modelfile comes last."""


@dataclass(frozen=True)
class Stage:
    """A folder for one output.

    Attributes:
        out: the GGUF as it will be called.
        path: where to write it, under the same name; what belongs beside it goes beside this one.
    """

    out: Path
    path: Path

    def publish(self) -> None:
        """Give everything its place. What lay beside the earlier file and was not made anew goes with that file."""
        for written in self.path.parent.iterdir():
            sync(written)
        os.replace(self.path, self.out)
        for suffix in _BESIDE:
            written, place = self.path.with_suffix(suffix), self.out.with_suffix(suffix)
            if written.is_file():
                os.replace(written, place)
            else:
                place.unlink(missing_ok=True)
        for stale in rejected_names(self.out):
            stale.unlink(missing_ok=True)
        sync(self.out.parent)

    def reject(self, verification: Verification) -> Path:
        """Keep the file as ``NAME.rejected`` with the reasons in ``NAME.rejected.txt``; an earlier one stays.

        Returns:
            The new name.
        """
        return reject(self.path, verification, self.out)


@contextmanager
def staged(out: Path) -> Iterator[Stage]:
    """Make the folder, and remove it whatever happens inside (Ctrl-C included), with what it needed above it.

    Raises:
        ExportError: ``out`` is a folder, or its parent cannot be made or written to.
    """
    out = Path(out)
    made = [parent for parent in out.absolute().parents if not os.path.exists(parent)]
    try:
        prepare_output(out)
        with cleaned_temporaries(out):
            folder = temporary_path(out, "stage")
            try:
                folder.mkdir()
            except OSError as error:
                raise ExportError(
                    f"{out.parent}: cannot be written to ({error.strerror}); choose another output"
                ) from error
            yield Stage(out, folder / out.name)
    finally:
        for parent in made:  # the lowest first
            if not os.path.isdir(parent) or any(parent.iterdir()):
                break
            parent.rmdir()
