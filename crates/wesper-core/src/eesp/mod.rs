//! EESP: one authenticated header, whole sequence numbers or none, Sub SAs, stateless senders, no trailer; in place.
//!
//! No state and no clock: sequence number, IV and key come in. What EESP does not say of itself is done as in ESP.
//! Source: draft-ietf-ipsecme-eesp-03; EESP-SL-1.

pub mod kdf;

use crate::aead::{Associated, Context, Nonce, OpenError, SealError};
use crate::crypt_offset::{CryptOffset, UNIT};
use crate::esp::{Numbers, USUAL_EESP_FRONT};
use crate::flow_identifier::FlowPolicy;
use crate::form::{Arrived, Content, KeyOf, Located, Numbering, Outgoing, Plan};
use crate::ip::number;
use crate::modes::inner_length;
use crate::options::{Head, Walk};
use crate::profile::{Mode, Profile};
use crate::suite::{Cipher, Suite};
use crate::verdict::DropReason;

use kdf::{Origin, Sskdf};

/// EESP's number in an IP header until it has one (RFC 3692 §2.1).
pub const IP_PROTOCOL: u8 = 253;
/// Octets of the base header without options.
pub const BASE: usize = 8;
/// Octets of the Payload Info Header.
pub const PAYLOAD_INFO: usize = 4;
/// Octets of a sequence number.
pub const NUMBER: usize = 8;
/// First octet: the bit that is always 1, version 0, no reserved bit.
pub const FIRST: u8 = 0x80;
/// The first two octets of a packet without options.
pub(crate) const USUAL_FIRST: u32 = (FIRST as u32) << 8;
/// Type of the Crypt Offset option.
pub const CRYPT_OFFSET: u8 = 2;
/// Type of the option of a stateless sender, of the private range.
pub const STATELESS: u8 = 224;
/// What EESP-SL-1 calls itself in that option.
pub const STATELESS_PROFILE: u8 = 1;
/// Bits of a stateless sender's IV that count; those above are the epoch.
pub const COUNTER_BITS: u32 = 48;
/// Octets of the data of a stateless sender's option.
const STATELESS_DATA: usize = 10;
/// Octets of the Crypt Offset option.
const CRYPT_OFFSET_OPTION: usize = 4;
/// Most padding (§2.6).
const MOST_PADDING: usize = 255;

/// Settings of EESP, which its caller has checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// 64-bit numbers are sent; without, there is no anti-replay.
    pub sequence_numbers: bool,
    /// What a sender leaves readable, in the Crypt Offset option of every packet; none: no such option.
    pub crypt_offset: Option<CryptOffset>,
    /// What this end has announced that it accepts, octets; none: nothing, so the option is forbidden.
    pub max_crypt_offset: Option<u8>,
    /// What the peer has announced, octets.
    pub crypt_offset_limit: u8,
    /// How Session IDs are chosen; with Sub SAs it chooses among these.
    pub session: FlowPolicy,
    /// Sub SAs, the SA's key their root key.
    pub sub_sas: Option<SubSas>,
    /// A stateless group, the SA's key its master keys.
    pub stateless: Option<Stateless>,
    /// Further options, type and data, to be sent in this order; padding comes by itself.
    pub options: Vec<(u8, Vec<u8>)>,
    /// The number in the IP header in front.
    pub ip_protocol: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sequence_numbers: true,
            crypt_offset: None,
            max_crypt_offset: None,
            crypt_offset_limit: 0,
            session: FlowPolicy::default(),
            sub_sas: None,
            stateless: None,
            options: Vec::new(),
            ip_protocol: IP_PROTOCOL,
        }
    }
}

/// Sub SAs of one SA, each with its own key, numbers and window (§2.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubSas {
    /// How their keys come out of the root key.
    pub kdf: Sskdf,
    /// The highest Sub SA ID that this end has announced.
    pub max_id: u16,
    /// The highest that the peer has.
    pub peer_max_id: u16,
    /// Octets of a Sub SA's key, without salt.
    pub key_octets: u8,
    /// UDP source port of Sub SA 1, with those of the others behind it; 0: all have the SA's (§6).
    pub first_port: u16,
}

