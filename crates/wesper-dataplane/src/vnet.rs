//! The header in front of packets of a device with offloads (virtio 1.2 §5.1.6, include/uapi/linux/virtio_net.h).
//!
//! TUN and packet sockets use the machine's own octet order.

/// Octets of the header.
pub const VNET_HEADER: usize = 10;

const F_NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// How a packet wants to be cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// It is one packet.
    #[default]
    None,
    /// Into TCP segments over IPv4.
    TcpV4,
    /// Into TCP segments over IPv6.
    TcpV6,
    /// Into UDP datagrams.
    Udp,
}

/// What the header says. Places count from the IP header, whatever stands before it on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vnet {
    /// Where the checksum that is yet to be completed begins and, from there, where its field is.
    pub checksum: Option<(u16, u16)>,
    /// How to cut it.
    pub gso: Gso,
    /// Octets of all headers; to be believed only of what this process made.
    pub header_octets: u16,
    /// Octets of payload of each packet but the last.
    pub gso_size: u16,
}

impl Vnet {
    /// Reads a header. link: octets of link-layer header between it and the IP header.
    ///
    /// None: a kind of super-packet that was never asked for, or places before the IP header.
    pub fn read(octets: &[u8; VNET_HEADER], link: usize) -> Option<Self> {
        let [flags, kind, rest @ ..] = *octets;
        let [header_octets, gso_size, start, offset] =
            [0, 2, 4, 6].map(|at| u16::from_ne_bytes([rest[at], rest[at + 1]]));
        let gso = match kind & !GSO_ECN {
            0 => Gso::None,
            GSO_TCPV4 => Gso::TcpV4,
            GSO_TCPV6 => Gso::TcpV6,
            GSO_UDP_L4 => Gso::Udp,
            _ => return None,
        };
        let link = link as u16;
        let checksum = if flags & F_NEEDS_CSUM != 0 { Some((start.checked_sub(link)?, offset)) } else { None };
        Some(Self { checksum, gso, header_octets: header_octets.saturating_sub(link), gso_size })
    }

    /// Writes a header. link: octets of link-layer header between it and the IP header.
    pub fn write(&self, link: usize) -> [u8; VNET_HEADER] {
        let link = link as u16;
        let kind = match self.gso {
            Gso::None => 0,
            Gso::TcpV4 => GSO_TCPV4,
            Gso::TcpV6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        let header = if self.gso == Gso::None { 0 } else { self.header_octets + link };
        let (flags, start, offset) = match self.checksum {
            Some((start, offset)) => (F_NEEDS_CSUM, start + link, offset),
            None => (0, 0, 0),
        };
        let [a, b] = header.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = start.to_ne_bytes();
        let [g, h] = offset.to_ne_bytes();
        [flags, kind, a, b, c, d, e, f, g, h]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_with_and_without_a_link_header() {
        let vnet = Vnet { checksum: Some((20, 16)), gso: Gso::TcpV4, header_octets: 52, gso_size: 1348 };
        for (link, octets) in [(0, [1, 1, 52, 0, 68, 5, 20, 0, 16, 0]), (14, [1, 1, 66, 0, 68, 5, 34, 0, 16, 0])] {
            if cfg!(target_endian = "little") {
                assert_eq!(vnet.write(link), octets);
            }
            assert_eq!(Vnet::read(&vnet.write(link), link), Some(vnet));
        }
        assert_eq!(Vnet::default().write(14), [0; 10]);
    }

    #[test]
    fn ecn_is_no_kind_of_its_own_and_what_was_not_asked_for_is_refused() {
        assert_eq!(Vnet::read(&[0, 0x81, 0, 0, 0, 0, 0, 0, 0, 0], 0).map(|vnet| vnet.gso), Some(Gso::TcpV4));
        assert_eq!(Vnet::read(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0], 0), None);
        assert_eq!(Vnet::read(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0], 14), None);
    }
}
