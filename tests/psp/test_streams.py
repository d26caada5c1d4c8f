"""Streams and datagrams where it is hard: no TUN, strict reverse paths, a daemon killed, a path that narrows."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from wesper import psp
from wesper.errors import PermissionNeeded, UnsupportedError
from wesper.lab import Lab
from wesper.pcap import open_capture
from wesper.protocols import ip
from wesper.psp import blocking, streams
from wesper.psp.host import Host
from wesper.psp.streams import PRIORITY

from .hosts import CONTROL, PSPHost, two_hosts, until
from .test_aio import free_port, run, settings_of
from .test_connections import address, connected, transfer


@pytest.mark.parametrize(
    "error", [PermissionNeeded("CAP_NET_ADMIN", "a veth pair"), UnsupportedError("/dev/net/tun", "modprobe tun")]
)
@pytest.mark.parametrize("kind", ["connect", "listen"])
def test_a_host_without_tun_says_so_and_datagrams_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(streams, "open_device", refuse)

    async def main() -> None:
        async with Host(replace(settings_of(tmp_path)[0], port=free_port())) as host:
            asked = (
                psp.connect_stream("127.0.0.2", 7000, via=host) if kind == "connect" else psp.listen_stream(0, via=host)
            )
            with pytest.raises(PermissionNeeded, match="TUN device for PSP streams") as told:
                await asked
            assert "CAP_NET_ADMIN" in str(told.value)
            assert "datagrams need neither" in str(told.value)
            async with await psp.listen(7000, via=host) as listener:
                assert listener.local == ("", 7000)

    run(main())


@pytest.mark.needs_root
def test_an_ordinary_user_who_may_not_open_tun_is_told() -> None:
    if any(not os.stat(each).st_mode & 0o001 for each in (*Path(sys.executable).parents, *Path(psp.__file__).parents)):
        pytest.skip("an ordinary user can't read this checkout")
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(settings_of(Path(folder))[0], port=free_port())
        for path in (Path(folder), *Path(folder).iterdir()):
            os.chown(path, 65534, 65534)

        async def main() -> None:
            async with Host(settings) as host:
                await psp.listen_stream(7000, via=host)

        reads, writes = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                asyncio.run(main())
            except BaseException as error:
                os.write(writes, f"{type(error).__name__}: {error}".encode())
            os._exit(0)
        os.close(writes)
        with open(reads) as said:
            told = said.read()
        os.waitpid(child, 0)
    assert told.startswith("PermissionNeeded: ")
    assert "TUN device for PSP streams" in told
    assert "needs CAP_NET_ADMIN and /dev/net/tun" in told


@pytest.mark.needs_root
@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("strictness", [1, 2])
def test_streams_pass_a_reverse_path_filter(tmp_path: Path, strictness: int) -> None:
    with two_hosts(tmp_path, start=False) as (left, right, _):
        for host in (left, right):
            for which in ("all", "default"):
                host.node.run(["sysctl", "-qw", f"net.ipv4.conf.{which}.rp_filter={strictness}"])
            host.up()
        transfer(left, right, 300_000)


def rules(host: PSPHost) -> list[str]:
    """Return the rules of streams that a host's kernel has."""
    shown = [host.node.run(["ip", *family, "rule"]).stdout for family in ((), ("-6",))]
    return [line for text in shown for line in text.splitlines() if line.startswith(f"{PRIORITY}:")]


@pytest.mark.needs_root
@pytest.mark.usefixtures("namespaces")
def test_a_daemon_killed_in_a_stream_leaves_nothing_that_hinders_the_next(tmp_path: Path) -> None:
    seen = tmp_path / "seen.pcapng"
    with two_hosts(tmp_path) as (left, right, _):
        with left.node.capture(seen), blocking.listen_stream(7100, via=right.socket) as listener:
            with blocking.connect_stream(address(right), 7100, via=left.socket) as stream:
                theirs, _ = listener.accept(10)
                with theirs:
                    stream.settimeout(10)
                    stream.sendall(bytes(100_000))
                    left.end(signal.SIGKILL)
                    assert rules(left)  # what it has left
                    stream.settimeout(1)
                    with contextlib.suppress(OSError):
                        stream.sendall(bytes(100_000))
            left.up()
            transfer(left, right, 200_000)
            time.sleep(0.2)
        assert {rule.split("lookup")[1].strip() for rule in rules(left)} == {str(streams.TABLE)}
        with connected(left, right) as (ours, theirs):
            ours.send(b"still here")
            assert theirs.receive(10) == b"still here"
        left.end()
        assert not rules(left)
    with open_capture(str(seen)) as capture:
        for record in capture:
            datagram = ip.parse(record.data[14:])
            if datagram is not None and datagram.upper == 6:
                ports = datagram.packet[datagram.upper_at : datagram.upper_at + 4]
                assert CONTROL in (int.from_bytes(ports[:2], "big"), int.from_bytes(ports[2:], "big")), "TCP in clear"


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("version", [4, 6])
def test_a_path_that_narrows_is_told_to_who_sends_datagrams(tmp_path: Path, version: int) -> None:
    with (
        two_hosts(tmp_path, version, router=True, interface="") as (left, right, lab),
        connected(left, right, version=version) as (ours, theirs),
    ):
        header = 20 if version == 4 else 40
        assert ours.most == 1500 - header - 40 - 8
        ours.send(bytes(ours.most))
        assert len(theirs.receive(10)) == ours.most
        narrow(lab, 1340)
        wide = ours.most
        end = time.monotonic() + 10
        while ours.most == wide:
            assert time.monotonic() < end
            ours.send(bytes(wide))  # the router says what fits; the kernel knows it at the next one
            with contextlib.suppress(TimeoutError):
                ours.receive(0.05)
        assert ours.most == 1340 - header - 40 - 8
        with pytest.raises(psp.TooLarge, match=f"{ours.most} do"):
            ours.send(bytes(wide))
        ours.send(bytes(ours.most))
        assert len(theirs.receive(10)) == ours.most
        assert left.status()["drops"]["too_big"] >= 1


@pytest.mark.needs_root
@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("version", [4, 6])
def test_a_stream_goes_on_where_the_path_narrows(tmp_path: Path, version: int) -> None:
    data = random.Random(2).randbytes(3_000_000)
    with two_hosts(tmp_path, version, router=True) as (left, right, lab):
        with blocking.listen_stream(7100, via=right.socket) as listener:
            digests = []

            def take() -> None:
                stream, _ = listener.accept(20)
                with stream:
                    digest = hashlib.sha256()
                    while part := stream.recv(1 << 16):
                        digest.update(part)
                    digests.append(digest.digest())

            taking = threading.Thread(target=take)
            taking.start()
            with blocking.connect_stream(address(right, version), 7100, via=left.socket, seconds=20) as stream:
                stream.settimeout(30)
                stream.sendall(data[:1_000_000])
                narrow(lab, 1340)
                stream.sendall(data[1_000_000:])
            taking.join(30)
            assert digests == [hashlib.sha256(data).digest()]
        until(lambda: left.status()["connections"]["stream"] == 0)
        with blocking.listen_stream(7100, via=right.socket):
            pass
        transfer(left, right, 100_000, version)  # a new one has the narrow path from its start


def narrow(lab: Lab, mtu: int) -> None:
    """Let the link behind the router take less."""
    right = lab["right"].interfaces[0]
    for end in (right, lab["between"].interface(right.link)):
        end.set_mtu(mtu)