/// A trust group whose receivers hold master keys and nothing of any sender (EESP-SL-1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stateless {
    /// Who this sender is.
    pub device: u64,
    /// Indexes of the SA's master keys in their order: first the current one, then those that are accepted too.
    pub indexes: Vec<u8>,
}

/// Reads SPI and Session ID of a packet without an SA. Drops: TruncatedHeader, NotEesp, BadVersion, BadReserved.
#[inline]
pub fn locate(body: &[u8]) -> Result<Located, DropReason> {
    let [first, _, c, d, e, f, g, h] = *body.first_chunk::<BASE>().ok_or(DropReason::TruncatedHeader)?;
    match first {
        FIRST => Ok(Located { spi: u32::from_be_bytes([e, f, g, h]), low: 0, flow: u16::from_be_bytes([c, d]) }),
        0..0x80 => Err(DropReason::NotEesp),
        _ if first & 0x78 != 0 => Err(DropReason::BadVersion),
        _ => Err(DropReason::BadReserved),
    }
}

/// What the packets of an SA look like, apart from keys and numbers.
#[derive(Clone)]
pub(crate) struct Form {
    suite: &'static Suite,
    mode: Mode,
    pub(crate) session: FlowPolicy,
    settings: Settings,
    /// Octets of sequence number and IV.
    peer_octets: usize,
    icv_octets: usize,
}

impl Form {
    pub(crate) fn new(profile: &Profile, settings: &Settings) -> Self {
        let suite = profile.cipher();
        Self {
            suite,
            mode: profile.mode,
            session: settings.session,
            settings: settings.clone(),
            peer_octets: suite.iv_octets + if settings.sequence_numbers { NUMBER } else { 0 },
            icv_octets: suite.icv_octets,
        }
    }

    pub(crate) fn numbering(&self) -> Numbering {
        if self.settings.sequence_numbers { Numbering::Whole } else { Numbering::None }
    }

    /// Says whether packets are a tunnel's without options, numbered, under the SA's own key, where IPv4 is in front.
    pub(crate) fn is_bare(&self) -> bool {
        let Settings { sequence_numbers, crypt_offset, sub_sas, stateless, options, .. } = &self.settings;
        let is_plain = crypt_offset.is_none() && sub_sas.is_none() && stateless.is_none() && options.is_empty();
        *sequence_numbers && is_plain && self.mode == Mode::Tunnel
    }

    /// Says whether packets have a Payload Info Header: but for those of a tunnel without crypt offset (§2.8, §3.1.2).
    pub(crate) fn is_full(&self) -> bool {
        self.mode != Mode::Tunnel || self.settings.crypt_offset.is_some()
    }

    pub(crate) fn has_sub_sas(&self) -> bool {
        self.settings.sub_sas.is_some()
    }

    pub(crate) fn flow(&self, flow: u64) -> u64 {
        match self.settings.sub_sas {
            Some(sub_sas) => flow % (u64::from(sub_sas.peer_max_id) + 1),
            None => flow & 0xffff,
        }
    }

    pub(crate) fn source_port(&self, flow: u64, port: u16) -> u16 {
        match self.settings.sub_sas {
            Some(sub_sas) if sub_sas.first_port != 0 && flow != 0 => (u64::from(sub_sas.first_port) + flow - 1) as u16,
            _ => port,
        }
    }

    pub(crate) fn key_of(&self, spi: u32, sequence: u64, flow: u64) -> KeyOf {
        match (&self.settings.sub_sas, &self.settings.stateless) {
            (Some(_), _) => KeyOf::SubSa(flow as u16),
            (_, Some(stateless)) => {
                let epoch = (sequence >> COUNTER_BITS) as u16;
                let index = stateless.indexes.first().copied().unwrap_or(0);
                KeyOf::Origin(index, Origin { spi, device: stateless.device, epoch })
            }
            _ => KeyOf::Sa,
        }
    }

    /// Octets of the options that are not padding.
    fn wanted_octets(&self) -> usize {
        let settings = &self.settings;
        let offset = if settings.crypt_offset.is_some() { CRYPT_OFFSET_OPTION } else { 0 };
        let stateless = if settings.stateless.is_some() { 2 + STATELESS_DATA } else { 0 };
        offset + stateless + settings.options.iter().map(|(_, data)| 2 + data.len()).sum::<usize>()
    }

