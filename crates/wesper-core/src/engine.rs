//! Both halves behind one set of calls, for two threads at once: one may protect while the other opens.
//!
//! Each half has a lock of its own. The inbound one can be several shards, for as many threads: each has all SAs, and
//! sees the packets of its flows alone, so that their windows, keys and counts lie in the caches of one core. What is
//! asked about an SA is asked of all of them. Events come in the order in which they happen.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::batch::{self, Ids, Marks, Results};
use crate::events::{Event, EventQueue};
use crate::modes;
use crate::profile::{InstallError, Lifetime, Options, Profile, Sa, SaState, SubSaState};
use crate::receiver::{MULTICAST_IDS, Receiver};
use crate::selectors::Way;
use crate::sender::{Besides, Dropped, HEADROOM, OUTBOUND_IDS, Sealed, Sender, TAILROOM, infer};
use crate::spd::{Found, NotIp, Policy};
use crate::steering::shard_of;
use crate::tally::Share;
use crate::verdict::{CODES, DropReason};

/// An SAD, an SPD, and packets through them.
///
/// Ids: an inbound SA's is its SPI, a multicast one's 2^32 + n, an outbound one's 2^40 + n; n is never used again.
/// Locks are taken in the order of the fields, and never two of halves and shards.
pub struct Engine {
    /// The next n.
    serial: Mutex<u64>,
    sender: Mutex<Half<Sender>>,
    receivers: Vec<Mutex<Half<Receiver>>>,
    events: Mutex<EventQueue>,
}

/// One half, and where it works on single packets.
struct Half<T> {
    half: T,
    scratch: Vec<u8>,
}

/// What came out of a single packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered<T> {
    /// What the caller made of the packet's octets.
    pub packet: T,
    /// The SA that did the work.
    pub sa: u64,
    /// Full sequence number; 0 where none is sent.
    pub sequence: u64,
    /// EESP's Session ID, WESPv2's flow identifier, else 0.
    pub flow: u64,
}

impl Engine {
    /// Makes an engine without SAs and policies.
    pub fn new(options: &Options) -> Self {
        Self {
            serial: Mutex::new(0),
            sender: Mutex::new(Half { half: Sender::new(options), scratch: Vec::new() }),
            receivers: (0..options.shards.max(1))
                .map(|_| Mutex::new(Half { half: Receiver::new(options), scratch: Vec::new() }))
                .collect(),
            events: Mutex::new(EventQueue::new(options.events)),
        }
    }

    /// How many threads can open packets at once.
    pub fn shards(&self) -> usize {
        self.receivers.len()
    }

    /// Adds an SA and returns its id.
    pub fn install(&self, profile: &Arc<Profile>, way: Way, sa: &Sa<'_>, now: u64) -> Result<u64, InstallError> {
        if way == Way::Inbound && sa.multicast.is_empty() {
            let ids = self.install_in_each(profile, |half| Ok(vec![half.install(profile, sa, now)?]))?;
            return Ok(ids.first().copied().unwrap_or_default());
        }
        let mut serial = lock(&self.serial);
        let id = match way {
            Way::Outbound => self.sender().half.install(profile, sa, *serial, now)?,
            Way::Inbound => {
                let install = |half: &mut Receiver| Ok(vec![half.install_multicast(profile, sa, *serial, now)?]);
                self.install_in_each(profile, install)?.first().copied().unwrap_or_default()
            }
        };
        *serial += 1;
        Ok(id)
    }

    /// Adds the same SAs to all shards and returns their ids; on an error none has been added.
    fn install_in_each(
        &self,
        profile: &Profile,
        install: impl Fn(&mut Receiver) -> Result<Vec<u64>, InstallError>,
    ) -> Result<Vec<u64>, InstallError> {
        let mut ids: Vec<u64> = Vec::new();
        let mut shares: Vec<Vec<Share>> = Vec::new();
        let is_shared =
            self.shards() > 1 && [&profile.soft, &profile.hard].into_iter().any(|it| *it != Lifetime::default());
        for (shard, receiver) in self.receivers.iter().enumerate() {
            let half = &mut lock(receiver).half;
            match install(half) {
                Ok(installed) => ids = installed,
                Err(error) => {
                    // Memory alone can have run out: every shard has the same SAs.
                    for receiver in self.receivers.iter().take(shard) {
                        ids.iter().for_each(|id| _ = lock(receiver).half.remove(*id));
                    }
                    return Err(error);
                }
            }
            if is_shared {
                if shard == 0 {
                    shares = ids.iter().map(|_| Share::split(self.shards()).collect()).collect();
                }
                for (id, share) in ids.iter().zip(&shares) {
                    share.get(shard).into_iter().for_each(|share| half.share(*id, share.clone()));
                }
            }
        }
        Ok(ids)
    }

