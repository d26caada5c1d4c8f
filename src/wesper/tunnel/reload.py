"""A file read again: what can change while a tunnel runs, and how.

Pairs of SAs come and go, tunnels come and go, addresses, networks and the MTU change. What an installed SA has cannot
change under it: new settings come with new SAs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError
from .file import SAPair, TunnelFile, TunnelSettings
from .loop import now_ns
from .pairs import Tunnel
from .routes import Plan, plan

if TYPE_CHECKING:
    from .daemon import Daemon

_OF_THE_PROCESS = ("name", "kind", "engine", "offloads", "workers", "state_dir", "run_dir", "log_format", "log_file")
_OF_SAS = (
    "peer", "mode", "encapsulation", "suite", "selectors", "inner", "esn", "window", "dscp", "df", "hop_limit",
    "pad_to", "hard", "local",
)  # fmt: skip


def change(daemon: Daemon, file: TunnelFile) -> list[str]:
    """Change a running daemon to a file; returns what was done, in words.

    Raises ConfigError for what can't change, KeyMaterialError for keys used before; then nothing has changed.
    """
    before = daemon.file
    for key in _OF_THE_PROCESS:
        if getattr(file, key) != getattr(before, key):
            raise _fixed(file, key, "wesper down, then wesper up")
    running = {each.name: each for each in daemon.tunnels}
    wanted = {each.name: each for each in file.tunnels}
    for settings in file.tunnels:
        _check(daemon, file, settings)
    new_plan = plan(file.name, file.addresses, file.tunnels)
    if new_plan.mark != daemon.plan.mark:
        raise _fixed(file, "networks", "wesper down, then wesper up: the sockets need a mark")

    added = [daemon.make_tunnel(settings) for name, settings in wanted.items() if name not in running]
    new = [(each, pair) for each in added for pair in each.settings.pairs]
    for name, settings in wanted.items():
        if name in running:
            known = {each.pair for each in running[name].pairs}
            new += [(running[name], pair) for pair in settings.pairs if pair not in known]
    _admit(daemon, file, new)

    did = []
    now = now_ns()
    for tunnel in added:
        for pair in tunnel.settings.pairs:
            tunnel.install(pair, now)
        did.append(f"added tunnel {tunnel.name}")
    for name, tunnel in running.items():
        if name not in wanted:
            tunnel.close()
            did.append(f"removed tunnel {name}")
            continue
        known = {each.pair for each in tunnel.pairs}
        for pair in [pair for pair in wanted[name].pairs if pair not in known]:
            tunnel.install(pair, now)
            did.append(f"{name}: added {pair.title}")
        leaving = [each.pair for each in tunnel.pairs if each.wanted and each.pair not in wanted[name].pairs]
        tunnel.want(wanted[name])
        did += [f"{name}: {pair.title} goes when a newer pair has proven itself" for pair in leaving]
    order = list(wanted)
    daemon.tunnels = sorted(
        [each for each in (*daemon.tunnels, *added) if each.name in wanted], key=lambda each: order.index(each.name)
    )
    daemon.file = file
    daemon.set_policies()
    did += _change_interface(daemon, file, new_plan)
    return did


def _admit(daemon: Daemon, file: TunnelFile, new: list[tuple[Tunnel, SAPair]]) -> None:
    """Have the state take new pairs: beside all that are installed, those that are to go among them.

    Two SAs of one key would each have numbers of their own, and an orderly end would give back those of one of them.
    """
    installed = [(tunnel, each.pair) for tunnel in daemon.tunnels for each in tunnel.pairs]
    spis = {pair.spi_in for _, pair in installed}
    for tunnel, pair in new:
        if pair.spi_in in spis:
            raise ConfigError(
                f"SPI {pair.spi_in:#x} is installed still, with another key or in another tunnel", path=file.path,
                key=f"{tunnel.name}.sa.spi_in", expected="an SPI of its own for each inbound SA",
            )  # fmt: skip
    if new:
        daemon.state.admit([sa for tunnel, pair in (*installed, *new) for sa in tunnel.prepare((pair,))])


def _change_interface(daemon: Daemon, file: TunnelFile, new_plan: Plan) -> list[str]:
    did = []
    if new_plan != daemon.plan:
        steps = [step for step in new_plan.described() if step not in daemon.plan.described()]
        daemon.routes.apply(new_plan)
        daemon.plan = new_plan
        did += steps or ["removed addresses or routes that are gone from the file"]
    mtu = daemon.inner_mtu()
    if mtu != daemon.device.mtu:
        daemon.routes.set_mtu(daemon.device.name, mtu)
        daemon.device.mtu = mtu
        did.append(f"MTU {mtu}")
    daemon.loop.addresses = tuple(each.ip for each in file.addresses)
    return did


def _check(daemon: Daemon, file: TunnelFile, settings: TunnelSettings) -> None:
    """Refuse what an installed SA can't change to, and sockets that are not there."""
    tunnel = next((each for each in daemon.tunnels if each.name == settings.name), None)
    if tunnel is None:
        if not daemon.is_linked(settings):
            raise _fixed(file, f"{settings.name}.local", "wesper down, then wesper up: it needs another socket")
        return
    for key in _OF_SAS:
        if getattr(settings, key) != getattr(tunnel.settings, key):
            raise _fixed(file, f"{settings.name}.{key}", "wesper down, then wesper up, or a tunnel of another name")


def _fixed(file: TunnelFile, key: str, expected: str) -> ConfigError:
    return ConfigError("can't change in a running tunnel", path=file.path, key=key, expected=expected)
