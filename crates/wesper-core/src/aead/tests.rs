use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::suite::{SUITES, Suite, SuiteId};
use crate::vector_file::{list, octets};

/// Everything that one packet's cryptography takes, for any suite.
struct Case {
    suite: &'static Suite,
    key: Vec<u8>,
    auth_key: Vec<u8>,
    nonce: Nonce,
    front: Vec<u8>,
    back: Vec<u8>,
}

impl Case {
    /// A case with made-up keys, and bodies that its cipher takes.
    fn of(suite: &'static Suite, key_octets: usize, esn: bool) -> Self {
        let separate = suite.mac.is_some();
        Self {
            suite,
            key: (0..key_octets as u8).map(|i| i.wrapping_mul(7) ^ 0x5a).collect(),
            auth_key: (0..suite.auth_key_octets() as u8).map(|i| i.wrapping_mul(11) ^ 0xa5).collect(),
            nonce: if separate { Nonce::block([3; 16]) } else { Nonce::counter(suite, [1, 2, 3, 4], [5; 8]) },
            front: vec![9; if esn && !separate { 12 } else { 8 }],
            back: vec![8; if esn && separate { 4 } else { 0 }],
        }
    }

    fn context(&self, provider: Provider) -> Context {
        Context::new(provider, self.suite, &self.key, &self.auth_key).expect("a key of the right lengths")
    }

    fn associated(&self) -> Associated<'_> {
        Associated { front: &self.front, clear: &[], back: &self.back }
    }

    fn seal(&self, provider: Provider, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut sealed, mut icv) = (body.to_vec(), vec![0; self.suite.icv_octets]);
        self.context(provider).seal(&self.nonce, self.associated(), &mut sealed, &mut icv).expect("legal lengths");
        (sealed, icv)
    }
}

/// Every suite with every key length that it takes, with and without ESN.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for suite in &SUITES {
        for key_octets in [0, 16, 24, 32] {
            if suite.takes_key_octets(key_octets) {
                cases.extend([false, true].map(|esn| Case::of(suite, key_octets, esn)));
            }
        }
    }
    cases
}

fn each_provider(mut test: impl FnMut(Provider)) {
    for provider in Provider::ALL {
        test(*provider);
    }
}

#[test]
fn published_combined_vectors() {
    let mut run = 0;
    for vector in list("public_aead") {
        let Some(suite) = vector["alg"].as_str().and_then(Suite::by_name) else { continue };
        let (iv, salt) = (octets(&vector["iv_hex"]), octets(&vector["salt_hex"]));
        let aad = octets(&vector["aad_hex"]);
        // GMAC's published AAD is everything that is authenticated; the front of it is the header.
        let front = if suite.cipher == Cipher::AesGmac { aad[..8].to_vec() } else { aad };
        let nonce = Nonce::counter(suite, salt.try_into().expect("4"), iv.try_into().expect("8"));
        let case = Case { suite, key: octets(&vector["key_hex"]), auth_key: vec![], nonce, front, back: vec![] };
        each_provider(|provider| check_published(provider, &case, &vector));
        run += 1;
    }
    assert_eq!(run, 16, "14 of GCM, one of GMAC, one of ChaCha20-Poly1305");
}

fn check_published(provider: Provider, case: &Case, vector: &Value) {
    let what = format!("{} by {}", vector["name"], provider.name());
    let plaintext = octets(&vector["plaintext_hex"]);
    let (mut body, icv) = case.seal(provider, &plaintext);
    assert_eq!(body, octets(&vector["ciphertext_hex"]), "{what}");
    assert_eq!(icv, octets(&vector["icv_hex"]), "{what}");
    case.context(provider).open(&case.nonce, case.associated(), &mut body, &icv).expect(&what);
    assert_eq!(body, plaintext, "{what}");
}

#[test]
fn published_cbc_vector() {
    let vector = list("public_aead").into_iter().find(|vector| vector["alg"] == "aes-cbc").expect("rfc3602-5");
    let mut case = Case::of(Suite::by_name("aes-cbc+hmac-sha2-256-128").expect("a suite"), 16, false);
    case.key = octets(&vector["key_hex"]);
    case.nonce = Nonce::block(octets(&vector["iv_hex"]).try_into().expect("16 octets"));
    let (ciphertext, _) = case.seal(Provider::AwsLc, &octets(&vector["plaintext_hex"]));
    assert_eq!(ciphertext, octets(&vector["ciphertext_hex"]));
}

