//! How much of a payload stays readable: a policy, turned into an offset for each packet, with a guard.
//!
//! The offset never goes beyond the transport header of the packet at hand, unless the policy says so in so many words.
//! Source: draft-klassert-ipsecme-wespv2-01 §2.1, draft-ietf-ipsecme-eesp-03 §3.1.2.

use crate::ip::{Datagram, number};

/// Octets of a unit on the wire.
pub const UNIT: usize = 4;
/// Most octets that six bits can say.
pub const MOST_OCTETS: usize = 63 * UNIT;

/// What a crypt offset leaves readable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Exposure {
    /// Nothing.
    #[default]
    None,
    /// The inner IP header with its options and extension headers.
    L3,
    /// And the header of TCP, UDP, UDP-Lite, SCTP or DCCP.
    L3L4,
    /// So many octets, or fewer.
    Octets,
}

/// A sender's policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CryptOffset {
    /// What is shown.
    pub exposure: Exposure,
    /// With [`Exposure::Octets`], where encryption begins. EESP counts its Payload Info Header.
    pub octets: u8,
    /// With [`Exposure::Octets`], the offset may go beyond the transport header.
    pub expose_payload: bool,
}

/// A packet, what its headers say, and what of it is the payload.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// What the headers say.
    pub datagram: &'a Datagram,
    /// The whole packet, as long as it says itself.
    pub packet: &'a [u8],
    /// Octets of the payload without TFC padding: the packet's last ones, and perhaps BEET's pseudo header before them.
    pub payload: usize,
}

impl CryptOffset {
    /// Returns where encryption begins in a packet, a multiple of [`UNIT`].
    ///
    /// shown: none for dummies, of which nothing is shown. lead: octets in front of the payload that count. limit: the
    /// peer's maximum.
    pub fn octets(&self, shown: Option<Shown<'_>>, lead: usize, limit: usize) -> usize {
        let Some(Shown { datagram, packet, payload }) = shown.filter(|_| self.exposure != Exposure::None) else {
            return 0;
        };
        let end = if self.exposure == Exposure::L3 { datagram.upper.at } else { transport_end(datagram, packet) };
        let visible = lead + (end + payload).saturating_sub(packet.len());
        let octets = match self.exposure {
            Exposure::Octets if self.expose_payload => usize::from(self.octets).min(lead + payload),
            Exposure::Octets => visible.min(self.octets.into()),
            _ => visible,
        };
        octets.min(limit) & !(UNIT - 1)
    }
}

/// Where the transport header ends; where the IP headers do if there is none, or none that is known here.
fn transport_end(datagram: &Datagram, packet: &[u8]) -> usize {
    let at = datagram.upper.at;
    if datagram.offset != 0 {
        return at;
    }
    let octets = match datagram.upper.protocol {
        number::UDP | number::UDP_LITE => 8,
        number::SCTP => 12,
        // RFC 9293 §3.1: data offset.
        number::TCP => packet.get(at + 12).map_or(0, |octet| 4 * usize::from(octet >> 4)),
        // RFC 4340 §5.1: data offset.
        number::DCCP => packet.get(at + 4).map_or(0, |octet| 4 * usize::from(*octet)),
        _ => 0,
    };
    if at + octets <= packet.len() { at + octets } else { at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip;

    fn packet(protocol: u8, upper: &[u8]) -> Vec<u8> {
        let octets = (20 + upper.len()) as u8;
        let head = [0x45, 0, 0, octets, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        [&head, upper].concat()
    }

    fn octets(policy: CryptOffset, packet: &[u8], payload: usize, lead: usize, limit: usize) -> usize {
        let datagram = ip::parse(packet).expect("IP");
        policy.octets(Some(Shown { datagram: &datagram, packet, payload }), lead, limit)
    }

    #[test]
    fn headers_are_shown_and_never_what_is_behind_them() {
        let udp = packet(17, &[0; 40]);
        let l3 = CryptOffset { exposure: Exposure::L3, ..CryptOffset::default() };
        let l4 = CryptOffset { exposure: Exposure::L3L4, ..CryptOffset::default() };
        let most = CryptOffset { exposure: Exposure::Octets, octets: 252, expose_payload: false };
        assert_eq!(octets(CryptOffset::default(), &udp, 60, 4, 252), 0);
        assert_eq!((octets(l3, &udp, 60, 0, 252), octets(l4, &udp, 60, 0, 252)), (20, 28));
        assert_eq!((octets(l3, &udp, 60, 4, 252), octets(l4, &udp, 60, 4, 30)), (24, 28));
        assert_eq!((octets(l3, &udp, 40, 0, 252), octets(l4, &udp, 40, 0, 252)), (0, 8));
        assert_eq!(octets(most, &udp, 60, 0, 252), 28);
        assert_eq!(octets(CryptOffset { expose_payload: true, ..most }, &udp, 60, 0, 252), 60);
        let mut tcp = packet(6, &[0; 40]);
        tcp[32] = 0x80;
        assert_eq!(octets(l4, &tcp, 60, 0, 252), 52);
        tcp[32] = 0xf0;
        assert_eq!(octets(l4, &tcp, 60, 0, 252), 20, "a header that is cut short is none");
        assert_eq!(l4.octets(None, 4, 252), 0);
    }
}
