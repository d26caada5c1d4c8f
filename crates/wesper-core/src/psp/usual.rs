//! The usual packet's way out, in one straight line: TCP or UDP in a tunnel, nothing of it in clear, no cookie.

use super::output::Output;
use super::profile::{Mode, Profile, SourcePort};
use super::send::{Keys, MAX_PACKET};
use super::{HEADER_OCTETS, ICV_OCTETS, nonce};
use crate::aead::Once;
use crate::ip::{IPV4_HEADER, IPV6_HEADER, number};
use crate::modes::{self, Taken, Template};
use crate::siphash::SipHash;
use crate::udp;

/// Octets of UDP and PSP header.
const HEADERS: usize = udp::HEADER + HEADER_OCTETS;
/// Octets of both ports, which TCP and UDP have in the same place.
const PORTS: usize = 4;

/// A profile whose usual packets go the straight way.
pub(super) struct Usual {
    template: Template,
    /// The outer flow label comes from the hash.
    labels: bool,
    /// Destination port where UDP's header as a number has it.
    port: u64,
    /// Octets 1 to 3 of the PSP header as a number.
    fixed: u32,
}

impl Usual {
    /// Makes a profile ready; none if nothing of it is usual. fixed: octets 1 to 3 of the PSP header.
    pub(super) fn new(profile: &Profile, template: Option<&Template>, labels: bool, fixed: [u8; 3]) -> Option<Self> {
        let template = *template.filter(|_| matches!(profile.mode, Mode::Tunnel(_)))?;
        let is_plain = profile.cookie.is_none() && profile.extension.is_empty() && profile.crypt_offset_words == 0;
        if !is_plain || profile.checksum || profile.version.is_gmac() || profile.source_port != SourcePort::Hash {
            return None;
        }
        let [units, offset, flags] = fixed;
        let fixed = u32::from_be_bytes([0, units, offset, flags]);
        Some(Self { template, labels, port: u64::from(profile.port) << 32, fixed })
    }
}

/// What the usual packet shows of itself.
struct Inside {
    octets: usize,
    /// PSP's Next Header.
    next_header: u8,
    taken: Taken,
    flow: u64,
}

impl Inside {
    /// Reads a packet; none if it is another: fragments, options, extension headers, other protocols.
    #[inline(always)]
    fn of(packet: &[u8], hash_key: &[u8; 16]) -> Option<Self> {
        let mut hash = SipHash::new(hash_key);
        let head = packet.first_chunk::<{ IPV4_HEADER + PORTS }>()?;
        let (words, _) = head.as_chunks::<8>();
        if head[0] == 0x45 {
            let octets = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let flags = u16::from_be_bytes([head[6], head[7]]);
            if flags & 0x3fff != 0 || octets < head.len() || !has_ports(head[9]) {
                return None;
            }
            hash.absorb(u64::from_le_bytes(*head[12..].first_chunk()?));
            let ports = u32::from_le_bytes(*head.last_chunk()?);
            let flow = hash.finish(u64::from(ports) << 8 | u64::from(head[9]), 13);
            let taken = Taken { traffic_class: head[1], df: flags & modes::DF, flow_label: 0 };
            return Some(Self { octets, next_header: number::IPV4, taken, flow });
        }
        let word = (u64::from_be_bytes(*words.first()?) >> 32) as u32;
        let head = packet.first_chunk::<{ IPV6_HEADER + PORTS }>()?;
        let octets = IPV6_HEADER + usize::from(u16::from_be_bytes([head[4], head[5]]));
        if word >> 28 != 6 || octets < head.len() || !has_ports(head[6]) {
            return None;
        }
        for word in head[8..IPV6_HEADER].as_chunks::<8>().0 {
            hash.absorb(u64::from_le_bytes(*word));
        }
        let ports = u32::from_le_bytes(*head.last_chunk()?);
        let flow = hash.finish(u64::from(ports) << 8 | u64::from(head[6]), 37);
        let taken = Taken { traffic_class: (word >> 20) as u8, df: modes::DF, flow_label: word & 0xf_ffff };
        Some(Self { octets, next_header: number::IPV6, taken, flow })
    }
}

#[inline(always)]
fn has_ports(protocol: u8) -> bool {
    (protocol == number::UDP) | (protocol == number::TCP)
}

/// Does what [`super::send::encapsulate`] does with a usual packet; none, and nothing done, for another.
///
/// mtu: the path's. A packet that may be cut on its way can be larger, but is nothing usual.
#[inline(always)]
pub(super) fn encapsulate(
    usual: &Usual,
    mtu: usize,
    once: &mut Once,
    keys: Keys<'_>,
    packet: &[u8],
    out: &mut Output,
) -> Option<usize> {
    let inside = Inside::of(packet, keys.hash_key)?;
    let payload = packet.get(..inside.octets)?;
    let head = usual.template.len();
    let octets = head + HEADERS + payload.len() + ICV_OCTETS;
    if octets > mtu.min(MAX_PACKET) {
        return None;
    }
    let place = out.room(octets);
    let mut taken = inside.taken;
    if usual.labels {
        taken.flow_label = (inside.flow >> 44) as u32;
    }
    usual.template.write(place, octets, taken, modes::outer_identification(keys.iv, keys.spi));
    let (udp, rest) = place.get_mut(head..)?.split_first_chunk_mut::<{ udp::HEADER }>()?;
    let port = 0xc000 | inside.flow & 0x3fff;
    *udp = (port << 48 | usual.port | ((octets - head) as u64) << 16).to_be_bytes();
    let (text, icv) = rest.split_last_chunk_mut::<ICV_OCTETS>()?;
    let (psp, text) = text.split_first_chunk_mut::<HEADER_OCTETS>()?;
    let first = u64::from(u32::from(inside.next_header) << 24 | usual.fixed) << 32 | u64::from(keys.spi);
    *psp = (u128::from(first) << 64 | u128::from(keys.iv)).to_be_bytes();
    once.seal(keys.key, &nonce(keys.spi, keys.iv), psp, Some(payload), text, icv).ok()?;
    out.keep(octets);
    Some(payload.len())
}
