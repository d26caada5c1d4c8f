"""WESP, WESPv2 and EESP taken apart with keys: every vector, what does not open, what is wrong, and any octets."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.crypto import transform
from wesper.keying import StaticSA
from wesper.pcap.dissect import MAX_DEPTH, Keyring, dissect
from wesper.pcap.dissection import Dissection, Layer
from wesper.sa import EESPFormat, Mode, UDPEncapsulation
from wesper.vectors.ip_packets import ip_packet
from wesper.verdict import DropReason

from .family import protected, sa_of, sas_of, sent_by, vectors

HERE, THERE = ip_address("192.0.2.10"), ip_address("198.51.100.20")
INNER = ip_packet(HERE, THERE, struct.pack(">HHHH", 4000, 443, 24, 0) + bytes(16), protocol=17)
CASES = [(vector, name) for name in ("wespv2", "eesp") for vector in vectors(name)]
GOOD = [(vector, name) for vector, name in CASES if vector["expect"] == "ok"]
BAD = [(vector, name) for vector, name in CASES if vector["expect"] != "ok"]
HEADS = ("wespv2", "wespv2.flow", "esp", "eesp", "eesp.crypt_offset", "eesp.stateless", "eesp.stateless_iv")


def named(value: object) -> str | None:
    return value["name"] if isinstance(value, dict) else None


def notes(dissection: Dissection) -> dict[str, str]:
    return {value.name: value.note for value in dissection.values() if value.note}


def whole(dissection: Dissection) -> bool:
    """Whether every octet of the packet is in a field."""
    seen = set[int]()
    for value in dissection.values():
        seen.update(range(value.bit, value.bit + value.bits))
    return len(seen) == 8 * len(dissection.packet)


def inside(dissection: Dissection) -> list[Layer]:
    """Layers between the protocol's headers and what ends it."""
    *before, _ = dissection.layers
    last = max(place for place, layer in enumerate(before) if layer.name in HEADS)
    return before[last + 1 :]


@pytest.mark.parametrize(("vector", "protocol"), GOOD, ids=named)
def test_every_vector_is_opened(vector: dict[str, Any], protocol: str) -> None:
    sa = sa_of(vector, protocol)
    found = dissect(protected(vector), keys=Keyring([sa]))
    assert found.problem == ""
    assert whole(found)
    assert all(value.field.source for value in found.values())
    assert notes(found)["esp.icv" if protocol == "wespv2" else "eesp.icv"] == "right"
    assert all(layer.title != "Encrypted" for layer in found.layers)
    assert found.layers[-1].value("icv") == found.packet[-sa.cipher.icv_octets :]
    payload = inside(found)
    info = next((layer for layer in payload if layer.name == "eesp.info"), None)
    if protocol == "eesp":
        assert (info is not None) is (vector["params"]["format"] == "full")
    if info is not None:
        assert info.source == "draft-ietf-ipsecme-eesp-03 §2.4.1"
        payload.remove(info)
    clear = bytes.fromhex(vector["plaintext_packet_hex"])
    if not clear:
        assert [layer.title for layer in payload] == ["Dummy packet"]
    elif sa.mode is Mode.IPTFS:
        assert payload[0].values[0].value == clear
    else:
        # The inside says what the packet said before it was protected.
        wanted = dissect(clear).layers
        if sa.mode is not Mode.TUNNEL:
            wanted = [layer for layer in wanted if layer.name not in ("ip", "ipv6", "ipv6.hopopts")]
        shown = [(value.name, value.value) for layer in payload for value in layer.values]
        assert shown == [(value.name, value.value) for layer in wanted for value in layer.values]


def test_what_a_crypt_offset_shows_was_no_ciphertext() -> None:
    by_name = {vector["name"]: (vector, name) for vector, name in GOOD}
    for name, layers in {
        "v4-tunnel-gcm256-co7": {"ip": False, "udp": False, "data": True},
        "v6-in-v4-gcm128-co10": {"ipv6": False, "tcp": True, "data": True},
        "crypt-offset-figure-19": {"eesp.info": False, "ip": False, "udp": False, "data": True},
        "crypt-offset-zero": {"eesp.info": True, "ip": True},
    }.items():
        vector, protocol = by_name[name]
        found = dissect(protected(vector), keys=Keyring([sa_of(vector, protocol)]))
        shown = {layer.name: layer.decrypted for layer in inside(found)}
        assert {key: shown[key] for key in layers} == layers


NOT_REFUSED = ("replay", "fragment", "bad_padding")  # there is no window, a lifetime neither; padding gets a note
NOT_OPENED = ("auth", "bad_version", "bad_reserved", "not_eesp", "bad_optlen")


