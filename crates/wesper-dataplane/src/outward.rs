//! From the device to the links: read, route, cut, protect, send.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::time::Duration;

use wesper_core::selectors::Way;
use wesper_core::sender::Route;
use wesper_core::verdict::DropReason;

use crate::Shared;
use crate::carrier::{Carrier, Outbound};
use crate::counters::outward::{
    ALL, BAD_OFFLOAD, BATCHES, BY_ENGINE, NOT_IP, OCTETS, PACKETS, READ_ERRORS, READS, SLOW, SLOW_LOST, UNREACHABLE,
};
use crate::cut::{Cut, complete_checksum};
use crate::device::{Device, Got, READ_ROOM};
use crate::group::Groups;
use crate::join::Piece;
use crate::link::send_groups;
use crate::pause::{PAUSE, Pauses};
use crate::sys::{self, Outlet};
use crate::vnet::{Gso, Vnet};

/// Octets that are read before they are protected: two super-packets, so that all of a batch stays in the cache.
const READ_OCTETS: usize = 2 * READ_ROOM;
/// Packets that are read before they are protected.
const READ_PACKETS: usize = 64;
/// How long a device that has failed is left alone, so that it does not keep a core busy.
const AFTER_ERROR: Duration = Duration::from_millis(1);
/// Octets of protected packets of one batch.
const ARENA: usize = 192 << 10;
/// Packets start at multiples of this, so that the cipher's wide loads do not cross lines more than they must.
const ALIGNMENT: usize = 64;

/// What was read: one packet, or a super-packet and how far it has been cut.
struct Item {
    place: Range<usize>,
    cut: Option<Cut>,
    next: usize,
}

impl Item {
    fn count(&self) -> usize {
        self.cut.map_or(1, |cut| cut.count())
    }

    fn octets(&self, index: usize) -> usize {
        self.cut.map_or(self.place.len(), |cut| cut.octets(index))
    }
}

/// A worker's own memory.
pub(crate) struct Outward<'a> {
    shared: &'a Shared,
    device: &'a Device,
    read: Vec<u8>,
    items: VecDeque<Item>,
    arena: Vec<u8>,
    groups: Groups,
    outlet: Outlet,
    counts: [u64; ALL],
    /// Octets that a profile wants packets to be filled up to, as far as is known.
    pad_to: usize,
    pauses: Pauses,
}

impl<'a> Outward<'a> {
    /// Makes a worker for one queue of the device.
    pub(crate) fn new(shared: &'a Shared, device: &'a Device) -> Self {
        Self {
            shared,
            device,
            read: vec![0; READ_OCTETS],
            items: VecDeque::with_capacity(READ_PACKETS),
            arena: vec![0; ARENA],
            groups: Groups::default(),
            outlet: Outlet::default(),
            counts: [0; ALL],
            pad_to: 0,
            pauses: Pauses::default(),
        }
    }

