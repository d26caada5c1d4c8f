//! Packets into PSP's sender: any octets, in any mode. What comes out opens to what went in.
//!
//! Input: mode, version, crypt offset, cookie and extension, UDP rules, then the packet.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use wesper_core::aead::Provider;
use wesper_core::ip;
use wesper_core::profile::{Df, Outer};
use wesper_core::psp::engine::Options;
use wesper_core::psp::{Engine, Mode, Output, PORT, Prepared, Profile, SourcePort, Version};

fn outer(is_ipv6: bool, bits: u8) -> Outer {
    let address = |host: u8| -> IpAddr {
        if is_ipv6 {
            [0x20, 1, 13, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host].into()
        } else {
            [192, 0, 2, host].into()
        }
    };
    Outer {
        local: address(1),
        remote: address(2),
        hop_limit: 64,
        df: [Df::Copy, Df::Set, Df::Clear, Df::Copy][usize::from(bits & 3)],
        dscp: (bits & 4 != 0).then_some(46),
        copy_ecn: bits & 8 == 0,
        flow_label: (bits & 16 != 0).then_some(5),
        identification: (bits & 32 != 0).then_some(7),
        take_dscp: false,
    }
}

fuzz_target!(|data: &[u8]| {
    let [mode, version, offset, front, rules, packet @ ..] = data else { return };
    let Some(version) = Version::of(version & 3) else { return };
    let is_tunnel = mode & 3 >= 2;
    let profile = Profile {
        mode: match mode & 3 {
            0 => Mode::Transport,
            1 => Mode::TunnelCopied,
            family => Mode::Tunnel(outer(family == 3, mode >> 2)),
        },
        version,
        crypt_offset_words: if version.is_gmac() { 0 } else { offset & 63 },
        cookie: (front & 1 == 1).then_some([9; 8]),
        extension: vec![3; 8 * usize::from(front >> 1 & 7)],
        source_port: [SourcePort::Hash, SourcePort::Xor, SourcePort::Fixed(2000), SourcePort::Table(vec![2001; 16])]
            [usize::from(rules & 3)]
        .clone(),
        checksum: rules & 4 != 0,
        sample: rules & 8 != 0,
        reserved: rules >> 4 & 3,
        mtu: if rules & 64 == 0 { 65535 } else { 200 },
        ..Profile::default()
    };
    let engine = Engine::new(Options {
        port: PORT,
        versions: 15,
        verify_checksum: true,
        hash_key: [1; 16],
        provider: Provider::default(),
    });
    engine.set_device_key(0, Some(&[5; 32]));
    let (spi, iv) = (0x0102_0304, u64::MAX - 1);
    let key = engine.derive(spi, version).expect("the device key is there");
    let key = &key[..version.key_octets()];
    let prepared = Prepared::new(profile.clone());
    let mut sent = Output::default();
    let done = engine.encapsulate(&prepared, packet, spi, key, iv, &mut sent);
    let batch = engine.encapsulate_many(Vec::new(), &prepared, packet, &[0, packet.len() as u64], &[spi], key, &[iv]);
    let sent = sent.data();
    assert_eq!(batch.output.data(), sent, "a batch gives the same octets");
    let Err(refused) = done else {
        assert_eq!(ip::parse(sent).map(|datagram| datagram.octets), Some(sent.len()));
        let (mut inner, mut extension) = (Output::default(), Vec::new());
        let opened = engine.decapsulate(sent, &mut inner, &mut extension).expect("what was sealed is authentic");
        assert_eq!((opened.spi, opened.iv, extension), (spi, iv, profile.extension));
        if opened.reason.is_none() && is_tunnel {
            let inner = inner.data();
            assert_eq!(*inner, packet[..inner.len()], "a tunnel carries packets as they are");
        }
        return;
    };
    assert!(sent.is_empty());
    assert_eq!(batch.codes, [refused.reason as u8]);
});
