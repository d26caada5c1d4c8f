"""What an attacker on the path can send without the keys: packets seen before, changed, invented and cut."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from ..lab import Node
from ..protocols import ip
from ..protocols.ip import checksum
from ..verdict import DropReason
from ..wire.format import Header
from ..wire.layouts import LAYOUTS
from ..wire.numbers import UDP
from .wire import carried

_KEPT = 12  # octets of a protocol's header: no room for IV, trailer and ICV
_MOST_WORDS = 63  # of a crypt offset


@dataclass(frozen=True, slots=True)
class Forgery:
    """Packets of one sort.   how: what was done to them.   reason: why the receiver has to drop every one."""

    how: str
    reason: DropReason
    packets: Sequence[bytes]


def forgeries(protocol: str, seen: Sequence[bytes], unknown_spi: int) -> list[Forgery]:
    """Return forgeries of a protocol's IPv4 packets, in UDP or not.

    seen: from their IP headers, in the order in which they were sent, all of one SA, and all of them received.
    unknown_spi: one that the receiver has no SA for; with PSP, one of a device key that it has not.
    """
    match protocol:
        case "esp":
            return [
                Forgery("sent again as it was", DropReason.REPLAY, list(seen)),
                Forgery(
                    "a number not used yet, and a bit flipped",
                    DropReason.AUTH,
                    [_with(packet, {"sequence": number}, flip=True) for packet, number in _renumbered(seen)],
                ),
                Forgery(
                    "an SPI that nobody has", DropReason.NO_SA, [_with(each, {"spi": unknown_spi}) for each in seen]
                ),
                Forgery("cut short", DropReason.TRUNCATED, [_with(packet, keep=_KEPT) for packet in seen]),
            ]
        case "psp":  # a packet sent again is not among them: PSP itself lets it in
            return [
                Forgery("a bit flipped", DropReason.PSP_AUTH, [_with(packet, flip=True) for packet in seen]),
                Forgery(
                    "an SPI of a device key that is not there",
                    DropReason.PSP_NO_DEVICE_KEY,
                    [_with(packet, {"spi": unknown_spi}) for packet in seen],
                ),
                Forgery("cut short", DropReason.PSP_TRUNCATED, [_with(packet, keep=_KEPT) for packet in seen]),
            ]
        case "wesp":  # no ICV covers its header: the receiver compares it with what the SA says
            return [
                Forgery(
                    "a header that says that nothing is encrypted",
                    DropReason.BAD_ENCRYPTED_BIT,
                    [_with(packet, {"wesp.encrypted": 0}) for packet in seen],
                )
            ]
        case "wespv2":
            return [
                _another_name("another flow identifier", "wespv2.flow.identifier", seen),
                Forgery(
                    "more in the clear than was agreed on",
                    DropReason.BAD_CRYPT_OFFSET,
                    [_with(packet, {"wespv2.cryptoffset": _MOST_WORDS}) for packet in seen],
                ),
            ]
        case "eesp":
            return [_another_name("another Session ID", "eesp.session_id", seen)]
    return []


def send(node: Node, packets: Sequence[bytes]) -> None:
    """Send IPv4 packets as they are, whoever they say they come from."""
    with node.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for packet in packets:
            sock.sendto(packet, (str(ip.address(packet[16:20])), 0))


def _another_name(how: str, field: str, seen: Sequence[bytes]) -> Forgery:
    """Give each packet a flow's name that is not its own, and a number not used yet, or it would be a replay."""
    made = []
    for packet, number in _renumbered(seen):
        name = _value(packet, field) ^ 1
        made.append(_with(packet, {field: name, "sequence": number}))
    return Forgery(how, DropReason.AUTH, made)


def _renumbered(seen: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield each packet with a sequence number not used yet."""
    yield from zip(seen, count(1 + max(_value(packet, "sequence") for packet in seen)), strict=False)


def _split(packet: bytes) -> tuple[bytearray, bytes, str]:
    """Return what stands before a protocol's first octet, the rest, and the protocol."""
    datagram = ip.parse(packet)
    if datagram is None or datagram.version != 4:
        raise ValueError("not a whole IPv4 packet")
    found = carried(datagram)
    if isinstance(found, DropReason):
        raise ValueError("of no protocol that protects")
    at = len(datagram.packet) - len(found[1])
    return bytearray(packet[:at]), found[1], found[0]


def _headers(protocol: str, body: bytes) -> Iterator[tuple[Header, int]]:
    """Yield the headers that a packet shows, and the first option if senders have one in front, each with its place."""
    at = 0
    for part in LAYOUTS[protocol].parts:
        open_lengths = {
            f.name: part.negotiated.get(f.name, 0) for f in part.header.FIELDS if f.variable and not f.length
        }
        header = part.header.parse(body, at, **open_lengths)
        yield header, at
        if part.options is not None and part.options.first is not None:
            yield part.options.known[part.options.first].parse(body, at + header.SIZE), at + header.SIZE
        at += len(header)


def _place(protocol: str, body: bytes, name: str) -> tuple[int, int]:
    """Return first bit and width of a field.   name: as in filters, or without its prefix."""
    for header, at in _headers(protocol, body):
        for field, _, first, width in header.walk():
            if name in (field.wire_name, f"{header.NAME}.{field.wire_name}"):
                return 8 * at + first, width
    raise ValueError(f"no field {name} in {protocol}")


def _value(packet: bytes, name: str) -> int:
    _, body, protocol = _split(packet)
    first, width = _place(protocol, body, name)
    return int.from_bytes(body, "big") >> (8 * len(body) - first - width) & ((1 << width) - 1)


def _with(
    packet: bytes, changes: Mapping[str, int] | None = None, *, flip: bool = False, keep: int | None = None
) -> bytes:
    """Return a packet with other fields, lengths and IP checksum put right.

    changes: values by name; one too large for its field loses its high bits.   flip: the last bit.
    keep: octets of the protocol.
    """
    head, body, protocol = _split(packet)
    for name, value in (changes or {}).items():
        first, width = _place(protocol, body, name)
        spare = 8 * len(body) - first - width
        mask = (1 << width) - 1
        whole = int.from_bytes(body, "big") & ~(mask << spare) | (value & mask) << spare
        body = whole.to_bytes(len(body), "big")
    body = body[:keep]
    if flip:
        body = body[:-1] + bytes([body[-1] ^ 1])
    options = 4 * (head[0] & 15)
    if head[9] == UDP:
        octets = len(head) - options + len(body)
        head[options + 4 : options + 8] = struct.pack(">HH", octets, 0)  # no checksum, as RFC 3948 §2.1 has it
    head[2:4] = (len(head) + len(body)).to_bytes(2, "big")
    head[10:12] = b"\0\0"
    head[10:12] = checksum(bytes(head[:options])).to_bytes(2, "big")
    return bytes(head + body)
