//! Timed loops over the parts of this crate, to be called from one binary so that figures compare.
//!
//! Each returns nanoseconds of work alone: set-up, and sealing what is then opened, are not in them.
//! Alternate what is compared, in one run, and take medians: this module times, it does not judge.

mod esp;

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::aead::{Associated, Context, KeyError, Nonce, Provider};
use crate::rows::Row;
use crate::sad::{Inbound, InstallError, NOT_FOUND, SpiHash, probe_many};
use crate::suite::Suite;

pub use esp::{EspBench, MAX_INNER_OCTETS};

/// Octets from one buffer of the ring to the next: 2048 and three cache lines, an odd number of lines, so that the
/// buffers do not all fall into the same few sets of a cache.
pub const SLOT_OCTETS: usize = 2048 + 3 * 64;
/// Octets before the body: SPI, sequence number and IV.
const HEADER_OCTETS: usize = 16;
/// Longest body that leaves room for header and ICV in a slot.
pub const MAX_BODY_OCTETS: usize = SLOT_OCTETS - HEADER_OCTETS - 32;

/// Rounds that are sealed ahead of opening, so that only the receiver's state is in the caches.
const AHEAD: u64 = 32;
/// Rounds that are opened, and not timed, to bring that state there.
const WARM_UP: u64 = 4;

/// Which half of the work is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Encrypt and compute the ICV.
    Seal,
    /// Check the ICV and decrypt.
    Open,
}

/// A provider alone: no SA, no header, 8 octets of AAD, a ring of distinct buffers in one allocation.
pub struct ProviderBench {
    contexts: Vec<Context>,
    suite: &'static Suite,
    buffers: Vec<u8>,
    body_octets: usize,
    serial: u64,
}

impl ProviderBench {
    /// Makes `keys` contexts and `slots` buffers, at least one of each.
    ///
    /// body_octets: plaintext with trailer; cut to [`MAX_BODY_OCTETS`] and to whole blocks of the suite.
    pub fn new(
        provider: Provider,
        suite: &'static Suite,
        key_octets: usize,
        keys: usize,
        slots: usize,
        body_octets: usize,
    ) -> Result<Self, KeyError> {
        let auth_key = vec![0x5a; suite.auth_key_octets()];
        let context = |index: usize| {
            let mut key = vec![0xa5; key_octets];
            key.iter_mut().zip(index.to_be_bytes()).for_each(|(octet, bits)| *octet ^= bits);
            Context::new(provider, suite, &key, &auth_key)
        };
        let body_octets = body_octets.min(MAX_BODY_OCTETS) / suite.block_octets * suite.block_octets;
        Ok(Self {
            contexts: (0..keys.max(1)).map(context).collect::<Result<_, _>>()?,
            suite,
            buffers: vec![0x2a; slots.max(1) * SLOT_OCTETS],
            body_octets,
            serial: 0,
        })
    }

    /// Times at least `packets` packets, in whole rounds of the ring; returns nanoseconds a packet.
    pub fn nanoseconds(&mut self, direction: Direction, packets: u64) -> f64 {
        let slots = (self.buffers.len() / SLOT_OCTETS) as u64;
        let rounds = packets.div_ceil(slots).max(1);
        let spent: Duration = match direction {
            Direction::Seal => (0..rounds).map(|_| self.timed_seal(slots)).sum(),
            Direction::Open => {
                (0..rounds.div_ceil(AHEAD)).map(|turn| self.open_rounds(slots, rounds - turn * AHEAD)).sum()
            }
        };
        spent.as_nanos() as f64 / (rounds * slots) as f64
    }

    fn timed_seal(&mut self, slots: u64) -> Duration {
        let first = self.serial;
        self.serial += slots;
        let start = Instant::now();
        self.seal_round(first);
        start.elapsed()
    }

    /// Times up to [`AHEAD`] rounds of what was sealed before, after some that are not timed.
    fn open_rounds(&mut self, slots: u64, rounds: u64) -> Duration {
        let octets = HEADER_OCTETS + self.body_octets + self.suite.icv_octets;
        let mut sealed = Vec::new();
        for _ in 0..WARM_UP + rounds.min(AHEAD) {
            sealed.push((self.serial, Vec::new()));
            self.timed_seal(slots);
            if let Some((_, ring)) = sealed.last_mut() {
                self.buffers.chunks_exact(SLOT_OCTETS).for_each(|slot| ring.extend_from_slice(&slot[..octets]));
            }
        }
        let mut spent = Duration::ZERO;
        for (round, (first, ring)) in (0..).zip(sealed) {
            for (slot, packet) in self.buffers.chunks_exact_mut(SLOT_OCTETS).zip(ring.chunks_exact(octets)) {
                slot[..octets].copy_from_slice(packet);
            }
            let start = Instant::now();
            self.open_round(first);
            spent += if round < WARM_UP { Duration::ZERO } else { start.elapsed() };
        }
        spent
    }

