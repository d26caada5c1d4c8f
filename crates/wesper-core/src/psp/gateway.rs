//! Associations both ways with policy in front, for tunnels: keys expanded once, packets in place, IVs within bounds.
//!
//! The same as `psp/gateway.py`, for worker threads: one half sends, the other (`gateway_inbound.rs`) receives, each
//! behind a lock of its own.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::engine::{Counters, Options};
pub use super::gateway_inbound::{Delivered, Receiver};
use super::guard::Rule;
use super::profile::{Mode, Prepared, Profile};
use super::send::{self, Expanded};
use super::{INDEX_MASK, Version};
use crate::aead::{Context, Provider};
use crate::events::{Event, EventKind, EventQueue};
use crate::ip::{self, IPV4_HEADER, IPV6_HEADER};
use crate::profile::{Lifetime, MTU_AGE, SECOND, SaState};
use crate::selectors::{Selector, Way};
use crate::sender::{Dropped, OUTBOUND_IDS, Route, Sealed};
use crate::spd::{Action, Found, NotIp, Policies, Policy};
use crate::suite::{Suite, SuiteId};
use crate::verdict::DropReason;

/// The highest IV.
pub const LAST_IV: u64 = u64::MAX - 1;
/// Octets that must be free before a packet that is protected in place: the largest headers there are.
pub const HEADROOM: usize = IPV6_HEADER + 8 + 2048;
/// Octets that must be free behind it.
pub const TAILROOM: usize = super::ICV_OCTETS;

/// What the associations between two ends share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayProfile {
    /// How packets look; its MTU is the path's.
    pub look: Profile,
    /// This end.
    pub local: IpAddr,
    /// The other end.
    pub remote: IpAddr,
    /// Traffic that may come in; empty: any.
    pub selectors: Vec<Selector>,
    /// When to make the next association.
    pub soft: Lifetime,
    /// When one ends that is sent with.
    pub hard: Lifetime,
    /// How the IVs of what is received are looked at; none: not at all.
    pub replay: Option<Rule>,
}

/// Why an association is not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// The low 31 bits are zero.
    #[error("a reserved SPI")]
    Spi,
    /// An inbound association has it.
    #[error("the SPI is taken")]
    Taken,
    /// Not as long as the version's, or not what the device keys make of the SPI.
    #[error("another key")]
    Key,
    /// The device key that the SPI points to is not there.
    #[error("no device key")]
    NoDeviceKey,
}

/// Both halves.
pub struct Gateway {
    sender: Mutex<Sender>,
    receiver: Mutex<Receiver>,
}

impl Gateway {
    /// Makes a gateway without device keys and associations. events: how many are kept.
    pub fn new(options: &Options, events: usize) -> Self {
        Self { sender: Mutex::new(Sender::new(options, events)), receiver: Mutex::new(Receiver::new(options)) }
    }

    /// The outbound half.
    pub fn sender(&self) -> MutexGuard<'_, Sender> {
        // Each half is whole after each packet, also one that a thread has died with.
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inbound half.
    pub fn receiver(&self) -> MutexGuard<'_, Receiver> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What both halves have counted.
    pub fn counters(&self) -> Counters {
        let mut counters = self.sender().counters.clone();
        counters.add(&self.receiver().counters);
        counters
    }
}

/// An association that is sent with.
struct Out {
    id: u64,
    spi: u32,
    context: Context,
    prepared: Prepared,
    /// The same for packets without anything inside, which keep their own IP header.
    bare: Prepared,
    remote: IpAddr,
    /// Octets of the outer header that a tunnel adds.
    head: usize,
    /// The path's, before anything was learnt.
    mtu: usize,
    /// When what was learnt is forgotten.
    mtu_until: Option<u64>,
    iv: u64,
    last: u64,
    soft: Lifetime,
    hard: Lifetime,
    installed: u64,
    used: u64,
    packets: u64,
    octets: u64,
    soft_told: bool,
}

impl Out {
    fn reached(&self, limits: &Lifetime, now: u64) -> Option<&'static str> {
        let second = (now / SECOND) as i64;
        limits.reached(second - self.installed as i64, self.octets, self.packets, second - self.used as i64)
    }

    fn put_mtu(&mut self, mtu: usize) {
        self.prepared.profile.mtu = mtu;
        self.bare.profile.mtu = mtu;
    }

    fn age_mtu(&mut self, now: u64, events: &mut EventQueue) {
        if self.mtu_until.is_some_and(|until| now >= until) {
            self.mtu_until = None;
            self.put_mtu(self.mtu);
            let mtu = self.mtu.try_into().unwrap_or(u16::MAX);
            events.tell(Event { mtu, ..Event::of(EventKind::MtuChanged, now, self.id) });
        }
    }

    fn soften(&mut self, now: u64, events: &mut EventQueue) {
        let limit = if self.soft_told { None } else { self.reached(&self.soft, now) };
        if let Some(limit) = limit {
            self.soft_told = true;
            events.tell(Event { limit, ..Event::of(EventKind::SoftExpired, now, self.id) });
        }
    }

    fn room(&self) -> usize {
        self.prepared.profile.mtu.saturating_sub(self.prepared.overhead() + self.head)
    }

    fn take(&mut self, profile: &GatewayProfile) {
        let is_tunnel = profile.look.mode != Mode::Transport;
        let head = if profile.local.is_ipv6() { IPV6_HEADER } else { IPV4_HEADER };
        self.head = if is_tunnel { head } else { 0 };
        self.remote = profile.remote;
        self.bare = Prepared::new(Profile { mode: Mode::Transport, ..profile.look.clone() });
        self.prepared = Prepared::new(profile.look.clone());
    }
}

