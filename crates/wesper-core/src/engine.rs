//! Both halves behind one set of calls, as the Python interface has it: events come in the order in which they happen.
//!
//! Two threads that must not wait for each other take the halves apart with [`Engine::into_halves`].

use std::net::IpAddr;
use std::sync::Arc;

use crate::batch::{Ids, Results};
use crate::events::{Event, EventQueue};
use crate::profile::{InstallError, Options, Profile, Sa, SaState};
use crate::receiver::{MULTICAST_IDS, Opened, Receiver};
use crate::selectors::Way;
use crate::sender::{Dropped, OUTBOUND_IDS, Sealed, Sender};
use crate::spd::{Found, NotIp, Policy};
use crate::verdict::{CODES, DropReason};

/// An SAD, an SPD, and packets through them.
///
/// Ids: an inbound SA's is its SPI, a multicast one's 2^32 + n, an outbound one's 2^40 + n; n is never used again.
pub struct Engine {
    sender: Sender,
    receiver: Receiver,
    serial: u64,
    events: EventQueue,
}

impl Engine {
    /// Makes an engine without SAs and policies.
    pub fn new(options: &Options) -> Self {
        Self {
            sender: Sender::new(options),
            receiver: Receiver::new(options),
            serial: 0,
            events: EventQueue::new(options.events),
        }
    }

