"""Frames from packet sockets through memory shared with the kernel, so that a slow reader loses none to a small buffer.

Constants and layouts: include/uapi/linux/if_packet.h; Documentation/networking/packet_mmap.rst.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from ..protocols.ip import checksum, parse, pseudo_header
from ..wire.link import Ethernet
from ..wire.numbers import TCP, UDP

ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION, _PACKET_IGNORE_OUTGOING = 5, 6, 10, 23
_TPACKET_V2, _TPACKET_V3 = 1, 2
_STATUS_USER, _STATUS_CSUMNOTREADY, _STATUS_VLAN_VALID = 1, 1 << 3, 1 << 4
_SO_ATTACH_FILTER = 26
_ETHERNET = Ethernet.SIZE
_VLAN_TPID = 0x8100
_RING_OCTETS = 8 << 20
_BLOCK_OCTETS = 1 << 20
_BLOCK_MS = 10
_V2_HEADER = struct.Struct("IIIHHIIHH")  # status, len, snaplen, mac, net, sec, nsec, vlan_tci, vlan_tpid
_V3_BLOCK = struct.Struct("IIIII")  # version, offset_to_priv, block_status, num_pkts, offset_to_first_pkt
_V3_HEADER = struct.Struct("IIIIIIHHIIH")  # next, sec, nsec, snaplen, len, status, mac, net, rxhash, tci, tpid


class Frame(NamedTuple):
    """A frame as it would be on a wire: checksums filled in, VLAN tag in its place."""

    timestamp_ns: int
    original_octets: int
    data: bytes


class FrameRing:
    """Single frames as soon as they come, for a forwarder.   Only those that arrive, none that this host sends."""

    def __init__(self, sock: socket.socket, interface: str, mtu: int) -> None:
        self._socket = sock
        slot = 1 << (mtu + 256).bit_length()
        self._slots = _RING_OCTETS // slot
        sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
        blocks = _RING_OCTETS // _BLOCK_OCTETS
        request = struct.pack("IIII", _BLOCK_OCTETS, blocks, slot, self._slots)
        sock.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
        sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._ring = mmap.mmap(sock.fileno(), _RING_OCTETS)
        self._slot_octets, self._next = slot, 0
        self._dropped = 0
        sock.bind((interface, ETH_P_ALL))

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._socket.fileno()

    def frames(self) -> Iterator[bytes]:
        """Yield the frames that have come, at most one round of the ring."""
        ring = self._ring
        for _ in range(self._slots):
            at = self._next * self._slot_octets
            status, _, snap, mac, _, _, _, tci, tpid = _V2_HEADER.unpack_from(ring, at)
            if not status & _STATUS_USER:
                return
            data = ring[at + mac : at + mac + snap]
            struct.pack_into("I", ring, at, 0)
            self._next = (self._next + 1) % self._slots
            yield _as_on_wire(data, status, tci, tpid)

    def overrun(self) -> int:
        """Return how many frames did not fit into the ring so far."""
        self._dropped += struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1]
        return self._dropped


class BlockRing:
    """Frames in blocks, with times, both directions of an interface, for a capture.   snap: octets kept of each."""

    def __init__(self, sock: socket.socket, interface: str, snap: int, ring_octets: int) -> None:
        self._socket = sock
        self._blocks = max(2, ring_octets // _BLOCK_OCTETS)
        sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
        _keep(sock, snap)
        frames = self._blocks * _BLOCK_OCTETS // 2048
        request = struct.pack("IIIIIII", _BLOCK_OCTETS, self._blocks, 2048, frames, _BLOCK_MS, 0, 0)
        sock.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
        self._ring = mmap.mmap(sock.fileno(), self._blocks * _BLOCK_OCTETS)
        self._next = 0
        self._dropped = 0
        sock.bind((interface, ETH_P_ALL))

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._socket.fileno()

    def frames(self) -> Iterator[Frame]:
        """Yield the frames of the blocks that are full or 10 ms old."""
        ring = self._ring
        for _ in range(self._blocks):
            base = self._next * _BLOCK_OCTETS
            _, _, status, count, first = _V3_BLOCK.unpack_from(ring, base)
            if not status & _STATUS_USER:
                return
            at = base + first
            for _ in range(count):
                step, sec, nsec, snap, length, status, mac, _, _, tci, tpid = _V3_HEADER.unpack_from(ring, at)
                if snap < length:  # a sum over a part would be wrong
                    status &= ~_STATUS_CSUMNOTREADY
                data = _as_on_wire(ring[at + mac : at + mac + snap], status, tci, tpid)
                yield Frame(sec * 10**9 + nsec, length + len(data) - snap, data)
                at += step
            struct.pack_into("I", ring, base + 8, 0)
            self._next = (self._next + 1) % self._blocks

    def overrun(self) -> int:
        """Return how many frames did not fit into the ring so far."""
        self._dropped += struct.unpack("III", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 12))[1]
        return self._dropped


def summed(frame: bytes) -> bytes:
    """Do what a network card would have done: the kernel leaves TCP's and UDP's checksums to it, also without one."""
    datagram = parse(frame[_ETHERNET:])
    place = {TCP: 16, UDP: 6}.get(datagram.upper) if datagram is not None else None
    if datagram is None or place is None:
        return frame
    header, segment = datagram.header, bytearray(datagram.packet[datagram.upper_at :])
    segment[place : place + 2] = b"\0\0"
    pseudo = pseudo_header(header.source, header.destination, datagram.upper, len(segment))
    total = checksum(pseudo + segment)
    segment[place : place + 2] = struct.pack(">H", total or (0xFFFF if datagram.upper == UDP else 0))
    return frame[: _ETHERNET + datagram.upper_at] + segment


def _as_on_wire(data: bytes, status: int, tci: int, tpid: int) -> bytes:
    if status & _STATUS_CSUMNOTREADY:
        data = summed(data)
    if status & _STATUS_VLAN_VALID:  # the kernel has taken the tag out of the frame
        data = data[:12] + struct.pack(">HH", tpid or _VLAN_TPID, tci) + data[12:]
    return data


def _keep(sock: socket.socket, octets: int) -> None:
    """Have the kernel copy at most so many octets of each frame: a filter of one instruction, "return octets"."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, octets), 8)  # BPF_RET | BPF_K
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 1, ctypes.addressof(program)))
