"""The worker threads: real traffic between two hosts, with and without offloads, beside the plain loop."""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from wesper import SA, Action, Direction, Inner, Mode, Outer, Policy, Profile, Selector, UDPEncapsulation, open_engine
from wesper.errors import UnsupportedError
from wesper.host.link import LinkKind, open_link
from wesper.host.netlink import NETLINK_ROUTE, Netlink
from wesper.host.tun import DeviceKind, open_device
from wesper.lab import Host, pair
from wesper.tunnel.loop import COUNTS, Loop, LoopOptions
from wesper.tunnel.reference_loop import ReferenceLoop

from .ends import eventually

pytestmark = [pytest.mark.usefixtures("namespaces"), pytest.mark.needs_native]

PORT = 4500
MTU = 1400
KEYS = {"a": bytes(range(32)), "b": bytes(range(32, 64))}
SPIS = {"a": 0x1000, "b": 0x2000}
INNER = {"a": ("10.9.0.1", "fd09::1"), "b": ("10.9.0.2", "fd09::2")}
_UDP_SEGMENT, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT = 103, 10, 0


@dataclass(frozen=True)
class Settings:
    """One end of a tunnel."""

    loop: str = "native"
    link: LinkKind = "udp4"
    device: DeviceKind = "auto"
    offloads: bool = True
    mode: Mode = Mode.TUNNEL
    mtu: int = 1500
    device_mtu: int = MTU
    queues: int = 1
    protect: bool = True
    tap: int = 0


