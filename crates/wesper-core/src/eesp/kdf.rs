//! Keys that EESP derives: of Sub SAs from a root key, and of stateless senders from a group's root keys.
//!
//! Source: draft-ietf-ipsecme-eesp-ikev2-02 §4, RFC 5869 §2.3.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha384, Sha512};
use zeroize::{Zeroize, Zeroizing};

/// Most octets of key and salt that a suite takes.
pub const MOST_OCTETS: usize = 36;
/// Octets of a master key of a stateless group: its root keys of one index, added without carry.
pub const MASTER_OCTETS: usize = 32;
/// What tells keys of this scheme from all others.
const STATELESS_LABEL: &[u8; 9] = b"EESP-SL-1";

/// How keys of Sub SAs come out of a root key: HKDF-Expand with one of these hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sskdf {
    /// SSKDF_HKDF_SHA2_256.
    HkdfSha256,
    /// SSKDF_HKDF_SHA2_384.
    HkdfSha384,
    /// SSKDF_HKDF_SHA2_512.
    HkdfSha512,
}

impl Sskdf {
    /// Every function, in the order of the registry.
    pub const ALL: [Self; 3] = [Self::HkdfSha256, Self::HkdfSha384, Self::HkdfSha512];

    /// Name in vectors and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HkdfSha256 => "hkdf-sha2-256",
            Self::HkdfSha384 => "hkdf-sha2-384",
            Self::HkdfSha512 => "hkdf-sha2-512",
        }
    }

    /// Finds a function by its name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.name() == name)
    }

    /// Octets of a root key: the hash's.
    pub const fn root_octets(self) -> usize {
        match self {
            Self::HkdfSha256 => 32,
            Self::HkdfSha384 => 48,
            Self::HkdfSha512 => 64,
        }
    }

    /// Derives key, then salt of a Sub SA. out: as long as both; at most 255 hashes.
    pub fn derive(self, root: &[u8], sub_sa: u16, out: &mut [u8]) {
        let info = sub_sa.to_be_bytes();
        match self {
            Self::HkdfSha256 => expand::<Hmac<Sha256>>(root, &info, out),
            Self::HkdfSha384 => expand::<Hmac<Sha384>>(root, &info, out),
            Self::HkdfSha512 => expand::<Hmac<Sha512>>(root, &info, out),
        }
    }
}

/// HKDF-Expand with SHA2-256. out: at most 255 hashes.
pub(crate) fn expand_sha256(root: &[u8], info: &[u8], out: &mut [u8]) {
    expand::<Hmac<Sha256>>(root, info, out);
}

/// HKDF-Expand (RFC 5869 §2.3): T(n) = HMAC(root, T(n-1) || info || n).
fn expand<M: Mac + KeyInit>(root: &[u8], info: &[u8], out: &mut [u8]) {
    let mut block = Zeroizing::new([0; 64]);
    let mut octets = 0;
    for (number, place) in (1u8..=255).zip(out.chunks_mut(M::output_size())) {
        let Ok(mut mac) = <M as KeyInit>::new_from_slice(root) else { return };
        mac.update(block.get(..octets).unwrap_or_default());
        mac.update(info);
        mac.update(&[number]);
        let mut made = mac.finalize().into_bytes();
        octets = made.len();
        if let Some(kept) = block.get_mut(..octets) {
            kept.copy_from_slice(&made);
        }
        place.copy_from_slice(made.get(..place.len()).unwrap_or_default());
        made.zeroize();
    }
}

/// Whose keys a stateless packet has: what it says of itself, and the group at its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The trust group.
    pub spi: u32,
    /// The sender.
    pub device: u64,
    /// Its count of key changes.
    pub epoch: u16,
}

/// Derives AES-256 key, then salt of a stateless sender. master: [`MASTER_OCTETS`].
pub fn derive_stateless(master: &[u8], origin: Origin) -> Zeroizing<[u8; MOST_OCTETS]> {
    let mut info = [0; 23];
    let parts: [&[u8]; 4] =
        [STATELESS_LABEL, &origin.spi.to_be_bytes(), &origin.device.to_be_bytes(), &origin.epoch.to_be_bytes()];
    for (place, octet) in info.iter_mut().zip(parts.into_iter().flatten()) {
        *place = *octet;
    }
    let mut out = Zeroizing::new([0; MOST_OCTETS]);
    expand_sha256(master, &info, &mut out[..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
    }

    #[test]
    fn hkdf_expands_as_rfc_5869_prints_it() {
        // Appendix A.1 and A.2, from the pseudorandom key on.
        let root = octets("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
        let mut out = [0; 42];
        expand::<Hmac<Sha256>>(&root, &octets("f0f1f2f3f4f5f6f7f8f9"), &mut out);
        let told = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        assert_eq!(out, octets(told)[..]);
        let root = octets("06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244");
        let info: Vec<u8> = (0xb0..=0xff).collect();
        let mut out = [0; 82];
        expand::<Hmac<Sha256>>(&root, &info, &mut out);
        let told = "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87";
        assert_eq!(out, octets(told)[..]);
    }

    #[test]
    fn names_and_lengths_of_root_keys() {
        for (function, octets) in Sskdf::ALL.into_iter().zip([32, 48, 64]) {
            assert_eq!((Sskdf::by_name(function.name()), function.root_octets()), (Some(function), octets));
        }
        assert_eq!(Sskdf::by_name("none"), None);
    }
}
