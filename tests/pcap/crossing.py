"""Captures in memory on their way through decryption and encryption, and ESP packets that no engine made."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from wesper.keying import Encapsulated, StaticSA
from wesper.pcap import Block, Capture, Interface, LinkType, Record, create_capture, open_capture
from wesper.pcap.batch import Batches
from wesper.pcap.decrypt import decrypt
from wesper.pcap.encrypt import encrypt
from wesper.pcap.tally import Tally
from wesper.sa import AddressRange, Mode

from ..engine import oracle
from ..engine.packets import LEFT4, RIGHT4, ipv4

SPI = 0x1000
SECOND = 1_000_000_000


def static_sa(suite: str = "aes-gcm-16", **settings: Any) -> StaticSA:
    """An SA from LEFT4 to RIGHT4, as the sender's key file has it."""
    keys = oracle.Keys.of(suite)
    ends = {"local": AddressRange.parse(str(LEFT4)), "remote": AddressRange.parse(str(RIGHT4))}
    given = {"esn": False, **ends, **settings}
    return StaticSA(suite, given.pop("spi", SPI), keys.key, keys.salt, keys.auth_key, **given)


def open_sa(suite: str = "aes-gcm-16", **settings: Any) -> StaticSA:
    """An SA as a line of esp_sa tells it: neither mode nor UDP."""
    return static_sa(suite, mode=None, encapsulation=Encapsulated.AS_SEEN, **settings)


def sealed(
    payload: bytes,
    next_header: int = 4,
    sequence: int = 1,
    *,
    suite: str = "aes-gcm-16",
    spi: int = SPI,
    esn: bool = False,
    **header: Any,
) -> bytes:
    """An ESP packet of static_sa's SA, sealed by the tests' oracle."""
    iv = sequence.to_bytes(16, "big")[-oracle.SUITES[suite].iv or 16 :]
    body = oracle.seal(oracle.Keys.of(suite), spi, sequence, esn, iv, payload, next_header)
    return ipv4(body, 50, **{"source": LEFT4, "destination": RIGHT4, **header})


def captured(
    packets: Iterable[bytes], link_type: int = LinkType.RAW, form: Any = "pcapng", step_ns: int = SECOND, cut: int = 0
) -> bytes:
    """A capture of packets, a second apart.   cut: octets that the capture left out of each."""
    file = io.BytesIO()
    with create_capture(file, format=form) as out:
        interface = out.add_interface(Interface(link_type, name="eth0"))
        for number, packet in enumerate(packets):
            kept = packet[: len(packet) - cut]
            out.write(kept, number * step_ns, interface=interface, original_octets=len(packet))
    return file.getvalue()


@dataclass
class Crossed:
    """What came out."""

    capture: Capture
    records: list[Record]
    blocks: list[Block]
    tally: Tally

    @property
    def inner(self) -> list[bytes]:
        """Packets of the interface that decryption adds."""
        return [r.data for r in self.records if self.capture.interfaces[r.interface].name == "wesper"]


def decrypted(octets: bytes, sas: list[StaticSA], engine: str, form: Any = "pcapng", **settings: Any) -> Crossed:
    return _crossed(decrypt, octets, sas, engine, form, **settings)


def encrypted(octets: bytes, sas: list[StaticSA], engine: str, form: Any = "pcapng", **settings: Any) -> Crossed:
    return _crossed(encrypt, octets, sas, engine, form, **settings)


def _crossed(run: Any, octets: bytes, sas: list[StaticSA], engine: str, form: Any, **settings: Any) -> Crossed:
    file, tally = io.BytesIO(), Tally()

    def truncated(error: Exception) -> None:
        tally.truncated = str(error)

    with Batches(io.BytesIO(octets), truncated) as batches, create_capture(file, format=form) as out:
        run(batches, out, sas, tally, engine=engine, **settings)
    blocks: list[Block] = []
    capture = open_capture(io.BytesIO(file.getvalue()), on_block=blocks.append)
    return Crossed(capture, list(capture), blocks, tally)


def other_end(sa: StaticSA) -> StaticSA:
    """The SA as the receiver's key file has it."""
    turned = replace(sa, direction=type(sa.direction)("in"), local=sa.remote, remote=sa.local)
    return replace(turned, mode=sa.mode or Mode.TUNNEL)
