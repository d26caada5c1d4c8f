"""Exceptions: mistakes of the caller, the file or the machine; never of a packet (those are verdicts)."""

from __future__ import annotations

from pathlib import Path


class WesperError(Exception):
    """Base of all exceptions that wesper raises on purpose.

    exit_code: what the command line exits with when this reaches it.
    """

    exit_code = 2


class ConfigError(WesperError):
    """A configuration, key file or argument is wrong.

    path: file, None for arguments.   line: 1-based, None if unknown.   key: dotted key at fault, "" if none.
    expected: what would be right.
    """

    def __init__(
        self, what: str, *, path: Path | str | None = None, line: int | None = None, key: str = "", expected: str = ""
    ) -> None:
        self.what, self.path, self.line, self.key, self.expected = what, path, line, key, expected
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        at = f"{key}: " if key else ""
        right = f" (expected {expected})" if expected else ""
        super().__init__(f"{where}{at}{what}{right}")


class KeyMaterialError(ConfigError):
    """Key material has the wrong length, is readable by others, or may not be used again."""


class UnsupportedError(WesperError):
    """This machine, build or engine lacks something.   needs: what to install or enable."""

    exit_code = 3

    def __init__(self, feature: str, needs: str) -> None:
        self.feature, self.needs = feature, needs
        super().__init__(f"{feature} is not available here: {needs}")


class PermissionNeeded(WesperError):
    """The operation needs a privilege that this process has not.   capability: its name."""

    exit_code = 3

    def __init__(self, capability: str, what: str) -> None:
        self.capability = capability
        super().__init__(f"{what} needs {capability}")


class VectorMismatch(WesperError):
    """A vector's case failed.   where: what was compared; expected and got: as text."""

    exit_code = 1

    def __init__(self, where: str, expected: str = "", got: str = "") -> None:
        self.where, self.expected, self.got = where, expected, got
        super().__init__(where if not (expected or got) else f"{where}: expected {expected}, got {got}")


class CaptureError(WesperError):
    """A capture file can't be read on.

    path: file; offset: octets from its start; expected: what should stand there.
    """

    def __init__(self, what: str, *, path: Path | str, offset: int, expected: str = "") -> None:
        self.what, self.path, self.offset, self.expected = what, path, offset, expected
        right = f" (expected {expected})" if expected else ""
        super().__init__(f"{path}: at octet {offset}: {what}{right}")
