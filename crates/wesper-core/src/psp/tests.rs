use proptest::prelude::*;

use super::engine::Options;
use super::table::{Event, Ivs, Limit, Limits, Table};
use super::*;
use crate::aead::Provider;
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

proptest! {
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