    /// Takes the halves apart: they share nothing, and each keeps its own events and counts.
    pub fn into_halves(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    /// Adds an SA and returns its id.
    pub fn install(&mut self, profile: &Arc<Profile>, way: Way, sa: &Sa<'_>, now: u64) -> Result<u64, InstallError> {
        match way {
            Way::Outbound => {
                let id = self.sender.install(profile, sa, self.serial, now)?;
                self.serial += 1;
                Ok(id)
            }
            Way::Inbound if sa.multicast.is_empty() => self.receiver.install(profile, sa, now),
            Way::Inbound => {
                let id = self.receiver.install_multicast(profile, sa, self.serial, now)?;
                self.serial += 1;
                Ok(id)
            }
        }
    }

    /// Adds SAs that share a profile and returns their ids; on an error none has been added.
    ///
    /// keys: one row an SPI, all of one length: key, salt, or with a separate MAC key, auth key.
    pub fn install_many(
        &mut self,
        profile: &Arc<Profile>,
        way: Way,
        spis: &[u32],
        keys: &[u8],
        now: u64,
    ) -> Result<Vec<u64>, InstallError> {
        match way {
            Way::Outbound => {
                let ids = self.sender.install_many(profile, spis, keys, self.serial, now)?;
                self.serial += spis.len() as u64;
                Ok(ids)
            }
            Way::Inbound => self.receiver.install_many(profile, spis, keys, now),
        }
    }

    /// Deletes an SA and wipes its keys; false if there is none.
    pub fn remove(&mut self, sa: u64) -> bool {
        if sa >= OUTBOUND_IDS { self.sender.remove(sa) } else { self.receiver.remove(sa) }
    }

    /// Returns what an SA has lived through; none if there is no such SA.
    pub fn state(&self, sa: u64) -> Option<SaState> {
        if sa >= OUTBOUND_IDS { self.sender.state(sa) } else { self.receiver.state(sa) }
    }

    /// Returns an SA's profile; none if there is no such SA.
    pub fn profile(&self, sa: u64) -> Option<&Arc<Profile>> {
        if sa >= OUTBOUND_IDS { self.sender.profile(sa) } else { self.receiver.profile(sa) }
    }

    /// Writes the ids of inbound SAs by SPI, 2^64-1 where there is none. Multicast SAs are not looked at.
    pub fn find(&self, spis: &[u32], ids: &mut [u64]) {
        self.receiver.find(spis, ids);
    }

    /// Returns the full number that a received low half is taken for, none if there is none; outer none: no such SA.
    pub fn infer(&self, sa: u64, low: u32) -> Option<Option<u64>> {
        if sa >= OUTBOUND_IDS { self.sender.infer(sa, low) } else { self.receiver.infer(sa, low) }
    }

    /// Returns the largest inner packet of an SA; none if there is no such SA.
    pub fn inner_mtu(&mut self, sa: u64, now: u64) -> Option<usize> {
        let found = if sa >= OUTBOUND_IDS { self.sender.inner_mtu(sa, now) } else { self.receiver.inner_mtu(sa, now) };
        self.gather();
        found
    }

    /// Tells an SA its path's MTU, good for ten minutes; false if there is no such SA.
    pub fn set_mtu(&mut self, sa: u64, mtu: u32, now: u64) -> bool {
        if sa >= OUTBOUND_IDS { self.sender.set_mtu(sa, mtu, now) } else { self.receiver.set_mtu(sa, mtu, now) }
    }

    /// Protects one packet in place: see [`Sender::encapsulate`].
    #[inline]
    pub fn encapsulate(
        &mut self,
        sa: u64,
        buf: &mut [u8],
        start: usize,
        len: usize,
        tfc: &[u8],
        now: u64,
    ) -> Result<Sealed, Dropped> {
        let sealed = self.sender.encapsulate_padded(sa, buf, start, len, tfc, now);
        self.gather();
        sealed
    }

    /// Makes a packet that the peer throws away: see [`Sender::dummy`].
    pub fn dummy(&mut self, sa: u64, buf: &mut [u8], start: usize, len: usize, now: u64) -> Result<Sealed, Dropped> {
        let sealed = self.sender.dummy(sa, buf, start, len, now);
        self.gather();
        sealed
    }

    /// Opens one packet in place: see [`Receiver::decapsulate`].
    #[inline]
    pub fn decapsulate(&mut self, buf: &mut [u8], start: usize, len: usize, now: u64) -> Result<Opened, DropReason> {
        let opened = self.receiver.decapsulate(buf, start, len, now);
        self.gather();
        opened
    }

    /// Protects packets, in order: see [`Sender::encapsulate_many`].
    pub fn encapsulate_many(&mut self, ids: Ids<'_>, data: &[u8], offsets: &[u64], now: u64) -> Results {
        let results = self.sender.encapsulate_many(ids, data, offsets, now);
        self.gather();
        results
    }

    /// Opens packets, in order: see [`Receiver::decapsulate_many`].
    pub fn decapsulate_many(&mut self, data: &[u8], offsets: &[u64], now: u64) -> Results {
        let results = self.receiver.decapsulate_many(data, offsets, now);
        self.gather();
        results
    }

    /// Replaces the SPD.
    pub fn set_policies(&mut self, outbound: Vec<Policy>, inbound: Vec<Policy>) {
        self.sender.set_policies(outbound);
        self.receiver.set_policies(inbound);
    }

    /// Finds the policy for a packet.
    pub fn look_up_policy(&self, packet: &[u8], way: Way) -> Result<Option<Found>, NotIp> {
        match way {
            Way::Outbound => self.sender.look_up_policy(packet),
            Way::Inbound => self.receiver.look_up_policy(packet),
        }
    }

    /// Returns when the next SA reaches a limit of time, nanoseconds; none if none will.
    pub fn deadline(&self) -> Option<u64> {
        self.receiver.deadline().into_iter().chain(self.sender.deadline()).min()
    }

    /// Raises the events of all limits of time that are reached, and removes SAs whose hard lifetime is over.
    pub fn handle_timeout(&mut self, now: u64) {
        self.receiver.handle_timeout(now);
        self.gather();
        self.sender.handle_timeout(now);
        self.gather();
    }

    /// Returns the oldest event not yet fetched.
    #[inline]
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.next()
    }

    /// Says whether an event waits.
    #[inline]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Returns how many events had no room.
    pub fn lost_events(&self) -> u64 {
        self.events.lost()
    }

    /// Adds an event that was decided outside.
    pub fn tell(&mut self, event: Event) {
        self.events.tell(event);
    }

    /// Returns how often each code has dropped a packet.
    pub fn drops(&self) -> [u64; CODES] {
        let (out, inward) = (self.sender.drops(), self.receiver.drops());
        std::array::from_fn(|code| out[code] + inward[code])
    }

    /// Counts a drop that was decided outside.
    pub fn count(&mut self, reason: DropReason) {
        self.receiver.count(reason);
    }

    /// Returns id and last number of outbound SAs with this SPI and outer destination that have sent packets.
    pub fn recent_outbound(&self, spi: u32, remote: IpAddr) -> Vec<(u64, u64)> {
        self.sender.recent(spi, remote)
    }

    /// Takes the halves' events over; called after whatever can have raised some.
    #[inline]
    fn gather(&mut self) {
        for events in [self.sender.events_mut(), self.receiver.events_mut()] {
            if !events.is_empty() {
                self.events.take_from(events);
            }
        }
    }
}

const _: () = assert!(MULTICAST_IDS < OUTBOUND_IDS);
