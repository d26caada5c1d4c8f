//! Outer headers: what a socket is told of a packet to be sent, and the header put back in front of what came.
//!
//! The engine makes and takes whole IP packets; a UDP socket gives and takes their payload.

use std::net::{IpAddr, SocketAddr};

use wesper_core::ip::{self, IPV4_HEADER, IPV6_HEADER, number};
use wesper_core::protocol::Protocol;
use wesper_core::udp;

use crate::checksum::{fold, sum};

const ESP: u8 = Protocol::Esp.ip_protocol();
const WESP: u8 = Protocol::Wesp.ip_protocol();
const EESP: u8 = Protocol::Eesp.ip_protocol();
/// Octets of the longest header put in front of a datagram: IPv6 and UDP.
pub const LONGEST: usize = IPV6_HEADER + udp::HEADER;

/// What a socket has to know of a packet to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Source address, and source port of UDP.
    pub source: SocketAddr,
    /// Destination address, and destination port of UDP.
    pub destination: SocketAddr,
    /// In UDP, not as an IP protocol of its own.
    pub in_udp: bool,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// The packet must not be cut on its way.
    pub dont_fragment: bool,
    /// Octets of the headers that a UDP socket makes itself.
    pub header: usize,
}

impl Outer {
    /// Reads the headers of a packet that an engine has made; none of a fragment's, or if it is none.
    pub fn of(packet: &[u8]) -> Option<Self> {
        let datagram = ip::parse(packet).filter(|datagram| !datagram.fragment)?;
        let (source, destination) = ip::addresses(packet)?;
        let in_udp = datagram.upper.protocol == number::UDP;
        let (from, to) = if in_udp { udp::ports(packet.get(datagram.upper.at..)?)? } else { (0, 0) };
        Some(Self {
            source: (source, from).into(),
            destination: (destination, to).into(),
            in_udp,
            traffic_class: datagram.traffic_class,
            hop_limit: *packet.get(if datagram.version == 4 { 8 } else { 7 })?,
            dont_fragment: datagram.dont_fragment,
            header: datagram.upper.at + if in_udp { udp::HEADER } else { 0 },
        })
    }
}

/// Says whether two packets of an engine differ in nothing that [`Outer::of`] would tell.
#[inline]
pub fn is_alike(one: &[u8], other: &[u8]) -> bool {
    let same = |from: usize, to: usize| one.get(from..to).is_some_and(|part| other.get(from..to) == Some(part));
    match one.first() {
        // Length, number, checksum and the UDP header's length and checksum may differ.
        Some(0x45) => same(0, 2) && same(6, 10) && same(12, IPV4_HEADER + 4),
        // Extension headers are of no fixed length.
        Some(0x60..=0x6f) => {
            let is_bare = matches!(one.get(6), Some(&(number::UDP | ESP | WESP | EESP)));
            is_bare && same(0, 4) && same(6, IPV6_HEADER + 4)
        }
        _ => false,
    }
}

/// Headers of datagrams that came from one place, to be put in front of each.
#[derive(Clone, Copy)]
pub struct Front {
    head: [u8; LONGEST],
    octets: usize,
    /// Sum of an IPv4 header whose length is zero.
    sum: u32,
}

impl Front {
    /// Makes the headers of UDP datagrams. None if the addresses are not of one version.
    ///
    /// Their UDP checksum is zero: the kernel has looked at the one that was there.
    pub fn udp(source: SocketAddr, destination: SocketAddr, traffic_class: u8, hop_limit: u8) -> Option<Self> {
        let mut front = Self::ip(source.ip(), destination.ip(), number::UDP, traffic_class, hop_limit)?;
        let at = front.octets;
        front.octets += udp::HEADER;
        let [a, b] = source.port().to_be_bytes();
        let [c, d] = destination.port().to_be_bytes();
        front.head.get_mut(at..at + 4)?.copy_from_slice(&[a, b, c, d]);
        Some(front)
    }

