//! Packets of one flow put together to super-packets, by the rules of Linux's GRO (net/ipv4/tcp_offload.c:tcp_gro_receive,
//! net/ipv4/udp_offload.c:udp_gro_receive_segment): what comes of them, cut again, is what came in.

use wesper_core::ip::number;

use crate::checksum::{fold, pseudo_header, sum};
use crate::vnet::{Gso, Vnet};

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const ECE: u8 = 0x40;
const LARGEST: usize = 65535;
/// Largest headers of what is joined: IPv6 and a whole TCP header.
const HEADERS: usize = 40 + 60;
/// Flows that may be open at once; another closes the oldest.
const OPEN: usize = 8;
/// As many pieces as the kernel takes for one UDP super-packet (include/linux/udp.h:UDP_MAX_SEGMENTS of old).
const MOST_UDP: usize = 64;
const MOST_TCP: usize = 128;
/// Stretches of one super-packet at most.
pub const MOST_PIECES: usize = MOST_TCP;

/// A stretch of the buffer that the packets stand in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// First octet.
    pub at: usize,
    /// Octets.
    pub len: usize,
}

impl Piece {
    /// The octets.
    pub fn of<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        buf.get(self.at..self.at + self.len).unwrap_or_default()
    }
}

/// What can be joined: where its headers are, and how far.
#[derive(Clone, Copy)]
struct Candidate {
    protocol: u8,
    upper: usize,
    header: usize,
    packet: Piece,
}

/// One packet, or several as one.
pub struct Super {
    /// The first packet as it came.
    first: Piece,
    /// Headers of the whole; empty as long as there is but one packet.
    head: [u8; HEADERS],
    /// Stretches of payload, the first packet's first.
    pieces: Vec<Piece>,
    upper: usize,
    header: usize,
    protocol: u8,
    /// Octets of payload of each but the last.
    size: usize,
    payload: usize,
    open: bool,
}

/// Joins a batch of packets.
pub struct Joiner {
    supers: Vec<Super>,
    used: usize,
    open: Vec<usize>,
    join_udp: bool,
}

impl Joiner {
    /// join_udp: the device takes UDP super-packets.
    pub fn new(join_udp: bool) -> Self {
        Self { supers: Vec::new(), used: 0, open: Vec::with_capacity(OPEN + 1), join_udp }
    }

    /// Adds a packet: to a super-packet, if one can take it, else on its own. Order holds within a flow.
    pub fn push(&mut self, buf: &[u8], packet: Piece) {
        let Some(candidate) = self.candidate(packet.of(buf), packet) else {
            self.add_alone(buf, packet);
            return;
        };
        let place = self.open.iter().position(|index| self.supers[*index].is_flow(buf, &candidate));
        if let Some(place) = place {
            let found = &mut self.supers[self.open[place]];
            if found.take(buf, &candidate) {
                if !found.open {
                    self.open.remove(place);
                }
                return;
            }
            self.open.remove(place);
        }
        let index = self.add(Super::first(buf, &candidate));
        if self.supers[index].open {
            if self.open.len() == OPEN {
                self.open.remove(0);
            }
            self.open.push(index);
        }
    }

    /// Calls `each` with every super-packet in the order of their first packets, and forgets them.
    pub fn drain(&mut self, mut each: impl FnMut(&mut Super)) {
        for done in self.supers.iter_mut().take(self.used) {
            each(done);
        }
        self.used = 0;
        self.open.clear();
    }

    /// Adds a packet that nothing is joined to; what is open of its flow takes no more, so that it stays behind.
    fn add_alone(&mut self, buf: &[u8], packet: Piece) {
        let octets = packet.of(buf);
        let supers = &self.supers;
        self.open.retain(|index| !supers[*index].has_ends_of(buf, octets));
        self.add(Super::alone(packet));
    }

    fn add(&mut self, new: Super) -> usize {
        match self.supers.get_mut(self.used) {
            Some(old) => {
                // Its list of pieces is kept: a batch allocates nothing.
                let mut pieces = std::mem::take(&mut old.pieces);
                pieces.clear();
                pieces.extend_from_slice(&new.pieces);
                *old = Super { pieces, ..new };
            }
            None => self.supers.push(new),
        }
        self.used += 1;
        self.used - 1
    }

