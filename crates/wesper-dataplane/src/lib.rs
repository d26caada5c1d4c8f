//! Worker threads of a live tunnel: a TUN device or packet socket on one side, UDP or raw IP on the other.
//!
//! An outward worker reads packets and super-packets from the device, cuts them, has the engine protect them and sends
//! them, many datagrams a call. An inward worker receives, has them opened in place, joins what belongs together and
//! writes it. What is rare is left to others in [`queues::Slow`]. [`cut`], [`join`], [`group`], [`outer`] and [`vnet`]
//! do no I/O; system calls that the standard library lacks are in `sys`. Unsafe code is there and, for one call that asks the
//! processor first, in [`checksum`].
#![deny(unsafe_code)]

mod ancillary;
mod carrier;
pub mod checksum;
pub mod counters;
pub mod cut;
pub mod device;
pub mod group;
mod inward;
pub mod join;
pub mod link;
pub mod outer;
mod outward;
mod pause;
pub mod queues;
#[cfg(test)]
mod samples;
mod sys;
pub mod vnet;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wesper_core::selectors::Way;

pub use crate::carrier::Carrier;
use crate::counters::{self as counted, Counts, INWARD, OUTWARD};
use crate::device::Device;
use crate::group::{Groups, LinkEnd};
use crate::inward::Inward;
use crate::join::Piece;
use crate::link::{Link, send_groups};
use crate::outward::Outward;
use crate::queues::{Slow, Tap};
use crate::sys::Outlet;
use crate::vnet::Vnet;

/// What all workers share.
pub struct Shared {
    carrier: Carrier,
    devices: Vec<Device>,
    links: Vec<Link>,
    ends: Vec<LinkEnd>,
    /// Packets of the rare cases.
    pub slow: Slow,
    /// Copies for captures.
    pub tap: Tap,
    /// What the outward workers have counted.
    pub outward: Counts<{ counted::outward::ALL }>,
    /// What the inward workers have counted.
    pub inward: Counts<{ counted::inward::ALL }>,
    stop_outward: Stop,
    stop_inward: Stop,
    has_died: AtomicBool,
}

/// Tells threads to end, also those that wait.
struct Stop {
    event: OwnedFd,
    is_set: AtomicBool,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self { event: sys::event()?, is_set: AtomicBool::new(false) })
    }

    fn set(&self) {
        self.is_set.store(true, Ordering::Relaxed);
        sys::ring(&self.event);
    }
}

impl Shared {
    fn stop_outward(&self) -> BorrowedFd<'_> {
        self.stop_outward.event.as_fd()
    }

    fn stop_inward(&self) -> BorrowedFd<'_> {
        self.stop_inward.event.as_fd()
    }

    fn is_stopping(&self) -> bool {
        self.stop_outward.is_set.load(Ordering::Relaxed)
    }

    fn is_stopped(&self) -> bool {
        self.stop_inward.is_set.load(Ordering::Relaxed)
    }

    /// The sockets, in the order they were given.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Sends a packet that an engine has made. None, or the name of the count that says why it did not go.
    pub fn send(&self, packet: &[u8]) -> Option<&'static str> {
        let mut groups = Groups::default();
        let mut counts = [0; counted::outward::ALL];
        if !groups.push(packet, Piece { at: 0, len: packet.len() }, &self.ends, |_| false) {
            return Some(OUTWARD[counted::outward::UNREACHABLE]);
        }
        send_groups(&self.links, packet, &groups, &mut Outlet::default(), &mut counts);
        self.see_rare(Way::Outbound, false, packet);
        [counted::outward::UNREACHABLE, counted::outward::LINK_FULL, counted::outward::TOO_BIG]
            .into_iter()
            .find(|place| counts[*place] > 0)
            .map(|place| OUTWARD[place])
    }

    /// Writes a plain packet to the device. None, or the name of the count that says why it did not go.
    pub fn write(&self, packet: &[u8]) -> Option<&'static str> {
        let whole = [Piece { at: 0, len: packet.len() }];
        self.see_rare(Way::Inbound, true, packet);
        match self.devices.first().map(|device| device.write(Vnet::default(), &[], packet, &whole)) {
            Some(Ok(())) => None,
            Some(Err(error)) => Some(INWARD[inward::loss_of(&error)]),
            None => Some(INWARD[counted::inward::DEVICE_DOWN]),
        }
    }

    /// Says whether a worker has ended though nobody told it to.
    pub fn has_died(&self) -> bool {
        self.has_died.load(Ordering::Relaxed)
    }

    fn see_rare(&self, way: Way, is_inner: bool, packet: &[u8]) {
        if self.tap.is_open() {
            self.tap.see(sys::now(), way, is_inner, packet, None);
        }
    }
}

