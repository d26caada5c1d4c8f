//! Timed loops over the parts of this crate, to be called from one binary so that figures compare.
//!
//! Each returns nanoseconds of work alone: set-up, and sealing what is then opened, are not in them.
//! Alternate what is compared, in one run, and take medians: this module times, it does not judge.

mod esp;
mod psp;

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::aead::{Associated, Context, KeyError, Nonce, Provider};
use crate::rows::Row;
use crate::sad::{Inbound, InstallError, NOT_FOUND, SpiHash, probe_many};
use crate::suite::Suite;

pub use esp::{EspBench, MAX_INNER_OCTETS};
pub use psp::{FreshBench, PspBench, bare_block_nanoseconds};

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

/// A table of SAs, and the same rows at the same places in plain vectors: the bare probe's anchor.
///
/// Memory that a process gets later may be faster, by how the host keeps it. So one vector is allocated before the
/// table and one after it, and the anchor is the mean of both.
pub struct LookupBench {
    table: Inbound,
    bare: [Vec<Row>; 2],
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
    /// The bare copies treble the memory; measure the table's own with [`filled_table`].
    pub fn new(sas: usize, seed: u64) -> Result<Self, InstallError> {
        let mut random = Random(seed);
        // As large as the table at most; written to, as memory is not given before.
        let mut before = vec![Row { spi: 1, ..Row::EMPTY }; (sas / 7 + 1) * 10 + (1 << 16)];
        let start = Instant::now();
        let (table, mut spis) = filled_table(sas, seed)?;
        let install_ns = start.elapsed().as_nanos() as f64 / sas.max(1) as f64;
        for last in (1..spis.len()).rev() {
            spis.swap(last, random.below(last + 1));
        }
        let (after, homes, hash) = table.bare_copy();
        before.truncate(after.len());
        before.clone_from_slice(&after);
        let positions = vec![0; BATCH];
        Ok(Self { table, bare: [before, after], homes, hash, spis, positions, install_ns })
    }

    /// Nanoseconds that one install took, of all in bulk, with making up its SPI and key.
    pub fn install_nanoseconds(&self) -> f64 {
        self.install_ns
    }

    /// Share of homes that are taken.
    pub fn load(&self) -> f64 {
        self.table.load()
    }

    /// Times passes over all SPIs, in slices; returns nanoseconds a look-up in the fastest: what else runs on a core
    /// can only slow a slice down.
    pub fn nanoseconds(&mut self, probe: Probe) -> f64 {
        let mut fastest = |copy| (0..SLICES).map(|slice| self.slice(probe, copy, slice)).fold(f64::INFINITY, f64::min);
        if probe == Probe::Table { fastest(0) } else { f64::midpoint(fastest(0), fastest(1)) }
    }

    /// Times one slice of the SPIs.
    fn slice(&mut self, probe: Probe, copy: usize, slice: usize) -> f64 {
        let Self { table, bare, homes, hash, spis, positions, .. } = self;
        let bare = &bare[copy];
        let each = spis.len().div_ceil(SLICES).max(1);
        let spis = spis.chunks(each).nth(slice).unwrap_or(spis);
        let home = |spi| SpiHash::home(hash.hash(spi), *homes);
        match probe {
            Probe::Table => timed(spis, positions, |spis, positions| table.find_many(spis, positions)),
            Probe::FirstRowsFirst => {
                let mut first = [0u32; BATCH];
                timed(spis, positions, |spis, positions| {
                    for (spi, (first, position)) in spis.iter().zip(first.iter_mut().zip(&mut *positions)) {
                        let home = home(*spi);
                        *position = home as u32;
                        *first = bare.get(home).map_or(0, |row| row.spi);
                    }
                    for (spi, (first, position)) in spis.iter().zip(first.iter().zip(positions)) {
                        if first != spi {
                            *position = go_on(bare, *spi, *position as usize);
                        }
                    }
                })
            }
            Probe::InStages => timed(spis, positions, |spis, positions| {
                probe_many(spis, positions, home, |at| bare.get(at).map_or(0, |row| row.spi));
            }),
        }
    }
}

/// Ways to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// [`Inbound::find_many`].
    Table,
    /// The bare probe with the first rows of a batch read before any is compared.
    FirstRowsFirst,
    /// The bare probe in the stages of the table's own search.
    InStages,
}

impl Probe {
    /// The bare probes that rival the table. One look-up after the other takes several times as long.
    pub const BARE: [Self; 2] = [Self::FirstRowsFirst, Self::InStages];
}

/// SPIs of a batch.
const BATCH: usize = 1024;

/// The bare probe: from a row on until the SPI or an empty row.
#[inline(always)]
fn go_on(rows: &[Row], spi: u32, from: usize) -> u32 {
    let mut at = from;
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

/// Times look-ups in batches; returns nanoseconds each.
fn timed(spis: &[u32], positions: &mut [u32], mut look_up: impl FnMut(&[u32], &mut [u32])) -> f64 {
    let start = Instant::now();
    for batch in spis.chunks(BATCH) {
        look_up(batch, positions);
        black_box(&mut *positions);
    }
    start.elapsed().as_nanos() as f64 / spis.len().max(1) as f64
}

/// Slices of a pass.
const SLICES: usize = 16;

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
                assert_eq!(go_on(&bench.bare[0], *spi, home), position);
                assert_eq!(go_on(&bench.bare[1], *spi, home), position);
                assert_ne!(position, NOT_FOUND);
            }
        }
        for probe in [Probe::Table].into_iter().chain(Probe::BARE) {
            let nanoseconds = bench.nanoseconds(probe);
            assert!(nanoseconds > 0.0 && nanoseconds.is_finite());
        }
    }
}