    fn candidate(&self, octets: &[u8], packet: Piece) -> Option<Candidate> {
        let head = octets.first_chunk::<20>()?;
        let (upper, protocol, length) = match head[0] {
            // Neither options nor a fragment.
            0x45 if u16::from_be_bytes([head[6], head[7]]) & 0x3fff == 0 => {
                (20, head[9], usize::from(u16::from_be_bytes([head[2], head[3]])))
            }
            0x60..=0x6f => (40, head[6], 40 + usize::from(u16::from_be_bytes([head[4], head[5]]))),
            _ => return None,
        };
        if length != octets.len() {
            return None;
        }
        let header = upper
            + match protocol {
                number::TCP => {
                    let head = octets.get(upper..)?.first_chunk::<20>()?;
                    let header = 4 * usize::from(head[12] >> 4);
                    if header < 20 || head[12] & 15 != 0 || head[13] & !(PSH | ECE) != ACK {
                        return None;
                    }
                    header
                }
                number::UDP if self.join_udp => {
                    let head = octets.get(upper..)?.first_chunk::<8>()?;
                    let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
                    // Cut again, each would have a checksum: who has none keeps it that way.
                    if upper + length != octets.len() || (head[6], head[7]) == (0, 0) {
                        return None;
                    }
                    8
                }
                _ => return None,
            };
        (header < octets.len()).then_some(Candidate { protocol, upper, header, packet })
    }
}

impl Super {
    fn alone(packet: Piece) -> Self {
        Self {
            first: packet,
            head: [0; HEADERS],
            pieces: Vec::new(),
            upper: 0,
            header: 0,
            protocol: 0,
            size: 0,
            payload: 0,
            open: false,
        }
    }

    fn first(buf: &[u8], candidate: &Candidate) -> Self {
        let Candidate { protocol, upper, header, packet } = *candidate;
        let size = packet.len - header;
        let has_psh = protocol == number::TCP && flags(packet.of(buf), upper) & PSH != 0;
        Self { upper, header, protocol, size, payload: size, open: !has_psh, ..Self::alone(packet) }
    }

    /// How many packets it stands for.
    pub fn count(&self) -> usize {
        self.pieces.len().max(1)
    }

    /// Octets of all the packets that it stands for.
    pub fn octets(&self) -> usize {
        if self.pieces.is_empty() { self.first.len } else { self.pieces.len() * self.header + self.payload }
    }

    /// What goes to the device: what to do with it, its headers, and stretches of the buffer behind them.
    pub fn finish(&mut self) -> (Vnet, &[u8], &[Piece]) {
        if self.pieces.is_empty() {
            return (Vnet::default(), &[], std::slice::from_ref(&self.first));
        }
        let Some(head) = self.head.get_mut(..self.header) else { return (Vnet::default(), &[], &[]) };
        let (ip, upper) = head.split_at_mut(self.upper);
        let octets = upper.len() + self.payload;
        let is_ipv6 = ip[0] >> 4 == 6;
        let addresses = if is_ipv6 {
            [ip[4], ip[5]] = (octets as u16).to_be_bytes();
            &ip[8..40]
        } else {
            [ip[2], ip[3]] = ((ip.len() + octets) as u16).to_be_bytes();
            [ip[10], ip[11]] = [0, 0];
            let sum = !fold(sum(ip));
            [ip[10], ip[11]] = sum.to_be_bytes();
            &ip[12..20]
        };
        // The kernel adds the rest, or never looks: what came in has been checked.
        let pseudo = fold(pseudo_header(addresses, self.protocol, octets)).to_be_bytes();
        let (gso, offset) = if self.protocol == number::TCP {
            [upper[16], upper[17]] = pseudo;
            (if is_ipv6 { Gso::TcpV6 } else { Gso::TcpV4 }, 16)
        } else {
            [upper[4], upper[5]] = (octets as u16).to_be_bytes();
            [upper[6], upper[7]] = pseudo;
            (Gso::Udp, 6)
        };
        let vnet = Vnet {
            checksum: Some((self.upper as u16, offset)),
            gso,
            header_octets: self.header as u16,
            gso_size: self.size as u16,
        };
        (vnet, head, &self.pieces)
    }

    /// Says whether a packet is of the same flow.
    fn is_flow(&self, buf: &[u8], other: &Candidate) -> bool {
        let (mine, theirs) = (self.first.of(buf), other.packet.of(buf));
        self.protocol == other.protocol
            && self.upper == other.upper
            && mine.get(ends(self.upper)) == theirs.get(ends(self.upper))
            && mine.get(self.upper..self.upper + 4) == theirs.get(self.upper..self.upper + 4)
    }

