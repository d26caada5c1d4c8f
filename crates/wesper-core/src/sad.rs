//! The SA tables: inbound by SPI, outbound by a dense number. 64 octets an SA, whatever their count.
//!
//! Inbound is open addressing in hash order. A row's home is `hash * homes >> 64`, which needs no
//! power of two and keeps the order of the hashes; rows stand in that order, each at its home or as
//! near after it as its predecessors allow. Order lets a search for an unknown SPI stop early, lets
//! removal close the gap without tombstones, and lets the table grow within its own memory.

use crate::rows::{PIECE_ROWS, Row, Rows, in_pieces};

/// Position that [`Inbound::find_many`] writes for an SPI without an SA.
pub const NOT_FOUND: u32 = u32::MAX;

/// Searches in flight at once, so that their cache misses overlap.
const WINDOW: usize = 256;
/// Rows after the last home, for what the last homes push on.
const MAX_TAIL: usize = 1024;

/// Why an SA was not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// There is an SA with this SPI.
    #[error("SPI {0:#010x} is in use")]
    SpiInUse(u32),
    /// SPI 0 is never on the wire (RFC 4303 §2.1).
    #[error("SPI 0 can not be installed")]
    SpiZero,
    /// 2^32 - 2 rows is the limit of a table.
    #[error("the SA table is full")]
    Full,
}

/// Maps an SPI to its place in hash order; no two SPIs share a hash.
///
/// The receiver chooses its SPIs, so the seed only spreads regular choices; it defends nothing.
#[derive(Clone, Copy)]
pub(crate) struct SpiHash {
    flip: u32,
    multiplier: u64,
    finish: u64,
}

impl SpiHash {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            flip: seed as u32,
            multiplier: (seed >> 32) << 33 | 0x9e37_79b9_7f4a_7c15,
            finish: 0xd6e8_feb8_6659_fd93,
        }
    }

    #[inline(always)]
    pub(crate) fn hash(self, spi: u32) -> u64 {
        // Each step is a bijection on 64 bits: odd factors, and a shift of half the width.
        let product = u64::from(spi ^ self.flip).wrapping_mul(self.multiplier);
        (product ^ product >> 32).wrapping_mul(self.finish)
    }

    #[inline(always)]
    pub(crate) fn home(hash: u64, homes: usize) -> usize {
        ((u128::from(hash) * homes as u128) >> 64) as usize
    }
}

/// The inbound SAs, found by SPI.
pub struct Inbound {
    rows: Rows,
    homes: usize,
    len: usize,
    hash: SpiHash,
}

impl Inbound {
    /// Makes an empty table. seed: 64 random bits of the caller's.
    pub fn new(seed: u64) -> Self {
        Self { rows: Rows::new(), homes: 0, len: 0, hash: SpiHash::new(seed) }
    }

    /// Returns the number of SAs.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Says whether there is no SA.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the octets that the table has allocated.
    pub fn heap_octets(&self) -> usize {
        self.rows.heap_octets()
    }

    /// Returns the share of homes that are taken, 0 to 0.75.
    pub fn load(&self) -> f64 {
        if self.homes == 0 { 0.0 } else { self.len as f64 / self.homes as f64 }
    }

    /// Makes room for `additional` more SAs at a load of 0.7, so that no install has to grow the table.
    pub fn reserve(&mut self, additional: usize) -> Result<(), InstallError> {
        let wanted = self.len.checked_add(additional).ok_or(InstallError::Full)?;
        if wanted > limit(self.homes) { self.grow(wanted.saturating_mul(10) / 7 + 1) } else { Ok(()) }
    }

    /// Installs one SA. Cost: O(1) expected; when it grows the table, a pass over all of it.
    pub fn install(&mut self, row: Row) -> Result<(), InstallError> {
        if row.is_empty() {
            return Err(InstallError::SpiZero);
        }
        if self.len >= limit(self.homes) {
            self.grow((self.homes + self.homes / 4).max(16))?;
        }
        let hash = self.hash.hash(row.spi);
        let at = self.seek(hash);
        if self.rows.spi(at) == row.spi {
            return Err(InstallError::SpiInUse(row.spi));
        }
        self.open_gap(at)?;
        self.rows.put(at, row);
        self.len += 1;
        Ok(())
    }

    /// Installs many, growing at most once.
    ///
    /// Stops at the first that is refused and says which, by index; those before it stay installed.
    pub fn install_many(&mut self, rows: impl ExactSizeIterator<Item = Row>) -> Result<(), (usize, InstallError)> {
        self.reserve(rows.len()).map_err(|error| (0, error))?;
        for (index, row) in rows.enumerate() {
            self.install(row).map_err(|error| (index, error))?;
        }
        Ok(())
    }

    /// Finds the position of an SPI's row, good until the next install or removal.
    #[inline]
    pub fn find(&self, spi: u32) -> Option<u32> {
        let at = self.seek(self.hash.hash(spi));
        (spi != 0 && self.rows.spi(at) == spi).then_some(at as u32)
    }

