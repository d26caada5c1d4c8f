"""UDP around ESP: the header, the demultiplexer, keepalives, NAT (RFC 3948)."""

from __future__ import annotations

import pytest

from wesper import ConfigError, Delivered, Direction, DropReason, EventKind, Inner, Mode, Profile, UDPEncapsulation

from . import oracle
from .packets import A4, A6, B4, LEFT4, LEFT6, RIGHT4, RIGHT6, TCP, UDP, ipv4, ipv6, patched, tcp, udp
from .pair import OUTER4, OUTER6, SPI, Pair, counts, engine, events, refused, sa

PORTS = UDPEncapsulation(4500, 4500)


@pytest.mark.parametrize("checksum", [None, True, False])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("ports", [(4500, 4500), (4500, 31337), (1701, 4500)])
def test_header(engine_name: str, version: int, ports: tuple[int, int], checksum: bool | None) -> None:
    """Checksum 0 over IPv4 unless wished, computed over IPv6 unless not (RFC 3948 §2.1, esp.md §6.1)."""
    pair = Pair.of(
        engine_name,
        outer=OUTER4 if version == 4 else OUTER6,
        encapsulation=UDPEncapsulation(*ports, checksum=checksum),
    )
    packet = ipv4(b"x", tos=0)
    body = oracle.seal(pair.keys, SPI, 1, True, (1).to_bytes(8, "big"), packet, 4)
    ends = (LEFT4, RIGHT4) if version == 4 else (LEFT6, RIGHT6)
    computed = checksum if checksum is not None else version == 6
    datagram = udp(body, *ports, ends=ends if computed else None)
    protected = pair.protect(packet)
    assert protected[20 if version == 4 else 40 :] == datagram
    assert protected[9 if version == 4 else 6] == UDP
    assert pair.open(protected) == Delivered(packet, pair.in_, 1)
    # RFC 3948 §2.1: receivers must not depend on the checksum.
    again = pair.protect(packet)
    place = (20 if version == 4 else 40) + 6
    assert isinstance(pair.open(again[:place] + b"\x12\x34" + again[place + 2 :]), Delivered)


@pytest.mark.parametrize("mode", [Mode.TRANSPORT, Mode.BEET])
def test_modes(engine_name: str, mode: Mode) -> None:
    pair = Pair.of(engine_name, mode=mode, encapsulation=PORTS, inner=Inner(A4, B4) if mode is Mode.BEET else None)
    packet = ipv4(b"payload", options=b"\x94\x04\0\0")
    protected = pair.protect(packet)
    assert protected[9] == UDP
    assert pair.open(protected) == Delivered(packet, pair.in_, 1)


# The demultiplexer, in the order of esp.md §6.1.


def datagram(data: bytes, **settings: int) -> bytes:
    return ipv4(udp(data, 4500, 4500, **settings), UDP, source=LEFT4, destination=RIGHT4)


def test_keepalive(engine_name: str) -> None:
    """One octet 0xff before any other test; it raises no counter of the kernel's."""
    pair = Pair.of(engine_name, encapsulation=PORTS)
    refused(pair.receiver, datagram(b"\xff"), DropReason.KEEPALIVE, sa=pair.in_)
    refused(pair.receiver, datagram(b"\xff and more", octets=9), DropReason.KEEPALIVE, sa=pair.in_)
    for data in (b"\xfe", b"\xff\xff", b"\xff\xff\xff", b""):
        refused(pair.receiver, datagram(data), DropReason.TRUNCATED_HEADER, sa=pair.in_)


def test_markers_of_other_protocols(engine_name: str) -> None:
    """0 stands in front of IKE (RFC 3948 §2.2), 2 in front of WESP (RFC 5840 §2.1)."""
    pair = Pair.of(engine_name, encapsulation=PORTS)
    for data in (bytes(4), bytes(4) + b"IKE", bytes(40), b"\0\0\0\2", b"\0\0\0\2" + bytes(40)):
        refused(pair.receiver, datagram(data), DropReason.NOT_FOR_US, sa=pair.in_)


@pytest.mark.parametrize("spi", [1, 3, 255, 256, 0xFFFFFFFF])
def test_other_first_words(engine_name: str, spi: int) -> None:
    """Reserved SPIs have no SA; nothing is answered."""
    pair = Pair.of(engine_name, encapsulation=PORTS)
    refused(pair.receiver, datagram(spi.to_bytes(4, "big") + bytes(60)), DropReason.NO_SA, sa=pair.in_)
    for octets in (4, 5, 7):
        short = (spi.to_bytes(4, "big") + bytes(4))[:octets]
        refused(pair.receiver, datagram(short), DropReason.TRUNCATED_HEADER, sa=pair.in_)


