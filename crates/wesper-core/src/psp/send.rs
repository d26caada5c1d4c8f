//! From an IP packet to a protected one.

use super::output::Output;
use super::profile::{Mode, Prepared, SourcePort};
use super::{HEADER_OCTETS, ICV_OCTETS, INDEX_MASK, PORT, nonce, usual};
use crate::aead::{Associated, Context, Once};
use crate::ip::{self, Datagram, IPV4_HEADER, IPV6_HEADER, number};
use crate::modes::{self, Taken};
use crate::profile::Df;
use crate::siphash::SipHash;
use crate::udp;
use crate::verdict::DropReason;

/// Largest IP packet that is made.
pub(super) const MAX_PACKET: usize = 65535;

/// Why a packet is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The reason.
    pub reason: DropReason,
    /// With `PspOutTooBig`, the largest packet that would fit.
    pub mtu: usize,
}

impl From<DropReason> for Refused {
    fn from(reason: DropReason) -> Self {
        Self { reason, mtu: 0 }
    }
}

/// What protects a packet besides its profile.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    /// Of source ports and flow labels.
    pub(super) hash_key: &'a [u8; 16],
    pub(super) spi: u32,
    /// As long as the version's.
    pub(super) key: &'a [u8],
    /// Never used with this key.
    pub(super) iv: u64,
}

/// What a packet will be, before anything is written.
struct Plan {
    datagram: Datagram,
    next_header: u8,
    /// Octets of the packet that stay in front of the payload, or go.
    payload_at: usize,
    /// Octets of the IP header to come.
    head: usize,
    /// Octets of the whole.
    octets: usize,
    flow: u64,
    port: u16,
}

/// Says what a packet will be, or why it is not sent. hash_key: of source ports and flow labels.
#[inline(always)]
fn plan(prepared: &Prepared, hash_key: &[u8; 16], spi: u32, packet: &[u8]) -> Result<Plan, Refused> {
    let profile = &prepared.profile;
    let datagram = ip::parse(packet).ok_or(DropReason::PspOutBadPacket)?;
    let whole = packet.get(..datagram.octets).ok_or(DropReason::PspOutBadPacket)?;
    if spi & INDEX_MASK == 0 {
        return Err(DropReason::PspOutSpi.into());
    }
    let is_ip_in_ip = matches!(datagram.upper.protocol, number::IPV4 | number::IPV6);
    let (next_header, payload_at, head) = match &profile.mode {
        Mode::Transport if datagram.fragment || is_ip_in_ip => return Err(DropReason::PspOutMode.into()),
        Mode::Transport => (datagram.upper.protocol, datagram.upper.at, datagram.upper.at),
        // A copied header would make another fragment.
        Mode::TunnelCopied if datagram.fragment => return Err(DropReason::PspOutMode.into()),
        Mode::TunnelCopied => (tunnelled(&datagram), 0, if datagram.version == 4 { IPV4_HEADER } else { IPV6_HEADER }),
        Mode::Tunnel(_) => (tunnelled(&datagram), 0, prepared.template.as_ref().map_or(0, modes::Template::len)),
    };
    let payload = whole.len().saturating_sub(payload_at);
    if 4 * usize::from(profile.crypt_offset_words) > prepared.front.len() + payload {
        return Err(DropReason::PspOutCryptOffset.into());
    }
    let octets = head + prepared.overhead() + payload;
    let most = if is_whole(prepared, &datagram) { profile.mtu } else { MAX_PACKET };
    if octets > most {
        let mtu = profile.mtu.saturating_sub(octets - whole.len());
        return Err(Refused { reason: DropReason::PspOutTooBig, mtu });
    }
    let needs_hash = prepared.labels || matches!(profile.source_port, SourcePort::Hash | SourcePort::Table(_));
    let flow = if needs_hash { flow_hash(hash_key, whole, &datagram) } else { 0 };
    let port = source_port(&profile.source_port, whole, &datagram, flow);
    Ok(Plan { datagram, next_header, payload_at, head, octets, flow, port })
}

/// Writes a packet, protected, to `out`; returns the octets that `tx_bytes` counts.
#[inline(always)]
pub(super) fn encapsulate(
    prepared: &Prepared,
    once: &mut Once,
    keys: Keys<'_>,
    packet: &[u8],
    out: &mut Output,
) -> Result<usize, Refused> {
    if keys.spi & INDEX_MASK != 0
        && let Some(usual) = &prepared.usual
        && let Some(octets) = usual::encapsulate(usual, prepared.profile.mtu, once, keys, packet, out)
    {
        return Ok(octets);
    }
    encapsulate_any(prepared, once, keys, packet, out)
}

