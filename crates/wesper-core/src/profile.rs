//! What many SAs share, and what one is installed with.
//!
//! Values are taken as they come: ranges and combinations are checked by whoever reads a configuration.

use std::net::IpAddr;

use crate::eesp;
use crate::protocol::Protocol;
use crate::selectors::Selector;
use crate::suite::{Suite, SuiteId};
use crate::wespv2;

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;
/// How long a learnt MTU is believed (RFC 4301 §8.2.2), nanoseconds.
pub const MTU_AGE: u64 = 600 * SECOND;

/// How an SA carries packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// What follows the IP header is protected (RFC 4303 §3.1.1).
    Transport,
    /// The whole packet is protected, behind a new IP header (RFC 4303 §3.1.2).
    Tunnel,
    /// Transport mode inside, with fixed inner addresses (RFC 7402 appendix B).
    Beet,
    /// An AGGFRAG payload (RFC 9347), which goes in and comes out as it is.
    Iptfs,
}

/// Settings that one protocol has alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// None: ESP and WESP.
    Plain,
    /// WESPv2's.
    WespV2(wespv2::Settings),
    /// EESP's.
    Eesp(eesp::Settings),
}

/// Where the outer IPv4 header's DF bit comes from (RFC 4301 §8.1); IPv6 inside counts as DF set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Df {
    /// From the inner packet.
    Copy,
    /// Always set.
    Set,
    /// Never set.
    Clear,
}

/// When an IPv4 packet without DF that is too large is cut (RFC 4301 §8.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fragmentation {
    /// Each piece is a packet of the SA.
    Before,
    /// The protected packet is cut, as IP does.
    After,
}

/// The outer header of tunnel and BEET mode. Both addresses are of one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outer {
    /// This end.
    pub local: IpAddr,
    /// The other end.
    pub remote: IpAddr,
    /// TTL or hop limit, 1..255.
    pub hop_limit: u8,
    /// The DF bit of an IPv4 header.
    pub df: Df,
    /// 0..63; none copies the inner packet's.
    pub dscp: Option<u8>,
    /// RFC 6040 normal mode; else Not-ECT is sent.
    pub copy_ecn: bool,
    /// 20 bits; none copies an IPv6 inner packet's, 0 for IPv4.
    pub flow_label: Option<u32>,
    /// IPv4; none makes it from the sequence number where DF is clear, 0 where it is set (RFC 6864 §4.1).
    pub identification: Option<u16>,
    /// On arrival the inner packet gets the outer DSCP.
    pub take_dscp: bool,
}

impl Outer {
    /// The header between two addresses with everything else as the configuration's defaults have it.
    pub fn between(local: IpAddr, remote: IpAddr) -> Self {
        Self {
            local,
            remote,
            hop_limit: 64,
            df: Df::Copy,
            dscp: None,
            copy_ecn: true,
            flow_label: None,
            identification: None,
            take_dscp: false,
        }
    }
}

/// Fixed inner addresses, of one version: a BEET SA's pair (RFC 7402 §B.1.1), or the pair before NAT of
/// a transport SA (RFC 3948 §3.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inner {
    /// This end.
    pub local: IpAddr,
    /// The other end.
    pub remote: IpAddr,
}

/// UDP around an SA's packets (RFC 3948).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UdpEncapsulation {
    /// Port of this end.
    pub local_port: u16,
    /// Port of the other end.
    pub remote_port: u16,
    /// Whether the checksum is computed; none: over IPv6 alone (RFC 3948 §2.1).
    pub checksum: Option<bool>,
}

/// Limits of an SA, none of them 0. The first one reached counts (RFC 4301 §4.4.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lifetime {
    /// Whole seconds since it was installed.
    pub seconds: Option<u64>,
    /// Octets protected: in tunnel mode inner packets, else what stands behind the IP header.
    pub octets: Option<u64>,
    /// Packets.
    pub packets: Option<u64>,
    /// Whole seconds without a packet.
    pub idle_seconds: Option<u64>,
}

impl Lifetime {
    /// Returns the name of the limit that is reached, none if there is none.
    pub fn reached(&self, age: i64, octets: u64, packets: u64, idle: i64) -> Option<&'static str> {
        let over = |limit: Option<u64>, value: i64| {
            limit.is_some_and(|limit| u64::try_from(value).is_ok_and(|value| value >= limit))
        };
        if over(self.seconds, age) {
            Some("seconds")
        } else if self.octets.is_some_and(|limit| octets >= limit) {
            Some("octets")
        } else if self.packets.is_some_and(|limit| packets >= limit) {
            Some("packets")
        } else if over(self.idle_seconds, idle) {
            Some("idle_seconds")
        } else {
            None
        }
    }

    /// Returns these limits shortened by this SPI's share of `jitter` per cent, so that SAs made
    /// together do not rekey together.
    pub fn jittered(&self, jitter: u8, spi: u32) -> Self {
        if jitter == 0 {
            return *self;
        }
        let share = u128::from(spi.wrapping_mul(0x9e37_79b1) >> 16);
        let shorten = |limit: Option<u64>| {
            limit.map(|limit| {
                let cut = (u128::from(limit) * u128::from(jitter) * share / (100 << 16)) as u64;
                limit.saturating_sub(cut).max(1)
            })
        };
        Self {
            seconds: shorten(self.seconds),
            octets: shorten(self.octets),
            packets: shorten(self.packets),
            idle_seconds: shorten(self.idle_seconds),
        }
    }

    /// Says whether a limit is one of time.
    pub fn has_time(&self) -> bool {
        self.seconds.is_some() || self.idle_seconds.is_some()
    }
}

