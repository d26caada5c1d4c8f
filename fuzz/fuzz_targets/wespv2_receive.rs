//! Packets into a receiver with SAs of WESP and WESPv2: any octets, or an authentic packet with any header and plaintext.
//!
//! Input: which SA, whether authentic, four octets of header, then packet, or options and plaintext.
#![no_main]

use std::net::IpAddr;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use wesper_core::aead::{Associated, Context, Nonce, Provider};
use wesper_core::flow_identifier::FlowPolicy;
use wesper_core::ip;
use wesper_core::profile::{Format, Mode, Options, Profile, Sa, UdpEncapsulation};
use wesper_core::protocol::Protocol;
use wesper_core::receiver::Receiver;
use wesper_core::sender::HEADROOM;
use wesper_core::suite::{Suite, SuiteId};
use wesper_core::wespv2::Settings;

const KEY: [u8; 16] = [7; 16];
const SALT: [u8; 4] = [1, 2, 3, 4];
const SPI: u32 = 0x100;

fn address(is_ipv6: bool, host: u8) -> IpAddr {
    if is_ipv6 { [0x20, 1, 13, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host].into() } else { [192, 0, 2, host].into() }
}

fn profiles() -> Vec<Profile> {
    let tunnel = |is_ipv6, max_crypt_offset, flow_identifier| Profile {
        protocol: Protocol::WespV2,
        format: Format::WespV2(Settings { max_crypt_offset, flow_identifier, ..Settings::default() }),
        esn: false,
        window: 0,
        ..Profile::tunnel(SuiteId::AesGcm16, address(is_ipv6, 1), address(is_ipv6, 2))
    };
    let udp = Some(UdpEncapsulation { local_port: 4500, remote_port: 4500, checksum: None });
    vec![
        tunnel(false, 0, None),
        tunnel(true, 252, None),
        tunnel(false, 252, Some((FlowPolicy::FiveTuple, 8))),
        Profile { encapsulation: udp, ..tunnel(true, 28, None) },
        Profile { mode: Mode::Transport, outer: None, ..tunnel(false, 252, None) },
        Profile { protocol: Protocol::Wesp, format: Format::Plain, ..tunnel(false, 0, None) },
    ]
}

/// An IP header, and in UDP a UDP header and the marker, in front of a packet.
fn around(profile: &Profile, is_ipv6: bool, body: &[u8]) -> Vec<u8> {
    let octets = body.len() + 12;
    let udp = [&[17, 148, 17, 148, (octets >> 8) as u8, octets as u8, 0, 0, 0, 0, 0, 2][..], body].concat();
    let (protocol, body) = if profile.encapsulation.is_some() { (17, &udp[..]) } else { (141, body) };
    let length = |octets: usize| [(octets >> 8) as u8, octets as u8];
    if is_ipv6 {
        let [a, b] = length(body.len());
        return [&[0x60, 0, 0, 0, a, b, protocol, 64][..], &[9; 32], body].concat();
    }
    let [a, b] = length(20 + body.len());
    [&[0x45, 0, a, b, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2][..], body].concat()
}

/// An authentic packet of an SA with this header, and whatever options and plaintext the octets hold.
fn authentic(profile: &Profile, spi: u32, head: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let suite = Suite::of(SuiteId::AesGcm16);
    let context = Context::new(Provider::AwsLc, suite, &KEY, &[]).expect("a key of 16 octets");
    let is_wesp = profile.protocol == Protocol::Wesp;
    let options = if is_wesp { usize::from(head[3] & 0x10) / 4 } else { usize::from(head[3] & 0x3f) };
    let (options, plaintext) = rest.split_at(options.min(rest.len()));
    let mut body = plaintext.to_vec();
    body.resize(plaintext.len().next_multiple_of(4).max(4), 0);
    let clear = if is_wesp { 0 } else { usize::from(head[2] & 0xfc).min(body.len()) };
    let (clear, body) = body.split_at_mut(clear);
    let header = [spi.to_be_bytes(), [0, 0, 0, 1]].concat();
    let before = [&head[..], options].concat();
    let covered = if is_wesp { &[][..] } else { &before[..] };
    let front = [covered, &header, clear].concat();
    let mut icv = [0; 16];
    let nonce = Nonce::counter(suite, SALT, [0; 8]);
    context.seal(&nonce, Associated::front(&front), body, &mut icv).expect("any length will do");
    [&before[..], &header, &[0; 8], clear, body, &icv].concat()
}

fuzz_target!(|data: &[u8]| {
    let [which, how, a, b, c, d, rest @ ..] = data else { return };
    if rest.len() > 60_000 {
        return;
    }
    let mut receiver = Receiver::new(&Options { audit: true, ..Options::new([9; 16]) });
    let profiles = profiles();
    for (spi, profile) in (SPI..).zip(&profiles) {
        let sa = Sa { spi, key: &KEY, salt: &SALT, auth_key: &[], sequence: 0, multicast: &[], iv: None };
        receiver.install(&Arc::new(profile.clone()), &sa, 0).expect("installs");
    }
    let which = usize::from(*which) % profiles.len();
    let profile = &profiles[which];
    let packet = match how & 3 {
        0 => rest.to_vec(),
        1 => around(profile, how & 4 != 0, rest),
        // What the header says of lengths is right, so that the rest is looked at.
        2 if profile.protocol == Protocol::WespV2 => {
            let options = d & 0x3c;
            let head = [*a, 4 + options + 16, *c, 0x40 | options];
            around(profile, how & 4 != 0, &authentic(profile, SPI + which as u32, head, rest))
        }
        _ => around(profile, how & 4 != 0, &authentic(profile, SPI + which as u32, [*a, *b, *c, *d], rest)),
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
