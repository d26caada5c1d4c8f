//! Protected packets put together to messages for sockets: several of one size and flow to one place go as one.
//!
//! Of one flow, because a receiver may steer a message as a whole (`wesper_core::steering`).

use std::net::IpAddr;
use std::ops::Range;

use wesper_core::steering;

use crate::join::Piece;
use crate::outer::{self, Outer};

/// As many datagrams as any kernel with UDP_SEGMENT takes in one message (include/linux/udp.h:UDP_MAX_SEGMENTS of old).
const MOST: usize = 64;
/// Octets of payload of one message over IPv4; over IPv6 it could be 20 more.
const LARGEST: usize = 65507;

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
    /// IPv4 packets with their header.
    Raw4,
    /// IPv6 packets; received without their header.
    Raw6,
}

impl LinkKind {
    /// Whether the kernel makes the UDP header.
    pub fn is_udp(self) -> bool {
        matches!(self, Self::Udp4 | Self::Udp6)
    }

    /// Whether it is over IPv6.
    pub fn is_ipv6(self) -> bool {
        matches!(self, Self::Udp6 | Self::Raw6)
    }
}

/// Which packets a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkEnd {
    /// Its kind.
    pub kind: LinkKind,
    /// The address that it is bound to; unspecified: any of the host's.
    pub local: IpAddr,
    /// The local port; of raw sockets the IP protocol.
    pub port: u16,
}

impl LinkEnd {
    fn fits(&self, outer: &Outer) -> bool {
        self.kind.is_udp() == outer.in_udp
            && self.kind.is_ipv6() == outer.destination.is_ipv6()
            && (!outer.in_udp || self.port == outer.source.port())
            && (self.local.is_unspecified() || outer.source.ip().is_unspecified() || self.local == outer.source.ip())
    }
}

/// Packets that go as one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Which link.
    pub link: usize,
    /// Where to, and how.
    pub outer: Outer,
    /// Octets of each but the last, which may have fewer.
    pub size: usize,
    /// Octets of all.
    pub octets: usize,
    /// Their places in [`Groups::pieces`].
    pub pieces: Range<usize>,
    /// What its packets show of their flow.
    flow: u32,
    /// A shorter one has ended it.
    is_closed: bool,
}

impl Group {
    /// One of its packets, of so many octets, as a message of its own.
    pub fn single(&self, place: usize, octets: usize) -> Self {
        Self { pieces: place..place + 1, size: octets, octets, ..self.clone() }
    }
}

/// Groups of one batch.
#[derive(Default)]
pub struct Groups {
    /// In the order of the packets.
    pub groups: Vec<Group>,
    /// What is sent of each packet.
    pub pieces: Vec<Piece>,
    last: Option<Piece>,
}

