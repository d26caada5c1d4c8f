"""Who floods, stalls or sends rubbish, to the daemon's socket and to the control port: bounded, counted, told once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wesper.psp import aio, blocking, connections, daemon, host, identity, local
from wesper.psp import exchange_messages as messages
from wesper.psp.agreements import Agreement, Refusal, Wanted
from wesper.psp.failures import NoDaemon
from wesper.psp.host import Host, now_ns

from .test_aio import LEFT, RIGHT, WANTED, free_port, run, running, settings_of, until
from .test_aio import Host as Peer

SECOND = 1_000_000_000


@contextlib.asynccontextmanager
async def hosting(folder: Path) -> AsyncIterator[tuple[Host, list[dict[str, Any]]]]:
    """A host without streams, and the events that it tells."""
    told: list[dict[str, Any]] = []
    settings = replace(settings_of(folder)[0], port=free_port(), interface="")
    async with Host(settings, tell=lambda event, **fields: told.append({"event": event, **fields})) as made:
        yield made, told


async def answer(opened: socket.socket) -> dict[str, Any]:
    opened.setblocking(False)
    return dict(json.loads(await asyncio.get_running_loop().sock_recv(opened, 65536)))


def test_processes_that_ask_for_nothing_are_few_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "MOST_CLIENTS", 8)

    async def main() -> None:
        async with hosting(tmp_path) as (ours, told):
            held = [ours.dial() for _ in range(20)]
            await until(lambda: ours.status()["refused"].get("too_many_processes") == 12)
            with pytest.raises(NoDaemon, match="serves 8 processes already"):
                local.answered(json.dumps(await answer(held[-1])).encode())
            for seconds in range(1, 15):
                ours.tick(now_ns() + seconds * SECOND)
            assert ours.status()["refused"] == {"too_many_processes": 12, "asked_nothing": 8}
            with ours.dial() as asks:
                local.send(asks, {"op": "status"})
                assert (await answer(asks))["ok"]
            assert [each["why"] for each in told if each["event"] == "refused"] == [
                "too_many_processes",
                "asked_nothing",
            ]
            for each in held:
                each.close()

    run(main())


def test_a_connection_that_ends_before_its_process_has_it_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with hosting(tmp_path) as (ours, _):
            listens = ours.dial()
            local.send(listens, {"op": "listen", "kind": "datagram", "host": "", "port": 7000, "backlog": 1})
            assert (await answer(listens))["ok"]

            def offered(port: int) -> tuple[Agreement, Any]:
                association = ours.device.allocate()
                row = ours.table.install(association.spi, association.key)
                agreed = Agreement(LEFT, RIGHT, "right", 0, 1000, row, association.spi)
                then = ours.offered(agreed, Wanted("datagram", 7000, port))
                assert then is not None
                return agreed, then

            agreed, then = offered(50_000)
            ours.over(agreed, None)
            then()
            assert ours.status()["connections"]["datagram"] == 0
            listens.setblocking(False)
            with pytest.raises(BlockingIOError):
                listens.recv(1)
            # Its place in the queue is free again, and the next one comes through.
            _, then = offered(50_001)
            with pytest.raises(Refusal, match="1 connections waiting"):
                offered(50_002)
            then()
            message, came = local.receive(listens)
            assert local.answered(message)["peer"] == [str(RIGHT), 50_001]
            assert came is not None
            local.accepted(listens)
            await until(lambda: ours.status()["connections"]["datagram"] == 1)
            came.close()
            await until(lambda: ours.status()["connections"]["datagram"] == 0)
            # A process that is gone by then is a refusal, though the peer has its answer.
            _, then = offered(50_003)
            listens.close()
            with pytest.raises(Refusal, match="takes no more"):
                then()
            assert ours.status()["connections"]["datagram"] == 0

    run(main())


def test_who_listens_may_be_silent(tmp_path: Path) -> None:
    async def main() -> None:
        async with hosting(tmp_path) as (ours, _):
            with ours.dial() as listens:
                local.send(listens, {"op": "listen", "kind": "datagram", "host": "", "port": 7000, "backlog": 1})
                assert (await answer(listens))["ok"]
                ours.tick(now_ns() + 60 * SECOND)
                assert ours.status()["listeners"]

    run(main())


@pytest.mark.parametrize(
    "request_",
    [
        {"op": "connect", "kind": "datagram", "host": "127.0.0.2", "port": 1e400, "seconds": 1},
        {"op": "connect", "kind": "datagram", "host": "127.0.0.2", "port": True, "seconds": float("nan")},
        {"op": "connect", "kind": [], "host": "127.0.0.2", "port": 7, "seconds": 1},
        {"op": "connect", "kind": "datagram", "host": "::1%lo", "port": 7, "seconds": 1},
        {"op": "listen", "kind": "datagram", "host": "", "port": 7, "backlog": 1e400},
        {"op": "listen", "kind": "datagram", "host": {}, "port": 7, "backlog": 1},
        {"op": ["status"]},
        {"op": "list"},
        {"op": "list", "what": "keys"},
        {"op": "list", "what": ["connections"]},
        {"op": "list", "what": "connections", "before": "first"},
        {"op": "list", "what": "peers", "before": 1.5},
        {"op": None},
    ],
)
def test_requests_that_make_no_sense_are_refused_with_a_sentence(tmp_path: Path, request_: dict[str, Any]) -> None:
    async def main() -> None:
        async with hosting(tmp_path) as (ours, _):
            with ours.dial() as asks:
                local.send(asks, request_)
                said = await answer(asks)
                assert not said["ok"]
                assert said["sentence"]
            assert not ours.status()["listeners"]

    run(main())


def test_another_user_is_not_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "user_of", lambda _: os.geteuid() + 12345)

    async def main() -> None:
        async with hosting(tmp_path) as (ours, _):
            with (
                contextlib.closing(daemon._listener(tmp_path / "s")) as listener,
                socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other,
            ):
                assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
                other.connect(str(tmp_path / "s"))
                daemon._admit(listener, ours)
                assert other.recv(1) == b""
            assert ours.status()["refused"] == {"another_user": 1}

    run(main())


def test_a_socket_of_another_user_is_told_from_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(NoDaemon, match="for another user's processes alone"):
        local.dial(tmp_path / "s")


def test_a_daemon_that_stands_still_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(connections, "GRACE_SECONDS", 0.1)
    with contextlib.closing(daemon._listener(tmp_path / "s")):  # and nobody who lets in
        with pytest.raises(NoDaemon, match="does not answer"):
            blocking.connect("127.0.0.2", 7000, via=tmp_path / "s", seconds=0.1)
        with pytest.raises(NoDaemon, match="does not answer"):
            asyncio.run(connections.connect("127.0.0.2", 7000, via=tmp_path / "s", seconds=0.1))


def test_a_daemon_without_descriptors_waits_for_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "_PAUSE_S", 0.2)

    class Exhausted:
        """A listener for which there is no descriptor: what waits in its queue makes it readable at once, again."""

        def __init__(self, opened: socket.socket) -> None:
            self._opened = opened
            self.tries = 0

        def fileno(self) -> int:
            return self._opened.fileno()

        def accept(self) -> None:
            self.tries += 1
            raise OSError(errno.EMFILE, "too many")

    async def main() -> None:
        async with hosting(tmp_path) as (ours, _):
            with (
                contextlib.closing(daemon._listener(tmp_path / "s")) as opened,
                socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as waits,
            ):
                waits.connect(str(tmp_path / "s"))
                listener: Any = Exhausted(opened)
                daemon._attend(listener, ours)
                await until(lambda: listener.tries == 3)  # it comes back, and does not spin
                await asyncio.sleep(0.02)
                assert listener.tries == ours.status()["refused"]["no_descriptor"] == 3

    run(main())


def client_hello() -> bytes:
    """Return the first octets of a TLS handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    taken, given = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(taken, given).do_handshake()
    return given.read()


