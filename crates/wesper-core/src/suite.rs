//! The ESP suites, one row each: what a key holds, what goes on the wire, how long the ICV is.
//!
//! Names are those of the vectors and of the configuration (`aes-gcm-16`, `aes-cbc+hmac-sha2-256-128`).
//! AES keys are 16, 24 or 32 octets; the same suite serves all three.

use std::fmt;

/// Longest cipher key of any suite, octets.
pub const MAX_KEY_OCTETS: usize = 32;
/// Longest integrity key of any suite, octets (HMAC-SHA2-512-256).
pub const MAX_AUTH_KEY_OCTETS: usize = 64;
/// Longest ICV of any suite, octets (HMAC-SHA2-512-256).
pub const MAX_ICV_OCTETS: usize = 32;

/// The cipher of a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// AES-GCM (RFC 4106, RFC 8750).
    AesGcm,
    /// ChaCha20-Poly1305 (RFC 7634, RFC 8750).
    ChaCha20Poly1305,
    /// AES-GMAC: integrity alone, the body is additional data (RFC 4543).
    AesGmac,
    /// AES-CCM (RFC 4309, RFC 8750).
    AesCcm,
    /// AES-CBC, with a separate MAC (RFC 3602).
    AesCbc,
    /// No encryption, with a separate MAC (RFC 2410).
    Null,
}

/// The separate integrity algorithm of a suite whose cipher has none of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mac {
    /// HMAC-SHA2-256-128 (RFC 4868).
    HmacSha256,
    /// HMAC-SHA2-384-192 (RFC 4868).
    HmacSha384,
    /// HMAC-SHA2-512-256 (RFC 4868).
    HmacSha512,
}

impl Mac {
    /// Length of the integrity key, octets: the hash's output length (RFC 4868 §2.1.1).
    pub const fn key_octets(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }
}

/// Identifies one row of [`SUITES`]; the discriminant is its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SuiteId {
    /// `aes-gcm-16`, IKEv2 ENCR 20.
    AesGcm16,
    /// `aes-gcm-12`, IKEv2 ENCR 19.
    AesGcm12,
    /// `aes-gcm-8`, IKEv2 ENCR 18.
    AesGcm8,
    /// `aes-gcm-16-iiv`, IKEv2 ENCR 30.
    AesGcm16Iiv,
    /// `chacha20-poly1305`, IKEv2 ENCR 28.
    ChaCha20Poly1305,
    /// `chacha20-poly1305-iiv`, IKEv2 ENCR 31.
    ChaCha20Poly1305Iiv,
    /// `aes-gmac`, IKEv2 ENCR 21.
    AesGmac,
    /// `aes-ccm-8`, IKEv2 ENCR 14.
    AesCcm8,
    /// `aes-ccm-12`, IKEv2 ENCR 15.
    AesCcm12,
    /// `aes-ccm-16`, IKEv2 ENCR 16.
    AesCcm16,
    /// `aes-ccm-8-iiv`, IKEv2 ENCR 29.
    AesCcm8Iiv,
    /// `aes-cbc+hmac-sha2-256-128`, IKEv2 ENCR 12 with INTEG 12.
    AesCbcHmacSha256,
    /// `aes-cbc+hmac-sha2-384-192`, IKEv2 ENCR 12 with INTEG 13.
    AesCbcHmacSha384,
    /// `aes-cbc+hmac-sha2-512-256`, IKEv2 ENCR 12 with INTEG 14.
    AesCbcHmacSha512,
    /// `null+hmac-sha2-256-128`, IKEv2 ENCR 11 with INTEG 12.
    NullHmacSha256,
    /// `null+hmac-sha2-384-192`, IKEv2 ENCR 11 with INTEG 13.
    NullHmacSha384,
    /// `null+hmac-sha2-512-256`, IKEv2 ENCR 11 with INTEG 14.
    NullHmacSha512,
}

