"""A packet's walk through the stages of an engine, told after the fact: how far it came, and why no further.

Nothing is decided here. The engine's verdict says at which stage the walk ended; what was asked at the stages before it
must then have held. The order of the stages is that of the engines (`reference.py` to read), and each reason to drop a
packet belongs to one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..protocols import PROTOCOLS, by_ip_protocol, in_udp, ip, udp
from ..sa import Direction
from ..verdict import DropReason
from ..wire.layouts import LAYOUTS
from ..wire.numbers import PROTOCOL_NAMES, UDP

Outcome = Literal["passed", "dropped", "skipped"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One question that a packet has to answer.   ends: the reasons that end a walk here."""

    name: str
    asks: str
    ends: tuple[DropReason, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Step:
    """A stage in one packet's walk.   text: what was found there, or the reason's sentence."""

    stage: Stage
    outcome: Outcome
    text: str = ""

    def as_json(self) -> dict[str, str]:
        """Return it with stable names."""
        return {
            "stage": self.stage.name,
            "asks": self.stage.asks,
            "outcome": self.outcome,
            "text": self.text,
            "source": self.stage.source,
        }


INBOUND: tuple[Stage, ...] = (
    Stage("ip", "do the lengths of the outer headers add up?", (DropReason.BAD_IP,), "RFC 791 §3.1, RFC 8200 §3"),
    Stage(
        "demultiplex",
        "is it of the ESP family, or UDP to a port of ours with such a packet in it?",
        (DropReason.NOT_FOR_US, DropReason.KEEPALIVE),
        "RFC 3948 §2",
    ),
    Stage("fragment", "is it whole?", (DropReason.FRAGMENT,), "RFC 4303 §3.4.1"),
    Stage(
        "header",
        "is there room for SPI and options, and is it a version that is known?",
        (
            DropReason.TRUNCATED_HEADER,
            DropReason.NOT_EESP,
            DropReason.BAD_VERSION,
            DropReason.BAD_RESERVED,
            DropReason.BAD_OPTLEN,
        ),
        "RFC 4303 §2, docs/wespv2.md, docs/eesp.md",
    ),
    Stage("sa", "is there an SA for this SPI?", (DropReason.NO_SA,), "RFC 4303 §3.4.2"),
    Stage("encapsulation", "is it in UDP as the SA wants it?", (DropReason.ENCAP_MISMATCH,), "RFC 3948 §2"),
    Stage("lifetime", "does the SA still live?", (DropReason.EXPIRED,), "RFC 4301 §4.4.2.1"),
    Stage(
        "fields",
        "do the header's fields say what the SA makes of them?",
        (
            DropReason.BAD_ENCRYPTED_BIT,
            DropReason.BAD_HDRLEN,
            DropReason.BAD_TRAILERLEN,
            DropReason.BAD_SESSION,
            DropReason.BAD_PAYLOAD_OFFSET,
        ),
        "RFC 5840 §2, docs/wespv2.md, docs/eesp.md",
    ),
    Stage(
        "options", "are the options whole, and those that have to be there?", (DropReason.BAD_OPTION,), "RFC 8200 §4.2"
    ),
    Stage(
        "exposure",
        "is no more readable than may be, and does Next Header in front fit?",
        (DropReason.BAD_CRYPT_OFFSET, DropReason.BAD_NEXT_HEADER),
        "docs/wespv2.md, docs/eesp.md",
    ),
    Stage("length", "is there room for IV, trailer and ICV?", (DropReason.TRUNCATED,), "RFC 4303 §2"),
    Stage("replay", "is the sequence number a new one?", (DropReason.REPLAY,), "RFC 4303 §3.4.3"),
    Stage("icv", "does the ICV fit?", (DropReason.AUTH,), "RFC 4303 §3.4.4"),
    Stage(
        "unknown options",
        "may options that are not known be skipped?",
        (DropReason.UNKNOWN_OPTION,),
        "draft-klassert-ipsecme-wespv2-01 §2.2.2",
    ),
    Stage(
        "format",
        "is the payload in the format that mode and options ask for?",
        (DropReason.FORMAT_MISMATCH, DropReason.BAD_PAYLOAD_INFO),
        "draft-ietf-ipsecme-eesp-03 §2.8",
    ),
    Stage("padding", "is the padding as it has to be?", (DropReason.BAD_PADDING,), "RFC 4303 §2.4"),
    Stage("dummy", "does it carry anything?", (DropReason.DUMMY,), "RFC 4303 §2.6"),
    Stage("mode", "does what is inside fit the SA's mode?", (DropReason.BAD_INNER,), "RFC 4301 §5.2"),
    Stage("ecn", "may the congestion mark outside go inside?", (DropReason.ECN_DROP,), "RFC 6040 §4.2"),
    Stage("selectors", "is the inner packet one of this SA's?", (DropReason.SELECTOR_MISMATCH,), "RFC 4301 §5.2"),
    Stage(
        "policy",
        "does policy let in what is not ESP?",
        (DropReason.IN_NO_POLICY, DropReason.IN_DISCARD),
        "RFC 4301 §5.2",
    ),
)
OUTBOUND: tuple[Stage, ...] = (
    Stage("ip", "is it an IP packet?", (DropReason.OUT_BAD_PACKET,), "RFC 4301 §5.1"),
    Stage("policy", "does policy want it protected?", (DropReason.OUT_DISCARD,), "RFC 4301 §5.1"),
    Stage("sa", "is there an SA for it?", (DropReason.OUT_NO_SA,), "RFC 4301 §5.1"),
    Stage("lifetime", "does the SA still live?", (DropReason.OUT_EXPIRED,), "RFC 4301 §4.4.2.1"),
    Stage("mode", "does it fit the SA's mode?", (DropReason.OUT_MODE,), "RFC 4303 §3.3.4"),
    Stage("size", "does it fit the path, or may it be cut?", (DropReason.OUT_TOO_BIG,), "RFC 4301 §8.2.1"),
    Stage(
        "number",
        "has the SA a sequence number left?",
        (DropReason.OUT_SEQUENCE_OVERFLOW, DropReason.OUT_NOT_RESERVED),
        "RFC 4303 §3.3.3",
    ),
)


def walk(
    direction: Direction, reason: DropReason | None, found: Mapping[str, str] | None = None, *, bypassed: bool = False
) -> list[Step]:
    """Return the stages of a packet's walk.

    reason: why it was dropped, None if it was not.   found: what is known of the packet, by stage.
    bypassed: policy let it pass as it is.
    """
    found = found or {}
    steps, ended = [], False
    for stage in INBOUND if direction is Direction.IN else OUTBOUND:
        foreign = direction is Direction.IN and (bypassed or reason in INBOUND[-1].ends)
        if ended or (stage.name == "policy" and direction is Direction.IN and not foreign):
            steps.append(Step(stage, "skipped"))
        elif reason is not None and reason in stage.ends:
            steps.append(Step(stage, "dropped", _why(reason)))
            ended = True
        elif foreign and stage.name not in ("ip", "demultiplex", "policy"):
            steps.append(Step(stage, "skipped"))
        else:
            steps.append(Step(stage, "passed", found.get(stage.name, "")))
            ended = bypassed and stage.name == "policy"
    return steps


def stages_of(stages: Sequence[Stage], reason: DropReason | None, found: Mapping[str, str]) -> list[Step]:
    """Return the steps of a walk that passes one stage after another and ends where the reason belongs.

    found: what is known of the packet, by stage.
    """
    steps, ended = [], False
    for stage in stages:
        if ended:
            steps.append(Step(stage, "skipped"))
        elif reason is not None and reason in stage.ends:
            steps.append(Step(stage, "dropped", _why(reason)))
            ended = True
        else:
            steps.append(Step(stage, "passed", found.get(stage.name, "")))
    return steps


def _why(reason: DropReason) -> str:
    return f"{reason.sentence}{f', counted as {reason.counter}' if reason.counter else ', which is no error'}"


def look(direction: Direction, packet: bytes, expected: str = "") -> dict[str, str]:
    """Return what a packet itself shows, by stage; nothing of it is checked.

    packet: from its IP header.   expected: name of the protocol that its SA has, where that is known.
    """
    datagram = ip.parse(packet)
    if datagram is None:
        return {}
    header = datagram.header
    ends = f"{ip.address(header.source)} → {ip.address(header.destination)}"
    upper = PROTOCOL_NAMES.get(datagram.upper, f"protocol {datagram.upper}")
    found = {"ip": f"{ends}, {upper}, {len(datagram.packet)} octets"}
    if direction is Direction.OUT:
        return found
    body = datagram.packet[datagram.upper_at :]
    found["demultiplex"] = upper
    if datagram.upper == UDP:
        ports = udp.ports(body)
        if ports is None:
            return found
        found["demultiplex"] = found["encapsulation"] = f"UDP, port {ports[0]} to port {ports[1]}"
        carried = udp.carried(body)
        if isinstance(carried, DropReason):
            return found
        marker, body = carried
        protocol = in_udp(marker, body)
        if not marker and body[0] & 0x80 and expected in ("esp", "eesp"):  # either may begin with these octets
            protocol = PROTOCOLS[expected]
    else:
        # EESP's number is whatever its SA says.
        protocol = by_ip_protocol(datagram.upper, body) or PROTOCOLS.get("eesp" if expected == "eesp" else "")
        found["encapsulation"] = "without UDP"
    if protocol is None:
        return found
    if protocol.name != "esp":
        found["demultiplex"] += f", {LAYOUTS[protocol.name].title}"
    located = protocol.locate(body)
    if not isinstance(located, DropReason):
        found["header"] = f"SPI {located.spi:#010x}"
        if located.low is not None:
            found["header"] += f", low half of the sequence number {located.low}"
        flow = protocol.shown_flow(body)
        if protocol.name == "eesp":
            found["header"] += f", Session ID {flow}"
        elif flow is not None:
            found["header"] += f", flow identifier {flow:#x}"
    return found


def as_json(direction: Direction, packet: bytes, steps: list[Step]) -> dict[str, Any]:
    """Return a walk with stable names."""
    last = next((step for step in steps if step.outcome == "dropped"), None)
    return {
        "direction": direction.name.lower(),
        "octets": len(packet),
        "dropped_at": last.stage.name if last else None,
        "steps": [step.as_json() for step in steps],
    }
