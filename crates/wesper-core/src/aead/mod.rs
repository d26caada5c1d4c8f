//! One interface over every suite's cryptography: a key made ready, `seal` and `open` in place.
//!
//! A [`Context`] holds one key with its schedule expanded. What differs between the suites (GMAC
//! encrypts nothing, CBC and NULL take a separate MAC, CCM has a shorter nonce) stays in here, so
//! that a protocol writes its header, its [`Associated`] octets and a [`Nonce`], and calls.
//! What a context does not do: it never checks that a nonce is new. That is the sequence counter's.

mod awslc;
mod ccm;
#[cfg(feature = "ipsec-mb")]
mod ipsec_mb;
mod mac;
mod once;
#[cfg(test)]
mod ring;

use zeroize::Zeroize;

pub(crate) use awslc::prefetch;
pub use once::{Once, open_once, seal_once};

use crate::suite::{Cipher, Suite};

/// Why a context could not be made. Never says anything of the key but its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The cipher key has a length that the suite does not take.
    #[error("{suite} does not take a key of {octets} octets")]
    KeyLength {
        /// Name of the suite.
        suite: &'static str,
        /// What was given.
        octets: usize,
    },
    /// The integrity key has a length that the suite does not take.
    #[error("{suite} does not take an integrity key of {octets} octets")]
    AuthKeyLength {
        /// Name of the suite.
        suite: &'static str,
        /// What was given.
        octets: usize,
    },
    /// The cryptographic library refused; out of memory, or a build without the algorithm.
    #[error("the provider refused a key for {suite}")]
    Provider {
        /// Name of the suite.
        suite: &'static str,
    },
}

/// The caller handed lengths to [`Context::seal`] that the suite can not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The ICV's place is not as long as the suite's ICV.
    #[error("the place for the ICV has the wrong length")]
    IcvLength,
    /// The body is not a multiple of the suite's block, or longer than the cipher allows.
    #[error("the body has a length that the cipher can not take")]
    BodyLength,
}

/// The ICV does not hold. The body is no plaintext and must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("integrity check failed")]
pub struct OpenError;

/// The library that does the work for the suites it knows; the others have one implementation each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Provider {
    /// AWS-LC: GCM, GMAC and ChaCha20-Poly1305, every key and ICV length.
    #[default]
    AwsLc,
    /// intel-ipsec-mb: GCM and GMAC; x86-64 only; ChaCha20-Poly1305 stays with AWS-LC.
    #[cfg(feature = "ipsec-mb")]
    IpsecMb,
    /// ring: 128- and 256-bit GCM with 16-octet ICV, and ChaCha20-Poly1305; a second opinion in tests.
    #[cfg(test)]
    Ring,
}

impl Provider {
    /// Every provider of this build, the default first.
    pub const ALL: &'static [Self] = &[
        Self::AwsLc,
        #[cfg(feature = "ipsec-mb")]
        Self::IpsecMb,
        #[cfg(test)]
        Self::Ring,
    ];

    /// Name on the command line and in benchmark tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AwsLc => "aws-lc",
            #[cfg(feature = "ipsec-mb")]
            Self::IpsecMb => "ipsec-mb",
            #[cfg(test)]
            Self::Ring => "ring",
        }
    }

    /// Finds a provider of this build by its name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|provider| provider.name() == name)
    }
}

/// A nonce or IV, as long as the suite wants it (11, 12 or 16 octets; none for NULL).
#[derive(Clone, Copy)]
pub struct Nonce {
    octets: [u8; 16],
}

impl Nonce {
    /// Sixteen zeros, for memory that a nonce is put into.
    pub(crate) const ZERO: Self = Self { octets: [0; 16] };

    /// Makes the nonce of a counter-based suite: salt, then the 8-octet IV, sent or implicit.
    ///
    /// Suites with a 3-octet salt (CCM) take the first 3 of `salt`.
    #[inline]
    pub fn counter(suite: &Suite, salt: [u8; 4], iv: [u8; 8]) -> Self {
        // As numbers, so that it takes two stores and not twelve.
        let (salt, iv) = (u128::from(u32::from_be_bytes(salt)), u128::from(u64::from_be_bytes(iv)));
        let octets = if suite.salt_octets == 3 { (salt >> 8) << 104 | iv << 40 } else { salt << 96 | iv << 32 };
        Self { octets: octets.to_be_bytes() }
    }

