//! The inbound half of a gateway: associations that it was told of, and packets opened where they lie.

use std::collections::BTreeMap;

use super::engine::{Counters, Options};
use super::gateway::{GatewayProfile, InstallError, expand};
use super::guard::Watched;
use super::kdf::{DEVICE_KEY_OCTETS, DeviceKey};
use super::profile::Mode;
use super::receive::{self, Accepted};
use super::{COOKIE_OCTETS, Version};
use crate::aead::{Context, Provider};
use crate::ip::{self, number};
use crate::profile::SaState;
use crate::selectors::{Selector, Way};
use crate::verdict::{CODES, DropReason};

/// An opened packet's place in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// First octet of its IP header.
    pub start: usize,
    /// Octets.
    pub len: usize,
    /// The association.
    pub sa: u64,
    /// Its IV.
    pub iv: u64,
}

/// An association that is received with.
struct In {
    version: Version,
    /// The key that the device keys make of the SPI now; none while the device key is not there.
    context: Option<Context>,
    is_tunnel: bool,
    cookie: Option<[u8; COOKIE_OCTETS]>,
    selectors: Vec<Selector>,
    mtu: usize,
    guard: Option<Watched>,
    iv: u64,
    packets: u64,
    octets: u64,
    failed: u64,
}

impl In {
    /// Takes note of an authentic packet; false if the replay rule knows it.
    #[inline(always)]
    fn hears(&mut self, iv: u64, octets: usize) -> bool {
        if self.guard.as_mut().is_some_and(|guard| !guard.accept(iv)) {
            return false;
        }
        self.packets += 1;
        self.octets += octets as u64;
        self.iv = self.iv.max(iv);
        true
    }

    fn take(&mut self, profile: &GatewayProfile) {
        self.is_tunnel = profile.look.mode != Mode::Transport;
        self.cookie = profile.look.cookie;
        self.selectors.clone_from(&profile.selectors);
    }

    #[inline(always)]
    fn is_for(&self, next_header: u8, flags: u8, cookie: [u8; COOKIE_OCTETS], packet: &[u8]) -> bool {
        let is_tunnel = matches!(next_header, number::IPV4 | number::IPV6);
        if is_tunnel != self.is_tunnel || (flags & 2 != 0).then_some(cookie) != self.cookie {
            return false;
        }
        self.selectors.is_empty()
            || ip::flow(packet)
                .is_some_and(|flow| self.selectors.iter().any(|selector| selector.matches(&flow, Way::Inbound)))
    }
}

/// The inbound half: device keys, and the associations that packets may belong to.
pub struct Receiver {
    accepted: Accepted,
    provider: Provider,
    slots: [Option<DeviceKey>; 2],
    rows: BTreeMap<u32, In>,
    pub(super) counters: Counters,
}

