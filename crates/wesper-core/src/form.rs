//! What the packets of an SA look like, whatever its protocol: the way out is planned and sealed, the way in is
//! located, read, opened and taken apart.
//!
//! Usual packets do not come here: sender and receiver have a straight line for them.

use crate::aead::{Context, OpenError, SealError};
use crate::crypt_offset::Shown;
use crate::eesp;
use crate::eesp::kdf::Origin;
use crate::esp::{self, Iv, Numbers, Wrap};
use crate::flow_identifier::FlowPolicy;
use crate::options::Head;
use crate::profile::{Format, Profile};
use crate::protocol::Protocol;
use crate::verdict::DropReason;
use crate::wesp;
use crate::wespv2;

/// What an arriving packet shows without an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Security Parameters Index.
    pub spi: u32,
    /// Low half of the sequence number; 0 where only the SA tells where it stands.
    pub low: u32,
    /// EESP's Session ID, else 0.
    pub flow: u16,
}

/// A payload that is to be protected.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) spi: u32,
    /// Session ID or flow identifier, cut to what there is room for.
    pub(crate) flow: u64,
    pub(crate) next_header: u8,
    /// Octets, TFC padding included.
    pub(crate) payload: usize,
    /// None for dummies and AGGFRAG payloads.
    pub(crate) shown: Option<Shown<'a>>,
    /// Of the IP header in front.
    pub(crate) version: u8,
    pub(crate) in_udp: bool,
}

/// What stands around a payload: worked out before anything is written.
pub(crate) struct Plan {
    /// UDP's marker, the protocol's header and options, up to ESP's header or EESP's sequence number.
    pub(crate) head: Head,
    /// Octets of the head that are not authenticated: the marker, or all of WESP's.
    pub(crate) apart: usize,
    /// Octets in front of the payload, the head included.
    pub(crate) front: usize,
    /// Octets of all.
    pub(crate) octets: usize,
    /// Octets behind the IV that are not encrypted.
    pub(crate) clear: usize,
}

/// Whose keys a packet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum KeyOf {
    /// The SA's own.
    Sa,
    /// Those of a Sub SA.
    SubSa(u16),
    /// Those of a stateless sender, with the group's root keys of this index.
    Origin(u8, Origin),
}

impl KeyOf {
    /// The Sub SA whose keys they are; none: no Sub SA's.
    #[inline(always)]
    pub(crate) fn sub_sa(self) -> Option<u16> {
        match self {
            Self::SubSa(id) => Some(id),
            _ => None,
        }
    }
}

/// How the number of a packet is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbering {
    /// All 32 bits.
    Short,
    /// The low half of 64 bits.
    Extended,
    /// All 64 bits; 0 is never sent.
    Whole,
    /// Not at all.
    None,
}

/// A packet that has passed all checks that need no key. Places count from the protocol's first octet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    /// As sent.
    pub(crate) number: u64,
    /// ESP's first octet, for those around it.
    pub(crate) esp_at: usize,
    /// First octet behind the IV.
    pub(crate) payload_at: usize,
    /// Octets from there on that are not encrypted.
    pub(crate) clear: usize,
    /// Session ID or flow identifier.
    pub(crate) flow: u64,
    pub(crate) key: KeyOf,
    /// An option says where encryption begins.
    pub(crate) has_crypt_offset: bool,
    /// An option that is not known and not to be skipped: its type, and where it stands.
    pub(crate) option: Option<(u8, usize)>,
    /// The peer broke what was agreed on: a drop, once the ICV has held.
    pub(crate) broken: Option<DropReason>,
}

impl Arrived {
    /// Whether it has an unknown option that asks for an ICMP message, if only where it did not go to a group.
    #[inline]
    pub(crate) fn asks_for_message(&self) -> bool {
        self.option.is_some_and(|(kind, _)| kind & 0x80 != 0)
    }
}

/// Where the payload of an authentic packet is, from the protocol's first octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) next_header: u8,
    pub(crate) at: usize,
    pub(crate) octets: usize,
}