    /// Makes a nonce of a 4-octet salt and an 8-octet IV, both as numbers in network order.
    #[inline(always)]
    pub fn salted(salt: u32, iv: u64) -> Self {
        Self { octets: (u128::from(salt) << 96 | u128::from(iv) << 32).to_be_bytes() }
    }

    /// Takes a whole 12-octet nonce, for protocols that build their own.
    #[inline]
    pub fn whole(nonce: [u8; 12]) -> Self {
        let mut octets = [0; 16];
        octets[..12].copy_from_slice(&nonce);
        Self { octets }
    }

    /// Takes the IV of AES-CBC. It must not be predictable (RFC 3602 §3).
    #[inline]
    pub fn block(iv: [u8; 16]) -> Self {
        Self { octets: iv }
    }

    /// The nonce of suites that have none (NULL).
    #[inline]
    pub fn none() -> Self {
        Self { octets: [0; 16] }
    }

    #[inline]
    fn first<const N: usize>(&self) -> &[u8; N] {
        const { assert!(N <= 16) };
        self.octets.first_chunk().expect("N is at most 16, asserted when compiled")
    }
}

/// What is authenticated and not encrypted, apart from the IV.
///
/// ESP, combined ciphers: `front` is SPI, [high half,] low half (RFC 4106 §5); `back` stays empty.
/// ESP, separate MAC: `front` is SPI, low half; `back` is the high half under ESN (RFC 4303 §3.3.2.1).
#[derive(Clone, Copy)]
pub struct Associated<'a> {
    /// Octets before the IV and the body.
    pub front: &'a [u8],
    /// Octets between IV and body; read by suites with a separate MAC alone.
    pub clear: &'a [u8],
    /// Octets after the body; read by suites with a separate MAC alone.
    pub back: &'a [u8],
}

impl<'a> Associated<'a> {
    /// Makes the additional data of a combined cipher.
    #[inline]
    pub fn front(front: &'a [u8]) -> Self {
        Self { front, clear: &[], back: &[] }
    }
}

/// One key, its schedule expanded, ready for packets. Wiped when dropped; has no `Debug`.
///
/// Costs about 100 ns to make for GCM and no allocation; 704 octets with AWS-LC alone, 1088 with ipsec-mb too.
pub struct Context(Kind);

#[allow(clippy::large_enum_variant, reason = "contexts lie in place: a box would cost an allocation a key")]
enum Kind {
    Combined(Combined),
    Other(Box<Other>),
}

/// What takes more steps or a slower implementation.
struct Other {
    work: Work,
    icv_octets: usize,
}

#[allow(clippy::large_enum_variant, reason = "it is in a box of its own")]
enum Work {
    Gmac(Combined),
    Ccm(ccm::Context),
    Separate(mac::Context),
}

/// The AEAD of one provider. A match on this costs one predicted branch a packet.
///
/// What is asked of a key first stands beside the mark of which it is, in one cache line.
#[allow(clippy::large_enum_variant, reason = "contexts lie in place: a box would cost an allocation a key")]
#[repr(u8)] // else a build of one provider has no mark, and the length goes behind the key
enum Combined {
    AwsLc {
        icv_octets: u8,
        key: awslc::Context,
    },
    #[cfg(feature = "ipsec-mb")]
    IpsecMb {
        icv_octets: u8,
        key_octets: u8,
        key: ipsec_mb::Key,
    },
    #[cfg(test)]
    Ring(ring::Context),
}

/// One line in front of the longest key, and no other for what goes with it.
const _: () = assert!(size_of::<Option<Context>>() <= if cfg!(feature = "ipsec-mb") { 64 + 1024 } else { 64 + 640 });