    /// Octets of headers without options, and of the Payload Info Header if there is one.
    fn around(&self) -> usize {
        BASE + self.peer_octets + if self.is_full() { PAYLOAD_INFO } else { 0 }
    }

    /// Octets of options with padding: the next layer's header begins at a multiple of `unit` octets of EESP (§2.5).
    fn option_octets(&self, unit: usize) -> usize {
        (self.wanted_octets() + self.around()).next_multiple_of(unit) - self.around()
    }

    pub(crate) fn payload_room(&self, version: u8, room: i64) -> usize {
        // Which alignment it will be, the inner packet decides where the IP header in front is IPv4.
        let units: &[usize] = match (version, self.mode) {
            (6, _) => &[8],
            (_, Mode::Transport | Mode::Iptfs) => &[4],
            _ => &[4, 8],
        };
        let options = units.iter().map(|unit| self.option_octets(*unit)).max().unwrap_or(0);
        let left = room - (self.around() + options + self.icv_octets) as i64;
        usize::try_from(left - left.rem_euclid(4)).unwrap_or(0)
    }

    pub(crate) fn plan(&self, out: &Outgoing<'_>) -> Plan {
        let settings = &self.settings;
        let inner = out.shown.map_or(0, |shown| shown.datagram.version);
        let options = self.option_octets(if out.version == 6 || inner == 6 { 8 } else { 4 });
        let around = BASE + options + self.peer_octets;
        let mut head = Head::EMPTY;
        let session = (out.flow as u16).to_be_bytes();
        head.push(&[FIRST, options as u8, session[0], session[1]]);
        head.push(&out.spi.to_be_bytes());
        let mut clear = 0;
        if let Some(policy) = settings.crypt_offset {
            clear = policy.octets(out.shown, PAYLOAD_INFO, settings.crypt_offset_limit.into());
            let word = (around / UNIT) << 10 | (clear / UNIT) << 4;
            head.push_option(CRYPT_OFFSET, &(word as u16).to_be_bytes());
        }
        if let Some(stateless) = &settings.stateless {
            let index = stateless.indexes.first().copied().unwrap_or(0);
            head.push(&[STATELESS, STATELESS_DATA as u8, STATELESS_PROFILE, index]);
            head.push(&stateless.device.to_be_bytes());
        }
        for (kind, data) in &settings.options {
            head.push_option(*kind, data);
        }
        head.pad(options - self.wanted_octets());
        let front = self.around() + options;
        Plan { head, apart: 0, front, octets: front + out.payload.next_multiple_of(4) + self.icv_octets, clear }
    }

    #[inline(always)]
    fn nonce(&self, salt: [u8; 4], sequence: u64, iv: &[u8]) -> Nonce {
        // §2.3.2: an IV that is not sent is the sequence number.
        let iv = iv.first_chunk().copied().unwrap_or(sequence.to_be_bytes());
        Nonce::counter(self.suite, salt, iv)
    }

    /// Protects a payload in place, base header and options being written: see [`crate::form::Form::seal`].
    #[allow(clippy::too_many_arguments, reason = "it is one packet, and every argument is another part of it")]
    pub(crate) fn seal(
        &self,
        context: &Context,
        numbers: Numbers,
        iv: Option<[u8; 16]>,
        next_header: u8,
        payload: usize,
        plan: &Plan,
        frame: &mut [u8],
    ) -> Result<(), SealError> {
        let short = SealError::BodyLength;
        let end = frame.len().checked_sub(self.icv_octets).ok_or(short)?;
        let (text, icv) = frame.split_at_mut_checked(end).ok_or(short)?;
        let payload_at = plan.head.octets().len() + self.peer_octets;
        let (head, body) = text.split_at_mut_checked(payload_at).ok_or(short)?;
        let peer = head.get_mut(plan.head.octets().len()..).ok_or(short)?;
        let (number, iv_place) = peer.split_at_mut_checked(peer.len() - self.suite.iv_octets).ok_or(short)?;
        let sequence = numbers.sequence.to_be_bytes();
        number.copy_from_slice(sequence.get(..number.len()).ok_or(short)?);
        let sent = iv.and_then(|iv| iv.first_chunk().copied()).unwrap_or(sequence);
        iv_place.copy_from_slice(sent.get(..iv_place.len()).ok_or(short)?);
        let nonce = self.nonce(numbers.salt, numbers.sequence, iv_place);
        let padding = body.get_mut(plan.front - payload_at + payload..).ok_or(short)?;
        // §2.6: zeros.
        padding.fill(0);
        let padding = padding.len() as u8;
        if let Some(place) = body.first_chunk_mut::<PAYLOAD_INFO>().filter(|_| self.is_full()) {
            *place = [0, 0, next_header, padding];
        }
        let (associated, body_at) = self.authenticated(payload_at, plan.clear);
        let (head, body) = text.split_at_mut_checked(body_at).ok_or(short)?;
        context.seal(&nonce, Associated::front(head.get(..associated).ok_or(short)?), body, icv)
    }

