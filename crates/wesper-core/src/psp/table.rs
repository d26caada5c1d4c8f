//! Transmit associations for those that want a table of them: 64 octets each, key, counts and limits and all.

use std::collections::VecDeque;
use std::ops::Range;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::engine::{Counters, Engine, Sent};
use super::kdf::MAX_KEY_OCTETS;
use super::output::Output;
use super::profile::Prepared;
use super::send::Refused;
use super::{INDEX_MASK, send};
use crate::aead::{Once, prefetch};
use crate::batch::{self, Ids};
use crate::pages;
use crate::verdict::DropReason;

/// Rows that are allocated together, 128 MiB; they never move, so no copy of a key is left behind. Memory comes with use.
const BLOCK_ROWS: usize = 1 << 21;
/// Rows of a block, 2 MiB, before the others are laid into huge pages: who has few pays for few. With smaller blocks more
/// of the rows would lie at their ends, where no huge page fits.
const SMALL_PAGED_ROWS: usize = 1 << 15;
/// Rows that are brought near together, while the packets of the group before are worked on: their cache misses, and
/// their walks through the page tables, overlap.
const GROUP: usize = 32;
/// Events that are kept.
const EVENTS: usize = 65_536;
/// Seconds of `installed`; what is above says which events were told.
const SECONDS: u32 = 0x3fff_ffff;
const SOFT_TOLD: u32 = 0x4000_0000;
const HARD_TOLD: u32 = 0x8000_0000;
/// Octets of `octets`; what is above is the profile's number.
const OCTETS: u64 = (1 << 48) - 1;

/// One association. A free row has the SPI 0, which no association has.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
#[repr(C, align(64))]
struct Row {
    key: [u8; MAX_KEY_OCTETS],
    /// Last one used; before the first, the one to begin above.
    iv: u64,
    packets: u64,
    /// 48 bits of octets sent, and above them the profile's number.
    octets_and_profile: u64,
    spi: u32,
    installed_and_told: u32,
}

const _: () = assert!(size_of::<Row>() == 64, "an association is a cache line");

/// How long an association may be used; none: without end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Packets sent.
    pub packets: Option<u64>,
    /// Octets sent, as `tx_bytes` counts them.
    pub octets: Option<u64>,
    /// Seconds since it was installed.
    pub seconds: Option<u64>,
}

/// Limits as numbers; where there is none, one that is not reached.
#[derive(Clone, Copy)]
struct Bounds {
    packets: u64,
    octets: u64,
    seconds: u64,
}

impl From<Limits> for Bounds {
    fn from(limits: Limits) -> Self {
        let bound = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        Self { packets: bound(limits.packets), octets: bound(limits.octets), seconds: bound(limits.seconds) }
    }
}

impl Bounds {
    #[inline(always)]
    fn are_reached(&self, row: &Row, now: u32) -> bool {
        (row.packets >= self.packets) | (row.octets() >= self.octets) | (row.age(now) >= self.seconds)
    }

    /// Which of them is; asked of one that is.
    fn first(&self, row: &Row) -> Limit {
        if row.packets >= self.packets {
            Limit::Packets
        } else if row.octets() >= self.octets {
            Limit::Octets
        } else {
            Limit::Seconds
        }
    }
}

impl Row {
    #[inline(always)]
    fn octets(&self) -> u64 {
        self.octets_and_profile & OCTETS
    }

    /// Seconds.
    #[inline(always)]
    fn age(&self, now: u32) -> u64 {
        now.saturating_sub(self.installed_and_told & SECONDS).into()
    }
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Limit {
    /// Packets sent.
    Packets,
    /// Octets sent.
    Octets,
    /// Time.
    Seconds,
}

/// An association has reached a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number.
    pub id: u64,
    /// It is not used any more; else it is time for another one.
    pub is_hard: bool,
    /// Which limit.
    pub limit: Limit,
}

/// What one association has lived through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Its SPI.
    pub spi: u32,
    /// Last IV used; before the first, the one to begin above.
    pub iv: u64,
    /// Packets sent.
    pub packets: u64,
    /// Octets sent.
    pub octets: u64,
    /// When it was installed, seconds.
    pub installed: u32,
}

/// Where a batch's IVs come from.
#[derive(Clone, Copy, Debug)]
pub enum Ivs {
    /// One after another over the whole batch.
    Run {
        /// The first.
        first: u64,
    },
    /// Each association counts for itself.
    Counters {
        /// None below.
        base: u64,
        /// None from here on.
        end: u64,
    },
}

