//! The outbound half: table, SPD, encapsulation (RFC 4303 §3.3).
//!
//! It shares nothing with the inbound half, so that two threads can run them at once.

mod protect;
mod route;
mod seal;
mod shape;
mod sub_sas;
mod usual;

use std::net::IpAddr;
use std::sync::Arc;

use aes::Aes128;
use aes::cipher::KeyInit;

use crate::aead::{Context, Provider};
use crate::batch::Drops;
use crate::derived::DerivedKeys;
use crate::esp::Iv;
use crate::events::{Event, EventKind, EventQueue};
use crate::flow_identifier::FlowKey;
use crate::form::Form;
use crate::hot::{ContextCache, Extra, Extras};
use crate::ip::{IPV4_HEADER, IPV6_HEADER};
use crate::life::{FIXED_IV, HAS_EXTRA, KEY_OCTETS, Life, SOFT_TOLD, Whose, whole_seconds};
pub use crate::modes::HEADROOM;
use crate::profile::{InstallError, MTU_AGE, Mode, Options, Profile, SECOND, Sa, SaState, SubSaState};
use crate::profiles::Profiles;
use crate::protocol::Protocol;
use crate::replay::infer_esn;
use crate::rows::Row;
use crate::sad::Outbound;
use crate::selectors::Way;
use crate::serials::{Entry, Serials};
use crate::slab::Slab;
use crate::spd::{Found, NotIp, Policies, Policy};
use crate::udp;
use crate::verdict::{CODES, DropReason};
pub use protect::Besides;
pub use route::Route;
pub(crate) use route::has_plain_header;
use shape::Shape;
use sub_sas::{More, SubSa};

/// First id of outbound SAs.
pub const OUTBOUND_IDS: u64 = 1 << 40;
/// Octets that must be free after a packet that is protected in place, and after its padding to the
/// profile's `pad_to`.
pub const TAILROOM: usize = 64;
/// The window that finds the high half where anti-replay is off: as wide as RFC 4303 appendix A2 allows.
pub(crate) const INFERENCE_WINDOW: u32 = 1 << 31;

/// A protected packet's place in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// First octet of its IP header.
    pub start: usize,
    /// Octets.
    pub len: usize,
    /// Full sequence number.
    pub sequence: u64,
    /// What its flow is called.
    pub flow: u64,
}

/// A packet that is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Why; its counter has been raised.
    pub reason: DropReason,
    /// With [`DropReason::OutTooBig`], the largest inner packet.
    pub mtu: usize,
}

/// The state of an SA that has been used: two cache lines.
#[derive(Default)]
#[repr(C, align(64))]
struct Hot {
    life: Life,
    sequence: u64,
    /// The number after which no packet may go, for now or ever.
    last: u64,
    spi: u32,
    profile: u32,
    /// Where the expanded key was last put.
    context_slot: u32,
    salt: [u8; 4],
    /// Octets of payload that the MTU leaves in tunnel mode.
    room: u32,
    mtu: u16,
    /// The IV is not the sequence number.
    has_other_iv: bool,
    id: u64,
    row: u32,
    /// When a learnt MTU is forgotten; 0: the MTU is the profile's.
    mtu_until: u64,
    /// What few SAs have.
    more: Option<Box<More>>,
}

const _: () = assert!(size_of::<Hot>() <= 128);