def test_udp_length(engine_name: str) -> None:
    """The UDP length counts where it is smaller than the IP payload; larger or below 8 it is wrong (trap 7)."""
    pair = Pair.of(engine_name, encapsulation=PORTS)
    protected = pair.protect()
    octets = len(protected) - 20
    longer = patched(protected + b"trailing", 2, (len(protected) + 8).to_bytes(2, "big"))
    for wrong in (0, 7, octets + 9, 0xFFFF):
        broken = longer[:24] + wrong.to_bytes(2, "big") + longer[26:]
        refused(pair.receiver, broken, DropReason.BAD_IP, sa=pair.in_)
    assert isinstance(pair.open(longer), Delivered)


def test_ports_out_of_range() -> None:
    for ports in ((-1, 4500), (4500, 65536)):
        with pytest.raises(ConfigError, match="_port"):
            UDPEncapsulation(*ports)


def test_ports(engine_name: str) -> None:
    """Only on ports that belong to ESP: 4500, and those of installed SAs for as long as they are."""
    pair = Pair.of(engine_name, encapsulation=UDPEncapsulation(7000, 7001))
    protected = pair.protect()
    elsewhere = protected[:22] + (7002).to_bytes(2, "big") + protected[24:]
    refused(pair.receiver, elsewhere, DropReason.NOT_FOR_US, sa=pair.in_)
    assert isinstance(pair.open(protected), Delivered)
    pair.receiver.remove(pair.in_)
    refused(pair.receiver, pair.protect(), DropReason.NOT_FOR_US)
    listening = engine(engine_name, udp_ports=frozenset({7001}))
    refused(listening, pair.protect(), DropReason.NO_SA)
    for octets in range(8):
        cut = ipv4(protected[20 : 20 + octets], UDP)
        refused(pair.receiver, cut, DropReason.NOT_FOR_US)


@pytest.mark.parametrize("around", [None, PORTS])
def test_encapsulation_mismatch(engine_name: str, around: UDPEncapsulation | None) -> None:
    """XfrmInStateMismatch: ESP in UDP for an SA without, and the other way round."""
    other = PORTS if around is None else None
    pair = Pair.of(engine_name, encapsulation=around, receiver={"encapsulation": other})
    refused(pair.receiver, pair.protect(), DropReason.ENCAP_MISMATCH, sa=pair.in_)


def test_fragments(engine_name: str) -> None:
    """Still a fragment: refused if it could be ours, left alone if its port says it is not."""
    pair = Pair.of(engine_name, encapsulation=PORTS)
    protected = pair.protect()
    refused(pair.receiver, patched(protected, 6, b"\x20\x00"), DropReason.FRAGMENT, sa=pair.in_)
    refused(pair.receiver, patched(protected, 6, b"\x00\x05"), DropReason.FRAGMENT, sa=pair.in_)
    foreign = ipv4(udp(bytes(24), 53, 53), UDP, mf=True)
    refused(pair.receiver, foreign, DropReason.NOT_FOR_US, sa=pair.in_)


# Peers that move (RFC 7296 §2.23).


def from_where(packet: bytes, address: bytes | None = None, port: int | None = None) -> bytes:
    """The packet as a NAT rewrites its source."""
    if address is not None:
        packet = patched(packet, 12, address)
    return packet if port is None else packet[:20] + port.to_bytes(2, "big") + packet[22:]


def moves(pair: Pair) -> list[tuple[bytes, int]]:
    return [(e.address, e.port) for e in events(pair.receiver) if e.kind is EventKind.PEER_MOVED]


def test_peer_moved(engine_name: str) -> None:
    pair = Pair.of(engine_name, encapsulation=PORTS)
    home, away = LEFT4.packed, b"\xc0\x00\x02\x63"
    assert isinstance(pair.open(pair.protect()), Delivered)
    assert moves(pair) == []
    assert isinstance(pair.open(from_where(pair.protect(), port=61000)), Delivered)
    assert moves(pair) == [(home, 61000)]
    assert isinstance(pair.open(from_where(pair.protect(), port=61000)), Delivered)
    assert moves(pair) == []
    assert isinstance(pair.open(from_where(pair.protect(), away, 61000)), Delivered)
    assert moves(pair) == [(away, 61000)]


def test_only_the_newest_packet_moves_the_peer(engine_name: str) -> None:
    """A packet kept back and sent from elsewhere is good, but old; a copy or a forgery is nothing at all."""
    pair = Pair.of(engine_name, encapsulation=PORTS)
    first, second, third = pair.protect(), pair.protect(), pair.protect()
    assert isinstance(pair.open(second), Delivered)
    assert isinstance(pair.open(from_where(first, port=9)), Delivered)
    refused(pair.receiver, from_where(first, port=9), DropReason.REPLAY, sa=pair.in_)
    forged = from_where(third[:-1] + bytes((third[-1] ^ 1,)), port=9)
    refused(pair.receiver, forged, DropReason.AUTH, sa=pair.in_)
    assert moves(pair) == []


