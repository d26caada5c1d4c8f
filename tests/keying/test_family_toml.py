"""Settings of WESPv2 and EESP in key files: read, written and read again, refused with line and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper import CryptOffset, EESPFormat, Exposure, FlowKind, FlowPolicy, Option, StatelessGroup, SubSAs, WESPv2Format
from wesper.errors import ConfigError
from wesper.keying import StaticSA
from wesper.keying.toml_file import read_toml, write_toml

from ..engine.family_arbitrary import keys_of, profiles

SA = """[[sa]]
spi = 0x3000
protocol = "eesp"
suite = "aes-gcm-16"
key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
"""


def test_read() -> None:
    text = (
        SA
        + """[sa.eesp]
crypt_offset = "l3+l4"
max_crypt_offset_octets = 80
session = "5-tuple"
sub_sas = { max_id = 7, first_port = 50000 }
options = [{ type = 230, data = "0badcafe" }]
ip_protocol = 254
"""
    )
    (sa,) = read_toml(text, "keys.toml")
    assert sa.format == EESPFormat(
        crypt_offset=CryptOffset(Exposure.L3_L4),
        max_crypt_offset_octets=80,
        session=FlowPolicy(FlowKind.FIVE_TUPLE),
        sub_sas=SubSAs(max_id=7, first_port=50000),
        options=(Option(230, bytes.fromhex("0badcafe")),),
        ip_protocol=254,
    )
    other = SA.replace('"eesp"', '"wespv2"').replace("key =", 'salt = "00112233"\nkey =')
    (sa,) = read_toml(other + "[sa.wespv2]\ncrypt_offset = 28\nmax_crypt_offset_octets = 28\ncpus = 4\n", "keys.toml")
    assert sa.format == WESPv2Format(CryptOffset(Exposure.OCTETS, 28), 28, flow_identifier=FlowPolicy(FlowKind.CPU, 4))
    stateless = SA.replace("suite", "window = 0\nsuite")
    stateless += '[sa.eesp]\nsequence_numbers = false\nstateless = { device_id = "00000000c0000201", indexes = [7] }\n'
    (sa,) = read_toml(stateless, "keys.toml")
    assert sa.format == EESPFormat(sequence_numbers=False, stateless=StatelessGroup(0xC0000201, (7,)))


@given(st.data())
def test_written_and_read_again(data: st.DataObject) -> None:
    profile = data.draw(profiles().filter(lambda p: p.mode.value == "tunnel"))
    keys = keys_of(data.draw, profile)
    sa = StaticSA(
        profile.suite, 0x3000, keys.key, keys.salt, keys.auth_key, protocol=profile.protocol,
        esn=profile.esn, window=profile.window, format=profile.format,
    )  # fmt: skip
    assert read_toml(write_toml([sa, sa]), "keys.toml") == [sa, sa]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("[sa.eesp]\nsesion = 1\n", "keys.toml:7: sa[0].eesp.sesion: unknown key (expected session)"),
        ('[sa.eesp]\ncrypt_offset = "l5"\n', "keys.toml:7: sa[0].eesp.crypt_offset: "),
        ('[sa.eesp]\ncrypt_offset = "l3"\n', "keys.toml:7: sa[0].eesp.crypt_offset: a crypt offset that the peer has"),
        ("[sa.eesp]\nip_protocol = 50\n", "keys.toml:7: sa[0].eesp.ip_protocol: IP protocol 50"),
        ("[sa.wespv2]\n", "sa[0].wespv2: settings of wespv2 with protocol 'eesp'"),
        ('[sa.eesp]\noptions = [{ type = 9, data = "xy" }]\n', "sa[0].eesp.options: not hex"),
        ("[sa.eesp]\nsub_sas = { key_octets = 17 }\n", "key_octets"),
    ],
)
def test_refused(table: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_toml(SA + table, "keys.toml")
    assert told in str(refused.value)


def test_root_key_in_a_file(tmp_path: Path) -> None:
    """Its length is that of the KDF's hash, without a salt."""
    text = SA[: SA.index("key")] + 'key_file = "root"\n[sa.eesp]\nsub_sas = { kdf = "hkdf-sha2-512" }\n'
    (sa,) = read_toml(text, tmp_path / "keys.toml", lambda path: bytes(64))
    assert (len(sa.key), sa.salt) == (64, b"")
    with pytest.raises(ConfigError, match="64"):
        read_toml(text, tmp_path / "keys.toml", lambda path: bytes(36))
