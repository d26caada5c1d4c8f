"""The SA that an entry of the ESP family describes, seen from both ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final

from ..crypto import SUITES, Suite
from ..engine import Engine
from ..protocols import PROTOCOLS, Format
from ..protocols.ip import IPAddress
from ..sa import DF, SA, Direction, Inner, Mode, Outer, Profile, UDPEncapsulation
from ..verdict import Delivered
from .case import Case, outcome
from .family_format import Stateless, read_eesp, read_wespv2
from .fields import FieldError, Fields
from .ip_packets import ip_packet

_IMPLICIT: Final = "-iiv"
_ALGORITHMS: Final = tuple(name for name in SUITES if not name.endswith(_IMPLICIT))
_MODES: Final = tuple(mode.value for mode in Mode if mode is not Mode.IPTFS)
_FIRST_SPI: Final = 0x100
# RFC 5737 and RFC 3849: addresses for documentation.
HOSTS: Final[dict[int, tuple[IPAddress, IPAddress]]] = {
    4: (ip_address("192.0.2.1"), ip_address("192.0.2.2")),
    6: (ip_address("2001:db8::1"), ip_address("2001:db8::2")),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """How an SA's packets look: all of its parameters but keys and numbers, as the sender sees them."""

    suite: Suite
    mode: Mode
    esn: bool
    outer: Outer | None
    inner: Inner | None
    encapsulation: UDPEncapsulation | None
    protocol: str = "esp"
    format: Format | None = None

    def profile(self, direction: Direction, *, window: int = 0, mtu: int = 65535) -> Profile:
        """Return the profile of one end.   The receiver's has local and remote changed round."""
        outer, inner, encapsulation = self.outer, self.inner, self.encapsulation
        if direction is Direction.IN:
            outer = outer and Outer(outer.remote, outer.local)
            inner = inner and Inner(inner.remote, inner.local)
            encapsulation = encapsulation and UDPEncapsulation(encapsulation.remote_port, encapsulation.local_port)
        return Profile(
            self.suite.name,
            self.mode,
            outer,
            inner,
            encapsulation,
            self.protocol,
            esn=self.esn,
            window=window,
            mtu=mtu,
            resynchronise=False,  # a known answer is what one packet gives, not what a search finds later
            format=self.format,
        )

    @property
    def ends(self) -> tuple[IPAddress, IPAddress]:
        """Source and destination of an inner packet that the SA carries."""
        return HOSTS[4] if self.inner is None else (self.inner.local, self.inner.remote)


@dataclass(frozen=True, slots=True)
class Derived:
    """Key and salt that a case expects.   session_id: of a Sub SA; stateless: of a group's sender; one of them."""

    key: bytes
    salt: bytes
    session_id: int
    stateless: Stateless | None


@dataclass(frozen=True, slots=True)
class Pair:
    """The two SAs of a case: one sends, one receives.

    key, salt, auth_key: of the SAs.   derived: keys that the engine has to make of them, None where it makes none.
    """

    shape: Shape
    spi: int
    key: bytes
    salt: bytes = b""
    auth_key: bytes = b""
    derived: Derived | None = None

    @property
    def sends_numbers(self) -> bool:
        """Whether packets have a sequence number."""
        profile = self.shape.profile(Direction.OUT)
        return profile.ways.sends_numbers(profile)

    def sender(self, sequence: int, iv: bytes | None = None) -> SA:
        """Return the SA whose next number is sequence.   iv: to be used for it, None: the engine's own."""
        return SA(
            self.shape.profile(Direction.OUT),
            Direction.OUT,
            self.spi,
            self.key,
            self.salt,
            self.auth_key,
            sequence=sequence - 1,
            iv=iv,
        )

    def receiver(self, sequence: int, window: int = 0) -> SA:
        """Return the SA that has seen sequence as its highest number."""
        return SA(
            self.shape.profile(Direction.IN, window=window),
            Direction.IN,
            self.spi,
            self.key,
            self.salt,
            self.auth_key,
            sequence=sequence if self.sends_numbers else 0,
        )

    def seal(self, engine: Engine, sequence: int) -> bytes:
        """Return a genuine packet with this number."""
        packet = ip_packet(*self.shape.ends, sequence.to_bytes(8, "big"))
        verdict = engine.encapsulate(engine.install(self.sender(sequence)), packet, 0)
        if not isinstance(verdict, Delivered):
            raise FieldError(f"no packet can be sealed with number {sequence:#x}: {outcome(verdict)}")
        return verdict.packet


