//! From a protected packet to the inner one, with nothing but the device's keys: first what needs no key, then the AEAD,
//! then the inner packet.

use std::ops::Range;

use super::output::Output;
use super::{COOKIE_OCTETS, HEADER_OCTETS, ICV_OCTETS, INDEX_MASK, Version, nonce};
use crate::aead::{Associated, Context, Once};
use crate::ip::{self, Datagram, number};
use crate::modes::{self, Arrived};
use crate::udp;
use crate::verdict::DropReason;

/// What a receiver takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    /// UDP port that is PSP's.
    pub(super) port: u16,
    /// Bit n: version n.
    pub(super) versions: u8,
    /// UDP's, where it is not 0.
    pub(super) verify_checksum: bool,
}

/// A packet whose structure holds. Nothing in it is authentic yet.
#[derive(Clone, Copy)]
pub(super) struct Located {
    pub(super) spi: u32,
    pub(super) version: Version,
    /// The IP header's.
    traffic_class: u8,
    /// Octets of IP headers, where UDP begins.
    upper: usize,
    /// The octet that names it.
    link: usize,
    /// The end of the packet.
    end: usize,
}

/// An authentic packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Whose association it is.
    pub spi: u32,
    /// Its IV.
    pub iv: u64,
    /// The header's fourth octet: S, D, version, V, 1.
    pub flags: u8,
    /// Virtualization cookie, if flags says that there is one.
    pub cookie: [u8; COOKIE_OCTETS],
    /// Octets that `rx_bytes` counts: from the end of the IV to the end of the payload.
    pub octets: usize,
    /// Why it is dropped all the same.
    pub reason: Option<DropReason>,
}

/// Reads what needs no key.
#[inline(always)]
pub(super) fn locate(accepted: Accepted, packet: &[u8]) -> Result<Located, DropReason> {
    let datagram = ip::parse(packet).ok_or(DropReason::PspBadIp)?;
    if datagram.upper.protocol != number::UDP {
        return Err(DropReason::NotForUs);
    }
    if datagram.offset != 0 {
        return Err(DropReason::PspFragment); // it shows no port; a host reassembles before it offers packets
    }
    let at = datagram.upper.at;
    let whole = packet.get(at..datagram.octets).ok_or(DropReason::PspBadUdp)?;
    let (_, port) = udp::ports(whole).ok_or(DropReason::PspBadUdp)?;
    if port != accepted.port {
        return Err(DropReason::NotForUs);
    }
    if datagram.fragment {
        return Err(DropReason::PspFragment);
    }
    let (head, body) = whole.split_first_chunk::<{ udp::HEADER }>().ok_or(DropReason::PspBadUdp)?;
    if usize::from(u16::from_be_bytes([head[4], head[5]])) != whole.len() {
        return Err(DropReason::PspBadUdp);
    }
    if accepted.verify_checksum && (head[6], head[7]) != (0, 0) && !has_good_checksum(packet, whole) {
        return Err(DropReason::PspChecksum);
    }
    if body.len() < HEADER_OCTETS + ICV_OCTETS {
        return Err(DropReason::PspTruncated);
    }
    let [_, units, offset, flags, a, b, c, d, ..] =
        *body.first_chunk::<HEADER_OCTETS>().ok_or(DropReason::PspTruncated)?;
    if flags & 1 == 0 {
        return Err(DropReason::PspAlwaysOne);
    }
    let code = flags >> 2 & 15;
    let version = Version::of(code).filter(|_| accepted.versions >> code & 1 == 1).ok_or(DropReason::PspVersion)?;
    let least = if flags & 2 == 0 { 1 } else { 2 };
    if units < least || 8 * (usize::from(units) + 1) + ICV_OCTETS > body.len() {
        return Err(DropReason::PspHeaderLength);
    }
    if !version.is_gmac() && HEADER_OCTETS + 4 * usize::from(offset & 63) + ICV_OCTETS > body.len() {
        return Err(DropReason::PspCryptOffset);
    }
    let spi = u32::from_be_bytes([a, b, c, d]);
    if spi & INDEX_MASK == 0 {
        return Err(DropReason::PspSpi);
    }
    let Datagram { traffic_class, octets: end, upper, .. } = datagram;
    Ok(Located { spi, version, traffic_class, upper: upper.at, link: upper.link, end })
}

