"""Key files in TOML: what is read, what is refused and with which words, and the way back."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given

from wesper.errors import ConfigError, KeyMaterialError
from wesper.keying import Encapsulated, StaticSA, read_toml, write_toml
from wesper.sa import OPAQUE, AddressRange, Direction, Inner, Mode, Selector, UDPEncapsulation

from .strategies import static_sas

KEY, SALT = "000102030405060708090a0b0c0d0e0f", "a0a1a2a3"
GOOD = f"""
[[sa]]
spi = 0x1000
suite = "aes-gcm-16"
key = "{KEY}"
salt = "{SALT}"
"""


def test_every_key() -> None:
    text = f"""
# a comment with [[sa]] in it
[[sa]]
name = "to the branch"
spi = 0x1000
protocol = "esp"
suite = "aes-cbc+hmac-sha2-256-128"
direction = "in"
mode = "beet"
local = "192.0.2.1"
remote = "198.51.100.0/24"
inner = {{ local = "10.0.0.1", remote = "10.0.0.2" }}
encapsulation = {{ local_port = 4500, remote_port = 61000, checksum = true }}
esn = false
window = 64
sequence = 7
key = "0x{KEY}"
auth_key = "{KEY} {KEY}"

[[sa.selectors]]
local = ["10.0.0.0/8", "192.168.1.1-192.168.1.9"]
protocol = 6
local_ports = 80
remote_ports = "1024-65535"

[[sa.selectors]]
remote_ports = "opaque"

