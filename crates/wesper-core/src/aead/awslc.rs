//! AES-GCM and ChaCha20-Poly1305 by AWS-LC, the context in memory of ours.
//!
//! The safe wrapper crate allocates a context per key and knows 16-octet ICVs only; a stateless
//! receiver makes a context per packet, and ESP has ICVs of 8 and 12 octets. Hence the C interface.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr;

use aws_lc_sys as lc;

use super::{OpenError, SealError};

/// A key of one of AWS-LC's AEADs.
///
/// INVARIANT: `raw` went through a successful `EVP_AEAD_CTX_init` for AES-GCM or ChaCha20-Poly1305.
/// Their state is plain octets with no pointer into itself and nothing on the heap, so it may be moved.
#[repr(align(64))]
pub(super) struct Context {
    raw: lc::EVP_AEAD_CTX,
}

// SAFETY: nothing in the context belongs to a thread; its one pointer is to a constant of the library.
unsafe impl Send for Context {}
// SAFETY: seal and open read the context only; the library documents concurrent use as allowed.
unsafe impl Sync for Context {}

impl Context {
    /// Makes AES-GCM with a key of 16, 24 or 32 octets; none for other lengths.
    pub(super) fn gcm(key: &[u8], icv_octets: usize) -> Option<Self> {
        // SAFETY: these functions take nothing and return the address of a constant.
        let algorithm = unsafe {
            match key.len() {
                16 => lc::EVP_aead_aes_128_gcm(),
                24 => lc::EVP_aead_aes_192_gcm(),
                32 => lc::EVP_aead_aes_256_gcm(),
                _ => return None,
            }
        };
        Self::init(algorithm, key, icv_octets)
    }

    /// Makes ChaCha20-Poly1305 with a key of 32 octets; none for other lengths.
    pub(super) fn chacha20_poly1305(key: &[u8]) -> Option<Self> {
        // SAFETY: takes nothing and returns the address of a constant.
        Self::init(unsafe { lc::EVP_aead_chacha20_poly1305() }, key, 16)
    }

    fn init(algorithm: *const lc::EVP_AEAD, key: &[u8], icv_octets: usize) -> Option<Self> {
        let mut raw = MaybeUninit::<lc::EVP_AEAD_CTX>::zeroed();
        // SAFETY: raw is writable and as large as the type says; key is readable for its length; the
        // engine argument may be null.
        let done = unsafe {
            lc::EVP_AEAD_CTX_init(raw.as_mut_ptr(), algorithm, key.as_ptr(), key.len(), icv_octets, ptr::null_mut())
        };
        if done != 1 {
            return None;
        }
        // SAFETY: zeroed above, then filled by an init that said it succeeded.
        Some(Self { raw: unsafe { raw.assume_init() } })
    }

    #[inline(always)]
    pub(super) fn seal(&self, nonce: &[u8; 12], aad: &[u8], body: &mut [u8], icv: &mut [u8]) -> Result<(), SealError> {
        let mut icv_octets = 0;
        let text = body.as_mut_ptr();
        // SAFETY: raw is initialised (see the invariant). Each pointer is valid for the length beside
        // it; text is input and output at once, which the library allows when they are the same; the
        // ICV is another slice than the body, by the borrow rules.
        let done = unsafe {
            lc::EVP_AEAD_CTX_seal_scatter(
                &self.raw,
                text,
                icv.as_mut_ptr(),
                &mut icv_octets,
                icv.len(),
                nonce.as_ptr(),
                nonce.len(),
                text,
                body.len(),
                ptr::null(),
                0,
                aad.as_ptr(),
                aad.len(),
            )
        };
        if done != 1 {
            return Err(SealError::BodyLength);
        }
        if icv_octets == icv.len() { Ok(()) } else { Err(SealError::IcvLength) }
    }

    #[inline(always)]
    pub(super) fn open(&self, nonce: &[u8; 12], aad: &[u8], body: &mut [u8], icv: &[u8]) -> Result<(), OpenError> {
        let text = body.as_mut_ptr();
        // SAFETY: as in seal. On failure the library zeroes the body.
        let done = unsafe {
            lc::EVP_AEAD_CTX_open_gather(
                &self.raw,
                text,
                nonce.as_ptr(),
                nonce.len(),
                text,
                body.len(),
                icv.as_ptr(),
                icv.len(),
                aad.as_ptr(),
                aad.len(),
            )
        };
        if done == 1 { Ok(()) } else { Err(failed()) }
    }
}

