//! SA rows of one cache line each, and the storage that both tables keep them in.

use std::hint::black_box;

/// One SA at rest: everything that an SA without packets has, in one cache line. Has no `Debug`.
///
/// What many SAs share (addresses, selectors, suite and key length, mode, lifetimes) is the profile's.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Row {
    /// Security Parameters Index; 0 marks an empty row, as it is never on the wire (RFC 4303 §2.1).
    pub spi: u32,
    /// Index of the shared profile.
    pub profile: u32,
    /// Cipher key, left-aligned; its length is the profile's.
    pub key: [u8; 32],
    /// Salt, left-aligned; its length is the suite's.
    pub salt: [u8; 4],
    /// When it was installed, seconds on the caller's clock.
    pub installed_s: u32,
    /// Outbound: the last number used. Inbound: the highest number accepted.
    pub seq: u64,
    /// Index + 1 of the hot state; 0 before the first packet.
    pub hot: u32,
    /// Bits that are the caller's to define.
    pub flags: u32,
}

const _: () = assert!(size_of::<Row>() == 64 && align_of::<Row>() == 64);

impl Row {
    /// A row that holds no SA.
    pub const EMPTY: Self =
        Self { spi: 0, profile: 0, key: [0; 32], salt: [0; 4], installed_s: 0, seq: 0, hot: 0, flags: 0 };

    /// Says whether the row holds no SA.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.spi == 0
    }

    /// Copies everything but key and salt, which are zero in the copy.
    pub fn without_key(&self) -> Self {
        let Self { spi, profile, installed_s, seq, hot, flags, .. } = *self;
        Self { spi, profile, installed_s, seq, hot, flags, ..Self::EMPTY }
    }
}

/// Rows of a piece: 2 MiB.
pub(crate) const PIECE_ROWS: usize = 1 << PIECE_BITS;
const PIECE_BITS: u32 = 15;

/// An array of rows in pieces of 2 MiB, so that growth copies one piece at most.
///
/// A plain vector would need old and new at once while it grows: 14 octets over budget for every SA.
/// Whatever is given back to the allocator is overwritten first.
pub(crate) struct Rows {
    pieces: Vec<Box<[Row]>>,
    len: usize,
}

impl Rows {
    pub(crate) const fn new() -> Self {
        Self { pieces: Vec::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Octets allocated.
    pub(crate) fn heap_octets(&self) -> usize {
        self.len * size_of::<Row>() + self.pieces.capacity() * size_of::<Box<[Row]>>()
    }

    /// Returns a row; none past the end.
    #[inline(always)]
    pub(crate) fn get(&self, at: usize) -> Option<&Row> {
        self.pieces.get(at >> PIECE_BITS)?.get(at & (PIECE_ROWS - 1))
    }

    /// Returns a row for writing; none past the end.
    #[inline(always)]
    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut Row> {
        self.pieces.get_mut(at >> PIECE_BITS)?.get_mut(at & (PIECE_ROWS - 1))
    }

    /// The SPI of a row; 0 for an empty one and past the end.
    #[inline(always)]
    pub(crate) fn spi(&self, at: usize) -> u32 {
        self.get(at).map_or(0, |row| row.spi)
    }

    /// Overwrites a row. Past the end nothing happens; callers grow first.
    #[inline]
    pub(crate) fn put(&mut self, at: usize, row: Row) {
        debug_assert!(at < self.len);
        if let Some(place) = self.get_mut(at) {
            *place = row;
        }
    }

    /// Copies a row over another.
    #[inline]
    pub(crate) fn copy(&mut self, from: usize, to: usize) {
        if let Some(row) = self.get(from).cloned() {
            self.put(to, row);
        }
    }

    /// Appends empty rows until there are `len`.
    pub(crate) fn grow_to(&mut self, len: usize) {
        if len <= self.len {
            return;
        }
        if let Some(last) = self.pieces.last_mut().filter(|last| last.len() < PIECE_ROWS) {
            let before = (self.len - last.len()).min(self.len);
            let mut piece = vec![Row::EMPTY; (len - before).min(PIECE_ROWS)].into_boxed_slice();
            for (new, old) in piece.iter_mut().zip(last.iter()) {
                *new = old.clone();
            }
            wipe(last);
            self.len = before + piece.len();
            *last = piece;
        }
        while self.len < len {
            let rows = (len - self.len).min(PIECE_ROWS);
            self.pieces.push(vec![Row::EMPTY; rows].into_boxed_slice());
            self.len += rows;
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        for piece in &mut self.pieces {
            wipe(piece);
        }
    }
}

/// Overwrites rows that are about to be freed; the barrier keeps the writes from being optimised away.
fn wipe(rows: &mut [Row]) {
    rows.fill(Row::EMPTY);
    black_box(rows);
}
