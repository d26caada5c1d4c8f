"""`wesper up`, `down`, `reload`, `status`, `check` and `keygen`: live tunnels."""

from __future__ import annotations

import json as json_module
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from ..errors import ConfigError, ExitCode
from ..host.places import default_run_dir
from ..tunnel import explain as explaining
from ..tunnel import keygen as keys
from ..tunnel import service
from ..tunnel.control import SCHEMA, ControlClient, DaemonGone, running
from ..tunnel.file import TunnelFile, load_file
from ..tunnel.metrics import NO_LOSS
from ..tunnel.psp_settings import psp_of
from ..tunnel.tables import PSPTable, TunnelTable
from .packet_view import PIPED_COLUMNS

_Json = Annotated[bool, Parameter(negative=(), show_default=False)]
_GONE_S = 30.0


def up(file: Path, /, *, foreground: bool = False, dry_run: bool = False, json: _Json = False) -> int:
    """Bring a tunnel up; returns when it carries packets.

    Parameters
    ----------
    file
        A tunnel file; its name is that of the interface, if it gives no other.
    foreground
        Stay, for service managers; events go to standard error.
    dry_run
        Say what would be done, and do nothing.
    json
        Print one JSON object; not with --foreground.
    """
    if json and foreground:
        raise ConfigError("with --foreground", key="--json", expected='[log] format = "json": events as they come')
    settings = load_file(file)
    if dry_run:
        steps = explaining.steps(settings)
        if json:
            _print_json(name=settings.name, dry_run=True, steps=steps)
        else:
            print("\n".join(steps))
        return 0
    if foreground:
        service.serve(settings, lambda sentence: print(f"{settings.name}: {sentence}", flush=True))
        return 0
    did: list[str] = []
    process = service.start(settings, did.append if json else lambda each: print(f"{settings.name}: {each}"))
    if json:
        _print_json(name=settings.name, dry_run=False, steps=did, pid=process, log=service.log_path(settings))
        return 0
    print(f"{settings.name} is up: pid {process}, events in {service.log_path(settings)}")
    return 0


def down(
    name: str | None = None,
    /,
    *,
    drain_seconds: float = 0.2,
    dry_run: bool = False,
    json: _Json = False,
    run_dir: Path | None = None,
) -> int:
    """End a tunnel: no more packets are taken, those on their way are delivered, and what was made is taken away.

    Parameters
    ----------
    name
        Of the interface, or the tunnel file; by default the only one that runs.
    drain_seconds
        How long packets from the peer are still taken.
    dry_run
        Say what would be taken away, and do nothing.
    json
        Print one JSON object.
    run_dir
        Where its socket is, if the file names another place than the usual one.
    """
    path = socket_of(name, run_dir)
    with ControlClient(path) as client:
        if dry_run:
            found = client.ask("status")
            steps = [f"end pid {found['pid']}", f"remove the interface {found['interface']['name']}"]
            steps += [f"undo: {step}" for step in found["routes"]]
            if json:
                _print_json(name=found["name"], dry_run=True, steps=steps)
            else:
                print("\n".join(steps))
            return 0
        client.ask("down", drain_seconds=drain_seconds)
        for _ in client.lines():
            pass  # until it closes the connection, at its end
    until = time.monotonic() + _GONE_S
    while path.exists() and time.monotonic() < until:
        time.sleep(0.01)
    name = path.name.removesuffix(".sock")
    if json:
        _print_json(name=name, dry_run=False, steps=[])
    else:
        print(f"{name} is down")
    return 0


def reload(file: Path, /, *, dry_run: bool = False, json: _Json = False) -> int:
    """Change a running tunnel to its file as it is now: new SAs beside the old ones, without losing a packet.

    Parameters
    ----------
    file
        The tunnel file.
    dry_run
        Say what would change, and change nothing.
    json
        Print one JSON object.
    """
    settings = load_file(file)
    with ControlClient(settings.run_dir / f"{settings.name}.sock") as client:
        did = client.ask("reload", path=str(file.absolute()), dry_run=dry_run)["did"]
    if json:
        _print_json(name=settings.name, dry_run=dry_run, did=did)
        return 0
    for sentence in did or ["nothing would change" if dry_run else "nothing has changed"]:
        print(f"{settings.name}: {sentence}")
    return 0