    /// Says whether any packet, joinable or not, is between the same ends.
    fn has_ends_of(&self, buf: &[u8], octets: &[u8]) -> bool {
        let mine = self.first.of(buf);
        mine.first().map(|first| first >> 4) == octets.first().map(|first| first >> 4)
            && mine.get(ends(self.upper)) == octets.get(ends(self.upper))
    }

    /// Takes a packet of the same flow, if it continues what is here.
    fn take(&mut self, buf: &[u8], next: &Candidate) -> bool {
        let (mine, theirs) = (self.first.of(buf), next.packet.of(buf));
        let size = next.packet.len - next.header;
        let most = if self.protocol == number::TCP { MOST_TCP } else { MOST_UDP };
        let is_full = self.count() >= most || self.header + self.payload + size > LARGEST;
        if is_full || next.header != self.header || size > self.size || !self.continues(mine, theirs) {
            return false;
        }
        if self.pieces.is_empty() {
            if !is_checksum_right(mine, self.upper, self.protocol) {
                return false;
            }
            let Some(head) = mine.get(..self.header) else { return false };
            self.head[..self.header].copy_from_slice(head);
            self.pieces.push(Piece { at: self.first.at + self.header, len: self.size });
        }
        if !is_checksum_right(theirs, self.upper, self.protocol) {
            // It stays alone, and nothing comes after it before it has gone.
            self.forget_if_single();
            return false;
        }
        self.pieces.push(Piece { at: next.packet.at + next.header, len: size });
        self.payload += size;
        self.open = size == self.size;
        if self.protocol == number::TCP && flags(theirs, self.upper) & PSH != 0 {
            if let Some(flags) = self.head.get_mut(self.upper + 13) {
                *flags |= PSH;
            }
            self.open = false;
        }
        true
    }

    fn forget_if_single(&mut self) {
        if self.pieces.len() == 1 {
            self.pieces.clear();
        }
    }

    /// Says whether the next packet's headers are what a cut would make of the first one's.
    fn continues(&self, mine: &[u8], theirs: &[u8]) -> bool {
        let same = |from: usize, to: usize| mine.get(from..to) == theirs.get(from..to);
        let number = |octets: &[u8], at: usize| octets.get(at..at + 2).map_or(0, |o| u16::from_be_bytes([o[0], o[1]]));
        let count = self.count() as u16;
        let is_ip_alike = if self.upper == 20 {
            let (first, id) = (number(mine, 4), number(theirs, 4));
            let atomic = number(mine, 6) & 0x4000 != 0;
            // RFC 6864 §4.1: with DF the number means nothing, and may stand still.
            same(0, 2) && same(6, 10) && (id == first.wrapping_add(count) || (atomic && id == first))
        } else {
            same(0, 4) && same(6, 8)
        };
        if !is_ip_alike || self.protocol != number::TCP {
            return is_ip_alike;
        }
        let at = self.upper;
        let sequence =
            |octets: &[u8]| octets.get(at + 4..at + 8).map_or(0, |o| u32::from_be_bytes([o[0], o[1], o[2], o[3]]));
        sequence(theirs) == sequence(mine).wrapping_add(self.payload as u32)
            // Acknowledgement, length, window, urgent pointer, options, and ECE.
            && same(at + 8, at + 13)
            && (flags(mine, at) ^ flags(theirs, at)) & !PSH == 0
            && same(at + 14, at + 16)
            && same(at + 18, self.header)
    }
}

/// Where the addresses stand in front of an upper layer at this place.
fn ends(upper: usize) -> std::ops::Range<usize> {
    if upper == 20 { 12..20 } else { 8..40 }
}

/// The octet of TCP's flags (RFC 9293 §3.1).
fn flags(packet: &[u8], upper: usize) -> u8 {
    packet.get(upper + 13).copied().unwrap_or(0)
}

fn is_checksum_right(packet: &[u8], upper: usize, protocol: u8) -> bool {
    let (Some(addresses), Some(rest)) = (packet.get(ends(upper)), packet.get(upper..)) else { return false };
    let header_right = upper != 20 || packet.get(..20).is_some_and(|header| fold(sum(header)) == 0xffff);
    header_right && fold(pseudo_header(addresses, protocol, rest.len()) + sum(rest)) == 0xffff
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
