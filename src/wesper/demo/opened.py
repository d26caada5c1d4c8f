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
from ..keying import PSPAssociation, PSPKeys, StaticSA, save_keys
from ..keying.esp_sa import NEW_NAMES
from ..pcap import Interface, LinkType, create_capture
from ..pcap.opener import Opener
from ..pcap.psp_opener import PSPOpener
from ..protocols import ip
from ..verdict import DropReason
from ..wire.numbers import UDP
from .wire import packets

_BATCH = 1024
_UDP_HEADER, _ESP_HEADER = 8, 8
_PSP_IV, _PSP_ICV = 8, 16
_TSHARK_FLAGS = ("esp.enable_encryption_decode", "esp.enable_authentication_check")


@dataclass(frozen=True, slots=True)
class Growth:
    """What protection adds to a packet of one length, in octets.   packets: how many there were.

    esp: the header without its IV; PSP's with its cookie.
    """

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

    opened: protected packets that gave an inner one.   dummies: those that were authentic and carried nothing (RFC 4303
    §2.6; PSP's hold nothing).   marked: inner packets that hold the marker.
    dropped: why others did not.   growth: by length of the inner packet.
    """

    opened: int = 0
    dummies: int = 0
    marked: int = 0
    dropped: Counter[DropReason] = field(default_factory=Counter)
    growth: list[Growth] = field(default_factory=list)

    @property
    def authentic(self) -> int:
        """Protected packets that opened, dummies among them."""
        return self.opened + self.dummies


def open_capture_with(
    keys: Sequence[StaticSA] | PSPKeys, source: Path, output: Path, marker: bytes, *, engine: str | None = None
) -> Opened:
    """Open every ESP or PSP packet of a capture and write what was inside as another.   Raises CaptureError."""
    found = Opened()
    sizes: dict[int, tuple[StaticSA | PSPAssociation, bytes, int]] = {}
    opener = PSPOpener(keys, engine) if isinstance(keys, PSPKeys) else Opener(keys, engine)
    with create_capture(output) as out:
        interface = out.add_interface(Interface(LinkType.RAW, name="inner"))
        for batch in _batches(each for each in packets(source) if opener.concerns(each)):
            for outer, each in zip(batch, opener.open(batch), strict=True):
                if each.reason in (DropReason.DUMMY, DropReason.PSP_EMPTY):
                    found.dummies += 1
                    continue
                if each.reason is not None:
                    found.dropped[each.reason] += 1
                    continue
                assert isinstance(each.sa, StaticSA | PSPAssociation)
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


def growth(sa: StaticSA | PSPAssociation, inner: int, outer: bytes, packets_of_it: int = 1) -> Growth:
    """Return where the octets of an outer packet come from.   inner: octets of the packet in it, tunnel mode."""
    datagram = ip.parse(outer)
    if datagram is None:
        raise ValueError("not an IP packet")
    udp = _UDP_HEADER if datagram.upper == UDP else 0
    header, iv, icv = _ESP_HEADER, _PSP_IV, _PSP_ICV
    if isinstance(sa, PSPAssociation):
        header = sa.profile.header_octets - _PSP_IV
    else:
        iv, icv = sa.cipher.iv_octets, sa.cipher.icv_octets
    known = datagram.upper_at + udp + header + iv + icv
    return Growth(
        inner,
        len(datagram.packet),
        datagram.upper_at,
        udp,
        header,
        iv,
        len(datagram.packet) - known - inner,
        icv,
        packets_of_it,
    )
