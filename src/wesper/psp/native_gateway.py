"""The native gateway: for running. The same as the reference's, in Rust, and shared with the workers of a tunnel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from .. import _native
from ..crypto import psp as crypto
from ..engine.events import Event
from ..errors import KeyMaterialError, UnsupportedError
from ..protocols.ip import IPAddress
from ..sa import Direction, Policy, SAState
from ..verdict import REASON_BY_CODE, Delivered, Dropped, DropReason, Verdict
from .gateway import EVENTS, Gateway, GatewayProfile, GatewaySA, no_association, other_key, taken
from .interface import Options, no_device_key
from .native import FAILED


class NativeGateway(Gateway):
    """Calls from several threads are safe.

    provider: who does the AEAD, one of `_native.providers()`; None: the default one.
    """

    name: ClassVar[str] = "native"

    def __init__(self, options: Options | None = None, *, provider: str | None = None) -> None:
        options = options or Options()
        if provider is not None and provider not in _native.providers():
            raise UnsupportedError(f"AEAD provider {provider!r}", f"one of {', '.join(_native.providers())}")
        self.core = _native.PspGateway(
            options.port, sorted(options.versions), options.verify_checksum, options.hash_key, EVENTS, provider
        )
        self._profiles: dict[int, GatewayProfile] = {}
        self._policies: tuple[Policy, ...] = ()

    @property
    def lost_events(self) -> int:
        return self.core.lost_events

    def set_device_keys(self, keys: Sequence[bytes | None]) -> None:
        for slot, key in zip((0, 1), keys, strict=True):
            if key is not None and len(key) != crypto.DEVICE_KEY:
                what = f"{len(key)} octets for a PSP device key"
                raise KeyMaterialError(what, expected=f"{crypto.DEVICE_KEY} octets")
            self.core.set_device_key(slot, key)

    def install(self, sa: GatewaySA, now: int = 0) -> int:
        outbound = sa.direction is Direction.OUT
        id, wrong = self.core.install(sa.profile, outbound, sa.spi, sa.key, sa.sequence, now)
        if id is None:
            match wrong:
                case "taken":
                    raise taken(sa)
                case "device":
                    raise no_device_key(sa.spi >> 31)
                case _:
                    raise other_key(sa)
        self._profiles[id] = sa.profile
        return id

    def remove(self, sa: int) -> None:
        self._profiles.pop(sa, None)
        if not self.core.remove(sa):
            raise no_association(sa)

    def state(self, sa: int) -> SAState:
        found = self.core.state(sa)
        if found is None:
            raise no_association(sa)
        return SAState(*found)

    def set_mtu(self, sa: int, mtu: int, now: int) -> None:
        if not self.core.set_mtu(sa, min(mtu, 65535), now):
            raise no_association(sa)

    def decapsulate(self, packet: bytes, now: int) -> Verdict:
        code, inner, sa, iv = self.core.decapsulate(packet)
        return Dropped(REASON_BY_CODE[code]) if code else Delivered(inner, sa, iv)

    def set_policies(self, outbound: Sequence[Policy]) -> None:
        self.core.set_policies(outbound)
        self._policies = tuple(outbound)

    def handle_timeout(self, now: int) -> None:
        self.core.handle_timeout(now)

    def next_event(self) -> Event | None:
        return self.core.next_event()

    def drops(self) -> dict[DropReason, int]:
        return {REASON_BY_CODE[code]: count for code, count, _ in self.core.drops()}

    def totals(self) -> dict[str, int]:
        received, rx_bytes, transmitted, tx_bytes = self.core.totals()
        totals = {"rx_packets": received, "rx_bytes": rx_bytes, "tx_packets": transmitted, "tx_bytes": tx_bytes}
        for code, _, octets in self.core.drops():
            counter = REASON_BY_CODE[code].counter
            if counter in FAILED and octets:
                totals[f"{counter}_bytes"] = totals.get(f"{counter}_bytes", 0) + octets
        return totals

    def _protect(self, sa: int, packet: bytes, now: int, *, bare: bool) -> Verdict:
        code, mtu, made, iv = self.core.encapsulate(sa, packet, bare, now)
        return Dropped(REASON_BY_CODE[code], mtu) if code else Delivered(made, sa, iv)

    def _has(self, sa: int) -> bool:
        return self.core.state(sa) is not None

    def _profile(self, sa: int) -> GatewayProfile:
        if not self._has(sa):  # perhaps it has just expired
            self._profiles.pop(sa, None)
            raise no_association(sa)
        return self._profiles[sa]

    def _mtu(self, sa: int, now: int) -> int:
        found = self.core.mtu(sa, now)
        if found is None:
            raise no_association(sa)
        return found

    def _set_profile(self, sa: int, profile: GatewayProfile) -> None:
        self.core.set_profile(sa, profile)
        self._profiles[sa] = profile

    def _reserve(self, sa: int, last: int) -> bool:
        return self.core.reserve(sa, last)

    def _close_window(self, sa: int) -> bool:
        return self.core.close_window(sa)

    def _look_up_policy(self, packet: bytes) -> tuple[Policy | None, int | None] | None:
        found = self.core.look_up_policy(packet)
        if found is None:
            return None
        index, sa = found
        return (None, None) if index is None else (self._policies[index], sa)

    def _recent_outbound(self, spi: int, remote: IPAddress) -> list[tuple[int, int]]:
        return self.core.recent_outbound(spi, remote)

    def _count(self, reason: DropReason) -> None:
        self.core.count(reason.code)

    def _tell(self, event: Event) -> None:
        self.core.tell(event)
