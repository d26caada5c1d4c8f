"""An SA that the reference engine has installed, and what changes with each packet."""

from __future__ import annotations

from ..crypto import Transform, transform
from ..protocols import PROTOCOLS
from ..sa import SA, Direction, Lifetime, ReplayWindow, infer_sequence
from ..sa.model import jittered
from .interface import SECOND


class Association:
    """An installed SA and what changes with each packet."""

    def __init__(self, sa: SA, number: int, now: int) -> None:
        profile = sa.profile
        self.sa, self.id, self.profile = sa, number, profile
        self.cipher = profile.cipher
        self.protocol = PROTOCOLS[profile.protocol]
        self.keys: Transform = transform(self.cipher, sa.key, sa.salt, sa.auth_key)
        self.soft = jittered(profile.soft, profile.jitter, sa.spi)
        self.hard = profile.hard
        self.sequence = sa.sequence
        self.reserved = profile.last_sequence
        guarded = profile.window and sa.direction is Direction.IN
        self.window = ReplayWindow(profile.window, sa.sequence) if guarded else None
        self.installed = self.used = now // SECOND
        self.packets = self.octets = self.replays = self.failed = 0
        self.failures_in_a_row = 0
        self.resync_second = -1
        self.soft_told = self.expired = False
        self.mtu, self.mtu_until = profile.mtu, 0
        self.peer: tuple[bytes, int] | None = None

    @property
    def top(self) -> int:
        """Inbound the highest number accepted, outbound the last one used."""
        return self.sequence if self.window is None else self.window.top

    def infer(self, low: int) -> int | None:
        return infer_sequence(self.top, self.profile.window, low) if self.profile.esn else low

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
