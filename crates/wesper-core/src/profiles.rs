//! The profiles of a table's SAs, each once, with what a half has worked out of it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::profile::Profile;

struct Entry<S> {
    profile: Arc<Profile>,
    users: u64,
    shape: S,
}

/// Profiles by number. One that no SA uses any more is forgotten.
pub(crate) struct Profiles<S> {
    by_profile: HashMap<Arc<Profile>, u32>,
    entries: Vec<Option<Entry<S>>>,
    free: Vec<u32>,
    timed: u64,
}

impl<S> Profiles<S> {
    pub(crate) fn new() -> Self {
        Self { by_profile: HashMap::new(), entries: Vec::new(), free: Vec::new(), timed: 0 }
    }

    /// Takes a profile for so many more SAs and returns its number.
    pub(crate) fn take(&mut self, profile: &Arc<Profile>, users: u64, shape: impl FnOnce() -> S) -> u32 {
        if profile.has_time_limit() {
            self.timed += users;
        }
        if let Some(number) = self.by_profile.get(profile) {
            if let Some(Some(entry)) = self.entries.get_mut(*number as usize) {
                entry.users += users;
            }
            return *number;
        }
        let entry = Some(Entry { profile: Arc::clone(profile), users, shape: shape() });
        let number = match self.free.pop() {
            Some(number) => {
                if let Some(place) = self.entries.get_mut(number as usize) {
                    *place = entry;
                }
                number
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.by_profile.insert(Arc::clone(profile), number);
        number
    }

    /// Gives a profile back for so many SAs.
    pub(crate) fn give_back(&mut self, number: u32, users: u64) {
        let Some(place) = self.entries.get_mut(number as usize) else { return };
        let Some(entry) = place.as_mut() else { return };
        if entry.profile.has_time_limit() {
            self.timed -= users;
        }
        entry.users -= users;
        if entry.users == 0 {
            self.by_profile.remove(&entry.profile);
            *place = None;
            self.free.push(number);
        }
    }

    /// Returns what was worked out of a profile.
    #[inline(always)]
    pub(crate) fn shape(&self, number: u32) -> Option<&S> {
        Some(&self.entries.get(number as usize)?.as_ref()?.shape)
    }

    /// Returns a profile.
    pub(crate) fn profile(&self, number: u32) -> Option<&Arc<Profile>> {
        Some(&self.entries.get(number as usize)?.as_ref()?.profile)
    }

    /// Says whether any SA has a limit of time.
    pub(crate) fn are_timed(&self) -> bool {
        self.timed != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Lifetime;
    use crate::suite::SuiteId;

    #[test]
    fn equal_profiles_share_a_number_until_the_last_user_goes() {
        let profile = |window, seconds| {
            let ends = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
            let hard = Lifetime { seconds, ..Lifetime::default() };
            Arc::new(Profile { window, hard, ..Profile::tunnel(SuiteId::AesGcm16, ends.0, ends.1) })
        };
        let mut profiles = Profiles::new();
        assert_eq!(profiles.take(&profile(64, None), 1, || 'a'), 0);
        assert_eq!(profiles.take(&profile(128, Some(9)), 2, || 'b'), 1);
        assert_eq!(profiles.take(&profile(64, None), 5, || 'c'), 0);
        assert_eq!((profiles.shape(0), profiles.shape(1), profiles.shape(2)), (Some(&'a'), Some(&'b'), None));
        assert!(profiles.are_timed());
        profiles.give_back(1, 2);
        assert!(!profiles.are_timed() && profiles.shape(1).is_none() && profiles.profile(1).is_none());
        profiles.give_back(0, 5);
        assert_eq!(profiles.take(&profile(256, None), 1, || 'd'), 1);
        profiles.give_back(0, 1);
        assert!(profiles.shape(0).is_none());
    }
}