def pair_of_suite(suite: str, *, esn: bool, protocol: str = "esp") -> Pair:
    """Return a pair for cases that leave keys and addresses open: tunnel mode over IPv4."""
    cipher = SUITES[suite]
    octets = bytes(range(256))
    return Pair(
        Shape(cipher, Mode.TUNNEL, esn, Outer(*HOSTS[4]), None, None, protocol),
        _FIRST_SPI,
        octets[: cipher.key_octets[0]],
        octets[: cipher.salt_octets],
        octets[: cipher.auth_key_octets],
    )


def read_shape(params: Fields, protocol: str, default: Shape | None = None) -> Shape:
    """Read the parameters that shape packets, but for the protocol's own (`read_pair`, `with_format`).

    default: where a parameter may be absent, its value is taken there.
    """
    if protocol != "eesp" and params.has("ip_proto"):
        number = PROTOCOLS[protocol].ip_protocol(pair_of_suite("aes-gcm-16", esn=False).shape.profile(Direction.IN))
        params.integer("ip_proto", number, number)
    modes = _MODES if protocol != "eesp" else (*_MODES, Mode.IPTFS.value)
    mode = default.mode if default and not params.has("mode") else Mode(params.word("mode", modes))
    outer = inner = encapsulation = None
    if mode is not Mode.TRANSPORT:
        outer = default.outer if default and not params.has("outer") else _read_outer(params.object("outer"))
    if mode is Mode.BEET:
        source = params.address("inner_src")
        inner = Inner(source, params.address("inner_dst", source.version))
    if params.has("udp"):
        encapsulation = _read_udp(params.object("udp"))
    esn = default is not None and default.esn
    if protocol == "eesp":
        esn = True
    elif default is None or params.has("esn"):
        esn = params.flag("esn")
    return Shape(_read_suite(params, default), mode, esn, outer, inner, encapsulation, protocol)


def with_format(
    shape: Shape, params: Fields, key_octets: int, *, whole: bool
) -> tuple[Shape, bytes | None, Stateless | None]:
    """Read the protocol's own parameters; also return the root key of Sub SAs, and a stateless group's sender.

    key_octets, whole: as `read_eesp` takes them.
    """
    if shape.protocol == "wespv2":
        return replace(shape, format=read_wespv2(params, whole=whole)), None, None
    if shape.protocol == "eesp":
        settings, root_key, stateless = read_eesp(params, key_octets, whole=whole)
        return replace(shape, format=settings), root_key, stateless
    return shape, None, None


def read_pair(entry: Fields, params: Fields, protocol: str) -> Pair:
    """Read shape, SPI and keys."""
    shape = read_shape(params, protocol)
    key = entry.octets("key_hex", secret=True)
    bits = params.integer("key_bits", 0, 1 << 16)
    if bits != 8 * len(key):
        raise FieldError(f"params.key_bits is {bits}, and key_hex has {8 * len(key)} bits")
    wants_auth_key = bool(shape.suite.auth_key_octets) or params.has("auth_key_hex")
    auth_key = params.octets("auth_key_hex", secret=True) if wants_auth_key else b""
    salt, spi = entry.octets("salt_hex", secret=True), params.number("spi", 32)
    shape, root_key, stateless = with_format(shape, params, len(key), whole=True)
    if root_key is None and stateless is None:
        return Pair(shape, spi, key, salt, auth_key)
    derived = Derived(key, salt, params.integer("session_id", 0, 0xFFFF), stateless)
    return Pair(shape, spi, stateless.master if stateless is not None else root_key or b"", derived=derived)


def read_sequence(fields: Fields, key: str, *, esn: bool, low: int = 0) -> int:
    """Read a sequence number of an SA."""
    return fields.number(key, 64 if esn else 32, low)


def read_own_number(params: Fields, pair: Pair, *, low: int = 0) -> int:
    """Read the number that a sender gives to the packet, also where packets do not show it."""
    if pair.sends_numbers:
        return read_sequence(params, "seq", esn=pair.shape.esn, low=low)
    params.number("seq", 1)
    stateless = pair.derived and pair.derived.stateless
    return stateless.number if stateless else 1


