//! Which protocol an arriving packet is, by what this host's inbound SAs expect where.
//!
//! ESP is looked for without any SA, as RFC 4303 has it; the others only where an SA of theirs is: their numbers and
//! markers may mean something else to the next handler.
//! Source: RFC 3948 §2, RFC 5840 §2.1, draft-klassert-ipsecme-wespv2-01 §2.1 and §2.3, draft-ietf-ipsecme-eesp-03 §6.

use crate::esp;
use crate::ip::{Datagram, number};
use crate::profile::Profile;
use crate::protocol::Protocol;
use crate::udp::{self, Carried};
use crate::verdict::DropReason;
use crate::wespv2;

/// A packet of one of the protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sorted {
    pub(super) protocol: Protocol,
    /// From the protocol's first octet to behind its last, counted from the IP header's first.
    pub(super) at: usize,
    pub(super) end: usize,
    /// Source port, if it came in UDP.
    pub(super) port: Option<u16>,
}

/// How many inbound SAs of each protocol there are in one place, and whether it is looked at besides.
#[derive(Clone, Copy, Debug, Default)]
struct Users {
    number: u16,
    counts: [usize; 4],
    /// Of a port: how often the host itself asked for it.
    always: usize,
}

impl Users {
    fn expects(&self, protocol: Protocol) -> bool {
        self.counts.get(protocol as usize).is_some_and(|count| *count > 0)
    }

    /// Returns WESP or WESPv2: what the version bits say, if it is expected; else the one that is, to refuse it.
    fn of_version(&self, body: &[u8]) -> Option<Protocol> {
        let is_second = body.get(3).is_some_and(|octet| octet >> 6 == wespv2::VERSION);
        match (self.expects(Protocol::Wesp), self.expects(Protocol::WespV2)) {
            (false, false) => None,
            (true, false) => Some(Protocol::Wesp),
            (false, true) => Some(Protocol::WespV2),
            (true, true) => Some(if is_second { Protocol::WespV2 } else { Protocol::Wesp }),
        }
    }
}

/// What inbound SAs expect, by IP protocol and by local UDP port.
pub(super) struct Demultiplexer {
    protocols: Vec<Users>,
    ports: Vec<Users>,
}

impl Demultiplexer {
    /// ports: where ESP is looked for without an SA.
    pub(super) fn new(ports: &[u16]) -> Self {
        let mut demultiplexer = Self { protocols: Vec::new(), ports: Vec::new() };
        for port in ports {
            place(&mut demultiplexer.ports, *port).always += 1;
        }
        demultiplexer
    }

    /// Takes so many inbound SAs of this profile into account.
    pub(super) fn expect(&mut self, profile: &Profile, users: usize) {
        let place = self.place(profile);
        if let Some(count) = place.counts.get_mut(profile.protocol as usize) {
            *count += users;
        }
    }

    /// No longer takes so many of them into account.
    pub(super) fn forget(&mut self, profile: &Profile, users: usize) {
        let place = self.place(profile);
        if let Some(count) = place.counts.get_mut(profile.protocol as usize) {
            *count = count.saturating_sub(users);
        }
        for places in [&mut self.protocols, &mut self.ports] {
            places.retain(|place| place.always > 0 || place.counts.iter().any(|count| *count > 0));
        }
    }

    fn place(&mut self, profile: &Profile) -> &mut Users {
        match profile.encapsulation {
            Some(encapsulation) => place(&mut self.ports, encapsulation.local_port),
            None => place(&mut self.protocols, profile.ip_protocol().into()),
        }
    }

    /// Says what a packet carries. Drops: NotForUs, Fragment, BadIp, Keepalive, TruncatedHeader.
    #[inline(always)]
    pub(super) fn sort(&self, datagram: &Datagram, received: &[u8]) -> Result<Sorted, DropReason> {
        let (at, end) = (datagram.upper.at, datagram.octets);
        if datagram.upper.protocol == number::UDP {
            return self.sort_udp(datagram, received);
        }
        if datagram.upper.protocol != esp::IP_PROTOCOL {
            return self.sort_other(datagram, received);
        }
        if datagram.fragment {
            return Err(DropReason::Fragment);
        }
        Ok(Sorted { protocol: Protocol::Esp, at, end, port: None })
    }

    #[inline(never)]
    fn sort_other(&self, datagram: &Datagram, received: &[u8]) -> Result<Sorted, DropReason> {
        let (at, end) = (datagram.upper.at, datagram.octets);
        let users = self.protocols.iter().find(|users| users.number == u16::from(datagram.upper.protocol));
        let users = users.ok_or(DropReason::NotForUs)?;
        let body = received.get(at..end).unwrap_or_default();
        let protocol = if users.expects(Protocol::Eesp) { Some(Protocol::Eesp) } else { users.of_version(body) };
        let protocol = protocol.ok_or(DropReason::NotForUs)?;
        if datagram.fragment {
            return Err(DropReason::Fragment);
        }
        Ok(Sorted { protocol, at, end, port: None })
    }

