"""Processes of this host, as the daemon sees them: each is a socket that asks, and then is a connection or a listener.

A process can end, stall or send rubbish at any time; that ends its own connections and nobody else's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Final

from ..errors import ConfigError, WesperError
from . import local
from .agreements import Agreement, HandOver, Refusal, Wanted
from .failures import to_json
from .flows import Flow, FlowKind

if TYPE_CHECKING:
    from .host import Host

_BATCH: Final = 32
_MOST_SECONDS: Final = 300.0
_MOST_BACKLOG: Final = 4096
_KINDS: Final[dict[str, FlowKind]] = {"datagram": "datagram", "stream": "stream"}


class Endpoint:
    """A datagram connection's end towards its process."""

    def __init__(self, host: Host, opened: socket.socket, flow: Flow) -> None:
        self._host, self._opened, self.flow = host, opened, flow
        self._loop = asyncio.get_running_loop()
        opened.setblocking(False)
        # A number, not the socket: asyncio writes an object that it does not know yet into an exception's text.
        self._fd = opened.fileno()
        self._loop.add_reader(self._fd, self._readable)

    def deliver(self, datagram: bytes) -> bool:
        """Hand a datagram on; returns whether there was room."""
        try:
            self._opened.send(local.DATAGRAM + datagram)
        except BlockingIOError:
            return False
        except OSError:  # it has ended; the reader is about to notice
            return True
        return True

    def tell(self, event: dict[str, Any]) -> None:
        """Tell the process of something, if it has room for it."""
        with contextlib.suppress(OSError):
            local.send(self._opened, event)

    def close(self, error: BaseException | None, *, tell: bool) -> None:
        """End it.   tell: say why; else it is the process that has ended it."""
        if tell:
            self.tell({"event": "closed", **(to_json(error) if error is not None else {})})
        self._loop.remove_reader(self._fd)
        self._opened.close()

    def _readable(self) -> None:
        datagrams: list[bytes] = []
        over = False
        for _ in range(_BATCH):
            try:
                message = self._opened.recv(local.MAX_MESSAGE)
            except BlockingIOError:
                break
            except OSError:
                message = b""
            if message[:1] != local.DATAGRAM:  # the end, or rubbish
                over = True
                break
            datagrams.append(message[1:])
        if datagrams:
            self._host.send_datagrams(self.flow, datagrams)
        if over:
            self._host.close_flow(self.flow)


