"""Packets protected with the PSP associations of a key file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import psp
from ..engine import Packets
from ..errors import ConfigError
from ..keying import PSPAssociation
from ..verdict import REASON_BY_CODE, DropReason

_IVS = 1 << 64
Sent = tuple[DropReason | None, bytes, int]
"""Why a packet was not sent, None if it was; then the protected packet, and its IV."""


class PSPSender:
    """Protects packets, under IVs that count up from the one after the file's.

    Associations that share a key share its IVs, in the order of the packets: one of each address family, for instance.
    first_iv: of each key, instead of the file's.   Raises ConfigError.
    """

    def __init__(
        self, associations: Sequence[PSPAssociation], engine: str | None = None, first_iv: int | None = None
    ) -> None:
        if first_iv is not None and not 0 <= first_iv < _IVS:
            raise ConfigError(str(first_iv), key="sequence", expected=f"an IV, 0..{_IVS - 1:#x}")
        self.engine = psp.open_engine(engine)
        self._next: dict[bytes, int] = {}
        for each in associations:
            first = each.iv + 1 if first_iv is None else first_iv
            self._next[each.key] = max(self._next.get(each.key, 0), first)

    def protect(self, packets: Sequence[bytes], associations: Sequence[PSPAssociation]) -> list[Sent]:
        """Protect packets, each with its association, in order.   packets: from their IP headers."""
        done: list[Sent] = [(DropReason.PSP_OUT_IV, b"", 0)] * len(packets)
        theirs: dict[int, list[tuple[int, int]]] = {}
        for place, each in enumerate(associations):
            iv = self._next[each.key]
            if iv == _IVS:
                self.engine.count(DropReason.PSP_OUT_IV, 1)
                continue
            self._next[each.key] = iv + 1
            theirs.setdefault(id(each), []).append((place, iv))
        for numbered in theirs.values():
            self._protect(packets, numbered, associations[numbered[0][0]], done)
        return done

    def _protect(
        self,
        packets: Sequence[bytes],
        numbered: Sequence[tuple[int, int]],
        association: PSPAssociation,
        done: list[Sent],
    ) -> None:
        """Protect the packets of one association.   numbered: place and IV of each."""
        count = len(numbered)
        sent = self.engine.encapsulate_many(
            association.profile,
            Packets.of(packets[place] for place, _ in numbered),
            np.full(count, association.spi, np.uint32),
            np.broadcast_to(np.frombuffer(association.key, np.uint8), (count, len(association.key))),
            np.array([iv for _, iv in numbered], np.uint64),
        )
        for index, ((place, iv), code) in enumerate(zip(numbered, sent.codes.tolist(), strict=True)):
            done[place] = (REASON_BY_CODE[code], b"", 0) if code else (None, sent.packets[index], iv)
