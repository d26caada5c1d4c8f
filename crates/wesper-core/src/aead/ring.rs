//! A second provider for tests: ring's GCM and ChaCha20-Poly1305.

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

use super::{OpenError, SealError};

pub(super) struct Context {
    key: LessSafeKey,
}

impl Context {
    pub(super) fn gcm(key: &[u8]) -> Option<Self> {
        Self::new(if key.len() == 16 { &AES_128_GCM } else { &AES_256_GCM }, key)
    }

    pub(super) fn chacha20_poly1305(key: &[u8]) -> Option<Self> {
        Self::new(&CHACHA20_POLY1305, key)
    }

    fn new(algorithm: &'static Algorithm, key: &[u8]) -> Option<Self> {
        Some(Self { key: LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?) })
    }

    pub(super) fn seal(&self, nonce: &[u8; 12], aad: &[u8], body: &mut [u8], icv: &mut [u8]) -> Result<(), SealError> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let tag =
            self.key.seal_in_place_separate_tag(nonce, Aad::from(aad), body).map_err(|_| SealError::BodyLength)?;
        icv.copy_from_slice(tag.as_ref());
        Ok(())
    }

    pub(super) fn open(&self, nonce: &[u8; 12], aad: &[u8], body: &mut [u8], icv: &[u8]) -> Result<(), OpenError> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let tag = Tag::try_from(icv).map_err(|_| OpenError)?;
        match self.key.open_in_place_separate_tag(nonce, Aad::from(aad), tag, body, 0..) {
            Ok(_) => Ok(()),
            Err(_) => {
                body.fill(0);
                Err(OpenError)
            }
        }
    }
}
