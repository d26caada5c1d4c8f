"""PSP in captures: google/psp's packets come out octet for octet, and open with device keys and with one key each."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from wesper import psp
from wesper.errors import ConfigError
from wesper.keying import PSPAssociation, PSPDevice, PSPKeys, StaticSA, parse_keys
from wesper.keying.toml_file import read_psp_toml
from wesper.pcap import Interface, LinkType, create_capture, open_capture
from wesper.pcap.batch import Batches
from wesper.pcap.decrypt import decrypt
from wesper.pcap.encrypt import encrypt
from wesper.pcap.psp_opener import PSPOpener
from wesper.pcap.tally import Tally
from wesper.protocols.fragment import fragment
from wesper.protocols.ip import parse
from wesper.protocols.modes import Mode, Outer
from wesper.protocols.psp import Profile
from wesper.sa import AddressRange, Direction, Selector
from wesper.vectors.ip_packets import ip_packet
from wesper.verdict import DropReason
from wesper.wire.psp import PSP

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "psp.json").read_text())
GOOGLE = [*VECTORS["vectors"], *(entry for entry in VECTORS["own_vectors"] if not entry.get("r_bits"))]
NAMES = [entry["name"] for entry in GOOGLE]
LINK = 14
ENGINES = ["reference", pytest.param("native", marks=pytest.mark.needs_native)]
A, B = ip_address("192.0.2.1"), ip_address("192.0.2.2")
K0, K1 = bytes(range(32)), bytes(range(32, 64))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def key_file(entry: dict[str, Any]) -> PSPKeys:
    """What a vector says, as a key file: device keys, and an association that has its key from them."""
    bits = entry.get("sd_bits") or 0
    lines = [
        "[[device]]",
        'name = "receiver"',
        f'keys = ["{entry["master_key0_hex"]}", "{entry["master_key1_hex"]}"]',
        "[[association]]",
        'rules = "google"',
        'device = "receiver"',
        f"spi = {entry['spi'] if entry['spi'].startswith('0x') else '0x' + entry['spi']}",
        f"version = {entry['version']}",
        f'mode = "{entry["mode"]}"',
        f"crypt_offset = {entry['crypt_offset']}",
        f"iv = {int(entry['iv_hex'], 16) - 1}",
        f"sample = {str(bool(bits & 2)).lower()}",
        f"drop = {str(bool(bits & 1)).lower()}",
    ]
    if entry.get("vc"):
        lines.append(f'cookie = "{entry["vc"]}"')
    if entry.get("ext_hex"):
        lines.append(f'extension = "{entry["ext_hex"]}"')
    return read_psp_toml("\n".join(lines), "vector.toml")


def written(path: Path, *frames: bytes, link: LinkType = LinkType.ETHERNET) -> Path:
    with create_capture(path) as out:
        interface = out.add_interface(Interface(link))
        for stamp, frame in enumerate(frames):
            out.write(frame, stamp, interface=interface)
    return path


def frames_of(path: Path) -> list[bytes]:
    with open_capture(path) as capture:
        return [record.data for record in capture]


def protected(source: Path, output: Path, keys: PSPKeys, engine: str, **more: Any) -> Tally:
    tally = Tally()
    sas: list[StaticSA] = more.pop("sas", [])
    with Batches(source, lambda error: None) as batches, create_capture(output) as out:
        encrypt(batches, out, sas, tally, psp=keys.associations, engine=engine, **more)
    return tally


def opened(source: Path, output: Path, keys: PSPKeys, engine: str, **more: Any) -> Tally:
    tally = Tally()
    sas: list[StaticSA] = more.pop("sas", [])
    with Batches(source, lambda error: None) as batches, create_capture(output) as out:
        decrypt(batches, out, sas, tally, psp=keys, engine=engine, **more)
    return tally


@pytest.mark.parametrize("suffix", ["pcap", "pcapng"])
def test_google_s_packets_as_captures(engine: str, suffix: str, tmp_path: Path) -> None:
    for number, entry in enumerate(GOOGLE):
        clear, sealed = (bytes.fromhex(entry[f"{word}_packet_hex"]) for word in ("cleartext", "encrypted"))
        keys = key_file(entry)
        plain = written(tmp_path / f"plain{number}.{suffix}", clear)
        out = tmp_path / f"sealed{number}.{suffix}"
        tally = protected(plain, out, keys, engine)
        assert frames_of(out) == [sealed], entry["name"]
        assert (tally.packets, tally.done, tally.psp_counters["tx_packets"]) == (1, 1, 1)
        ((row,), back) = tally.sas.values(), tmp_path / f"back{number}.pcap"
        assert (row.first, row.last) == (int(entry["iv_hex"], 16),) * 2

        dropped = entry.get("after_open") == "sample, then drop"
        for how in (PSPKeys((), keys.devices), PSPKeys(keys.associations, ())):
            tally = opened(out, back, how, engine)
            assert frames_of(back) == ([] if dropped else [clear[LINK:]]), entry["name"]
            assert tally.dropped == ({"sampled": 1} if dropped else {}), entry["name"]
            assert tally.psp_counters["rx_packets"] == 1


@pytest.mark.parametrize("entry", VECTORS["negative"], ids=[entry["name"] for entry in VECTORS["negative"]])
def test_packets_that_must_be_dropped(entry: dict[str, Any], engine: str, tmp_path: Path) -> None:
    keys = tuple(bytes.fromhex(entry[f"master_key{slot}_hex"]) for slot in (0, 1))
    capture = written(tmp_path / "in.pcapng", bytes.fromhex(entry["packet_hex"]))
    tally = opened(capture, tmp_path / "out.pcap", PSPKeys((), [PSPDevice(keys)]), engine)  # type: ignore[arg-type]
    assert (tally.done, tally.dropped.total()) == (0, 1)
    assert tally.psp_counters[entry["counter"]] == 1
    assert frames_of(tmp_path / "out.pcap") == []


def udp(payload: bytes, version: int = 4, source: int = 40000, target: int = 53) -> bytes:
    ends = {4: (A, B), 6: (ip_address("2001:db8::1"), ip_address("2001:db8::2"))}[version]
    segment = source.to_bytes(2, "big") + target.to_bytes(2, "big") + (8 + len(payload)).to_bytes(2, "big") + bytes(2)
    return ip_packet(*ends, segment + payload, protocol=17)


def test_many_associations_one_device_and_esp_beside_it(engine: str, tmp_path: Path) -> None:
    """A file of everything: by selectors to three associations and an SA, and back again."""
    device = PSPDevice((K0, K1), "b")
    outer = Outer(A, B)
    profiles = {
        53: Profile(version=0, crypt_offset_words=1),
        80: Profile(Mode.TUNNEL, 1, 3, b"cookie!!", outer=outer),
        443: Profile(Mode.TUNNEL, 3, outer=Outer(ip_address("2001:db8::1"), ip_address("2001:db8::2")), checksum=True),
    }
    associations = []
    for spi, (port, profile) in enumerate(profiles.items(), 0x80000005):
        key = device.derive(spi, profile.version)
        assert key is not None
        chosen = (Selector(remote_ports=(port, port)),)
        associations.append(PSPAssociation(profile, spi, key, f"to {port}", selectors=chosen, iv=10 * port))
    here, there = AddressRange.parse(str(A)), AddressRange.parse(str(B))
    sa = StaticSA("aes-gcm-16", 0x1000, bytes(16), b"salt", local=here, remote=there)
    packets = [udp(bytes([i]) * i, 4, target=port) for i in range(40) for port in (53, 80, 443, 9)]
    keys = PSPKeys(associations, [device])
    plain = written(tmp_path / "plain.pcapng", *packets, link=LinkType.RAW)
    tally = protected(plain, tmp_path / "sealed.pcapng", keys, engine, sas=[sa])
    assert (tally.packets, tally.done) == (160, 160)
    assert {row.sa.name: (row.packets, row.first, row.last) for row in tally.sas.values()} == {
        "to 53": (40, 531, 570), "to 80": (40, 801, 840), "to 443": (40, 4431, 4470), "": (40, 1, 40),
    }  # fmt: skip
    sealed = frames_of(tmp_path / "sealed.pcapng")
    assert not set(sealed) & set(packets)

    for how in (keys, PSPKeys((), [device]), PSPKeys(associations)):
        tally = opened(tmp_path / "sealed.pcapng", tmp_path / "back.pcapng", how, engine, sas=[sa], inner_only=True)
        assert frames_of(tmp_path / "back.pcapng") == packets
        assert (tally.done, tally.dropped.total(), tally.other) == (160, 0, 0)
        assert tally.psp_counters["rx_packets"] == 120
        suites = {row.suite for row in tally.sas.values()}
        assert suites == {"AES-128-GCM", "AES-256-GCM", "AES-256-GMAC", "aes-gcm-16"}

    with open_capture(tmp_path / "back.pcapng") as capture:
        comments = [record.options[0][1].decode() for record in capture]
    assert comments[1] == "wesper: SPI 0x80000006 of to 80, AES-256-GCM, IV 0x0000000000000321"
    assert comments[3] == "wesper: SPI 0x00001000, sequence 1"

    # Without keys of one kind its packets are none of our business, or dropped by name.
    tally = opened(tmp_path / "sealed.pcapng", tmp_path / "esp.pcap", PSPKeys(), engine, sas=[sa])
    assert (tally.done, tally.other) == (40, 120)
    tally = opened(tmp_path / "sealed.pcapng", tmp_path / "psp.pcap", PSPKeys((), [device]), engine)
    assert (tally.done, tally.other) == (120, 40)
    stranger = PSPKeys(associations[:1])
    tally = opened(tmp_path / "sealed.pcapng", tmp_path / "one.pcap", stranger, engine)
    assert (tally.done, tally.dropped) == (40, {"no_device_key": 80})


def test_associations_of_one_key_share_its_ivs(engine: str, tmp_path: Path) -> None:
    """google/psp has a crypt offset for each family under one SPI, and one count of IVs."""
    text = f"""
