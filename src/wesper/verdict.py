"""What becomes of a packet: delivered, bypassed, or dropped for one named reason.

``DropReason`` is the one list of reasons. Counters, ``--json`` names, the docs' table and the native engine's
``verdict.rs`` (written by ``tools/generate.py``) come from it. Counter names are those of
``/proc/net/xfrm_stat`` (net/xfrm/xfrm_proc.c), PSP's those of the kernel's
statistics (Documentation/netlink/specs/psp.yaml).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class DropReason(enum.Enum):
    """One reason to drop a packet.

    value: (code, verdict name, counter or "", sentence, source). The code is what the native engine returns;
    0 means delivered.
    """

    code: int
    verdict: str
    counter: str
    sentence: str
    source: str

    def __init__(self, code: int, verdict: str, counter: str, sentence: str, source: str) -> None:
        self.code, self.verdict, self.counter, self.sentence, self.source = code, verdict, counter, sentence, source

    # Inbound, in the order of a packet's walk.
    NOT_FOR_US = (1, "not_for_us", "", "not a packet of this protocol: left to the next handler", "RFC 3948 §2")
    TRUNCATED_HEADER = (2, "truncated", "XfrmInHdrError", "too short for SPI and sequence number", "RFC 4303 §2")
    TRUNCATED = (
        3,
        "truncated",
        "XfrmInStateProtoError",
        "too short for IV, trailer and ICV, or not whole blocks",
        "RFC 4303 §2",
    )
    BAD_IP = (4, "bad_ip", "XfrmInHdrError", "the outer IP or UDP header is malformed", "RFC 791 §3.1, RFC 8200 §3")
    FRAGMENT = (5, "fragment", "XfrmInHdrError", "still a fragment: reassemble before ESP", "RFC 4303 §3.4.1")
    NO_SA = (6, "no_sa", "XfrmInNoStates", "no SA for this SPI", "RFC 4303 §3.4.2")
    ENCAP_MISMATCH = (
        7,
        "encap_mismatch",
        "XfrmInStateMismatch",
        "UDP encapsulation differs from the SA's",
        "RFC 3948 §2",
    )
    EXPIRED = (8, "expired", "XfrmInStateExpired", "the SA's hard lifetime is over", "RFC 4301 §4.4.2.1")
    REPLAY = (9, "replay", "XfrmInStateSeqError", "sequence number seen before, too old, or zero", "RFC 4303 §3.4.3")
    AUTH = (10, "auth", "XfrmInStateProtoError", "the ICV does not fit", "RFC 4303 §3.4.4")
    BAD_PADDING = (
        11,
        "bad_padding",
        "XfrmInStateProtoError",
        "pad length or padding octets are wrong",
        "RFC 4303 §2.4",
    )
    DUMMY = (12, "dummy", "", "traffic-flow confidentiality dummy: authentic, and thrown away", "RFC 4303 §2.6")
    BAD_INNER = (
        13,
        "bad_inner",
        "XfrmInStateModeError",
        "the inner packet does not fit mode or Next Header",
        "RFC 4301 §5.2",
    )
    ECN_DROP = (
        14,
        "ecn_drop",
        "XfrmInStateModeError",
        "outer CE on an inner packet that is not ECN-capable",
        "RFC 6040 §4.2",
    )
    SELECTOR_MISMATCH = (
        15,
        "selector_mismatch",
        "XfrmInStateMismatch",
        "the inner packet is outside the SA's selectors",
        "RFC 4301 §5.2",
    )
    IN_NO_POLICY = (16, "no_policy", "XfrmInNoPols", "no policy lets this packet in", "RFC 4301 §5.2")
    IN_DISCARD = (17, "policy_discard", "XfrmInPolBlock", "an inbound policy says DISCARD", "RFC 4301 §5.2")
    KEEPALIVE = (18, "not_for_us", "", "NAT keepalive: ignored", "RFC 3948 §2.3")
    # Outbound.
    OUT_BAD_PACKET = (32, "bad_packet", "XfrmOutError", "what should be protected is not an IP packet", "RFC 4301 §5.1")
    OUT_DISCARD = (
        33,
        "policy_discard",
        "XfrmOutPolBlock",
        "an outbound policy says DISCARD, or none matches",
        "RFC 4301 §5.1",
    )
    OUT_NO_SA = (34, "no_sa", "XfrmOutNoStates", "policy says PROTECT and there is no SA yet", "RFC 4301 §5.1")
    OUT_EXPIRED = (35, "expired", "XfrmOutStateExpired", "the SA's hard lifetime is over", "RFC 4301 §4.4.2.1")
    OUT_SEQUENCE_OVERFLOW = (
        36,
        "sequence_overflow",
        "XfrmOutStateSeqError",
        "the SA has used up its sequence numbers",
        "RFC 4303 §3.3.3",
    )
    OUT_MODE = (
        37,
        "mode_error",
        "XfrmOutStateModeError",
        "the packet does not fit the SA's mode",
        "RFC 4303 §3.3.4, RFC 7402 §B.1.5",
    )
    OUT_TOO_BIG = (
        38,
        "too_big",
        "XfrmOutStateModeError",
        "larger than the SA's inner MTU and may not be fragmented",
        "RFC 4301 §8.2.1",
    )
    OUT_NOT_RESERVED = (
        39,
        "not_reserved",
        "XfrmOutStateSeqError",
        "the SA may not use the next sequence number yet",
        "RFC 4106 §3.1",
    )
    # Inbound, of WESP, WESPv2 and EESP.
    NOT_EESP = (
        40,
        "not_eesp",
        "XfrmInHdrError",
        "the first bit of an EESP packet is 0",
        "draft-ietf-ipsecme-eesp-03 §2.2.1",
    )
    BAD_VERSION = (
        41,
        "bad_version",
        "XfrmInHdrError",
        "the header's version is not the SA's protocol",
        "RFC 5840 §2, draft-klassert-ipsecme-wespv2-01 §2.1, draft-ietf-ipsecme-eesp-03 §2.2.1",
    )
    BAD_RESERVED = (
        42,
        "bad_reserved",
        "XfrmInHdrError",
        "a reserved bit of the base header is set",
        "draft-ietf-ipsecme-eesp-03 §2.2.1",
    )
    BAD_HDRLEN = (
        43,
        "bad_hdrlen",
        "XfrmInHdrError",
        "HdrLen or padding is not what the SA makes of it",
        "RFC 5840 §2, draft-klassert-ipsecme-wespv2-01 §2.1",
    )
    BAD_TRAILERLEN = (
        44,
        "bad_trailerlen",
        "XfrmInHdrError",
        "TrailerLen is not the length of the SA's ICV",
        "RFC 5840 §2",
    )
    BAD_ENCRYPTED_BIT = (
        45,
        "bad_encrypted_bit",
        "XfrmInHdrError",
        "the E bit says other than the SA about encryption",
        "RFC 5840 §2",
    )
    BAD_OPTLEN = (
        46,
        "bad_optlen",
        "XfrmInHdrError",
        "the options' length is no multiple of 4, or leaves no room for what follows",
        "draft-klassert-ipsecme-wespv2-01 §2.1, draft-ietf-ipsecme-eesp-03 §2.2.1",
    )
    BAD_OPTION = (
        47,
        "bad_option",
        "XfrmInHdrError",
        "an option is cut short, malformed, or not there where it has to be",
        "draft-klassert-ipsecme-wespv2-01 §2.2.2, draft-ietf-ipsecme-eesp-03 §3.1",
    )
    UNKNOWN_OPTION = (
        48,
        "unknown_option",
        "XfrmInHdrError",
        "an option that is not known asks to drop the packet",
        "draft-klassert-ipsecme-wespv2-01 §2.2.2",
    )
    BAD_NEXT_HEADER = (
        49,
        "bad_next_header",
        "XfrmInStateProtoError",
        "Next Header in front contradicts crypt offset or trailer",
        "RFC 5840 §2, draft-klassert-ipsecme-wespv2-01 §2.1",
    )
    BAD_CRYPT_OFFSET = (
        50,
        "bad_crypt_offset",
        "XfrmInStateProtoError",
        "the crypt offset is above what was announced, or reaches past the payload",
        "draft-klassert-ipsecme-wespv2-01 §2.1, draft-ietf-ipsecme-eesp-03 §3.1.2",
    )
    BAD_PAYLOAD_OFFSET = (
        51,
        "bad_payload_offset",
        "XfrmInStateProtoError",
        "Payload Offset is not where the payload begins",
        "draft-ietf-ipsecme-eesp-03 §3.1.2",
    )
    BAD_SESSION = (
        52,
        "bad_session",
        "XfrmInNoStates",
        "the Sub SA ID is above what was announced",
        "draft-ietf-ipsecme-eesp-03 §2.9.2",
    )
    FORMAT_MISMATCH = (
        53,
        "format_mismatch",
        "XfrmInStateModeError",
        "full payload format where optimized has to be, or the other way round",
        "draft-ietf-ipsecme-eesp-03 §2.8",
    )
    BAD_PAYLOAD_INFO = (
        54,
        "bad_payload_info",
        "XfrmInStateModeError",
        "the Payload Info Header is none, or not one of this mode",
        "draft-ietf-ipsecme-eesp-03 §2.4",
    )
    # PSP inbound, in the order of a packet's walk. Sources: docs/psp.md names the documents.
    PSP_BAD_IP = (
        64,
        "bad_ip",
        "rx_error",
        "the outer IP header is malformed, or longer than what arrived",
        "RFC 791 §3.1",
    )
    PSP_FRAGMENT = (
        65,
        "fragment",
        "rx_error",
        "still a fragment: reassemble before PSP",
        "PSP NIC Receive Processing",
    )
    PSP_BAD_UDP = (66, "bad_udp", "rx_error", "the UDP length is not that of the IP payload", "PSP UDP Header")
    PSP_CHECKSUM = (67, "bad_checksum", "rx_error", "a UDP checksum is there and wrong", "RFC 768")
    PSP_TRUNCATED = (68, "truncated", "rx_error", "too short for PSP header and ICV", "PSP Header Version 0")
    PSP_ALWAYS_ONE = (69, "bad_header", "rx_bad", "the bit that is always 1 is 0", "PSP Header Version 0")
    PSP_VERSION = (70, "bad_version", "rx_bad", "unknown version, or one that is not enabled", "PSP Header Version 0")
    PSP_HEADER_LENGTH = (
        71,
        "bad_header_length",
        "rx_error",
        "Hdr Ext Len has no room for header or cookie, or reaches past the packet",
        "PSP Header Version 0",
    )
    PSP_CRYPT_OFFSET = (
        72,
        "bad_crypt_offset",
        "rx_error",
        "Crypt Offset reaches past the payload",
        "PSP Header Version 0",
    )
    PSP_SPI = (73, "bad_spi", "rx_bad", "a reserved SPI: its low 31 bits are zero", "net/psp/psp_nl.c")
    PSP_NO_DEVICE_KEY = (
        74,
        "no_device_key",
        "rx_bad",
        "the SPI points to a device key that is not there",
        "PSP Master Key",
    )
    PSP_AUTH = (75, "auth", "rx_auth_fail", "the ICV does not fit", "PSP NIC Receive Processing")
    PSP_SAMPLED = (
        76,
        "sampled",
        "rx_sampled",
        "authentic, with the bit that says drop after sampling",
        "PSP Header Version 0",
    )
    PSP_EMPTY = (77, "empty", "", "authentic, and nothing inside", "PSP NIC Receive Processing")
    PSP_BAD_INNER = (
        78,
        "bad_inner",
        "rx_error",
        "the inner packet does not fit Next Header",
        "PSP NIC Receive Processing",
    )
    PSP_ECN_DROP = (
        79,
        "ecn_drop",
        "rx_error",
        "outer CE on an inner packet that is not ECN-capable",
        "RFC 6040 §4.2",
    )
    PSP_REPLAY = (
        80,
        "replay",
        "rx_replay",
        "authentic, and too old or seen before by the association's replay rule",
        "PSP Replay Protection",
    )
    # PSP outbound.
    PSP_OUT_BAD_PACKET = (
        88,
        "bad_packet",
        "tx_error",
        "what should be protected is not an IP packet",
        "PSP NIC Transmit Processing",
    )
    PSP_OUT_MODE = (
        89,
        "mode_error",
        "tx_error",
        "a fragment, or IP in IP, in transport mode",
        "PSP NIC Transmit Processing",
    )
    PSP_OUT_SPI = (90, "bad_spi", "tx_error", "a reserved SPI: its low 31 bits are zero", "net/psp/psp_nl.c")
    PSP_OUT_NO_KEY = (
        91,
        "no_key",
        "tx_error",
        "no association of this number, or it was removed",
        "PSP NIC Transmit Processing",
    )
    PSP_OUT_CRYPT_OFFSET = (
        92,
        "bad_crypt_offset",
        "tx_error",
        "Crypt Offset reaches past the payload",
        "PSP Header Version 0",
    )
    PSP_OUT_TOO_BIG = (
        93,
        "too_big",
        "tx_error",
        "larger than the path takes, and may not be fragmented",
        "PSP NIC Transmit Processing",
    )
    PSP_OUT_IV = (94, "iv_exhausted", "tx_error", "no IV is left that was never used", "PSP IV Generation")
    PSP_OUT_EXPIRED = (95, "expired", "tx_error", "the association is past a hard limit", "PSP Security Association")


REASON_BY_CODE: dict[int, DropReason] = {reason.code: reason for reason in DropReason}
# Those of PSP's engines; all others are those of engines that hold SAs. NOT_FOR_US is of both.
PSP_REASONS: frozenset[DropReason] = frozenset(reason for reason in DropReason if reason.name.startswith("PSP_"))

# net/xfrm/xfrm_proc.c, in the kernel's order.
COUNTERS: tuple[str, ...] = (
    "XfrmInError",
    "XfrmInBufferError",
    "XfrmInHdrError",
    "XfrmInNoStates",
    "XfrmInStateProtoError",
    "XfrmInStateModeError",
    "XfrmInStateSeqError",
    "XfrmInStateExpired",
    "XfrmInStateMismatch",
    "XfrmInStateInvalid",
    "XfrmInTmplMismatch",
    "XfrmInNoPols",
    "XfrmInPolBlock",
    "XfrmInPolError",
    "XfrmOutError",
    "XfrmOutBundleGenError",
    "XfrmOutBundleCheckError",
    "XfrmOutNoStates",
    "XfrmOutStateProtoError",
    "XfrmOutStateModeError",
    "XfrmOutStateSeqError",
    "XfrmOutStateExpired",
    "XfrmOutPolBlock",
    "XfrmOutPolDead",
    "XfrmOutPolError",
    "XfrmFwdHdrError",
    "XfrmOutStateInvalid",
    "XfrmAcquireError",
    "XfrmOutStateDirError",
    "XfrmInStateDirError",
    "XfrmInIptfsError",
    "XfrmOutNoQueueSpace",
)

# Documentation/netlink/specs/psp.yaml, attribute set `stats`, and behind them what only we count: octets of failed
# packets, and packets that were sampled and thrown away.
PSP_COUNTERS: tuple[str, ...] = (
    "key_rotations",
    "stale_events",
    "rx_packets",
    "rx_bytes",
    "rx_auth_fail",
    "rx_error",
    "rx_bad",
    "tx_packets",
    "tx_bytes",
    "tx_error",
    "rx_auth_fail_bytes",
    "rx_error_bytes",
    "rx_bad_bytes",
    "rx_sampled",
    "rx_replay",
)


@dataclass(frozen=True, slots=True)
class Delivered:
    """A packet to pass on.

    packet: from its IP header.   sa: id of the SA that did the work.
    sequence: full 64-bit sequence number, sent or received; 0 where packets arrive without one.
    flow: EESP's Session ID, WESPv2's flow identifier; 0 where there is none.
    """

    packet: bytes
    sa: int
    sequence: int
    flow: int = 0


@dataclass(frozen=True, slots=True)
class Bypassed:
    """A packet that policy lets pass without protection (RFC 4301 §4.4.1), unchanged."""

    packet: bytes


@dataclass(frozen=True, slots=True)
class Dropped:
    """A packet that goes no further.

    reason: why; its counter has been raised.   mtu: with OUT_TOO_BIG, the largest inner packet.
    """

    reason: DropReason
    mtu: int = 0


Verdict = Delivered | Bypassed | Dropped


def rust_source() -> str:
    """Return crates/wesper-core/src/verdict.rs: the same list for the native engine."""
    lines = [
        "// Written by tools/generate.py from src/wesper/verdict.py: change that file, not this one.",
        "",
        "//! Why a packet is dropped.",
        "",
        "/// One reason to drop a packet; the number crosses into Python as the verdict's code, 0 means delivered.",
        "#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]",
        "#[repr(u8)]",
        "pub enum DropReason {",
    ]
    for reason in DropReason:
        lines += [f"    /// {reason.sentence} ({reason.source}).", f"    {_camel(reason.name)} = {reason.code},"]
    lines += [
        "}",
        "",
        "/// Number of codes: one more than the highest.",
        f"pub const CODES: usize = {max(REASON_BY_CODE) + 1};",
        "",
        "impl DropReason {",
        "    /// Every reason, in the order of a packet's walk.",
        f"    pub const ALL: [Self; {len(DropReason)}] = [",
        *(f"        Self::{_camel(reason.name)}," for reason in DropReason),
        "    ];",
        "}",
        "",
    ]
    return "\n".join(lines)


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
