//! What the workers count. Every packet that a worker takes ends in exactly one of its counters of ends.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one direction, shared by its workers.
pub struct Counts<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> Counts<N> {
    /// Adds what a batch has counted, and clears it.
    pub fn add(&self, batch: &mut [u64; N]) {
        for (total, count) in self.0.iter().zip(batch) {
            if *count > 0 {
                total.fetch_add(std::mem::take(count), Ordering::Relaxed);
            }
        }
    }

    /// Returns all of them, with their names.
    pub fn all<'a>(&self, names: &'a [&'a str; N]) -> Vec<(&'a str, u64)> {
        names.iter().zip(&self.0).map(|(name, count)| (*name, count.load(Ordering::Relaxed))).collect()
    }
}

/// Places of the outward counters, by the order of [`OUTWARD`].
pub mod outward {
    #![allow(missing_docs, reason = "the names of OUTWARD say it")]
    pub const READS: usize = 0;
    pub const PACKETS: usize = 1;
    pub const OCTETS: usize = 2;
    pub const SENT_PACKETS: usize = 3;
    pub const SENT_OCTETS: usize = 4;
    pub const SENDS: usize = 5;
    pub const BATCHES: usize = 6;
    pub const SLOW: usize = 7;
    pub const DROPPED_SLOW_FULL: usize = 8;
    pub const DROPPED_BAD_OFFLOAD: usize = 9;
    pub const DROPPED_BY_ENGINE: usize = 10;
    pub const DROPPED_NO_LINK: usize = 11;
    pub const DROPPED_LINK_FULL: usize = 12;
    pub const DROPPED_TOO_LONG: usize = 13;
    pub const DROPPED_UNREACHABLE: usize = 14;
    pub const DEVICE_ERRORS: usize = 15;
    pub const ALL: usize = 16;
}

/// Names of what goes from the device to the links. Octets are of IP packets.
///
/// packets = sent_packets + slow + all that is dropped.
pub const OUTWARD: [&str; outward::ALL] = [
    "reads",
    "packets",
    "octets",
    "sent_packets",
    "sent_octets",
    "sends",
    "batches",
    "slow",
    "dropped_slow_full",
    "dropped_bad_offload",
    "dropped_by_engine",
    "dropped_no_link",
    "dropped_link_full",
    "dropped_too_long",
    "dropped_unreachable",
    "device_errors",
];

/// Places of the inward counters, by the order of [`INWARD`].
pub mod inward {
    #![allow(missing_docs, reason = "the names of INWARD say it")]
    pub const RECEIVES: usize = 0;
    pub const PACKETS: usize = 1;
    pub const OCTETS: usize = 2;
    pub const WRITTEN_PACKETS: usize = 3;
    pub const WRITTEN_OCTETS: usize = 4;
    pub const WRITES: usize = 5;
    pub const BATCHES: usize = 6;
    pub const SLOW: usize = 7;
    pub const DROPPED_SLOW_FULL: usize = 8;
    pub const DROPPED_BAD_DATAGRAM: usize = 9;
    pub const DROPPED_BY_ENGINE: usize = 10;
    pub const DROPPED_DEVICE_FULL: usize = 11;
    pub const DROPPED_DEVICE_ERROR: usize = 12;
    pub const LINK_ERRORS: usize = 13;
    pub const ALL: usize = 14;
}

/// Names of what goes from the links to the device. Octets are of IP packets.
///
/// packets = written_packets + slow + all that is dropped.
pub const INWARD: [&str; inward::ALL] = [
    "receives",
    "packets",
    "octets",
    "written_packets",
    "written_octets",
    "writes",
    "batches",
    "slow",
    "dropped_slow_full",
    "dropped_bad_datagram",
    "dropped_by_engine",
    "dropped_device_full",
    "dropped_device_error",
    "link_errors",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_added_once() {
        let (counts, mut batch) = (Counts::<{ outward::ALL }>::default(), [0; outward::ALL]);
        batch[outward::DROPPED_UNREACHABLE] = 7;
        counts.add(&mut batch);
        counts.add(&mut batch);
        let all = counts.all(&OUTWARD);
        assert_eq!(all[outward::DROPPED_UNREACHABLE], ("dropped_unreachable", 7));
        assert_eq!(all.iter().map(|(_, count)| count).sum::<u64>(), 7);
        assert_eq!((OUTWARD[outward::DEVICE_ERRORS], INWARD[inward::LINK_ERRORS]), ("device_errors", "link_errors"));
    }
}
