use proptest::prelude::*;

use super::engine::Options;
use super::table::{Event, Ivs, Limit, Limits, Table};
use super::*;
use crate::aead::{Once, Provider};
use crate::batch::Ids;
use crate::verdict::DropReason;

const DEVICE_KEY: [u8; 32] = [0x5c; 32];

fn engine() -> Engine {
    let engine = Engine::new(Options {
        port: PORT,
        versions: 15,
        verify_checksum: true,
        hash_key: [0; 16],
        provider: Provider::default(),
    });
    engine.set_device_key(0, Some(&DEVICE_KEY));
    engine
}

fn packet() -> Vec<u8> {
    let mut packet = vec![0; 60];
    packet[0] = 0x45;
    packet[3] = 60;
    packet[9] = 17;
    packet
}

fn table(limits: Limits) -> Table {
    Table::new(
        vec![Prepared::new(Profile::default())],
        Limits { packets: limits.packets.map(|most| most / 2), ..limits },
        limits,
    )
}

/// Sends so many packets of one association, one batch; returns the codes.
fn send(table: &mut Table, engine: &Engine, id: u64, packets: usize, ivs: Ivs, now: u32) -> Vec<u8> {
    let data = packet().repeat(packets);
    let offsets: Vec<u64> = (0..=packets).map(|index| 60 * index as u64).collect();
    table.encapsulate_many(Vec::new(), engine, &data, &offsets, Ids::One(id), ivs, now).codes
}

/// IP packets, usual ones and such as are nearly.
fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![4 => Just(0x45), 4 => Just(0x60), 1 => Just(0x46), 1 => any::<u8>()];
    let protocol = prop_oneof![6 => Just(17), 3 => Just(6), 1 => any::<u8>()];
    let flags = prop_oneof![3 => Just(0), 3 => Just(0x4000), 1 => any::<u16>()];
    let octets = prop_oneof![4 => 0usize..90, 1 => 1300usize..1500];
    let random = prop::collection::vec(any::<u8>(), 1500);
    (first, protocol, flags, octets, random, -3i32..2).prop_map(|(first, protocol, flags, octets, mut packet, off)| {
        packet.truncate(octets.max(1));
        packet[0] = first | if first == 0x60 { packet[0] & 15 } else { 0 };
        let length = octets as i32 + if off > 0 { off } else { 0 } - if first >> 4 == 6 { 40 } else { 0 };
        let mut set = |at: usize, octets: &[u8]| {
            packet.iter_mut().skip(at).zip(octets).for_each(|(place, octet)| *place = *octet);
        };
        if first >> 4 == 6 {
            set(4, &(length as u16).to_be_bytes());
            set(6, &[protocol]);
        } else {
            set(2, &(length as u16).to_be_bytes());
            set(6, &flags.to_be_bytes());
            set(9, &[protocol]);
        }
        packet
    })
}

/// Tunnels whose usual packets go straight.
fn any_tunnel() -> impl Strategy<Value = Profile> {
    use crate::profile::{Df, Outer};
    let df = prop_oneof![Just(Df::Copy), Just(Df::Set), Just(Df::Clear)];
    let label = prop::option::of(0u32..1 << 20);
    (df, any::<[bool; 3]>(), prop::option::of(0u8..64), label, 0u8..2, 0u8..4, 60usize..1600).prop_map(
        |(df, [is_ipv6, copy_ecn, names], dscp, flow_label, version, bits, mtu)| {
            let end = |last: u8| if is_ipv6 { [last; 16].into() } else { std::net::IpAddr::from([192, 0, 2, last]) };
            let outer = Outer {
                local: end(1),
                remote: end(2),
                hop_limit: 64,
                df,
                dscp,
                copy_ecn,
                flow_label,
                identification: names.then_some(7),
                take_dscp: false,
            };
            Profile {
                mode: Mode::Tunnel(outer),
                version: if version == 0 { Version::Gcm128 } else { Version::Gcm256 },
                sample: bits & 1 == 1,
                drop: bits & 2 == 2,
                mtu,
                ..Profile::default()
            }
        },
    )
}

proptest! {
    #[test]
    fn straight_or_step_by_step_packets_are_the_same(
        packet in any_packet(), profile in any_tunnel(), spi in prop_oneof![Just(0x8000_0000), any::<u32>()], iv: u64,
        hash_key: [u8; 16],
    ) {
        let prepared = Prepared::new(profile);
        let keys = send::Keys { hash_key: &hash_key, spi, key: &[9; 32][..prepared.version().key_octets()], iv };
        let mut outputs = [Output::default(), Output::default()];
        let [straight, any] = &mut outputs;
        let mut once = Once::new(Provider::default());
        let done = [
            send::encapsulate(&prepared, &mut once, keys, &packet, straight),
            send::encapsulate_any(&prepared, &mut once, keys, &packet, any),
        ];
        prop_assert_eq!(done[0], done[1]);
        prop_assert_eq!(outputs[0].data(), outputs[1].data());
    }

    #[test]
    fn wide_registers_derive_what_the_portable_way_does(key: [u8; 32], spis in prop::collection::vec(any::<u32>(), 0..200)) {
        let (wide, portable) = (DeviceKey::new(&key), DeviceKey::portable(&key));
        for version in Version::ALL {
            let mut keys = [vec![0; spis.len() * version.key_octets()], vec![1; spis.len() * version.key_octets()]];
            wide.derive_many(&spis, version, &mut keys[0]);
            portable.derive_many(&spis, version, &mut keys[1]);
            prop_assert_eq!(&keys[0], &keys[1]);
            for (spi, derived) in spis.iter().zip(keys[0].chunks(version.key_octets())) {
                prop_assert_eq!(&portable.derive(*spi, version)[..version.key_octets()], derived);
            }
        }
    }
}

