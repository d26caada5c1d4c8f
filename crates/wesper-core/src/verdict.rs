// Written by tools/generate.py from src/wesper/verdict.py: change that file, not this one.

//! Why a packet is dropped.

/// One reason to drop a packet; the number crosses into Python as the verdict's code, 0 means delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// not a packet of this protocol: left to the next handler (RFC 3948 §2).
    NotForUs = 1,
    /// too short for SPI and sequence number (RFC 4303 §2).
    TruncatedHeader = 2,
    /// too short for IV, trailer and ICV, or not whole blocks (RFC 4303 §2).
    Truncated = 3,
    /// the outer IP or UDP header is malformed (RFC 791 §3.1, RFC 8200 §3).
    BadIp = 4,
    /// still a fragment: reassemble before ESP (RFC 4303 §3.4.1).
    Fragment = 5,
    /// no SA for this SPI (RFC 4303 §3.4.2).
    NoSa = 6,
    /// UDP encapsulation differs from the SA's (RFC 3948 §2).
    EncapMismatch = 7,
    /// the SA's hard lifetime is over (RFC 4301 §4.4.2.1).
    Expired = 8,
    /// sequence number seen before, too old, or zero (RFC 4303 §3.4.3).
    Replay = 9,
    /// the ICV does not fit (RFC 4303 §3.4.4).
    Auth = 10,
    /// pad length or padding octets are wrong (RFC 4303 §2.4).
    BadPadding = 11,
    /// traffic-flow confidentiality dummy: authentic, and thrown away (RFC 4303 §2.6).
    Dummy = 12,
    /// the inner packet does not fit mode or Next Header (RFC 4301 §5.2).
    BadInner = 13,
    /// outer CE on an inner packet that is not ECN-capable (RFC 6040 §4.2).
    EcnDrop = 14,
    /// the inner packet is outside the SA's selectors (RFC 4301 §5.2).
    SelectorMismatch = 15,
    /// no policy lets this packet in (RFC 4301 §5.2).
    InNoPolicy = 16,
    /// an inbound policy says DISCARD (RFC 4301 §5.2).
    InDiscard = 17,
    /// NAT keepalive: ignored (RFC 3948 §2.3).
    Keepalive = 18,
    /// what should be protected is not an IP packet (RFC 4301 §5.1).
    OutBadPacket = 32,
    /// an outbound policy says DISCARD, or none matches (RFC 4301 §5.1).
    OutDiscard = 33,
    /// policy says PROTECT and there is no SA yet (RFC 4301 §5.1).
    OutNoSa = 34,
    /// the SA's hard lifetime is over (RFC 4301 §4.4.2.1).
    OutExpired = 35,
    /// the SA has used up its sequence numbers (RFC 4303 §3.3.3).
    OutSequenceOverflow = 36,
    /// the packet does not fit the SA's mode (RFC 4303 §3.3.4, RFC 7402 §B.1.5).
    OutMode = 37,
    /// larger than the SA's inner MTU and may not be fragmented (RFC 4301 §8.2.1).
    OutTooBig = 38,
    /// the SA may not use the next sequence number yet (RFC 4106 §3.1).
    OutNotReserved = 39,
    /// the first bit of an EESP packet is 0 (draft-ietf-ipsecme-eesp-03 §2.2.1).
    NotEesp = 40,
    /// the header's version is not the SA's protocol (RFC 5840 §2, draft-klassert-ipsecme-wespv2-01 §2.1, draft-ietf-ipsecme-eesp-03 §2.2.1).
    BadVersion = 41,
    /// a reserved bit of the base header is set (draft-ietf-ipsecme-eesp-03 §2.2.1).
    BadReserved = 42,
    /// HdrLen or padding is not what the SA makes of it (RFC 5840 §2, draft-klassert-ipsecme-wespv2-01 §2.1).
    BadHdrlen = 43,
    /// TrailerLen is not the length of the SA's ICV (RFC 5840 §2).
    BadTrailerlen = 44,
    /// the E bit says other than the SA about encryption (RFC 5840 §2).
    BadEncryptedBit = 45,
    /// the options' length is no multiple of 4, or leaves no room for what follows (draft-klassert-ipsecme-wespv2-01 §2.1, draft-ietf-ipsecme-eesp-03 §2.2.1).
    BadOptlen = 46,
    /// an option is cut short, malformed, or not there where it has to be (draft-klassert-ipsecme-wespv2-01 §2.2.2, draft-ietf-ipsecme-eesp-03 §3.1).
    BadOption = 47,
    /// an option that is not known asks to drop the packet (draft-klassert-ipsecme-wespv2-01 §2.2.2).
    UnknownOption = 48,
    /// Next Header in front contradicts crypt offset or trailer (RFC 5840 §2, draft-klassert-ipsecme-wespv2-01 §2.1).
    BadNextHeader = 49,
    /// the crypt offset is above what was announced, or reaches past the payload (draft-klassert-ipsecme-wespv2-01 §2.1, draft-ietf-ipsecme-eesp-03 §3.1.2).
    BadCryptOffset = 50,
    /// Payload Offset is not where the payload begins (draft-ietf-ipsecme-eesp-03 §3.1.2).
    BadPayloadOffset = 51,
    /// the Sub SA ID is above what was announced (draft-ietf-ipsecme-eesp-03 §2.9.2).
    BadSession = 52,
    /// full payload format where optimized has to be, or the other way round (draft-ietf-ipsecme-eesp-03 §2.8).
    FormatMismatch = 53,
    /// the Payload Info Header is none, or not one of this mode (draft-ietf-ipsecme-eesp-03 §2.4).
    BadPayloadInfo = 54,
    /// the outer IP header is malformed, or longer than what arrived (RFC 791 §3.1).
    PspBadIp = 64,
    /// still a fragment: reassemble before PSP (PSP NIC Receive Processing).
    PspFragment = 65,
    /// the UDP length is not that of the IP payload (PSP UDP Header).
    PspBadUdp = 66,
    /// a UDP checksum is there and wrong (RFC 768).
    PspChecksum = 67,
    /// too short for PSP header and ICV (PSP Header Version 0).
    PspTruncated = 68,
    /// the bit that is always 1 is 0 (PSP Header Version 0).
    PspAlwaysOne = 69,
    /// unknown version, or one that is not enabled (PSP Header Version 0).
    PspVersion = 70,
    /// Hdr Ext Len has no room for header or cookie, or reaches past the packet (PSP Header Version 0).
    PspHeaderLength = 71,
    /// Crypt Offset reaches past the payload (PSP Header Version 0).
    PspCryptOffset = 72,
    /// a reserved SPI: its low 31 bits are zero (net/psp/psp_nl.c).
    PspSpi = 73,
    /// the SPI points to a device key that is not there (PSP Master Key).
    PspNoDeviceKey = 74,
    /// the ICV does not fit (PSP NIC Receive Processing).
    PspAuth = 75,
    /// authentic, with the bit that says drop after sampling (PSP Header Version 0).
    PspSampled = 76,
    /// authentic, and nothing inside (PSP NIC Receive Processing).
    PspEmpty = 77,
    /// the inner packet does not fit Next Header (PSP NIC Receive Processing).
    PspBadInner = 78,
    /// outer CE on an inner packet that is not ECN-capable (RFC 6040 §4.2).
    PspEcnDrop = 79,
    /// authentic, and too old or seen before by the association's replay rule (PSP Replay Protection).
    PspReplay = 80,
    /// what should be protected is not an IP packet (PSP NIC Transmit Processing).
    PspOutBadPacket = 88,
    /// a fragment, or IP in IP, in transport mode (PSP NIC Transmit Processing).
    PspOutMode = 89,
    /// a reserved SPI: its low 31 bits are zero (net/psp/psp_nl.c).
    PspOutSpi = 90,
    /// no association of this number, or it was removed (PSP NIC Transmit Processing).
    PspOutNoKey = 91,
    /// Crypt Offset reaches past the payload (PSP Header Version 0).
    PspOutCryptOffset = 92,
    /// larger than the path takes, and may not be fragmented (PSP NIC Transmit Processing).
    PspOutTooBig = 93,
    /// no IV is left that was never used (PSP IV Generation).
    PspOutIv = 94,
    /// the association is past a hard limit (PSP Security Association).
    PspOutExpired = 95,
}

