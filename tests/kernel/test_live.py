"""A running tunnel in a lab's host, and a real kernel as its peer: ping and 10 MB of TCP both ways."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import pytest

from wesper.errors import UnsupportedError
from wesper.host.netlink import attribute
from wesper.kernel import CARD, Guest, find
from wesper.kernel.xfrm import Policy, Selector, State, Xfrm, open_encapsulation_port
from wesper.lab import Host, Lab
from wesper.lab.netlink import NETLINK_ROUTE, Netlink
from wesper.sa import Direction, Mode
from wesper.tunnel.file import TunnelSettings, load_file
from wesper.tunnel.state import State as Numbers

from .peer import guest_ping

OCTETS = 10_000_000
PATTERN = bytes(range(251)) * 4000
OUTER = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8:1::1", "2001:db8:1::2")}
INNER = {4: ("10.8.0.1", "10.8.0.2"), 6: ("fd08::1", "fd08::2")}
PORT = 5001
# include/uapi/linux/rtnetlink.h, if_link.h; include/linux/netdevice.h
_RTM_NEWLINK, _IFLA_GSO_MAX_SEGS, _GSO_MAX_SEGS = 16, 40, 65535


@dataclass(frozen=True)
class Shape:
    """What a tunnel is like.   sequence: both ends have sent so many packets before."""

    suite: str = "aes-gcm-16"
    mode: Mode = Mode.TUNNEL
    inner: int = 4
    outer: int = 4
    udp: bool = False
    esn: bool = True
    sequence: int = 0

    def __str__(self) -> str:
        around = "udp" if self.udp else "raw"
        numbers = "" if self.esn else "-32bit"
        at = f"-from-{self.sequence:#x}" if self.sequence else ""
        return f"{self.suite}-{self.mode.value}-{self.inner}in{self.outer}-{around}{numbers}{at}"


BEFORE_THE_BORDER = (1 << 32) - 3000
SHAPES = [
    Shape("aes-gcm-16", Mode.TUNNEL, 4, 4, udp=True),
    Shape("aes-gcm-12", Mode.TUNNEL, 6, 4, udp=True),
    Shape("aes-gcm-8", Mode.TUNNEL, 4, 6),
    Shape("aes-ccm-16", Mode.TUNNEL, 6, 6, udp=True),
    Shape("aes-gmac", Mode.TRANSPORT, 4, 4),
    Shape("chacha20-poly1305", Mode.TRANSPORT, 6, 6),
    Shape("aes-cbc+hmac-sha2-256-128", Mode.TUNNEL, 4, 4, esn=False),
    Shape("aes-cbc+hmac-sha2-384-192", Mode.BEET, 4, 4),
    Shape("aes-cbc+hmac-sha2-512-256", Mode.TUNNEL, 6, 6),
    Shape("null+hmac-sha2-256-128", Mode.TRANSPORT, 4, 4, udp=True),
    Shape("aes-gcm-16", Mode.TRANSPORT, 6, 6, udp=True),
    Shape("aes-gcm-16", Mode.BEET, 6, 4, udp=True),
    Shape("aes-gcm-16", Mode.BEET, 4, 6),
    Shape("aes-gcm-16", Mode.TUNNEL, 4, 4, sequence=BEFORE_THE_BORDER),
]
# The older kernel once through every shape; both engines with the newer one.
TRIED = [("packaged", "native"), ("built", "native"), ("built", "reference")]


@dataclass
class Place:
    """A lab's host, and a guest at the other end of its link."""

    host: Host
    guest: Guest
    xfrm: Xfrm


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, Place]]:
    """Guests by their kernel's name, booted when they are first asked for."""
    with contextlib.ExitStack() as undo:
        yield _Places(undo)


