//! The unprotected side: sockets, and groups of packets through them.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::ancillary::{self, ADDRESS, CONTROL, Control, Writer};
use crate::counters::outward::{ALL, LINK_FULL, TOO_BIG, UNREACHABLE};
use crate::counters::outward::{SENDS, SENT_OCTETS, SENT_PACKETS};
use crate::group::{Group, Groups, LinkEnd, LinkKind};
use crate::sys::{self, Message, Outlet};

const UNKNOWN: u8 = 0;
const MAY_BE_CUT: u8 = 1;
const NOT_TO_BE_CUT: u8 = 2;

/// One socket.
pub struct Link {
    fd: OwnedFd,
    end: LinkEnd,
    /// The kernel cuts messages into datagrams.
    segmentation: AtomicBool,
    /// The kernel puts datagrams together.
    coalescing: bool,
    /// What the socket was last told of fragments.
    fragments: AtomicU8,
    /// For which shard of an engine it receives; none: it only sends, and needs no worker.
    shard: Option<usize>,
}

impl Link {
    /// Takes a socket over: a copy of its descriptor.
    ///
    /// The socket tells of each datagram its traffic class, hop limit and destination (`tunnel/link.py:open_link`).
    /// offloads: try UDP_SEGMENT, and UDP_GRO but for a socket that shares its port: the kernel would put flows together
    /// before it steers them. shard: for which it receives; none: it only sends.
    pub fn new(fd: RawFd, end: LinkEnd, offloads: bool, shares: bool, shard: Option<usize>) -> io::Result<Self> {
        let fd = sys::duplicate(fd)?;
        let offloads = offloads && end.kind.is_udp();
        let segmentation = offloads && sys::has_option(fd.as_fd(), libc::IPPROTO_UDP, libc::UDP_SEGMENT);
        let wanted = offloads && !shares;
        let coalescing = end.kind.is_udp()
            && sys::set_option(fd.as_fd(), libc::IPPROTO_UDP, libc::UDP_GRO, wanted.into()).is_ok()
            && wanted;
        let (segmentation, fragments) = (AtomicBool::new(segmentation), AtomicU8::new(UNKNOWN));
        Ok(Self { fd, end, segmentation, coalescing, fragments, shard })
    }

    /// Which packets it is for.
    pub fn end(&self) -> LinkEnd {
        self.end
    }

    /// For waiting and receiving.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// For which shard it receives, none if nothing comes by it.
    pub fn shard(&self) -> Option<usize> {
        self.shard
    }

    /// Whether several datagrams may go as one message.
    pub fn has_segmentation(&self) -> bool {
        self.segmentation.load(Ordering::Relaxed)
    }

    /// Whether several datagrams may come as one message.
    pub fn has_coalescing(&self) -> bool {
        self.coalescing
    }

    /// Tells a UDP socket over IPv4 whether what follows may be cut on its way.
    fn set_fragments(&self, dont_fragment: bool) {
        let wanted = if dont_fragment { NOT_TO_BE_CUT } else { MAY_BE_CUT };
        if self.end.kind != LinkKind::Udp4 || self.fragments.swap(wanted, Ordering::Relaxed) == wanted {
            return;
        }
        // PROBE: DF, and no MTU that this host has learnt. DONT: no DF, cut here if the path is known to be narrow.
        let value = if dont_fragment { libc::IP_PMTUDISC_PROBE } else { libc::IP_PMTUDISC_DONT };
        // A kernel that refuses goes on as it was; the packet goes out either way.
        let _ = sys::set_option(self.fd.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, value);
    }

    fn message(&self, group: &Group) -> Message {
        let outer = &group.outer;
        let mut name = [0; ADDRESS];
        let name_octets = ancillary::write_address(&mut name, outer.destination, !outer.in_udp);
        let mut control = Control([0; CONTROL]);
        let mut control_octets = 0;
        if self.end.kind.is_udp() {
            let mut writer = Writer::new(&mut control);
            let (class, limit) = (i32::from(outer.traffic_class), i32::from(outer.hop_limit));
            let (level, class_kind, limit_kind) = match self.end.kind {
                LinkKind::Udp6 => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, libc::IPV6_HOPLIMIT),
                _ => (libc::IPPROTO_IP, libc::IP_TOS, libc::IP_TTL),
            };
            writer.push(level, class_kind, &class.to_ne_bytes());
            if limit > 0 {
                writer.push(level, limit_kind, &limit.to_ne_bytes());
            }
            if self.end.local.is_unspecified() && !outer.source.ip().is_unspecified() {
                push_source(&mut writer, outer.source);
            }
            if group.pieces.len() > 1 {
                writer.push(libc::IPPROTO_UDP, libc::UDP_SEGMENT, &(group.size as u16).to_ne_bytes());
            }
            control_octets = writer.octets();
        }
        Message { name, name_octets, control, control_octets, parts: group.pieces.len() }
    }
}

