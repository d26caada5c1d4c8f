//! Keys that packets have of their own: of Sub SAs, of stateless senders; expanded, and a bounded number of them.

use std::collections::{HashMap, VecDeque};

use zeroize::Zeroizing;

use crate::aead::{Context, Provider};
use crate::eesp::kdf::{self, MASTER_OCTETS, MOST_OCTETS};
use crate::eesp::{Settings, Stateless};
use crate::form::KeyOf;
use crate::profile::{Format, Profile};

/// An expanded key with its salt.
pub(crate) struct Derived {
    pub(crate) context: Context,
    pub(crate) salt: [u8; 4],
}

/// Derived keys by the number of their SA's hot state and by whose they are; the oldest goes first.
///
/// What is not here is derived again, for about a microsecond: a receiver puts a key in only after an ICV has held
/// under it, so that nobody pushes out others with what they make up.
pub(crate) struct DerivedKeys {
    keys: HashMap<(u32, KeyOf), Box<Derived>>,
    order: VecDeque<(u32, KeyOf)>,
    capacity: usize,
}

impl DerivedKeys {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { keys: HashMap::new(), order: VecDeque::new(), capacity: capacity.max(1) }
    }

    pub(crate) fn get(&self, number: u32, key: KeyOf) -> Option<&Derived> {
        self.keys.get(&(number, key)).map(Box::as_ref)
    }

    /// Puts a key in; one that is pushed out is wiped.
    pub(crate) fn insert(&mut self, number: u32, key: KeyOf, derived: Box<Derived>) {
        if self.keys.insert((number, key), derived).is_some() {
            return;
        }
        self.order.push_back((number, key));
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }

    /// Wipes all keys of a hot state that goes. Cost: a pass over all, if there are any.
    pub(crate) fn forget(&mut self, number: u32) {
        if self.keys.keys().any(|(owner, _)| *owner == number) {
            self.keys.retain(|(owner, _), _| *owner != number);
            self.order.retain(|(owner, _)| *owner != number);
        }
    }
}

/// Derives and expands the key of a packet; none for an SA whose keys are not derived.
///
/// root: the SA's key. Cost: two hashes and a key expansion.
pub(crate) fn derive(provider: Provider, profile: &Profile, root: &[u8], key: KeyOf) -> Option<Box<Derived>> {
    let Format::Eesp(settings) = &profile.format else { return None };
    let suite = profile.cipher();
    let (material, key_octets) = material(settings, root, key, suite.salt_octets)?;
    let (key, rest) = material.split_at_checked(key_octets)?;
    let mut salt = [0; 4];
    salt.get_mut(..suite.salt_octets)?.copy_from_slice(rest.get(..suite.salt_octets)?);
    Some(Box::new(Derived { context: Context::new(provider, suite, key, &[]).ok()?, salt }))
}

fn material(
    settings: &Settings,
    root: &[u8],
    key: KeyOf,
    salt_octets: usize,
) -> Option<(Zeroizing<[u8; MOST_OCTETS]>, usize)> {
    match (key, settings) {
        (KeyOf::SubSa(id), Settings { sub_sas: Some(sub_sas), .. }) => {
            let octets = usize::from(sub_sas.key_octets);
            let mut material = Zeroizing::new([0; MOST_OCTETS]);
            sub_sas.kdf.derive(root, id, material.get_mut(..octets + salt_octets)?);
            Some((material, octets))
        }
        (KeyOf::Origin(index, origin), Settings { stateless: Some(Stateless { indexes, .. }), .. }) => {
            let at = MASTER_OCTETS * indexes.iter().position(|known| *known == index)?;
            Some((kdf::derive_stateless(root.get(at..at + MASTER_OCTETS)?, origin), MASTER_OCTETS))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eesp::SubSas;
    use crate::eesp::kdf::Sskdf;
    use crate::suite::SuiteId;

    #[test]
    fn the_oldest_goes_and_an_sas_keys_go_with_it() {
        let sub_sas = SubSas { kdf: Sskdf::HkdfSha256, max_id: 9, peer_max_id: 9, key_octets: 32, first_port: 0 };
        let settings = Settings { sub_sas: Some(sub_sas), ..Settings::default() };
        let ends = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let format = Format::Eesp(settings);
        let profile = Profile { format, ..Profile::tunnel(SuiteId::AesGcm16, ends.0, ends.1) };
        let derive = |key| super::derive(Provider::AwsLc, &profile, &[5; 32], key);
        assert!(derive(KeyOf::Sa).is_none());
        let mut keys = DerivedKeys::new(2);
        for id in 0..3 {
            keys.insert(1, KeyOf::SubSa(id), derive(KeyOf::SubSa(id)).expect("a Sub SA's"));
        }
        let known = |keys: &DerivedKeys| [0, 1, 2].map(|id| keys.get(1, KeyOf::SubSa(id)).is_some());
        assert_eq!(known(&keys), [false, true, true]);
        assert!(keys.get(2, KeyOf::SubSa(1)).is_none());
        keys.insert(2, KeyOf::SubSa(0), derive(KeyOf::SubSa(0)).expect("a Sub SA's"));
        assert_eq!(known(&keys), [false, false, true]);
        keys.forget(1);
        assert_eq!((known(&keys), keys.get(2, KeyOf::SubSa(0)).is_some()), ([false; 3], true));
        assert_eq!((keys.order.len(), keys.keys.len()), (1, 1));
    }
}