/// All that many SAs share; the same one serves both directions of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Profile {
    /// The cipher suite.
    pub suite: SuiteId,
    /// How packets are carried.
    pub mode: Mode,
    /// All modes but transport must have it.
    pub outer: Option<Outer>,
    /// BEET mode must have it.
    pub inner: Option<Inner>,
    /// UDP around the packets.
    pub encapsulation: Option<UdpEncapsulation>,
    /// What is spoken.
    pub protocol: Protocol,
    /// What it has to be told besides.
    pub format: Format,
    /// 64-bit sequence numbers (RFC 4303 §2.2.1).
    pub esn: bool,
    /// 0 turns anti-replay off, else a multiple of 32 up to 2^20.
    pub window: u32,
    /// Look at received padding octets (RFC 4303 §2.4).
    pub check_padding: bool,
    /// Traffic-flow padding, tunnel mode: shorter inner packets are padded to so many octets.
    pub pad_to: u16,
    /// The path's, from the outer IP header on.
    pub mtu: u16,
    /// When IPv4 packets without DF are cut.
    pub fragmentation: Fragmentation,
    /// Traffic that the SA may carry; empty: any.
    pub selectors: Vec<Selector>,
    /// When to make the next SA.
    pub soft: Lifetime,
    /// When the SA ends.
    pub hard: Lifetime,
    /// 0..90 per cent of the soft limits.
    pub jitter: u8,
    /// Search for the high half after a gap of 2^32 packets (RFC 4303 appendix A3).
    pub resynchronise: bool,
}

impl Profile {
    /// A tunnel between two addresses with everything else as the configuration's defaults have it.
    pub fn tunnel(suite: SuiteId, local: IpAddr, remote: IpAddr) -> Self {
        Self {
            suite,
            mode: Mode::Tunnel,
            outer: Some(Outer::between(local, remote)),
            inner: None,
            encapsulation: None,
            protocol: Protocol::Esp,
            format: Format::Plain,
            esn: true,
            window: 1024,
            check_padding: true,
            pad_to: 0,
            mtu: 65535,
            fragmentation: Fragmentation::Before,
            selectors: Vec::new(),
            soft: Lifetime::default(),
            hard: Lifetime::default(),
            jitter: 0,
            resynchronise: true,
        }
    }

    /// The row of its suite.
    pub fn cipher(&self) -> &'static Suite {
        Suite::of(self.suite)
    }

    /// The number in an IP header in front of its packets.
    pub fn ip_protocol(&self) -> u8 {
        match &self.format {
            Format::Eesp(settings) => settings.ip_protocol,
            _ => self.protocol.ip_protocol(),
        }
    }

    /// Says whether an SA's cipher key, salt and integrity key have lengths that fit, in octets.
    ///
    /// Keys that are derived come out of what stands in the cipher key's place.
    pub fn takes_keys(&self, key: usize, salt: usize, auth_key: usize) -> bool {
        let suite = self.cipher();
        match &self.format {
            Format::Eesp(eesp::Settings { sub_sas: Some(sub_sas), .. }) => {
                (key, salt, auth_key) == (sub_sas.kdf.root_octets(), 0, 0)
            }
            Format::Eesp(eesp::Settings { stateless: Some(stateless), .. }) => {
                (key, salt, auth_key) == (eesp::kdf::MASTER_OCTETS * stateless.indexes.len(), 0, 0)
            }
            _ => {
                let (own_salt, own_auth_key) = (suite.salt_octets, suite.auth_key_octets());
                suite.takes_key_octets(key) && (salt, auth_key) == (own_salt, own_auth_key)
            }
        }
    }

    /// Whether it has Sub SAs.
    pub fn has_sub_sas(&self) -> bool {
        matches!(&self.format, Format::Eesp(settings) if settings.sub_sas.is_some())
    }

    /// Whether the keys of packets come out of the SA's.
    pub fn derives_keys(&self) -> bool {
        let Format::Eesp(settings) = &self.format else { return false };
        settings.sub_sas.is_some() || settings.stateless.is_some()
    }

    /// Highest number that may be sent (RFC 4303 §3.3.3).
    pub fn last_sequence(&self) -> u64 {
        if self.esn { u64::MAX } else { u64::from(u32::MAX) }
    }

    /// Whether any limit is one of time.
    pub(crate) fn has_time_limit(&self) -> bool {
        self.soft.has_time() || self.hard.has_time()
    }
}

