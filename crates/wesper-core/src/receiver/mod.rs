//! The inbound half: table, decapsulation, SPD-I (RFC 4303 §3.4).
//!
//! It shares nothing with the outbound half, so that two threads can run them at once.

mod demultiplexer;
mod index;
mod open;
mod outcome;
mod shape;
mod sub_sas;
mod usual;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::aead::Provider;
use crate::batch::Drops;
use crate::derived::DerivedKeys;
use crate::events::{Event, EventKind, EventQueue};
use crate::hot::{ContextCache, Extra, Extras};
use crate::life::{HAS_EXTRA, Life, SOFT_TOLD, Whose};
use crate::profile::{InstallError, MTU_AGE, Options, Profile, SECOND, Sa, SaState, SubSaState};
use crate::profiles::Profiles;
use crate::replay::ReplayWindow;
use crate::rows::Row;
use crate::sad::{self, Inbound};
use crate::selectors::Way;
use crate::sender::{expand, inner_mtu, row_of, rows_of};
use crate::slab::Slab;
use crate::spd::{Found, NotIp, Policies, Policy};
use crate::tally::Share;
use crate::verdict::{CODES, DropReason};

use demultiplexer::Demultiplexer;
use index::Index;
use shape::Shape;
use sub_sas::{More, Peer};

/// First id of multicast SAs; below it ids are SPIs.
pub const MULTICAST_IDS: u64 = 1 << 32;

/// An opened packet's place in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// First octet of its IP header.
    pub start: usize,
    /// Octets.
    pub len: usize,
    /// Id of the SA.
    pub sa: u64,
    /// Full sequence number; 0 where none is sent.
    pub sequence: u64,
    /// EESP's Session ID, WESPv2's flow identifier, else 0.
    pub flow: u64,
}

/// The state of an SA that a packet was addressed to.
#[derive(Default)]
#[repr(C, align(64))]
struct Hot {
    life: Life,
    /// Highest number accepted.
    top: u64,
    spi: u32,
    profile: u32,
    /// Where the expanded key was last put.
    context_slot: u32,
    salt: [u8; 4],
    failures_in_a_row: u32,
    id: u64,
    window: Option<ReplayWindow>,
    replays: u64,
    integrity_failed: u64,
    /// One more than the second in which the high half was last searched for.
    resync_second: u64,
    /// Where the newest packet came from, if not from where the profile says.
    peer: Peer,
    /// What few SAs have.
    more: Option<Box<More>>,
}

/// What each packet reads lies in the first two cache lines, but for its bit in the window.
const _: () = assert!(std::mem::offset_of!(Hot, window) + 24 <= 128);

impl Hot {
    fn life_of<'a>(&'a mut self, profile: &'a Profile) -> (&'a mut Life, Whose<'a>) {
        let share = self.more.as_ref().and_then(|more| more.share.as_ref());
        (&mut self.life, Whose { id: self.id, spi: self.spi, profile, sent: None, share })
    }
}

/// An SA that is found by addresses as well.
struct Multicast {
    row: Row,
    extra: Option<Extra>,
    key: MulticastKey,
}

/// SPI, destination and perhaps source (RFC 4303 §3.4.2).
type MulticastKey = (u32, IpAddr, Option<IpAddr>);

/// Rows and keys.
struct Store {
    table: Inbound,
    extras: Extras,
    multicast: BTreeMap<u64, Multicast>,
    contexts: ContextCache,
    derived: DerivedKeys,
    provider: Provider,
    /// This shard's parts in SAs with limits, by id; none where there is one shard.
    shares: HashMap<u64, Share>,
}

impl Store {
    fn row(&self, id: u64) -> Option<&Row> {
        match u32::try_from(id) {
            Ok(spi) => self.table.row(self.table.find(spi)?),
            Err(_) => self.multicast.get(&id).map(|multicast| &multicast.row),
        }
    }

    fn row_mut(&mut self, id: u64) -> Option<&mut Row> {
        match u32::try_from(id) {
            Ok(spi) => self.table.row_mut(self.table.find(spi)?),
            Err(_) => self.multicast.get_mut(&id).map(|multicast| &mut multicast.row),
        }
    }

