//! Packets for the tests of cutting and joining, built field by field.

use proptest::prelude::*;

use crate::vnet::{Gso, Vnet};

/// A super-packet as the kernel hands it out: lengths of the whole, the pseudo header's sum in the checksum field.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) packet: Vec<u8>,
    pub(crate) vnet: Vnet,
}

/// The Internet checksum, word by word.
pub(crate) fn plain_sum(parts: &[&[u8]]) -> u16 {
    let octets = parts.concat();
    let mut total = 0_u32;
    for pair in octets.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// Whether the header's and the upper layer's checksums are right, by the plain writing.
pub(crate) fn is_right(packet: &[u8]) -> bool {
    let (at, addresses, protocol) = if packet[0] >> 4 == 4 {
        if plain_sum(&[&packet[..20]]) != 0xffff {
            return false;
        }
        (20, &packet[12..20], packet[9])
    } else {
        (40, &packet[8..40], packet[6])
    };
    let length = ((packet.len() - at) as u32).to_be_bytes();
    plain_sum(&[addresses, &length, &[0, 0, 0, protocol], &packet[at..]]) == 0xffff
}

#[derive(Clone, Debug)]
pub(crate) struct Fields {
    pub(crate) is_ipv6: bool,
    pub(crate) is_udp: bool,
    pub(crate) port: u16,
    pub(crate) id: u16,
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) size: u16,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            is_ipv6: false,
            is_udp: false,
            port: 1000,
            id: 7,
            flags: 0x10,
            sequence: 0xffff_ff00,
            options: vec![],
            payload: (0..250).collect(),
            size: 100,
        }
    }
}

impl Fields {
    pub(crate) fn sample(&self) -> Sample {
        let [p, q] = self.port.to_be_bytes();
        let mut upper = if self.is_udp {
            let [a, b] = ((8 + self.payload.len()) as u16).to_be_bytes();
            vec![p, q, 0, 53, a, b, 0, 0]
        } else {
            let [a, b, c, d] = self.sequence.to_be_bytes();
            let offset = ((20 + self.options.len()) << 2) as u8;
            let fixed = [p, q, 0, 80, a, b, c, d, 9, 9, 9, 9, offset, self.flags, 1, 2, 0, 0, 0, 0];
            [&fixed[..], &self.options].concat()
        };
        let header = upper.len();
        upper.extend(&self.payload);
        let protocol = if self.is_udp { 17 } else { 6 };
        let mut ip = if self.is_ipv6 {
            let [a, b] = (upper.len() as u16).to_be_bytes();
            let mut ip = vec![0x6a, 0xb1, 0x23, 0x45, a, b, protocol, 63];
            ip.extend(1..=32);
            ip
        } else {
            let ([a, b], [c, d]) = (((20 + upper.len()) as u16).to_be_bytes(), self.id.to_be_bytes());
            vec![0x45, 3, a, b, c, d, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
        };
        let addresses = if self.is_ipv6 { 8..40 } else { 12..20 };
        let length = (upper.len() as u32).to_be_bytes();
        let pseudo = plain_sum(&[&ip[addresses], &length, &[0, 0, 0, protocol]]).to_be_bytes();
        let field = if self.is_udp { 6 } else { 16 };
        upper[field..field + 2].copy_from_slice(&pseudo);
        if !self.is_ipv6 {
            let sum = (!plain_sum(&[&ip])).to_be_bytes();
            ip[10..12].copy_from_slice(&sum);
        }
        let vnet = Vnet {
            checksum: Some((ip.len() as u16, field as u16)),
            gso: match (self.is_udp, self.is_ipv6) {
                (true, _) => Gso::Udp,
                (false, true) => Gso::TcpV6,
                (false, false) => Gso::TcpV4,
            },
            header_octets: (ip.len() + header) as u16,
            gso_size: self.size,
        };
        Sample { packet: [ip, upper].concat(), vnet }
    }
}

/// Super-packets of several packets, of all kinds that are joined.
pub(crate) fn super_packets() -> impl Strategy<Value = Fields> {
    let payload = prop::collection::vec(any::<u8>(), 2..6000);
    let options = prop::sample::select(vec![0_usize, 12, 40]);
    (
        any::<(bool, bool, u16, u16, u32)>(),
        options,
        payload,
        1_u16..2000,
        prop::sample::select(vec![0x10_u8, 0x18, 0x50]),
    )
        .prop_map(|((is_ipv6, is_udp, port, id, sequence), options, payload, size, flags)| Fields {
            is_ipv6,
            is_udp,
            port,
            id,
            sequence,
            flags,
            options: vec![1; options],
            // At most 64 packets, more than one.
            size: size.clamp((payload.len() as u16).div_ceil(60), payload.len() as u16 - 1),
            payload,
        })
}