impl Hot {
    fn whose<'a>(&self, profile: &'a Profile) -> Whose<'a> {
        Whose { id: self.id, spi: self.spi, profile, sent: Some(self.sequence), share: None }
    }

    /// When the packet path wants to be asked besides limits of time.
    fn until(&self) -> u64 {
        if self.mtu_until == 0 { u64::MAX } else { self.mtu_until }
    }

    /// Works out again what follows from MTU and counts.
    fn refresh(&mut self, shape: &Shape) {
        self.room = shape.tunnel_room(self.mtu);
        let (whose, until) = (self.whose(&shape.profile), self.until());
        self.life.watch(&whose, until);
    }

    /// Forgets a learnt MTU whose time is over (RFC 4301 §8.2.2).
    fn age_mtu(&mut self, shape: &Shape, now: u64, events: &mut EventQueue) {
        if self.mtu_until != 0 && now >= self.mtu_until {
            (self.mtu, self.mtu_until) = (shape.profile.mtu, 0);
            self.refresh(shape);
            events.tell(Event { mtu: self.mtu, ..Event::of(EventKind::MtuChanged, now, self.id) });
        }
    }
}

/// The outbound SAs and policies, and packets through them.
pub struct Sender {
    hots: Slab<Hot>,
    profiles: Profiles<Shape>,
    serials: Serials,
    store: Store,
    policies: Policies,
    events: EventQueue,
    drops: Drops,
    audit: bool,
    any_expired: bool,
}

/// Rows, keys, and what makes IVs.
struct Store {
    table: Outbound,
    extras: Extras,
    contexts: ContextCache,
    derived: DerivedKeys,
    provider: Provider,
    iv_cipher: Aes128,
}

impl Sender {
    /// Makes a half without SAs and policies.
    pub fn new(options: &Options) -> Self {
        Self {
            hots: Slab::new(),
            profiles: Profiles::new(),
            serials: Serials::default(),
            store: Store {
                table: Outbound::new(),
                extras: Extras::default(),
                contexts: ContextCache::new(options.contexts),
                derived: DerivedKeys::new(options.derived_keys),
                provider: options.provider,
                iv_cipher: Aes128::new(&options.iv_key.into()),
            },
            policies: Policies::default(),
            events: EventQueue::new(options.events),
            drops: Drops::new(),
            audit: options.audit,
            any_expired: false,
        }
    }

    /// Adds an SA and returns its id, 2^40 + serial. serial: higher than all before it.
    pub fn install(&mut self, profile: &Arc<Profile>, sa: &Sa<'_>, serial: u64, now: u64) -> Result<u64, InstallError> {
        let (row, extra) = row_of(profile, sa, now)?;
        let number = self.profiles.take(profile, 1, || Shape::new(profile));
        self.add(row, extra, number, serial).inspect_err(|_| self.profiles.give_back(number, 1))
    }

