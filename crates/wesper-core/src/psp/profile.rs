//! What many PSP associations share: how their packets look.

use super::usual::Usual;
use super::{COOKIE_OCTETS, HEADER_OCTETS, ICV_OCTETS, Version};
use crate::ip::number;
use crate::modes::Template;
use crate::profile::{Df, Outer};
use crate::udp;

/// Where the UDP source port comes from. A flow always has the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourcePort {
    /// Keyed hash of the inner flow, within 49152..65535.
    Hash,
    /// The hash chooses among these.
    Table(Vec<u16>),
    /// Always this one.
    Fixed(u16),
    /// google/psp's: source XOR destination port of TCP and UDP, else 1000; may be any number.
    Xor,
}

/// What is in front of the protected payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The packet's own IP header.
    Transport,
    /// A new one; its flow label, if none is set, comes from the flow's hash.
    Tunnel(Outer),
    /// One made of the inner header, as google/psp does.
    TunnelCopied,
}

/// How packets look. Values are taken as they come: whoever reads a configuration checks them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Transport or tunnel.
    pub mode: Mode,
    /// Cipher and key length.
    pub version: Version,
    /// 0..63, in 4 octets, counted from the end of the IV; 0 for GMAC.
    pub crypt_offset_words: u8,
    /// Virtualization cookie.
    pub cookie: Option<[u8; COOKIE_OCTETS]>,
    /// Octets behind the cookie, a multiple of 8; header and all within 2048 octets.
    pub extension: Vec<u8>,
    /// UDP destination port.
    pub port: u16,
    /// UDP source port.
    pub source_port: SourcePort,
    /// Whether UDP's checksum is computed; else it is 0.
    pub checksum: bool,
    /// The S bit.
    pub sample: bool,
    /// The D bit.
    pub drop: bool,
    /// The two R bits, for tests.
    pub reserved: u8,
    /// Of the path, octets from the outer IP header on.
    pub mtu: usize,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            mode: Mode::Transport,
            version: Version::Gcm128,
            crypt_offset_words: 0,
            cookie: None,
            extension: Vec::new(),
            port: super::PORT,
            source_port: SourcePort::Hash,
            checksum: false,
            sample: false,
            drop: false,
            reserved: 0,
            mtu: 65535,
        }
    }
}

/// A profile made ready for packets.
pub struct Prepared {
    pub(super) profile: Profile,
    /// Octets 1 to 3 of the PSP header.
    pub(super) fixed: [u8; 3],
    /// Cookie and extension.
    pub(super) front: Vec<u8>,
    pub(super) template: Option<Template>,
    /// How usual packets go straight.
    pub(super) usual: Option<Usual>,
    /// The outer header is IPv6 and its flow label comes from the hash.
    pub(super) labels: bool,
    pub(super) df: Df,
}

impl Prepared {
    /// Makes a profile ready.
    pub fn new(profile: Profile) -> Self {
        let mut front = Vec::new();
        front.extend_from_slice(profile.cookie.as_ref().map_or(&[], |cookie| &cookie[..]));
        front.extend_from_slice(&profile.extension);
        let outer = match &profile.mode {
            Mode::Tunnel(outer) => Some(outer),
            _ => None,
        };
        let flags = u8::from(profile.sample) << 7
            | u8::from(profile.drop) << 6
            | (profile.version as u8) << 2
            | u8::from(profile.cookie.is_some()) << 1
            | 1;
        let fixed = [(front.len() / 8 + 1) as u8, (profile.reserved & 3) << 6 | profile.crypt_offset_words & 63, flags];
        let template = outer.map(|outer| Template::new(outer, number::UDP));
        let labels = outer.is_some_and(|outer| outer.local.is_ipv6() && outer.flow_label.is_none());
        Self {
            usual: Usual::new(&profile, template.as_ref(), labels, fixed),
            fixed,
            template,
            labels,
            df: outer.map_or(Df::Copy, |outer| outer.df),
            front,
            profile,
        }
    }

    /// Cipher and key length.
    pub fn version(&self) -> Version {
        self.profile.version
    }

    /// Octets that protection adds behind the IP header: UDP and PSP header, ICV.
    pub fn overhead(&self) -> usize {
        udp::HEADER + HEADER_OCTETS + self.front.len() + ICV_OCTETS
    }
}
