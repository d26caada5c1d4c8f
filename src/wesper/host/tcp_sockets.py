"""Whether a TCP socket of this host still exists, asked of the kernel by its ends (sock_diag(7)).

Constants: include/uapi/linux/sock_diag.h, inet_diag.h.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final

from .netlink import Netlink, NetlinkError, family_of

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NO_COOKIE: Final = 0xFFFFFFFF
_LISTENS: Final = 10  # net/tcp_states.h: TCP_LISTEN


class TCPSockets:
    """Asks the kernel.   is_able: whether this kernel answers at all."""

    def __init__(self) -> None:
        self._opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        self._netlink = Netlink(self._opened)
        self.is_able = self._can_find()

    def exists(self, local: bytes, local_port: int, remote: bytes, remote_port: int, interface: int = 0) -> bool:
        """Tell whether there is a socket with these ends.   interface: number of the one it is bound to.

        Without an answer of the kernel it is taken to be there.
        """
        return not self.is_able or self._state(local, local_port, remote, remote_port, interface) not in (
            None,
            _LISTENS,
        )

    def close(self) -> None:
        """Let go of the netlink socket."""
        self._opened.close()

    def _can_find(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
            one.bind(("127.0.0.1", 0))
            one.listen(1)
            return self._state(bytes((127, 0, 0, 1)), one.getsockname()[1], bytes(4), 0, 0) == _LISTENS
        return False

    def _state(self, local: bytes, local_port: int, remote: bytes, remote_port: int, interface: int) -> int | None:
        ports = struct.pack(">HH", local_port, remote_port)
        addresses = local.ljust(16, b"\0") + remote.ljust(16, b"\0")
        body = struct.pack("BBBxI", family_of(local), socket.IPPROTO_TCP, 0, 0xFFFFFFFF)
        body += ports + addresses + struct.pack("III", interface, _NO_COOKIE, _NO_COOKIE)
        try:
            answer = self._netlink.request("TCP socket", _SOCK_DIAG_BY_FAMILY, 0, body)
        except NetlinkError:
            return None
        return answer[1] if len(answer) > 1 else None
