//! PSP (PSP Architecture Specification of April 2022): key derivation, packets, and nothing kept for an association.

pub mod engine;
pub mod gateway;
mod gateway_inbound;
pub mod guard;
pub mod kdf;
mod output;
mod profile;
mod receive;
mod send;
pub mod table;
mod usual;
#[cfg(target_arch = "x86_64")]
mod vaes;

use crate::aead::Nonce;

pub use engine::Engine;
pub use kdf::DeviceKey;
pub use output::Output;
pub use profile::{Mode, Prepared, Profile, SourcePort};
pub use receive::Opened;
pub use send::Refused;

/// One version of PSP: cipher and key length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Version {
    /// AES-128-GCM.
    Gcm128 = 0,
    /// AES-256-GCM.
    Gcm256 = 1,
    /// AES-128-GMAC: nothing is encrypted.
    Gmac128 = 2,
    /// AES-256-GMAC: nothing is encrypted.
    Gmac256 = 3,
}

impl Version {
    /// Every version, by its code.
    pub const ALL: [Self; 4] = [Self::Gcm128, Self::Gcm256, Self::Gmac128, Self::Gmac256];

    /// Returns the version with this code.
    #[inline]
    pub fn of(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Octets of the derived key.
    #[inline]
    pub const fn key_octets(self) -> usize {
        if self as u8 & 1 == 0 { 16 } else { 32 }
    }

    /// Says whether nothing is encrypted.
    #[inline]
    pub const fn is_gmac(self) -> bool {
        self as u8 & 2 != 0
    }

    /// What separates this version's keys from the others'; its last octet is SP 800-108's separator.
    pub const fn label(self) -> [u8; 4] {
        [0x50, 0x76, 0x30 | self as u8, 0]
    }
}

/// UDP destination port.
pub const PORT: u16 = 1000;
/// Octets of the header that every packet has.
pub const HEADER_OCTETS: usize = 16;
/// Octets of the virtualization cookie.
pub const COOKIE_OCTETS: usize = 8;
/// Octets of the ICV, which is never cut.
pub const ICV_OCTETS: usize = 16;
/// The bits of an SPI that count; the top one chooses the device key.
pub const INDEX_MASK: u32 = 0x7fff_ffff;

/// The nonce is SPI and IV as they stand on the wire.
#[inline(always)]
fn nonce(spi: u32, iv: u64) -> Nonce {
    Nonce::salted(spi, iv)
}

#[cfg(test)]
mod tests;
