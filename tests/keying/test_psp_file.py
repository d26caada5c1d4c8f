"""PSP's tables of a key file: what they say, and what is said of those that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from wesper.crypto.psp import DeviceKey, version
from wesper.errors import ConfigError, KeyMaterialError
from wesper.keying import (
    PSPAssociation,
    PSPKeys,
    files_with_keys,
    load_all_keys,
    load_keys,
    load_psp_keys,
    save_private,
    write_received,
)
from wesper.keying.toml_file import read_psp_toml
from wesper.protocols.modes import Mode
from wesper.protocols.psp import Profile, SourcePort
from wesper.sa import Direction

K0, K1 = bytes(range(32)), bytes(range(32, 64))
FILE = f"""
[[device]]
name = "b"
keys = ["{K0.hex()}", "{K1.hex()}"]
address = "192.0.2.2"

[[association]]
name = "to b"
device = "b"
spi = 0x80000007
version = 1
mode = "tunnel"
local = "192.0.2.1"
remote = "192.0.2.2"
crypt_offset = 2
cookie = "0001020304050607"
extension = "08090a0b0c0d0e0f"
source_port = 50000
sample = true
iv = 41

[[association.selectors]]
remote = ["198.51.100.0/24"]
protocol = 17

[[association]]
spi = 9
key = "{bytes(16).hex()}"
direction = "in"
"""


def test_everything_that_a_file_can_say() -> None:
    keys = read_psp_toml(FILE, "keys.toml")
    (device,), (first, second) = keys.devices, keys.associations
    assert (device.name, device.keys, device.port) == ("b", (K0, K1), 1000)
    assert first.key == DeviceKey(K1).derive(0x80000007, version(1))
    profile = first.profile
    assert (profile.mode, profile.version, profile.crypt_offset_words, profile.sample) == (Mode.TUNNEL, 1, 2, True)
    assert (profile.cookie, profile.extension) == (bytes(range(8)), bytes(range(8, 16)))
    assert (profile.source_port, profile.ports) == (SourcePort.FIXED, (50000,))
    assert profile.outer is not None
    assert (str(profile.outer.local), str(profile.outer.remote)) == ("192.0.2.1", "192.0.2.2")
    assert (first.iv, first.suite, first.selectors[0].protocol) == (41, "AES-256-GCM", 17)
    assert (second.key, second.direction, second.profile) == (bytes(16), Direction.IN, Profile())
    assert keys.ports == {1000}
    shown = repr(keys) + repr(device) + repr(first)
    assert not any(key.hex()[:16] in shown or repr(key)[2:-1] in shown for key in (K0, K1, first.key))


WRONG = [
    ('name = "b"', 'nmae = "b"', "keys.toml:3: device[0].nmae: unknown key (expected name)"),
    ("spi = 0x80000007", "spi = 0x80000000", "keys.toml:10: association[0].spi: 0x80000000 (expected 1..0xffffffff"),
    ("version = 1", "version = 4", "keys.toml:11: association[0].version: 4 (expected 0..3)"),
    ("crypt_offset = 2", "crypt_offset = 64", "keys.toml:15: association[0].crypt_offset: 64 (expected 0..63)"),
    ("crypt_offset = 2", "crypt_ofset = 2", "association[0].crypt_ofset: unknown key (expected crypt_offset)"),
    (
        'cookie = "0001020304050607',
        'cookie = "0001',
        "keys.toml:16: association[0].cookie: 2 octets",
    ),
    (
        'extension = "08090a0b0c0d0e0f',
        'extension = "08',
        "extension: 1 octets (expected a multiple of 8",
    ),
    ("source_port = 50000", "source_port = [50000]", "association[0].source_port: 1 ports (expected 16 or more"),
    ("source_port = 50000", 'source_port = "any"', "association[0].source_port: "),
    ("source_port = 50000", 'source_port = 50000\nrules = "google"', "google's rules make it of the inner ports"),
    ("source_port = 50000", 'rules = "gogle"', "association[0].rules: "),
    ('device = "b"', 'device = "c"', "association[0].device: no device 'c' (expected b)"),
    ('device = "b"', f'device = "b"\nkey = "{bytes(32).hex()}"', "association[0].key: given twice"),
    ('device = "b"', "", "association[0].key: missing (expected one of key, key_file and device)"),
    ('local = "192.0.2.1"', "", "association[0].local: missing, and a tunnel's outer header needs it"),
    ('local = "192.0.2.1"', 'local = "192.0.2.0/24"', "association[0].local: more than one address"),
    ("iv = 41", "iv = -1", "association[0].iv: -1"),
    (f', "{K1.hex()}"', "", "association[0].device: its device key 1 is not known"),
    (K1.hex(), K1.hex()[2:], "device[0].keys: keys of these octets: 32, 31"),
    (K1.hex(), "xyz", "device[0].keys: not hexadecimal"),
    (bytes(16).hex(), bytes(17).hex(), "association[1].key: 17 octets (expected 16 octets for version 0)"),
    (
        "[[association.selectors]]",
        "[[association.selector]]",
        "association[0].selector: unknown key (expected selectors)",
    ),
    ("protocol = 17", "protocol = 256", "association[0].selectors[0].protocol: protocol 256 (expected 0..255)"),
    ("[[device]]", '[[device]]\nname = "a"\nkey_file = "f"\n[[device]]', "device[0].key_file: a text without a place"),
    ("[[association]]", f'[[device]]\nname = "b"\nkeys = ["{K0.hex()}"]\n[[association]]', "a second device 'b'"),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG, ids=[f"{new[-24:]!r}" for _, new, _ in WRONG])
def test_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_psp_toml(FILE.replace(old, new, 1), "keys.toml")
    text = str(caught.value)
    assert message in text
    assert text.startswith("keys.toml:")
    assert caught.value.line is not None
    assert not any(secret in text for secret in (K0.hex(), K1.hex(), K1.hex()[2:], bytes(17).hex()))


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_keys_in_files_of_their_own(tmp_path: Path) -> None:
    private(tmp_path / "device", K0.hex() + "\n" + K1.hex())
    private(tmp_path / "one", bytes(16).hex())
    text = '[[device]]\nkey_file = "device"\n[[association]]\nspi = 5\nkey_file = "one"\n'
    path = private(tmp_path / "keys.toml", text)
    keys = load_psp_keys(path)
    assert keys.devices[0].keys == (K0, K1)
    assert keys.associations[0].key == bytes(16)
    assert files_with_keys(path) == [path, tmp_path / "device", tmp_path / "one"]
    (tmp_path / "device").write_text(K0.hex())
    assert load_psp_keys(path).devices[0].keys == (K0, None)
    (tmp_path / "device").write_text("00")
    with pytest.raises(KeyMaterialError, match="1 octets"):
        load_psp_keys(path)
    (tmp_path / "device").chmod(0o644)
    with pytest.raises(KeyMaterialError, match="others may read"):
        load_psp_keys(path)


def test_files_of_one_kind(tmp_path: Path) -> None:
    psp = private(tmp_path / "psp.toml", FILE)
    sas, keys = load_all_keys(psp)
    assert (sas, len(keys.associations)) == ([], 2)
    with pytest.raises(ConfigError, match="no SA"):
        load_keys(psp)
    sa = '[[sa]]\nspi = 1000\nsuite = "aes-gmac"\nkey = "00000000000000000000000000000000"\nsalt = "00000000"\n'
    esp = private(tmp_path / "esp.toml", sa)
    assert not load_all_keys(esp)[1]
    with pytest.raises(ConfigError, match=r"nothing of PSP \(expected \[\[device\]\] or \[\[association\]\] tables\)"):
        load_psp_keys(esp)
    both = private(tmp_path / "both.toml", sa + FILE)
    sas, keys = load_all_keys(both)
    assert (len(sas), len(keys.devices)) == (1, 1)


def test_what_is_derived_is_written_for_its_owner_and_read_back(tmp_path: Path) -> None:
    made = [
        PSPAssociation(Profile(version=number), 0x1000 + number, bytes(octets), f'"{number}"', Direction.IN)
        for number, octets in ((0, 16), (1, 32), (2, 16), (3, 32))
    ]
    path = tmp_path / "keys.toml"
    save_private(path, write_received((each, "of b") for each in made))
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_psp_keys(path) == PSPKeys(made, [])
    with pytest.raises(ConfigError, match="not a regular file"):
        save_private(Path("/dev/null"), [])
