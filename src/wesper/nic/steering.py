"""Spreading the datagrams of one UDP port over several sockets, by a field at a fixed place.

A classic BPF program chooses the socket of an SO_REUSEPORT group (Linux 4.5; no privilege). It is written from the
protocol's layout: which octets hold the flow's name, and how the protocol is told from others on that port. All packets
of a flow go to one socket; what is not the protocol's, to the socket that its first word says, as ESP's SPI would.
Source: Linux `Documentation/networking/filter.rst`, socket(7).
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import ConfigError, UnsupportedError
from ..wire.format import Field
from ..wire.ipv4 import IPv4
from ..wire.layout import Layout, places
from ..wire.layouts import LAYOUTS
from ..wire.udp import UDP

SO_ATTACH_REUSEPORT_CBPF: Final = 51
MOST_SOCKETS: Final = 65535

# Operations of classic BPF (linux/filter.h).
_LD_WORD, _LD_HALF, _LD_BYTE, _LD_IND_WORD, _LD_IND_HALF, _LD_IND_BYTE = 0x20, 0x28, 0x30, 0x40, 0x48, 0x50
_AND, _MUL, _RSH, _MOD, _XOR_X, _TAX, _JEQ, _RET_A = 0x54, 0x24, 0x74, 0x94, 0xAC, 0x07, 0x15, 0x16
_LOADS: Final = {1: _LD_BYTE, 2: _LD_HALF, 4: _LD_WORD}
_LOADS_BEHIND: Final = {1: _LD_IND_BYTE, 2: _LD_IND_HALF, 4: _LD_IND_WORD}
_GOLDEN: Final = 0x9E3779B1  # 2^32 over the golden ratio: neighbouring numbers end far apart
_HIGH_HALF: Final = 16

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""


@dataclass(frozen=True, slots=True)
class SteeringPlan:
    """Where a flow's name is, in octets from the start of the UDP payload.

    layout: the protocol.   field: filter name.   octet, octets: where it begins, and how many it has: 1, 2, 4 or 8.
    length_octet: the octet that says how many it has, where that differs; its last 4 are looked at.
    option_type: what the octet in front of that one must be.
    moved_by: the field that says how much further on it stands, if one does: its octet, its mask there, octets for each
    unit, and how many bits stand behind it.
    """

    layout: Layout
    field: str
    octet: int
    octets: int
    length_octet: int | None = None
    option_type: int | None = None
    moved_by: tuple[int, int, int, int] | None = None

    @classmethod
    def of(cls, layout: Layout, field: str) -> SteeringPlan:
        """Find a field.   field: filter name, as eesp.session_id.

        Raises UnsupportedError if it stands neither at a fixed place nor where another field says, ConfigError if there
        is none of that name.
        """
        if layout.udp_port is None:
            raise UnsupportedError(f"steering {layout.name}", "a protocol that goes over UDP")
        by_name = {place.name: place for place in places(layout, 4, True)}
        place = by_name.get(field)
        if place is None:
            raise ConfigError(f"no field {field!r} in {layout.name}", key="field", expected=" or ".join(by_name))
        bit, moved_by = place.bit, None
        if place.shift is not None:
            bit, (at, mask, spare) = place.shift.bit, _bits_of(place.shift.by, place.shift.by_bit)
            moved_by = at, mask, place.shift.octets, spare
        if bit is None:
            raise UnsupportedError(f"steering by {field}", f"a field that can be found; this one is {place.why}")
        octet = bit // 8 - IPv4.SIZE - UDP.SIZE
        if place.only_if and place.field.variable:
            first = next(part.options.first for part in layout.parts if part.options is not None)
            return cls(layout, field, octet, 4, octet - 1, first)
        if bit % 8 or place.field.bits not in (8, 16, 32, 64) or (moved_by and place.field.bits == 64):
            raise UnsupportedError(f"steering by {field}", "a field of 8, 16, 32 or, at a fixed place, 64 whole bits")
        return cls(layout, field, octet, place.field.bits // 8, moved_by=moved_by)


def flow_plans() -> list[SteeringPlan]:
    """Return the plans of all protocols, as the native engine chooses its shards.

    WESPv2's flow identifier, EESP's Session ID, else the SPI; ESP's is what a program looks at without a plan.
    """
    return [
        SteeringPlan.of(LAYOUTS["wespv2"], "wespv2.flow.identifier"),
        SteeringPlan.of(LAYOUTS["wespv2"], "esp.spi"),
        SteeringPlan.of(LAYOUTS["wesp"], "esp.spi"),
        SteeringPlan.of(LAYOUTS["eesp"], "eesp.session_id"),
    ]


def program(plans: SteeringPlan | Sequence[SteeringPlan], sockets: int) -> list[Instruction]:
    """Return the program that chooses among so many sockets, 1..65535, in the order in which they were bound.

    plans: the first whose protocol a packet shows is followed.
    The field's value is multiplied so that also numbers in a row are spread evenly. A packet too short for a load goes
    to the first socket: that is what the kernel makes of it.
    """
    if not 1 <= sockets <= MOST_SOCKETS:
        raise ConfigError(f"{sockets} sockets", key="sockets", expected=f"1..{MOST_SOCKETS}")
    chosen = [(_MUL, 0, 0, _GOLDEN), (_RSH, 0, 0, _HIGH_HALF), (_MOD, 0, 0, sockets), (_RET_A, 0, 0, 0)]
    told: list[Instruction] = []
    for plan in [plans] if isinstance(plans, SteeringPlan) else plans:
        checks, ours = _checks(plan), _load(plan) + chosen
        left = len(ours) + sum(len(check) for check in checks)
        for check in checks:
            left -= len(check)
            *loads, wanted = check
            told += [*loads, (_JEQ, 0, left, wanted[3])]
        told += ours
    return [*told, (_LD_WORD, 0, 0, 0), *chosen]


def attach(sockets: Sequence[socket.socket], plans: SteeringPlan | Sequence[SteeringPlan]) -> None:
    """Give a group of sockets, all bound to one address with SO_REUSEPORT, its program.

    Raises OSError where the kernel has no SO_ATTACH_REUSEPORT_CBPF.
    """
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program(plans, len(sockets)))
    kept = ctypes.create_string_buffer(code, len(code))
    option = struct.pack("@HP", len(code) // 8, ctypes.addressof(kept))
    sockets[0].setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, option)


def _checks(plan: SteeringPlan) -> list[list[Instruction]]:
    """Return loads and, last, what has to come out: marker, the field that tells the protocol, the option's type."""
    layout, checks = plan.layout, []
    if layout.marker:
        checks.append([(_LOADS[len(layout.marker)], 0, 0, 0), (0, 0, 0, int.from_bytes(layout.marker, "big"))])
    if layout.tell is not None:
        name, value = layout.tell
        place = next(p for p in places(layout, 4, True) if p.field.name == name and p.bit is not None)
        assert place.bit is not None
        octet, mask, spare = _bits_of(place.field, place.bit)
        checks.append([(_LD_BYTE, 0, 0, octet), (_AND, 0, 0, mask), (0, 0, 0, value << spare)])
    if plan.option_type is not None and plan.length_octet is not None:
        checks.append([(_LD_BYTE, 0, 0, plan.length_octet - 1), (0, 0, 0, plan.option_type)])
    return checks


