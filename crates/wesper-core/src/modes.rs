//! Transport, tunnel and BEET mode, in place: what goes inside, and the IP header around it.
//!
//! Places count from the buffer's first octet. Source: RFC 4303 §3.1, RFC 4301 §5.1.2, RFC 7402 appendix B.

use std::net::IpAddr;

use crate::ecn::{self, Alarm};
use crate::ip::{self, Datagram, IPV4_HEADER, IPV6_HEADER, Place, number};
use crate::profile::{Df, Inner, Mode, Outer};
use crate::verdict::DropReason;

/// Octets that must be free before a packet: for outer and UDP header, and EESP's headers with the most options.
pub const HEADROOM: usize = 352;
/// Largest IP packet that a mode makes.
const MAX_PACKET: usize = 65535;
/// Octets of the BEET pseudo header before padding and options (RFC 7402 §B.1.7).
const PSEUDO_HEADER: usize = 4;
/// IPv4 options of no effect (RFC 791 §3.1).
const NOP: u8 = 1;

/// What an outer header takes from the packet inside.
#[derive(Clone, Copy, Default)]
pub(crate) struct Taken {
    pub(crate) traffic_class: u8,
    /// The DF bit where an IPv4 header has it, in the third and fourth of its flag octets as a number.
    pub(crate) df: u16,
    /// IPv6.
    pub(crate) flow_label: u32,
}

/// The DF bit among flags and fragment offset (RFC 791 §3.1).
pub(crate) const DF: u16 = 0x4000;

/// The outer header of tunnel mode, all but what a packet decides: that is zero in it.
#[derive(Clone, Copy)]
pub(crate) struct Template {
    /// The first twelve octets as numbers, and their sum with the addresses'.
    first: u64,
    third: u32,
    sum: u32,
    /// Bits of the traffic class and the DF bit that come from the packet.
    class_mask: u8,
    df_mask: u16,
    /// The identification is made from the sequence number where DF is clear.
    identifies: bool,
    is_ipv6: bool,
    /// IPv4: both addresses.
    ends: [u8; 8],
    ipv6: Ipv6Template,
}

#[derive(Clone, Copy)]
struct Ipv6Template {
    octets: [u8; IPV6_HEADER],
    /// Bits of the flow label that come from the packet.
    label_mask: u32,
}

impl Template {
    /// protocol: what comes behind the header.
    pub(crate) fn new(outer: &Outer, protocol: u8) -> Self {
        let mut octets = [0; IPV6_HEADER];
        let is_ipv6 = outer.local.is_ipv6();
        let fields = Fields {
            traffic_class: outer.dscp.unwrap_or(0) << 2,
            hops: outer.hop_limit,
            identification: outer.identification.unwrap_or(0),
            df: outer.df == Df::Set,
            flow_label: outer.flow_label.unwrap_or(0),
        };
        write_header(&mut octets, &fields, outer.local, outer.remote, &[], protocol, 0);
        if !is_ipv6 {
            octets[2..4].fill(0);
            octets[10..12].fill(0);
        }
        let words = octets.as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word));
        let mut words = words.map(u64::from);
        let [first, second, third] = [(); 3].map(|()| words.next().unwrap_or(0));
        Self {
            first: first << 32 | second,
            third: third as u32,
            sum: ip::fold(ip::sum(&octets[..IPV4_HEADER])).into(),
            class_mask: if outer.dscp.is_some() { 0 } else { 0xfc } | if outer.copy_ecn { 3 } else { 0 },
            df_mask: if outer.df == Df::Copy { DF } else { 0 },
            identifies: outer.identification.is_none() && outer.df != Df::Set,
            is_ipv6,
            ends: *octets[12..].first_chunk().expect("40 octets hold 12 and 8"),
            ipv6: Ipv6Template { octets, label_mask: if outer.flow_label.is_some() { 0 } else { 0xf_ffff } },
        }
    }

    pub(crate) fn is_ipv6(&self) -> bool {
        self.is_ipv6
    }

    /// 4 or 6.
    pub(crate) fn version(&self) -> u8 {
        if self.is_ipv6 { 6 } else { 4 }
    }

    /// Octets of the header.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        if self.is_ipv6 { IPV6_HEADER } else { IPV4_HEADER }
    }

    /// Writes the header at the front of a packet of `octets` octets.
    #[inline(always)]
    pub(crate) fn write(&self, packet: &mut [u8], octets: usize, taken: Taken, automatic: u16) {
        if self.is_ipv6 {
            return self.write_ipv6(packet, octets, taken);
        }
        let Some(head) = packet.first_chunk_mut::<IPV4_HEADER>() else { return };
        let class = u32::from(taken.traffic_class & self.class_mask) << 16;
        let df = taken.df & self.df_mask;
        let identification = if self.identifies && df == 0 { automatic } else { 0 };
        // The open bits are zero, so that adding fills them, and counts them into the sum alike.
        let first = class | octets as u32 & 0xffff;
        let second = u32::from(identification) << 16 | u32::from(df);
        let sum = u64::from(self.sum) + u64::from(first) + u64::from(second);
        let third = self.third | u32::from(!ip::fold(sum));
        head[..8].copy_from_slice(&(self.first | u64::from(first) << 32 | u64::from(second)).to_be_bytes());
        head[8..12].copy_from_slice(&third.to_be_bytes());
        head[12..].copy_from_slice(&self.ends);
    }

    #[inline(never)]
    fn write_ipv6(&self, packet: &mut [u8], octets: usize, taken: Taken) {
        let Some(head) = packet.first_chunk_mut::<IPV6_HEADER>() else { return };
        *head = self.ipv6.octets;
        let class = u32::from(taken.traffic_class & self.class_mask) << 20;
        let word = (self.first >> 32) as u32 | class | taken.flow_label & self.ipv6.label_mask;
        head[..4].copy_from_slice(&word.to_be_bytes());
        head[4..6].copy_from_slice(&((octets - IPV6_HEADER) as u16).to_be_bytes());
    }
}