impl Context {
    /// Expands a key.
    ///
    /// key: as long as `suite` takes; without salt. auth_key: the separate MAC's key, else empty.
    /// A suite or key length that `provider` does not know goes to AWS-LC.
    pub fn new(provider: Provider, suite: &Suite, key: &[u8], auth_key: &[u8]) -> Result<Self, KeyError> {
        if !suite.takes_key_octets(key.len()) {
            return Err(KeyError::KeyLength { suite: suite.name, octets: key.len() });
        }
        if auth_key.len() != suite.auth_key_octets() {
            return Err(KeyError::AuthKeyLength { suite: suite.name, octets: auth_key.len() });
        }
        let refused = KeyError::Provider { suite: suite.name };
        let icv_octets = suite.icv_octets;
        let work = match (suite.cipher, suite.mac) {
            (Cipher::AesGcm, _) => {
                return Ok(Self(Kind::Combined(Combined::gcm(provider, key, icv_octets).ok_or(refused)?)));
            }
            (Cipher::ChaCha20Poly1305, _) => {
                return Ok(Self(Kind::Combined(Combined::chacha(provider, key).ok_or(refused)?)));
            }
            (Cipher::AesGmac, _) => Work::Gmac(Combined::gcm(provider, key, icv_octets).ok_or(refused)?),
            (Cipher::AesCcm, _) => Work::Ccm(ccm::Context::new(key, icv_octets).ok_or(refused)?),
            (Cipher::AesCbc | Cipher::Null, Some(algorithm)) => {
                Work::Separate(mac::Context::new(key, algorithm, auth_key).ok_or(refused)?)
            }
            // RFC 4303 §3.2: confidentiality alone is not offered; the suite table has no such row.
            (Cipher::AesCbc | Cipher::Null, None) => return Err(refused),
        };
        Ok(Self(Kind::Other(Box::new(Other { work, icv_octets }))))
    }

    /// Encrypts `body` in place and writes its ICV.
    ///
    /// body: the plaintext with its trailer, a multiple of the suite's block. icv: exactly the
    /// suite's ICV length. The nonce must be new under this key. On an error nothing is of use.
    #[inline(always)]
    pub fn seal(
        &self,
        nonce: &Nonce,
        associated: Associated<'_>,
        body: &mut [u8],
        icv: &mut [u8],
    ) -> Result<(), SealError> {
        match &self.0 {
            Kind::Combined(aead) => aead.seal(nonce.first(), associated.front, body, icv),
            Kind::Other(other) => other.seal(nonce, associated, body, icv),
        }
    }

    /// Checks the ICV and decrypts `body` in place.
    ///
    /// If the ICV does not hold, `body` is left as it came or zeroed, never plaintext. A body or ICV
    /// of a length that the suite can not have fails alike. The comparison takes constant time.
    #[inline(always)]
    pub fn open(
        &self,
        nonce: &Nonce,
        associated: Associated<'_>,
        body: &mut [u8],
        icv: &[u8],
    ) -> Result<(), OpenError> {
        match &self.0 {
            Kind::Combined(aead) => aead.open(nonce.first(), associated.front, body, icv),
            Kind::Other(other) => other.open(nonce, associated, body, icv),
        }
    }

    /// Starts to bring near the key in a place, if one is there.
    ///
    /// Only for AWS-LC: ipsec-mb asks for what it needs of a key early enough itself, and the hints would cost more than
    /// they spare. Nothing is read for this, not even whose key it is.
    #[inline(always)]
    pub(crate) fn prefetch(provider: Provider, place: &Option<Self>) {
        if provider == Provider::AwsLc {
            prefetch(place);
        }
    }
}

impl Other {
    #[inline(never)]
    fn seal(
        &self,
        nonce: &Nonce,
        associated: Associated<'_>,
        body: &mut [u8],
        icv: &mut [u8],
    ) -> Result<(), SealError> {
        if icv.len() != self.icv_octets {
            return Err(SealError::IcvLength);
        }
        match &self.work {
            Work::Gmac(aead) => {
                gmac_input(nonce, associated.front, body, |input| aead.seal(nonce.first(), input, &mut [], icv))
            }
            Work::Ccm(context) => context.seal(nonce.first(), associated.front, body, icv),
            Work::Separate(context) => context.seal(nonce.first(), associated, body, icv),
        }
    }

    #[inline(never)]
    fn open(&self, nonce: &Nonce, associated: Associated<'_>, body: &mut [u8], icv: &[u8]) -> Result<(), OpenError> {
        if icv.len() != self.icv_octets {
            return Err(OpenError);
        }
        match &self.work {
            Work::Gmac(aead) => {
                gmac_input(nonce, associated.front, body, |input| aead.open(nonce.first(), input, &mut [], icv))
            }
            Work::Ccm(context) => context.open(nonce.first(), associated.front, body, icv),
            Work::Separate(context) => context.open(nonce.first(), associated, body, icv),
        }
    }
}

impl Combined {
    fn gcm(provider: Provider, key: &[u8], icv_octets: usize) -> Option<Self> {
        let octets = icv_octets as u8;
        match provider {
            #[cfg(feature = "ipsec-mb")]
            Provider::IpsecMb => {
                Some(Self::IpsecMb { icv_octets: octets, key_octets: key.len() as u8, key: ipsec_mb::Key::new(key)? })
            }
            #[cfg(test)]
            Provider::Ring if icv_octets == 16 && key.len() != 24 => ring::Context::gcm(key).map(Self::Ring),
            _ => Some(Self::AwsLc { icv_octets: octets, key: awslc::Context::gcm(key, icv_octets)? }),
        }
    }

