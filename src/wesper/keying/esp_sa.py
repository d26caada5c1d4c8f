"""Static SAs in Wireshark's form: the lines of its table `esp_sa`.

A line has, in double quotes: family, source, destination, SPI, encryption, its key, authentication, its key, and in
Wireshark newer than 4.0 also the length of the sequence number and its high half. An AEAD's key has the salt behind it.
Address and SPI may be `*`. Neither mode nor UDP is told: those the packets show.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from ..crypto import SUITES, Kind
from ..errors import ConfigError, KeyMaterialError
from ..sa import AddressRange, Direction
from .static import Encapsulated, StaticSA

NULL = "NULL"
_CBC = "AES-CBC [RFC3602]"
_GCM_ANY = "AES-GCM [RFC4106]"

_ENCRYPTION = {
    "aes-gcm-8": "AES-GCM with 8 octet ICV [RFC4106]",
    "aes-gcm-12": "AES-GCM with 12 octet ICV [RFC4106]",
    "aes-gcm-16": "AES-GCM with 16 octet ICV [RFC4106]",
    "aes-gcm-16-iiv": "AES-GCM with IIV and 16 octet ICV [RFC4106 & RFC8750]",
    "chacha20-poly1305": "ChaCha20 with Poly1305 [RFC7634]",
    "chacha20-poly1305-iiv": "ChaCha20 with Poly1305 and IIV [RFC7634 & RFC8750]",
}
"""AEAD suites -> Wireshark's names. There are none for CCM and GMAC."""

NEW_NAMES = frozenset(("aes-gcm-16-iiv", "chacha20-poly1305", "chacha20-poly1305-iiv"))
"""Suites that Wireshark 4.0 does not know and later ones do."""

_INTEGRITY = {
    "hmac-sha2-256-128": "HMAC-SHA-256-128 [RFC4868]",
    "hmac-sha2-384-192": "HMAC-SHA-384-192 [RFC4868]",
    "hmac-sha2-512-256": "HMAC-SHA-512-256 [RFC4868]",
}
_SUITE_OF_AEAD = {name: suite for suite, name in _ENCRYPTION.items()}
_WORD_OF_INTEGRITY = {name: word for word, name in _INTEGRITY.items()}
_ANY_BITS = re.compile(r"ANY (\d+) bit authentication \[no checking\]")

_LEGACY = frozenset(
    (
        "TripleDES-CBC [RFC2451]",
        "DES-CBC [RFC2405]",
        "CAST5-CBC [RFC2144]",
        "BLOWFISH-CBC [RFC2451]",
        "TWOFISH-CBC",
        "HMAC-SHA-1-96 [RFC2404]",
        "HMAC-SHA-256-96 [draft-ietf-ipsec-ciph-sha-256-00]",
        "HMAC-MD5-96 [RFC2403]",
        "MAC-RIPEMD-160-96 [RFC2857]",
    )
)
_MODERN = "AES-GCM, ChaCha20-Poly1305, or AES-CBC or NULL with HMAC-SHA-256-128, -384-192 or -512-256"

_FIELD = re.compile(r'\s*"((?:[^"\\]|\\.)*)"\s*(,|$)')
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.))")
_NAMES = (
    "family",
    "source",
    "destination",
    "spi",
    "encryption",
    "encryption key",
    "authentication",
    "authentication key",
    "sequence number",
    "high half",
)


def read_esp_sa(text: str, path: Path | str) -> list[StaticSA]:
    """Read SAs from lines of an `esp_sa` file.   path: for messages.

    Raises ConfigError or KeyMaterialError with line and field; a legacy algorithm is named in it.
    """
    lines = text.split("\n")
    return [
        _Line(path, number).sa(line)
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]