/// Opens a packet that was located and writes the inner one to `out`; nothing where it is dropped, but for `PspSampled`.
///
/// extension: takes the octets behind the cookie.
pub(super) fn open(
    once: &mut Once,
    located: &Located,
    key: &[u8],
    packet: &[u8],
    out: &mut Output,
    extension: Option<&mut Vec<u8>>,
) -> Result<Opened, DropReason> {
    const STRUCTURE: DropReason = DropReason::PspTruncated; // not reached: locate saw to it
    let Located { spi, version, upper, end, .. } = located;
    let body = packet.get(upper + udp::HEADER..*end).ok_or(STRUCTURE)?;
    let (text, icv) = body.split_last_chunk::<ICV_OCTETS>().ok_or(STRUCTURE)?;
    let head = text.first_chunk::<HEADER_OCTETS>().ok_or(STRUCTURE)?;
    let [next_header, units, offset, flags, ..] = *head;
    let iv = u64::from_be_bytes(*head.last_chunk::<8>().ok_or(STRUCTURE)?);
    let front = 8 * (usize::from(units) - 1);
    let clear = if version.is_gmac() { text.len() } else { HEADER_OCTETS + 4 * usize::from(offset & 63) };
    let (aad, sealed) = text.split_at_checked(clear).ok_or(STRUCTURE)?;

    // The IP header in transport mode; what stands in clear of the payload; then what is encrypted, which begins with the
    // end of the extension if that is.
    let outer = if matches!(next_header, number::IPV4 | number::IPV6) { 0 } else { *upper };
    let shown = aad.get(HEADER_OCTETS + front..).unwrap_or_default();
    let place = out.room(outer + shown.len() + sealed.len());
    let (place_of_clear, to) = place.split_at_mut_checked(outer + shown.len()).ok_or(STRUCTURE)?;
    once.open(key, &nonce(*spi, iv), aad, Some(sealed), to, icv).map_err(|_| DropReason::PspAuth)?;
    let (place_of_head, place_of_shown) = place_of_clear.split_at_mut_checked(outer).ok_or(STRUCTURE)?;
    place_of_head.copy_from_slice(packet.get(..outer).ok_or(STRUCTURE)?);
    place_of_shown.copy_from_slice(shown);

    let mut opened =
        Opened { spi: *spi, iv, flags, cookie: [0; COOKIE_OCTETS], octets: text.len() - HEADER_OCTETS, reason: None };
    let mut octets = place.len();
    if front > 0 {
        octets -= take_front(&mut opened, aad.get(HEADER_OCTETS..).unwrap_or_default(), front, place, outer, extension);
    }
    let inner = place.get_mut(..octets).ok_or(STRUCTURE)?;
    match release(located, next_header, inner, outer) {
        Ok(kept) => {
            opened.reason = (flags & 0x40 != 0).then_some(DropReason::PspSampled);
            out.keep(kept);
        }
        Err(reason) => opened.reason = Some(reason),
    }
    Ok(opened)
}

/// What there is to know of a usual packet that was opened.
pub(super) struct Plain {
    /// Its IV.
    pub(super) iv: u64,
    /// The header's fourth octet.
    pub(super) flags: u8,
    /// Octets that `rx_bytes` counts.
    pub(super) octets: usize,
}

/// Does what [`open`] does with the usual packet, in one straight line: a tunnel without cookie or extension, nothing of
/// it in clear; none for another, and for whatever is dropped, which [`open`] then names.
#[inline(always)]
pub(super) fn open_plain(
    once: &mut Once,
    located: &Located,
    key: &[u8],
    packet: &[u8],
    out: &mut Output,
) -> Option<Plain> {
    let body = packet.get(located.upper + udp::HEADER..located.end)?;
    let (text, icv) = body.split_last_chunk::<ICV_OCTETS>()?;
    let (head, sealed) = text.split_first_chunk::<HEADER_OCTETS>()?;
    let word = u32::from_be_bytes(*head.first_chunk()?);
    // Hdr Ext Len 1, Crypt Offset 0; no D, no GMAC, no V.
    if word & 0x00ff_3f4a != 0x0001_0000 {
        return None;
    }
    let (next_header, flags) = ((word >> 24) as u8, word as u8);
    if !matches!(next_header, number::IPV4 | number::IPV6) {
        return None;
    }
    let iv = u64::from_be_bytes(*head.last_chunk()?);
    let place = out.room(sealed.len());
    once.open(key, &nonce(located.spi, iv), head, Some(sealed), place, icv).ok()?;
    let total = modes::inner_length(next_header, place)?;
    let arrived = Arrived { traffic_class: located.traffic_class, take_dscp: false };
    if modes::release_tunnel(place, arrived).is_dropped {
        return None;
    }
    out.keep(total);
    Some(Plain { iv, flags, octets: sealed.len() })
}