/// Returns the IPv4 identification of a packet that may be fragmented: no repeat for 65,536 packets of an SA
/// (RFC 6864 §4.2).
#[inline(always)]
pub(crate) fn outer_identification(sequence: u64, spi: u32) -> u16 {
    (sequence as u32).wrapping_add(spi ^ spi >> 16) as u16
}

/// The same of a Sub SA: they begin far from each other.
pub(crate) fn sub_sa_identification(sequence: u64, spi: u32, sub_sa: u16) -> u16 {
    outer_identification(sequence, spi).wrapping_add(sub_sa.wrapping_mul(0x9e37))
}

/// A packet of transport or BEET mode taken apart.
pub(crate) struct Enclosed {
    pub(crate) next_header: u8,
    /// Where what is protected begins.
    pub(crate) payload: usize,
    pub(crate) head: Head,
}

/// The IP header to come in front.
pub(crate) enum Head {
    /// The original one, still in its place, to be moved; perhaps with other IPv6 addresses.
    Moved { from: usize, octets: usize, link: usize, addresses: Option<(IpAddr, IpAddr)> },
    /// One of another form.
    Made { octets: [u8; IPV6_HEADER], len: usize },
}

impl Head {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Moved { octets, .. } => *octets,
            Self::Made { len, .. } => *len,
        }
    }

    /// 4 or 6. buf: where the original header still is.
    pub(crate) fn version(&self, buf: &[u8]) -> u8 {
        let first = match self {
            Self::Moved { from, .. } => buf.get(*from),
            Self::Made { octets, .. } => octets.first(),
        };
        first.map_or(0, |first| first >> 4)
    }

    /// Puts the header in front of everything from `to + self.len()` up to `end`; `protocol` comes next.
    ///
    /// None if the buffer has no room.
    pub(crate) fn place(&self, buf: &mut [u8], to: usize, end: usize, protocol: u8) -> Option<()> {
        let link = match self {
            Self::Moved { from, octets, link, addresses } => {
                let source = *from..from + octets;
                buf.get(source.clone())?;
                buf.get(to..to + octets)?;
                buf.copy_within(source, to);
                if let Some((IpAddr::V6(source), IpAddr::V6(destination))) = addresses {
                    buf.get_mut(to + 8..to + 24)?.copy_from_slice(&source.octets());
                    buf.get_mut(to + 24..to + 40)?.copy_from_slice(&destination.octets());
                }
                *link
            }
            Self::Made { octets, len } => {
                buf.get_mut(to..to + len)?.copy_from_slice(octets.get(..*len)?);
                if octets[0] >> 4 == 4 { 9 } else { 6 }
            }
        };
        finish(buf.get_mut(to..end)?, self.len(), link, protocol)
    }
}

