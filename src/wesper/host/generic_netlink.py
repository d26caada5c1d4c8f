"""Generic netlink: messages and attributes of a family to octets and back, the kernel's words on errors. No I/O.

Attributes are declared once, as `AttributeSet`s, and become dictionaries by name. Numbers are host order.
Constants: include/uapi/linux/netlink.h, genetlink.h; include/net/netlink.h.
"""

from __future__ import annotations

import enum
import errno
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import WesperError
from .netlink import NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST, attribute

NLM_F_DUMP: Final = 0x300
NLMSG_ERROR, NLMSG_DONE, NLMSG_MIN_TYPE = 2, 3, 16
GENL_ID_CTRL: Final = 16
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_HEADER, _GENERIC = struct.Struct("=IHHII"), struct.Struct("=BBH")
_TYPE_MASK: Final = 0x3FFF
_MAX_DEPTH: Final = 8

Attributes = dict[str, Any]


class MalformedMessage(WesperError):
    """Octets that are no netlink message of the family, or a value that no attribute can hold."""

    exit_code = 4


class Kind(enum.Enum):
    """What an attribute holds."""

    U16 = "u16"
    U32 = "u32"
    S32 = "s32"
    UINT = "uint"  # 4 octets where it fits, else 8
    STRING = "string"
    BINARY = "binary"
    FLAG = "flag"
    NEST = "nest"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute.   inside: of a nest.   repeated: it may come several times, and is a list.

    indexed: a nest of nests whose numbers are places in a list.
    """

    number: int
    name: str
    kind: Kind = Kind.U32
    inside: AttributeSet | None = None
    repeated: bool = False
    indexed: bool = False


class AttributeSet:
    """The attributes of one level.   Those that nobody declared are kept as `attribute N`, with their octets."""

    def __init__(self, name: str, *attributes: Attribute) -> None:
        self.name, self.attributes = name, attributes
        self.by_number = {each.number: each for each in attributes}
        self.by_name = {each.name: each for each in attributes}

    def decode(self, data: bytes, depth: int = 0) -> Attributes:
        """Return attributes by name, in their order.   Raises MalformedMessage."""
        if depth > _MAX_DEPTH:
            raise MalformedMessage(f"{self.name}: attributes nested too deeply")
        found: Attributes = {}
        for number, value in split(data):
            known = self.by_number.get(number)
            name = f"attribute {number}" if known is None else known.name
            got = value if known is None else _value(known, value, depth)
            if known is not None and known.repeated:
                found.setdefault(name, []).append(got)
            elif name in found:
                raise MalformedMessage(f"{self.name}: {name} comes twice")
            else:
                found[name] = got
        return found

    def encode(self, values: Mapping[str, Any]) -> bytes:
        """Return the octets of attributes, in the order given.   Raises MalformedMessage."""
        out = b""
        for name, value in values.items():
            known = self.by_name.get(name)
            if known is None:
                raise MalformedMessage(f"{self.name}: no attribute {name}")
            for each in value if known.repeated else (value,):
                flag = NLA_F_NESTED if known.kind is Kind.NEST else 0
                out += attribute(known.number | flag, _octets(known, each))
        return out


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a netlink message.   kind: family, or a control message's.   port: who asked; 0: the kernel."""

    kind: int
    flags: int
    sequence: int
    port: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """A request was refused.   number: errno.   text: the kernel's sentence, "" for none.

    offset: of the bad attribute, from the request's first octet.   missing: number of the attribute that is not there.
    policy: what that attribute would have to be: `type`, `min-value`, ... by number.
    """

    number: int
    text: str = ""
    offset: int | None = None
    missing: int | None = None
    policy: Mapping[int, bytes] | None = None

    @property
    def name(self) -> str:
        """The errno's name, as the kernel has it."""
        if self.number == errno.EOPNOTSUPP:  # to the C library ENOTSUP is the same
            return "EOPNOTSUPP"
        return errno.errorcode.get(self.number, str(self.number))


