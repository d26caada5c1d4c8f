//! Super-packets cut into the packets that they stand for, as a network card would (net/ipv4/tcp_offload.c:tcp_gso_segment,
//! net/ipv4/udp_offload.c:__udp_gso_segment).

use wesper_core::ip::number;

use crate::checksum::{fold, pseudo_header, sum};
use crate::vnet::{Gso, Vnet};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;
const LARGEST: usize = 65535;

/// The packet and what its header says of it do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit;

/// How one super-packet is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    is_ipv6: bool,
    protocol: u8,
    /// Where the upper layer's header begins.
    upper: usize,
    /// Octets of all headers.
    header: usize,
    size: usize,
    payload: usize,
}

impl Cut {
    /// Plans the cut of a super-packet. packet: from its IP header; what its own length fields say does not count.
    pub fn plan(packet: &[u8], vnet: &Vnet) -> Result<Self, Unfit> {
        let protocol = match vnet.gso {
            Gso::TcpV4 | Gso::TcpV6 => number::TCP,
            Gso::Udp => number::UDP,
            Gso::None => return Err(Unfit),
        };
        let first = packet.first().ok_or(Unfit)?;
        let version = first >> 4;
        let upper = usize::from(vnet.checksum.ok_or(Unfit)?.0);
        let least = match (version, vnet.gso) {
            (4, Gso::TcpV4 | Gso::Udp) => 4 * usize::from(first & 15),
            (6, Gso::TcpV6 | Gso::Udp) => 40,
            _ => return Err(Unfit),
        };
        if least < 20 || upper < least || (version == 4 && upper != least) {
            return Err(Unfit);
        }
        let header = upper
            + match protocol {
                number::TCP => 4 * usize::from(packet.get(upper + 12).ok_or(Unfit)? >> 4),
                _ => 8,
            };
        let size = usize::from(vnet.gso_size);
        let payload = packet.len().checked_sub(header).ok_or(Unfit)?;
        if header < upper + 8 || (protocol == number::TCP && header < upper + 20) || size == 0 || payload == 0 {
            return Err(Unfit);
        }
        if header + size.min(payload) > LARGEST {
            return Err(Unfit);
        }
        Ok(Self { is_ipv6: version == 6, protocol, upper, header, size, payload })
    }

    /// How many packets it stands for.
    pub fn count(&self) -> usize {
        self.payload.div_ceil(self.size)
    }

    /// Octets of the headers that each of them has.
    pub fn header(&self) -> usize {
        self.header
    }

    /// Octets of payload of each but the last.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Octets of packet `index`, headers and payload.
    pub fn octets(&self, index: usize) -> usize {
        self.header + self.size.min(self.payload - (index * self.size).min(self.payload))
    }

    /// Writes packet `index`. place: as many octets as [`Self::octets`] says.
    pub fn write(&self, index: usize, packet: &[u8], place: &mut [u8]) {
        let from = self.header + index * self.size;
        let Some((head, body)) = place.split_at_mut_checked(self.header) else { return };
        if let (Some(header), Some(payload)) = (packet.get(..self.header), packet.get(from..from + body.len())) {
            head.copy_from_slice(header);
            body.copy_from_slice(payload);
            self.finish(index, place);
        }
    }

    /// Makes packet `index` of the super-packet's headers with its part of the payload behind them.
    pub fn finish(&self, index: usize, place: &mut [u8]) {
        let octets = place.len();
        let is_last = index + 1 >= self.count();
        let Some((ip, upper)) = place.split_at_mut_checked(self.upper) else { return };
        let addresses = if self.is_ipv6 {
            let Some(head) = ip.first_chunk_mut::<40>() else { return };
            [head[4], head[5]] = ((octets - 40) as u16).to_be_bytes();
            ip.get(8..40).unwrap_or_default()
        } else {
            let Some(head) = ip.first_chunk_mut::<20>() else { return };
            [head[2], head[3]] = (octets as u16).to_be_bytes();
            let id = u16::from_be_bytes([head[4], head[5]]).wrapping_add(index as u16);
            [head[4], head[5]] = id.to_be_bytes();
            [head[10], head[11]] = [0, 0];
            write_at(ip, 10, !fold(sum(ip)));
            ip.get(12..20).unwrap_or_default()
        };
        let pseudo = pseudo_header(addresses, self.protocol, upper.len());
        if self.protocol == number::TCP {
            let Some(head) = upper.first_chunk_mut::<20>() else { return };
            let [_, _, _, _, a, b, c, d, ..] = *head;
            let sequence = u32::from_be_bytes([a, b, c, d]).wrapping_add((index * self.size) as u32);
            [head[4], head[5], head[6], head[7]] = sequence.to_be_bytes();
            if !is_last {
                head[13] &= !(FIN | PSH);
            }
            if index > 0 {
                // RFC 3168 §6.1.2: one window reduction is told once.
                head[13] &= !CWR;
            }
            [head[16], head[17]] = [0, 0];
            write_at(upper, 16, !fold(pseudo + sum(upper)));
        } else {
            let length = (upper.len() as u16).to_be_bytes();
            let Some(head) = upper.first_chunk_mut::<8>() else { return };
            [head[4], head[5]] = length;
            [head[6], head[7]] = [0, 0];
            write_at(upper, 6, nonzero(!fold(pseudo + sum(upper))));
        }
    }
}

/// Completes the checksum of one packet. packet: the field holds the pseudo header's sum.
pub fn complete_checksum(packet: &mut [u8], start: u16, offset: u16) -> Result<(), Unfit> {
    let summed = packet.get_mut(usize::from(start)..).ok_or(Unfit)?;
    let at = usize::from(offset);
    if at.checked_add(2).is_none_or(|end| end > summed.len()) {
        return Err(Unfit);
    }
    let mut result = !fold(sum(summed));
    // UDP's field is the one at 6; the other protocols have no value that means none.
    if at == 6 {
        result = nonzero(result);
    }
    write_at(summed, at, result);
    Ok(())
}

/// Writes a number into a header; where there is no room for it, nothing.
fn write_at(octets: &mut [u8], at: usize, number: u16) {
    if let Some(place) = octets.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *place = number.to_be_bytes();
    }
}

/// RFC 768: zero would mean that there is no checksum.
fn nonzero(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}

#[cfg(test)]
#[path = "cut_tests.rs"]
mod tests;
