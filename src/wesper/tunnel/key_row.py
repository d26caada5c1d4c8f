"""Key files that a tunnel file names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError
from ..keying.key_file import read_key_row


def named_row(folder: Path, name: str, key: str, expected: str, wrong: Callable[..., ConfigError]) -> bytes:
    """Return the octets of a key file.

    name: as written, seen from folder.   key: where the tunnel file names it.   expected: what is right there.
    wrong: as `_Reader.wrong`.
    Raises ConfigError or KeyMaterialError.
    """
    try:
        return read_key_row(folder / name)
    except FileNotFoundError:
        raise wrong(key, f"there is no file {name}", expected) from None
    except OSError as error:
        raise wrong(key, f"{name}: {error.strerror}", expected) from None
    except ConfigError as error:
        raise wrong(key, f"{name}: {error.what}", error.expected, type(error)) from None