class End(enum.Enum):
    """How an exchange ends well."""

    ACK = "ack"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Body:
    """A message of a family.   command: its number.   data: attributes."""

    command: int
    version: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Received:
    """One message, taken apart as far as no family is needed."""

    header: Header
    content: Body | Fault | End


def build(
    family: int, command: int, data: bytes, *, flags: int, sequence: int, version: int = 1, port: int = 0
) -> bytes:
    """Return a message of a family.   data: attributes.   flags: NLM_F_*, whole."""
    body = _GENERIC.pack(command, version, 0) + data
    return _HEADER.pack(_HEADER.size + len(body), family, flags, sequence, port) + body


def request(family: int, command: int, data: bytes, *, sequence: int, dump: bool = False, version: int = 1) -> bytes:
    """Return a request, to be acknowledged, or one for a dump."""
    more = NLM_F_DUMP if dump else NLM_F_ACK
    return build(family, command, data, flags=NLM_F_REQUEST | more, sequence=sequence, version=version)


def receive(data: bytes) -> Iterator[Received]:
    """Yield the messages of a datagram.   Raises MalformedMessage."""
    at = 0
    while at < len(data):
        if at + _HEADER.size > len(data):
            raise MalformedMessage(f"{len(data) - at} octets where a message begins")
        octets, kind, flags, sequence, port = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= octets <= len(data) - at:
            raise MalformedMessage(f"a message of {octets} octets, and {len(data) - at} are there")
        body = data[at + _HEADER.size : at + octets]
        yield Received(Header(kind, flags, sequence, port), _content(kind, flags, sequence, body))
        at += (octets + 3) & ~3


