"""The interface: both kinds carry the host's packets, and vanish with their process."""

from __future__ import annotations

import os
import select
import signal
import socket
from ipaddress import ip_interface

import pytest

from wesper.errors import ConfigError
from wesper.host.netlink import NETLINK_ROUTE, Netlink
from wesper.host.tun import Device, DeviceKind, open_device
from wesper.lab import Lab
from wesper.protocols import ip

from ..tunnel.ends import eventually

pytestmark = pytest.mark.usefixtures("namespaces")
KINDS = [pytest.param("tun", marks=pytest.mark.needs_tun), "veth"]


def raise_device(kind: DeviceKind, *, offloads: bool = False) -> Device:
    """Make an interface, with the addresses of both versions, and set it up."""
    device = open_device("t0", 1400, kind=kind, offloads=offloads)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as opened:
        netlink = Netlink(opened)
        netlink.set_up("t0")
        for address in map(ip_interface, ("10.9.0.1/24", "fd09::1/64")):
            netlink.add_address("t0", address)
            while not netlink.has_address(address):
                pass
    return device


def next_packet(device: Device, upper: int) -> ip.Datagram:
    """Return the next packet of an upper layer; others (MLD) are passed over."""
    while True:
        assert select.select([device.fd], [], [], 10)[0]
        packet = device.read()
        datagram = ip.parse(packet) if packet else None
        if datagram is not None and datagram.upper == upper:
            return datagram


def exchange(kind: DeviceKind) -> list[bytes]:
    """Send a datagram each way, by IPv4 and IPv6; return what came."""
    device = raise_device(kind)
    came = []
    for family, own, far in ((socket.AF_INET, "10.9.0.1", "10.9.0.2"), (socket.AF_INET6, "fd09::1", "fd09::2")):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((own, 7000))
            sock.sendto(b"out", (far, 7001))
            datagram = next_packet(device, 17)
            came.append(datagram.packet[datagram.upper_at + 8 :])
            header = datagram.header
            assert datagram.packet[datagram.upper_at :][6:8] != b"\0\0" or datagram.version == 4
            header.source, header.destination = header.destination, header.source
            back = bytearray(header.build() + datagram.packet[datagram.upper_at :])
            at = datagram.upper_at
            back[at : at + 4] = (7001).to_bytes(2, "big") + (7000).to_bytes(2, "big")  # the sum stays
            assert device.write(bytes(back)) is None
            sock.settimeout(10)
            came.append(sock.recv(100))
    device.close()
    return came


@pytest.mark.parametrize("kind", KINDS)
def test_packets_go_both_ways(kind: DeviceKind) -> None:
    with Lab() as lab:
        assert lab.host("a").call(exchange, kind) == [b"out"] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_process_leaves_a_name_that_can_be_taken_at_once(kind: DeviceKind) -> None:
    def hold() -> None:
        device = raise_device(kind)
        signal.pause()
        device.close()

    def exists() -> bool:
        return "t0" in [name for _, name in socket.if_nameindex()]

    with Lab() as lab:
        a = lab.host("a")
        for _ in range(3):
            holding = a.start(hold)
            eventually(lambda: a.call(exists))
            holding.kill()
        a.call(exchange, kind)


def test_a_veth_pair_goes_at_once() -> None:
    """Though somebody still holds its far end, as the kernel does while it takes a namespace apart."""

    def names() -> list[str]:
        device = raise_device("veth")
        held = os.dup(device.fd)
        device.close()
        left = [name for _, name in socket.if_nameindex()]
        os.close(held)
        return left

    with Lab() as lab:
        assert lab.host("a").call(names) == ["lo"]


@pytest.mark.parametrize("kind", KINDS)
def test_another_ones_interface_is_left_alone(kind: DeviceKind) -> None:
    def take() -> str:
        try:
            open_device("lo", 1400, kind=kind)
        except ConfigError as error:
            return str(error)
        return ""

    with Lab() as lab:
        assert "there is an interface lo already (expected another name)" in lab.host("a").call(take)


@pytest.mark.parametrize("kind", KINDS)
def test_offloads_bring_super_packets(kind: DeviceKind) -> None:
    def largest() -> tuple[int, bool]:
        device = raise_device(kind, offloads=True)
        assert device.vnet_header
        assert device.ethernet is (kind == "veth")
        assert "tcp" in device.segmentation
        return device.kind == kind, True

    with Lab() as lab:
        assert lab.host("a").call(largest) == (True, True)