    /// Adds SAs that share a profile, with serials from `serial` on; on an error none has been added.
    ///
    /// keys: one row an SPI, all of one length: key, salt, or with a separate MAC key, auth key.
    pub fn install_many(
        &mut self,
        profile: &Arc<Profile>,
        spis: &[u32],
        keys: &[u8],
        serial: u64,
        now: u64,
    ) -> Result<Vec<u64>, InstallError> {
        if spis.is_empty() {
            return Ok(Vec::new());
        }
        let rows = rows_of(profile, spis, keys, now)?;
        let number = self.profiles.take(profile, spis.len() as u64, || Shape::new(profile));
        let mut ids = Vec::with_capacity(spis.len());
        for (row, serial) in rows.zip(serial..) {
            match row.and_then(|(row, extra)| self.add(row, extra, number, serial)) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    self.profiles.give_back(number, (spis.len() - ids.len()) as u64);
                    for id in ids {
                        self.remove(id);
                    }
                    return Err(error);
                }
            }
        }
        Ok(ids)
    }

    fn add(&mut self, row: Row, extra: Option<Extra>, profile: u32, serial: u64) -> Result<u64, InstallError> {
        if row.is_empty() {
            return Err(InstallError::SpiZero);
        }
        let at = self.store.table.install(Row { profile, ..row }).map_err(|_| InstallError::Full)?;
        if let Some(extra) = extra {
            self.store.extras.insert(at, extra);
        }
        self.serials.insert(serial, at);
        Ok(OUTBOUND_IDS + serial)
    }

    /// Deletes an SA and wipes its keys; false if there is none.
    pub fn remove(&mut self, sa: u64) -> bool {
        let Some(entry) = self.serials.remove(sa.wrapping_sub(OUTBOUND_IDS)) else { return false };
        if let Some(row) = self.store.table.remove(entry.row()) {
            self.profiles.give_back(row.profile, 1);
            if row.flags & HAS_EXTRA != 0 {
                self.store.extras.remove(entry.row());
            }
        }
        if let Some(hot) = self.hots.remove(entry.hot) {
            self.store.contexts.release(hot.context_slot, entry.hot);
            self.store.derived.forget(entry.hot);
        }
        true
    }

    /// Returns what an SA has lived through; none if there is no such SA.
    pub fn state(&self, sa: u64) -> Option<SaState> {
        let entry = self.entry(sa)?;
        let state = |sequence, life: &Life, mtu| SaState {
            sequence,
            packets: life.packets,
            octets: life.octets,
            replay: 0,
            integrity_failed: 0,
            mtu,
        };
        if let Some(hot) = self.hots.get(entry.hot) {
            return Some(state(hot.top(), &hot.life, hot.mtu));
        }
        let row = self.store.table.row(entry.row())?;
        Some(state(row.seq, &Life::default(), self.profiles.profile(row.profile)?.mtu))
    }

    /// Returns what a Sub SA has lived through, 0 that of an SA without; outer none: no such SA.
    pub fn sub_sa_state(&self, sa: u64, id: u16) -> Option<Option<SubSaState>> {
        let state = self.state(sa)?;
        if !self.profile(sa)?.has_sub_sas() {
            let SaState { sequence, packets, octets, .. } = state;
            return Some((id == 0).then_some(SubSaState { sequence, packets, octets }));
        }
        let found = self.entry(sa).and_then(|entry| self.hots.get(entry.hot)).and_then(|hot| hot.sub_sa(id));
        Some(found.map(|SubSa { sequence, packets, octets }| SubSaState {
            sequence: *sequence,
            packets: *packets,
            octets: *octets,
        }))
    }

    /// Returns an SA's profile; none if there is no such SA.
    pub fn profile(&self, sa: u64) -> Option<&Arc<Profile>> {
        self.profiles.profile(self.store.table.row(self.entry(sa)?.row())?.profile)
    }

    /// Returns what an inbound SA with this one's numbers would take a low half for; outer none: no such SA.
    pub fn infer(&self, sa: u64, low: u32) -> Option<Option<u64>> {
        let (sequence, profile) = (self.state(sa)?.sequence, self.profile(sa)?);
        Some(infer(profile, sequence, low))
    }

    /// Returns the largest inner packet of an SA; none if there is no such SA.
    pub fn inner_mtu(&mut self, sa: u64, now: u64) -> Option<usize> {
        let entry = self.entry(sa)?;
        if let Some(hot) = self.hots.get_mut(entry.hot) {
            let shape = self.profiles.shape(hot.profile)?;
            hot.age_mtu(shape, now, &mut self.events);
            return Some(inner_mtu(&shape.profile, &shape.form, hot.mtu));
        }
        let shape = self.profiles.shape(self.store.table.row(entry.row())?.profile)?;
        Some(inner_mtu(&shape.profile, &shape.form, shape.profile.mtu))
    }

    /// Tells an SA its path's MTU, good for ten minutes (RFC 4301 §8.2.2); false if there is no such SA.
    pub fn set_mtu(&mut self, sa: u64, mtu: u32, now: u64) -> bool {
        let hot = self.hot_number(sa).and_then(|number| self.hots.get_mut(number));
        let Some(hot) = hot else { return false };
        let Some(shape) = self.profiles.shape(hot.profile) else { return false };
        hot.mtu = u16::try_from(mtu).unwrap_or(u16::MAX).min(shape.profile.mtu);
        hot.mtu_until = now.saturating_add(MTU_AGE);
        hot.refresh(shape);
        true
    }

    /// Lets an SA use numbers up to `last` and no further, until told otherwise; false if there is no such SA.
    pub fn reserve(&mut self, sa: u64, last: u64) -> bool {
        let hot = self.hot_number(sa).and_then(|number| self.hots.get_mut(number));
        let Some(hot) = hot else { return false };
        let Some(profile) = self.profiles.profile(hot.profile) else { return false };
        hot.last = last.min(profile.last_sequence());
        true
    }

    /// Lets an SA go on with another profile (RFC 7296 §2.23); false if there is no such SA.
    ///
    /// profile: the SA's own but for outer addresses and UDP ports, which the caller has made sure of.
    pub fn set_profile(&mut self, sa: u64, profile: &Arc<Profile>) -> bool {
        let Some(entry) = self.entry(sa) else { return false };
        let Some(row) = self.store.table.row_mut(entry.row()) else { return false };
        let number = self.profiles.take(profile, 1, || Shape::new(profile));
        self.profiles.give_back(std::mem::replace(&mut row.profile, number), 1);
        if let (Some(hot), Some(shape)) = (self.hots.get_mut(entry.hot), self.profiles.shape(number)) {
            hot.profile = number;
            hot.refresh(shape);
        }
        true
    }

    /// Replaces the SPD's outbound entries.
    pub fn set_policies(&mut self, policies: Vec<Policy>) {
        self.policies = Policies::new(policies);
    }

    /// Finds the policy for a packet from the protected side.
    pub fn look_up_policy(&self, packet: &[u8]) -> Result<Option<Found>, NotIp> {
        self.policies.look_up(packet, Way::Outbound)
    }

    /// Returns when the next SA reaches a limit of time, nanoseconds; none if none will.
    ///
    /// Cost: a pass over the SAs if any has such a limit.
    pub fn deadline(&self) -> Option<u64> {
        if !self.profiles.are_timed() && !self.any_expired {
            return None;
        }
        let seconds = self.serials.iter().filter_map(|(serial, entry)| {
            let (life, profile, spi) = self.life(entry)?;
            life.next_second(&Whose { id: OUTBOUND_IDS + serial, spi, profile, sent: None, share: None })
        });
        seconds.min().map(|second| second.saturating_mul(SECOND))
    }

    /// Raises the events of all limits of time that are reached, and removes SAs whose hard lifetime is over.
    pub fn handle_timeout(&mut self, now: u64) {
        if !self.profiles.are_timed() && !self.any_expired {
            return;
        }
        let second = now / SECOND;
        let due = |(serial, entry): &(u64, Entry)| {
            self.life(*entry).is_some_and(|(life, profile, spi)| {
                let whose = Whose { id: OUTBOUND_IDS + serial, spi, profile, sent: None, share: None };
                life.expired || life.next_second(&whose).is_some_and(|due| due <= second)
            })
        };
        let due: Vec<(u64, Entry)> = self.serials.iter().filter(due).collect();
        for (serial, entry) in due {
            self.time_out(OUTBOUND_IDS + serial, entry, now);
        }
        self.any_expired = false;
    }

    fn time_out(&mut self, id: u64, entry: Entry, now: u64) {
        let Some((mut life, profile, spi)) = self.life(entry) else { return };
        let profile = Arc::clone(profile);
        let hot = self.hots.get_mut(entry.hot);
        let whose = Whose { id, spi, profile: &profile, sent: hot.as_ref().map(|hot| hot.sequence), share: None };
        life.soften(&whose, now, &mut self.events);
        if life.is_expired(&whose, now, &mut self.events) {
            self.remove(id);
        } else if let Some(hot) = hot {
            life.watch(&whose, hot.until());
            hot.life = life;
        } else if let Some(row) = self.store.table.row_mut(entry.row())
            && life.soft_told
        {
            row.flags |= SOFT_TOLD;
        }
    }

    /// Returns how often each code has dropped a packet.
    pub fn drops(&self) -> &[u64; CODES] {
        self.drops.counts()
    }

    /// Returns id and last number of SAs with this SPI and outer destination that have sent packets.
    pub fn recent(&self, spi: u32, remote: IpAddr) -> Vec<(u64, u64)> {
        let is_it = |hot: &&Hot| {
            let profile = self.profiles.profile(hot.profile);
            let there = profile.is_some_and(|profile| profile.outer.is_none_or(|outer| outer.remote == remote));
            hot.spi == spi && hot.life.packets > 0 && there
        };
        let mut found: Vec<_> = self.hots.iter().filter(is_it).map(|hot| (hot.id, hot.top())).collect();
        found.sort_unstable();
        found
    }

    /// Returns the oldest event not yet fetched; for a half that runs alone.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.next()
    }

    pub(crate) fn events_mut(&mut self) -> &mut EventQueue {
        &mut self.events
    }

    #[inline(always)]
    fn entry(&self, sa: u64) -> Option<Entry> {
        self.serials.get(sa.wrapping_sub(OUTBOUND_IDS))
    }

    /// The life of an SA, hot or idle, its profile and SPI.
    fn life(&self, entry: Entry) -> Option<(Life, &Arc<Profile>, u32)> {
        let row = self.store.table.row(entry.row())?;
        let life = self.hots.get(entry.hot).map_or_else(|| Life::of(row), |hot| hot.life);
        Some((life, self.profiles.profile(row.profile)?, row.spi))
    }

    /// Returns the number of an SA's hot state, making one for an idle SA; none if there is no such SA.
    #[inline(always)]
    fn hot_number(&mut self, sa: u64) -> Option<u32> {
        let entry = self.entry(sa)?;
        if entry.hot != 0 { Some(entry.hot) } else { self.warm(sa, entry) }
    }

    #[cold]
    fn warm(&mut self, sa: u64, entry: Entry) -> Option<u32> {
        let row = self.store.table.row(entry.row())?;
        let shape = self.profiles.shape(row.profile)?;
        let flow_key = shape.form.flow_policy().filter(|policy| policy.needs_key()).map(|_| {
            let key = row.key.get(..(row.flags & KEY_OCTETS) as usize).unwrap_or_default();
            FlowKey::new(key, self.store.extras.get(entry.row()).map(Extra::key).unwrap_or_default())
        });
        let mut hot = Hot {
            life: Life::of(row),
            sequence: row.seq,
            last: shape.profile.last_sequence(),
            spi: row.spi,
            profile: row.profile,
            context_slot: u32::MAX,
            salt: row.salt,
            mtu: shape.profile.mtu,
            has_other_iv: shape.form.iv() == Iv::Block || row.flags & FIXED_IV != 0,
            id: sa,
            row: entry.row(),
            more: flow_key.map(|flow_key| Box::new(More { flow_key: Some(flow_key), ..More::default() })),
            ..Hot::default()
        };
        hot.refresh(shape);
        let number = self.hots.insert(hot)?;
        self.serials.get_mut(sa.wrapping_sub(OUTBOUND_IDS))?.hot = number;
        Some(number)
    }
}

