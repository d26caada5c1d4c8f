"""Runs in a guest whose kernel has PSP: makes simulated NICs, does everything to them, prints what came of it as JSON.

    python psp_in_guest.py

Each check is a function that returns what JSON can hold; `tests/kernel/test_psp.py` says what is right. netdevsim wraps
and unwraps packets by PSP's rules, but does not encrypt.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import traceback
from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from wesper.errors import WesperError
from wesper.host.netlink import Netlink
from wesper.lab.syscalls import CLONE_NEWNET, setns, unshare
from wesper.psp.netlink import Family, KernelDevice, ReceiveKey, Refused, Watch

BUS = Path("/sys/bus/netdevsim")
PATIENCE_S = 0.3
Answer = dict[str, Any]


def refusal(call: Callable[[], object]) -> Any:
    """Return how the kernel refuses a call: errno, its sentence, the attribute at fault."""
    try:
        call()
    except Refused as error:
        return [error.number, error.said, error.attribute]
    except WesperError as error:
        return [type(error).__name__, str(error)]
    return "no refusal"


def shown(device: KernelDevice) -> Answer:
    return {
        "capable": sorted(device.capable),
        "enabled": sorted(device.enabled),
        "associated": [each.ifindex for each in device.associated],
        "by_association": device.by_association,
    }


class Side:
    """A network namespace with one simulated NIC that is up and has an address."""

    def __init__(self, number: int, *addresses: str) -> None:
        self.number = number
        self.addresses: dict[int, Any] = {each.version: each for each in map(ip_interface, addresses)}
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        unshare(CLONE_NEWNET)
        try:
            self.namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
            BUS.joinpath("new_device").write_text(f"{number} 1")
            self.links = Netlink(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
            self.family = Family()
        finally:
            setns(home)
            os.close(home)
        (self.device,) = self.family.devices()
        with self.inside():
            self.name = socket.if_indextoname(self.device.ifindex)
        for each in self.addresses.values():
            self.links.add_address(self.name, each)

    def up(self) -> None:
        self.links.set_up(self.name)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Be in the namespace."""
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        setns(self.namespace)
        try:
            yield
        finally:
            setns(home)
            os.close(home)

    def watch(self) -> Watch:
        with self.inside():
            return self.family.watch()

    def receive_with(self, tcp: socket.socket, version: int = 0) -> ReceiveKey:
        return self.family.receive_with(tcp, version)


def told(watch: Watch) -> list[list[Any]]:
    return [
        [each.command.title, each.device, None if each.state is None else sorted(each.state.enabled)]
        for each in watch.receive(PATIENCE_S)
    ]


def check_devices(a: Side, b: Side) -> Answer:
    return {
        "dump": [shown(each) for each in a.family.devices()],
        "get": shown(a.family.device(a.device.id)),
        "other namespace's": refusal(lambda: a.family.device(b.device.id)),
        "unknown": refusal(lambda: a.family.device(999)),
        "zero": refusal(lambda: a.family.device(0)),
    }


def check_versions(a: Side, b: Side) -> Answer:
    number = a.device.id
    with a.watch() as watch:
        a.family.set_versions(number, (0, 1, 2, 3))
        first = told(watch)
        a.family.set_versions(number, (0, 1, 2, 3))
        again = told(watch)
    enabled = shown(a.family.device(number))["enabled"]
    b.family.set_versions(b.device.id, (0, 1))
    return {"device": number, "first": first, "again": again, "enabled": enabled}


def check_rotation(a: Side, b: Side) -> Answer:
    before = a.family.statistics(a.device.id)["key_rotations"]
    with a.watch() as watch:
        a.family.rotate(a.device.id)
        heard = told(watch)
    return {
        "device": a.device.id,
        "heard": heard,
        "rotations": a.family.statistics(a.device.id)["key_rotations"] - before,
        "unknown": refusal(lambda: a.family.rotate(999)),
    }