#[test]
fn threads_derive_the_same() {
    let key = DeviceKey::new(&DEVICE_KEY);
    let spis: Vec<u32> = (0..250_001).collect();
    let mut keys = [vec![0; 16 * spis.len()], vec![1; 16 * spis.len()]];
    key.derive_many_on(1, &spis, Version::Gcm128, &mut keys[0]);
    key.derive_many_on(2, &spis, Version::Gcm128, &mut keys[1]);
    assert!(keys[0] == keys[1]);
}

#[test]
fn what_is_longer_is_left_alone() {
    let key = DeviceKey::new(&DEVICE_KEY);
    let mut short = [7; 40];
    key.derive_many(&[1, 2, 3], Version::Gcm128, &mut short);
    assert_eq!(short[..16], key.derive(1, Version::Gcm128)[..16]);
    assert_eq!(short[32..], [7; 8]);
    key.derive_many(&[], Version::Gcm256, &mut short);
    assert_eq!(short[32..], [7; 8]);
}

#[test]
fn limits_end_an_association_and_tell_once() {
    let engine = engine();
    let mut table = table(Limits { packets: Some(10), octets: None, seconds: Some(100) });
    let id = table.install(0, 1, &[9; 16], 0).expect("installs");
    let codes = send(&mut table, &engine, id, 12, Ivs::Run { first: 5 }, 1);
    let expired = DropReason::PspOutExpired as u8;
    assert_eq!(codes, [vec![0; 10], vec![expired; 2]].concat());
    assert_eq!(table.next_event(), Some(Event { id, is_hard: false, limit: Limit::Packets }));
    assert_eq!(table.next_event(), Some(Event { id, is_hard: true, limit: Limit::Packets }));
    assert_eq!(table.next_event(), None);
    let state = table.state(id).expect("there");
    assert_eq!((state.packets, state.octets, state.iv), (10, 400, 14));

    assert!(table.replace(id, 2, &[8; 16], 50));
    assert_eq!(send(&mut table, &engine, id, 1, Ivs::Run { first: 50 }, 149), [0]);
    assert_eq!(send(&mut table, &engine, id, 1, Ivs::Run { first: 51 }, 150), [expired]);
    assert_eq!(table.next_event(), Some(Event { id, is_hard: true, limit: Limit::Seconds }));
}

#[test]
fn own_counters_are_dense_bounded_and_never_go_back() {
    let engine = engine();
    let mut table = table(Limits::default());
    let ids = [1, 2].map(|spi| table.install(0, spi, &[9; 16], 0).expect("installs"));
    let counters = |base, end| Ivs::Counters { base, end };
    assert_eq!(send(&mut table, &engine, ids[0], 3, counters(100, 200), 0), [0; 3]);
    assert_eq!(table.state(ids[0]).map(|state| state.iv), Some(102));
    assert_eq!(send(&mut table, &engine, ids[1], 1, counters(100, 200), 0), [0]);
    assert_eq!(table.state(ids[1]).map(|state| state.iv), Some(100));
    let none = DropReason::PspOutIv as u8;
    assert_eq!(send(&mut table, &engine, ids[0], 3, counters(100, 104), 0), [0, none, none]);
    assert_eq!(send(&mut table, &engine, ids[0], 1, counters(300, 400), 0), [0]);
    assert_eq!(table.highest_iv(), 300);
    // A key that was removed and comes again goes on above all it can have used.
    assert!(table.remove(ids[0]));
    let again = table.install(0, 1, &[9; 16], 0).expect("installs");
    assert_eq!(again, ids[0], "the number is free again");
    assert_eq!(send(&mut table, &engine, again, 1, counters(300, 400), 0), [0]);
    assert_eq!(table.state(again).map(|state| state.iv), Some(301));
}

#[test]
fn numbers_without_an_association_are_refused() {
    let engine = engine();
    let mut table = table(Limits::default());
    assert_eq!(table.install(0, 0x8000_0000, &[9; 16], 0), None, "a reserved SPI");
    assert_eq!(table.install(0, 1, &[9; 32], 0), None, "a key of another version");
    assert_eq!(table.install(1, 1, &[9; 16], 0), None, "a profile that is not there");
    let id = table.install(0, 1, &[9; 16], 0).expect("installs");
    assert!(!table.remove(id + 1) && !table.replace(id + 1, 1, &[9; 16], 0));
    assert!(table.remove(id) && !table.remove(id));
    assert!(table.is_empty() && table.state(id).is_none());
    let none = DropReason::PspOutNoKey as u8;
    for id in [id, id + 1, u64::MAX] {
        assert_eq!(send(&mut table, &engine, id, 1, Ivs::Run { first: 5 }, 0), [none]);
    }
    assert_eq!(engine.counters().drops[usize::from(none)], 3);
}

