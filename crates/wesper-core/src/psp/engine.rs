//! PSP's engine: two device keys, packets one at a time and in batches, counters. Calls from several threads are safe.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use zeroize::{Zeroize, Zeroizing};

use super::kdf::{DEVICE_KEY_OCTETS, MAX_KEY_OCTETS};
use super::output::Output;
use super::profile::Prepared;
use super::receive::{self, Accepted, Located, Opened};
use super::send::{self, Keys, Refused};
use super::{COOKIE_OCTETS, DeviceKey, HEADER_OCTETS, ICV_OCTETS, Version, nonce};
use crate::aead::{Once, Provider, open_once, seal_once};
use crate::batch;
use crate::verdict::{CODES, DropReason};

/// Packets that are worked on together, so that their derivations are.
const GROUP: usize = 64;
/// SPIs whose slots are looked at together.
const MIXED: usize = 4096;

/// What an engine is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// UDP port that is PSP's.
    pub port: u16,
    /// Versions that are accepted: bit n for version n.
    pub versions: u8,
    /// Check UDP's checksum where it is not 0.
    pub verify_checksum: bool,
    /// Of source ports and flow labels.
    pub hash_key: [u8; 16],
    /// Who does the AEAD.
    pub provider: Provider,
}

/// What was sent and received, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// By the code of the reason.
    pub drops: [u64; CODES],
    /// Octets of dropped packets, by the code of the reason.
    pub dropped_octets: [u64; CODES],
    /// Packets authenticated.
    pub rx_packets: u64,
    /// Octets of those, from the end of the IV to the end of the payload.
    pub rx_bytes: u64,
    /// Packets protected.
    pub tx_packets: u64,
    /// Octets of those.
    pub tx_bytes: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self { drops: [0; CODES], dropped_octets: [0; CODES], rx_packets: 0, rx_bytes: 0, tx_packets: 0, tx_bytes: 0 }
    }
}

impl Counters {
    #[inline]
    pub(super) fn sent(&mut self, octets: usize) {
        self.tx_packets += 1;
        self.tx_bytes += octets as u64;
    }

    pub(super) fn dropped(&mut self, reason: DropReason, octets: usize) {
        if let (Some(drops), Some(sum)) =
            (self.drops.get_mut(reason as usize), self.dropped_octets.get_mut(reason as usize))
        {
            *drops += 1;
            *sum += octets as u64;
        }
    }

    #[inline]
    pub(super) fn received(&mut self, opened: &Result<Opened, DropReason>, octets: usize) {
        match opened {
            Err(reason) => self.dropped(*reason, octets),
            Ok(opened) => {
                self.rx_packets += 1;
                self.rx_bytes += opened.octets as u64;
                if let Some(reason) = opened.reason {
                    self.dropped(reason, octets);
                }
            }
        }
    }

    pub(super) fn add(&mut self, more: &Self) {
        self.drops.iter_mut().zip(more.drops).for_each(|(sum, count)| *sum += count);
        self.dropped_octets.iter_mut().zip(more.dropped_octets).for_each(|(sum, count)| *sum += count);
        self.rx_packets += more.rx_packets;
        self.rx_bytes += more.rx_bytes;
        self.tx_packets += more.tx_packets;
        self.tx_bytes += more.tx_bytes;
    }
}

/// A batch that was encapsulated.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// One packet after another.
    pub output: Output,
    /// n + 1 of them; a packet is empty where it was refused.
    pub offsets: Vec<u64>,
    /// 0 sent, else the reason.
    pub codes: Vec<u8>,
}

/// A batch that was decapsulated. What describes a packet is 0 where it is not authentic.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Inner packets, one after another.
    pub output: Output,
    /// n + 1 of them; a packet is empty where it was dropped, but for `PspSampled`.
    pub offsets: Vec<u64>,
    /// 0 delivered, else the reason.
    pub codes: Vec<u8>,
    /// Whose association.
    pub spis: Vec<u32>,
    /// IVs.
    pub ivs: Vec<u64>,
    /// Cookies as numbers in network order, 0 without one.
    pub cookies: Vec<u64>,
    /// The headers' fourth octets.
    pub flags: Vec<u8>,
}

