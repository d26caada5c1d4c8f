"""A daemon in a host of a lab: started, watched and weighed."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...lab import Node

# A copy of the mounts in which the daemon's own folder is /run: two daemons of a kind, which have the paths of their
# sockets and PID files built in, do not meet, and what they leave goes with the folder.
_IN_FOLDER = 'mount --bind "$0" /run && exec "$@"'
_HAS_SCHEDSTAT = Path("/proc/self/schedstat").exists()


class Daemon:
    """A program that runs in a host until its lab ends.

    folder: what it sees as /run; its output goes to `log` in there.
    """

    def __init__(
        self, host: Node, folder: Path, command: list[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._name = f"{Path(command[0]).name} in {host.name}"
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process: subprocess.Popen[bytes] = host.spawn(
                ["unshare", "--mount", "--", "sh", "-c", _IN_FOLDER, str(folder), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # an interrupt at the terminal is for the benchmark, which then ends it
            )

    def __str__(self) -> str:
        return self._name

    def has_ended(self) -> bool:
        """Tell whether it has ended by itself."""
        return self._process.poll() is not None

    def last_words(self) -> str:
        """Return the last line that it has printed."""
        lines = self._log.read_text(errors="replace").split("\n") if self._log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def processes_in(host: Node) -> list[int]:
    """Return the processes that are in a host's network namespace, as PIDs of this process's own namespace."""
    wanted = os.fstat(host.namespace).st_ino
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            if entry.isdecimal() and os.stat(f"/proc/{entry}/ns/net").st_ino == wanted:
                found.append(int(entry))
    return found


def processor_ns(processes: Iterable[int]) -> int:
    """Return the processor time that processes have had so far, of all their threads that still run.

    Source: the first field of /proc/PID/task/TID/schedstat (Documentation/scheduler/sched-stats.rst); where the kernel
    has no such file, utime and stime of stat beside it (proc(5)), which count ticks.
    """
    total = 0
    for process in processes:
        with contextlib.suppress(OSError):  # gone meanwhile
            for thread in os.listdir(f"/proc/{process}/task"):
                with contextlib.suppress(OSError):
                    total += _thread_ns(Path(f"/proc/{process}/task/{thread}"))
    return total


def _thread_ns(folder: Path) -> int:
    if _HAS_SCHEDSTAT:
        return int((folder / "schedstat").read_text().split()[0])
    user, system = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