/// Expands the key of a row.
pub(crate) fn expand(provider: Provider, profile: &Profile, row: &Row, extra: Option<&Extra>) -> Option<Context> {
    let key = row.key.get(..(row.flags & KEY_OCTETS) as usize)?;
    let auth_key = extra.map(Extra::key).unwrap_or_default();
    Context::new(provider, profile.cipher(), key, auth_key).ok()
}

/// Makes the row of an SA, its profile's number apart, and what has no place in it.
pub(crate) fn row_of(profile: &Profile, sa: &Sa<'_>, now: u64) -> Result<(Row, Option<Extra>), InstallError> {
    match (profile.mode, profile.outer, profile.inner) {
        (Mode::Tunnel | Mode::Beet | Mode::Iptfs, None, _) => return Err(InstallError::Profile("outer addresses")),
        (Mode::Beet, _, None) => return Err(InstallError::Profile("the inner pair of BEET mode")),
        _ => (),
    }
    let suite = profile.cipher();
    if !profile.takes_keys(sa.key.len(), sa.salt.len(), sa.auth_key.len()) {
        return Err(InstallError::KeyLength { suite: suite.name });
    }
    let mut row = Row { spi: sa.spi, installed_s: whole_seconds(now), seq: sa.sequence, ..Row::EMPTY };
    // What keys are derived from may be longer than a key.
    let (key, further) = if profile.derives_keys() { (&[][..], sa.key) } else { (sa.key, sa.auth_key) };
    row.flags = key.len() as u32;
    copy(&mut row.key, key);
    copy(&mut row.salt, sa.salt);
    // An IV that is not sent can not be fixed either.
    let fixed_iv = sa.iv.filter(|_| suite.iv_octets != 0);
    if further.is_empty() && fixed_iv.is_none() {
        return Ok((row, None));
    }
    let mut extra = Extra::new(further).ok_or(InstallError::KeyLength { suite: suite.name })?;
    row.flags |= HAS_EXTRA;
    if let Some(iv) = fixed_iv {
        let mut block = [0; 16];
        copy(&mut block, iv);
        extra.fixed_iv = Some(block);
        row.flags |= FIXED_IV;
    }
    Ok((row, Some(extra)))
}