/// Takes the packet at `start` apart for an SA of transport or BEET mode.
///
/// Drops: OutMode for fragments, and for addresses that are not the BEET pair.
pub(crate) fn enclose(
    mode: Mode,
    datagram: &Datagram,
    buf: &mut [u8],
    start: usize,
    outer: Option<&Outer>,
    inner: Option<&Inner>,
) -> Result<Enclosed, DropReason> {
    if datagram.fragment {
        return Err(DropReason::OutMode); // RFC 4303 §3.3.4: whole datagrams only
    }
    let Place { protocol, at, link } = datagram.first;
    let moved = |addresses| Enclosed {
        next_header: protocol,
        payload: start + at,
        head: Head::Moved { from: start, octets: at, link, addresses },
    };
    match (mode, outer, inner) {
        (Mode::Transport, ..) => Ok(moved(None)),
        (Mode::Beet, Some(outer), Some(inner)) => {
            let packet = buf.get(start..start + datagram.octets).ok_or(DropReason::OutMode)?;
            if ip::addresses(packet) != Some((inner.local, inner.remote)) {
                return Err(DropReason::OutMode);
            }
            if datagram.version == 6 && outer.local.is_ipv6() {
                return Ok(moved(Some((outer.local, outer.remote))));
            }
            translate(datagram, buf, start, outer).ok_or(DropReason::OutMode)
        }
        _ => Err(DropReason::OutMode),
    }
}

/// Swaps the IP header for one whose fields other than addresses are the original's (RFC 7402 §B.1.5).
fn translate(datagram: &Datagram, buf: &mut [u8], start: usize, outer: &Outer) -> Option<Enclosed> {
    let packet = buf.get(start..start + datagram.octets)?;
    let fields = Fields::of(packet, datagram)?;
    // Families differ: IPv6 extension headers go inside, since IPv4 has no place for them.
    let (mut next_header, mut payload) = match datagram.version {
        6 => (*packet.get(6)?, start + IPV6_HEADER),
        _ => (datagram.first.protocol, start + datagram.first.at),
    };
    let options = payload - start - if datagram.version == 6 { IPV6_HEADER } else { IPV4_HEADER };
    if options > 0 {
        let mut kept = [0; 40];
        let kept = kept.get_mut(..options)?;
        kept.copy_from_slice(buf.get(payload - options..payload)?);
        // The pseudo header with padding and options is a multiple of 8.
        let padding = if options.is_multiple_of(8) { 4 } else { 0 };
        let octets = PSEUDO_HEADER + padding + options;
        let place = buf.get_mut(payload.checked_sub(octets)?..payload)?;
        let (head, rest) = place.split_first_chunk_mut::<PSEUDO_HEADER>()?;
        *head = [next_header, (octets / 8 - 1) as u8, padding as u8, 0];
        let (nops, rest) = rest.split_at_mut_checked(padding)?;
        nops.fill(NOP);
        rest.copy_from_slice(kept);
        next_header = number::BEET_PSEUDO_HEADER;
        payload -= octets;
    }
    let mut octets = [0; IPV6_HEADER];
    let len = write_header(&mut octets, &fields, outer.local, outer.remote, &[], 0, 0);
    Some(Enclosed { next_header, payload, head: Head::Made { octets, len } })
}

/// Fields that IPv4 and IPv6 headers have in common, or one of them alone.
struct Fields {
    traffic_class: u8,
    hops: u8,
    identification: u16,
    df: bool,
    flow_label: u32,
}

