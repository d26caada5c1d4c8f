//! What an SA has lived through, and the limits that it runs into (RFC 4301 §4.4.2.1).

use crate::events::{Event, EventKind, EventQueue};
use crate::profile::{Lifetime, Profile, SECOND};
use crate::rows::Row;
use crate::tally::{Lived, Share};

/// Half of the 32-bit sequence numbers: without ESN time for the next SA.
const HALF_SPACE: u64 = 1 << 31;

/// Counts of one SA, and how far they may go before anything has to be looked at.
///
/// The packet path compares three numbers; only when one is reached does it ask which limit that is.
#[derive(Clone, Copy, Default)]
pub(crate) struct Life {
    pub(crate) packets: u64,
    pub(crate) octets: u64,
    /// When the last packet passed; at first, when the SA was installed.
    pub(crate) used_ns: u64,
    /// Nothing can happen by time before; 0 makes every packet look.
    check_ns: u64,
    watch_packets: u64,
    watch_octets: u64,
    installed_s: u32,
    pub(crate) soft_told: bool,
    pub(crate) expired: bool,
}

/// Whose life it is.
#[derive(Clone, Copy)]
pub(crate) struct Whose<'a> {
    pub(crate) id: u64,
    pub(crate) spi: u32,
    pub(crate) profile: &'a Profile,
    /// Outbound: the last number used; inbound none, as the sender sees to it.
    pub(crate) sent: Option<u64>,
    /// Inbound: this shard's part in an SA with limits that several shards count for.
    pub(crate) share: Option<&'a Share>,
}

impl Whose<'_> {
    fn soft(&self) -> Lifetime {
        self.profile.soft.jittered(self.profile.jitter, self.spi)
    }

    /// Says whether the numbers of an outbound SA without ESN are half used up.
    fn is_half_way(&self) -> bool {
        !self.profile.esn && self.sent.is_some_and(|sequence| sequence >= HALF_SPACE)
    }
}

impl Life {
    /// The life of an SA without packets.
    pub(crate) fn of(row: &Row) -> Self {
        Self {
            used_ns: u64::from(row.installed_s) * SECOND,
            installed_s: row.installed_s,
            soft_told: row.flags & SOFT_TOLD != 0,
            ..Self::default()
        }
    }

    /// Says whether limits of time, or something that [`watch`](Self::watch) was told of, may be reached.
    #[inline(always)]
    pub(crate) fn is_due(&self, now: u64) -> bool {
        now >= self.check_ns
    }

    /// Before this time no limit of time is reached, nanoseconds.
    #[inline(always)]
    pub(crate) fn check_ns(&self) -> u64 {
        self.check_ns
    }

    /// Counts a packet; returns whether a limit may be reached.
    #[inline(always)]
    pub(crate) fn account(&mut self, octets: usize, now: u64) -> bool {
        self.packets += 1;
        self.octets += octets as u64;
        self.used_ns = now;
        self.packets >= self.watch_packets || self.octets >= self.watch_octets
    }

    /// Says whether the hard lifetime is over, and tells so the first time.
    pub(crate) fn is_expired(&mut self, whose: &Whose<'_>, now: u64, events: &mut EventQueue) -> bool {
        if self.is_over(whose) {
            self.expired = true;
        } else if let Some(limit) = self.reached(&whose.profile.hard, whose, now) {
            self.expired = true;
            if whose.share.is_none_or(Share::expire) {
                events.tell(Event { limit, ..Event::of(EventKind::HardExpired, now, whose.id) });
            }
        }
        self.expired
    }

    /// Tells that the soft lifetime is over, if it is and was not told.
    pub(crate) fn soften(&mut self, whose: &Whose<'_>, now: u64, events: &mut EventQueue) {
        if !self.is_over(whose)
            && !self.soft_told
            && let Some(limit) = self.reached(&whose.soft(), whose, now)
        {
            self.tell_soft(limit, whose, now, events);
        }
    }

    /// Looks at all limits after a packet was counted, and works out when to look again.
    ///
    /// until: another time at which the packet path wants to be asked.
    #[cold]
    pub(crate) fn look(&mut self, whose: &Whose<'_>, until: u64, now: u64, events: &mut EventQueue) {
        if let Some(share) = whose.share {
            share.put(self.lived());
        }
        if !self.soft_told {
            let limit = self.reached(&whose.soft(), whose, now);
            let limit = limit.or_else(|| whose.is_half_way().then_some("sequence"));
            if let Some(limit) = limit {
                self.tell_soft(limit, whose, now, events);
            }
        }
        self.is_expired(whose, now, events);
        self.watch(whose, until);
    }