/// One row of the suite table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    /// Which row this is.
    pub id: SuiteId,
    /// Name in vectors and configuration.
    pub name: &'static str,
    /// The cipher.
    pub cipher: Cipher,
    /// The separate MAC, if the cipher needs one.
    pub mac: Option<Mac>,
    /// Octets of salt that stand before the IV in the nonce and after the key in IKEv2's KEYMAT.
    pub salt_octets: usize,
    /// Octets of IV on the wire: 0, 8 or 16.
    pub iv_octets: usize,
    /// Octets of nonce that the cipher takes (0: none).
    pub nonce_octets: usize,
    /// The plaintext is a multiple of this many octets (RFC 4303 §2.4 adds alignment to 4).
    pub block_octets: usize,
    /// Octets of ICV on the wire.
    pub icv_octets: usize,
}

impl Suite {
    /// Returns the row of `id`.
    #[inline]
    pub fn of(id: SuiteId) -> &'static Self {
        &SUITES[id as usize]
    }

    /// Finds a row by its name; O(number of suites).
    pub fn by_name(name: &str) -> Option<&'static Self> {
        SUITES.iter().find(|suite| suite.name == name)
    }

    /// Says whether a cipher key of `octets` octets fits this suite.
    pub const fn takes_key_octets(&self, octets: usize) -> bool {
        match self.cipher {
            Cipher::Null => octets == 0,
            Cipher::ChaCha20Poly1305 => octets == 32,
            _ => matches!(octets, 16 | 24 | 32),
        }
    }

    /// Length of the integrity key, octets; 0 if the cipher brings its own integrity.
    pub const fn auth_key_octets(&self) -> usize {
        match self.mac {
            Some(mac) => mac.key_octets(),
            None => 0,
        }
    }

    /// Says whether the IV is the sequence number and not sent (RFC 8750).
    pub const fn has_implicit_iv(&self) -> bool {
        self.iv_octets == 0 && self.nonce_octets != 0
    }

    /// Says whether the nonce comes from a counter and must never repeat under one key.
    pub const fn is_counter_based(&self) -> bool {
        !matches!(self.cipher, Cipher::AesCbc | Cipher::Null)
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A suite with an integrity of its own: salt and 8-octet IV make the nonce.
const fn combined(
    id: SuiteId,
    name: &'static str,
    cipher: Cipher,
    salt_octets: usize,
    iv_octets: usize,
    icv_octets: usize,
) -> Suite {
    Suite {
        id,
        name,
        cipher,
        mac: None,
        salt_octets,
        iv_octets,
        nonce_octets: salt_octets + 8,
        block_octets: 1,
        icv_octets,
    }
}

/// A cipher followed by a separate MAC: no salt; the IV is the cipher's block, or nothing.
const fn separate(id: SuiteId, name: &'static str, cipher: Cipher, mac: Mac) -> Suite {
    let iv_octets = if matches!(cipher, Cipher::AesCbc) { 16 } else { 0 };
    Suite {
        id,
        name,
        cipher,
        mac: Some(mac),
        salt_octets: 0,
        iv_octets,
        nonce_octets: iv_octets,
        block_octets: if iv_octets == 0 { 1 } else { iv_octets },
        icv_octets: mac.key_octets() / 2,
    }
}

/// Every suite, in the order of [`SuiteId`].
pub const SUITES: [Suite; 17] = [
    combined(SuiteId::AesGcm16, "aes-gcm-16", Cipher::AesGcm, 4, 8, 16),
    combined(SuiteId::AesGcm12, "aes-gcm-12", Cipher::AesGcm, 4, 8, 12),
    combined(SuiteId::AesGcm8, "aes-gcm-8", Cipher::AesGcm, 4, 8, 8),
    combined(SuiteId::AesGcm16Iiv, "aes-gcm-16-iiv", Cipher::AesGcm, 4, 0, 16),
    combined(SuiteId::ChaCha20Poly1305, "chacha20-poly1305", Cipher::ChaCha20Poly1305, 4, 8, 16),
    combined(SuiteId::ChaCha20Poly1305Iiv, "chacha20-poly1305-iiv", Cipher::ChaCha20Poly1305, 4, 0, 16),
    combined(SuiteId::AesGmac, "aes-gmac", Cipher::AesGmac, 4, 8, 16),
    combined(SuiteId::AesCcm8, "aes-ccm-8", Cipher::AesCcm, 3, 8, 8),
    combined(SuiteId::AesCcm12, "aes-ccm-12", Cipher::AesCcm, 3, 8, 12),
    combined(SuiteId::AesCcm16, "aes-ccm-16", Cipher::AesCcm, 3, 8, 16),
    combined(SuiteId::AesCcm8Iiv, "aes-ccm-8-iiv", Cipher::AesCcm, 3, 0, 8),
    separate(SuiteId::AesCbcHmacSha256, "aes-cbc+hmac-sha2-256-128", Cipher::AesCbc, Mac::HmacSha256),
    separate(SuiteId::AesCbcHmacSha384, "aes-cbc+hmac-sha2-384-192", Cipher::AesCbc, Mac::HmacSha384),
    separate(SuiteId::AesCbcHmacSha512, "aes-cbc+hmac-sha2-512-256", Cipher::AesCbc, Mac::HmacSha512),
    separate(SuiteId::NullHmacSha256, "null+hmac-sha2-256-128", Cipher::Null, Mac::HmacSha256),
    separate(SuiteId::NullHmacSha384, "null+hmac-sha2-384-192", Cipher::Null, Mac::HmacSha384),
    separate(SuiteId::NullHmacSha512, "null+hmac-sha2-512-256", Cipher::Null, Mac::HmacSha512),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_their_own_index_and_names_are_unique() {
        for (index, suite) in SUITES.iter().enumerate() {
            assert_eq!(suite.id as usize, index, "{suite}");
            assert_eq!(Suite::of(suite.id), suite);
            assert_eq!(Suite::by_name(suite.name), Some(suite));
        }
        assert_eq!(Suite::by_name("des-cbc"), None);
    }

    #[test]
    fn sizes_are_those_of_the_rfcs() {
        // (name, salt, iv, nonce, block, icv, auth key)
        let rows = [
            ("aes-gcm-16", 4, 8, 12, 1, 16, 0),
            ("aes-gcm-8", 4, 8, 12, 1, 8, 0),
            ("aes-gcm-16-iiv", 4, 0, 12, 1, 16, 0),
            ("chacha20-poly1305-iiv", 4, 0, 12, 1, 16, 0),
            ("aes-gmac", 4, 8, 12, 1, 16, 0),
            ("aes-ccm-12", 3, 8, 11, 1, 12, 0),
            ("aes-ccm-8-iiv", 3, 0, 11, 1, 8, 0),
            ("aes-cbc+hmac-sha2-384-192", 0, 16, 16, 16, 24, 48),
            ("null+hmac-sha2-512-256", 0, 0, 0, 1, 32, 64),
        ];
        for (name, salt, iv, nonce, block, icv, auth) in rows {
            let suite = Suite::by_name(name).expect(name);
            let got = (suite.salt_octets, suite.iv_octets, suite.nonce_octets, suite.block_octets);
            assert_eq!(got, (salt, iv, nonce, block), "{name}");
            assert_eq!((suite.icv_octets, suite.auth_key_octets()), (icv, auth), "{name}");
        }
    }

    #[test]
    fn key_lengths_and_kinds() {
        let suite = |name| Suite::by_name(name).expect("a suite of the table");
        assert!(suite("aes-gcm-16").takes_key_octets(24));
        assert!(!suite("aes-gcm-16").takes_key_octets(20));
        assert!(!suite("chacha20-poly1305").takes_key_octets(16));
        assert!(suite("null+hmac-sha2-256-128").takes_key_octets(0));
        assert!(!suite("null+hmac-sha2-256-128").takes_key_octets(16));
        assert!(suite("aes-ccm-8-iiv").has_implicit_iv());
        assert!(!suite("null+hmac-sha2-256-128").has_implicit_iv());
        assert!(suite("aes-gmac").is_counter_based());
        assert!(!suite("aes-cbc+hmac-sha2-256-128").is_counter_based());
    }
}
