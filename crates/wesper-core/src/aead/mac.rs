//! AES-CBC or no cipher, then HMAC-SHA2 over header, IV and ciphertext: encrypt-then-MAC (RFC 4303 §3.3).

use aes::{Aes128, Aes192, Aes256};
use cbc::{Decryptor, Encryptor};
use cipher::array::Array;
use cipher::{BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit};
use hmac::Hmac;
use sha2::{Sha256, Sha384, Sha512};

use super::{Associated, OpenError, SealError, check_icv};
use crate::suite::{MAX_ICV_OCTETS, Mac};

/// A cipher key, or none, and a MAC key.
pub(super) struct Context {
    cipher: Cbc,
    hmac: Keyed,
}

enum Cbc {
    Null,
    Aes128(Aes128),
    Aes192(Aes192),
    Aes256(Aes256),
}

/// HMAC with both pads hashed, to be cloned for each packet.
enum Keyed {
    Sha256(Hmac<Sha256>),
    Sha384(Hmac<Sha384>),
    Sha512(Hmac<Sha512>),
}

impl Context {
    /// Makes a context; an empty key means no cipher.
    pub(super) fn new(key: &[u8], algorithm: Mac, auth_key: &[u8]) -> Option<Self> {
        let cipher = match key.len() {
            0 => Cbc::Null,
            16 => Cbc::Aes128(Aes128::new_from_slice(key).ok()?),
            24 => Cbc::Aes192(Aes192::new_from_slice(key).ok()?),
            32 => Cbc::Aes256(Aes256::new_from_slice(key).ok()?),
            _ => return None,
        };
        let hmac = match algorithm {
            Mac::HmacSha256 => Keyed::Sha256(KeyInit::new_from_slice(auth_key).ok()?),
            Mac::HmacSha384 => Keyed::Sha384(KeyInit::new_from_slice(auth_key).ok()?),
            Mac::HmacSha512 => Keyed::Sha512(KeyInit::new_from_slice(auth_key).ok()?),
        };
        Some(Self { cipher, hmac })
    }

    pub(super) fn seal(
        &self,
        iv: &[u8; 16],
        associated: Associated<'_>,
        body: &mut [u8],
        icv: &mut [u8],
    ) -> Result<(), SealError> {
        if !self.cipher.takes(body.len()) {
            return Err(SealError::BodyLength);
        }
        self.cipher.encrypt(iv, body);
        self.hmac.compute(&self.input(iv, associated, body), icv);
        Ok(())
    }

    pub(super) fn open(
        &self,
        iv: &[u8; 16],
        associated: Associated<'_>,
        body: &mut [u8],
        icv: &[u8],
    ) -> Result<(), OpenError> {
        if !self.cipher.takes(body.len()) {
            return Err(OpenError);
        }
        let mut computed = [0; MAX_ICV_OCTETS];
        let place = computed.get_mut(..icv.len()).ok_or(OpenError)?;
        self.hmac.compute(&self.input(iv, associated, body), place);
        check_icv(&mut computed, icv)?;
        self.cipher.decrypt(iv, body);
        Ok(())
    }

    /// What the MAC covers, in order: front, IV if there is one, clear octets, ciphertext, high half under ESN.
    fn input<'a>(&self, iv: &'a [u8; 16], associated: Associated<'a>, body: &'a [u8]) -> [&'a [u8]; 5] {
        let iv: &[u8] = if matches!(self.cipher, Cbc::Null) { &[] } else { iv };
        [associated.front, iv, associated.clear, body, associated.back]
    }
}

impl Cbc {
    fn takes(&self, octets: usize) -> bool {
        matches!(self, Self::Null) || octets.is_multiple_of(16)
    }

    fn encrypt(&self, iv: &[u8; 16], body: &mut [u8]) {
        let (blocks, _) = Array::slice_as_chunks_mut(body);
        match self {
            Self::Null => (),
            Self::Aes128(aes) => Encryptor::inner_iv_init(aes, iv.into()).encrypt_blocks(blocks),
            Self::Aes192(aes) => Encryptor::inner_iv_init(aes, iv.into()).encrypt_blocks(blocks),
            Self::Aes256(aes) => Encryptor::inner_iv_init(aes, iv.into()).encrypt_blocks(blocks),
        }
    }

    fn decrypt(&self, iv: &[u8; 16], body: &mut [u8]) {
        let (blocks, _) = Array::slice_as_chunks_mut(body);
        match self {
            Self::Null => (),
            Self::Aes128(aes) => Decryptor::inner_iv_init(aes, iv.into()).decrypt_blocks(blocks),
            Self::Aes192(aes) => Decryptor::inner_iv_init(aes, iv.into()).decrypt_blocks(blocks),
            Self::Aes256(aes) => Decryptor::inner_iv_init(aes, iv.into()).decrypt_blocks(blocks),
        }
    }
}

impl Keyed {
    /// Writes the first octets of the MAC over `pieces`, as many as `icv` has room for.
    fn compute(&self, pieces: &[&[u8]], icv: &mut [u8]) {
        match self {
            Self::Sha256(keyed) => finish(keyed.clone(), pieces, icv),
            Self::Sha384(keyed) => finish(keyed.clone(), pieces, icv),
            Self::Sha512(keyed) => finish(keyed.clone(), pieces, icv),
        }
    }
}

fn finish<M: hmac::Mac>(mut mac: M, pieces: &[&[u8]], icv: &mut [u8]) {
    for piece in pieces {
        mac.update(piece);
    }
    for (place, octet) in icv.iter_mut().zip(mac.finalize().into_bytes()) {
        *place = octet;
    }
}