def write_esp_sa(sas: Sequence[StaticSA]) -> tuple[str, list[StaticSA]]:
    """Return the lines of all SAs that Wireshark has names for, and the SAs that it has not."""
    lines = ["# Table esp_sa of Wireshark, with keys: for your eyes only (chmod 600)."]
    left_out = []
    for sa in sas:
        names = _names(sa)
        if names is None or sa.protocol != "esp":
            left_out.append(sa)
            continue
        if sa.suite in NEW_NAMES:
            lines.append("# Wireshark 4.0 and older do not know the next algorithm.")
        if sa.esn:
            lines.append("# Wireshark 4.0 and older ignore the 64-bit number, and so find the ICV wrong.")
        spi = "*" if sa.spi is None else f"{sa.spi:#010x}"
        number = ("64-bit", f"{sa.sequence >> 32:x}") if sa.esn else ()
        for version in _versions(sa):
            ends = (_address(sa.source, version), _address(sa.destination, version))
            fields = (f"IPv{version}", *ends, spi, names[0], _key(sa.key + sa.salt), names[1], _key(sa.auth_key))
            lines.append(",".join(f'"{field}"' for field in (*fields, *number)))
    return "\n".join([*lines, ""]), left_out


class _Line:
    """Makes one SA of its line."""

    def __init__(self, path: Path | str, number: int) -> None:
        self._path, self._number = path, number

    def sa(self, line: str) -> StaticSA:
        """Return the SA.   Raises ConfigError or KeyMaterialError with place."""
        fields = self._fields(line)
        family, source, destination, spi, encryption, key, authentication, auth_key = fields[:8]
        if family.lower() not in ("ipv4", "ipv6", "any"):
            raise self._wrong("family", f"{family!r}", "IPv4, IPv6 or Any")
        version = {"ipv4": 4, "ipv6": 6}.get(family.lower())
        suite = self._suite(encryption, authentication)
        octets = self._octets("encryption key", key)
        salt = SUITES[suite].salt_octets
        if SUITES[suite].kind is Kind.NULL_HMAC:
            octets = b""
        high = self._high(fields)
        sa = StaticSA(
            suite=suite,
            spi=self._spi(spi),
            key=octets[: len(octets) - salt],
            salt=octets[len(octets) - salt :] if salt else b"",
            auth_key=self._octets("authentication key", auth_key) if SUITES[suite].auth_key_octets else b"",
            direction=Direction.OUT,
            mode=None,
            local=self._range("source", source, version),
            remote=self._range("destination", destination, version),
            encapsulation=Encapsulated.AS_SEEN,
            esn=high is not None,
            sequence=(high or 0) << 32,
            path=self._path,
            line=self._number,
        )
        try:
            sa.check()
        except KeyMaterialError as error:
            where = "authentication key" if error.key == "auth_key" else "encryption key"
            behind = " and 4 of salt behind it" if salt else ""
            raise self._wrong(where, error.what, error.expected + behind, KeyMaterialError) from None
        except ConfigError as error:
            raise self._wrong(error.key, error.what, error.expected) from None
        return sa

    def _wrong(self, key: str, what: str, expected: str, kind: type[ConfigError] = ConfigError) -> ConfigError:
        return kind(what, path=self._path, line=self._number, key=key, expected=expected)

    def _fields(self, line: str) -> list[str]:
        fields, at, more = [], 0, True
        line = line.rstrip()
        while more:
            found = _FIELD.match(line, at)
            if found is None:
                break
            more = found[2] == ","
            fields.append(_ESCAPE.sub(lambda e: chr(int(e[1], 16)) if e[1] else e[2], found[1]))
            at = found.end()
        if more or len(fields) not in (8, 10):
            missing = _NAMES[len(fields)] if len(fields) < 10 else ""
            raise self._wrong(missing, f"{len(fields)} good fields", '8 or 10 fields like "IPv4","192.0.2.1",...')
        return fields

    def _suite(self, encryption: str, authentication: str) -> str:
        for key, name in (("encryption", encryption), ("authentication", authentication)):
            if name.lower() in map(str.lower, _LEGACY):
                raise self._wrong(key, f"{name} is a legacy algorithm, which wesper refuses", _MODERN)
        unchecked = _ANY_BITS.fullmatch(authentication)
        if encryption == _GCM_ANY and unchecked:
            suite = f"aes-gcm-{int(unchecked[1]) // 8}"  # what strongSwan's save-keys plugin writes
            if suite in _ENCRYPTION:
                return suite
        if encryption == _GCM_ANY:
            expected = 'an ICV length: "AES-GCM with 16 octet ICV [RFC4106]"'
            raise self._wrong("encryption", f"{encryption} with {authentication}", expected)
        if encryption in _SUITE_OF_AEAD:
            if authentication != NULL and not unchecked:
                raise self._wrong("authentication", f"{authentication} beside an AEAD", NULL)
            return _SUITE_OF_AEAD[encryption]
        if encryption not in (_CBC, NULL):
            raise self._wrong("encryption", f"{encryption!r}, which wesper does not have", _MODERN)
        if authentication not in _WORD_OF_INTEGRITY:
            # RFC 4303 §3.2, RFC 8221 §4: without integrity there is nothing to rely on
            raise self._wrong("authentication", f"{encryption} with {authentication!r}", ", ".join(_WORD_OF_INTEGRITY))
        return f"{'aes-cbc' if encryption == _CBC else 'null'}+{_WORD_OF_INTEGRITY[authentication]}"

    def _octets(self, key: str, text: str) -> bytes:
        if not text.lower().startswith("0x"):
            return text.encode("latin-1", "replace")  # Wireshark takes other text for the key itself
        digits = text[2:]
        try:
            return bytes.fromhex("0" * (len(digits) % 2) + digits)
        except ValueError:
            raise self._wrong(key, "not hexadecimal", "hexadecimal digits behind 0x", KeyMaterialError) from None

    def _spi(self, text: str) -> int | None:
        if text == "*":
            return None
        digits, base = (text[2:], 16) if text.lower().startswith("0x") else (text, 10)
        try:
            return int(digits, base)
        except ValueError:
            raise self._wrong("spi", f"{text!r}", "a number like 0x00001000, or * for any") from None

    def _range(self, key: str, text: str, version: int | None) -> AddressRange | None:
        if text == "*":
            return None if version is None else AddressRange(version, 0, (1 << (32 if version == 4 else 128)) - 1)
        octets = text.split(".")
        if version == 4 and len(octets) == 4 and octets[-1] == "*":
            stars = octets[octets.index("*") :]
            if set(stars) == {"*"}:
                kept = octets[: 4 - len(stars)]
                text = ".".join([*kept, *["0"] * len(stars)]) + f"/{8 * len(kept)}"
                return self._parsed(key, text)
        found = self._parsed(key, text)
        if found.first != found.last or (version is not None and found.version != version):
            raise self._wrong(key, f"{text!r}", f"an IPv{version or '4 or IPv6'} address or *")
        return found

    def _parsed(self, key: str, text: str) -> AddressRange:
        try:
            return AddressRange.parse(text)
        except ConfigError:
            raise self._wrong(key, f"{text!r}", "an address, one that ends in .*, or *") from None

    def _high(self, fields: list[str]) -> int | None:
        """Return the high half of an extended sequence number, None if the SA has none."""
        if len(fields) == 8 or fields[8] == "32-bit":
            return None
        if fields[8] != "64-bit":
            raise self._wrong("sequence number", f"{fields[8]!r}", "32-bit or 64-bit")
        try:
            high = int(fields[9], 16)
        except ValueError:
            high = -1
        if not 0 <= high < 1 << 32:
            raise self._wrong("high half", f"{fields[9]!r}", "hexadecimal digits, at most 8")
        return high


def _names(sa: StaticSA) -> tuple[str, str] | None:
    if sa.suite in _ENCRYPTION:
        return _ENCRYPTION[sa.suite], NULL
    cipher, _, integrity = sa.suite.partition("+")
    if integrity in _INTEGRITY:
        return (_CBC if cipher == "aes-cbc" else NULL), _INTEGRITY[integrity]
    return None


def _versions(sa: StaticSA) -> list[int]:
    known = [ends.version for ends in (sa.source, sa.destination) if ends is not None]
    return known[:1] or [4, 6]


def _address(ends: AddressRange | None, version: int) -> str:
    if ends is None:
        return "*"
    if ends.first == ends.last:
        return str(IPv4Address(ends.first) if version == 4 else IPv6Address(ends.first))
    for kept in (3, 2, 1):  # whole octets open: 192.0.2.*
        if version == 4 and (ends.first ^ ends.last) == (1 << 8 * (4 - kept)) - 1:
            return ".".join([*str(ip_address(ends.first)).split(".")[:kept], *"*" * (4 - kept)])
    return "*"


def _key(octets: bytes) -> str:
    return f"0x{octets.hex()}"
