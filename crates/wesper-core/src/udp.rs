//! ESP in UDP: the header, what a datagram carries, keepalives (RFC 3948).

use crate::ip::{self, number};
use crate::profile::UdpEncapsulation;
use crate::verdict::DropReason;
use crate::wesp::MARKER;

/// Octets of the header.
pub const HEADER: usize = 8;

/// Returns source and destination port of a datagram; none if it is shorter than its header.
#[inline]
pub fn ports(datagram: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d, ..] = *datagram.first_chunk::<HEADER>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// What an IPsec datagram carries: its first octet counted from the UDP header's, and how many octets with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Octets in front: the header, and WESP's marker if it is there.
    pub at: usize,
    /// Where it ends.
    pub end: usize,
}

/// Finds what an IPsec datagram carries, or why it carries nothing of ours.
///
/// datagram: from the UDP header to the end of the IP packet; the UDP length may be less and counts.
/// Source: RFC 3948 §2, §2.2, §2.3; RFC 5840 §2.1.
#[inline]
pub fn content(datagram: &[u8]) -> Result<Carried, DropReason> {
    let head = datagram.first_chunk::<HEADER>().ok_or(DropReason::BadIp)?;
    let octets = usize::from(u16::from_be_bytes([head[4], head[5]]));
    let body = datagram.get(HEADER..octets).ok_or(DropReason::BadIp)?;
    match body {
        [0xff] => Err(DropReason::Keepalive),
        // IKE's marker.
        [0, 0, 0, 0, ..] => Err(DropReason::NotForUs),
        [a, b, c, d, ..] if [*a, *b, *c, *d] == MARKER => Ok(Carried { at: HEADER + MARKER.len(), end: octets }),
        [_, _, _, _, ..] => Ok(Carried { at: HEADER, end: octets }),
        _ => Err(DropReason::TruncatedHeader),
    }
}

/// Writes the header in front of a body.
///
/// datagram: header and body. source_port: the SA's, or a flow's own. addresses: source and destination of the IP header, 8 or 32 octets.
#[inline]
pub(crate) fn write(encapsulation: &UdpEncapsulation, source_port: u16, addresses: &[u8], datagram: &mut [u8]) {
    let octets = datagram.len();
    let Some(head) = datagram.first_chunk_mut::<HEADER>() else { return };
    let [a, b] = source_port.to_be_bytes();
    let [c, d] = encapsulation.remote_port.to_be_bytes();
    let [e, f] = (octets as u16).to_be_bytes();
    *head = [a, b, c, d, e, f, 0, 0];
    // RFC 3948 §2.1: zero over IPv4; RFC 8200 §8.1 wants one over IPv6.
    if encapsulation.checksum.unwrap_or(addresses.len() == 32) {
        let total = ip::pseudo_header_sum(addresses, number::UDP, octets) + ip::sum(datagram);
        // RFC 768: zero would mean none.
        let sum = match !ip::fold(total) {
            0 => 0xffff,
            sum => sum,
        };
        if let Some(place) = datagram.get_mut(6..HEADER) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_of_content_is_told() {
        let datagram =
            |octets: u16, body: &[u8]| [&[0x11, 0x94, 0x11, 0x95][..], &octets.to_be_bytes(), &[0, 0], body].concat();
        assert_eq!(ports(&datagram(8, &[])), Some((4500, 4501)));
        assert_eq!(ports(&[0; 7]), None);
        assert_eq!(content(&datagram(9, &[0xff])), Err(DropReason::Keepalive));
        assert_eq!(content(&datagram(9, &[0xff, 1, 2, 3, 4])), Err(DropReason::Keepalive), "the UDP length counts");
        assert_eq!(content(&datagram(9, &[0xfe])), Err(DropReason::TruncatedHeader));
        assert_eq!(content(&datagram(8, &[])), Err(DropReason::TruncatedHeader));
        assert_eq!(content(&datagram(12, &[0; 4])), Err(DropReason::NotForUs));
        assert_eq!(content(&datagram(12, &[0, 0, 0, 2])), Ok(Carried { at: 12, end: 12 }));
        assert_eq!(content(&datagram(12, &[0, 0, 0, 1])), Ok(Carried { at: 8, end: 12 }));
        assert_eq!(content(&datagram(13, &[0, 0, 0, 1])), Err(DropReason::BadIp));
        assert_eq!(content(&datagram(7, &[0; 9])), Err(DropReason::BadIp));
    }

    #[test]
    fn checksums_hold_and_are_left_out_over_ipv4() {
        let encapsulation = |checksum| UdpEncapsulation { local_port: 4500, remote_port: 4500, checksum };
        for (addresses, checksum, computed) in [
            (&[7; 8][..], None, false),
            (&[7; 8], Some(true), true),
            (&[7; 32], None, true),
            (&[7; 32], Some(false), false),
        ] {
            let mut datagram = [[0; 8], [0x5a; 8]].concat();
            write(&encapsulation(checksum), 4500, addresses, &mut datagram);
            assert_eq!(datagram[6..8] != [0, 0], computed);
            let total = ip::pseudo_header_sum(addresses, number::UDP, datagram.len()) + ip::sum(&datagram);
            assert_eq!(ip::fold(total) == 0xffff, computed);
        }
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(datagram in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = ports(&datagram);
            if let Ok(Carried { at, end }) = content(&datagram) {
                prop_assert!(matches!(at, 8 | 12) && (12..=datagram.len()).contains(&end) && at <= end);
            }
        }
    }
}