impl Fields {
    fn of(packet: &[u8], datagram: &Datagram) -> Option<Self> {
        let head = packet.first_chunk::<IPV4_HEADER>()?;
        let (traffic_class, flow_label) = (datagram.traffic_class, datagram.flow_label);
        Some(match datagram.version {
            // net/ipv4/xfrm4_mode_beet.c and RFC 7402 §B.1.5: from IPv6, DF is set and the identification is 0.
            6 => Self { traffic_class, hops: head[7], identification: 0, df: true, flow_label },
            _ => Self {
                traffic_class,
                hops: head[8],
                identification: u16::from_be_bytes([head[4], head[5]]),
                df: datagram.dont_fragment,
                flow_label,
            },
        })
    }
}

/// Writes an IP header of the addresses' version, complete for a body of `body` octets; returns its octets.
///
/// octets: at least 40, and 20 more than the options, which only IPv4 takes.
fn write_header(
    octets: &mut [u8],
    fields: &Fields,
    source: IpAddr,
    destination: IpAddr,
    options: &[u8],
    protocol: u8,
    body: usize,
) -> usize {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let len = IPV4_HEADER + options.len();
            let Some(place) = octets.get_mut(..len) else { return 0 };
            let Some((head, rest)) = place.split_first_chunk_mut::<IPV4_HEADER>() else { return 0 };
            head.fill(0);
            head[0] = 0x40 | (len / 4) as u8;
            head[1] = fields.traffic_class;
            head[4..6].copy_from_slice(&fields.identification.to_be_bytes());
            head[6] = u8::from(fields.df) << 6;
            head[8] = fields.hops;
            head[12..16].copy_from_slice(&source.octets());
            head[16..].copy_from_slice(&destination.octets());
            rest.copy_from_slice(options);
            complete(place, len + body, 9, protocol);
            len
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let Some(head) = octets.first_chunk_mut::<IPV6_HEADER>() else { return 0 };
            head.fill(0);
            let word = 6 << 28 | u32::from(fields.traffic_class) << 20 | fields.flow_label;
            head[..4].copy_from_slice(&word.to_be_bytes());
            head[7] = fields.hops;
            head[8..24].copy_from_slice(&source.octets());
            head[24..].copy_from_slice(&destination.octets());
            complete(head, IPV6_HEADER + body, 6, protocol);
            IPV6_HEADER
        }
        _ => 0,
    }
}

/// Redoes lengths and checksum of a packet's header after its first `head` octets changed.
fn finish(packet: &mut [u8], head: usize, link: usize, protocol: u8) -> Option<()> {
    let octets = packet.len();
    complete(packet.get_mut(..head)?, octets, link, protocol);
    Some(())
}

/// Writes length, checksum and what comes next into a header of a packet of `octets` octets.
pub(crate) fn complete(head: &mut [u8], octets: usize, link: usize, protocol: u8) {
    if let Some(place) = head.get_mut(link) {
        *place = protocol;
    }
    let [length, sum] = if head.first().is_some_and(|first| first >> 4 == 4) { [2, 10] } else { [4, 0] };
    let told = if sum == 0 { octets - IPV6_HEADER } else { octets };
    if let Some(place) = head.get_mut(length..length + 2) {
        place.copy_from_slice(&(told as u16).to_be_bytes());
    }
    if sum != 0 {
        if let Some(place) = head.get_mut(sum..sum + 2) {
            place.fill(0);
        }
        let checksum = ip::checksum(head).to_be_bytes();
        if let Some(place) = head.get_mut(sum..sum + 2) {
            place.copy_from_slice(&checksum);
        }
    }
}

/// Returns the length that the inner packet of a tunnel tells, none if it does not fit Next Header or payload.
#[inline(always)]
pub(crate) fn inner_length(next_header: u8, payload: &[u8]) -> Option<usize> {
    match next_header {
        number::IPV4 => {
            let head = payload.first_chunk::<IPV4_HEADER>()?;
            let total = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let header = 4 * usize::from(head[0] & 15);
            (head[0] >> 4 == 4 && IPV4_HEADER <= header && header <= total && total <= payload.len()).then_some(total)
        }
        number::IPV6 => {
            let head = payload.first_chunk::<IPV6_HEADER>()?;
            let total = IPV6_HEADER + usize::from(u16::from_be_bytes([head[4], head[5]]));
            (head[0] >> 4 == 6 && total <= payload.len()).then_some(total)
        }
        _ => None,
    }
}

