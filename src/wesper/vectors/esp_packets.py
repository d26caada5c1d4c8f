"""The list `vectors`: whole packets, protected and opened by two SAs that share nothing but their keys."""

from __future__ import annotations

from typing import Final

from ..protocols import ip
from ..protocols.udp import HEADER as UDP_HEADER
from ..sa import Direction, SAState
from ..verdict import Delivered, Dropped, DropReason
from ..wire.esp import ESP
from ..wire.numbers import UDP
from .case import Case, outcome
from .esp_sa import Pair, Receiver, Replay, open_receiver, read_iv, read_pair, read_replay, read_sequence
from .fields import FieldError, Fields

_OUT: Final = "encapsulate"
_IN: Final = "decapsulate"
_DUMMY: Final = DropReason.DUMMY.verdict
_ERROR: Final = "error:"

# Which counter of /proc/net/xfrm_stat an error raises, "" for none. Those of the other errors the drop reasons tell.
_COUNTER_OF: Final = {
    "not_for_us": "",
    "fragment": "XfrmInHdrError",
    "no_sa": "XfrmInNoStates",
    "replay": "XfrmInStateSeqError",
    "auth": "XfrmInStateProtoError",
    "bad_padding": "XfrmInStateProtoError",
    "bad_inner": "XfrmInStateModeError",
}
_KINDS: Final = tuple(
    dict.fromkeys(
        reason.verdict
        for reason in DropReason
        if reason.code < DropReason.SELECTOR_MISMATCH.code and reason is not DropReason.DUMMY
    )
)
# RFC 4303 §3.4.3: the window takes a number as soon as the ICV holds, so also of a packet that is dropped after that.
_AFTER_THE_ICV: Final = frozenset(("bad_padding", "bad_inner", "ecn_drop"))


def run(entry: Fields, case: Case) -> None:
    """Encapsulate (direction "both") and decapsulate one packet."""
    params = entry.object("params")
    direction = entry.word("direction", ("both", "decode"))
    expect = entry.word("expect", ("ok", *(_ERROR + kind for kind in _KINDS)))
    pair = read_pair(entry, params)
    sends = direction == "both" and expect == "ok"
    sequence = read_sequence(params, "seq", esn=pair.shape.esn, low=1 if sends else 0)
    iv = read_iv(params, pair.shape.suite)
    replay = read_replay(params, esn=pair.shape.esn)
    tfc = params.octets("tfc_hex") if params.has("tfc_hex") else b""
    dummy = params.octets("dummy_hex") if params.has("dummy") and params.flag("dummy") else None
    plaintext = entry.octets("plaintext_packet_hex")
    if sends and bool(plaintext) is not (dummy is None):
        raise FieldError("an empty plaintext_packet_hex is a dummy, and a dummy has params.dummy and params.dummy_hex")

    sent = _encapsulate(case, pair, sequence, iv, plaintext, tfc, dummy) if sends else None
    protected = entry.octets("protected_packet_hex")
    if sent is not None:
        case.equal("packet", protected, sent, _OUT)

    receiver = open_receiver(case, pair, sequence, replay)
    engine, before = receiver.engine, receiver.engine.state(receiver.sa)
    counters, drops = engine.counters(), engine.drops()
    verdict = engine.decapsulate(protected, 0)
    after = engine.state(receiver.sa)
    risen = {name: count - counters[name] for name, count in engine.counters().items() if count != counters[name]}
    reasons = {r.name: count - drops.get(r, 0) for r, count in engine.drops().items() if count != drops.get(r, 0)}

    if expect == "ok":
        if not case.equal("verdict", "delivered" if plaintext else _DUMMY, outcome(verdict), _IN):
            return
        if isinstance(verdict, Delivered):
            case.equal("packet", plaintext, verdict.packet, _IN)
            if sends:
                case.equal("sequence number", sequence, verdict.sequence, _IN)
        case.equal("counters that rose", "none", _listed(risen), _IN)
        _compare_sa_counts(case, before, after, "")
        return
    kind = expect.removeprefix(_ERROR)
    if not case.equal("verdict", kind, outcome(verdict), _IN) or not isinstance(verdict, Dropped):
        return
    counter = _counter(kind, protected, verdict.reason)
    case.equal("counters that rose", _listed({counter: 1} if counter else {}), _listed(risen), _IN)
    case.equal("drop reasons that were counted", f"{verdict.reason.name} 1", _listed(reasons), _IN)
    _compare_sa_counts(case, before, after, kind)
    if kind not in _AFTER_THE_ICV:
        case.equal("highest number of the window", before.sequence, after.sequence, _IN)
    if replay is not None:
        _compare_windows(case, pair, sequence, replay, protected, kind)


def _encapsulate(
    case: Case, pair: Pair, sequence: int, iv: bytes | None, plaintext: bytes, tfc: bytes, dummy: bytes | None
) -> bytes | None:
    engine = case.engine()
    sa = engine.install(pair.sender(sequence, iv))
    verdict = engine.encapsulate(sa, plaintext, 0, tfc=tfc) if dummy is None else engine.dummy(sa, dummy + tfc, 0)
    case.equal("verdict", "delivered", outcome(verdict), _OUT)
    if not isinstance(verdict, Delivered):
        return None
    case.equal("sequence number", sequence, verdict.sequence, _OUT)
    case.equal("counters that rose", "none", _listed({k: n for k, n in engine.counters().items() if n}), _OUT)
    return verdict.packet


def _counter(kind: str, packet: bytes, reason: DropReason) -> str:
    """Return the counter that belongs to a drop."""
    if kind != "truncated":
        return _COUNTER_OF.get(kind, reason.counter)
    # Linux: XfrmInHdrError where SPI and sequence number can't be read.
    datagram = ip.parse(packet)
    octets = 0
    if datagram is not None:
        octets = len(datagram.packet) - datagram.upper_at - (UDP_HEADER if datagram.upper == UDP else 0)
    return "XfrmInHdrError" if octets < ESP.SIZE else "XfrmInStateProtoError"


def _compare_sa_counts(case: Case, before: SAState, after: SAState, kind: str) -> None:
    """The SA's own counts of failures: one of them rises with its error, with nothing else."""
    for what, wanted, old, new in (
        ("replay", "replay", before.replay, after.replay),
        ("integrity_failed", "auth", before.integrity_failed, after.integrity_failed),
    ):
        case.equal(f"the SA's count {what}", old + (kind == wanted), new, _IN)


def _compare_windows(case: Case, pair: Pair, sequence: int, replay: Replay, dropped: bytes, kind: str) -> None:
    """Ask about numbers around the window: one receiver that saw the dropped packet, one that did not; both new."""
    sealer = case.engine()
    top, window = max(replay.preload, default=0), replay.window
    last = pair.shape.profile(Direction.IN).last_sequence
    before = [pair.seal(sealer, sequence)] if kind in _AFTER_THE_ICV and sequence else []
    numbers = (top - window, top - window + 1, sequence, top - 1, top, top + 1, top + window, top + 2 * window)
    for number in dict.fromkeys(numbers):
        if 1 <= number <= last:
            packet = pair.seal(sealer, number)
            expected = _answer(open_receiver(case, pair, sequence, replay), [*before, packet])
            got = _answer(open_receiver(case, pair, sequence, replay), [dropped, packet])
            case.equal(f"the window afterwards, asked with number {number:#x}", expected, got, _IN)


def _answer(receiver: Receiver, packets: list[bytes]) -> str:
    """Return what becomes of the last packet."""
    return [outcome(receiver.engine.decapsulate(packet, 0)) for packet in packets][-1]


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
