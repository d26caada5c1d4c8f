use super::*;
use crate::profile::Outer;
use crate::psp::SourcePort;
use crate::psp::kdf::DeviceKey;
use crate::replay::ReplayWindow;

const KEY: [u8; 32] = [7; 32];
const SPI: u32 = 9;

fn options() -> Options {
    Options { port: 1000, versions: 15, verify_checksum: true, hash_key: [3; 16], provider: Provider::default() }
}

fn profile(mode: Mode, version: Version, cookie: Option<[u8; 8]>, words: u8) -> GatewayProfile {
    let look = Profile { mode, version, cookie, crypt_offset_words: words, mtu: 1500, ..Profile::default() };
    let look = Profile { source_port: SourcePort::Table((50000..50016).collect()), ..look };
    GatewayProfile {
        look,
        local: [192, 0, 2, 1].into(),
        remote: [192, 0, 2, 2].into(),
        selectors: Vec::new(),
        soft: Lifetime::default(),
        hard: Lifetime::default(),
        replay: None,
    }
}

fn tunnel() -> Mode {
    Mode::Tunnel(Outer::between([192, 0, 2, 1].into(), [192, 0, 2, 2].into()))
}

/// A UDP packet between the ends.
fn packet(octets: usize) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 1, 2, 3, 4];
    packet.resize(octets, 0xa5);
    packet[2..4].copy_from_slice(&(octets as u16).to_be_bytes());
    packet[24..26].copy_from_slice(&(octets as u16 - 20).to_be_bytes());
    let sum = ip::checksum(&packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet
}

fn ends(profile: &GatewayProfile) -> (Gateway, u64) {
    let gateway = Gateway::new(&options(), 16);
    let version = profile.look.version;
    let key = DeviceKey::new(&KEY).derive(SPI, version);
    let key = &key[..version.key_octets()];
    gateway.receiver().set_device_key(0, Some(&KEY));
    assert_eq!(gateway.receiver().install(profile, SPI, key, 0), Ok(SPI.into()));
    assert_eq!(gateway.receiver().install(profile, SPI, key, 0), Err(InstallError::Taken));
    let sa = gateway.sender().install(profile, SPI, key, 0, 0).expect("a fine association");
    (gateway, sa)
}

fn seal(gateway: &Gateway, sa: u64, packet: &[u8], now: u64) -> Result<Vec<u8>, Dropped> {
    let mut buf = vec![0xee; HEADROOM];
    buf.extend_from_slice(packet);
    buf.resize(buf.len() + TAILROOM, 0xee);
    let sealed = gateway.sender().encapsulate(sa, &mut buf, HEADROOM, packet.len(), false, now)?;
    Ok(buf[sealed.start..sealed.start + sealed.len].to_vec())
}

#[test]
fn what_is_protected_in_place_is_what_the_engine_makes_and_opens() {
    let engine = super::super::Engine::new(options());
    engine.set_device_key(0, Some(&KEY));
    for version in Version::ALL {
        for mode in [Mode::Transport, tunnel(), Mode::TunnelCopied] {
            for (cookie, words) in [(None, 0), (Some([1; 8]), 0), (Some([1; 8]), 1), (Some([1; 8]), 3), (None, 5)] {
                let words = if version.is_gmac() { 0 } else { words };
                let profile = profile(mode.clone(), version, cookie, words);
                let (gateway, sa) = ends(&profile);
                for octets in [48, 60, 61, 1300] {
                    let plain = packet(octets);
                    let made = seal(&gateway, sa, &plain, 0).expect("it fits");
                    let iv = gateway.sender().state(sa).expect("it is there").sequence;
                    let key = DeviceKey::new(&KEY).derive(SPI, version);
                    let key = &key[..version.key_octets()];
                    let mut out = super::super::Output::default();
                    let prepared = Prepared::new(profile.look.clone());
                    engine.encapsulate(&prepared, &plain, SPI, key, iv, &mut out).expect("it fits");
                    assert_eq!(out.data(), made);
                    let mut buf = made.clone();
                    let length = buf.len();
                    let opened = gateway.receiver().decapsulate(&mut buf, 0, length).expect("its own");
                    assert_eq!(&buf[opened.start..opened.start + opened.len], plain);
                    assert_eq!((opened.sa, opened.iv), (SPI.into(), iv));
                    // Cut short, or with any bit changed, it opens nothing and nobody panics.
                    for at in (28..length).step_by(7) {
                        let mut changed = made.clone();
                        changed[at] ^= 1;
                        assert!(gateway.receiver().decapsulate(&mut changed, 0, length).is_err(), "octet {at}");
                        let mut cut = made[..at].to_vec();
                        assert!(gateway.receiver().decapsulate(&mut cut, 0, at).is_err());
                    }
                }
            }
        }
    }
}