class Client:
    """A socket of a process, until its request is answered; a listener's for as long as it listens."""

    def __init__(self, host: Host, opened: socket.socket, gone: Callable[[Client], object]) -> None:
        self._host, self._opened, self._gone = host, opened, gone
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._undo: Callable[[], None] | None = None
        self._waiting = 0  # connections that the process has not yet taken
        self._backlog = 0
        opened.setblocking(False)
        local.widen(opened)
        self._fd = opened.fileno()
        self._loop.add_reader(self._fd, self.readable)

    def close(self) -> None:
        """Let go of the process: what it listens on is free again."""
        self._loop.remove_reader(self._fd)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        if self._undo is not None:
            self._undo()
            self._undo = None
        self._opened.close()
        self._gone(self)

    @property
    def has_asked(self) -> bool:
        """Whether its request has come."""
        return self._task is not None or self._undo is not None

    def offer(self, agreement: Agreement, wanted: Wanted) -> HandOver:
        """Take up a connection that a peer asks for; the process gets it by what is returned.   Raises Refusal."""
        if self._waiting >= self._backlog:
            raise Refusal(f"port {wanted.service_port} has {self._backlog} connections waiting already")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            flow = self._host.make_flow(agreement, wanted, serves=True)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        self._waiting += 1
        return partial(self._hand_over, flow, ours, theirs)

    def _hand_over(self, flow: Flow, ours: socket.socket, theirs: socket.socket) -> None:
        """Give the process its end of a connection, if that is still there.   Raises Refusal."""
        if not self._host.carries(flow):
            self._waiting -= 1
            ours.close()
            theirs.close()
            return
        with theirs:
            for each in (ours, theirs):
                local.widen(each)
            try:
                local.send(self._opened, self._described(flow), [theirs.fileno()])
            except OSError:
                ours.close()
                self._waiting -= 1
                self._host.drop_flow(flow)
                raise Refusal(f"port {flow.local_port} takes no more connections now") from None
        self._host.join(flow, Endpoint(self._host, ours, flow))

    def readable(self) -> None:
        """Take what the process says, if there is something."""
        try:
            message = self._opened.recv(local.MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        request = local.decode(message) if message else None
        if request is None:
            self.close()
        elif self._undo is not None and request.get("op") == "accepted":
            self._waiting = max(self._waiting - 1, 0)
        elif self.has_asked:
            self.close()  # one request a socket
        else:
            self._task = self._loop.create_task(self._serve(request))

    async def _serve(self, request: dict[str, Any]) -> None:
        try:
            await self._answer(request)
        except (WesperError, OSError) as error:
            self._refuse(error)
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:  # of a request that makes no sense
            self._refuse(ConfigError(f"{type(error).__name__}: {error}", key=str(request.get("op"))))
        finally:
            self._task = None

    def _refuse(self, error: BaseException) -> None:
        with contextlib.suppress(OSError):
            local.send(self._opened, local.refusal(error))
        self.close()

    async def _answer(self, request: dict[str, Any]) -> None:
        op = request["op"]
        if op == "connect":
            await self._connect(request)
        elif op == "listen":
            self._listen(request)
        elif op == "list":
            page = self._host.listed(request["what"], request.get("before"))
            local.send(self._opened, {"ok": True, **page})
            self.close()
        elif op in ("status", "rotate", "down"):
            answer = {"status": self._host.status, "rotate": self._host.rotated, "down": self._host.end}[op]()
            local.send(self._opened, {"ok": True, **answer})
            if op != "down":
                self.close()
        else:
            raise ConfigError(f"no op {op!r}", key="op", expected="connect, listen, status, list, rotate, down")

    async def _connect(self, request: dict[str, Any]) -> None:
        kind, peer = _KINDS[request["kind"]], _address(request["host"])
        seconds = min(max(float(request["seconds"]), 0.01), _MOST_SECONDS)
        port = _port(request["port"], least=1)
        if kind == "datagram":
            flow = await self._host.open_datagrams(peer, port, seconds)
            try:
                local.send(self._opened, self._described(flow))
            except OSError:
                self._host.close_flow(flow)
                raise
            # From here on the socket is the connection, whose reader takes this one's place, and no client any more.
            self._host.join(flow, Endpoint(self._host, self._opened, flow))
            self._gone(self)
            return
        flow, stream = await self._host.open_stream(peer, port, seconds)
        with stream:
            local.send(self._opened, self._described(flow), [stream.fileno()])
        self.close()

    def _listen(self, request: dict[str, Any]) -> None:
        kind, port = _KINDS[request["kind"]], _port(request["port"], least=0)
        host = str(request["host"])
        address = _address(host) if host else None
        self._backlog = min(max(int(request["backlog"]), 1), _MOST_BACKLOG)
        if kind == "datagram":
            port, self._undo = self._host.listen_datagrams(address, port, self.offer)
            local.send(self._opened, {"ok": True, "local": [host, port]})
            return
        port, self._undo, stream = self._host.listen_streams(address, port, self._backlog)
        with stream:
            local.send(self._opened, {"ok": True, "local": [host, port]}, [stream.fileno()])

    def _described(self, flow: Flow) -> dict[str, Any]:
        return {
            "ok": True,
            "local": [_written(flow.local), flow.local_port],
            "peer": [_written(flow.peer), flow.peer_port],
            "identity": flow.identity,
            "version": flow.version,
            "most": flow.most,
        }


def _address(text: Any) -> IPv4Address | IPv6Address:
    try:
        return _parsed(str(text))
    except ValueError:
        raise ConfigError(f"{text!r} is no address", key="host", expected="an address of IPv4 or IPv6") from None


@lru_cache(1024)
def _parsed(text: str) -> IPv4Address | IPv6Address:
    return ip_address(text)


def _written(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def _port(given: Any, least: int) -> int:
    if not isinstance(given, int) or not least <= given <= 65535:
        raise ConfigError(f"port {given!r}", key="port", expected=f"{least}..65535")
    return given
