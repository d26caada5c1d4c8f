//! What SAs get besides their rows: a place among the expanded keys with the first packet, and the
//! little that few of them have.

use std::collections::HashMap;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::aead::{Context, Provider};
use crate::eesp::kdf::MASTER_OCTETS;

/// Longest key besides a row's: three master keys of a stateless group.
const MAX_EXTRA_KEY_OCTETS: usize = 3 * MASTER_OCTETS;
/// Slots that are allocated together; they never move, so no copy of a key is left behind.
const BLOCK_SLOTS: usize = 64;

/// Expanded keys of the SAs in use, a bounded number: an idle SA's would cost nine times its row.
///
/// A full cache gives the slot of one that was not used since the hand last passed (clock eviction).
/// A miss costs one key expansion, about 100 ns for AES-GCM.
pub struct ContextCache {
    blocks: Vec<Vec<Option<Context>>>,
    /// By slot: number of the hot state whose key it is; 0 if free. Apart, as a key fills many cache lines.
    owners: Vec<u32>,
    /// By slot: set by use, cleared by the passing hand.
    used: Vec<bool>,
    free: Vec<u32>,
    capacity: usize,
    hand: usize,
}

impl Default for ContextCache {
    fn default() -> Self {
        Self::new(65_536)
    }
}

impl ContextCache {
    /// Makes an empty cache of `capacity` contexts, at least 1. Memory comes with use.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, u32::MAX as usize - 1);
        Self { blocks: Vec::new(), owners: Vec::new(), used: Vec::new(), free: Vec::new(), capacity, hand: 0 }
    }

    /// Returns the context in `slot` if it is still that of `owner`, and marks it used.
    #[inline(always)]
    pub fn get(&mut self, slot: u32, owner: u32) -> Option<&Context> {
        let at = slot as usize;
        if *self.owners.get(at)? != owner {
            return None;
        }
        *self.used.get_mut(at)? = true;
        self.at(slot)
    }

    /// Says whether the context in `slot` is still that of `owner`, and marks it used.
    #[inline(always)]
    pub(crate) fn has(&mut self, slot: u32, owner: u32) -> bool {
        let at = slot as usize;
        let has = self.owners.get(at) == Some(&owner);
        if let Some(used) = self.used.get_mut(at).filter(|_| has) {
            *used = true;
        }
        has
    }

    /// Returns the context in `slot`, whosever it is.
    #[inline(always)]
    pub(crate) fn at(&self, slot: u32) -> Option<&Context> {
        let at = slot as usize;
        self.blocks.get(at / BLOCK_SLOTS)?.get(at % BLOCK_SLOTS)?.as_ref()
    }

    /// Starts to bring the context in `slot` near, if it is one of `provider` and such a hint is of use.
    #[inline(always)]
    pub(crate) fn prefetch(&self, slot: u32, provider: Provider) {
        let at = slot as usize;
        if let Some(place) = self.blocks.get(at / BLOCK_SLOTS).and_then(|block| block.get(at % BLOCK_SLOTS)) {
            Context::prefetch(provider, place);
        }
    }

    /// Puts a context in and returns its slot, evicting another if the cache is full.
    ///
    /// owner: number of the hot state, not 0. The caller keeps the slot in the hot state.
    pub fn insert(&mut self, owner: u32, context: Context) -> u32 {
        let at = match self.free.pop() {
            Some(slot) => slot as usize,
            None if self.owners.len() < self.capacity => self.append(),
            None => self.evict(),
        };
        self.put(at, owner, Some(context));
        at as u32
    }

    /// Wipes the context in `slot` if it is that of `owner`. To be called when an SA goes.
    pub fn release(&mut self, slot: u32, owner: u32) {
        if owner != 0 && self.owners.get(slot as usize) == Some(&owner) {
            self.put(slot as usize, 0, None);
            self.free.push(slot);
        }
    }

    /// Returns the number of contexts held.
    pub fn len(&self) -> usize {
        self.owners.len() - self.free.len()
    }

    /// Says whether no context is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills a slot. Assigning drops, and so wipes, the context that was there.
    fn put(&mut self, at: usize, owner: u32, context: Option<Context>) {
        let is_used = context.is_some();
        let place = self.blocks.get_mut(at / BLOCK_SLOTS).and_then(|block| block.get_mut(at % BLOCK_SLOTS));
        if let (Some(place), Some(owned), Some(used)) = (place, self.owners.get_mut(at), self.used.get_mut(at)) {
            (*place, *owned, *used) = (context, owner, is_used);
        }
    }

    fn append(&mut self) -> usize {
        let at = self.owners.len();
        if at.is_multiple_of(BLOCK_SLOTS) {
            self.blocks.push(Vec::with_capacity(BLOCK_SLOTS));
        }
        if let Some(block) = self.blocks.last_mut() {
            block.push(None);
        }
        self.owners.push(0);
        self.used.push(false);
        at
    }

    /// Turns the hand to the first slot that was not used since it last passed.
    fn evict(&mut self) -> usize {
        loop {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.owners.len();
            match self.used.get_mut(at) {
                Some(used) if *used => *used = false,
                _ => return at,
            }
        }
    }
}

