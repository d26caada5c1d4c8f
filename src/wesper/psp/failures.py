"""What a PSP connection may fail with, and how that travels from a host's daemon to the process that asked."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError, ExitCode, PermissionNeeded, UnsupportedError, WesperError


class ConnectionFailed(WesperError):
    """A PSP connection did not come about, or has ended before its time.   Base of those below."""

    exit_code = ExitCode.IO_TROUBLE


class NoDaemon(ConnectionFailed):
    """No PSP daemon answers on this host, or the one that did has gone."""


class PeerRefused(ConnectionFailed):
    """The peer said no: nobody listens there, its queue is full, or it has no version of PSP that we have."""


class PeerUnreachable(ConnectionFailed):
    """The peer's exchange does not answer, or answers as somebody that this host does not know."""


class ConnectionLost(ConnectionFailed):
    """The connection has ended, and not because either side closed it."""


class ConnectionClosed(ConnectionFailed):
    """The peer has closed the connection; everything that it had sent before has been received."""


class TooLarge(ConnectionFailed):
    """A datagram does not fit the path.   octets: of what was to be sent.   most: what fits."""

    def __init__(self, octets: int, most: int) -> None:
        self.octets, self.most = octets, most
        super().__init__(f"{octets} octets do not fit the path: {most} do")


_TRAVEL: dict[str, type[WesperError]] = {
    kind.__name__: kind
    for kind in (
        ConnectionFailed,
        NoDaemon,
        PeerRefused,
        PeerUnreachable,
        ConnectionLost,
        ConnectionClosed,
        TooLarge,
        ConfigError,
        PermissionNeeded,
        UnsupportedError,
    )
}


def to_json(error: BaseException) -> dict[str, Any]:
    """Return an error as what a daemon answers."""
    if isinstance(error, WesperError):
        name = type(error).__name__
        about = {key: value for key, value in vars(error).items() if isinstance(value, (int, str))}
        return {"error": name if name in _TRAVEL else "ConnectionFailed", "sentence": str(error), "about": about}
    return {"error": "ConnectionFailed", "sentence": str(error) or type(error).__name__, "about": {}}


def from_json(answer: dict[str, Any]) -> WesperError:
    """Return the error that a daemon has answered."""
    kind = _TRAVEL.get(str(answer.get("error")), ConnectionFailed)
    sentence, about = str(answer.get("sentence")), answer.get("about")
    error = kind.__new__(kind, sentence)
    error.args = (sentence,)
    if isinstance(about, dict):
        vars(error).update(about)
    return error
