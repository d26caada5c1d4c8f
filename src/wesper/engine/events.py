"""What an engine has to tell besides verdicts."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from ..sa import Selector
from ..verdict import DropReason


class EventKind(enum.Enum):
    """What happened."""

    SOFT_EXPIRED = "soft_expired"  # make the next SA (RFC 4301 §4.4.2.1)
    HARD_EXPIRED = "hard_expired"  # the SA is not used any more
    ACQUIRE = "acquire"  # policy wants an SA that is not there (RFC 4301 §5.1 3b)
    PEER_MOVED = "peer_moved"  # an authentic packet came from a new address or port (RFC 7296 §2.23)
    ECN_ALARM = "ecn_alarm"  # an ECN combination that no known ingress makes (RFC 6040 §4.2)
    MTU_CHANGED = "mtu_changed"  # the path's MTU was learnt or has aged (RFC 4301 §8.2)
    RESYNCHRONISED = "resynchronised"  # the high half of the sequence number was found again (RFC 4303 appendix A3)
    TEAR_DOWN = "tear_down"  # an authentic packet broke what was agreed on: the SA should go (EESP §3.1.2)
    UNKNOWN_OPTION = "unknown_option"  # one that asks for an ICMP message was dropped for (WESPv2 §2.2.2)
    AUDIT = "audit"  # an auditable event (RFC 4303 §4)


@dataclass(frozen=True, slots=True)
class Event:
    """One event; only the fields that its kind has are set.

    now: nanoseconds, as given to the call that caused it.   sa: id.
    limit: of a lifetime seconds, octets, packets, idle_seconds or sequence; of an ECN alarm its class.
    reason, spi, sequence (low half), session, source, destination, flow_label: of an audited drop.
    pointer: where the option's type stands, in octets from the outer IP header's first; source, destination: of that;
    packet: that packet as it came, cut to what an ICMP message quotes (`icmp.MOST_QUOTED`).
    address, port: where the peer is now.   mtu: octets.   inner, outer: ECN codepoints.
    selector: of the SA to be made.
    """

    kind: EventKind
    now: int
    sa: int | None = None
    limit: str = ""
    reason: DropReason | None = None
    spi: int = 0
    sequence: int = 0
    source: bytes = b""
    destination: bytes = b""
    flow_label: int = 0
    address: bytes = b""
    port: int = 0
    mtu: int = 0
    inner: int = 0
    outer: int = 0
    selector: Selector | None = None
    session: int = 0
    pointer: int = 0
    packet: bytes = field(default=b"", repr=False)


# RFC 4303 §4, RFC 4301 §5.2, draft-ietf-ipsecme-eesp-03 §7: these drops leave a trace in the audit log if it is on. So
# do, from above the packet path, packets that no policy matches (RFC 4301 §5.1).
AUDITABLE = frozenset(
    (
        DropReason.FRAGMENT,
        DropReason.NO_SA,
        DropReason.REPLAY,
        DropReason.AUTH,
        DropReason.SELECTOR_MISMATCH,
        DropReason.BAD_SESSION,
        DropReason.BAD_CRYPT_OFFSET,
        DropReason.OUT_SEQUENCE_OVERFLOW,
    )
)