    fn chacha(provider: Provider, key: &[u8]) -> Option<Self> {
        match provider {
            #[cfg(test)]
            Provider::Ring => ring::Context::chacha20_poly1305(key).map(Self::Ring),
            _ => Some(Self::AwsLc { icv_octets: 16, key: awslc::Context::chacha20_poly1305(key)? }),
        }
    }

    #[inline(always)]
    fn icv_octets(&self) -> usize {
        match self {
            Self::AwsLc { icv_octets, .. } => (*icv_octets).into(),
            #[cfg(feature = "ipsec-mb")]
            Self::IpsecMb { icv_octets, .. } => (*icv_octets).into(),
            #[cfg(test)]
            Self::Ring(_) => 16,
        }
    }

    #[inline(always)]
    fn seal(&self, nonce: &[u8; 12], aad: &[u8], body: &mut [u8], icv: &mut [u8]) -> Result<(), SealError> {
        if icv.len() != self.icv_octets() {
            return Err(SealError::IcvLength);
        }
        match self {
            Self::AwsLc { key, .. } => key.seal(nonce, aad, body, icv),
            #[cfg(feature = "ipsec-mb")]
            Self::IpsecMb { key, key_octets, .. } => key.seal_from((*key_octets).into(), nonce, aad, None, body, icv),
            #[cfg(test)]
            Self::Ring(context) => context.seal(nonce, aad, body, icv),
        }
    }

    #[inline(always)]
    fn open(&self, nonce: &[u8; 12], aad: &[u8], body: &mut [u8], icv: &[u8]) -> Result<(), OpenError> {
        if icv.len() != self.icv_octets() {
            return Err(OpenError);
        }
        match self {
            Self::AwsLc { key, .. } => key.open(nonce, aad, body, icv),
            #[cfg(feature = "ipsec-mb")]
            Self::IpsecMb { key, key_octets, .. } => key.open_from((*key_octets).into(), nonce, aad, None, body, icv),
            #[cfg(test)]
            Self::Ring(context) => context.open(nonce, aad, body, icv),
        }
    }
}

/// Lays out what GMAC authenticates, front, IV and body, in one piece, and hands it to `then`.
///
/// The IV is in, against figures 2 and 3 of RFC 4543: figure 4, its section 3.5 and Linux agree.
#[inline(never)]
fn gmac_input<T>(nonce: &Nonce, front: &[u8], body: &[u8], then: impl FnOnce(&[u8]) -> T) -> T {
    const ON_STACK: usize = 2048;
    let [_, _, _, _, iv @ ..] = nonce.first::<12>();
    let pieces = [front, iv, body];
    let octets = pieces.iter().map(|piece| piece.len()).sum::<usize>();
    let (mut stack, mut heap);
    let input = if octets <= ON_STACK {
        stack = [0; ON_STACK];
        &mut stack[..octets]
    } else {
        heap = vec![0; octets];
        &mut heap[..]
    };
    let mut rest = &mut *input;
    for piece in pieces {
        let (place, after) = rest.split_at_mut(piece.len());
        place.copy_from_slice(piece);
        rest = after;
    }
    then(input)
}

/// Compares two ICVs in constant time and wipes the one that was computed.
#[inline(always)]
fn check_icv(computed: &mut [u8], received: &[u8]) -> Result<(), OpenError> {
    use subtle::ConstantTimeEq;
    let equal = match (computed.as_chunks::<8>(), received.as_chunks::<8>()) {
        // The usual length as two numbers: octet by octet it would take longer than a short packet's cipher.
        (([a, b, ..], _), ([c, d], [])) => {
            let equal = |one: &[u8; 8], other| u64::from_ne_bytes(*one).ct_eq(&u64::from_ne_bytes(other));
            (equal(a, *c) & equal(b, *d)).into()
        }
        // A shorter ICV is the first octets of the whole one; the caller checked `received`'s length.
        _ => computed.get(..received.len()).is_some_and(|first| first.ct_eq(received).into()),
    };
    computed.zeroize();
    if equal { Ok(()) } else { Err(OpenError) }
}

#[cfg(test)]
mod tests;
