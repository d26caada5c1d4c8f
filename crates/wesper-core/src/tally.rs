//! What the shards of one inbound SA have counted together, so that its limits hold for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Counts of an SA, as its limits want them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lived {
    pub(crate) packets: u64,
    pub(crate) octets: u64,
    /// When the last packet passed.
    pub(crate) used_ns: u64,
}

/// One shard's own counts, in a cache line that no other shard writes to.
#[derive(Default)]
#[repr(align(64))]
struct Slot {
    packets: AtomicU64,
    octets: AtomicU64,
    used_ns: AtomicU64,
}

struct Tally {
    slots: Box<[Slot]>,
    is_softened: AtomicBool,
    is_expired: AtomicBool,
}

/// One shard's part in an SA with limits.
#[derive(Clone)]
pub(crate) struct Share {
    tally: Arc<Tally>,
    shard: usize,
}

impl Share {
    /// Makes the parts of so many shards.
    pub(crate) fn split(shards: usize) -> impl Iterator<Item = Self> {
        let slots = (0..shards).map(|_| Slot::default()).collect();
        let tally = Arc::new(Tally { slots, is_softened: AtomicBool::new(false), is_expired: AtomicBool::new(false) });
        (0..shards).map(move |shard| Self { tally: Arc::clone(&tally), shard })
    }

    /// Notes how far this shard has counted.
    pub(crate) fn put(&self, lived: Lived) {
        if let Some(slot) = self.tally.slots.get(self.shard) {
            slot.packets.store(lived.packets, Relaxed);
            slot.octets.store(lived.octets, Relaxed);
            slot.used_ns.store(lived.used_ns, Relaxed);
        }
    }

    /// What all shards have counted, this one so far.   Those of others may be a packet behind.
    pub(crate) fn total(&self, own: Lived) -> Lived {
        let others = self.tally.slots.iter().enumerate().filter(|(shard, _)| *shard != self.shard);
        others.fold(own, |sum, (_, slot)| Lived {
            packets: sum.packets + slot.packets.load(Relaxed),
            octets: sum.octets + slot.octets.load(Relaxed),
            used_ns: sum.used_ns.max(slot.used_ns.load(Relaxed)),
        })
    }

    /// Whether a shard has told that the soft lifetime is over.
    pub(crate) fn is_softened(&self) -> bool {
        self.tally.is_softened.load(Relaxed)
    }

    /// Says that the soft lifetime is over; whether nobody has said so before.
    pub(crate) fn soften(&self) -> bool {
        !self.tally.is_softened.swap(true, Relaxed)
    }

    /// Whether a shard has told that the hard lifetime is over.
    pub(crate) fn is_expired(&self) -> bool {
        self.tally.is_expired.load(Relaxed)
    }

    /// Says that the hard lifetime is over; whether nobody has said so before.
    pub(crate) fn expire(&self) -> bool {
        !self.tally.is_expired.swap(true, Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_sees_what_all_have_counted() {
        let shares: Vec<Share> = Share::split(3).collect();
        let lived = |packets, used_ns| Lived { packets, octets: 10 * packets, used_ns };
        shares[0].put(lived(5, 100));
        shares[1].put(lived(7, 300));
        assert_eq!(shares[2].total(lived(1, 200)), lived(13, 300));
        assert_eq!(shares[0].total(lived(6, 400)), lived(13, 400), "its own counts are newer than what it has put");
    }

    #[test]
    fn one_shard_tells_what_all_find_out() {
        let shares: Vec<Share> = Share::split(2).collect();
        assert!(!shares[0].is_softened());
        assert!(shares[1].soften() && !shares[0].soften() && shares[0].is_softened());
        assert!(!shares[1].is_expired() && shares[0].expire() && !shares[1].expire() && shares[1].is_expired());
    }
}
