"""The PSP exchange's messages: from octets and back, columns as arrays. Nothing here keeps anything."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..crypto.psp import VERSIONS
from ..wire.format import TruncatedHeader
from ..wire.psp_exchange import MAGIC, MAY_BE_SKIPPED, VERSION, Accept, Error, Frame, Hello, Listed, Open, Refuse, Token

LONGEST: Final = 4 << 20  # octets of a message
LONGEST_HELLO: Final = 256
LONGEST_TEXT: Final = 200  # octets of a sentence
MOST_BATCH: Final = 65_536  # associations in a message

_U1, _U2, _U4, _U8 = (np.dtype(each) for each in ("u1", ">u2", ">u4", ">u8"))
_ONE = np.uint32(1)

SPIs = NDArray[np.uint32]
Keys = NDArray[np.uint8]
Ids = NDArray[np.uint64]
Ports = NDArray[np.uint16]


class Kind(enum.IntEnum):
    """What a connection carries."""

    RAW = 0  # whatever the program that asked for it sends
    DATAGRAM = 1
    STREAM = 2


_KINDS: Final = frozenset(Kind)


class Type(enum.IntEnum):
    """Which message."""

    HELLO = 1
    OPEN = 2
    ACCEPT = 3
    REFUSE = 4
    REKEY = 5
    REKEYED = 6
    WANTED = 7
    CLOSE = 8
    PING = 9
    PONG = 10
    ERROR = 11
    ROTATED = 0x81


class RefuseReason(enum.IntEnum):
    """Why connections are not agreed on."""

    NOBODY_LISTENS = 1
    QUEUE_FULL = 2
    NO_VERSION = 3
    TOO_MANY = 4
    NOT_ALLOWED = 5
    NO_SPIS = 6
    NO_ANSWER = 7  # of our own making: the peer has not answered in time


class CloseReason(enum.IntEnum):
    """Why a connection ends."""

    DONE = 0
    LOST = 1


class EndReason(enum.IntEnum):
    """Why an exchange ends."""

    CLOSED = 0  # the stream has ended
    STOPPED = 1  # one side goes away
    NOT_PSPX = 2
    NO_COMMON_VERSION = 3
    NO_COMMON_PSP_VERSION = 4
    BAD_MESSAGE = 5
    UNKNOWN_MESSAGE = 6
    BAD_ID = 7
    BAD_SPI = 8
    TOO_MANY = 9
    TOO_SLOW = 10  # the peer does not read, or does not answer
    DUPLICATE = 11  # the two hosts have another control connection
    OUT_OF_ORDER = 12


class BadMessage(ValueError):
    """What the peer sent is none of the messages.   Internal: the exchange ends with the reason."""

    def __init__(self, reason: EndReason, sentence: str) -> None:
        self.reason, self.sentence = reason, sentence
        super().__init__(sentence)


@dataclass(frozen=True, slots=True)
class HelloMessage:
    """First message."""

    minimum: int
    maximum: int
    psp_versions: frozenset[int]
    udp_port: int
    most_associations: int
    most_batch: int


@dataclass(frozen=True, slots=True, eq=False)
class OpenMessage:
    """ports: (n, 2), service port and the opener's; None for raw.   spis: (n,); keys: (n, 16 or 32)."""

    kind: Kind
    version: int
    first_id: int
    ports: Ports | None
    spis: SPIs
    keys: Keys = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class AcceptMessage:
    """spis: (n,); keys: (n, 16 or 32): what the opener sends with."""

    version: int
    first_id: int
    spis: SPIs
    keys: Keys = field(repr=False)


@dataclass(frozen=True, slots=True)
class RefuseMessage:
    """Not agreed."""

    reason: int
    first_id: int
    count: int
    sentence: str


@dataclass(frozen=True, slots=True, eq=False)
class ListMessage:
    """REKEYED, WANTED and CLOSE.   by_sender: who sent this had opened them."""

    type: Type
    by_sender: bool
    ids: Ids
    reason: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class RekeyMessage:
    """Send with these from now on."""

    by_sender: bool
    version: int
    ids: Ids
    spis: SPIs
    keys: Keys = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenMessage:
    """PING, PONG, ROTATED."""

    type: Type
    token: int


