"""A file read again: what can change while a tunnel runs, and how.

Pairs of SAs come and go, tunnels come and go, addresses, networks and the MTU change. What an installed SA has cannot
change under it: new settings come with new SAs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError
from .carrier import take_device_keys
from .file import SAPair, TunnelFile, TunnelSettings
from .loop import now_ns
from .pairs import Tunnel
from .routes import Plan, plan

if TYPE_CHECKING:
    from .daemon import Daemon

_OF_THE_PROCESS = ("name", "kind", "engine", "offloads", "workers", "state_dir", "run_dir", "log_format", "log_file")
_OF_SAS = (
    "peer", "mode", "encapsulation", "suite", "selectors", "inner", "esn", "window", "dscp", "df", "hop_limit",
    "pad_to", "hard", "local", "protocol", "format", "psp",
)  # fmt: skip
_IN_THE_FILE = {"hard": "lifetime", "log_format": "log.format", "log_file": "log.file"}


def change(daemon: Daemon, file: TunnelFile, *, dry_run: bool = False) -> list[str]:
    """Change a running daemon to a file; returns what was done, in words.   dry_run: what would be, changing nothing.

    Raises ConfigError for what can't change, KeyMaterialError for keys used before (which a dry run does not look up);
    then nothing has changed.
    """
    before = daemon.file
    for key in _OF_THE_PROCESS:
        if getattr(file, key) != getattr(before, key):
            raise _fixed(file, _IN_THE_FILE.get(key, f"interface.{key}"), "wesper down, then wesper up")
    if file.is_psp != before.is_psp:
        raise _fixed(file, "tunnel[0].protocol", "wesper down, then wesper up")
    running = {each.name: each for each in daemon.tunnels}
    wanted = {each.name: each for each in file.tunnels}
    for settings in file.tunnels:
        _check(daemon, file, settings)
    new_plan = plan(file.name, file.addresses, file.tunnels)
    if new_plan.mark != daemon.plan.mark:
        raise _fixed(file, "tunnel", "wesper down, then wesper up: the sockets need a mark for these networks")
    if file.addresses != before.addresses:
        file.check_mtu(file.mtu or daemon.inner_mtu())
    new_pairs = {
        name: [pair for pair in settings.pairs if pair not in {each.pair for each in running[name].pairs}]
        for name, settings in wanted.items()
        if name in running
    }
    _check_spis(
        daemon,
        file,
        [(name, pair) for name, pairs in new_pairs.items() for pair in pairs]
        + [(name, pair) for name, settings in wanted.items() if name not in running for pair in settings.pairs],
    )
    did = [f"added tunnel {name}" for name in wanted if name not in running]
    for name, tunnel in running.items():
        if name not in wanted:
            did.append(f"removed tunnel {name}")
            continue
        did += [f"{name}: added {pair.title}" for pair in new_pairs[name]]
        leaving = [each.pair for each in tunnel.pairs if each.wanted and each.pair not in wanted[name].pairs]
        did += [f"{name}: {pair.title} goes when a newer pair has proven itself" for pair in leaving]
    if dry_run:
        did += _steps(daemon, new_plan)
        return [*did, f"MTU {file.mtu}"] if file.mtu and file.mtu != daemon.device.mtu else did

    added = [daemon.make_tunnel(settings) for name, settings in wanted.items() if name not in running]
    new = [(each, pair) for each in added for pair in each.settings.pairs]
    _admit(daemon, new + [(running[name], pair) for name, pairs in new_pairs.items() for pair in pairs])
    take_device_keys(daemon.engine, file)
    now = now_ns()
    for tunnel in added:
        for pair in tunnel.settings.pairs:
            tunnel.install(pair, now)
    for name, tunnel in running.items():
        if name not in wanted:
            tunnel.close()
            continue
        for pair in new_pairs[name]:
            tunnel.install(pair, now)
        tunnel.want(wanted[name])
    order = list(wanted)
    daemon.tunnels = sorted(
        [each for each in (*daemon.tunnels, *added) if each.name in wanted], key=lambda each: order.index(each.name)
    )
    daemon.file = file
    daemon.set_policies()
    did += _change_interface(daemon, file, new_plan)
    return did


def _check_spis(daemon: Daemon, file: TunnelFile, new: list[tuple[str, SAPair]]) -> None:
    """Refuse inbound SPIs of pairs that are installed, those that are to go among them."""
    spis = {each.pair.spi_in for tunnel in daemon.tunnels for each in tunnel.pairs}
    for name, pair in new:
        if pair.spi_in in spis:
            place, settings = next(found for found in enumerate(file.tunnels) if found[1].name == name)
            key = f"tunnel[{place}].sa[{settings.pairs.index(pair)}].spi_in"
            raise ConfigError(
                f"SPI {pair.spi_in:#x} is installed still, with another key or in another tunnel", path=file.path,
                line=file.given.line(key), key=key, expected="an SPI of its own for each inbound SA",
            )  # fmt: skip


def _admit(daemon: Daemon, new: list[tuple[Tunnel, SAPair]]) -> None:
    """Have the state take new pairs: beside all that are installed, those that are to go among them.

    Two SAs of one key would each have numbers of their own, and an orderly end would give back those of one of them.
    """
    installed = [(tunnel, each.pair) for tunnel in daemon.tunnels for each in tunnel.pairs]
    if new:
        daemon.state.admit([sa for tunnel, pair in (*installed, *new) for sa in tunnel.prepare((pair,))])


def _steps(daemon: Daemon, new_plan: Plan) -> list[str]:
    if new_plan == daemon.plan:
        return []
    steps = [step for step in new_plan.described() if step not in daemon.plan.described()]
    return steps or ["removed addresses or routes that are gone from the file"]


def _change_interface(daemon: Daemon, file: TunnelFile, new_plan: Plan) -> list[str]:
    did = _steps(daemon, new_plan)
    if did:
        daemon.routes.apply(new_plan)
        daemon.plan = new_plan
    mtu = daemon.inner_mtu()
    if mtu != daemon.device.mtu:
        daemon.routes.set_mtu(daemon.device.name, mtu)
        daemon.device.mtu = mtu
        did.append(f"MTU {mtu}")
    return did


def _check(daemon: Daemon, file: TunnelFile, settings: TunnelSettings) -> None:
    """Refuse what an installed SA can't change to, and sockets that are not there."""
    tunnel = next((each for each in daemon.tunnels if each.name == settings.name), None)
    at = f"tunnel[{file.tunnels.index(settings)}]"
    if tunnel is None:
        if not daemon.is_linked(settings):
            raise _fixed(file, f"{at}.local", "wesper down, then wesper up: it needs another socket")
        return
    for key in _OF_SAS:
        if getattr(settings, key) != getattr(tunnel.settings, key):
            key = _IN_THE_FILE.get(key, key)
            if key == "selectors" and not file.given.has(f"{at}.selectors"):
                key = "networks"
            if key == "format":
                key = settings.protocol
            raise _fixed(file, f"{at}.{key}", "wesper down, then wesper up, or a tunnel of another name")


def _fixed(file: TunnelFile, key: str, expected: str) -> ConfigError:
    line = file.given.line(key)
    return ConfigError("can't change in a running tunnel", path=file.path, line=line, key=key, expected=expected)