/// What few SAs have and a row has no room for: a further key, and settings of tests. Has no `Debug`.
///
/// The key is a separate MAC's or, where packets have keys that are derived, what they come out of.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Extra {
    key: [u8; MAX_EXTRA_KEY_OCTETS],
    key_octets: u8,
    /// The IV of the next packets, for published packets with a chosen one; never set in use.
    pub fixed_iv: Option<[u8; 16]>,
}

impl Extra {
    /// Takes a key of up to 96 octets; none if it is longer.
    pub fn new(key: &[u8]) -> Option<Self> {
        let mut extra = Self { key: [0; MAX_EXTRA_KEY_OCTETS], key_octets: key.len() as u8, fixed_iv: None };
        extra.key.get_mut(..key.len())?.copy_from_slice(key);
        Some(extra)
    }

    /// Returns the key; empty if the SA has none.
    pub fn key(&self) -> &[u8] {
        self.key.get(..usize::from(self.key_octets)).unwrap_or_default()
    }
}

/// The extras of one table's SAs, by SPI or number. Boxed, so that a growing table leaves no copy of a key.
#[derive(Default)]
pub struct Extras {
    by_sa: HashMap<u32, Box<Extra>>,
}

impl Extras {
    /// Sets an SA's extra, wiping what it had.
    pub fn insert(&mut self, sa: u32, extra: Extra) {
        self.by_sa.insert(sa, Box::new(extra));
    }

    /// Returns an SA's extra.
    pub fn get(&self, sa: u32) -> Option<&Extra> {
        self.by_sa.get(&sa).map(Box::as_ref)
    }

    /// Forgets and wipes an SA's extra.
    pub fn remove(&mut self, sa: u32) {
        self.by_sa.remove(&sa);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Suite;

    fn context(octet: u8) -> Context {
        let suite = Suite::by_name("aes-gcm-16").expect("a suite");
        Context::new(Provider::AwsLc, suite, &[octet; 16], &[]).expect("16 octets")
    }

    #[test]
    fn cache_is_bounded_and_spares_what_is_used() {
        let mut cache = ContextCache::new(4);
        let slots: Vec<u32> = (1..=4).map(|owner| cache.insert(owner, context(owner as u8))).collect();
        assert_eq!(slots, [0, 1, 2, 3]);
        // The first eviction's hand clears every mark; after that only owner 3 is used again.
        assert_eq!(cache.insert(5, context(5)), 0);
        assert!(cache.get(0, 1).is_none(), "owner 1 was evicted");
        assert!(cache.get(1, 2).is_some());
        assert_eq!(cache.insert(6, context(6)), 2, "owner 2 was used, owner 3 was not");
        assert!(cache.get(2, 3).is_none() && cache.get(1, 2).is_some() && cache.get(3, 4).is_some());
        assert_eq!(cache.len(), 4);
    }

    #[test]
    fn release_frees_the_owners_slot_only() {
        let mut cache = ContextCache::new(200);
        let slots: Vec<u32> = (1..=150).map(|owner| cache.insert(owner, context(owner as u8))).collect();
        cache.release(slots[9], 99);
        assert!(cache.get(slots[9], 10).is_some(), "slot 9 is not that of owner 99");
        cache.release(slots[9], 10);
        cache.release(slots[9], 10);
        assert!(cache.get(slots[9], 10).is_none());
        assert_eq!(cache.len(), 149);
        assert_eq!(cache.insert(151, context(1)), slots[9]);
        assert_eq!(cache.insert(152, context(1)), 150);
    }

    #[test]
    fn extras_hold_an_integrity_key() {
        let mut extras = Extras::default();
        extras.insert(7, Extra::new(&[3; 48]).expect("fits"));
        assert_eq!(extras.get(7).map(Extra::key), Some(&[3; 48][..]));
        extras.remove(7);
        assert!(extras.get(7).is_none());
        assert!(Extra::new(&[0; 97]).is_none());
    }
}