    /// Returns how many octets of a packet are authenticated in front of the body, and where the body begins.
    #[inline(always)]
    fn authenticated(&self, payload_at: usize, clear: usize) -> (usize, usize) {
        match self.suite.cipher {
            // It takes the IV from the nonce (RFC 4543 §3.3), and encrypts nothing.
            Cipher::AesGmac => (payload_at.saturating_sub(self.suite.iv_octets), payload_at),
            _ => (payload_at + clear, payload_at + clear),
        }
    }

    /// Checks all that needs no key, of a packet that [`locate`] has read.
    ///
    /// Drops: BadOptlen, BadSession, BadOption, NoSa, BadPayloadOffset, Truncated, BadCryptOffset.
    pub(crate) fn read(&self, body: &[u8]) -> Result<Arrived, DropReason> {
        let [_, options, c, d, e, f, g, h] = *body.first_chunk::<BASE>().ok_or(DropReason::BadOptlen)?;
        let options = usize::from(options);
        let (session, spi) = (u16::from_be_bytes([c, d]), u32::from_be_bytes([e, f, g, h]));
        let payload_at = BASE + options + self.peer_octets;
        let content = body.len().checked_sub(payload_at + self.icv_octets);
        let content = content.filter(|_| options.is_multiple_of(4)).ok_or(DropReason::BadOptlen)?;
        let settings = &self.settings;
        if settings.sub_sas.is_some_and(|sub_sas| session > sub_sas.max_id) {
            return Err(DropReason::BadSession);
        }
        let (area, peer) =
            body.get(BASE..payload_at).and_then(|rest| rest.split_at_checked(options)).unwrap_or_default();
        let found = Found::walk(area)?;
        let iv = peer.get(self.peer_octets - self.suite.iv_octets..).unwrap_or_default();
        let key = self.key(session, spi, &found, iv)?;
        let mut arrived = Arrived {
            number: peer
                .first_chunk()
                .filter(|_| settings.sequence_numbers)
                .map_or(0, |number| u64::from_be_bytes(*number)),
            esp_at: 0,
            payload_at,
            clear: 0,
            flow: session.into(),
            key,
            has_crypt_offset: found.crypt_offset.is_some(),
            option: None,
            broken: None,
        };
        if let Some(data) = found.crypt_offset {
            if found.crypt_offsets > 1 {
                return Err(DropReason::BadOption);
            }
            let word = u16::from_be_bytes(data.try_into().map_err(|_| DropReason::BadOption)?);
            arrived.clear = UNIT * usize::from(word >> 4 & 0x3f);
            if UNIT * usize::from(word >> 10) != payload_at {
                return Err(DropReason::BadPayloadOffset);
            }
            // §3.1.2: it should be processed nevertheless, so that the SA can go if the packet is the peer's.
            if settings.max_crypt_offset.is_none_or(|most| arrived.clear > most.into()) {
                arrived.broken = Some(DropReason::BadCryptOffset);
            }
        }
        if content == 0 || !content.is_multiple_of(4) {
            return Err(DropReason::Truncated);
        }
        if arrived.clear > content {
            return Err(DropReason::BadCryptOffset);
        }
        Ok(arrived)
    }