    /// Finds the positions of many SPIs; [`NOT_FOUND`] for each that has no SA.
    ///
    /// The shorter of the two slices decides how many. No allocation; see [`probe_many`] for how.
    #[inline]
    pub fn find_many(&self, spis: &[u32], positions: &mut [u32]) {
        // Copies, which no write to `positions` can change.
        let (hash, homes) = (self.hash, self.homes);
        let home = |spi| SpiHash::home(hash.hash(spi), homes);
        let spi_of = |row: Option<&Row>| row.map_or(0, |row| row.spi);
        match &self.rows {
            Rows::Flat(rows) => probe_many(spis, positions, home, |at| spi_of(rows.get(at))),
            Rows::Pieces(pieces) => probe_many(spis, positions, home, |at| spi_of(in_pieces(pieces, at))),
        }
    }

    /// Returns the row at a position that a search gave; none if there is no SA.
    #[inline]
    pub fn row(&self, position: u32) -> Option<&Row> {
        self.rows.get(position as usize).filter(|row| !row.is_empty())
    }

    /// Returns the row at a position for writing. The SPI must be left as it is.
    #[inline]
    pub fn row_mut(&mut self, position: u32) -> Option<&mut Row> {
        self.rows.get_mut(position as usize).filter(|row| !row.is_empty())
    }

    /// Removes an SA, wipes its row and returns what the row held, without key and salt.
    ///
    /// The rows behind it that are not at home move up by one, so no tombstone is left.
    pub fn remove(&mut self, spi: u32) -> Option<Row> {
        let mut at = self.find(spi)? as usize;
        let removed = self.rows.get(at)?.without_key();
        loop {
            let next = self.rows.spi(at + 1);
            if next == 0 || SpiHash::home(self.hash.hash(next), self.homes) > at {
                break;
            }
            self.rows.copy(at + 1, at);
            at += 1;
        }
        self.rows.put(at, Row::EMPTY);
        self.len -= 1;
        Some(removed)
    }

    /// Iterates over the rows in use, in hash order.
    pub fn iter(&self) -> impl Iterator<Item = &Row> {
        (0..self.rows.len()).filter_map(|at| self.rows.get(at)).filter(|row| !row.is_empty())
    }

    /// Copies the rows, in their places, to a plain vector, with the number of homes and the hash.
    pub(crate) fn bare_copy(&self) -> (Vec<Row>, usize, SpiHash) {
        let rows = (0..self.rows.len()).filter_map(|at| self.rows.get(at).cloned()).collect();
        (rows, self.homes, self.hash)
    }

    /// Says whether a search for `hash` has to go on past a row with this SPI.
    #[inline(always)]
    fn lies_before(&self, seen: u32, hash: u64) -> bool {
        (seen != 0) & (self.hash.hash(seen) < hash)
    }

    /// Where the row of `hash` is, or would have to be put.
    #[inline]
    fn seek(&self, hash: u64) -> usize {
        let mut at = SpiHash::home(hash, self.homes);
        while self.lies_before(self.rows.spi(at), hash) {
            at += 1;
        }
        at
    }

    /// Moves the row at `at`, and those that stand close behind it, on by one.
    fn open_gap(&mut self, at: usize) -> Result<(), InstallError> {
        let mut end = at;
        while self.rows.spi(end) != 0 {
            end += 1;
        }
        if end >= self.rows.len() {
            self.extend(end + 1)?;
        }
        for to in (at + 1..=end).rev() {
            self.rows.copy(to - 1, to);
        }
        Ok(())
    }

    fn extend(&mut self, rows: usize) -> Result<(), InstallError> {
        if rows >= NOT_FOUND as usize {
            return Err(InstallError::Full);
        }
        self.rows.grow_to(rows);
        Ok(())
    }

    /// Spreads the rows over `homes` homes within the table's own memory.
    ///
    /// First all rows are packed against the new end, keeping their order, then each is set down at
    /// its new home or right after the one before it. As many places are left as rows are still to be
    /// read, so none is overwritten unread. Each row moves twice; nothing is allocated but the growth.
    fn grow(&mut self, homes: usize) -> Result<(), InstallError> {
        let old_len = self.rows.len();
        let tail = (homes / 32 + 16).min(MAX_TAIL);
        self.extend(homes.checked_add(tail).ok_or(InstallError::Full)?)?;
        // The storage may round up; what it gave more becomes homes.
        let homes = self.rows.len() - tail;
        self.homes = homes;
        let mut read = self.rows.len();
        for from in (0..old_len).rev() {
            if self.rows.spi(from) != 0 {
                read -= 1;
                if from != read {
                    self.rows.copy(from, read);
                    self.rows.put(from, Row::EMPTY);
                }
            }
        }
        let mut next = 0;
        while read < self.rows.len() {
            let home = SpiHash::home(self.hash.hash(self.rows.spi(read)), homes);
            let to = home.max(next);
            if to > read {
                // More rows want the last homes than the tail has places: push what is unread on.
                read = self.push_on(read, to - read)?;
            }
            if to != read {
                self.rows.copy(read, to);
                self.rows.put(read, Row::EMPTY);
            }
            next = to + 1;
            read += 1;
        }
        Ok(())
    }

