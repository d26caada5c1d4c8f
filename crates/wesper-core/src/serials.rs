//! Where the outbound SAs are, by a serial number that is never used twice.

use std::collections::VecDeque;

/// Serials of a page.
const PAGE: usize = 256;

/// Where one SA is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Number of the row + 1; 0: no SA has this serial.
    row: u32,
    /// Number of the hot state; 0 before the first packet.
    pub(crate) hot: u32,
}

impl Entry {
    pub(crate) fn row(self) -> u32 {
        self.row.wrapping_sub(1)
    }
}

struct Page {
    entries: [Entry; PAGE],
    used: usize,
}

/// An array of entries by serial, of which only the pages in use are kept: 8 octets an SA.
///
/// SAs mostly go in the order in which they came, so the oldest pages fall off the front.
#[derive(Default)]
pub(crate) struct Serials {
    /// Serial / [`PAGE`] of the first page.
    first: u64,
    pages: VecDeque<Option<Box<Page>>>,
}

impl Serials {
    /// Finds an SA.
    #[inline(always)]
    pub(crate) fn get(&self, serial: u64) -> Option<Entry> {
        let page = self.pages.get(self.page(serial)?)?.as_deref()?;
        page.entries.get(serial as usize % PAGE).copied().filter(|entry| entry.row != 0)
    }

    /// Finds an SA, to note its hot state.
    pub(crate) fn get_mut(&mut self, serial: u64) -> Option<&mut Entry> {
        let at = self.page(serial)?;
        let page = self.pages.get_mut(at)?.as_deref_mut()?;
        page.entries.get_mut(serial as usize % PAGE).filter(|entry| entry.row != 0)
    }

    /// Notes a new SA; its serial is higher than all before.
    pub(crate) fn insert(&mut self, serial: u64, row: u32) {
        if self.pages.is_empty() {
            self.first = serial / PAGE as u64;
        }
        let Some(at) = self.page(serial) else { return };
        while self.pages.len() <= at {
            self.pages.push_back(None);
        }
        let Some(place) = self.pages.get_mut(at) else { return };
        let page = place.get_or_insert_with(|| Box::new(Page { entries: [Entry::default(); PAGE], used: 0 }));
        if let Some(entry) = page.entries.get_mut(serial as usize % PAGE) {
            *entry = Entry { row: row + 1, hot: 0 };
            page.used += 1;
        }
    }

    /// Forgets an SA.
    pub(crate) fn remove(&mut self, serial: u64) -> Option<Entry> {
        let at = self.page(serial)?;
        let place = self.pages.get_mut(at)?;
        let page = place.as_deref_mut()?;
        let entry = page.entries.get_mut(serial as usize % PAGE).filter(|entry| entry.row != 0)?;
        let removed = std::mem::take(entry);
        page.used -= 1;
        if page.used == 0 {
            *place = None;
        }
        while let Some(None) = self.pages.front() {
            self.pages.pop_front();
            self.first += 1;
        }
        Some(removed)
    }

    /// All SAs in the order of their serials.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Entry)> {
        self.pages.iter().zip(self.first..).flat_map(|(page, number)| {
            let entries = page.iter().flat_map(|page| page.entries.iter());
            entries.zip(number * PAGE as u64..).filter(|(entry, _)| entry.row != 0).map(|(entry, at)| (at, *entry))
        })
    }

    #[inline(always)]
    fn page(&self, serial: u64) -> Option<usize> {
        (serial / PAGE as u64).checked_sub(self.first).map(|page| page as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_is_a_map_whose_keys_only_grow(steps in prop::collection::vec((any::<bool>(), 1u64..600), 1..200)) {
            let (mut serials, mut model, mut next) = (Serials::default(), BTreeMap::new(), 0);
            for (grow, by) in steps {
                if grow || model.is_empty() {
                    next += by;
                    serials.insert(next, by as u32);
                    model.insert(next, by as u32);
                    serials.get_mut(next).expect("just put").hot = 5;
                } else {
                    let key = *model.keys().nth(by as usize % model.len()).expect("one of them");
                    prop_assert_eq!(serials.remove(key).map(Entry::row), model.remove(&key));
                    prop_assert_eq!(serials.remove(key), None);
                }
                let all: Vec<_> = serials.iter().map(|(serial, entry)| (serial, entry.row())).collect();
                prop_assert_eq!(all, model.iter().map(|(key, row)| (*key, *row)).collect::<Vec<_>>());
                for (key, row) in &model {
                    prop_assert_eq!(serials.get(*key).map(|entry| (entry.row(), entry.hot)), Some((*row, 5)));
                }
                prop_assert_eq!(serials.get(next + 1), None);
            }
            prop_assert!(serials.pages.len() as u64 <= next / PAGE as u64 + 1);
            while let Some((key, _)) = model.pop_first() {
                serials.remove(key);
            }
            prop_assert!(serials.pages.is_empty());
        }
    }
}
