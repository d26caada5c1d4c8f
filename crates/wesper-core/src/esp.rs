//! ESP: header, IV, trailer and ICV around a payload, in place, and off again (RFC 4303 §2, §3.3, §3.4).
//!
//! No state and no clock: the sequence number, the IV and the key come in.

use crate::aead::{Associated, Context, Nonce, OpenError, SealError};
use crate::form::{Arrived, Content, KeyOf, Numbering};
use crate::suite::{Cipher, Suite};
use crate::verdict::DropReason;

/// ESP's number in an IP header.
pub const IP_PROTOCOL: u8 = 50;
/// SPI and sequence number.
pub const HEADER: usize = 8;
/// Pad Length and Next Header.
pub(crate) const TRAILER: usize = 2;

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
    /// The IV is the sequence number, sent, and the ICV the cipher's own; no padding but to 32-bit words.
    is_usual: bool,
    iv_octets: u8,
    icv_octets: u8,
    /// The ciphertext is a multiple of this and one more: a mask.
    block_mask: u8,
}

/// What a protocol around ESP changes of its cryptography.
#[derive(Clone, Copy)]
pub(crate) struct Wrap<'a> {
    /// Authenticated in front of ESP's header: up to 64 octets.
    pub(crate) before: &'a [u8],
    /// Octets of the payload that are authenticated and not encrypted: up to 252.
    pub(crate) clear: usize,
}

impl Wrap<'_> {
    /// ESP as it is.
    pub(crate) const NONE: Wrap<'static> = Wrap { before: &[], clear: 0 };

    #[inline(always)]
    fn is_none(self) -> bool {
        self.before.is_empty() && self.clear == 0
    }
}

/// Most octets that are authenticated besides a body: WESPv2's header, SPI, sequence number, clear octets.
const WRAPPED: usize = 64 + 12 + 252;

/// What is known of a packet before it is sealed, or from its header.
#[derive(Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) spi: u32,
    /// All 64 bits.
    pub(crate) sequence: u64,
    pub(crate) salt: [u8; 4],
}

impl Numbers {
    /// SPI and low half, as sent.
    #[inline(always)]
    fn header(&self) -> [u8; HEADER] {
        (u64::from(self.spi) << 32 | self.sequence & 0xffff_ffff).to_be_bytes()
    }

    /// SPI and the whole sequence number, then four octets of no meaning.
    #[inline(always)]
    fn extended(&self) -> [u8; 16] {
        (u128::from(self.spi) << 96 | u128::from(self.sequence) << 32).to_be_bytes()
    }
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
            is_usual: suite.iv_octets == 8 && suite.salt_octets == 4 && !separate,
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

    /// Says whether the suite encrypts and authenticates in one.
    pub(crate) fn is_combined(&self) -> bool {
        self.suite.mac.is_none() && self.suite.cipher != Cipher::AesGmac
    }

    /// Says whether [`Self::frame_usual`] and [`Self::usual_input`] do for this suite.
    #[inline(always)]
    pub(crate) fn is_usual(&self) -> bool {
        self.is_usual
    }

    /// Octets in front of the ciphertext.
    #[inline(always)]
    pub(crate) fn front_octets(&self) -> usize {
        HEADER + usize::from(self.iv_octets)
    }

    /// Octets behind the ciphertext.
    #[inline(always)]
    pub(crate) fn icv_octets(&self) -> usize {
        self.icv_octets.into()
    }

    /// Octets of a packet around a payload: header, IV, the least padding, trailer and ICV.
    ///
    /// clear: octets of the payload that are not encrypted, at most all of it: whole blocks are behind them.
    #[inline(always)]
    pub(crate) fn octets_around(&self, payload: usize, clear: usize) -> usize {
        let mask = usize::from(self.block_mask);
        let padded = (payload - clear + TRAILER + mask) & !mask;
        self.front_octets() + clear + padded + usize::from(self.icv_octets)
    }

    /// How the number is sent.
    pub(crate) fn numbering(&self) -> Numbering {
        if self.esn { Numbering::Extended } else { Numbering::Short }
    }

