"""What those who look at a running tunnel ask for over its control socket: packets as they pass, and the SAs' keys.

| op | request | answer |
|---|---|---|
| `tap` | | from then on lines with `packets` (as `tapping.as_json` has them) and `lost`, ten times a second |
| `keys` | | `sas`: the SAs that there are, in the TOML of a key file |
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..errors import ConfigError
from ..sa import Direction, SAState
from .carrier import AnySA, Carrier
from .export import key_file
from .loop import Tapped
from .metrics import Numbers, SANumbers, families
from .openmetrics import exposition
from .tapping import BadAnswer, as_json, from_json

if TYPE_CHECKING:
    from .control import Connection, ControlClient
    from .daemon import Daemon

MAX_UNSENT: Final = 4 << 20
"""Octets that may wait for somebody who taps; while there are more, packets are counted as lost instead."""
_A_LINE: Final = 32  # packets, of 64 KiB each at most, so that one line more still fits into a connection's backlog


def tap(daemon: Daemon, connection: Connection, request: dict[str, Any]) -> dict[str, Any]:
    """Send every packet that passes from now on."""
    lost = 0
    tap_lost = daemon.loop.counts()["tap_lost"]

    def take(seen: Sequence[Tapped]) -> bool:
        nonlocal lost, tap_lost
        counted = daemon.loop.counts()["tap_lost"]
        lost += counted - tap_lost
        tap_lost = counted
        # One line at least: whoever waits for a time to be over learns that it goes on.
        for place in range(0, max(len(seen), 1), _A_LINE):
            if connection.unsent > MAX_UNSENT:
                lost += len(seen) - place
                break
            connection.send({"packets": [as_json(each) for each in seen[place : place + _A_LINE]], "lost": lost})
            lost = 0
        return connection.is_open

    daemon.taps.join(take)
    return {}


def keys(daemon: Daemon, connection: Connection, request: dict[str, Any]) -> dict[str, Any]:
    """Return the SAs that are installed, with their keys: who may ask could read the key files, too."""
    found: list[tuple[AnySA, str, int]] = []
    for tunnel in daemon.tunnels:
        for pair in tunnel.pairs:
            profile = tunnel.profile()
            for way, sa in ((Direction.OUT, pair.out_id), (Direction.IN, pair.in_id)):
                made = tunnel.settings.sa(pair.pair, way, profile)
                found.append((made, f"{tunnel.name} {way.value}", _sequence(daemon.engine, sa)))
    return {"protocol": daemon.file.protocol, "sas": key_file(found, daemon.file.psp_port)}


def tapped(client: ControlClient, until: float | None = None) -> Iterator[tuple[list[Tapped], int]]:
    """Yield packets as they pass, and how many were lost before them, until the daemon ends.

    until: when to stop, by `time.monotonic()`.   Raises Refused, DaemonGone, BadAnswer.
    """
    client.ask("tap")
    for line in client.lines():
        if until is not None and time.monotonic() >= until:
            return
        packets, lost = line.get("packets"), line.get("lost")
        if not isinstance(packets, list) or not isinstance(lost, int):
            raise BadAnswer("the daemon tells of packets what makes no sense")
        yield [from_json(each) for each in packets], lost


def numbers_of(status: Mapping[str, Any]) -> Numbers:
    """Return the numbers of a daemon.   status: as `Daemon.status` has it, perhaps off a socket.   Raises BadAnswer."""
    try:
        return Numbers(
            name=str(status["name"]),
            interface=str(status["interface"]["name"]),
            engine=str(status["engine"]),
            uptime_seconds=float(status["uptime_seconds"]),
            counts={str(key): int(count) for key, count in status["loop_counts"].items()},
            drops={str(key): int(count) for key, count in status["drops"].items()},
            sas=[
                SANumbers(
                    str(tunnel["name"]),
                    way,
                    int(pair[way]["spi"]),
                    str(tunnel["suite"]),
                    SAState(*(int(pair[way][key]) for key in SAState.__dataclass_fields__)),
                    sending=way == "out" and bool(pair["sending"]),
                )
                for tunnel in status["tunnels"]
                for pair in tunnel["pairs"]
                for way in ("out", "in")
            ],
            events={str(key): int(count) for key, count in status.get("events", {}).items()},
            protocol="psp" if status.get("protocol") == "psp" else "esp",
            counters={str(key): int(count) for key, count in status.get("counters", {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadAnswer(f"the daemon's status makes no sense: {error!r}") from None


def scraped(status: Mapping[str, Any]) -> bytes:
    """Return what a scraper gets."""
    return exposition(families(numbers_of(status)))


def names_of(status: Mapping[str, Any]) -> dict[int, str]:
    """Return what to call each SA, by its SPI."""
    return {sa.spi: f"{sa.tunnel}, {sa.suite}" for sa in numbers_of(status).sas}


def _sequence(engine: Carrier, sa: int) -> int:
    try:
        return engine.state(sa).sequence
    except ConfigError:  # expired, and not yet noticed
        return 0
