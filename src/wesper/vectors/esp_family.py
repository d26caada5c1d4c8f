"""The ESP family's files: ESP, WESPv2 and EESP share a format; `protocol` says which it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from . import esp_ecn, esp_known_answers, esp_mtu, esp_packets, esp_replay, ike_payloads, sub_sa
from .kind import CaseList, Kind

_FORMAT: Final = "esp-family-vectors/1"
_NAME: Final = "ESP family"
_KEYS: Final = ("format", "protocol")
_INFORMATIVE: Final = frozenset(("format", "protocol", "how_to_read"))


def _is(protocol: str) -> Callable[[Mapping[str, object]], bool]:
    return lambda document: document.get("format") == _FORMAT and document.get("protocol") == protocol


def _lists(protocol: str) -> dict[str, CaseList]:
    """Return the lists that all protocols of the family have."""
    return {
        "vectors": CaseList(partial(esp_packets.run, protocol=protocol)),
        "inner_mtu": CaseList(partial(esp_mtu.run, protocol=protocol), informative=frozenset(("case",))),
    }


KINDS: Final[tuple[Kind, ...]] = (
    Kind(
        _NAME,
        _KEYS,
        _is("esp"),
        _INFORMATIVE,
        {
            **_lists("esp"),
            "public_aead": CaseList(esp_known_answers.run),
            "replay_traces": CaseList(esp_replay.run_trace),
            "esn_inference": CaseList(esp_replay.run_inference),
            "ecn_decapsulation": CaseList(esp_ecn.run),
        },
    ),
    Kind(
        _NAME,
        _KEYS,
        _is("wespv2"),
        _INFORMATIVE,
        {**_lists("wespv2"), "ike_payloads": CaseList(ike_payloads.run, per_engine=False)},
    ),
    Kind(
        _NAME,
        _KEYS,
        _is("eesp"),
        _INFORMATIVE,
        {
            **_lists("eesp"),
            "sub_sa_derivation": CaseList(sub_sa.run, inside="sub_sas"),
            "ike_payloads": CaseList(ike_payloads.run, per_engine=False),
        },
    ),
)
