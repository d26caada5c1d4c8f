"""A tunnel between two hosts of a lab, made as its users make it: by `wesper keygen`, `wesper up` and `wesper down`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, Self

from ..errors import UnsupportedError, WesperError
from ..keying import PSPKeys, StaticSA
from ..lab import Node
from ..tunnel.control import ControlClient
from ..tunnel.export import associations_of_file, sas_of_file
from ..tunnel.file import TunnelFile, load_file
from ..verdict import DropReason
from ..wire.psp import PORT as PSP_PORT
from ..wire.udp import IPSEC_NAT_T_PORT

PATIENCE_S = 10.0
_UP_S = 30
_INNER = ("10.8.0.1/24", "10.8.0.2/24")
_WESPER = [sys.executable, "-m", "wesper"]


class TunnelFailed(WesperError):
    """A command that makes the tunnel failed."""

    exit_code = 4


class Tunnel:
    """A context in which the tunnel is up.

    far: the host at its other end; far_address: its address inside.   ports, psp_ports, spis: what tells the tunnel's
    packets.   sas, associations: of both directions, with keys.   commands: what was typed.   described: what runs, in
    words.   protocol: esp or psp.
    """

    def __init__(self, a: Node, b: Node, folder: Path, engine: str | None, protocol: str = "esp") -> None:
        self.far, self.far_address = b, _INNER[1].partition("/")[0]
        self._is_psp = protocol == "psp"
        self.ports = frozenset[int]() if self._is_psp else frozenset({IPSEC_NAT_T_PORT})
        self.psp_ports = frozenset({PSP_PORT}) if self._is_psp else frozenset[int]()
        self._hosts, self._folder, self._engine = {"a": a, "b": b}, folder, engine
        self._run_dir = Path(mkdtemp(prefix="wesper-demo-"))  # a socket's path must be short
        self._files: dict[str, TunnelFile] = {}
        self.commands: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._make_files()
            for name, host in self._hosts.items():
                self._wesper(host, "up", str(self._folder / f"{name}.toml"))
            status = self.status(self.far)
        except BaseException:
            self._end()
            raise
        self.engine: str = status["engine"]
        interface = status["interface"]
        self.described = (
            f"{'PSP, ' if self._is_psp else ''}{self.suite} in UDP, {self.engine} engine, {status['loop']} loop; "
            f"{interface['kind']} interface, MTU {interface['mtu']}"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def suite(self) -> str:
        return self._files["a"].tunnels[0].suite

    @property
    def sas(self) -> list[StaticSA]:
        return sas_of_file(self._files["a"])

    @property
    def associations(self) -> PSPKeys:
        return PSPKeys(associations_of_file(self._files["a"]))

    @property
    def spis(self) -> frozenset[int]:
        """Those of both directions."""
        return frozenset(spi for pair in self._files["a"].tunnels[0].pairs for spi in (pair.spi_out, pair.spi_in))

    @property
    def unknown_spi(self) -> int:
        """An SPI that neither end has an SA for."""
        return next(spi for spi in range(0x1000, 0x1010) if spi not in self.spis)

    def status(self, host: Node) -> dict[str, Any]:
        """Return what `wesper status --json` tells of a host's end."""
        with ControlClient(self._run_dir / f"{host.name}.sock") as client:
            return client.ask("status")

    def drops(self, host: Node) -> dict[str, int]:
        """Return how many packets a host's end has dropped, by reason."""
        drops: dict[str, int] = self.status(host)["drops"]
        return drops

    def await_drops(self, host: Node, reason: DropReason, count: int) -> dict[str, int]:
        """Return the same as soon as there are so many of one reason, or when that does not come to be."""
        until = time.monotonic() + PATIENCE_S
        while (drops := self.drops(host)).get(reason.name, 0) < count and time.monotonic() < until:
            time.sleep(0.02)
        return drops

    def _make_files(self) -> None:
        """Write both files with new keys, and have them keep sockets and state where the demo can clean up."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        a, b = self._hosts.values()
        paths = [self._folder / f"{name}.toml" for name in self._hosts]
        ends = [word for option, host in (("--local", a), ("--peer", b)) for word in (option, host.address)]
        inner = ["--inner", _INNER[0], "--peer-inner", _INNER[1]]
        inner += ["--protocol", "psp"] if self._is_psp else []
        self._wesper(None, "keygen", *map(str, paths), *ends, *inner, "--name", "demo")
        for path in paths:
            own = [f'run_dir = "{self._run_dir}"', f'state_dir = "state-{path.stem}"']
            own += [f'engine = "{self._engine}"'] * bool(self._engine)
            path.write_text(path.read_text().replace("[interface]\n", "\n".join(["[interface]", *own, ""]), 1))
            self._files[path.stem] = load_file(path)

    def _wesper(self, host: Node | None, *words: str) -> None:
        command = [*_WESPER, *words]
        self.commands.append(f"{host.name if host else ''}$ wesper {' '.join(words)}")
        try:
            if host is None:
                done = subprocess.run(command, capture_output=True, text=True, timeout=_UP_S, check=False)
            else:
                done = host.run(command, check=False, timeout=_UP_S)
        except subprocess.TimeoutExpired:
            raise TunnelFailed(f"`wesper {' '.join(words)}` did not end") from None
        if done.returncode:
            said = done.stderr.strip().removeprefix("wesper: ")
            if done.returncode == UnsupportedError.exit_code:
                raise UnsupportedError("a tunnel", said)
            raise TunnelFailed(f"`wesper {' '.join(words)}` failed: {said}")

    def _end(self) -> None:
        for name, host in self._hosts.items():
            if (self._run_dir / f"{name}.sock").exists():
                self._wesper(host, "down", name, "--run-dir", str(self._run_dir))
        shutil.rmtree(self._run_dir, ignore_errors=True)