    /// Returns whose keys a packet has.
    fn key(&self, session: u16, spi: u32, found: &Found<'_>, iv: &[u8]) -> Result<KeyOf, DropReason> {
        if self.settings.sub_sas.is_some() {
            return Ok(KeyOf::SubSa(session));
        }
        let Some(stateless) = &self.settings.stateless else { return Ok(KeyOf::Sa) };
        let data = found.stateless.filter(|_| found.statelesses == 1).unwrap_or_default();
        let data: [u8; STATELESS_DATA] = data.try_into().map_err(|_| DropReason::BadOption)?;
        let [profile, index, device @ ..] = data;
        if profile != STATELESS_PROFILE || !stateless.indexes.contains(&index) {
            return Err(DropReason::NoSa);
        }
        let epoch = u16::from_be_bytes(*iv.first_chunk().ok_or(DropReason::BadOption)?);
        Ok(KeyOf::Origin(index, Origin { spi, device: u64::from_be_bytes(device), epoch }))
    }

    /// Opens a packet that [`read`](Self::read) took, in place.
    pub(crate) fn open(
        &self,
        context: &Context,
        numbers: Numbers,
        arrived: &Arrived,
        body: &mut [u8],
    ) -> Result<(), OpenError> {
        let end = body.len().checked_sub(self.icv_octets).ok_or(OpenError)?;
        let (text, icv) = body.split_at_mut_checked(end).ok_or(OpenError)?;
        let iv_at = arrived.payload_at - self.suite.iv_octets;
        let nonce = self.nonce(numbers.salt, arrived.number, text.get(iv_at..arrived.payload_at).ok_or(OpenError)?);
        let (associated, body_at) = self.authenticated(arrived.payload_at, arrived.clear);
        let (head, body) = text.split_at_mut_checked(body_at).ok_or(OpenError)?;
        context.open(&nonce, Associated::front(head.get(..associated).ok_or(OpenError)?), body, icv)
    }

    /// Finds the payload in an authentic packet (§2.4, §2.6).
    ///
    /// Drops: what the packet broke, FormatMismatch, BadPayloadInfo, BadPadding, BadCryptOffset, BadInner.
    pub(crate) fn content(&self, arrived: &Arrived, body: &[u8], check_padding: bool) -> Result<Content, DropReason> {
        if let Some(reason) = arrived.broken {
            return Err(reason);
        }
        let end = body.len().saturating_sub(self.icv_octets);
        let text = body.get(arrived.payload_at..end).unwrap_or_default();
        self.text_content(arrived.payload_at, arrived.clear, arrived.has_crypt_offset, text, check_padding)
    }

    /// The same of what stands between IV and ICV, which begins at `at`.
    #[inline(always)]
    pub(crate) fn text_content(
        &self,
        at: usize,
        clear: usize,
        has_crypt_offset: bool,
        text: &[u8],
        check_padding: bool,
    ) -> Result<Content, DropReason> {
        let nibble = text.first().map_or(0, |first| first >> 4);
        let is_tunnel = self.mode == Mode::Tunnel;
        if is_tunnel && !has_crypt_offset {
            if nibble != 0 {
                return optimized(at, text, check_padding);
            }
            if self.settings.max_crypt_offset.is_none() {
                return Err(DropReason::FormatMismatch);
            }
        }
        if nibble != 0 {
            let is_packet = is_tunnel && matches!(nibble, 4 | 6);
            return Err(if is_packet { DropReason::FormatMismatch } else { DropReason::BadPayloadInfo });
        }
        self.full(at, clear, text, check_padding)
    }

    /// The format with a Payload Info Header.
    #[inline(never)]
    fn full(&self, at: usize, clear: usize, text: &[u8], check_padding: bool) -> Result<Content, DropReason> {
        let [_, _, next_header, padding] = *text.first_chunk().ok_or(DropReason::BadPadding)?;
        let end = text.len().checked_sub(padding.into()).filter(|end| *end >= PAYLOAD_INFO);
        let end = end.ok_or(DropReason::BadPadding)?;
        check_zeros(text.get(end..), check_padding)?;
        if clear > end {
            return Err(DropReason::BadCryptOffset);
        }
        let payload = text.get(PAYLOAD_INFO..end).unwrap_or_default();
        if next_header != number::NO_NEXT_HEADER {
            if self.mode == Mode::Tunnel && inner_length(next_header, payload) != Some(payload.len()) {
                return Err(DropReason::BadInner);
            }
            // RFC 9347 §2.3: nothing else.
            if self.mode == Mode::Iptfs && next_header != number::AGGFRAG {
                return Err(DropReason::BadPayloadInfo);
            }
        }
        Ok(Content { next_header, at: at + PAYLOAD_INFO, octets: payload.len() })
    }
}

