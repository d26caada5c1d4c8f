"""A tunnel between two hosts of a lab, made as its users make it: by `wesper keygen`, `wesper up` and `wesper down`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, Final, Self

from ..errors import UnsupportedError, WesperError
from ..keying import PSPKeys, StaticSA, save_keys, save_private
from ..keying.psp_toml import write_received
from ..lab import Node
from ..tunnel.control import ControlClient
from ..tunnel.export import associations_of_file, sas_of_file
from ..tunnel.file import TunnelFile, load_file
from ..verdict import DropReason
from .wire import LABELS

PATIENCE_S = 10.0
SETTINGS: Final[dict[str, tuple[str, ...]]] = {
    "wespv2": ('flow_identifier = "5-tuple"', 'crypt_offset = "l3"', "max_crypt_offset_octets = 60"),
    "eesp": ('session = "5-tuple"',),
}
"""Lines that a protocol's own table of a tunnel file gets: flows with names, and a readable inner IP header."""

_UP_S = 30
_INNER = ("10.8.0.1/24", "10.8.0.2/24")
_WESPER = [sys.executable, "-m", "wesper"]


class TunnelFailed(WesperError):
    """A command that makes the tunnel failed."""

    exit_code = 4


class Tunnel:
    """A context in which the tunnel is up.

    far: the host at its other end; far_address: its address inside.   keys: of both directions.
    commands: what was typed.   described: what runs, in words.   protocol: as in tunnel files.
    """

    def __init__(self, a: Node, b: Node, folder: Path, engine: str | None, protocol: str) -> None:
        self.far, self.far_address = b, _INNER[1].partition("/")[0]
        self.protocol = protocol
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
            f"{LABELS[self.protocol]}, {self.suite} in UDP, {self.engine} engine, {status['loop']} loop; "
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
    def keys(self) -> list[StaticSA] | PSPKeys:
        file = self._files["a"]
        return PSPKeys(associations_of_file(file)) if self.protocol == "psp" else sas_of_file(file)

    def save_keys(self, path: Path) -> None:
        """Write them as a key file, mode 0600."""
        path.unlink(missing_ok=True)
        keys = self.keys
        if isinstance(keys, PSPKeys):
            save_private(path, write_received((each, "") for each in keys.associations))
        else:
            save_keys(keys, path)

    @property
    def spi_out(self) -> int:
        """The SPI of what the near host sends."""
        return self._files["a"].tunnels[0].pairs[0].spi_out

    @property
    def spis(self) -> frozenset[int]:
        """Those of both directions."""
        return frozenset(spi for pair in self._files["a"].tunnels[0].pairs for spi in (pair.spi_out, pair.spi_in))

    @property
    def unknown_spi(self) -> int:
        """An SPI that neither end has an SA for; with PSP, one of a device key that neither has."""
        if self.protocol == "psp":
            return 0x8000_0001
        return next(spi for spi in range(0x1000, 0x1010) if spi not in self.spis)

    def status(self, host: Node) -> dict[str, Any]:
        """Return what `wesper status --json` tells of a host's end."""
        with ControlClient(self._run_dir / f"{host.name}.sock") as client:
            return client.ask("status")

    def drops(self, host: Node) -> dict[str, int]:
        """Return how many packets a host's end has dropped, by reason."""
        drops: dict[str, int] = self.status(host)["drops"]
        return drops

    def await_quiet(self) -> None:
        """Wait until each end knows that it has heard the other, or until that takes too long.

        What it owed the other it has sent then, and no more dummies come of themselves.
        """
        until = time.monotonic() + PATIENCE_S
        while not all(map(self._has_heard, self._hosts.values())) and time.monotonic() < until:
            time.sleep(0.02)

    def _has_heard(self, host: Node) -> bool:
        return all(pair["proven"] for tunnel in self.status(host)["tunnels"] for pair in tunnel["pairs"])

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
        inner += ["--protocol", self.protocol] if self.protocol != "esp" else []
        self._wesper(None, "keygen", *map(str, paths), *ends, *inner, "--name", "demo")
        for path in paths:
            own = [f'run_dir = "{self._run_dir}"', f'state_dir = "state-{path.stem}"']
            own += [f'engine = "{self._engine}"'] * bool(self._engine)
            text = path.read_text().replace("[interface]\n", "\n".join(["[interface]", *own, ""]), 1)
            path.write_text(with_settings(text, self.protocol))
            self._files[path.stem] = load_file(path)

        if self.protocol in SETTINGS:
            self.commands.append(f"in both files, [tunnel.{self.protocol}]: {', '.join(SETTINGS[self.protocol])}")

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


def with_settings(text: str, protocol: str) -> str:
    """Return a tunnel file's text with the demonstration's settings in the protocol's own table."""
    lines = SETTINGS.get(protocol, ())
    if not lines:
        return text
    table, set_here = f"[tunnel.{protocol}]", {line.partition(" ")[0] for line in lines}
    if table not in text:
        text = text.replace("\n[[tunnel.sa]]\n", f"\n{table}\n\n[[tunnel.sa]]\n", 1)
    before, after = text.split(f"{table}\n", 1)
    own, *others = after.split("\n[", 1)
    kept = [line for line in own.splitlines() if line.partition(" ")[0] not in set_here]
    return before + "\n".join([table, *lines, *kept, ""]) + "".join(f"\n[{each}" for each in others)