def _bits_of(field: Field, bit: int) -> tuple[int, int, int]:
    """Return a field's octet in the UDP payload, its mask there, and how many bits stand behind it."""
    spare = 8 - bit % 8 - field.bits
    return bit // 8 - IPv4.SIZE - UDP.SIZE, (1 << field.bits) - 1 << spare, spare


def _load(plan: SteeringPlan) -> list[Instruction]:
    if plan.moved_by is not None:
        octet, mask, unit, spare = plan.moved_by
        said = [(_LD_BYTE, 0, 0, octet), (_AND, 0, 0, mask), (_RSH, 0, 0, spare), (_MUL, 0, 0, unit)]
        return [*said, (_TAX, 0, 0, 0), (_LOADS_BEHIND[plan.octets], 0, 0, plan.octet)]
    if plan.length_octet is not None:
        return [(_LD_BYTE, 0, 0, plan.length_octet), (_TAX, 0, 0, 0), (_LD_IND_WORD, 0, 0, plan.octet - 4)]
    if plan.octets == 8:
        return [(_LD_WORD, 0, 0, plan.octet), (_TAX, 0, 0, 0), (_LD_WORD, 0, 0, plan.octet + 4), (_XOR_X, 0, 0, 0)]
    return [(_LOADS[plan.octets], 0, 0, plan.octet)]
