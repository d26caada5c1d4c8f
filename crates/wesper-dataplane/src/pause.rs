//! When to let packets gather for a moment before they are read.
//!
//! Who sends many packets at a time writes them one by one, and a worker that wakes with the first would run after each.
//! A pause makes one batch of them: fewer calls, larger messages. Whether it does is tried now and then, and goes on as
//! long as it brings more than one packet; who waits for an answer is soon left alone.

use std::time::Duration;

/// How long: what a network card waits for, too.
pub(crate) const PAUSE: Duration = Duration::from_micros(50);
/// Wakings until the next try, at first and at most.
const FIRST: u32 = 16;
const MOST: u32 = 4096;

/// Decides at each waking.
pub(crate) struct Pauses {
    /// Wakings without a pause after one that was of no use.
    gap: u32,
    left: u32,
    has_paused: bool,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { gap: FIRST, left: FIRST, has_paused: false }
    }
}

impl Pauses {
    /// Says whether to pause now that a packet waits.
    pub(crate) fn wants(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.has_paused = self.left == 0;
        self.has_paused
    }

    /// Notes what was read since the waking. is_whole: a super-packet was among it, so that its sender has gathered.
    pub(crate) fn note(&mut self, reads: usize, is_whole: bool) {
        if !std::mem::take(&mut self.has_paused) {
            return;
        }
        if reads > 1 && !is_whole {
            (self.gap, self.left) = (FIRST, 0);
        } else {
            self.left = self.gap;
            self.gap = self.gap.saturating_mul(2).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a worker pauses in so many wakings.
    fn paused(wakings: usize, reads: usize, is_whole: bool) -> usize {
        let mut pauses = Pauses::default();
        (0..wakings)
            .filter(|_| {
                let pauses_now = pauses.wants();
                pauses.note(if pauses_now { reads } else { 1 }, is_whole);
                pauses_now
            })
            .count()
    }

    #[test]
    fn it_goes_on_where_packets_gather_and_not_where_they_do_not() {
        assert_eq!(paused(1000, 17, false), 1000 - FIRST as usize + 1);
        assert!(paused(1000, 1, false) <= 6);
        assert!(paused(1000, 3, true) <= 6);
        assert!(paused(1_000_000, 1, false) <= 260);
    }

    #[test]
    fn it_ends_when_packets_no_longer_gather() {
        let mut pauses = Pauses::default();
        while !pauses.wants() {}
        pauses.note(9, false);
        assert!(pauses.wants());
        pauses.note(1, false);
        assert!(!pauses.wants());
    }
}