/// The options that mean something to a receiver, and how often they are there.
#[derive(Clone, Copy, Default)]
struct Found<'a> {
    crypt_offset: Option<&'a [u8]>,
    crypt_offsets: usize,
    stateless: Option<&'a [u8]>,
    statelesses: usize,
}

impl<'a> Found<'a> {
    /// Reads all options: those that are not known are skipped. Drops: BadOption.
    fn walk(area: &'a [u8]) -> Result<Self, DropReason> {
        let mut found = Self::default();
        for option in Walk::new(area) {
            let option = option.map_err(|_| DropReason::BadOption)?;
            let (place, count) = match option.kind {
                CRYPT_OFFSET => (&mut found.crypt_offset, &mut found.crypt_offsets),
                STATELESS => (&mut found.stateless, &mut found.statelesses),
                _ => continue,
            };
            *place = Some(option.data);
            *count += 1;
        }
        Ok(found)
    }
}

/// Writes all that stands around an inner packet but the ICV, for a packet without options, numbered, IV sent.
///
/// body: the packet, filled up to whole 32-bit words. None if a length is another.
#[inline(always)]
pub(crate) fn frame_usual(
    numbers: Numbers,
    session: u16,
    payload: usize,
    front: &mut [u8; USUAL_EESP_FRONT],
    body: &mut [u8],
) -> Option<()> {
    let (base, peer) = front.split_first_chunk_mut::<BASE>()?;
    *base = (u64::from(FIRST) << 56 | u64::from(session) << 32 | u64::from(numbers.spi)).to_be_bytes();
    let sequence = u128::from(numbers.sequence);
    *peer.first_chunk_mut()? = (sequence << 64 | sequence).to_be_bytes();
    let padding = body.len().checked_sub(payload).filter(|padding| *padding < 4)?;
    let end = body.last_chunk_mut::<4>()?;
    *end = (u32::from_be_bytes(*end) & (u64::from(u32::MAX) << (8 * padding)) as u32).to_be_bytes();
    Some(())
}

/// Does what a form's content does where there is a packet without a Payload Info Header and up to 3 zeros behind it, as
/// 32-bit words want them; none else.
#[inline(always)]
pub(crate) fn usual_content(text: &[u8]) -> Option<Content> {
    let next_header = match text.first()? >> 4 {
        4 => number::IPV4,
        6 => number::IPV6,
        _ => return None,
    };
    let octets = inner_length(next_header, text)?;
    let padding = text.len() - octets;
    let end = u32::from_be_bytes(*text.last_chunk()?);
    let mask = !(u64::from(u32::MAX) << (8 * padding.min(4))) as u32;
    (padding < 4 && end & mask == 0).then_some(Content { next_header, at: 0, octets })
}

/// The format without a Payload Info Header: the inner packet says what and how long it is.
pub(crate) fn optimized(at: usize, text: &[u8], check_padding: bool) -> Result<Content, DropReason> {
    let next_header = match text.first().map_or(0, |first| first >> 4) {
        4 => number::IPV4,
        6 => number::IPV6,
        _ => return Err(DropReason::BadInner),
    };
    let octets = inner_length(next_header, text).ok_or(DropReason::BadInner)?;
    if text.len() - octets > MOST_PADDING {
        return Err(DropReason::BadPadding);
    }
    check_zeros(text.get(octets..), check_padding)?;
    Ok(Content { next_header, at, octets })
}

#[inline(always)]
fn check_zeros(padding: Option<&[u8]>, check_padding: bool) -> Result<(), DropReason> {
    let good = !check_padding || padding.is_some_and(|padding| padding.iter().all(|octet| *octet == 0));
    if good { Ok(()) } else { Err(DropReason::BadPadding) }
}