/// Associations by number, from 0.
pub struct Table {
    profiles: Vec<Prepared>,
    soft: Bounds,
    hard: Bounds,
    blocks: Vec<Vec<Row>>,
    rows: usize,
    free: Vec<u32>,
    highest_iv: u64,
    events: VecDeque<Event>,
    lost_events: u64,
}

impl Table {
    /// Makes an empty table, at most 65,536 profiles.
    pub fn new(profiles: Vec<Prepared>, soft: Limits, hard: Limits) -> Self {
        Self {
            profiles,
            soft: soft.into(),
            hard: hard.into(),
            blocks: Vec::new(),
            rows: 0,
            free: Vec::new(),
            highest_iv: 0,
            events: VecDeque::new(),
            lost_events: 0,
        }
    }

    /// Returns the number of associations.
    pub fn len(&self) -> usize {
        self.rows - self.free.len()
    }

    /// Says whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the highest IV that an association's own counter has used.
    pub fn highest_iv(&self) -> u64 {
        self.highest_iv
    }

    /// Returns how many events nobody fetched in time.
    pub fn lost_events(&self) -> u64 {
        self.lost_events
    }

    /// Returns the octets of all rows, free ones too.
    pub fn octets(&self) -> usize {
        self.rows * size_of::<Row>()
    }

    /// Installs an association and returns its number; none for a reserved SPI, an unknown profile or a key that does
    /// not fit. now: seconds.
    pub fn install(&mut self, profile: u16, spi: u32, key: &[u8], now: u32) -> Option<u64> {
        let made = self.row(profile, spi, key, now)?;
        let id = match self.free.pop() {
            Some(id) => id,
            None => self.append()?,
        };
        *self.get_mut(id.into())? = made;
        Some(id.into())
    }

    /// Gives a number another association, its counts at zero; false as for [`Self::install`], or if there is none.
    pub fn replace(&mut self, id: u64, spi: u32, key: &[u8], now: u32) -> bool {
        let Some(profile) = self.used(id).map(|row| (row.octets_and_profile >> 48) as u16) else { return false };
        let Some(made) = self.row(profile, spi, key, now) else { return false };
        self.get_mut(id).map(|row| *row = made).is_some()
    }

    /// Removes and wipes an association; false if there is none of this number.
    pub fn remove(&mut self, id: u64) -> bool {
        if self.used(id).is_none() {
            return false;
        }
        if let Some(row) = self.get_mut(id) {
            *row = Row::default();
        }
        self.free.push(id as u32);
        true
    }

    /// Returns what an association has lived through.
    pub fn state(&self, id: u64) -> Option<State> {
        let row = self.used(id)?;
        let installed = row.installed_and_told & SECONDS;
        Some(State { spi: row.spi, iv: row.iv, packets: row.packets, octets: row.octets(), installed })
    }

    /// Returns the oldest event not yet fetched.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Protects many packets, each with its association. memory: to be written to, whatever is in it; now: seconds.
    #[allow(clippy::too_many_arguments, reason = "arrays of one batch")]
    pub fn encapsulate_many(
        &mut self,
        memory: Vec<u8>,
        engine: &Engine,
        data: &[u8],
        offsets: &[u64],
        ids: Ids<'_>,
        ivs: Ivs,
        now: u32,
    ) -> Sent {
        let packets = offsets.len().saturating_sub(1);
        let overhead = self.profiles.iter().map(Prepared::overhead).max().unwrap_or(0) + 40;
        let mut sent = Sent::new(memory, packets, data.len() + packets * overhead);
        let (mut counters, mut once) = (Counters::default(), engine.once());
        let group = |first: usize| first..packets.min(first + GROUP);
        self.bring_near(ids, group(0));
        for first in (0..packets).step_by(GROUP) {
            self.bring_near(ids, group(first + GROUP));
            for index in group(first) {
                let packet = batch::packet(data, offsets, index);
                let ivs = match ivs {
                    Ivs::Run { first } => Ivs::Run { first: first.wrapping_add(index as u64) },
                    counters => counters,
                };
                let done = self.encapsulate(engine, &mut once, packet, ids.get(index), ivs, now, &mut sent.output);
                sent.push(done, packet.len(), &mut counters);
            }
        }
        engine.add(&counters);
        sent
    }

