"""The ESP family's files: ESP, WESPv2 and EESP share a format; `protocol` says which it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from . import esp_ecn, esp_known_answers, esp_mtu, esp_packets, esp_replay
from .kind import CaseList, Kind

_FORMAT: Final = "esp-family-vectors/1"
_NAME: Final = "ESP family"
_KEYS: Final = ("format", "protocol")
_INFORMATIVE: Final = frozenset(("format", "protocol", "how_to_read"))


def _is(protocol: str) -> Callable[[Mapping[str, object]], bool]:
    return lambda document: document.get("format") == _FORMAT and document.get("protocol") == protocol


KINDS: Final[tuple[Kind, ...]] = (
    Kind(
        _NAME,
        _KEYS,
        _is("esp"),
        _INFORMATIVE,
        {
            "vectors": CaseList(esp_packets.run),
            "inner_mtu": CaseList(esp_mtu.run, informative=frozenset(("case",))),
            "public_aead": CaseList(esp_known_answers.run),
            "replay_traces": CaseList(esp_replay.run_trace),
            "esn_inference": CaseList(esp_replay.run_inference),
            "ecn_decapsulation": CaseList(esp_ecn.run),
        },
    ),
    Kind(_NAME, _KEYS, _is("wespv2")),
    Kind(_NAME, _KEYS, _is("eesp")),
)
