//! WESP: a header in front of ESP that says whether its payload is encrypted (RFC 5840).
//!
//! The ICV does not cover the header: the receiver compares all of it with what the SA says (§2).

use crate::esp;
use crate::form::{Arrived, Located, Outgoing, Plan};
use crate::options::Head;
use crate::suite::{Cipher, Suite};
use crate::verdict::DropReason;

/// WESP's number in an IP header.
pub const IP_PROTOCOL: u8 = 141;
/// What stands between a UDP header and WESP: a reserved SPI (§2.1).
pub const MARKER: [u8; 4] = [0, 0, 0, 2];
/// Octets of the header without padding.
pub const HEADER: usize = 4;
/// Octets of the padding that IPv6 needs.
pub const PADDING: usize = 4;
/// Version in the upper two bits of the fourth octet.
pub const VERSION: u8 = 0;
/// The E bit: the payload is encrypted.
const ENCRYPTED: u8 = 0x20;
/// The P bit: padding follows.
const PADDED: u8 = 0x10;

/// Reads SPI and sequence number of a packet without an SA. Drops: TruncatedHeader, BadVersion.
#[inline]
pub fn locate(body: &[u8]) -> Result<Located, DropReason> {
    let head = body.first_chunk::<{ HEADER + esp::HEADER }>().ok_or(DropReason::TruncatedHeader)?;
    if head[3] >> 6 != VERSION {
        return Err(DropReason::BadVersion);
    }
    let (spi, low) = body.get(header_octets(head[3])..).and_then(esp::locate).ok_or(DropReason::TruncatedHeader)?;
    Ok(Located { spi, low, flow: 0 })
}

/// Octets of the header, by its fourth octet.
pub(crate) fn header_octets(flags: u8) -> usize {
    HEADER + if flags & PADDED == 0 { 0 } else { PADDING }
}

/// What the packets of an SA look like, apart from keys and numbers.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    pub(crate) esp: esp::Form,
    encrypts: bool,
}

impl Form {
    pub(crate) fn new(suite: &'static Suite, esn: bool) -> Self {
        let encrypts = !matches!(suite.cipher, Cipher::AesGmac | Cipher::Null);
        Self { esp: esp::Form::new(suite, esn), encrypts }
    }

    fn lengths(&self, header: usize) -> [u8; 2] {
        match self.encrypts {
            true => [0, 0],
            false => [(header + self.esp.front_octets()) as u8, self.esp.icv_octets() as u8],
        }
    }

    /// Octets of the header: padding has to be there with IPv6 and must not be with IPv4; in UDP its marker aligns.
    fn sent_octets(version: u8, in_udp: bool) -> usize {
        HEADER + if version == 6 && !in_udp { PADDING } else { 0 }
    }

    pub(crate) fn payload_room(&self, version: u8, in_udp: bool, room: i64) -> usize {
        self.esp.inner_mtu(room - Self::sent_octets(version, in_udp) as i64)
    }

    pub(crate) fn plan(&self, out: &Outgoing<'_>) -> Plan {
        let octets = Self::sent_octets(out.version, out.in_udp);
        let [header_octets, trailer_octets] = self.lengths(octets);
        let next_header = if self.encrypts { 0 } else { out.next_header };
        let flags = if self.encrypts { ENCRYPTED } else { 0 } | if octets > HEADER { PADDED } else { 0 };
        let mut head = Head::EMPTY;
        if out.in_udp {
            head.push(&MARKER);
        }
        head.push(&[next_header, header_octets, trailer_octets, flags]);
        head.push([0; PADDING].get(..octets - HEADER).unwrap_or_default());
        let around = self.esp.octets_around(out.payload, 0);
        let front = head.octets().len() + self.esp.front_octets();
        let apart = head.octets().len();
        Plan { head, apart, front, octets: apart + around, clear: 0 }
    }

    /// Checks all that needs no key, of a packet that [`locate`] has read.
    ///
    /// Drops: BadEncryptedBit, BadHdrlen, BadTrailerlen, Truncated.
    pub(crate) fn read(&self, body: &[u8], version: u8, in_udp: bool) -> Result<Arrived, DropReason> {
        let [_, told_header, told_trailer, flags] = *body.first_chunk().ok_or(DropReason::Truncated)?;
        if (flags & ENCRYPTED != 0) != self.encrypts {
            return Err(DropReason::BadEncryptedBit);
        }
        let (header, is_padded) = (header_octets(flags), flags & PADDED != 0);
        if (version == 4 && is_padded) || (version == 6 && !in_udp && !is_padded) {
            return Err(DropReason::BadHdrlen);
        }
        let [header_octets, trailer_octets] = self.lengths(header);
        if told_header != header_octets {
            return Err(DropReason::BadHdrlen);
        }
        if told_trailer != trailer_octets {
            return Err(DropReason::BadTrailerlen);
        }
        self.esp.read(body, header, 0)
    }

    /// Compares Next Header in front with the trailer's.
    pub(crate) fn agrees(body: &[u8], next_header: u8) -> bool {
        body.first().is_some_and(|told| *told == 0 || *told == next_header)
    }
}