    /// Starts to bring near the rows of some packets.
    #[inline(always)]
    fn bring_near(&self, ids: Ids<'_>, indexes: Range<usize>) {
        indexes.filter_map(|index| self.get(ids.get(index))).for_each(prefetch);
    }

    #[allow(clippy::too_many_arguments, reason = "of a batch")]
    #[inline(always)]
    fn encapsulate(
        &mut self,
        engine: &Engine,
        once: &mut Once,
        packet: &[u8],
        id: u64,
        ivs: Ivs,
        now: u32,
        out: &mut Output,
    ) -> Result<usize, Refused> {
        let row = row_of(&mut self.blocks, id).filter(|row| row.spi != 0).ok_or(DropReason::PspOutNoKey)?;
        if self.hard.are_reached(row, now) {
            self.tell(id, true);
            return Err(DropReason::PspOutExpired.into());
        }
        let iv = match ivs {
            Ivs::Run { first } => first,
            Ivs::Counters { base, end } => {
                let iv = row.iv.saturating_add(1).max(base);
                if iv >= end {
                    return Err(DropReason::PspOutIv.into());
                }
                iv
            }
        };
        let profile = (row.octets_and_profile >> 48) as usize;
        let prepared = self.profiles.get(profile).ok_or(DropReason::PspOutNoKey)?;
        let key = row.key.get(..prepared.version().key_octets()).unwrap_or_default();
        let octets = send::encapsulate(prepared, once, engine.keys(row.spi, key, iv), packet, out)?;
        row.iv = iv;
        if matches!(ivs, Ivs::Counters { .. }) {
            self.highest_iv = iv.max(self.highest_iv);
        }
        row.packets += 1;
        let sum = row.octets().saturating_add(octets as u64).min(OCTETS);
        row.octets_and_profile = row.octets_and_profile & !OCTETS | sum;
        if self.soft.are_reached(row, now) && row.installed_and_told & SOFT_TOLD == 0 {
            self.tell(id, false);
        }
        Ok(octets)
    }

    /// Leaves an event that an association has reached a limit, unless there was one.
    #[cold]
    fn tell(&mut self, id: u64, is_hard: bool) {
        let (bounds, told) = if is_hard { (&self.hard, HARD_TOLD) } else { (&self.soft, SOFT_TOLD) };
        let Some(row) = row_of(&mut self.blocks, id).filter(|row| row.installed_and_told & told == 0) else { return };
        row.installed_and_told |= told;
        if self.events.len() < EVENTS {
            self.events.push_back(Event { id, is_hard, limit: bounds.first(row) });
        } else {
            self.lost_events += 1;
        }
    }

    fn row(&self, profile: u16, spi: u32, key: &[u8], now: u32) -> Option<Row> {
        let octets = self.profiles.get(usize::from(profile))?.version().key_octets();
        if spi & INDEX_MASK == 0 || key.len() != octets {
            return None;
        }
        let mut row = Row {
            spi,
            // A key that was removed and comes again goes on above all it can have used.
            iv: self.highest_iv,
            octets_and_profile: u64::from(profile) << 48,
            installed_and_told: now & SECONDS,
            ..Row::default()
        };
        row.key.iter_mut().zip(key).for_each(|(place, octet)| *place = *octet);
        Some(row)
    }

    fn append(&mut self) -> Option<u32> {
        let id = u32::try_from(self.rows).ok()?;
        if self.rows.is_multiple_of(BLOCK_ROWS) {
            self.blocks.push(Vec::with_capacity(BLOCK_ROWS));
        }
        let block = self.blocks.last_mut()?;
        if block.len() == SMALL_PAGED_ROWS {
            pages::prefer_huge(block);
        }
        block.push(Row::default());
        self.rows += 1;
        Some(id)
    }

    #[inline(always)]
    fn get(&self, id: u64) -> Option<&Row> {
        self.blocks.get(id as usize / BLOCK_ROWS)?.get(id as usize % BLOCK_ROWS)
    }

    fn get_mut(&mut self, id: u64) -> Option<&mut Row> {
        row_of(&mut self.blocks, id)
    }

    fn used(&self, id: u64) -> Option<&Row> {
        self.get(id).filter(|row| row.spi != 0)
    }
}

#[inline(always)]
fn row_of(blocks: &mut [Vec<Row>], id: u64) -> Option<&mut Row> {
    blocks.get_mut(id as usize / BLOCK_ROWS)?.get_mut(id as usize % BLOCK_ROWS)
}
