"""A host of PSP connections: one device, one UDP port, one exchange, for all processes.

A daemon runs it, or a program itself. All of it lives in one asyncio loop. What it makes is taken away when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Final, Self

from ..engine.interface import SECOND
from ..errors import ConfigError, PermissionNeeded, WesperError
from ..host.link import IPAddress, Link, Route, route
from ..host.tcp_sockets import TCPSockets
from ..protocols.icmp import packet_too_big
from ..protocols.psp import Profile, SourcePort
from . import local
from .agreements import Agreement, Agreements, HandOver, Party, Refusal, Wanted
from .aio import PeerExchanges
from .device import Device, DeviceEventKind
from .failures import ConnectionLost, NoDaemon, PeerUnreachable
from .flows import Flow, FlowDrop, FlowKind, Flows, Outgoing
from .interface import Options
from .links import Senders, open_receivers, waiting
from .listing import fitting, page
from .marks import FileMarks
from .service import Client, Endpoint
from .settings import HostSettings
from .streams import OVERHEAD, Side, StreamInterface
from .table import TransmitTable

TICK_S: Final = 0.05
SWEEP_NS: Final = SECOND
LINGER_NS: Final = 5 * SECOND
"""How long a stream that both sides have closed is still carried: the last ACK may have to come again."""
IDLE_NS: Final = 15 * SECOND
"""After so long without a segment the kernel is asked whether a stream's socket is still there."""
MOST_FLOWS: Final = 1 << 20
MOST_CLIENTS: Final = 4096
"""Processes' sockets that wait for an answer, listen, or have not asked for anything yet."""
ASK_NS: Final = 10 * SECOND
"""How long a process may have a socket and ask for nothing."""
QUIET_NS: Final = 60 * SECOND
"""Between two events that tell of refusals for one reason."""
_CHECKS: Final = 256  # of idle streams, a sweep
_ASSUMED_MTU: Final = 1500
_UDP_INSIDE: Final = 8
_FIRST_PORT: Final = 49152  # RFC 6335 §6: dynamic ports

Offer = Callable[[Agreement, Wanted], HandOver | None]
Tell = Callable[..., None]


