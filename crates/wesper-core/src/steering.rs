//! Which shard of the inbound half a packet goes to: all packets of a flow to one.
//!
//! The flow's name is what the protocol shows without a key: EESP's Session ID, WESPv2's flow identifier, else the SPI.
//! What is read is authenticated, and of WESP, whose header is not, the SPI is read where opening reads it, so that a packet which comes again goes to the shard that has seen it, however it
//! was delivered. `wesper.nic.steering` writes the same rule as a program for the kernel.

use crate::ip::{self, number};
use crate::wesp::MARKER;
use crate::{esp, udp, wesp, wespv2};

/// 2^32 over the golden ratio: neighbouring numbers end far apart.
const GOLDEN: u32 = 0x9E37_79B1;

/// Returns the shard, `0..shards`, of a packet from its IP header on.
#[inline]
pub fn shard_of(packet: &[u8], shards: usize) -> usize {
    let Some(datagram) = ip::parse(packet) else { return 0 };
    let body = packet.get(datagram.upper.at..datagram.octets).unwrap_or_default();
    match datagram.upper.protocol {
        number::UDP => shard_of_datagram(body.get(udp::HEADER..).unwrap_or_default(), shards),
        protocol => shard_of_body(protocol, body, shards),
    }
}

/// Returns the shard of what an IP header with this number is in front of.
#[inline]
pub fn shard_of_body(protocol: u8, body: &[u8], shards: usize) -> usize {
    let name = match protocol {
        esp::IP_PROTOCOL => word(body, 0),
        wesp::IP_PROTOCOL => wrapped(body).unwrap_or_else(|| word(body, 0)),
        _ => session(body),
    };
    spread(name, shards)
}

/// Returns the shard of a UDP datagram's content.
#[inline]
pub fn shard_of_datagram(content: &[u8], shards: usize) -> usize {
    spread(flow_of_datagram(content), shards)
}

/// Returns the flow's name that a UDP datagram's content shows.
#[inline]
pub fn flow_of_datagram(content: &[u8]) -> u32 {
    match content.strip_prefix(&MARKER) {
        Some(body) => wrapped(body).unwrap_or(u32::from_be_bytes(MARKER)),
        None if content.first().is_some_and(|first| first & 0x80 != 0) => session(content),
        None => word(content, 0),
    }
}

/// A name of neighbours' names far apart, as a shard's number.
#[inline]
fn spread(name: u32, shards: usize) -> usize {
    (name.wrapping_mul(GOLDEN) >> 16) as usize % shards.max(1)
}

/// EESP's Session ID; of an ESP packet with such an SPI its low half.
fn session(body: &[u8]) -> u32 {
    word(body, 0) & 0xffff
}

/// What WESP and WESPv2 name a flow by: the identifier if there is one, else the SPI; none of another version.
fn wrapped(body: &[u8]) -> Option<u32> {
    let Some(last) = body.get(3) else { return Some(0) };
    match last >> 6 {
        wesp::VERSION => Some(word(body, wesp::header_octets(*last))),
        wespv2::VERSION => Some(named_flow(body).unwrap_or_else(|| word(body, wespv2::header_octets(*last)))),
        _ => None,
    }
}

/// The last 4 octets of WESPv2's flow identifier with what stands before a shorter one.
fn named_flow(body: &[u8]) -> Option<u32> {
    let [_, _, _, _, kind, octets, ..] = *body.first_chunk::<6>()?;
    (kind == wespv2::FLOW_IDENTIFIER).then(|| word(body, 2 + usize::from(octets)))
}

/// A word of a packet; 0 where it is too short.
fn word(body: &[u8], at: usize) -> u32 {
    body.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |octets| u32::from_be_bytes(*octets))
}