def split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (number, octets) of each attribute.   Raises MalformedMessage."""
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise MalformedMessage(f"{len(data) - at} octets where an attribute begins")
        octets, kind = struct.unpack_from("=HH", data, at)
        if not 4 <= octets <= len(data) - at:
            raise MalformedMessage(f"an attribute of {octets} octets, and {len(data) - at} are there")
        end = at + ((octets + 3) & ~3)
        if any(data[at + octets : end]):
            raise MalformedMessage("padding that is not 0")
        yield kind & _TYPE_MASK, data[at + 4 : at + octets]
        at = end


def at_offset(declared: AttributeSet, message: bytes, offset: int) -> str:
    """Return the dotted name of the attribute of a request that stands at an offset, "" if none does."""
    start = _HEADER.size + _GENERIC.size
    return ".".join(_path(declared, message[start:], start, offset))


def _path(declared: AttributeSet, data: bytes, at: int, offset: int) -> list[str]:
    """Return the names around an offset.   at: where data begins."""
    for number, value in split(data):
        end = at + ((len(value) + 7) & ~3)
        if at <= offset < end:
            known = declared.by_number.get(number)
            names = [f"attribute {number}" if known is None else known.name]
            if offset > at and known is not None and known.inside is not None:
                names += _path(known.inside, value, at + 4, offset)
            return names
        at = end
    return []


def _content(kind: int, flags: int, sequence: int, body: bytes) -> Body | Fault | End:
    if kind >= NLMSG_MIN_TYPE:
        if len(body) < _GENERIC.size:
            raise MalformedMessage(f"{len(body)} octets for a generic netlink header")
        command, version, reserved = _GENERIC.unpack_from(body)
        if reserved:
            raise MalformedMessage("a reserved field that is not 0")
        return Body(command, version, body[_GENERIC.size :])
    if kind not in (NLMSG_ERROR, NLMSG_DONE):
        raise MalformedMessage(f"a control message of kind {kind}")
    if len(body) < 4:
        raise MalformedMessage("no error number")
    (number,) = struct.unpack_from("=i", body)
    if number > 0:
        raise MalformedMessage(f"error number {number}, which is more than 0")
    if kind == NLMSG_DONE:
        words = split(body[4:]) if flags & _NLM_F_ACK_TLVS else iter(())
        return _fault(-number, words) if number else End.DONE
    # struct nlmsgerr: error, header of the request, and the request's body unless it was capped
    if len(body) < 4 + _HEADER.size:
        raise MalformedMessage("no request in an acknowledgement")
    octets, _, _, quoted, port = _HEADER.unpack_from(body, 4)
    if quoted != sequence or port:
        raise MalformedMessage("an acknowledgement of another request")
    end = 4 + _HEADER.size if flags & _NLM_F_CAPPED or not number else 4 + ((octets + 3) & ~3)
    if octets < _HEADER.size or end > len(body):
        raise MalformedMessage("the request in an acknowledgement is cut")
    if not flags & _NLM_F_ACK_TLVS and end != len(body):
        raise MalformedMessage("octets behind an acknowledgement")
    words = split(body[end:])
    if number:
        return _fault(-number, words)
    for _ in words:  # warnings, which only tell
        pass
    return End.ACK


def _fault(number: int, words: Iterator[tuple[int, bytes]]) -> Fault:
    # enum nlmsgerr_attrs
    given = dict(words)
    text = given.get(1, b"")
    policy = given.get(4)
    return Fault(
        number,
        text.rstrip(b"\0").decode("utf-8", "replace"),
        _number(given[2]) if 2 in given else None,
        _number(given[5]) if 5 in given else None,
        None if policy is None else dict(split(policy)),
    )


def _number(value: bytes, octets: int = 4, *, signed: bool = False) -> int:
    if len(value) != octets:
        raise MalformedMessage(f"a number of {len(value)} octets, not {octets}")
    return int.from_bytes(value, sys.byteorder, signed=signed)


def _value(known: Attribute, value: bytes, depth: int) -> Any:
    match known.kind:
        case Kind.U16:
            return _number(value, 2)
        case Kind.U32 | Kind.S32:
            return _number(value, signed=known.kind is Kind.S32)
        case Kind.UINT:
            return _number(value, 8 if len(value) == 8 else 4)
        case Kind.STRING:
            return value.rstrip(b"\0").decode("utf-8", "replace")
        case Kind.BINARY:
            return value
        case Kind.FLAG:
            if value:
                raise MalformedMessage(f"{known.name}: {len(value)} octets for a flag")
            return True
        case Kind.NEST:
            assert known.inside is not None  # its declaration says so
            if known.indexed:
                return [known.inside.decode(each, depth + 1) for _, each in split(value)]
            return known.inside.decode(value, depth + 1)


def _octets(known: Attribute, value: Any) -> bytes:
    try:
        match known.kind:
            case Kind.U16:
                return struct.pack("=H", value)
            case Kind.U32:
                return struct.pack("=I", value)
            case Kind.S32:
                return struct.pack("=i", value)
            case Kind.UINT:
                return struct.pack("=I" if value < 1 << 32 else "=Q", value)
            case Kind.STRING:
                return bytes(value.encode() + b"\0")
            case Kind.BINARY:
                return bytes(value)
            case Kind.FLAG:
                return b""
            case Kind.NEST:
                assert known.inside is not None  # its declaration says so
                return known.inside.encode(value)
    except struct.error:
        raise MalformedMessage(f"{known.name}: {value} is no {known.kind.value}") from None


_OPERATION: Final = AttributeSet("op", Attribute(1, "id"), Attribute(2, "flags"))
_GROUP: Final = AttributeSet("group", Attribute(1, "name", Kind.STRING), Attribute(2, "id"))
CONTROLLER: Final = AttributeSet(
    "ctrl",
    Attribute(1, "family-id", Kind.U16),
    Attribute(2, "family-name", Kind.STRING),
    Attribute(3, "version"),
    Attribute(6, "ops", Kind.NEST, _OPERATION, indexed=True),
    Attribute(7, "mcast-groups", Kind.NEST, _GROUP, indexed=True),
)
"""What the controller says of a family."""
CTRL_CMD_GETFAMILY: Final = 3