#[test]
fn published_hmac_vectors() {
    let mut run = 0;
    for vector in list("public_aead") {
        let name = format!("null+{}", vector["alg"].as_str().expect("a name"));
        let Some(suite) = Suite::by_name(&name) else { continue };
        let mut case = Case::of(suite, 0, false);
        case.auth_key = octets(&vector["key_hex"]);
        // The published data may come in any of the three pieces that the MAC covers.
        let data = octets(&vector["data_hex"]);
        for (front, body, back) in [(0, 0, 8), (0, 8, 8), (8, 8, 8), (3, 5, 8), (4, 8, 8)] {
            case.front = data[..front].to_vec();
            case.back = data[body..back].to_vec();
            assert_eq!(case.seal(Provider::AwsLc, &data[front..body]).1, octets(&vector["icv_hex"]), "{name}");
        }
        run += 1;
    }
    assert_eq!(run, 3);
}

/// The oracle's vectors hold each suite's place for the high half, the IV and the ICV.
#[test]
fn oracle_packets_of_every_suite_open() {
    let mut seen = std::collections::BTreeSet::new();
    for vector in list("vectors") {
        let params = &vector["params"];
        if vector["expect"] != "ok" || !params["udp"].is_null() || params["outer"]["version"] != 4 {
            continue;
        }
        let name = params["alg"].as_str().expect("a name");
        let implicit = params["iv_mode"] == "implicit";
        let Some(suite) = Suite::by_name(&if implicit { format!("{name}-iiv") } else { name.to_owned() }) else {
            panic!("{name} is not in the suite table");
        };
        let seq = crate::vector_file::number(&params["seq"]);
        let esn = params["esn"].as_bool().expect("a flag");
        let packet = octets(&vector["protected_packet_hex"]);
        let (header, rest) = packet[20..].split_at(8);
        let (iv, rest) = rest.split_at(suite.iv_octets);
        let (body, icv) = rest.split_at(rest.len() - suite.icv_octets);
        let mut salt = octets(&vector["salt_hex"]);
        salt.resize(4, 0);
        let implicit_iv = if esn { seq } else { seq & 0xffff_ffff }.to_be_bytes();
        let high = ((seq >> 32) as u32).to_be_bytes();
        let separate = suite.mac.is_some();
        let nonce = match iv.len() {
            16 => Nonce::block(iv.try_into().expect("16")),
            8 => Nonce::counter(suite, salt.try_into().expect("4"), iv.try_into().expect("8")),
            _ => Nonce::counter(suite, salt.try_into().expect("4"), implicit_iv),
        };
        let front = if esn && !separate { [&header[..4], &high, &header[4..]].concat() } else { header.to_vec() };
        let back = if esn && separate { high.to_vec() } else { vec![] };
        let auth_key = if separate { octets(&params["auth_key_hex"]) } else { vec![] };
        let case = Case { suite, key: octets(&vector["key_hex"]), auth_key, nonce, front, back };
        each_provider(|provider| {
            let what = format!("{} by {}", vector["name"], provider.name());
            let mut opened = body.to_vec();
            case.context(provider).open(&case.nonce, case.associated(), &mut opened, icv).expect(&what);
            assert_eq!(case.seal(provider, &opened), (body.to_vec(), icv.to_vec()), "{what}");
        });
        seen.insert(suite.name);
    }
    assert!(seen.len() >= 8, "too few suites among the oracle's packets: {seen:?}");
}

#[test]
fn every_suite_round_trips_and_refuses_each_flipped_bit_of_the_icv() {
    let plaintext: Vec<u8> = (0..96).collect();
    for case in cases() {
        each_provider(|provider| {
            let what = format!("{} with {} octets by {}", case.suite, case.key.len(), provider.name());
            let (sealed, icv) = case.seal(provider, &plaintext);
            let hides = !matches!(case.suite.cipher, Cipher::Null | Cipher::AesGmac);
            assert_eq!(sealed != plaintext, hides, "{what}");
            let context = case.context(provider);
            let open = |body: &mut Vec<u8>, icv: &[u8]| context.open(&case.nonce, case.associated(), body, icv);
            let mut body = sealed.clone();
            open(&mut body, &icv).expect(&what);
            assert_eq!(body, plaintext, "{what}");
            for bit in 0..icv.len() * 8 {
                let (mut body, mut bad) = (sealed.clone(), icv.clone());
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(open(&mut body, &bad), Err(OpenError), "{what}, bit {bit}");
                assert!(!hides || body != plaintext, "{what} leaks plaintext");
            }
            assert_eq!(open(&mut sealed.clone(), &icv[1..]), Err(OpenError), "{what}, short ICV");
            assert_eq!(open(&mut sealed.clone(), &[&icv[..], &[0]].concat()), Err(OpenError), "{what}, long ICV");
        });
    }
}

