"""The kernel's PSP family without a kernel: hostile octets, and a client whose kernel is the recorded one."""

from __future__ import annotations

import contextlib
import errno
import json
import struct
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wesper.errors import ConfigError, KeyMaterialError, PermissionNeeded, UnsupportedError
from wesper.host import generic_netlink as genl
from wesper.host.netlink import attribute
from wesper.psp.netlink import SETS, Command, Family, KernelDevice, Message, Refused, decode, notification

RECORDED = json.loads((Path(__file__).parents[2] / "vectors" / "psp-netlink.json").read_text())["messages"]
PAIRS: dict[str, list[dict[str, Any]]] = {}
for entry in RECORDED:
    if entry["pair"] is not None:
        PAIRS.setdefault(entry["name"], []).append(entry)


class Kernel:
    """A socket whose other end answers with what was recorded, renumbered; it keeps what it was asked."""

    def __init__(self, name: str = "") -> None:
        self._answers: deque[bytes] = deque()
        self._recorded = PAIRS.get(name, [])
        self.asked: list[bytes] = []
        self.options: list[tuple[int, int, int]] = []
        self.closed = False
        self.number = 0

    def setsockopt(self, level: int, name: int, value: int, /) -> None:
        self.options.append((level, name, value))

    def send(self, data: bytes, /) -> int:
        kind, _, sequence = struct.unpack_from("=HHI", data, 4)
        if kind == genl.GENL_ID_CTRL:
            self._answers += self.controller(data, sequence)
        else:
            self.asked.append(data)
            self._answers += [_renumbered(bytes.fromhex(e["hex"]), sequence) for e in self._recorded[1:]]
        return len(data)

    def controller(self, request: bytes, sequence: int) -> list[bytes]:
        groups = b"".join(
            attribute(place | 0x8000, attribute(1, name + b"\0") + attribute(2, struct.pack("=I", number)))
            for place, (name, number) in enumerate(((b"mgmt", 5), (b"use", 6)), 1)
        )
        body = attribute(1, struct.pack("=H", 21)) + attribute(2, b"psp\0") + attribute(7 | 0x8000, groups)
        return [genl.build(16, 1, body, flags=0, sequence=sequence, port=43), _ack(request, sequence, 0)]

    def recv(self, octets: int, /) -> bytes:
        return self._answers.popleft()

    def close(self) -> None:
        self.closed = True


class Refusing(Kernel):
    """A kernel that refuses everything but the question for the family, or that too.   number: errno."""

    def __init__(self, number: int, *, family: bool = True) -> None:
        super().__init__()
        self._number, self._family = number, family

    def controller(self, request: bytes, sequence: int) -> list[bytes]:
        return super().controller(request, sequence) if self._family else [_ack(request, sequence, self._number)]

    def send(self, data: bytes, /) -> int:
        super().send(data)
        kind, _, sequence = struct.unpack_from("=HHI", data, 4)
        if kind != genl.GENL_ID_CTRL:
            self._answers.append(_ack(data, sequence, self._number))
        return len(data)


def _ack(request: bytes, sequence: int, number: int) -> bytes:
    body = struct.pack("=i", -number) + request[:16] + (request[16:] if number else b"")
    return struct.pack("=IHHII", 16 + len(body), genl.NLMSG_ERROR, 0, sequence, 43) + body


def _renumbered(message: bytes, sequence: int) -> bytes:
    """Return a recorded answer with another sequence number, also in what it quotes."""
    changed = bytearray(message)
    struct.pack_into("=I", changed, 8, sequence)
    if struct.unpack_from("=H", message, 4)[0] == genl.NLMSG_ERROR:
        struct.pack_into("=I", changed, 28, sequence)
    return bytes(changed)


def asked(kernel: Kernel, name: str) -> None:
    """Assert that the kernel was asked what was recorded under a name, but for the sequence number."""
    (request,) = kernel.asked
    recorded = bytes.fromhex(PAIRS[name][0]["hex"])
    assert request[:8] + request[12:] == recorded[:8] + recorded[12:]


def test_devices() -> None:
    kernel = Kernel("dev-get dump")
    device = KernelDevice(1, 11, frozenset({0, 1, 2, 3}), frozenset())
    with Family(kernel) as family:
        assert (family.id, family.groups) == (21, {"mgmt": 5, "use": 6})
        assert family.devices() == [device]
    asked(kernel, "dev-get dump")
    assert kernel.closed
    kernel = Kernel("dev-get with assoc-list")
    (associated,) = Family(kernel).device(1).associated
    assert (associated.ifindex, associated.nsid) == (13, 1)
    asked(kernel, "dev-get with assoc-list")


