"""WESP, WESPv2 and EESP where the way is not simple: many protocols on one port, peers that move, paths that shrink."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from wesper.errors import ConfigError
from wesper.lab import nat, pair, routed
from wesper.sa import EESPFormat, FlowKind, FlowPolicy, SubSAs, WESPv2Format
from wesper.tunnel.file import load_file

from .ends import Side, Stream, ending, eventually, follow_through_nat, learn_narrow_path, ping, two_ends
from .test_family_live import unsteered
from .test_live import ENGINES, tcp

pytestmark = pytest.mark.usefixtures("namespaces")
PROTOCOLS = ("esp", "wesp", "wespv2", "eesp")
BY_TUPLE = FlowPolicy(FlowKind.FIVE_TUPLE)
MOVING: dict[str, dict[str, Any]] = {
    "wesp": {"protocol": "wesp"},
    "wespv2": {"protocol": "wespv2", "format": WESPv2Format(flow_identifier=BY_TUPLE)},
    "eesp": {"protocol": "eesp"},
    "optimized": {"protocol": "eesp", "format": EESPFormat(session=BY_TUPLE)},
    "sub SAs": {"protocol": "eesp", "format": EESPFormat(session=BY_TUPLE, sub_sas=SubSAs(max_id=7))},
}


def all_at_once(folder: Path, left: Any, right: Any, engine: str, port: int, **options: Any) -> tuple[Side, Side]:
    """Write one file for each end with a tunnel of every protocol between them.

    Tunnel n is between 10.8.n.1 and 10.8.n.2, and fd08:n::1 and fd08:n::2.
    """
    found: dict[str, list[tuple[str, str]]] = {"left": [], "right": []}
    for number, protocol in enumerate(PROTOCOLS, 1):
        inner = {
            name: (f"10.8.{number}.{end}/32", f"fd08:{number}::{end}/128") for name, end in (("left", 1), ("right", 2))
        }
        more = {"inner": inner, "port": port, "protocol": protocol, "name": protocol, **options}
        for side in two_ends(folder / protocol, left, right, engine, **more):
            head, _, tunnel = side.path.read_text().partition("[[tunnel]]")
            found[side.name].append((", ".join(f'"{each}"' for each in inner[side.name]), tunnel))
            assert "[tunnel" not in head
            for key in (folder / protocol).glob(f"{side.name}.*.key"):
                key.rename(folder / f"{protocol}.{key.name}")
    sides = Side("left", left, folder), Side("right", right, folder)
    for side in sides:
        addresses = ", ".join(each for each, _ in found[side.name])
        text = f"[interface]\naddresses = [{addresses}]\n"
        for protocol, (_, tunnel) in zip(PROTOCOLS, found[side.name], strict=True):
            text += "\n[[tunnel]]" + tunnel.replace(f'"{side.name}.1.', f'"{protocol}.{side.name}.1.')
        side.path.write_text(text)
        side.set("interface", engine=engine, run_dir="run", state_dir=f"state-{side.name}")
    return sides


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("port", [4500, 0], ids=["udp", "raw"])
def test_every_protocol_at_once(port: int, version: int, engine: str, tmp_path: Path) -> None:
    """On one port, or, of WESP and WESPv2, one IP protocol: each packet goes by its tunnel, and nothing is dropped."""
    with pair() as lab:
        a, b = lab
        left, right = all_at_once(tmp_path, a, b, engine, port, version=version)
        with ending(left, right):
            left.up()
            right.up()
            assert len(right.status()["links"]) == (1 if port else 3)
            eventually(lambda: all(each["pairs"][0]["proven"] for each in right.status()["tunnels"]))
            for number, tunnel in enumerate(left.status()["tunnels"], 1):
                before = tunnel["pairs"][0]["out"]["packets"]
                for form in ("10.8.{}.{}", "fd08:{}::{}"):
                    here, there = form.format(number, 1), form.format(number, 2)
                    assert tcp(a, b, there, 1 << 17, here) == 1 << 17
                after = left.status()["tunnels"][number - 1]
                assert after["name"] == PROTOCOLS[number - 1]
                assert after["pairs"][0]["out"]["packets"] > before + 100
            for side in (left, right):
                assert not set(side.status()["drops"]) - {"DUMMY", "OUT_DISCARD"}
                assert [each["protocol"] for each in side.status()["tunnels"]] == list(PROTOCOLS)


@pytest.mark.needs_native
@pytest.mark.parametrize("version", [4, 6])
def test_sas_of_every_protocol_are_steered_to_workers(version: int, tmp_path: Path) -> None:
    """What the kernel has steered by SPI or name is where the engine opens it."""
    with pair() as lab:
        a, b = lab
        left, right = all_at_once(tmp_path, a, b, "native", 4500, version=version)
        for side in (left, right):
            side.set("interface", workers=3)
        with ending(left, right):
            left.up()
            right.up()
            eventually(lambda: all(each["pairs"][0]["proven"] for each in right.status()["tunnels"]))
            early = [unsteered(side) for side in (left, right)]
            for number in range(1, len(PROTOCOLS) + 1):
                assert tcp(a, b, f"10.8.{number}.2", 1 << 17, f"10.8.{number}.1") == 1 << 17
            for side in (left, right):
                assert {link["sockets"] for link in side.status()["links"]} == {3}
                assert side.status()["loop_counts"]["link_received_packets"] > 20
            assert [unsteered(side) for side in (left, right)] == early


def test_an_spi_of_esp_that_looks_like_eesp_is_refused(tmp_path: Path) -> None:
    """The first bit of a datagram says which of the two it is; another port, or none, does as well."""
    with pair() as lab:
        left, _ = all_at_once(tmp_path, *lab, "reference", 4500)
        text = left.path.read_text()
        large = re.sub(r"spi_in = 0x[0-7]", "spi_in = 0x9", text, count=1)
        assert large != text
        left.path.write_text(large)
        with pytest.raises(ConfigError, match="of ESP on a UDP port of EESP") as caught:
            load_file(left.path)
        assert (caught.value.key, caught.value.line is not None) == ("tunnel[0].sa[0].spi_in", True)
        apart = large.replace('name = "esp"', 'name = "esp"\nencapsulation = { local_port = 4501 }', 1)
        left.path.write_text(apart)
        assert load_file(left.path).tunnels[0].pairs[0].spi_in >> 31 == 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("settings", MOVING)
def test_a_peer_behind_a_nat_is_followed(settings: str, engine: str, tmp_path: Path) -> None:
    with nat(random_ports=True) as lab:
        a, n, b = lab
        left, right = two_ends(tmp_path, a, b, engine, address="any", **MOVING[settings])
        with ending(left, right):
            right.up()
            assert right.status()["tunnels"][0]["peer"] is None
            left.up()
            follow_through_nat(left, right, n)
            with Stream(right, left) as stream:  # each flow of it, Sub SA or none, to where the peer is now
                stream.run(0.3)
                assert stream.lost() == []
            assert not set(right.status()["drops"]) - {"DUMMY", "KEEPALIVE", "OUT_DISCARD", "OUT_NO_SA"}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("version", "port"), [(4, 4500), (6, 4500), (4, 0), (6, 0)])
@pytest.mark.parametrize("settings", MOVING)
def test_a_path_that_shrinks_is_believed(
    settings: str, version: int, port: int, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wesper.tunnel.daemon.PATH_NS", 50_000_000)
    with routed() as lab:
        a, r, b = lab
        left, right = two_ends(tmp_path, a, b, engine, version=version, port=port, **MOVING[settings])
        for side in (left, right):
            side.set("tunnel", df="set")
        left.set("tunnel", path_mtu=1500)  # only what the path says is to teach it
        with ending(left, right):
            left.up()
            right.up()
            # Both ends: a frame too long for its receiver would vanish.
            learn_narrow_path(left, right, (r.interfaces[1], b.interfaces[0]))
            # This host is told what fits, and just that passes whole.
            ping(left, right.inner, octets=1350, timeout=0.2, fragment=False)
            assert left.status()["loop_counts"]["icmp_too_big"] >= 1
            told = re.search(r"mtu (\d+)", a.run(["ip", "route", "get", right.inner]).stdout)
            assert told is not None
            assert 1320 - 110 < int(told[1]) < 1320 - 50
            assert ping(left, right.inner, octets=int(told[1]) - 28, fragment=False) == 1
