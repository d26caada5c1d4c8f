"""The numbers of a running tunnel as metrics: names, kinds, labels and units in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from .. import __version__
from ..sa import SAState
from ..verdict import COUNTERS, PSP_COUNTERS, PSP_REASONS, DropReason
from .loop import COUNTS
from .openmetrics import Family, Sample


@dataclass(frozen=True, slots=True)
class SANumbers:
    """Numbers of one SA.   direction: in or out.   sending: an outbound SA that data leaves by now."""

    tunnel: str
    direction: str
    spi: int
    suite: str
    state: SAState
    sending: bool = False


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers of one daemon at one moment.

    name: of the running file.   interface: its name.   counts: the loop's, by name.   drops: the engine's, by the
    reason's name.   events: how many of each name were told.   protocol: esp or psp.   counters: the engine's, by name.
    """

    name: str
    interface: str
    engine: str
    uptime_seconds: float
    counts: Mapping[str, int]
    drops: Mapping[str, int]
    sas: Sequence[SANumbers] = ()
    events: Mapping[str, int] = field(default_factory=dict)
    protocol: str = "esp"
    counters: Mapping[str, int] = field(default_factory=dict)


_OF_POLICY: Final = (
    DropReason.SELECTOR_MISMATCH,
    DropReason.IN_NO_POLICY,
    DropReason.OUT_DISCARD,
    DropReason.OUT_NO_SA,
)
_REASONS: Final = {
    "esp": tuple(reason for reason in DropReason if reason not in PSP_REASONS),
    "psp": tuple(reason for reason in DropReason if reason in PSP_REASONS or reason in _OF_POLICY),
}
NO_LOSS: Final = frozenset({DropReason.KEEPALIVE, DropReason.DUMMY, DropReason.PSP_EMPTY})
"""What an engine counts as it counts drops though nobody has lost anything: packets that were never to go further."""
_SIDES = {"device": ("read", "written"), "link": ("sent", "received")}
_WAYS = {"read": "out", "sent": "out", "written": "in", "received": "in"}
_TRAFFIC = frozenset(
    f"{side}_{verb}_{what}" for side, verbs in _SIDES.items() for verb in verbs for what in ("packets", "octets")
)


def families(numbers: Numbers) -> Iterator[Family]:
    """Yield all metrics of a daemon, each with the label `name`."""
    name = {"name": numbers.name}
    reasons = _REASONS[numbers.protocol]
    about = {**name, "interface": numbers.interface, "engine": numbers.engine, "version": __version__}
    yield Family("wesper_daemon", "info", "What runs.", (Sample(1, about),))
    up = (Sample(numbers.uptime_seconds, name),)
    yield Family("wesper_uptime_seconds", "gauge", "Time since the daemon started.", up, "seconds")
    yield _traffic(numbers, name, "packets", "wesper_packets", "")
    yield _traffic(numbers, name, "octets", "wesper_traffic_bytes", "bytes")
    lost = [key for key in COUNTS if key not in _TRAFFIC]
    yield Family(
        "wesper_loop",
        "counter",
        "Packets that the loop between interface and wire lost, or gave to slower hands, by what became of them.",
        tuple(Sample(numbers.counts.get(key, 0), {**name, "what": key}) for key in lost),
    )
    yield Family(
        "wesper_drops",
        "counter",
        "Packets that the engine dropped, by reason and by the name of the kernel's counter.",
        tuple(
            Sample(numbers.drops.get(each.name, 0), {**name, "reason": each.name, "counter": each.counter})
            for each in reasons
        ),
    )
    xfrm = dict.fromkeys(COUNTERS, 0)
    for reason in reasons:
        if reason.counter in xfrm:
            xfrm[reason.counter] += numbers.drops.get(reason.name, 0)
    yield Family(
        "wesper_xfrm",
        "counter",
        "The same by the names of /proc/net/xfrm_stat.",
        tuple(Sample(count, {**name, "counter": counter}) for counter, count in xfrm.items()),
    )
    if numbers.protocol == "psp":
        yield Family(
            "wesper_psp",
            "counter",
            "What the engine has counted, by the names of the kernel's PSP statistics.",
            tuple(Sample(numbers.counters.get(each, 0), {**name, "counter": each}) for each in PSP_COUNTERS),
        )
    yield Family(
        "wesper_events",
        "counter",
        "Events that the daemon has told.",
        tuple(Sample(count, {**name, "event": event}) for event, count in sorted(numbers.events.items())),
    )
    yield from _of_sas(numbers, name)


def _traffic(numbers: Numbers, name: dict[str, str], what: str, family: str, unit: str) -> Family:
    samples = tuple(
        Sample(numbers.counts.get(f"{side}_{verb}_{what}", 0), {**name, "side": side, "direction": _WAYS[verb]})
        for side, verbs in _SIDES.items()
        for verb in verbs
    )
    counted = "Packets" if what == "packets" else "Octets, from the IP header on,"
    help_text = f"{counted} on the side of the interface (device) and of the wire (link)."
    return Family(family, "counter", help_text, samples, unit)


def _of_sas(numbers: Numbers, name: dict[str, str]) -> Iterator[Family]:
    labelled = [
        (each, {**name, "tunnel": each.tunnel, "direction": each.direction, "spi": f"{each.spi:#010x}"})
        for each in numbers.sas
    ]

    def counter(family: str, text: str, attribute: str, unit: str = "") -> Family:
        samples = tuple(Sample(getattr(each.state, attribute), labels) for each, labels in labelled)
        return Family(family, "counter", text, samples, unit)

    yield Family(
        "wesper_sa",
        "info",
        "The SAs there are; sending: whether data leaves by it.",
        tuple(
            Sample(1, {**labels, "suite": each.suite, "sending": str(each.sending).lower()})
            for each, labels in labelled
        ),
    )
    yield counter("wesper_sa_packets", "Packets that an SA protected or opened.", "packets")
    yield counter("wesper_sa_bytes", "Octets of them, as the SA's lifetime counts them.", "octets", "bytes")
    yield counter("wesper_sa_replays", "Packets whose number an SA had seen, or was too old.", "replay")
    yield counter("wesper_sa_integrity_failures", "Packets whose ICV did not fit.", "integrity_failed")
    yield Family(
        "wesper_sa_sequence",
        "gauge",
        "The highest sequence number that an SA sent or accepted.",
        tuple(Sample(each.state.sequence, labels) for each, labels in labelled),
    )
    yield Family(
        "wesper_sa_path_mtu_bytes",
        "gauge",
        "The MTU of an outbound SA's path, as known now.",
        tuple(Sample(each.state.mtu, labels) for each, labels in labelled if each.direction == "out"),
        "bytes",
    )
