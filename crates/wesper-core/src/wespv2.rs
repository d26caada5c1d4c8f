//! WESPv2: an authenticated header in front of ESP, with options and a payload that may begin in the clear.
//!
//! Source: draft-klassert-ipsecme-wespv2-01.

use crate::crypt_offset::{CryptOffset, Exposure, UNIT};
use crate::esp;
use crate::flow_identifier::FlowPolicy;
use crate::form::{Arrived, Content, Located, Outgoing, Plan};
use crate::ip::number;
use crate::modes::inner_length;
use crate::options::{Head, Walk};
use crate::profile::{Mode, Profile};
use crate::verdict::DropReason;
use crate::wesp::MARKER;

/// Octets of the header without options.
pub const HEADER: usize = 4;
/// Version in the upper two bits of the fourth octet.
pub const VERSION: u8 = 1;
/// Type of the option that carries a flow identifier; ours, of the private range.
pub const FLOW_IDENTIFIER: u8 = 27;
/// Bits of an option's type that say what to do if it is not known; none of them: skip it (§2.2.2).
const ACTION: u8 = 0xc0;
/// The bit of an option's type that says it may change on its way, which none may (§2.2.2).
const MAY_CHANGE: u8 = 0x20;

/// Settings of WESPv2, which its caller has checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    /// What a sender leaves readable.
    pub crypt_offset: CryptOffset,
    /// What this end has announced that it accepts, octets; 0: none.
    pub max_crypt_offset: u8,
    /// What the peer has announced, octets.
    pub crypt_offset_limit: u8,
    /// How flows are named in the first option, and in how many octets, 4, 6 or 8; none: there is no such option.
    pub flow_identifier: Option<(FlowPolicy, u8)>,
    /// Further options, type and data, to be sent in this order; padding comes by itself.
    pub options: Vec<(u8, Vec<u8>)>,
}

/// Reads SPI and sequence number of a packet without an SA. Drops: TruncatedHeader, BadVersion, BadOptlen.
#[inline]
pub fn locate(body: &[u8]) -> Result<Located, DropReason> {
    let [_, _, _, last, ..] = *body.first_chunk::<{ HEADER + esp::HEADER }>().ok_or(DropReason::TruncatedHeader)?;
    if last >> 6 != VERSION {
        return Err(DropReason::BadVersion);
    }
    let options = option_octets(last);
    let found = body.get(HEADER + options..).filter(|_| options.is_multiple_of(4)).and_then(esp::locate);
    let (spi, low) = found.ok_or(DropReason::BadOptlen)?;
    Ok(Located { spi, low, flow: 0 })
}

/// Octets of the header with its options, by its fourth octet.
pub(crate) fn header_octets(last: u8) -> usize {
    HEADER + option_octets(last)
}

fn option_octets(last: u8) -> usize {
    (last & 0x3f).into()
}

/// What the packets of an SA look like, apart from keys and numbers.
#[derive(Clone)]
pub(crate) struct Form {
    pub(crate) esp: esp::Form,
    settings: Settings,
    is_tunnel: bool,
    /// Whole blocks, and at least 32-bit words.
    block: usize,
}

impl Form {
    pub(crate) fn new(profile: &Profile, settings: &Settings) -> Self {
        let suite = profile.cipher();
        Self {
            esp: esp::Form::new(suite, profile.esn),
            settings: settings.clone(),
            is_tunnel: profile.mode == Mode::Tunnel,
            block: suite.block_octets.max(UNIT),
        }
    }

    /// Says whether packets have neither options nor anything in the clear where IPv4 is in front.
    pub(crate) fn is_bare(&self) -> bool {
        let Settings { crypt_offset, flow_identifier, options, .. } = &self.settings;
        crypt_offset.exposure == Exposure::None && flow_identifier.is_none() && options.is_empty()
    }

    pub(crate) fn flow_policy(&self) -> Option<FlowPolicy> {
        self.settings.flow_identifier.map(|(policy, _)| policy)
    }

    pub(crate) fn flow(&self, flow: u64) -> u64 {
        self.settings.flow_identifier.map_or(0, |(_, octets)| flow & u64::MAX >> (64 - 8 * u32::from(octets)))
    }

    /// Octets of the options that are not padding.
    fn wanted_octets(&self) -> usize {
        let named = self.settings.flow_identifier.map_or(0, |(_, octets)| 2 + usize::from(octets));
        named + self.settings.options.iter().map(|(_, data)| 2 + data.len()).sum::<usize>()
    }

    /// Octets of options with padding: what follows begins at a multiple of 4 or 8 octets of the IP packet (§2.2.2).
    fn option_octets(&self, version: u8, in_udp: bool) -> usize {
        let wanted = self.wanted_octets();
        match (version, in_udp) {
            (6, false) => (wanted + 4).next_multiple_of(8) - 4,
            (6, true) => wanted.next_multiple_of(8),
            _ => wanted.next_multiple_of(4),
        }
    }

