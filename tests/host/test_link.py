"""The sockets: a whole outer packet in, the same packet out on the other side."""

from __future__ import annotations

import os
import select
from ipaddress import ip_address

import pytest

from wesper.errors import ConfigError
from wesper.host.link import LinkKind, open_link
from wesper.lab import Host, Lab, pair
from wesper.protocols import ip
from wesper.wire.ipv4 import IPv4
from wesper.wire.ipv6 import IPv6
from wesper.wire.udp import UDP

pytestmark = pytest.mark.usefixtures("namespaces")
BODY = b"\x00\x00\x10\x00\x00\x00\x00\x01 what ESP would be"


def outer(kind: LinkKind, source: str, destination: str) -> bytes:
    """Return a packet as an engine makes it: DSCP 10, ECN CE, TTL 33."""
    body, protocol = BODY, 50
    if kind.startswith("udp"):
        body, protocol = UDP(4500, 4501, 8 + len(BODY), 0).build() + BODY, 17
    here, there = ip_address(source).packed, ip_address(destination).packed
    if kind.endswith("4"):
        header = IPv4(
            dscp=10, ecn=3, df=1, ttl=33, protocol=protocol, total_length=20 + len(body), source=here, destination=there
        )
        header.checksum = ip.checksum(header.build())
        return header.build() + body
    return (
        IPv6(
            dscp=10, ecn=3, hop_limit=33, next_header=protocol, payload_length=len(body), source=here, destination=there
        ).build()
        + body
    )


@pytest.mark.parametrize("bound", ["to an address", "to any"])
@pytest.mark.parametrize("kind", ["udp4", "udp6", "raw4", "raw6"])
def test_a_packet_arrives_as_it_was_sent(kind: LinkKind, bound: str) -> None:
    version = int(kind[-1])

    def local(host: Host) -> str:
        return (
            host.interfaces[0].address(version) if bound == "to an address" else ("0.0.0.0" if version == 4 else "::")
        )

    def receive(address: str, ready: int) -> bytes:
        link = open_link(kind, ip_address(address), 4501 if kind.startswith("udp") else 0)
        os.write(ready, b"r")
        assert select.select([link.fd], [], [], 10)[0]
        packet = link.receive()
        assert packet is not None
        assert link.receive() is None
        return packet

    def send(address: str, packet: bytes) -> str | None:
        return open_link(kind, ip_address(address), 4500 if kind.startswith("udp") else 0).send(packet)

    with pair() as lab:
        a, b = lab
        ready, say = os.pipe()
        waiting = b.start(receive, local(b), say)
        assert select.select([ready], [], [], 10)[0], waiting.result(1)
        sent = outer(kind, a.interfaces[0].address(version), b.interfaces[0].address(version))
        assert a.call(send, local(a), sent) is None
        came = ip.parse(waiting.result(10))
    as_sent = ip.parse(sent)
    assert came is not None
    assert as_sent is not None
    for name in ("source", "destination", "dscp", "ecn", "ttl" if version == 4 else "hop_limit"):
        assert getattr(came.header, name) == getattr(as_sent.header, name), name
    assert came.upper == as_sent.upper
    assert came.packet.endswith(BODY)
    if kind.startswith("udp"):
        assert came.packet[came.upper_at : came.upper_at + 6] == as_sent.packet[as_sent.upper_at : as_sent.upper_at + 6]


def test_what_is_wrong_is_said() -> None:
    def tries() -> list[str]:
        said = []
        held = open_link("udp4", ip_address("127.0.0.1"), 4500)
        for address, port in (("192.0.2.77", 4500), ("127.0.0.1", 4500)):
            try:
                open_link("udp4", ip_address(address), port)
            except ConfigError as error:
                said.append(str(error))
        held.close()
        return said

    with Lab() as lab:
        assert lab.host("a").call(tries) == [
            "local: 192.0.2.77 is no address of this host (expected one of `ip address`)",
            "port: UDP port 4500 of 127.0.0.1 is taken (expected a free one)",
        ]


def test_a_packet_that_does_not_fit_is_named() -> None:
    def send(source: str, destination: str) -> list[str | None]:
        link = open_link("udp4", ip_address(source), 4500)
        packet = bytearray(outer("udp4", source, destination))
        whole = bytes(packet) + bytes(2000)
        return [link.send(whole), link.send(outer("udp4", source, "203.0.113.1"))]

    with pair() as lab:
        a, b = lab
        assert a.call(send, a.address, b.address) == ["link_too_big", "link_unreachable"]
