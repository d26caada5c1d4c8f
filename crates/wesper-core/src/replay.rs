//! The anti-replay window: a ring of words that never shifts (RFC 6479), and the inference of the
//! high half of an extended sequence number (RFC 4303 appendix A2).
//!
//! The right edge of the window, the highest number that passed its ICV, is the SA's and is handed
//! in: an idle SA needs no more than that number. The ring's words are allocated by the first
//! accepted packet.

/// Smallest window, packets (RFC 4303 §3.4.3: at least 32 must be supported).
pub const MIN_WINDOW: u32 = 32;
/// Largest window, packets.
pub const MAX_WINDOW: u32 = 1 << 20;

/// What the window says of a sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Not seen yet and not too old.
    Fresh,
    /// Zero, which is never sent while anti-replay is on (RFC 4303 §3.3.3).
    Zero,
    /// Left of the window.
    TooOld,
    /// Inside the window and seen.
    Duplicate,
}

impl Freshness {
    /// Says whether the packet may go on.
    #[inline]
    pub fn is_fresh(self) -> bool {
        self == Self::Fresh
    }
}

/// A window's size was refused: it is not a multiple of 32 from 32 to 2^20.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("replay window of {0} packets: must be a multiple of 32 from 32 to 1048576")]
pub struct WindowSizeError(pub u32);

/// Which of the last `window` numbers were seen. `top`, the right edge, belongs to the caller.
///
/// Verify with [`check`](Self::check) before the ICV, record with [`accept`](Self::accept) after it:
/// a forged packet must not move the window (RFC 4303 §3.4.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayWindow {
    words: Box<[u64]>,
    window: u32,
}

impl ReplayWindow {
    /// Makes an empty window of `window` packets. No allocation.
    pub fn new(window: u32) -> Result<Self, WindowSizeError> {
        if !(MIN_WINDOW..=MAX_WINDOW).contains(&window) || !window.is_multiple_of(32) {
            return Err(WindowSizeError(window));
        }
        Ok(Self { words: Box::default(), window })
    }

    /// Returns the size in packets.
    #[inline]
    pub fn window(&self) -> u32 {
        self.window
    }

    /// Returns what the ring of words takes on the heap, octets; 0 before the first accepted packet.
    pub fn heap_octets(&self) -> usize {
        size_of_val::<[u64]>(&self.words)
    }

    /// Says what the window knows of number `n`, with `top` the highest number accepted so far.
    #[inline]
    pub fn check(&self, top: u64, n: u64) -> Freshness {
        if n > top {
            return Freshness::Fresh;
        }
        if n == 0 {
            return Freshness::Zero;
        }
        // RFC 6479's code tolerates one number more on the left; both are safe.
        if top - n >= u64::from(self.window) {
            return Freshness::TooOld;
        }
        match self.words.get(self.slot(n)) {
            Some(word) if word >> (n & 63) & 1 == 1 => Freshness::Duplicate,
            _ => Freshness::Fresh,
        }
    }

    /// Checks `n` again and records it, moving `top` if `n` is beyond it.
    ///
    /// The second check matters: two copies of a packet may both have passed the first one.
    /// Allocates the ring on the first call that accepts.
    #[inline]
    pub fn accept(&mut self, top: &mut u64, n: u64) -> Freshness {
        let freshness = self.check(*top, n);
        if freshness.is_fresh() {
            self.mark(top, n);
        }
        freshness
    }

    /// Records `n`, which [`check`](Self::check) has just called fresh, moving `top` if `n` is beyond it.
    ///
    /// Only where nothing can have been recorded since; [`accept`](Self::accept) is for everybody else.
    #[inline(always)]
    pub fn mark(&mut self, top: &mut u64, n: u64) {
        if self.words.is_empty() {
            self.words = vec![0; ring_words(self.window)].into_boxed_slice();
        }
        if n > *top {
            self.advance(*top, n);
            *top = n;
        }
        let slot = self.slot(n);
        if let Some(word) = self.words.get_mut(slot) {
            *word |= 1 << (n & 63);
        }
    }

    /// Records every number up to `top`.
    ///
    /// Bits above `top` stay clear: the words behind it are cleared when the right edge gets there, its own is not.
    pub fn close(&mut self, top: u64) {
        self.words = vec![u64::MAX; ring_words(self.window)].into_boxed_slice();
        let slot = self.slot(top);
        if let Some(word) = self.words.get_mut(slot) {
            *word = u64::MAX >> (63 - (top & 63));
        }
    }

    /// Returns where number `n` is recorded, none before the first accepted packet.
    #[inline(always)]
    pub(crate) fn word(&self, n: u64) -> Option<&u64> {
        self.words.get(self.slot(n))
    }

    /// Clears the words that the right edge passes on its way from `top` to `n`; none is shifted.
    #[inline(always)]
    fn advance(&mut self, top: u64, n: u64) {
        let steps = (n >> 6) - (top >> 6);
        if steps == 0 {
            return;
        }
        if steps >= self.words.len() as u64 {
            self.words.fill(0);
            return;
        }
        for step in 1..=steps {
            let slot = self.slot(top.wrapping_add(step << 6));
            if let Some(word) = self.words.get_mut(slot) {
                *word = 0;
            }
        }
    }

    /// The ring's word for `n`. The ring's size is a power of two, or zero.
    #[inline]
    fn slot(&self, n: u64) -> usize {
        (n >> 6) as usize & self.words.len().wrapping_sub(1)
    }
}

/// Words of the ring: the window's own and at least one spare, a power of two (RFC 6479 §2).
fn ring_words(window: u32) -> usize {
    (window.div_ceil(64) as usize + 1).next_power_of_two()
}

/// Finds the 64-bit number of a packet that carries `low`, or none if it would lie before 0 or past 2^64.
///
/// top: highest number accepted so far. window: 1..2^31; a receiver without anti-replay passes the
/// window that it would have. A number left of the window is read as one of the next 2^32 block.
/// Source: RFC 4303 appendix A2.2.
#[inline]
pub fn infer_esn(top: u64, window: u32, low: u32) -> Option<u64> {
    let (top_high, top_low) = ((top >> 32) as u32, top as u32);
    let back = window.saturating_sub(1);
    let bottom = top_low.wrapping_sub(back);
    let high = if top_low >= back {
        // Case A: the window lies in one block of 2^32.
        if low >= bottom { Some(top_high) } else { top_high.checked_add(1) }
    } else if low >= bottom {
        // Case B: the window spans two blocks; low is in the one before.
        top_high.checked_sub(1)
    } else {
        Some(top_high)
    };
    high.map(|high| u64::from(high) << 32 | u64::from(low))
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
