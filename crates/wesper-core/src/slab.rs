//! States numbered from 1, so that 0 can mean none.

/// Values that come and go, each under a number that stays its own.
pub(crate) struct Slab<T> {
    places: Vec<T>,
    free: Vec<u32>,
}

impl<T: Default> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    /// Adds a value and returns its number, from 1; none after 2^32 - 2 values.
    pub(crate) fn insert(&mut self, value: T) -> Option<u32> {
        if let Some(number) = self.free.pop() {
            *self.get_mut(number)? = value;
            return Some(number);
        }
        let number = u32::try_from(self.places.len() + 1).ok().filter(|number| *number < u32::MAX)?;
        self.places.push(value);
        Some(number)
    }

    /// Returns the value with this number; none for 0.
    #[inline(always)]
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        self.places.get((number as usize).wrapping_sub(1))
    }

    /// Returns the value with this number for writing; none for 0.
    #[inline(always)]
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.places.get_mut((number as usize).wrapping_sub(1))
    }

    /// Takes a value out. Call it once for a number: the next insert gets the number again.
    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let value = std::mem::take(self.get_mut(number)?);
        self.free.push(number);
        Some(value)
    }

    /// All values, among them the defaults left by those taken out.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_start_at_one_and_come_back() {
        let mut slab = Slab::new();
        assert_eq!((slab.insert(7), slab.insert(8)), (Some(1), Some(2)));
        assert!(slab.get(0).is_none() && slab.get(3).is_none());
        assert_eq!(slab.remove(1), Some(7));
        assert_eq!(slab.iter().sum::<i32>(), 8, "what was taken out left a default");
        assert_eq!(slab.insert(9), Some(1));
        assert_eq!(slab.get(1), Some(&9));
        assert_eq!(slab.get_mut(2), Some(&mut 8));
    }
}