def check_receive_keys(a: Side, b: Side) -> Answer:
    number = a.device.id
    with a.inside():
        tcp, longer, udp = socket.socket(), socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        plain = socket.socket()
    no_socket = os.open("/dev/null", os.O_RDONLY)
    key = a.family.receive_with(tcp, 0, number)
    long = a.family.receive_with(longer, 1, number)
    return {
        "key": [key.device == number, key.version, len(key.key), key.spi & 0x7FFFFFFF > 0],
        "long": [long.version, len(long.key), long.spi != key.spi],
        "twice": refusal(lambda: a.family.receive_with(tcp, 0, number)),
        "UDP": refusal(lambda: a.family.receive_with(udp, 0, number)),
        "no socket": refusal(lambda: a.family.receive_with(no_socket, 0, number)),
        "no descriptor": refusal(lambda: a.family.receive_with(999, 0, number)),
        "no route": refusal(lambda: a.family.receive_with(plain)),
        "unknown device": refusal(lambda: a.family.receive_with(plain, 0, 999)),
        "version 4": refusal(lambda: a.family.receive_with(plain, 4, number)),
    }


def check_send_keys(a: Side, b: Side) -> Answer:
    number = a.device.id
    with a.inside():
        tcp, plain = socket.socket(), socket.socket()
    a.family.receive_with(tcp, 0, number)
    answers = {
        "no receive key": refusal(lambda: a.family.send_with(plain, 0x1234, bytes(16), 0, number)),
        "reserved SPI": refusal(lambda: a.family.send_with(tcp, 0x80000000, bytes(16), 0, number)),
        "long key": refusal(lambda: a.family.send_with(tcp, 0x1234, bytes(32), 0, number)),
        "other version": refusal(lambda: a.family.send_with(tcp, 0x1234, bytes(32), 1, number)),
        "short key": refusal(lambda: a.family.send_with(tcp, 0x1234, bytes(15), 0, number)),
    }
    a.family.send_with(tcp, 0x1234, bytes(16), 0, number)
    return answers | {"twice": refusal(lambda: a.family.send_with(tcp, 0x1235, bytes(16), 0, number))}


def connected(a: Side, b: Side, version: int = 4) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection from a to b over this IP version."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with b.inside():
        listener = socket.create_server((str(b.addresses[version].ip), 0), family=family)
    with a.inside():
        here = socket.socket(family)
    here.settimeout(5)
    here.connect(listener.getsockname()[:2])
    there, _ = listener.accept()
    there.settimeout(5)
    listener.close()
    return here, there


def check_connection(a: Side, b: Side) -> Answer:
    return changed_over(a, b, 4)


def check_connection_over_ipv6(a: Side, b: Side) -> Answer:
    return changed_over(a, b, 6)


def changed_over(a: Side, b: Side, version: int) -> Answer:
    """One TCP connection that changes over to PSP, as its two ends agree in clear."""
    for each in (a, b):
        each.family.set_versions(each.device.id, (0, 1, 2, 3))
    here, there = connected(a, b, version)
    before = [each.family.statistics(each.device.id) for each in (a, b)]
    ours, theirs = a.receive_with(here), b.receive_with(there)
    here.sendall(struct.pack("I", ours.spi) + ours.key)
    select.select([there], [], [], 5)
    busy = refusal(lambda: b.family.send_with(there, ours.spi, ours.key))
    from_here = _all(there, 20)
    there.sendall(struct.pack("I", theirs.spi) + theirs.key)
    from_there = _all(here, 20)
    b.family.send_with(there, struct.unpack("I", from_here[:4])[0], from_here[4:])
    a.family.send_with(here, struct.unpack("I", from_there[:4])[0], from_there[4:])
    here.sendall(b"ping" * 1000)
    ping = _all(there, 4000)
    there.sendall(b"pong")
    pong = _all(here, 4)
    after = [each.family.statistics(each.device.id) for each in (a, b)]
    gained = [{name: late[name] - early[name] for name in late} for early, late in zip(before, after, strict=True)]
    stale = after[1]["stale_events"]
    # Two rotations of its device, and what b has given away receives no more.
    rotated = [_rotated(b, here, there) for _ in range(2)]
    stale = b.family.statistics(b.device.id)["stale_events"] - stale
    for tcp in (here, there):
        tcp.close()
    return {
        "busy": busy,
        "ping": ping == b"ping" * 1000,
        "pong": pong.decode(),
        "gained": gained,
        "rotated": rotated,
        "stale": stale,
    }


