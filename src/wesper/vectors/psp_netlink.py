"""The PSP netlink kind: messages of the kernel's family, taken apart and built again."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..host.generic_netlink import Attribute, Attributes, AttributeSet, End, Fault, Header, MalformedMessage
from ..host.generic_netlink import Kind as Holds
from ..host.netlink import NLM_F_REQUEST
from ..psp import netlink
from ..psp.netlink import SETS, Command, Message
from .case import Case
from .fields import FieldError, Fields
from .kind import CaseList, Kind

_TITLES: Final[Mapping[str, Command]] = {command.title: command for command in Command}
_DIRECTIONS: Final = ("request", "response", "notification")
_POLICY_TYPES: Final = range(17)  # enum netlink_attribute_type
_U32: Final = (1 << 32) - 1


def _run(entry: Fields, case: Case) -> None:
    """Take a message apart, compare each field, and build the same octets again."""
    octets = entry.octets("hex")
    direction = entry.word("direction", _DIRECTIONS)
    if direction != "notification" or entry.has("pair"):
        entry.integer("pair", 1, _U32)
    try:
        ((header, content),) = netlink.decode(octets)
    except (MalformedMessage, ValueError) as error:
        raise FieldError(f"hex is no message of the family: {error}") from None
    expected = entry.object("decoded")
    if isinstance(content, Message):
        _compare_message(content, expected, case)
    elif isinstance(content, Fault):
        _compare_fault(content, expected, case)
    else:
        word = "ack" if content is End.ACK else "done"
        case.equal(word, 1, int(expected.flag(word)))
    case.equal("direction", direction, _direction(header, content))
    if isinstance(content, Message):
        case.equal("message, built again", octets, content.encode())


def _direction(header: Header, content: Message | Fault | End) -> str:
    """Return what a message is by its header: the kernel's notifications answer nobody."""
    if isinstance(content, Message) and header.flags & NLM_F_REQUEST:
        return "request"
    return "response" if header.sequence else "notification"


def _compare_message(content: Message, expected: Fields, case: Case) -> None:
    command = _TITLES[expected.word("cmd", _TITLES)]
    case.equal("command", command.title, content.command.title)
    case.equal("family's version", 1, content.version)
    wanted = _attributes(SETS[command], expected.object("attrs"))
    expected_fields, got_fields = dict(_flat("attrs", wanted)), dict(_flat("attrs", content.attributes))
    for name in expected_fields | got_fields:
        case.equal(name, expected_fields.get(name), got_fields.get(name), secret=name.endswith("key.key"))
    if content.header.flags & NLM_F_REQUEST:  # what a client of ours would send, in the declaration's order
        built = Message(content.header, command, wanted, content.version).encode()
        case.equal("request, built from its fields", content.encode(), built)


def _compare_fault(content: Fault, expected: Fields, case: Case) -> None:
    case.equal("error", expected.text("error"), content.name)
    case.equal("text", expected.text("text") if expected.has("text") else "", content.text)
    for key, got in (("bad_attribute_offset", content.offset), ("missing_type", content.missing)):
        case.equal(key, expected.integer(key, 0, _U32) if expected.has(key) else None, got)
    # What the kernel says an attribute should be is not in the file; it has to make sense all the same.
    kind = (content.policy or {}).get(1)
    if kind is not None:
        case.equal("policy's type is known", 1, int(int.from_bytes(kind, sys.byteorder) in _POLICY_TYPES))


def _attributes(declared: AttributeSet, fields: Fields) -> Attributes:
    """Return what an entry says of attributes, in the declaration's order."""
    return {each.name: _value(each, fields) for each in declared.attributes if fields.has(each.name)}


def _value(each: Attribute, fields: Fields) -> Any:
    if each.inside is not None and each.repeated:
        return [_attributes(each.inside, inside) for inside in fields.objects(each.name)]
    if each.inside is not None:
        return _attributes(each.inside, fields.object(each.name))
    match each.kind:
        case Holds.BINARY:
            return fields.octets(each.name, secret=True)
        case Holds.FLAG:
            return fields.flag(each.name)
        case Holds.S32:
            return fields.integer(each.name, -(1 << 31), (1 << 31) - 1)
        case Holds.UINT:
            return fields.integer(each.name, 0, (1 << 64) - 1)
        case _ if each.name == "spi":
            return fields.number(each.name, 32)
        case _:
            return fields.integer(each.name, 0, _U32)


def _flat(path: str, value: Any) -> Iterator[tuple[str, bytes | int | None]]:
    """Yield each number and octet string with its dotted name.   An empty list or object is one too."""
    if not isinstance(value, dict | list):
        yield path, value
        return
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    yield f"{path}, entries", len(value)
    for name, each in inside:
        yield from _flat(f"{path}.{name}" if isinstance(value, dict) else f"{path}[{name}]", each)


KIND: Final = Kind(
    "PSP netlink",
    ("format",),
    lambda document: document.get("format") == "psp-netlink/1",
    frozenset(("format", "kernel", "byte_order", "how_to_read", "family")),
    {"messages": CaseList(_run, per_engine=False)},
)