def test_handshakes_octet_by_octet_end_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "HANDSHAKE_SECONDS", 0.5)

    async def main() -> None:
        left, right = (Peer(settings) for settings in settings_of(tmp_path))
        async with running(left, right):
            loop, refused = asyncio.get_running_loop(), right.exchanges.refused
            slow = [socket.socket() for _ in range(6)]
            for number, each in enumerate(slow):
                each.setblocking(False)
                each.bind((f"127.0.3.{number + 1}", 0))
                await loop.sock_connect(each, (str(RIGHT), right.settings.control_port))
            for begins in (client_hello(), b"PSPX\x10\x00" + bytes(4096), b"\x16\x03\x01"):
                # Each sends its first octets one by one: the time is for the whole, not from octet to octet.
                pair, slow = slow[:2], slow[2:]
                for octet in begins[:20]:
                    for each in pair:
                        with contextlib.suppress(OSError):
                            each.send(bytes([octet]))
                    await asyncio.sleep(0.02)
                await left.open()
                await until(lambda: refused().get("too_slow", 0) + refused().get("no_handshake", 0) >= 2)
                for each in pair:
                    each.close()
            await until(lambda: not right.exchanges._waiting)
            assert sum(right.exchanges.refused().values()) in (6, 7)  # and our own, before its introduction

    run(main())