/// Packets in and out, statelessly.
pub struct Engine {
    options: Options,
    slots: RwLock<Slots>,
    counters: Mutex<Counters>,
}

type Slots = [Option<Arc<DeviceKey>>; 2];

impl Engine {
    /// Makes an engine without device keys.
    pub fn new(options: Options) -> Self {
        Self { options, slots: RwLock::default(), counters: Mutex::default() }
    }

    /// Puts a device key into a slot, or empties it. The former key is wiped as soon as no batch works with it.
    pub fn set_device_key(&self, slot: usize, key: Option<&[u8; DEVICE_KEY_OCTETS]>) {
        let key = key.map(|key| Arc::new(DeviceKey::new(key)));
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = slots.get_mut(slot & 1) {
            *place = key;
        }
    }

    fn slots(&self) -> Slots {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Derives the key of one SPI; none if its device key is not there.
    pub fn derive(&self, spi: u32, version: Version) -> Option<Zeroizing<[u8; MAX_KEY_OCTETS]>> {
        let [lower, upper] = self.slots();
        Some(if spi >> 31 == 0 { lower } else { upper }?.derive(spi, version))
    }

    /// Derives the keys of many SPIs, one after another; the slot whose device key is not there is an error.
    pub fn derive_many(&self, spis: &[u32], version: Version, out: &mut [u8]) -> Result<(), usize> {
        let slots = self.slots();
        let octets = version.key_octets();
        let mut mixed = Mixed::default();
        for (spis, out) in spis.chunks(MIXED).zip(out.chunks_mut(MIXED * octets)) {
            let upper = spis.iter().filter(|spi| **spi >> 31 == 1).count();
            if upper != 0 && upper != spis.len() {
                mixed.derive(&slots, spis, version, out)?;
                continue;
            }
            let slot = usize::from(upper != 0);
            let key = slots.get(slot).and_then(Option::as_ref).ok_or(slot)?;
            key.derive_many(spis, version, out);
        }
        Ok(())
    }

    /// Protects one packet; writes it to `out`. key: as long as the version's. iv: never used with it.
    pub fn encapsulate(
        &self,
        prepared: &Prepared,
        packet: &[u8],
        spi: u32,
        key: &[u8],
        iv: u64,
        out: &mut Output,
    ) -> Result<(), Refused> {
        let sent = send::encapsulate(prepared, &mut self.once(), self.keys(spi, key, iv), packet, out);
        let mut counters = self.locked();
        match sent {
            Ok(octets) => counters.sent(octets),
            Err(refused) => counters.dropped(refused.reason, packet.len()),
        }
        sent.map(|_| ())
    }

    /// Opens one packet; writes the inner one to `out` and the octets behind its cookie to `extension`.
    pub fn decapsulate(&self, packet: &[u8], out: &mut Output, extension: &mut Vec<u8>) -> Result<Opened, DropReason> {
        let opened = receive::locate(self.accepted(), packet).and_then(|located| {
            let key = self.derive(located.spi, located.version).ok_or(DropReason::PspNoDeviceKey)?;
            let key = key.get(..located.version.key_octets()).unwrap_or_default();
            receive::open(&mut self.once(), &located, key, packet, out, Some(extension))
        });
        self.locked().received(&opened, packet.len());
        opened
    }

    /// Protects many packets. memory: to be written to, whatever is in it; keys: one after another, each as long as the
    /// version's; ivs: one a packet.
    #[allow(clippy::too_many_arguments, reason = "arrays of one batch")]
    pub fn encapsulate_many(
        &self,
        memory: Vec<u8>,
        prepared: &Prepared,
        data: &[u8],
        offsets: &[u64],
        spis: &[u32],
        keys: &[u8],
        ivs: &[u64],
    ) -> Sent {
        let packets = offsets.len().saturating_sub(1);
        let mut sent = Sent::new(memory, packets, data.len() + packets * (prepared.overhead() + 40));
        let (mut counters, mut once) = (Counters::default(), self.once());
        let keys = keys.chunks_exact(prepared.version().key_octets());
        for (index, ((spi, key), iv)) in spis.iter().zip(keys).zip(ivs).take(packets).enumerate() {
            let packet = batch::packet(data, offsets, index);
            let done = send::encapsulate(prepared, &mut once, self.keys(*spi, key, *iv), packet, &mut sent.output);
            sent.push(done, packet.len(), &mut counters);
        }
        self.locked().add(&counters);
        sent
    }

    /// Opens many packets. memory: to be written to, whatever is in it.
    pub fn decapsulate_many(&self, memory: Vec<u8>, data: &[u8], offsets: &[u64]) -> Received {
        let packets = offsets.len().saturating_sub(1);
        let mut received = Received::new(memory, packets, data.len());
        let (mut counters, mut once) = (Counters::default(), self.once());
        let slots = self.slots();
        let mut group = Group::new();
        for first in (0..packets).step_by(GROUP) {
            let indexes = first..packets.min(first + GROUP);
            group.locate(self.accepted(), &slots, data, offsets, indexes.clone());
            group.derive(&slots);
            for (index, member) in indexes.zip(&group.members) {
                let packet = batch::packet(data, offsets, index);
                if let Ok(located) = &member.located {
                    let key = group.key(member, located);
                    if let Some(plain) = receive::open_plain(&mut once, located, key, packet, &mut received.output) {
                        counters.rx_packets += 1;
                        counters.rx_bytes += plain.octets as u64;
                        received.push_with(0, located.spi, plain.iv, 0, plain.flags);
                        continue;
                    }
                }
                let opened = member.located.as_ref().map_err(|reason| *reason).and_then(|located| {
                    let key = group.key(member, located);
                    receive::open(&mut once, located, key, packet, &mut received.output, None)
                });
                counters.received(&opened, packet.len());
                received.push(opened);
            }
        }
        self.locked().add(&counters);
        received
    }

    /// Protects a PSP packet without IP and UDP, for known answers: header, extension and payload in clear.
    ///
    /// None for what no header can be, or a key of another length.
    pub fn seal(&self, key: &[u8], packet: &[u8]) -> Option<Vec<u8>> {
        let (version, clear) = in_clear(packet, packet.len())?;
        let (spi, iv) = spi_and_iv(packet)?;
        if key.len() != version.key_octets() {
            return None;
        }
        let mut out = packet.to_vec();
        let (aad, text) = out.split_at_mut_checked(clear)?;
        let mut icv = [0; ICV_OCTETS];
        seal_once(self.options.provider, key, &nonce(spi, iv), aad, None, text, &mut icv).ok()?;
        out.extend_from_slice(&icv);
        Some(out)
    }

    /// Opens what [`Self::seal`] makes; none inside if the ICV does not fit.
    pub fn open(&self, key: &[u8], sealed: &[u8]) -> Option<Option<Vec<u8>>> {
        let (text, icv) = sealed.split_last_chunk::<ICV_OCTETS>()?;
        let (version, clear) = in_clear(text, text.len())?;
        let (spi, iv) = spi_and_iv(text)?;
        if key.len() != version.key_octets() {
            return None;
        }
        let mut out = text.to_vec();
        let (aad, text) = out.split_at_mut_checked(clear)?;
        let opened = open_once(self.options.provider, key, &nonce(spi, iv), aad, None, text, icv);
        Some(opened.is_ok().then_some(out))
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.locked().clone()
    }

    /// Counts packets that whoever hands them over has dropped.
    pub fn count(&self, reason: DropReason, packets: u64) {
        if let Some(count) = self.locked().drops.get_mut(reason as usize) {
            *count += packets;
        }
    }

    pub(super) fn add(&self, more: &Counters) {
        self.locked().add(more);
    }

    #[inline]
    pub(super) fn keys<'a>(&'a self, spi: u32, key: &'a [u8], iv: u64) -> Keys<'a> {
        Keys { hash_key: &self.options.hash_key, spi, key, iv }
    }

    /// Memory for the keys of a batch.
    #[inline]
    pub(super) fn once(&self) -> Once {
        Once::new(self.options.provider)
    }

    fn accepted(&self) -> Accepted {
        let Options { port, versions, verify_checksum, .. } = self.options;
        Accepted { port, versions, verify_checksum }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Version, and octets that stand in clear, of a packet that is not in UDP.
fn in_clear(packet: &[u8], octets: usize) -> Option<(Version, usize)> {
    let [_, _, offset, flags, ..] = *packet.first_chunk::<HEADER_OCTETS>()?;
    let version = Version::of(flags >> 2 & 15)?;
    Some((version, if version.is_gmac() { octets } else { HEADER_OCTETS + 4 * usize::from(offset & 63) }))
}

fn spi_and_iv(packet: &[u8]) -> Option<(u32, u64)> {
    let head = packet.first_chunk::<HEADER_OCTETS>()?;
    Some((u32::from_be_bytes(*head[4..].first_chunk()?), u64::from_be_bytes(*head[8..].first_chunk()?)))
}

/// SPIs of both slots, put in order to be derived together.
#[derive(Default)]
struct Mixed {
    spis: Vec<u32>,
    owners: Vec<usize>,
    keys: Vec<u8>,
}

impl Mixed {
    fn derive(&mut self, slots: &Slots, spis: &[u32], version: Version, out: &mut [u8]) -> Result<(), usize> {
        let octets = version.key_octets();
        for (slot, key) in slots.iter().enumerate() {
            self.spis.clear();
            self.owners.clear();
            for (owner, spi) in spis.iter().enumerate().filter(|(_, spi)| (**spi >> 31) as usize == slot) {
                self.spis.push(*spi);
                self.owners.push(owner);
            }
            self.keys.resize(MIXED * MAX_KEY_OCTETS, 0);
            key.as_ref().ok_or(slot)?.derive_many(&self.spis, version, &mut self.keys);
            for (key, owner) in self.keys.chunks_exact(octets).zip(&self.owners) {
                if let Some(place) = out.get_mut(owner * octets..(owner + 1) * octets) {
                    place.copy_from_slice(key);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Mixed {
    fn drop(&mut self) {
        self.keys.zeroize();
    }
}

/// Packets that are worked on together.
struct Group {
    members: Vec<Member>,
    /// SPIs whose keys are derived together, those of one slot and version; bit n of `kinds` says that there are some.
    spis: [Vec<u32>; KINDS],
    kinds: u8,
    /// By slot and version, `GROUP` keys each.
    keys: Vec<u8>,
}

/// Slots times versions.
const KINDS: usize = 8;

struct Member {
    located: Result<Located, DropReason>,
    /// Which of its kind's keys is its own.
    place: u8,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.keys.zeroize();
    }
}

impl Group {
    fn new() -> Self {
        Self {
            members: Vec::with_capacity(GROUP),
            spis: std::array::from_fn(|_| Vec::with_capacity(GROUP)),
            kinds: 0,
            keys: vec![0; KINDS * GROUP * MAX_KEY_OCTETS],
        }
    }

    fn locate(
        &mut self,
        accepted: Accepted,
        slots: &Slots,
        data: &[u8],
        offsets: &[u64],
        indexes: std::ops::Range<usize>,
    ) {
        self.members.clear();
        self.spis.iter_mut().for_each(Vec::clear);
        self.kinds = 0;
        for index in indexes {
            let mut place = 0;
            let located = receive::locate(accepted, batch::packet(data, offsets, index)).and_then(|located| {
                let is_there = slots.get((located.spi >> 31) as usize).is_some_and(Option::is_some);
                let spis = self.spis.get_mut(kind(&located)).filter(|_| is_there).ok_or(DropReason::PspNoDeviceKey)?;
                place = spis.len() as u8;
                spis.push(located.spi);
                self.kinds |= 1 << kind(&located);
                Ok(located)
            });
            self.members.push(Member { located, place });
        }
    }

    /// Derives all keys.
    fn derive(&mut self, slots: &Slots) {
        let kinds = self.spis.iter().zip(self.keys.chunks_exact_mut(GROUP * MAX_KEY_OCTETS)).enumerate();
        for (kind, (spis, keys)) in kinds.filter(|(kind, _)| self.kinds >> kind & 1 == 1) {
            if let (Some(Some(key)), Some(version)) = (slots.get(kind / 4), Version::of(kind as u8 % 4)) {
                key.derive_many(spis, version, keys);
            }
        }
    }

    /// A member's key.
    #[inline(always)]
    fn key(&self, member: &Member, located: &Located) -> &[u8] {
        let octets = located.version.key_octets();
        let at = kind(located) * GROUP * MAX_KEY_OCTETS + usize::from(member.place) * octets;
        self.keys.get(at..at + octets).unwrap_or_default()
    }
}

/// Slot and version in one number, below [`KINDS`].
#[inline(always)]
fn kind(located: &Located) -> usize {
    (located.spi >> 31) as usize * 4 + located.version as usize
}

impl Sent {
    pub(super) fn new(memory: Vec<u8>, packets: usize, octets: usize) -> Self {
        let mut offsets = Vec::with_capacity(packets + 1);
        offsets.push(0);
        Self { output: Output::new(memory, octets), offsets, codes: Vec::with_capacity(packets) }
    }

    #[inline]
    pub(super) fn push(&mut self, done: Result<usize, Refused>, octets: usize, counters: &mut Counters) {
        self.codes.push(match done {
            Ok(octets) => {
                counters.sent(octets);
                0
            }
            Err(refused) => {
                counters.dropped(refused.reason, octets);
                refused.reason as u8
            }
        });
        self.offsets.push(self.output.len() as u64);
    }
}

impl Received {
    fn new(memory: Vec<u8>, packets: usize, octets: usize) -> Self {
        let mut offsets = Vec::with_capacity(packets + 1);
        offsets.push(0);
        Self {
            output: Output::new(memory, octets),
            offsets,
            codes: Vec::with_capacity(packets),
            spis: Vec::with_capacity(packets),
            ivs: Vec::with_capacity(packets),
            cookies: Vec::with_capacity(packets),
            flags: Vec::with_capacity(packets),
        }
    }

    #[inline]
    fn push(&mut self, opened: Result<Opened, DropReason>) {
        let (code, opened) = match opened {
            Ok(opened) => (opened.reason.map_or(0, |reason| reason as u8), opened),
            Err(reason) => (reason as u8, Opened::default()),
        };
        // Only who gets the octets gets to know what describes them.
        let shown =
            if matches!(opened.reason, None | Some(DropReason::PspSampled)) { opened } else { Opened::default() };
        self.push_with(code, shown.spi, shown.iv, u64::from_be_bytes(shown.cookie), shown.flags);
    }

    #[inline(always)]
    fn push_with(&mut self, code: u8, spi: u32, iv: u64, cookie: u64, flags: u8) {
        self.offsets.push(self.output.len() as u64);
        self.codes.push(code);
        self.spis.push(spi);
        self.ivs.push(iv);
        self.cookies.push(cookie);
        self.flags.push(flags);
    }
}

const _: () = assert!(COOKIE_OCTETS == 8, "a cookie is a u64 in batches");
