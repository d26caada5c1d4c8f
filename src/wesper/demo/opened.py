"""The capture of the wire opened with the keys: by wesper, and by tshark where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import WesperError
from ..keying import StaticSA, save_keys
from ..keying.esp_sa import NEW_NAMES
from ..pcap import Interface, LinkType, create_capture
from ..pcap.opener import Opener
from ..protocols import ip
from ..verdict import DropReason
from ..wire.numbers import UDP
from .wire import packets

_BATCH = 1024
_UDP_HEADER, _ESP_HEADER = 8, 8
_TSHARK_FLAGS = ("esp.enable_encryption_decode", "esp.enable_authentication_check")


@dataclass(frozen=True, slots=True)
class Growth:
    """What protection adds to a packet of one length, in octets.   packets: how many there were."""

    inner: int
    outer: int
    ip: int
    udp: int
    esp: int
    iv: int
    trailer: int
    icv: int
    packets: int


@dataclass(slots=True)
class Opened:
    """What was inside.

    opened: ESP packets that gave an inner one.   dummies: those that were authentic and carried nothing (RFC 4303
    §2.6).   marked: inner packets that hold the marker.
    dropped: why others did not.   growth: by length of the inner packet.
    """

    opened: int = 0
    dummies: int = 0
    marked: int = 0
    dropped: Counter[DropReason] = field(default_factory=Counter)
    growth: list[Growth] = field(default_factory=list)

    @property
    def authentic(self) -> int:
        """ESP packets that opened, dummies among them."""
        return self.opened + self.dummies


def open_capture_with(
    sas: Sequence[StaticSA], source: Path, output: Path, marker: bytes, *, engine: str | None = None
) -> Opened:
    """Open every ESP packet of a capture and write what was inside as a capture of its own.   Raises CaptureError."""
    found = Opened()
    sizes: dict[int, tuple[StaticSA, bytes, int]] = {}
    opener = Opener(sas, engine)
    with create_capture(output) as out:
        interface = out.add_interface(Interface(LinkType.RAW, name="inner"))
        for batch in _batches(each for each in packets(source) if opener.concerns(each)):
            for outer, each in zip(batch, opener.open(batch), strict=True):
                if each.reason is DropReason.DUMMY:
                    found.dummies += 1
                    continue
                if each.reason is not None:
                    found.dropped[each.reason] += 1
                    continue
                assert isinstance(each.sa, StaticSA)
                found.opened += 1
                found.marked += marker in each.packet
                out.write(each.packet, 0, interface=interface)
                _, _, count = sizes.get(len(each.packet), (each.sa, outer, 0))
                sizes[len(each.packet)] = each.sa, outer, count + 1
    found.growth = [growth(sa, inner, outer, count) for inner, (sa, outer, count) in sorted(sizes.items())]
    return found


def second_opinion(sas: Sequence[StaticSA], source: Path) -> tuple[int, int] | None:
    """Have tshark open a capture too.

    Returns how many ESP packets it saw and how many it opened; None where there is no tshark, or an SA is of a suite
    that not every tshark knows.   Raises WesperError if it fails.
    """
    tshark = shutil.which("tshark")
    if tshark is None or any(sa.suite in NEW_NAMES for sa in sas):
        return None
    with TemporaryDirectory() as folder:
        left_out = save_keys(sas, Path(folder) / "esp_sa", "esp_sa")
        if left_out:
            return None
        command = [tshark, "-r", str(source), *(word for flag in _TSHARK_FLAGS for word in ("-o", f"{flag}:TRUE"))]
        command += ["-Y", "esp", "-T", "fields", "-e", "esp.icv_good", "-e", "_ws.col.Protocol"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "WIRESHARK_CONFIG_DIR": folder},
        )
    if done.returncode:
        raise WesperError(f"tshark failed: {done.stderr.strip()}")
    lines = done.stdout.splitlines()
    return len(lines), sum(not line.rstrip().endswith("ESP") for line in lines)


def _batches(found: Iterable[bytes]) -> Iterator[list[bytes]]:
    left = iter(found)
    while batch := list(islice(left, _BATCH)):
        yield batch


def growth(sa: StaticSA, inner: int, outer: bytes, packets_of_it: int = 1) -> Growth:
    """Return where the octets of an outer packet come from.   inner: octets of the packet in it, tunnel mode."""
    datagram = ip.parse(outer)
    if datagram is None:
        raise ValueError("not an IP packet")
    udp = _UDP_HEADER if datagram.upper == UDP else 0
    cipher = sa.cipher
    known = datagram.upper_at + udp + _ESP_HEADER + cipher.iv_octets + cipher.icv_octets
    return Growth(
        inner,
        len(datagram.packet),
        datagram.upper_at,
        udp,
        _ESP_HEADER,
        cipher.iv_octets,
        len(datagram.packet) - known - inner,
        cipher.icv_octets,
        packets_of_it,
    )
