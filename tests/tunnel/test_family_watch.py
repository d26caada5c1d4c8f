"""Looking at running tunnels of WESP, WESPv2 and EESP: trace, capture, keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wesper.keying import load_keys
from wesper.lab import pair
from wesper.pcap import open_capture
from wesper.pcap.dissect import Keyring, dissect
from wesper.sa import CryptOffset, EESPFormat, Exposure, FlowPolicy, Option, WESPv2Format

from .ends import await_ping, ending, eventually, ping, two_ends
from .test_live import ENGINES
from .test_watch import run, start

pytestmark = pytest.mark.usefixtures("namespaces")
FORMATS = {
    "wesp": None,
    "wespv2": WESPv2Format(flow_identifier=FlowPolicy(value=258)),
    "eesp": EESPFormat(session=FlowPolicy(value=7)),
    "eesp as 254": EESPFormat(session=FlowPolicy(value=7), ip_protocol=254),
}
NAMED = {"wesp": "low half", "wespv2": "flow identifier 0x102", "eesp": "Session ID 7", "eesp as 254": "Session ID 7"}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", FORMATS)
def test_trace_and_capture(name: str, engine: str, tmp_path: Path) -> None:
    protocol, path, found = name.split(" ")[0], tmp_path / "seen.pcapng", tmp_path / "keys.toml"
    with pair() as lab:
        port = 0 if "254" in name else 4500
        left, right = two_ends(tmp_path, *lab, engine, protocol=protocol, format=FORMATS[name], port=port)
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            with start(right, "trace", "--live", right.name, "--json", "--count", "6", "--seconds", "20") as tracing:
                assert ping(left, right.inner, 3) == 3
                out, err = tracing.communicate(timeout=30)
            assert tracing.returncode == 0, err
            walks = [{step["stage"]: step["text"] for step in each["steps"]} for each in json.loads(out)["packets"]]
            inbound = [walk for walk in walks if "header" in walk]
            assert len(inbound) == 3
            for walk in inbound:
                assert walk["header"].startswith(f"SPI {right.pair()['in']['spi']:#010x}, ")
                assert NAMED[name] in walk["header"]
                assert walk["sa"] == "test, aes-gcm-16"
            with start(right, "capture", right.name, "-o", str(path), "--seconds", "2") as capturing:
                assert ping(left, right.inner, 2) == 2
                assert capturing.wait(30) == 0
            assert run(right, "keys", "-o", str(found)) == 0
    keys = Keyring(load_keys(found))
    with open_capture(path) as capture:
        outer = [each for each in capture if capture.interfaces[each.interface].name == "right/outer"]
    shown = [dissect(each.data, each.link_type, keys) for each in outer]
    assert len(shown) >= 4
    assert {each.problem for each in shown} == {""}
    assert sum(each.layer("icmp") is not None for each in shown) == 4


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_peer_does_not_keep_to_is_told(engine: str, tmp_path: Path) -> None:
    """An option that asks for an answer, and more in clear than the other end has announced."""
    asking = WESPv2Format(options=(Option(0x9C, b"\1\2"),))
    showing = EESPFormat(crypt_offset=CryptOffset(Exposure.L3), max_crypt_offset_octets=40)
    for format, event, reason in (
        (asking, "unknown_option", "UNKNOWN_OPTION"),
        (showing, "broken_agreement", "BAD_CRYPT_OFFSET"),
    ):
        with pair() as lab:
            left, right = two_ends(tmp_path / event, *lab, engine, protocol=format.protocol, format=format)
            text = right.path.read_text()
            right.path.write_text(text.replace("max_crypt_offset_octets = 40", "max_crypt_offset_octets = 8"))
            with ending(left, right):
                left.up()
                right.up()
                assert ping(left, right.inner, 3, timeout=0.2) == 0
                eventually(lambda right=right, event=event: right.status()["events"].get(event))
                assert right.status()["drops"][reason] >= 1
