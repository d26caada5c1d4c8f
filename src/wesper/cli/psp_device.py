"""`wesper psp device`: the PSP devices of this kernel, which are its NICs'."""

from __future__ import annotations

import json as json_module
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from ..errors import ConfigError
from ..psp.netlink import COUNTERS, Command, Family, KernelDevice, Notification
from ..wire.psp import VERSION_NAMES
from .packet_view import PIPED_COLUMNS

SCHEMA = 1
_Json = Annotated[bool, Parameter(negative=(), show_default=False)]
_DryRun = Annotated[bool, Parameter(negative=(), show_default=False)]


def list_(*, json: _Json = False) -> int:
    """List the PSP devices: what they can do, and which versions they receive.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    with Family() as family:
        devices = family.devices()
    if json:
        _print_json({"devices": [_as_json(each) for each in devices]})
        return 0
    table = _table("device", "interface", "receives", "can", "used by")
    for each in devices:
        others = ", ".join(_interface(other.ifindex) for other in each.associated)
        table.add_row(str(each.id), _interface(each.ifindex), _words(each.enabled), _words(each.capable), others or "–")
    _console().print(table)
    return 0


def set_(device: int, /, *, versions: str, dry_run: _DryRun = False) -> int:
    """Choose the PSP versions that a device receives; what it sends is up to its peers.

    Parameters
    ----------
    device
        Its number, as `wesper psp device list` shows it.
    versions
        Numbers with commas between them, such as 0,1; none for none.
    dry_run
        Say what would change, and change nothing.
    """
    wanted = frozenset[int]()
    with suppress(ValueError):
        wanted = frozenset(int(each) for each in versions.split(",") if versions != "none")
    if (not wanted and versions != "none") or not wanted <= VERSION_NAMES.keys():
        raise ConfigError(repr(versions), key="--versions", expected="some of 0,1,2,3, or none")
    with Family() as family:
        before = family.device(device)
        if not dry_run:
            family.set_versions(device, wanted)
    would = "would receive" if dry_run else "receives"
    print(f"device {device} {would} {_words(wanted)}; before: {_words(before.enabled)}")
    return 0


def rotate(device: int, /, *, dry_run: _DryRun = False) -> int:
    """Rotate a device's key. Connections of the generation before the last receive no more; their peers need new keys.

    Parameters
    ----------
    device
        Its number, as `wesper psp device list` shows it.
    dry_run
        Say what would be done, and do nothing.
    """
    with Family() as family:
        if dry_run:
            family.device(device)
            print(f"device {device} would get a new key")
            return 0
        family.rotate(device)
        rotations = family.statistics(device)["key_rotations"]
    print(f"device {device} has a new key, {rotations} rotation{'' if rotations == 1 else 's'} so far")
    return 0


def stats(device: int | None = None, /, *, json: _Json = False) -> int:
    """Show what devices have counted.

    Parameters
    ----------
    device
        Its number; all devices without.
    json
        Print one JSON object.
    """
    with Family() as family:
        counted = family.all_statistics() if device is None else {device: family.statistics(device)}
    if json:
        _print_json({"devices": [{"id": number, "counters": each} for number, each in counted.items()]})
        return 0
    table = _table("counter", *(f"device {number}>" for number in counted))
    names = dict.fromkeys([*COUNTERS, *(name for each in counted.values() for name in each)])
    for name in names:
        table.add_row(name, *(f"{each[name]:,}" if name in each else "–" for each in counted.values()))
    _console().print(table)
    return 0


def watch(*, seconds: float = 0.0, count: int = 0, json: _Json = False) -> int:
    """Tell of devices that come, go, change or rotate their key, as it happens, until Ctrl-C.

    Parameters
    ----------
    seconds
        Stop after so long; 0 goes on.
    count
        Stop after so many; 0 goes on.
    json
        Print one JSON object a line.
    """
    until = time.monotonic() + seconds if seconds else None
    told = 0
    with Family() as family, family.watch() as watching, suppress(KeyboardInterrupt):
        while until is None or time.monotonic() < until:
            for each in watching.receive(None if until is None else max(until - time.monotonic(), 0)):
                _tell(each, json)
                told += 1
                if told == count:
                    return 0
    return 0


def associate(device: int, ifindex: int, /, *, nsid: int | None = None, dry_run: _DryRun = False) -> int:
    """Let another network device use a PSP device, such as a virtual one in another network namespace.

    Parameters
    ----------
    device
        Number of the PSP device.
    ifindex
        Number of the network device.
    nsid
        Number of the network device's namespace, as this one knows it (`ip netns list-id`); by default this one.
    dry_run
        Say what would be done, and do nothing.
    """
    with Family() as family:
        if dry_run:
            family.device(device)
        else:
            family.associate(device, ifindex, nsid)
    print(f"interface {ifindex} {'would use' if dry_run else 'uses'} device {device}")
    return 0


def disassociate(device: int, ifindex: int, /, *, nsid: int | None = None, dry_run: _DryRun = False) -> int:
    """Undo `wesper psp device associate`.

    Parameters
    ----------
    device
        Number of the PSP device.
    ifindex
        Number of the network device.
    nsid
        Number of the network device's namespace, as this one knows it; by default this one.
    dry_run
        Say what would be done, and do nothing.
    """
    with Family() as family:
        if dry_run:
            family.device(device)
        else:
            family.disassociate(device, ifindex, nsid)
    print(f"interface {ifindex} {'would no longer use' if dry_run else 'no longer uses'} device {device}")
    return 0


def _tell(told: Notification, json: bool) -> None:
    if json:
        state = None if told.state is None else _as_json(told.state)
        event = {"schema": SCHEMA, "event": told.command.title, "id": told.device, "device": state}
        print(json_module.dumps(event), flush=True)
    else:
        what = {
            Command.DEV_ADD_NTF: "has come",
            Command.DEV_DEL_NTF: "has gone",
            Command.DEV_CHANGE_NTF: "has changed",
            Command.KEY_ROTATE_NTF: "has a new key",
        }.get(told.command, told.command.title)
        receives = (
            f", receives {_words(told.state.enabled)}" if told.command is Command.DEV_CHANGE_NTF and told.state else ""
        )
        print(f"{datetime.now(UTC):%H:%M:%S} device {told.device} {what}{receives}", flush=True)


def _as_json(device: KernelDevice) -> dict[str, Any]:
    return {
        "id": device.id,
        "ifindex": device.ifindex,
        "interface": _interface(device.ifindex),
        "capable": sorted(device.capable),
        "enabled": sorted(device.enabled),
        "associated": [{"ifindex": each.ifindex, "nsid": each.nsid} for each in device.associated],
        "nsid": device.nsid,
        "by_association": device.by_association,
    }


def _words(versions: Iterable[int]) -> str:
    return ", ".join(f"{each} ({VERSION_NAMES.get(each, 'unknown')})" for each in sorted(versions)) or "none"


def _interface(index: int) -> str:
    """Return an interface's name, its number if it is in another namespace."""
    with suppress(OSError):
        return socket.if_indextoname(index)
    return str(index)


def _print_json(content: dict[str, Any]) -> None:
    print(json_module.dumps({"schema": SCHEMA, **content}, indent=1))


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_COLUMNS)


def _table(*titles: str) -> Table:
    """Return a table without frame.   titles: > behind one puts its column to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(title.removesuffix(">"), justify="right" if title.endswith(">") else "left")
    return table
