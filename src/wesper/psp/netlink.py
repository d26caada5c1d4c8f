"""The kernel's own PSP: generic netlink family `psp`, its messages, and a client that talks to it.

What a NIC's driver offers is a PSP device; sockets get their keys from it and give it their peers'. Nothing here
encrypts. Linux has the family from 6.18 on, where a kernel was built with it.

    with Family() as family:
        for device in family.devices():
            print(device.id, sorted(device.enabled))

Layout: Documentation/netlink/specs/psp.yaml, include/uapi/linux/psp.h.
"""

from __future__ import annotations

import enum
import errno
import select
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Protocol, Self

from ..crypto.psp import VERSIONS
from ..errors import ConfigError, KeyMaterialError, PermissionNeeded, UnsupportedError
from ..host import generic_netlink as genl
from ..host.generic_netlink import Attribute, Attributes, AttributeSet, Body, End, Fault, Kind, MalformedMessage
from ..host.netlink import NetlinkError

NETLINK_GENERIC: Final = 16
_SOL_NETLINK, _ADD_MEMBERSHIP, _CAP_ACK, _EXT_ACK = 270, 1, 10, 11
_ROOM: Final = 1 << 17
_LARGEST: Final = (1 << 32) - 1


class Command(enum.IntEnum):
    """Operations and notifications, by the names of psp.yaml with `_` for `-`."""

    DEV_GET = 1
    DEV_ADD_NTF = 2
    DEV_DEL_NTF = 3
    DEV_SET = 4
    DEV_CHANGE_NTF = 5
    KEY_ROTATE = 6
    KEY_ROTATE_NTF = 7
    RX_ASSOC = 8
    TX_ASSOC = 9
    GET_STATS = 10
    DEV_ASSOC = 11
    DEV_DISASSOC = 12

    @property
    def title(self) -> str:
        """The name, as psp.yaml writes it."""
        return self.name.lower().replace("_", "-")