/// The workers of one interface.
pub struct Dataplane {
    shared: Arc<Shared>,
    outward: Vec<JoinHandle<io::Result<()>>>,
    inward: Vec<JoinHandle<io::Result<()>>>,
}

impl Dataplane {
    /// Prepares workers: an outward one for each device, or queue of one, and an inward one for each link that receives.
    pub fn new(carrier: Carrier, devices: Vec<Device>, links: Vec<Link>) -> io::Result<Self> {
        let shared = Shared {
            carrier,
            devices,
            ends: links.iter().map(Link::end).collect(),
            links,
            slow: Slow::new()?,
            tap: Tap::default(),
            outward: Counts::default(),
            inward: Counts::default(),
            stop_outward: Stop::new()?,
            stop_inward: Stop::new()?,
            has_died: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared), outward: Vec::new(), inward: Vec::new() })
    }

    /// What the workers share with others.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Starts the threads. Does nothing if they run.
    pub fn start(&mut self) -> io::Result<()> {
        if !self.inward.is_empty() || !self.outward.is_empty() {
            return Ok(());
        }
        let receiving = self.shared.links.iter().enumerate().filter(|(_, link)| link.shard().is_some());
        for index in receiving.map(|(index, _)| index).collect::<Vec<_>>() {
            self.inward.push(self.spawn(format!("wesper-in-{index}"), move |shared| {
                let device = shared.devices.get(index % shared.devices.len().max(1));
                let (Some(link), Some(device)) = (shared.links.get(index), device) else { return Ok(()) };
                Inward::new(shared, link, device).run()
            })?);
        }
        for index in 0..self.shared.devices.len() {
            self.outward.push(self.spawn(format!("wesper-out-{index}"), move |shared| {
                let Some(device) = shared.devices.get(index) else { return Ok(()) };
                Outward::new(shared, device).run()
            })?);
        }
        Ok(())
    }

    /// Has what waits at the links opened and written, by a thread for each; for measurement, in place of [`Self::start`].
    ///
    /// Returns how long it took from when the first began until the last had nothing left.
    pub fn drain(&self) -> Duration {
        let shared = &self.shared;
        let receiving: Vec<&Link> = shared.links.iter().filter(|link| link.shard().is_some()).collect();
        let Some(device) = shared.devices.first() else { return Duration::ZERO };
        let ready = Barrier::new(receiving.len());
        let work = &|link| {
            let mut worker = Inward::new(shared, link, device);
            ready.wait();
            let start = Instant::now();
            worker.drain();
            (start, Instant::now())
        };
        let times: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
            let threads: Vec<_> = receiving.into_iter().map(|link| scope.spawn(move || work(link))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        let start = times.iter().map(|(start, _)| *start).min();
        let end = times.iter().map(|(_, end)| *end).max();
        start.zip(end).map_or(Duration::ZERO, |(start, end)| end - start)
    }

    fn spawn(
        &self,
        name: String,
        work: impl FnOnce(&Shared) -> io::Result<()> + Send + 'static,
    ) -> io::Result<JoinHandle<io::Result<()>>> {
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new().name(name).spawn(move || {
            sys::block_signals();
            sys::be_punctual();
            let result = catch_unwind(AssertUnwindSafe(|| work(&shared)))
                .unwrap_or_else(|_| Err(io::Error::other("a worker has panicked")));
            if result.is_err() {
                shared.has_died.store(true, Ordering::Relaxed);
                shared.slow.wake();
            }
            result
        })
    }

    /// Ends the outward workers, lets the inward ones go on for `drain`, ends them too, and waits for all.
    ///
    /// Returns the first error that one of them has ended with.
    pub fn stop(&mut self, drain: Duration) -> io::Result<()> {
        self.shared.stop_outward.set();
        let mut result = join(&mut self.outward);
        if !drain.is_zero() && !self.inward.is_empty() {
            std::thread::sleep(drain);
        }
        self.shared.stop_inward.set();
        if let Err(error) = join(&mut self.inward) {
            result = result.and(Err(error));
        }
        result
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.stop(Duration::ZERO);
    }
}

/// Waits for all, and returns the first error that one has ended with.
fn join(threads: &mut Vec<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    let mut result = Ok(());
    for thread in threads.drain(..) {
        let ended = thread.join().unwrap_or_else(|_| Err(io::Error::other("a worker has died")));
        result = result.and(ended);
    }
    result
}