impl Receiver {
    pub(super) fn new(options: &Options) -> Self {
        let Options { port, versions, verify_checksum, provider, .. } = *options;
        Self {
            accepted: Accepted { port, versions, verify_checksum },
            provider,
            slots: [None, None],
            rows: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    /// Puts a device key into a slot, or empties it: associations of another key open nothing more.
    pub fn set_device_key(&mut self, slot: usize, key: Option<&[u8; DEVICE_KEY_OCTETS]>) {
        let Some(place) = self.slots.get_mut(slot & 1) else { return };
        *place = key.map(DeviceKey::new);
        let Self { rows, slots, provider, .. } = self;
        for (spi, row) in rows.iter_mut().filter(|(spi, _)| slot_of(**spi) == slot & 1) {
            row.context = slots.get(slot & 1).and_then(Option::as_ref).and_then(|key| {
                let key = key.derive(*spi, row.version);
                expand(*provider, row.version, *spi, key.get(..row.version.key_octets())?).ok()
            });
        }
    }

    /// Adds an association. key: what the device keys make of the SPI. iv: the highest one received.
    pub fn install(&mut self, profile: &GatewayProfile, spi: u32, key: &[u8], iv: u64) -> Result<u64, InstallError> {
        if self.rows.contains_key(&spi) {
            return Err(InstallError::Taken);
        }
        let version = profile.look.version;
        let device_key = self.slots.get(slot_of(spi)).and_then(Option::as_ref).ok_or(InstallError::NoDeviceKey)?;
        if device_key.derive(spi, version).get(..version.key_octets()) != Some(key) {
            return Err(InstallError::Key);
        }
        let context = Some(expand(self.provider, version, spi, key)?);
        let mut row = In {
            version,
            context,
            is_tunnel: false,
            cookie: None,
            selectors: Vec::new(),
            mtu: profile.look.mtu,
            guard: profile.replay.clone().map(|rule| Watched::new(rule, iv)),
            iv,
            packets: 0,
            octets: 0,
            failed: 0,
        };
        row.take(profile);
        self.rows.insert(spi, row);
        Ok(spi.into())
    }

    /// Deletes an association; false if there is none.
    pub fn remove(&mut self, sa: u64) -> bool {
        u32::try_from(sa).is_ok_and(|spi| self.rows.remove(&spi).is_some())
    }

    /// Returns what an association has lived through; none if there is none.
    pub fn state(&self, sa: u64) -> Option<SaState> {
        let row = self.rows.get(&u32::try_from(sa).ok()?)?;
        let mtu = row.mtu.try_into().unwrap_or(u16::MAX);
        let (sequence, packets, octets, integrity_failed) = (row.iv, row.packets, row.octets, row.failed);
        let replay = row.guard.as_ref().map_or(0, Watched::replayed);
        Some(SaState { sequence, packets, octets, replay, integrity_failed, mtu })
    }

    /// Counts all IVs up to the highest one as received, where each is taken once; false if there is no association.
    pub fn close_window(&mut self, sa: u64) -> bool {
        let row = u32::try_from(sa).ok().and_then(|spi| self.rows.get_mut(&spi));
        row.map(|row| row.guard.as_mut().map(Watched::close)).is_some()
    }

    /// Lets an association go on with another profile; false if there is none. Its MTU and its replay rule stay.
    pub fn set_profile(&mut self, sa: u64, profile: &GatewayProfile) -> bool {
        let row = u32::try_from(sa).ok().and_then(|spi| self.rows.get_mut(&spi));
        row.map(|row| row.take(profile)).is_some()
    }

    /// Opens a packet where it lies.
    #[inline]
    pub fn decapsulate(&mut self, buf: &mut [u8], at: usize, octets: usize) -> Result<Delivered, DropReason> {
        let Self { accepted, provider, slots, rows, counters } = self;
        let Some(packet) = buf.get_mut(at..at + octets) else { return Err(DropReason::PspBadIp) };
        let dropped = |counters: &mut Counters, reason| {
            counters.dropped(reason, octets);
            Err(reason)
        };
        let located = match receive::locate(*accepted, packet) {
            Ok(located) => located,
            Err(reason) => return dropped(counters, reason),
        };
        let (spi, version) = (located.spi, located.version);
        let Some(device_key) = slots.get(slot_of(spi)).and_then(Option::as_ref) else {
            return dropped(counters, DropReason::PspNoDeviceKey);
        };
        let mut row = rows.get_mut(&spi).filter(|row| row.version == version);
        let stranger;
        let context = match row.as_ref().and_then(|row| row.context.as_ref()) {
            Some(context) => context,
            None => {
                // What the device keys open is a packet for this device, if for nobody here: it is counted as such.
                let key = device_key.derive(spi, version);
                match expand(*provider, version, spi, key.get(..version.key_octets()).unwrap_or_default()) {
                    Ok(context) => stranger = context,
                    Err(_) => return dropped(counters, DropReason::PspNoDeviceKey),
                }
                &stranger
            }
        };
        let opened = receive::open_in_place(&located, context, packet);
        let (opened, next_header, place) = match opened {
            Ok(opened) => opened,
            Err(reason) => {
                if let Some(row) = row.as_mut().filter(|_| reason == DropReason::PspAuth) {
                    row.failed += 1;
                }
                return dropped(counters, reason);
            }
        };
        counters.rx_packets += 1;
        counters.rx_bytes += opened.octets as u64;
        let is_fresh = row.as_mut().is_none_or(|row| row.hears(opened.iv, opened.octets));
        if let Some(reason) = opened.reason {
            return dropped(counters, reason);
        }
        let inner = packet.get(place.clone()).unwrap_or_default();
        let reason = match row {
            None => DropReason::PspNoDeviceKey,
            Some(_) if !is_fresh => DropReason::PspReplay,
            Some(row) if row.is_for(next_header, opened.flags, opened.cookie, inner) => {
                return Ok(Delivered { start: at + place.start, len: place.len(), sa: spi.into(), iv: opened.iv });
            }
            Some(_) => DropReason::SelectorMismatch,
        };
        // Policy's drops: what failed to open is counted in octets, and this has not.
        counters.dropped(reason, 0);
        Err(reason)
    }

    /// Returns how often each code has dropped a packet.
    pub fn drops(&self) -> &[u64; CODES] {
        &self.counters.drops
    }
}

fn slot_of(spi: u32) -> usize {
    (spi >> 31) as usize
}