/// One SA to be installed. Has no `Debug`: it holds keys.
#[derive(Clone, Copy)]
pub struct Sa<'a> {
    /// 256..2^32-1.
    pub spi: u32,
    /// As long as the suite takes.
    pub key: &'a [u8],
    /// As long as the suite wants.
    pub salt: &'a [u8],
    /// As long as the suite wants.
    pub auth_key: &'a [u8],
    /// Outbound the last number used, inbound the highest accepted.
    pub sequence: u64,
    /// Empty, or destination, or destination and source, which must match too (RFC 4303 §3.4.2).
    pub multicast: &'a [IpAddr],
    /// A fixed IV, for known answers only: 8 octets, 16 for CBC.
    pub iv: Option<&'a [u8]>,
}

impl<'a> Sa<'a> {
    /// An SA with its key material in one piece: key, salt, or, with a separate MAC, key, auth key.
    ///
    /// None if the profile does not take that many octets. Source: RFC 4106 §8.1, RFC 7296 §2.17.
    pub fn from_material(profile: &Profile, spi: u32, material: &'a [u8]) -> Option<Self> {
        let suite = profile.cipher();
        let (salt, auth_key) =
            if profile.derives_keys() { (0, 0) } else { (suite.salt_octets, suite.auth_key_octets()) };
        let key_octets = material.len().checked_sub(salt + auth_key)?;
        let (key, rest) = material.split_at_checked(key_octets)?;
        let (salt, auth_key) = rest.split_at_checked(salt)?;
        profile.takes_keys(key.len(), salt.len(), auth_key.len()).then_some(Self {
            spi,
            key,
            salt,
            auth_key,
            sequence: 0,
            multicast: &[],
            iv: None,
        })
    }
}

/// What an SA has lived through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaState {
    /// Outbound the last number used, inbound the highest accepted; of all Sub SAs the highest.
    pub sequence: u64,
    /// Packets protected or accepted.
    pub packets: u64,
    /// Octets, as [`Lifetime`] counts them.
    pub octets: u64,
    /// Packets that the window refused.
    pub replay: u64,
    /// Packets whose ICV did not fit.
    pub integrity_failed: u64,
    /// The path's MTU as known now.
    pub mtu: u16,
}

/// What one Sub SA has lived through; lifetimes and failures are the whole SA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubSaState {
    /// Outbound the last number used, inbound the highest accepted.
    pub sequence: u64,
    /// Packets protected or accepted.
    pub packets: u64,
    /// Octets, as [`Lifetime`] counts them.
    pub octets: u64,
}

/// Why an SA was not installed: the caller's fault, never a packet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// An inbound SA has this SPI, or this SPI and these addresses.
    #[error("inbound SPI {0:#x} is taken")]
    Taken(u32),
    /// SPI 0 is never on the wire (RFC 4303 §2.1).
    #[error("SPI 0 can not be installed")]
    SpiZero,
    /// The key material does not fit the suite.
    #[error("{suite} does not take key, salt and auth key of these lengths")]
    KeyLength {
        /// Name of the suite.
        suite: &'static str,
    },
    /// The profile contradicts itself: no outer addresses, no inner pair, an impossible window.
    #[error("the profile lacks {0}")]
    Profile(&'static str),
    /// No row or number is left.
    #[error("the SA table is full")]
    Full,
}

/// Settings of an engine.
#[derive(Clone)]
pub struct Options {
    /// Makes CBC's unpredictable IVs: AES of SA id and sequence number.
    pub iv_key: [u8; 16],
    /// Local ports where ESP in UDP is looked for, besides those of installed SAs.
    pub udp_ports: Vec<u16>,
    /// Put auditable drops among the events.
    pub audit: bool,
    /// How many events are kept; further ones are counted as lost.
    pub events: usize,
    /// ICV failures in a row before the high half is searched for (RFC 4303 appendix A3).
    pub resync_failures: u32,
    /// High halves tried, at most once a second.
    pub resync_tries: u32,
    /// Who does the cryptography.
    pub provider: crate::aead::Provider,
    /// 64 random bits that spread the SPIs over the table.
    pub seed: u64,
    /// Expanded keys that each half keeps.
    pub contexts: usize,
    /// Expanded keys of Sub SAs and stateless senders that each half keeps besides.
    pub derived_keys: usize,
    /// Shards of the inbound half, at least 1: as many threads can open packets at once.
    pub shards: usize,
}

impl Options {
    /// The defaults. iv_key: random, or fixed for known answers.
    pub fn new(iv_key: [u8; 16]) -> Self {
        Self {
            iv_key,
            udp_ports: vec![4500],
            audit: false,
            events: 1024,
            resync_failures: 64,
            resync_tries: 16,
            provider: crate::aead::Provider::default(),
            seed: 0,
            contexts: 65_536,
            derived_keys: 16_384,
            shards: 1,
        }
    }
}