def end(settings: Settings, me: str, local: str, remote: str, orders: int, answers: int) -> None:
    """Be one end of a tunnel, until told to quit.

    An order is a letter: c answers the counts and all else that there is to tell, q too, and then ends.
    """
    device = open_device(
        "w0", settings.device_mtu, kind=settings.device, offloads=settings.offloads, queues=settings.queues
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as opened:
        netlink = Netlink(opened)
        netlink.set_up("w0")
        for address, bits in zip(INNER[me], (24, 64), strict=True):
            netlink.add_address("w0", ip_interface(f"{address}/{bits}"))
    is_udp = settings.link.startswith("udp")
    link = open_link(settings.link, ip_address(local), PORT if is_udp else 0)
    peer = "b" if me == "a" else "a"
    profile = Profile(
        "aes-gcm-16",
        mode=settings.mode,
        outer=Outer(ip_address(local), ip_address(remote)),
        inner=Inner(ip_address(INNER[me][0]), ip_address(INNER[peer][0])) if settings.mode is Mode.BEET else None,
        encapsulation=UDPEncapsulation(PORT, PORT) if is_udp else None,
        mtu=settings.mtu,
    )
    engine = open_engine(settings.loop)
    out = engine.install(SA(profile, Direction.OUT, SPIS[me], KEYS[me], b"salt"))
    engine.install(SA(profile, Direction.IN, SPIS[peer], KEYS[peer], b"salt"))
    # Both inner versions in tunnel mode; BEET's pair is of IPv4.
    if settings.protect:
        engine.set_policies([Policy(Action.PROTECT, (Selector(),), sas=((None, out),))])
    loop = make_loop(settings, engine, device, link, me)
    loop.start()
    loop.tap(settings.tap)
    watch = {**loop.watch()}
    poll = select.poll()
    for descriptor in (*watch, orders):
        poll.register(descriptor, select.POLLIN)
    os.write(answers, b"\n")
    order = b""
    while order != b"q":
        for descriptor, _ in poll.poll():
            if descriptor != orders:
                watch[descriptor]()
                continue
            order = os.read(orders, 1) or b"q"
            if order == b"q":
                loop.stop(0.05)
            os.write(answers, json.dumps(told(loop)).encode() + b"\n")
    device.close()
    link.close()


def make_loop(settings: Settings, engine: Any, device: Any, link: Any, me: str) -> Loop:
    options = LoopOptions(offloads=settings.offloads)
    if settings.loop == "reference":
        return ReferenceLoop(engine, device, [link], options=options)
    from wesper.tunnel.native_loop import NativeLoop

    return NativeLoop(engine, device, [link], options=options)


def told(loop: Loop) -> dict[str, Any]:
    tapped = [(one.side, one.direction, one.packet.hex(), one.reason and one.reason.name) for one in loop.tapped()]
    drops = {reason.name: number for reason, number in loop.engine.drops().items()}
    segmentation = sorted(loop.device.segmentation)
    answer: dict[str, Any] = {"counts": loop.counts(), "drops": drops, "tapped": tapped, "segmentation": segmentation}
    if loop.name == "native":
        answer |= {"calls": loop.calls(), "offloads": [each[1:] for each in loop.offloads()]}  # type: ignore[attr-defined]
    return answer


class Tunnel:
    """A tunnel between two hosts of a lab."""

    def __init__(self, a: Host, b: Host, settings: dict[str, Settings]) -> None:
        self.a, self.b = a, b
        version = int(settings["a"].link[-1])
        outer = {name: host.interfaces[0].address(version) for name, host in (("a", a), ("b", b))}
        self._ends = {}
        for name, host, peer in (("a", a, "b"), ("b", b, "a")):
            (orders, order), (answer, answers) = os.pipe(), os.pipe()
            call = host.start(end, settings[name], name, outer[name], outer[peer], orders, answers)
            os.close(orders)
            os.close(answers)
            self._ends[name] = call, order, os.fdopen(answer, "rb")
        for name in self._ends:
            self._answer(name)

    def _answer(self, name: str) -> bytes:
        call, _, answer = self._ends[name]
        line: bytes = answer.readline()
        if not line:
            call.result(5)
            raise AssertionError("an end is gone")
        return line

    def told(self, name: str, order: bytes = b"c") -> dict[str, Any]:
        os.write(self._ends[name][1], order)
        found: dict[str, Any] = json.loads(self._answer(name))
        return found

    def close(self) -> dict[str, dict[str, Any]]:
        """End both, and return what they have to tell."""
        found = {name: self.told(name, b"q") for name in self._ends}
        for call, order, answer in self._ends.values():
            call.result(10)
            os.close(order)
            answer.close()
        self._ends = {}
        return found


@contextmanager
def tunnel(settings: Settings | None = None, b: Settings | None = None) -> Iterator[Tunnel]:
    settings = settings or Settings()
    with pair() as lab:
        made = Tunnel(lab["a"], lab["b"], {"a": settings, "b": b or settings})
        yield made


def serve(address: str, octets: int, ready: int) -> str:
    """Take a stream of so many octets, send as many back, and answer datagrams meanwhile; return the digest."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        socket.create_server((address, 7000), family=family) as listener,
        socket.socket(family, socket.SOCK_DGRAM) as u,
    ):
        u.bind((address, 7001))

        def echo() -> None:
            while True:
                data, source = u.recvfrom(65536)
                u.sendto(data, source)

        threading.Thread(target=echo, daemon=True).start()
        os.write(ready, b"r")
        stream, _ = listener.accept()
        with stream:
            digest, left = hashlib.sha256(), octets
            while left:
                data = stream.recv(min(left, 1 << 16))
                if not data:
                    break
                digest.update(data)
                left -= len(data)
            stream.sendall(random.Random(2).randbytes(octets))
        return digest.hexdigest()


def talk(address: str, octets: int, sizes: Sequence[int]) -> tuple[str, list[int]]:
    """Send datagrams one by one, then a stream; return the digest of what came back, and the sizes that were lost."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    lost = []
    with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(5)
        datagrams.connect((address, 7001))
        for size in sizes:
            sent = random.Random(size).randbytes(size)
            datagrams.send(sent)
            try:
                came = datagrams.recv(65536)
            except TimeoutError:
                came = None
            if came != sent:
                lost.append(size)
    digest, left = hashlib.sha256(), octets
    with socket.create_connection((address, 7000), timeout=20) as stream:
        stream.sendall(random.Random(1).randbytes(octets))
        while left:
            data = stream.recv(min(left, 1 << 16))
            if not data:
                break
            digest.update(data)
            left -= len(data)
    return digest.hexdigest(), lost


def exchange(made: Tunnel, address: str, octets: int, sizes: Sequence[int] = ()) -> None:
    """Move a stream each way, and datagrams, and look that all of it arrives as it was."""
    ready, say = os.pipe()
    serving = made.b.start(serve, address, octets, say)
    os.close(say)
    assert os.read(ready, 1) == b"r", serving.result(5)
    os.close(ready)
    back, lost = made.a.call(talk, address, octets, sizes)
    assert lost == []
    there = serving.result(20)
    assert there == hashlib.sha256(random.Random(1).randbytes(octets)).hexdigest()
    assert back == hashlib.sha256(random.Random(2).randbytes(octets)).hexdigest()


def check_sums(told: dict[str, Any]) -> None:
    """Every packet that came in has gone out, or is counted by the name of what became of it."""
    count, calls = told["counts"], told["calls"]
    assert set(count) == set(COUNTS)
    out = ("device_bad_offload", "link_unreachable", "link_full", "link_too_big", "link_sent_packets")
    assert count["icmp_too_big"] == count["bypassed"] == count["slow"] == 0, "another test looks at what is rare"
    assert count["device_read_packets"] == sum(count[name] for name in out) + calls["engine_dropped_out"]
    ends = ("link_bad_datagram", "device_full", "device_down", "device_refused", "device_written_packets")
    assert count["link_received_packets"] == sum(count[name] for name in ends) + calls["engine_dropped_in"]
    assert sum(told["drops"].values()) == calls["engine_dropped_in"] + calls["engine_dropped_out"]


PLAIN = Settings(offloads=False)
VARIANTS: dict[str, tuple[Settings, Settings]] = {
    **{
        f"{kind}{'' if offloads else ', plain'}": (Settings(link=kind, offloads=offloads),) * 2
        for kind in ("udp4", "udp6", "raw4", "raw6")
        for offloads in (True, False)
    },
    "packet socket": (Settings(device="veth"),) * 2,
    "packet socket, plain": (Settings(device="veth", offloads=False),) * 2,
    "to the reference loop": (Settings(), Settings(loop="reference", offloads=False)),
    "from the reference loop": (Settings(loop="reference", offloads=False), Settings()),
    "offloads at one end": (Settings(), PLAIN),
    "several queues": (Settings(queues=3),) * 2,
    "several queues, plain": (Settings(queues=3, offloads=False),) * 2,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_that_is_sent_arrives_as_it_was_and_is_counted(variant: str) -> None:
    a, b = VARIANTS[variant]
    with tunnel(a, b) as made:
        for at, address in enumerate(INNER["b"]):
            assert None not in made.a.ping(address, count=2) if at == 0 else True
            exchange(made, address, 300_000, (0, 1, 64, 1000, MTU - 48))
        told = made.close()
    for name, settings in (("a", a), ("b", b)):
        if settings.loop == "native":
            check_sums(told[name])
    # What one end has sent the other has received; nothing else is on this line.
    for one, other in (("a", "b"), ("b", "a")):
        assert told[one]["counts"]["link_sent_packets"] == told[other]["counts"]["link_received_packets"]
        assert told[one]["counts"]["link_sent_octets"] == told[other]["counts"]["link_received_octets"]
        assert told[one]["drops"] == {}


@pytest.mark.parametrize("device", ["auto", "veth"])
def test_offloads_save_calls(device: DeviceKind) -> None:
    with tunnel(Settings(device=device)) as made:
        exchange(made, INNER["b"][0], 3_000_000)
        told = made.close()
    for end in told.values():
        assert end["offloads"] == [[True, True]]
        count, calls = end["counts"], end["calls"]
        assert count["device_read_packets"] > 2000
        assert calls["device_read_calls"] < count["device_read_packets"] / 2
        assert calls["link_send_calls"] < count["link_sent_packets"] / 2
        assert calls["link_receive_calls"] < count["link_received_packets"] / 2
        assert calls["device_write_calls"] < count["device_written_packets"] / 2


def scapy_made(packet: bytes) -> bytes:
    """Return a packet with lengths and checksums as Scapy works them out."""
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6

    layer = (IP if packet[0] >> 4 == 4 else IPv6)(packet)
    upper = layer[TCP] if TCP in layer else layer[UDP]
    for each, names in ((layer, ("len", "plen", "chksum")), (upper, ("len", "chksum"))):
        for name in set(names) & set(each.fields):
            each.delfieldval(name)
    made: bytes = bytes(layer)
    return made


@pytest.mark.needs_module("scapy")
def test_segments_have_the_checksums_that_scapy_works_out() -> None:
    with tunnel(b=Settings(tap=16 << 20)) as made:
        for address in INNER["b"]:
            exchange(made, address, 200_000, (1, 1000))
        told = made.close()
    assert told["a"]["calls"]["device_read_calls"] < told["a"]["counts"]["device_read_packets"] / 2
    packets = [bytes.fromhex(packet) for side, way, packet, _ in told["b"]["tapped"] if (side, way) == ("inner", "in")]
    # What one end has cut, as the other has opened it: TCP and UDP, over IPv4 and IPv6.
    cut = [packet for packet in packets if (packet[9] if packet[0] >> 4 == 4 else packet[6]) in (6, 17)]
    assert {(packet[0] >> 4, len(packet)) for packet in cut} >= {(4, MTU), (6, MTU)}
    for packet in cut:
        assert packet == scapy_made(packet)


def test_without_offloads_every_packet_is_one() -> None:
    with tunnel(PLAIN) as made:
        exchange(made, INNER["b"][0], 300_000)
        told = made.close()
    for end in told.values():
        assert end["offloads"] == [[False, False]]
        count, calls = end["counts"], end["calls"]
        assert calls["device_read_calls"] == count["device_read_packets"]
        assert calls["link_send_calls"] == count["link_sent_packets"]
        assert calls["device_write_calls"] == count["device_written_packets"]


@pytest.mark.parametrize("device", ["auto", "veth"])
def test_super_datagrams_of_this_host_are_cut(device: DeviceKind) -> None:
    def send(address: str) -> None:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((address, 7001))
            sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 500)
            sock.send(bytes(500) + bytes([1]) * 500 + bytes([2]) * 123)

    def receive(address: str, ready: int) -> list[tuple[int, int]]:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 7001))
            sock.settimeout(10)
            os.write(ready, b"r")
            return [(len(data), data[0]) for data in (sock.recv(65536) for _ in range(3))]

    with tunnel(Settings(device=device)) as made:
        for address in INNER["b"]:
            ready, say = os.pipe()
            receiving = made.b.start(receive, address, say)
            os.read(ready, 1)
            made.a.call(send, address)
            assert receiving.result(10) == [(500, 0), (500, 1), (123, 2)]
        told = made.close()
    check_sums(told["a"])
    # Those that came as one were joined, where the device takes that.
    written = told["b"]["counts"]["device_written_packets"]
    joined = told["b"]["calls"]["device_write_calls"] < written
    assert joined is ("udp" in told["b"]["segmentation"])