def test_peer_that_no_replay_window_guards_stays(engine_name: str) -> None:
    pair = Pair.of(engine_name, encapsulation=PORTS, window=0)
    assert isinstance(pair.open(from_where(pair.protect(), port=9)), Delivered)
    assert moves(pair) == []


def test_raw_esp_from_elsewhere(engine_name: str) -> None:
    """Without UDP there is no NAT mapping to follow; the look-up takes no source (RFC 4303 §3.4.2)."""
    pair = Pair.of(engine_name)
    assert isinstance(pair.open(patched(pair.protect(), 12, b"\x09\x09\x09\x09")), Delivered)
    assert events(pair.receiver) == []


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_checksums_of_transport_mode_are_mended(engine_name: str, kind: int) -> None:
    """RFC 3948 §3.1.2: sender 10.1.0.1 -> 10.2.0.2, a NAT made 203.0.113.9 of it."""
    pair = Pair.of(engine_name, mode=Mode.TRANSPORT, encapsulation=PORTS, inner=Inner(A4, B4))
    build = tcp if kind == TCP else udp
    protected = pair.protect(ipv4(build(b"odd", ends=(A4, B4)), kind))
    translated = from_where(protected, b"\xcb\x00\x71\x09", 40000)
    seen = ipv4(build(b"odd", ends=("203.0.113.9", B4)), kind, source="203.0.113.9")
    assert pair.open(translated) == Delivered(seen, pair.in_, 1)


def test_zero_udp_checksum_stays_zero(engine_name: str) -> None:
    pair = Pair.of(engine_name, mode=Mode.TRANSPORT, encapsulation=PORTS, inner=Inner(A4, B4))
    translated = from_where(pair.protect(ipv4(udp(b"none"), UDP)), b"\xcb\x00\x71\x09", 40000)
    assert pair.open(translated) == Delivered(ipv4(udp(b"none"), UDP, source="203.0.113.9"), pair.in_, 1)


def test_other_protocols_and_short_ones_are_left_alone(engine_name: str) -> None:
    pair = Pair.of(engine_name, mode=Mode.TRANSPORT, encapsulation=PORTS, inner=Inner(A4, B4))
    for data, kind in ((bytes(40), 132), (bytes(17), TCP), (bytes(7), UDP), (b"", UDP)):
        translated = from_where(pair.protect(ipv4(data, kind)), b"\xcb\x00\x71\x09", 40000)
        verdict = pair.open(translated)
        assert isinstance(verdict, Delivered)
        assert verdict.packet == ipv4(data, kind, source="203.0.113.9")


def test_wrong_family_for_nat(engine_name: str) -> None:
    """An IPv6 packet for an SA whose pair is IPv4: the sum of unequal lengths is still a sum; nothing breaks."""
    pair = Pair.of(engine_name, mode=Mode.TRANSPORT, encapsulation=PORTS, inner=Inner(A4, B4))
    packet = ipv6(udp(b"odd", ends=(A6, RIGHT6)), UDP, source=A6, destination=RIGHT6)
    verdict = pair.open(pair.protect(packet))
    assert isinstance(verdict, Delivered)
    assert len(verdict.packet) == len(packet)


def test_ipv4_sa_in_udp_over_ipv6(engine_name: str) -> None:
    """The receiver looks at SPI and protocol only: the same SA by another outer family opens too."""
    pair = Pair.of(engine_name, encapsulation=PORTS)
    body = pair.protect()[28:]
    with counts(pair.receiver):
        verdict = pair.open(ipv6(udp(body, 4500, 4500), UDP))
    assert isinstance(verdict, Delivered)


def test_two_sas_share_a_port(engine_name: str) -> None:
    """The port is left when the last SA on it goes."""
    host = engine(engine_name)
    profile = Profile("aes-gcm-16", outer=OUTER4, encapsulation=UDPEncapsulation(7000, 7000))
    keys = oracle.Keys.of("aes-gcm-16")
    first = host.install(sa(profile, Direction.IN, keys, spi=0x1001))
    second = host.install(sa(profile, Direction.IN, keys, spi=0x1002))
    unknown = ipv4(udp(b"\0\0\x10\x09" + bytes(60), 7000, 7000), UDP)
    refused(host, unknown, DropReason.NO_SA)
    host.remove(first)
    refused(host, unknown, DropReason.NO_SA)
    host.remove(second)
    refused(host, unknown, DropReason.NOT_FOR_US)