[[sa]]
spi = "*"
suite = "aes-gcm-16"
mode = "auto"
encapsulation = "auto"
key = "{KEY}"
salt = "{SALT}"
"""
    first, second = read_toml(text, "keys.toml")
    assert first == StaticSA(
        suite="aes-cbc+hmac-sha2-256-128",
        spi=0x1000,
        key=bytes.fromhex(KEY),
        auth_key=bytes.fromhex(KEY + KEY),
        name="to the branch",
        direction=Direction.IN,
        mode=Mode.BEET,
        local=AddressRange.parse("192.0.2.1"),
        remote=AddressRange.parse("198.51.100.0/24"),
        inner=Inner(ip_address("10.0.0.1"), ip_address("10.0.0.2")),
        encapsulation=UDPEncapsulation(4500, 61000, True),
        esn=False,
        window=64,
        sequence=7,
        selectors=(
            Selector(
                (AddressRange.parse("10.0.0.0/8"), AddressRange.parse("192.168.1.1-192.168.1.9")),
                protocol=6,
                local_ports=(80, 80),
                remote_ports=(1024, 65535),
            ),
            Selector(remote_ports=OPAQUE),
        ),
    )
    assert (second.spi, second.mode, second.encapsulation, second.esn) == (None, None, Encapsulated.AS_SEEN, True)
    lines = text.split("\n")
    assert [lines[(sa.line or 0) - 1] for sa in (first, second)] == ["[[sa]]", "[[sa]]"]
    assert (first.line, second.line) == (3, 29)


def test_defaults() -> None:
    (sa,) = read_toml(GOOD, "keys.toml")
    assert sa == StaticSA("aes-gcm-16", 0x1000, bytes.fromhex(KEY), bytes.fromhex(SALT))
    assert (sa.mode, sa.direction, sa.encapsulation) == (Mode.TUNNEL, Direction.OUT, Encapsulated.NEVER)


def test_keys_never_show() -> None:
    (sa,) = read_toml(GOOD, "keys.toml")
    assert KEY not in repr(sa)
    assert "0102" not in repr(sa)
    assert repr(bytes.fromhex(KEY)) not in repr(sa)


WRONG = [
    ("spi = 0x1000", "spi = 0x1000\nkye = 1", "keys.toml:4: sa[0].kye: unknown key (expected key)"),
    ("spi = 0x1000", "spi = 0x1000\nzzz = 1", "keys.toml:4: sa[0].zzz: unknown key (expected spi, suite, name,"),
    ("spi = 0x1000\n", "", "keys.toml:2: sa[0].spi: missing"),
    ("spi = 0x1000", 'spi = "x"', "keys.toml:3: sa[0].spi: Invalid enum value 'x' (expected a number or \"*\")"),
    ("spi = 0x1000", "spi = 1.5", 'keys.toml:3: sa[0].spi: not float (expected a number or "*")'),
    ("spi = 0x1000", "spi = 255", "keys.toml:3: sa[0].spi: SPI 0xff (expected 0x100..0xffffffff)"),
    ("aes-gcm-16", "aes-gmc-16", "keys.toml:4: sa[0].suite: no suite 'aes-gmc-16' (expected aes-gcm-16)"),
    ("aes-gcm-16", "3des+hmac-md5-96", "keys.toml:4: sa[0].suite: '3des+hmac-md5-96' is a legacy suite, which wesper"),
    ("aes-gcm-16", "aes-cbc+hmac-sha1-96", "'aes-cbc+hmac-sha1-96' is a legacy suite"),
    (f'salt = "{SALT}"', "", "keys.toml:2: sa[0].salt: 0 octets for aes-gcm-16 (expected 4 octets)"),
    (f'key = "{KEY}"\n', "", "keys.toml:2: sa[0].key: missing (expected key or key_file)"),
    (KEY, KEY[2:], "keys.toml:5: sa[0].key: 15 octets for aes-gcm-16 (expected 16 or 24 or 32 octets)"),
    (KEY, "xy" + KEY, "keys.toml:5: sa[0].key: not hexadecimal (expected pairs of hexadecimal digits)"),
    (
        "spi = 0x1000",
        "spi = 0x1000\nmode = 'tunel'",
        "keys.toml:4: sa[0].mode: Invalid enum value 'tunel' (expected tu",
    ),
    ("spi = 0x1000", "spi = 0x1000\nmode = 'beet'", "keys.toml:2: sa[0].inner: BEET mode without its inner pair"),
    ("spi = 0x1000", "spi = 0x1000\nesn = 1", "keys.toml:4: sa[0].esn: not int (expected bool)"),
    (
        "spi = 0x1000",
        "spi = 0x1000\nwindow = 7",
        "keys.toml:4: sa[0].window: window 7 (expected 0, or a multiple of 32",
    ),
    ("spi = 0x1000", "spi = 0x1000\nlocal = '1.2.3'", "keys.toml:4: sa[0].local: '1.2.3' is no address range"),
    ("spi = 0x1000", "spi = 0x1000\nsequence = -1", "keys.toml:4: sa[0].sequence: "),
    (
        "spi = 0x1000",
        "spi = 0x1000\nprotocol = 'ah'",
        "keys.toml:4: sa[0].protocol: no protocol 'ah' (expected esp or wesp or wespv2 or eesp)",
    ),
    (
        "spi = 0x1000",
        "spi = 0x1000\nencapsulation = { local_prot = 1 }",
        "keys.toml:4: sa[0].encapsulation.local_prot: unknown key (expected local_port)",
    ),
    ("spi = 0x1000", "spi = 0x1000\nencapsulation = { local_port = 0 }", "keys.toml:4: sa[0].encapsulation: a port"),
    (
        "spi = 0x1000",
        "spi = 0x1000\nencapsulation = 'tcp'",
        "keys.toml:4: sa[0].encapsulation: Invalid enum value 'tcp'",
    ),
    ("spi = 0x1000", "spi = 0x1000\ninner = { local = 'x', remote = 'y' }", "keys.toml:4: sa[0].inner: not two addr"),
    ("spi = 0x1000", "spi = \x01", "keys.toml:3: no value"),
    ("[[sa]]", "[sa]", "keys.toml:2: sa: not object (expected array)"),
    ("[[sa]]", "[[as]]", "keys.toml:2: as: unknown key (expected sa, association, device)"),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG, ids=[f"{new[-24:]!r}" for _, new, _ in WRONG])
def test_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_toml(GOOD.replace(old, new), "keys.toml")
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
    assert KEY[2:] not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("local", '["10.0.0.1/8"]', "selectors[0].local: '10.0.0.1/8' is no address range"),
        ("protocol", "256", "selectors[0].protocol: protocol 256 (expected 0..255)"),
        ("remote_ports", '"90-80"', "selectors[0].remote_ports: ports '90-80'"),
        ("local_ports", "65536", "selectors[0].local_ports: ports 65536"),
    ],
)
def test_refused_selector(key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_toml(f"{GOOD}\n[[sa.selectors]]\n{key} = {value}\n", "keys.toml")
    assert message in str(caught.value)
    assert caught.value.line == 9


def test_key_file_is_a_row_of_key_salt_and_auth_key() -> None:
    def row(path: Path) -> bytes:
        assert path == Path("folder/office.key")
        return bytes(range(16 + 32))

    text = '[[sa]]\nspi = 0x1000\nsuite = "aes-cbc+hmac-sha2-256-128"\nkey_file = "office.key"\n'
    (sa,) = read_toml(text, "folder/keys.toml", row)
    assert (sa.key, sa.salt, sa.auth_key) == (bytes(range(16)), b"", bytes(range(16, 48)))
    with pytest.raises(KeyMaterialError, match=r"keys.toml:4: sa\[0\].key_file: 47 octets for aes-cbc.*48 or 56 or 64"):
        read_toml(text, "keys.toml", lambda path: bytes(47))
    with pytest.raises(KeyMaterialError, match="keys both here and in a file"):
        read_toml(text + 'key = ""\n', "keys.toml", lambda path: bytes(48))
    with pytest.raises(ConfigError, match="key_file"):
        read_toml(text, "keys.toml")


@given(static_sas())
def test_written_and_read_again(sa: StaticSA) -> None:
    assert read_toml(write_toml([sa, sa]), "keys.toml") == [sa, sa]
