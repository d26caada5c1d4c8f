"""The daemon: owns engine, device, links, loop and state of one running file, from start to end.

All in one thread, which waits for descriptors and looks around ten times a second; a native loop has threads of its own
beside it. What a daemon makes is taken away when it ends. What a killed one leaves, a socket in the run directory and
perhaps a rule, does not stop the next start.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import selectors
import signal
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from .. import __version__
from ..engine import Event, EventKind
from ..engine.interface import SECOND
from ..errors import ConfigError, WesperError
from ..host.link import Link, LinkKind, LinkUse, local_address, open_link, path_mtu
from ..host.places import make_own
from ..host.tun import Device, open_device
from ..nic import attach, flow_plans
from ..protocols.ip import IPAddress
from ..sa import Mode
from .carrier import Carrier, open_carrier
from .control import SCHEMA, ControlServer
from .events import EventLog
from .file import TunnelFile, TunnelSettings, load_file
from .loop import Loop, LoopOptions, now_ns
from .metrics import NO_LOSS
from .option_errors import OptionErrors
from .pairs import Tunnel
from .path_mtu import PathMessages
from .psp_settings import PORTS
from .reference_loop import ReferenceLoop
from .routes import Plan, Routes, plan
from .scrape import ScrapeServer
from .spd import ordered
from .state import State
from .tapping import TapHub
from .watching import scraped

TICK_S: Final = 0.1
TOPS_NS: Final = SECOND
PATH_NS: Final = 5 * SECOND
LOST_NS: Final = 10 * SECOND
DRAIN_S: Final = 0.2
DYING_S: Final = 1.0
ASSUMED_MTU: Final = 1500  # as long as there is no route to the peer
_LOSSES: Final = (
    "device_full", "device_down", "device_refused", "link_full", "link_too_big", "link_unreachable", "bypassed",
    "slow_lost",
)  # fmt: skip


class Daemon:
    """One running file.

    events: told here.   did: called with a sentence for each thing that was done to this host.
    """

    def __init__(self, file: TunnelFile, events: EventLog, did: Callable[[str], None] = lambda _: None) -> None:
        self.file, self.events, self._did = file, events, did
        self.engine: Carrier
        self.device: Device
        self.loop: Loop
        self.taps: TapHub
        self.tunnels: list[Tunnel] = []
        self.links: list[Link] = []
        self.ports: dict[tuple[IPAddress, tuple[int, ...]], tuple[int, ...]] = {}
        """UDP ports that PSP sends from, by what the file says of them."""
        self.started = now_ns()
        self.trouble: dict[str, str] = {}
        """What is wrong now, by the event's name."""
        self._control: ControlServer | None = None
        self._selector = selectors.DefaultSelector()
        self._undo = contextlib.ExitStack()
        self.plan: Plan
        self.routes: Routes
        self.state: State
        self._option_errors: OptionErrors
        self._ended = self._has_started = False
        self._drain = DRAIN_S
        self._next_tops = self._next_path = self._next_lost = self._next_timeout = 0
        self._told: dict[str, int] = {}
        self._rarely: dict[str, tuple[int, int]] = {}
        self._scrapes: ScrapeServer | None = None

    def start(self) -> None:
        """Make all of it.   Raises WesperError or OSError, and then has taken away what it had made."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold the keys
        try:
            self._start()
        except BaseException:
            self._undo.close()
            raise

    def run(self) -> None:
        """Carry packets until `end` is called or a signal comes (SIGTERM, SIGINT: end; SIGHUP: reload)."""
        with contextlib.ExitStack() as signals:  # another one during the end does not cut it short
            self._listen_to_signals(signals)
            try:
                while not self._ended:
                    for key, _ in self._selector.select(TICK_S):
                        key.data()
                    self._tick()
            except (OSError, WesperError) as error:
                self.events.tell("failed", why=str(error))
                raise
            finally:
                self.stop()

    def end(self, drain_seconds: float | None = None) -> None:
        """Have `run` return.   drain_seconds: how long packets that are on their way are waited for."""
        self._ended = True
        self._drain = DRAIN_S if drain_seconds is None else drain_seconds

    def stop(self) -> None:
        """Take away all that `start` made.   Idempotent."""
        self._ended = True
        self._undo.close()
        if self._has_started:
            self._has_started = False
            self.events.tell("stopped", name=self.file.name)

    def _start(self) -> None:
        file, undo = self.file, self._undo
        make_own(file.run_dir, "run_dir")
        make_own(file.state_dir, "state_dir")
        self._lock(file.run_dir / f"{file.name}.lock")
        undo.callback(self._close_control)  # the last but the lock: who waits for the end sees all of it gone
        self.engine = open_carrier(file)
        self.state = State.open(file.state_dir, file.name)
        undo.callback(self.state.close)
        self.plan = plan(file.name, file.addresses, file.tunnels)
        self._open_links()
        self.tunnels = [self.make_tunnel(settings) for settings in file.tunnels]
        now = now_ns()
        try:
            self.state.admit([sa for each in self.tunnels for sa in each.prepare(each.settings.pairs)])
            undo.callback(self._save_at_the_end)
            for each in self.tunnels:
                for pair in each.settings.pairs:
                    each.install(pair, now)
        except OSError as error:  # most calls on descriptors do not say which file it was
            raise OSError(error.errno, error.strerror, str(self.state.path)) from None
        self.set_policies()
        file.check_mtu(self.inner_mtu())
        native = self._is_native
        self.device = open_device(
            file.name,
            self.inner_mtu(),
            kind=file.kind,
            offloads=native and file.offloads,
            queues=file.workers if native else 1,
        )
        undo.callback(self.device.close)
        self._did(f"made the interface {file.name} ({self.device.kind}, MTU {self.device.mtu})")
        self.routes = Routes()
        undo.callback(self.routes.close)
        undo.callback(self.routes.remove)
        self.routes.apply(self.plan)
        for step in self.plan.described():
            self._did(step)
        kind_of_loop = (_native_loop() if native else None) or ReferenceLoop
        options = LoopOptions(offloads=file.offloads, workers=file.workers)
        self.loop = kind_of_loop(self.engine, self.device, self.links, options=options)
        self.taps = TapHub(self.loop)
        self._option_errors = OptionErrors(self.plan.mark)
        undo.callback(self._option_errors.close)
        self._watch_path()
        if file.metrics:
            self._scrapes = ScrapeServer(file.metrics, lambda: scraped(self.status()), self._selector)
            undo.callback(self._scrapes.close)
            host, port = self._scrapes.address
            self._did(f"tells metrics at http://{f'[{host}]' if ':' in host else host}:{port}/metrics")
        self._control = ControlServer(self, file.run_dir / f"{file.name}.sock", self._selector)
        undo.callback(lambda: self.loop.stop(self._drain))  # some workers may run when another can't be started
        self.loop.start()
        for descriptor, call in self.loop.watch().items():
            self._selector.register(descriptor, selectors.EVENT_READ, call)
        self._did(f"carries packets: {self.loop.name} loop, {self.engine.name} engine")
        self.events.tell("started", name=file.name, pid=os.getpid(), engine=self.engine.name, loop=self.loop.name)
        self._has_started = True

    @property
    def _is_native(self) -> bool:
        return self.engine.name == "native" and _native_loop() is not None

    def _close_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _lock(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._undo.callback(os.close, descriptor)
        until = time.monotonic() + DYING_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < until:  # one that was killed takes a moment to be gone
                    time.sleep(0.005)
                    continue
                name, right = self.file.name, f"`wesper down {self.file.name}` first"
                raise ConfigError(f"{name} is running already", path=path, expected=right) from None
            return

    def _open_links(self) -> None:
        """Open all sockets of the unprotected side."""

        sockets = self.file.workers if self._is_native and not self.file.is_psp else 1

        def opened(kind: LinkKind, local: IPAddress, port: int, use: LinkUse) -> Link:
            link = open_link(kind, local, port, mark=self.plan.mark, use=use, sockets=sockets)
            self._undo.callback(link.close)
            if link.group:
                attach([link.opened, *link.group], flow_plans())
            self.links.append(link)
            return link

        for kind, local, port in self._wanted_links(self.file.tunnels):
            self._did(f"listens on {opened(kind, local, port, 'receive' if self.file.is_psp else 'both')}")
        for each in self.file.tunnels:
            if each.psp is None or each.sending_from in self.ports:
                continue
            local, wanted = each.sending_from
            kind = "udp4" if local.version == 4 else "udp6"
            ports = tuple(opened(kind, local, port, "send").port for port in wanted or (0,) * PORTS)
            self.ports[each.sending_from] = ports
            self._did(f"sends from {len(ports)} ports of {local}, {min(ports)} to {max(ports)}")

    def make_tunnel(self, settings: TunnelSettings) -> Tunnel:
        """Make a tunnel, as yet without SAs."""
        local, around = settings.local, settings.encapsulation
        is_in_packet = around is None or settings.mode is not Mode.TUNNEL or settings.psp is not None
        if not int(local) and settings.peer is not None and is_in_packet:
            # Where no UDP socket fills it in, the packet has to bear it.
            found = local_address(settings.peer, self.plan.mark)
            if found is None:
                raise ConfigError(
                    f"no route to {settings.peer}", path=self.file.path, key=f"{settings.name}.local",
                    expected="an address of this host",
                )  # fmt: skip
            local = found
        mtu = settings.path_mtu or self._route_mtu(settings.peer) or ASSUMED_MTU
        return Tunnel(
            settings,
            self.engine,
            self.state,
            local,
            mtu,
            ports=self.ports.get(settings.sending_from, ()),
            tell=self.events.tell,
            send=lambda packet: self.loop.send(packet),
        )

    def _route_mtu(self, peer: IPAddress | None) -> int | None:
        return None if peer is None else path_mtu(peer, self.plan.mark)

    def _wanted_links(self, tunnels: tuple[TunnelSettings, ...]) -> list[tuple[LinkKind, IPAddress, int]]:
        wanted: dict[tuple[LinkKind, IPAddress, int], None] = {}
        for each in tunnels:
            version = each.local.version
            if each.encapsulation is not None:
                kind: LinkKind = "udp4" if version == 4 else "udp6"
                wanted[kind, each.local, each.encapsulation.local_port] = None
            else:
                wanted["raw4" if version == 4 else "raw6", each.local, each.ip_protocol] = None
        # An open socket and a bound one of the same port would take each other's packets.
        return [
            (kind, local, port)
            for kind, local, port in wanted
            if not int(local) or (kind, ip_address(bytes(len(local.packed))), port) not in wanted
        ]

    def inner_mtu(self) -> int:
        """Return the interface's MTU: the file's, else what the narrowest path leaves."""
        if self.file.mtu:
            return self.file.mtu
        now = now_ns()
        rooms = []
        for each in self.tunnels:
            if each.sending is not None:
                with contextlib.suppress(ConfigError):  # expired
                    rooms.append(self.engine.inner_mtu(each.sending.out_id, now))
        return min(max(min(rooms, default=1280), 576), 65535)

    def set_policies(self) -> None:
        """Make the SPD of what the tunnels are for, the narrowest first."""
        self.engine.set_policies(ordered(each.policy() for each in self.tunnels))

    def _watch_path(self) -> None:
        for version in sorted({link.version for link in self.links}):
            try:
                messages = PathMessages(version)
            except OSError as error:
                self.events.tell("no_icmp", version=version, why=str(error.strerror))
                continue
            self._undo.callback(messages.close)
            self._selector.register(messages.opened, selectors.EVENT_READ, lambda m=messages: self._path_message(m))

    def _path_message(self, messages: PathMessages) -> None:
        now = now_ns()
        for _ in range(64):
            packet = messages.receive()
            if packet is None:
                return
            self.engine.icmp_error(packet, now)

    def _listen_to_signals(self, undo: contextlib.ExitStack) -> None:
        reading, writing = socket.socketpair()
        for each in (reading, writing):
            each.setblocking(False)
            undo.callback(each.close)
        before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        undo.callback(signal.set_wakeup_fd, before)
        self._selector.register(reading, selectors.EVENT_READ, lambda: reading.recv(64))
        for number, act in (
            (signal.SIGTERM, lambda *_: self.end()),
            (signal.SIGINT, lambda *_: self.end()),
            (signal.SIGHUP, lambda *_: self._reload_quietly()),
        ):
            undo.callback(signal.signal, number, signal.signal(number, act))

    def _tick(self) -> None:
        now = now_ns()
        if now >= self._next_timeout:
            self._next_timeout = now + SECOND
            self.engine.handle_timeout(now)
        self._drain_events(now)
        changed = False
        for tunnel in self.tunnels:
            changed = tunnel.step(now) or changed
            keepalive = tunnel.keepalive(now)
            if keepalive is not None:
                self.loop.send(keepalive)
        if changed:
            self.set_policies()
        self._reserve()
        if now >= self._next_tops:
            self._next_tops = now + TOPS_NS
            self._save_tops()
        if now >= self._next_path:
            self._next_path = now + PATH_NS
            self._look_at_paths(now)
        if now >= self._next_lost:
            self._next_lost = now + LOST_NS
            self._tell_losses()
        self.taps.pump()
        if self._scrapes is not None:
            self._scrapes.tend(now)
        if self._control is not None:
            self._control.tend()

    def _drain_events(self, now: int) -> None:
        changed = False
        while (event := self.engine.next_event()) is not None:
            tunnel, pair = self._of(event.sa)
            about = {"tunnel": tunnel.name if tunnel else "", "pair": pair.pair.title if pair else ""}
            match event.kind:
                case EventKind.SOFT_EXPIRED:
                    self.events.tell("pair_ending", **about, limit=event.limit)
                case EventKind.HARD_EXPIRED:
                    self.events.tell("pair_expired", **about, limit=event.limit)
                case EventKind.PEER_MOVED if tunnel is not None:
                    changed = tunnel.moved(event.address, event.port, now) or changed
                case EventKind.ACQUIRE:
                    self._tell_rarely("no_sa", now)
                case EventKind.ECN_ALARM:
                    self._tell_rarely("ecn_alarm", now, **about, inner=event.inner, outer=event.outer)
                case EventKind.MTU_CHANGED:
                    self.events.tell("mtu_changed", **about, mtu=event.mtu)
                case EventKind.RESYNCHRONISED:
                    self.events.tell("resynchronised", **about)
                case EventKind.UNKNOWN_OPTION:
                    self._tell_rarely("unknown_option", now, **about, pointer=event.pointer)
                    if tunnel is not None and tunnel.settings.option_errors:
                        self._answer_option(event, now)
                case EventKind.TEAR_DOWN if tunnel is not None and not pair.ended and event.reason is not None:
                    tunnel.tear_down(pair)
                    self.events.tell("broken_agreement", **about, reason=event.reason.verdict)
        lost = self.engine.lost_events
        if lost > self._told.get("events", 0):
            self.events.tell("events_lost", number=lost - self._told.get("events", 0))
            self._told["events"] = lost
        if changed:
            self.set_policies()

    def _answer_option(self, event: Event, now: int) -> None:
        try:
            if self._option_errors.tell(event, now):
                self.loop.counted["icmp_unknown_option"] += 1
        except OSError as error:
            self._tell_rarely("no_icmp", now, why=str(error.strerror))

    def _tell_rarely(self, name: str, now: int, **fields: Any) -> None:
        """Tell what any packet can cause once in a while, with how many there were in between."""
        until, more = self._rarely.get(name, (0, 0))
        if now < until:
            self._rarely[name] = until, more + 1
            return
        self._rarely[name] = now + LOST_NS, 0
        self.events.tell(name, **fields, **({"more": more} if more else {}))

    def _of(self, sa: int | None) -> tuple[Tunnel | None, Any]:
        if sa is not None:
            for each in self.tunnels:
                pair = each.holds(sa)
                if pair is not None:
                    return each, pair
        return None, None

    def _sequences(self) -> tuple[dict[bytes, int], dict[bytes, int], dict[bytes, int]]:
        """Return the last numbers sent and received by fingerprint, and outbound ids by fingerprint."""
        used: dict[bytes, int] = {}
        tops: dict[bytes, int] = {}
        ids: dict[bytes, int] = {}
        for tunnel in self.tunnels:
            for pair in tunnel.pairs:
                with contextlib.suppress(ConfigError):  # expired, and not yet noticed
                    used[pair.out_mark] = self.engine.state(pair.out_id).sequence
                    ids[pair.out_mark] = pair.out_id
                    tops[pair.in_mark] = self.engine.state(pair.in_id).sequence
        return used, tops, ids

    def _reserve(self) -> None:
        used, _, ids = self._sequences()
        try:
            for mark, last in self.state.top_up(used).items():
                with contextlib.suppress(ConfigError):  # expired since its number was asked for
                    self.engine.reserve(ids[mark], last)
        except OSError as error:
            self._trouble("state_not_saved", error)
        else:
            self._well("state_not_saved", "state_saved")

    def _save_tops(self) -> None:
        try:
            self.state.save_tops(self._sequences()[1])
        except OSError as error:
            self._trouble("state_not_saved", error)

    def _save_at_the_end(self) -> None:
        used, tops, _ = self._sequences()
        try:
            self.state.save_tops(tops)
            self.state.settle(used)
        except OSError as error:
            self._trouble("state_not_saved", error)

    def _trouble(self, name: str, error: OSError) -> None:
        if name not in self.trouble:
            self.trouble[name] = str(error)
            self.events.tell(name, why=error.strerror or str(error))

    def _well(self, name: str, told: str) -> None:
        if self.trouble.pop(name, None) is not None:
            self.events.tell(told)

    def _look_at_paths(self, now: int) -> None:
        """Follow a route's MTU; what ICMP has taught an SA meanwhile is left alone unless the route is narrower.

        Raises OSError if somebody has deleted the interface.
        """
        if not self.routes.has_interface(self.device.name):
            raise OSError(errno.ENODEV, "somebody has deleted the interface", self.device.name)
        for tunnel in self.tunnels:
            if tunnel.settings.path_mtu or tunnel.remote is None:
                continue
            mtu = self._route_mtu(tunnel.remote[0])
            if mtu is None:
                continue
            for pair in tunnel.pairs:
                with contextlib.suppress(ConfigError):
                    if mtu < self.engine.state(pair.out_id).mtu:
                        self.engine.set_mtu(pair.out_id, mtu, now)
                        self.events.tell("mtu_changed", tunnel=tunnel.name, pair=pair.pair.title, mtu=mtu)

    def _tell_losses(self) -> None:
        counts = self.loop.counts()
        found = {name: counts.get(name, 0) for name in _LOSSES}
        found.update({reason.name: n for reason, n in self.engine.drops().items() if reason not in NO_LOSS})
        grown = {name: n - self._told.get(name, 0) for name, n in found.items() if n > self._told.get(name, 0)}
        if grown:
            self.events.tell("lost", **grown)
            self._told.update(found)

    def _reload_quietly(self) -> None:
        if self._ended:
            return
        with contextlib.suppress(WesperError, OSError):
            self.reload(None)

    def reload(self, path: Path | None, *, dry_run: bool = False) -> list[str]:
        """Read the file again and change to it; returns what was done, in words.   dry_run: what would be.

        Raises ConfigError for what is wrong in it, and for what can't be changed in a running tunnel; then nothing is.
        """
        from .reload import change

        if dry_run:
            return change(self, load_file(path or self.file.path), dry_run=True)
        try:
            file = load_file(path or self.file.path)
            did = change(self, file)
        except (WesperError, OSError) as error:
            self.events.tell("reload_refused", why=str(error))
            raise
        self.events.tell("reloaded", did="; ".join(did) or "nothing has changed")
        return did

    def status(self) -> dict[str, Any]:
        """Return what `wesper status --json` prints."""
        now = now_ns()
        file = self.file
        return {
            "schema": SCHEMA,
            "name": file.name,
            "protocol": file.protocol,
            "file": str(file.path.absolute()),
            "pid": os.getpid(),
            "version": __version__,
            "uptime_seconds": round((now - self.started) / SECOND, 1),
            "engine": self.engine.name,
            "loop": self.loop.name,
            "interface": {
                "name": self.device.name,
                "kind": self.device.kind,
                "mtu": self.device.mtu,
                "addresses": [str(each) for each in file.addresses],
                "offloads": sorted(self.device.segmentation),
            },
            "links": [
                {
                    "kind": each.kind,
                    "local": str(each.local),
                    "port": each.port,
                    "mark": each.mark,
                    "sockets": 1 + len(each.group),
                }
                for each in self.links
                if each.receives
            ],
            "routes": self.plan.described(),
            "tunnels": [each.describe(now) for each in self.tunnels],
            "trouble": dict(self.trouble),
            "watchers": self.taps.is_open,
            **self.counters(),
        }

    def counters(self) -> dict[str, Any]:
        """Return what the loop and the engine have counted."""
        return {
            "loop_counts": self.loop.counts(),
            "drops": {reason.name: count for reason, count in self.engine.drops().items()},
            "counters": {name: count for name, count in self.engine.counters().items() if count},
            "events": dict(self.events.counted),
        }

    def is_linked(self, settings: TunnelSettings) -> bool:
        """Tell whether there is a socket for a tunnel that a file adds."""
        have = {(each.kind, each.local, each.port) for each in self.links if each.receives}
        if settings.psp is not None and settings.sending_from not in self.ports:
            return False
        return all(each in have for each in self._wanted_links((settings,)))


def _native_loop() -> type[Loop] | None:
    try:
        from . import native_loop
    except ImportError:
        return None
    found: type[Loop] = native_loop.NativeLoop
    return found
