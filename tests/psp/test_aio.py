"""The exchange over TLS on loopback: who is let in, who is not, and what becomes of control connections."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from wesper import psp
from wesper.errors import ConfigError
from wesper.psp import aio, identity
from wesper.psp.agreements import Agreement, Party, Refusal, Wanted
from wesper.psp.aio import PeerExchanges
from wesper.psp.exchange_events import Terms
from wesper.psp.exchange_messages import EndReason, Type
from wesper.psp.failures import ConnectionLost, PeerRefused, PeerUnreachable
from wesper.psp.settings import HostSettings, PeerSettings

LEFT, RIGHT = ip_address("127.0.0.1"), ip_address("127.0.0.2")
WANTED = Wanted("datagram", 7000, 40000)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Host(Party):
    """A host that takes up what it is offered, but for port 9."""

    settings: HostSettings
    terms: Terms | None = None
    taken: list[Agreement] = field(default_factory=list)
    gone: list[Exception | None] = field(default_factory=list)
    spis: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.device = psp.Device()
        self.table = psp.TransmitTable(self.device, [psp.Profile(version=v) for v in range(4)])
        self.exchanges = PeerExchanges(self.settings, self.device, self.table, terms=self.terms)

    def offered(self, agreement: Agreement, wanted: Wanted) -> None:
        if wanted.service_port == 9:
            raise Refusal("nobody listens on port 9")
        self.taken.append(agreement)
        self.spis.add(agreement.spi)

    def rekeyed(self, agreement: Agreement, spi: int) -> None:
        self.spis.add(spi)

    def released(self, agreement: Agreement, spi: int) -> None:
        self.spis.discard(spi)

    def over(self, agreement: Agreement, error: Exception | None) -> None:
        self.gone.append(error)

    async def open(self, wanted: Wanted = WANTED) -> Agreement:
        here, there = self.settings.addresses[0], self.settings.peers[0].address
        assert there is not None
        made = await self.exchanges.open(here, there, wanted)
        self.spis.add(made.spi)
        return made


def settings_of(folder: Path) -> tuple[HostSettings, HostSettings]:
    """Return two hosts' settings, each with the other's fingerprint."""
    left, right = identity.make("left", folder), identity.make("right", folder)
    ports = free_port(), free_port()
    return (
        HostSettings(
            left[0], left[1], (PeerSettings("right", right[2], RIGHT, ports[1]),), None, (LEFT,), 4000, ports[0]
        ),
        HostSettings(
            right[0], right[1], (PeerSettings("left", left[2], LEFT, ports[0]),), None, (RIGHT,), 4001, ports[1]
        ),
    )


@contextlib.asynccontextmanager
async def running(*hosts: Host) -> AsyncIterator[None]:
    for host in hosts:
        await host.exchanges.start(host)
    try:
        yield
    finally:
        for host in hosts:
            await host.exchanges.stop()


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main

    asyncio.run(bounded())


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def carries(sender: Host, row: int, receiver: Host) -> int:
    packet = bytes.fromhex("4500001c0000000040118e95c0000201c63364070001000200080000")
    made = sender.table.encapsulate(row, packet)
    assert isinstance(made, bytes), made
    found = receiver.device.decapsulate(made)
    assert isinstance(found, psp.Opened), found
    return found.spi


def test_hosts_that_pin_each_other_agree(tmp_path: Path) -> None:
    async def main() -> None:
        left, right = (Host(settings) for settings in settings_of(tmp_path))
        async with running(left, right):
            made = await left.open()
            assert (made.identity, made.peer, made.udp_port, made.version) == ("right", RIGHT, 4001, 0)
            taken = right.taken[0]
            assert (taken.identity, taken.peer, taken.udp_port) == ("left", LEFT, 4000)
            assert carries(left, made.row, right) == taken.spi
            assert carries(right, taken.row, left) == made.spi
            with pytest.raises(PeerRefused, match="nobody listens on port 9"):
                await left.open(Wanted("stream", 9, 1))
            left.exchanges.close(made)
            await until(lambda: right.gone)
            assert right.gone == [None]
            assert len(left.table) == len(right.table) == 0

    run(main())


def test_one_control_connection_for_both_ways(tmp_path: Path) -> None:
    async def main() -> None:
        left, right = (Host(settings) for settings in settings_of(tmp_path))
        async with running(left, right):
            await asyncio.gather(*(host.open() for host in (left, right) for _ in range(20)))
            await left.open()
            await right.open()
            made = [await left.open(), await right.open()]
            await until(lambda: len(left.taken) == 22 and len(right.taken) == 22)
            # Both may have called at the same time; what comes later goes by the one that both keep.
            assert {a.handle[0].dialed for a in made} == {True, False}
            assert len(left.exchanges.status()) <= 2

    run(main())


def test_thousands_at_once_for_programs_that_send_themselves(tmp_path: Path) -> None:
    async def main() -> None:
        left, right = (Host(settings, Terms(raw=True)) for settings in settings_of(tmp_path))
        async with running(left, right):
            made = await left.exchanges.open_raw(LEFT, RIGHT, 1, 5000)
            who, theirs = right.exchanges.raw_runs[0]
            assert (who, len(made), len(theirs), made.version) == ("left", 5000, 5000, 1)
            assert carries(left, int(made.rows[4321]), right) == int(theirs.spis[4321])

    run(main())


def test_a_rotation_and_a_limit_rekey(tmp_path: Path) -> None:
    async def main() -> None:
        left, right = (Host(settings) for settings in settings_of(tmp_path))
        right.table = psp.TransmitTable(
            right.device, [psp.Profile(version=v) for v in range(4)], hard=psp.Limits(packets=10)
        )
        right.exchanges = PeerExchanges(right.settings, right.device, right.table)
        async with running(left, right):
            made = await left.open()
            await until(lambda: right.taken)
            before = made.spi
            left.device.rotate()
            left.exchanges.tick(time.monotonic_ns())
            await until(lambda: made.spi != before)
            assert left.spis == {made.spi}
            for _ in range(60):
                assert carries(right, right.taken[0].row, left) in left.spis
                right.exchanges.tick(time.monotonic_ns())
                await asyncio.sleep(0.005)

    run(main())


def test_a_peer_with_another_certificate_is_told_by_its_fingerprint(tmp_path: Path) -> None:
    async def main() -> None:
        one, other = settings_of(tmp_path)
        stranger = identity.make("stranger", tmp_path)
        left = Host(one)
        right = Host(replace(other, certificate=stranger[0], key=stranger[1]))
        async with running(left, right):
            with pytest.raises(PeerUnreachable, match="another certificate than right's") as told:
                await left.open()
            assert identity.written(stranger[2]) in str(told.value)

    run(main())


def test_a_stranger_gets_nowhere(tmp_path: Path) -> None:
    async def main() -> None:
        one, other = settings_of(tmp_path)
        stranger = identity.make("stranger", tmp_path)
        left = Host(replace(one, certificate=stranger[0], key=stranger[1]))
        right = Host(other)
        async with running(left, right):
            with pytest.raises(PeerUnreachable, match="does not know the certificate"):
                await left.open()
            assert right.exchanges.refused()["unknown"] == 1
            assert not right.taken

    run(main())


def test_a_pinned_peer_calls_from_its_own_address_alone(tmp_path: Path) -> None:
    async def main() -> None:
        one, other = settings_of(tmp_path)
        left = Host(one)
        right = Host(replace(other, peers=(replace(other.peers[0], address=ip_address("127.0.0.77")),)))
        async with running(left, right):
            with pytest.raises(PeerUnreachable):
                await left.open()
            assert not right.taken

    run(main())


def test_tls_1_2_and_a_client_without_certificate_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        _, settings = settings_of(tmp_path)
        right = Host(settings)
        async with running(right):
            for maximum in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                context.maximum_version = maximum
                with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                    await greeting(settings.control_port, context)
            await until(lambda: right.exchanges.refused().get("no_handshake") == 2)

    run(main())


async def greeting(port: int, context: ssl.SSLContext) -> bytes:
    """Return the first octets that a host says; in TLS 1.3 it refuses only after the client's last word."""
    reader, writer = await asyncio.open_connection(str(RIGHT), port, ssl=context)
    try:
        return await reader.readexactly(4)
    finally:
        writer.close()