    /// Works out up to which counts and time nothing has to be looked at.
    pub(crate) fn watch(&mut self, whose: &Whose<'_>, until: u64) {
        if whose.share.is_some() {
            // Others count too: each packet has to look.
            (self.watch_packets, self.watch_octets, self.check_ns) = (0, 0, 0);
            return;
        }
        let soft = if self.soft_told { Lifetime::default() } else { whose.soft() };
        let hard = &whose.profile.hard;
        let lower = |a: Option<u64>, b: Option<u64>| a.unwrap_or(u64::MAX).min(b.unwrap_or(u64::MAX));
        self.watch_octets = lower(soft.octets, hard.octets);
        self.watch_packets = lower(soft.packets, hard.packets);
        if !self.soft_told
            && !whose.profile.esn
            && let Some(sent) = whose.sent
        {
            // Numbers and packets advance together.
            let left = HALF_SPACE.saturating_sub(sent);
            self.watch_packets = self.watch_packets.min(self.packets.saturating_add(left));
        }
        let installed = u64::from(self.installed_s);
        // The idle time of the soft lifetime is never over when a packet comes: the timeout alone tells it.
        let seconds = lower(soft.seconds, hard.seconds).saturating_add(installed);
        // A lower bound: packets to come move it on, and it is worked out again when it is reached.
        let idle = hard.idle_seconds.map_or(u64::MAX, |idle| idle.saturating_add(self.used_ns / SECOND));
        self.check_ns = if self.expired { 0 } else { seconds.min(idle).saturating_mul(SECOND).min(until) };
    }

    /// Returns the second in which a limit of time will be reached if no packet comes.
    pub(crate) fn next_second(&self, whose: &Whose<'_>) -> Option<u64> {
        let used = self.total(whose).used_ns / SECOND;
        if self.is_over(whose) {
            return Some(used);
        }
        let after = |limit: &Lifetime| {
            let seconds = limit.seconds.map(|seconds| seconds.saturating_add(self.installed_s.into()));
            let idle = limit.idle_seconds.map(|idle| idle.saturating_add(used));
            seconds.into_iter().chain(idle).min()
        };
        let is_softened = self.soft_told || whose.share.is_some_and(Share::is_softened);
        let soft = if is_softened { None } else { after(&whose.soft()) };
        soft.into_iter().chain(after(&whose.profile.hard)).min()
    }

    fn reached(&self, limits: &Lifetime, whose: &Whose<'_>, now: u64) -> Option<&'static str> {
        let lived = self.total(whose);
        let second = (now / SECOND) as i64;
        let (age, idle) = (second - i64::from(self.installed_s), second - (lived.used_ns / SECOND) as i64);
        limits.reached(age, lived.octets, lived.packets, idle)
    }

    /// Says whether the hard lifetime was found to be over, here or in another shard.
    pub(crate) fn is_over(&self, whose: &Whose<'_>) -> bool {
        self.expired || whose.share.is_some_and(Share::is_expired)
    }

    fn lived(&self) -> Lived {
        Lived { packets: self.packets, octets: self.octets, used_ns: self.used_ns }
    }

    fn total(&self, whose: &Whose<'_>) -> Lived {
        whose.share.map_or(self.lived(), |share| share.total(self.lived()))
    }

    fn tell_soft(&mut self, limit: &'static str, whose: &Whose<'_>, now: u64, events: &mut EventQueue) {
        self.soft_told = true;
        if whose.share.is_none_or(Share::soften) {
            events.tell(Event { limit, ..Event::of(EventKind::SoftExpired, now, whose.id) });
        }
    }
}

/// Flags of a row: the soft lifetime was over before the first packet.
pub(crate) const SOFT_TOLD: u32 = 1 << 8;
/// Flags of a row: octets of its key.
pub(crate) const KEY_OCTETS: u32 = 0xff;
/// Flags of a row: an [`Extra`](crate::hot::Extra) belongs to it.
pub(crate) const HAS_EXTRA: u32 = 1 << 9;
/// Flags of a row: the extra has a fixed IV.
pub(crate) const FIXED_IV: u32 = 1 << 10;

/// Returns a time in whole seconds, as rows keep it.
pub(crate) fn whole_seconds(now: u64) -> u32 {
    u32::try_from(now / SECOND).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