@pytest.mark.parametrize("offloads", [True, False])
def test_beet_mode_moves_headers_among_datagrams_that_came_as_one(offloads: bool) -> None:
    # Opened, its packets begin before the datagram: on the end of the one before.
    with tunnel(Settings(mode=Mode.BEET, offloads=offloads)) as made:
        exchange(made, INNER["b"][0], 2_000_000, (0, 1, 1000))
        told = made.close()
    for end in told.values():
        assert end["counts"]["device_written_packets"] > 100
        assert end["drops"] == {}


def test_what_is_too_big_is_answered_or_cut() -> None:
    def send(address: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
            sock.sendto(bytes(range(250)) * 5, (address, 7001))

    def receive(address: str, ready: int) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 7001))
            sock.settimeout(10)
            os.write(ready, b"r")
            return sock.recv(65536)

    with tunnel(Settings(mtu=1300)) as made:
        ready, say = os.pipe()
        receiving = made.b.start(receive, INNER["b"][0], say)
        os.read(ready, 1)
        # Without DF it is cut, and put together again by the other host.
        made.a.call(send, INNER["b"][0])
        assert receiving.result(10) == bytes(range(250)) * 5
        # With DF the host is told, and cuts for itself from then on.
        assert made.a.ping(INNER["b"][0], octets=1300, timeout=0.3) == [None]
        assert None not in made.a.ping(INNER["b"][0], octets=1300)
        told = made.close()["a"]
    assert told["counts"]["icmp_too_big"] == 1
    assert told["counts"]["slow"] == 2
    assert told["drops"] == {"OUT_TOO_BIG": 1}
    assert told["counts"]["link_sent_packets"] == 4
    assert told["calls"]["engine_dropped_out"] == 0