fn push_source(writer: &mut Writer<'_>, source: SocketAddr) {
    match source.ip() {
        IpAddr::V4(address) => {
            let info = [[0; 4], address.octets(), [0; 4]].concat();
            writer.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        IpAddr::V6(address) => {
            let info = [&address.octets()[..], &[0; 4]].concat();
            writer.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
    }
}

/// Sends the groups of a batch, in order, and counts what becomes of each packet. Never waits.
pub(crate) fn send_groups(links: &[Link], buf: &[u8], groups: &Groups, outlet: &mut Outlet, counts: &mut [u64; ALL]) {
    let parts: Vec<IoSlice<'_>> = groups.pieces.iter().map(|piece| IoSlice::new(piece.of(buf))).collect();
    let mut rest = groups.groups.as_slice();
    while let Some(first) = rest.first() {
        let with_first =
            |group: &&Group| group.link == first.link && group.outer.dont_fragment == first.outer.dont_fragment;
        let run = rest.iter().take_while(with_first).count();
        let (now, later) = rest.split_at(run);
        rest = later;
        if let Some(link) = links.get(first.link) {
            link.set_fragments(first.outer.dont_fragment);
            send_run(link, now, &parts, outlet, counts);
        }
    }
}

fn send_run(link: &Link, groups: &[Group], parts: &[IoSlice<'_>], outlet: &mut Outlet, counts: &mut [u64; ALL]) {
    let mut messages: Vec<Message> = groups.iter().map(|group| link.message(group)).collect();
    let mut done = 0;
    let mut refused = false;
    while let Some(group) = groups.get(done) {
        let from = group.pieces.start;
        match outlet.send(
            link.fd(),
            messages.get_mut(done..).unwrap_or_default(),
            parts.get(from..).unwrap_or_default(),
        ) {
            Ok(sent) => {
                for group in groups.get(done..done + sent).unwrap_or_default() {
                    count_sent(group, counts);
                }
                done += sent.max(1);
                refused = false;
            }
            // What a packet before this one met on its way: it says nothing of this one.
            Err(error) if !refused && is_of_an_earlier_packet(&error) => refused = true,
            Err(error) => {
                if group.pieces.len() > 1 && is_of_segmentation(&error) {
                    send_singly(link, group, parts, outlet, counts, &error);
                } else {
                    counts[loss_of(&error)] += group.pieces.len() as u64;
                }
                done += 1;
                refused = false;
            }
        }
    }
}

/// Sends the packets of a group that was refused as a whole, each on its own.
#[cold]
fn send_singly(
    link: &Link,
    group: &Group,
    parts: &[IoSlice<'_>],
    outlet: &mut Outlet,
    counts: &mut [u64; ALL],
    error: &io::Error,
) {
    // A message that is too long for its path says nothing of the next one.
    if error.raw_os_error() != Some(libc::EMSGSIZE) {
        link.segmentation.store(false, Ordering::Relaxed);
    }
    for place in group.pieces.clone() {
        let octets = parts.get(place).map_or(0, |part| part.len());
        let single = group.single(place, octets);
        let part = parts.get(place..place + 1).unwrap_or_default();
        match outlet.send(link.fd(), &mut [link.message(&single)], part) {
            Ok(_) => count_sent(&single, counts),
            Err(error) => counts[loss_of(&error)] += 1,
        }
    }
}

fn count_sent(group: &Group, counts: &mut [u64; ALL]) {
    let packets = group.pieces.len();
    let header = if group.outer.in_udp { group.outer.header } else { 0 };
    counts[SENT_PACKETS] += packets as u64;
    counts[SENT_OCTETS] += (group.octets + packets * header) as u64;
    counts[SENDS] += 1;
}

/// ICMP errors come back at the next call, whatever that sends (net/ipv4/udp.c:__udp4_lib_err).
fn is_of_an_earlier_packet(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENOPROTOOPT | libc::EPROTO))
}

/// net/ipv4/udp.c:udp_send_skb: no checksum offload on the way, larger than the path's MTU, or not known at all.
fn is_of_segmentation(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP))
}