/// Makes the rows of SAs whose key material stands in rows of one length.
pub(crate) fn rows_of<'a>(
    profile: &'a Profile,
    spis: &'a [u32],
    keys: &'a [u8],
    now: u64,
) -> Result<impl Iterator<Item = Result<(Row, Option<Extra>), InstallError>> + 'a, InstallError> {
    let suite = profile.cipher();
    let wrong = InstallError::KeyLength { suite: suite.name };
    let octets = keys.len() / spis.len().max(1);
    if octets * spis.len() != keys.len() || (!spis.is_empty() && octets == 0) {
        return Err(wrong);
    }
    Ok(spis
        .iter()
        .zip(keys.chunks_exact(octets.max(1)))
        .map(move |(spi, material)| row_of(profile, &Sa::from_material(profile, *spi, material).ok_or(wrong)?, now)))
}

fn copy(place: &mut [u8], octets: &[u8]) {
    for (place, octet) in place.iter_mut().zip(octets) {
        *place = *octet;
    }
}

/// Returns the full number that a receiver of this profile takes a low half for.
pub(crate) fn infer(profile: &Profile, top: u64, low: u32) -> Option<u64> {
    let window = if profile.window == 0 { INFERENCE_WINDOW } else { profile.window };
    if profile.esn && profile.protocol != Protocol::Eesp { infer_esn(top, window, low) } else { Some(low.into()) }
}

/// Returns the largest inner packet for a path's MTU.
///
/// Tunnel: the whole packet. Transport and BEET: one with an IP header without options of the outer version.
pub(crate) fn inner_mtu(profile: &Profile, form: &Form, mtu: u16) -> usize {
    let header = |is_ipv6| if is_ipv6 { IPV6_HEADER } else { IPV4_HEADER };
    let head = header(profile.outer.is_some_and(|outer| outer.local.is_ipv6()));
    let udp = if profile.encapsulation.is_some() { udp::HEADER } else { 0 };
    let version = if head == IPV6_HEADER { 6 } else { 4 };
    let inside = form.payload_room(version, udp != 0, i64::from(mtu) - (head + udp) as i64);
    match (profile.mode, profile.inner) {
        (Mode::Tunnel | Mode::Iptfs, _) => inside,
        (Mode::Beet, Some(inner)) => inside + header(inner.local.is_ipv6()),
        _ => inside + head,
    }
}

#[cfg(test)]
pub(crate) mod tests;
