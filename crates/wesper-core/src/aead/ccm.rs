//! AES-CCM with 11-octet nonces (RFC 4309), by the RustCrypto crates: a cold suite.

use aes::{Aes128, Aes192, Aes256};
use ccm::aead::inout::InOutBuf;
use ccm::aead::{AeadInOut, KeyInit};
use ccm::consts::{U8, U11, U12, U16};
use ccm::{Ccm, Nonce};

use super::{OpenError, SealError};

/// One key; the variant names the key's bits and the ICV's octets.
pub(super) enum Context {
    Key128Icv8(Ccm<Aes128, U8, U11>),
    Key192Icv8(Ccm<Aes192, U8, U11>),
    Key256Icv8(Ccm<Aes256, U8, U11>),
    Key128Icv12(Ccm<Aes128, U12, U11>),
    Key192Icv12(Ccm<Aes192, U12, U11>),
    Key256Icv12(Ccm<Aes256, U12, U11>),
    Key128Icv16(Ccm<Aes128, U16, U11>),
    Key192Icv16(Ccm<Aes192, U16, U11>),
    Key256Icv16(Ccm<Aes256, U16, U11>),
}

/// Runs an expression for whichever cipher the context holds.
macro_rules! each {
    ($context:expr, $cipher:ident => $body:expr) => {
        match $context {
            Context::Key128Icv8($cipher) => $body,
            Context::Key192Icv8($cipher) => $body,
            Context::Key256Icv8($cipher) => $body,
            Context::Key128Icv12($cipher) => $body,
            Context::Key192Icv12($cipher) => $body,
            Context::Key256Icv12($cipher) => $body,
            Context::Key128Icv16($cipher) => $body,
            Context::Key192Icv16($cipher) => $body,
            Context::Key256Icv16($cipher) => $body,
        }
    };
}

impl Context {
    /// Makes a context; none for a key of another length than 16, 24 or 32 or an ICV not 8, 12 or 16.
    pub(super) fn new(key: &[u8], icv_octets: usize) -> Option<Self> {
        Some(match (key.len(), icv_octets) {
            (16, 8) => Self::Key128Icv8(Ccm::new_from_slice(key).ok()?),
            (24, 8) => Self::Key192Icv8(Ccm::new_from_slice(key).ok()?),
            (32, 8) => Self::Key256Icv8(Ccm::new_from_slice(key).ok()?),
            (16, 12) => Self::Key128Icv12(Ccm::new_from_slice(key).ok()?),
            (24, 12) => Self::Key192Icv12(Ccm::new_from_slice(key).ok()?),
            (32, 12) => Self::Key256Icv12(Ccm::new_from_slice(key).ok()?),
            (16, 16) => Self::Key128Icv16(Ccm::new_from_slice(key).ok()?),
            (24, 16) => Self::Key192Icv16(Ccm::new_from_slice(key).ok()?),
            (32, 16) => Self::Key256Icv16(Ccm::new_from_slice(key).ok()?),
            _ => return None,
        })
    }

    pub(super) fn seal(&self, nonce: &[u8; 11], aad: &[u8], body: &mut [u8], icv: &mut [u8]) -> Result<(), SealError> {
        let nonce = Nonce::<U11>::from(*nonce);
        each!(self, cipher => {
            let tag = cipher
                .encrypt_inout_detached(&nonce, aad, InOutBuf::from(body))
                .map_err(|_| SealError::BodyLength)?;
            icv.copy_from_slice(&tag);
        });
        Ok(())
    }

    pub(super) fn open(&self, nonce: &[u8; 11], aad: &[u8], body: &mut [u8], icv: &[u8]) -> Result<(), OpenError> {
        let nonce = Nonce::<U11>::from(*nonce);
        // The crate compares in constant time and zeroes the body if the ICV does not hold.
        each!(self, cipher => {
            let tag = icv.try_into().map_err(|_| OpenError)?;
            cipher.decrypt_inout_detached(&nonce, aad, InOutBuf::from(body), tag).map_err(|_| OpenError)
        })
    }
}