/// The packets of one profile, apart from keys and numbers.
#[derive(Clone)]
pub(crate) enum Form {
    Esp(esp::Form),
    Wesp(wesp::Form),
    WespV2(Box<wespv2::Form>),
    Eesp(Box<eesp::Form>),
}

impl Form {
    pub(crate) fn new(profile: &Profile) -> Self {
        let suite = profile.cipher();
        match (&profile.format, profile.protocol) {
            (Format::WespV2(settings), _) => Self::WespV2(Box::new(wespv2::Form::new(profile, settings))),
            (Format::Eesp(settings), _) => Self::Eesp(Box::new(eesp::Form::new(profile, settings))),
            (Format::Plain, Protocol::Wesp) => Self::Wesp(wesp::Form::new(suite, profile.esn)),
            (Format::Plain, _) => Self::Esp(esp::Form::new(suite, profile.esn)),
        }
    }

    pub(crate) fn numbering(&self) -> Numbering {
        match self {
            Self::Esp(form) | Self::Wesp(wesp::Form { esp: form, .. }) => form.numbering(),
            Self::WespV2(form) => form.esp.numbering(),
            Self::Eesp(form) => form.numbering(),
        }
    }

    /// Where the IV comes from.
    pub(crate) fn iv(&self) -> Iv {
        match self {
            Self::Esp(form) | Self::Wesp(wesp::Form { esp: form, .. }) => form.iv(),
            Self::WespV2(form) => form.esp.iv(),
            Self::Eesp(_) => Iv::Counter,
        }
    }

    /// Returns the largest payload that surely fits into `room` octets, a UDP header not counted.
    pub(crate) fn payload_room(&self, version: u8, in_udp: bool, room: i64) -> usize {
        let marker = if in_udp && self.has_marker() { wesp::MARKER.len() as i64 } else { 0 };
        match self {
            Self::Esp(form) => form.inner_mtu(room),
            Self::Wesp(form) => form.payload_room(version, in_udp, room - marker),
            Self::WespV2(form) => form.payload_room(version, in_udp, room - marker),
            Self::Eesp(form) => form.payload_room(version, room),
        }
    }

    /// Says whether a marker comes between UDP and this protocol (RFC 5840 §2.1).
    fn has_marker(&self) -> bool {
        matches!(self, Self::Wesp(_) | Self::WespV2(_))
    }

    /// Says whether octets behind a packet are padding that the peer cuts off (RFC 4303 §2.7).
    pub(crate) fn takes_tfc(&self) -> bool {
        !matches!(self, Self::Eesp(_))
    }

    /// Says whether there is a way to tell the peer to throw a packet away.
    pub(crate) fn takes_dummies(&self, is_tunnel: bool) -> bool {
        match self {
            // The format of tunnels has no Next Header to say it with.
            Self::Eesp(form) => form.is_full(),
            _ => is_tunnel,
        }
    }

    /// Says whether there are Sub SAs, named by a packet's flow.
    pub(crate) fn has_sub_sas(&self) -> bool {
        match self {
            Self::Eesp(form) => form.has_sub_sas(),
            _ => false,
        }
    }

    /// How flows are named, none if they are not.
    pub(crate) fn flow_policy(&self) -> Option<FlowPolicy> {
        match self {
            Self::WespV2(form) => form.flow_policy(),
            Self::Eesp(form) => Some(form.session),
            _ => None,
        }
    }

    /// Returns as much of a flow's identifier as there is room for.
    pub(crate) fn flow(&self, flow: u64) -> u64 {
        match self {
            Self::WespV2(form) => form.flow(flow),
            Self::Eesp(form) => form.flow(flow),
            _ => 0,
        }
    }

    /// Returns the UDP source port of a flow, `port` if it has none of its own.
    pub(crate) fn source_port(&self, flow: u64, port: u16) -> u16 {
        match self {
            Self::Eesp(form) => form.source_port(flow, port),
            _ => port,
        }
    }

    /// Returns whose keys an outgoing packet has.
    pub(crate) fn key_of(&self, spi: u32, sequence: u64, flow: u64) -> KeyOf {
        match self {
            Self::Eesp(form) => form.key_of(spi, sequence, flow),
            _ => KeyOf::Sa,
        }
    }