    /// Moves everything from `from` on by `places`; returns where it now starts.
    fn push_on(&mut self, from: usize, places: usize) -> Result<usize, InstallError> {
        let old_len = self.rows.len();
        self.extend(old_len + places)?;
        for at in (from..old_len).rev() {
            self.rows.copy(at, at + places);
            self.rows.put(at, Row::EMPTY);
        }
        Ok(from + places)
    }
}

/// Searches an open-addressing table for many SPIs at once, a window of them in flight.
///
/// home: where to begin. spi_at: what is in a row, 0 for empty and past the end. In each round every
/// search in the window reads one row; those that ended leave, and new ones take their places and read
/// their first. No branch depends on a row, so the cache misses of a whole round overlap.
#[inline(always)]
pub(crate) fn probe_many(
    spis: &[u32],
    positions: &mut [u32],
    home: impl Fn(u32) -> usize,
    spi_at: impl Fn(usize) -> u32,
) {
    let total = spis.len().min(positions.len());
    let mut window = [0u32; WINDOW];
    let (mut searching, mut begun) = (0, 0);
    while searching > 0 || begun < total {
        let mut left = 0;
        for turn in 0..searching {
            let index = window[turn % WINDOW];
            if let (Some(spi), Some(position)) = (spis.get(index as usize), positions.get_mut(index as usize)) {
                window[left % WINDOW] = index;
                let goes_on;
                (*position, goes_on) = step(*spi, *position, spi_at(*position as usize));
                left += usize::from(goes_on);
            }
        }
        let fresh = begun..total.min(begun + WINDOW - left);
        let new = spis.get(fresh.clone()).unwrap_or_default();
        let places = positions.get_mut(fresh.clone()).unwrap_or_default();
        for (index, (spi, position)) in (begun as u32..).zip(new.iter().zip(places)) {
            window[left % WINDOW] = index;
            let at = home(*spi);
            let goes_on;
            (*position, goes_on) = step(*spi, at as u32, spi_at(at));
            left += usize::from(goes_on);
        }
        begun = fresh.end;
        searching = left;
    }
}

/// What comes of a search that has seen a row at a position: where it ends or reads next, and whether it goes on.
#[inline(always)]
fn step(spi: u32, position: u32, seen: u32) -> (u32, bool) {
    let (hit, end) = (seen == spi, seen == 0);
    ((position + u32::from(!hit)) | 0u32.wrapping_sub(u32::from(end)), !hit & !end)
}

/// SAs that `homes` homes may hold: three quarters.
fn limit(homes: usize) -> usize {
    homes - homes.div_ceil(4)
}

/// The outbound SAs, numbered densely; a number is free again after its SA's removal.
pub struct Outbound {
    rows: Rows,
    used: usize,
    len: usize,
    /// Number + 1 of the first free row below `used`; each free row keeps the next one's in `seq`.
    free: u64,
}

impl Default for Outbound {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbound {
    /// Makes an empty table.
    pub const fn new() -> Self {
        Self { rows: Rows::new(), used: 0, len: 0, free: 0 }
    }

    /// Returns the number of SAs.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Says whether there is no SA.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the octets that the table has allocated.
    pub fn heap_octets(&self) -> usize {
        self.rows.heap_octets()
    }

    /// Installs one SA and returns its number. Two SAs may have one SPI: the receivers chose them.
    pub fn install(&mut self, row: Row) -> Result<u32, InstallError> {
        if row.is_empty() {
            return Err(InstallError::SpiZero);
        }
        let id = match self.free.checked_sub(1) {
            Some(id) => {
                self.free = self.rows.get(id as usize).map_or(0, |row| row.seq);
                id as usize
            }
            None => self.next_number()?,
        };
        self.rows.put(id, row);
        self.len += 1;
        Ok(id as u32)
    }

    /// Returns an SA's row; none if the number is not in use.
    #[inline]
    pub fn row(&self, id: u32) -> Option<&Row> {
        self.rows.get(id as usize).filter(|row| !row.is_empty())
    }

    /// Returns an SA's row for writing. The SPI must not become 0.
    #[inline]
    pub fn row_mut(&mut self, id: u32) -> Option<&mut Row> {
        self.rows.get_mut(id as usize).filter(|row| !row.is_empty())
    }

    /// Removes an SA, wipes its row and returns what the row held, without key and salt.
    pub fn remove(&mut self, id: u32) -> Option<Row> {
        let removed = self.row(id)?.without_key();
        self.rows.put(id as usize, Row { seq: self.free, ..Row::EMPTY });
        self.free = u64::from(id) + 1;
        self.len -= 1;
        Some(removed)
    }

    fn next_number(&mut self) -> Result<usize, InstallError> {
        let id = self.used;
        if id >= NOT_FOUND as usize {
            return Err(InstallError::Full);
        }
        if id == self.rows.len() {
            self.rows.grow_to(id + (id / 4).clamp(16, PIECE_ROWS));
        }
        self.used += 1;
        Ok(id)
    }
}

#[cfg(test)]
#[path = "sad_tests.rs"]
mod tests;
