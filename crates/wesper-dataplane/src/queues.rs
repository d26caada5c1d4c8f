//! What workers leave for others to fetch: packets of the rare cases, and copies for captures. Bounded, both.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{io, mem};

use wesper_core::selectors::Way;
use wesper_core::verdict::DropReason;

use crate::sys;

const SLOW_PACKETS: usize = 1024;
const SLOW_OCTETS: usize = 4 << 20;

/// Packets that the usual path is not for, to be looked at by the engine's own calls.
pub struct Slow {
    queue: Mutex<Queue>,
    event: OwnedFd,
}

#[derive(Default)]
struct Queue {
    packets: VecDeque<(Way, Box<[u8]>)>,
    octets: usize,
}

impl Slow {
    /// Makes an empty queue.
    pub fn new() -> io::Result<Self> {
        Ok(Self { queue: Mutex::default(), event: sys::event()? })
    }

    /// Adds a packet; false if there is no room.
    pub fn push(&self, way: Way, packet: &[u8]) -> bool {
        let mut queue = lock(&self.queue);
        if queue.packets.len() >= SLOW_PACKETS || queue.octets + packet.len() > SLOW_OCTETS {
            return false;
        }
        queue.octets += packet.len();
        queue.packets.push_back((way, packet.into()));
        if queue.packets.len() == 1 {
            sys::ring(&self.event);
        }
        true
    }

    /// Takes all packets out.
    pub fn drain(&self) -> VecDeque<(Way, Box<[u8]>)> {
        let mut queue = lock(&self.queue);
        sys::hush(&self.event);
        queue.octets = 0;
        mem::take(&mut queue.packets)
    }

    /// Makes whoever waits for packets look, though none is there.
    pub(crate) fn wake(&self) {
        sys::ring(&self.event);
    }

    /// Can be read while there are packets.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// One packet that passed, as a capture wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Nanoseconds on the monotonic clock.
    pub now: u64,
    /// Outward or inward.
    pub way: Way,
    /// The plain packet, not the protected one.
    pub is_inner: bool,
    /// Octets before it was cut for the capture.
    pub octets: usize,
    /// Its first octets.
    pub packet: Box<[u8]>,
    /// Why it went no further; none if it did.
    pub reason: Option<DropReason>,
}

/// Copies of what passes, while somebody wants them.
#[derive(Default)]
pub struct Tap {
    is_open: AtomicBool,
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    seen: VecDeque<Seen>,
    octets: usize,
    limit: usize,
    snap: usize,
    lost: u64,
}

impl Tap {
    /// Begins to copy. snap: octets of a packet that are kept. limit: octets kept of all, before any are lost.
    pub fn open(&self, snap: usize, limit: usize) {
        *lock(&self.ring) = Ring { snap, limit, ..Ring::default() };
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// Ends; what has been copied can still be fetched.
    pub fn close(&self) {
        self.is_open.store(false, Ordering::Relaxed);
    }

    /// Says whether copies are wanted.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Copies a packet, or counts it as lost.
    #[cold]
    pub fn see(&self, now: u64, way: Way, is_inner: bool, packet: &[u8], reason: Option<DropReason>) {
        let mut ring = lock(&self.ring);
        let kept = packet.get(..ring.snap).unwrap_or(packet);
        let cost = kept.len() + mem::size_of::<Seen>();
        if ring.octets + cost > ring.limit {
            ring.lost += 1;
            return;
        }
        ring.octets += cost;
        ring.seen.push_back(Seen { now, way, is_inner, octets: packet.len(), packet: kept.into(), reason });
    }

    /// Takes out what has been copied, and how many had no room since the last time.
    pub fn drain(&self) -> (VecDeque<Seen>, u64) {
        let mut ring = lock(&self.ring);
        ring.octets = 0;
        (mem::take(&mut ring.seen), mem::take(&mut ring.lost))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_queue_is_bounded_by_packets_and_octets_and_tells_when_it_fills() {
        let slow = Slow::new().expect("an eventfd");
        let is_raised = || sys::wait(Some(slow.event()), slow.event(), 0).expect("a poll").input;
        assert!(!is_raised());
        let taken = (0..2000).filter(|_| slow.push(Way::Outbound, &[0; 10])).count();
        assert_eq!((taken, is_raised()), (SLOW_PACKETS, true));
        assert_eq!((slow.drain().len(), is_raised()), (SLOW_PACKETS, false));
        let taken = (0..2000).filter(|_| slow.push(Way::Inbound, &[0; 65535])).count();
        assert_eq!(taken, SLOW_OCTETS / 65535);
    }

    #[test]
    fn a_tap_keeps_what_has_room_and_counts_the_rest() {
        let tap = Tap::default();
        tap.open(4, 2 * (4 + mem::size_of::<Seen>()));
        for _ in 0..3 {
            tap.see(9, Way::Inbound, true, &[1, 2, 3, 4, 5], Some(DropReason::Auth));
        }
        let (seen, lost) = tap.drain();
        assert_eq!((seen.len(), lost), (2, 1));
        assert_eq!((seen[0].packet.as_ref(), seen[0].octets), (&[1, 2, 3, 4][..], 5));
        tap.see(10, Way::Outbound, false, &[1], None);
        assert_eq!(tap.drain().0.len(), 1);
        tap.close();
        assert!(!tap.is_open());
    }
}
