use proptest::prelude::*;

use super::*;
use crate::batch::{Ids, Job, Marks};
use crate::crypt_offset::{CryptOffset, Exposure};
use crate::flow_identifier::FlowPolicy;
use crate::profile::{Df, Format, Fragmentation, Lifetime, Outer, UdpEncapsulation};
use crate::protocol::Protocol;
use crate::suite::{SUITES, Suite, SuiteId};
use crate::{eesp, wespv2};

pub(crate) fn sa(suite: &Suite, spi: u32, sequence: u64) -> Sa<'static> {
    let key: &[u8] = if suite.takes_key_octets(0) { &[] } else { &[0x2b; 32] };
    let auth_key = &[0x5a; 64][..suite.auth_key_octets()];
    Sa { spi, key, salt: &[1, 2, 3, 4][..suite.salt_octets], auth_key, sequence, multicast: &[], iv: None }
}

pub(crate) fn profile(suite: &Suite) -> Profile {
    Profile::tunnel(suite.id, [198, 51, 100, 1].into(), [203, 0, 113, 9].into())
}

/// An IP packet of this many octets.
pub(crate) fn packet(is_ipv6: bool, octets: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..octets).map(|index| index as u8).collect();
    let [high, low] = (octets as u16).to_be_bytes();
    if is_ipv6 {
        let [high, low] = (octets as u16 - 40).to_be_bytes();
        packet[..8].copy_from_slice(&[0x6b, 0x81, 0x23, 0x45, high, low, 59, 9]);
    } else {
        packet[..12].copy_from_slice(&[0x45, 0xb9, high, low, 0, 1, 0, 0, 63, 17, 0, 0]);
    }
    packet
}

pub(crate) fn in_buffer(packet: &[u8]) -> Vec<u8> {
    [&[0; HEADROOM][..], packet, &[0; TAILROOM + 2000]].concat()
}

fn gcm() -> &'static Suite {
    Suite::by_name("aes-gcm-16").expect("a suite")
}

fn options() -> Options {
    Options { audit: true, ..Options::new([7; 16]) }
}

/// A half with one SA.
fn with(profile: Profile, sequence: u64) -> (Sender, u64) {
    let mut sender = Sender::new(&options());
    let sa = sa(profile.cipher(), 0x1234, sequence);
    let id = sender.install(&Arc::new(profile), &sa, 0, 5 * SECOND).expect("installs");
    (sender, id)
}

fn send(sender: &mut Sender, id: u64, octets: usize, now: u64) -> Result<Sealed, Dropped> {
    sender.encapsulate(id, &mut in_buffer(&packet(false, octets)), HEADROOM, octets, now)
}

fn drop_of(reason: DropReason) -> Result<Sealed, Dropped> {
    Err(Dropped { reason, mtu: 0 })
}

#[test]
fn ids_are_never_used_again() {
    let mut sender = Sender::new(&options());
    let profile = Arc::new(profile(gcm()));
    let first = sender.install(&profile, &sa(gcm(), 300, 0), 0, 0).expect("installs");
    let second = sender.install(&profile, &sa(gcm(), 300, 0), 1, 0).expect("two SAs may have one SPI");
    assert!(sender.remove(first) && !sender.remove(first));
    let third = sender.install(&profile, &sa(gcm(), 301, 0), 2, 0).expect("installs");
    assert_eq!([first, second, third], [OUTBOUND_IDS, OUTBOUND_IDS + 1, OUTBOUND_IDS + 2]);
    assert_eq!(send(&mut sender, first, 40, 0), drop_of(DropReason::OutNoSa));
    assert_eq!(send(&mut sender, 300, 40, 0), drop_of(DropReason::OutNoSa));
    assert!(send(&mut sender, third, 40, 0).is_ok());
    assert_eq!(sender.state(first), None);
    assert_eq!(sender.drops()[DropReason::OutNoSa as usize], 2);
}

