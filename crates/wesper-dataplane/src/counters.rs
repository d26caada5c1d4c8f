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
    pub const BATCHES: usize = 1;
    pub const READ_ERRORS: usize = 2;
    pub const PACKETS: usize = 3;
    pub const OCTETS: usize = 4;
    pub const NOT_IP: usize = 5;
    pub const BAD_OFFLOAD: usize = 6;
    pub const SLOW: usize = 7;
    pub const SLOW_LOST: usize = 8;
    pub const BY_ENGINE: usize = 9;
    pub const UNREACHABLE: usize = 10;
    pub const LINK_FULL: usize = 11;
    pub const TOO_BIG: usize = 12;
    pub const SENT_PACKETS: usize = 13;
    pub const SENT_OCTETS: usize = 14;
    pub const SENDS: usize = 15;
    pub const ALL: usize = 16;
}

/// Names of what goes from the device to the links. Octets are of IP packets; calls may be of many packets.
///
/// device_read_packets is the sum of link_sent_packets, slow, and what is lost or dropped.
pub const OUTWARD: [&str; outward::ALL] = [
    "device_read_calls",
    "outward_batches",
    "device_read_errors",
    "device_read_packets",
    "device_read_octets",
    "device_not_ip",
    "device_bad_offload",
    "slow",
    "slow_lost",
    "engine_dropped_out",
    "link_unreachable",
    "link_full",
    "link_too_big",
    "link_sent_packets",
    "link_sent_octets",
    "link_send_calls",
];

/// Places of the inward counters, by the order of [`INWARD`].
pub mod inward {
    #![allow(missing_docs, reason = "the names of INWARD say it")]
    pub const RECEIVES: usize = 0;
    pub const BATCHES: usize = 1;
    pub const RECEIVE_ERRORS: usize = 2;
    pub const PACKETS: usize = 3;
    pub const OCTETS: usize = 4;
    pub const BAD_DATAGRAM: usize = 5;
    pub const SLOW: usize = 6;
    pub const SLOW_LOST: usize = 7;
    pub const BY_ENGINE: usize = 8;
    pub const DEVICE_FULL: usize = 9;
    pub const DEVICE_DOWN: usize = 10;
    pub const DEVICE_REFUSED: usize = 11;
    pub const WRITTEN_PACKETS: usize = 12;
    pub const WRITTEN_OCTETS: usize = 13;
    pub const WRITES: usize = 14;
    pub const UNSTEERED: usize = 15;
    pub const ALL: usize = 16;
}

/// Names of what goes from the links to the device. Octets are of IP packets; calls may be of many packets.
///
/// link_received_packets is the sum of device_written_packets, slow, and what is lost or dropped. link_unsteered_packets are those
/// of them that came to another shard's worker.
pub const INWARD: [&str; inward::ALL] = [
    "link_receive_calls",
    "inward_batches",
    "link_receive_errors",
    "link_received_packets",
    "link_received_octets",
    "link_bad_datagram",
    "slow",
    "slow_lost",
    "engine_dropped_in",
    "device_full",
    "device_down",
    "device_refused",
    "device_written_packets",
    "device_written_octets",
    "device_write_calls",
    "link_unsteered_packets",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_added_once() {
        let (counts, mut batch) = (Counts::<{ outward::ALL }>::default(), [0; outward::ALL]);
        batch[outward::UNREACHABLE] = 7;
        counts.add(&mut batch);
        counts.add(&mut batch);
        let all = counts.all(&OUTWARD);
        assert_eq!(all[outward::UNREACHABLE], ("link_unreachable", 7));
        assert_eq!(all.iter().map(|(_, count)| count).sum::<u64>(), 7);
        assert_eq!((OUTWARD[outward::SENDS], INWARD[inward::WRITES]), ("link_send_calls", "device_write_calls"));
    }
}
