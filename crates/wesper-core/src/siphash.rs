//! SipHash-1-3: a short keyed hash, for flows and not for authentication; Rust's and Python's dictionaries have the same.
//!
//! Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012).

/// A hash that takes whole words of 8 octets, little-endian, and then the rest.
pub(crate) struct SipHash {
    state: [u64; 4],
}

impl SipHash {
    /// key: both halves little-endian.
    #[inline(always)]
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        let key = u128::from_le_bytes(*key);
        let (k0, k1) = (key as u64, (key >> 64) as u64);
        let state = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        Self { state }
    }

    /// Takes 8 octets.
    #[inline(always)]
    pub(crate) fn absorb(&mut self, word: u64) {
        self.state[3] ^= word;
        self.round();
        self.state[0] ^= word;
    }

    /// Takes the last octets, fewer than 8, and returns the hash. octets: of all that was taken.
    #[inline(always)]
    pub(crate) fn finish(mut self, last: u64, octets: usize) -> u64 {
        self.absorb(last | (octets as u64) << 56);
        self.state[2] ^= 0xff;
        for _ in 0..3 {
            self.round();
        }
        let [a, b, c, d] = self.state;
        a ^ b ^ c ^ d
    }

    /// Takes octets of any number and returns the hash.
    pub(crate) fn all(mut self, data: &[u8]) -> u64 {
        let (words, rest) = data.as_chunks::<8>();
        words.iter().for_each(|word| self.absorb(u64::from_le_bytes(*word)));
        let last = rest.iter().rev().fold(0, |last, octet| last << 8 | u64::from(*octet));
        self.finish(last, data.len())
    }

    #[inline(always)]
    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.state;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.state = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher};

    use super::*;

    #[test]
    fn the_standard_librarys_hash_is_the_same() {
        let data: [u8; 13] = std::array::from_fn(|i| 0xf0 ^ i as u8);
        let mut theirs = DefaultHasher::new();
        theirs.write(&data);
        assert_eq!(SipHash::new(&[0; 16]).all(&data), theirs.finish());
    }
}