@pytest.mark.parametrize(("vector", "protocol"), BAD, ids=named)
def test_what_is_wrong_is_said_and_what_opens_is_shown(vector: dict[str, Any], protocol: str) -> None:
    kind = vector["expect"].removeprefix("error:")
    found = dissect(protected(vector), keys=Keyring([sa_of(vector, protocol)]))
    opened = notes(found).get("esp.icv" if protocol == "wespv2" else "eesp.icv") == "right"
    assert (found.problem == "") is (kind in NOT_REFUSED)
    # Where the Crypt Offset option itself makes no sense, nobody knows what is encrypted.
    assert opened is (kind not in NOT_OPENED and vector["name"] != "err-crypt-offset-length-4")
    if kind == "bad_padding":
        assert notes(found)["eesp.pad"] == "not zeros"
    reason = next(r for r in DropReason if r.verdict == kind and not r.name.startswith("PSP_"))
    special = {
        "auth": "icv does not fit: another key, other settings",
        "bad_inner": "ip.len is 256, and there are 36 octets",
    }
    own = {
        "err-version-0": "no SA in the key file for SPI 0x00002000",  # it says that it is WESP
        "err-optlen-beyond": "eesp: the packet ends in eesp.options (68 of 252 octets)",
        "err-option-overrun": f"{protocol}: options that do not fill their place",
        "err-payload-info-nibble": "eesp: the payload begins with neither an IP header nor a Payload Info Header",
    }
    if kind not in NOT_REFUSED:
        assert own.get(vector["name"], special.get(kind, f"{protocol}: {reason.sentence}")) in found.problem


@pytest.mark.parametrize(("vector", "protocol"), GOOD, ids=named)
def test_another_key_gives_one_line(vector: dict[str, Any], protocol: str) -> None:
    sa = sa_of(vector, protocol)
    changed = replace(sa, key=bytes(b ^ 1 for b in sa.key), auth_key=bytes(b ^ 1 for b in sa.auth_key))
    found = dissect(protected(vector), keys=Keyring([changed]))
    whose, numbered = ("esp", f"esn {str(sa.esn).lower()}"), ("eesp", "sequence_numbers ")
    name, words = whose if protocol == "wespv2" else numbered
    start = f"{name}.icv does not fit: another key, other settings (suite {sa.suite}, {words}"
    assert found.problem.startswith(start)
    assert found.problem.endswith("), or changed octets")
    assert found.layers[-1].title == "Encrypted"
    assert whole(found)
    other = dissect(protected(vector), keys=Keyring([replace(sa, spi=0x9999)]))
    assert other.problem == f"no SA in the key file for SPI {sa.spi:#010x}"
    assert whole(other)


@pytest.mark.parametrize(("vector", "protocol"), CASES, ids=named)
def test_without_a_key_no_octet_is_left_out(vector: dict[str, Any], protocol: str) -> None:
    found = dissect(protected(vector))
    if "the packet ends in" not in found.problem:
        assert whole(found)
    assert not any(layer.decrypted for layer in found.layers)
    for words in range(64):  # Payload Offset and crypt offset as they may be, authentic or not
        packet = bytearray(protected(vector))
        place = packet.find(b"\x02\x02", 20)
        if protocol == "eesp" and vector["name"].startswith("crypt-offset") and place > 0:
            packet[place + 2 : place + 4] = (words << 10 | (words % 9) << 4).to_bytes(2, "big")
            assert whole(dissect(bytes(packet)))


def test_a_changed_packet_still_shows_what_is_in_clear() -> None:
    vector = next(vector for vector, _ in CASES if vector["name"] == "err-auth-clear")
    found = dissect(protected(vector), keys=Keyring([sa_of(vector, "wespv2")]))
    assert found.problem.startswith("esp.icv does not fit")
    assert "Internet Protocol version 4, its part in clear" in [layer.title for layer in found.layers]
    assert found.layers[-1].title == "Encrypted"


