//! ESP: what stands around the payload, and off again (RFC 4303 §2, §3.3, §3.4).

/// ESP's number in an IP header.
pub const IP_PROTOCOL: u8 = 50;
