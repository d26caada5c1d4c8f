"""PSP packets opened with the associations and device keys of a key file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .. import psp
from ..crypto.psp import VERSIONS
from ..engine import Packets
from ..keying import PSPAssociation, PSPDevice, PSPKeys
from ..protocols import ip
from ..protocols import psp as protocol
from ..protocols.ip import IPAddress
from ..protocols.psp import FIXED, UDP_HEADER
from ..verdict import PSP_COUNTERS, REASON_BY_CODE, DropReason
from ..wire.numbers import UDP
from ..wire.psp import ICV, VERSION_NAMES
from .opened import Opened

_TRY_ANOTHER = frozenset((DropReason.PSP_AUTH, DropReason.PSP_NO_DEVICE_KEY))
_FAILED = frozenset(("rx_auth_fail", "rx_error", "rx_bad"))


@dataclass(slots=True)
class _Device:
    """A receiver of the file, with an engine that has its keys."""

    device: PSPDevice
    engine: psp.Engine


class PSPOpener:
    """Opens PSP packets in batches, statelessly: nothing is kept of a packet but counts.

    Associations of the packet's SPI, version and addresses are tried first, then devices that the packet is for, one
    after another: an SPI comes again when its device has rotated twice.   verify_checksum: of UDP, where there is one.
    """

    def __init__(self, keys: PSPKeys, engine: str | None = None, *, verify_checksum: bool = True) -> None:
        self._ports = keys.ports
        self._by_spi: dict[int, list[PSPAssociation]] = {}
        for each in keys.associations:
            self._by_spi.setdefault(each.spi, []).append(each)
        self._verify_checksum = verify_checksum
        self._crypto = psp.open_engine(engine)
        self._devices = []
        for device in keys.devices:
            opened = psp.open_engine(engine, psp.Options(port=device.port, verify_checksum=verify_checksum))
            for slot, key in enumerate(device.keys):
                opened.set_device_key(slot, key)
            self._devices.append(_Device(device, opened))
        self._counts: Counter[str] = Counter()

    def concerns(self, packet: bytes) -> bool:
        """Whether a packet, which need not be whole, goes to a port of PSP's."""
        return destination_port(packet) in self._ports

    def open(self, packets: Sequence[bytes]) -> list[Opened]:
        """Open packets that concern PSP, in order.   packets: from their IP headers, reassembled."""
        done = [Opened(DropReason.PSP_NO_DEVICE_KEY)] * len(packets)
        left = list(range(len(packets)))
        if self._by_spi:
            left = [place for place in left if not self._open_alone(packets[place], place, done)]
        for each in self._devices:
            if left:
                left = self._open_by(each, packets, left, done)
        for packet, opened in zip(packets, done, strict=True):
            self._count(packet, opened)
        return done

    def find(self, packet: bytes) -> PSPAssociation | PSPDevice | None:
        """Return the association or else the device that a packet names, None if there is none."""
        datagram = ip.parse(packet)
        port = destination_port(packet)
        if datagram is None or port is None:
            return None
        body = datagram.packet[datagram.upper_at + UDP_HEADER :]
        header = datagram.header
        ends = ip.address(header.source), ip.address(header.destination)
        if len(body) >= FIXED:
            spi, code = int.from_bytes(body[4:8], "big"), body[3] >> 2 & 15
            for association in self._associations(spi, code, *ends, port):
                return association
        return next((each.device for each in self._devices if each.device.receives(ends[1], port)), None)

    def counters(self) -> dict[str, int]:
        """Return PSP's statistics of all that was opened, by the kernel's names."""
        return dict.fromkeys(PSP_COUNTERS, 0) | dict(self._counts)

    def _associations(
        self, spi: int, version: int, source: IPAddress, destination: IPAddress, port: int
    ) -> Iterator[PSPAssociation]:
        for each in self._by_spi.get(spi, ()):
            if each.carries(spi, version, source, destination, port):
                yield each

    def _open_alone(self, packet: bytes, place: int, done: list[Opened]) -> bool:
        """Try the associations of a packet.   Returns whether that has settled what becomes of the packet."""
        port = destination_port(packet)
        assert port is not None  # or it would not concern PSP
        located = protocol.locate(VERSIONS, port, self._verify_checksum, packet)
        if isinstance(located, DropReason):
            done[place] = Opened(located)
            return True
        header = located.datagram.header
        ends = ip.address(header.source), ip.address(header.destination)
        for association in self._associations(located.spi, located.version.code, *ends, port):
            clear = self._crypto.open(association.key, located.sealed)
            if clear is None:
                done[place] = Opened(DropReason.PSP_AUTH)
                continue
            released = protocol.release(located, clear)
            done[place] = Opened(
                released.reason,
                released.packet,
                association,
                located.spi,
                released.iv,
                association.suite,
                sampled=released.sample,
            )
            return True
        return False

    def _open_by(self, by: _Device, packets: Sequence[bytes], left: list[int], done: list[Opened]) -> list[int]:
        """Open with one device's keys.   Returns the places of packets that another device may still open."""
        theirs = [place for place in left if self._is_for(by.device, packets[place])]
        received = by.engine.decapsulate_many(Packets.of(packets[place] for place in theirs))
        codes, spis, ivs = received.codes.tolist(), received.spis.tolist(), received.ivs.tolist()
        versions, sampled = received.versions.tolist(), received.sampled.tolist()
        settled = set()
        for index, place in enumerate(theirs):
            reason = REASON_BY_CODE[codes[index]] if codes[index] else None
            if reason in _TRY_ANOTHER:
                if done[place].reason is not DropReason.PSP_AUTH:  # a key that was there and did not fit says more
                    done[place] = Opened(reason)
                continue
            settled.add(place)
            suite = VERSION_NAMES[versions[index]] if received.flags[index] else ""
            done[place] = Opened(
                reason, received.packets[index], by.device, spis[index], ivs[index], suite, sampled=sampled[index]
            )
        return [place for place in left if place not in settled]

    def _is_for(self, device: PSPDevice, packet: bytes) -> bool:
        port = destination_port(packet)
        if device.address is None:
            return port == device.port
        ends = destination(packet)
        return ends is not None and port is not None and device.receives(ends, port)

    def _count(self, packet: bytes, opened: Opened) -> None:
        """Count as an engine does, a packet once, however many keys were tried."""
        reason = opened.reason
        if opened.sa is not None and opened.suite:
            _, at, _ = _upper(packet)  # it was authentic, so UDP's length is right
            self._counts["rx_packets"] += 1
            self._counts["rx_bytes"] += (packet[at + 4] << 8 | packet[at + 5]) - UDP_HEADER - FIXED - ICV
        if reason is not None and reason.counter:
            self._counts[reason.counter] += 1
            if reason.counter in _FAILED:
                self._counts[f"{reason.counter}_bytes"] += len(packet)


def destination_port(packet: bytes) -> int | None:
    """Return the UDP destination port of a packet, which need not be whole; None if it shows none.

    A fragment that is not the first shows none.
    """
    upper, at, first = _upper(packet)
    return packet[at + 2] << 8 | packet[at + 3] if upper == UDP and first and at + 4 <= len(packet) else None


def destination(packet: bytes) -> IPAddress | None:
    """Return the address that a packet goes to, None if it shows none."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        return ip.address(packet[16:20])
    return ip.address(packet[24:40]) if len(packet) >= 40 and packet[0] >> 4 == 6 else None


def _upper(packet: bytes) -> tuple[int, int, bool]:
    """Return protocol and place of what is behind the IP headers, and whether it begins there."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        return packet[9], 4 * (packet[0] & 15), not (packet[6] & 0x1F or packet[7])
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        if packet[6] == UDP:
            return UDP, 40, True
        datagram = ip.parse(packet)
        if datagram is not None:
            return datagram.upper, datagram.upper_at, not datagram.offset
    return -1, 0, False


__all__ = ["PSPOpener", "destination", "destination_port"]
