"""What WESPv2 and EESP cost beside ESP: the same SAs, packets and loop, in the same run."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Final

from .loops import later, rate
from .measure import Row

_SUITE: Final = "aes-gcm-16"
_SLOTS: Final = 256
_DIRECTIONS: Final = (("seal", "encapsulate"), ("open", "decapsulate"))
_GOALS: Final = {1400: 0.95, 64: 0.90}  # of ESP's packets/s
_PROTOCOLS: Final = {"wespv2": "WESPv2", "eesp": "EESP"}


def rows(provider: str, *, quick: bool) -> list[Row]:
    """Return one provider's rows: tunnels of one SA, without options, nothing in the clear."""
    from .. import _native

    packets = 100_000 if quick else 400_000
    found = []
    for (protocol, name), inner in itertools.product(_PROTOCOLS.items(), _GOALS):
        ours = later(partial(_native.EspBench, provider, _SUITE, 16, 1, _SLOTS, inner, protocol))
        esp = later(partial(_native.EspBench, provider, _SUITE, 16, 1, _SLOTS, inner))
        found += [
            Row(
                f"{name} beside ESP, AES-128-GCM, {provider}",
                f"{word} {inner}, 1 SA",
                "packets/s",
                rate(ours, direction, packets),
                _GOALS[inner],
                rate(esp, direction, packets),
                "ESP",
            )
            for direction, word in _DIRECTIONS
        ]
    return found