#[test]
fn every_authenticated_octet_counts() {
    let plaintext = [7; 32];
    for case in cases() {
        each_provider(|provider| {
            let what = format!("{} by {}", case.suite, provider.name());
            let (sealed, icv) = case.seal(provider, &plaintext);
            let context = case.context(provider);
            let fails = |nonce: &Nonce, associated: Associated<'_>, mut body: Vec<u8>| {
                assert_eq!(context.open(nonce, associated, &mut body, &icv), Err(OpenError), "{what}");
            };
            for octet in 0..sealed.len() {
                let mut bad = sealed.clone();
                bad[octet] ^= 0x80;
                fails(&case.nonce, case.associated(), bad);
            }
            for octet in 0..case.front.len() {
                let mut front = case.front.clone();
                front[octet] ^= 1;
                fails(&case.nonce, Associated { front: &front, clear: &[], back: &case.back }, sealed.clone());
            }
            for octet in 0..case.back.len() {
                let mut back = case.back.clone();
                back[octet] ^= 1;
                fails(&case.nonce, Associated { front: &case.front, clear: &[], back: &back }, sealed.clone());
            }
            for octet in 0..case.suite.nonce_octets {
                let mut nonce = case.nonce;
                nonce.octets[octet] ^= 1;
                fails(&nonce, case.associated(), sealed.clone());
            }
        });
    }
}

#[test]
fn short_icvs_are_the_first_octets_of_the_whole_one() {
    let suite = |name| Suite::by_name(name).expect("a suite");
    for key_octets in [16, 24, 32] {
        each_provider(|provider| {
            let seal = |name| Case::of(suite(name), key_octets, false).seal(provider, &[1; 40]);
            let (body, whole) = seal("aes-gcm-16");
            assert_eq!(seal("aes-gcm-12"), (body.clone(), whole[..12].to_vec()));
            assert_eq!(seal("aes-gcm-8"), (body, whole[..8].to_vec()));
        });
    }
}

#[test]
fn wrong_lengths_are_named() {
    let gcm = Suite::by_name("aes-gcm-16").expect("a suite");
    let cbc = Suite::by_name("aes-cbc+hmac-sha2-256-128").expect("a suite");
    let new = |suite, key: &[u8], auth: &[u8]| Context::new(Provider::AwsLc, suite, key, auth).err();
    assert_eq!(new(gcm, &[0; 20], &[]), Some(KeyError::KeyLength { suite: "aes-gcm-16", octets: 20 }));
    assert_eq!(new(gcm, &[0; 16], &[0; 32]), Some(KeyError::AuthKeyLength { suite: "aes-gcm-16", octets: 32 }));
    assert_eq!(new(cbc, &[0; 16], &[0; 20]), Some(KeyError::AuthKeyLength { suite: cbc.name, octets: 20 }));
    let case = Case::of(cbc, 16, false);
    let context = case.context(Provider::AwsLc);
    let seal = |body: &mut [u8], icv: &mut [u8]| context.seal(&case.nonce, case.associated(), body, icv);
    assert_eq!(seal(&mut [0; 20], &mut [0; 16]), Err(SealError::BodyLength));
    assert_eq!(seal(&mut [0; 16], &mut [0; 12]), Err(SealError::IcvLength));
    let mut body = [0; 20];
    assert_eq!(context.open(&case.nonce, case.associated(), &mut body, &[0; 16]), Err(OpenError));
}