/// Does the same with every packet, step by step.
#[inline(never)]
pub(super) fn encapsulate_any(
    prepared: &Prepared,
    once: &mut Once,
    keys: Keys<'_>,
    packet: &[u8],
    out: &mut Output,
) -> Result<usize, Refused> {
    let profile = &prepared.profile;
    let plan = plan(prepared, keys.hash_key, keys.spi, packet)?;
    let Plan { head, octets, .. } = plan;
    let whole = packet.get(..plan.datagram.octets).unwrap_or_default();
    let payload = whole.get(plan.payload_at..).unwrap_or_default();
    let clear = 4 * usize::from(profile.crypt_offset_words);
    let front = &prepared.front[..];

    let place = out.room(octets);
    if let (Some(place), Some(from)) = (place.get_mut(..head), whole.get(..head))
        && prepared.template.is_none()
    {
        place.copy_from_slice(from);
    }
    write_head(prepared, &plan, keys.spi, keys.iv, place);
    let headers = headers(prepared, plan.port, octets - head, plan.next_header, keys.spi, keys.iv);
    let sealed = (|| {
        let (udp, body) = place.get_mut(head..)?.split_first_chunk_mut::<{ udp::HEADER }>()?;
        let (first, rest) = headers.split_first_chunk::<{ udp::HEADER }>()?;
        *udp = *first;
        let (psp, _) = body.split_first_chunk_mut::<HEADER_OCTETS>()?;
        psp.copy_from_slice(rest);
        let (text, icv) = body.split_last_chunk_mut::<ICV_OCTETS>()?;
        let in_clear = if profile.version.is_gmac() { text.len() } else { HEADER_OCTETS + clear };
        // In clear go cookie, extension and the payload's beginning; what is sealed is read where it lies.
        let fronts = HEADER_OCTETS + front.len();
        text.get_mut(HEADER_OCTETS..fronts)?.copy_from_slice(front);
        let from = match in_clear.checked_sub(fronts) {
            Some(shown) => {
                text.get_mut(fronts..in_clear)?.copy_from_slice(payload.get(..shown)?);
                Some(payload.get(shown..)?)
            }
            None => {
                text.get_mut(fronts..)?.copy_from_slice(payload);
                None
            }
        };
        let (aad, text) = text.split_at_mut_checked(in_clear)?;
        once.seal(keys.key, &nonce(keys.spi, keys.iv), aad, from, text, icv).ok()
    })();
    sealed.ok_or(DropReason::PspOutNoKey)?;
    if profile.checksum {
        write_checksum(place, head);
    }
    out.keep(octets);
    Ok(front.len() + payload.len())
}

/// What protects a packet in place.
#[derive(Clone, Copy)]
pub(super) struct Expanded<'a> {
    /// The key, for AES-GCM with an ICV of 16 octets.
    pub(super) context: &'a Context,
    /// Of source ports and flow labels.
    pub(super) hash_key: &'a [u8; 16],
    pub(super) spi: u32,
    /// Never used with this key.
    pub(super) iv: u64,
}

/// Protects a packet where it lies; returns where it begins then, how long it is, and what `tx_bytes` counts.
///
/// at, octets: the packet's place. In front of it and behind it there must be room for what is added: where there is
/// none, it is refused as if it did not fit the mode.
#[inline(always)]
pub(super) fn encapsulate_in_place(
    prepared: &Prepared,
    keys: Expanded<'_>,
    buf: &mut [u8],
    at: usize,
    octets: usize,
) -> Result<(usize, usize, usize), Refused> {
    let packet = buf.get(at..at + octets).ok_or(DropReason::PspOutBadPacket)?;
    let plan = plan(prepared, keys.hash_key, keys.spi, packet)?;
    let Plan { head, octets, payload_at, .. } = plan;
    let (front, version) = (&prepared.front[..], prepared.profile.version);
    let fronts = udp::HEADER + HEADER_OCTETS + front.len();
    let start = (at + payload_at).checked_sub(head + fronts).ok_or(DropReason::PspOutMode)?;
    if start + octets > buf.len() {
        return Err(DropReason::PspOutMode.into());
    }
    if prepared.template.is_none() {
        buf.copy_within(at..at + head, start);
    }
    let place = buf.get_mut(start..start + octets).unwrap_or_default();
    write_head(prepared, &plan, keys.spi, keys.iv, place);
    let headers = headers(prepared, plan.port, octets - head, plan.next_header, keys.spi, keys.iv);
    let sealed = (|| {
        place.get_mut(head..head + headers.len())?.copy_from_slice(&headers);
        place.get_mut(head + headers.len()..head + fronts)?.copy_from_slice(front);
        let body = place.get_mut(head + udp::HEADER..)?;
        let (text, icv) = body.split_last_chunk_mut::<ICV_OCTETS>()?;
        let clear = HEADER_OCTETS + 4 * usize::from(prepared.profile.crypt_offset_words);
        let clear = if version.is_gmac() { text.len() } else { clear };
        let (aad, text) = text.split_at_mut_checked(clear)?;
        keys.context.seal(&nonce(keys.spi, keys.iv), Associated::front(aad), text, icv).ok()
    })();
    sealed.ok_or(DropReason::PspOutNoKey)?;
    if prepared.profile.checksum {
        write_checksum(place, head);
    }
    Ok((start, octets, octets - head - udp::HEADER - HEADER_OCTETS - ICV_OCTETS))
}