@dataclass(frozen=True, slots=True)
class ErrorMessage:
    """The last one."""

    code: int
    sentence: str


Message = (
    HelloMessage
    | OpenMessage
    | AcceptMessage
    | RefuseMessage
    | ListMessage
    | RekeyMessage
    | TokenMessage
    | ErrorMessage
    | None
)
"""None: one that may be skipped."""


def parse(type: int, body: bytes) -> Message:
    """Read one message.   Raises BadMessage."""
    try:
        return _parse(type, body)
    except TruncatedHeader as error:
        raise BadMessage(EndReason.BAD_MESSAGE, str(error)) from None


def _parse(type: int, body: bytes) -> Message:
    match type:
        case Type.HELLO:
            return _hello(body)
        case Type.OPEN:
            head = Open.parse(body)
            if head.kind not in _KINDS:
                raise BadMessage(EndReason.BAD_MESSAGE, f"kind {head.kind}")
            columns = _Columns(body, Open.SIZE, head.count)
            _run(head.first_id, head.count)
            ports = None if head.kind == Kind.RAW else columns.take(_U2, 2).astype(np.uint16).reshape(-1, 2)
            spis, keys = columns.associations(head.psp_version)
            return OpenMessage(Kind(head.kind), head.psp_version, head.first_id, ports, spis, keys)
        case Type.ACCEPT:
            accepted = Accept.parse(body)
            columns = _Columns(body, Accept.SIZE, accepted.count)
            spis, keys = columns.associations(accepted.psp_version)
            return AcceptMessage(accepted.psp_version, accepted.first_id, spis, keys)
        case Type.REFUSE:
            refused = Refuse.parse(body)
            return RefuseMessage(refused.reason, refused.first_id, refused.count, _sentence(body[Refuse.SIZE :]))
        case Type.REKEY:
            listed = Listed.parse(body)
            columns = _Columns(body, Listed.SIZE, listed.count)
            ids = columns.take(_U8).astype(np.uint64)
            spis, keys = columns.associations(listed.psp_version)
            return RekeyMessage(_owner(listed.owner), listed.psp_version, ids, spis, keys)
        case Type.REKEYED | Type.WANTED | Type.CLOSE:
            listed = Listed.parse(body)
            columns = _Columns(body, Listed.SIZE, listed.count)
            ids = columns.take(_U8).astype(np.uint64)
            columns.end()
            return ListMessage(Type(type), _owner(listed.owner), ids, listed.reason)
        case Type.PING | Type.PONG | Type.ROTATED:
            return TokenMessage(Type(type), Token.parse(body).token)
        case Type.ERROR:
            return ErrorMessage(Error.parse(body, text=0).code, _sentence(body[Error.SIZE :]))
    if type & MAY_BE_SKIPPED:
        return None
    raise BadMessage(EndReason.UNKNOWN_MESSAGE, f"message of type {type}")


def _hello(body: bytes) -> HelloMessage:
    if len(body) < 4 or int.from_bytes(body[:4], "big") != MAGIC:
        raise BadMessage(EndReason.NOT_PSPX, "the peer does not speak the PSP exchange")
    head = Hello.parse(body)
    if head.minimum > head.maximum or not head.udp_port or not head.most_batch:
        raise BadMessage(EndReason.BAD_MESSAGE, "a HELLO that contradicts itself")
    versions = frozenset(version for version in VERSIONS if head.psp_versions >> version & 1)
    return HelloMessage(
        head.minimum, head.maximum, versions, head.udp_port, head.most_associations, min(head.most_batch, MOST_BATCH)
    )


def hello(psp_versions: frozenset[int], udp_port: int, most_associations: int, most_batch: int) -> bytes:
    """Return a HELLO."""
    mask = sum(1 << version for version in psp_versions)
    head = Hello(MAGIC, VERSION, VERSION, mask, 0, udp_port, 0, most_associations, most_batch)
    return _framed(Type.HELLO, head.build())