@pytest.mark.parametrize("around", ["none", "udp"])
@pytest.mark.parametrize(
    ("suite", "encrypts"),
    [("aes-gcm-16", True), ("aes-cbc+hmac-sha2-256-128", True), ("aes-gmac", False), ("null+hmac-sha2-256-128", False)],
)
def test_wesp(suite: str, encrypts: bool, around: str) -> None:
    sas = sas_of("wesp", "esn = true", around, suite)
    (packet,) = sent_by(sas, [INNER])
    found = dissect(packet, keys=Keyring(sas))
    assert found.problem == ""
    assert whole(found)
    head, tail = found.layer("wesp"), found.layers[-1]
    assert head is not None
    assert (head.value("encrypted"), tail.title) == (int(encrypts), "ESP trailer")
    assert notes(found)["esp.sequence"] == "with its high half 1"
    names = [layer.name for layer in found.layers]
    assert names[names.index("esp") + 1 :] == ["ip", "udp", "data", "esp"]
    # Without a key, what the header says is readable is read, and the ICV is nobody's to judge.
    without = dissect(packet)
    assert without.problem == ""
    assert whole(without)
    assert not any(layer.decrypted for layer in without.layers)
    assert (without.layers[-1].title == "Encrypted") is encrypts
    if not encrypts:
        assert [layer.name for layer in without.layers[-4:]] == ["ip", "udp", "data", "esp"]
        assert "esp.icv" not in notes(without)
        assert without.layers[-1].value("icv") == tail.value("icv")


def test_a_wrong_wesp_header_hides_nothing() -> None:
    """No ICV covers it, so the packet opens all the same; the receiver would have dropped it."""
    sas = sas_of("wesp")
    (packet,) = sent_by(sas, [INNER])
    for place, octet, reason in ((20, 4, DropReason.BAD_NEXT_HEADER), (21, 12, DropReason.BAD_HDRLEN)):
        wrong = packet[:place] + bytes((octet ^ (0 if place == 21 else 1),)) + packet[place + 1 :]
        found = dissect(wrong, keys=Keyring(sas))
        assert found.problem == f"wesp: {reason.sentence}"
        assert notes(found)["esp.icv"] == "right"
    version = dissect(packet[:23] + b"\x80" + packet[24:], keys=Keyring(sas))
    assert version.problem == f"wesp: {DropReason.BAD_VERSION.sentence}"
    readable = dissect(packet[:23] + b"\x00" + packet[24:])
    assert readable.problem == "wesp: HdrLen and TrailerLen leave no room for a payload"


def test_headers_that_are_in_clear_are_read_without_a_key() -> None:
    for protocol, text in (
        ("wespv2", '[sa.wespv2]\ncrypt_offset = "l3+l4"\nmax_crypt_offset_octets = 252'),
        ("eesp", '[sa.eesp]\ncrypt_offset = "l3+l4"\nmax_crypt_offset_octets = 252'),
        ("eesp", 'suite = "aes-gcm-16-iiv"\n[sa.eesp]\ncrypt_offset = "l3+l4"\nmax_crypt_offset_octets = 252'),
    ):
        suite = "aes-gcm-16-iiv" if "iiv" in text else "aes-gcm-16"
        sas = sas_of(protocol, text.removeprefix('suite = "aes-gcm-16-iiv"\n'), suite=suite)
        (packet,) = sent_by(sas, [INNER])
        found = dissect(packet)
        assert found.problem == ""
        assert whole(found)
        ports = next(layer for layer in found.layers if layer.title == "User Datagram Protocol, its part in clear")
        assert ports.value("destination_port") == 443
        ivs = [layer for layer in found.layers if layer.title == "Initialization vector"]
        assert len(ivs) == (protocol == "eesp" and suite == "aes-gcm-16")


def test_eesp_where_the_file_says_it_is() -> None:
    numbered = sas_of("eesp", "[sa.eesp]\nip_protocol = 200")
    (packet,) = sent_by(numbered, [INNER])
    assert packet[9] == 200
    assert dissect(packet).layer("eesp") is None
    assert notes(dissect(packet, keys=Keyring(numbered)))["eesp.icv"] == "right"


@pytest.mark.parametrize("protocol", ["wesp", "wespv2", "eesp"])
def test_ports_that_the_file_names(protocol: str) -> None:
    (sa,) = sas_of(protocol)
    sas = [replace(sa, encapsulation=UDPEncapsulation(7000, 7001))]
    (packet,) = sent_by(sas, [INNER])
    assert dissect(packet).layer(protocol) is None
    found = dissect(packet, keys=Keyring(sas))
    assert found.problem == ""
    assert found.layer(protocol) is not None
    assert found.layers[-1].value("icv") is not None


def test_esp_and_eesp_on_one_port() -> None:
    """An SPI of ESP that looks like EESP's first octets: the key file knows whose it is."""
    esp = sas_of("esp", "esn = false", "udp", spi=0x80000000)
    eesp = sas_of("eesp", "", "udp", spi=0x3000)
    (first,), (second,) = sent_by(esp, [INNER]), sent_by(eesp, [INNER])
    assert [dissect(first).layer("eesp") is not None, dissect(second).layer("eesp") is not None] == [True, True]
    for keys in (esp + eesp, eesp + esp):
        assert notes(dissect(first, keys=Keyring(keys)))["esp.icv"] == "right"
        assert notes(dissect(second, keys=Keyring(keys)))["eesp.icv"] == "right"