#[test]
fn numbers_are_used_up_once_and_the_last_refusal_is_audited() {
    for (esn, last) in [(true, u64::MAX), (false, u64::from(u32::MAX))] {
        let (mut sender, id) = with(Profile { esn, ..profile(gcm()) }, last - 1);
        assert_eq!(send(&mut sender, id, 40, 0).map(|sealed| sealed.sequence), Ok(last));
        if !esn {
            assert_eq!(sender.next_event().map(|event| event.limit), Some("sequence"));
        }
        assert_eq!(send(&mut sender, id, 40, 0), drop_of(DropReason::OutSequenceOverflow));
        let event = sender.next_event().expect("audited");
        assert_eq!((event.kind, event.sequence, event.spi), (EventKind::Audit, u32::MAX, 0x1234));
        assert_eq!(event.source, Some([198, 51, 100, 1].into()));
        assert_eq!(sender.state(id).map(|state| (state.sequence, state.packets)), Some((last, 1)));
    }
}

#[test]
fn limits_end_an_sa_and_the_timeout_takes_it_away() {
    let hard = Lifetime { packets: Some(2), ..Lifetime::default() };
    let soft = Lifetime { octets: Some(30), ..Lifetime::default() };
    let (mut sender, id) = with(Profile { soft, hard, ..profile(gcm()) }, 0);
    assert_eq!(sender.deadline(), None);
    assert!(send(&mut sender, id, 40, 6 * SECOND).is_ok());
    assert!(send(&mut sender, id, 40, 7 * SECOND).is_ok());
    assert_eq!(send(&mut sender, id, 40, 8 * SECOND), drop_of(DropReason::OutExpired));
    let told: Vec<_> = std::iter::from_fn(|| sender.next_event()).map(|event| (event.kind, event.limit)).collect();
    assert_eq!(told, [(EventKind::SoftExpired, "octets"), (EventKind::HardExpired, "packets")]);
    assert_eq!(sender.deadline(), Some(7 * SECOND));
    sender.handle_timeout(8 * SECOND);
    assert_eq!((sender.state(id), sender.deadline(), sender.next_event()), (None, None, None));
}

#[test]
fn idle_sas_time_out_without_a_packet() {
    let soft = Lifetime { seconds: Some(10), ..Lifetime::default() };
    let hard = Lifetime { idle_seconds: Some(20), ..Lifetime::default() };
    let (mut sender, id) = with(Profile { soft, hard, ..profile(gcm()) }, 0);
    assert_eq!(sender.deadline(), Some(15 * SECOND));
    sender.handle_timeout(15 * SECOND);
    sender.handle_timeout(16 * SECOND);
    assert_eq!(sender.next_event().map(|event| event.limit), Some("seconds"));
    assert_eq!((sender.next_event(), sender.deadline()), (None, Some(25 * SECOND)));
    assert!(send(&mut sender, id, 40, 20 * SECOND).is_ok());
    assert_eq!(sender.deadline(), Some(40 * SECOND));
    sender.handle_timeout(40 * SECOND);
    assert_eq!(
        sender.next_event().map(|event| (event.kind, event.limit)),
        Some((EventKind::HardExpired, "idle_seconds"))
    );
    assert_eq!(sender.state(id), None);
}

#[test]
fn a_learnt_mtu_is_forgotten_after_ten_minutes() {
    let (mut sender, id) = with(Profile { mtu: 1500, ..profile(gcm()) }, 0);
    assert!(sender.set_mtu(id, 9000, 0));
    assert_eq!(sender.state(id).map(|state| state.mtu), Some(1500), "never above the profile's");
    assert!(sender.set_mtu(id, 1000, SECOND));
    let inner = sender.inner_mtu(id, SECOND).expect("installed");
    assert!(send(&mut sender, id, inner, SECOND).is_ok());
    let too_big = Err(Dropped { reason: DropReason::OutTooBig, mtu: inner });
    assert_eq!(send(&mut sender, id, inner + 1, MTU_AGE), too_big);
    assert!(send(&mut sender, id, inner + 1, SECOND + MTU_AGE).is_ok());
    let event = sender.next_event().expect("told");
    assert_eq!((event.kind, event.mtu, event.sa), (EventKind::MtuChanged, 1500, Some(id)));
    assert!(!sender.set_mtu(id + 1, 1000, 0));
}