/// The outbound half: policies, and what packets are protected with.
pub struct Sender {
    provider: Provider,
    hash_key: [u8; 16],
    /// By id, from `OUTBOUND_IDS` on; no id comes twice.
    rows: Vec<Option<Box<Out>>>,
    policies: Policies,
    events: EventQueue,
    counters: Counters,
}

impl Sender {
    fn new(options: &Options, events: usize) -> Self {
        Self {
            provider: options.provider,
            hash_key: options.hash_key,
            rows: Vec::new(),
            policies: Policies::default(),
            events: EventQueue::new(events),
            counters: Counters::default(),
        }
    }

    /// Adds an association and returns its id. iv: the last one used.
    pub fn install(
        &mut self,
        profile: &GatewayProfile,
        spi: u32,
        key: &[u8],
        iv: u64,
        now: u64,
    ) -> Result<u64, InstallError> {
        let context = expand(self.provider, profile.look.version, spi, key)?;
        let id = OUTBOUND_IDS + self.rows.len() as u64;
        let mut row = Out {
            id,
            spi,
            context,
            prepared: Prepared::new(profile.look.clone()),
            bare: Prepared::new(profile.look.clone()),
            remote: profile.remote,
            head: 0,
            mtu: profile.look.mtu,
            mtu_until: None,
            iv,
            last: LAST_IV,
            soft: profile.soft,
            hard: profile.hard,
            installed: now / SECOND,
            used: now / SECOND,
            packets: 0,
            octets: 0,
            soft_told: false,
        };
        row.take(profile);
        self.rows.push(Some(Box::new(row)));
        Ok(id)
    }

    /// Deletes an association; false if there is none.
    pub fn remove(&mut self, sa: u64) -> bool {
        self.place(sa).is_some_and(|row| row.take().is_some())
    }

    /// Returns what an association has lived through; none if there is none.
    pub fn state(&self, sa: u64) -> Option<SaState> {
        let row = self.row(sa)?;
        let mtu = row.prepared.profile.mtu.try_into().unwrap_or(u16::MAX);
        let (sequence, packets, octets) = (row.iv, row.packets, row.octets);
        Some(SaState { sequence, packets, octets, replay: 0, integrity_failed: 0, mtu })
    }

    /// Returns the MTU of an association's path now; none if there is none.
    pub fn mtu(&mut self, sa: u64, now: u64) -> Option<usize> {
        let Self { rows, events, .. } = self;
        let row = row_of(rows, sa)?;
        row.age_mtu(now, events);
        Some(row.prepared.profile.mtu)
    }

    /// Tells an association its path's MTU, good for ten minutes; false if there is none.
    pub fn set_mtu(&mut self, sa: u64, mtu: usize, now: u64) -> bool {
        let Some(row) = row_of(&mut self.rows, sa) else { return false };
        row.put_mtu(mtu.min(row.mtu));
        row.mtu_until = Some(now.saturating_add(MTU_AGE));
        true
    }

    /// Lets an association use IVs up to `last` and no further; false if there is none.
    pub fn reserve(&mut self, sa: u64, last: u64) -> bool {
        row_of(&mut self.rows, sa).map(|row| row.last = last.min(LAST_IV)).is_some()
    }

    /// Lets an association go on between other addresses or ports; false if there is none. Its MTU stays.
    pub fn set_profile(&mut self, sa: u64, profile: &GatewayProfile) -> bool {
        let Some(row) = row_of(&mut self.rows, sa) else { return false };
        let mtu = row.prepared.profile.mtu;
        row.take(profile);
        row.mtu = profile.look.mtu;
        row.put_mtu(mtu);
        (row.soft, row.hard) = (profile.soft, profile.hard);
        true
    }

    /// Replaces the policies.
    pub fn set_policies(&mut self, policies: Vec<Policy>) {
        self.policies = Policies::new(policies);
    }

    /// Finds the policy for a packet.
    pub fn look_up_policy(&self, packet: &[u8]) -> Result<Option<Found>, NotIp> {
        self.policies.look_up(packet, Way::Outbound)
    }

    /// Says whether there is an association of this id.
    pub fn has(&self, sa: u64) -> bool {
        self.row(sa).is_some()
    }