    #[inline(never)]
    fn seal_round(&mut self, first: u64) {
        let (contexts, suite, octets) = (&self.contexts, self.suite, self.body_octets);
        for ((number, slot), context) in (first..)
            .zip(self.buffers.chunks_exact_mut(SLOT_OCTETS))
            .zip(contexts.iter().cycle().skip(first as usize % contexts.len()))
        {
            let (header, body, icv) = split(slot, octets, suite.icv_octets);
            let done = context.seal(&nonce(suite, number), Associated::front(&header[..8]), body, icv);
            debug_assert!(done.is_ok());
            black_box(&done);
        }
    }

    #[inline(never)]
    fn open_round(&mut self, first: u64) {
        let (contexts, suite, octets) = (&self.contexts, self.suite, self.body_octets);
        for ((number, slot), context) in (first..)
            .zip(self.buffers.chunks_exact_mut(SLOT_OCTETS))
            .zip(contexts.iter().cycle().skip(first as usize % contexts.len()))
        {
            let (header, body, icv) = split(slot, octets, suite.icv_octets);
            let done = context.open(&nonce(suite, number), Associated::front(&header[..8]), body, icv);
            assert!(done.is_ok(), "what was sealed opens");
        }
    }
}

/// Cuts a slot into header, body and ICV.
#[inline(always)]
fn split(slot: &mut [u8], body_octets: usize, icv_octets: usize) -> (&mut [u8], &mut [u8], &mut [u8]) {
    let (header, rest) = slot.split_at_mut(HEADER_OCTETS);
    let (body, rest) = rest.split_at_mut(body_octets);
    (header, body, &mut rest[..icv_octets])
}

#[inline(always)]
fn nonce(suite: &Suite, number: u64) -> Nonce {
    if suite.is_counter_based() {
        Nonce::counter(suite, [1, 2, 3, 4], number.to_be_bytes())
    } else {
        Nonce::block(u128::from(number).to_be_bytes())
    }
}

/// Times `keys` key expansions, each with the context's wiping; returns nanoseconds a key.
pub fn expand_nanoseconds(provider: Provider, suite: &Suite, key_octets: usize, keys: u64) -> Result<f64, KeyError> {
    let mut key = vec![0xa5; key_octets];
    let auth_key = vec![0x5a; suite.auth_key_octets()];
    let start = Instant::now();
    for index in 0..keys {
        key.iter_mut().zip(index.to_be_bytes()).for_each(|(octet, bits)| *octet = bits);
        black_box(Context::new(provider, suite, black_box(&key), &auth_key)?);
    }
    Ok(start.elapsed().as_nanos() as f64 / keys.max(1) as f64)
}

/// A table of SAs, and the same rows at the same places in a plain vector: the bare probe's anchor.
pub struct LookupBench {
    table: Inbound,
    bare: Vec<Row>,
    homes: usize,
    hash: SpiHash,
    /// Installed SPIs in random order, each once.
    spis: Vec<u32>,
    positions: Vec<u32>,
    install_ns: f64,
}

impl LookupBench {
    /// Installs `sas` SAs with random SPIs.
    ///
    /// The bare copy doubles the memory; measure the table's own with [`filled_table`].
    pub fn new(sas: usize, seed: u64) -> Result<Self, InstallError> {
        let mut random = Random(seed);
        let start = Instant::now();
        let (table, mut spis) = filled_table(sas, seed)?;
        let install_ns = start.elapsed().as_nanos() as f64 / sas.max(1) as f64;
        for last in (1..spis.len()).rev() {
            spis.swap(last, random.below(last + 1));
        }
        let (bare, homes, hash) = table.bare_copy();
        let positions = vec![0; BATCH];
        Ok(Self { table, bare, homes, hash, spis, positions, install_ns })
    }

    /// Nanoseconds that one install took, of all in bulk, with making up its SPI and key.
    pub fn install_nanoseconds(&self) -> f64 {
        self.install_ns
    }

    /// Share of homes that are taken.
    pub fn load(&self) -> f64 {
        self.table.load()
    }

    /// Times one pass of [`Inbound::find_many`] over all SPIs in batches; returns nanoseconds a look-up.
    pub fn table_nanoseconds(&mut self) -> f64 {
        let Self { table, spis, positions, .. } = self;
        timed(spis, positions, |spis, positions| table.find_many(spis, positions))
    }

    /// Times one pass of the bare probe: one look-up after the other, leaving overlap to the processor.
    pub fn bare_nanoseconds(&mut self) -> f64 {
        let Self { bare, homes, hash, spis, positions, .. } = self;
        timed(spis, positions, |spis, positions| {
            for (spi, position) in spis.iter().zip(positions) {
                *position = probe(bare, *spi, SpiHash::home(hash.hash(*spi), *homes));
            }
        })
    }

