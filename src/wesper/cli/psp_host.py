"""`wesper psp up`, `down`, `status` and `rotate`: the PSP daemon of this host."""

from __future__ import annotations

import json as json_module
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..errors import ConfigError
from ..psp import blocking, daemon, local
from ..psp.host_file import load_host
from ..wire.psp import VERSION_NAMES

_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
_Json = _Flag
_MOST = 100_000
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


def status(*, connections: _Flag = False, most: int = 100, json: _Json = False, socket: Path | None = None) -> int:
    """Show the daemon: peers, connections, counters, sampled packets.

    Parameters
    ----------
    connections
        Show each connection: ends, SPIs, packets both ways, and when its keys end.
    most
        How many connections and peers to show, the newest first.
    json
        Print one JSON object; connections are `connection_list`.
    socket
        The daemon's, if it is not where it usually is.
    """
    found = blocking.ask("status", socket)
    found.pop("ok", None)
    if not 0 < most <= _MOST:
        raise ConfigError(str(most), key="--most", expected=f"1..{_MOST}")
    found["peers"], number_of_peers = blocking.listed("peers", most, socket)
    found["peers_more"] = number_of_peers - len(found["peers"])
    if connections:
        found["connection_list"], number = blocking.listed("connections", most, socket)
        found["connections_more"] = max(number - len(found["connection_list"]), 0)
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
    if found["listeners_more"]:
        lines.append(f"             {found['listeners_more']} listeners more")
    for peer in found["peers"]:
        lines.append(f"peer         {peer['identity']} at {peer['peer']}, {peer['connections']} connections")
    if found["peers_more"]:
        lines.append(f"             {found['peers_more']} peers more: --most")
    lines += [_connection(each) for each in found.get("connection_list", ())]
    if found.get("connections_more"):
        lines.append(f"             {found['connections_more']} connections more, older than these: --most")
    for title, counts in (("counter", found["counters"]), ("drop", found["drops"]), ("refused", found["refused"])):
        lines += [f"{title:<13}{name} {count}" for name, count in counts.items() if count]
    for sample in found["samples"]["newest"][-10:]:
        late = "" if sample["latency_ns"] is None else f", {sample['latency_ns'] / 1000:.0f} us under way"
        path = f"{sample['source']} port {sample['source_port']} to {sample['destination']}"
        lines.append(f"sample       SPI {sample['spi']:#x} from {path}{late}")
    return lines


def _connection(told: dict[str, Any]) -> str:
    """Return the line of a connection."""
    out, inward = told["out"], told["in"]
    sent = out["association"]
    (host, port), (peer, peer_port) = told["local"], told["peer"]
    by_it = f"{sent['octets']:,} octets by it in {sent['seconds']:,} s"
    spis = ", ".join(f"{spi:#x}" for spi in inward["spis"]) or "none"
    ends = [f"{left:,} {name}" for name, left in out["left"].items() if left is not None]
    receives = [] if inward["left_seconds"] is None else [f"takes packets for {inward['left_seconds']:,.0f} s"]
    return (
        f"connection   {told['kind']} {host} port {port} to {peer} port {peer_port}, {told['identity']}, "
        f"{VERSION_NAMES[told['version']]}, {told['age_seconds']:,.0f} s; "
        f"out {out['packets']:,} packets, SPI {out['spi']:#x}, {by_it}, "
        f"{' or '.join(ends) + ' left' if ends else 'no limit'}; "
        + ", ".join([f"in {inward['packets']:,} packets, SPI {spis}", *receives])
    )