class _Places(dict[str, Place]):
    def __init__(self, undo: contextlib.ExitStack) -> None:
        super().__init__()
        self._undo = undo

    def __missing__(self, name: str) -> Place:
        kernel = find(name)
        lab = self._undo.enter_context(Lab())
        a, k = lab.host("a"), lab.host("k")
        link = lab.link(a, k, addresses={"a": [f"{OUTER[4][0]}/24", f"{OUTER[6][0]}/64"]}, offloads=False)
        card = link.end(k)
        with card.frames() as frames:
            guest = self._undo.enter_context(Guest(kernel, frames=frames, mac=card.mac))
        neighbours = Netlink(cast(socket.socket, guest.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)))
        for version, bits in ((4, 24), (6, 64)):
            here, there = OUTER[version]
            guest.add_address(f"{there}/{bits}")
            # A policy for all between two hosts is one for neighbour discovery too: neither end shall need any.
            neighbours.add_neighbour(CARD, ip_address(here).packed, link.end(a).mac)
            a.netlink.add_neighbour(link.end(a).name, ip_address(there).packed, card.mac)
            inner_here, inner_there = INNER[version]
            guest.add_address(f"{inner_there}/{32 if version == 4 else 128}", "lo")
            guest.add_route(f"{inner_here}/{32 if version == 4 else 128}", here)
        open_encapsulation_port(guest, 4500)
        self[name] = Place(a, guest, Xfrm(guest))
        return self[name]


def wesper(host: Host, *words: str | Path) -> str:
    """Run a command in a host and return what it says."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = host.run([sys.executable, "-m", "wesper", *map(str, words)], env=environment, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    said: str = done.stdout
    return said


def make_file(shape: Shape, engine: str, folder: Path) -> Path:
    """Write a tunnel file, as keygen does and an editor afterwards."""
    path = folder / "wk0.toml"
    here, there = OUTER[shape.outer]
    words = ["--local", here, "--peer", there, "--suite", shape.suite, "--mode", shape.mode.value]
    words += ["--encapsulation", "udp" if shape.udp else "none", "--esn" if shape.esn else "--no-esn"]
    if shape.mode is not Mode.TRANSPORT:
        bits = 24 if shape.inner == 4 else 64
        for option, address in zip(("--inner", "--peer-inner"), INNER[shape.inner], strict=True):
            words += [option, f"{address}/{bits}"]
    command = [sys.executable, "-m", "wesper", "keygen", path, folder / "peer.toml", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    places = f'[interface]\nengine = "{engine}"\nstate_dir = "{folder}/state"\nrun_dir = "{folder}/run"\n'
    path.write_text(path.read_text().replace("[interface]\n", places))
    return path


def install(shape: Shape, xfrm: Xfrm, tunnel: TunnelSettings, folder: Path) -> list[State]:
    """Give the kernel what it needs; returns its SAs, to us and from us."""
    here, there = (ip_address(each) for each in OUTER[shape.outer])
    profile = tunnel.profile(here, there, None, 1500)
    (pair,) = tunnel.pairs
    ours = {each: tunnel.sa(pair, each, profile) for each in Direction}
    if shape.sequence:
        numbers = Numbers.open(folder / "state", "wk0")
        # Whoever starts again goes on above the window that was: the peer must be there already.
        tops = {Direction.OUT: shape.sequence, Direction.IN: shape.sequence - 2 * profile.window}
        numbers.admit([(replace(sa, sequence=tops[way]), "an earlier life") for way, sa in ours.items()])
        numbers.close()
        ours = {way: replace(sa, sequence=shape.sequence) for way, sa in ours.items()}
    states = [State.of_peer(sa, reqid=7, here=here, there=there) for sa in ours.values()]
    near, far = OUTER[shape.outer] if shape.mode is Mode.TRANSPORT else INNER[shape.inner]
    bits = 32 if ":" not in near else 128
    wire = (here, there) if shape.mode is not Mode.TRANSPORT else (None, None)
    xfrm.flush()
    xfrm.add(*states)
    xfrm.allow(
        Policy("in", Selector(f"{near}/{bits}", f"{far}/{bits}"), shape.mode, 7, *wire),
        Policy("out", Selector(f"{far}/{bits}", f"{near}/{bits}"), shape.mode, 7, *reversed(wire)),
    )
    return states


def limit_segments(guest: Guest, count: int) -> None:
    """Let TCP hand at most so many segments at once to the guest's card, which are then cut below it."""
    link = guest.netlink()
    body = struct.pack("BxHiII", 0, 0, link.index(CARD), 0, 0)
    link.request("segments", _RTM_NEWLINK, 0, body + attribute(_IFLA_GSO_MAX_SEGS, struct.pack("I", count)))