    #[cold]
    fn expand(&mut self, number: u32, id: u64, shape: &Shape) -> Option<u32> {
        let context = expand(self.provider, &shape.profile, self.row(id)?, self.extra(id))?;
        Some(self.contexts.insert(number, context))
    }

    fn extra(&self, id: u64) -> Option<&Extra> {
        match u32::try_from(id) {
            Ok(spi) => self.extras.get(spi),
            Err(_) => self.multicast.get(&id)?.extra.as_ref(),
        }
    }
}

/// What there is to tell of packets.
struct Outcome {
    events: EventQueue,
    drops: Drops,
    audit: bool,
}

/// When and how far to search for a high half, from [`Options`].
struct Settings {
    /// With fewer failures in a row, one more can not start a search.
    simple_failures: u32,
    resync_tries: u32,
}

/// The inbound SAs and policies, and packets through them.
pub struct Receiver {
    hots: Slab<Hot>,
    /// Of unicast SAs.
    index: Index,
    profiles: Profiles<Shape>,
    store: Store,
    by_addresses: HashMap<MulticastKey, u64>,
    demultiplexer: Demultiplexer,
    /// MTUs that inbound SAs were told: nobody needs them, yet they are remembered.
    mtus: HashMap<u64, (u16, u64)>,
    policies: Policies,
    outcome: Outcome,
    settings: Settings,
    any_expired: bool,
}

impl Receiver {
    /// Makes a half without SAs and policies.
    pub fn new(options: &Options) -> Self {
        Self {
            hots: Slab::new(),
            index: Index::new(),
            profiles: Profiles::new(),
            store: Store {
                table: Inbound::new(options.seed),
                extras: Extras::default(),
                multicast: BTreeMap::new(),
                contexts: ContextCache::new(options.contexts),
                derived: DerivedKeys::new(options.derived_keys),
                provider: options.provider,
                shares: HashMap::new(),
            },
            by_addresses: HashMap::new(),
            demultiplexer: Demultiplexer::new(&options.udp_ports),
            mtus: HashMap::new(),
            policies: Policies::default(),
            outcome: Outcome { events: EventQueue::new(options.events), drops: Drops::new(), audit: options.audit },
            settings: Settings {
                simple_failures: options.resync_failures.saturating_sub(1),
                resync_tries: options.resync_tries,
            },
            any_expired: false,
        }
    }

    /// Adds an SA and returns its id, which is its SPI.
    pub fn install(&mut self, profile: &Arc<Profile>, sa: &Sa<'_>, now: u64) -> Result<u64, InstallError> {
        if self.store.table.find(sa.spi).is_some() {
            return Err(InstallError::Taken(sa.spi));
        }
        let (row, extra) = row_of(profile, sa, now)?;
        let number = self.take(profile, 1);
        self.add(row, extra, number).inspect_err(|_| self.give_back(number, 1))
    }

    /// Adds an SA that is found by destination, or destination and source, as well; returns its id, 2^32 + serial.
    pub fn install_multicast(
        &mut self,
        profile: &Arc<Profile>,
        sa: &Sa<'_>,
        serial: u64,
        now: u64,
    ) -> Result<u64, InstallError> {
        let Some(destination) = sa.multicast.first() else { return Err(InstallError::Profile("a destination")) };
        let key = (sa.spi, *destination, sa.multicast.get(1).copied());
        if self.by_addresses.contains_key(&key) {
            return Err(InstallError::Taken(sa.spi));
        }
        let (mut row, extra) = row_of(profile, sa, now)?;
        row.profile = self.take(profile, 1);
        let id = MULTICAST_IDS + serial;
        self.store.multicast.insert(id, Multicast { row, extra, key });
        self.by_addresses.insert(key, id);
        Ok(id)
    }