    /// Works out what stands around a payload.
    pub(crate) fn plan(&self, out: &Outgoing<'_>) -> Plan {
        match self {
            Self::Esp(form) => {
                let (front, octets) = (form.front_octets(), form.octets_around(out.payload, 0));
                Plan { head: Head::EMPTY, apart: 0, front, octets, clear: 0 }
            }
            Self::Wesp(form) => form.plan(out),
            Self::WespV2(form) => form.plan(out),
            Self::Eesp(form) => form.plan(out),
        }
    }

    /// Protects a payload in place.
    ///
    /// frame: the plan's octets, the payload at its place. iv: of a suite that takes a block, or one that a known answer
    /// wants; none else.
    #[allow(clippy::too_many_arguments, reason = "it is one packet, and every argument is another part of it")]
    #[inline]
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
        let head = plan.head.octets();
        frame.get_mut(..head.len()).ok_or(SealError::BodyLength)?.copy_from_slice(head);
        let esp = match self {
            Self::Esp(form) | Self::Wesp(wesp::Form { esp: form, .. }) => form,
            Self::WespV2(form) => &form.esp,
            Self::Eesp(form) => return form.seal(context, numbers, iv, next_header, payload, plan, frame),
        };
        let wrap = Wrap { before: head.get(plan.apart..).unwrap_or_default(), clear: plan.clear };
        let frame = frame.get_mut(head.len()..).ok_or(SealError::BodyLength)?;
        esp.seal(context, numbers, iv, next_header, payload, wrap, frame)
    }

    /// Checks all that needs no key, of a packet that [`Protocol::locate`] has read.
    ///
    /// version: of the IP header in front.
    #[inline]
    pub(crate) fn read(&self, body: &[u8], version: u8, in_udp: bool) -> Result<Arrived, DropReason> {
        match self {
            Self::Esp(form) => form.read(body, 0, 0),
            Self::Wesp(form) => form.read(body, version, in_udp),
            Self::WespV2(form) => form.read(body, version, in_udp),
            Self::Eesp(form) => form.read(body),
        }
    }

    /// Opens a packet that [`read`](Self::read) took, in place.
    #[inline]
    pub(crate) fn open(
        &self,
        context: &Context,
        numbers: Numbers,
        arrived: &Arrived,
        body: &mut [u8],
    ) -> Result<(), OpenError> {
        let (form, is_wrapped) = match self {
            Self::Esp(form) => (form, false),
            Self::Wesp(form) => (&form.esp, false),
            Self::WespV2(form) => (&form.esp, true),
            Self::Eesp(form) => return form.open(context, numbers, arrived, body),
        };
        let (before, esp) = body.split_at_mut_checked(arrived.esp_at).ok_or(OpenError)?;
        let wrap = if is_wrapped { Wrap { before, clear: arrived.clear } } else { Wrap::NONE };
        form.open(context, numbers, wrap, esp)
    }

    /// Finds the payload in what an authentic EESP packet without options carries.
    #[inline(never)]
    pub(crate) fn bare_content(&self, text: &[u8], check_padding: bool) -> Result<Content, DropReason> {
        match self {
            Self::Eesp(form) => form.text_content(0, 0, false, text, check_padding),
            _ => Err(DropReason::BadInner),
        }
    }

    /// Finds the payload in an authentic packet; dummies are the caller's to see.
    ///
    /// Drops: BadPadding, UnknownOption, BadNextHeader, BadCryptOffset, FormatMismatch, BadPayloadInfo, BadInner.
    #[inline]
    pub(crate) fn content(&self, arrived: &Arrived, body: &[u8], check_padding: bool) -> Result<Content, DropReason> {
        match self {
            Self::Esp(form) => form.content(arrived, body, check_padding),
            Self::Wesp(form) => {
                let content = form.esp.content(arrived, body, check_padding)?;
                if wesp::Form::agrees(body, content.next_header) { Ok(content) } else { Err(DropReason::BadNextHeader) }
            }
            Self::WespV2(form) => form.content(arrived, body, check_padding),
            Self::Eesp(form) => form.content(arrived, body, check_padding),
        }
    }
}
