//! AES-GCM by intel-ipsec-mb through the shim in `ipsec-mb/shim.c` (feature `ipsec-mb`).
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use super::awslc::wipe;
use super::{OpenError, SealError, check_icv};

/// Longest body that GCM takes under one nonce, octets: 2^39 - 256 bits (RFC 5116 §5.1).
const MAX_BODY_OCTETS: u64 = (1 << 36) - 32;

unsafe extern "C" {
    fn wesper_imb_start() -> c_int;
    fn wesper_imb_expand(place: *mut c_void, key: *const u8, key_octets: usize) -> c_int;
    fn wesper_imb_seal(
        place: *const c_void,
        key_octets: usize,
        nonce: *const u8,
        aad: *const u8,
        aad_octets: usize,
        from: *const u8,
        text: *mut u8,
        text_octets: usize,
        tag: *mut u8,
        tag_octets: usize,
    );
    fn wesper_imb_open(
        place: *const c_void,
        key_octets: usize,
        nonce: *const u8,
        aad: *const u8,
        aad_octets: usize,
        from: *const u8,
        text: *mut u8,
        text_octets: usize,
        tag: *mut u8,
        tag_octets: usize,
    );
}

/// An expanded key, wiped when it goes. The shim asserts when compiled that 1024 octets suffice.
///
/// INVARIANT: made by a successful expand after a successful start; octets without pointers, so it may be moved.
/// Its caller keeps how many octets the key had: here it would take a cache line more.
#[repr(C, align(64))]
pub(super) struct Key {
    expanded: MaybeUninit<[u8; 1024]>,
}

impl Key {
    /// Expands an AES-GCM key of 16, 24 or 32 octets; none for other lengths or a CPU without the code.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        let mut made = Self { expanded: MaybeUninit::uninit() };
        made.expand(key).then_some(made)
    }

    /// Expands a key in place of what was there; false, and nothing done, as for [`Self::new`].
    fn expand(&mut self, key: &[u8]) -> bool {
        static STARTED: OnceLock<bool> = OnceLock::new();
        // SAFETY: runs once, before any other function of the shim, and writes the shim's own memory.
        if !STARTED.get_or_init(|| unsafe { wesper_imb_start() } == 1) {
            return false;
        }
        // SAFETY: the place has the size and alignment that the shim asks for; key is readable.
        unsafe { wesper_imb_expand(self.expanded.as_mut_ptr().cast(), key.as_ptr(), key.len()) == 1 }
    }

    /// Encrypts from one place to another.
    ///
    /// key_octets: as it was made of; another of 16, 24 and 32 gives nonsense. from: as long as `to`; none: the plaintext is in `to`.
    #[inline(always)]
    pub(super) fn seal_from(
        &self,
        key_octets: usize,
        nonce: &[u8; 12],
        aad: &[u8],
        from: Option<&[u8]>,
        to: &mut [u8],
        icv: &mut [u8],
    ) -> Result<(), SealError> {
        if to.len() as u64 > MAX_BODY_OCTETS {
            return Err(SealError::BodyLength);
        }
        let octets = to.len();
        let text = to.as_mut_ptr();
        let source = from.map_or(text.cast_const(), <[u8]>::as_ptr);
        // SAFETY: the key is expanded (see the invariant); each pointer is valid for the length beside
        // it, `source` for that of `text`, which the caller has seen to; it is `text` itself or apart from
        // it; the library takes ICVs of 1 to 16 octets and the suite table has 8, 12 and 16.
        unsafe {
            wesper_imb_seal(
                self.expanded.as_ptr().cast(),
                key_octets,
                nonce.as_ptr(),
                aad.as_ptr(),
                aad.len(),
                source,
                text,
                octets,
                icv.as_mut_ptr(),
                icv.len(),
            );
        }
        Ok(())
    }

    /// Decrypts from one place to another; on failure `to` holds zeros. from: as in [`Self::seal_from`].
    #[inline(always)]
    pub(super) fn open_from(
        &self,
        key_octets: usize,
        nonce: &[u8; 12],
        aad: &[u8],
        from: Option<&[u8]>,
        to: &mut [u8],
        icv: &[u8],
    ) -> Result<(), OpenError> {
        if to.len() as u64 > MAX_BODY_OCTETS {
            return Err(OpenError);
        }
        let octets = to.len();
        let text = to.as_mut_ptr();
        let source = from.map_or(text.cast_const(), <[u8]>::as_ptr);
        let mut computed = [0; 16];
        // SAFETY: as in seal_from; the tag's place is 16 octets and is asked to be filled whole.
        unsafe {
            wesper_imb_open(
                self.expanded.as_ptr().cast(),
                key_octets,
                nonce.as_ptr(),
                aad.as_ptr(),
                aad.len(),
                source,
                text,
                octets,
                computed.as_mut_ptr(),
                computed.len(),
            );
        }
        check_icv(&mut computed, icv).inspect_err(|_| to.fill(0))
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        wipe(&mut self.expanded);
    }
}

/// Memory for keys that are used once each, one after another; it never moves a key, and is wiped when it goes.
pub(super) struct Once {
    // Outside the key's invariant until its first expand.
    key: Key,
}

impl Once {
    pub(super) const fn new() -> Self {
        Self { key: Key { expanded: MaybeUninit::uninit() } }
    }

    /// Encrypts. key: 16 or 32 octets. from: as in [`Key::seal_from`].
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
        if !self.key.expand(key) {
            return Err(SealError::BodyLength);
        }
        self.key.seal_from(key.len(), nonce, aad, from, to, icv)
    }

    /// Decrypts; on failure `to` holds zeros. from: as in [`Key::seal_from`].
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
        if !self.key.expand(key) {
            return Err(OpenError);
        }
        self.key.open_from(key.len(), nonce, aad, from, to, icv)
    }
}