/// Number of codes: one more than the highest.
pub const CODES: usize = 96;

impl DropReason {
    /// Every reason, in the order of a packet's walk.
    pub const ALL: [Self; 66] = [
        Self::NotForUs,
        Self::TruncatedHeader,
        Self::Truncated,
        Self::BadIp,
        Self::Fragment,
        Self::NoSa,
        Self::EncapMismatch,
        Self::Expired,
        Self::Replay,
        Self::Auth,
        Self::BadPadding,
        Self::Dummy,
        Self::BadInner,
        Self::EcnDrop,
        Self::SelectorMismatch,
        Self::InNoPolicy,
        Self::InDiscard,
        Self::Keepalive,
        Self::OutBadPacket,
        Self::OutDiscard,
        Self::OutNoSa,
        Self::OutExpired,
        Self::OutSequenceOverflow,
        Self::OutMode,
        Self::OutTooBig,
        Self::OutNotReserved,
        Self::NotEesp,
        Self::BadVersion,
        Self::BadReserved,
        Self::BadHdrlen,
        Self::BadTrailerlen,
        Self::BadEncryptedBit,
        Self::BadOptlen,
        Self::BadOption,
        Self::UnknownOption,
        Self::BadNextHeader,
        Self::BadCryptOffset,
        Self::BadPayloadOffset,
        Self::BadSession,
        Self::FormatMismatch,
        Self::BadPayloadInfo,
        Self::PspBadIp,
        Self::PspFragment,
        Self::PspBadUdp,
        Self::PspChecksum,
        Self::PspTruncated,
        Self::PspAlwaysOne,
        Self::PspVersion,
        Self::PspHeaderLength,
        Self::PspCryptOffset,
        Self::PspSpi,
        Self::PspNoDeviceKey,
        Self::PspAuth,
        Self::PspSampled,
        Self::PspEmpty,
        Self::PspBadInner,
        Self::PspEcnDrop,
        Self::PspReplay,
        Self::PspOutBadPacket,
        Self::PspOutMode,
        Self::PspOutSpi,
        Self::PspOutNoKey,
        Self::PspOutCryptOffset,
        Self::PspOutTooBig,
        Self::PspOutIv,
        Self::PspOutExpired,
    ];
}
