"""An SA of a key file: all that the file says, and what it leaves to the packets."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from ..crypto import SUITES, Suite
from ..errors import ConfigError
from ..protocols import Format
from ..protocols.ip import IPAddress
from ..sa import SA, AddressRange, Direction, Inner, Mode, Outer, Profile, Selector, UDPEncapsulation
from ..sa.replay import DEFAULT_WINDOW

_LEGACY_WORDS = ("3des", "des", "md5", "sha1", "sha-1", "blowfish", "cast", "twofish", "ripemd", "sha2-256-96")


class Encapsulated(enum.Enum):
    """Whether UDP is around an SA's packets, where the file names no ports."""

    NEVER = "none"
    AS_SEEN = "auto"  # with and without, whatever the packets show


@dataclass(frozen=True, slots=True, repr=False)
class StaticSA:
    """One SA of a key file.   Keys never show in its repr.

    direction: OUT: packets go from local to remote.   spi: None: any.   local, remote: outer addresses; None: any.
    mode: None: tunnel or transport, as the packets show.   encapsulation: ports as local sees them, or a word.
    inner: BEET's inner pair, or the pair before NAT in transport mode.   sequence: the last number used before the
    packets to come; its high half is where ESN begins.   selectors: what an outbound SA is for.
    format: the protocol's own settings, None: its default ones.
    path, line: where the file says so, for messages.
    """

    suite: str
    spi: int | None
    key: bytes
    salt: bytes = b""
    auth_key: bytes = b""
    name: str = ""
    protocol: str = "esp"
    direction: Direction = Direction.OUT
    mode: Mode | None = Mode.TUNNEL
    local: AddressRange | None = None
    remote: AddressRange | None = None
    inner: Inner | None = None
    encapsulation: UDPEncapsulation | Encapsulated = Encapsulated.NEVER
    esn: bool = True
    window: int = DEFAULT_WINDOW
    sequence: int = 0
    selectors: tuple[Selector, ...] = ()
    format: Format | None = None
    path: Path | str | None = field(default=None, compare=False)
    line: int | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        named = f"name={self.name!r}, " if self.name else ""
        return f"StaticSA({named}suite={self.suite!r}, spi={self.spi}, mode={self.mode})"

    @property
    def title(self) -> str:
        """What people call it: its name, or its SPI."""
        return self.name or ("SPI *" if self.spi is None else f"SPI {self.spi:#010x}")

    @property
    def cipher(self) -> Suite:
        return SUITES[self.suite]

    @property
    def source(self) -> AddressRange | None:
        """Outer addresses of the sender."""
        return self.local if self.direction is Direction.OUT else self.remote

    @property
    def destination(self) -> AddressRange | None:
        """Outer addresses of the receiver."""
        return self.remote if self.direction is Direction.OUT else self.local

    @property
    def udp_ports(self) -> frozenset[int]:
        """UDP ports that the file names."""
        around = self.encapsulation
        return (
            frozenset((around.local_port, around.remote_port)) if isinstance(around, UDPEncapsulation) else frozenset()
        )

    def carries(self, spi: int, source: IPAddress, destination: IPAddress) -> bool:
        """Whether a packet with these outer addresses is one of this SA's.   spi: as received."""
        return (self.spi is None or self.spi == spi) and all(
            wanted is None or wanted.holds(found.version, int(found))
            for wanted, found in ((self.source, source), (self.destination, destination))
        )

    def sender(self, *, sequence: int | None = None) -> SA:
        """Return the SA that protects packets.   sequence: the last number used, instead of the file's.

        Raises ConfigError for what the file leaves open and a sender has to know, and for an inbound SA.
        """
        if self.direction is not Direction.OUT:
            raise self.at_fault(ConfigError("an inbound SA sends nothing", key="direction", expected="out"))
        if self.spi is None:
            raise self._open_question("spi", "a number")
        if self.mode is None:
            raise self._open_question("mode", "tunnel, transport or beet")
        if self.encapsulation is Encapsulated.AS_SEEN:
            raise self._open_question("encapsulation", "none, udp or a table of ports")
        around = self.encapsulation if isinstance(self.encapsulation, UDPEncapsulation) else None
        outer = None if self.mode is Mode.TRANSPORT else Outer(self._one("local"), self._one("remote"))
        profile = self._profile(self.mode, outer, self.inner, around, 0, self.selectors)
        last = self.sequence if sequence is None else sequence
        return self._sa(profile, Direction.OUT, self.spi, last)

    def receiver(
        self,
        spi: int,
        source: IPAddress,
        destination: IPAddress,
        ports: tuple[int, int] | None,
        sequence: int,
        *,
        mode: Mode | None = None,
        anti_replay: bool = False,
        multicast: bool = False,
    ) -> SA:
        """Return the SA that opens a packet like this one, and those that come after it.

        ports: of the UDP around it, None without.   sequence: its low half, near which the high half is looked for.
        mode: for a file that leaves it open.   multicast: the SPI alone does not tell the SA (RFC 4303 §3.4.2).
        """
        around: UDPEncapsulation | None = None
        if ports is not None and self.encapsulation is not Encapsulated.NEVER:
            around = UDPEncapsulation(ports[1], ports[0])
        elif isinstance(self.encapsulation, UDPEncapsulation):
            around = self.encapsulation  # a packet without UDP will not do: ENCAP_MISMATCH
        inner = self.inner
        if inner is not None and self.direction is Direction.OUT:  # seen from the end that receives
            inner = Inner(inner.remote, inner.local)
        window = self.window if anti_replay else 0
        profile = self._profile(self.mode or mode or Mode.TUNNEL, Outer(destination, source), inner, around, window, ())
        ends = (destination, source) if multicast else ()
        # With no window the number only says where the high half is, and the packet itself knows best.
        last = self.sequence if window else (self.sequence >> 32 << 32 | sequence if self.esn else sequence)
        return replace(self._sa(profile, Direction.IN, spi, last), multicast=ends)

    @property
    def ip_protocol(self) -> int:
        """Number in the IP header of its packets, where they do not come in UDP."""
        terms = self.terms
        return terms.ways.ip_protocol(terms)

    @property
    def terms(self) -> Profile:
        """What its protocol has to know of it, whatever the addresses; tunnel mode if the file leaves that open."""
        any4 = Outer(IPv4Address(0), IPv4Address(0))
        return self._profile(self.mode or Mode.TUNNEL, any4, self.inner, None, self.window, self.selectors)

    def check(self) -> None:
        """Raise KeyMaterialError or ConfigError, with place, if keys or settings do not go together."""
        try:
            profile = self.terms
            self._sa(profile, Direction.IN, 256 if self.spi is None else self.spi, self.sequence)
        except ConfigError as error:
            raise self.at_fault(error) from error

    def at_fault(self, error: ConfigError) -> ConfigError:
        """Return the same error with this SA's place."""
        named = f"{self.title}: {error.what}" if self.name else error.what
        return type(error)(named, path=self.path, line=self.line, key=error.key, expected=error.expected)

    def _profile(
        self,
        mode: Mode,
        outer: Outer | None,
        inner: Inner | None,
        around: UDPEncapsulation | None,
        window: int,
        selectors: tuple[Selector, ...],
    ) -> Profile:
        return Profile(
            self.suite,
            mode,
            outer,
            inner if mode is not Mode.TUNNEL else None,
            around,
            self.protocol,
            self.esn,
            window,
            selectors=selectors,
            format=self.format,
        )

    def _sa(self, profile: Profile, direction: Direction, spi: int, sequence: int) -> SA:
        return SA(profile, direction, spi, self.key, self.salt, self.auth_key, sequence)

    def _one(self, key: str) -> IPAddress:
        found: AddressRange | None = getattr(self, key)
        if found is None or found.first != found.last:
            raise self._open_question(key, "one address")
        return IPv4Address(found.first) if found.version == 4 else IPv6Address(found.first)

    def _open_question(self, key: str, expected: str) -> ConfigError:
        return self.at_fault(ConfigError("left open, and needed to encrypt", key=key, expected=expected))


def legacy_word(name: str) -> str:
    """Return the part of a suite's name that tells a legacy algorithm, "" if none does."""
    return next((word for word in _LEGACY_WORDS if re.search(rf"(?<![a-z0-9]){word}(?![a-z])", name.lower())), "")
