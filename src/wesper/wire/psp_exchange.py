"""Messages of the PSP exchange, wesper's own protocol: how two hosts agree on associations (docs/psp-exchange.md).

Keys and lists of numbers stand behind these headers, one column after another; `psp/exchange_messages.py` has them.
"""

from __future__ import annotations

from typing import Final

from .format import Header, bits, octets

MAGIC: Final = 0x50535058  # "PSPX"
VERSION: Final = 1
MAY_BE_SKIPPED: Final = 0x80  # of a message type: who does not know it goes on without

_PAGE: Final = "docs/psp-exchange.md"
TYPES: Final[dict[int, str]] = {
    1: "HELLO",
    2: "OPEN",
    3: "ACCEPT",
    4: "REFUSE",
    5: "REKEY",
    6: "REKEYED",
    7: "WANTED",
    8: "CLOSE",
    9: "PING",
    10: "PONG",
    11: "ERROR",
    0x81: "ROTATED",
}
KINDS: Final[dict[int, str]] = {0: "raw", 1: "datagram", 2: "stream"}
OWNERS: Final[dict[int, str]] = {0: "the sender of this message opened them", 1: "its receiver did"}


class Frame(Header, name="pspx", title="Frame", source=f"{_PAGE}, Frames"):
    """In front of every message."""

    length: int = bits(24, f"{_PAGE}, Frames", "of the message behind this header", unit="octets")
    type: int = bits(8, f"{_PAGE}, Frames", "which message; from 0x80 on it may be skipped", names=TYPES)


class Hello(Header, name="pspx.hello", title="HELLO", source=f"{_PAGE}, HELLO"):
    """The first message of each side; octets behind it are a later version's."""

    magic: int = bits(32, f"{_PAGE}, HELLO", '"PSPX"', default=MAGIC, form="hex")
    minimum: int = bits(8, f"{_PAGE}, HELLO", "lowest version of the exchange that is understood", default=VERSION)
    maximum: int = bits(8, f"{_PAGE}, HELLO", "highest one", default=VERSION)
    psp_versions: int = bits(8, f"{_PAGE}, HELLO", "bit n: PSP version n is received", form="hex")
    reserved: int = bits(8, f"{_PAGE}, HELLO", "sent zero, ignored")
    udp_port: int = bits(16, f"{_PAGE}, HELLO", "where PSP packets are received")
    reserved_too: int = bits(16, f"{_PAGE}, HELLO", "sent zero, ignored", wire_name="reserved2")
    most_associations: int = bits(32, f"{_PAGE}, HELLO", "that the peer may have at a time")
    most_batch: int = bits(32, f"{_PAGE}, HELLO", "associations in one message to this side")


class Open(Header, name="pspx.open", title="OPEN", source=f"{_PAGE}, OPEN"):
    """Asks for connections. Columns: ports (service port, port of the opener; not for raw), SPIs, keys."""

    psp_version: int = bits(8, f"{_PAGE}, OPEN", "of all of them", wire_name="version")
    kind: int = bits(8, f"{_PAGE}, OPEN", "what they carry", names=KINDS)
    reserved: int = bits(16, f"{_PAGE}, OPEN", "sent zero, ignored")
    count: int = bits(32, f"{_PAGE}, OPEN", "how many")
    first_id: int = bits(64, f"{_PAGE}, OPEN", "of the first; the others follow it; above all before it")


class Accept(Header, name="pspx.accept", title="ACCEPT", source=f"{_PAGE}, ACCEPT"):
    """Agrees to connections that the receiver has asked for. Columns: SPIs, keys."""

    psp_version: int = bits(8, f"{_PAGE}, ACCEPT", "of all of them", wire_name="version")
    reserved: int = bits(8, f"{_PAGE}, ACCEPT", "sent zero, ignored")
    reserved_too: int = bits(16, f"{_PAGE}, ACCEPT", "sent zero, ignored", wire_name="reserved2")
    count: int = bits(32, f"{_PAGE}, ACCEPT", "how many, a whole OPEN")
    first_id: int = bits(64, f"{_PAGE}, ACCEPT", "as in OPEN")


class Refuse(Header, name="pspx.refuse", title="REFUSE", source=f"{_PAGE}, REFUSE"):
    """Does not agree; a sentence in UTF-8 follows."""

    reason: int = bits(16, f"{_PAGE}, REFUSE", "why")
    reserved: int = bits(16, f"{_PAGE}, REFUSE", "sent zero, ignored")
    count: int = bits(32, f"{_PAGE}, REFUSE", "how many, a whole OPEN")
    first_id: int = bits(64, f"{_PAGE}, REFUSE", "as in OPEN")


class Listed(Header, name="pspx.list", title="REKEY, REKEYED, WANTED, CLOSE", source=f"{_PAGE}, Lists"):
    """About connections that are agreed. Columns: ids; of REKEY also SPIs and keys."""

    owner: int = bits(8, f"{_PAGE}, Lists", "who opened them", names=OWNERS)
    psp_version: int = bits(8, f"{_PAGE}, Lists", "of the keys in REKEY, else 0", wire_name="version")
    reason: int = bits(16, f"{_PAGE}, Lists", "of CLOSE, else 0")
    count: int = bits(32, f"{_PAGE}, Lists", "how many")


class Token(Header, name="pspx.ping", title="PING, PONG, ROTATED", source=f"{_PAGE}, PING"):
    """A number: any, of PING; the same, of PONG; the device key's generation, of ROTATED."""

    token: int = bits(64, f"{_PAGE}, PING", "the number", form="hex")


class Error(Header, name="pspx.error", title="ERROR", source=f"{_PAGE}, ERROR"):
    """The last message of a side that ends the exchange."""

    code: int = bits(16, f"{_PAGE}, ERROR", "why")
    reserved: int = bits(16, f"{_PAGE}, ERROR", "sent zero, ignored")
    text: bytes = octets(f"{_PAGE}, ERROR", "a sentence in UTF-8")
