"""The list `inner_mtu`: the largest inner packet of an SA, by its own answer and by measuring."""

from __future__ import annotations

from typing import Final

from ..engine import Engine
from ..protocols.ip import IPV4_HEADER, IPV6_HEADER
from ..sa import SA, Direction
from ..verdict import Delivered, Dropped, DropReason
from .case import Case, outcome
from .esp_sa import Shape, pair_of_suite, read_shape, with_format
from .fields import FieldError, Fields
from .ip_packets import sized_packet

_OUT: Final = "encapsulate"
_MOST: Final = 65535


def run(entry: Fields, case: Case, protocol: str) -> None:
    """Ask an SA for its inner MTU; then measure packets of that size and of one octet more."""
    params = entry.object("params")
    # What an entry's parameters change: a tunnel over IPv4 with 32-bit numbers and an explicit IV, nothing around it.
    default = pair_of_suite("aes-gcm-16", esn=protocol == "eesp", protocol=protocol).shape
    shape = read_shape(params, protocol, default)
    octets = _key_octets(params, shape)
    shape, _, _ = with_format(shape, params, octets, whole=False)
    key = bytes(octets)
    outer_mtu = entry.integer("outer_mtu", 68, _MOST)

    engine = case.engine()
    sa = engine.install(_sender(shape, key, outer_mtu))
    answer = engine.inner_mtu(sa)
    inner_mtu = entry.integer("inner_mtu", 0, _MOST)
    case.equal("inner MTU", inner_mtu, answer, _OUT)

    unlimited = case.engine()
    wide = unlimited.install(_sender(shape, key, _MOST))
    fits, too_big = (
        _protected_octets(unlimited, wide, shape, inner_mtu),
        _protected_octets(unlimited, wide, shape, inner_mtu + 1),
    )
    if fits is None:
        case.fail(f"no inner packet of {inner_mtu} octets can be protected", _OUT)
    elif fits > outer_mtu:
        case.equal(f"octets around an inner packet of {inner_mtu}", f"at most {outer_mtu}", fits, _OUT)
    if too_big is not None and too_big <= outer_mtu:
        case.equal(f"octets around an inner packet of {inner_mtu + 1}", f"more than {outer_mtu}", too_big, _OUT)
    _compare_limit(case, engine, sa, shape, inner_mtu)


def _compare_limit(case: Case, engine: Engine, sa: int, shape: Shape, inner_mtu: int) -> None:
    """The SA that knows the outer MTU takes the one packet and refuses the other."""
    for octets, wanted in ((inner_mtu, "delivered"), (inner_mtu + 1, DropReason.OUT_TOO_BIG.verdict)):
        if _least(shape) <= octets <= _MOST:
            verdict = engine.encapsulate(sa, sized_packet(*shape.ends, octets), 0)
            case.equal(f"verdict on an inner packet of {octets}", wanted, outcome(verdict), _OUT)


def _protected_octets(engine: Engine, sa: int, shape: Shape, octets: int) -> int | None:
    """Return how long an inner packet of so many octets becomes; None if there is no such packet."""
    if not _least(shape) <= octets <= _MOST:
        return None
    verdict = engine.encapsulate(sa, sized_packet(*shape.ends, octets), 0)
    if isinstance(verdict, Dropped) and verdict.reason is DropReason.OUT_TOO_BIG:
        return None
    if not isinstance(verdict, Delivered):
        raise FieldError(f"an inner packet of {octets} octets is not protected: {outcome(verdict)}")
    return len(verdict.packet)


def _least(shape: Shape) -> int:
    return IPV4_HEADER if shape.ends[0].version == 4 else IPV6_HEADER


def _sender(shape: Shape, key: bytes, mtu: int) -> SA:
    suite = shape.suite
    profile = shape.profile(Direction.OUT, mtu=mtu)
    return SA(profile, Direction.OUT, 0x100, key, bytes(suite.salt_octets), bytes(suite.auth_key_octets))


def _key_octets(params: Fields, shape: Shape) -> int:
    """Return a key length of the suite: as `key_bits` says, else the shortest; sizes do not depend on it."""
    allowed = shape.suite.key_octets
    if not params.has("key_bits"):
        return allowed[0]
    bits = params.integer("key_bits", 0, 8 * max(allowed))
    if bits not in [8 * octets for octets in allowed]:
        raise FieldError(f"params.key_bits is {bits}, which {shape.suite.name} does not take")
    return bits // 8