#[test]
fn bulk_installation_is_all_or_nothing() {
    let mut sender = Sender::new(&options());
    let profile = Arc::new(profile(gcm()));
    assert_eq!(sender.install_many(&profile, &[300, 0], &[1; 40], 5, 0), Err(InstallError::SpiZero));
    assert_eq!(sender.serials.iter().count(), 0);
    assert!(matches!(sender.install_many(&profile, &[300, 301], &[1; 42], 5, 0), Err(InstallError::KeyLength { .. })));
    let ids = sender.install_many(&profile, &[300, 301], &[1; 40], 5, 0).expect("installs");
    assert_eq!(ids, [OUTBOUND_IDS + 5, OUTBOUND_IDS + 6]);
    assert!(ids.iter().all(|id| send(&mut sender, *id, 40, 0).is_ok()));
    assert_eq!(sender.recent(301, [203, 0, 113, 9].into()), [(ids[1], 1)]);
    assert_eq!(sender.recent(301, [203, 0, 113, 8].into()), []);
}

#[test]
fn what_contradicts_itself_is_not_installed() {
    let mut sender = Sender::new(&options());
    let mut install = |profile: Profile, sa: &Sa<'_>| sender.install(&Arc::new(profile), sa, 0, 0);
    let good = sa(gcm(), 300, 0);
    assert!(matches!(install(Profile { outer: None, ..profile(gcm()) }, &good), Err(InstallError::Profile(_))));
    assert!(matches!(install(Profile { mode: Mode::Beet, ..profile(gcm()) }, &good), Err(InstallError::Profile(_))));
    let short = Sa { salt: &[1; 3], ..good };
    assert!(matches!(install(profile(gcm()), &short), Err(InstallError::KeyLength { .. })));
}

#[test]
fn a_buffer_without_room_is_no_reason_to_panic() {
    let (mut sender, id) = with(Profile { pad_to: 500, ..profile(gcm()) }, 0);
    let inner = packet(false, 60);
    for (before, after) in [(0, 700), (35, 700), (36, 0), (36, 300), (36, 455)] {
        let mut buf = [&vec![0; before][..], &inner, &vec![0; after]].concat();
        let dropped = sender.encapsulate(id, &mut buf, before, 60, 0).expect_err("no room");
        assert_eq!(dropped.reason, DropReason::OutTooBig, "{before} {after}");
    }
    for (start, len) in [(usize::MAX, 60), (0, usize::MAX), (500, 60)] {
        assert!(sender.encapsulate(id, &mut [0; 500], start, len, 0).is_err());
        assert!(sender.dummy(id, &mut [0; 500], start, len, 0).is_err());
    }
    assert_eq!(sender.state(id).map(|state| state.packets), Some(0));
}

fn lifetimes() -> impl Strategy<Value = Lifetime> {
    let some = |limit: std::ops::Range<u64>| prop::option::weighted(0.2, limit);
    (some(1..30), some(1..2000), some(1..12), some(1..10))
        .prop_map(|(seconds, octets, packets, idle_seconds)| Lifetime { seconds, octets, packets, idle_seconds })
}

