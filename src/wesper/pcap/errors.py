"""Kinds of `wesper.errors.CaptureError`, told apart by type and exit code."""

from __future__ import annotations

from wesper.errors import CaptureError, WesperError


class CaptureTruncated(CaptureError):
    """The file ends inside a record or block, which begins at `offset`; everything before it was whole."""

    exit_code = 4


class CaptureIOError(CaptureError):
    """The operating system refused to open, read or write the file; `__cause__` is its error.

    offset: how far the file was read before, 0 if it was never opened and for files that are written.
    """

    exit_code = 4

    def __init__(self, what: str, *, path: str, offset: int = 0, expected: str = "") -> None:
        self.what, self.path, self.offset, self.expected = what, path, offset, expected
        place = f"{path}: at octet {offset}" if offset else path
        WesperError.__init__(self, f"{place}: {what}" + (f" (expected {expected})" if expected else ""))