def open_(kind: Kind, version: int, first_id: int, ports: Ports | None, spis: SPIs, keys: Keys) -> bytes:
    """Return an OPEN."""
    columns = b"" if ports is None else ports.astype(">u2").tobytes()
    head = Open(version, kind, 0, len(spis), first_id).build()
    return _framed(Type.OPEN, head + columns + _associations(spis, keys))


def accept(version: int, first_id: int, spis: SPIs, keys: Keys) -> bytes:
    """Return an ACCEPT."""
    return _framed(Type.ACCEPT, Accept(version, 0, 0, len(spis), first_id).build() + _associations(spis, keys))


def refuse(reason: RefuseReason, first_id: int, count: int, sentence: str) -> bytes:
    """Return a REFUSE."""
    return _framed(Type.REFUSE, Refuse(reason, 0, count, first_id).build() + _octets(sentence))


def rekey(by_sender: bool, version: int, ids: Ids, spis: SPIs, keys: Keys) -> bytes:
    """Return a REKEY."""
    head = Listed(not by_sender, version, 0, len(ids)).build()
    return _framed(Type.REKEY, head + ids.astype(">u8").tobytes() + _associations(spis, keys))


def listed(type: Type, by_sender: bool, ids: Ids, reason: int = 0) -> bytes:
    """Return a REKEYED, WANTED or CLOSE."""
    return _framed(type, Listed(not by_sender, 0, reason, len(ids)).build() + ids.astype(">u8").tobytes())


def token(type: Type, number: int) -> bytes:
    """Return a PING, PONG or ROTATED."""
    return _framed(type, Token(number).build())


def error(code: EndReason, sentence: str) -> bytes:
    """Return an ERROR."""
    return _framed(Type.ERROR, Error(code, 0, _octets(sentence)).build())


class _Columns:
    """The octets behind a header, taken off as columns of so many rows."""

    def __init__(self, body: bytes, at: int, count: int) -> None:
        if not 0 < count <= MOST_BATCH:
            raise BadMessage(EndReason.TOO_MANY, f"{count} associations in one message")
        self._body, self._at, self._count = body, at, count

    def take(self, dtype: np.dtype[Any], width: int = 1) -> NDArray[Any]:
        """Return the next column, one item after another.   width: items in a row."""
        items = self._count * width
        size = items * dtype.itemsize
        if self._at + size > len(self._body):
            raise BadMessage(EndReason.BAD_MESSAGE, "a message shorter than its columns")
        column = np.frombuffer(self._body, dtype, items, self._at)
        self._at += size
        return column

    def associations(self, version: int) -> tuple[SPIs, Keys]:
        """Return the last two columns."""
        if version not in VERSIONS:
            raise BadMessage(EndReason.BAD_MESSAGE, f"PSP version {version}")
        spis = self.take(_U4).astype(np.uint32)
        # Shifted, a reserved SPI is 0: the top bit is the only one that it may have.
        if np.count_nonzero(spis << _ONE) != len(spis):
            raise BadMessage(EndReason.BAD_SPI, "a reserved SPI")
        width = VERSIONS[version].key_octets
        keys = self.take(_U1, width).reshape(self._count, width)
        self.end()
        return spis, keys

    def end(self) -> None:
        """Check that nothing is left."""
        if self._at != len(self._body):
            raise BadMessage(EndReason.BAD_MESSAGE, "a message longer than its columns")


def _associations(spis: SPIs, keys: Keys) -> bytes:
    return spis.astype(">u4").tobytes() + np.ascontiguousarray(keys).tobytes()


def _framed(type: Type, body: bytes) -> bytes:
    return Frame(len(body), type).build() + body


def _run(first_id: int, count: int) -> None:
    if first_id + count > 1 << 64:
        raise BadMessage(EndReason.BAD_ID, "ids that do not fit 64 bits")


def _owner(value: int) -> bool:
    if value > 1:
        raise BadMessage(EndReason.BAD_MESSAGE, f"owner {value}")
    return value == 0


def _octets(sentence: str) -> bytes:
    return sentence.encode()[:LONGEST_TEXT]


def _sentence(octets: bytes) -> str:
    """Return a peer's sentence as what can be printed: it may hold anything."""
    text = octets[:LONGEST_TEXT].decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "?" for each in text)