    /// Works until it is told to stop.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let stop = self.shared.stop_outward();
        loop {
            let is_dry = self.gather();
            self.pauses.note(self.items.len(), self.items.iter().any(|item| item.count() > 1));
            if !self.items.is_empty() {
                while !self.items.is_empty() {
                    self.protect();
                    send_groups(&self.shared.links, &self.arena, &self.groups, &mut self.outlet, &mut self.counts);
                }
                self.counts[BATCHES] += 1;
            }
            self.shared.outward.add(&mut self.counts);
            if self.shared.is_stopping() {
                return Ok(());
            }
            // Not by reading once more: where packets come one by one, that would be a call for nothing with each.
            if is_dry {
                let ready = sys::wait(Some(self.device.fd()), stop, -1)?;
                if ready.stop {
                    return Ok(());
                }
                if ready.error && !ready.input {
                    // The interface is down or gone; it may come back, and whoever watches it says when to stop.
                    sys::wait(None, stop, 20)?;
                } else if self.pauses.wants() {
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Reads until there is nothing more for now, or enough. Returns whether there is nothing more.
    fn gather(&mut self) -> bool {
        let (mut at, mut packets) = (0, 0);
        while packets < READ_PACKETS && at + READ_ROOM <= self.read.len() {
            match self.device.read(&mut self.read, at) {
                Ok(Got::Nothing) => return true,
                Ok(Got::Other) => {
                    self.counts[READS] += 1;
                    self.counts[NOT_IP] += 1;
                }
                Ok(Got::Packet(place, vnet)) => {
                    self.counts[READS] += 1;
                    at = place.end;
                    packets += self.take(place, vnet);
                }
                Err(_) => {
                    // Down or gone, or one packet of a kind that the device can't tell of: the next read will say.
                    self.counts[READ_ERRORS] += 1;
                    std::thread::sleep(AFTER_ERROR);
                    return true;
                }
            }
        }
        false
    }

    /// Notes what was read, and returns how many packets it is.
    fn take(&mut self, place: Range<usize>, vnet: Vnet) -> usize {
        let Some(packet) = self.read.get_mut(place.clone()) else { return 0 };
        let planned = match (vnet.gso, vnet.checksum) {
            (Gso::None, None) => Ok(None),
            (Gso::None, Some((start, offset))) => complete_checksum(packet, start, offset).map(|()| None),
            _ => Cut::plan(packet, &vnet).map(Some),
        };
        let Ok(cut) = planned else {
            self.counts[PACKETS] += 1;
            self.counts[OCTETS] += place.len() as u64;
            self.counts[BAD_OFFLOAD] += 1;
            return 1;
        };
        let item = Item { place, cut, next: 0 };
        let count = item.count();
        self.counts[PACKETS] += count as u64;
        self.counts[OCTETS] += match &item.cut {
            Some(cut) => (item.place.len() + (count - 1) * cut.header()) as u64,
            None => item.place.len() as u64,
        };
        self.items.push_back(item);
        count
    }

    /// Protects as many packets as the arena holds, all of them under one lock.
    fn protect(&mut self) {
        let shared = self.shared;
        match &shared.carrier {
            Carrier::Sas(engine) => engine.with_sender(|sender| self.protect_with(sender)),
            Carrier::Psp(gateway) => self.protect_with(&mut *gateway.sender()),
        }
    }

    fn protect_with<S: Outbound>(&mut self, sender: &mut S) {
        self.groups.clear();
        let Self { shared, read, items, arena, groups, counts, pad_to, .. } = self;
        let (now, tapped) = (sys::now(), shared.tap.is_open());
        let ends = &shared.ends;
        let segmentation = |link: usize| shared.links.get(link).is_some_and(|link| link.has_segmentation());
        let mut at = 0;
        while let Some(item) = items.front_mut() {
            let packet = read.get(item.place.clone()).unwrap_or_default();
            let route = sender.route(packet, now);
            if let Route::Protect { pad_to: wanted, .. } = route {
                *pad_to = (*pad_to).max(wanted);
            }
            let count = item.count();
            while item.next < count {
                let octets = item.octets(item.next);
                let start = at + S::HEADROOM;
                let end = start + octets.max(*pad_to) + S::TAILROOM;
                if end > arena.len() {
                    if at > 0 {
                        return;
                    }
                    arena.resize(end, 0);
                }
                let place = arena.get_mut(start..start + octets).unwrap_or_default();
                match &item.cut {
                    Some(cut) => cut.write(item.next, packet, place),
                    None => place.copy_from_slice(packet),
                }
                item.next += 1;
                let inner = Piece { at: start, len: octets };
                // Sealing is in place: what the tap is to show has to be kept before.
                let plain = tapped.then(|| place.to_vec());
                let sealed = seal(sender, route, arena, inner, now, shared, counts);
                match (&plain, &sealed) {
                    // What became of a rare case is for Python to tell.
                    (None, _) | (_, Err(None)) => {}
                    (Some(plain), Ok(_)) => shared.tap.see(now, Way::Outbound, true, plain, None),
                    (Some(plain), Err(reason)) => shared.tap.see(now, Way::Outbound, true, plain, *reason),
                }
                let Ok(sealed) = sealed else { continue };
                if tapped {
                    shared.tap.see(now, Way::Outbound, false, sealed.of(arena), None);
                }
                if groups.push(arena, sealed, ends, segmentation) {
                    at = (sealed.at + sealed.len).next_multiple_of(ALIGNMENT);
                } else {
                    counts[UNREACHABLE] += 1;
                }
            }
            items.pop_front();
        }
    }
}

/// Protects one packet in place, or hands it to whoever handles the rare cases. Err: why it was dropped, none where it
/// was handed over.
#[inline]
fn seal<S: Outbound>(
    sender: &mut S,
    route: Route,
    arena: &mut [u8],
    inner: Piece,
    now: u64,
    shared: &Shared,
    counts: &mut [u64; ALL],
) -> Result<Piece, Option<DropReason>> {
    match route {
        Route::Protect { sa, mtu, .. } if inner.len <= mtu => {
            sender.encapsulate(sa, arena, inner, now).map_err(|reason| {
                counts[BY_ENGINE] += 1;
                Some(reason)
            })
        }
        _ => {
            let taken = shared.slow.push(Way::Outbound, inner.of(arena));
            counts[if taken { SLOW } else { SLOW_LOST }] += 1;
            Err(None)
        }
    }
}
