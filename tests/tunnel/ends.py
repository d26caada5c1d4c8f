"""Two ends of a tunnel in a lab: files by keygen, daemons in forks of this process, asked over their sockets."""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from wesper.errors import WesperError
from wesper.lab import Host, Interface, Router
from wesper.lab.call import Call
from wesper.tunnel import service
from wesper.tunnel.control import ControlClient
from wesper.tunnel.file import load_file
from wesper.tunnel.keygen import End, add, end, make
from wesper.tunnel.psp_settings import PSPSettings

PATIENCE_S = 20.0
INNER = {"left": ("10.8.0.1/24", "fd08::1/64"), "right": ("10.8.0.2/24", "fd08::2/64")}


class Side:
    """One end: its host, its file, and its daemon while that runs."""

    def __init__(self, name: str, host: Host, folder: Path) -> None:
        self.name, self.host, self.path = name, host, folder / f"{name}.toml"
        self.running: Call[None] | None = None

    @property
    def inner(self) -> str:
        """Its IPv4 address inside."""
        return INNER[self.name][0].partition("/")[0]

    @property
    def inner6(self) -> str:
        return INNER[self.name][1].partition("/")[0]

    @property
    def sock(self) -> Path:
        return self.path.parent / "run" / f"{self.name}.sock"

    def set(self, table: str, **values: object) -> None:
        """Write keys into a table of the file; those of `interface` or `tunnel`."""
        head = {"interface": "[interface]\n", "tunnel": "[[tunnel]]\n"}[table]
        lines = "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())
        kept = [line for line in self.path.read_text().splitlines(keepends=True) if line.split(" = ")[0] not in values]
        self.path.write_text("".join(kept).replace(head, head + lines, 1))

    def begin(self) -> None:
        """Start the daemon, and do not wait for it."""
        log = self.path.parent / f"{self.name}.log"

        def run() -> None:
            sys.stderr = log.open("a")  # in this fork alone
            service.serve(load_file(self.path), lambda _: None)

        self.running = self.host.start(run)

    def up(self) -> None:
        """Start the daemon and wait until it carries packets.   Raises what it raised."""
        self.begin()
        self.await_up()

    def await_up(self) -> None:
        assert self.running is not None
        until = time.monotonic() + PATIENCE_S
        while not self.answers():
            with suppress(TimeoutError):
                self.running.result(0)
                raise AssertionError("it has ended")
            assert time.monotonic() < until, "it never came up"
            time.sleep(0.002)

    def answers(self) -> bool:
        try:
            self.status()
        except WesperError:
            return False
        return True

    def status(self) -> dict[str, Any]:
        return self.ask("status")

    def ask(self, op: str, **request: object) -> dict[str, Any]:
        with ControlClient(self.sock) as client:
            return client.ask(op, **request)

    def pair(self, number: int = 0) -> dict[str, Any]:
        """Return what status tells of a pair of the first tunnel."""
        found: dict[str, Any] = self.status()["tunnels"][0]["pairs"][number]
        return found

    def told(self, event: str) -> list[dict[str, Any]]:
        """Return the events of a name that are remembered."""
        return [each for each in self.ask("events")["events"] if each["event"] == event]

    def down(self) -> None:
        """End the daemon in an orderly way."""
        assert self.running is not None
        self.ask("down", drain_seconds=0)
        self.running.result(PATIENCE_S)
        self.running = None

    def kill(self) -> None:
        """End it by SIGKILL."""
        assert self.running is not None
        self.running.kill()
        with suppress(Exception):  # CallDied, or what it raised before
            self.running.result(PATIENCE_S)
        self.running = None


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(each)}' for key, each in value.items())} }}"
    return json.dumps(value)


def two_ends(folder: Path, left: Host, right: Host, engine: str = "reference", **options: Any) -> tuple[Side, Side]:
    """Write the files of both ends.   options: address, peer_address, version, port, mode, suite, esn, inner, psp,
    protocol, format.

    psp: settings of a PSP tunnel, or True for those by default.
    """
    version = options.pop("version", 4)
    addresses = [
        options.pop("address", None) or left.interfaces[0].address(version),
        options.pop("peer_address", None) or right.interfaces[0].address(version),
    ]
    port = options.pop("port", 1000 if "psp" in options else 4500)
    if options.get("psp") is True:
        options["psp"] = PSPSettings()
    inner = options.pop("inner", INNER)
    folder.mkdir(parents=True, exist_ok=True)
    sides = Side("left", left, folder), Side("right", right, folder)
    ends: list[End] = []
    for side, address in zip(sides, addresses, strict=True):
        ends.append(end(side.path, address, port, inner[side.name], []))
    settings = {"name": "test", "suite": "aes-gcm-16", "mode": "tunnel", "esn": True, **options}
    make(*ends, **settings)
    for side in sides:
        side.set("interface", engine=engine, run_dir="run", state_dir=f"state-{side.name}")
    return sides


