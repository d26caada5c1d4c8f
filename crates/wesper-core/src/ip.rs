//! The IP layer around the protocols: reading datagrams, walking header chains, checksums, flows.
//!
//! Lengths found in a packet are never trusted: whatever does not add up makes [`parse`] answer none.

use std::net::IpAddr;

/// Octets of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// Octets of the fixed IPv6 header.
pub const IPV6_HEADER: usize = 40;

/// Numbers of the protocols that the engine tells apart.
pub mod number {
    #![allow(missing_docs, reason = "the names are IANA's")]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IPV4: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const DCCP: u8 = 33;
    pub const IPV6: u8 = 41;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const ICMPV6: u8 = 58;
    pub const NO_NEXT_HEADER: u8 = 59;
    pub const DESTINATION_OPTIONS: u8 = 60;
    pub const BEET_PSEUDO_HEADER: u8 = 94;
    pub const SCTP: u8 = 132;
    pub const MOBILITY: u8 = 135;
    pub const UDP_LITE: u8 = 136;
    pub const AGGFRAG: u8 = 144;
}

/// What an IP packet's headers say, their lengths added up. Places count from the packet's first octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// 4 or 6.
    pub version: u8,
    /// Octets of the packet by its own account; what follows is not part of it.
    pub octets: usize,
    /// The first header that is for the destination alone: transport mode protects from here (RFC 4303 §3.1.1).
    pub first: Place,
    /// The upper layer, past all IPv6 extension headers.
    pub upper: Place,
    /// Offset not zero, or more to follow.
    pub fragment: bool,
    /// Octets in front of this fragment's payload.
    pub offset: usize,
    /// Must not be cut on its way; IPv6 never is (RFC 8200 §5).
    pub dont_fragment: bool,
    /// DSCP and ECN as they stand in the header.
    pub traffic_class: u8,
    /// IPv6's, 0 for IPv4.
    pub flow_label: u32,
}

/// Where a header begins, and what says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Protocol number of the header.
    pub protocol: u8,
    /// Its first octet.
    pub at: usize,
    /// The octet that names it.
    pub link: usize,
}

impl Datagram {
    /// ECN codepoint.
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.traffic_class & 3
    }
}

/// Reads one IP packet; none if it is not IP or its lengths contradict each other.
///
/// Source: RFC 791 §3.1, RFC 8200 §3 and §4.
#[inline]
pub fn parse(packet: &[u8]) -> Option<Datagram> {
    match packet.first()? >> 4 {
        4 => parse_ipv4(packet),
        6 => parse_ipv6(packet),
        _ => None,
    }
}

/// Reads a packet whose version the caller has seen or, if it is another, refuses it.
#[inline(always)]
pub(crate) fn parse_ipv4(packet: &[u8]) -> Option<Datagram> {
    let head = packet.first_chunk::<IPV4_HEADER>()?;
    let at = 4 * usize::from(head[0] & 15);
    let octets = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if head[0] >> 4 != 4 || !(IPV4_HEADER <= at && at <= octets && octets <= packet.len()) {
        return None;
    }
    let flags = u16::from_be_bytes([head[6], head[7]]);
    let place = Place { protocol: head[9], at, link: 9 };
    Some(Datagram {
        version: 4,
        octets,
        first: place,
        upper: place,
        fragment: flags & 0x3fff != 0,
        offset: 8 * usize::from(flags & 0x1fff),
        dont_fragment: flags & 0x4000 != 0,
        traffic_class: head[1],
        flow_label: 0,
    })
}

/// Reads a packet whose version the caller has seen.
pub(crate) fn parse_ipv6(packet: &[u8]) -> Option<Datagram> {
    let head = packet.first_chunk::<IPV6_HEADER>()?;
    let octets = IPV6_HEADER + usize::from(u16::from_be_bytes([head[4], head[5]]));
    let whole = packet.get(..octets)?;
    let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let mut here = Place { protocol: head[6], at: IPV6_HEADER, link: 6 };
    let (mut fragment, mut offset) = (false, 0);
    // Destination options belong to the payload unless a routing header follows them (RFC 8200 §4.1):
    // remember where the first of a run stands, and go back there if none came.
    let mut pending = None;
    while offset == 0 {
        let size = match here.protocol {
            number::HOP_BY_HOP | number::ROUTING | number::DESTINATION_OPTIONS => {
                8 * (usize::from(whole.get(here.at + 1).copied().unwrap_or(0)) + 1)
            }
            number::FRAGMENT => 8,
            _ => break,
        };
        // A chain that is cut ends here: what is left is payload.
        let Some(header) = whole.get(here.at..here.at + size) else { break };
        let Some(lead) = header.first_chunk::<8>() else { break };
        match here.protocol {
            number::FRAGMENT => {
                let word = u16::from_be_bytes([lead[2], lead[3]]);
                offset = usize::from(word & 0xfff8);
                fragment |= word & 0xfff9 != 0;
            }
            number::DESTINATION_OPTIONS => pending = pending.or(Some(here)),
            number::ROUTING => pending = None,
            _ => (),
        }
        here = Place { protocol: lead[0], at: here.at + size, link: here.at };
    }
    Some(Datagram {
        version: 6,
        octets,
        first: pending.unwrap_or(here),
        upper: here,
        fragment,
        offset,
        dont_fragment: true,
        traffic_class: (word >> 20) as u8,
        flow_label: word & 0xf_ffff,
    })
}

