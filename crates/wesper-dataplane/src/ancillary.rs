//! Socket addresses and control messages as octets, in Linux's layout (include/uapi/linux/in.h, in6.h, socket.h; cmsg(3)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Octets of the largest address used here, `sockaddr_in6`.
pub(crate) const ADDRESS: usize = 28;
/// Octets that the control messages of one message take at most.
pub(crate) const CONTROL: usize = 192;
const WORD: usize = size_of::<usize>();
const CMSG_HEADER: usize = WORD + 8;

/// Room for control messages, placed as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Control(pub(crate) [u8; CONTROL]);

/// What the kernel says of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Where it was sent to.
    pub(crate) destination: Option<IpAddr>,
    /// DSCP and ECN.
    pub(crate) traffic_class: u8,
    /// TTL or hop limit; 0 if not told.
    pub(crate) hop_limit: u8,
    /// Octets of each datagram but the last, where several came as one; else 0.
    pub(crate) segment: usize,
}

/// Writes an address and returns its octets.
pub(crate) fn write_address(place: &mut [u8; ADDRESS], to: SocketAddr, is_raw: bool) -> usize {
    let [p, q] = if is_raw { [0, 0] } else { to.port().to_be_bytes() };
    *place = [0; ADDRESS];
    match to.ip() {
        IpAddr::V4(address) => {
            let [a, b] = (libc::AF_INET as u16).to_ne_bytes();
            let [c, d, e, f] = address.octets();
            place[..8].copy_from_slice(&[a, b, p, q, c, d, e, f]);
            16
        }
        IpAddr::V6(address) => {
            let [a, b] = (libc::AF_INET6 as u16).to_ne_bytes();
            place[..4].copy_from_slice(&[a, b, p, q]);
            place[8..24].copy_from_slice(&address.octets());
            ADDRESS
        }
    }
}

/// Reads an address; none of another family.
pub(crate) fn read_address(octets: &[u8]) -> Option<SocketAddr> {
    let [a, b, p, q, c, d, e, f] = *octets.first_chunk()?;
    let port = u16::from_be_bytes([p, q]);
    match i32::from(u16::from_ne_bytes([a, b])) {
        libc::AF_INET => Some((Ipv4Addr::new(c, d, e, f), port).into()),
        libc::AF_INET6 => Some((ipv6(octets.get(8..)?)?, port).into()),
        _ => None,
    }
}

/// Control messages to be sent, one after another.
pub(crate) struct Writer<'a> {
    place: &'a mut [u8; CONTROL],
    octets: usize,
}

impl<'a> Writer<'a> {
    /// Begins with none.
    pub(crate) fn new(control: &'a mut Control) -> Self {
        Self { place: &mut control.0, octets: 0 }
    }

    /// Adds one. Three of them fit, which is asserted by a test.
    pub(crate) fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let length = CMSG_HEADER + data.len();
        let Some(place) = self.place.get_mut(self.octets..self.octets + length.next_multiple_of(WORD)) else { return };
        place[..WORD].copy_from_slice(&length.to_ne_bytes());
        place[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        place[WORD + 4..CMSG_HEADER].copy_from_slice(&kind.to_ne_bytes());
        place[CMSG_HEADER..length].copy_from_slice(data);
        place[length..].fill(0);
        self.octets += place.len();
    }

    /// Octets written.
    pub(crate) fn octets(&self) -> usize {
        self.octets
    }
}

/// Reads the control messages of a datagram. octets: as many as the kernel wrote.
pub(crate) fn read_control(mut octets: &[u8]) -> Told {
    let mut told = Told::default();
    while let Some((length, rest)) = octets.split_first_chunk::<WORD>() {
        let length = usize::from_ne_bytes(*length);
        let Some((level, rest)) = rest.split_first_chunk() else { break };
        let Some((kind, _)) = rest.split_first_chunk() else { break };
        let Some(data) = octets.get(CMSG_HEADER..length) else { break };
        told.take(i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind), data);
        octets = octets.get(length.next_multiple_of(WORD)..).unwrap_or_default();
    }
    told
}

impl Told {
    fn take(&mut self, level: i32, kind: i32, data: &[u8]) {
        match (level, kind) {
            // One octet over IPv4, an int over IPv6.
            (libc::IPPROTO_IP, libc::IP_TOS) => self.traffic_class = data.first().copied().unwrap_or(0),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => self.traffic_class = int(data) as u8,
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                self.hop_limit = int(data) as u8;
            }
            // in_pktinfo: interface, local address, header's destination.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let address = data.get(8..).and_then(|data| data.first_chunk::<4>());
                self.destination = address.map(|address| IpAddr::from(*address));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => self.destination = ipv6(data).map(IpAddr::V6),
            (libc::IPPROTO_UDP, libc::UDP_GRO) => self.segment = usize::try_from(int(data)).unwrap_or(0),
            _ => (),
        }
    }
}

fn int(data: &[u8]) -> i32 {
    data.first_chunk().map_or(0, |octets| i32::from_ne_bytes(*octets))
}

fn ipv6(octets: &[u8]) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(*octets.first_chunk::<16>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_go_there_and_back() {
        for text in ["192.0.2.1:4500", "[2001:db8::7]:500"] {
            let address: SocketAddr = text.parse().expect("an address");
            let mut place = [0xff; ADDRESS];
            let octets = write_address(&mut place, address, false);
            assert_eq!(read_address(&place[..octets]), Some(address));
            write_address(&mut place, address, true);
            assert_eq!(read_address(&place).map(|address| address.port()), Some(0));
        }
        assert_eq!(read_address(&[0; 28]), None);
        assert_eq!(read_address(&[2, 0, 1]), None);
    }

    #[test]
    fn what_is_told_is_what_was_written() {
        let mut control = Control([0xff; CONTROL]);
        let mut writer = Writer::new(&mut control);
        let to = [[0; 4], [10, 0, 0, 9], [10, 0, 0, 1]].concat();
        writer.push(libc::IPPROTO_IP, libc::IP_TOS, &[0xb9]);
        writer.push(libc::IPPROTO_IP, libc::IP_TTL, &63_i32.to_ne_bytes());
        writer.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &to);
        writer.push(libc::IPPROTO_UDP, libc::UDP_GRO, &1400_i32.to_ne_bytes());
        let octets = writer.octets();
        let told = read_control(&control.0[..octets]);
        let destination = Some([10, 0, 0, 1].into());
        assert_eq!(told, Told { destination, traffic_class: 0xb9, hop_limit: 63, segment: 1400 });
        assert_eq!(read_control(&control.0[..octets - 1]).segment, 1400, "its padding need not be there");
        assert_eq!(read_control(&control.0[..octets - 5]).segment, 0);
    }

    #[test]
    fn the_largest_set_that_is_sent_fits() {
        let mut control = Control([0; CONTROL]);
        let mut writer = Writer::new(&mut control);
        for data in [&[0; 4][..], &[0; 4], &[0; 2], &[0; 20]] {
            writer.push(1, 1, data);
        }
        assert_eq!(writer.octets(), 3 * (CMSG_HEADER + WORD) + (CMSG_HEADER + 20).next_multiple_of(WORD));
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..80), length in 0_usize..90) {
            let _ = (read_control(&octets), read_address(&octets));
            let octets = [&length.to_ne_bytes()[..], &octets].concat();
            let _ = read_control(&octets);
        }
    }
}
