//! ESP: header, IV, trailer and ICV around a payload, in place, and off again (RFC 4303 §2, §3.3, §3.4).
//!
//! No state and no clock: the sequence number, the IV and the key come in.

use crate::aead::{Associated, Context, Nonce, OpenError, SealError};
use crate::suite::{Cipher, Suite};

/// ESP's number in an IP header.
pub const IP_PROTOCOL: u8 = 50;
/// SPI and sequence number.
pub const HEADER: usize = 8;
/// Pad Length and Next Header.
const TRAILER: usize = 2;

/// Returns SPI and low half of the sequence number; none if the packet is too short for them.
#[inline]
pub fn locate(body: &[u8]) -> Option<(u32, u32)> {
    let [a, b, c, d, e, f, g, h] = *body.first_chunk()?;
    Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])))
}

/// Where the IV of a packet comes from, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Iv {
    /// The sequence number, sent (RFC 4106 §3.1).
    Counter,
    /// The sequence number, not sent (RFC 8750).
    Implicit,
    /// A block that nobody can predict, sent (RFC 3602 §3).
    Block,
    /// There is none.
    None,
}

/// What stands around the ciphertext in the ICV's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Around {
    /// SPI, low half (RFC 4106 §5).
    Short,
    /// SPI, high half, low half (RFC 4106 §5).
    Extended,
    /// SPI, low half in front; the high half behind (RFC 4303 §3.3.2.1).
    Split,
}

/// What the packets of an SA look like, apart from keys and numbers.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    suite: &'static Suite,
    iv: Iv,
    around: Around,
    esn: bool,
    iv_octets: u8,
    icv_octets: u8,
    /// The ciphertext is a multiple of this and one more: a mask.
    block_mask: u8,
}

/// What is known of a packet before it is sealed, or from its header.
#[derive(Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) spi: u32,
    /// All 64 bits.
    pub(crate) sequence: u64,
    pub(crate) salt: [u8; 4],
}

impl Form {
    pub(crate) fn new(suite: &'static Suite, esn: bool) -> Self {
        let separate = suite.mac.is_some();
        Self {
            suite,
            iv: match suite.iv_octets {
                _ if suite.has_implicit_iv() => Iv::Implicit,
                0 => Iv::None,
                16 => Iv::Block,
                _ => Iv::Counter,
            },
            around: match (esn, separate) {
                (false, _) => Around::Short,
                (true, false) => Around::Extended,
                (true, true) => Around::Split,
            },
            esn,
            iv_octets: suite.iv_octets as u8,
            icv_octets: suite.icv_octets as u8,
            // RFC 4303 §2.4: whole blocks, and at least whole 32-bit words.
            block_mask: suite.block_octets.max(4) as u8 - 1,
        }
    }

    #[inline(always)]
    pub(crate) fn iv(&self) -> Iv {
        self.iv
    }

    /// Octets in front of the ciphertext.
    #[inline(always)]
    pub(crate) fn front_octets(&self) -> usize {
        HEADER + usize::from(self.iv_octets)
    }

    /// Octets of a packet around a payload: header, IV, the least padding, trailer and ICV.
    #[inline(always)]
    pub(crate) fn octets_around(&self, payload: usize) -> usize {
        let mask = usize::from(self.block_mask);
        let padded = (payload + TRAILER + mask) & !mask;
        self.front_octets() + padded + usize::from(self.icv_octets)
    }

    /// Says whether a packet of so many octets has room for IV, trailer and ICV, and whole blocks between.
    #[inline(always)]
    pub(crate) fn fits(&self, octets: usize) -> bool {
        let mask = usize::from(self.block_mask);
        octets
            .checked_sub(self.front_octets() + usize::from(self.icv_octets))
            .is_some_and(|sealed| sealed > mask && sealed & mask == 0)
    }

    /// Returns the largest payload whose protected form has at most `room` octets.
    pub(crate) fn inner_mtu(&self, room: i64) -> usize {
        let sealed = room - (self.front_octets() + usize::from(self.icv_octets)) as i64;
        let whole = sealed - sealed.rem_euclid(i64::from(self.block_mask) + 1);
        usize::try_from(whole - TRAILER as i64).unwrap_or(0)
    }

    /// The IV that is the sequence number; 32 bits of it where the other end knows no more (RFC 8750 §4).
    #[inline(always)]
    fn implicit_iv(&self, sequence: u64) -> [u8; 8] {
        if self.esn { sequence } else { sequence & 0xffff_ffff }.to_be_bytes()
    }

    #[inline(always)]
    fn nonce(&self, salt: [u8; 4], iv: [u8; 16]) -> Nonce {
        match self.iv {
            Iv::Counter | Iv::Implicit => {
                let [a, b, c, d, e, f, g, h, ..] = iv;
                Nonce::counter(self.suite, salt, [a, b, c, d, e, f, g, h])
            }
            Iv::Block => Nonce::block(iv),
            Iv::None => Nonce::none(),
        }
    }

