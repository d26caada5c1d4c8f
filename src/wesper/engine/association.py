"""An SA that the reference engine has installed, and what changes with each packet."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ..crypto import Transform, transform
from ..protocols import Arrived
from ..protocols.flow_identifier import flow_key, identify
from ..protocols.ip import Datagram
from ..sa import SA, Direction, Lifetime, ReplayWindow, infer_sequence
from ..sa.model import jittered
from .interface import SECOND

_KEPT_KEYS: Final = 1024  # derived ones, of an SA


class SubSA:
    """Numbers of one Sub SA, or of an SA that has none: outbound the last one used, inbound the window."""

    def __init__(self, sequence: int, window: ReplayWindow | None) -> None:
        self.sequence, self.window = sequence, window
        self.packets = self.octets = 0
        self.peer: tuple[bytes, int] | None = None

    @property
    def top(self) -> int:
        """Inbound the highest number accepted, outbound the last one used."""
        return self.sequence if self.window is None else self.window.top

    def accept(self, sequence: int) -> bool:
        """Take an authentic number; return whether it is the highest so far."""
        advanced = self.window is None or sequence > self.window.top
        if self.window is None:
            self.sequence = max(self.sequence, sequence)
        else:
            self.window.accept(sequence)
        return advanced


class Association:
    """An installed SA and what changes with each packet."""

    def __init__(self, sa: SA, number: int, now: int) -> None:
        profile = sa.profile
        self.sa, self.id, self.profile = sa, number, profile
        self.cipher = profile.cipher
        self.protocol = profile.ways
        self.soft = jittered(profile.soft, profile.jitter, sa.spi)
        self.hard = profile.hard
        self.reserved = profile.last_sequence
        # Made with the first packet that is sent, or has proven authentic: nobody fills memory with forged Sub SA IDs.
        self.sub_sas: dict[int, SubSA] = {}
        self._new: SubSA | None = None
        self._closed = False
        self._keys: OrderedDict[bytes, Transform] = OrderedDict()
        self._flow_key = b""
        self.has_sub_sas = self.protocol.has_sub_sas(profile)
        self.installed = self.used = now // SECOND
        self.packets = self.octets = self.replays = self.failed = 0
        self.failures_in_a_row = 0
        self.resync_second = -1
        self.soft_told = self.expired = False
        self.mtu, self.mtu_until = profile.mtu, 0

    def _begin(self) -> SubSA:
        if not self.profile.window or self.sa.direction is Direction.OUT:
            return SubSA(self.sa.sequence, None)
        window = ReplayWindow(self.profile.window, self.sa.sequence)
        if self._closed:
            window.close()
        return SubSA(self.sa.sequence, window)

    @property
    def top(self) -> int:
        """The highest number of all Sub SAs: inbound accepted, outbound used."""
        return max((sub_sa.top for sub_sa in self.sub_sas.values()), default=self.sa.sequence)

    def look(self, sub_sa: int) -> SubSA:
        """Return a Sub SA as it is; one that does not exist yet as it would begin.   Not to be changed."""
        found = self.sub_sas.get(sub_sa, self._new)
        if found is None:
            found = self._new = self._begin()
        return found

    def make(self, sub_sa: int) -> SubSA:
        """Return a Sub SA to be changed.   Source: draft-ietf-ipsecme-eesp-03 §2.9.2."""
        if sub_sa not in self.sub_sas:
            self.sub_sas[sub_sa], self._new = self.look(sub_sa), None
        return self.sub_sas[sub_sa]

    def close(self) -> None:
        """Count all numbers up to the top as received, in every Sub SA that is or will be."""
        self._closed, self._new = True, None
        for sub_sa in self.sub_sas.values():
            if sub_sa.window is not None:
                sub_sa.window.close()

    def move(self, sa: SA) -> None:
        """Go on with a profile that differs in addresses and ports."""
        self.sa, self.profile = sa, sa.profile
        for sub_sa in self.sub_sas.values():
            sub_sa.peer = None

    def keys(self, key_info: bytes) -> Transform:
        """Return the keys, derived if key_info says so; derived ones are kept, so many of them."""
        found = self._keys.get(key_info)
        if found is None:
            key, salt = self.sa.key, self.sa.salt
            if key_info:
                key, salt = self.protocol.derive(self.profile, key, key_info)
            found = self._keys[key_info] = transform(self.cipher, key, salt, self.sa.auth_key)
            if len(self._keys) > _KEPT_KEYS:
                self._keys.popitem(last=False)
        return found

    def flow(self, datagram: Datagram | None, mark: int) -> int:
        """Return what goes onto the wire for a packet's flow."""
        policy = self.protocol.flow_policy(self.profile)
        if policy is None:
            return 0
        self._flow_key = self._flow_key or flow_key(self.sa.key, self.sa.auth_key)
        return self.protocol.flow(self.profile, identify(policy, self._flow_key, datagram, mark))

    def number(self, arrived: Arrived) -> int | None:
        """Return a packet's full number: 0 where none is sent, None if it can have none."""
        if arrived.number is None:
            return 0
        if self.protocol.whole_numbers:
            return arrived.number or None
        return self.infer(arrived.number)

    def infer(self, low: int) -> int | None:
        """Return the full number of a low half (RFC 4303 appendix A2)."""
        if self.protocol.whole_numbers or not self.profile.esn:
            return low
        return infer_sequence(self.top, self.profile.window, low)

    def limit(self, lifetime: Lifetime, second: int) -> str:
        return lifetime.reached(second - self.installed, self.octets, self.packets, second - self.used)

    def next_second(self) -> int | None:
        """When a limit of time will be reached if no packet comes."""
        if self.expired:
            return self.used
        limits = [self.hard] if self.soft_told else [self.soft, self.hard]
        seconds = [self.installed + limit.seconds for limit in limits if limit.seconds is not None]
        seconds += [self.used + limit.idle_seconds for limit in limits if limit.idle_seconds is not None]
        return min(seconds, default=None)
