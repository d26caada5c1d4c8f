"""Tunnel files of WESP, WESPv2 and EESP: what they say, what is refused and where, what keygen writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from wesper.cli.tunnel import keygen
from wesper.errors import ConfigError
from wesper.sa import (
    CryptOffset,
    EESPFormat,
    Exposure,
    FlowKind,
    FlowPolicy,
    Profile,
    StatelessGroup,
    SubSAs,
    WESPv2Format,
)
from wesper.tunnel.explain import as_text
from wesper.tunnel.file import TunnelFile, TunnelSettings, load_file
from wesper.tunnel.keygen import add, end, make

TABLE = "[tunnel.{}]\n{}\n\n[[tunnel.sa]]"


def written(folder: Path, protocol: str, keys: str = "") -> Path:
    """Write both files as keygen does, and more keys into the first one's own table of the protocol."""
    one, other = folder / "one.toml", folder / "other.toml"
    assert keygen(one, other, local="127.0.0.1", peer="192.0.2.9", protocol=protocol) == 0  # type: ignore[arg-type]
    text = one.read_text()
    if keys:
        text = text.partition("\n[tunnel.")[0] + text[text.index("\n[[tunnel.sa]]") :]
        text = text.replace("[[tunnel.sa]]", TABLE.format(protocol, keys), 1)
        one.write_text(text)
    return one


def profile_of(tunnel: TunnelSettings) -> Profile:
    profile = tunnel.profile(tunnel.local, None, None, 1500)
    assert isinstance(profile, Profile)
    return profile


@pytest.mark.parametrize(("protocol", "number"), [("esp", 50), ("wesp", 141), ("wespv2", 141), ("eesp", 253)])
def test_keygen_writes_what_is_read(protocol: str, number: int, tmp_path: Path) -> None:
    path = written(tmp_path, protocol)
    (tunnel,) = load_file(path).tunnels
    assert (tunnel.protocol, tunnel.ip_protocol, tunnel.probe) == (protocol, number, True)
    assert profile_of(tunnel).protocol == protocol
    assert tunnel.encapsulation is not None
    assert tunnel.encapsulation.local_port == 4500
    add(path, tmp_path / "other.toml")
    assert len(load_file(path).tunnels[0].pairs) == 2


@pytest.mark.parametrize(
    "format",
    [
        WESPv2Format(CryptOffset(Exposure.L3_L4), 60, flow_identifier=FlowPolicy(FlowKind.CPU, 4)),
        EESPFormat(sub_sas=SubSAs("hkdf-sha2-512", max_id=3, key_octets=16), session=FlowPolicy(FlowKind.DSCP)),
        EESPFormat(sequence_numbers=False, stateless=StatelessGroup(7, (1, 0))),
    ],
)
def test_settings_and_keys_as_long_as_they_ask_for(format: WESPv2Format | EESPFormat, tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    ends = end(one, "192.0.2.1", 0, ["10.8.0.1/24"], []), end(other, "192.0.2.2", 0, ["10.8.0.2/24"], [])
    make(*ends, name="t", suite="aes-gcm-16", mode="tunnel", esn=True, protocol=format.protocol, format=format)
    add(one, other)
    (tunnel,) = load_file(other).tunnels
    assert profile_of(tunnel).format == format
    sizes = profile_of(tunnel).ways.key_sizes(profile_of(tunnel))
    assert {len(pair.row_out) for pair in tunnel.pairs} == {max(sizes.key) + sizes.salt + sizes.auth_key}


@pytest.mark.parametrize(
    ("protocol", "keys", "key", "expected"),
    [
        ("wespv2", "flow_identifier_octets = 5", "tunnel[0].wespv2.flow_identifier_octets", "4 or 6 or 8"),
        ("wespv2", 'crypt_offset = "l4"', "tunnel[0].wespv2.crypt_offset", "none, l3, l3+l4 or a number of octets"),
        ("wespv2", "flow_idetifier = 1", "tunnel[0].wespv2.flow_idetifier", "flow_identifier"),
        ("eesp", "session = 65536", "tunnel[0].eesp.session", "0..65535"),
        ("eesp", "ip_protocol = 50", "tunnel[0].eesp.ip_protocol", "148..254"),
        ("eesp", "sequence_numbers = false", "tunnel[0].window", "0: there is nothing to check"),
        (
            "eesp",
            "sub_sas = { first_port = 5000, max_id = 3 }",
            "tunnel[0].eesp.sub_sas.first_port",
            "0: a tunnel",
        ),
        ("eesp", "sub_sas = { kdf = 'md5' }", "tunnel[0].eesp.sub_sas.kdf", "hkdf"),
    ],
)
def test_mistakes_are_told(protocol: str, keys: str, key: str, expected: str, tmp_path: Path) -> None:
    path = written(tmp_path, protocol, keys)
    with pytest.raises(ConfigError) as caught:
        load_file(path)
    assert (caught.value.key, caught.value.line is not None) == (key, True)
    assert expected in caught.value.expected


def test_a_table_of_another_protocol_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "wesp")
    path.write_text(path.read_text().replace("[[tunnel.sa]]", TABLE.format("eesp", "session = 1"), 1))
    with pytest.raises(ConfigError, match="settings of eesp with protocol wesp"):
        load_file(path)


def test_messages_about_options_are_wespv2s(tmp_path: Path) -> None:
    for protocol in ("esp", "wesp", "wespv2", "eesp"):
        (folder := tmp_path / protocol).mkdir()
        path = written(folder, protocol)
        assert load_file(path).tunnels[0].option_errors is False
        path.write_text(path.read_text().replace("[[tunnel]]", "[[tunnel]]\noption_errors = true", 1))
        if protocol == "wespv2":
            assert load_file(path).tunnels[0].option_errors
            continue
        with pytest.raises(ConfigError) as caught:
            load_file(path)
        assert (caught.value.key, caught.value.line is not None) == ("tunnel[0].option_errors", True)


def test_dummies_only_where_they_can_be_said(tmp_path: Path) -> None:
    path = written(tmp_path, "eesp", "session = 1")
    file: TunnelFile = load_file(path)
    assert file.tunnels[0].probe is False
    assert "probe = false  # default" in as_text(file)
    assert "eesp = { sequence_numbers = true, expose_payload = false, session = 1" in as_text(file)
    path.write_text(path.read_text().replace("[[tunnel]]", "[[tunnel]]\nprobe = true", 1))
    with pytest.raises(ConfigError, match="optimized format"):
        load_file(path)