def add_pair(*sides: Side) -> None:
    """Add a pair of SAs to both files."""
    add(*(side.path for side in sides))


def drop_first_pair(side: Side) -> None:
    """Take the oldest pair of SAs out of a file."""
    head, _, *rest = side.path.read_text().split("[[tunnel.sa]]")
    assert rest
    side.path.write_text("[[tunnel.sa]]".join([head, *rest]))


def ping(side: Side, to: str, count: int = 1, timeout: float = 1.0, **options: Any) -> int:
    """Return how many echo requests were answered."""
    return sum(each is not None for each in side.host.ping(to, count=count, timeout=timeout, **options))


def await_ping(side: Side, to: str) -> None:
    """Wait until an echo request is answered."""
    until = time.monotonic() + PATIENCE_S
    while not ping(side, to, timeout=0.1):
        assert time.monotonic() < until, "no answer ever came"


def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.01)


def follow_through_nat(left: Side, right: Side, router: Router) -> None:
    """Change a peer's port twice at a router, and see that it is followed.   left: the peer, up; right: up."""
    await_ping(left, right.inner)
    found = right.status()["tunnels"][0]
    assert found["peer"] == router.interface("n-b").address()
    ports = {found["peer_port"]}
    for _ in range(2):
        router.forget_flows()
        assert ping(left, right.inner, 5, timeout=1.0) >= 4
        ports.add(right.status()["tunnels"][0]["peer_port"])
    assert len(ports) == 3
    await_ping(right, left.inner)
    assert len(right.told("peer_moved")) == 3


def learn_narrow_path(left: Side, right: Side, narrowed: Iterable[Interface]) -> None:
    """Narrow a path of 1500 octets to 1320, and see that its sender learns that from the path alone.   Both are up."""
    await_ping(left, right.inner)
    assert left.pair()["out"]["mtu"] == 1500
    for narrow in narrowed:
        narrow.set_mtu(1320)

    def learnt() -> bool:
        ping(left, right.inner, octets=1350, timeout=0.1)
        return bool(left.pair()["out"]["mtu"] == 1320)

    eventually(learnt)
    assert left.told("mtu_changed")[-1]["mtu"] == 1320
    eventually(lambda: ping(left, right.inner, octets=1350, timeout=0.5))  # cut to what fits


class Stream:
    """Numbered datagrams from one side to the other, as fast as told, and those that came."""

    def __init__(self, sender: Side, receiver: Side, every: float = 0.001) -> None:
        self.every, self.number = every, 0
        self._in = receiver.host.socket()
        self._in.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._in.bind((receiver.inner, 0))
        self._in.setblocking(False)
        self._out = sender.host.socket()
        self._to = (receiver.inner, self._in.getsockname()[1])
        self.came: set[int] = set()
        self.twice = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._in.close()
        self._out.close()

    def run(self, seconds: float) -> None:
        """Send for a while."""
        end_at = time.monotonic() + seconds
        while time.monotonic() < end_at:
            with suppress(OSError):
                self._out.sendto(struct.pack(">Q", self.number) + bytes(56), self._to)
                self.number += 1
            self.take()
            time.sleep(self.every)

    def take(self) -> None:
        while True:
            try:
                (number,) = struct.unpack_from(">Q", self._in.recv(2048))
            except BlockingIOError:
                return
            self.twice += number in self.came
            self.came.add(number)

    def lost(self) -> list[int]:
        """Return the numbers that did not come, after a moment for those on their way."""
        until = time.monotonic() + 3
        while len(self.came) < self.number and time.monotonic() < until:
            time.sleep(0.01)
            self.take()
        return sorted(set(range(self.number)) - self.came)


@contextmanager
def ending(*sides: Side) -> Iterator[None]:
    """Kill what still runs, at the end."""
    try:
        yield
    finally:
        for side in sides:
            if side.running is not None:
                side.kill()