def test_versions_rotation_statistics() -> None:
    kernel = Kernel("dev-set")
    Family(kernel).set_versions(1, (0, 1, 2, 3))
    asked(kernel, "dev-set")
    kernel = Kernel("key-rotate")
    Family(kernel).rotate(1)
    asked(kernel, "key-rotate")
    kernel = Kernel("get-stats")
    counters = Family(kernel).statistics(1)
    asked(kernel, "get-stats")
    assert (counters["rx_packets"], counters["rx_bytes"], counters["tx_bytes"]) == (2, 78, 32)
    kernel = Kernel("get-stats dump")
    assert Family(kernel).all_statistics() == {1: counters}
    asked(kernel, "get-stats dump")
    kernel = Kernel("dev-assoc")
    Family(kernel).associate(1, 13)
    asked(kernel, "dev-assoc")


def test_keys_of_sockets() -> None:
    kernel = Kernel("rx-assoc version 1")
    key = Family(kernel).receive_with(14, 1, 1)
    asked(kernel, "rx-assoc version 1")
    assert (key.device, key.version, key.spi, len(key.key)) == (1, 1, 0x80000003, 32)
    assert key.key.hex() not in repr(key)
    kernel = Kernel("tx-assoc")
    Family(kernel).send_with(10, 0x1234, bytes(16), 0, 1)
    asked(kernel, "tx-assoc")
    kernel = Kernel("tx-assoc busy")
    with pytest.raises(Refused, match="incompatible segments already in the recv queue"):
        Family(kernel).send_with(17, 0x80000008, bytes.fromhex("01090a0b0c0d0e0f1011121314151617"))
    asked(kernel, "tx-assoc busy")


@pytest.mark.parametrize(
    ("name", "number", "text"),
    [
        ("dev-get id 0", errno.ERANGE, "psp dev-get: Numerical result out of range (integer out of range, at id)"),
        ("dev-get without id", errno.EINVAL, "psp dev-get: Invalid argument (no id)"),
        ("dev-get unknown id", errno.ENODEV, "psp dev-get: No such device"),
    ],
)
def test_the_kernel_s_own_words(name: str, number: int, text: str) -> None:
    with pytest.raises(Refused) as refused:
        Family(Kernel(name)).device(0)
    assert (refused.value.number, str(refused.value), refused.value.exit_code) == (number, text, 4)


def test_no_psp_and_no_privilege_are_exceptions_of_their_own() -> None:
    kernel = Refusing(errno.ENOENT, family=False)
    with pytest.raises(UnsupportedError, match=r"this kernel has no PSP; Linux has it from 6\.18 on") as missing:
        Family(kernel)
    assert (missing.value.exit_code, kernel.closed) == (3, True)
    with pytest.raises(PermissionNeeded, match="psp key-rotate needs CAP_NET_ADMIN"):
        Family(Refusing(errno.EPERM)).rotate(1)


def test_what_no_kernel_would_take_is_refused_here() -> None:
    kernel = Kernel()
    family = Family(kernel)
    with pytest.raises(ConfigError, match=r"version 4 \(expected 0\.\.3\)"):
        family.set_versions(1, (0, 4))
    with pytest.raises(KeyMaterialError, match="15 octets"):
        family.send_with(3, 1, bytes(15))
    with pytest.raises(genl.MalformedMessage, match="id: -1 is no u32"):
        family.device(-1)
    assert kernel.asked == []


def test_notifications() -> None:
    found = [
        notification(content)
        for e in RECORDED
        if e["direction"] == "notification"
        for _, content in decode(bytes.fromhex(e["hex"]))
        if isinstance(content, Message)
    ]
    assert [(each.command, each.device) for each in found] == [(Command.DEV_CHANGE_NTF, 1), (Command.KEY_ROTATE_NTF, 1)]
    assert found[0].state is not None
    assert (found[0].state.enabled, found[1].state) == ({0, 1, 2, 3}, None)


def test_attributes_that_newer_kernels_have_are_kept() -> None:
    data = attribute(1, struct.pack("=I", 1)) + attribute(99, b"new")
    message = genl.build(21, Command.DEV_GET, data, flags=0, sequence=1)
    ((_, content),) = decode(message)
    assert isinstance(content, Message)
    assert content.attributes == {"id": 1, "attribute 99": b"new"}


def test_numbers_take_four_octets_while_they_fit() -> None:
    for value, octets in ((0xFFFFFFFF, 4), (1 << 32, 8)):
        data = SETS[Command.GET_STATS].encode({"rx-bytes": value})
        assert len(data) == 4 + octets
        assert SETS[Command.GET_STATS].decode(data) == {"rx-bytes": value}


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_octets_are_messages_or_one_error(data: bytes) -> None:
    with contextlib.suppress(genl.MalformedMessage):
        list(decode(data))


@settings(max_examples=300)
@given(st.sampled_from(RECORDED), st.data())
def test_changed_messages_are_messages_or_one_error(recorded: dict[str, Any], data: st.DataObject) -> None:
    octets = bytearray.fromhex(recorded["hex"])
    for _ in range(data.draw(st.integers(1, 3))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(genl.MalformedMessage):
        for _, content in decode(bytes(octets[: data.draw(st.integers(0, len(octets)))])):
            if isinstance(content, Message) and not any(name.startswith("attr") for name in content.attributes):
                content.encode()
