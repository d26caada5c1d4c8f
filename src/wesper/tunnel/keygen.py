"""A matching pair of tunnel files: what one end sends with is what the other receives with.

With PSP each end gets device keys of its own, and the key that the other end's device derives for the SPI it gave.

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

from ..crypto.psp import DEVICE_KEY, DeviceKey
from ..crypto.psp import version as psp_version
from ..errors import ConfigError
from ..keying.family_toml import write_format
from ..protocols import Format
from ..sa import CryptOffset, EESPFormat, Mode, Profile
from ..sa.model import SPI_FIRST
from ..sa.replay import DEFAULT_WINDOW
from .file import TunnelFile, load_file
from .psp_settings import PSPSettings

_INDEX_LAST = 0x7FFFFFFF  # of PSP
_SPI_LAST = 0x7FFFFFFF  # the top bit stays 0: EESP has it set on the same port


@dataclass(frozen=True, slots=True)
class End:
    """One end of a tunnel to be made.

    path: its file.   address: where it is found; "any": not known to the other.   port: of UDP; 0: none.
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


def make(
    one: End,
    other: End,
    *,
    name: str,
    suite: str,
    mode: str,
    esn: bool,
    psp: PSPSettings | None = None,
    protocol: str = "esp",
    format: Format | None = None,
) -> list[Path]:
    """Write two new tunnel files and their key files; returns all that were written.

    name: of the tunnel.   psp: make a PSP tunnel with these settings; suite and esn are the others'.
    protocol, format: of the ESP family; None: as by default, with EESP in a format that has dummies.
    Raises ConfigError if a file is there already or the ends do not go together, OSError.
    """
    for each in (one, other):
        if each.path.exists():
            raise ConfigError("there already", path=each.path, expected="another name, or --add for new SAs in it")
    if one.path.resolve() == other.path.resolve():
        raise ConfigError("one file for both ends", path=one.path, expected="two names")
    if psp is not None:
        return _make_psp(one, other, name, mode, psp)
    if "any" in (one.address, other.address) and not one.port:
        raise ConfigError("an open peer without UDP", key="peer", expected="an address, or UDP encapsulation")
    if one.address == other.address == "any":
        raise ConfigError("both ends open", key="peer", expected="an address of one of them at least")
    if format is None and protocol == "eesp" and mode == "tunnel":
        format = EESPFormat(crypt_offset=CryptOffset(), max_crypt_offset_octets=0)
    window = 0 if isinstance(format, EESPFormat) and not format.sequence_numbers else DEFAULT_WINDOW
    profile = Profile(suite, Mode.TRANSPORT, protocol=protocol, esn=esn, window=window, format=format)
    rows, spis = _secrets(profile)
    written = []
    for near, far, order in ((one, other, (0, 1)), (other, one, (1, 0))):
        keys = [_write_key(near.path, 1, way, rows[at]) for way, at in zip(("out", "in"), order, strict=True)]
        text = _text(near, far, name, suite, mode, esn, protocol=protocol, window=window)
        if format is not None:
            text += "".join(f"{line}\n" for line in write_format(format, "tunnel"))
        text += _pair(spis[order[0]], spis[order[1]], *keys)
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
    mirrored = {(pair.spi_in, pair.spi_out) for pair in theirs.pairs}
    if ours.protocol != theirs.protocol or {(pair.spi_out, pair.spi_in) for pair in ours.pairs} != mirrored:
        raise ConfigError(f"its SAs are not those of {one.name}", path=other, expected="the two files of one tunnel")
    if ours.psp is not None:
        return _add_psp(files[0], files[1], ours.psp)
    profile = ours.profile(ours.local, None, None, 1500)
    assert isinstance(profile, Profile)
    rows, spis = _secrets(profile, {pair.spi_out for pair in ours.pairs} | {pair.spi_in for pair in ours.pairs})
    written = []
    for path, order in ((one, (0, 1)), (other, (1, 0))):
        number = _next_number(path)
        keys = [_write_key(path, number, way, rows[at]) for way, at in zip(("out", "in"), order, strict=True)]
        _append(path, _pair(spis[order[0]], spis[order[1]], *keys))
        written += [path, *keys]
    return written


def _make_psp(one: End, other: End, name: str, mode: str, psp: PSPSettings) -> list[Path]:
    if "any" in (one.address, other.address):
        raise ConfigError("an open peer of PSP", key="peer", expected="an address of each")
    if not one.port:
        raise ConfigError("PSP without UDP", key="encapsulation", expected="udp")
    keys = [secrets.token_bytes(DEVICE_KEY) for _ in range(2)]
    spis = [1 + secrets.randbelow(_INDEX_LAST) for _ in range(2)]
    written = []
    for place, (near, far) in enumerate(((one, other), (other, one))):
        device = near.path.with_name(f"{near.path.name.removesuffix('.toml')}.device.key")
        _write_new(device, keys[place].hex() + "\n", 0o600)
        key = _derived(keys[1 - place], spis[1 - place], psp)
        key_out = _write_key(near.path, 1, "out", key)
        text = _text(near, far, name, "", mode, True, psp, device) + _pair(spis[1 - place], spis[place], key_out)
        _write_new(near.path, text, 0o644)
        written += [near.path, device, key_out]
    for each in (one, other):
        load_file(each.path)  # what was written is read as `wesper up` will read it
    return written


