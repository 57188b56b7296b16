"""Every error that an export can end with, and its exit code.

    ExportError                1   the export failed
    ├── UnsupportedError       2   a model, adapter, tokenizer or template that is not covered
    ├── BrokenFileError        2   an input file that is missing, truncated or damaged
    ├── DownloadError          3   a hub that cannot be reached, or does not give what was asked for
    ├── DiskSpaceError         3   not enough room for what will be written
    ├── HostMemoryError        3   not enough free memory to begin
    ├── MissingLibraryError    3   llama-cpp-python is not installed
    └── VerificationFailed     1   a file was written, but did not pass its verification

Messages follow one form: *where: what (what was got); what to do.* The command line adds where the docs explain it.
"""

from __future__ import annotations

EXPLAINED_AT = "https://github.com/lowvram-ft/lowvram-ft/blob/main/docs/errors.md"
"""The page that has a heading for each class, and so an anchor."""


class ExportError(Exception):
    """The export failed. The base of all errors of this package."""

    exit_code: int = 1


class UnsupportedError(ExportError):
    """A model, an adapter, a tokenizer or a template that is not covered."""

    exit_code = 2


class BrokenFileError(ExportError):
    """An input file that is missing, truncated or damaged."""

    exit_code = 2


class DownloadError(ExportError):
    """A hub that cannot be reached, or does not give what was asked for."""

    exit_code = 3


class DiskSpaceError(ExportError):
    """Not enough room for what will be written.

    Attributes:
        needed_bytes: what the step writes at most.
        free_bytes: what the file system has left.
    """

    exit_code = 3

    def __init__(self, message: str, needed_bytes: int, free_bytes: int) -> None:
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        super().__init__(message)


class HostMemoryError(ExportError):
    """Not enough free memory to begin.

    Attributes:
        needed_bytes: what an export needs.
        free_bytes: what the system says is available.
    """

    exit_code = 3

    def __init__(self, message: str, needed_bytes: int, free_bytes: int) -> None:
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        super().__init__(message)


class MissingLibraryError(ExportError):
    """llama-cpp-python, which quantizes and verifies, is not installed."""

    exit_code = 3


class VerificationFailed(ExportError):
    """A file was written, but did not pass its verification."""