def test_a_file_that_leaves_the_mode_open_refuses_no_format() -> None:
    for vector, protocol in GOOD:
        if "inner_src" not in vector["params"] and vector["params"]["mode"] != "iptfs":
            found = dissect(protected(vector), keys=Keyring([sa_of(vector, protocol, mode=None)]))
            assert found.problem == ""


def test_keys_of_many_sub_sas_are_not_kept_for_ever() -> None:
    sas = sas_of(
        "eesp",
        '[sa.eesp]\nsession = "mark"\nsub_sas = { kdf = "hkdf-sha2-256", key_octets = 16 }',
        key_octets=32,
    )
    keys = Keyring(sas)
    (packet,) = sent_by(sas, [INNER])
    for session in range(1100):
        dissect(packet[:22] + session.to_bytes(2, "big") + packet[24:], keys=keys)
    assert len(keys._transforms) == 1024
    assert notes(dissect(packet, keys=keys))["eesp.icv"] == "right"


def test_readable_wesp_packets_in_each_other_end() -> None:
    body = b"\x3b"
    for _ in range(60):
        esp = struct.pack(">II", 0x3000, 1) + body + b"\0\x8d"
        body = bytes((0x8D, 12, 0, 0)) + esp
    packet = ip_packet(HERE, THERE, body, protocol=141)
    found = dissect(packet)
    assert found.problem == "packets nested too deeply"
    assert len(found.layers) < 5 * MAX_DEPTH


RING = Keyring([sa_of(vector, name) for vector, name in GOOD][::3] + sas_of("wesp"))
PACKETS = [protected(vector) for vector, _ in CASES]


@given(st.binary(max_size=160), st.sampled_from([50, 141, 253, 17]), st.sampled_from([0x2000, 0x3000, None]))
def test_any_octets_with_keys(octets: bytes, number: int, spi: int | None) -> None:
    if spi is not None and len(octets) > 16:
        octets = octets[:4] + spi.to_bytes(4, "big") + octets[8:]
    if number == 17:
        octets = bytes.fromhex("11941194") + (8 + len(octets)).to_bytes(2, "big") + bytes(2) + octets
    check(dissect(ip_packet(HERE, THERE, octets, protocol=number), keys=RING))


@given(st.sampled_from(PACKETS), st.data())
def test_mutated_and_cut_packets_with_keys(packet: bytes, data: st.DataObject) -> None:
    octets = bytearray(packet)
    for place in data.draw(st.lists(st.integers(9, len(octets) - 1), max_size=3)):
        octets[place] = data.draw(st.integers(0, 255))
    check(dissect(bytes(octets[: data.draw(st.integers(0, len(octets)))]), keys=RING))


@given(st.binary(max_size=90), st.integers(0, 252), st.booleans())
def test_any_authentic_inside_of_eesp(content: bytes, offset: int, with_option: bool) -> None:
    """Whoever has the keys may put anything inside."""
    sa = sealing_sa()
    content += bytes(-len(content) % 4) or bytes(4)
    offset = min(offset, len(content)) // 4
    payload = (24 + 4 * with_option) // 4
    area = bytes((2, 2)) + (payload << 10 | offset << 4).to_bytes(2, "big") if with_option else b""
    head = bytes((0x80, len(area))) + bytes(2) + struct.pack(">I", 0x3000) + area + struct.pack(">Q", 1) + bytes(8)
    clear = content[: 4 * offset] if with_option else b""
    keys = transform(sa.cipher, sa.key, sa.salt)
    body = head + clear + keys.seal(bytes(8), head + clear, content[len(clear) :])
    found = dissect(ip_packet(HERE, THERE, body, protocol=253), keys=Keyring([sa]))
    check(found)
    assert notes(found)["eesp.icv"] == "right"


def sealing_sa() -> StaticSA:
    return StaticSA(
        "aes-gcm-16",
        0x3000,
        bytes(16),
        bytes(4),
        protocol="eesp",
        mode=Mode.TUNNEL,
        format=EESPFormat(max_crypt_offset_octets=252),
    )


def check(dissection: Dissection) -> None:
    for value in dissection.values():
        assert value.text
        assert value.bit + value.bits <= 8 * len(dissection.packet)
    dissection.as_json()