    #[inline(always)]
    fn sort_udp(&self, datagram: &Datagram, received: &[u8]) -> Result<Sorted, DropReason> {
        let at = datagram.upper.at;
        let body = received.get(at..datagram.octets).unwrap_or_default();
        if datagram.offset != 0 {
            return Err(DropReason::Fragment);
        }
        let (source, destination) = udp::ports(body).ok_or(DropReason::NotForUs)?;
        let users = self.ports.iter().find(|users| users.number == destination).ok_or(DropReason::NotForUs)?;
        if datagram.fragment {
            return Err(DropReason::Fragment);
        }
        let Carried { at: inside, end } = udp::content(body)?;
        let body = body.get(inside..end).unwrap_or_default();
        let protocol = if inside != udp::HEADER {
            users.of_version(body).ok_or(DropReason::NotForUs)?
        } else if users.expects(Protocol::Eesp) && body.first().is_some_and(|first| first & 0x80 != 0) {
            // ESP's SPIs have a first bit of 0 where EESP's SAs use the port too.
            Protocol::Eesp
        } else {
            Protocol::Esp
        };
        Ok(Sorted { protocol, at: at + inside, end: at + end, port: Some(source) })
    }
}

/// Returns the entry of a number, making one.
fn place(places: &mut Vec<Users>, number: u16) -> &mut Users {
    let at = places.iter().position(|users| users.number == number).unwrap_or_else(|| {
        places.push(Users { number, ..Users::default() });
        places.len() - 1
    });
    &mut places[at]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip;
    use crate::profile::{Format, UdpEncapsulation};
    use crate::suite::SuiteId;
    use crate::{eesp, wespv2};

    fn profile(protocol: Protocol, port: Option<u16>) -> Profile {
        let format = match protocol {
            Protocol::WespV2 => Format::WespV2(wespv2::Settings::default()),
            Protocol::Eesp => Format::Eesp(eesp::Settings::default()),
            _ => Format::Plain,
        };
        let encapsulation = port.map(|port| UdpEncapsulation { local_port: port, remote_port: port, checksum: None });
        let ends = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        Profile { protocol, format, encapsulation, ..Profile::tunnel(SuiteId::AesGcm16, ends.0, ends.1) }
    }

    fn packet(protocol: u8, body: &[u8]) -> Vec<u8> {
        let octets = (20 + body.len()) as u8;
        [&[0x45, 0, 0, octets, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2], body].concat()
    }

    fn datagram(inside: &[u8]) -> Vec<u8> {
        packet(17, &[&[0, 9, 0x11, 0x94, 0, 8 + inside.len() as u8, 0, 0], inside].concat())
    }

    fn sort(demultiplexer: &Demultiplexer, packet: &[u8]) -> Result<(Protocol, usize), DropReason> {
        let datagram = ip::parse(packet).expect("IP");
        demultiplexer.sort(&datagram, packet).map(|sorted| (sorted.protocol, sorted.at))
    }

    #[test]
    fn only_esp_is_looked_for_without_an_sa() {
        let mut demultiplexer = Demultiplexer::new(&[4500]);
        let wesp = packet(141, &[0, 0, 0, 0x40, 0, 0, 1, 0]);
        assert_eq!(sort(&demultiplexer, &packet(50, &[0; 8])), Ok((Protocol::Esp, 20)));
        assert_eq!(sort(&demultiplexer, &datagram(&[0x80, 0, 1, 0])), Ok((Protocol::Esp, 28)));
        assert_eq!(sort(&demultiplexer, &datagram(&[0, 0, 0, 2, 0, 0, 0, 0x40])), Err(DropReason::NotForUs));
        assert_eq!(sort(&demultiplexer, &wesp), Err(DropReason::NotForUs));
        let second = profile(Protocol::WespV2, None);
        demultiplexer.expect(&second, 2);
        assert_eq!(sort(&demultiplexer, &wesp), Ok((Protocol::WespV2, 20)));
        demultiplexer.forget(&second, 1);
        assert_eq!(sort(&demultiplexer, &packet(141, &[0; 8])), Ok((Protocol::WespV2, 20)), "to be refused");
        demultiplexer.expect(&profile(Protocol::Wesp, None), 1);
        assert_eq!(sort(&demultiplexer, &packet(141, &[0; 8])), Ok((Protocol::Wesp, 20)));
        demultiplexer.forget(&second, 1);
        assert_eq!(sort(&demultiplexer, &wesp), Ok((Protocol::Wesp, 20)));
    }

    #[test]
    fn the_first_bit_and_the_marker_decide_in_udp() {
        let mut demultiplexer = Demultiplexer::new(&[4500]);
        let (eesp, second) = (profile(Protocol::Eesp, Some(4500)), profile(Protocol::WespV2, Some(4500)));
        demultiplexer.expect(&eesp, 1);
        assert_eq!(sort(&demultiplexer, &datagram(&[0x80, 0, 1, 0])), Ok((Protocol::Eesp, 28)));
        assert_eq!(sort(&demultiplexer, &datagram(&[0x70, 0, 1, 0])), Ok((Protocol::Esp, 28)));
        assert_eq!(sort(&demultiplexer, &datagram(&[0, 0, 0, 2, 0, 0, 0, 0x40])), Err(DropReason::NotForUs));
        demultiplexer.expect(&second, 1);
        assert_eq!(sort(&demultiplexer, &datagram(&[0, 0, 0, 2, 0, 0, 0, 0x40])), Ok((Protocol::WespV2, 32)));
        demultiplexer.forget(&eesp, 1);
        assert_eq!(sort(&demultiplexer, &datagram(&[0x80, 0, 1, 0])), Ok((Protocol::Esp, 28)));
        assert_eq!(sort(&demultiplexer, &packet(253, &[0x80; 8])), Err(DropReason::NotForUs));
    }
}