    /// Times one pass of the bare probe in the stages of [`probe_many`], without the table's pieces.
    pub fn bare_staged_nanoseconds(&mut self) -> f64 {
        let Self { bare, homes, hash, spis, positions, .. } = self;
        timed(spis, positions, |spis, positions| {
            let home = |spi| SpiHash::home(hash.hash(spi), *homes);
            probe_many(spis, positions, home, |at| bare.get(at).map_or(0, |row| row.spi));
        })
    }

    /// Times one pass of the bare probe with the first rows of a batch read before any is compared.
    pub fn bare_grouped_nanoseconds(&mut self) -> f64 {
        let Self { bare, homes, hash, spis, positions, .. } = self;
        let mut first = [0u32; BATCH];
        timed(spis, positions, |spis, positions| {
            for (spi, (first, position)) in spis.iter().zip(first.iter_mut().zip(&mut *positions)) {
                let home = SpiHash::home(hash.hash(*spi), *homes);
                *position = home as u32;
                *first = bare.get(home).map_or(0, |row| row.spi);
            }
            for (spi, (first, position)) in spis.iter().zip(first.iter().zip(positions)) {
                if first != spi {
                    *position = probe(bare, *spi, *position as usize);
                }
            }
        })
    }
}

/// SPIs of a batch.
const BATCH: usize = 1024;

/// The bare probe: from the home on until the SPI or an empty row.
#[inline(always)]
fn probe(rows: &[Row], spi: u32, home: usize) -> u32 {
    let mut at = home;
    while let Some(row) = rows.get(at) {
        if row.spi == spi {
            return at as u32;
        }
        if row.is_empty() {
            break;
        }
        at += 1;
    }
    NOT_FOUND
}

/// Times the second of two passes, so that each contender finds the caches as it left them itself.
fn timed(spis: &[u32], positions: &mut [u32], mut look_up: impl FnMut(&[u32], &mut [u32])) -> f64 {
    let mut spent = Duration::ZERO;
    for _ in 0..2 {
        let start = Instant::now();
        for batch in spis.chunks(BATCH) {
            look_up(batch, positions);
            black_box(&mut *positions);
        }
        spent = start.elapsed();
    }
    spent.as_nanos() as f64 / spis.len().max(1) as f64
}

/// Makes a table of `sas` idle SAs in one bulk install, and returns their SPIs in order of installation.
pub fn filled_table(sas: usize, seed: u64) -> Result<(Inbound, Vec<u32>), InstallError> {
    // An odd factor is a bijection on 32 bits, so the SPIs differ; 0 comes of no index from 1 on.
    let factor = seed as u32 | 1;
    let spi = |index: usize| (index as u32 + 1).wrapping_mul(factor);
    let mut table = Inbound::new(seed);
    let rows = (0..sas).map(|index| Row { spi: spi(index), key: [index as u8; 32], ..Row::EMPTY });
    table.install_many(rows).map_err(|(_, error)| error)?;
    Ok((table, (0..sas).map(spi).collect()))
}

/// SplitMix64: enough to shuffle.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(mixed ^ mixed >> 31) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::SUITES;

    #[test]
    fn every_suite_is_timed_both_ways() {
        for suite in &SUITES {
            let key_octets = [0, 16, 32].into_iter().find(|octets| suite.takes_key_octets(*octets)).expect("a length");
            let mut bench = ProviderBench::new(Provider::AwsLc, suite, key_octets, 3, 8, 64).expect("lengths fit");
            assert!(bench.nanoseconds(Direction::Seal, 20) > 0.0);
            assert!(bench.nanoseconds(Direction::Open, 20) > 0.0);
            assert!(expand_nanoseconds(Provider::AwsLc, suite, key_octets, 4).expect("lengths fit") > 0.0);
        }
    }

    #[test]
    fn bare_probe_and_table_find_the_same_rows() {
        let mut bench = LookupBench::new(5000, 42).expect("fits");
        let spis = bench.spis.clone();
        for batch in spis.chunks(BATCH) {
            let mut found = vec![0; batch.len()];
            bench.table.find_many(batch, &mut found);
            for (spi, position) in batch.iter().zip(found) {
                let home = SpiHash::home(bench.hash.hash(*spi), bench.homes);
                assert_eq!(probe(&bench.bare, *spi, home), position);
                assert_ne!(position, NOT_FOUND);
            }
        }
        assert!(bench.table_nanoseconds() > 0.0 && bench.bare_nanoseconds() > 0.0);
        assert!(bench.bare_grouped_nanoseconds() > 0.0 && bench.bare_staged_nanoseconds() > 0.0);
    }
}