#[test]
fn no_iv_is_used_beyond_the_bound_and_a_refused_packet_costs_one() {
    let (gateway, sa) = ends(&profile(tunnel(), Version::Gcm128, None, 0));
    gateway.sender().reserve(sa, 2);
    assert!(seal(&gateway, sa, &packet(1500), 0).is_err());
    assert!(seal(&gateway, sa, &packet(100), 0).is_ok());
    let refused = seal(&gateway, sa, &packet(100), 0).expect_err("no IV is left");
    assert_eq!(refused.reason, DropReason::PspOutIv);
    assert_eq!(gateway.sender().state(sa).map(|state| (state.sequence, state.packets)), Some((2, 1)));
    gateway.sender().reserve(sa, 3);
    assert!(seal(&gateway, sa, &packet(100), 0).is_ok());
}

#[test]
fn a_device_key_that_goes_takes_its_associations_along() {
    let (gateway, sa) = ends(&profile(tunnel(), Version::Gcm256, None, 0));
    let made = seal(&gateway, sa, &packet(100), 0).expect("it fits");
    let open = || gateway.receiver().decapsulate(&mut made.clone(), 0, made.len()).map(|opened| opened.len);
    assert_eq!(open(), Ok(100));
    gateway.receiver().set_device_key(0, Some(&[8; 32]));
    assert_eq!(open(), Err(DropReason::PspAuth));
    gateway.receiver().set_device_key(0, None);
    assert_eq!(open(), Err(DropReason::PspNoDeviceKey));
    gateway.receiver().set_device_key(0, Some(&KEY));
    assert_eq!(open(), Ok(100));
    assert!(gateway.receiver().remove(SPI.into()));
    assert_eq!(open(), Err(DropReason::PspNoDeviceKey));
    assert_eq!(gateway.counters().rx_packets, 3);
}

#[test]
fn a_replay_rule_takes_each_iv_once_also_across_a_restart() {
    let replay = Some(Rule::Exact(ReplayWindow::new(64).expect("a fine size")));
    let profile = GatewayProfile { replay, ..profile(tunnel(), Version::Gcm128, None, 0) };
    let (gateway, sa) = ends(&profile);
    let sent: Vec<_> = (0..100).map(|_| seal(&gateway, sa, &packet(100), 0).expect("it fits")).collect();
    let open = |gateway: &Gateway, at: usize| {
        gateway.receiver().decapsulate(&mut sent[at].clone(), 0, sent[at].len()).map(|opened| opened.iv)
    };
    assert_eq!(open(&gateway, 0), Ok(1));
    assert_eq!(open(&gateway, 0), Err(DropReason::PspReplay));
    assert_eq!(open(&gateway, 69), Ok(70));
    assert_eq!(open(&gateway, 5), Err(DropReason::PspReplay)); // left of the window
    assert_eq!(open(&gateway, 6), Ok(7));
    let state = gateway.receiver().state(SPI.into()).expect("it is there");
    assert_eq!((state.sequence, state.packets, state.replay), (70, 3, 2));
    assert_eq!(gateway.counters().rx_packets, 5);
    assert_eq!(gateway.receiver().drops()[DropReason::PspReplay as usize], 2);

    let key = DeviceKey::new(&KEY).derive(SPI, Version::Gcm128);
    let again = Gateway::new(&options(), 16);
    again.receiver().set_device_key(0, Some(&KEY));
    assert!(again.receiver().install(&profile, SPI, &key[..16], 70).is_ok());
    assert_eq!(open(&again, 60), Ok(61)); // nobody has said that all up to 70 had come
    assert!(again.receiver().close_window(SPI.into()));
    assert!((0..70).all(|at| open(&again, at) == Err(DropReason::PspReplay)));
    assert_eq!(open(&again, 70), Ok(71));
    assert!(!again.receiver().close_window(1));
}

#[test]
fn limits_end_an_association_and_mtus_are_forgotten() {
    let hard = Lifetime { packets: Some(2), ..Lifetime::default() };
    let (gateway, sa) = ends(&GatewayProfile { hard, ..profile(tunnel(), Version::Gcm128, None, 0) });
    assert!(gateway.sender().set_mtu(sa, 600, 0));
    assert_eq!(seal(&gateway, sa, &packet(1000), 1), Err(Dropped { reason: DropReason::PspOutTooBig, mtu: 540 }));
    assert!(seal(&gateway, sa, &packet(1000), MTU_AGE).is_ok());
    assert!(seal(&gateway, sa, &packet(100), MTU_AGE).is_ok());
    let refused = seal(&gateway, sa, &packet(100), MTU_AGE).expect_err("past its limit");
    assert_eq!(refused.reason, DropReason::PspOutExpired);
    let refused = seal(&gateway, sa, &packet(100), MTU_AGE).expect_err("gone");
    assert_eq!(refused.reason, DropReason::PspOutNoKey);
    let events: Vec<_> = std::iter::from_fn(|| gateway.sender().next_event()).map(|event| event.kind).collect();
    assert_eq!(events, [EventKind::MtuChanged, EventKind::HardExpired]);
}
