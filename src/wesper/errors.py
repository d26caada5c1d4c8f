"""Exceptions: mistakes of the caller, the file or the machine; never of a packet (those are verdicts)."""

from __future__ import annotations

import enum
from pathlib import Path


class ExitCode(enum.IntEnum):
    """What the command line exits with.   sentence: when.

    The one list of exit codes: `docs/operations.md` and the manual pages have it from here.
    """

    sentence: str

    def __new__(cls, code: int, sentence: str) -> ExitCode:
        """Make a member whose value is the code alone."""
        member = int.__new__(cls, code)
        member._value_, member.sentence = code, sentence
        return member

    DONE = 0, "done"
    CHECK_FAILED = 1, "checked, and what was checked failed: a vector, a comparison, a packet that could not be opened"
    USAGE = 2, "wrong use: an argument, a configuration file, key material"
    MISSING = (
        3,
        "the machine lacks something that is named: a kernel feature, a privilege, a program, the native engine",
    )
    IO_TROUBLE = 4, "input or output failed, or a peer, a lab or a daemon is not there or has died"
    INTERRUPTED = 130, "interrupted by Ctrl-C"


class WesperError(Exception):
    """Base of all exceptions that wesper raises on purpose.

    exit_code: what the command line exits with when this reaches it.
    """

    exit_code: int = ExitCode.USAGE

    def __reduce__(self) -> tuple[object, ...]:
        """Travel between processes, whatever a subclass was made from."""
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(kind: type[WesperError], args: tuple[object, ...], state: dict[str, object]) -> WesperError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


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

    exit_code = ExitCode.MISSING

    def __init__(self, feature: str, needs: str) -> None:
        self.feature, self.needs = feature, needs
        super().__init__(f"{feature} is not available here: {needs}")


class PermissionNeeded(WesperError):
    """The operation needs a privilege that this process has not.   capability: its name."""

    exit_code = ExitCode.MISSING

    def __init__(self, capability: str, what: str) -> None:
        self.capability = capability
        super().__init__(f"{what} needs {capability}")


class VectorMismatch(WesperError):
    """A vector's case failed.   where: what was compared; expected and got: as text."""

    exit_code = ExitCode.CHECK_FAILED

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