/// The counter of a packet that a socket did not take.
fn loss_of(error: &io::Error) -> usize {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => LINK_FULL,
        Some(libc::EMSGSIZE) => TOO_BIG,
        _ => UNREACHABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::outward::{LINK_FULL, TOO_BIG, UNREACHABLE};
    use crate::join::Piece;
    use crate::outer::Front;
    use crate::sys::Intake;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    fn socket(address: &str, is_ipv6: bool) -> UdpSocket {
        let socket = UdpSocket::bind((address, 0)).expect("loopback");
        let options = if is_ipv6 {
            [libc::IPV6_RECVPKTINFO, libc::IPV6_RECVTCLASS, libc::IPV6_RECVHOPLIMIT]
        } else {
            [libc::IP_PKTINFO, libc::IP_RECVTOS, libc::IP_RECVTTL]
        };
        let level = if is_ipv6 { libc::IPPROTO_IPV6 } else { libc::IPPROTO_IP };
        for option in options {
            sys::set_option(socket.as_fd(), level, option, 1).expect("an option of old");
        }
        socket
    }

    fn link(socket: &UdpSocket, offloads: bool) -> Link {
        let local = socket.local_addr().expect("bound");
        let kind = if local.is_ipv6() { LinkKind::Udp6 } else { LinkKind::Udp4 };
        let end = LinkEnd { kind, local: local.ip(), port: local.port() };
        Link::new(socket.as_raw_fd(), end, offloads, false, Some(0)).expect("a socket")
    }

    /// Packets from one socket to another, of these payloads.
    fn packets(from: &UdpSocket, to: &UdpSocket, payloads: &[usize]) -> (Vec<u8>, Vec<Piece>) {
        let (from, to) = (from.local_addr().expect("bound"), to.local_addr().expect("bound"));
        let front = Front::udp(from, to, 0xb9, 33).expect("one version");
        let (mut buf, mut pieces) = (Vec::new(), Vec::new());
        for octets in payloads {
            let at = buf.len();
            buf.resize(at + front.octets() + octets, 0x5a);
            assert!(front.write(&mut buf[at..at + front.octets()], *octets));
            pieces.push(Piece { at, len: buf.len() - at });
        }
        (buf, pieces)
    }

    fn send(link: Link, buf: &[u8], pieces: &[Piece]) -> [u64; ALL] {
        let (mut groups, mut counts, links) = (Groups::default(), [0; ALL], [link]);
        for piece in pieces {
            assert!(groups.push(buf, *piece, &[links[0].end()], |at| links[at].has_segmentation()));
        }
        send_groups(&links, buf, &groups, &mut Outlet::default(), &mut counts);
        counts
    }

    #[test]
    fn what_the_outer_header_says_arrives_with_every_datagram() {
        for (address, offloads) in [("127.0.0.1", false), ("127.0.0.1", true), ("::1", false), ("::1", true)] {
            let Ok(_) = UdpSocket::bind((address, 0)) else { continue };
            let is_ipv6 = address.contains(':');
            let (one, other) = (socket(address, is_ipv6), socket(address, is_ipv6));
            let (buf, pieces) = packets(&one, &other, &[500, 500, 200]);
            let receiving = link(&other, offloads);
            let counts = send(link(&one, offloads), &buf, &pieces);
            assert_eq!(counts[SENT_PACKETS], 3);
            assert_eq!(counts[SENT_OCTETS], buf.len() as u64);
            let (mut intake, mut room) = (Intake::new(4), vec![0; 4 * 65536]);
            let (mut octets, mut messages) = (0, 0);
            while let Ok(came) = intake.receive(receiving.fd(), &mut room, 65536, 7) {
                for index in 0..came {
                    let arrival = intake.arrival(index).expect("one of them");
                    assert_eq!(arrival.source, one.local_addr().ok());
                    assert_eq!(arrival.told.destination, address.parse().ok());
                    assert_eq!((arrival.told.traffic_class, arrival.told.hop_limit), (0xb9, 33));
                    assert!([0, 500].contains(&arrival.told.segment) && !arrival.is_truncated);
                    assert!(room[index * 65536 + 7..][..arrival.octets].iter().all(|octet| *octet == 0x5a));
                    octets += arrival.octets;
                }
                messages += came;
            }
            assert_eq!(octets, 1200);
            assert!(offloads || (messages, counts[SENDS]) == (3, 3));
            // What the kernel said that it has was used.
            assert!(!receiving.has_coalescing() || messages == 1);
        }
    }

    #[test]
    fn what_a_socket_does_not_take_is_counted_and_the_rest_goes() {
        let (one, other) = (socket("127.0.0.1", false), socket("127.0.0.1", false));
        // Longer than the interface's MTU as one message of several, and alone, and then one that fits.
        let (buf, pieces) = packets(&one, &other, &[65000, 65507, 65507, 100]);
        let sending = link(&one, true);
        let counts = send(sending, &buf, &pieces);
        let lost = counts[TOO_BIG] + counts[LINK_FULL] + counts[UNREACHABLE];
        assert_eq!(counts[SENT_PACKETS] + lost, 4);
        assert!(counts[SENT_PACKETS] >= 1);
    }

    #[test]
    fn errors_of_earlier_packets_stop_no_later_one() {
        let (one, gone) = (socket("127.0.0.1", false), socket("127.0.0.1", false));
        sys::set_option(one.as_fd(), libc::IPPROTO_IP, libc::IP_RECVERR, 1).expect("an option of old");
        let (buf, pieces) = packets(&one, &gone, &[10, 10, 10]);
        drop(gone);
        // The port is closed: an ICMP error comes back for each, and the next call would tell it.
        for piece in pieces {
            let counts = send(link(&one, false), &buf, &[piece]);
            assert_eq!((counts[SENT_PACKETS], counts[UNREACHABLE]), (1, 0));
        }
    }
}
