"""What an attacker on the path can send without the keys: packets seen before, changed, invented and cut."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ..lab import Node
from ..protocols import PROTOCOLS, ip
from ..protocols.ip import checksum
from ..verdict import DropReason
from ..wire.numbers import UDP

_UDP_HEADER = 8
_PSP_SPI = 4  # octets into its header
_KEPT = 12  # SPI, number and four octets more: no room for IV, trailer and ICV


@dataclass(frozen=True, slots=True)
class Forgery:
    """Packets of one sort.   how: what was done to them.   reason: why the receiver has to drop every one."""

    how: str
    reason: DropReason
    packets: Sequence[bytes]


def forgeries(seen: Sequence[bytes], unknown_spi: int) -> list[Forgery]:
    """Return forgeries of IPv4 packets with ESP in UDP or without.

    seen: from their IP headers, in the order in which they were sent, all of one SA, and all of them received.
    unknown_spi: one that the receiver has no SA for.
    """
    newest = max(_number(packet) for packet in seen)
    return [
        Forgery("sent again as it was", DropReason.REPLAY, list(seen)),
        Forgery(
            "a number not used yet, and a bit flipped",
            DropReason.AUTH,
            [_with(packet, number=newest + place, flip=True) for place, packet in enumerate(seen, 1)],
        ),
        Forgery("an SPI that nobody has", DropReason.NO_SA, [_with(packet, spi=unknown_spi) for packet in seen]),
        Forgery("cut short", DropReason.TRUNCATED, [_with(packet, keep=_KEPT) for packet in seen]),
    ]


def psp_forgeries(seen: Sequence[bytes], missing_spi: int) -> list[Forgery]:
    """Return forgeries of IPv4 packets with PSP.   Not among them: a packet sent again, which PSP itself lets in.

    missing_spi: one of a device key that the receiver has not.
    """
    return [
        Forgery("a bit flipped", DropReason.PSP_AUTH, [_with(packet, flip=True) for packet in seen]),
        Forgery(
            "an SPI of a device key that is not there",
            DropReason.PSP_NO_DEVICE_KEY,
            [_with(packet, spi=missing_spi, spi_at=_PSP_SPI) for packet in seen],
        ),
        Forgery("cut short", DropReason.PSP_TRUNCATED, [_with(packet, keep=_KEPT) for packet in seen]),
    ]


def send(node: Node, packets: Sequence[bytes]) -> None:
    """Send IPv4 packets as they are, whoever they say they come from."""
    with node.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for packet in packets:
            sock.sendto(packet, (str(ip.address(packet[16:20])), 0))


def _esp_at(packet: bytes) -> int:
    datagram = ip.parse(packet)
    if datagram is None or datagram.version != 4:
        raise ValueError("not a whole IPv4 packet")
    return datagram.upper_at + (_UDP_HEADER if datagram.upper == UDP else 0)


def _number(packet: bytes) -> int:
    located = PROTOCOLS["esp"].locate(packet[_esp_at(packet) :])
    if isinstance(located, DropReason) or located.low is None:
        raise ValueError("not ESP")
    return located.low


def _with(
    packet: bytes,
    *,
    spi: int | None = None,
    spi_at: int = 0,
    number: int | None = None,
    flip: bool = False,
    keep: int | None = None,
) -> bytes:
    """Return a packet with other fields, its lengths and its IP checksum put right."""
    at = _esp_at(packet)
    body = bytearray(packet[at:] if keep is None else packet[at : at + keep])
    if spi is not None:
        body[spi_at : spi_at + 4] = spi.to_bytes(4, "big")
    if number is not None:
        body[4:8] = (number & 0xFFFFFFFF).to_bytes(4, "big")
    if flip:
        body[-1] ^= 1
    head = bytearray(packet[:at])
    if head[9] == UDP:
        head[-4:] = struct.pack(">HH", _UDP_HEADER + len(body), 0)  # no checksum, as RFC 3948 §2.1 has it
    head[2:4] = (len(head) + len(body)).to_bytes(2, "big")
    head[10:12] = b"\0\0"
    options = 4 * (head[0] & 15)
    head[10:12] = checksum(bytes(head[:options])).to_bytes(2, "big")
    return bytes(head + body)