def test_a_stream_finds_its_way_through_a_narrow_tunnel() -> None:
    # The interface promises more than the SA can carry: super-packets of segments that are too long, all of them.
    with tunnel(Settings(mtu=1360)) as made:
        exchange(made, INNER["b"][0], 300_000)
        exchange(made, INNER["b"][1], 300_000)
        told = made.close()
    assert told["a"]["counts"]["icmp_too_big"] >= 2


def test_what_no_policy_matches_is_decided_by_the_engine() -> None:
    with tunnel(Settings(protect=False)) as made:
        assert made.a.ping(INNER["b"][0], timeout=0.2) == [None]
        told = made.close()["a"]
    slow = told["counts"]["slow"]
    assert slow == told["counts"]["device_read_packets"] >= 1
    assert told["drops"] == {"OUT_DISCARD": slow}


@pytest.mark.parametrize("offloads", [True, False])
def test_what_is_no_esp_of_ours_is_counted_by_name(offloads: bool) -> None:
    spi = struct.pack(">I", SPIS["a"])
    datagrams = {
        b"\xff": "KEEPALIVE",
        b"\xff\xff\xff\xff" + bytes(40): "NO_SA",
        b"short": "TRUNCATED_HEADER",
        spi + struct.pack(">I", 7) + bytes(40): "AUTH",
        spi + struct.pack(">I", 7): "TRUNCATED",
        b"": "TRUNCATED_HEADER",
    }

    with tunnel(Settings(offloads=offloads)) as made:
        with made.a.socket() as stranger:
            for datagram in datagrams:
                stranger.sendto(datagram, (made.b.address, PORT))
            # IKE's marker: nobody here speaks it.
            stranger.sendto(bytes(30), (made.b.address, PORT))
        assert None not in made.a.ping(INNER["b"][0])
        eventually(lambda: made.told("b")["counts"]["slow"] == 1)
        told = made.close()["b"]
    expected: dict[str, int] = {"NOT_FOR_US": 1, "IN_NO_POLICY": 1}
    for reason in datagrams.values():
        expected[reason] = expected.get(reason, 0) + 1
    assert told["drops"] == expected
    assert told["counts"]["link_received_packets"] >= 8