prop_compose! {
    fn profiles_of_esp()(
        suite in prop::sample::select(SUITES.to_vec()), (esn, is_ipv6, udp) in any::<(bool, bool, bool)>(),
        df in prop::sample::select(vec![Df::Copy, Df::Set, Df::Clear]), dscp in prop::option::of(0u8..64),
        (copy_ecn, take_dscp) in any::<(bool, bool)>(), flow_label in prop::option::of(0u32..0x10_0000),
        identification in prop::option::of(any::<u16>()), pad_to in prop::sample::select(vec![0u16, 0, 64, 300]),
        mtu in prop::sample::select(vec![65535u16, 65535, 1500, 300, 68]), after in any::<bool>(),
        (soft, hard) in (lifetimes(), lifetimes()), window in prop::sample::select(vec![0u32, 32, 64, 1024]),
        (check_padding, transport) in (any::<bool>(), prop::bool::weighted(0.2)),
    ) -> Profile {
        let ends: (IpAddr, IpAddr) = if is_ipv6 {
            ("2001:db8::1".parse().expect("an address"), "2001:db8::2".parse().expect("an address"))
        } else {
            ([198, 51, 100, 1].into(), [203, 0, 113, 9].into())
        };
        let mut profile = Profile::tunnel(suite.id, ends.0, ends.1);
        profile.outer = profile.outer.map(|outer| Outer { df, dscp, copy_ecn, flow_label, identification, take_dscp, ..outer });
        let checksum = None;
        profile.encapsulation = udp.then_some(UdpEncapsulation { local_port: 4500, remote_port: 4501, checksum });
        profile.fragmentation = if after { Fragmentation::After } else { Fragmentation::Before };
        (profile.esn, profile.pad_to, profile.mtu, profile.window) = (esn, pad_to, mtu, window);
        (profile.soft, profile.hard, profile.check_padding) = (soft, hard, check_padding);
        if transport {
            (profile.mode, profile.pad_to) = (Mode::Transport, 0);
        }
        profile
    }
}

fn formats() -> impl Strategy<Value = (Protocol, Format)> {
    let session = prop::sample::select(vec![FlowPolicy::Fixed(0), FlowPolicy::Fixed(0xbeef), FlowPolicy::FiveTuple]);
    let option = prop::option::weighted(0.2, (2u8..32, prop::collection::vec(any::<u8>(), 0..9)));
    let offset = prop::option::weighted(0.2, prop::sample::select(vec![Exposure::None, Exposure::L3, Exposure::L3L4]));
    (session, option, offset, 0usize..6, prop::bool::weighted(0.8)).prop_map(
        |(session, option, exposure, which, sn)| {
            let options: Vec<_> = option.into_iter().collect();
            let crypt_offset = exposure.map(|exposure| CryptOffset { exposure, ..CryptOffset::default() });
            match which {
                0 => (Protocol::Wesp, Format::Plain),
                1 | 2 => {
                    let named = if session == FlowPolicy::FiveTuple { Some((session, 8)) } else { None };
                    let settings = wespv2::Settings {
                        crypt_offset: crypt_offset.unwrap_or_default(),
                        max_crypt_offset: 252,
                        crypt_offset_limit: 252,
                        flow_identifier: named,
                        options,
                    };
                    (Protocol::WespV2, Format::WespV2(settings))
                }
                _ => {
                    let settings = eesp::Settings {
                        sequence_numbers: sn,
                        crypt_offset,
                        max_crypt_offset: crypt_offset.map(|_| 252),
                        crypt_offset_limit: 252,
                        session,
                        options,
                        ..eesp::Settings::default()
                    };
                    (Protocol::Eesp, Format::Eesp(settings))
                }
            }
        },
    )
}

/// Profiles that a configuration could hold, of every protocol; of EESP those with keys of the SA's own.
pub(crate) fn profiles() -> impl Strategy<Value = Profile> {
    (profiles_of_esp(), prop::option::weighted(0.6, formats())).prop_map(|(profile, format)| {
        let Some((protocol, format)) = format else { return profile };
        let Format::Eesp(settings) = &format else { return Profile { protocol, format, ..profile } };
        let suite = if profile.cipher().mac.is_some() { SuiteId::AesGcm12 } else { profile.suite };
        let is_numbered = settings.sequence_numbers;
        let suite = if is_numbered || Suite::of(suite).iv_octets != 0 { suite } else { SuiteId::AesGcm16 };
        let window = if is_numbered { profile.window } else { 0 };
        Profile { protocol, format, suite, window, esn: true, pad_to: 0, ..profile }
    })
}

