//! All of PSP's work with a key that was not expanded before, beside the provider alone doing that.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Direction, MAX_BODY_OCTETS, Random, SLOT_OCTETS, esp};
use crate::aead::{Context, KeyError, Nonce, Provider, open_once, seal_once};
use crate::batch::Ids;
use crate::profile::Outer;
use crate::psp::engine::{Options, Received, Sent};
use crate::psp::table::{Ivs, Limits, Table};
use crate::psp::{DeviceKey, Engine, Mode, Prepared, Profile, Version};
use crate::suite::{Suite, SuiteId};

/// Octets of associated data: PSP's header.
const HEADER_OCTETS: usize = 16;
const ICV_OCTETS: usize = 16;
const DEVICE_KEY: [u8; 32] = [0x5c; 32];

/// Times so many blocks of AES-256 with nothing around them; returns nanoseconds a block.
pub fn bare_block_nanoseconds(blocks: usize) -> f64 {
    let key = DeviceKey::new(&DEVICE_KEY);
    let start = Instant::now();
    let done = key.bare_blocks(blocks);
    start.elapsed().as_nanos() as f64 / done.max(1) as f64
}

/// A provider that expands a key, works on one packet with it and wipes it, from one ring of buffers to another.
pub struct FreshBench {
    provider: Provider,
    keys: Vec<Vec<u8>>,
    clear: Vec<u8>,
    sealed: Vec<u8>,
    body_octets: usize,
    serial: u64,
}

impl FreshBench {
    /// Makes `slots` buffers, at least one, and as many keys.
    pub fn new(provider: Provider, key_octets: usize, slots: usize, body_octets: usize) -> Result<Self, KeyError> {
        let key = |index: usize| {
            let mut key = vec![0xa5; key_octets];
            key.iter_mut().zip(index.to_be_bytes()).for_each(|(octet, bits)| *octet ^= bits);
            key
        };
        let keys: Vec<_> = (0..slots.max(1)).map(key).collect();
        Context::new(provider, Suite::of(SuiteId::AesGcm16), &keys[0], &[])?;
        let clear = vec![0x2a; keys.len() * SLOT_OCTETS];
        Ok(Self {
            provider,
            keys,
            sealed: clear.clone(),
            clear,
            body_octets: body_octets.min(MAX_BODY_OCTETS),
            serial: 0,
        })
    }

    /// Times at least `packets` packets, in whole rounds of the ring; returns nanoseconds a packet.
    pub fn nanoseconds(&mut self, direction: Direction, packets: u64) -> f64 {
        let slots = self.keys.len() as u64;
        let rounds = packets.div_ceil(slots).max(1);
        let mut spent = Duration::ZERO;
        for _ in 0..rounds {
            self.serial += slots;
            let sealing = self.round(true);
            spent += if direction == Direction::Seal { sealing } else { self.round(false) };
        }
        spent.as_nanos() as f64 / (rounds * slots) as f64
    }

    #[inline(never)]
    fn round(&mut self, seals: bool) -> Duration {
        let rings = self.clear.chunks_exact_mut(SLOT_OCTETS).zip(self.sealed.chunks_exact_mut(SLOT_OCTETS));
        let start = Instant::now();
        for (index, ((clear, sealed), key)) in rings.zip(&self.keys).enumerate() {
            let (header, rest) = sealed.split_at_mut(HEADER_OCTETS);
            let (sealed, rest) = rest.split_at_mut(self.body_octets);
            let icv = rest.first_chunk_mut::<ICV_OCTETS>().expect("a slot holds header, body and ICV");
            let clear = &mut clear[HEADER_OCTETS..HEADER_OCTETS + self.body_octets];
            let nonce = Nonce::salted(7, self.serial + index as u64);
            let key = black_box(&key[..]);
            if seals {
                black_box(seal_once(self.provider, key, &nonce, header, Some(clear), sealed, icv).is_ok());
            } else {
                let opened = open_once(self.provider, key, &nonce, header, Some(sealed), clear, icv);
                assert!(opened.is_ok(), "what was sealed opens");
            }
        }
        start.elapsed()
    }
}

/// Tunnel mode over IPv4 from a table of transmit associations to a stateless receiver, in batches of one ring.
pub struct PspBench {
    engine: Engine,
    table: Table,
    data: Vec<u8>,
    offsets: Vec<u64>,
    ids: Vec<u64>,
    random: Random,
    sent: Option<Sent>,
    received: Option<Received>,
    iv: u64,
}

