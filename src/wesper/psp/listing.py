"""What a host tells of its connections and peers, a page at a time: as many as fit one message to a process."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from ..engine.interface import SECOND
from ..errors import ConfigError
from . import local
from .flows import Flow
from .table import RowState

if TYPE_CHECKING:
    from .host import Host

PAGE_OCTETS: Final = 48_000
PAGE_ROWS: Final = 256  # so that a page never holds up packets for long


def page(host: Host, what: Any, before: Any, now: int) -> dict[str, Any]:
    """Return the answer to a request for a list: `rows`, the newest first, `all` there are, `before` for the next page.

    what: connections or peers.   before: of the page before; None: the first.   Raises ConfigError.
    """
    if before is not None and not isinstance(before, int):
        raise ConfigError(f"{before!r}", key="before", expected="what the page before has said")
    if what == "connections":
        flows = host.flows.newest(before)
        numbered: Iterable[tuple[int, dict[str, Any]]] = ((flow.number, connection(host, flow, now)) for flow in flows)
        number_of_all = len(host.flows)
    elif what == "peers":
        known = host.agreements.status()
        first = len(known) if before is None else min(max(before, 0), len(known))
        numbered = ((at, known[at]) for at in range(first - 1, -1, -1))
        number_of_all = len(known)
    else:
        raise ConfigError(f"{what!r}", key="what", expected="connections or peers")
    rows, last = fitting(numbered)
    return {"rows": rows, "all": number_of_all, "before": last}


def fitting(
    numbered: Iterable[tuple[int, dict[str, Any]]], octets: int = PAGE_OCTETS
) -> tuple[list[dict[str, Any]], int | None]:
    """Return those that fit a message, at least one, and the number of the last; None if nothing comes after it."""
    rows: list[dict[str, Any]] = []
    last = None
    for number, row in numbered:
        octets -= len(local.encode(row)) + 1
        if rows and (octets < 0 or len(rows) >= PAGE_ROWS):
            return rows, last
        rows.append(row)
        last = number
    return rows, None


def connection(host: Host, flow: Flow, now: int) -> dict[str, Any]:
    """Return what is told of a connection: no key, and nothing of what it carries.

    `out.association` counts what its present key has sent, `out.left` what its limits leave of it; `in.left_seconds`
    is when the last of this host's device keys that it was given associations of goes, if nobody rotates by hand.
    """
    row = host.table.state(flow.row)
    return {
        "kind": flow.kind,
        "local": [_written(flow.local), flow.local_port],
        "peer": [_written(flow.peer), flow.peer_port],
        "identity": flow.identity,
        "version": flow.version,
        "age_seconds": _seconds(now - flow.made_at),
        "heard_seconds_ago": _seconds(now - flow.heard_at),
        "out": {"spi": row.spi, "packets": flow.packets_out, **_association(host, row, now)},
        "in": {
            "spis": sorted(flow.spis),
            "packets": flow.packets_in,
            "left_seconds": _receives_for(host, flow, now),
        },
    }


def _association(host: Host, row: RowState, now: int) -> dict[str, Any]:
    used = {"packets": row.packets, "octets": row.octets, "seconds": host.table.age(row, now)}
    limits = dict(zip(used, host.settings.limits.values(), strict=True))
    left = {name: None if limit is None else max(limit - used[name], 0) for name, limit in limits.items()}
    return {"association": used, "left": left}


def _receives_for(host: Host, flow: Flow, now: int) -> float | None:
    due = host.device.deadline()
    if due is None or not flow.spis:
        return None
    active = host.device.generation & 1
    goes = max(due + (host.settings.rotate_seconds * SECOND if spi >> 31 == active else 0) for spi in flow.spis)
    return _seconds(max(goes - now, 0))


def _seconds(ns: int) -> float:
    return round(ns / SECOND, 3)


def _written(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