def test_a_thousand_at_the_control_port_are_counted_and_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "HANDSHAKE_SECONDS", 1.0)

    async def main() -> None:
        left, right = (Peer(settings) for settings in settings_of(tmp_path))
        async with running(left, right):
            await left.open()
            loop = asyncio.get_running_loop()
            silent = []
            for number in range(1000):
                each = socket.socket()
                each.setblocking(False)
                each.bind((f"127.0.4.{number % 250 + 1}", 0))
                await loop.sock_connect(each, (str(RIGHT), right.settings.control_port))
                silent.append(each)
                assert right.exchanges._waiting.total() <= aio.MOST_HANDSHAKES
            await left.open()  # by the control connection that is there
            for each in silent:
                each.close()
            await until(lambda: not right.exchanges._waiting)
            assert sum(right.exchanges.refused().values()) >= 1000

    run(main())


def test_who_does_not_read_is_not_read_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "_ENOUGH", 1 << 16)
    pings = 4096

    async def main() -> None:
        one, other = settings_of(tmp_path)
        right = Peer(other)
        async with running(right):
            for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # what the listener accepts has them too
                right.exchanges._listeners[0].setsockopt(socket.SOL_SOCKET, buffer, 1 << 16)
            with socket.create_connection((str(RIGHT), other.control_port)) as introduces:
                introduces.setblocking(False)
                der = identity.read_certificate(one.certificate)
                introduces.send(b"PSPX" + len(der).to_bytes(2, "big") + der)
                assert await asyncio.get_running_loop().sock_recv(introduces, 1) == b"\1"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.load_cert_chain(one.certificate, one.key)
            opened = socket.socket()
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            opened.setblocking(False)
            opened.bind((str(LEFT), 0))
            loop = asyncio.get_running_loop()
            await loop.sock_connect(opened, (str(RIGHT), other.control_port))
            reader, writer = await asyncio.open_connection(sock=opened, ssl=context, server_hostname="", limit=4096)
            writer.write(messages.hello(frozenset({0}), 1000, 10, 10))
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 400 * pings:
                    writer.write(b"".join(messages.token(messages.Type.PING, sent + each) for each in range(pings)))
                    sent += pings
                    async with asyncio.timeout(1):
                        await writer.drain()
            assert sent < 400 * pings, "it was read from on and on"
            (session,) = right.exchanges._sessions
            assert session.exchange.waiting_octets < 1 << 20
            assert session.wire.transport.get_write_buffer_size() < 1 << 20
            # It reads after all: not one answer is missing, and it is read from again.
            await reader.readexactly(len(messages.hello(frozenset({0}), 1000, 10, 10)))
            for first in range(0, sent, pings):
                pongs = b"".join(messages.token(messages.Type.PONG, first + each) for each in range(pings))
                assert await reader.readexactly(len(pongs)) == pongs
            writer.close()
            await until(lambda: not right.exchanges._sessions)

    run(main())


def test_a_peer_whose_octets_come_with_its_end_is_read_first(tmp_path: Path) -> None:
    async def main() -> None:
        left, right = (Peer(settings) for settings in settings_of(tmp_path))
        async with running(left, right):
            await left.open(WANTED)
            await left.exchanges.stop()
            await until(lambda: right.gone)
            assert "the host goes away" in str(right.gone[0])

    run(main())