    /// Adds SAs that share a profile; on an error none has been added.
    ///
    /// keys: one row an SPI, all of one length: key, salt, or with a separate MAC key, auth key.
    pub fn install_many(
        &mut self,
        profile: &Arc<Profile>,
        spis: &[u32],
        keys: &[u8],
        now: u64,
    ) -> Result<Vec<u64>, InstallError> {
        if spis.is_empty() {
            return Ok(Vec::new());
        }
        let rows = rows_of(profile, spis, keys, now)?;
        self.store.table.reserve(spis.len()).map_err(|_| InstallError::Full)?;
        let number = self.take(profile, spis.len());
        let mut ids = Vec::with_capacity(spis.len());
        for row in rows {
            match row.and_then(|(row, extra)| self.add(row, extra, number)) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    self.give_back(number, spis.len() - ids.len());
                    for id in ids {
                        self.remove(id);
                    }
                    return Err(error);
                }
            }
        }
        Ok(ids)
    }

    /// Lets an SA just installed count its limits together with those of other shards.
    pub(crate) fn share(&mut self, sa: u64, share: Share) {
        self.store.shares.insert(sa, share);
    }

    fn add(&mut self, row: Row, extra: Option<Extra>, profile: u32) -> Result<u64, InstallError> {
        let spi = row.spi;
        self.store.table.install(Row { profile, ..row }).map_err(|error| match error {
            sad::InstallError::SpiInUse(spi) => InstallError::Taken(spi),
            sad::InstallError::SpiZero => InstallError::SpiZero,
            sad::InstallError::Full => InstallError::Full,
        })?;
        if let Some(extra) = extra {
            self.store.extras.insert(spi, extra);
        }
        Ok(spi.into())
    }

    fn take(&mut self, profile: &Arc<Profile>, users: usize) -> u32 {
        self.demultiplexer.expect(profile, users);
        self.profiles.take(profile, users as u64, || Shape::new(profile))
    }

    fn give_back(&mut self, number: u32, users: usize) {
        if let Some(profile) = self.profiles.profile(number) {
            self.demultiplexer.forget(profile, users);
        }
        self.profiles.give_back(number, users as u64);
    }

    /// Deletes an SA and wipes its keys; false if there is none.
    pub fn remove(&mut self, sa: u64) -> bool {
        let row = match u32::try_from(sa) {
            Ok(spi) => {
                let Some(row) = self.store.table.remove(spi) else { return false };
                if row.flags & HAS_EXTRA != 0 {
                    self.store.extras.remove(spi);
                }
                row
            }
            Err(_) => {
                let Some(mut multicast) = self.store.multicast.remove(&sa) else { return false };
                self.by_addresses.remove(&multicast.key);
                let row = multicast.row.without_key();
                multicast.row = Row::EMPTY;
                std::hint::black_box(&multicast.row);
                row
            }
        };
        self.give_back(row.profile, 1);
        self.mtus.remove(&sa);
        self.store.shares.remove(&sa);
        if let Some(hot) = self.hots.remove(row.hot) {
            self.store.contexts.release(hot.context_slot, row.hot);
            self.store.derived.forget(row.hot);
        }
        true
    }

    /// Returns what an SA has lived through; none if there is no such SA.
    pub fn state(&self, sa: u64) -> Option<SaState> {
        let row = self.store.row(sa)?;
        let mtu = match self.mtus.get(&sa) {
            Some((mtu, _)) => *mtu,
            None => self.profiles.profile(row.profile)?.mtu,
        };
        let Some(hot) = self.hots.get(row.hot) else {
            return Some(SaState { sequence: row.seq, packets: 0, octets: 0, replay: 0, integrity_failed: 0, mtu });
        };
        Some(SaState {
            sequence: hot.highest(),
            packets: hot.life.packets,
            octets: hot.life.octets,
            replay: hot.replays,
            integrity_failed: hot.integrity_failed,
            mtu,
        })
    }

    /// Returns what a Sub SA has lived through, 0 that of an SA without; outer none: no such SA.
    pub fn sub_sa_state(&self, sa: u64, id: u16) -> Option<Option<SubSaState>> {
        let SaState { sequence, packets, octets, .. } = self.state(sa)?;
        if !self.profile(sa)?.has_sub_sas() {
            return Some((id == 0).then_some(SubSaState { sequence, packets, octets }));
        }
        let hot = self.hots.get(self.store.row(sa)?.hot);
        let found = hot.and_then(|hot| hot.sub_sa(id));
        Some(found.map(|sub_sa| SubSaState { sequence: sub_sa.top, packets: sub_sa.packets, octets: sub_sa.octets }))
    }

    /// Counts all numbers up to the highest accepted as received; false if there is no such SA.
    ///
    /// top: the highest that other shards have accepted; of no meaning where each Sub SA has its own.
    pub fn close_window(&mut self, sa: u64, top: u64) -> bool {
        let top = if self.profile(sa).is_some_and(|profile| profile.has_sub_sas()) { 0 } else { top };
        let Some(row) = self.store.row(sa) else { return false };
        let Some(number) = (if row.hot == 0 { self.warm(sa) } else { Some(row.hot) }) else { return false };
        let Some(hot) = self.hots.get_mut(number) else { return false };
        hot.close(top);
        true
    }

    /// Returns an SA's profile; none if there is no such SA.
    pub fn profile(&self, sa: u64) -> Option<&Arc<Profile>> {
        self.profiles.profile(self.store.row(sa)?.profile)
    }

    /// Writes the ids of SAs by SPI, 2^64-1 where there is none. Multicast SAs are not looked at.
    pub fn find(&self, spis: &[u32], ids: &mut [u64]) {
        let mut positions = [0; 256];
        for (spis, ids) in spis.chunks(positions.len()).zip(ids.chunks_mut(256)) {
            self.store.table.find_many(spis, &mut positions);
            for ((spi, id), position) in spis.iter().zip(ids).zip(positions) {
                *id = if position == sad::NOT_FOUND { u64::MAX } else { (*spi).into() };
            }
        }
    }

    /// Returns what [`crate::sender::Sender::inner_mtu`] says of an SA with this profile; none if there is no such SA.
    pub fn inner_mtu(&mut self, sa: u64, now: u64) -> Option<usize> {
        let shape = self.profiles.shape(self.store.row(sa)?.profile)?;
        let mtu = match self.mtus.get(&sa) {
            Some((_, until)) if now >= *until => {
                self.mtus.remove(&sa);
                let mtu = shape.profile.mtu;
                self.outcome.events.tell(Event { mtu, ..Event::of(EventKind::MtuChanged, now, sa) });
                mtu
            }
            Some((mtu, _)) => *mtu,
            None => shape.profile.mtu,
        };
        Some(inner_mtu(&shape.profile, &shape.form, mtu))
    }

    /// Tells an SA a path's MTU; false if there is no such SA.
    pub fn set_mtu(&mut self, sa: u64, mtu: u32, now: u64) -> bool {
        let Some(profile) = self.profile(sa) else { return false };
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).min(profile.mtu);
        self.mtus.insert(sa, (mtu, now.saturating_add(MTU_AGE)));
        true
    }

    /// Lets an SA go on with another profile (RFC 7296 §2.23); false if there is no such SA.
    ///
    /// profile: the SA's own but for outer addresses and UDP ports, which the caller has made sure of.
    pub fn set_profile(&mut self, sa: u64, profile: &Arc<Profile>) -> bool {
        let Some(row) = self.store.row(sa) else { return false };
        let (before, hot) = (row.profile, row.hot);
        let number = self.take(profile, 1);
        self.give_back(before, 1);
        if let Some(row) = self.store.row_mut(sa) {
            row.profile = number;
        }
        if let Some(hot) = self.hots.get_mut(hot) {
            hot.profile = number;
            hot.forget_peers();
        }
        true
    }

    /// Replaces SPD-I.
    pub fn set_policies(&mut self, policies: Vec<Policy>) {
        self.policies = Policies::new(policies);
    }

    /// Finds the policy for a packet that arrived without IPsec.
    pub fn look_up_policy(&self, packet: &[u8]) -> Result<Option<Found>, NotIp> {
        self.policies.look_up(packet, Way::Inbound)
    }

    /// Returns when the next SA reaches a limit of time, nanoseconds; none if none will.
    ///
    /// Cost: a pass over the SAs if any has such a limit.
    pub fn deadline(&self) -> Option<u64> {
        if !self.profiles.are_timed() && !self.any_expired {
            return None;
        }
        let seconds = self.rows().filter_map(|(id, row)| {
            let (life, profile) = self.life(row)?;
            life.next_second(&Whose { id, spi: row.spi, profile, sent: None, share: self.store.shares.get(&id) })
        });
        seconds.min().map(|second| second.saturating_mul(SECOND))
    }

    /// Raises the events of all limits of time that are reached, and removes SAs whose hard lifetime is over.
    ///
    /// others: another shard has met a hard lifetime that is over.
    pub fn handle_timeout(&mut self, now: u64, others: bool) {
        if !self.profiles.are_timed() && !self.any_expired && !others {
            return;
        }
        let second = now / SECOND;
        let due = |(id, row): (u64, &Row)| {
            let (life, profile) = self.life(row)?;
            let whose = Whose { id, spi: row.spi, profile, sent: None, share: self.store.shares.get(&id) };
            (life.is_over(&whose) || life.next_second(&whose).is_some_and(|due| due <= second)).then_some(id)
        };
        let mut due: Vec<u64> = self.rows().filter_map(due).collect();
        due.sort_unstable();
        for id in due {
            self.time_out(id, now);
        }
        self.any_expired = false;
    }

    /// Says whether an SA waits to be removed because its hard lifetime is over.
    pub fn has_expired(&self) -> bool {
        self.any_expired
    }

    fn time_out(&mut self, id: u64, now: u64) {
        let Some(row) = self.store.row(id) else { return };
        let Some((mut life, profile)) = self.life(row) else { return };
        let (profile, spi, number) = (Arc::clone(profile), row.spi, row.hot);
        let share = self.store.shares.get(&id).cloned();
        let whose = Whose { id, spi, profile: &profile, sent: None, share: share.as_ref() };
        life.soften(&whose, now, &mut self.outcome.events);
        if life.is_expired(&whose, now, &mut self.outcome.events) {
            self.remove(id);
        } else if let Some(hot) = self.hots.get_mut(number) {
            life.watch(&whose, u64::MAX);
            hot.life = life;
        } else if let Some(row) = self.store.row_mut(id)
            && life.soft_told
        {
            row.flags |= SOFT_TOLD;
        }
    }

    /// Returns how often each code has dropped a packet.
    pub fn drops(&self) -> &[u64; CODES] {
        self.outcome.drops.counts()
    }

    /// Counts a drop that was decided outside.
    pub fn count(&mut self, reason: DropReason) {
        self.outcome.drops.count(reason);
    }

    /// Returns the oldest event not yet fetched; for a half that runs alone.
    pub fn next_event(&mut self) -> Option<Event> {
        self.outcome.events.next()
    }

    pub(crate) fn events_mut(&mut self) -> &mut EventQueue {
        &mut self.outcome.events
    }

    /// All SAs with their ids.
    fn rows(&self) -> impl Iterator<Item = (u64, &Row)> {
        let unicast = self.store.table.iter().map(|row| (row.spi.into(), row));
        unicast.chain(self.store.multicast.iter().map(|(id, multicast)| (*id, &multicast.row)))
    }

    /// The life of an SA, hot or idle, and its profile.
    fn life(&self, row: &Row) -> Option<(Life, &Arc<Profile>)> {
        let life = self.hots.get(row.hot).map_or_else(|| Life::of(row), |hot| hot.life);
        Some((life, self.profiles.profile(row.profile)?))
    }

    /// Makes the hot state of an idle SA and returns its number.
    #[cold]
    fn warm(&mut self, id: u64) -> Option<u32> {
        let row = self.store.row(id)?;
        let shape = self.profiles.shape(row.profile)?;
        let mut hot = Hot {
            life: Life::of(row),
            top: row.seq,
            window: ReplayWindow::new(shape.window()).ok(),
            spi: row.spi,
            profile: row.profile,
            context_slot: u32::MAX,
            salt: row.salt,
            id,
            ..Hot::default()
        };
        if let Some(share) = self.store.shares.get(&id) {
            hot.more.get_or_insert_default().share = Some(share.clone());
        }
        let (life, whose) = hot.life_of(&shape.profile);
        life.watch(&whose, u64::MAX);
        let number = self.hots.insert(hot)?;
        self.store.row_mut(id)?.hot = number;
        Some(number)
    }
}

#[cfg(test)]
mod tests;