KEYS: Final = AttributeSet("keys", Attribute(1, "key", Kind.BINARY), Attribute(2, "spi"))
_ASSOCIATED: Final = AttributeSet("assoc-dev-info", Attribute(1, "ifindex"), Attribute(2, "nsid", Kind.S32))
DEV: Final = AttributeSet(
    "dev",
    Attribute(1, "id"),
    Attribute(2, "ifindex"),
    Attribute(3, "psp-versions-cap"),
    Attribute(4, "psp-versions-ena"),
    Attribute(5, "assoc-list", Kind.NEST, _ASSOCIATED, repeated=True),
    Attribute(6, "nsid", Kind.S32),
    Attribute(7, "by-association", Kind.FLAG),
)
ASSOC: Final = AttributeSet(
    "assoc",
    Attribute(1, "dev-id"),
    Attribute(2, "version"),
    Attribute(3, "rx-key", Kind.NEST, KEYS),
    Attribute(4, "tx-key", Kind.NEST, KEYS),
    Attribute(5, "sock-fd"),
)
STATS: Final = AttributeSet(
    "stats",
    Attribute(1, "dev-id"),
    Attribute(2, "key-rotations", Kind.UINT),
    Attribute(3, "stale-events", Kind.UINT),
    Attribute(4, "rx-packets", Kind.UINT),
    Attribute(5, "rx-bytes", Kind.UINT),
    Attribute(6, "rx-auth-fail", Kind.UINT),
    Attribute(7, "rx-error", Kind.UINT),
    Attribute(8, "rx-bad", Kind.UINT),
    Attribute(9, "tx-packets", Kind.UINT),
    Attribute(10, "tx-bytes", Kind.UINT),
    Attribute(11, "tx-error", Kind.UINT),
    Attribute(12, "tx-key-cnt", Kind.UINT),
)
SETS: Final[Mapping[Command, AttributeSet]] = {
    command: {Command.RX_ASSOC: ASSOC, Command.TX_ASSOC: ASSOC, Command.GET_STATS: STATS}.get(command, DEV)
    for command in Command
}
"""Which attributes a command has."""
COUNTERS: Final = tuple(each.name.replace("-", "_") for each in STATS.attributes[1:11])


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the family, or the end of an exchange.

    attributes: by the names of psp.yaml, in their order.   version: of the family.
    """

    header: genl.Header
    command: Command
    attributes: Attributes = field(repr=False)  # keys may be among them
    version: int = 1

    def encode(self) -> bytes:
        """Return its octets.   Raises MalformedMessage."""
        header = self.header
        data = SETS[self.command].encode(self.attributes)
        return genl.build(
            header.kind,
            self.command,
            data,
            flags=header.flags,
            sequence=header.sequence,
            version=self.version,
            port=header.port,
        )


def decode(data: bytes) -> Iterator[tuple[genl.Header, Message | Fault | End]]:
    """Yield what a datagram of the family holds.   Raises MalformedMessage."""
    for received in genl.receive(data):
        content = received.content
        if not isinstance(content, Body):
            yield received.header, content
            continue
        try:
            command = Command(content.command)
        except ValueError:
            raise MalformedMessage(f"no command {content.command} in family psp") from None
        attributes = SETS[command].decode(content.data)
        yield received.header, Message(received.header, command, attributes, content.version)


class Refused(NetlinkError):
    """The kernel refused a request.   number: errno.   said: its own sentence.   attribute: dotted name of the one at
    fault or missing, "" if the kernel names none.
    """

    def __init__(self, command: Command, fault: Fault, attribute: str) -> None:
        self.said, self.attribute, self.missing = fault.text, attribute, fault.missing is not None
        at = f"{'no ' if self.missing else 'at '}{attribute}" if attribute else ""
        super().__init__(f"psp {command.title}", fault.number, ", ".join(part for part in (fault.text, at) if part))


@dataclass(frozen=True, slots=True)
class Associated:
    """A network device that may use a PSP device without being its own.   nsid: of its network namespace."""

    ifindex: int
    nsid: int | None = None


@dataclass(frozen=True, slots=True)
class KernelDevice:
    """A PSP device of the kernel.

    ifindex: of its network device.   capable, enabled: PSP versions; those enabled are received, the others are still
    sent.   associated: further network devices that use it.   nsid: of the namespace it lives in, where that is
    another.   by_association: it is seen here only because a network device of this namespace uses it.
    """

    id: int
    ifindex: int
    capable: frozenset[int]
    enabled: frozenset[int]
    associated: tuple[Associated, ...] = ()
    nsid: int | None = None
    by_association: bool = False


@dataclass(frozen=True, slots=True)
class ReceiveKey:
    """What a socket receives with; its peer is to have it.   device: id.   spi, key: of the device's own choice."""

    device: int
    version: int
    spi: int
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Notification:
    """Something happened to a device.   command: DEV_ADD_NTF, DEV_DEL_NTF, DEV_CHANGE_NTF or KEY_ROTATE_NTF.

    device: its id.   state: the device, None with KEY_ROTATE_NTF.
    """

    command: Command
    device: int
    state: KernelDevice | None = None


class Socket(Protocol):
    """What a client needs of a netlink socket; a guest's has it too."""

    def setsockopt(self, level: int, name: int, value: int, /) -> None: ...
    def send(self, data: bytes, /) -> int: ...
    def recv(self, octets: int, /) -> bytes: ...
    def close(self) -> None: ...


class HasDescriptor(Protocol):
    """A socket."""

    def fileno(self) -> int: ...