/// Opens a packet where it lies; returns where the inner one is, nothing of it where `Opened` says why it is dropped.
///
/// context: the key, for AES-GCM with an ICV of 16 octets.
#[inline(always)]
pub(super) fn open_in_place(
    located: &Located,
    context: &Context,
    packet: &mut [u8],
) -> Result<(Opened, u8, Range<usize>), DropReason> {
    const STRUCTURE: DropReason = DropReason::PspTruncated; // not reached: locate saw to it
    let Located { spi, version, upper, end, .. } = *located;
    let at = upper + udp::HEADER;
    let body = packet.get_mut(at..end).ok_or(STRUCTURE)?;
    let (text, icv) = body.split_last_chunk_mut::<ICV_OCTETS>().ok_or(STRUCTURE)?;
    let head = text.first_chunk::<HEADER_OCTETS>().ok_or(STRUCTURE)?;
    let [next_header, units, offset, flags, ..] = *head;
    let iv = u64::from_be_bytes(*head.last_chunk::<8>().ok_or(STRUCTURE)?);
    let front = 8 * (usize::from(units) - 1);
    let clear = if version.is_gmac() { text.len() } else { HEADER_OCTETS + 4 * usize::from(offset & 63) };
    let octets = text.len() - HEADER_OCTETS;
    let (aad, sealed) = text.split_at_mut_checked(clear).ok_or(STRUCTURE)?;
    context.open(&nonce(spi, iv), Associated::front(aad), sealed, icv).map_err(|_| DropReason::PspAuth)?;
    let mut opened = Opened { spi, iv, flags, cookie: [0; COOKIE_OCTETS], octets, reason: None };
    if flags & 2 != 0 {
        opened.cookie = *text.get(HEADER_OCTETS..).and_then(|rest| rest.first_chunk()).ok_or(STRUCTURE)?;
    }
    let payload = at + HEADER_OCTETS + front;
    let outer = if matches!(next_header, number::IPV4 | number::IPV6) { 0 } else { upper };
    let start = payload - outer;
    packet.copy_within(..outer, start);
    let inner = packet.get_mut(start..end - ICV_OCTETS).ok_or(STRUCTURE)?;
    match release(located, next_header, inner, outer) {
        Ok(kept) => {
            opened.reason = (flags & 0x40 != 0).then_some(DropReason::PspSampled);
            Ok((opened, next_header, start..start + kept))
        }
        Err(reason) => {
            opened.reason = Some(reason);
            Ok((opened, next_header, start..start))
        }
    }
}

/// Takes cookie and extension out of what was opened; returns how many octets of them were encrypted, so that the
/// payload has moved down by as many.
///
/// clear: cookie, extension and payload as far as they are not encrypted. from: where in `place` the rest begins, if it
/// begins within the extension.
#[cold]
fn take_front(
    opened: &mut Opened,
    clear: &[u8],
    front: usize,
    place: &mut [u8],
    from: usize,
    extension: Option<&mut Vec<u8>>,
) -> usize {
    let clear = clear.get(..front).unwrap_or(clear);
    let hidden = front - clear.len();
    let mut octets = clear.to_vec();
    octets.extend_from_slice(place.get(from..from + hidden).unwrap_or_default());
    if hidden > 0 && from + hidden <= place.len() {
        place.copy_within(from + hidden.., from);
    }
    let cookie = if opened.flags & 2 == 0 { 0 } else { COOKIE_OCTETS };
    opened.cookie.iter_mut().zip(octets.iter().take(cookie)).for_each(|(place, octet)| *place = *octet);
    if let Some(extension) = extension {
        extension.extend_from_slice(octets.get(cookie..).unwrap_or_default());
    }
    hidden
}

/// Makes the inner packet in its place; returns its octets.
///
/// outer: octets of the received IP header there; none in a tunnel.
#[inline(always)]
fn release(located: &Located, next_header: u8, inner: &mut [u8], outer: usize) -> Result<usize, DropReason> {
    let octets = inner.len();
    if next_header == number::NO_NEXT_HEADER || octets == outer {
        return Err(DropReason::PspEmpty);
    }
    if outer > 0 {
        modes::complete(inner.get_mut(..outer).unwrap_or_default(), octets, located.link, next_header);
        return Ok(octets);
    }
    let total = modes::inner_length(next_header, inner).ok_or(DropReason::PspBadInner)?;
    let arrived = Arrived { traffic_class: located.traffic_class, take_dscp: false };
    if modes::release_tunnel(inner, arrived).is_dropped {
        return Err(DropReason::PspEcnDrop);
    }
    Ok(total)
}

fn has_good_checksum(packet: &[u8], datagram: &[u8]) -> bool {
    let addresses = if packet.first().is_some_and(|first| first >> 4 == 4) { 12..20 } else { 8..40 };
    let addresses = ip::sum(packet.get(addresses).unwrap_or_default());
    ip::fold(addresses + u64::from(number::UDP) + datagram.len() as u64 + ip::sum(datagram)) == 0xffff
}
