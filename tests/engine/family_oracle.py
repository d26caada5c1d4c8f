"""WESP, WESPv2 and EESP by hand: a second writing of their headers on `oracle`'s cryptography.

Nothing here comes from wesper but the settings that say what is wanted.
"""

from __future__ import annotations

import hmac
from dataclasses import replace
from struct import pack

from wesper import EESPFormat, StatelessGroup, SubSAs

from . import oracle

IDENTIFIER = b"\0\0\0\2"  # RFC 5840 §2.1
PADDED = {4: False, 6: True}


def wesp(
    keys: oracle.Keys,
    spi: int,
    sequence: int,
    esn: bool,
    iv: bytes,
    next_header: int,
    payload: bytes,
    *,
    padded: bool = False,
    **fields: int,
) -> bytes:
    """A WESP packet (RFC 5840 §2).

    padded: P and four octets.   fields: other values of the header's; shown: of Next Header.
    """
    sizes = oracle.SUITES[keys.suite]
    readable = sizes.cipher in ("gmac", "null")
    values = {
        "shown": next_header if readable else 0,
        "hdrlen": 4 + 4 * padded + 8 + sizes.iv if readable else 0,
        "trailerlen": sizes.icv if readable else 0,
        "version": 0,
        "encrypted": int(not readable),
        "reserved": 0,
        **fields,
    }
    flags = values["version"] << 6 | values["encrypted"] << 5 | padded << 4 | values["reserved"]
    head = bytes((values["shown"], values["hdrlen"], values["trailerlen"], flags)) + bytes(4 * padded)
    return head + oracle.seal(keys, spi, sequence, esn, iv, payload, next_header)


def wespv2(
    keys: oracle.Keys,
    spi: int,
    sequence: int,
    esn: bool,
    iv: bytes,
    next_header: int,
    payload: bytes,
    *,
    options: bytes = b"",
    crypt_offset_words: int = 0,
    plaintext: bytes | None = None,
    **fields: int,
) -> bytes:
    """A WESPv2 packet (draft-klassert-ipsecme-wespv2-01 §2).

    plaintext: instead of payload and its trailer.   fields: other values of the header's; shown: of Next Header.
    """
    sizes = oracle.SUITES[keys.suite]
    values = {
        "shown": next_header if crypt_offset_words else 59,
        "hdrlen": 12 + len(options) + sizes.iv,
        "reserved": 0,
        "version": 1,
        "optlen": len(options),
        **fields,
    }
    head = bytes(
        (
            values["shown"],
            values["hdrlen"] & 0xFF,
            (crypt_offset_words << 2 | values["reserved"]) & 0xFF,
            values["version"] << 6 | values["optlen"] & 0x3F,
        )
    )
    clear = 4 * crypt_offset_words
    if plaintext is None:
        pad = -(len(payload) - clear + 2) % sizes.block
        plaintext = payload + bytes(range(1, pad + 1)) + bytes((pad, next_header))
    if sizes.cipher == "cbc":  # whole blocks, whatever else is wrong
        plaintext += bytes(-(len(plaintext) - clear) % 16)
    front = head + options
    return front + oracle.seal_plaintext(keys, spi, sequence, esn, iv, plaintext, front=front, clear=clear)


def eesp(
    keys: oracle.Keys,
    spi: int,
    number: int | None,
    iv: bytes,
    content: bytes,
    *,
    session: int = 0,
    options: bytes = b"",
    clear: int = 0,
    first: int = 0x80,
    opt_len: int | None = None,
) -> bytes:
    """An EESP packet (draft-ietf-ipsecme-eesp-03 §2).

    number: None: none is sent.   content: what stands behind the IV, padding too.   clear: its octets not encrypted.
    """
    sent = iv[: oracle.SUITES[keys.suite].iv]
    if oracle.SUITES[keys.suite].implicit:
        iv = pack(">Q", number or 0)
    head = pack(">BBHI", first, len(options) if opt_len is None else opt_len, session, spi) + options
    head += (b"" if number is None else pack(">Q", number)) + sent
    return head + content[:clear] + oracle.aead(keys, iv, head + content[:clear], content[clear:])


def full(next_header: int, payload: bytes, *, padding: bytes | None = None, nibble: int = 0) -> bytes:
    """Content of the full format: Payload Info Header, payload, zeros."""
    padding = bytes(-len(payload) % 4) if padding is None else padding
    return bytes((nibble << 4, 0, next_header, len(padding) & 0xFF)) + payload + padding


def optimized(packet: bytes) -> bytes:
    """Content of the optimized format: a packet and zeros."""
    return packet + bytes(-len(packet) % 4)


def crypt_offset_option(payload_offset: int, crypt_offset: int) -> bytes:
    """The option's four octets.   Both in octets."""
    return bytes((2, 2)) + pack(">H", (payload_offset // 4 << 10 | crypt_offset // 4 << 4) & 0xFFFF)


def expand(hash_name: str, key: bytes, info: bytes, octets: int) -> bytes:
    """HKDF-Expand (RFC 5869 §2.3)."""
    made, block = b"", b""
    while len(made) < octets:
        block = hmac.digest(key, block + info + bytes((len(made) // len(block) + 1 if block else 1,)), hash_name)
        made += block
    return made[:octets]


def sub_sa_keys(keys: oracle.Keys, settings: SubSAs, session: int) -> oracle.Keys:
    """Keys of a Sub SA.   keys: with the root key."""
    salt = oracle.SUITES[keys.suite].salt
    made = expand(settings.kdf[5:].replace("sha2-", "sha"), keys.key, pack(">H", session), settings.key_octets + salt)
    return replace(keys, key=made[: settings.key_octets], salt=made[settings.key_octets :])


def stateless_keys(
    keys: oracle.Keys, group: StatelessGroup, index: int, spi: int, device_id: int, epoch: int
) -> oracle.Keys:
    """Keys of a device's epoch.   keys: with the master keys."""
    at = 32 * group.indexes.index(index)
    made = expand("sha256", keys.key[at : at + 32], b"EESP-SL-1" + pack(">IQH", spi, device_id, epoch), 36)
    return replace(keys, key=made[:32], salt=made[32:])


def stateless_option(index: int, device_id: int, profile: int = 1) -> bytes:
    return bytes((224, 10, profile, index)) + pack(">Q", device_id)


def payload_offset(settings: EESPFormat, suite: str, options: int) -> int:
    """Where the payload begins in an EESP packet with so many octets of options."""
    return 8 + options + (8 if settings.sequence_numbers else 0) + oracle.SUITES[suite].iv