def status(name: str | None = None, /, *, json: _Json = False, run_dir: Path | None = None) -> int:
    """Show running tunnels: peers, SAs, and what happened to packets.

    Parameters
    ----------
    name
        Of the interface, or the tunnel file; by default all that run.
    json
        Print one JSON object.
    run_dir
        Where sockets are, if the file names another place than the usual one.
    """
    places = [socket_of(name, run_dir)] if name else [_path(each, run_dir) for each in running(run_dir)]
    found = []
    for path in places:
        with ControlClient(path) as client:
            answer = client.ask("status")
            del answer["ok"]
            found.append(answer)
    if json:
        print(json_module.dumps(found[0] if name else {"schema": 1, "running": found}, indent=2))
        return 0
    if not found:
        print(f"nothing runs (looked in {run_dir or default_run_dir()})", file=sys.stderr)
        return ExitCode.IO_TROUBLE
    for each in found:
        _print(each)
    return 0


def check(file: Path, /, *, explain: bool = False, json: _Json = False) -> int:
    """Check a tunnel file and the key files that it names.

    Parameters
    ----------
    file
        The tunnel file.
    explain
        Show every setting with its default, what would be done, and the routes that let traffic pass unprotected.
    json
        Print one JSON object.
    """
    settings = load_file(file)
    if json:
        print(json_module.dumps(explaining.as_json(settings), indent=2))
    elif explain:
        print(explaining.as_text(settings), end="")
    else:
        explaining.steps(settings)  # what only this host's routes can tell
        pairs = sum(len(each.pairs) for each in settings.tunnels)
        print(f"{file}: interface {settings.name}, {len(settings.tunnels)} tunnel(s), {pairs} pair(s) of SAs: fine")
    return 0


def keygen(
    one: Path,
    other: Path,
    /,
    *,
    local: str | None = None,
    peer: str | None = None,
    inner: list[str] | None = None,
    peer_inner: list[str] | None = None,
    networks: list[str] | None = None,
    peer_networks: list[str] | None = None,
    protocol: Literal["esp", "wesp", "wespv2", "eesp", "psp"] = "esp",
    encapsulation: Literal["udp", "none"] = "udp",
    port: int | None = None,
    peer_port: int | None = None,
    suite: str = "aes-gcm-16",
    mode: Literal["tunnel", "transport", "beet"] = "tunnel",
    esn: Annotated[bool, Parameter(negative="--no-esn")] = True,
    psp_version: Literal[0, 1, 2, 3] = 0,
    crypt_offset: int = 0,
    cookie: str = "",
    replay: Literal["none", "time", "bitmap"] = "none",
    name: str | None = None,
    add: bool = False,
) -> int:
    """Write a matching pair of tunnel files with new keys, one for each end; key files are 0600.

    Parameters
    ----------
    one
        File of this end.
    other
        File of the other end.
    local
        Address of this end, or any: not known to the other, as behind a NAT.
    peer
        Address of the other end, or any.
    inner
        Addresses of this end inside the tunnel; 10.8.0.1/24 by default.
    peer_inner
        Addresses of the other end inside the tunnel; 10.8.0.2/24 by default.
    networks
        Networks behind this end.
    peer_networks
        Networks behind the other end.
    protocol
        What the tunnel runs.
    encapsulation
        UDP, or none: the protocol's own number in the IP header, 50 with ESP.
    port
        UDP port of this end; 4500 by default, with PSP 1000.
    peer_port
        UDP port of the other end, if it is another one.
    suite
        Cipher suite; not PSP's.
    mode
        What goes inside.
    esn
        Extended sequence numbers; not PSP's.
    psp_version
        PSP's version: 0 AES-128-GCM, 1 AES-256-GCM, 2 AES-128-GMAC, 3 AES-256-GMAC.
    crypt_offset
        How much PSP leaves in clear, in 4 octets from the end of the IV.
    cookie
        PSP's virtualization cookie, 8 octets in hexadecimal, as of a virtual network.
    replay
        What PSP does about packets that come twice: nothing, a window of time on the IV for peers whose IVs are a
        clock, or each once by a bitmap, which fits peers that run wesper.
    name
        Of the tunnel; the names of the files by default.
    add
        Add a pair of SAs to two files that are there; then `wesper reload` on both ends, in any order. With PSP the
        device keys of both ends rotate.
    """
    if add:
        written = keys.add(one, other)
    else:
        if local is None or peer is None:
            raise ConfigError("missing", key="--local" if local is None else "--peer", expected="an address, or any")
        udp = encapsulation == "udp"
        port = (1000 if protocol == "psp" else 4500) if port is None else port
        psp = None
        if protocol == "psp":
            table = TunnelTable(
                peer=peer, sa=[], protocol="psp", mode=mode, encapsulation=encapsulation,
                psp=PSPTable(version=psp_version, crypt_offset=crypt_offset, cookie=cookie, replay=replay),
            )  # fmt: skip
            given = [key for key, is_given in (("suite", suite != "aes-gcm-16"), ("esn", not esn)) if is_given]
            psp = psp_of(table, given.__contains__, _wrong_option)
        inside = mode != "transport"
        ends = (
            keys.end(one, local, port if udp else 0, (inner or ["10.8.0.1/24"]) if inside else [], networks or []),
            keys.end(
                other,
                peer,
                (peer_port or port) if udp else 0,
                (peer_inner or ["10.8.0.2/24"]) if inside else [],
                peer_networks or [],
            ),
        )
        stems = (one.name.removesuffix(".toml"), other.name.removesuffix(".toml"))
        written = keys.make(
            *ends, name=name or "-".join(stems), suite=suite, mode=mode, esn=esn, psp=psp, protocol=protocol
        )
    for path in written:
        print(path)
    verb = "reload" if add else "up"
    print(
        f"Take {other.name} and its key files to the other end; then `wesper {verb} {one}` here and `wesper {verb} "
        f"{other.name}` there.",
        file=sys.stderr,
    )
    return 0