/// Starts to bring a value, at most its first 768 octets, into the nearest cache: the one hint that safe Rust has no
/// word for.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of::<T>().min(768)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the address lies in the value; a prefetch reads and writes nothing that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ptr::from_ref(value).cast::<i8>().add(line)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Memory for keys that are used once each, one after another; it never moves a key, and is wiped when it goes.
pub(super) struct Once {
    raw: MaybeUninit<lc::EVP_AEAD_CTX>,
}

impl Once {
    pub(super) const fn new() -> Self {
        Self { raw: MaybeUninit::uninit() }
    }

    /// Expands a key for AES-GCM in place of the last one; none if it has a length that is not taken.
    #[inline(always)]
    fn expand(&mut self, key: &[u8]) -> Option<*const lc::EVP_AEAD_CTX> {
        let raw = self.raw.as_mut_ptr();
        // SAFETY: these functions take nothing and return the address of a constant; raw is writable and as large as the
        // type says; key is readable for its length; the engine argument may be null. Of a former key nothing lies
        // elsewhere, so that it may be written over. What init leaves unwritten of raw nobody reads.
        let done = unsafe {
            let algorithm = match key.len() {
                16 => lc::EVP_aead_aes_128_gcm(),
                32 => lc::EVP_aead_aes_256_gcm(),
                _ => return None,
            };
            lc::EVP_AEAD_CTX_init(raw, algorithm, key.as_ptr(), key.len(), 16, ptr::null_mut())
        };
        (done == 1).then_some(raw.cast_const())
    }

    /// Encrypts with AES-GCM. from: the plaintext, as long as `to`; none: it is in `to`.
    #[inline(always)]
    pub(super) fn seal(
        &mut self,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        from: Option<&[u8]>,
        to: &mut [u8],
        icv: &mut [u8; 16],
    ) -> Result<(), SealError> {
        let octets = to.len();
        let text = to.as_mut_ptr();
        let source = from.map_or(text.cast_const(), <[u8]>::as_ptr);
        let mut icv_octets = 0;
        let context = self.expand(key).ok_or(SealError::BodyLength)?;
        // SAFETY: context went through init. Each pointer is valid for the length beside it (`from` is as long as `to`,
        // which the caller has seen to); source is text itself or, by the borrow rules, apart from it, as the library
        // wants it; the ICV is another place too.
        let done = unsafe {
            lc::EVP_AEAD_CTX_seal_scatter(
                context,
                text,
                icv.as_mut_ptr(),
                &mut icv_octets,
                icv.len(),
                nonce.as_ptr(),
                nonce.len(),
                source,
                octets,
                ptr::null(),
                0,
                aad.as_ptr(),
                aad.len(),
            )
        };
        if done == 1 { Ok(()) } else { Err(SealError::BodyLength) }
    }

    /// Decrypts with AES-GCM; on failure `to` holds zeros. from: as in [`Self::seal`].
    #[inline(always)]
    pub(super) fn open(
        &mut self,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        from: Option<&[u8]>,
        to: &mut [u8],
        icv: &[u8; 16],
    ) -> Result<(), OpenError> {
        let octets = to.len();
        let text = to.as_mut_ptr();
        let source = from.map_or(text.cast_const(), <[u8]>::as_ptr);
        let context = self.expand(key).ok_or(OpenError)?;
        // SAFETY: as in seal. On failure the library zeroes what it has written.
        let done = unsafe {
            lc::EVP_AEAD_CTX_open_gather(
                context,
                text,
                nonce.as_ptr(),
                nonce.len(),
                source,
                octets,
                icv.as_ptr(),
                icv.len(),
                aad.as_ptr(),
                aad.len(),
            )
        };
        if done == 1 { Ok(()) } else { Err(failed()) }
    }
}

impl Drop for Once {
    fn drop(&mut self) {
        wipe(&mut self.raw);
    }
}

/// Writes zeros over a value that is not used again, in a way that no compiler leaves out.
pub(super) fn wipe<T>(value: &mut MaybeUninit<T>) {
    // SAFETY: cleanse writes exactly the value's own octets.
    unsafe { lc::OPENSSL_cleanse(value.as_mut_ptr().cast(), size_of::<T>()) };
}

/// Empties the thread's queue of error texts, which a failed call fills.
#[cold]
fn failed() -> OpenError {
    // SAFETY: touches the calling thread's queue only.
    unsafe { lc::ERR_clear_error() };
    OpenError
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: raw is initialised and not used again; cleanse writes exactly its own octets.
        unsafe {
            lc::EVP_AEAD_CTX_cleanup(&mut self.raw);
            lc::OPENSSL_cleanse(ptr::from_mut(&mut self.raw).cast(), size_of_val(&self.raw));
        }
    }
}