class Family:
    """The kernel's family `psp`, in the network namespace where the socket was opened.

    opened: a generic netlink socket, which becomes this object's.
    Raises UnsupportedError if this kernel has no PSP.
    Methods raise Refused with the kernel's words, and PermissionNeeded for what only an administrator may do.
    """

    def __init__(self, opened: Socket | None = None) -> None:
        self._socket = opened or _open()
        self._sequence = 0
        try:
            for name in (_CAP_ACK, _EXT_ACK):
                self._socket.setsockopt(_SOL_NETLINK, name, 1)
            self.id, self.groups = self._resolve()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket.   Associations live on with the sockets that they were made for."""
        self._socket.close()

    # Devices

    def devices(self) -> list[KernelDevice]:
        """Return all PSP devices that this namespace sees."""
        return [_device(each) for each in self._ask(Command.DEV_GET, {}, dump=True)]

    def device(self, number: int) -> KernelDevice:
        """Return one.   number: its id."""
        return _device(self._one(Command.DEV_GET, {"id": number}))

    def set_versions(self, number: int, versions: Iterable[int]) -> None:
        """Enable these PSP versions for receiving, and no others.   Needs CAP_NET_ADMIN."""
        mask = 0
        for version in versions:
            mask |= 1 << _version(version)
        self._one(Command.DEV_SET, {"id": number, "psp-versions-ena": mask})

    def rotate(self, number: int) -> None:
        """Rotate the device key: keys of the generation before the last receive no more.   Needs CAP_NET_ADMIN."""
        self._one(Command.KEY_ROTATE, {"id": number})

    def statistics(self, number: int) -> dict[str, int]:
        """Return a device's counters: those of COUNTERS, and what newer kernels have."""
        return _counters(self._one(Command.GET_STATS, {"dev-id": number}))

    def all_statistics(self) -> dict[int, dict[str, int]]:
        """Return the counters of all devices by id."""
        return {each["dev-id"]: _counters(each) for each in self._ask(Command.GET_STATS, {}, dump=True)}

    def associate(self, number: int, ifindex: int, nsid: int | None = None) -> None:
        """Let a network device use a PSP device, such as a virtual one in another namespace.   Needs CAP_NET_ADMIN.

        nsid: of its namespace, as this one knows it; None: this one.
        """
        self._one(Command.DEV_ASSOC, _used(number, ifindex, nsid))

    def disassociate(self, number: int, ifindex: int, nsid: int | None = None) -> None:
        """Undo `associate`.   Needs CAP_NET_ADMIN."""
        self._one(Command.DEV_DISASSOC, _used(number, ifindex, nsid))

    # Sockets

    def receive_with(self, tcp: HasDescriptor | int, version: int = 0, device: int | None = None) -> ReceiveKey:
        """Have a TCP socket receive PSP (rx-assoc), and return the key that its peer needs.

        device: id; None: that of the socket's route, which a connected socket has.
        """
        values: Attributes = {} if device is None else {"dev-id": device}
        values |= {"version": version, "sock-fd": _descriptor(tcp)}
        reply = self._one(Command.RX_ASSOC, values)
        keys = reply["rx-key"]
        return ReceiveKey(reply["dev-id"], version, keys["spi"], keys["key"])

    def send_with(
        self, tcp: HasDescriptor | int, spi: int, key: bytes, version: int = 0, device: int | None = None
    ) -> None:
        """Have a TCP socket send with the key that its peer has given (tx-assoc), and take nothing else any more.

        The socket must receive PSP already, and all that came in clear must have been read.
        """
        if len(key) not in (16, 32):
            raise KeyMaterialError(f"{len(key)} octets", key="key", expected="16 octets, or 32")
        values: Attributes = {} if device is None else {"dev-id": device}
        values |= {"version": version, "tx-key": {"key": key, "spi": spi}, "sock-fd": _descriptor(tcp)}
        self._one(Command.TX_ASSOC, values)

    # Notifications

    def watch(self) -> Watch:
        """Return what tells of devices and rotations from now on."""
        return Watch(self.id, self.groups)

    # The exchange

    def _resolve(self) -> tuple[int, dict[str, int]]:
        """Return the family's number and its groups'."""
        self._sequence += 1
        name = genl.CONTROLLER.encode({"family-name": "psp"})
        message = genl.request(genl.GENL_ID_CTRL, genl.CTRL_CMD_GETFAMILY, name, sequence=self._sequence)
        self._socket.send(message)
        found: Attributes = {}
        for content in self._answers():
            if isinstance(content, Fault):
                if content.number == errno.ENOENT:
                    raise no_psp()
                raise NetlinkError("family psp", content.number, content.text)
            if isinstance(content, Body):
                found = genl.CONTROLLER.decode(content.data)
        groups = {each["name"]: each["id"] for each in found.get("mcast-groups", [])}
        return found["family-id"], groups

    def _one(self, command: Command, values: Attributes) -> Attributes:
        """Return the attributes of the one answer."""
        answers = self._ask(command, values)
        if len(answers) != 1:
            raise MalformedMessage(f"{len(answers)} answers to psp {command.title}")
        return answers[0]

    def _ask(self, command: Command, values: Attributes, *, dump: bool = False) -> list[Attributes]:
        self._sequence += 1
        data = SETS[command].encode(values)
        message = genl.request(self.id, command, data, sequence=self._sequence, dump=dump)
        self._socket.send(message)
        found = []
        for content in self._answers():
            if isinstance(content, Fault):
                raise _refusal(command, content, message)
            if isinstance(content, Body):
                found.append(SETS[command].decode(content.data))
        return found

    def _answers(self) -> Iterator[Body | Fault | End]:
        """Yield what answers the last request, to its end."""
        while True:
            for received in genl.receive(self._socket.recv(_ROOM)):
                if received.header.sequence != self._sequence:
                    continue  # of a request that was given up
                yield received.content
                if not isinstance(received.content, Body):
                    return


