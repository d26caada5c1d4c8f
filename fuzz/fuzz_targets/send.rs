//! Any octets as a packet to be protected; what goes out comes in again at the other end.
//!
//! Input: which SA, octets of traffic-flow padding, then the packet.
#![no_main]

use std::net::IpAddr;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use wesper_core::ip;
use wesper_core::profile::{Inner, Mode, Options, Profile, Sa, UdpEncapsulation};
use wesper_core::receiver::Receiver;
use wesper_core::sender::{Besides, HEADROOM, Sender, TAILROOM};
use wesper_core::suite::{Suite, SuiteId};

fn address(is_ipv6: bool, host: u8) -> IpAddr {
    if is_ipv6 { [0x20, 1, 13, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host].into() } else { [192, 0, 2, host].into() }
}

fn profiles() -> Vec<Profile> {
    let tunnel = |suite, is_ipv6| Profile::tunnel(suite, address(is_ipv6, 1), address(is_ipv6, 2));
    let udp = Some(UdpEncapsulation { local_port: 4500, remote_port: 4500, checksum: None });
    let pair = |is_ipv6| Some(Inner { local: address(is_ipv6, 3), remote: address(is_ipv6, 4) });
    let (gcm, cbc) = (SuiteId::AesGcm16, SuiteId::AesCbcHmacSha256);
    let beet = |outside, inside| Profile { mode: Mode::Beet, inner: pair(inside), ..tunnel(gcm, outside) };
    vec![
        tunnel(gcm, false),
        Profile { encapsulation: udp, pad_to: 200, ..tunnel(gcm, true) },
        Profile { mtu: 100, ..tunnel(cbc, false) },
        Profile { mode: Mode::Transport, outer: None, ..tunnel(SuiteId::NullHmacSha256, false) },
        Profile { mode: Mode::Transport, outer: None, encapsulation: udp, ..tunnel(gcm, false) },
        beet(false, false),
        beet(false, true),
        beet(true, false),
        beet(true, true),
    ]
}

/// The same SA as the other end has it.
fn mirrored(profile: &Profile) -> Profile {
    let inner = profile.inner.map(|inner| Inner { local: inner.remote, remote: inner.local });
    Profile { inner, ..profile.clone() }
}

fuzz_target!(|data: &[u8]| {
    let [which, tfc, packet @ ..] = data else { return };
    let profiles = profiles();
    let profile = &profiles[usize::from(*which) % profiles.len()];
    let suite = Suite::of(profile.suite);
    let key_octets = if suite.takes_key_octets(0) { 0 } else { 32 };
    let (key, salt, auth_key) = (vec![7; key_octets], vec![1; suite.salt_octets], vec![9; suite.auth_key_octets()]);
    let (key, salt, auth_key) = (&key[..], &salt[..], &auth_key[..]);
    let sa = Sa { spi: 0x100, key, salt, auth_key, sequence: 0, multicast: &[], iv: None };
    let options = Options::new([9; 16]);
    let (mut sender, mut receiver) = (Sender::new(&options), Receiver::new(&options));
    let id = sender.install(&Arc::new(profile.clone()), &sa, 0, 0).expect("installs");
    receiver.install(&Arc::new(mirrored(profile)), &sa, 0).expect("installs");
    let tfc = vec![0x55; usize::from(*tfc)];
    let mut buf = [&[0; HEADROOM][..], packet, &[0; TAILROOM + 512]].concat();
    let Ok(sealed) = sender.encapsulate_with(id, &mut buf, HEADROOM, packet.len(), Besides { tfc: &tfc, mark: 0 }, 1) else { return };
    let made = &buf[sealed.start..sealed.start + sealed.len];
    let outer = ip::parse(made).expect("an IP packet");
    assert_eq!(outer.octets, made.len());
    assert!(made.len() <= usize::from(profile.mtu), "larger than the path's MTU");
    let sent = ip::parse(packet).expect("only IP goes out");
    let named = [sent.first.protocol, packet[if sent.version == 4 { 9 } else { 6 }]];
    // Outside tunnel mode these numbers mean a dummy or a pseudo header to the other end, whoever put them there.
    if profile.mode != Mode::Tunnel && named.iter().any(|number| [59, 94].contains(number)) {
        return;
    }
    let opened = receiver.decapsulate(&mut buf, sealed.start, sealed.len, 1).expect("what goes out comes in");
    let inner = &buf[opened.start..opened.start + opened.len];
    let came = ip::parse(inner).expect("only IP comes in");
    match profile.mode {
        Mode::Tunnel => assert_eq!(inner, &packet[..sent.octets]),
        _ => {
            assert_eq!(ip::addresses(inner), ip::addresses(packet));
            assert_eq!(came.upper.protocol, sent.upper.protocol);
            assert_eq!(inner[came.upper.at..], packet[sent.upper.at..sent.octets]);
        }
    }
});
