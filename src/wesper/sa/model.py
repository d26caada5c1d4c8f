"""Security associations: what many share (`Profile`), what one has alone (`SA`), and what it lives through (`SAState`).

Source: RFC 4301 §4.4.2.1.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from ..crypto import SUITES, Suite, suite
from ..errors import ConfigError, KeyMaterialError
from ..protocols import PROTOCOLS, Encapsulation, Format
from ..protocols.ip import IPAddress
from ..protocols.modes import Inner, Mode, Outer
from ..protocols.udp import UDPEncapsulation
from .replay import DEFAULT_WINDOW, MAX_WINDOW
from .selectors import Selector

SPI_FIRST = 256  # RFC 4303 §2.1: 1..255 are reserved, 0 never appears on the wire


class Fragmentation(enum.Enum):
    """When an IPv4 packet without DF that is too large is cut (RFC 4301 §8.2.1)."""

    BEFORE = "before"  # each piece is a packet of the SA
    AFTER = "after"  # the protected packet is cut, as IP does


class Direction(enum.Enum):
    """Which way an SA's packets go: an SA is simplex (RFC 4301 §4.1)."""

    OUT = "out"
    IN = "in"


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Limits of an SA; None: no limit.   The first one reached counts (RFC 4301 §4.4.2.1).

    seconds: since it was installed, whole seconds.
    octets: of protected payload: tunnel: whole packets, TFC padding too; transport and BEET: all behind the IP header.
    packets: how many, dummies too.
    idle_seconds: without a packet.
    """

    seconds: int | None = None
    octets: int | None = None
    packets: int | None = None
    idle_seconds: int | None = None

    def __post_init__(self) -> None:
        for name in ("seconds", "octets", "packets", "idle_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1 << 63:
                raise ConfigError(f"lifetime of {value}", key=name, expected="a positive number")

    def reached(self, age_seconds: int, octets: int, packets: int, idle_seconds: int) -> str:
        """Return the name of the limit that is reached, "" if none."""
        if self.seconds is not None and age_seconds >= self.seconds:
            return "seconds"
        if self.octets is not None and octets >= self.octets:
            return "octets"
        if self.packets is not None and packets >= self.packets:
            return "packets"
        if self.idle_seconds is not None and idle_seconds >= self.idle_seconds:
            return "idle_seconds"
        return ""


@dataclass(frozen=True, slots=True)
class Profile:
    """All that many SAs share.   The same profile serves both directions of a pair.

    suite: a name of crypto.SUITES.
    mode: tunnel and BEET need outer, BEET needs inner.
    inner: BEET's inner pair; in transport mode the pair before NAT, to mend checksums.
    encapsulation: UDP around it.
    protocol: esp, wesp, wespv2 or eesp.
    esn: extended sequence numbers, 64 bits; EESP has no others.
    window: 0 turns anti-replay off, else a multiple of 32 up to 2^20.
    check_padding: look at received padding octets (RFC 4303 §2.4).
    pad_to: TFC padding, tunnel mode: shorter inner packets are padded to this many octets.
    mtu: of the path, octets from the outer IP header on.
    fragmentation: when IPv4 packets without DF are cut.
    selectors: traffic that the SA may carry; empty: any.
    soft, hard: lifetimes.
    jitter: soft lifetimes are shortened by up to so many per cent, by a share that the SPI decides, so that not all
    SAs rekey at once.
    resynchronise: search for the high half after a gap of 2^32 packets (RFC 4303 appendix A3).
    format: settings that the protocol has alone, WESPv2Format or EESPFormat; None: all of them as they are by default.
    """

    suite: str
    mode: Mode = Mode.TUNNEL
    outer: Outer | None = None
    inner: Inner | None = None
    encapsulation: UDPEncapsulation | None = None
    protocol: str = "esp"
    esn: bool = True
    window: int = DEFAULT_WINDOW
    check_padding: bool = True
    pad_to: int = 0
    mtu: int = 65535
    fragmentation: Fragmentation = Fragmentation.BEFORE
    selectors: tuple[Selector, ...] = ()
    soft: Lifetime = field(default_factory=Lifetime)
    hard: Lifetime = field(default_factory=Lifetime)
    jitter: int = 0
    resynchronise: bool = True
    format: Format | None = None

    def __post_init__(self) -> None:
        suite(self.suite)
        if self.protocol not in PROTOCOLS:
            raise ConfigError(f"protocol {self.protocol!r}", key="protocol", expected=" or ".join(PROTOCOLS))
        self._check_format()
        if self.mode is not Mode.TRANSPORT and self.outer is None:
            raise ConfigError(
                f"{self.mode.value} mode without outer addresses", key="outer", expected="local and remote"
            )
        if self.mode is Mode.BEET and self.inner is None:
            raise ConfigError("BEET mode without its inner pair", key="inner", expected="local and remote")
        for key, pair in (("outer", self.outer), ("inner", self.inner)):
            if pair is not None and pair.local.version != pair.remote.version:
                raise ConfigError("local and remote are of different IP versions", key=key, expected="one version")
        if self.window and (not 32 <= self.window <= MAX_WINDOW or self.window % 32):
            raise ConfigError(
                f"window {self.window}", key="window", expected=f"0, or a multiple of 32 up to {MAX_WINDOW}"
            )
        if self.pad_to and self.mode is not Mode.TUNNEL:
            # RFC 4303 §2.7: only where the payload itself says how long it is.
            raise ConfigError("TFC padding outside tunnel mode", key="pad_to", expected="0")
        if self.pad_to and not self.ways.takes_tfc:
            raise ConfigError(f"TFC padding with {self.protocol}", key="pad_to", expected="0")
        if self.selectors and self.mode is Mode.IPTFS:
            raise ConfigError("selectors in mode iptfs", key="selectors", expected="none: AGGFRAG payloads are opaque")
        for key, value, low, high in (
            ("pad_to", self.pad_to, 0, 65535),
            ("mtu", self.mtu, 68, 65535),
            ("jitter", self.jitter, 0, 90),
        ):
            if not low <= value <= high:
                raise ConfigError(f"{key} {value}", key=key, expected=f"{low}..{high}")
        if self.outer is not None:
            for key, number, low, high in (
                ("hop_limit", self.outer.hop_limit, 1, 255),
                ("dscp", self.outer.dscp or 0, 0, 63),
                ("flow_label", self.outer.flow_label or 0, 0, 0xFFFFF),
                ("identification", self.outer.identification or 0, 0, 0xFFFF),
            ):
                if not low <= number <= high:
                    raise ConfigError(f"{key} {number}", key=f"outer.{key}", expected=f"{low}..{high}")

        self.ways.check(self)

    def _check_format(self) -> None:
        """Take the protocol's default settings if there are none."""
        kind = self.ways.format
        if self.format is None and kind is not None:
            object.__setattr__(self, "format", kind())
        elif self.format is not None and (kind is None or not isinstance(self.format, kind)):
            raise ConfigError(
                f"{type(self.format).__name__} with protocol {self.protocol}",
                key="format",
                expected="none" if kind is None else kind.__name__,
            )

    @property
    def cipher(self) -> Suite:
        return SUITES[self.suite]

    @property
    def ways(self) -> Encapsulation:
        """How its protocol does things."""
        return PROTOCOLS[self.protocol]

    @property
    def last_sequence(self) -> int:
        """Highest number that may be sent (RFC 4303 §3.3.3)."""
        return self.ways.last_sequence(self)

    def check_keys(self, key: bytes, salt: bytes, auth_key: bytes) -> None:
        """Raise KeyMaterialError if a length is not that of this profile's keys."""
        sizes = self.ways.key_sizes(self)
        for what, octets, allowed in (
            ("key", len(key), sizes.key),
            ("salt", len(salt), (sizes.salt,)),
            ("auth_key", len(auth_key), (sizes.auth_key,)),
        ):
            if octets not in allowed:
                wanted = " or ".join(map(str, allowed)) + " octets"
                raise KeyMaterialError(f"{octets} octets for {self.cipher.name}", key=what, expected=wanted)


