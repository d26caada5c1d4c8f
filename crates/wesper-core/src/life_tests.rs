use super::*;
use crate::suite::SuiteId;

fn profile(soft: Lifetime, hard: Lifetime) -> Profile {
    let ends = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    Profile { soft, hard, ..Profile::tunnel(SuiteId::AesGcm16, ends.0, ends.1) }
}

fn limits(seconds: u64, octets: u64, packets: u64, idle: u64) -> Lifetime {
    let some = |limit| Some(limit).filter(|limit| *limit != 0);
    Lifetime { seconds: some(seconds), octets: some(octets), packets: some(packets), idle_seconds: some(idle) }
}

/// Counts packets of 10 octets at these times as the packet path does; returns what was told.
fn run(profile: &Profile, times_s: &[u64]) -> Vec<(u64, EventKind, &'static str)> {
    let row = Row { spi: 1, installed_s: 100, ..Row::EMPTY };
    let (mut life, mut events) = (Life::of(&row), EventQueue::new(100));
    let whose = Whose { id: 7, spi: 1, profile, sent: Some(0), share: None };
    life.watch(&whose, u64::MAX);
    let mut told = Vec::new();
    for second in times_s {
        let now = second * SECOND;
        let is_due = life.is_due(now);
        if is_due && life.is_expired(&whose, now, &mut events) {
            // No packet passes any more.
        } else if life.account(10, now) | is_due {
            life.look(&whose, u64::MAX, now, &mut events);
        }
        while let Some(event) = events.next() {
            assert_eq!((event.sa, event.now), (Some(7), now));
            told.push((*second, event.kind, event.limit));
        }
    }
    told
}

use EventKind::{HardExpired, SoftExpired};

#[test]
fn each_limit_is_told_once_when_it_is_reached() {
    let none = Lifetime::default();
    let every_second: Vec<u64> = (100..130).collect();
    let rows = [
        (limits(5, 0, 0, 0), limits(9, 0, 0, 0), vec![(105, SoftExpired, "seconds"), (109, HardExpired, "seconds")]),
        (limits(0, 35, 0, 0), limits(0, 100, 0, 0), vec![(103, SoftExpired, "octets"), (109, HardExpired, "octets")]),
        (limits(0, 0, 3, 0), limits(0, 0, 3, 0), vec![(102, SoftExpired, "packets"), (102, HardExpired, "packets")]),
        (limits(0, 0, 0, 2), limits(0, 0, 0, 2), vec![]),
        (none, none, vec![]),
    ];
    for (soft, hard, expected) in rows {
        assert_eq!(run(&profile(soft, hard), &every_second), expected, "{soft:?} {hard:?}");
    }
}

#[test]
fn a_pause_ends_an_sa_with_an_idle_limit_however_many_packets_came_before() {
    let idle = profile(Lifetime::default(), limits(0, 0, 0, 3));
    assert_eq!(run(&idle, &[100, 102, 104, 106, 108, 110]), vec![]);
    assert_eq!(run(&idle, &[100, 102, 104, 107]), vec![(107, HardExpired, "idle_seconds")]);
    assert_eq!(run(&idle, &[103]), vec![(103, HardExpired, "idle_seconds")]);
}

#[test]
fn the_next_second_is_the_earliest_limit_not_told() {
    let both = profile(limits(50, 0, 0, 8), limits(60, 0, 0, 20));
    let mut life = Life::of(&Row { spi: 1, installed_s: 100, ..Row::EMPTY });
    let whose = Whose { id: 1, spi: 1, profile: &both, sent: None, share: None };
    assert_eq!(life.next_second(&whose), Some(108));
    life.account(1, 110 * SECOND);
    assert_eq!(life.next_second(&whose), Some(118));
    life.soft_told = true;
    assert_eq!(life.next_second(&whose), Some(130));
    life.account(1, 145 * SECOND);
    assert_eq!(life.next_second(&whose), Some(160));
    life.expired = true;
    assert_eq!(life.next_second(&whose), Some(145));
}

#[test]
fn half_the_short_numbers_are_time_for_the_next_sa() {
    let short = Profile { esn: false, ..profile(Lifetime::default(), Lifetime::default()) };
    let (mut life, mut events) = (Life::default(), EventQueue::new(9));
    let whose = |sent| Whose { id: 1, spi: 1, profile: &short, sent: Some(sent), share: None };
    life.watch(&whose(HALF_SPACE - 2), u64::MAX);
    assert!(!life.account(1, 0));
    assert!(life.account(1, 0), "the second packet has number 2^31");
    life.look(&whose(HALF_SPACE), u64::MAX, 0, &mut events);
    let event = events.next().expect("told");
    assert_eq!((event.kind, event.limit), (SoftExpired, "sequence"));
    assert!(!life.account(1, 0), "and is told once");
}

#[test]
fn jitter_shortens_by_the_share_that_the_spi_decides() {
    let soft = limits(1000, 1 << 62, 1, 10);
    assert_eq!(soft.jittered(0, 5), soft);
    let cut = soft.jittered(90, u32::MAX);
    // Of 2^32 - 0x9e3779b1 the upper half is 0x61c8: 38.2 per cent of 90.
    assert_eq!(cut.seconds, Some(1000 - 1000 * 90 * 0x61c8 / (100 << 16)));
    assert_eq!((cut.packets, cut.idle_seconds), (Some(1), Some(7)));
}
