"""A PSP packet's walk through the stages of an engine, in the order of `protocols/psp.py`; see `engine/walk.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..engine.walk import Stage, Step, stages_of
from ..engine.walk import look as look_at_ip
from ..protocols import ip
from ..protocols.psp import UDP_HEADER, header_version
from ..sa import Direction
from ..verdict import DropReason
from ..wire.numbers import PROTOCOL_NAMES
from ..wire.psp import PSP, VERSION_NAMES

_RECEIVE, _SEND, _HEADER = "PSP NIC Receive Processing", "PSP NIC Transmit Processing", "PSP Header Version 0"

INBOUND: tuple[Stage, ...] = (
    Stage("ip", "do the lengths of the outer headers add up?", (DropReason.PSP_BAD_IP,), "RFC 791 §3.1, RFC 8200 §3"),
    Stage("demultiplex", "is it UDP to PSP's port?", (DropReason.NOT_FOR_US,), "PSP UDP Header"),
    Stage("fragment", "is it whole?", (DropReason.PSP_FRAGMENT,), _RECEIVE),
    Stage(
        "udp",
        "do UDP's length and checksum fit?",
        (DropReason.PSP_BAD_UDP, DropReason.PSP_CHECKSUM),
        "PSP UDP Header, RFC 768",
    ),
    Stage(
        "header",
        "is it a header of a version that is enabled, with room for what it says?",
        (
            DropReason.PSP_TRUNCATED,
            DropReason.PSP_ALWAYS_ONE,
            DropReason.PSP_VERSION,
            DropReason.PSP_HEADER_LENGTH,
            DropReason.PSP_CRYPT_OFFSET,
        ),
        _HEADER,
    ),
    Stage(
        "key",
        "does the SPI lead to a device key or an association?",
        (DropReason.PSP_SPI, DropReason.PSP_NO_DEVICE_KEY),
        "PSP Key Derivation",
    ),
    Stage("icv", "does the ICV fit?", (DropReason.PSP_AUTH,), _RECEIVE),
    Stage("inside", "does what is inside fit Next Header?", (DropReason.PSP_EMPTY, DropReason.PSP_BAD_INNER), _RECEIVE),
    Stage("ecn", "may the congestion mark outside go inside?", (DropReason.PSP_ECN_DROP,), "RFC 6040 §4.2"),
    Stage("sample", "is it to be delivered, not only sampled?", (DropReason.PSP_SAMPLED,), _RECEIVE),
    Stage(
        "replay", "is its IV fresh, where the association has a rule?", (DropReason.PSP_REPLAY,), "docs/psp.md, Replay"
    ),
)
OUTBOUND: tuple[Stage, ...] = (
    Stage("iv", "is there an IV that was never used?", (DropReason.PSP_OUT_IV,), "PSP IV Generation"),
    Stage("ip", "is it an IP packet?", (DropReason.PSP_OUT_BAD_PACKET,), _SEND),
    Stage(
        "association",
        "is there an association for it, with an SPI that may be and limits not reached?",
        (DropReason.PSP_OUT_NO_KEY, DropReason.PSP_OUT_SPI, DropReason.PSP_OUT_EXPIRED),
        "PSP Security Association",
    ),
    Stage("mode", "does it fit the mode?", (DropReason.PSP_OUT_MODE,), _SEND),
    Stage("offset", "does Crypt Offset end within the payload?", (DropReason.PSP_OUT_CRYPT_OFFSET,), _HEADER),
    Stage("size", "does it fit the path, or may it be cut?", (DropReason.PSP_OUT_TOO_BIG,), _SEND),
)


def walk(direction: Direction, reason: DropReason | None, found: Mapping[str, str] | None = None) -> list[Step]:
    """Return the stages of a packet's walk.   reason: why it was dropped.   found: what is known of it, by stage."""
    return stages_of(INBOUND if direction is Direction.IN else OUTBOUND, reason, found or {})


def look(direction: Direction, packet: bytes) -> dict[str, str]:
    """Return what a packet itself shows, by stage; nothing of it is checked.   packet: from its IP header."""
    datagram = ip.parse(packet)
    if datagram is None or direction is Direction.OUT:
        return look_at_ip(Direction.OUT, packet)
    found = look_at_ip(Direction.OUT, packet)
    body = datagram.packet[datagram.upper_at :]
    if len(body) < UDP_HEADER:
        return found
    ports = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
    found["demultiplex"] = f"UDP, port {ports[0]} to port {ports[1]}"
    found["udp"] = f"{len(body)} octets, {'no checksum' if body[6:8] == bytes(2) else 'with a checksum'}"
    sealed = body[UDP_HEADER:]
    if isinstance(header_version(sealed), DropReason):
        return found
    header = PSP.parse(sealed)
    what = PROTOCOL_NAMES.get(header.next_header, f"protocol {header.next_header}")
    cookie = ", a cookie" if header.cookie_present else ""
    version, offset = VERSION_NAMES[header.version], 4 * header.crypt_offset_words
    found["header"] = f"{version}, Next Header {what}, Crypt Offset {offset} octets{cookie}"
    found["key"] = f"SPI {header.spi:#010x}, which is device key {header.spi >> 31}'s; IV {header.iv:#018x}"
    return found


_GATEWAY_IN: tuple[Stage, ...] = (
    *(
        replace(stage, ends=(*stage.ends, DropReason.IN_NO_POLICY)) if stage.name == "demultiplex" else stage
        for stage in INBOUND
    ),
    Stage(
        "association",
        "is it what its association is for: mode, cookie, traffic?",
        (DropReason.SELECTOR_MISMATCH,),
        "RFC 4301 §5.2",
    ),
)
_GATEWAY_OUT: tuple[Stage, ...] = (
    Stage(
        "policy",
        "does policy want it protected, and is there an association to do it?",
        (DropReason.OUT_DISCARD, DropReason.OUT_NO_SA),
        "RFC 4301 §5.1",
    ),
    *OUTBOUND,
)


def gateway_walk(direction: Direction, reason: DropReason | None, found: Mapping[str, str] | None = None) -> list[Step]:
    """Return the stages of a packet's walk through a gateway.   Arguments as `walk` has them."""
    return stages_of(_GATEWAY_IN if direction is Direction.IN else _GATEWAY_OUT, reason, found or {})
