"""Where daemons keep what lies on disk, and that nobody else could have laid anything there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import ConfigError


def default_run_dir() -> Path:
    """Return where sockets of daemons lie: /run/wesper for root, else in the user's own run directory."""
    if os.geteuid() == 0:
        return Path("/run/wesper")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "wesper" if runtime else Path(f"/tmp/wesper-{os.geteuid()}")


def default_state_dir() -> Path:
    """Return where numbers that must survive are kept: /var/lib/wesper for root, else in the user's own place."""
    if os.geteuid() == 0:
        return Path("/var/lib/wesper")
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "wesper"


def make_own(directory: Path, key: str) -> None:
    """Make a directory for daemons, or make sure of one that is there: nobody else may have laid files into it.

    What lies in /tmp bears a name that anybody can guess, and be there first with links to where a log should not go.
    key: which the error names.   Raises ConfigError, OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    link, found = directory.lstat(), directory.stat()
    if not {link.st_uid, found.st_uid} <= {0, os.geteuid()} or found.st_mode & stat.S_IWOTH:
        raise ConfigError(
            f"{directory} belongs to another user, or others may write to it", key=f"interface.{key}",
            expected="a directory of this user's own",
        )  # fmt: skip
