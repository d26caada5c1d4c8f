"""A matching pair of tunnel files: what one end sends with is what the other receives with.

The files work as they stand. Running it again for the same two files adds a pair of SAs to both, for `wesper reload`.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network
from pathlib import Path

from .. import crypto
from ..errors import ConfigError
from ..sa.model import SPI_FIRST
from .file import load_file

_SPI_LAST = 0x7FFFFFFF  # the top bit stays 0: EESP has it set on the same port


@dataclass(frozen=True, slots=True)
class End:
    """One end of a tunnel to be made.

    path: its file.   address: where it is found; "any": not known to the other.   port: of UDP; 0: IP protocol 50.
    inner: its addresses inside.   networks: behind it.
    """

    path: Path
    address: str
    port: int
    inner: tuple[IPv4Interface | IPv6Interface, ...] = ()
    networks: tuple[str, ...] = ()


def end(path: Path, address: str, port: int, inner: Sequence[str], networks: Sequence[str]) -> End:
    """Return an end, its texts read.   Raises ConfigError."""
    try:
        if address != "any":
            ip_address(address)
        return End(
            path, address, port, tuple(map(ip_interface, inner)), tuple(str(ip_network(each)) for each in networks)
        )
    except ValueError as error:
        raise ConfigError(
            str(error), key=path.name, expected='addresses like "192.0.2.1", networks like "10.20.0.0/16"'
        ) from None


def make(one: End, other: End, *, name: str, suite: str, mode: str, esn: bool) -> list[Path]:
    """Write two new tunnel files and their key files; returns all that were written.

    name: of the tunnel.   Raises ConfigError if a file is there already or the ends do not go together, OSError.
    """
    for each in (one, other):
        if each.path.exists():
            raise ConfigError("there already", path=each.path, expected="another name, or --add for new SAs in it")
    if one.path.resolve() == other.path.resolve():
        raise ConfigError("one file for both ends", path=one.path, expected="two names")
    if "any" in (one.address, other.address) and not one.port:
        raise ConfigError("an open peer without UDP", key="peer", expected="an address, or UDP encapsulation")
    if one.address == other.address == "any":
        raise ConfigError("both ends open", key="peer", expected="an address of one of them at least")
    rows, spis = _secrets(suite)
    written = []
    for near, far, order in ((one, other, (0, 1)), (other, one, (1, 0))):
        keys = [_write_key(near.path, 1, way, rows[at]) for way, at in zip(("out", "in"), order, strict=True)]
        text = _text(near, far, name, suite, mode, esn) + _pair(spis[order[0]], spis[order[1]], *keys)
        _write_new(near.path, text, 0o644)
        written += [near.path, *keys]
    for each in (one, other):
        load_file(each.path)  # what was written is read as `wesper up` will read it
    return written


def add(one: Path, other: Path) -> list[Path]:
    """Add a pair of SAs to both files of a tunnel; returns what was written.

    Both must have one tunnel, and be each other's.   Raises ConfigError, OSError.
    """
    files = [load_file(one), load_file(other)]
    for file in files:
        if len(file.tunnels) != 1:
            raise ConfigError(f"{len(file.tunnels)} tunnels", path=file.path, expected="one, to know where to add SAs")
    ours, theirs = (file.tunnels[0] for file in files)
    if {(pair.spi_out, pair.spi_in) for pair in ours.pairs} != {(pair.spi_in, pair.spi_out) for pair in theirs.pairs}:
        raise ConfigError(f"its SAs are not those of {one.name}", path=other, expected="the two files of one tunnel")
    rows, spis = _secrets(ours.suite, {pair.spi_out for pair in ours.pairs} | {pair.spi_in for pair in ours.pairs})
    written = []
    for path, order in ((one, (0, 1)), (other, (1, 0))):
        text = path.read_text()
        number = 1 + max((int(n) for n in re.findall(r"\.(\d+)\.(?:out|in)\.key", text)), default=0)
        keys = [_write_key(path, number, way, rows[at]) for way, at in zip(("out", "in"), order, strict=True)]
        part = path.with_name(f".{path.name}.part")
        mode = path.stat().st_mode & 0o777
        _write_new(part, text.rstrip("\n") + "\n" + _pair(spis[order[0]], spis[order[1]], *keys), mode)
        os.replace(part, path)
        written += [path, *keys]
    return written


def _secrets(suite: str, taken: frozenset[int] | set[int] = frozenset()) -> tuple[list[bytes], list[int]]:
    cipher = crypto.suite(suite)
    octets = max(cipher.key_octets) + cipher.salt_octets + cipher.auth_key_octets
    spis: list[int] = []
    while len(spis) < 2:
        spi = SPI_FIRST + secrets.randbelow(_SPI_LAST - SPI_FIRST)
        if spi not in taken and spi not in spis:
            spis.append(spi)
    return [secrets.token_bytes(octets) for _ in range(2)], spis


def _write_key(path: Path, number: int, way: str, row: bytes) -> Path:
    key = path.with_name(f"{path.name.removesuffix('.toml')}.{number}.{way}.key")
    _write_new(key, row.hex() + "\n", 0o600)
    return key


def _write_new(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _text(near: End, far: End, name: str, suite: str, mode: str, esn: bool) -> str:
    lines = [
        f"# One end of the tunnel {name}; `wesper check --explain` shows every setting.",
        "[interface]",
    ]
    if near.inner and mode == "tunnel":
        lines.append(f"addresses = [{', '.join(_quoted(str(each)) for each in near.inner)}]")
    elif near.inner and mode == "beet":
        lines.append(f"addresses = [{_quoted(f'{near.inner[0].ip}/{near.inner[0].max_prefixlen}')}]")
    lines += ["", "[[tunnel]]", f"name = {_quoted(name)}"]
    if near.address != "any":
        lines.append(f"local = {_quoted(near.address)}")
    lines.append(f"peer = {_quoted(far.address)}")
    if mode != "tunnel":
        lines.append(f"mode = {_quoted(mode)}")
    if not near.port:
        lines.append('encapsulation = "none"')
    elif (near.port, far.port) != (4500, 4500):
        lines.append(f"encapsulation = {{ local_port = {near.port}, peer_port = {far.port} }}")
    if suite != "aes-gcm-16":
        lines.append(f"suite = {_quoted(suite)}")
    if not esn:
        lines.append("esn = false")
    if mode == "tunnel":
        behind = [f"{each.ip}/{each.max_prefixlen}" for each in far.inner] + list(far.networks)
        lines.append(f"networks = [{', '.join(map(_quoted, behind))}]")
    elif mode == "beet":
        lines.append(f"inner = {{ local = {_quoted(str(near.inner[0].ip))}, peer = {_quoted(str(far.inner[0].ip))} }}")
    if far.address != "any" and near.address == "any":
        lines.append("keepalive = 20")
    return "\n".join([*lines, ""])


def _pair(spi_out: int, spi_in: int, key_out: Path, key_in: Path) -> str:
    return (
        f"\n[[tunnel.sa]]\nspi_out = {spi_out:#010x}\nspi_in = {spi_in:#010x}\n"
        f"key_out = {_quoted(key_out.name)}\nkey_in = {_quoted(key_in.name)}\n"
    )


def _quoted(text: str) -> str:
    return f'"{text}"'
