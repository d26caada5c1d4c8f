"""Keys of a file for one packet at a time, as a dissection wants them: neither windows nor lifetimes are asked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final

from ..crypto import Transform, transform
from ..keying import PSPKeys, StaticSA
from ..protocols import Arrived, ip
from ..sa import Profile, infer_sequence
from ..verdict import DropReason
from .opener import HALVES
from .psp_keyring import PSPKeyring

_KEPT_KEYS: Final = 1024  # of SAs, of Sub SAs and of stateless senders


class Keyring:
    """SAs that open packets, and PSP's keys.

    It follows each SA's sequence number, so that the high half is known where it is not sent.
    ip_protocols: numbers in IP headers that are EESP's.   udp_ports: those that the SAs name.
    """

    def __init__(self, sas: Sequence[StaticSA], psp: PSPKeys | None = None) -> None:
        self._sas = sas
        self.psp = PSPKeyring(psp or PSPKeys())
        self.ip_protocols = frozenset(sa.ip_protocol for sa in sas if sa.protocol == "eesp")
        self.udp_ports = frozenset[int]().union(*(sa.udp_ports for sa in sas))
        self._terms: dict[int, Profile] = {}
        self._transforms: OrderedDict[tuple[int, bytes], Transform] = OrderedDict()
        self._tops: dict[tuple[int, int], int] = {}

    def find(self, protocol: str, spi: int, source: bytes, destination: bytes) -> StaticSA | None:
        """Return the SA for an SPI between two addresses."""
        ends = ip.address(source), ip.address(destination)
        return next((sa for sa in self._sas if sa.protocol == protocol and sa.carries(spi, *ends)), None)

    def has(self, protocol: str, spi: int) -> bool:
        """Whether an SA of the file has this SPI by name."""
        return any(sa.spi == spi and sa.protocol == protocol for sa in self._sas)

    def terms(self, sa: StaticSA) -> Profile:
        """Return what an SA's protocol has to know of it."""
        found = self._terms.get(id(sa))
        if found is None:
            found = self._terms[id(sa)] = sa.terms
        return found

    def open(self, sa: StaticSA, spi: int, arrived: Arrived) -> tuple[bytes, int] | None:
        """Return what stands between IV and ICV, in clear, and all 64 bits of the number; None if the ICV does not fit.

        arrived: as the SA's protocol has read it.
        """
        terms = self.terms(sa)
        keys = self._keys(sa, terms, arrived.key_info)
        for sequence in self._numbers(sa, terms, spi, arrived):
            content = terms.ways.unseal(terms, keys, arrived, sequence)
            if not isinstance(content, DropReason):
                self._tops[id(sa), spi] = max(self._tops.get((id(sa), spi), 0), sequence)
                return content, sequence
        return None

    def _numbers(self, sa: StaticSA, terms: Profile, spi: int, arrived: Arrived) -> Iterator[int]:
        """Yield the numbers that a packet may have."""
        number = arrived.number or 0
        top = self._tops.get((id(sa), spi))
        if terms.ways.whole_numbers or not terms.esn:
            yield number
        elif top is not None:
            yield infer_sequence(top, 0, number) or number
        else:
            halves = ((sa.sequence >> 32) + step for step in HALVES)
            yield from (half << 32 | number for half in halves if half >= 0)

    def _keys(self, sa: StaticSA, terms: Profile, key_info: bytes) -> Transform:
        """Return an SA's keys, derived if key_info says so."""
        found = self._transforms.get((id(sa), key_info))
        if found is None:
            key, salt = terms.ways.derive(terms, sa.key, key_info) if key_info else (sa.key, sa.salt)
            found = self._transforms[id(sa), key_info] = transform(terms.cipher, key, salt, sa.auth_key)
            if len(self._transforms) > _KEPT_KEYS:
                self._transforms.popitem(last=False)
        return found