def test_a_tap_sees_both_sides_of_every_packet() -> None:
    with tunnel(b=Settings(tap=1 << 20)) as made:
        assert None not in made.a.ping(INNER["b"][0])
        with made.a.socket() as stranger:
            stranger.sendto(b"\xff\xff\xff\xff" + bytes(40), (made.b.address, PORT))
        assert None not in made.a.ping(INNER["b"][0])
        told = made.close()["b"]
    tapped = [(side, way, bytes.fromhex(packet), reason) for side, way, packet, reason in told["tapped"]]
    assert [one[:2] for one in tapped if one[3] is None and one[2][0] == 0x45][:4] == [
        ("outer", "in"), ("inner", "in"), ("inner", "out"), ("outer", "out"),
    ]  # fmt: skip
    assert [reason for *_, reason in tapped if reason] == ["NO_SA"]
    inner = next(packet for side, way, packet, _ in tapped if (side, way) == ("inner", "out"))
    assert (inner[9], inner[12:20]) == (1, ip_address(INNER["b"][0]).packed + ip_address(INNER["a"][0]).packed)
    outer = next(packet for side, way, packet, _ in tapped if (side, way) == ("outer", "in"))
    assert outer[28:32] == struct.pack(">I", SPIS["a"])


def test_a_tap_that_is_full_counts_what_it_loses() -> None:
    with tunnel(b=Settings(tap=400)) as made:
        made.a.ping(INNER["b"][0], count=5)
        told = made.close()["b"]
    assert told["tapped"]
    assert told["counts"]["tap_lost"] >= 4 * 5 - len(told["tapped"])


def test_a_link_without_a_way_is_told_by_name() -> None:
    with tunnel() as made:
        made.a.interfaces[0].remove_address(f"{made.a.address}/24")
        made.a.ping(INNER["b"][0], timeout=0.2)
        told = made.close()["a"]
    assert told["counts"]["link_unreachable"] >= 1
    check_sums(told)


def test_the_reference_engine_has_no_workers() -> None:
    from wesper.tunnel.native_loop import NativeLoop

    with pair() as lab:

        def refuse() -> str:
            device = open_device("w0", MTU)
            try:
                NativeLoop(open_engine("reference"), device, [])
            except UnsupportedError as error:
                return str(error)
            return ""

        assert "native workers" in lab["a"].call(refuse)


def test_stopping_twice_is_stopping() -> None:
    def run() -> dict[str, int]:
        from wesper.tunnel.native_loop import NativeLoop

        device = open_device("w0", MTU, offloads=True)
        loop = NativeLoop(open_engine("native"), device, [open_link("udp4", ip_address("0.0.0.0"), PORT)])
        loop.start()
        assert list(loop.watch())
        loop.stop(0.01)
        loop.stop(0.01)
        assert len(os.listdir("/proc/self/task")) == 1
        # The workers keep no copy of a descriptor: the interface goes with its device.
        device.close()
        assert "w0" not in [name for _, name in socket.if_nameindex()]
        assert (loop.watch(), loop.tapped()) == ({}, [])
        loop.send(bytes.fromhex("45000014") + bytes(16))
        loop.deliver(bytes.fromhex("45000014") + bytes(16))
        counts = loop.counts()
        assert counts.pop("link_unreachable") == counts.pop("device_down") == 1
        return counts

    with pair() as lab:
        assert set(lab["a"].call(run).values()) == {0}
