//! AES-GCM with keys that are used once each, as PSP has them: expanded, used, and written over by the next or wiped.

#[cfg(feature = "ipsec-mb")]
use super::ipsec_mb;
use super::{Nonce, OpenError, Provider, SealError, awslc};

/// Memory for such keys, one after another. It is wiped when it goes: a batch of packets pays for that once.
///
/// Costs nothing to make. Keys have 16 or 32 octets, ICVs 16.
pub struct Once(Place);

#[allow(clippy::large_enum_variant, reason = "it lies on the stack, one a batch")]
enum Place {
    AwsLc(awslc::Once),
    #[cfg(feature = "ipsec-mb")]
    IpsecMb(ipsec_mb::Once),
}

impl Once {
    /// Makes memory for a provider's keys.
    #[inline(always)]
    pub fn new(provider: Provider) -> Self {
        Self(match provider {
            #[cfg(feature = "ipsec-mb")]
            Provider::IpsecMb => Place::IpsecMb(ipsec_mb::Once::new()),
            _ => Place::AwsLc(awslc::Once::new()),
        })
    }

    /// Encrypts one packet. from: the plaintext, as long as `to`; none: it is in `to`.
    ///
    /// The nonce must be new under this key.
    #[inline(always)]
    pub fn seal(
        &mut self,
        key: &[u8],
        nonce: &Nonce,
        aad: &[u8],
        from: Option<&[u8]>,
        to: &mut [u8],
        icv: &mut [u8; 16],
    ) -> Result<(), SealError> {
        if from.is_some_and(|from| from.len() != to.len()) {
            return Err(SealError::BodyLength);
        }
        match &mut self.0 {
            Place::AwsLc(once) => once.seal(key, nonce.first(), aad, from, to, icv),
            #[cfg(feature = "ipsec-mb")]
            Place::IpsecMb(once) => once.seal(key, nonce.first(), aad, from, to, icv),
        }
    }

    /// Opens one packet of [`Self::seal`]. Where the ICV does not hold, `to` holds no plaintext.
    #[inline(always)]
    pub fn open(
        &mut self,
        key: &[u8],
        nonce: &Nonce,
        aad: &[u8],
        from: Option<&[u8]>,
        to: &mut [u8],
        icv: &[u8; 16],
    ) -> Result<(), OpenError> {
        if from.is_some_and(|from| from.len() != to.len()) {
            return Err(OpenError);
        }
        match &mut self.0 {
            Place::AwsLc(once) => once.open(key, nonce.first(), aad, from, to, icv),
            #[cfg(feature = "ipsec-mb")]
            Place::IpsecMb(once) => once.open(key, nonce.first(), aad, from, to, icv),
        }
    }
}

/// Encrypts one packet under a key that is wiped at once, as [`Once::seal`] does.
#[inline]
pub fn seal_once(
    provider: Provider,
    key: &[u8],
    nonce: &Nonce,
    aad: &[u8],
    from: Option<&[u8]>,
    to: &mut [u8],
    icv: &mut [u8; 16],
) -> Result<(), SealError> {
    Once::new(provider).seal(key, nonce, aad, from, to, icv)
}

/// Opens one packet of [`seal_once`], as [`Once::open`] does.
#[inline]
pub fn open_once(
    provider: Provider,
    key: &[u8],
    nonce: &Nonce,
    aad: &[u8],
    from: Option<&[u8]>,
    to: &mut [u8],
    icv: &[u8; 16],
) -> Result<(), OpenError> {
    Once::new(provider).open(key, nonce, aad, from, to, icv)
}
