"""The PSP exchange over TLS 1.3 and asyncio: a control connection for each pair of hosts.

Both sides show a certificate (`trust.py`). OpenSSL can't verify a pinned one that this host has never seen, so who has
one introduces itself first: a connection that begins with `PSPX` instead of a TLS record brings nothing but that
certificate, which is no secret. It is kept if its fingerprint is known, and the peer's next handshake succeeds.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import Any, Final

import numpy as np

from ..errors import ConfigError, PermissionNeeded
from ..host.link import IPAddress
from ..wire.psp_exchange import MAGIC
from . import identity
from .agreements import Agreement, Agreements, HandOver, Party, Refusal, Wanted
from .control_sockets import Wire, first_octets, listen
from .device import Device, SPIsExhausted
from .exchange import Exchange
from .exchange_events import (
    Agreed,
    Closed,
    Ended,
    ExchangeEnded,
    Fresh,
    Greeted,
    Offered,
    Refused,
    Released,
    Terms,
)
from .exchange_messages import CloseReason, EndReason, Kind, RefuseReason
from .exchange_runs import Run
from .failures import ConnectionLost, PeerRefused, PeerUnreachable
from .settings import HostSettings, PeerSettings
from .table import TableEventKind, TransmitTable
from .trust import Trust

HANDSHAKE_SECONDS: Final = 5.0
DIAL_SECONDS: Final = 10.0
MOST_HANDSHAKES: Final = 64  # at a time
MOST_OF_ONE_SOURCE: Final = 8  # connections of one address that have not said who they are
MOST_SESSIONS: Final = 4096
BACK_OFF: Final = (0.0, 0.2, 1.0, 5.0, 15.0)  # seconds after so many failures in a row
_INTRODUCTION: Final = MAGIC.to_bytes(4, "big")
_LONGEST_CERTIFICATE: Final = 8192
_ENOUGH: Final = 4 << 20  # octets that wait in a transport
_KINDS: Final = {"datagram": Kind.DATAGRAM, "stream": Kind.STREAM}
_NAMES: Final = {Kind.DATAGRAM: "datagram", Kind.STREAM: "stream"}


@dataclass(eq=False)
class _Session:
    """One control connection with a peer that is known."""

    exchange: Exchange
    wire: Wire
    local: IPAddress
    peer: IPAddress
    fingerprint: bytes
    identity: str
    dialed: bool
    greeted: asyncio.Future[None]
    asked: dict[int, asyncio.Future[Run]] = field(default_factory=dict)
    agreements: dict[tuple[bool, int], Agreement] = field(default_factory=dict)
    handing: deque[tuple[Agreement, HandOver]] = field(default_factory=deque)

    @property
    def is_idle(self) -> bool:
        return not self.agreements and not self.asked


class PeerExchanges(Agreements):
    """The exchanges of a host with all its peers.

    device, table: the host's; profile n of the table is of PSP version n.   clock: integer nanoseconds, monotonic.
    terms: what peers are offered; None: the defaults, with the settings' port.
    Raises ConfigError for files that are no certificate or key, OSError.
    """

    def __init__(
        self,
        settings: HostSettings,
        device: Device,
        table: TransmitTable,
        *,
        terms: Terms | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.settings, self._device, self._table, self._clock = settings, device, table, clock
        self._terms = terms or Terms(udp_port=settings.port)
        self._trust = Trust(settings)
        self._sessions: list[_Session] = []
        self._dialing: dict[tuple[IPAddress, IPAddress], asyncio.Lock] = {}
        self._failures: dict[IPAddress, tuple[int, float]] = {}
        self._waiting: Counter[str] = Counter()  # by source, those who have not said who they are
        self._refused: Counter[str] = Counter()
        self._listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self.raw_runs: list[tuple[str, Run]] = []
        """Raw connections that peers have opened: who, and which."""
        self._party: Party | None = None
        self._generation = device.generation

    # The host's side

    async def start(self, party: Party) -> None:
        self._party = party
        loop = asyncio.get_running_loop()
        for address in self.settings.addresses or (ip_address("0.0.0.0"), ip_address("::")):
            try:
                listener = listen(address, self.settings.control_port)
            except PermissionError:
                raise PermissionNeeded(
                    "CAP_NET_BIND_SERVICE, or `control_port = ` of 1024 or more, "
                    "or sysctl net.ipv4.ip_unprivileged_port_start",
                    f"TCP port {self.settings.control_port}",
                ) from None
            except OSError:
                if self.settings.addresses or address.version == 4:
                    raise
                continue  # a host without IPv6
            self._listeners.append(listener)
            self._keep(loop.create_task(self._accept(listener)))

    async def open(self, local: IPAddress, peer: IPAddress, wanted: Wanted) -> Agreement:
        for _ in range(5):
            try:
                session = await self._session(local, peer)
                return self._agreement(session, await self._ask(session, wanted))
            except ExchangeEnded as error:
                if error.reason in (EndReason.NO_COMMON_PSP_VERSION, EndReason.NO_COMMON_VERSION):
                    raise PeerRefused(str(error)) from None
                if error.reason is not EndReason.DUPLICATE:
                    raise PeerUnreachable(f"{peer}: {error}") from None
            await asyncio.sleep(0.02)  # the other control connection of the two is the one that stays
        raise PeerUnreachable(f"{peer}: control connections come and go")

    async def open_raw(self, local: IPAddress, peer: IPAddress, version: int, count: int) -> Run:
        """Agree on many connections at once, for programs that send by the transmit table themselves.

        count: 1..65,536.   The peer has to take raw connections (`Terms.raw`); its own end is in its `raw_runs`.
        Raises PeerRefused, PeerUnreachable, ConfigError.
        """
        session = await self._session(local, peer)
        try:
            first_id, _ = session.exchange.open(Kind.RAW, version, count=count, now=self._clock())
            return await self._answer(session, first_id)
        except ExchangeEnded as error:
            raise PeerUnreachable(f"{peer}: {error}") from None

    def close(self, agreement: Agreement, reason: CloseReason = CloseReason.DONE) -> None:
        session, run = agreement.handle
        if session.agreements.pop((run.ours, run.first_id), None) is not None:
            session.exchange.close(run, reason=reason)
            self._flush(session)

    def tick(self, now: int) -> None:
        if self._device.generation != self._generation:
            self._generation = self._device.generation
            for session in list(self._sessions):
                session.exchange.rotated(now)
        near_limits = []
        while (event := self._table.next_event()) is not None:
            if event.kind is TableEventKind.SOFT_EXPIRED:
                near_limits.append(event.id)
        for session in list(self._sessions):
            if near_limits:
                session.exchange.wanted(near_limits)
            session.exchange.handle_timeout(now)
            self._flush(session)

    def status(self) -> list[dict[str, Any]]:
        known = [
            {
                "identity": session.identity,
                "fingerprint": identity.written(session.fingerprint),
                "local": str(session.local),
                "peer": str(session.peer),
                "dialed": session.dialed,
                "connections": session.exchange.connections,
            }
            for session in self._sessions
        ]
        return known

    def refused(self) -> dict[str, int]:
        return dict(self._refused)

    async def stop(self) -> None:
        for listener in self._listeners:
            listener.close()
        for session in list(self._sessions):
            session.exchange.end()
            self._flush(session)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Who comes

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                opened, source = await loop.sock_accept(listener)
            except OSError:
                await asyncio.sleep(0.1)  # no descriptors: those that are open go on
                continue
            if self._waiting.total() >= MOST_HANDSHAKES or self._waiting[source[0]] >= MOST_OF_ONE_SOURCE:
                self._refused["too_many"] += 1
                opened.close()
                continue
            self._waiting[source[0]] += 1
            self._keep(loop.create_task(self._admit(opened, source[0])))

    async def _admit(self, opened: socket.socket, source: str) -> None:
        """Let one in: handshake, who it is, HELLO."""
        loop = asyncio.get_running_loop()
        wire: Wire | None = None
        handed_on = False  # to a transport, which closes it
        try:
            async with asyncio.timeout(2 * HANDSHAKE_SECONDS):
                opened.setblocking(False)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if await first_octets(opened, len(_INTRODUCTION)) == _INTRODUCTION:
                    await self._be_introduced(opened)
                    return
                handed_on = True
                _, wire = await loop.connect_accepted_socket(
                    lambda: Wire(_ENOUGH), opened, ssl=self._trust.server, ssl_handshake_timeout=HANDSHAKE_SECONDS
                )
                known = self._trust.who(wire.certificate, wire.address("peername"))
                if known is None:
                    self._refused["unknown"] += 1
                    return
                session = self._begin(wire, known, dialed=False)
                wire = None
                await session.greeted
        except TimeoutError:
            self._refused["too_slow"] += 1
        except (OSError, ssl.SSLError, ExchangeEnded):
            self._refused["no_handshake"] += 1
        finally:
            self._waiting[source] -= 1
            if not self._waiting[source]:
                del self._waiting[source]
            if wire is not None:
                wire.transport.close()
            if not handed_on:
                opened.close()

    async def _be_introduced(self, opened: socket.socket) -> None:
        """Keep a certificate if it is one that is pinned.   Answers with an octet: 1 if it is."""
        loop = asyncio.get_running_loop()
        octets, wanted = b"", len(_INTRODUCTION) + 2
        while len(octets) < wanted:
            more = await loop.sock_recv(opened, wanted - len(octets))
            if not more:
                return
            octets += more
            if len(octets) == len(_INTRODUCTION) + 2:
                wanted += min(int.from_bytes(octets[-2:], "big"), _LONGEST_CERTIFICATE)
        der = octets[len(_INTRODUCTION) + 2 :]
        known = self._trust.introduce(der)
        if not known:
            self._refused["unknown"] += 1
        await loop.sock_sendall(opened, bytes([known]))

    # Whom we call

    async def _session(self, local: IPAddress, peer: IPAddress) -> _Session:
        """Return the control connection with a peer, which is made if there is none."""
        found = self._best(local, peer)
        if found is None:
            async with self._dialing.setdefault((local, peer), asyncio.Lock()):
                found = self._best(local, peer) or await self._dial(local, peer)
        if not found.greeted.done():
            await asyncio.shield(found.greeted)
        return found

    def _best(self, local: IPAddress, peer: IPAddress) -> _Session | None:
        """Return the control connection with a peer; of two, the one that both sides keep."""
        found = [s for s in self._sessions if s.local == local and s.peer == peer and not s.exchange.ended]
        return next((s for s in found if self._stays(s)), found[0] if found else None)

    def _stays(self, session: _Session) -> bool:
        """Of two, the one stays that the side with the lower fingerprint has dialed."""
        return session.dialed == (self._trust.fingerprint < session.fingerprint)

    async def _dial(self, local: IPAddress, peer: IPAddress) -> _Session:
        settings = next((each for each in self.settings.peers if each.address == peer), None)
        if settings is None and self.settings.authority is None:
            raise ConfigError(
                f"nobody is known at {peer}", key="peers", expected="a peer with that address, or an authority"
            )
        settings = settings or PeerSettings(str(peer), None, peer, self.settings.control_port)
        failures, before = self._failures.get(peer, (0, 0.0))
        wait = before + BACK_OFF[min(failures, len(BACK_OFF) - 1)] - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                session = await self._greet(settings, local, peer)
        except ExchangeEnded as error:
            if error.reason is not EndReason.DUPLICATE:
                self._failures[peer] = failures + 1, time.monotonic()
            raise
        except TimeoutError:
            self._failures[peer] = failures + 1, time.monotonic()
            raise PeerUnreachable(f"{peer} port {settings.control_port} does not answer in time") from None
        except OSError as error:
            self._failures[peer] = failures + 1, time.monotonic()
            why = getattr(error, "verify_message", "") or error.strerror or str(error)
            raise PeerUnreachable(f"{peer} port {settings.control_port}: {why}") from None
        self._failures.pop(peer, None)
        return session

    async def _greet(self, peer: PeerSettings, local: IPAddress, address: IPAddress) -> _Session:
        """Connect and wait for HELLO.   A peer that does not know our certificate yet is shown it, once."""
        for attempt in (1, 2):
            session = self._begin(await self._connect(peer, local, address), peer.name, dialed=True)
            try:
                await asyncio.shield(session.greeted)
                return session
            except ExchangeEnded as error:
                if attempt == 2 or error.reason is not EndReason.CLOSED:
                    raise
            # The handshake's last word is the server's: no certificate of ours that it could verify.
            if not await self._introduce(peer, local, address):
                raise PeerUnreachable(f"{address}: the peer does not know the certificate of this host")
        raise AssertionError

    async def _introduce(self, peer: PeerSettings, local: IPAddress, address: IPAddress) -> bool:
        reader, writer = await asyncio.open_connection(
            str(address), peer.control_port, local_addr=None if local.is_unspecified else (str(local), 0)
        )
        try:
            der = self._trust.certificate
            writer.write(_INTRODUCTION + len(der).to_bytes(2, "big") + der)
            return await reader.read(1) == b"\x01"
        finally:
            writer.close()

    async def _connect(self, peer: PeerSettings, local: IPAddress, address: IPAddress) -> Wire:
        """Open a TLS connection to somebody who is who it should be.   Raises OSError, PeerUnreachable."""
        _, wire = await asyncio.get_running_loop().create_connection(
            lambda: Wire(_ENOUGH),
            str(address),
            peer.control_port,
            ssl=self._trust.client(peer),
            server_hostname="",
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            local_addr=None if local.is_unspecified else (str(local), 0),
        )
        shown = identity.fingerprint(wire.certificate)
        if peer.fingerprint is not None and shown != peer.fingerprint:
            wire.transport.close()
            raise PeerUnreachable(
                f"{address} shows another certificate than {peer.name}'s: its fingerprint is {identity.written(shown)}"
            )
        return wire

    # Sessions

    def _begin(self, wire: Wire, who: str, *, dialed: bool) -> _Session:
        session = _Session(
            Exchange(self._device, self._table, self._terms, now=self._clock()),
            wire,
            wire.address("sockname"),
            wire.address("peername"),
            identity.fingerprint(wire.certificate),
            who,
            dialed,
            asyncio.get_running_loop().create_future(),
        )
        if len(self._sessions) >= MOST_SESSIONS:
            session.exchange.end(EndReason.TOO_MANY, "too many peers")
        self._sessions.append(session)
        session.greeted.add_done_callback(lambda future: future.cancelled() or future.exception())
        wire.begin(partial(self._received, session))
        self._flush(session)
        return session

    def _received(self, session: _Session, octets: bytes) -> None:
        """Take what a peer has sent; b"": the connection is over."""
        session.exchange.receive(octets, self._clock())
        self._flush(session)
        if not octets:
            self._sessions.remove(session)

    def _flush(self, session: _Session) -> None:
        """Do what the exchange tells of, and send what it has to say."""
        while (event := session.exchange.next_event()) is not None:
            self._handle(session, event)
        transport = session.wire.transport
        while not transport.is_closing() and transport.get_write_buffer_size() < _ENOUGH:
            octets = session.exchange.take_output()
            if not octets:
                break
            transport.write(octets)
            session.exchange.handle_timeout(self._clock())
            while (event := session.exchange.next_event()) is not None:
                self._handle(session, event)
        if session.exchange.ended and not transport.is_closing():
            transport.close()
        # The peer has its answer and goes on meanwhile.
        while session.handing:
            agreement, hand_over = session.handing.popleft()
            try:
                hand_over()
            except Refusal:
                self.close(agreement, CloseReason.LOST)

    def _handle(self, session: _Session, event: object) -> None:
        assert self._party is not None
        match event:
            case Greeted():
                if not session.greeted.done():
                    session.greeted.set_result(None)
                self._settle(session)
            case Agreed(run):
                waiting = session.asked.pop(run.first_id, None) if run.ours else None
                if not run.ours:
                    self.raw_runs.append((session.identity, run))
                elif waiting is None or waiting.done():
                    session.exchange.close(run)  # nobody waits for it any more
                else:
                    waiting.set_result(run)
            case Refused(first_id, _, _, sentence):
                waiting = session.asked.pop(first_id, None)
                if waiting is not None and not waiting.done():
                    waiting.set_exception(PeerRefused(f"{session.identity}: {sentence}"))
            case Offered():
                self._offered(session, event)
            case Fresh(run, _, spis):
                for agreement in self._of(session, run):
                    self._party.rekeyed(agreement, int(spis[0]))
            case Released(run, _, spis):
                for agreement in self._of(session, run):
                    agreement.spi = int(run.spis[0])
                    self._party.released(agreement, int(spis[0]))
            case Closed(run, _, reason):
                if run.kind is Kind.RAW and not run.alive.any():
                    self._forget_raw(run)
                closed = session.agreements.pop((run.ours, run.first_id), None)
                if closed is not None:
                    lost = ConnectionLost(f"{session.identity} has lost it") if reason else None
                    self._party.over(closed, lost)
            case Ended():
                self._ended(session, event)

    def _offered(self, session: _Session, offer: Offered) -> None:
        assert self._party is not None
        assert offer.ports is not None
        if session.exchange.ended:
            return
        if len(offer) != 1 or offer.kind not in _NAMES:
            session.exchange.refuse(offer, RefuseReason.NOT_ALLOWED, "one connection at a time here")
            return
        try:
            run = session.exchange.prepare(offer, self._clock())
        except SPIsExhausted:
            return
        agreement = self._agreement(session, run)
        service_port, port = (int(each) for each in offer.ports[0])
        try:
            then = self._party.offered(agreement, Wanted(_NAMES[offer.kind], service_port, port))  # type: ignore[arg-type]
        except Refusal as refusal:
            session.agreements.pop((run.ours, run.first_id), None)
            session.exchange.refuse(offer, RefuseReason.NOBODY_LISTENS, refusal.sentence)
        else:
            session.exchange.confirm(offer)
            if then is not None:
                session.handing.append((agreement, then))

    async def _ask(self, session: _Session, wanted: Wanted) -> Run:
        peer = session.exchange.peer
        assert peer is not None
        version = self.settings.version
        if version not in peer.psp_versions:
            have = ", ".join(map(str, sorted(peer.psp_versions)))
            raise PeerRefused(f"{session.identity} does not receive PSP version {version}, but {have}")
        ports = np.array([[wanted.service_port, wanted.port]], np.uint16)
        try:
            first_id, _ = session.exchange.open(_KINDS[wanted.kind], version, ports=ports, now=self._clock())
        except ConfigError as error:
            raise PeerRefused(f"{session.identity}: {error}") from None
        return await self._answer(session, first_id)

    async def _answer(self, session: _Session, first_id: int) -> Run:
        """Wait for what the peer says to an OPEN."""
        waiting: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
        session.asked[first_id] = waiting
        self._flush(session)
        return await waiting

    def _agreement(self, session: _Session, run: Run) -> Agreement:
        assert session.exchange.peer is not None
        agreement = Agreement(
            session.local,
            session.peer,
            session.identity,
            run.version,
            session.exchange.peer.udp_port,
            int(run.rows[0]),
            int(run.spis[0]),
            (session, run),
        )
        session.agreements[run.ours, run.first_id] = agreement
        return agreement

    def _of(self, session: _Session, run: Run) -> list[Agreement]:
        found = session.agreements.get((run.ours, run.first_id))
        return [] if found is None else [found]

    def _settle(self, session: _Session) -> None:
        """Let one of two control connections with a peer go, as soon as nothing hangs on it."""
        others = [s for s in self._sessions if s is not session and not s.exchange.ended]
        same = [
            s for s in others if (s.fingerprint, s.local, s.peer) == (session.fingerprint, session.local, session.peer)
        ]
        for one in (session, *same) if same else ():
            if not self._stays(one) and one.is_idle:
                one.exchange.end(EndReason.DUPLICATE, "there is another control connection")
                if one is not session:
                    self._flush(one)

    def _ended(self, session: _Session, event: Ended) -> None:
        assert self._party is not None
        error = ExchangeEnded(event.reason, event.sentence)
        if not session.greeted.done():
            session.greeted.set_exception(error)
        for waiting in session.asked.values():
            if not waiting.done():
                waiting.set_exception(error)
        session.asked.clear()
        self.raw_runs = [each for each in self.raw_runs if each[1].alive.any()]
        gone, session.agreements = list(session.agreements.values()), {}
        for agreement in gone:
            self._party.over(agreement, ConnectionLost(f"{session.identity}: {event.sentence}"))

    def _forget_raw(self, run: Run) -> None:
        self.raw_runs = [each for each in self.raw_runs if each[1] is not run]

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
