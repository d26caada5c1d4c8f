"""The PSP exchange's rows: connections agreed on over one control connection, many at once and one by one."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from ipaddress import ip_address
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from .. import psp
from ..psp import identity
from ..psp.agreements import Agreement, Party, Refusal, Wanted
from ..psp.aio import PeerExchanges
from ..psp.exchange_events import Terms
from ..psp.exchange_messages import MOST_BATCH
from ..psp.settings import HostSettings, PeerSettings
from .measure import Row

_LEFT, _RIGHT = ip_address("127.0.0.1"), ip_address("127.0.0.2")
_BATCHES: Final = 16
_CONNECTIONS: Final = 500


def rows() -> list[Row]:
    """Return the rows. Both hosts run here, each in a process of its own, over TLS on loopback."""
    return [
        # A connection is two associations, one for each direction.
        Row("PSP exchange", "connections agreed and installed at both ends", "connections/s", _raw_rate, 100_000),
        Row("PSP exchange", "a key through the connection API", "us", partial(_key, 0.5), 1000, at_most=True),
        Row("PSP exchange", "the same, 99th percentile", "us", partial(_key, 0.99), None, at_most=True),
    ]


class _Host(Party):
    def offered(self, agreement: Agreement, wanted: Wanted) -> None:
        if wanted.service_port != 7000:
            raise Refusal("nobody listens there")

    def rekeyed(self, agreement: Agreement, spi: int) -> None: ...

    def released(self, agreement: Agreement, spi: int) -> None: ...

    def over(self, agreement: Agreement, error: Exception | None) -> None: ...


def _raw_rate() -> float:
    return _with_two_hosts(_raw)


def _key(share: float) -> float:
    """Return the quantile in microseconds of `psp.blocking.connect`, both hosts' daemons running as anybody's do."""
    with tempfile.TemporaryDirectory(prefix="wesper-bench-") as folder, contextlib.ExitStack() as stack:
        left, right = (stack.enter_context(_daemon(Path(folder), settings)) for settings in _settings(Path(folder)))
        listener = stack.enter_context(psp.blocking.listen(7000, via=right))
        took = []
        for _ in range(_CONNECTIONS):
            start = time.perf_counter()
            made = psp.blocking.connect(str(_RIGHT), 7000, via=left)
            took.append(time.perf_counter() - start)
            listener.accept(10).close()
            made.close()
        return sorted(took[1:])[int(_CONNECTIONS * share) - 1] * 1e6  # the first makes the control connection


@contextlib.contextmanager
def _daemon(folder: Path, settings: HostSettings) -> Iterator[Path]:
    """Run `wesper psp up` and yield where processes find it."""
    peer, name = settings.peers[0], settings.certificate.stem
    (folder / f"{name}.toml").write_text(
        f"""[host]
certificate = "{settings.certificate.name}"
key = "{settings.key.name}"
addresses = ["{settings.addresses[0]}"]
port = {_free_port()}
control_port = {settings.control_port}
interface = ""
socket = "{name}.sock"
[[peer]]
name = "{peer.name}"
fingerprint = "{identity.written(peer.fingerprint or b"")}"
address = "{peer.address}"
control_port = {peer.control_port}
"""
    )
    command = [sys.executable, "-m", "wesper", "psp", "up", str(folder / f"{name}.toml"), "--foreground"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield folder / f"{name}.sock"
        finally:
            process.terminate()


async def _raw(exchanges: PeerExchanges) -> float:
    """Return connections a second, two batches under way at a time."""
    await exchanges.open_raw(_LEFT, _RIGHT, 0, 1)  # the control connection is there
    start = time.perf_counter()
    for _ in range(0, _BATCHES, 2):
        await asyncio.gather(*(exchanges.open_raw(_LEFT, _RIGHT, 0, MOST_BATCH) for _ in range(2)))
    return _BATCHES * MOST_BATCH / (time.perf_counter() - start)


def _with_two_hosts(measure: Callable[[PeerExchanges], Awaitable[float]]) -> float:
    """Measure with a peer in another process."""
    with tempfile.TemporaryDirectory(prefix="wesper-bench-") as folder:
        settings = _settings(Path(folder))
        here, there = multiprocessing.get_context("spawn").Pipe()
        peer = multiprocessing.get_context("spawn").Process(target=_peer, args=(settings[1], there), daemon=True)
        peer.start()
        try:
            assert here.recv() == "listening"
            return asyncio.run(_ours(settings[0], measure))
        finally:
            here.send("enough")
            peer.join(10)
            if peer.is_alive():
                peer.kill()


async def _ours(settings: HostSettings, measure: Callable[[PeerExchanges], Awaitable[float]]) -> float:
    exchanges = _exchanges(settings)
    await exchanges.start(_Host())
    try:
        return await measure(exchanges)
    finally:
        await exchanges.stop()


def _peer(settings: HostSettings, pipe: Connection) -> None:
    async def serve() -> None:
        exchanges = _exchanges(settings)
        await exchanges.start(_Host())
        pipe.send("listening")
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await exchanges.stop()

    asyncio.run(serve())


def _exchanges(settings: HostSettings) -> PeerExchanges:
    device = psp.Device()
    table = psp.TransmitTable(device, [psp.Profile(version=version) for version in range(4)])
    return PeerExchanges(settings, device, table, terms=Terms(most_associations=1 << 24, raw=True))


def _settings(folder: Path) -> tuple[HostSettings, HostSettings]:
    (left, left_key, left_print), (right, right_key, right_print) = (
        identity.make(name, folder) for name in ("left", "right")
    )
    ports = _free_port(), _free_port()
    return (
        HostSettings(
            left, left_key, (PeerSettings("right", right_print, _RIGHT, ports[1]),), None, (_LEFT,), 1000, ports[0]
        ),
        HostSettings(
            right, right_key, (PeerSettings("left", left_print, _LEFT, ports[0]),), None, (_RIGHT,), 1000, ports[1]
        ),
    )


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