class Host(Party):
    """One host.   agreements: the exchange; None: one over TLS.   tell: gets events by name, with fields.

    `async with Host(settings) as host:` starts and stops it. Other threads may call `dial` alone.
    """

    def __init__(
        self, settings: HostSettings, *, agreements: Agreements | None = None, tell: Tell = lambda _, **__: None
    ) -> None:
        self.settings, self._tell = settings, tell
        self._given = agreements
        self._undo = contextlib.AsyncExitStack()
        self._listeners: dict[tuple[FlowKind, int], tuple[IPAddress | None, Offer]] = {}
        self._endpoints: dict[Flow, Endpoint] = {}
        self._agreements: dict[Flow, Agreement] = {}
        self._flow_of: dict[Agreement, Flow] = {}
        self._let_go: dict[Flow, Callable[[], None]] = {}
        self._clients: dict[Client, int] = {}  # since when
        self._refused: Counter[str] = Counter()  # processes
        self._told: dict[str, tuple[int, int]] = {}  # of refusals: how many when it was last told, and when
        self._streams: StreamInterface | None = None
        self._sockets: TCPSockets | None = None
        self._links: list[Link] = []
        self._routes: dict[IPAddress, Route | None] = {}  # since the last tick: a burst of connections asks once
        self._started_at = now_ns()
        self._next_sweep = 0
        self.ended = asyncio.Event()
        self.device: Device
        self.table: TransmitTable
        self.flows: Flows
        self.agreements: Agreements
        self._senders: Senders
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.stop()

    # Life

    async def start(self) -> None:
        """Make all of it.   Raises WesperError or OSError, and then has taken away what it had made."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._start()
        except BaseException:
            await self._undo.aclose()
            raise

    async def stop(self) -> None:
        """Take away all that `start` made; connections of processes end.   Idempotent."""
        self.ended.set()
        await self._undo.aclose()

    async def _start(self) -> None:
        settings, undo = self.settings, self._undo
        self.device = Device(
            engine=settings.engine,
            options=Options(port=settings.port),
            marks=FileMarks(settings.marks) if settings.marks else None,
            rotate_every=settings.rotate_seconds * SECOND,
            now=now_ns(),
        )
        undo.callback(self.device.close)
        self._links = open_receivers(settings.addresses, settings.port)
        for link in self._links:
            undo.callback(link.close)
        self._senders = Senders()
        undo.callback(self._senders.close)
        words = settings.crypt_offset_octets // 4
        profiles = [
            Profile(
                version=version,
                crypt_offset_words=0 if version > 1 else words,
                source_port=SourcePort.TABLE,
                ports=self._senders.ports,
            )
            for version in range(4)
        ]
        self.table = TransmitTable(self.device, profiles, hard=settings.limits, now=now_ns())
        self.flows = Flows(self.device, self.table)
        for link in self._links:
            self._loop.add_reader(link.fd, self._from_network, link)
            undo.callback(self._loop.remove_reader, link.fd)
        if self._given is not None:
            self.agreements = self._given
        else:
            self.agreements = PeerExchanges(settings, self.device, self.table, clock=now_ns)
        await self.agreements.start(self)
        undo.push_async_callback(self.agreements.stop)
        undo.callback(self._let_go_of_processes)
        undo.callback(self._close_streams)
        ticking = self._loop.create_task(self._ticking())
        undo.push_async_callback(_cancelled, ticking)

    def _let_go_of_processes(self) -> None:
        for flow in self.flows:
            self._forget(flow, ConnectionLost("the PSP daemon has ended"), tell_peer=False)
        for client in list(self._clients):
            client.close()

    def _close_streams(self) -> None:
        if self._streams is not None:
            self._loop.remove_reader(self._streams.fd)
            for flow in self.flows:
                if flow.kind == "stream":
                    self._forget(flow, ConnectionLost("the PSP daemon has ended"), tell_peer=False)
            self._streams.close()
            self._streams = None
            for kind, port in [each for each in self._listeners if each[0] == "stream"]:
                self._stop_listening(kind, port)
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None

    def end(self) -> dict[str, Any]:
        """Have `ended` set, which whoever runs the host waits for."""
        self.ended.set()
        return {}

    def dial(self) -> socket.socket:
        """Return a socket as a process of this host has one to its daemon.   Any thread may ask."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        local.widen(theirs)
        self._loop.call_soon_threadsafe(self.adopt, ours)
        return theirs

    def adopt(self, opened: socket.socket) -> None:
        """Serve a process at the other end of a socket."""
        if self.ended.is_set():
            opened.close()
            return
        if len(self._clients) >= MOST_CLIENTS:
            self.refuse("too_many_processes")
            opened.setblocking(False)
            with opened, contextlib.suppress(OSError):
                local.send(opened, local.refusal(NoDaemon(f"the PSP daemon serves {MOST_CLIENTS} processes already")))
            return
        client = Client(self, opened, lambda client: self._clients.pop(client, None))
        self._clients[client] = now_ns()
        client.readable()  # most have asked by now

    def refuse(self, why: str) -> None:
        """Count a process that is not served."""
        self._refused[why] += 1

    # What processes ask for

    async def open_datagrams(self, peer: IPAddress, port: int, seconds: float) -> Flow:
        """Agree on a datagram connection.   Raises ConnectionFailed, ConfigError."""
        own = self._own_address(peer)
        wanted = Wanted("datagram", port, self._free_port(own, peer, port))
        agreement = await self._agreed(own, peer, wanted, seconds)
        return self._made(agreement, wanted)

    async def open_stream(self, peer: IPAddress, port: int, seconds: float) -> tuple[Flow, socket.socket]:
        """Agree on a stream, and return a TCP socket that may connect.   Raises as open_datagrams, PermissionNeeded."""
        streams = self._open_streams()
        own = self._own_address(peer)
        stream = streams.client(str(own))
        try:
            wanted = Wanted("stream", port, stream.getsockname()[1])
            agreement = await self._agreed(own, peer, wanted, seconds)
            return self._made(agreement, wanted), stream
        except BaseException:
            stream.close()
            raise

    def listen_datagrams(self, host: IPAddress | None, port: int, offer: Offer) -> tuple[int, Callable[[], None]]:
        """Let `offer` have what peers ask of a port; returns the port, and what undoes it.   Raises ConfigError."""
        if not port:
            port = next(
                each for each in range(_FIRST_PORT, 65536) if ("datagram", each) not in self._listeners
            )  # nobody has that many
        return port, self._listen("datagram", host, port, offer)

    def listen_streams(
        self, host: IPAddress | None, port: int, backlog: int
    ) -> tuple[int, Callable[[], None], socket.socket]:
        """Return port, what undoes it, and a TCP socket that listens.   Raises ConfigError, PermissionNeeded."""
        stream = self._open_streams().listener("" if host is None else str(host), port, backlog)
        try:
            port = stream.getsockname()[1]
            return port, self._listen("stream", host, port, self._take_stream), stream
        except BaseException:
            stream.close()
            raise

    def _listen(self, kind: FlowKind, host: IPAddress | None, port: int, offer: Offer) -> Callable[[], None]:
        if (kind, port) in self._listeners:
            raise ConfigError(f"{kind} port {port} is taken", key="port", expected="a free one")
        self._listeners[kind, port] = host, offer
        return lambda: self._stop_listening(kind, port)

    def _stop_listening(self, kind: FlowKind, port: int) -> None:
        self._listeners.pop((kind, port), None)

    def _take_stream(self, agreement: Agreement, wanted: Wanted) -> None:
        self.make_flow(agreement, wanted, serves=True)

    async def _agreed(self, own: IPAddress, peer: IPAddress, wanted: Wanted, seconds: float) -> Agreement:
        try:
            async with asyncio.timeout(seconds):
                return await self.agreements.open(own, peer, wanted)
        except TimeoutError:
            raise PeerUnreachable(f"{peer}: no answer of its exchange within {seconds:g} s") from None

    def _own_address(self, peer: IPAddress) -> IPAddress:
        found = self._route(peer)
        if found is None or found.local.version != peer.version:
            raise PeerUnreachable(f"{peer}: no route")
        own = found.local
        if not self.settings.addresses or own in self.settings.addresses:
            return own
        chosen = [each for each in self.settings.addresses if each.version == peer.version and int(each)]
        return chosen[0] if chosen else own

    def _free_port(self, own: IPAddress, peer: IPAddress, port: int) -> int:
        for _ in range(1 << 10):
            found = random.randrange(_FIRST_PORT, 65536)
            if not self.flows.has("datagram", (own.packed, peer.packed, found, port)):
                return found
        raise ConfigError(f"no port is left for {peer} port {port}", key="port", expected="fewer connections to it")

    # Connections

    def _made(self, agreement: Agreement, wanted: Wanted) -> Flow:
        """Take up a connection of ours; what can't be is closed again."""
        try:
            return self.make_flow(agreement, wanted, serves=False)
        except Refusal as refusal:
            self.agreements.close(agreement)
            raise ConnectionLost(refusal.sentence) from None
        except BaseException:
            self.agreements.close(agreement)
            raise

    def make_flow(self, agreement: Agreement, wanted: Wanted, *, serves: bool) -> Flow:
        """Take up a connection that is agreed on.   serves: the peer has asked for it.   Raises Refusal, OSError."""
        ports = (wanted.service_port, wanted.port) if serves else (wanted.port, wanted.service_port)
        ends = (agreement.local.packed, agreement.peer.packed, *ports)
        if self.flows.has(wanted.kind, ends):
            raise Refusal(f"there is a connection from port {wanted.port} to port {wanted.service_port} already")
        flow = Flow(
            wanted.kind, *ends, version=agreement.version, row=agreement.row, udp_port=agreement.udp_port,
            identity=agreement.identity, made_at=now_ns(), heard_at=now_ns(),
        )  # fmt: skip
        mtu = self._path_mtu(agreement.peer)
        flow.most = _most(flow, mtu)
        if wanted.kind == "stream":
            if self._streams is None:
                raise Refusal("the interface of the streams has gone")
            side: Side = "server" if serves else "client"
            self._let_go[flow] = self._streams.hold(str(agreement.peer), side, wanted.service_port, mtu)
        self.flows.add(flow)
        self.flows.own(flow, agreement.spi)
        self._agreements[flow] = agreement
        self._flow_of[agreement] = flow
        return flow

    def carries(self, flow: Flow) -> bool:
        """Tell whether a connection has not ended."""
        return flow in self._agreements

    def join(self, flow: Flow, endpoint: Endpoint) -> None:
        """Give a datagram connection its process."""
        self._endpoints[flow] = endpoint

    def close_flow(self, flow: Flow) -> None:
        """End a connection from this side; the peer is told."""
        self._forget(flow, None, tell_peer=True, tell_process=False)

    def drop_flow(self, flow: Flow) -> None:
        """Forget a connection that is being refused."""
        self._forget(flow, None, tell_peer=False, tell_process=False)

    def _forget(self, flow: Flow, error: BaseException | None, *, tell_peer: bool, tell_process: bool = True) -> None:
        agreement = self._agreements.pop(flow, None)
        if agreement is None:
            return
        del self._flow_of[agreement]
        if flow.kind == "stream" and not flow.ended and self._streams is not None:
            self._streams.deliver(flow.reset())
        self.flows.remove(flow)
        endpoint = self._endpoints.pop(flow, None)
        if endpoint is not None:
            endpoint.close(error, tell=tell_process)
        let_go = self._let_go.pop(flow, None)
        if let_go is not None:
            let_go()
        if tell_peer:
            self.agreements.close(agreement)

    # What the exchange says

    def offered(self, agreement: Agreement, wanted: Wanted) -> HandOver | None:
        """See Party."""
        found = self._listeners.get((wanted.kind, wanted.service_port))
        if found is None or (found[0] is not None and int(found[0]) and found[0] != agreement.local):
            raise Refusal(f"nobody listens on {wanted.kind} port {wanted.service_port}")
        if len(self.flows) >= MOST_FLOWS:
            raise Refusal("there are as many connections as this host takes")
        try:
            return found[1](agreement, wanted)
        except (OSError, WesperError) as error:
            raise Refusal(str(error)) from None

    def rekeyed(self, agreement: Agreement, spi: int) -> None:
        """See Party."""
        flow = self._flow_of.get(agreement)
        if flow is not None:
            self.flows.own(flow, spi)

    def released(self, agreement: Agreement, spi: int) -> None:
        """See Party."""
        self.flows.disown(spi)

    def over(self, agreement: Agreement, error: Exception | None) -> None:
        """See Party."""
        flow = self._flow_of.get(agreement)
        if flow is not None:
            self._forget(flow, error, tell_peer=False)

    # Packets

    def send_datagrams(self, flow: Flow, datagrams: Sequence[bytes]) -> None:
        """Send datagrams of a process; one that is too large now, though it was not when it was given, is counted."""
        fit = [each for each in datagrams if len(each) <= flow.most]
        if len(fit) < len(datagrams):
            self.flows.count(FlowDrop.TOO_BIG, len(datagrams) - len(fit))
        if fit and flow in self._agreements:
            self._send(self.flows.datagrams(flow, fit, now_ns()))

    def _send(self, packets: Sequence[Outgoing]) -> None:
        for flow, inside, outside in packets:
            drop = self._senders.send(outside, flow.udp_port)
            if drop is not None:
                self.flows.count(drop)
                if drop is FlowDrop.TOO_BIG:
                    self._narrowed(flow, inside)

    def _narrowed(self, flow: Flow, inside: bytes) -> None:
        """The path takes less than it did: say so to whoever sends."""
        peer = ip_address(flow.peer)
        self._routes.pop(peer, None)
        mtu = self._path_mtu(peer)
        if flow.kind == "stream":
            told = packet_too_big(inside, max(mtu - OVERHEAD, 68), peer)
            if told is not None and self._streams is not None:
                self._streams.deliver(told)
            return
        most = _most(flow, mtu)
        if most != flow.most:
            flow.most = most
            self._endpoints[flow].tell({"event": "most", "most": most})

    def _from_network(self, link: Link) -> None:
        packets = waiting(link)
        if not packets:
            return
        for flow, brought in self.flows.received(packets, now_ns()):
            if flow.kind == "stream":
                if self._streams is not None and not self._streams.deliver(brought):
                    self.flows.count(FlowDrop.QUEUE_FULL)
                continue
            endpoint = self._endpoints.get(flow)
            if endpoint is None or not endpoint.deliver(brought):
                self.flows.count(FlowDrop.QUEUE_FULL)

    def _from_streams(self) -> None:
        assert self._streams is not None
        try:
            packets = self._streams.segments()
        except OSError as error:  # somebody has deleted it
            self._tell("streams_lost", why=str(error.strerror))
            self._close_streams()
            return
        self._send(self.flows.segments(packets, now_ns()))

    def _open_streams(self) -> StreamInterface:
        if self._streams is None:
            if not self.settings.interface:
                raise PermissionNeeded("`interface = ` in the daemon's file", "a stream")
            self._streams = StreamInterface(self.settings.interface, self.settings.interface_kind)
            self._sockets = TCPSockets()
            self._loop.add_reader(self._streams.fd, self._from_streams)
        return self._streams

    # Time

    async def _ticking(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tick(now_ns())

    def tick(self, now: int) -> None:
        """Look at the clock: rotation, re-keying, streams that are over."""
        self._routes.clear()
        self.device.handle_timeout(now)
        self._after_rotation()
        self.agreements.tick(now)
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_NS
            self._sweep(now)

    def rotated(self) -> dict[str, Any]:
        """Rotate the device key now, and have peers send with new associations."""
        now = now_ns()
        generation = self.device.rotate(now)
        self._after_rotation()
        self.agreements.tick(now)
        return {"generation": generation}

    def _after_rotation(self) -> None:
        while (event := self.device.next_event()) is not None:
            if event.kind is DeviceEventKind.ROTATED:
                self.flows.forget_slot(event.generation & 1)
                self._tell("rotated", generation=event.generation)
            elif event.kind is DeviceEventKind.STALE:
                self._tell("stale", count=event.count)

    def _sweep(self, now: int) -> None:
        """Let go of streams that are over; of those that are silent the kernel is asked. See who asks for nothing."""
        self._tell_refused(now)
        for client, since in list(self._clients.items()):
            if not client.has_asked and now - since > ASK_NS:
                self.refuse("asked_nothing")
                client.close()
        checks = 0
        for flow in self.flows:
            if flow.kind != "stream":
                continue
            silent = now - flow.heard_at
            if flow.ended:
                if silent > LINGER_NS:
                    self.close_flow(flow)
            elif silent > IDLE_NS and checks < _CHECKS and self._sockets is not None:
                checks += 1
                flow.heard_at = now
                if not self._has_socket(flow):
                    flow.ended = True  # no reset: there is nobody to take it
                    self.close_flow(flow)

    def _tell_refused(self, now: int) -> None:
        """Tell of refusals, once a minute and reason: who floods shall not fill the disk as well."""
        for why, count in self._refusals().items():
            told, at = self._told.get(why, (0, now - QUIET_NS))
            if count > told and now - at >= QUIET_NS:
                self._told[why] = count, now
                self._tell("refused", why=why, count=count)

    def _refusals(self) -> dict[str, int]:
        return dict(self._refused) | self.agreements.refused()

    def _has_socket(self, flow: Flow) -> bool:
        assert self._sockets is not None
        assert self._streams is not None
        index = 0
        with contextlib.suppress(OSError):
            index = socket.if_nametoindex(self._streams.name)
        return self._sockets.exists(flow.local, flow.local_port, flow.peer, flow.peer_port, index)

    def _path_mtu(self, peer: IPAddress) -> int:
        found = self._route(peer)
        return min(found.mtu if found is not None else _ASSUMED_MTU, 65535)

    def _route(self, peer: IPAddress) -> Route | None:
        if peer not in self._routes:
            self._routes[peer] = route(peer)
        return self._routes[peer]

    # Status

    def status(self) -> dict[str, Any]:
        """Return what `wesper psp status --json` prints, but for lists that can be long: see `listing.page`."""
        kinds = Counter(flow.kind for flow in self.flows)
        listeners = [
            {"kind": kind, "port": port, "host": "" if host is None else str(host)}
            for (kind, port), (host, _) in sorted(self._listeners.items())
        ]
        shown, _ = fitting(enumerate(listeners), 12_000)
        return {
            "schema": 1,
            "pid": os.getpid(),
            "uptime_seconds": round((now_ns() - self._started_at) / SECOND, 3),
            "engine": self.device.engine.name,
            "generation": self.device.generation,
            "port": self.settings.port,
            "addresses": [str(link.local) for link in self._links],
            "interface": self._streams.name if self._streams is not None else None,
            "listeners": shown,
            "listeners_more": len(listeners) - len(shown),
            "connections": {"datagram": kinds["datagram"], "stream": kinds["stream"]},
            "associations": len(self.table),
            "counters": self.device.counters(),
            "drops": dict(self.flows.counts),
            "refused": self._refusals(),
            "samples": self.device.samples.as_json(),
        }

    def listed(self, what: Any, before: Any) -> dict[str, Any]:
        """Return a page of a list.   Raises ConfigError."""
        return page(self, what, before, now_ns())


def now_ns() -> int:
    """Return the time on the axis that a host's `now` is of."""
    return time.monotonic_ns()


def _most(flow: Flow, mtu: int) -> int:
    header = 20 if len(flow.peer) == 4 else 40
    return max(mtu - header - OVERHEAD - _UDP_INSIDE, 0)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
