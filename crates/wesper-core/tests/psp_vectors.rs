//! Every case of `vectors/psp.json` through the engine: keys, whole packets, what must be dropped.

use serde_json::Value;
use wesper_core::aead::Provider;
use wesper_core::psp::engine::Options;
use wesper_core::psp::{DeviceKey, Engine, Mode, Output, Prepared, Profile, SourcePort, Version};
use wesper_core::verdict::DropReason;

/// Octets of the Ethernet header.
const LINK: usize = 14;

fn octets(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

fn number(value: &Value) -> u64 {
    value.as_str().map_or_else(
        || value.as_u64().unwrap_or(0),
        |text| u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a hex number"),
    )
}

fn lists(names: [&str; 2]) -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../../../vectors/psp.json")).expect("JSON");
    let list: Vec<_> =
        names.iter().flat_map(|name| file[name].as_array().expect("the list is there").clone()).collect();
    assert!(list.len() > 2);
    list
}

fn device_key(case: &Value, slot: usize) -> [u8; 32] {
    octets(&case[format!("master_key{slot}_hex")]).try_into().expect("32 octets")
}

fn version(case: &Value) -> Version {
    Version::of(number(&case["version"]) as u8).expect("a version")
}

fn engine(case: &Value, provider: Provider) -> Engine {
    let engine = Engine::new(Options { port: 1000, versions: 15, verify_checksum: true, hash_key: [0; 16], provider });
    for slot in 0..2 {
        engine.set_device_key(slot, Some(&device_key(case, slot)));
    }
    engine
}

#[test]
fn keys_are_derived_alone_and_in_batches_wide_and_portably() {
    for case in lists(["kdf", "own_kdf"]) {
        let (spi, version) = (number(&case["spi"]) as u32, version(&case));
        let key = device_key(&case, (spi >> 31) as usize);
        let expected = octets(&case["derived_key_hex"]);
        for key in [DeviceKey::new(&key), DeviceKey::portable(&key)] {
            assert_eq!(key.derive(spi, version)[..version.key_octets()], expected);
            for (place, count) in [(0, 1), (5, 17), (31, 32), (40, 100), (64, 65), (99, 1000)] {
                let mut spis = vec![spi ^ 1; count];
                spis[place] = spi;
                let mut keys = vec![0; count * version.key_octets()];
                key.derive_many(&spis, version, &mut keys);
                assert_eq!(keys.chunks(expected.len()).nth(place), Some(&expected[..]));
                assert!(keys.chunks(expected.len()).enumerate().all(|(at, key)| (key == expected) == (at == place)));
            }
        }
    }
}

#[test]
fn packets_are_protected_and_opened() {
    for provider in Provider::ALL {
        for case in lists(["vectors", "own_vectors"]) {
            let engine = engine(&case, *provider);
            let bits = number(&case["sd_bits"]);
            let profile = Profile {
                mode: if case["mode"] == "tunnel" { Mode::TunnelCopied } else { Mode::Transport },
                version: version(&case),
                crypt_offset_words: number(&case["crypt_offset"]) as u8,
                cookie: case["vc"].as_str().map(|_| octets(&case["vc"]).try_into().expect("8 octets")),
                extension: octets(&case["ext_hex"]),
                source_port: SourcePort::Xor,
                sample: bits & 2 != 0,
                drop: bits & 1 != 0,
                reserved: number(&case["r_bits"]) as u8,
                ..Profile::default()
            };
            let clear = &octets(&case["cleartext_packet_hex"])[LINK..];
            let protected = &octets(&case["encrypted_packet_hex"])[LINK..];
            let spi = number(&case["spi"]) as u32;
            let iv = u64::from_be_bytes(octets(&case["iv_hex"]).try_into().expect("8 octets"));
            let key = engine.derive(spi, profile.version).expect("a device key");
            let key = &key[..profile.version.key_octets()];
            let mut out = Output::default();
            let prepared = Prepared::new(profile.clone());
            assert_eq!(engine.encapsulate(&prepared, clear, spi, key, iv, &mut out), Ok(()), "{}", case["name"]);
            assert_eq!(out.data(), protected, "{}", case["name"]);

            let (mut inner, mut extension) = (Output::default(), Vec::new());
            let opened = engine.decapsulate(protected, &mut inner, &mut extension).expect("authentic");
            assert_eq!(opened.reason, profile.drop.then_some(DropReason::PspSampled));
            assert_eq!((inner.data(), &extension), (clear, &profile.extension), "{}", case["name"]);
            assert_eq!((opened.spi, opened.iv, opened.cookie), (spi, iv, profile.cookie.unwrap_or_default()));
        }
    }
}

#[test]
fn what_must_be_dropped_is() {
    for case in lists(["negative", "negative"]) {
        let engine = engine(&case, Provider::default());
        let packet = &octets(&case["packet_hex"])[LINK..];
        let (mut inner, mut extension) = (Output::default(), Vec::new());
        assert!(engine.decapsulate(packet, &mut inner, &mut extension).is_err(), "{}", case["name"]);
        assert!(inner.data().is_empty() && extension.is_empty());
        let counters = engine.counters();
        assert_eq!((counters.drops.iter().sum::<u64>(), counters.rx_packets), (1, 0));
    }
}

#[test]
fn packets_without_ip_are_sealed_and_opened() {
    for case in lists(["psp_only", "own_kdf"]).iter().filter(|case| !case["cleartext_psp_hex"].is_null()) {
        let engine = Engine::new(Options {
            port: 1000,
            versions: 15,
            verify_checksum: true,
            hash_key: [0; 16],
            provider: Provider::default(),
        });
        let (key, clear) = (octets(&case["derived_key_hex"]), octets(&case["cleartext_psp_hex"]));
        let sealed = engine.seal(&key, &clear).expect("a packet");
        assert_eq!(sealed, octets(&case["encrypted_psp_hex"]));
        assert_eq!(engine.open(&key, &sealed), Some(Some(clear)));
        for bit in 0..8 * sealed.len() {
            let mut forged = sealed.clone();
            forged[bit / 8] ^= 0x80 >> (bit % 8);
            assert_ne!(engine.open(&key, &forged), Some(Some(octets(&case["cleartext_psp_hex"]))));
        }
    }
}