impl Groups {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.groups.clear();
        self.pieces.clear();
        self.last = None;
    }

    /// Adds a packet; returns false if no link is for it. segmentation: whether a link's socket takes several as one.
    pub fn push(&mut self, buf: &[u8], packet: Piece, links: &[LinkEnd], segmentation: impl Fn(usize) -> bool) -> bool {
        let octets = packet.of(buf);
        let is_alike = self.last.is_some_and(|last| outer::is_alike(last.of(buf), octets));
        let (link, outer) = match self.groups.last() {
            Some(group) if is_alike => (group.link, group.outer),
            _ => {
                let Some(outer) = Outer::of(octets) else { return false };
                let Some(link) = links.iter().position(|link| link.fits(&outer)) else { return false };
                (link, outer)
            }
        };
        let kind = links.get(link).map(|link| link.kind);
        let header = if kind.is_some_and(LinkKind::is_udp) { outer.header } else { 0 };
        let Some(len) = packet.len.checked_sub(header) else { return false };
        let piece = Piece { at: packet.at + header, len };
        let flow = if header != 0 { steering::flow_of_datagram(piece.of(buf)) } else { 0 };
        let place = self.pieces.len();
        self.pieces.push(piece);
        self.last = Some(packet);
        if let Some(group) = self.groups.last_mut()
            && is_alike
            && header != 0
            && flow == group.flow
            && !group.is_closed
            && group.pieces.len() < MOST
            && piece.len <= group.size
            && group.octets + piece.len <= LARGEST
            && segmentation(link)
        {
            group.pieces.end += 1;
            group.octets += piece.len;
            group.is_closed = piece.len < group.size;
        } else {
            let (size, pieces) = (piece.len, place..place + 1);
            self.groups.push(Group { link, outer, size, octets: size, pieces, flow, is_closed: false });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outer::Front;

    fn end(kind: LinkKind, local: &str, port: u16) -> LinkEnd {
        LinkEnd { kind, local: local.parse().expect("an address"), port }
    }

    /// Puts packets into one buffer: (source port, destination's last octet, traffic class, octets of payload).
    fn packets(list: &[(u16, u8, u8, usize)]) -> (Vec<u8>, Vec<Piece>) {
        let (mut buf, mut pieces) = (Vec::new(), Vec::new());
        for (port, to, class, octets) in list {
            let source = ([192, 0, 2, 1], *port).into();
            let front = Front::udp(source, ([192, 0, 2, *to], 4500).into(), *class, 64).expect("one version");
            let at = buf.len();
            buf.resize(at + 28 + octets, *to);
            assert!(front.write(&mut buf[at..at + 28], *octets));
            pieces.push(Piece { at, len: 28 + octets });
        }
        (buf, pieces)
    }

    fn sizes(list: &[(u16, u8, u8, usize)], links: &[LinkEnd], segmentation: bool) -> Vec<(usize, Vec<usize>)> {
        let (buf, pieces) = packets(list);
        let mut groups = Groups::default();
        for piece in pieces {
            groups.push(&buf, piece, links, |_| segmentation);
        }
        let pieces = &groups.pieces;
        let of = |group: &Group| pieces[group.pieces.clone()].iter().map(|piece| piece.len).collect::<Vec<_>>();
        for group in &groups.groups {
            assert_eq!(group.octets, of(group).iter().sum::<usize>());
            assert!(pieces[group.pieces.clone()].iter().all(|piece| piece.of(&buf)[0] != 0x45));
        }
        groups.groups.iter().map(|group| (group.link, of(group))).collect()
    }

    #[test]
    fn one_size_and_one_place_go_together_and_a_shorter_one_ends_it() {
        let links = [end(LinkKind::Udp4, "192.0.2.1", 4500)];
        let same = |octets| (4500, 2, 0, octets);
        let list = [same(100), same(100), same(60), same(60), same(61), (4500, 3, 0, 61), (4500, 3, 1, 61)];
        let expected = [vec![100, 100, 60], vec![60], vec![61], vec![61], vec![61]].map(|group| (0, group)).to_vec();
        assert_eq!(sizes(&list, &links, true), expected);
        assert_eq!(sizes(&list, &links, false).len(), 7);
    }

    #[test]
    fn flows_go_apart() {
        let links = [end(LinkKind::Udp4, "192.0.2.1", 4500)];
        let (mut buf, pieces) = packets(&[(4500, 2, 0, 100); 5]);
        for (piece, spi) in pieces.iter().zip([7, 7, 8, 7, 7]) {
            buf[piece.at + 28..piece.at + 32].copy_from_slice(&[0, 0, 1, spi]);
        }
        let mut groups = Groups::default();
        for piece in pieces {
            assert!(groups.push(&buf, piece, &links, |_| true));
        }
        assert_eq!(groups.groups.iter().map(|group| group.pieces.len()).collect::<Vec<_>>(), [2, 1, 2]);
    }

    #[test]
    fn no_group_is_larger_than_the_kernel_takes() {
        let links = [end(LinkKind::Udp4, "0.0.0.0", 4500)];
        let lengths = |octets, packets| {
            sizes(&vec![(4500, 2, 0, octets); packets], &links, true).iter().map(|(_, g)| g.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(64, 130), [64, 64, 2]);
        assert_eq!(lengths(1400, 50), [46, 4]);
        assert_eq!(lengths(65507, 2), [1, 1]);
    }

    #[test]
    fn the_link_is_the_one_whose_port_and_address_the_packet_has() {
        let links = [
            end(LinkKind::Raw4, "0.0.0.0", 0),
            end(LinkKind::Udp6, "::", 4500),
            end(LinkKind::Udp4, "192.0.2.9", 4500),
            end(LinkKind::Udp4, "0.0.0.0", 4501),
            end(LinkKind::Udp4, "192.0.2.1", 4500),
        ];
        assert_eq!(sizes(&[(4500, 2, 0, 9), (4501, 2, 0, 9)], &links, true), [(4, vec![9]), (3, vec![9])]);
        let (buf, pieces) = packets(&[(7, 2, 0, 9)]);
        assert!(!Groups::default().push(&buf, pieces[0], &links, |_| true));
    }

    #[test]
    fn a_raw_socket_gets_each_packet_whole() {
        let front = Front::ip([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 50, 0, 64).expect("one version");
        let mut buf = vec![0; 120];
        for at in [0, 60] {
            assert!(front.write(&mut buf[at..at + 20], 40));
        }
        let mut groups = Groups::default();
        for at in [0, 60] {
            assert!(groups.push(&buf, Piece { at, len: 60 }, &[end(LinkKind::Raw4, "10.0.0.1", 0)], |_| true));
        }
        assert_eq!(groups.pieces, [Piece { at: 0, len: 60 }, Piece { at: 60, len: 60 }]);
        assert_eq!(groups.groups.len(), 2);
    }
}