def read_iv(params: Fields, suite: Suite) -> bytes | None:
    """Read the explicit IV; None if the suite sends none."""
    if suite.iv_octets == 0 and not params.has("iv_hex"):
        return None
    iv = params.octets("iv_hex")
    if len(iv) != suite.iv_octets:
        raise FieldError(f"params.iv_hex has {len(iv)} octets, and {suite.name} takes {suite.iv_octets}")
    return iv or None


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver as a case wants it before its packet comes.   sa: id of its only SA."""

    engine: Engine
    sa: int


@dataclass(frozen=True, slots=True)
class Replay:
    """A window and the numbers in it.   preload: accepted, in this order."""

    window: int
    preload: tuple[int, ...]


def read_replay(params: Fields, *, esn: bool) -> Replay | None:
    """Read the window that the receiver has; None: anti-replay is off.   Numbers that no window takes are refused."""
    if not params.has("replay"):
        return None
    fields = params.object("replay")
    replay = Replay(fields.integer("window", 32, 1 << 20), tuple(fields.numbers("preload", 64 if esn else 32, low=1)))
    top, seen = 0, set[int]()
    for index, number in enumerate(replay.preload):
        if number in seen or number + replay.window <= top:
            raise FieldError(f"{fields.name('preload')}[{index}] is {number:#x}, which the window refuses by then")
        seen.add(number)
        top = max(top, number)
    return replay


def open_receiver(case: Case, pair: Pair, sequence: int, replay: Replay | None) -> Receiver:
    """Return a new receiver.   sequence: tells the high half where anti-replay is off."""
    engine = case.engine()
    if replay is None:
        return Receiver(engine, engine.install(pair.receiver(sequence)))
    numbers = _reachable(replay, esn=pair.shape.esn)
    # The window begins just below the first number, with nothing seen.
    sa = engine.install(pair.receiver(numbers[0] - 1 if numbers else 0, replay.window))
    sender = case.engine()
    for number in numbers:
        verdict = engine.decapsulate(pair.seal(sender, number), 0)
        if not isinstance(verdict, Delivered) or verdict.sequence != number:
            raise FieldError(f"params.replay.preload: number {number:#x} was not accepted: {outcome(verdict)}")
    return Receiver(engine, sa)


def _reachable(replay: Replay, *, esn: bool) -> tuple[int, ...]:
    """Return the numbers that decide what the window is, in order.

    RFC 4303 appendix A2: a receiver finds the high half for jumps of less than 2^32 only. After a longer one all
    earlier numbers are far left of the window.
    """
    first, top = 0, 0
    for index, number in enumerate(replay.preload):
        if esn and number > top - replay.window + (1 << 32):
            first = index
        top = max(top, number)
    return replay.preload[first:]


def _read_suite(params: Fields, default: Shape | None) -> Suite:
    alg = default.suite.name if default and not params.has("alg") else params.word("alg", _ALGORITHMS)
    implicit = False
    if default is None or params.has("iv_mode"):
        implicit = params.word("iv_mode", ("explicit", "implicit")) == "implicit"
    name = alg + _IMPLICIT if implicit else alg
    if name not in SUITES:
        raise FieldError(f"params.iv_mode is implicit, and {alg} has no such form")
    return SUITES[name]


def _read_outer(fields: Fields) -> Outer:
    version = fields.integer("version", 4, 6)
    if version == 5:
        raise FieldError(f"{fields.name('version')} is 5, not 4 or 6")
    outer = Outer(
        fields.address("src", version), fields.address("dst", version), hop_limit=fields.integer("ttl", 1, 255)
    )
    if version == 6:
        return replace(outer, flow_label=fields.integer("flow", 0, (1 << 20) - 1))
    df = DF.SET if fields.flag("df") else DF.CLEAR
    return replace(outer, df=df, identification=fields.integer("id", 0, (1 << 16) - 1))


def _read_udp(fields: Fields) -> UDPEncapsulation:
    return UDPEncapsulation(
        fields.integer("sport", 0, (1 << 16) - 1),
        fields.integer("dport", 0, (1 << 16) - 1),
        fields.word("checksum", ("zero", "computed")) == "computed",
    )
