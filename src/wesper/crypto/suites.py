"""The table of cipher suites: sizes, identifiers and sources, nothing that runs."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from ..errors import KeyMaterialError, UnsupportedError


class Kind(enum.Enum):
    """How a suite turns plaintext into ciphertext and ICV."""

    GCM = "gcm"
    CCM = "ccm"
    CHACHA20_POLY1305 = "chacha20-poly1305"
    GMAC = "gmac"
    CBC_HMAC = "cbc+hmac"
    NULL_HMAC = "null+hmac"


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite of ESP.   All sizes in octets.

    key_octets: the lengths allowed, without salt.   auth_key_octets: 0 for AEADs.   iv_octets: as sent, 0 if implicit.
    encr, integ: IKEv2 transform numbers.   hash_name: of the HMAC, as hashlib calls it.
    """

    name: str
    kind: Kind
    key_octets: tuple[int, ...]
    salt_octets: int
    iv_octets: int
    icv_octets: int
    encr: int
    source: str
    implicit_iv: bool = False
    auth_key_octets: int = 0
    integ: int = 0
    hash_name: str = ""

    @property
    def block(self) -> int:
        """What the encrypted part is a multiple of: the cipher's block, and at least 4 (RFC 4303 §2.4)."""
        return 16 if self.kind is Kind.CBC_HMAC else 4

    @property
    def is_aead(self) -> bool:
        """Whether the ICV comes out of the cipher, so that there is no second key."""
        return self.auth_key_octets == 0

    @property
    def iv_from_counter(self) -> bool:
        """Whether the IV has to be unique and may be foretold, so that a counter makes it (RFC 4106 §3.1)."""
        return self.is_aead

    def check_keys(self, key: bytes, salt: bytes, auth_key: bytes) -> None:
        """Raise KeyMaterialError if a length does not fit."""
        for what, octets, allowed in (
            ("key", len(key), self.key_octets),
            ("salt", len(salt), (self.salt_octets,)),
            ("auth_key", len(auth_key), (self.auth_key_octets,)),
        ):
            if octets not in allowed:
                wanted = " or ".join(map(str, allowed)) + " octets"
                raise KeyMaterialError(f"{octets} octets for {self.name}", key=what, expected=wanted)


_AES: Final = (16, 24, 32)


def _gcm(icv: int, encr: int, *, implicit: bool = False) -> Suite:
    name = f"aes-gcm-{icv}" + ("-iiv" if implicit else "")
    source = "RFC 8750 §4" if implicit else "RFC 4106"
    return Suite(name, Kind.GCM, _AES, 4, 0 if implicit else 8, icv, encr, source, implicit_iv=implicit)


def _ccm(icv: int, encr: int, *, implicit: bool = False) -> Suite:
    name = f"aes-ccm-{icv}" + ("-iiv" if implicit else "")
    source = "RFC 8750 §4" if implicit else "RFC 4309"
    return Suite(name, Kind.CCM, _AES, 3, 0 if implicit else 8, icv, encr, source, implicit_iv=implicit)


def _chacha(encr: int, *, implicit: bool = False) -> Suite:
    name = "chacha20-poly1305" + ("-iiv" if implicit else "")
    source = "RFC 8750 §4" if implicit else "RFC 7634"
    return Suite(name, Kind.CHACHA20_POLY1305, (32,), 4, 0 if implicit else 8, 16, encr, source, implicit_iv=implicit)


def _hmac(cipher: str, bits: int, cut: int, integ: int) -> Suite:
    cbc = cipher == "aes-cbc"
    return Suite(
        f"{cipher}+hmac-sha2-{bits}-{cut}",
        Kind.CBC_HMAC if cbc else Kind.NULL_HMAC,
        _AES if cbc else (0,),
        0,
        16 if cbc else 0,
        cut // 8,
        12 if cbc else 11,
        "RFC 3602, RFC 4868" if cbc else "RFC 2410, RFC 4868",
        auth_key_octets=bits // 8,
        integ=integ,
        hash_name=f"sha{bits}",
    )


SUITES: Final[dict[str, Suite]] = {
    suite.name: suite
    for suite in (
        _gcm(16, 20),
        _gcm(12, 19),
        _gcm(8, 18),
        _gcm(16, 30, implicit=True),
        _chacha(28),
        _chacha(31, implicit=True),
        Suite("aes-gmac", Kind.GMAC, _AES, 4, 8, 16, 21, "RFC 4543"),
        _ccm(8, 14),
        _ccm(12, 15),
        _ccm(16, 16),
        _ccm(8, 29, implicit=True),
        *(
            _hmac(cipher, bits, cut, integ)
            for cipher in ("aes-cbc", "null")
            for bits, cut, integ in ((256, 128, 12), (384, 192, 13), (512, 256, 14))
        ),
    )
}


def suite(name: str) -> Suite:
    """Return the suite of that name.   Raises UnsupportedError, which names those that there are."""
    found = SUITES.get(name)
    if found is None:
        raise UnsupportedError(f"suite {name!r}", f"one of {', '.join(SUITES)}")
    return found