pub(crate) fn inner_packets() -> impl Strategy<Value = Vec<u8>> {
    let octets = prop_oneof![40usize..120, 200usize..400, Just(1400)];
    let whole = (any::<bool>(), octets).prop_map(|(is_ipv6, octets)| packet(is_ipv6, octets));
    (whole, prop::option::weighted(0.3, (0usize..8, any::<u8>()))).prop_map(|(mut packet, change)| {
        if let Some((at, octet)) = change {
            packet[at] = octet;
        }
        packet
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The usual packet's straight line, the batch calls and the general way agree in octets, drops, counts and events.
    #[test]
    fn every_way_out_does_the_same(
        profile in profiles(), packets in prop::collection::vec((inner_packets(), 0u64..3), 1..20), near in any::<bool>(),
    ) {
        let start = if near { profile.last_sequence() - 5 } else { 0 };
        let [mut one, mut any_way, mut batch, mut many] = [(); 4].map(|()| with(profile.clone(), start));
        let (mut now, mut left) = (5 * SECOND, vec![0xee; 300]);
        for (packet, pause) in packets {
            now += pause * SECOND;
            let mut bufs = [(); 3].map(|()| in_buffer(&packet));
            let sealed = one.0.encapsulate(one.1, &mut bufs[0], HEADROOM, packet.len(), now);
            let number = any_way.0.hot_number(any_way.1).expect("installed");
            let mut job = Job::new(0, HEADROOM, packet.len());
            let done = any_way.0.protect_any(number, &mut bufs[1], &mut job, Besides::default(), now);
            let general = done.map(|()| Sealed { start: job.start, len: job.len, sequence: job.sequence, flow: job.flow });
            prop_assert_eq!(sealed, general);
            let mut jobs = [Job::new(batch.1, HEADROOM, packet.len()), Job::new(1, 0, 0)];
            batch.0.encapsulate_batch(&mut jobs, &mut bufs[2], now);
            prop_assert_eq!(jobs[0].reason, sealed.err().map(|dropped| dropped.reason));
            prop_assert_eq!(jobs[1].reason, Some(DropReason::OutNoSa));
            batch.0.drops.0[DropReason::OutNoSa as usize] -= 1;
            let results = many.0.encapsulate_many(Ids::One(many.1), Marks::One(0), &packet, &[0, packet.len() as u64], now, left);
            match sealed {
                Ok(Sealed { start, len, sequence, .. }) => {
                    let made = &bufs[0][start..start + len];
                    prop_assert_eq!(made, &bufs[1][start..start + len]);
                    prop_assert_eq!(made, &bufs[2][start..start + len]);
                    prop_assert_eq!((jobs[0].start, jobs[0].len, jobs[0].sequence), (start, len, sequence));
                    prop_assert_eq!(made, results.data());
                    prop_assert_eq!((results.codes[0], results.sequences[0]), (0, sequence));
                }
                Err(dropped) => prop_assert_eq!((results.codes[0], results.data().len()), (dropped.reason as u8, 0)),
            }
            left = results.into_memory().0;
            let events: Vec<_> = std::iter::from_fn(|| one.0.next_event()).collect();
            for (other, id) in [&mut any_way, &mut batch, &mut many].map(|(other, id)| (other, *id)) {
                prop_assert_eq!(&events, &std::iter::from_fn(|| other.next_event()).collect::<Vec<_>>());
                prop_assert_eq!(one.0.state(one.1), other.state(id));
                prop_assert_eq!(one.0.drops(), other.drops());
                prop_assert_eq!(one.0.deadline(), other.deadline());
            }
        }
    }
}
