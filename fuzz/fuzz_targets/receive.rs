//! Packets into a receiver with SAs of every mode: any octets, or authentic ESP around any plaintext.
//!
//! Input: which SA, whether authentic, octets of outer header, then that header, then packet or plaintext.
#![no_main]

use std::net::IpAddr;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use wesper_core::aead::{Associated, Context, Nonce, Provider};
use wesper_core::ip;
use wesper_core::profile::{Inner, Mode, Options, Profile, Sa, UdpEncapsulation};
use wesper_core::receiver::Receiver;
use wesper_core::selectors::{AddressRange, Selector};
use wesper_core::sender::HEADROOM;
use wesper_core::suite::{Suite, SuiteId};

const KEY: [u8; 16] = [7; 16];
const SALT: [u8; 4] = [1, 2, 3, 4];
const SPI: u32 = 0x100;

fn address(is_ipv6: bool, host: u8) -> IpAddr {
    if is_ipv6 { [0x20, 1, 13, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host].into() } else { [192, 0, 2, host].into() }
}

fn profiles() -> Vec<Profile> {
    let tunnel = |is_ipv6| Profile {
        esn: false,
        window: 0,
        ..Profile::tunnel(SuiteId::AesGcm16, address(is_ipv6, 1), address(is_ipv6, 2))
    };
    let pair = |is_ipv6| Some(Inner { local: address(is_ipv6, 3), remote: address(is_ipv6, 4) });
    let udp = Some(UdpEncapsulation { local_port: 4500, remote_port: 4500, checksum: None });
    let remote = vec![AddressRange { version: 4, first: 0, last: 0x7fff_ffff }];
    let selectors = vec![Selector { remote, ..Selector::default() }];
    let beet = |outside, inside| Profile { mode: Mode::Beet, inner: pair(inside), ..tunnel(outside) };
    vec![
        tunnel(false),
        Profile { encapsulation: udp, ..tunnel(true) },
        Profile { selectors, check_padding: false, ..tunnel(false) },
        Profile { mode: Mode::Transport, outer: None, ..tunnel(false) },
        Profile { mode: Mode::Transport, outer: None, inner: pair(false), encapsulation: udp, ..tunnel(false) },
        beet(false, false),
        beet(false, true),
        beet(true, false),
        beet(true, true),
    ]
}

/// Authentic ESP of an SA around a plaintext, behind an outer header made of these octets.
fn authentic(spi: u32, in_udp: bool, outer: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let suite = Suite::of(SuiteId::AesGcm16);
    let context = Context::new(Provider::AwsLc, suite, &KEY, &[]).expect("a key of 16 octets");
    let mut body = plaintext.to_vec();
    body.resize(plaintext.len().next_multiple_of(4).max(4), 0);
    let header = [spi.to_be_bytes(), [0, 0, 0, 1]].concat();
    let mut icv = [0; 16];
    let nonce = Nonce::counter(suite, SALT, [0; 8]);
    context.seal(&nonce, Associated::front(&header), &mut body, &mut icv).expect("any length will do");
    let esp = [&header[..], &[0; 8], &body, &icv].concat();
    let udp = [[17, 148, 17, 148], [((esp.len() + 8) >> 8) as u8, (esp.len() + 8) as u8, 0, 0]].concat();
    let below = if in_udp { udp } else { vec![] };
    let is_ipv6 = outer.first().is_some_and(|first| first >> 4 == 6);
    let mut head = outer.to_vec();
    head.resize(outer.len().max(if is_ipv6 { 40 } else { 20 }), 0);
    if !is_ipv6 {
        head.resize((head.len() / 4 * 4).min(60), 0);
    }
    let octets = head.len() + below.len() + esp.len();
    let protocol = if in_udp { 17 } else { 50 };
    if is_ipv6 {
        // The header's own octets say how long its extensions are; the last one's Next Header stays as it is.
        head[4..6].copy_from_slice(&((octets - 40) as u16).to_be_bytes());
        if head.len() == 40 {
            head[6] = protocol;
        } else if head.len() == 48 {
            (head[40], head[41]) = (protocol, 0);
        }
    } else {
        head[0] = 0x40 | (head.len() / 4) as u8;
        head[2..4].copy_from_slice(&(octets as u16).to_be_bytes());
        head[6..8].fill(0);
        head[9] = protocol;
    }
    [head, below, esp].concat()
}

fuzz_target!(|data: &[u8]| {
    let [which, how, outer, rest @ ..] = data else { return };
    let mut receiver = Receiver::new(&Options { audit: true, ..Options::new([9; 16]) });
    let profiles = profiles();
    for (spi, profile) in (SPI..).zip(&profiles) {
        let sa = Sa { spi, key: &KEY, salt: &SALT, auth_key: &[], sequence: 0, multicast: &[], iv: None };
        receiver.install(&Arc::new(profile.clone()), &sa, 0).expect("installs");
    }
    let which = usize::from(*which) % profiles.len();
    let (outer, rest) = rest.split_at(usize::from(*outer).min(rest.len()));
    let packet = if how & 1 == 0 {
        rest.to_vec()
    } else {
        authentic(SPI + which as u32, profiles[which].encapsulation.is_some(), outer, rest)
    };
    let mut buf = [&[0; HEADROOM][..], &packet].concat();
    let opened = receiver.decapsulate(&mut buf, HEADROOM, packet.len(), 1);
    let results = receiver.decapsulate_many(&packet, &[0, packet.len() as u64], 2, Vec::new());
    match opened {
        Ok(opened) => {
            let inner = &buf[opened.start..opened.start + opened.len];
            assert_eq!(ip::parse(inner).map(|datagram| datagram.octets), Some(inner.len()));
            // Without a window the same packet opens again, in a batch to the same octets.
            assert_eq!((results.data(), results.codes[0], results.sas[0]), (inner, 0, opened.sa));
        }
        Err(reason) => assert_eq!((results.codes[0], results.data().len()), (reason as u8, 0)),
    }
    while receiver.next_event().is_some() {}
});
