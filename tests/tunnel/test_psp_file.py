"""PSP in the tunnel file: what is read of it, what is refused, and what keygen makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from wesper.cli.tunnel import keygen
from wesper.crypto.psp import DeviceKey, version
from wesper.errors import ConfigError, KeyMaterialError
from wesper.psp import GatewayProfile, Replay, ReplayRule, SourcePort
from wesper.tunnel import explain
from wesper.tunnel.file import load_file
from wesper.tunnel.keygen import add

K0, K1, OUT = bytes(range(32)), bytes(range(1, 33)), bytes(16)
TEXT = """\
[interface]
addresses = ["10.8.0.1/24"]

[psp]
device_keys = "device.key"

[[tunnel]]
name = "office"
protocol = "psp"
local = "127.0.0.1"
peer = "127.0.0.2"
networks = ["10.8.0.2/32"]

[[tunnel.sa]]
spi_out = 0x80000001
spi_in = 0x00000007
key_out = "out.key"
"""


def secret(path: Path, octets: bytes) -> None:
    path.write_text(octets.hex())
    path.chmod(0o600)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    secret(tmp_path / "device.key", K0 + K1)
    secret(tmp_path / "out.key", OUT)
    path = tmp_path / "left.toml"
    path.write_text(TEXT)
    return path


def changed(file: Path, old: str, new: str) -> Path:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    return file


def test_a_file_is_read_with_every_default(file: Path) -> None:
    read = load_file(file)
    (tunnel,) = read.tunnels
    (pair,) = tunnel.pairs
    assert (read.protocol, read.psp_port, tunnel.suite) == ("psp", 1000, "AES-128-GCM")
    assert pair.row_in == DeviceKey(K0).derive(7, version(0))
    assert read.device_keys == (K0, K1)
    profile = tunnel.profile(tunnel.local, tunnel.peer, None, 1500, tuple(range(40000, 40016)))
    assert isinstance(profile, GatewayProfile)
    assert (profile.look.port, profile.look.source_port, profile.look.mtu) == (1000, SourcePort.TABLE, 1500)
    assert profile.look.ports == tuple(range(40000, 40016))
    assert "row" not in repr(pair).replace("row_", "")
    for key in (K0, K1, OUT, pair.row_in):
        assert key.hex() not in repr(read)


def test_settings_of_packets(file: Path) -> None:
    changed(file, 'name = "office"', 'psp = { version = 2, cookie = "0xcafe000000000007", source_ports = "5000-5020" }')
    changed(file, 'local = "127', 'encapsulation = { local_port = 2000, peer_port = 3000 }\nlocal = "127')
    read = load_file(file)
    look = read.tunnels[0].profile(read.tunnels[0].local, None, None, 1500)
    assert isinstance(look, GatewayProfile)
    assert (look.look.version, look.look.cookie, look.look.port) == (2, bytes.fromhex("cafe000000000007"), 3000)
    assert (read.psp_port, look.look.ports) == (2000, tuple(range(5000, 5021)))


def test_replay_rules_are_read_and_shown_with_their_measure(file: Path) -> None:
    before = file.read_text()
    for given, rule, shown in (
        ("version = 0", ReplayRule(), 'replay = "none" }'),
        ('replay = "none"', ReplayRule(), 'replay = "none" }'),
        ('replay = "time"', ReplayRule(Replay.TIME_WINDOW), 'replay = "time", margin_ms = 1000 }'),
        (
            'replay = "time", margin_ms = 20',
            ReplayRule(Replay.TIME_WINDOW, margin_ns=20_000_000),
            'replay = "time", margin_ms = 20 }',
        ),
        ('replay = "bitmap"', ReplayRule(Replay.EXACT), 'replay = "bitmap", window = 1024 }'),
        ('replay = "bitmap", window = 64', ReplayRule(Replay.EXACT, window=64), 'replay = "bitmap", window = 64 }'),
    ):
        file.write_text(before.replace('name = "office"', f"psp = {{ {given} }}"))
        read = load_file(file)
        profile = read.tunnels[0].profile(read.tunnels[0].local, None, None, 1500)
        assert isinstance(profile, GatewayProfile)
        assert profile.replay == rule
        assert shown in explain.as_text(read)


@pytest.mark.parametrize(
    ("old", "new", "key", "expected"),
    [
        ('protocol = "psp"', 'protocol = "pps"', "tunnel[0].protocol", "esp or psp"),
        ('device_keys = "device.key"', "", "psp.device_keys", "keygen"),
        ("device.key", "gone.key", "psp.device_keys", "keygen"),
        ('device_keys = "device.key"', 'device_keys = "out.key"', "psp.device_keys", "32 or 64"),
        ('name = "office"', 'suite = "aes-gcm-16"', "tunnel[0].suite", "ESP's"),
        ('name = "office"', "esn = true", "tunnel[0].esn", "ESP's"),
        ('name = "office"', "window = 64", "tunnel[0].window", "PSP's is psp.window"),
        ('name = "office"', "pad_to = 9", "tunnel[0].pad_to", "ESP's"),
        ('name = "office"', "keepalive = 9", "tunnel[0].keepalive", "ESP's"),
        ('name = "office"', "roaming = true", "tunnel[0].roaming", "ESP's"),
        ('name = "office"', 'encapsulation = "none"', "tunnel[0].encapsulation", "udp"),
        ('name = "office"', "encapsulation = { local_port = 0 }", "tunnel[0].encapsulation.local_port", "1..65535"),
        ('networks = ["10.8.0.2/32"]', 'mode = "beet"', "tunnel[0].mode", "transport"),
        ('peer = "127.0.0.2"', 'peer = "any"', "tunnel[0].peer", "an address"),
        ('name = "office"', "psp = { version = 4 }", "tunnel[0].psp.version", "0..3"),
        ('name = "office"', "psp = { crypt_offset = 64 }", "tunnel[0].psp.crypt_offset", "0..63"),
        ('name = "office"', "psp = { version = 2, crypt_offset = 1 }", "tunnel[0].psp.crypt_offset", "GMAC"),
        ('name = "office"', 'psp = { cookie = "cafe" }', "tunnel[0].psp.cookie", "8 octets"),
        ('name = "office"', 'psp = { cookie = "what" }', "tunnel[0].psp.cookie", "8 octets"),
        ('name = "office"', "psp = { source_ports = [5000] }", "tunnel[0].psp.source_ports", "16 to 256"),
        ('name = "office"', 'psp = { source_ports = "80-99" }', "tunnel[0].psp.source_ports", "1024"),
        ('name = "office"', 'psp = { source_ports = "many" }', "tunnel[0].psp.source_ports", "first-last"),
        ('name = "office"', 'psp = { replay = "window" }', "tunnel[0].psp.replay", "none, time or bitmap"),
        ('name = "office"', 'psp = { replay = "bitmap", window = 33 }', "tunnel[0].psp.window", "multiple of 32"),
        ('name = "office"', 'psp = { replay = "time", margin_ms = 0 }', "tunnel[0].psp.margin_ms", "1..86400000"),
        ('name = "office"', 'psp = { replay = "time", window = 64 }', "tunnel[0].psp.window", 'replay = "bitmap"'),
        ('name = "office"', "psp = { margin_ms = 5 }", "tunnel[0].psp.margin_ms", 'replay = "time"'),
        ("spi_in = 0x00000007", "spi_in = 0x80000000", "tunnel[0].sa[0].spi_in", "not 0x80000000"),
        ("spi_out = 0x80000001", "spi_out = 0x80000000", "tunnel[0].sa[0].spi_out", "not 0x80000000"),
        ('key_out = "out.key"', 'key_out = "device.key"', "tunnel[0].sa[0].key_out", "16 octets"),
        ('key_out = "out.key"', 'key_out = "out.key"\nkey_in = "out.key"', "tunnel[0].sa[0].key_in", "device keys"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_key(file: Path, old: str, new: str, key: str, expected: str) -> None:
    changed(file, old, new)
    with pytest.raises(ConfigError) as raised:
        load_file(file)
    assert raised.value.key == key
    assert expected in raised.value.expected
    assert raised.value.path == file
    assert raised.value.line is not None


def test_device_keys_must_be_there_for_the_spi(file: Path) -> None:
    secret(file.parent / "device.key", K0)
    load_file(file)
    changed(file, "spi_in = 0x00000007", "spi_in = 0x80000007")
    with pytest.raises(ConfigError, match="device key 1"):
        load_file(file)
    (file.parent / "device.key").chmod(0o644)
    with pytest.raises(KeyMaterialError):
        load_file(file)


def test_what_is_psps_is_refused_with_esp(file: Path) -> None:
    changed(file, 'protocol = "psp"', 'protocol = "esp"')
    with pytest.raises(ConfigError, match="without a PSP tunnel"):
        load_file(file)
    secret(file.parent / "out.key", bytes(20))
    changed(file, '[psp]\ndevice_keys = "device.key"', "")
    with pytest.raises(ConfigError, match="missing"):
        load_file(file)
    changed(file, 'name = "office"', "psp = { version = 0 }")
    with pytest.raises(ConfigError, match="settings of PSP"):
        load_file(file)


def test_one_file_is_one_protocol_and_one_device(file: Path) -> None:
    second = TEXT[TEXT.index("[[tunnel]]") :].replace("office", "lab").replace("0.8.0.2", "0.8.0.3")
    second = second.replace("out.key", "second.key").replace("0x00000007", "0x00000008")
    secret(file.parent / "second.key", bytes(15) + b"!")
    file.write_text(TEXT + second)
    assert len(load_file(file).tunnels) == 2
    other_port = second.replace("local =", "encapsulation = { local_port = 1001 }\nlocal =")
    file.write_text(TEXT + other_port)
    with pytest.raises(ConfigError, match="a device has one"):
        load_file(file)
    secret(file.parent / "esp.key", bytes(20))
    secret(file.parent / "esp2.key", bytes(19) + b"!")
    esp = (
        second.replace('protocol = "psp"', "").replace("second.key", "esp.key").replace("0x00000008", "0x108")
        + 'key_in = "esp2.key"\n'
    )
    file.write_text(TEXT + esp)
    with pytest.raises(ConfigError, match="in one file") as raised:
        load_file(file)
    assert raised.value.key == "tunnel[1].protocol"
    assert "two files" in raised.value.expected


@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_keygen_makes_ends_that_fit_and_rotates(mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    ends = {"local": "127.0.0.1", "peer": "127.0.0.2", "protocol": "psp", "mode": mode}
    keygen(one, other, **ends, psp_version=1, crypt_offset=2, cookie="0000000000000007", replay="bitmap", port=2000)  # type: ignore[arg-type]
    for generation in range(3):
        files = load_file(one), load_file(other)
        near, far = (each.tunnels[0].pairs[-1] for each in files)
        assert (near.spi_out, near.spi_in, near.row_out, near.row_in) == (
            far.spi_in,
            far.spi_out,
            far.row_in,
            far.row_out,
        )
        assert {near.spi_in >> 31, far.spi_in >> 31} == {generation & 1}
        assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*.key")} == {0o600}
        assert files[0].tunnels[0].psp == files[1].tunnels[0].psp
        kept = [each.device_keys[generation & 1] for each in files]
        if generation:
            with pytest.raises(ConfigError, match="has associations still"):
                add(one, other)
            for path in (one, other):
                head, _, *rest = path.read_text().split("[[tunnel.sa]]")
                path.write_text("[[tunnel.sa]]".join([head, *rest]))
        add(one, other)
        assert [load_file(path).device_keys[generation & 1] for path in (one, other)] == kept
    shown = explain.as_text(load_file(one))
    assert "listen: PSP on 127.0.0.1 port 2000" in shown
    assert 'cookie = "0000000000000007"' in shown
    assert 'replay = "bitmap", window = 1024' in shown
    assert "suite" not in shown
    assert "key_in" not in shown
    for path in tmp_path.glob("*.key"):
        assert path.read_text().strip() not in shown + capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"encapsulation": "none"}, "--encapsulation"),
        ({"mode": "beet"}, "--mode"),
        ({"peer": "any"}, "--peer"),
        ({"local": "any"}, "peer"),
        ({"suite": "aes-gcm-8"}, "--suite"),
        ({"esn": False}, "--esn"),
        ({"cookie": "7"}, "--cookie"),
        ({"crypt_offset": 64}, "--crypt-offset"),
    ],
)
def test_keygen_refuses_what_psp_has_not(given: dict[str, object], key: str, tmp_path: Path) -> None:
    ends = {"local": "127.0.0.1", "peer": "127.0.0.2", "protocol": "psp"}
    with pytest.raises(ConfigError) as raised:
        keygen(tmp_path / "one.toml", tmp_path / "other.toml", **{**ends, **given})  # type: ignore[arg-type]
    assert raised.value.key == key
    assert list(tmp_path.iterdir()) == []