/// Returns source and destination of a packet that [`parse`] took; none of another.
pub fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    if packet.first()? >> 4 == 4 {
        let head = packet.first_chunk::<IPV4_HEADER>()?;
        let source: [u8; 4] = *head[12..].first_chunk()?;
        let destination: [u8; 4] = *head[16..].first_chunk()?;
        Some((source.into(), destination.into()))
    } else {
        let head = packet.first_chunk::<IPV6_HEADER>()?;
        let source: [u8; 16] = *head[8..].first_chunk()?;
        let destination: [u8; 16] = *head[24..].first_chunk()?;
        Some((source.into(), destination.into()))
    }
}

/// The sum of 16-bit words, not folded; an odd last octet is the high half of a word.
pub(crate) fn sum(octets: &[u8]) -> u64 {
    let (words, rest) = octets.as_chunks::<4>();
    // 2^16 = 1 modulo 2^16 - 1, so wider words sum to the same residue.
    let mut total = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum::<u64>();
    let mut last = [0; 4];
    for (place, octet) in last.iter_mut().zip(rest) {
        *place = *octet;
    }
    total += u64::from(u32::from_be_bytes(last));
    total
}

/// Folds a sum of less than 2^48 to 16 bits, its carries added.
#[inline(always)]
pub(crate) fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) as u32 + (sum >> 32) as u32;
    // Added to itself turned by half, the upper half is the sum of both, with the carry of the lower one.
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// Returns the Internet checksum (RFC 1071): the number for the field that is zero in the octets.
pub fn checksum(octets: &[u8]) -> u16 {
    !fold(sum(octets))
}

/// Returns the checksum after octets in its sum were replaced (RFC 1624 §3). Both are of even length.
pub fn adjust_checksum(old: u16, removed: &[u8], added: &[u8]) -> u16 {
    // 0xffff - x is -x modulo 2^16 - 1.
    let total = u64::from(!old) + u64::from(!fold(sum(removed))) + sum(added);
    match total % 0xffff {
        0 => 0,
        total => 0xffff - total as u16,
    }
}

/// The sum of what the upper layers' checksums take from the IP header (RFC 768, RFC 8200 §8.1).
///
/// addresses: source and destination, 8 or 32 octets.
pub(crate) fn pseudo_header_sum(addresses: &[u8], protocol: u8, octets: usize) -> u64 {
    sum(addresses) + u64::from(protocol) + octets as u64
}

/// What selectors look at (RFC 4301 §4.4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// 4 or 6.
    pub version: u8,
    /// Source address as a number.
    pub source: u128,
    /// Destination address as a number.
    pub destination: u128,
    /// Upper-layer protocol.
    pub protocol: u8,
    /// Ports, or ICMP type and code; none where the packet does not show them (OPAQUE).
    pub ports: Option<(u16, u16)>,
    /// Differentiated services codepoint.
    pub dscp: u8,
}

/// Returns the flow that a packet belongs to; none if it is not IP.
pub fn flow(packet: &[u8]) -> Option<Flow> {
    let datagram = parse(packet)?;
    let whole = packet.get(..datagram.octets)?;
    let upper = whole.get(datagram.upper.at..).unwrap_or_default();
    let ports = if datagram.offset != 0 { None } else { visible_ports(datagram.upper.protocol, upper) };
    let (source, destination) = addresses(whole)?;
    Some(Flow {
        version: datagram.version,
        source: as_number(source),
        destination: as_number(destination),
        protocol: datagram.upper.protocol,
        ports,
        dscp: datagram.traffic_class >> 2,
    })
}

fn visible_ports(protocol: u8, upper: &[u8]) -> Option<(u16, u16)> {
    match protocol {
        number::TCP | number::UDP | number::SCTP | number::DCCP | number::UDP_LITE => {
            let [a, b, c, d] = *upper.first_chunk()?;
            Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
        }
        number::ICMP | number::ICMPV6 => {
            let [kind, code] = *upper.first_chunk()?;
            Some((kind.into(), code.into()))
        }
        number::MOBILITY => {
            let [_, _, kind] = *upper.first_chunk()?;
            Some((kind.into(), 0))
        }
        _ => None,
    }
}

/// Returns an address as the number that its octets are.
pub fn as_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
#[path = "ip_tests.rs"]
mod tests;
