"""The list `vectors`: whole packets, protected and opened by two SAs that share nothing but their keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ..protocols import ip
from ..protocols.udp import HEADER as UDP_HEADER
from ..sa import DF, Direction, EESPFormat, Mode, Outer, SAState
from ..verdict import PSP_REASONS, Delivered, Dropped, DropReason
from ..wire.esp import ESP
from ..wire.ipv4 import IPv4
from ..wire.numbers import UDP
from .case import Case, outcome
from .esp_sa import Pair, Receiver, Replay, open_receiver, read_iv, read_own_number, read_pair, read_replay
from .family_format import body_of, options_of
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
    "bad_version": "XfrmInHdrError",
    "bad_hdrlen": "XfrmInHdrError",
    "bad_optlen": "XfrmInHdrError",
    "bad_option": "XfrmInHdrError",
    "unknown_option": "XfrmInHdrError",
    "bad_reserved": "XfrmInHdrError",
    "not_eesp": "XfrmInHdrError",
    "bad_next_header": "XfrmInStateProtoError",
    "bad_crypt_offset": "XfrmInStateProtoError",
    "bad_payload_offset": "XfrmInStateProtoError",
    "bad_session": "XfrmInNoStates",
    "format_mismatch": "XfrmInStateModeError",
    "bad_payload_info": "XfrmInStateModeError",
}
_NO_ERRORS: Final = (
    DropReason.DUMMY,
    DropReason.SELECTOR_MISMATCH,
    DropReason.IN_NO_POLICY,
    DropReason.IN_DISCARD,
)
_KINDS: Final = tuple(
    dict.fromkeys(
        reason.verdict
        for reason in DropReason
        if reason not in PSP_REASONS and reason not in _NO_ERRORS and not reason.name.startswith("OUT_")
    )
)
# RFC 4303 §3.4.3: the window takes a number as soon as the ICV holds, so also of a packet that is dropped after that.
_AFTER_THE_ICV: Final = frozenset(
    ("bad_padding", "bad_inner", "ecn_drop", "unknown_option", "format_mismatch", "bad_payload_info")
)
# Found in front of the ICV or behind it, by what is wrong.
_ON_EITHER_SIDE: Final = frozenset(("bad_next_header", "bad_crypt_offset"))


def run(entry: Fields, case: Case, protocol: str) -> None:
    """Encapsulate (direction "both") and decapsulate one packet."""
    params = entry.object("params")
    direction = entry.word("direction", ("both", "decode"))
    expect = entry.word("expect", ("ok", *(_ERROR + kind for kind in _KINDS)))
    pair = read_pair(entry, params, protocol)
    sends = direction == "both" and expect == "ok"
    sequence = read_own_number(params, pair, low=1 if sends else 0)
    iv = read_iv(params, pair.shape.suite)
    replay = read_replay(params, esn=pair.shape.esn)
    tfc = params.octets("tfc_hex") if params.has("tfc_hex") else b""
    dummy = params.octets("dummy_hex") if params.has("dummy") and params.flag("dummy") else None
    plaintext = entry.octets("plaintext_packet_hex")
    if sends and bool(plaintext) is not (dummy is None):
        raise FieldError("an empty plaintext_packet_hex is a dummy, and a dummy has params.dummy and params.dummy_hex")

    _compare_keys(case, pair)
    header = _transport_header(entry) if sends and dummy is not None and pair.shape.outer is None else None
    sent = _encapsulate(case, pair, header, sequence, iv, plaintext, tfc, dummy) if sends else None
    protected = entry.octets("protected_packet_hex")
    if sent is not None:
        case.equal("packet", protected, sent, _OUT)
    if protocol != "esp":
        _compare_form(case, entry, params, pair, sent, protected if expect == "ok" else None)

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
                case.equal("sequence number", sequence if pair.sends_numbers else 0, verdict.sequence, _IN)
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
    if kind not in _AFTER_THE_ICV | _ON_EITHER_SIDE:
        case.equal("highest number of the window", before.sequence, after.sequence, _IN)
    if replay is not None and kind not in _ON_EITHER_SIDE:
        _compare_windows(case, pair, sequence, replay, protected, kind)


def _compare_keys(case: Case, pair: Pair) -> None:
    """What the engine derives has to be what the case says, before anything is sealed with it."""
    derived = pair.derived
    if derived is None:
        return
    algorithms, settings = case.engine().algorithms, pair.shape.format
    if derived.stateless is not None:
        group = derived.stateless
        key, salt = algorithms.stateless_key(group.master, pair.spi, group.device_id, group.epoch)
    else:
        assert isinstance(settings, EESPFormat)
        assert settings.sub_sas is not None
        sizes = settings.sub_sas.key_octets, pair.shape.suite.salt_octets
        key, salt = algorithms.sub_sa_key(settings.sub_sas.kdf, pair.key, derived.session_id, *sizes)
    case.equal("derived key", derived.key, key, secret=True)
    case.equal("derived salt", derived.salt, salt, secret=True)


def _transport_header(entry: Fields) -> Outer:
    """Return the IP header of a dummy in transport mode, which no parameter has: the packet's own."""
    datagram = ip.parse(entry.octets("protected_packet_hex"))
    if datagram is None or not isinstance(datagram.header, IPv4):
        raise FieldError("protected_packet_hex is not an IPv4 packet, whose header a dummy in transport mode takes")
    header = datagram.header
    return Outer(
        ip.address(header.source),
        ip.address(header.destination),
        hop_limit=header.ttl,
        df=DF.SET if header.df else DF.CLEAR,
        identification=header.identification,
    )


def _compare_form(
    case: Case, entry: Fields, params: Fields, pair: Pair, sent: bytes | None, opened: bytes | None
) -> None:
    """Compare the options field, and the format that EESP's sender has chosen.   opened: a good packet that arrives."""
    protocol = pair.shape.protocol
    wanted = params.octets("options_hex")
    for packet, direction in ((sent, _OUT), (opened, _IN)):
        if packet is not None:
            case.equal("options", wanted, options_of(protocol, packet), direction)
    if protocol == "eesp":
        form = params.word("format", ("full", "optimized"))
        if sent is not None:
            case.equal("format", form, _format_of(pair, entry.octets("plaintext_packet_hex"), sent), _OUT)


def _format_of(pair: Pair, plaintext: bytes, sent: bytes) -> str:
    """Tell the format of a tunnel's packet by its length: only the full one has four octets in front."""
    shape, settings = pair.shape, pair.shape.format
    if shape.mode is not Mode.TUNNEL or not plaintext:
        return "full"
    assert isinstance(settings, EESPFormat)
    body = body_of("eesp", sent)
    around = 8 + body[1] + (8 if settings.sequence_numbers else 0) + shape.suite.iv_octets + shape.suite.icv_octets
    return "optimized" if len(body) - around == len(plaintext) + -len(plaintext) % 4 else "full"


def _encapsulate(
    case: Case,
    pair: Pair,
    header: Outer | None,
    sequence: int,
    iv: bytes | None,
    plaintext: bytes,
    tfc: bytes,
    dummy: bytes | None,
) -> bytes | None:
    engine = case.engine()
    spec = pair.sender(sequence, None if pair.derived and pair.derived.stateless else iv)
    if header is not None:
        spec = replace(spec, profile=replace(spec.profile, outer=header))
    sa = engine.install(spec)
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
