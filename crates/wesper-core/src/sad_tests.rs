use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn row(spi: u32) -> Row {
    Row { spi, profile: spi ^ 0xffff, key: [spi as u8; 32], seq: u64::from(spi) * 3, ..Row::EMPTY }
}

/// All that the table promises: order, nearness to home, and that each row is found.
fn check(table: &Inbound) {
    let mut found = 0;
    let mut last = None;
    for at in 0..table.rows.len() {
        let spi = table.rows.spi(at);
        if spi == 0 {
            assert!(table.rows.get(at).expect("a row").key == [0; 32], "an empty row keeps a key");
            continue;
        }
        let hash = table.hash.hash(spi);
        let home = SpiHash::home(hash, table.homes);
        assert!(home <= at && (home..at).all(|before| table.rows.spi(before) != 0), "{spi} is cut off from its home");
        assert!(last.replace(hash).is_none_or(|last| last < hash), "{spi} is out of order");
        assert_eq!(table.find(spi), Some(at as u32));
        assert!(table.row(at as u32).is_some_and(|row| row.profile == spi ^ 0xffff && row.seq == u64::from(spi) * 3));
        found += 1;
    }
    assert_eq!(found, table.len());
    assert!(table.load() <= 0.75);
}

#[test]
fn rows_are_one_cache_line() {
    assert_eq!((size_of::<Row>(), align_of::<Row>()), (64, 64));
    assert_eq!(std::mem::offset_of!(Row, seq), 48);
}

#[test]
fn grows_past_several_pieces_one_by_one() {
    let mut table = Inbound::new(0x1234_5678_9abc_def0);
    for spi in 1..=120_000 {
        table.install(row(spi)).expect("a new SPI");
        if spi.is_power_of_two() {
            check(&table);
        }
    }
    check(&table);
    assert!(table.heap_octets() <= 120_000 * 128, "{} octets an SA", table.heap_octets() / 120_000);
    assert_eq!(table.install(row(77)), Err(InstallError::SpiInUse(77)));
    assert_eq!(table.install(row(0)), Err(InstallError::SpiZero));
    for spi in (1..=120_000).step_by(2) {
        assert!(
            table.remove(spi).is_some_and(|row| row.spi == spi && row.seq == u64::from(spi) * 3 && row.key == [0; 32])
        );
    }
    check(&table);
    assert_eq!(table.remove(1).map(|row| row.spi), None);
    assert_eq!(table.iter().count(), 60_000);
}

#[test]
fn never_needs_more_than_its_budget_once_past_the_smallest() {
    let mut table = Inbound::new(9);
    let mut worst = 0;
    for spi in 1..=200_000u32 {
        table.install(row(spi.wrapping_mul(0x9e37_79b1))).expect("a new SPI");
        if spi >= 1000 {
            worst = worst.max(table.heap_octets() / spi as usize);
        }
    }
    assert!(worst <= 120, "{worst} octets an SA");
}

#[test]
fn installs_many_and_names_the_one_refused() {
    let mut table = Inbound::new(3);
    table.install_many((1..1001).map(row)).expect("all new");
    assert!((0.6..=0.71).contains(&table.load()), "{}", table.load());
    let octets = table.heap_octets();
    let twice: Vec<Row> = [2001, 2002, 5, 2003].map(row).into();
    assert_eq!(table.install_many(twice.into_iter()), Err((2, InstallError::SpiInUse(5))));
    assert_eq!(table.len(), 1002);
    assert_eq!(table.heap_octets(), octets);
    check(&table);
}

#[test]
fn all_rows_at_the_last_home_spill_over_the_tail() {
    // Factors 1 and -1 make hashes just below 2^64: every row wants the last home.
    let hash = SpiHash { flip: 0, multiplier: 1, finish: u64::MAX };
    let mut table = Inbound { hash, ..Inbound::new(0) };
    for spi in 1..=3000 {
        table.install(row(spi)).expect("a new SPI");
    }
    check(&table);
    let mut reserved = Inbound { hash, ..Inbound::new(0) };
    reserved.install_many((1..2001).map(row)).expect("all new");
    reserved.reserve(5000).expect("room");
    check(&reserved);
    for spi in (1..=3000).rev() {
        assert!(table.remove(spi).is_some());
    }
    check(&table);
}

#[test]
fn batches_find_what_single_searches_find() {
    for load in [0, 1, 700, 50_000] {
        let mut table = Inbound::new(0xfeed_f00d_dead_beef);
        table.install_many((1..load + 1).map(|spi| row(spi * 3))).expect("all new");
        let spis: Vec<u32> = (0..=load * 4 + 129).collect();
        let mut positions = vec![17; spis.len()];
        table.find_many(&spis, &mut positions);
        for (spi, position) in spis.iter().zip(positions) {
            assert_eq!((position != NOT_FOUND).then_some(position), table.find(*spi), "SPI {spi} of {load}");
        }
    }
}

#[test]
fn batches_find_rows_far_from_home() {
    let mut table = Inbound { hash: SpiHash { flip: 0, multiplier: 1, finish: 1 }, ..Inbound::new(0) };
    table.install_many((1..501).map(row)).expect("all new");
    let spis: Vec<u32> = (0..=510).collect();
    let mut positions = vec![0; spis.len()];
    table.find_many(&spis, &mut positions);
    for (spi, position) in spis.iter().zip(positions) {
        assert_eq!((position != NOT_FOUND).then_some(position), table.find(*spi), "SPI {spi}");
    }
}

#[test]
fn outbound_numbers_are_dense_and_come_back() {
    let mut table = Outbound::new();
    for spi in 1..=100_000 {
        assert_eq!(table.install(row(spi)), Ok(spi - 1));
    }
    assert!(table.heap_octets() <= 100_000 * 90, "{}", table.heap_octets());
    assert!(table.remove(17).is_some_and(|row| row.spi == 18));
    assert!(table.remove(17).is_none() && table.row(17).is_none());
    assert!(table.remove(99).is_some());
    assert_eq!(table.len(), 99_998);
    assert_eq!(table.install(row(5)), Ok(99), "one SPI may serve two receivers");
    assert_eq!(table.install(row(6)), Ok(17));
    assert_eq!(table.install(row(7)), Ok(100_000));
    assert_eq!(table.row_mut(17).map(|row| row.spi), Some(6));
    assert_eq!(table.install(row(0)), Err(InstallError::SpiZero));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn inbound_equals_a_map(
        seed in any::<u64>(),
        steps in prop::collection::vec((any::<bool>(), 1u32..400, any::<bool>()), 0..1500),
    ) {
        let mut table = Inbound::new(seed);
        let mut model = HashMap::new();
        for (install, spi, far) in steps {
            let spi = if far { spi << 20 } else { spi };
            if install {
                let expected = if model.contains_key(&spi) { Err(InstallError::SpiInUse(spi)) } else { Ok(()) };
                prop_assert_eq!(table.install(row(spi)), expected);
                model.insert(spi, ());
            } else {
                prop_assert_eq!(table.remove(spi).map(|row| row.spi), model.remove(&spi).map(|()| spi));
            }
        }
        check(&table);
        prop_assert_eq!(table.len(), model.len());
    }
}