impl PspBench {
    /// Makes `associations` and a batch of `slots` packets, at least one of each; every packet takes one at random.
    pub fn new(provider: Provider, version: Version, associations: usize, slots: usize, inner_octets: usize) -> Self {
        let engine =
            Engine::new(Options { port: 1000, versions: 15, verify_checksum: true, hash_key: [3; 16], provider });
        engine.set_device_key(0, Some(&DEVICE_KEY));
        let (local, remote): (IpAddr, IpAddr) = ([198, 51, 100, 1].into(), [203, 0, 113, 9].into());
        let profile = Profile { mode: Mode::Tunnel(Outer::between(local, remote)), version, ..Profile::default() };
        let far = Limits { packets: Some(1 << 47), octets: Some(1 << 47), seconds: Some(1 << 29) };
        let mut table = Table::new(vec![Prepared::new(profile)], far, far);
        let device_key = DeviceKey::new(&DEVICE_KEY);
        let octets = version.key_octets();
        let mut keys = vec![0; 4096 * octets];
        let spis: Vec<u32> = (1..=associations.max(1) as u32).collect();
        for spis in spis.chunks(4096) {
            device_key.derive_many(spis, version, &mut keys);
            for (spi, key) in spis.iter().zip(keys.chunks_exact(octets)) {
                table.install(0, *spi, key, 0);
            }
        }
        let packet = esp::inner_packet(inner_octets.clamp(20, esp::MAX_INNER_OCTETS));
        let slots = slots.max(1);
        let offsets = (0..=slots).map(|index| (index * packet.len()) as u64).collect();
        let data = packet.repeat(slots);
        let ids = vec![0; slots];
        Self { engine, table, data, offsets, ids, random: Random(1), sent: None, received: None, iv: 1 }
    }

    /// Octets of the table's rows.
    pub fn table_octets(&self) -> usize {
        self.table.octets()
    }

    /// Times at least `packets` packets, in whole batches; returns nanoseconds a packet.
    pub fn nanoseconds(&mut self, direction: Direction, packets: u64) -> f64 {
        let slots = self.ids.len() as u64;
        let rounds = packets.div_ceil(slots).max(1);
        let mut spent = Duration::ZERO;
        for _ in 0..rounds {
            let sealing = self.encapsulate();
            spent += if direction == Direction::Seal { sealing } else { self.decapsulate() };
        }
        spent.as_nanos() as f64 / (rounds * slots) as f64
    }

    fn encapsulate(&mut self) -> Duration {
        let associations = self.table.len();
        for id in &mut self.ids {
            *id = self.random.below(associations) as u64;
        }
        let memory = self.sent.take().map(|sent| sent.output.into_memory().0).unwrap_or_default();
        let ivs = Ivs::Run { first: self.iv };
        self.iv += self.ids.len() as u64;
        let start = Instant::now();
        let ids = Ids::Each(&self.ids);
        let sent = self.table.encapsulate_many(memory, &self.engine, &self.data, &self.offsets, ids, ivs, 1);
        let spent = start.elapsed();
        assert!(sent.codes.iter().all(|code| *code == 0), "every packet is sent");
        self.sent = Some(sent);
        spent
    }

    fn decapsulate(&mut self) -> Duration {
        let Some(sent) = &self.sent else { return Duration::ZERO };
        let memory = self.received.take().map(|received| received.output.into_memory().0).unwrap_or_default();
        let start = Instant::now();
        let received = self.engine.decapsulate_many(memory, sent.output.data(), &sent.offsets);
        let spent = start.elapsed();
        assert!(received.codes.iter().all(|code| *code == 0), "what was sent opens");
        self.received = Some(received);
        spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_are_timed() {
        assert!(bare_block_nanoseconds(1000) > 0.0);
        let mut fresh = FreshBench::new(Provider::AwsLc, 16, 8, 64).expect("lengths fit");
        let mut psp = PspBench::new(Provider::AwsLc, Version::Gcm256, 5000, 8, 64);
        for direction in [Direction::Seal, Direction::Open] {
            assert!(fresh.nanoseconds(direction, 20) > 0.0);
            assert!(psp.nanoseconds(direction, 20) > 0.0);
        }
        assert_eq!(psp.table_octets(), 5000 * 64);
    }
}
