"""Tunnel files: every mistake with line, key and what would be right; every default shown; keygen's files work."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from wesper.errors import ConfigError, KeyMaterialError
from wesper.tunnel import explain
from wesper.tunnel.file import load_file
from wesper.tunnel.keygen import add, end, make

GOOD = """
[interface]
addresses = ["10.8.0.1/24"]

[[tunnel]]
name = "office"
local = "192.0.2.1"
peer = "198.51.100.7"
networks = ["10.8.0.2/32"]

[[tunnel.sa]]
spi_out = 0x1000
spi_in = 0x1001
key_out = "o.key"
key_in = "i.key"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with key files for AES-256-GCM."""
    for name, octets in (("o", 36), ("i", 36), ("o2", 36), ("i2", 36), ("short", 35)):
        path = tmp_path / f"{name}.key"
        path.write_text((name.encode() * 40)[:octets].hex())
        path.chmod(0o600)
    for name, content in (("words", b"no key at all"), ("octets", b"\xff\xfe")):
        (tmp_path / f"{name}.key").write_bytes(content)
        (tmp_path / f"{name}.key").chmod(0o600)
    (tmp_path / "folder.key").mkdir()
    os.mkfifo(tmp_path / "fifo.key", 0o600)
    open_to_all = tmp_path / "open.key"
    open_to_all.write_text("00" * 36)
    open_to_all.chmod(0o644)
    return tmp_path


def write(place: Path, text: str) -> Path:
    """Write a tunnel file."""
    path = place / "office.toml"
    path.write_text(text)
    return path


def test_defaults(place: Path) -> None:
    file = load_file(write(place, GOOD))
    assert (file.name, file.mtu, file.engine, file.offloads) == ("office", 0, None, True)
    (tunnel,) = file.tunnels
    assert tunnel.suite == "aes-gcm-16"
    assert tunnel.encapsulation is not None
    assert tunnel.encapsulation.local_port == 4500
    assert not tunnel.roaming
    assert "6f6f" not in repr(file)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"10.8.0.1/24"', '"10.8.0.300/24"', ":3: interface.addresses[0]: '10.8.0.300/24' is no address"),
        ("[interface]", "[interface]\nmtu = 60", ":3: interface.mtu: MTU 60 (expected 576..65535"),
        ("[interface]", "[interface]\nnmae = 'x'", ":3: interface.nmae: unknown key (expected name)"),
        ("[interface]", "[interface]\nname = 'a b'", ":3: interface.name: 'a b' is no interface's name"),
        ("[interface]", "[interface]\nengine = 'rust'", ":3: interface.engine: Invalid enum value 'rust'"),
        ('peer = "198.51.100.7"', 'peer = "fd00::1"', ":7: tunnel[0].local: IPv4 to a peer of IPv6 (expected"),
        ('peer = "198.51.100.7"', 'peer = "there"', ":8: tunnel[0].peer: 'there' is no address (expected an"),
        ('peer = "198.51.100.7"', "", ":5: tunnel[0].peer: missing (expected an address"),
        ('"10.8.0.2/32"', '"10.8.0.2/16"', '.networks[0]: \'10.8.0.2/16\' is no network (expected "10.8.0.0/16")'),
        ('name = "office"', 'suite = "aes-gcm"', ":6: tunnel[0].suite: no suite 'aes-gcm' (expected aes-gcm-"),
        ('name = "office"', 'suite = "3des-cbc"', ":6: tunnel[0].suite: '3des-cbc' is a legacy suite"),
        ('name = "office"', "window = 31", ":6: tunnel[0].window: window 31"),
        ('name = "office"', "dscp = 64", ":6: tunnel[0].dscp: dscp 64 (expected 0..63)"),
        ('name = "office"', "hop_limit = 0", ":6: tunnel[0].hop_limit: hop_limit 0 (expected 1..255)"),
        ('name = "office"', 'encapsulation = "tcp"', ":6: tunnel[0].encapsulation: "),
        ('name = "office"', "encapsulation = { local_port = 0 }", ":6: tunnel[0].encapsulation.local_port: port 0"),
        ('name = "office"', 'mode = "transport"', ":9: tunnel[0].networks: networks in transport mode"),
        ('name = "office"', "lifetime = { seconds = 0 }", ":6: tunnel[0].lifetime.seconds: lifetime of 0"),
        ("spi_out = 0x1000", "spi_out = 12", ":12: tunnel[0].sa[0].spi_out: SPI 0xc (expected 0x100..0xffffffff)"),
        ('"o.key"', '"none.key"', ":14: tunnel[0].sa[0].key_out: there is no file none.key"),
        ('"o.key"', '"short.key"', ":14: tunnel[0].sa[0].key_out: 35 octets in short.key for aes-gcm-16"),
        ('"o.key"', '"i.key"', ":15: tunnel[0].sa[0].key_in: the same key both ways"),
        ('"o.key"', '"open.key"', "open.key: others may read this key file (mode 0644) (expected chmod 600"),
        ('"o.key"', '"folder.key"', ":14: tunnel[0].sa[0].key_out: folder.key: not a regular file (expected a key"),
        ('"i.key"', '"."', ":15: tunnel[0].sa[0].key_in: .: not a regular file (expected a key file"),
        ('"i.key"', '"a\\u0000"', ":15: tunnel[0].sa[0].key_in: a\0: a NUL in a file's name"),
        ('"i.key"', '"fifo.key"', ":15: tunnel[0].sa[0].key_in: fifo.key: not a regular file (expected a key file"),
        ('"i.key"', '"words.key"', ":15: tunnel[0].sa[0].key_in: words.key: not hexadecimal (expected key, salt"),
        ('"i.key"', '"octets.key"', ":15: tunnel[0].sa[0].key_in: octets.key: not text (expected UTF-8)"),
        ('"i.key"', '"open.key"', ":15: tunnel[0].sa[0].key_in: open.key: others may read this key file"),
        ('"10.8.0.1/24"', '"10.8.0.1"', ".addresses[0]: '10.8.0.1' has no prefix length (expected \"10.8.0.1/32\","),
        ('"10.8.0.1/24"', '"fd00::1/64", "fd00::1/48"', ":3: interface.addresses[1]: fd00::1 twice"),
        ('"198.51.100.7"', '"224.0.0.1"', ":8: tunnel[0].peer: 224.0.0.1 is a multicast address"),
        ('"198.51.100.7"', '"255.255.255.255"', ":8: tunnel[0].peer: 255.255.255.255 is a broadcast address"),
        ('"198.51.100.7"', '"0.0.0.0"', ":8: tunnel[0].peer: 0.0.0.0 stands for no address"),
        ('"198.51.100.7"', '"192.0.2.1"', ":8: tunnel[0].peer: 192.0.2.1 is this end's own address, too"),
        ('"192.0.2.1"', '"224.0.0.1"', ":7: tunnel[0].local: 224.0.0.1 is a multicast address"),
        ('"198.51.100.7"', '"any"\nroaming = false', ":9: tunnel[0].roaming: an open peer that is not followed"),
        ("[interface]", "[interface", ":2: "),
        ('"192.0.2.1"', '"192.0.2.1', ":7: a string is not closed on its line (expected a quotation mark"),
        ('"192.0.2.1"', '"192.0.2.1"\nlocal = "any"', ":8: tunnel[0].local: stands twice, first in line 7"),
        ("[[tunnel]]", "[log]\n[interface]\n[[tunnel]]", ":6: interface: stands twice, first in line 2"),
        ('["10.8.0.2/32"]', '["10.8.0.2/32"', ": a list is not closed (expected a ] behind it)"),
        ('name = "office"', "name = office", ":6: no value (expected text in quotation marks"),
    ],
)  # fmt: skip
def test_mistakes(before: str, after: str, said: str, place: Path) -> None:
    assert before in GOOD
    with pytest.raises(ConfigError) as caught:
        load_file(write(place, GOOD.replace(before, after, 1)))
    assert said in str(caught.value)
    assert caught.value.exit_code == 2
    assert "6f6f" not in str(caught.value)


def test_what_does_not_go_together(place: Path) -> None:
    twice = GOOD + GOOD[GOOD.index("[[tunnel]]") :]
    with pytest.raises(ConfigError, match=re.escape("tunnel[1].name: two tunnels named office")):
        load_file(write(place, twice))
    other = GOOD + GOOD[GOOD.index("[[tunnel]]") :].replace("office", "home")
    with pytest.raises(ConfigError, match=re.escape("tunnel[1].sa[0].spi_in: SPI 0x1001 twice")):
        load_file(write(place, other))
    again = other[: len(GOOD)] + other[len(GOOD) :].replace("spi_in = 0x1001", "spi_in = 0x1003")
    with pytest.raises(ConfigError, match=re.escape("tunnel[1].sa[0].key_out: the key of another SA")):
        load_file(write(place, again))
    shared = again[: len(GOOD)] + again[len(GOOD) :].replace("i.key", "i2.key").replace("o.key", "o2.key")
    with pytest.raises(ConfigError, match=re.escape("tunnel[1].networks[0]: 10.8.0.2/32 is in office and in home")):
        load_file(write(place, shared))
    within = shared[: len(GOOD)] + shared[len(GOOD) :].replace("10.8.0.2/32", "10.8.0.0/24")
    assert len(load_file(write(place, within)).tunnels) == 2
    raw = GOOD.replace('"198.51.100.7"', '"any"').replace('name = "office"', 'encapsulation = "none"')
    with pytest.raises(ConfigError, match="an open peer"):
        load_file(write(place, raw))


def test_every_default_is_shown_and_reads_back(place: Path) -> None:
    path = write(place, GOOD)
    text = explain.as_text(load_file(path))
    for key in ("window = 1024  # default", 'df = "copy"  # default', 'name = "office"\n', "# roaming is not set"):
        assert key in text
    assert "ip route add 10.8.0.2/32 dev office" in text
    assert "BYPASS" in text
    again = load_file(write(place, text))
    first = load_file(write(place, GOOD))
    assert again.tunnels == first.tunnels
    found = explain.as_json(first)
    assert found["schema"] == 1
    assert found["settings"]["tunnel"][0]["window"] == 1024


@pytest.mark.parametrize("mode", ["tunnel", "transport", "beet"])
@pytest.mark.parametrize("suite", ["aes-gcm-16", "chacha20-poly1305", "aes-cbc+hmac-sha2-256-128"])
def test_keygen_makes_two_ends_that_fit(suite: str, mode: str, tmp_path: Path) -> None:
    inner = (["10.8.0.1/24"], ["10.8.0.2/24"]) if mode != "transport" else ([], [])
    ends = [
        end(tmp_path / "l.toml", "192.0.2.1", 4500, inner[0], []),
        end(tmp_path / "r.toml", "192.0.2.2", 4500, inner[1], ["10.20.0.0/16"] if mode == "tunnel" else []),
    ]
    written = make(ends[0], ends[1], name="t", suite=suite, mode=mode, esn=True)
    add(tmp_path / "l.toml", tmp_path / "r.toml")
    one, other = (load_file(tmp_path / name).tunnels[0] for name in ("l.toml", "r.toml"))
    assert len(one.pairs) == len(other.pairs) == 2
    rows = set()
    for ours, theirs in zip(one.pairs, other.pairs, strict=True):
        assert (ours.spi_out, ours.spi_in) == (theirs.spi_in, theirs.spi_out)
        assert (ours.row_out, ours.row_in) == (theirs.row_in, theirs.row_out)
        rows |= {ours.row_out, ours.row_in}
    assert len(rows) == 4
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.glob("*.key"))
    assert len(written) == 6
    with pytest.raises(ConfigError, match="there already"):
        make(ends[0], ends[1], name="t", suite=suite, mode=mode, esn=True)


def test_a_tunnel_file_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.toml", 0o600)
    for path in (tmp_path / "fifo.toml", tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError, match=r"not a regular file \(expected a tunnel file\)"):
            load_file(path)


def test_a_key_of_the_wrong_mode_is_a_key_error(place: Path) -> None:
    (place / "o.key").chmod(0o640)
    with pytest.raises(KeyMaterialError, match="others may read"):
        load_file(write(place, GOOD))