/// What a tunnel's inner packet is given from the outer one.
#[derive(Clone, Copy)]
pub(crate) struct Arrived {
    pub(crate) traffic_class: u8,
    pub(crate) take_dscp: bool,
}

/// What became of a tunnel's inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Released {
    /// Outer CE on an inner packet that is not ECN-capable.
    pub(crate) is_dropped: bool,
    pub(crate) alarm: Alarm,
    /// Codepoint that the packet came with.
    pub(crate) inner_ecn: u8,
}

/// Brings the traffic class of a tunnel's inner packet up to date (RFC 6040 §4.2).
///
/// packet: one that [`inner_length`] took.
#[inline(always)]
pub(crate) fn release_tunnel(packet: &mut [u8], arrived: Arrived) -> Released {
    let [first, second] = packet.first_chunk::<2>().copied().unwrap_or_default();
    let old = if first >> 4 == 4 { second } else { first << 4 | second >> 4 };
    // RFC 6040 §4.2, figure 4: its diagonal changes nothing.
    if (old ^ arrived.traffic_class) & 3 == 0 && !arrived.take_dscp {
        return Released { is_dropped: false, alarm: Alarm::None, inner_ecn: old & 3 };
    }
    let (codepoint, alarm) = ecn::decapsulate(old, arrived.traffic_class);
    let dscp = if arrived.take_dscp { arrived.traffic_class } else { old };
    if let Some(codepoint) = codepoint {
        let new = dscp & 0xfc | codepoint;
        if new != old {
            set_traffic_class(packet, new);
        }
    }
    Released { is_dropped: codepoint.is_none(), alarm, inner_ecn: old & 3 }
}

#[cold]
fn set_traffic_class(packet: &mut [u8], new: u8) {
    let Some(head) = packet.first_chunk_mut::<12>() else { return };
    if head[0] >> 4 == 4 {
        let old = [head[0], head[1]];
        head[1] = new;
        let sum = ip::adjust_checksum(u16::from_be_bytes([head[10], head[11]]), &old, &head[..2]);
        head[10..].copy_from_slice(&sum.to_be_bytes());
    } else {
        head[0] = 0x60 | new >> 4;
        head[1] = new << 4 | head[1] & 15;
    }
}

/// An authentic payload of transport or BEET mode, and the packet that it came in.
pub(crate) struct Payload {
    pub(crate) next_header: u8,
    pub(crate) at: usize,
    pub(crate) octets: usize,
    /// Where the received packet begins.
    pub(crate) start: usize,
    /// Octets of the received packet before the protected part, or before the UDP header in front of it.
    pub(crate) head: usize,
    /// The octet that named it.
    pub(crate) link: usize,
}

/// Puts a packet of transport or BEET mode together; returns where it begins and its octets.
///
/// Drops: BadInner, also where less than 12 octets are free before a packet whose header grows.
pub(crate) fn release(
    mode: Mode,
    datagram: &Datagram,
    buf: &mut [u8],
    payload: Payload,
    inner: Option<&Inner>,
) -> Result<(usize, usize), DropReason> {
    match (mode, inner) {
        (Mode::Beet, Some(inner)) => release_beet(datagram, buf, payload, inner),
        _ => {
            if let Some(inner) = inner {
                undo_nat(buf, &payload, inner);
            }
            move_head(buf, &payload, None)
        }
    }
    .ok_or(DropReason::BadInner)
}

/// Moves the received header to the payload.
fn move_head(buf: &mut [u8], payload: &Payload, addresses: Option<(IpAddr, IpAddr)>) -> Option<(usize, usize)> {
    let octets = payload.head + payload.octets;
    if octets > MAX_PACKET {
        return None;
    }
    let to = payload.at.checked_sub(payload.head)?;
    let head = Head::Moved { from: payload.start, octets: payload.head, link: payload.link, addresses };
    head.place(buf, to, to + octets, payload.next_header)?;
    Some((to, octets))
}

