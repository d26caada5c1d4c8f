//! PSP's key derivation: AES-256-CMAC in counter mode (NIST SP 800-108), one block for each 16 octets of key.
//!
//! Source: PSP Architecture Specification of April 2022, "Key Derivation".

use aes::Aes256;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use zeroize::{Zeroize, Zeroizing};

use super::Version;
#[cfg(target_arch = "x86_64")]
use super::vaes;

/// Octets of a device key, whatever the length of what is derived.
pub const DEVICE_KEY_OCTETS: usize = 32;
/// Octets of the longest derived key.
pub const MAX_KEY_OCTETS: usize = 32;
/// Blocks that the portable way works on together.
const CHUNK: usize = 64;
/// Keys that take longer than to start a thread for them.
const A_THREADS_WORTH: usize = 100_000;

/// A device key, its schedule expanded and its CMAC subkey ready. Has no `Debug`; wiped when dropped.
pub struct DeviceKey {
    cipher: Aes256,
    subkey: [u8; 16],
    #[cfg(target_arch = "x86_64")]
    wide: Option<vaes::Schedule>,
}

impl Drop for DeviceKey {
    fn drop(&mut self) {
        self.subkey.zeroize();
    }
}

impl DeviceKey {
    /// Expands a device key.
    pub fn new(key: &[u8; DEVICE_KEY_OCTETS]) -> Self {
        let device_key = Self::portable(key);
        #[cfg(target_arch = "x86_64")]
        let device_key = {
            let mut device_key = device_key;
            device_key.wide = vaes::Schedule::new(key);
            device_key
        };
        device_key
    }

    /// Expands a device key for a processor without wide registers, whatever this one has.
    pub fn portable(key: &[u8; DEVICE_KEY_OCTETS]) -> Self {
        let cipher = Aes256::new(&(*key).into());
        let mut block = Array([0; 16]);
        cipher.encrypt_block(&mut block);
        Self {
            cipher,
            subkey: double(block.0),
            #[cfg(target_arch = "x86_64")]
            wide: None,
        }
    }

    /// Derives the key of one SPI. 16 octets of it count, or all 32, as the version says.
    #[inline]
    pub fn derive(&self, spi: u32, version: Version) -> Zeroizing<[u8; MAX_KEY_OCTETS]> {
        let mut key = Zeroizing::new([0; MAX_KEY_OCTETS]);
        for (counter, place) in (1..).zip(key.as_chunks_mut::<16>().0.iter_mut().take(version.key_octets() / 16)) {
            let mut block = Array(xor(input_block(counter, spi, version), self.subkey));
            self.cipher.encrypt_block(&mut block);
            *place = block.0;
        }
        key
    }

    /// Derives the keys of many SPIs, one after another.
    ///
    /// out: as long as all keys; what is longer on either side is left alone.
    pub fn derive_many(&self, spis: &[u32], version: Version, out: &mut [u8]) {
        let octets = version.key_octets();
        let keys = spis.len().min(out.len() / octets);
        let (Some(spis), Some(out)) = (spis.get(..keys), out.get_mut(..keys * octets)) else { return };
        let templates = [1, 2].map(|counter| xor(input_block(counter, 0, version), self.subkey));
        let templates = templates.get(..octets / 16).unwrap_or_default();
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = &self.wide {
            return wide.derive(templates, spis, out);
        }
        self.derive_portably(templates, spis, out);
    }

    /// Does the same on so many threads, if there is enough to do for each.
    pub fn derive_many_on(&self, threads: usize, spis: &[u32], version: Version, out: &mut [u8]) {
        let threads = threads.min(spis.len() / A_THREADS_WORTH).max(1);
        if threads == 1 {
            return self.derive_many(spis, version, out);
        }
        let share = spis.len().div_ceil(threads);
        std::thread::scope(|scope| {
            for (spis, out) in spis.chunks(share).zip(out.chunks_mut(share * version.key_octets())) {
                scope.spawn(|| self.derive_many(spis, version, out));
            }
        });
    }

    /// Encrypts at least so many blocks as fast as this processor can, with nothing around it, for the benchmark; returns how
    /// many.
    pub fn bare_blocks(&self, blocks: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = &self.wide {
            let turns = blocks.div_ceil(vaes::Schedule::BLOCKS);
            std::hint::black_box(wide.bare_turns(turns));
            return turns * vaes::Schedule::BLOCKS;
        }
        let mut ring = [Array([0; 16]); CHUNK];
        for _ in 0..blocks.div_ceil(CHUNK) {
            self.cipher.encrypt_blocks(&mut ring);
        }
        std::hint::black_box(&ring);
        blocks.next_multiple_of(CHUNK)
    }

    fn derive_portably(&self, templates: &[[u8; 16]], spis: &[u32], out: &mut [u8]) {
        let mut blocks = [Array([0; 16]); CHUNK];
        for (spis, out) in spis.chunks(CHUNK / templates.len()).zip(out.chunks_mut(16 * CHUNK)) {
            for (spi, blocks) in spis.iter().zip(blocks.chunks_exact_mut(templates.len())) {
                for (block, template) in blocks.iter_mut().zip(templates) {
                    *block = Array(with_spi(*template, *spi));
                }
            }
            let out = out.as_chunks_mut::<16>().0;
            let Some(blocks) = blocks.get_mut(..out.len()) else { return };
            self.cipher.encrypt_blocks(blocks);
            for (place, block) in out.iter_mut().zip(blocks) {
                *place = block.0;
            }
        }
        for block in &mut blocks {
            block.0.zeroize();
        }
    }
}

/// Returns what the PRF takes: counter, label, SPI, bits of the whole key.
pub fn input_block(counter: u32, spi: u32, version: Version) -> [u8; 16] {
    let words = [counter, u32::from_be_bytes(version.label()), spi, 8 * version.key_octets() as u32];
    let mut block = [0; 16];
    for (place, word) in block.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *place = word.to_be_bytes();
    }
    block
}

fn with_spi(template: [u8; 16], spi: u32) -> [u8; 16] {
    (u128::from_be_bytes(template) ^ u128::from(spi) << 32).to_be_bytes()
}

fn xor(a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
    (u128::from_ne_bytes(a) ^ u128::from_ne_bytes(b)).to_ne_bytes()
}

/// Multiplies by x in GF(2^128) (SP 800-38B §6.1).
fn double(block: [u8; 16]) -> [u8; 16] {
    let value = u128::from_be_bytes(block);
    (value << 1 ^ if value >> 127 == 1 { 0x87 } else { 0 }).to_be_bytes()
}
