//! Packets into a receiver with SAs of EESP: any octets, or an authentic packet with any header and plaintext.
//!
//! Input: which SA, whether authentic, octets of options, Session ID, then packet, or options and plaintext.
#![no_main]

use std::net::IpAddr;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use wesper_core::aead::{Associated, Context, Nonce, Provider};
use wesper_core::eesp::kdf::{Origin, Sskdf, derive_stateless};
use wesper_core::eesp::{FIRST, STATELESS, Settings, Stateless, SubSas};
use wesper_core::ip;
use wesper_core::profile::{Format, Inner, Mode, Options, Profile, Sa, UdpEncapsulation};
use wesper_core::protocol::Protocol;
use wesper_core::receiver::Receiver;
use wesper_core::sender::HEADROOM;
use wesper_core::suite::{Suite, SuiteId};

const KEY: [u8; 32] = [7; 32];
const SPI: u32 = 0x100;
const DEVICE: u64 = 0xc000_0201;

fn address(is_ipv6: bool, host: u8) -> IpAddr {
    if is_ipv6 { [0x20, 1, 13, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host].into() } else { [192, 0, 2, host].into() }
}

fn profiles() -> Vec<Profile> {
    let tunnel = |settings: Settings| Profile {
        protocol: Protocol::Eesp,
        format: Format::Eesp(settings),
        window: 0,
        ..Profile::tunnel(SuiteId::AesGcm16, address(false, 1), address(false, 2))
    };
    let plain = || tunnel(Settings::default());
    let udp = Some(UdpEncapsulation { local_port: 4500, remote_port: 4500, checksum: None });
    let pair = |is_ipv6| Some(Inner { local: address(is_ipv6, 3), remote: address(is_ipv6, 4) });
    let kdf = Sskdf::HkdfSha256;
    let sub_sas = Some(SubSas { kdf, max_id: 3, peer_max_id: 3, key_octets: 32, first_port: 0 });
    let stateless = Some(Stateless { device: DEVICE, indexes: vec![1] });
    let sequence_numbers = false;
    vec![
        plain(),
        tunnel(Settings { max_crypt_offset: Some(32), ..Settings::default() }),
        Profile { encapsulation: udp, check_padding: false, ..plain() },
        Profile { mode: Mode::Transport, outer: None, ..plain() },
        Profile { mode: Mode::Beet, inner: pair(true), ..plain() },
        Profile { mode: Mode::Beet, inner: pair(false), ..plain() },
        Profile { mode: Mode::Iptfs, ..plain() },
        tunnel(Settings { sequence_numbers, ..Settings::default() }),
        tunnel(Settings { sub_sas, ..Settings::default() }),
        tunnel(Settings { sequence_numbers, stateless, ..Settings::default() }),
    ]
}

/// An IP header, and in UDP a UDP header, in front of a packet.
fn around(profile: &Profile, is_ipv6: bool, body: &[u8]) -> Vec<u8> {
    let octets = body.len() + 8;
    let udp = [&[17, 148, 17, 148, (octets >> 8) as u8, octets as u8, 0, 0][..], body].concat();
    let (protocol, body) = if profile.encapsulation.is_some() { (17, &udp[..]) } else { (253, body) };
    let length = |octets: usize| [(octets >> 8) as u8, octets as u8];
    if is_ipv6 {
        let [a, b] = length(body.len());
        return [&[0x60, 0, 0, 0, a, b, protocol, 64][..], &[9; 32], body].concat();
    }
    let [a, b] = length(20 + body.len());
    [&[0x45, 0, a, b, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2][..], body].concat()
}

/// Key and salt of a packet of this SA.
fn keys(settings: &Settings, spi: u32, session: u16) -> ([u8; 36], usize) {
    let mut material = [0; 36];
    material[..32].copy_from_slice(&KEY);
    if let Some(sub_sas) = &settings.sub_sas {
        sub_sas.kdf.derive(&KEY, session, &mut material);
    }
    if settings.stateless.is_some() {
        material = *derive_stateless(&KEY, Origin { spi, device: DEVICE, epoch: 0 });
    }
    (material, 32)
}

