"""Key files on disk: who may read them, how they are written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from wesper.errors import ConfigError, KeyMaterialError
from wesper.keying import StaticSA, format_of, load_keys, save_keys
from wesper.keying.text_file import MAX_OCTETS
from wesper.sa import AddressRange

HERE, THERE = AddressRange.parse("192.0.2.1"), AddressRange.parse("192.0.2.2")
SA = StaticSA("aes-gcm-16", 0x1000, bytes(range(16)), b"salt", esn=False, local=HERE, remote=THERE)
GMAC = StaticSA("aes-gmac", 0x1001, bytes(range(16)), b"salt", esn=False)


def written(path: Path, octets: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(octets)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("name", ["keys.toml", "esp_sa"])
def test_saved_for_its_owner_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    before = os.umask(0)
    try:
        assert save_keys([SA], path) == []
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == [name]
    (loaded,) = load_keys(path)
    assert (loaded.suite, loaded.key, loaded.path) == (SA.suite, SA.key, path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_readable_by_others(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.toml"
    save_keys([SA], path)
    path.chmod(mode)
    with pytest.raises(KeyMaterialError, match=f"mode {mode:04o}.*chmod 600 {path}") as caught:
        load_keys(path)
    assert caught.value.exit_code == 2


def test_key_file_of_its_own(tmp_path: Path) -> None:
    toml = written(tmp_path / "keys.toml", b'[[sa]]\nspi = 0x1000\nsuite = "aes-gcm-16"\nkey_file = "office.key"\n')
    row = written(tmp_path / "office.key", b"000102030405060708090a0b0c0d0e0f\n73616c74\n")
    (sa,) = load_keys(toml)
    assert (sa.key, sa.salt) == (bytes(range(16)), b"salt")
    row.chmod(0o644)
    with pytest.raises(KeyMaterialError, match=r"keys.toml:4: sa\[0\].key_file: office.key: others may read"):
        load_keys(toml)
    written(row, b"secret!")
    with pytest.raises(KeyMaterialError, match="not hexadecimal") as caught:
        load_keys(toml)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("octets", "message"),
    [
        (b"", "no SA"),
        (b"sa = []", "no SA"),
        (b"# only a comment\n", "no SA"),
        (b"\xff\xfe", "not text"),
        (b"#" * (MAX_OCTETS + 1), f"more than {MAX_OCTETS} octets"),
        (b"x = " + b"[" * 100_000, "keys"),
    ],
)
def test_no_key_file(tmp_path: Path, octets: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_keys(written(tmp_path / "keys", octets))


def test_windows_lines(tmp_path: Path) -> None:
    save_keys([SA], tmp_path / "esp_sa")
    octets = (tmp_path / "esp_sa").read_bytes().replace(b"\n", b"\r\n")
    assert load_keys(written(tmp_path / "windows", octets))[0].key == SA.key


def test_left_out(tmp_path: Path) -> None:
    assert save_keys([SA, GMAC], tmp_path / "esp_sa") == [GMAC]
    with pytest.raises(ConfigError, match="Wireshark has no name for aes-gmac"):
        save_keys([GMAC], tmp_path / "none")
    assert os.listdir(tmp_path) == ["esp_sa"]
    assert save_keys([GMAC], tmp_path / "keys.toml") == []


def test_format_of() -> None:
    assert format_of('# x\n  "IPv4" , "*"') == "esp_sa"
    assert format_of('"sa" = []') == "toml"
    assert format_of("[[sa]]") == "toml"
    assert format_of("") == "toml"
