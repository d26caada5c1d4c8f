"""`wesper psp up`, `down`, `status` and `rotate`: the PSP daemon of this host."""

from __future__ import annotations

import json as json_module
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..psp import blocking, daemon, local
from ..psp.host_file import load_host

_Json = Annotated[bool, Parameter(negative=(), show_default=False)]
_GONE_S = 10.0


def up(file: Path, /, *, foreground: bool = False) -> int:
    """Start this host's PSP daemon; returns when processes can connect and listen.

    Parameters
    ----------
    file
        Its file: certificate, peers, ports.
    foreground
        Stay, for service managers; events go to standard error, a JSON object a line.
    """
    settings = load_host(file)
    if foreground:
        daemon.serve(settings, lambda sentence: print(sentence, flush=True))
        return 0
    process = daemon.start(settings)
    print(f"PSP is up: pid {process}, {settings.socket}, events in {settings.log}")
    return 0


def down(*, socket: Path | None = None) -> int:
    """End the daemon: connections of processes end, and what it made is taken away.

    Parameters
    ----------
    socket
        The daemon's, if it is not where it usually is.
    """
    path = socket or local.default_path()
    blocking.ask("down", path)
    until = time.monotonic() + _GONE_S
    while path.exists() and time.monotonic() < until:
        time.sleep(0.01)
    print("PSP is down")
    return 0


def status(*, json: _Json = False, socket: Path | None = None) -> int:
    """Show the daemon: peers, connections, counters, sampled packets.

    Parameters
    ----------
    json
        Print one JSON object.
    socket
        The daemon's, if it is not where it usually is.
    """
    found = blocking.ask("status", socket)
    found.pop("ok", None)
    if json:
        print(json_module.dumps(found))
        return 0
    print("\n".join(_lines(found)))
    return 0


def rotate(*, socket: Path | None = None) -> int:
    """Put a new device key in place now, and have peers send with new associations.

    Parameters
    ----------
    socket
        The daemon's, if it is not where it usually is.
    """
    print(f"generation {blocking.ask('rotate', socket)['generation']}")
    return 0


def _lines(found: dict[str, Any]) -> list[str]:
    connections = found["connections"]
    lines = [
        f"PSP, {found['engine']} engine, UDP port {found['port']}, pid {found['pid']}, "
        f"up {found['uptime_seconds']:.0f} s, generation {found['generation']}",
        f"connections  {connections['datagram']} of datagrams, {connections['stream']} streams; "
        f"{found['associations']} associations to send with",
    ]
    lines += [f"listens      {each['kind']} port {each['port']} {each['host']}".rstrip() for each in found["listeners"]]
    for peer in found["peers"]:
        lines.append(f"peer         {peer['identity']} at {peer['peer']}, {peer['connections']} connections")
    for title, counts in (("counter", found["counters"]), ("drop", found["drops"]), ("refused", found["refused"])):
        lines += [f"{title:<13}{name} {count}" for name, count in counts.items() if count]
    for sample in found["samples"]["newest"][-10:]:
        late = "" if sample["latency_ns"] is None else f", {sample['latency_ns'] / 1000:.0f} us under way"
        path = f"{sample['source']} port {sample['source_port']} to {sample['destination']}"
        lines.append(f"sample       SPI {sample['spi']:#x} from {path}{late}")
    return lines