def _add_psp(one: TunnelFile, other: TunnelFile, psp: PSPSettings) -> list[Path]:
    """Rotate the device keys of both ends, and give each end an association of the other's new one."""
    files = (one, other)
    slots = []
    for file in files:
        pairs = file.tunnels[0].pairs
        slot = 1 - (pairs[-1].spi_in >> 31)
        if any(pair.spi_in >> 31 == slot for pair in pairs):
            raise ConfigError(
                f"device key {slot}, which is to be replaced, has associations still", path=file.path,
                expected="the older [[tunnel.sa]] taken out of both files, and `wesper reload` on both ends",
            )  # fmt: skip
        slots.append(slot)
    keys = [secrets.token_bytes(DEVICE_KEY) for _ in files]
    spis = [slot << 31 | (1 + secrets.randbelow(_INDEX_LAST)) for slot in slots]
    written = []
    for place, file in enumerate(files):
        row = list(file.device_keys)
        row[slots[place]] = keys[place]
        device = file.path.parent / file.table.psp.device_keys
        _replace(device, b"".join(each for each in row if each).hex() + "\n")
        key_out = _write_key(file.path, _next_number(file.path), "out", _derived(keys[1 - place], spis[1 - place], psp))
        _append(file.path, _pair(spis[1 - place], spis[place], key_out))
        written += [file.path, device, key_out]
    return written


def _derived(device_key: bytes, spi: int, psp: PSPSettings) -> bytes:
    return DeviceKey(device_key).derive(spi, psp_version(psp.version))


def _next_number(path: Path) -> int:
    """Return the number of the next key files."""
    return 1 + max((int(n) for n in re.findall(r"\.(\d+)\.(?:out|in)\.key", path.read_text())), default=0)


def _append(path: Path, text: str) -> None:
    _replace(path, path.read_text().rstrip("\n") + "\n" + text)


def _replace(path: Path, text: str) -> None:
    """Put another text into a file at once, under the same mode."""
    part = path.with_name(f".{path.name}.part")
    _write_new(part, text, path.stat().st_mode & 0o777)
    os.replace(part, path)


def _secrets(profile: Profile, taken: frozenset[int] | set[int] = frozenset()) -> tuple[list[bytes], list[int]]:
    sizes = profile.ways.key_sizes(profile)
    octets = max(sizes.key) + sizes.salt + sizes.auth_key
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


def _text(
    near: End,
    far: End,
    name: str,
    suite: str,
    mode: str,
    esn: bool,
    psp: PSPSettings | None = None,
    device: Path | None = None,
    protocol: str = "esp",
    window: int = DEFAULT_WINDOW,
) -> str:
    lines = [
        f"# One end of the tunnel {name}; `wesper check --explain` shows every setting.",
        "[interface]",
    ]
    if near.inner and mode == "tunnel":
        lines.append(f"addresses = [{', '.join(_quoted(str(each)) for each in near.inner)}]")
    elif near.inner and mode == "beet":
        lines.append(f"addresses = [{_quoted(f'{near.inner[0].ip}/{near.inner[0].max_prefixlen}')}]")
    if device is not None:
        lines += ["", "[psp]", f"device_keys = {_quoted(device.name)}"]
    lines += ["", "[[tunnel]]", f"name = {_quoted(name)}"]
    if psp is not None:
        lines += ['protocol = "psp"', *_look(psp)]
    elif protocol != "esp":
        lines.append(f"protocol = {_quoted(protocol)}")
    if near.address != "any":
        lines.append(f"local = {_quoted(near.address)}")
    lines.append(f"peer = {_quoted(far.address)}")
    if mode != "tunnel":
        lines.append(f"mode = {_quoted(mode)}")
    if not near.port:
        lines.append('encapsulation = "none"')
    elif (near.port, far.port) != ((4500, 4500) if psp is None else (1000, 1000)):
        lines.append(f"encapsulation = {{ local_port = {near.port}, peer_port = {far.port} }}")
    if suite != "aes-gcm-16" and psp is None:
        lines.append(f"suite = {_quoted(suite)}")
    if not esn:
        lines.append("esn = false")
    if window != DEFAULT_WINDOW:
        lines.append(f"window = {window}")
    if mode == "tunnel":
        behind = [f"{each.ip}/{each.max_prefixlen}" for each in far.inner] + list(far.networks)
        lines.append(f"networks = [{', '.join(map(_quoted, behind))}]")
    elif mode == "beet":
        lines.append(f"inner = {{ local = {_quoted(str(near.inner[0].ip))}, peer = {_quoted(str(far.inner[0].ip))} }}")
    if far.address != "any" and near.address == "any":
        lines.append("keepalive = 20")
    return "\n".join([*lines, ""])


def _look(psp: PSPSettings) -> list[str]:
    """Return the line that says how PSP's packets look, if it is not by default."""
    given = {"version": str(psp.version), "crypt_offset": str(psp.crypt_offset_words)}
    if psp.cookie is not None:
        given["cookie"] = _quoted(psp.cookie.hex())
    rule = psp.describe_replay()["rule"]
    if rule != "none":
        given["replay"] = _quoted(rule)
    told = ", ".join(f"{key} = {value}" for key, value in given.items() if value != "0")
    return [f"psp = {{ {told} }}"] if told else []


def _pair(spi_out: int, spi_in: int, key_out: Path, key_in: Path | None = None) -> str:
    return (
        f"\n[[tunnel.sa]]\nspi_out = {spi_out:#010x}\nspi_in = {spi_in:#010x}\n"
        f"key_out = {_quoted(key_out.name)}\n" + (f"key_in = {_quoted(key_in.name)}\n" if key_in else "")
    )


def _quoted(text: str) -> str:
    return f'"{text}"'
