"""One kind of tunnel between two hosts, so that kinds can be measured beside each other."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_interface
from pathlib import Path
from typing import ClassVar

from ...errors import UnsupportedError, WesperError
from ...lab import Lab, Node, pair
from .daemon import Daemon, processes_in, processor_ns

MTU = 1400
"""Of the tunnel's inside, for every kind: octets of the largest IP packet that it carries."""
OUTSIDE_MTU = 1500
INSIDE = ("10.99.0.1", "10.99.0.2")
"""Addresses inside of the tunnels, of a and of b."""
_TUN = Path("/dev/net/tun")
_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/ipsec", "/usr/libexec/ipsec")
_UP_S = 15.0
_PING_S = 0.25
_REST_S = 0.01
_IDLE = 0.1  # of a core


class TunnelFailed(WesperError):
    """A tunnel did not come up, or broke."""

    exit_code = 4


class Tunnel(ABC):
    """A tunnel between hosts a and b of a lab of its own, with one daemon in each.

    name: in tables.   programs: names or paths of what it runs, each with Debian's package.   needs_tun: whether a
    daemon opens /dev/net/tun.   folder: for control files; a's and b's in it, each seen as /run by its daemon.
    """

    name: ClassVar[str]
    programs: ClassVar[Sequence[tuple[str, str]]] = ()
    needs_tun: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lab: Lab | None = None
        self._daemons: list[Daemon] = []
        self._processes: list[int] = []

    @property
    def hosts(self) -> tuple[Node, Node]:
        """Hosts a and b."""
        assert self.lab is not None
        a, b = self.lab
        return a, b

    @property
    def inside(self) -> tuple[str, str]:
        """Addresses of a and b that go through the tunnel."""
        return INSIDE

    def start(self) -> None:
        """Make the lab, start the daemons, and return when a gets an answer from b through the tunnel.

        Raises UnsupportedError if something is missing here, TunnelFailed if it does not come up.
        """
        self.look_for_what_it_needs()
        self.lab = self._make_lab()
        try:
            self._bring_up()
            self.await_answer()
        except (WesperError, OSError, subprocess.SubprocessError) as error:
            said = self._last_words()
            self.stop()
            raise TunnelFailed(f"{self.name} did not come up: {error}{f'; {said}' if said else ''}") from None
        except BaseException:
            self.stop()
            raise
        self._processes = [pid for host in self.hosts for pid in processes_in(host)]

    def stop(self) -> None:
        """End the lab, and with it the daemons. Does nothing the second time."""
        if self.lab is None:
            return
        self._daemons.clear()
        self._processes = []
        lab, self.lab = self.lab, None
        lab.close()

    def processor_ns(self) -> int:
        """Return the processor time that the daemons of both hosts have had so far."""
        return processor_ns(self._processes)

    def await_answer(self) -> None:
        """Return when a gets an answer from b through the tunnel.   Raises TunnelFailed."""
        until = time.monotonic() + _UP_S
        here, there = self.hosts[0], self.inside[1]
        while True:
            with suppress(OSError):  # no route yet
                if None not in here.ping(there, timeout=_PING_S):
                    return
            ended = [daemon for daemon in self._daemons if daemon.has_ended()]
            if ended:
                raise TunnelFailed(f"{ended[0]} has ended")
            if time.monotonic() > until:
                raise TunnelFailed(f"no answer from {there} in {_UP_S:g} s")
            time.sleep(0.02)

    def rest(self, seconds: float) -> bool:
        """Wait until the daemons have nothing more to do, at most so long.   Returns whether they have not."""
        until = time.monotonic() + seconds
        before = self.processor_ns()
        while True:
            time.sleep(_REST_S)
            now = self.processor_ns()
            if now - before < _IDLE * _REST_S * 1e9:
                return True
            if time.monotonic() > until:
                return False
            before = now

    def version(self) -> str:
        """Return the version that the daemon says it is, "" if it says none."""
        return ""

    @classmethod
    def look_for_what_it_needs(cls) -> None:
        """Raise UnsupportedError, with what would help, if this machine lacks something."""
        packages = [package for program, package in cls.programs if find(program) is None]
        if packages:
            raise UnsupportedError(cls.name, f"apt-get install {' '.join(packages)}")
        if cls.needs_tun:
            try:
                os.close(os.open(_TUN, os.O_RDWR))
            except OSError as error:
                refused = isinstance(error, PermissionError)
                how = "be root, or have it opened to all: chmod 0666" if refused else "modprobe tun"
                raise UnsupportedError(cls.name, f"its daemons open {_TUN}: {error.strerror} ({how})") from None

    def _make_lab(self) -> Lab:
        return pair(mtu=OUTSIDE_MTU)

    @abstractmethod
    def _bring_up(self) -> None:
        """Start the daemons and set addresses."""

    def _start_daemon(self, host: Node, command: list[str], environment: Mapping[str, str] | None = None) -> Daemon:
        """Start a daemon in a host, with the folder of the host as its /run."""
        daemon = Daemon(host, self._folder_of(host), command, environment)
        self._daemons.append(daemon)
        return daemon

    def _folder_of(self, host: Node) -> Path:
        folder = self.folder / host.name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def _last_words(self) -> str:
        words = [f"{daemon} said: {said}" for daemon in self._daemons if (said := daemon.last_words())]
        return "; ".join(words)


def find(program: str) -> str | None:
    """Return the path of a program, also where an ordinary user's PATH does not lead, or of a file."""
    if os.sep in program:
        return program if Path(program).is_file() else None
    return shutil.which(program) or shutil.which(program, path=os.pathsep.join(_FOLDERS))


def give_inside(host: Node, interface: str, address: str, *, mtu: int | None = None) -> None:
    """Give an interface its address inside of the tunnel, with the network of both, and bring it up."""
    if mtu is not None:
        host.netlink.set_mtu(interface, mtu)
    host.netlink.add_address(interface, ip_interface(f"{address}/24"))
    host.netlink.set_up(interface)


def first_line(command: list[str]) -> str:
    """Return the first line that a program prints, "" if it prints none.   Whatever its exit code."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20)
    return next(iter(done.stdout.splitlines()), "").strip()