def take(at: str, port: int, octets: int) -> tuple[int, str]:
    """Wait for a connection; returns how much came, and its digest."""
    import hashlib
    import socket

    family = socket.AF_INET6 if ":" in at else socket.AF_INET
    with socket.create_server((at, port), family=family) as listener:
        listener.settimeout(30)
        taken, _ = listener.accept()
        digest, got = hashlib.sha256(), 0
        with taken:
            taken.settimeout(60)
            while data := taken.recv(1 << 17):
                digest.update(data)
                got += len(data)
    return got, digest.hexdigest()


def give(source: str, to: str, port: int, octets: int) -> None:
    """Connect, as soon as somebody listens, and send."""
    import contextlib
    import socket
    import time

    pattern = bytes(range(251)) * 4000
    until = time.monotonic() + 30
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            with socket.create_connection((to, port), 30, (source, 0)) as connection:
                connection.settimeout(60)
                sent = 0
                while sent < octets:
                    piece = pattern[: octets - sent]
                    connection.sendall(piece)
                    sent += len(piece)
            return
        if time.monotonic() > until:
            raise TimeoutError("nobody listens")
        time.sleep(0.05)


def digest_of(octets: int) -> str:
    whole, rest = divmod(octets, len(PATTERN))
    return hashlib.sha256(PATTERN * whole + PATTERN[:rest]).hexdigest()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kernel", "engine"), TRIED, ids=["-".join(each) for each in TRIED])
def test_ping_and_tcp_both_ways(
    places: dict[str, Place], tmp_path: Path, kernel: str, engine: str, shape: Shape
) -> None:
    try:
        place = places[kernel]
    except UnsupportedError as error:
        pytest.skip(str(error))
    host, guest = place.host, place.guest
    path = make_file(shape, engine, tmp_path)
    (tunnel,) = load_file(path).tunnels
    states = install(shape, place.xfrm, tunnel, tmp_path)
    # Linux 7.3 sends one segment of each super-packet in BEET mode, and loses the others: docs/kernels.md.
    limit_segments(guest, 1 if shape.mode is Mode.BEET else _GSO_MAX_SEGS)
    before = guest.xfrm_stat()
    wesper(host, "up", path)
    with contextlib.ExitStack() as undo:
        undo.callback(wesper, host, "down", path)
        undo.callback(lambda: print((tmp_path / "run" / "wk0.log").read_text()))
        near, far = OUTER[shape.outer] if shape.mode is Mode.TRANSPORT else INNER[shape.inner]
        assert None not in host.ping(far, count=3, octets=1000, timeout=10)
        assert guest.call(guest_ping, far, near, 3, 1000) == 3
        listening = guest.start(take, far, PORT, OCTETS)
        undo.callback(listening.kill)
        host.call(give, near, far, PORT, OCTETS, timeout=120)
        assert tuple(listening.result(120)) == (OCTETS, digest_of(OCTETS))

        taking = host.start(take, near, PORT, OCTETS)
        undo.callback(taking.kill)
        guest.call(give, far, near, PORT, OCTETS, timeout=120)
        assert taking.result(120) == (OCTETS, digest_of(OCTETS))
        status = wesper(host, "status", path, "--json")
    assert not [each for each in place.host.run(["ls", "/sys/class/net"]).stdout.split() if each == "wk0"]
    # Until it has heard its peer our end sends dummies: to Linux errors of the protocol, though not of the SA.
    after = guest.xfrm_stat()
    assert {name for name in after if after[name] != before[name]} <= {"XfrmInStateProtoError"}
    assert place.xfrm.refused(states[0]) == place.xfrm.refused(states[1]) == (0, 0)
    assert re.search(rf'"engine": "{engine}"', status)
    if shape.sequence:
        assert place.xfrm.sequence(states[1])[0] > 1 << 32
        assert place.xfrm.sequence(states[0])[1] > 1 << 32