def _wrong_option(key: str, what: str, expected: str, kind: type[ConfigError] = ConfigError) -> ConfigError:
    name = {"psp.version": "psp-version"}.get(key, key.removeprefix("psp.").replace("_", "-"))
    return kind(what, key=f"--{name}", expected=expected)


def socket_of(name: str | None, run_dir: Path | None) -> Path:
    """Return where a daemon is asked.   name: of the interface or the file; None: the only one that runs.

    Raises DaemonGone, ConfigError.
    """
    if name is None:
        names = running(run_dir)
        if len(names) != 1:
            where = run_dir or default_run_dir()
            if not names:
                raise DaemonGone(f"nothing runs (looked in {where})")
            raise ConfigError("which one?", key="name", expected=" or ".join(names))
        name = names[0]
    if name.endswith(".toml"):
        settings: TunnelFile = load_file(name)
        return settings.run_dir / f"{settings.name}.sock"
    return _path(name, run_dir)


def _path(name: str, run_dir: Path | None) -> Path:
    return (run_dir or default_run_dir()) / f"{name}.sock"


def _print_json(**found: object) -> None:
    print(json_module.dumps({"schema": SCHEMA, **found}, indent=2))


def _print(found: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS, highlight=False)
    interface = found["interface"]
    console.print(
        f"{found['name']}: up for {found['uptime_seconds']:.0f} s, pid {found['pid']}, {found['engine']} engine, "
        f"{found['loop']} loop; {interface['kind']} {interface['name']}, MTU {interface['mtu']}, "
        f"{' '.join(interface['addresses']) or 'no address'}"
    )
    table = Table("tunnel", "peer", "heard", "SPI out / in", "packets out / in", "octets out / in", "dropped")
    for tunnel in found["tunnels"]:
        port = f" port {tunnel['peer_port']}" if tunnel["peer_port"] else ""
        peer = f"{tunnel['peer'] or 'not heard yet'}{port}"
        heard = tunnel["heard_seconds_ago"]
        ago = "never" if heard is None else f"{heard:.0f} s ago"
        for place, pair in enumerate(tunnel["pairs"]):
            out, inward = pair["out"], pair["in"]
            mark = " *" if pair["sending"] else ""
            table.add_row(
                *(
                    (tunnel["name"], peer, f"{ago}{', silent' if tunnel['silent'] else ''}")
                    if not place
                    else ("", "", "")
                ),
                f"{out['spi']:#010x} / {inward['spi']:#010x}{mark}",
                f"{out['packets']} / {inward['packets']}",
                f"{out['octets']} / {inward['octets']}",
                "\n".join(f"{key} {inward[key]}" for key in ("replay", "integrity_failed") if inward[key]),
            )
    console.print(table)
    for tunnel in found["tunnels"]:
        if tunnel["protocol"] == "psp":
            console.print(f"{tunnel['name']}: replay " + ", ".join(f"{k} {v}" for k, v in tunnel["replay"].items()))
    losses = {**{k: v for k, v in found["loop_counts"].items() if v and "_packets" not in k and "_octets" not in k}}
    ended = {name: count for name, count in found["drops"].items() if name in {each.name for each in NO_LOSS}}
    dropped = {name: count for name, count in found["drops"].items() if name not in ended}
    for title, counts in (("dropped", dropped), ("no loss", ended), ("loop", losses)):
        if counts:
            console.print(f"{title}: " + ", ".join(f"{name.lower()} {count:,}" for name, count in counts.items()))
    for name, why in found["trouble"].items():
        console.print(f"trouble: {name}: {why}")
