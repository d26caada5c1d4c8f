"""What does not fit: told to this host, learnt from the path, by IPv4 and IPv6, in UDP and raw."""

from __future__ import annotations

from pathlib import Path

import pytest

from wesper.lab import routed

from .ends import await_ping, ending, eventually, learn_narrow_path, ping, two_ends

pytestmark = pytest.mark.usefixtures("namespaces")
ENGINES = ["reference", pytest.param("native", marks=pytest.mark.needs_native)]


@pytest.mark.parametrize("engine", ENGINES)
def test_this_host_is_told_what_fits(engine: str, tmp_path: Path) -> None:
    with routed() as lab:
        a, _, b = lab
        left, right = two_ends(tmp_path, a, b, engine)
        for side in (left, right):
            side.set("interface", mtu=1500)  # wrong: more than the path leaves
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            for target in (right.inner, right.inner6):
                version = 6 if ":" in target else 4
                header = 48 if version == 6 else 28
                ping(left, target, octets=1460 - header, timeout=0.2, version=version, fragment=False)
                told = a.run(["ip", f"-{version}", "route", "get", target]).stdout
                assert "mtu 1438" in told, told
                assert ping(left, target, octets=1438 - header, version=version, fragment=False) == 1
            assert left.status()["loop_counts"]["icmp_too_big"] >= 2
            assert ping(left, right.inner, octets=4000, timeout=2.0) == 1  # and what may be cut is cut


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("version", "port"), [(4, 4500), (6, 4500), (4, 0), (6, 0)])
def test_the_path_is_believed(
    version: int, port: int, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wesper.tunnel.daemon.PATH_NS", 50_000_000)
    with routed() as lab:
        a, r, b = lab
        left, right = two_ends(tmp_path, a, b, engine, version=version, port=port)
        for side in (left, right):
            side.set("tunnel", df="set")
        left.set("tunnel", path_mtu=1500)  # only what the path says is to teach it
        with ending(left, right):
            left.up()
            right.up()
            # Both ends: a frame too long for its receiver would vanish.
            learn_narrow_path(left, right, (r.interfaces[1], b.interfaces[0]))


def test_a_narrower_link_of_this_host_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wesper.tunnel.daemon.PATH_NS", 50_000_000)
    with routed() as lab:
        a, r, b = lab
        left, right = two_ends(tmp_path, a, b)
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            for narrow in (a.interfaces[0], r.interfaces[0]):
                narrow.set_mtu(1300)
            eventually(lambda: left.pair()["out"]["mtu"] == 1300)
            eventually(lambda: ping(left, right.inner, octets=1350, timeout=0.5))
