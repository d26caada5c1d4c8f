"""PSP's packets on both engines: octets against a second writing here, header rules, and each reason to drop one."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given
from hypothesis import strategies as st

from wesper import psp
from wesper.errors import ConfigError
from wesper.protocols import ip
from wesper.protocols.modes import DF, Mode, Outer
from wesper.vectors.ip_packets import ip_packet
from wesper.verdict import Dropped, DropReason

from .conftest import KEYS, open_with_keys
from .packets import A4, A6, B4, B6, HOSTS, rebuilt, udp

IV = 0x1122334455667788
OUTER = {4: Outer(ip_address("203.0.113.1"), ip_address("203.0.113.2")), 6: Outer(A6, B6)}
XOR = psp.SourcePort.XOR


def cmac(key: bytes, block: bytes) -> bytes:
    mac = CMAC(algorithms.AES(key))
    mac.update(block)
    return mac.finalize()


def second_writing(profile: psp.Profile, spi: int, next_header: int, payload: bytes) -> bytes:
    """Return PSP header to ICV, written again from the specification."""
    bits = 256 if profile.version & 1 else 128
    label = (b"Pv0\0", b"Pv1\0", b"Pv2\0", b"Pv3\0")[profile.version]
    blocks = [struct.pack(">I4sII", i, label, spi, bits) for i in range(1, bits // 128 + 1)]
    key = b"".join(cmac(KEYS[spi >> 31], block) for block in blocks)
    extension = (profile.cookie or b"") + profile.extension
    octet3 = profile.sample << 7 | profile.drop << 6 | profile.version << 2 | (profile.cookie is not None) << 1 | 1
    octet2 = profile.reserved << 6 | profile.crypt_offset_words
    head = struct.pack(">BBBBIQ", next_header, 1 + len(extension) // 8, octet2, octet3, spi, IV)
    body = extension + payload
    clear = len(body) if profile.version >= 2 else 4 * profile.crypt_offset_words
    return head + body[:clear] + AESGCM(key).encrypt(head[4:16], body[clear:], head + body[:clear])


def protect(engine: psp.Engine, profile: psp.Profile, packet: bytes, spi: int = 0x80000007) -> bytes | Dropped:
    return engine.encapsulate(profile, packet, spi, engine.derive_key(spi, profile.version), IV)


def sent(engine: psp.Engine, profile: psp.Profile, packet: bytes = udp(), spi: int = 0x80000007) -> bytes:
    made = protect(engine, profile, packet, spi)
    assert isinstance(made, bytes), made
    return made


def opened(engine: psp.Engine, packet: bytes) -> psp.Opened:
    found = engine.decapsulate(packet)
    assert isinstance(found, psp.Opened), found
    return found


@pytest.mark.parametrize("version", range(4))
@pytest.mark.parametrize("spi", [1, 0x7FFFFFFF, 0x80000001, 0xFFFFFFFF])
def test_transport_octets(engine: psp.Engine, version: int, spi: int) -> None:
    profile = psp.Profile(version=version, source_port=XOR)
    packet = udp()
    made = sent(engine, profile, packet, spi)
    body = second_writing(profile, spi, 17, packet[20:])
    assert made[28:] == body
    assert made[20:28] == struct.pack(">HHHH", 40001 ^ 53, 1000, 8 + len(body), 0)
    assert made[:20] == rebuilt(packet[:20], total_length=28 + len(body), protocol=17)
    assert opened(engine, made).packet == packet


@pytest.mark.parametrize("words", [0, 1, 2, 3, 5, 8])
@pytest.mark.parametrize("cookie", [None, b"cookie!!"])
@pytest.mark.parametrize("extension", [b"", b"8 octets"])
def test_crypt_offset_counts_from_the_end_of_the_iv(
    engine: psp.Engine, words: int, cookie: bytes | None, extension: bytes
) -> None:
    profile = psp.Profile(Mode.TUNNEL, 1, words, cookie, extension, OUTER[4], source_port=XOR)
    made = sent(engine, profile)
    assert made[28:] == second_writing(profile, 0x80000007, 4, udp())
    plain = (cookie or b"") + extension + udp()
    assert made[44 : 44 + 4 * words] == plain[: 4 * words]
    if cookie is not None and words < 2:
        assert cookie[4 * words :] not in made  # the cookie is inside the counted region
    found = opened(engine, made)
    assert (found.packet, found.cookie, found.extension) == (udp(), cookie, extension)


@pytest.mark.parametrize("outside", [4, 6])
@pytest.mark.parametrize("inside", [4, 6])
def test_tunnel_between_families(engine: psp.Engine, outside: int, inside: int) -> None:
    profile = psp.Profile(Mode.TUNNEL, outer=OUTER[outside])
    packet = udp(inside)
    made = sent(engine, profile, packet)
    head = 20 if outside == 4 else 40
    assert made[head + 8 :] == second_writing(profile, 0x80000007, 4 if inside == 4 else 41, packet)
    assert len(made) == len(packet) + {4: 60, 6: 80}[outside]  # the specification's overhead
    assert opened(engine, made).packet == packet


def test_transport_overhead_is_that_of_the_specification(engine: psp.Engine) -> None:
    assert len(sent(engine, psp.Profile())) - len(udp()) == 40
    assert len(sent(engine, psp.Profile(cookie=bytes(8)))) - len(udp()) == 48


def test_outer_header_of_a_tunnel(engine: psp.Engine) -> None:
    inner = rebuilt(udp(), dscp=46, ecn=2, ttl=7)
    header = ip.parse(sent(engine, psp.Profile(Mode.TUNNEL, outer=OUTER[4]), inner)).header  # type: ignore[union-attr]
    assert (header.dscp, header.ecn, header.ttl, header.df) == (46, 2, 64, 0)  # type: ignore[union-attr]
    own = replace(OUTER[4], dscp=0, copy_ecn=False, hop_limit=9, df=DF.SET)
    header = ip.parse(sent(engine, psp.Profile(Mode.TUNNEL, outer=own), inner)).header  # type: ignore[union-attr]
    assert (header.dscp, header.ecn, header.ttl, header.df, header.identification) == (0, 0, 9, 1, 0)  # type: ignore[union-attr]
    made = sent(engine, psp.Profile(Mode.TUNNEL, outer=OUTER[6]))
    assert int.from_bytes(made[1:4], "big") & 0xFFFFF  # from the flow's hash
    fixed = sent(engine, psp.Profile(Mode.TUNNEL, outer=replace(OUTER[6], flow_label=0x12345)))
    assert int.from_bytes(fixed[1:4], "big") & 0xFFFFF == 0x12345


def test_congestion_marks_come_in_as_rfc_6040_has_it(engine: psp.Engine) -> None:
    profile = psp.Profile(Mode.TUNNEL, outer=OUTER[4])
    capable = rebuilt(udp(), ecn=2)
    marked = rebuilt(sent(engine, profile, capable), ecn=3)
    assert opened(engine, marked).packet == rebuilt(capable, ecn=3)
    unable = rebuilt(sent(engine, profile), ecn=3)
    assert engine.decapsulate(unable) == Dropped(DropReason.PSP_ECN_DROP)
    # Transport mode has the one header, and its TTL as it came.
    travelled = rebuilt(sent(engine, psp.Profile()), ecn=3, ttl=3)
    assert opened(engine, travelled).packet == rebuilt(udp(), ecn=3, ttl=3)


def port(packet: bytes) -> int:
    return int.from_bytes(packet[20:22], "big")


def test_source_ports(engine: psp.Engine) -> None:
    flows = [udp(source=source) for source in range(2000, 2064)]
    ports = {port(sent(engine, psp.Profile(), flow)) for flow in flows}
    assert len(ports) > 60  # entropy for ECMP
    assert all(49152 <= number <= 65535 for number in ports)
    for flow in flows[:4]:
        assert port(sent(engine, psp.Profile(), flow)) == port(sent(engine, psp.Profile(cookie=bytes(8)), flow))
    assert port(sent(engine, psp.Profile(source_port=psp.SourcePort.FIXED, ports=(5555,)))) == 5555
    table = tuple(range(3000, 3016))
    chosen = [port(sent(engine, psp.Profile(source_port=psp.SourcePort.TABLE, ports=table), flow)) for flow in flows]
    assert set(chosen) == set(table)
    assert port(sent(engine, psp.Profile(source_port=XOR), udp(source=5, destination=5))) == 0
    echo = ip_packet(A4, B4, bytes(8), protocol=1)
    assert port(sent(engine, psp.Profile(source_port=XOR), echo)) == 1000
    other = psp.open_engine(engine.name, psp.Options(hash_key=bytes(15) + b"\1"))
    assert port(other.encapsulate(psp.Profile(), udp(), 1, bytes(16), 1)) != port(sent(engine, psp.Profile()))  # type: ignore[arg-type]


def test_fragments_of_a_datagram_stay_together_in_a_tunnel(engine: psp.Engine) -> None:
    first = rebuilt(udp(payload=b"x" * 16), mf=1)
    last = rebuilt(ip_packet(A4, B4, b"y" * 8, protocol=17), fragment_offset=3)
    profile = psp.Profile(Mode.TUNNEL, outer=OUTER[4])
    assert port(sent(engine, profile, first)) == port(sent(engine, profile, last))
    assert opened(engine, sent(engine, profile, last)).packet == last
    for fragment in (first, last):
        assert protect(engine, psp.Profile(), fragment) == Dropped(DropReason.PSP_OUT_MODE)
        assert protect(engine, psp.Profile(Mode.TUNNEL), fragment) == Dropped(DropReason.PSP_OUT_MODE)


def test_ipv6_extension_headers_before_the_transport_stay_outside(engine: psp.Engine) -> None:
    options = bytes((17, 0, 1, 4, 0, 0, 0, 0))  # PadN
    datagram = struct.pack(">HHHH", 1, 2, 12, 0) + b"data"
    packet = ip_packet(A6, B6, options + datagram, protocol=0)
    made = sent(engine, psp.Profile(source_port=XOR), packet)
    assert made[6] == 0  # hop-by-hop still comes first
    assert made[40:48] == options
    assert made[56] == 17  # PSP's Next Header: what was protected
    assert opened(engine, made).packet == packet


def test_ipv4_options_stay_outside(engine: psp.Engine) -> None:
    plain = udp()
    longer = b"\x46" + plain[1:20] + b"\x94\x04\0\0" + plain[20:]  # router alert
    packet = rebuilt(longer, total_length=len(longer))
    made = sent(engine, psp.Profile(), packet)
    assert made[20:24] == b"\x94\x04\0\0"
    assert opened(engine, made).packet == packet


def test_ip_in_ip_is_a_tunnel_and_nothing_else(engine: psp.Engine) -> None:
    nested = ip_packet(A4, B4, udp(), protocol=4)
    assert protect(engine, psp.Profile(), nested) == Dropped(DropReason.PSP_OUT_MODE)


@pytest.mark.parametrize("inside", [4, 6])
def test_udp_checksum_is_optional_and_verified(engine: psp.Engine, inside: int) -> None:
    made = sent(engine, psp.Profile(checksum=True), udp(inside))
    at = 20 if inside == 4 else 40
    source, destination = HOSTS[inside]
    pseudo = ip.pseudo_header(source.packed, destination.packed, 17, len(made) - at)
    assert ip.checksum(pseudo + made[at:]) == 0
    assert made[at + 6 : at + 8] != b"\0\0"
    assert opened(engine, made).packet == udp(inside)
    wrong = bytearray(made)
    wrong[at + 6] ^= 1
    assert engine.decapsulate(bytes(wrong)) == Dropped(DropReason.PSP_CHECKSUM)
    lenient = open_with_keys(engine.name, verify_checksum=False)
    assert opened(lenient, bytes(wrong)).packet == udp(inside)


@given(size=st.integers(0, 80), mtu=st.integers(68, 200), tunnel=st.booleans(), df=st.integers(0, 1))
def test_the_size_that_is_told_fits(size: int, mtu: int, tunnel: bool, df: int) -> None:
    engine = open_with_keys("reference")
    outer = replace(OUTER[4], df=DF.COPY)
    profile = psp.Profile(Mode.TUNNEL if tunnel else Mode.TRANSPORT, outer=outer if tunnel else None, mtu=mtu)
    made = protect(engine, profile, rebuilt(udp(payload=bytes(size)), df=df))
    if isinstance(made, bytes):
        assert len(made) <= mtu or not df
        return
    assert made.reason is DropReason.PSP_OUT_TOO_BIG
    assert made.mtu < 28 + size
    if made.mtu >= 28:
        fitting = rebuilt(udp(payload=bytes(made.mtu - 28)), df=df)
        assert len(sent(engine, profile, fitting)) == mtu


def test_largest_packet(engine: psp.Engine) -> None:
    for octets, fits in ((65535 - 40, True), (65535 - 39, False)):
        packet = udp(payload=bytes(octets - 28))
        made = protect(engine, psp.Profile(), packet)
        assert isinstance(made, bytes) is fits
        if isinstance(made, bytes):
            assert opened(engine, made).packet == packet


def patched(packet: bytes, at: int, octets: bytes) -> bytes:
    return packet[:at] + octets + packet[at + len(octets) :]


PLAIN = psp.Profile(source_port=XOR)
DROPS: list[tuple[str, Any, DropReason]] = [
    ("empty", lambda p: b"", DropReason.PSP_BAD_IP),
    ("cut", lambda p: p[:-1], DropReason.PSP_BAD_IP),
    ("not UDP", lambda p: rebuilt(p, protocol=6), DropReason.NOT_FOR_US),
    ("another port", lambda p: patched(p, 22, b"\x03\xe9"), DropReason.NOT_FOR_US),
    ("first fragment", lambda p: rebuilt(p, mf=1), DropReason.PSP_FRAGMENT),
    ("later fragment", lambda p: rebuilt(p, fragment_offset=9), DropReason.PSP_FRAGMENT),
    ("UDP length", lambda p: patched(p, 25, bytes((p[25] - 1,))), DropReason.PSP_BAD_UDP),
    ("no UDP header", lambda p: rebuilt(p[:27], total_length=27), DropReason.PSP_BAD_UDP),
    (
        "31 octets",
        lambda p: rebuilt(patched(p[:59], 24, b"\0\x27"), total_length=59),
        DropReason.PSP_TRUNCATED,
    ),
    ("always one", lambda p: patched(p, 31, b"\0"), DropReason.PSP_ALWAYS_ONE),
    ("version 4", lambda p: patched(p, 31, b"\x11"), DropReason.PSP_VERSION),
    ("version 15", lambda p: patched(p, 31, b"\x3d"), DropReason.PSP_VERSION),
    ("units 0", lambda p: patched(p, 29, b"\0"), DropReason.PSP_HEADER_LENGTH),
    ("units past the end", lambda p: patched(p, 29, b"\x09"), DropReason.PSP_HEADER_LENGTH),
    ("V without room", lambda p: patched(p, 31, b"\x03"), DropReason.PSP_HEADER_LENGTH),
    ("crypt offset", lambda p: patched(p, 30, b"\x3f"), DropReason.PSP_CRYPT_OFFSET),
    ("SPI 0", lambda p: patched(p, 32, bytes(4)), DropReason.PSP_SPI),
    ("SPI 80000000", lambda p: patched(p, 32, b"\x80\0\0\0"), DropReason.PSP_SPI),
    ("ICV", lambda p: patched(p, len(p) - 1, bytes((p[-1] ^ 1,))), DropReason.PSP_AUTH),
    ("Next Header", lambda p: patched(p, 28, b"\x06"), DropReason.PSP_AUTH),
    ("R bits", lambda p: patched(p, 30, b"\x80"), DropReason.PSP_AUTH),
    ("S bit", lambda p: patched(p, 31, b"\x81"), DropReason.PSP_AUTH),
    ("IV", lambda p: patched(p, 43, b"\0"), DropReason.PSP_AUTH),
    ("another version", lambda p: patched(p, 31, b"\x05"), DropReason.PSP_AUTH),
]


@pytest.mark.parametrize(("change", "reason"), [case[1:] for case in DROPS], ids=[case[0] for case in DROPS])
def test_what_is_dropped_and_counted(engine: psp.Engine, change: Any, reason: DropReason) -> None:
    made = sent(engine, PLAIN)
    before = engine.counters()
    damaged = change(made)
    assert engine.decapsulate(damaged) == Dropped(reason)
    assert engine.drops() == {reason: 1}
    risen = {name: count - before[name] for name, count in engine.counters().items() if count != before[name]}
    octets = {f"{reason.counter}_bytes": len(damaged)} if damaged else {}
    assert risen == ({} if not reason.counter else {reason.counter: 1, **octets})


def test_a_version_may_be_off(engine_name: str) -> None:
    engine = open_with_keys(engine_name, versions=frozenset((1,)))
    assert engine.decapsulate(sent(engine, psp.Profile(version=0))) == Dropped(DropReason.PSP_VERSION)
    assert opened(engine, sent(engine, psp.Profile(version=1))).version == 1


def test_another_port(engine_name: str) -> None:
    engine = open_with_keys(engine_name, port=2000)
    assert opened(engine, sent(engine, psp.Profile(port=2000))).packet == udp()
    assert engine.decapsulate(sent(engine, psp.Profile())) == Dropped(DropReason.NOT_FOR_US)


def test_sample_and_drop_bits(engine: psp.Engine) -> None:
    assert opened(engine, sent(engine, psp.Profile(sample=True))).sample
    assert not opened(engine, sent(engine, psp.Profile())).sample
    for sample in (True, False):
        verdict = engine.decapsulate(sent(engine, psp.Profile(sample=sample, drop=True)))
        assert isinstance(verdict, psp.SampledDrop)
        assert verdict.opened is not None
        assert (verdict.opened.packet, verdict.opened.sample) == (udp(), sample)
    assert engine.counters()["rx_sampled"] == 2
    assert engine.counters()["rx_packets"] == 4


def authentic(engine: psp.Engine, next_header: int, payload: bytes) -> bytes:
    body = engine.seal(engine.derive_key(1, 0), bytes((next_header, 1, 0, 1)) + struct.pack(">IQ", 1, 1) + payload)
    return ip_packet(A4, B4, struct.pack(">HHHH", 50000, 1000, 8 + len(body), 0) + body, protocol=17)


def test_authentic_packets_with_nothing_or_nonsense_inside(engine: psp.Engine) -> None:
    assert engine.decapsulate(authentic(engine, 59, b"anything")) == Dropped(DropReason.PSP_EMPTY)
    assert engine.decapsulate(authentic(engine, 6, b"")) == Dropped(DropReason.PSP_EMPTY)
    assert engine.decapsulate(authentic(engine, 4, b"no packet")) == Dropped(DropReason.PSP_BAD_INNER)
    assert engine.decapsulate(authentic(engine, 41, udp())) == Dropped(DropReason.PSP_BAD_INNER)
    assert engine.decapsulate(authentic(engine, 4, udp()[:-1])) == Dropped(DropReason.PSP_BAD_INNER)
    assert opened(engine, authentic(engine, 4, udp() + b"padding")).packet == udp()
    assert opened(engine, authentic(engine, 252, b"Falcon")).packet[20:] == b"Falcon"
    counters = engine.counters()
    assert (counters["rx_packets"], counters["rx_error"], counters["rx_auth_fail"]) == (7, 3, 0)


def test_counters_of_octets_are_the_kernels(engine: psp.Engine) -> None:
    profile = psp.Profile(cookie=bytes(8))
    opened(engine, sent(engine, profile))
    payload = len(udp()) - 20 + 8  # from the end of the IV to the end of the payload, the cookie counted
    assert engine.counters()["tx_bytes"] == engine.counters()["rx_bytes"] == payload


def test_what_a_sender_refuses(engine: psp.Engine) -> None:
    for spi in (0, 0x80000000):
        assert protect(engine, PLAIN, udp(), spi) == Dropped(DropReason.PSP_OUT_SPI)
    assert protect(engine, PLAIN, b"\x45no") == Dropped(DropReason.PSP_OUT_BAD_PACKET)
    short = psp.Profile(crypt_offset_words=63)
    assert protect(engine, short, udp()) == Dropped(DropReason.PSP_OUT_CRYPT_OFFSET)
    assert engine.counters()["tx_error"] == 4
    with pytest.raises(ConfigError, match="key: 8 octets"):
        engine.encapsulate(PLAIN, udp(), 1, bytes(8), 1)
    with pytest.raises(ConfigError, match="no device key in slot 1"):
        psp.open_engine(engine.name).derive_key(0x80000001, 0)


def test_authentication_alone_still_authenticates(engine: psp.Engine) -> None:
    """Nothing encrypted, by Crypt Offset or by GMAC, and the ICV is looked at all the same."""
    payload = udp(payload=b"12345678")
    for profile in (psp.Profile(crypt_offset_words=4), psp.Profile(version=2), psp.Profile(version=3)):
        made = sent(engine, profile, payload)
        assert payload[20:] in made
        assert opened(engine, made).packet == payload
        for at in (20 + 8 + 16, len(made) - 17, len(made) - 1):
            forged = patched(made, at, bytes((made[at] ^ 1,)))
            assert engine.decapsulate(forged) == Dropped(DropReason.PSP_AUTH)


def test_gmac_ignores_the_crypt_offset_that_it_receives(engine: psp.Engine) -> None:
    head = bytes((17, 1, 63, 2 << 2 | 1)) + struct.pack(">IQ", 1, 1)
    body = engine.seal(engine.derive_key(1, 2), head + udp()[20:])
    packet = ip_packet(A4, B4, struct.pack(">HHHH", 50000, 1000, 8 + len(body), 0) + body, protocol=17)
    assert opened(engine, packet).packet[20:] == udp()[20:]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"mode": Mode.BEET}, "mode"),
        ({"version": 4}, "version"),
        ({"crypt_offset_words": 64}, "crypt_offset_words"),
        ({"version": 2, "crypt_offset_words": 1}, "crypt_offset_words"),
        ({"cookie": b"short"}, "cookie"),
        ({"extension": b"odd"}, "extension"),
        ({"extension": bytes(2040)}, "extension"),
        ({"outer": OUTER[4]}, "outer"),
        ({"port": 0}, "port"),
        ({"source_port": psp.SourcePort.FIXED}, "ports"),
        ({"source_port": psp.SourcePort.FIXED, "ports": (1000,)}, "ports"),
        ({"source_port": psp.SourcePort.TABLE, "ports": (2000,) * 15}, "ports"),
        ({"ports": (2000,)}, "ports"),
        ({"reserved": 4}, "reserved"),
        ({"mtu": 67}, "mtu"),
    ],
)
def test_profiles_check_themselves(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: "):
        psp.Profile(**settings)


@pytest.mark.parametrize("settings", [{"port": 0}, {"versions": frozenset((4,))}, {"hash_key": b"short"}])
def test_options_check_themselves(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        psp.Options(**settings)


def test_known_answers_need_packets(engine: psp.Engine) -> None:
    for packet in (b"", bytes(15), bytes((0, 1, 63, 1)) + bytes(12), bytes((0, 1, 0, 0x11)) + bytes(12)):
        with pytest.raises(ConfigError, match="no PSP packet"):
            engine.seal(bytes(16), packet)
    with pytest.raises(ConfigError, match="no PSP packet"):
        engine.open(bytes(16), bytes((0, 1, 0, 1)) + bytes(27))
    with pytest.raises(ConfigError, match="32 octets"):
        engine.seal(bytes(16), bytes((0, 1, 0, 5)) + bytes(12))
