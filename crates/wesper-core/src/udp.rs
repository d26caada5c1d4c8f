//! ESP in UDP: the header, what a datagram carries, keepalives (RFC 3948).

use crate::ip::{self, number};
use crate::profile::UdpEncapsulation;
use crate::verdict::DropReason;

/// Octets of the header.
pub const HEADER: usize = 8;

/// Returns source and destination port of a datagram; none if it is shorter than its header.
#[inline]
pub fn ports(datagram: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d, ..] = *datagram.first_chunk::<HEADER>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// Returns how many octets, header included, of an IPsec datagram carry ESP, or why it carries none.
///
/// datagram: from the UDP header to the end of the IP packet; the UDP length may be less and counts.
/// Source: RFC 3948 §2, §2.2, §2.3.
#[inline]
pub fn content(datagram: &[u8]) -> Result<usize, DropReason> {
    let head = datagram.first_chunk::<HEADER>().ok_or(DropReason::BadIp)?;
    let octets = usize::from(u16::from_be_bytes([head[4], head[5]]));
    let body = datagram.get(HEADER..octets).ok_or(DropReason::BadIp)?;
    match body {
        [0xff] => Err(DropReason::Keepalive),
        // IKE's marker (RFC 3948 §2.2), WESP's identifier (RFC 5840 §2.1).
        [0, 0, 0, 0 | 2, ..] => Err(DropReason::NotForUs),
        [_, _, _, _, ..] => Ok(octets),
        _ => Err(DropReason::TruncatedHeader),
    }
}

/// Writes the header in front of a body.
///
/// datagram: header and body. addresses: source and destination of the IP header, 8 or 32 octets.
#[inline]
pub(crate) fn write(encapsulation: &UdpEncapsulation, addresses: &[u8], datagram: &mut [u8]) {
    let octets = datagram.len();
    let Some(head) = datagram.first_chunk_mut::<HEADER>() else { return };
    let [a, b] = encapsulation.local_port.to_be_bytes();
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
        assert_eq!(content(&datagram(12, &[0, 0, 0, 2])), Err(DropReason::NotForUs));
        assert_eq!(content(&datagram(12, &[0, 0, 0, 1])), Ok(12));
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
            write(&encapsulation(checksum), addresses, &mut datagram);
            assert_eq!(datagram[6..8] != [0, 0], computed);
            let total = ip::pseudo_header_sum(addresses, number::UDP, datagram.len()) + ip::sum(&datagram);
            assert_eq!(ip::fold(total) == 0xffff, computed);
        }
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(datagram in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = ports(&datagram);
            if let Ok(octets) = content(&datagram) {
                prop_assert!((12..=datagram.len()).contains(&octets));
            }
        }
    }
}