/// An authentic packet of an SA with options and plaintext that the octets hold.
fn authentic(settings: &Settings, spi: u32, options: usize, session: u16, clear: usize, rest: &[u8]) -> Vec<u8> {
    let (material, key_octets) = keys(settings, spi, session);
    let suite = Suite::of(SuiteId::AesGcm16);
    let context = Context::new(Provider::AwsLc, suite, &material[..key_octets], &[]).expect("a key of 32 octets");
    let (options, plaintext) = rest.split_at(options.min(rest.len()));
    let mut area = options.to_vec();
    if settings.stateless.is_some() {
        area.splice(0..0, [&[STATELESS, 10, 1, 1][..], &DEVICE.to_be_bytes()].concat());
    }
    let mut body = plaintext.to_vec();
    body.resize(plaintext.len().next_multiple_of(4).max(4), 0);
    let number: &[u8] = if settings.sequence_numbers { &[0, 0, 0, 0, 0, 0, 0, 1] } else { &[] };
    let base = [&[FIRST, area.len() as u8][..], &session.to_be_bytes(), &spi.to_be_bytes()].concat();
    let (clear, body) = body.split_at_mut(clear.min(plaintext.len() / 4 * 4));
    let head = [&base[..], &area, number, &[0; 8], clear].concat();
    let salt = [material[32], material[33], material[34], material[35]];
    let mut icv = [0; 16];
    let nonce = Nonce::counter(suite, salt, [0; 8]);
    context.seal(&nonce, Associated::front(&head), body, &mut icv).expect("any length will do");
    [&head[..], body, &icv].concat()
}

fuzz_target!(|data: &[u8]| {
    let [which, how, options, session, clear, rest @ ..] = data else { return };
    if rest.len() > 60_000 {
        return;
    }
    let mut receiver = Receiver::new(&Options { audit: true, ..Options::new([9; 16]) });
    let profiles = profiles();
    for (spi, profile) in (SPI..).zip(&profiles) {
        let salt: &[u8] = if profile.derives_keys() { &[] } else { &[0; 4] };
        let sa = Sa { spi, key: &KEY, salt, auth_key: &[], sequence: 0, multicast: &[], iv: None };
        receiver.install(&Arc::new(profile.clone()), &sa, 0).expect("installs");
    }
    let which = usize::from(*which) % profiles.len();
    let profile = &profiles[which];
    let Format::Eesp(settings) = &profile.format else { return };
    let packet = match how & 3 {
        0 => rest.to_vec(),
        1 => around(profile, how & 4 != 0, rest),
        _ => {
            // Octets of options are whole words now and then, so that the rest is looked at.
            let options = usize::from(if how & 8 == 0 { options & 0x3c } else { *options });
            let clear = if how & 16 == 0 { 0 } else { usize::from(*clear & 0xfc) };
            let body = authentic(settings, SPI + which as u32, options, (*session).into(), clear, rest);
            around(profile, how & 4 != 0, &body)
        }
    };
    let mut buf = [&[0; HEADROOM][..], &packet].concat();
    let opened = receiver.decapsulate(&mut buf, HEADROOM, packet.len(), 1);
    let results = receiver.decapsulate_many(&packet, &[0, packet.len() as u64], 2, Vec::new());
    match opened {
        Ok(opened) => {
            let inner = &buf[opened.start..opened.start + opened.len];
            if opened.sa != u64::from(SPI) + 6 {
                assert_eq!(ip::parse(inner).map(|datagram| datagram.octets), Some(inner.len()));
            }
            // Without a window the same packet opens again, in a batch to the same octets.
            assert_eq!((results.data(), results.codes[0], results.sas[0]), (inner, 0, opened.sa));
        }
        Err(reason) => assert_eq!((results.codes[0], results.data().len()), (reason as u8, 0)),
    }
    while receiver.next_event().is_some() {}
});
