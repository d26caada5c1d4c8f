from __future__ import annotations

import os

import pytest

from wesper.demo.counted import FLOW_FIELDS, Counting
from wesper.errors import UnsupportedError
from wesper.lab import Lab
from wesper.nic import source


def test_every_protocol_can_be_counted() -> None:
    for protocol in ("esp", "psp", "wesp", "wespv2", "eesp"):
        assert "return count(0, " in source({protocol: FLOW_FIELDS.get(protocol, "")})


@pytest.mark.usefixtures("namespaces")
def test_an_ordinary_user_is_told_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    with Lab() as lab:
        a, b = lab.host("a"), lab.host("b")
        lab.link(a, b)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(UnsupportedError, match="root, and apt-get install clang libbpf-dev bpftool"):
            Counting(a.interfaces[0], "eesp")


@pytest.mark.needs_root
@pytest.mark.needs_tool("clang", "clang")
@pytest.mark.needs_tool("bpftool", "bpftool")
@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("protocol", ["wesp", "eesp"])
def test_what_comes_in_is_counted_by_flow(protocol: str) -> None:
    session = {"eesp": bytes.fromhex("80000007"), "wesp": bytes.fromhex("0000000200000020")}[protocol]
    with Lab() as lab:
        a, b = lab.host("a"), lab.host("b")
        lab.link(a, b)
        with Counting(b.interfaces[0], protocol) as counting:
            with a.socket() as sock, b.socket() as taking:
                taking.bind((b.address, 4500))
                taking.settimeout(5)
                for _ in range(6):
                    sock.sendto(session + bytes(60), (b.address, 4500))
                    taking.recv(100)
            assert counting.flows() == {7 if protocol == "eesp" else 0: 6}


@pytest.mark.needs_root
@pytest.mark.needs_tool("clang", "clang")
@pytest.mark.usefixtures("namespaces")
def test_a_tool_that_is_missing_in_the_host_is_told_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with Lab() as lab:
        a, b = lab.host("a"), lab.host("b")
        lab.link(a, b)
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(UnsupportedError, match="Debian's clang"):
            Counting(a.interfaces[0], "eesp")