    /// Makes the IP header of packets of another protocol. None if the addresses are not of one version.
    pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, traffic_class: u8, hop_limit: u8) -> Option<Self> {
        let mut head = [0; LONGEST];
        let octets = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                head[..2].copy_from_slice(&[0x45, traffic_class]);
                head[8..10].copy_from_slice(&[hop_limit, protocol]);
                head[12..16].copy_from_slice(&source.octets());
                head[16..20].copy_from_slice(&destination.octets());
                IPV4_HEADER
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                head[..2].copy_from_slice(&[0x60 | traffic_class >> 4, traffic_class << 4]);
                head[6..8].copy_from_slice(&[protocol, hop_limit]);
                head[8..24].copy_from_slice(&source.octets());
                head[24..40].copy_from_slice(&destination.octets());
                IPV6_HEADER
            }
            _ => return None,
        };
        Some(Self { head, octets, sum: sum(&head[..IPV4_HEADER]) })
    }

    /// Octets of the headers.
    pub fn octets(&self) -> usize {
        self.octets
    }

    /// Whether they end with a UDP header.
    pub fn is_udp(&self) -> bool {
        self.octets == IPV4_HEADER + udp::HEADER || self.octets == LONGEST
    }

    /// Writes them in front of a datagram. place: as many octets as [`Self::octets`]. body: octets behind it.
    ///
    /// Returns whether the whole is a packet, 65,535 octets at most.
    pub fn write(&self, place: &mut [u8], body: usize) -> bool {
        let Some(head) = self.head.get(..self.octets).filter(|head| head.len() == place.len()) else { return false };
        let is_ipv6 = head[0] >> 4 == 6;
        let length = self.octets + body - if is_ipv6 { IPV6_HEADER } else { 0 };
        let Ok(length) = u16::try_from(length) else { return false };
        place.copy_from_slice(head);
        let udp_at = if is_ipv6 {
            place[4..6].copy_from_slice(&length.to_be_bytes());
            IPV6_HEADER
        } else {
            place[2..4].copy_from_slice(&length.to_be_bytes());
            place[10..12].copy_from_slice(&(!fold(self.sum + u32::from(length))).to_be_bytes());
            IPV4_HEADER
        };
        if let Some(place) = place.get_mut(udp_at + 4..udp_at + 6) {
            // What has a UDP header fits its length field, for the IP length does.
            place.copy_from_slice(&((body + udp::HEADER) as u16).to_be_bytes());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn headers_put_in_front_are_read_as_they_were_told() {
        for (source, destination) in
            [("192.0.2.1:4500", "192.0.2.2:4501"), ("[2001:db8::1]:4500", "[2001:db8::2]:4501")]
        {
            let (source, destination) = (address(source), address(destination));
            let front = Front::udp(source, destination, 0xb9, 63).expect("one version");
            let mut packet = vec![0xee; front.octets() + 100];
            let (head, body) = packet.split_at_mut(front.octets());
            assert!(front.write(head, body.len()));
            let outer = Outer::of(&packet).expect("a packet");
            assert_eq!((outer.source, outer.destination, outer.in_udp), (source, destination, true));
            assert_eq!((outer.traffic_class, outer.hop_limit, outer.header), (0xb9, 63, front.octets()));
            assert_eq!(udp::content(&packet[outer.header - 8..]).map(|carried| carried.end), Ok(108));
            if source.is_ipv4() {
                assert_eq!(ip::checksum(&packet[..20]), 0);
            }
            assert!(!front.write(&mut [0; LONGEST][..front.octets()], 65535));
        }
        assert!(Front::udp(address("192.0.2.1:1"), address("[::1]:1"), 0, 0).is_none());
    }

    #[test]
    fn a_bare_ip_header_has_no_ports() {
        let front = Front::ip([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 50, 3, 64).expect("one version");
        let mut packet = [7; 60];
        assert!(front.write(&mut packet[..20], 40));
        let outer = Outer::of(&packet).expect("a packet");
        assert_eq!((outer.in_udp, outer.header, outer.destination), (false, 20, address("10.0.0.2:0")));
        assert_eq!((outer.traffic_class, ip::checksum(&packet[..20])), (3, 0));
    }

    #[test]
    fn packets_are_alike_but_for_lengths_and_numbers() {
        let front = Front::udp(address("192.0.2.1:4500"), address("192.0.2.2:4501"), 0, 64).expect("one version");
        let packet = |body: usize| {
            let mut packet = vec![0; front.octets() + body];
            front.write(&mut packet[..28], body);
            packet
        };
        let (one, other) = (packet(10), packet(900));
        assert!(is_alike(&one, &other));
        for at in [1, 6, 8, 9, 12, 16, 20, 23] {
            let mut changed = other.clone();
            changed[at] ^= 1;
            assert!(!is_alike(&one, &changed), "octet {at}");
        }
        assert!(!is_alike(&[], &[]));
        let ipv6 = |next_header: u8| [&[0x60, 0, 0, 0, 0, 8, next_header, 64][..], &[1; 40]].concat();
        for protocol in [50, 141, 253] {
            assert!(is_alike(&ipv6(protocol), &ipv6(protocol)));
        }
        assert!(!is_alike(&ipv6(50)[..43], &ipv6(50)[..43]), "cut short");
        assert!(!is_alike(&ipv6(0), &ipv6(0)), "what follows its options may differ");
    }
}