def test_an_authority_vouches_for_whom_nobody_has_pinned(tmp_path: Path) -> None:
    authority = signed_by_authority(tmp_path, ("left", "right"))

    async def main() -> None:
        ports = free_port(), free_port()
        hosts = [
            Host(
                HostSettings(
                    tmp_path / f"{name}.pem",
                    tmp_path / f"{name}.pem",
                    (PeerSettings(other, None, address, port),),
                    authority,
                    (own,),
                    control_port=own_port,
                )
            )
            for name, other, own, address, own_port, port in (
                ("left", "right", LEFT, RIGHT, *ports),
                ("right", "left", RIGHT, LEFT, *reversed(ports)),
            )
        ]
        async with running(*hosts):
            await hosts[0].open()
            assert hosts[1].taken[0].identity == "left"

    run(main())


def signed_by_authority(folder: Path, names: tuple[str, ...]) -> Path:
    """Make an authority and certificates of it with openssl; return the authority's file."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(*new, "-x509", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2")
    for name in names:
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.crt")
        (folder / f"{name}.pem").write_bytes(
            (folder / f"{name}.crt").read_bytes() + (folder / f"{name}.key").read_bytes()
        )
    return folder / "ca.pem"


def test_a_flood_of_half_open_peers_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "HANDSHAKE_SECONDS", 0.5)

    async def main() -> None:
        left, right = (Host(settings) for settings in settings_of(tmp_path))
        async with running(left, right):
            silent = [
                await asyncio.open_connection(str(RIGHT), right.settings.control_port, local_addr=("127.0.0.9", 0))
                for _ in range(40)
            ]
            await until(lambda: right.exchanges.refused().get("too_many", 0) >= 40 - aio.MOST_OF_ONE_SOURCE)
            await left.open()
            await until(lambda: right.exchanges.refused().get("too_slow", 0) == aio.MOST_OF_ONE_SOURCE)
            for _, writer in silent:
                writer.close()

    run(main())


def test_a_peer_that_goes_away_ends_its_connections_and_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        one, other = settings_of(tmp_path)
        left, right = Host(one), Host(other)
        async with running(left):
            async with running(right):
                await left.open()
            await until(lambda: left.gone)
            assert isinstance(left.gone[0], ConnectionLost)
            assert len(left.table) == 0
            with pytest.raises(PeerUnreachable):
                await left.open()
            again = Host(other)
            async with running(again):
                made = await left.open()
                assert carries(left, made.row, again) == again.taken[0].spi

    run(main())


def test_a_peer_that_cannot_is_told_from_one_that_will_not(tmp_path: Path) -> None:
    async def main() -> None:
        one, other = settings_of(tmp_path)
        left = Host(one, Terms(psp_versions=frozenset({0})))
        right = Host(other, Terms(psp_versions=frozenset({1})))
        async with running(left, right):
            with pytest.raises(PeerRefused, match="no version of PSP that both sides have"):
                await left.open()

    run(main())


def test_nobody_is_known_there(tmp_path: Path) -> None:
    async def main() -> None:
        one, _ = settings_of(tmp_path)
        left = Host(replace(one, peers=()))
        async with running(left):
            with pytest.raises(ConfigError, match=r"nobody is known at 127\.0\.0\.2"):
                await left.exchanges.open(LEFT, RIGHT, WANTED)

    run(main())


def test_introductions_of_others_and_rubbish_change_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        left, right = (Host(settings) for settings in settings_of(tmp_path))
        async with running(left, right):
            for octets in (b"PSPX\x00\x05hello", b"PSPX\xff\xff" + bytes(9000), b"PSPX", b"P", b"\x16\x03\x01\xff\xff"):
                _, writer = await asyncio.open_connection(str(RIGHT), right.settings.control_port)
                writer.write(octets)
                writer.close()
            await left.open()

    run(main())


def test_identities_are_made_once_and_their_keys_are_private(tmp_path: Path) -> None:
    certificate, key, print_ = identity.make("host-1", tmp_path)
    assert key.stat().st_mode & 0o777 == 0o600
    assert identity.fingerprint(identity.read_certificate(certificate)) == print_
    shown = subprocess.run(
        ["openssl", "x509", "-in", certificate, "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert identity.parse_fingerprint(shown.partition("=")[2].strip()) == print_
    with pytest.raises(FileExistsError):
        identity.make("host-1", tmp_path)
    for name in ("", "../up", "a b", "x" * 65):
        with pytest.raises(ConfigError):
            identity.make(name, tmp_path)
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        identity.parse_fingerprint("ab:cd")
    with pytest.raises(ConfigError, match="certificate in PEM"):
        identity.read_certificate(key)


def test_raw_runs_that_are_closed_are_forgotten(tmp_path: Path) -> None:
    async def main() -> None:
        left, right = (Host(settings, Terms(raw=True)) for settings in settings_of(tmp_path))
        async with running(left, right):
            for _ in range(3):
                run = await left.exchanges.open_raw(LEFT, RIGHT, 0, 10)
                session = left.exchanges._sessions[0]
                session.exchange.close(run)
                left.exchanges._flush(session)
            await left.exchanges.open_raw(LEFT, RIGHT, 0, 10)
            await until(lambda: len(right.exchanges.raw_runs) == 1)
            await left.exchanges.stop()
            await until(lambda: not right.exchanges.raw_runs)

    run(main())


def test_the_page_has_every_reason() -> None:
    page = (Path(__file__).parents[2] / "docs" / "psp-exchange.md").read_text()
    for reason in EndReason:
        assert reason is EndReason.CLOSED or f"| {reason.value} | `{reason.name}` |" in page


def test_the_page_numbers_every_message() -> None:
    page = (Path(__file__).parents[2] / "docs" / "psp-exchange.md").read_text()
    rows = re.findall(r"^\| (0x[0-9a-f]{2}) \| ([A-Z]+) \|", page, re.MULTILINE)
    assert [(int(number, 16), name) for number, name in rows] == [(each.value, each.name) for each in Type]