#[test]
fn versions_have_their_codes() {
    for (code, version) in Version::ALL.into_iter().enumerate() {
        assert_eq!(Version::of(code as u8), Some(version));
        assert_eq!(version.label(), [0x50, 0x76, 0x30 + code as u8, 0]);
    }
    assert_eq!(Version::of(4), None);
}

#[test]
fn the_usual_packet_goes_straight() {
    let outer = crate::profile::Outer::between([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    let profile = Profile { mode: Mode::Tunnel(outer), ..Profile::default() };
    let other = |change: fn(&mut Profile)| {
        let mut profile = profile.clone();
        change(&mut profile);
        Prepared::new(profile).usual.is_none()
    };
    assert!(Prepared::new(profile.clone()).usual.is_some());
    assert!(other(|profile| profile.mode = Mode::Transport));
    assert!(other(|profile| profile.cookie = Some([0; 8])));
    assert!(other(|profile| profile.crypt_offset_words = 1));
    assert!(other(|profile| profile.checksum = true));
    assert!(other(|profile| profile.version = Version::Gmac128));
    assert!(other(|profile| profile.source_port = SourcePort::Xor));

    let prepared = Prepared::new(profile);
    let (usual, key) = (prepared.usual.as_ref().expect("tunnels are usual"), [9; 16]);
    let keys = send::Keys { hash_key: &[0; 16], spi: 1, key: &key, iv: 1 };
    let mut once = Once::new(Provider::default());
    let mut sent = |mtu| usual::encapsulate(usual, mtu, &mut once, keys, &packet(), &mut Output::default());
    assert_eq!([sent(120), sent(119)], [Some(60), None]);
}

#[test]
fn many_associations_take_more_than_one_block() {
    let engine = engine();
    let mut table = table(Limits::default());
    for spi in 1..=300_000 {
        assert_eq!(table.install(0, spi, &[9; 16], 0), Some(u64::from(spi) - 1));
    }
    assert_eq!(table.octets(), 300_000 * 64);
    for id in [0, 262_143, 262_144, 299_999] {
        assert_eq!(send(&mut table, &engine, id, 1, Ivs::Run { first: 5 }, 1), [0]);
        assert_eq!(table.state(id).map(|state| (state.spi, state.iv)), Some((id as u32 + 1, 5)));
    }
}

#[test]
fn the_usual_packet_is_opened_straight() {
    let (engine, mut once, mut out) = (engine(), Once::new(Provider::default()), Output::default());
    let key = DeviceKey::new(&DEVICE_KEY).derive(1, Version::Gcm128);
    let accepted = receive::Accepted { port: PORT, versions: 15, verify_checksum: true };
    let opened = |change: fn(&mut Profile)| {
        let mut profile = Profile { mode: Mode::TunnelCopied, ..Profile::default() };
        change(&mut profile);
        let (mut sent, mut out, mut extension) = (Output::default(), Output::default(), Vec::new());
        engine.encapsulate(&Prepared::new(profile), &packet(), 1, &key[..16], 5, &mut sent).expect("is sent");
        let located = receive::locate(accepted, sent.data()).expect("holds");
        let mut once = Once::new(Provider::default());
        let plain = receive::open_plain(&mut once, &located, &key[..16], sent.data(), &mut out);
        let whole = engine.decapsulate(sent.data(), &mut Output::default(), &mut extension).expect("opens");
        plain.map(|plain| {
            assert_eq!(out.data(), packet());
            assert_eq!((plain.iv, plain.flags, plain.octets), (whole.iv, whole.flags, whole.octets));
        })
    };
    assert!(opened(|_| ()).is_some());
    assert!(opened(|profile| profile.sample = true).is_some());
    assert!(opened(|profile| profile.drop = true).is_none());
    assert!(opened(|profile| profile.cookie = Some([1; 8])).is_none());
    assert!(opened(|profile| profile.crypt_offset_words = 1).is_none());
    assert!(opened(|profile| profile.mode = Mode::Transport).is_none());

    let profile = Profile { mode: Mode::TunnelCopied, ..Profile::default() };
    let mut sent = Output::default();
    engine.encapsulate(&Prepared::new(profile), &packet(), 1, &key[..16], 5, &mut sent).expect("is sent");
    let mut forged = sent.data().to_vec();
    *forged.last_mut().expect("has octets") ^= 1;
    let located = receive::locate(accepted, &forged).expect("holds");
    assert!(receive::open_plain(&mut once, &located, &key[..16], &forged, &mut out).is_none());
    assert!(out.data().is_empty());
}