def _all(tcp: socket.socket, octets: int) -> bytes:
    data = b""
    while len(data) < octets:
        data += tcp.recv(octets - len(data))
    return data


def _rotated(b: Side, here: socket.socket, there: socket.socket) -> str:
    b.family.rotate(b.device.id)
    here.sendall(b"more")
    return there.recv(64).decode() if select.select([there], [], [], PATIENCE_S)[0] else "nothing"


def check_disabled_version(a: Side, b: Side) -> Answer:
    """A version that is switched off is still sent, and not received."""
    here, there = connected(a, b)
    ours, theirs = a.receive_with(here, 1), b.receive_with(there, 1)
    a.family.send_with(here, theirs.spi, theirs.key, 1)
    b.family.send_with(there, ours.spi, ours.key, 1)
    b.family.set_versions(b.device.id, (0,))
    sent = a.family.statistics(a.device.id)["tx_packets"]
    here.sendall(b"to a version switched off")
    heard = bool(select.select([there], [], [], PATIENCE_S)[0])
    sent = a.family.statistics(a.device.id)["tx_packets"] - sent
    b.family.set_versions(b.device.id, (0, 1, 2, 3))
    for each in (here, there):
        each.close()
    return {"sent": sent > 0, "heard": heard}


def check_association(a: Side, b: Side) -> Answer:
    number = a.device.id
    with a.inside():
        dummy = socket.if_nametoindex("lo")
    a.family.associate(number, dummy)
    associated = shown(a.family.device(number))["associated"]
    twice = refusal(lambda: a.family.associate(number, dummy))
    a.family.disassociate(number, dummy)
    return {
        "index": dummy,
        "associated": associated,
        "twice": twice,
        "undone": shown(a.family.device(number))["associated"],
        "undone twice": refusal(lambda: a.family.disassociate(number, dummy)),
        "unknown interface": refusal(lambda: a.family.associate(number, 9999)),
        "unknown namespace": refusal(lambda: a.family.associate(number, dummy, 77)),
    }


def check_coming_and_going(a: Side, b: Side) -> Answer:
    with a.watch() as watch:
        with a.inside():
            BUS.joinpath("new_device").write_text("9 1")
        added = told(watch)
        number = max(each.id for each in a.family.devices())
        both = len(a.family.all_statistics())
        with a.inside():
            tcp = socket.socket()
        a.family.receive_with(tcp, 0, a.device.id)
        here, there = connected(a, b)
        others = [
            refusal(lambda: a.family.send_with(tcp, 0x1234, bytes(16), 0, number)),
            refusal(lambda: a.family.receive_with(here, 0, number)),
        ]
        here.close()
        there.close()
        BUS.joinpath("del_device").write_text("9")
        removed = told(watch)
    return {"number": number, "added": added, "both": both, "others": others, "removed": removed}


def check_ordinary_user(a: Side, b: Side) -> Answer:
    """What needs no privilege, and what does."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            setns(a.namespace)
            os.setuid(65534)
            family = Family()
            answer = {
                "sees": len(family.devices()),
                "reads": "rx_packets" in family.statistics(a.device.id),
                "sets": refusal(lambda: family.set_versions(a.device.id, (0,))),
                "rotates": refusal(lambda: family.rotate(a.device.id)),
                "receives": len(family.receive_with(socket.socket(), 0, a.device.id).key),
            }
            os.write(writing, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as file:
        answer: Answer = json.load(file)
    os.waitpid(child, 0)
    return answer


def main() -> None:
    a, b = Side(7, "192.0.2.1/24", "2001:db8::1/64"), Side(8, "192.0.2.2/24", "2001:db8::2/64")
    ends = [f"{each.namespace}:{each.device.ifindex}" for each in (a, b)]
    BUS.joinpath("link_device").write_text(" ".join(ends))
    a.up()
    b.up()
    results = {}
    try:
        for name, check in list(globals().items()):
            if name.startswith("check_"):
                try:
                    results[name.removeprefix("check_")] = check(a, b)
                except Exception as error:
                    results[name.removeprefix("check_")] = "".join(traceback.format_exception(error))
    finally:
        for number in (7, 8):
            BUS.joinpath("del_device").write_text(str(number))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
