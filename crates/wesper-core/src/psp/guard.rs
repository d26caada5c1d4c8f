//! Replay rules for associations that need one: PSP itself has none. A packet is looked at once it is authentic.

use std::collections::HashMap;

use crate::replay::{ReplayWindow, WindowSizeError};
use crate::verdict::DropReason;

/// What an association's rule has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Whether each IV is accepted once, and not by time.
    pub is_exact: bool,
    /// The newest IV accepted.
    pub newest: u64,
    /// Packets.
    pub accepted: u64,
    /// Packets.
    pub replayed: u64,
}

/// How an association's IVs are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Not older than the newest one less a margin below 2^63 (Falcon 0.9 §6.5).
    Time {
        /// In what the IVs count.
        margin: u64,
    },
    /// Each once, by a window that has seen none yet.
    Exact(ReplayWindow),
}

/// One association under a rule.
pub(super) struct Watched {
    rule: Rule,
    newest: u64,
    accepted: u64,
    replayed: u64,
}

impl Watched {
    /// newest: the newest IV that counts as seen.
    pub(super) fn new(rule: Rule, newest: u64) -> Self {
        Self { rule, newest, accepted: 0, replayed: 0 }
    }

    /// Packets refused.
    pub(super) fn replayed(&self) -> u64 {
        self.replayed
    }

    /// Counts all IVs up to the newest as seen, where each is taken once.
    pub(super) fn close(&mut self) {
        if let Rule::Exact(window) = &mut self.rule {
            window.close(self.newest);
        }
    }

    /// Whether an authentic packet may be delivered; it then counts as seen.
    #[inline]
    pub(super) fn accept(&mut self, iv: u64) -> bool {
        let good = match &mut self.rule {
            Rule::Exact(window) => window.accept(&mut self.newest, iv).is_fresh(),
            Rule::Time { margin } => {
                let ahead = iv.wrapping_sub(self.newest);
                let good = ahead.wrapping_add(*margin) < 1 << 63;
                if good && ahead < 1 << 63 {
                    self.newest = iv;
                }
                good
            }
        };
        *if good { &mut self.accepted } else { &mut self.replayed } += 1;
        good
    }
}

/// Replay rules by SPI, so many of them and no more.
pub struct Guard {
    most: usize,
    watched: HashMap<u32, Watched>,
}

impl Guard {
    /// Makes one that watches nothing.
    pub fn new(most: usize) -> Self {
        Self { most, watched: HashMap::new() }
    }

    /// How many associations are watched.
    pub fn len(&self) -> usize {
        self.watched.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }

    /// Takes IVs that are not older than the newest less a margin, below 2^63. Says whether there was room.
    pub fn watch_time(&mut self, spi: u32, margin: u64, newest: u64) -> bool {
        self.watch(spi, Rule::Time { margin }, newest)
    }

    /// Takes each IV once. Says whether there was room.
    pub fn watch_exact(&mut self, spi: u32, window: u32, newest: u64) -> Result<bool, WindowSizeError> {
        Ok(self.watch(spi, Rule::Exact(ReplayWindow::new(window)?), newest))
    }

    fn watch(&mut self, spi: u32, rule: Rule, newest: u64) -> bool {
        if self.watched.len() >= self.most && !self.watched.contains_key(&spi) {
            return false;
        }
        self.watched.insert(spi, Watched::new(rule, newest));
        true
    }

    /// Watches an association no more.
    pub fn forget(&mut self, spi: u32) {
        self.watched.remove(&spi);
    }

    /// Forgets all associations of a device key.
    pub fn forget_slot(&mut self, slot: u32) {
        self.watched.retain(|spi, _| spi >> 31 != slot);
    }

    /// What an association's rule has seen.
    pub fn state(&self, spi: u32) -> Option<State> {
        self.watched.get(&spi).map(|watched| State {
            is_exact: matches!(watched.rule, Rule::Exact(_)),
            newest: watched.newest,
            accepted: watched.accepted,
            replayed: watched.replayed,
        })
    }

    /// Whether an authentic packet may be delivered; it then counts as seen.
    #[inline]
    pub fn accept(&mut self, spi: u32, iv: u64) -> bool {
        self.watched.get_mut(&spi).is_none_or(|watched| watched.accept(iv))
    }

    /// Puts `PspReplay` in place of 0 and `PspSampled` where a packet may not be delivered, in order.
    pub fn accept_many(&mut self, spis: &[u32], ivs: &[u64], codes: &mut [u8]) {
        for ((code, spi), iv) in codes.iter_mut().zip(spis).zip(ivs) {
            if matches!(*code, 0 | SAMPLED) && !self.accept(*spi, *iv) {
                *code = DropReason::PspReplay as u8;
            }
        }
    }
}

const SAMPLED: u8 = DropReason::PspSampled as u8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_takes_what_is_not_too_old_also_around_the_wrap() {
        let mut guard = Guard::new(2);
        assert!(guard.watch_time(1, 100, u64::MAX - 10));
        assert!(guard.accept(1, u64::MAX - 50));
        assert!(!guard.accept(1, u64::MAX - 111));
        assert!(guard.accept(1, 5)); // past the wrap
        assert!(guard.accept(1, u64::MAX - 90));
        assert!(!guard.accept(1, u64::MAX - 95));
        assert_eq!(guard.state(1), Some(State { is_exact: false, newest: 5, accepted: 3, replayed: 2 }));
    }

    #[test]
    fn exact_takes_each_once() {
        let mut guard = Guard::new(2);
        assert_eq!(guard.watch_exact(1, 64, 0), Ok(true));
        let mut codes = [0, 0, SAMPLED, 0, 9];
        guard.accept_many(&[1, 1, 1, 2, 1], &[7, 7, 7, 7, 8], &mut codes);
        let replay = DropReason::PspReplay as u8;
        assert_eq!(codes, [0, replay, replay, 0, 9]);
        assert!(guard.accept(1, 8));
        assert!(!guard.accept(1, 0));
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut guard = Guard::new(1);
        assert!(guard.watch_time(1, 1, 0));
        assert!(guard.watch_time(1, 2, 0));
        assert!(!guard.watch_time(0x8000_0001, 1, 0));
        guard.forget_slot(0);
        assert!(guard.watch_time(0x8000_0001, 1, 0));
        guard.forget(0x8000_0001);
        assert!(guard.is_empty());
    }
}