    /// Adds SAs that share a profile and returns their ids; on an error none has been added.
    ///
    /// keys: one row an SPI, all of one length: key, salt, or with a separate MAC key, auth key.
    pub fn install_many(
        &self,
        profile: &Arc<Profile>,
        way: Way,
        spis: &[u32],
        keys: &[u8],
        now: u64,
    ) -> Result<Vec<u64>, InstallError> {
        match way {
            Way::Outbound => {
                let mut serial = lock(&self.serial);
                let ids = self.sender().half.install_many(profile, spis, keys, *serial, now)?;
                *serial += spis.len() as u64;
                Ok(ids)
            }
            Way::Inbound => self.install_in_each(profile, |half| half.install_many(profile, spis, keys, now)),
        }
    }

    /// Deletes an SA and wipes its keys; false if there is none.
    pub fn remove(&self, sa: u64) -> bool {
        if sa >= OUTBOUND_IDS { self.sender().half.remove(sa) } else { self.in_each(|half| half.remove(sa)) }
    }

    /// Returns what an SA has lived through; none if there is no such SA.
    pub fn state(&self, sa: u64) -> Option<SaState> {
        if sa >= OUTBOUND_IDS {
            return self.sender().half.state(sa);
        }
        let states = self.receivers.iter().map(|receiver| lock(receiver).half.state(sa));
        states.reduce(|sum, state| {
            let (sum, state) = (sum?, state?);
            Some(SaState {
                sequence: sum.sequence.max(state.sequence),
                packets: sum.packets + state.packets,
                octets: sum.octets + state.octets,
                replay: sum.replay + state.replay,
                integrity_failed: sum.integrity_failed + state.integrity_failed,
                mtu: sum.mtu,
            })
        })?
    }

    /// Returns what a Sub SA has lived through, 0 that of an SA without; outer none: no such SA.
    pub fn sub_sa_state(&self, sa: u64, id: u16) -> Option<Option<SubSaState>> {
        if sa >= OUTBOUND_IDS {
            return self.sender().half.sub_sa_state(sa, id);
        }
        let states = self.receivers.iter().map(|receiver| lock(receiver).half.sub_sa_state(sa, id));
        states.reduce(|sum, state| match (sum?, state?) {
            (Some(sum), Some(state)) => Some(Some(SubSaState {
                sequence: sum.sequence.max(state.sequence),
                packets: sum.packets + state.packets,
                octets: sum.octets + state.octets,
            })),
            (sum, state) => Some(sum.or(state)),
        })?
    }

    /// Returns an SA's profile; none if there is no such SA.
    pub fn profile(&self, sa: u64) -> Option<Arc<Profile>> {
        if sa >= OUTBOUND_IDS {
            self.sender().half.profile(sa).cloned()
        } else {
            self.receiver(0).half.profile(sa).cloned()
        }
    }

    /// Writes the ids of inbound SAs by SPI, 2^64-1 where there is none. Multicast SAs are not looked at.
    pub fn find(&self, spis: &[u32], ids: &mut [u64]) {
        self.receiver(0).half.find(spis, ids);
    }

    /// Returns the full number that a received low half is taken for, none if there is none; outer none: no such SA.
    pub fn infer(&self, sa: u64, low: u32) -> Option<Option<u64>> {
        if sa >= OUTBOUND_IDS {
            return self.sender().half.infer(sa, low);
        }
        Some(infer(&*self.profile(sa)?, self.state(sa)?.sequence, low))
    }

    /// Returns the largest inner packet of an SA; none if there is no such SA.
    pub fn inner_mtu(&self, sa: u64, now: u64) -> Option<usize> {
        if sa >= OUTBOUND_IDS {
            self.send(|half| half.half.inner_mtu(sa, now))
        } else {
            self.receive(0, |half| half.half.inner_mtu(sa, now))
        }
    }

    /// Tells an SA its path's MTU, good for ten minutes; false if there is no such SA.
    pub fn set_mtu(&self, sa: u64, mtu: u32, now: u64) -> bool {
        if sa >= OUTBOUND_IDS {
            self.sender().half.set_mtu(sa, mtu, now)
        } else {
            self.receiver(0).half.set_mtu(sa, mtu, now)
        }
    }

    /// Lets an outbound SA use numbers up to `last` and no further; false if there is no such outbound SA.
    pub fn reserve(&self, sa: u64, last: u64) -> bool {
        self.sender().half.reserve(sa, last)
    }

