"""Two hosts of a lab with a PSP daemon each."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wesper.lab import Lab, Node
from wesper.psp import blocking, identity

PORT, CONTROL = 4100, 4101
RUN = [sys.executable, "-m", "wesper"]


@dataclass
class PSPHost:
    """A node, its file and the socket of its daemon."""

    node: Node
    file: Path
    socket: Path
    process: subprocess.Popen[Any] | None = None

    def up(self) -> None:
        """Start the daemon and wait until it serves."""
        command = [*RUN, "psp", "up", self.file, "--foreground"]
        with self.socket.with_suffix(".log").open("a") as log:
            self.process = self.node.spawn(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "processes can connect" in line, self.socket.with_suffix(".log").read_text()

    def end(self, number: int = signal.SIGTERM) -> None:
        """End the daemon and wait for it."""
        if self.process is not None:
            with self.process as process:
                process.send_signal(number)
                process.wait(10)
            self.process = None

    def status(self) -> dict[str, Any]:
        return blocking.ask("status", self.socket)

    def rotate(self) -> int:
        return int(blocking.ask("rotate", self.socket)["generation"])


def write(folder: Path, name: str, peers: dict[str, tuple[bytes, str]], **settings: Any) -> tuple[Path, Path]:
    """Write a host's file; return it and the daemon's socket.   peers: fingerprint and address by name."""
    socket = folder / f"{name}.sock"
    values = {"port": PORT, "control_port": CONTROL, "socket": socket.name, "interface_kind": "auto", **settings}
    lines = ["[host]", f'certificate = "{name}.crt"', f'key = "{name}.key"']
    limits = values.pop("limits", None)
    lines += [
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in values.items()
    ]
    if limits:
        lines += ["[host.limits]", *(f"{key} = {value}" for key, value in limits.items())]
    for peer, (fingerprint, address) in peers.items():
        lines += ["[[peer]]", f'name = "{peer}"', f'fingerprint = "{identity.written(fingerprint)}"']
        lines += [f'address = "{address}"', f"control_port = {CONTROL}"]
    file = folder / f"{name}.toml"
    file.write_text("\n".join(lines) + "\n")
    return file, socket


@contextmanager
def two_hosts(
    folder: Path, version: int = 4, start: bool = True, router: bool = False, **settings: Any
) -> Iterator[tuple[PSPHost, PSPHost, Lab]]:
    """Two hosts at one link, or with a router between, who have pinned each other."""
    with Lab() as lab:
        nodes = {name: lab.host(name) for name in ("left", "right")}
        if router:
            between = lab.router("between")
            for node in nodes.values():
                lab.link(node, between)
        else:
            lab.link(*nodes.values())
        made = {name: identity.make(name, folder) for name in nodes}
        address = {name: node.address if version == 4 else node.address6 for name, node in nodes.items()}
        hosts = []
        for name, other in (("left", "right"), ("right", "left")):
            peers = {other: (made[other][2], address[other])}
            hosts.append(PSPHost(nodes[name], *write(folder, name, peers, **settings)))
        try:
            for host in hosts if start else ():
                host.up()
            yield hosts[0], hosts[1], lab
        finally:
            for host in hosts:
                host.end()


def until(condition: Any, seconds: float = 10) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