/// Writes the IP header at the front of a whole packet, or completes the one that was copied there.
#[inline(always)]
fn write_head(prepared: &Prepared, plan: &Plan, spi: u32, iv: u64, place: &mut [u8]) {
    let (octets, datagram) = (place.len(), &plan.datagram);
    if let Some(template) = &prepared.template {
        let df = if datagram.version == 4 && !datagram.dont_fragment { 0 } else { modes::DF };
        let flow_label = if prepared.labels { (plan.flow >> 44) as u32 } else { datagram.flow_label };
        let taken = Taken { traffic_class: datagram.traffic_class, df, flow_label };
        return template.write(place, octets, taken, modes::outer_identification(iv, spi));
    }
    let Some(place) = place.get_mut(..plan.head) else { return };
    let mut link = datagram.upper.link;
    if prepared.profile.mode == Mode::TunnelCopied {
        link = if datagram.version == 4 { 9 } else { 6 };
        if let (4, Some(first)) = (datagram.version, place.first_mut()) {
            *first = 0x45;
        }
    }
    modes::complete(place, octets, link, number::UDP);
}

/// UDP and PSP header, without cookie and extension. octets: from the UDP header on.
#[inline(always)]
fn headers(prepared: &Prepared, port: u16, octets: usize, next_header: u8, spi: u32, iv: u64) -> [u8; 24] {
    let udp = u64::from(port) << 48 | u64::from(prepared.profile.port) << 32 | (octets as u64) << 16;
    let [units, offset, flags] = prepared.fixed;
    let psp = u64::from(u32::from_be_bytes([next_header, units, offset, flags])) << 32 | u64::from(spi);
    let mut headers = [0; 24];
    for (place, word) in headers.as_chunks_mut::<8>().0.iter_mut().zip([udp, psp, iv]) {
        *place = word.to_be_bytes();
    }
    headers
}

fn tunnelled(datagram: &Datagram) -> u8 {
    if datagram.version == 4 { number::IPV4 } else { number::IPV6 }
}

/// Says whether the packet to come must not be cut on its way.
fn is_whole(prepared: &Prepared, datagram: &Datagram) -> bool {
    match (&prepared.profile.mode, prepared.df) {
        (Mode::Tunnel(outer), _) if outer.local.is_ipv6() => true,
        (Mode::Tunnel(_), Df::Set) => true,
        (Mode::Tunnel(_), Df::Clear) => false,
        _ => datagram.dont_fragment,
    }
}

/// Returns a flow's hash: addresses, protocol and, where the packet shows them, ports. Fragments have none, so that they
/// stay together.
#[inline(always)]
fn flow_hash(key: &[u8; 16], whole: &[u8], datagram: &Datagram) -> u64 {
    let mut hash = SipHash::new(key);
    let addresses = if datagram.version == 4 { 12..20 } else { 8..40 };
    let octets = addresses.len();
    for word in whole.get(addresses).unwrap_or_default().as_chunks::<8>().0 {
        hash.absorb(u64::from_le_bytes(*word));
    }
    let protocol = datagram.upper.protocol;
    let has_ports = matches!(protocol, number::TCP | number::UDP | number::SCTP | number::DCCP | number::UDP_LITE)
        && !datagram.fragment;
    let ports = whole.get(datagram.upper.at..).and_then(|upper| upper.first_chunk::<4>()).filter(|_| has_ports);
    let ports = ports.map_or(0, |ports| u32::from_le_bytes(*ports));
    hash.finish(u64::from(ports) << 8 | u64::from(protocol), octets + 5)
}

fn source_port(rule: &SourcePort, whole: &[u8], datagram: &Datagram, flow: u64) -> u16 {
    match rule {
        SourcePort::Hash => 0xc000 | flow as u16 & 0x3fff,
        SourcePort::Table(ports) => {
            let index = (flow as u32 as usize).checked_rem(ports.len()).unwrap_or(0);
            ports.get(index).copied().unwrap_or(PORT)
        }
        SourcePort::Fixed(port) => *port,
        SourcePort::Xor => {
            let has_ports = matches!(datagram.upper.protocol, number::TCP | number::UDP);
            match whole.get(datagram.upper.at..).and_then(|upper| upper.first_chunk::<4>()).filter(|_| has_ports) {
                Some([a, b, c, d]) => u16::from_be_bytes([a ^ c, b ^ d]),
                None => PORT,
            }
        }
    }
}

/// Computes UDP's checksum, which is zero so far. head: octets of the IP header.
fn write_checksum(packet: &mut [u8], head: usize) {
    let addresses = if packet.first().is_some_and(|first| first >> 4 == 4) { 12..20 } else { 8..40 };
    let addresses = ip::sum(packet.get(addresses).unwrap_or_default());
    let Some(datagram) = packet.get_mut(head..) else { return };
    let total = addresses + u64::from(number::UDP) + datagram.len() as u64 + ip::sum(datagram);
    // RFC 768: zero would mean none.
    let sum = match !ip::fold(total) {
        0 => 0xffff,
        sum => sum,
    };
    if let Some(place) = datagram.get_mut(6..udp::HEADER) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}