    pub(crate) fn payload_room(&self, version: u8, in_udp: bool, room: i64) -> usize {
        let left = room - (HEADER + self.option_octets(version, in_udp)) as i64;
        if self.block == UNIT || self.settings.crypt_offset.exposure == Exposure::None {
            return self.esp.inner_mtu(left);
        }
        // Only what is behind the offset is whole blocks, so the payload that fits depends on it.
        let offsets = (0..self.block).step_by(UNIT);
        offsets.map(|offset| offset + self.esp.inner_mtu(left - offset as i64)).min().unwrap_or(0)
    }

    pub(crate) fn plan(&self, out: &Outgoing<'_>) -> Plan {
        let settings = &self.settings;
        let clear = settings.crypt_offset.octets(out.shown, 0, settings.crypt_offset_limit.into());
        let options = self.option_octets(out.version, out.in_udp);
        let mut head = Head::EMPTY;
        if out.in_udp {
            head.push(&MARKER);
        }
        let apart = head.octets().len();
        let next_header = if clear == 0 { number::NO_NEXT_HEADER } else { out.next_header };
        let header = HEADER + options + self.esp.front_octets();
        // Words of 4 octets in the upper six bits: octets in all eight.
        head.push(&[next_header, header as u8, clear as u8, VERSION << 6 | options as u8]);
        if let Some((_, octets)) = settings.flow_identifier {
            let flow = out.flow.to_be_bytes();
            head.push_option(FLOW_IDENTIFIER, flow.get(8 - usize::from(octets)..).unwrap_or_default());
        }
        for (kind, data) in &settings.options {
            head.push_option(*kind, data);
        }
        head.pad(options - self.wanted_octets());
        let front = apart + header;
        Plan {
            head,
            apart,
            front,
            octets: apart + HEADER + options + self.esp.octets_around(out.payload, clear),
            clear,
        }
    }

    /// Checks all that needs no key, of a packet that [`locate`] has read.
    ///
    /// Drops: BadOptlen, BadHdrlen, BadOption, BadNextHeader, BadCryptOffset, Truncated.
    pub(crate) fn read(&self, body: &[u8], version: u8, in_udp: bool) -> Result<Arrived, DropReason> {
        let [next_header, told, offset, last] = *body.first_chunk().ok_or(DropReason::BadOptlen)?;
        let options = option_octets(last);
        let esp_at = HEADER + options;
        let at = esp_at + self.esp.front_octets();
        let sealed = body.len().checked_sub(at + self.esp.icv_octets()).filter(|sealed| *sealed >= esp::TRAILER);
        let sealed = sealed.ok_or(DropReason::BadOptlen)?;
        // With UDP over IPv6 the marker takes the place of four octets of padding.
        if usize::from(told) != at || (version == 6 && !in_udp && !at.is_multiple_of(8)) {
            return Err(DropReason::BadHdrlen);
        }
        let area = body.get(HEADER..esp_at).ok_or(DropReason::BadOptlen)?;
        let (mut flow, mut unknown) = (0, None);
        for (index, option) in Walk::new(area).enumerate() {
            let option = option.ok().filter(|option| option.kind & MAY_CHANGE == 0).ok_or(DropReason::BadOption)?;
            if index == 0 && option.kind == FLOW_IDENTIFIER && matches!(option.data.len(), 4 | 6 | 8) {
                flow = option.data.iter().fold(0, |flow, octet| flow << 8 | u64::from(*octet));
            }
            if option.kind & ACTION != 0 && unknown.is_none() {
                unknown = Some((option.kind, HEADER + option.at));
            }
        }
        let clear = usize::from(offset & 0xfc);
        if clear == 0 && next_header != number::NO_NEXT_HEADER {
            return Err(DropReason::BadNextHeader);
        }
        if clear > usize::from(self.settings.max_crypt_offset).min(sealed - esp::TRAILER) {
            return Err(DropReason::BadCryptOffset);
        }
        let arrived = self.esp.read(body, esp_at, clear)?;
        Ok(Arrived { flow, option: unknown, ..arrived })
    }

    /// Finds the payload in an authentic packet.
    ///
    /// Drops: UnknownOption, BadPadding, BadNextHeader, BadCryptOffset.
    pub(crate) fn content(&self, arrived: &Arrived, body: &[u8], check_padding: bool) -> Result<Content, DropReason> {
        if arrived.option.is_some() {
            return Err(DropReason::UnknownOption);
        }
        let content = self.esp.content(arrived, body, check_padding)?;
        if arrived.clear == 0 {
            return Ok(content);
        }
        if body.first() != Some(&content.next_header) {
            return Err(DropReason::BadNextHeader);
        }
        let payload = body.get(content.at..content.at + content.octets).unwrap_or_default();
        let total = inner_length(content.next_header, payload).filter(|_| self.is_tunnel);
        if total.is_some_and(|total| arrived.clear > total) {
            return Err(DropReason::BadCryptOffset);
        }
        Ok(content)
    }
}