    /// Takes apart the ESP packet that begins at `at`. clear: octets of its payload that are not encrypted.
    ///
    /// Drops: Truncated, without room for IV, trailer and ICV, or whole blocks between them.
    #[inline(always)]
    pub(crate) fn read(&self, body: &[u8], at: usize, clear: usize) -> Result<Arrived, DropReason> {
        let payload_at = at + self.front_octets();
        let mask = usize::from(self.block_mask);
        let sealed = body.len().checked_sub(payload_at + clear + usize::from(self.icv_octets));
        if !sealed.is_some_and(|sealed| sealed > mask && sealed & mask == 0) {
            return Err(DropReason::Truncated);
        }
        let (_, low) = body.get(at..).and_then(locate).ok_or(DropReason::Truncated)?;
        Ok(Arrived {
            number: low.into(),
            esp_at: at,
            payload_at,
            clear,
            flow: 0,
            key: KeyOf::Sa,
            has_crypt_offset: false,
            option: None,
            broken: None,
        })
    }

    /// Takes padding and trailer off an opened packet. Drops: BadPadding.
    #[inline(always)]
    pub(crate) fn content(&self, arrived: &Arrived, body: &[u8], check_padding: bool) -> Result<Content, DropReason> {
        let end = body.len().saturating_sub(usize::from(self.icv_octets));
        // What is in the clear is payload: padding that reaches into it is none.
        let text = body.get(arrived.payload_at + arrived.clear..end).unwrap_or_default();
        let (next_header, payload) = trailer(text, check_padding);
        let octets = payload.ok_or(DropReason::BadPadding)? + arrived.clear;
        Ok(Content { next_header, at: arrived.payload_at, octets })
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
    /// a suite that takes a block, or one that a known answer wants; none else. wrap: [`Wrap::NONE`] for ESP itself.
    #[allow(clippy::too_many_arguments, reason = "it is one packet, and every argument is another part of it")]
    #[inline(always)]
    pub(crate) fn seal(
        &self,
        context: &Context,
        numbers: Numbers,
        iv: Option<[u8; 16]>,
        next_header: u8,
        payload: usize,
        wrap: Wrap<'_>,
        frame: &mut [u8],
    ) -> Result<(), SealError> {
        let (header, rest) = frame.split_first_chunk_mut::<HEADER>().ok_or(SealError::BodyLength)?;
        *header = numbers.header();
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
        let nonce = self.nonce(numbers.salt, iv);
        if wrap.is_none() {
            let front = numbers.extended();
            let associated = match self.around {
                Around::Short => Associated::front(header),
                Around::Extended => Associated::front(&front[..12]),
                Around::Split => Associated { front: header, clear: &[], back: &front[4..8] },
            };
            return context.seal(&nonce, associated, body, icv);
        }
        let (clear, body) = body.split_at_mut_checked(self.clear(wrap)).ok_or(SealError::BodyLength)?;
        self.with_wrapped(wrap, numbers, clear, |associated| context.seal(&nonce, associated, body, icv))
    }

    /// Octets of a payload that its cipher leaves alone; one that encrypts nothing need not be told.
    fn clear(&self, wrap: Wrap<'_>) -> usize {
        if matches!(self.suite.cipher, Cipher::AesGmac | Cipher::Null) { 0 } else { wrap.clear }
    }

    /// Lays out what is authenticated of a packet that is wrapped, and hands it to `then`.
    #[inline(never)]
    fn with_wrapped<T>(
        &self,
        wrap: Wrap<'_>,
        numbers: Numbers,
        clear: &[u8],
        then: impl FnOnce(Associated<'_>) -> T,
    ) -> T {
        let extended = numbers.extended();
        let header = numbers.header();
        let (own, behind): (&[u8], &[u8]) = match self.around {
            Around::Short => (&header, &[]),
            Around::Extended => (&extended[..12], &[]),
            Around::Split => (&header, &extended[4..8]),
        };
        // A separate MAC takes the IV in between, so that the clear octets are apart.
        let (inside, apart) = if self.suite.mac.is_some() { (&[][..], clear) } else { (clear, &[][..]) };
        let mut front = [0; WRAPPED];
        let mut octets = 0;
        for part in [wrap.before, own, inside] {
            if let Some(place) = front.get_mut(octets..octets + part.len()) {
                place.copy_from_slice(part);
                octets += part.len();
            }
        }
        then(Associated { front: front.get(..octets).unwrap_or_default(), clear: apart, back: behind })
    }

    /// Octets of the ciphertext of a form that [is usual](Self::is_usual).
    #[inline(always)]
    pub(crate) fn usual_body(payload: usize) -> usize {
        (payload + TRAILER + 3) & !3
    }

    /// Writes all that stands around a payload but the ICV, for a form that [is usual](Self::is_usual).
    ///
    /// front: header and IV. body: [`Self::usual_body`] octets of a payload of 6 or more. None if the lengths are others.
    #[inline(always)]
    pub(crate) fn frame_usual(
        numbers: Numbers,
        next_header: u8,
        payload: usize,
        front: &mut [u8; USUAL_FRONT],
        body: &mut [u8],
    ) -> Option<()> {
        let header = u64::from(numbers.spi) << 32 | numbers.sequence & 0xffff_ffff;
        *front = (u128::from(header) << 64 | u128::from(numbers.sequence)).to_be_bytes();
        let padding = PADDING.get(body.len().wrapping_sub(payload + TRAILER))?;
        let end = body.last_chunk_mut::<8>()?;
        *end = (u64::from_be_bytes(*end) & !padding.mask | padding.octets | u64::from(next_header)).to_be_bytes();
        Some(())
    }

    /// Returns what the cipher of a form that [is usual](Self::is_usual) wants besides the body.
    ///
    /// iv: as sent.
    #[inline(always)]
    pub(crate) fn usual_input(&self, numbers: Numbers, iv: u64) -> Input {
        let spi = u128::from(numbers.spi) << 96;
        let low = u128::from(numbers.sequence as u32);
        let (front, octets) = match self.esn {
            true => (spi | u128::from(numbers.sequence) << 32, 12),
            false => (spi | low << 64, HEADER as u32),
        };
        let nonce = Nonce::salted(u32::from_be_bytes(numbers.salt), iv);
        Input { nonce, front: front.to_be_bytes(), octets }
    }

    /// The same of ESP behind WESPv2's header without options.
    #[inline(always)]
    pub(crate) fn usual_wespv2_input(&self, numbers: Numbers, iv: u64) -> Input {
        let wrap = u128::from(USUAL_WESPV2) << 96 | u128::from(numbers.spi) << 64;
        let (low, octets) = match self.esn {
            true => (u128::from(numbers.sequence), 16),
            false => (u128::from(numbers.sequence as u32) << 32, 12),
        };
        let nonce = Nonce::salted(u32::from_be_bytes(numbers.salt), iv);
        Input { nonce, front: (wrap | low).to_be_bytes(), octets }
    }

    /// Opens a packet that [`fits`](Self::fits), in place: what comes behind IV is plaintext then.
    #[inline(always)]
    pub(crate) fn open(
        &self,
        context: &Context,
        numbers: Numbers,
        wrap: Wrap<'_>,
        packet: &mut [u8],
    ) -> Result<(), OpenError> {
        let (header, rest) = packet.split_first_chunk_mut::<HEADER>().ok_or(OpenError)?;
        let (iv_place, rest) = rest.split_at_mut_checked(usize::from(self.iv_octets)).ok_or(OpenError)?;
        let iv = match iv_place.len() {
            8 => widen(*iv_place.first_chunk().ok_or(OpenError)?),
            16 => *iv_place.first_chunk().ok_or(OpenError)?,
            _ => widen(self.implicit_iv(numbers.sequence)),
        };
        let body_octets = rest.len().checked_sub(usize::from(self.icv_octets)).ok_or(OpenError)?;
        let (body, icv) = rest.split_at_mut_checked(body_octets).ok_or(OpenError)?;
        let nonce = self.nonce(numbers.salt, iv);
        if wrap.is_none() {
            let front = numbers.extended();
            let associated = match self.around {
                Around::Short => Associated::front(header),
                Around::Extended => Associated::front(&front[..12]),
                Around::Split => Associated { front: header, clear: &[], back: &front[4..8] },
            };
            return context.open(&nonce, associated, body, icv);
        }
        let (clear, body) = body.split_at_mut_checked(self.clear(wrap)).ok_or(OpenError)?;
        self.with_wrapped(wrap, numbers, clear, |associated| context.open(&nonce, associated, body, icv))
    }
}

/// What a combined cipher wants besides the body, in memory well before it does.
///
/// A processor can not load at once what smaller stores have just put together, and would wait for them.
#[derive(Clone, Copy)]
pub(crate) struct Input {
    nonce: Nonce,
    front: [u8; 16],
    octets: u32,
}

impl Input {
    /// Before anything is known.
    pub(crate) const EMPTY: Self = Self { nonce: Nonce::ZERO, front: [0; 16], octets: 0 };

    /// The nonce alone, where what is authenticated stands in the packet. iv: as sent.
    #[inline(always)]
    pub(crate) fn bare(salt: [u8; 4], iv: u64) -> Self {
        Self { nonce: Nonce::salted(u32::from_be_bytes(salt), iv), ..Self::EMPTY }
    }

    /// Encrypts a body, framed, and writes its ICV.
    #[inline(always)]
    pub(crate) fn seal(&self, context: &Context, body: &mut [u8], icv: &mut [u8]) -> Result<(), SealError> {
        context.seal(&self.nonce, self.associated(), body, icv)
    }

    /// The same where `head` is what is authenticated.
    #[inline(always)]
    pub(crate) fn seal_behind(
        &self,
        context: &Context,
        head: &[u8],
        body: &mut [u8],
        icv: &mut [u8],
    ) -> Result<(), SealError> {
        context.seal(&self.nonce, Associated::front(head), body, icv)
    }

    /// Checks the ICV of a body and decrypts it.
    #[inline(always)]
    pub(crate) fn open(&self, context: &Context, body: &mut [u8], icv: &[u8]) -> Result<(), OpenError> {
        context.open(&self.nonce, self.associated(), body, icv)
    }

    /// The same where `head` is what is authenticated.
    #[inline(always)]
    pub(crate) fn open_behind(
        &self,
        context: &Context,
        head: &[u8],
        body: &mut [u8],
        icv: &[u8],
    ) -> Result<(), OpenError> {
        context.open(&self.nonce, Associated::front(head), body, icv)
    }

    #[inline(always)]
    fn associated(&self) -> Associated<'_> {
        Associated::front(self.front.get(..self.octets as usize).unwrap_or_default())
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

/// Reads the trailer of a plaintext: Next Header, and the payload's octets, none if the padding is wrong.
pub(crate) fn trailer(plaintext: &[u8], check_padding: bool) -> (u8, Option<usize>) {
    let Some((rest, &[pad, next_header])) = plaintext.split_last_chunk::<TRAILER>() else { return (0, None) };
    let Some(payload) = rest.len().checked_sub(usize::from(pad)) else { return (next_header, None) };
    let padding = rest.get(payload..).unwrap_or_default();
    // RFC 4303 §2.4: 1, 2, 3, ...
    let whole = !check_padding || (1u8..=255).zip(padding).all(|(number, octet)| number == *octet);
    (next_header, whole.then_some(payload))
}

/// Does what [`trailer`] does where there are up to 3 octets of padding, as they should be; none else.
#[inline(always)]
pub(crate) fn usual_trailer(plaintext: &[u8]) -> Option<(u8, Option<usize>)> {
    let end = *plaintext.last_chunk::<8>()?;
    let [.., pad, next_header] = end;
    let padding = PADDING.get(usize::from(pad))?;
    let payload = plaintext.len() - TRAILER - usize::from(pad);
    (u64::from_be_bytes(end) & padding.mask & !0xff == padding.octets).then_some((next_header, Some(payload)))
}

/// Octets of header and an IV of the usual length.
pub(crate) const USUAL_FRONT: usize = HEADER + 8;
/// The same with WESPv2's header without options.
pub(crate) const USUAL_WESPV2_FRONT: usize = 4 + USUAL_FRONT;
/// Octets of EESP's headers without options, numbered, with an IV of the usual length.
pub(crate) const USUAL_EESP_FRONT: usize = 8 + 8 + 8;
/// WESPv2's header in front of [`USUAL_FRONT`]: no next header (59), HdrLen, no crypt offset, version 1, no options.
pub(crate) const USUAL_WESPV2: u32 = 0x3b14_0040;

/// The trailer with so much padding, among the last eight octets of the plaintext, Next Header left open.
struct Padding {
    octets: u64,
    mask: u64,
}

/// RFC 4303 §2.4: 1, 2, 3, ..., as much as 32-bit words ever need.
const PADDING: [Padding; 4] = [
    Padding { octets: 0, mask: 0xffff },
    Padding { octets: 0x0001_0100, mask: 0x00ff_ffff },
    Padding { octets: 0x0102_0200, mask: 0xffff_ffff },
    Padding { octets: 0x01_0203_0300, mask: 0xff_ffff_ffff },
];

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