#[test]
fn contexts_may_be_moved_and_shared() {
    fn shared<T: Send + Sync>(_: &T) {}
    let case = Case::of(Suite::by_name("aes-gcm-16").expect("a suite"), 32, true);
    each_provider(|provider| {
        let (sealed, icv) = case.seal(provider, &[4; 64]);
        let mut contexts: Vec<Context> = (0..9).map(|_| case.context(provider)).collect();
        contexts.insert(0, case.context(provider));
        contexts.shrink_to_fit();
        for context in contexts {
            shared(&context);
            let moved = Box::new(context);
            let mut body = sealed.clone();
            moved.open(&case.nonce, case.associated(), &mut body, &icv).expect("opens after the move");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn providers_agree(
        body in prop::collection::vec(any::<u8>(), 0..4000), front in prop::collection::vec(any::<u8>(), 0..20),
        key in any::<[u8; 32]>(), nonce in any::<[u8; 12]>(),
    ) {
        for suite in SUITES.iter().filter(|suite| suite.mac.is_none() && suite.salt_octets == 4) {
            for key in [&key[..16], &key[..24], &key[..]].into_iter().filter(|key| suite.takes_key_octets(key.len())) {
                let case = Case {
                    suite,
                    key: key.to_vec(),
                    auth_key: vec![],
                    nonce: Nonce::whole(nonce),
                    front: front.clone(),
                    back: vec![],
                };
                let expected = case.seal(Provider::AwsLc, &body);
                for provider in Provider::ALL {
                    prop_assert_eq!(&case.seal(*provider, &body), &expected, "{} by {}", suite, provider.name());
                    let (mut opened, icv) = expected.clone();
                    case.context(*provider).open(&case.nonce, case.associated(), &mut opened, &icv)?;
                    prop_assert_eq!(&opened, &body);
                }
            }
        }
    }
}

#[test]
fn memory_for_keys_used_once_keeps_nothing_of_the_last() {
    for provider in Provider::ALL {
        let (nonce, mut once) = (Nonce::whole([7; 12]), Once::new(*provider));
        let mut sealed = Vec::new();
        for key in [&[1; 32][..], &[2; 16], &[3; 15], &[2; 16], &[1; 32]] {
            let (mut text, mut icv) = ([0x2a; 40], [0; 16]);
            let done = once.seal(key, &nonce, b"front", None, &mut text, &mut icv);
            assert_eq!(done.is_ok(), key.len() != 15);
            if done.is_ok() {
                let mut expected = ([0x2a; 40], [0; 16]);
                seal_once(*provider, key, &nonce, b"front", None, &mut expected.0, &mut expected.1).expect("fits");
                assert_eq!((text, icv), expected);
                sealed.push((key, text, icv));
            }
        }
        for (key, text, icv) in sealed {
            let mut opened = text;
            assert_eq!(once.open(key, &nonce, b"front", Some(&text), &mut opened, &icv), Ok(()));
            assert_eq!(opened, [0x2a; 40]);
            assert_eq!(once.open(&[4; 16], &nonce, b"front", Some(&text), &mut opened, &icv), Err(OpenError));
        }
    }
}

#[test]
fn keys_used_once_give_what_contexts_do() {
    let suite = Suite::of(SuiteId::AesGcm16);
    let nonce = Nonce::whole([7; 12]);
    for provider in Provider::ALL {
        for (key, octets) in [(&[3; 16][..], 0), (&[4; 32], 1), (&[5; 16], 64), (&[6; 32], 1400)] {
            let clear = vec![0x2a; octets];
            let (mut expected, mut icv) = (clear.clone(), [0; 16]);
            let context = Context::new(*provider, suite, key, &[]).expect("the length fits");
            context.seal(&nonce, Associated::front(b"front"), &mut expected, &mut icv).expect("lengths fit");

            let (mut apart, mut in_place, mut icvs) = (vec![1; octets], clear.clone(), [[0; 16]; 2]);
            seal_once(*provider, key, &nonce, b"front", Some(&clear), &mut apart, &mut icvs[0]).expect("lengths fit");
            seal_once(*provider, key, &nonce, b"front", None, &mut in_place, &mut icvs[1]).expect("lengths fit");
            assert_eq!((&apart, &in_place, icvs), (&expected, &expected, [icv; 2]));

            let mut opened = vec![1; octets];
            assert_eq!(open_once(*provider, key, &nonce, b"front", Some(&apart), &mut opened, &icv), Ok(()));
            assert_eq!(open_once(*provider, key, &nonce, b"front", None, &mut in_place, &icv), Ok(()));
            assert_eq!((&opened, &in_place), (&clear, &clear));
            icv[15] ^= 1;
            assert_eq!(open_once(*provider, key, &nonce, b"front", Some(&apart), &mut opened, &icv), Err(OpenError));
            assert_eq!(opened, vec![0; octets], "no plaintext without an ICV that holds");
        }
        let mut text = [0; 4];
        let icv = [0; 16];
        assert_eq!(
            seal_once(*provider, &[0; 16], &nonce, b"", Some(&[0; 5]), &mut text, &mut { icv }),
            Err(SealError::BodyLength)
        );
        assert_eq!(open_once(*provider, &[0; 16], &nonce, b"", Some(&[0; 3]), &mut text, &icv), Err(OpenError));
        assert!(seal_once(*provider, &[0; 15], &nonce, b"", None, &mut text, &mut { icv }).is_err());
        assert!(open_once(*provider, &[0; 15], &nonce, b"", None, &mut text, &icv).is_err());
    }
}