    /// Protects a payload in place.
    ///
    /// frame: [`Self::octets_around`] the payload, which stands at [`Self::front_octets`]. block: the IV of
    /// a suite that takes a block, or one that a known answer wants; 0 else.
    #[inline(always)]
    pub(crate) fn seal(
        &self,
        context: &Context,
        numbers: Numbers,
        iv: Option<[u8; 16]>,
        next_header: u8,
        payload: usize,
        frame: &mut [u8],
    ) -> Result<(), SealError> {
        let (header, rest) = frame.split_first_chunk_mut::<HEADER>().ok_or(SealError::BodyLength)?;
        let [s0, s1, s2, s3] = numbers.spi.to_be_bytes();
        let [h0, h1, h2, h3, l0, l1, l2, l3] = numbers.sequence.to_be_bytes();
        *header = [s0, s1, s2, s3, l0, l1, l2, l3];
        let iv = match iv {
            Some(iv) => iv,
            None if self.iv == Iv::Implicit => widen(self.implicit_iv(numbers.sequence)),
            None => widen(numbers.sequence.to_be_bytes()),
        };
        let (iv_place, rest) = rest.split_at_mut_checked(usize::from(self.iv_octets)).ok_or(SealError::BodyLength)?;
        match iv_place.len() {
            8 => iv_place.copy_from_slice(&iv[..8]),
            16 => iv_place.copy_from_slice(&iv),
            _ => (),
        }
        let body_octets = rest.len().checked_sub(usize::from(self.icv_octets)).ok_or(SealError::BodyLength)?;
        let (body, icv) = rest.split_at_mut_checked(body_octets).ok_or(SealError::BodyLength)?;
        write_trailer(body.get_mut(payload..).ok_or(SealError::BodyLength)?, next_header);
        let front = [s0, s1, s2, s3, h0, h1, h2, h3, l0, l1, l2, l3];
        let associated = match self.around {
            Around::Short => Associated::front(header),
            Around::Extended => Associated::front(&front),
            Around::Split => Associated { front: header, back: &front[4..8] },
        };
        context.seal(&self.nonce(numbers.salt, iv), associated, body, icv)
    }

    /// Opens a packet that [`fits`](Self::fits), in place: what comes behind IV is plaintext then.
    #[inline(always)]
    pub(crate) fn open(&self, context: &Context, numbers: Numbers, packet: &mut [u8]) -> Result<(), OpenError> {
        let (header, rest) = packet.split_first_chunk_mut::<HEADER>().ok_or(OpenError)?;
        let (iv_place, rest) = rest.split_at_mut_checked(usize::from(self.iv_octets)).ok_or(OpenError)?;
        let iv = match iv_place.len() {
            8 => widen(*iv_place.first_chunk().ok_or(OpenError)?),
            16 => *iv_place.first_chunk().ok_or(OpenError)?,
            _ => widen(self.implicit_iv(numbers.sequence)),
        };
        let body_octets = rest.len().checked_sub(usize::from(self.icv_octets)).ok_or(OpenError)?;
        let (body, icv) = rest.split_at_mut_checked(body_octets).ok_or(OpenError)?;
        let [s0, s1, s2, s3] = numbers.spi.to_be_bytes();
        let [h0, h1, h2, h3, l0, l1, l2, l3] = numbers.sequence.to_be_bytes();
        let front = [s0, s1, s2, s3, h0, h1, h2, h3, l0, l1, l2, l3];
        let associated = match self.around {
            Around::Short => Associated::front(header),
            Around::Extended => Associated::front(&front),
            Around::Split => Associated { front: header, back: &front[4..8] },
        };
        context.open(&self.nonce(numbers.salt, iv), associated, body, icv)
    }

    /// Reads the trailer of an opened packet: Next Header, and the payload's octets, none if the padding is wrong.
    #[inline(always)]
    pub(crate) fn trailer(&self, packet: &[u8], check_padding: bool) -> (u8, Option<usize>) {
        let end = packet.len().saturating_sub(usize::from(self.icv_octets));
        let plaintext = packet.get(self.front_octets()..end).unwrap_or_default();
        let Some((rest, &[pad, next_header])) = plaintext.split_last_chunk::<TRAILER>() else { return (0, None) };
        let Some(payload) = rest.len().checked_sub(usize::from(pad)) else { return (next_header, None) };
        let padding = rest.get(payload..).unwrap_or_default();
        // RFC 4303 §2.4: 1, 2, 3, ...
        let whole = !check_padding || (1u8..=255).zip(padding).all(|(number, octet)| number == *octet);
        (next_header, whole.then_some(payload))
    }
}

/// Returns what stands in front of the ciphertext in the ICV's input, as known answers print it.
///
/// iv: as sent. GMAC authenticates it (RFC 4543 §3.3), and so does a separate MAC.
pub fn associated(suite: &'static Suite, spi: u32, sequence: u64, esn: bool, iv: &[u8]) -> Vec<u8> {
    let mut front = spi.to_be_bytes().to_vec();
    match Form::new(suite, esn).around {
        Around::Extended => front.extend(sequence.to_be_bytes()),
        Around::Short | Around::Split => front.extend((sequence as u32).to_be_bytes()),
    }
    if suite.mac.is_some() || suite.cipher == Cipher::AesGmac {
        front.extend(iv);
    }
    front
}

/// Puts an IV of eight octets in front of zeros.
#[inline(always)]
fn widen(iv: [u8; 8]) -> [u8; 16] {
    (u128::from(u64::from_be_bytes(iv)) << 64).to_be_bytes()
}

/// Fills the space behind a payload: 1, 2, 3, ..., how many, Next Header.
#[inline(always)]
fn write_trailer(space: &mut [u8], next_header: u8) {
    match space {
        [pad, next] => (*pad, *next) = (0, next_header),
        [a, pad, next] => (*a, *pad, *next) = (1, 1, next_header),
        [a, b, pad, next] => (*a, *b, *pad, *next) = (1, 2, 2, next_header),
        [a, b, c, pad, next] => (*a, *b, *c, *pad, *next) = (1, 2, 3, 3, next_header),
        _ => {
            let Some((padding, [pad, next])) = space.split_last_chunk_mut::<TRAILER>() else { return };
            (*pad, *next) = (padding.len() as u8, next_header);
            for (octet, number) in padding.iter_mut().zip(1..) {
                *octet = number;
            }
        }
    }
}

#[cfg(test)]
#[path = "esp_tests.rs"]
mod tests;
