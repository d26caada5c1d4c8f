//! Which hot state the packets of a SPI go to, in one load: the table of all SAs may take several, far apart.

/// Numbers of hot states by SPI. What it says is a hint: the state itself knows whose it is.
///
/// Two places a bucket; a third SPI takes the place of one of them, and is looked up in the table when that one
/// comes back. Twice as many buckets as states.
pub(super) struct Index {
    buckets: Vec<[Place; 2]>,
    /// 32 less the bits of a bucket's number.
    shift: u32,
}

#[derive(Clone, Copy, Default)]
struct Place {
    /// 0: empty.
    spi: u32,
    number: u32,
}

impl Index {
    pub(super) fn new() -> Self {
        Self::with_bits(FIRST_BITS)
    }

    fn with_bits(bits: u32) -> Self {
        Self { buckets: vec![Default::default(); 1 << bits], shift: 32 - bits }
    }

    /// Returns the number that a SPI's state probably has, 0 if none is known.
    #[inline(always)]
    pub(super) fn get(&self, spi: u32) -> u32 {
        let Some([first, second]) = self.buckets.get(self.bucket(spi)) else { return 0 };
        let other = if second.spi == spi { second.number } else { 0 };
        if first.spi == spi { first.number } else { other }
    }

    /// Notes the number of a SPI's state.
    pub(super) fn put(&mut self, spi: u32, number: u32) {
        // States are numbered without gaps. The places fill again as packets come.
        if number as usize > self.buckets.len() / 2 && self.shift > LEAST_SHIFT {
            *self = Self::with_bits(33 - self.shift);
        }
        let bucket = self.bucket(spi);
        if let Some([first, second]) = self.buckets.get_mut(bucket) {
            if first.spi != spi {
                *second = *first;
            }
            *first = Place { spi, number };
        }
    }

    #[inline(always)]
    fn bucket(&self, spi: u32) -> usize {
        // An odd factor near 2^32 / 1.618, whose upper bits differ for SPIs in a row.
        (spi.wrapping_mul(0x9e37_79b1) >> self.shift) as usize
    }
}

const FIRST_BITS: u32 = 6;
/// At most 2^24 buckets.
const LEAST_SHIFT: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_knows_nearly_all_and_never_another() {
        let mut index = Index::new();
        assert_eq!((index.get(0), index.get(256)), (0, 0));
        let spis: Vec<u32> = (1..=5000u32).map(|number| number.wrapping_mul(0x85eb_ca6b)).collect();
        for _ in 0..2 {
            for (number, spi) in (1..).zip(&spis) {
                index.put(*spi, number);
            }
        }
        let found: Vec<u32> = spis.iter().map(|spi| index.get(*spi)).collect();
        assert!((1..).zip(&found).all(|(number, found)| *found == number || *found == 0));
        assert!(found.iter().filter(|number| **number == 0).count() < 250);
        index.put(spis[7], 99);
        assert_eq!((index.get(spis[7]), index.get(5)), (99, 0));
    }
}