[[device]]
name = "b"
keys = ["{K0.hex()}", "{K1.hex()}"]
"""
    for network, offset in (("0.0.0.0/0", 6), ("::/0", 11)):
        text += f"""
[[association]]
rules = "google"
mode = "tunnel"
device = "b"
spi = 7
crypt_offset = {offset}

[[association.selectors]]
remote = ["{network}"]
"""
    keys = read_psp_toml(text, "google.toml")
    packets = [udp(bytes([i]), version) for i, version in enumerate((4, 6, 6, 4, 4, 6))]
    plain = written(tmp_path / "plain.pcap", *packets, link=LinkType.RAW)
    assert protected(plain, tmp_path / "out.pcap", keys, engine).done == 6
    seen = [PSP.parse(parse(frame).packet[parse(frame).upper_at + 8 :]) for frame in frames_of(tmp_path / "out.pcap")]
    assert [(header.iv, header.crypt_offset_words) for header in seen] == [
        (1, 6), (2, 11), (3, 11), (4, 6), (5, 6), (6, 11),
    ]  # fmt: skip
    opened(tmp_path / "out.pcap", tmp_path / "back.pcap", keys, engine)
    assert frames_of(tmp_path / "back.pcap") == packets


def test_of_several_devices_the_one_whose_keys_fit(engine: str) -> None:
    devices = [
        PSPDevice((K0, None), "first"),
        PSPDevice((K1, K0), "second"),
        PSPDevice((bytes(32), None), "elsewhere", AddressRange.parse("198.51.100.0/24")),
    ]
    key = devices[1].derive(0x80000001, 0)
    assert key is not None
    sender = PSPAssociation(Profile(), 0x80000001, key)
    (made,) = _sent([udp(b"x")], sender, engine)
    opener = PSPOpener(PSPKeys((), devices), engine)
    forged = made[:-1] + bytes([made[-1] ^ 1])
    good, bad = opener.open([made, forged])
    assert (good.reason, good.packet) == (None, udp(b"x"))
    assert isinstance(good.sa, PSPDevice)
    assert good.sa.name == "second"
    assert (bad.reason, bad.packet) == (DropReason.PSP_AUTH, b"")
    counters = opener.counters()
    assert (counters["rx_packets"], counters["rx_auth_fail"], counters["rx_bad"]) == (1, 1, 0), "a packet counts once"
    assert counters["rx_bytes"] == 9
    assert opener.find(made) is devices[0]


def _sent(packets: list[bytes], association: PSPAssociation, engine: str) -> list[bytes]:
    from wesper.pcap.psp_sender import PSPSender

    done = PSPSender([association], engine).protect(packets, [association] * len(packets))
    return [packet for _, packet, _ in done]


def test_an_spi_that_came_again_under_another_key(engine: str) -> None:
    first, second = (PSPAssociation(Profile(), 7, bytes([i]) * 16, f"{i}") for i in range(2))
    sent = [_sent([udp(b"x")], each, engine)[0] for each in (second, first)]
    opener = PSPOpener(PSPKeys([first, second]), engine)
    assert [each.sa.name for each in opener.open(sent) if each.sa is not None] == ["1", "0"]
    (forged,) = opener.open([sent[0][:-1] + bytes([sent[0][-1] ^ 1])])
    assert forged.reason is DropReason.PSP_AUTH


def test_another_port(engine: str) -> None:
    key = bytes(16)
    association = PSPAssociation(Profile(port=4000), 7, key)
    (made,) = _sent([udp(b"x")], association, engine)
    assert PSPOpener(PSPKeys([association]), engine).open([made])[0].packet == udp(b"x")
    usual = PSPOpener(PSPKeys([replace(association, profile=Profile())]), engine)
    assert not usual.concerns(made)


def test_direction_and_addresses_tell_associations_of_one_spi_apart(engine: str) -> None:
    here, there = AddressRange.parse(str(A)), AddressRange.parse(str(B))
    out = PSPAssociation(Profile(), 7, bytes(16), "out", Direction.OUT, here, there)
    back = PSPAssociation(Profile(), 7, bytes(15) + b"\1", "in", Direction.IN, here, there)
    (made,) = _sent([udp(b"x")], out, engine)
    (answer,) = _sent([ip_packet(B, A, udp(b"y")[20:], protocol=17)], replace(back, direction=Direction.OUT), engine)
    opener = PSPOpener(PSPKeys([back, out]), engine)
    names = [each.sa.name for each in opener.open([made, answer]) if each.sa is not None]
    assert names == ["out", "in"]


def test_ivs_end_and_never_begin_anew(engine: str) -> None:
    association = PSPAssociation(Profile(), 7, bytes(16), iv=(1 << 64) - 3)
    from wesper.pcap.psp_sender import PSPSender

    sender = PSPSender([association], engine)
    done = sender.protect([udp(b"x")] * 3, [association] * 3)
    assert [reason for reason, _, _ in done] == [None, None, DropReason.PSP_OUT_IV]
    assert [iv for _, _, iv in done[:2]] == [(1 << 64) - 2, (1 << 64) - 1]
    assert sender.protect([udp(b"x")], [association])[0][0] is DropReason.PSP_OUT_IV
    assert sender.engine.counters()["tx_error"] == 2
    for wrong in (-1, 1 << 64):
        with pytest.raises(ConfigError, match="sequence"):
            PSPSender([association], engine, wrong)


def test_rows_are_bounded(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wesper.pcap.tally.MAX_SAS", 5)
    device = PSPDevice((K0, None))
    frames = []
    for spi in range(1, 12):
        key = device.derive(spi, 0)
        assert key is not None
        frames += _sent([udp(b"x")], PSPAssociation(Profile(), spi, key), engine)
    source = written(tmp_path / "in.pcap", *frames, link=LinkType.RAW)
    tally = opened(source, tmp_path / "out.pcap", PSPKeys((), [device]), engine)
    assert (tally.done, len(tally.sas), tally.unlisted) == (11, 5, 6)


def test_what_an_association_can_not_take_is_never_written_in_clear(engine: str, tmp_path: Path) -> None:
    fragment = udp(bytes(64))[:6] + b"\x20\x00" + udp(bytes(64))[8:]
    keys = PSPKeys(
        [
            PSPAssociation(Profile(), 7, bytes(16)),
        ]
    )
    source = written(tmp_path / "in.pcap", fragment, udp(b"x"), link=LinkType.RAW)
    tally = protected(source, tmp_path / "out.pcap", keys, engine)
    assert (tally.done, tally.dropped) == (1, {"mode_error": 1})
    assert len(frames_of(tmp_path / "out.pcap")) == 1


def test_esp_s_own_readers_pass_psp_over() -> None:
    text = '[[sa]]\nspi = 1000\nsuite = "aes-gmac"\nkey = "00000000000000000000000000000000"\nsalt = "00000000"\n'
    text += f'[[device]]\nkeys = ["{K0.hex()}"]\n'
    assert len(parse_keys(text, "toml", "x")) == 1
    assert read_psp_toml(text, "x").devices[0].keys == (K0, None)


def test_fragments_are_put_together_first(engine: str, tmp_path: Path) -> None:
    association = PSPAssociation(Profile(), 7, bytes(16))
    (whole,) = _sent([udp(bytes(range(200)))], association, engine)
    datagram = parse(whole)
    assert datagram is not None
    pieces = fragment(datagram, 100) or []
    assert len(pieces) > 2
    source = written(tmp_path / "in.pcapng", *reversed(pieces), udp(b"between"), link=LinkType.RAW)
    tally = opened(source, tmp_path / "out.pcap", PSPKeys([association]), engine)
    assert (tally.done, tally.reassembled, tally.other, tally.incomplete) == (1, 1, 1, 0)
    assert frames_of(tmp_path / "out.pcap") == [udp(bytes(range(200)))]


def test_statistics_are_those_of_an_engine(engine: str, tmp_path: Path) -> None:
    """What a run counts over several keys is what one device counts that has seen the same packets."""
    device = PSPDevice((K0, K1))
    packets = []
    for spi, version, ip_version in ((1, 0, 4), (0x80000002, 1, 6), (3, 2, 4)):
        key = device.derive(spi, version)
        assert key is not None
        association = PSPAssociation(Profile(version=version, cookie=bytes(8)), spi, key)
        made = _sent([udp(bytes(9), ip_version)], association, engine)
        packets += made
        packets.append(made[0][:-1] + bytes([made[0][-1] ^ 1]))
    alone = psp.open_engine(engine)
    for slot, octets in enumerate((K0, K1)):
        alone.set_device_key(slot, octets)
    for packet in packets:
        alone.decapsulate(packet)
    opener = PSPOpener(PSPKeys((), [device, PSPDevice((bytes(32), bytes(32)))]), engine)
    opener.open(packets)
    assert opener.counters() == alone.counters()
