"""`wesper psp`: PSP's keys."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import CaptureError, ConfigError, KeyMaterialError
from ..keying import PSPAssociation, PSPDevice, files_with_keys, load_psp_keys, save_private, write_received
from ..pcap import ip_offset, open_capture
from ..pcap.psp_opener import destination, destination_port
from ..pcap.psp_seen import psp_header
from ..protocols import ip
from ..protocols.psp import INDEX_MASK, Profile
from ..sa import Direction
from ..wire.psp import VERSION_NAMES
from . import CHECK_FAILED, IO_TROUBLE
from .packet_input import keep_inputs

MAX_SPIS = 1 << 18
"""SPIs that one run derives keys for."""

_Output = Annotated[str, Parameter(name=("--output", "-o"), allow_leading_hyphen=True)]
_Wanted = dict[tuple[int, int], PSPDevice]


def keys(
    devices: Path,
    /,
    *,
    output: _Output,
    spi: Annotated[list[str] | None, Parameter(negative=())] = None,
    capture: str | None = None,
    version: int = 0,
    device: str | None = None,
    show: bool = False,
) -> int:
    """Derive keys of associations from a device key: for SPIs that are named, or those that a capture shows.

    The output is a key file of `[[association]]` tables, which opens these associations and no others: what can be
    given away where the device key can not. It is written for its owner's eyes only (mode 0600). Exits with 1 if no
    key could be derived, with 4 if the capture ends inside a packet.

    Parameters
    ----------
    devices
        Key file with `[[device]]` tables.
    output
        The new key file; - for standard output, which must not be a terminal unless --show says so.
    spi
        An SPI, such as 0x80000001, or first-last; may be given again for more.
    capture
        A capture whose PSP packets tell SPIs and versions, instead of --spi; - for standard input.
    version
        PSP version of the SPIs given with --spi.
    device
        Name of the device, if the file has several; of a capture's packets the address tells.
    show
        Let keys go to a terminal.
    """
    if (spi is None) == (capture is None):
        raise ConfigError(
            "no SPIs are named" if spi is None else "given beside --capture",
            key="--spi",
            expected="either --spi or --capture",
        )
    if version not in VERSION_NAMES:
        raise ConfigError(str(version), key="--version", expected="0..3")
    if output == "-" and sys.stdout.isatty() and not show:
        raise ConfigError("keys would be shown on the terminal", key="--output", expected="a file, or --show")
    found = load_psp_keys(devices)
    chosen = _chosen(found.devices, device, devices, one=spi is not None)
    truncated: list[CaptureError] = []
    if spi is not None:
        wanted = {(number, version): chosen[0] for number in _numbers(spi)}
    else:
        assert capture is not None
        wanted = _seen(capture, chosen, truncated)
    keep_inputs(output, *([capture] if capture else []), *files_with_keys(devices))
    made = sum(by.keys[number >> 31] is not None for (number, _), by in wanted.items())
    missing = len(wanted) - made
    if missing:
        print(f"wesper: {missing:,} SPIs point to a device key that the file does not have", file=sys.stderr)
    if not made:
        print("wesper: no key was derived", file=sys.stderr)
        return IO_TROUBLE if truncated else CHECK_FAILED
    text = write_received(_derived(wanted))
    if output == "-":
        sys.stdout.writelines(text)
    else:
        save_private(Path(output), text)
        print(f"{made:,} key{'' if made == 1 else 's'} in {output}", file=sys.stderr)
    if truncated:
        print(f"wesper: {truncated[0]}", file=sys.stderr)
        return IO_TROUBLE
    return CHECK_FAILED if missing else 0


def _chosen(devices: Iterable[PSPDevice], name: str | None, path: Path, *, one: bool) -> list[PSPDevice]:
    """Return the devices that are meant."""
    found = [each for each in devices if name is None or each.name == name]
    names = ", ".join(each.name for each in devices if each.name)
    if not found:
        what = "no [[device]] table" if name is None else f"no device {name!r}"
        raise KeyMaterialError(what, path=path, expected=names or "a [[device]] table")
    if one and len(found) > 1:
        raise ConfigError("the file has several devices", key="--device", expected=names or "devices with names")
    return found


def _numbers(texts: list[str]) -> Iterator[int]:
    """Yield SPIs.   texts: numbers, or first-last."""
    left = MAX_SPIS
    for text in texts:
        first, dash, last = text.partition("-")
        try:
            low = int(first, 0)
            high = int(last, 0) if dash else low
        except ValueError:
            low, high = 1, 0
        if not 0 <= low <= high < 1 << 32:
            raise ConfigError(repr(text), key="--spi", expected="a number of 32 bits, or first-last")
        left -= high - low + 1
        if left < 0:
            raise ConfigError(f"more than {MAX_SPIS:,} SPIs", key="--spi", expected="fewer")
        for number in range(low, high + 1):
            if number & INDEX_MASK:
                yield number
            elif low == high:
                raise ConfigError(f"{number:#010x} is reserved", key="--spi", expected="low 31 bits that are not zero")


def _seen(source: str, devices: list[PSPDevice], truncated: list[CaptureError]) -> _Wanted:
    """Return SPI and version of each PSP packet of a capture that goes to one of the devices."""
    wanted: _Wanted = {}
    with open_capture(source, on_truncated=truncated.append) as capture:
        for record in capture:
            at = ip_offset(record.link_type, record.data)
            if at is None:
                continue
            # A packet that the capture cut still has its header: read it as if the rest were there.
            cut = bytes(min(max(record.original_octets - len(record.data), 0), 65535))
            packet = record.data[at:] + cut
            port, here = destination_port(packet), destination(packet)
            if port is None or here is None:
                continue
            device = next((each for each in devices if each.receives(here, port)), None)
            datagram = ip.parse(packet) if device is not None else None
            header = psp_header(datagram.packet[datagram.upper_at :]) if datagram is not None else None
            if device is None or header is None or not header.spi & INDEX_MASK:
                continue
            if len(wanted) >= MAX_SPIS and (header.spi, header.version) not in wanted:
                raise ConfigError(f"more than {MAX_SPIS:,} SPIs", key="--capture", expected="a capture with fewer")
            wanted.setdefault((header.spi, header.version), device)
    return wanted


def _derived(wanted: _Wanted) -> Iterator[tuple[PSPAssociation, str]]:
    profiles: dict[tuple[int, int], Profile] = {}
    for (spi, version), device in wanted.items():
        key = device.derive(spi, version)
        if key is not None:
            comment = f"of {device.name}" if device.name and device.name.isprintable() else ""
            profile = profiles.setdefault((version, device.port), Profile(version=version, port=device.port))
            yield PSPAssociation(profile, spi, key, direction=Direction.IN), comment