    /// Counts all numbers up to the highest accepted as received; false if there is no such inbound SA.
    pub fn close_window(&self, sa: u64) -> bool {
        if sa >= OUTBOUND_IDS {
            return false;
        }
        let top = self.state(sa).map_or(0, |state| state.sequence);
        self.in_each(|half| half.close_window(sa, top))
    }

    /// Lets an SA go on with another profile, which differs in outer addresses and UDP ports alone; false if there is
    /// no such SA.
    pub fn set_profile(&self, sa: u64, profile: &Arc<Profile>) -> bool {
        if sa >= OUTBOUND_IDS {
            self.sender().half.set_profile(sa, profile)
        } else {
            self.in_each(|half| half.set_profile(sa, profile))
        }
    }

    /// Protects one packet: see [`Sender::encapsulate`]. take: gets the octets, which are gone when it returns.
    #[inline]
    pub fn encapsulate<T>(
        &self,
        sa: u64,
        packet: &[u8],
        besides: Besides<'_>,
        now: u64,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<Delivered<T>, Dropped> {
        self.send(|Half { half, scratch }| {
            let buf = set_down(scratch, packet, besides.tfc.len());
            let Sealed { start, len, sequence, flow } =
                half.encapsulate_with(sa, buf, HEADROOM, packet.len(), besides, now)?;
            let packet = take(buf.get(start..start + len).unwrap_or_default());
            Ok(Delivered { packet, sa, sequence, flow })
        })
    }

    /// Makes a packet that the peer throws away: see [`Sender::dummy`].
    pub fn dummy<T>(
        &self,
        sa: u64,
        payload: &[u8],
        now: u64,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<Delivered<T>, Dropped> {
        self.send(|Half { half, scratch }| {
            let buf = set_down(scratch, payload, 0);
            let Sealed { start, len, sequence, flow } = half.dummy(sa, buf, HEADROOM, payload.len(), now)?;
            let packet = take(buf.get(start..start + len).unwrap_or_default());
            Ok(Delivered { packet, sa, sequence, flow })
        })
    }

    /// Opens one packet: see [`Receiver::decapsulate`]. take: gets the octets, which are gone when it returns.
    #[inline]
    pub fn decapsulate<T>(
        &self,
        packet: &[u8],
        now: u64,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<Delivered<T>, DropReason> {
        let shard = if self.shards() > 1 { shard_of(packet, self.shards()) } else { 0 };
        self.receive(shard, |Half { half, scratch }| {
            let buf = set_down(scratch, packet, 0);
            let opened = half.decapsulate(buf, HEADROOM, packet.len(), now)?;
            let packet = take(buf.get(opened.start..opened.start + opened.len).unwrap_or_default());
            Ok(Delivered { packet, sa: opened.sa, sequence: opened.sequence, flow: opened.flow })
        })
    }

    /// Protects packets, in order: see [`Sender::encapsulate_many`].
    pub fn encapsulate_many(
        &self,
        ids: Ids<'_>,
        marks: Marks<'_>,
        data: &[u8],
        offsets: &[u64],
        now: u64,
        memory: Vec<u8>,
    ) -> Results {
        self.send(|half| half.half.encapsulate_many(ids, marks, data, offsets, now, memory))
    }

    /// Opens packets, in order: see [`Receiver::decapsulate_many`].
    pub fn decapsulate_many(&self, data: &[u8], offsets: &[u64], now: u64, memory: Vec<u8>) -> Results {
        if self.shards() == 1 {
            return self.receive(0, |half| half.half.decapsulate_many(data, offsets, now, memory));
        }
        let packets = offsets.len().saturating_sub(1);
        let mut results = Results::new(memory, packets, data.len() + 2 * modes::HEADROOM);
        let shard = |index| shard_of(batch::packet(data, offsets, index), self.shards());
        let mut first = 0;
        while first < packets {
            let run = (first + 1..packets).find(|index| shard(*index) != shard(first)).unwrap_or(packets);
            let more =
                |half: &mut Half<Receiver>| half.half.decapsulate_more(data, offsets, first..run, now, &mut results);
            self.receive(shard(first), more);
            first = run;
        }
        results
    }

    /// Lends the outbound half to a worker for a batch, and takes over the events that come of it.
    pub fn with_sender<T>(&self, work: impl FnOnce(&mut Sender) -> T) -> T {
        self.send(|half| work(&mut half.half))
    }

    /// Lends a shard of the inbound half to a worker for a batch, and takes over the events that come of it.
    pub fn with_receiver<T>(&self, shard: usize, work: impl FnOnce(&mut Receiver) -> T) -> T {
        self.receive(shard, |half| work(&mut half.half))
    }

    /// Replaces the SPD.
    pub fn set_policies(&self, outbound: Vec<Policy>, inbound: Vec<Policy>) {
        self.sender().half.set_policies(outbound);
        self.receivers.iter().for_each(|receiver| lock(receiver).half.set_policies(inbound.clone()));
    }

    /// Finds the policy for a packet.
    pub fn look_up_policy(&self, packet: &[u8], way: Way) -> Result<Option<Found>, NotIp> {
        match way {
            Way::Outbound => self.sender().half.look_up_policy(packet),
            Way::Inbound => self.receiver(0).half.look_up_policy(packet),
        }
    }

    /// Returns when the next SA reaches a limit of time, nanoseconds; none if none will.
    pub fn deadline(&self) -> Option<u64> {
        let inbound = self.receivers.iter().filter_map(|receiver| lock(receiver).half.deadline());
        inbound.chain(self.sender().half.deadline()).min()
    }

    /// Raises the events of all limits of time that are reached, and removes SAs whose hard lifetime is over.
    pub fn handle_timeout(&self, now: u64) {
        let expired = self.receivers.iter().any(|receiver| lock(receiver).half.has_expired());
        (0..self.shards()).for_each(|shard| self.receive(shard, |half| half.half.handle_timeout(now, expired)));
        self.send(|half| half.half.handle_timeout(now));
    }

    /// Returns the oldest event not yet fetched.
    pub fn next_event(&self) -> Option<Event> {
        lock(&self.events).next()
    }

    /// Says whether an event waits.
    pub fn has_events(&self) -> bool {
        !lock(&self.events).is_empty()
    }

    /// Returns how many events had no room.
    pub fn lost_events(&self) -> u64 {
        lock(&self.events).lost()
    }

    /// Adds an event that was decided outside.
    pub fn tell(&self, event: Event) {
        lock(&self.events).tell(event);
    }

    /// Returns how often each code has dropped a packet.
    pub fn drops(&self) -> [u64; CODES] {
        let mut sum = *self.sender().half.drops();
        for receiver in &self.receivers {
            sum.iter_mut().zip(lock(receiver).half.drops()).for_each(|(sum, drops)| *sum += drops);
        }
        sum
    }

    /// Counts a drop that was decided outside.
    pub fn count(&self, reason: DropReason) {
        self.receiver(0).half.count(reason);
    }

    /// Returns id and last number of outbound SAs with this SPI and outer destination that have sent packets.
    pub fn recent_outbound(&self, spi: u32, remote: IpAddr) -> Vec<(u64, u64)> {
        self.sender().half.recent(spi, remote)
    }

    /// Works on the outbound half, and takes over the events that come of it before anybody else can.
    #[inline]
    fn send<T>(&self, work: impl FnOnce(&mut Half<Sender>) -> T) -> T {
        let mut half = self.sender();
        let result = work(&mut half);
        self.gather(half.half.events_mut());
        result
    }

    /// The same with a shard of the inbound half.
    #[inline]
    fn receive<T>(&self, shard: usize, work: impl FnOnce(&mut Half<Receiver>) -> T) -> T {
        let mut half = self.receiver(shard);
        let result = work(&mut half);
        self.gather(half.half.events_mut());
        result
    }

    #[inline]
    fn gather(&self, told: &mut EventQueue) {
        if !told.is_empty() {
            lock(&self.events).take_from(told);
        }
    }

    #[inline]
    fn sender(&self) -> MutexGuard<'_, Half<Sender>> {
        lock(&self.sender)
    }

    /// shard: taken round, so that there is one of any number.
    #[inline]
    fn receiver(&self, shard: usize) -> MutexGuard<'_, Half<Receiver>> {
        lock(&self.receivers[shard % self.receivers.len()])
    }

    /// Does something to every shard; whether all say yes.
    fn in_each(&self, mut work: impl FnMut(&mut Receiver) -> bool) -> bool {
        self.receivers.iter().fold(true, |all, receiver| work(&mut lock(receiver).half) & all)
    }
}

/// Takes a lock, also one that a thread has died with: each half is whole after each packet.
#[inline]
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies a packet into a buffer with room before it, and behind it for `more` octets and the largest padding.
#[inline]
fn set_down<'a>(scratch: &'a mut Vec<u8>, packet: &[u8], more: usize) -> &'a mut [u8] {
    let octets = HEADROOM + packet.len() + more + usize::from(u16::MAX) + TAILROOM;
    if scratch.len() < octets {
        scratch.resize(octets, 0);
    }
    if let Some(place) = scratch.get_mut(HEADROOM..HEADROOM + packet.len()) {
        place.copy_from_slice(packet);
    }
    scratch
}

const _: () = assert!(MULTICAST_IDS < OUTBOUND_IDS);
