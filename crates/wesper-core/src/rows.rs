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

/// Rows up to which one vector serves: 8 MiB, copied when it grows.
const FLAT_ROWS: usize = 1 << 17;
/// Rows of a piece: 1 MiB.
pub(crate) const PIECE_ROWS: usize = 1 << PIECE_BITS;
const PIECE_BITS: u32 = 14;

type Piece = [Row; PIECE_ROWS];

/// An array of rows that grows without a second copy of itself, but for the first 8 MiB.
///
/// A plain vector would need old and new at once while it grows: 192 octets an SA, not 107.
/// Whatever is given back to the allocator is overwritten first.
pub(crate) enum Rows {
    Flat(Vec<Row>),
    Pieces(Vec<Box<Piece>>),
}

impl Rows {
    pub(crate) const fn new() -> Self {
        Self::Flat(Vec::new())
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Flat(rows) => rows.len(),
            Self::Pieces(pieces) => pieces.len() * PIECE_ROWS,
        }
    }

    /// Octets allocated.
    pub(crate) fn heap_octets(&self) -> usize {
        match self {
            Self::Flat(rows) => rows.capacity() * size_of::<Row>(),
            Self::Pieces(pieces) => pieces.len() * size_of::<Piece>() + pieces.capacity() * size_of::<Box<Piece>>(),
        }
    }

    /// Returns a row; none past the end.
    #[inline(always)]
    pub(crate) fn get(&self, at: usize) -> Option<&Row> {
        match self {
            Self::Flat(rows) => rows.get(at),
            Self::Pieces(pieces) => in_pieces(pieces, at),
        }
    }

    /// Returns a row for writing; none past the end.
    #[inline(always)]
    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut Row> {
        match self {
            Self::Flat(rows) => rows.get_mut(at),
            Self::Pieces(pieces) => Some(&mut pieces.get_mut(at >> PIECE_BITS)?[at % PIECE_ROWS]),
        }
    }

    /// The SPI of a row; 0 for an empty one and past the end.
    #[inline(always)]
    pub(crate) fn spi(&self, at: usize) -> u32 {
        self.get(at).map_or(0, |row| row.spi)
    }

    /// Overwrites a row. Past the end nothing happens; callers grow first.
    #[inline]
    pub(crate) fn put(&mut self, at: usize, row: Row) {
        debug_assert!(at < self.len());
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

    /// Appends empty rows until there are `len` or, in pieces, a few more.
    pub(crate) fn grow_to(&mut self, len: usize) {
        if len <= self.len() {
            return;
        }
        match self {
            Self::Flat(rows) if len <= FLAT_ROWS => {
                let mut grown = Vec::with_capacity(len);
                grown.extend_from_slice(rows);
                grown.resize(len, Row::EMPTY);
                wipe(rows);
                *rows = grown;
            }
            Self::Flat(rows) => {
                let mut pieces: Vec<Box<Piece>> = Vec::new();
                for part in rows.chunks(PIECE_ROWS) {
                    let mut piece = empty_piece();
                    for (new, old) in piece.iter_mut().zip(part) {
                        *new = old.clone();
                    }
                    pieces.push(piece);
                }
                wipe(rows);
                *self = Self::Pieces(pieces);
                self.grow_to(len);
            }
            Self::Pieces(pieces) => pieces.resize_with(len.div_ceil(PIECE_ROWS), empty_piece),
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        match self {
            Self::Flat(rows) => wipe(rows),
            Self::Pieces(pieces) => pieces.iter_mut().for_each(|piece| wipe(&mut piece[..])),
        }
    }
}

/// Returns a row of a table in pieces; none past the end.
#[inline(always)]
pub(crate) fn in_pieces(pieces: &[Box<Piece>], at: usize) -> Option<&Row> {
    Some(&pieces.get(at >> PIECE_BITS)?[at % PIECE_ROWS])
}

fn empty_piece() -> Box<Piece> {
    vec![Row::EMPTY; PIECE_ROWS].into_boxed_slice().try_into().ok().expect("the slice has PIECE_ROWS rows")
}

/// Overwrites rows that are about to be freed; the barrier keeps the writes from being optimised away.
fn wipe(rows: &mut [Row]) {
    rows.fill(Row::EMPTY);
    black_box(rows);
}