    /// Finds what policy does with a packet and its like; see [`crate::sender::Sender::route`].
    pub fn route(&mut self, packet: &[u8], now: u64) -> Route {
        let Self { rows, policies, events, .. } = self;
        let Some(flow) = ip::flow(packet) else { return Route::Ask };
        let Some(policy) = policies.find(&flow, Way::Outbound) else { return Route::Ask };
        let Some(sa) = policy.sa_for(&flow).filter(|_| policy.action == Action::Protect) else { return Route::Ask };
        let Some(row) = row_of(rows, sa) else { return Route::Ask };
        row.age_mtu(now, events);
        // Transport mode keeps the packet's own IP header: its MTU is known for the plain one alone.
        if row.head == 0 && !crate::sender::has_plain_header(packet) {
            return Route::Ask;
        }
        Route::Protect { sa, mtu: row.room(), pad_to: 0 }
    }

    /// Protects a packet where it lies: `HEADROOM` octets in front of it and `TAILROOM` behind it are free.
    ///
    /// bare: it keeps its own IP header, whatever the association's mode is.
    #[inline]
    pub fn encapsulate(
        &mut self,
        sa: u64,
        buf: &mut [u8],
        at: usize,
        octets: usize,
        bare: bool,
        now: u64,
    ) -> Result<Sealed, Dropped> {
        let Self { rows, events, counters, hash_key, .. } = self;
        let dropped = |counters: &mut Counters, reason, mtu| {
            counters.dropped(reason, octets);
            Err(Dropped { reason, mtu })
        };
        let Some(row) = row_of(rows, sa) else { return dropped(counters, DropReason::PspOutNoKey, 0) };
        row.age_mtu(now, events);
        if let Some(limit) = row.reached(&row.hard, now) {
            events.tell(Event { limit, ..Event::of(EventKind::HardExpired, now, sa) });
            self.remove(sa);
            return dropped(&mut self.counters, DropReason::PspOutExpired, 0);
        }
        if row.iv >= row.last {
            return dropped(counters, DropReason::PspOutIv, 0);
        }
        // The IV counts as used before it is: a packet that is refused costs one, and none can ever come twice.
        row.iv += 1;
        let keys = Expanded { context: &row.context, hash_key, spi: row.spi, iv: row.iv };
        let prepared = if bare { &row.bare } else { &row.prepared };
        match send::encapsulate_in_place(prepared, keys, buf, at, octets) {
            Ok((start, len, sent)) => {
                counters.sent(sent);
                row.packets += 1;
                row.octets += sent as u64;
                row.used = now / SECOND;
                row.soften(now, events);
                Ok(Sealed { start, len, sequence: row.iv, flow: 0 })
            }
            Err(refused) => dropped(counters, refused.reason, refused.mtu),
        }
    }

    /// Raises the events of all limits of time that are reached, and removes associations whose end has come.
    pub fn handle_timeout(&mut self, now: u64) {
        let Self { rows, events, .. } = self;
        for place in rows {
            let Some(row) = place else { continue };
            row.soften(now, events);
            if let Some(limit) = row.reached(&row.hard, now) {
                events.tell(Event { limit, ..Event::of(EventKind::HardExpired, now, row.id) });
                *place = None;
            }
        }
    }

    /// Returns id and last IV of associations with this SPI and outer destination that have sent packets.
    pub fn recent(&self, spi: u32, remote: IpAddr) -> Vec<(u64, u64)> {
        let is_it = |row: &&Out| row.packets > 0 && row.spi == spi && row.remote == remote;
        self.rows.iter().filter_map(Option::as_deref).filter(is_it).map(|row| (row.id, row.iv)).collect()
    }

    /// Returns the oldest event not yet fetched.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.next()
    }

    /// Adds an event that was decided outside.
    pub fn tell(&mut self, event: Event) {
        self.events.tell(event);
    }

    /// Returns how many events had no room.
    pub fn lost_events(&self) -> u64 {
        self.events.lost()
    }

    /// Counts a drop that was decided outside.
    pub fn count(&mut self, reason: DropReason) {
        self.counters.dropped(reason, 0);
    }

    fn row(&self, sa: u64) -> Option<&Out> {
        self.rows.get(usize::try_from(sa.checked_sub(OUTBOUND_IDS)?).ok()?)?.as_deref()
    }

    fn place(&mut self, sa: u64) -> Option<&mut Option<Box<Out>>> {
        self.rows.get_mut(usize::try_from(sa.checked_sub(OUTBOUND_IDS)?).ok()?)
    }
}

#[inline(always)]
fn row_of(rows: &mut [Option<Box<Out>>], sa: u64) -> Option<&mut Out> {
    rows.get_mut(usize::try_from(sa.checked_sub(OUTBOUND_IDS)?).ok()?)?.as_deref_mut()
}

/// Expands a key.
pub(super) fn expand(provider: Provider, version: Version, spi: u32, key: &[u8]) -> Result<Context, InstallError> {
    if spi & INDEX_MASK == 0 {
        return Err(InstallError::Spi);
    }
    if key.len() != version.key_octets() {
        return Err(InstallError::Key);
    }
    // GMAC is GCM that encrypts nothing, here.
    Context::new(provider, Suite::of(SuiteId::AesGcm16), key, &[]).map_err(|_| InstallError::Key)
}

#[cfg(test)]
#[path = "gateway_tests.rs"]
mod tests;