/// The received header goes; the inner one has the SA's addresses and the received one's other fields (RFC 7402 §B.1.6).
fn release_beet(datagram: &Datagram, buf: &mut [u8], mut payload: Payload, inner: &Inner) -> Option<(usize, usize)> {
    let (source, destination) = (inner.remote, inner.local);
    let fields = Fields::of(buf.get(payload.start..payload.start + datagram.octets)?, datagram)?;
    let mut kept = [0; 40];
    let mut options = 0;
    if payload.next_header == number::BEET_PSEUDO_HEADER {
        let body = buf.get(payload.at..payload.at + payload.octets)?;
        let pseudo = PseudoHeader::parse(body, source.is_ipv4())?;
        options = pseudo.options.len();
        kept.get_mut(..options)?.copy_from_slice(pseudo.options);
        payload.next_header = pseudo.next_header;
        payload.at += pseudo.octets;
        payload.octets -= pseudo.octets;
    }
    if datagram.version == 6 && source.is_ipv6() {
        return move_head(buf, &payload, Some((source, destination)));
    }
    let mut octets = [0; 60];
    let len = write_header(
        &mut octets,
        &fields,
        source,
        destination,
        kept.get(..options)?,
        payload.next_header,
        payload.octets,
    );
    if len == 0 || len + payload.octets > MAX_PACKET {
        return None;
    }
    let to = payload.at.checked_sub(len)?;
    buf.get_mut(to..payload.at)?.copy_from_slice(octets.get(..len)?);
    Some((to, len + payload.octets))
}

/// The BEET pseudo header, which carries IPv4 options (RFC 7402 §B.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PseudoHeader<'a> {
    /// Upper-layer protocol.
    pub next_header: u8,
    /// Without the padding in front of them.
    pub options: &'a [u8],
    /// Of the pseudo header with padding and options.
    pub octets: usize,
}

impl<'a> PseudoHeader<'a> {
    /// Reads one in front of a payload; none if it is cut or can not have come from an IPv4 header.
    ///
    /// is_ipv4: the inner header is one that has options.
    pub fn parse(body: &'a [u8], is_ipv4: bool) -> Option<Self> {
        let [next_header, units, padding, _reserved] = *body.first_chunk::<PSEUDO_HEADER>()?;
        let octets = 8 * (usize::from(units) + 1);
        let rest = body.get(PSEUDO_HEADER..octets)?;
        let options = rest.get(usize::from(padding)..)?;
        let good = is_ipv4 && matches!(padding, 0 | 4) && options.len() <= 40 && options.len().is_multiple_of(4);
        good.then_some(Self { next_header, options, octets })
    }
}

/// Mends a TCP or UDP checksum, which the sender made with the addresses before NAT (RFC 3948 §3.1.2).
fn undo_nat(buf: &mut [u8], payload: &Payload, original: &Inner) -> Option<()> {
    let place = match payload.next_header {
        number::TCP => 16,
        number::UDP => 6,
        _ => return None,
    };
    let received = buf.get(payload.start..payload.start + payload.head)?;
    let mut addresses = [0; 32];
    let now = match received.first()? >> 4 {
        4 => received.get(12..20)?,
        _ => received.get(8..40)?,
    };
    let added = addresses.get_mut(..now.len())?;
    added.copy_from_slice(now);
    let body = buf.get_mut(payload.at..payload.at + payload.octets)?;
    let field = body.get_mut(place..place + 2)?;
    let old = u16::from_be_bytes(*field.first_chunk()?);
    if payload.next_header == number::UDP && old == 0 {
        return None;
    }
    let mut before = [0; 32];
    let removed = before.get_mut(..if original.remote.is_ipv4() { 8 } else { 32 })?;
    let half = removed.len() / 2;
    write_address(removed.get_mut(..half)?, original.remote);
    write_address(removed.get_mut(half..)?, original.local);
    let new = match ip::adjust_checksum(old, removed, added) {
        0 if payload.next_header == number::UDP => 0xffff,
        new => new,
    };
    field.copy_from_slice(&new.to_be_bytes());
    Some(())
}

fn write_address(place: &mut [u8], address: IpAddr) {
    match address {
        IpAddr::V4(address) => place.copy_from_slice(&address.octets()),
        IpAddr::V6(address) => place.copy_from_slice(&address.octets()),
    }
}

#[cfg(test)]
#[path = "modes_tests.rs"]
mod tests;