class Watch:
    """Notifications of the family.   A context manager; `fileno()` is for an event loop."""

    def __init__(self, family: int, groups: Mapping[str, int]) -> None:
        self._family = family
        self._socket = _open()
        self._socket.bind((0, 0))  # a socket without a port of its own gets no notifications
        for name in ("mgmt", "use"):
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, groups[name])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is a notification."""
        return self._socket.fileno()

    def receive(self, timeout: float | None = None) -> list[Notification]:
        """Return what comes next, [] if nothing does within timeout seconds; None waits for ever.

        Raises NetlinkError with ENOBUFS if notifications were lost, because nobody fetched them: ask for the devices.
        """
        if not select.select([self._socket], [], [], timeout)[0]:
            return []
        try:
            data = self._socket.recv(_ROOM)
        except OSError as error:
            raise NetlinkError("PSP notifications", error.errno or 0, "some were lost") from None
        return [
            notification(content)
            for header, content in decode(data)
            if header.kind == self._family and isinstance(content, Message)
        ]


def notification(message: Message) -> Notification:
    """Return a notification of its message."""
    state = None if message.command is Command.KEY_ROTATE_NTF else _device(message.attributes)
    return Notification(message.command, message.attributes["id"], state)


def no_psp() -> UnsupportedError:
    """Return what is said of a kernel that has no PSP."""
    needs = "this kernel has no PSP; Linux has it from 6.18 on, where it was built with CONFIG_INET_PSP"
    return UnsupportedError("the kernel's own PSP", needs)


def _open() -> socket.socket:
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_GENERIC)
    except OSError as error:
        if error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            raise no_psp() from None
        raise


def _refusal(command: Command, fault: Fault, message: bytes) -> PermissionNeeded | Refused:
    if fault.number == errno.EPERM:
        return PermissionNeeded("CAP_NET_ADMIN", f"psp {command.title}")
    declared = SETS[command]
    name = ""
    if fault.missing is not None:
        known = declared.by_number.get(fault.missing)
        name = known.name if known else f"attribute {fault.missing}"
    elif fault.offset is not None:
        name = genl.at_offset(declared, message, fault.offset)
    return Refused(command, fault, name)


def _device(values: Attributes) -> KernelDevice:
    return KernelDevice(
        values["id"],
        values.get("ifindex", 0),
        _versions(values.get("psp-versions-cap", 0)),
        _versions(values.get("psp-versions-ena", 0)),
        tuple(Associated(each["ifindex"], each.get("nsid")) for each in values.get("assoc-list", [])),
        values.get("nsid"),
        values.get("by-association", False),
    )


def _versions(mask: int) -> frozenset[int]:
    return frozenset(version for version in range(32) if mask >> version & 1)


def _version(version: int) -> int:
    if version not in VERSIONS:
        raise ConfigError(f"version {version}", key="version", expected="0..3")
    return version


def _counters(values: Attributes) -> dict[str, int]:
    return {name.replace("-", "_"): value for name, value in values.items() if name != "dev-id"}


def _used(number: int, ifindex: int, nsid: int | None) -> Attributes:
    values: Attributes = {"id": number, "ifindex": ifindex}
    return values if nsid is None else values | {"nsid": nsid}


def _descriptor(tcp: HasDescriptor | int) -> int:
    return tcp if isinstance(tcp, int) else tcp.fileno()


__all__ = [
    "COUNTERS",
    "Associated",
    "Command",
    "Family",
    "KernelDevice",
    "Message",
    "Notification",
    "ReceiveKey",
    "Refused",
    "Watch",
    "decode",
    "no_psp",
    "notification",
]
