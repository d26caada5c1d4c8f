"""Text files that somebody names: regular ones, of a size that fits, in UTF-8."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import ConfigError, KeyMaterialError

MAX_OCTETS = 16 << 20


def read_text(path: Path, kind: str, *, private: bool = False) -> str:
    """Return the text of a file, with line feeds alone between lines.

    kind: what is expected there, for messages.   private: only its owner may read it.   Never waits for a FIFO.
    Raises ConfigError, KeyMaterialError if a private file can be read by others, OSError.
    """
    try:
        # A FIFO without a writer would hold up a blocking open for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except ValueError:
        raise ConfigError("a NUL in a file's name", expected=kind) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError("not a regular file", path=path, expected=kind)
        if private and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise KeyMaterialError(
                f"others may read this key file (mode {stat.S_IMODE(mode):04o})",
                path=path,
                expected=f"chmod 600 {path}",
            )
        with open(descriptor, "rb", closefd=False) as file:
            octets = file.read(MAX_OCTETS + 1)
    finally:
        os.close(descriptor)
    if len(octets) > MAX_OCTETS:
        raise ConfigError(f"more than {MAX_OCTETS} octets", path=path, expected=kind)
    try:
        return octets.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ConfigError("not text", path=path, expected="UTF-8") from None