@dataclass(frozen=True, slots=True)
class SA:
    """One security association.   Keys never show in its repr.

    spi: 256..2^32-1.
    key, salt, auth_key: octets, as long as the suite wants; EESP's Sub SAs and stateless groups derive theirs from key.
    sequence: outbound the last number used, of every Sub SA; inbound the top of the window, in which nothing counts as
    seen: resuming an inbound SA below the peer's real number lets old packets in again.
    multicast: inbound, (destination,) or (destination, source) that must match too; such SAs may share an SPI
    (RFC 4303 §3.4.2). Empty: the SPI alone.
    iv: a fixed IV, for known answers only: a second packet would reuse it.
    """

    profile: Profile
    direction: Direction
    spi: int
    key: bytes = field(repr=False)
    salt: bytes = field(default=b"", repr=False)
    auth_key: bytes = field(default=b"", repr=False)
    sequence: int = 0
    multicast: tuple[IPAddress, ...] = ()
    iv: bytes | None = None

    def __post_init__(self) -> None:
        cipher = self.profile.cipher
        if not SPI_FIRST <= self.spi < 1 << 32:
            raise ConfigError(f"SPI {self.spi:#x}", key="spi", expected="0x100..0xffffffff")
        self.profile.check_keys(self.key, self.salt, self.auth_key)
        if not 0 <= self.sequence <= self.profile.last_sequence:
            raise ConfigError(
                f"sequence {self.sequence:#x}", key="sequence", expected=f"0..{self.profile.last_sequence:#x}"
            )
        if self.iv is not None and len(self.iv) != (16 if cipher.block == 16 else 8):
            raise ConfigError(f"IV of {len(self.iv)} octets", key="iv", expected="8 octets, 16 for CBC")
        if len(self.multicast) > 2:
            raise ConfigError("more than destination and source", key="multicast", expected="at most two addresses")


@dataclass(frozen=True, slots=True)
class SAState:
    """What an SA has lived through.

    sequence: inbound the highest number accepted, outbound the last one used; of all Sub SAs the highest.
    octets: as Lifetime counts them.   mtu: the path's, as known now.
    """

    sequence: int
    packets: int
    octets: int
    replay: int
    integrity_failed: int
    mtu: int


@dataclass(frozen=True, slots=True)
class SubSAState:
    """What one Sub SA has lived through; lifetimes and failures are the whole SA's."""

    sequence: int
    packets: int
    octets: int


def soft_limit(limit: int, jitter: int, spi: int) -> int:
    """Return a soft limit shortened for this SPI by its share of jitter per cent."""
    share = (spi * 0x9E3779B1 & 0xFFFFFFFF) >> 16
    return max(limit - limit * jitter * share // (100 << 16), 1)


def jittered(soft: Lifetime, jitter: int, spi: int) -> Lifetime:
    """Return the soft lifetime that an SA with this SPI really has."""
    if not jitter:
        return soft
    return Lifetime(
        *(
            None if limit is None else soft_limit(limit, jitter, spi)
            for limit in (soft.seconds, soft.octets, soft.packets, soft.idle_seconds)
        )
    )
