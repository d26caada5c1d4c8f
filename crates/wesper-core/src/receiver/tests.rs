use proptest::prelude::*;

use super::*;
use crate::batch::Job;
use crate::profile::{Lifetime, UdpEncapsulation};
use crate::protocol::Protocol;
use crate::selectors::{AddressRange, Selector};
use crate::sender::tests::{in_buffer, inner_packets, packet, profile, profiles, sa};
use crate::sender::{HEADROOM, Sender};
use crate::suite::Suite;

fn gcm() -> &'static Suite {
    Suite::by_name("aes-gcm-16").expect("a suite")
}

fn options() -> Options {
    Options { audit: true, resync_failures: 3, resync_tries: 4, ..Options::new([7; 16]) }
}

const SPI: u32 = 0x1234;

/// Two ends of one SA, SPI 0x1234, installed at 5 seconds.
struct Pair {
    sender: Sender,
    out: u64,
    receiver: Receiver,
}

impl Pair {
    fn new(profile: Profile) -> Self {
        Self::at(profile, 0, 0)
    }

    fn at(profile: Profile, sent: u64, top: u64) -> Self {
        let profile = Arc::new(profile);
        let (mut sender, mut receiver) = (Sender::new(&options()), Receiver::new(&options()));
        let sa = |sequence| sa(profile.cipher(), SPI, sequence);
        let out = sender.install(&profile, &sa(sent), 0, 5 * SECOND).expect("installs");
        assert_eq!(receiver.install(&profile, &sa(top), 5 * SECOND), Ok(SPI.into()));
        Self { sender, out, receiver }
    }

    /// The next protected packet.
    fn sealed(&mut self, inner: &[u8]) -> Vec<u8> {
        let mut buf = in_buffer(inner);
        let sealed = self.sender.encapsulate(self.out, &mut buf, HEADROOM, inner.len(), 5 * SECOND).expect("goes out");
        buf[sealed.start..sealed.start + sealed.len].to_vec()
    }

    fn open(&mut self, packet: &[u8], now: u64) -> Result<Opened, DropReason> {
        self.receiver.decapsulate(&mut in_buffer(packet), HEADROOM, packet.len(), now)
    }

    fn state(&self) -> SaState {
        self.receiver.state(SPI.into()).expect("installed")
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.receiver.next_event()).collect()
    }
}

#[test]
fn a_forged_packet_neither_moves_the_window_nor_counts_as_seen() {
    let mut pair = Pair::new(Profile { window: 64, ..profile(gcm()) });
    let first = pair.sealed(&packet(false, 40));
    let mut forged = first.clone();
    forged[27] = 200;
    assert_eq!(pair.open(&forged, 0), Err(DropReason::Auth));
    assert_eq!(pair.open(&first, 0).map(|opened| opened.sequence), Ok(1));
    assert_eq!(pair.open(&first, 0), Err(DropReason::Replay));
    let state = pair.state();
    assert_eq!((state.sequence, state.packets, state.replay, state.integrity_failed), (1, 1, 1, 1));
    let audits: Vec<_> = pair.events().into_iter().map(|event| (event.reason, event.spi, event.sequence)).collect();
    assert_eq!(audits, [(Some(DropReason::Auth), SPI, 200), (Some(DropReason::Replay), SPI, 1)]);
}

#[test]
fn the_high_half_is_searched_for_after_failures_in_a_row_once_a_second() {
    // Three times 2^32 packets were lost.
    let mut pair = Pair::at(profile(gcm()), 3 << 32, 7);
    let mut results = Vec::new();
    for _ in 0..3 {
        let packet = pair.sealed(&packet(false, 40));
        results.push(pair.open(&packet, 9 * SECOND).map(|opened| opened.sequence));
    }
    assert_eq!(results, [Err(DropReason::Auth), Err(DropReason::Auth), Ok((3 << 32) + 3)]);
    assert_eq!(pair.state().integrity_failed, 2);
    let event = pair.events().pop().expect("told");
    assert_eq!((event.kind, event.sequence), (EventKind::Resynchronised, 3));

    let mut far = Pair::at(profile(gcm()), 9 << 32, 7);
    for failures in 1..=5 {
        let packet = far.sealed(&packet(false, 40));
        assert_eq!(far.open(&packet, 9 * SECOND), Err(DropReason::Auth), "more than 4 blocks away");
        assert_eq!(far.state().integrity_failed, failures);
    }
    let (mut near, mut ahead) = (Pair::new(profile(gcm())), Pair::at(profile(gcm()), 1 << 32, 0));
    let sealed = [(); 2].map(|()| near.sealed(&packet(false, 40)));
    for packet in &sealed {
        let mut forged = packet.clone();
        forged[40] ^= 1;
        assert_eq!(near.open(&forged, 9 * SECOND), Err(DropReason::Auth));
        if *packet == sealed[0] {
            assert!(near.open(packet, 9 * SECOND).is_ok(), "and the count begins anew");
        }
    }
    let packets = [(); 2].map(|()| ahead.sealed(&packet(false, 40)));
    assert_eq!(near.open(&packets[1], 9 * SECOND), Err(DropReason::Auth), "the second failure in a row");
    let mut off = Pair::at(Profile { resynchronise: false, ..profile(gcm()) }, 1 << 32, 7);
    for _ in 0..5 {
        let packet = off.sealed(&packet(false, 40));
        assert_eq!(off.open(&packet, 9 * SECOND), Err(DropReason::Auth));
    }
}

#[test]
fn the_newest_packet_says_where_the_peer_is() {
    let encapsulation = Some(UdpEncapsulation { local_port: 4500, remote_port: 4500, checksum: None });
    // Both ends have one profile, so packets come from where the sender's remote is told to be.
    let mut pair = Pair::new(Profile { encapsulation, ..profile(gcm()) });
    let from = |mut packet: Vec<u8>, host: u8, port: u8| {
        packet[12..16].copy_from_slice(&[203, 0, 113, host]);
        packet[21] = port;
        packet
    };
    let mut packets: Vec<_> = (0..5).map(|_| pair.sealed(&packet(false, 40))).collect();
    let mut places = Vec::new();
    for (index, host, port) in [(0, 9, 0x94), (2, 8, 0x94), (1, 7, 0x94), (3, 8, 0x95), (4, 8, 0x95)] {
        let packet = from(std::mem::take(&mut packets[index]), host, port);
        pair.open(&packet, 0).expect("authentic");
        places.push(pair.events().into_iter().map(|event| (event.address, event.port)).collect::<Vec<_>>());
    }
    let moved = |host: u8, port| vec![(Some([203, 0, 113, host].into()), port)];
    // The third packet is older than the second: it says nothing.
    assert_eq!(places, [vec![], moved(8, 0x1194), vec![], moved(8, 0x1195), vec![]]);
}

#[test]
fn udp_and_bare_esp_are_kept_apart_and_ports_last_as_long_as_their_sas() {
    let encapsulation = |local_port| Some(UdpEncapsulation { local_port, remote_port: 777, checksum: None });
    let mut pair = Pair::new(Profile { encapsulation: encapsulation(777), ..profile(gcm()) });
    let wrapped = pair.sealed(&packet(false, 40));
    let mut bare = [&wrapped[..20], &wrapped[28..]].concat();
    let octets = bare.len() as u16;
    bare[2..4].copy_from_slice(&octets.to_be_bytes());
    bare[9] = 50;
    assert_eq!(pair.open(&bare, 0), Err(DropReason::EncapMismatch));
    assert!(pair.open(&wrapped, 0).is_ok());
    assert!(pair.receiver.remove(SPI.into()));
    assert_eq!(pair.open(&wrapped, 0), Err(DropReason::NotForUs), "nobody listens on 777 any more");
    assert_eq!(pair.open(&bare, 0), Err(DropReason::NoSa));
}

#[test]
fn the_longest_match_of_addresses_comes_first() {
    let profile = Arc::new(profile(gcm()));
    let mut pair = Pair::new(Profile::clone(&profile));
    let (source, destination): (IpAddr, IpAddr) = ([198, 51, 100, 1].into(), [203, 0, 113, 9].into());
    let sealed: Vec<_> = (0..4).map(|_| pair.sealed(&packet(false, 40))).collect();
    let install = |receiver: &mut Receiver, ends: &[IpAddr], serial| {
        let sa = Sa { multicast: ends, ..sa(gcm(), SPI, 0) };
        receiver.install_multicast(&profile, &sa, serial, 0)
    };
    let id = |opened: Result<Opened, DropReason>| opened.map(|opened| opened.sa);
    assert_eq!(id(pair.open(&sealed[0], 0)), Ok(SPI.into()));
    assert_eq!(install(&mut pair.receiver, &[destination], 0), Ok(MULTICAST_IDS));
    assert_eq!(id(pair.open(&sealed[1], 0)), Ok(MULTICAST_IDS));
    assert_eq!(install(&mut pair.receiver, &[destination, source], 1), Ok(MULTICAST_IDS + 1));
    assert_eq!(id(pair.open(&sealed[2], 0)), Ok(MULTICAST_IDS + 1));
    assert_eq!(install(&mut pair.receiver, &[destination], 2), Err(InstallError::Taken(SPI)));
    assert_eq!(install(&mut pair.receiver, &[source, destination], 2), Ok(MULTICAST_IDS + 2), "other addresses");
    for sa in [MULTICAST_IDS, MULTICAST_IDS + 1, MULTICAST_IDS + 2] {
        assert!(pair.receiver.remove(sa) && !pair.receiver.remove(sa));
    }
    assert_eq!(id(pair.open(&sealed[3], 0)), Ok(SPI.into()));
}

#[test]
fn inner_packets_outside_the_selectors_are_dropped_and_audited() {
    let remote = vec![AddressRange::single(4, 0x0c0d_0e0f)];
    let selectors = vec![Selector { remote, ..Selector::default() }];
    let mut pair = Pair::new(Profile { selectors, ..profile(gcm()) });
    let mut inner = packet(false, 40);
    let good = pair.sealed(&inner);
    inner[15] = 0;
    let bad = pair.sealed(&inner);
    assert!(pair.open(&good, 0).is_ok());
    assert_eq!(pair.open(&bad, 0), Err(DropReason::SelectorMismatch));
    let event = pair.events().pop().expect("audited");
    assert_eq!((event.reason, event.source), (Some(DropReason::SelectorMismatch), Some([198, 51, 100, 1].into())));
}

#[test]
fn an_ecn_alarm_is_told_and_ce_on_not_ect_is_dropped() {
    let mut pair = Pair::new(profile(gcm()));
    let mut inner = packet(false, 40);
    inner[1] = 0xb8;
    let mut sealed = pair.sealed(&inner);
    sealed[1] = 0xbb;
    assert_eq!(pair.open(&sealed, 0), Err(DropReason::EcnDrop));
    let event = pair.events().pop().expect("told");
    assert_eq!((event.kind, event.limit, event.inner, event.outer), (EventKind::EcnAlarm, "always", 0, 3));
}

#[test]
fn limits_end_an_sa_and_the_timeout_takes_it_away() {
    let hard = Lifetime { octets: Some(70), ..Lifetime::default() };
    let soft = Lifetime { seconds: Some(10), ..Lifetime::default() };
    let mut endless = Pair::new(profile(gcm()));
    let sealed: Vec<_> = (0..3).map(|_| endless.sealed(&packet(false, 40))).collect();
    let mut pair = Pair::new(Profile { soft, hard, ..profile(gcm()) });
    assert_eq!(pair.receiver.deadline(), Some(15 * SECOND));
    assert!(pair.open(&sealed[0], 14 * SECOND).is_ok());
    pair.receiver.handle_timeout(15 * SECOND, false);
    assert!(pair.open(&sealed[1], 16 * SECOND).is_ok());
    assert_eq!(pair.open(&sealed[2], 16 * SECOND), Err(DropReason::Expired));
    let told: Vec<_> = pair.events().into_iter().map(|event| (event.kind, event.limit)).collect();
    assert_eq!(told, [(EventKind::SoftExpired, "seconds"), (EventKind::HardExpired, "octets")]);
    pair.receiver.handle_timeout(17 * SECOND, false);
    assert_eq!(pair.receiver.state(SPI.into()), None);
}

#[test]
fn idle_sas_keep_what_they_were_told_and_time_out_in_the_order_of_their_ids() {
    let soft = Lifetime { seconds: Some(10), ..Lifetime::default() };
    let hard = Lifetime { seconds: Some(20), ..Lifetime::default() };
    let mut receiver = Receiver::new(&options());
    let profile = Arc::new(Profile { soft, hard, ..profile(gcm()) });
    for spi in [900, 300, 600] {
        receiver.install(&profile, &sa(gcm(), spi, 0), 0).expect("installs");
    }
    let told = |receiver: &mut Receiver| -> Vec<_> { std::iter::from_fn(|| receiver.next_event()).collect() };
    let ids = |events: Vec<Event>| events.into_iter().map(|event| event.sa).collect::<Vec<_>>();
    receiver.handle_timeout(10 * SECOND, false);
    assert_eq!(ids(told(&mut receiver)), [Some(300), Some(600), Some(900)]);
    receiver.handle_timeout(11 * SECOND, false);
    assert_eq!(told(&mut receiver), []);
    assert_eq!(receiver.deadline(), Some(20 * SECOND));
    receiver.handle_timeout(20 * SECOND, false);
    assert_eq!(ids(told(&mut receiver)), [Some(300), Some(600), Some(900)]);
    assert_eq!((receiver.deadline(), receiver.state(300)), (None, None));
}

#[test]
fn bulk_installation_is_all_or_nothing() {
    let mut receiver = Receiver::new(&options());
    let profile = Arc::new(profile(gcm()));
    receiver.install(&profile, &sa(gcm(), 301, 0), 0).expect("installs");
    for spis in [[300, 301, 302], [300, 302, 300], [300, 0, 302]] {
        assert!(receiver.install_many(&profile, &spis, &[1; 60], 0).is_err(), "{spis:?}");
        assert_eq!(receiver.store.table.len(), 1, "{spis:?}");
    }
    assert_eq!(receiver.install_many(&profile, &[300, 302], &[1; 40], 0), Ok(vec![300, 302]));
    assert_eq!(receiver.install_many(&profile, &[], &[], 0), Ok(vec![]));
    let mut ids = [0; 4];
    receiver.find(&[302, 9, 301, 0], &mut ids);
    assert_eq!(ids, [302, u64::MAX, 301, u64::MAX]);
}

#[test]
fn octets_of_no_use_come_out_of_no_drop() {
    let mut pair = Pair::new(profile(gcm()));
    let mut sealed = pair.sealed(&packet(false, 60));
    let last = sealed.len() - 1;
    sealed[last] ^= 1;
    let mut buf = in_buffer(&sealed);
    assert_eq!(pair.receiver.decapsulate(&mut buf, HEADROOM, sealed.len(), 0), Err(DropReason::Auth));
    let inner = packet(false, 60);
    assert!(!buf.windows(16).any(|window| window == &inner[20..36]), "plaintext of a forged packet");
}

/// A protected packet, perhaps replayed, changed or cut.
type Changed = (usize, Option<(usize, u8)>, Option<usize>, u64);

/// Which packet, an octet changed, a length to cut it to, and seconds before it comes.
fn changes() -> impl Strategy<Value = Vec<Changed>> {
    let change = prop::option::weighted(0.3, (0usize..90, any::<u8>()));
    prop::collection::vec((0usize..12, change, prop::option::weighted(0.1, 0usize..90), 0u64..3), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The usual packet's straight line, the batch calls and the general way agree in octets, drops, counts and events.
    #[test]
    fn every_way_in_does_the_same(
        profile in profiles(), inner in prop::collection::vec(inner_packets(), 1..12), changes in changes(),
        gap in prop::sample::select(vec![0u64, 0, 0, 2 << 32]),
    ) {
        // Limits stop the receiver alone: the sender goes on.
        let endless = Profile { soft: Lifetime::default(), hard: Lifetime::default(), mtu: 65535, ..profile.clone() };
        // A number that is sent whole is never searched for.
        let sent = if endless.esn && endless.protocol != Protocol::Eesp { gap } else { 0 };
        let mut maker = Pair::at(Profile { pad_to: 0, ..endless }, sent, 0);
        let mut buf;
        let mut sealed = Vec::new();
        for packet in &inner {
            buf = in_buffer(packet);
            if let Ok(made) = maker.sender.encapsulate(maker.out, &mut buf, HEADROOM, packet.len(), 5 * SECOND) {
                sealed.push(buf[made.start..made.start + made.len].to_vec());
            }
        }
        prop_assume!(!sealed.is_empty());
        let [mut one, mut any_way, mut batch, mut many] = [(); 4].map(|()| Pair::new(profile.clone()));
        let mut now = 5 * SECOND;
        let (mut data, mut offsets, mut expected) = (Vec::new(), vec![0u64], Vec::new());
        let mut jobs = Vec::new();
        let mut ring = vec![0; HEADROOM];
        let paused = changes.iter().any(|(_, _, _, pause)| *pause != 0);
        for (which, change, cut, pause) in changes {
            now += pause * SECOND;
            let mut packet = sealed[which % sealed.len()].clone();
            if let Some((at, octet)) = change {
                let at = at % packet.len();
                packet[at] ^= octet;
            }
            packet.truncate(cut.unwrap_or(packet.len()));
            let mut bufs = [(); 2].map(|()| in_buffer(&packet));
            let opened = one.receiver.decapsulate(&mut bufs[0], HEADROOM, packet.len(), now);
            let mut job = Job::new(0, HEADROOM, packet.len());
            let general = any_way.receiver.open_any(&mut bufs[1], &mut job, now);
            let place = opened.map(|opened| (opened.start, opened.len, opened.sa, opened.sequence, opened.flow));
            prop_assert_eq!(place, general.map(|()| (job.start, job.len, job.sa, job.sequence, job.flow)));
            if let Ok((start, len, ..)) = place {
                prop_assert_eq!(&bufs[0][start..start + len], &bufs[1][start..start + len]);
            }
            expected.push(place.map(|(start, len, sa, sequence, _)| (bufs[0][start..start + len].to_vec(), sa, sequence)));
            prop_assert_eq!(one.receiver.state(SPI.into()), any_way.receiver.state(SPI.into()));
            data.extend_from_slice(&packet);
            offsets.push(data.len() as u64);
            jobs.push(Job::new(0, ring.len(), packet.len()));
            ring.extend_from_slice(&packet);
            ring.resize(ring.len() + HEADROOM, 0);
        }
        prop_assert_eq!(one.receiver.drops(), any_way.receiver.drops());
        let events = one.events();
        prop_assert_eq!(&events, &any_way.events());
        if !paused {
            let results = many.receiver.decapsulate_many(&data, &offsets, now, vec![0xee; 300]);
            batch.receiver.decapsulate_batch(&mut jobs, &mut ring, now);
            for (index, expected) in expected.into_iter().enumerate() {
                let made = &results.data()[results.offsets[index] as usize..results.offsets[index + 1] as usize];
                let job = jobs[index];
                match expected {
                    Ok((packet, sa, sequence)) => {
                        prop_assert_eq!(made, &packet);
                        prop_assert_eq!((results.codes[index], results.sas[index], results.sequences[index]), (0, sa, sequence));
                        prop_assert_eq!(&ring[job.start..job.start + job.len], &packet);
                        prop_assert_eq!((job.reason, job.sa, job.sequence), (None, sa, sequence));
                    }
                    Err(reason) => {
                        prop_assert_eq!((results.codes[index], made.len()), (reason as u8, 0));
                        prop_assert_eq!((job.reason, job.len), (Some(reason), 0));
                    }
                }
            }
            for other in [&mut many, &mut batch] {
                prop_assert_eq!(one.receiver.state(SPI.into()), other.receiver.state(SPI.into()));
                prop_assert_eq!(one.receiver.drops(), other.receiver.drops());
                prop_assert_eq!(&events, &other.events());
            }
        }
    }

    #[test]
    fn no_octets_make_it_panic(
        mut packet in prop::collection::vec(any::<u8>(), 0..140), six in any::<bool>(), protocol in prop::sample::select(vec![50u8, 17, 0, 44]),
    ) {
        let mut pair = Pair::new(profile(gcm()));
        let octets = packet.len() as u16;
        for (at, octet) in [(0, if six { 0x60 } else { 0x45 }), (if six { 6 } else { 9 }, protocol)] {
            if let Some(place) = packet.get_mut(at) {
                *place = octet;
            }
        }
        let (at, told) = if six { (4, octets.saturating_sub(40)) } else { (2, octets) };
        if let Some(place) = packet.get_mut(at..at + 2) {
            place.copy_from_slice(&told.to_be_bytes());
        }
        prop_assert!(pair.open(&packet, 0).is_err());
        prop_assert!(pair.receiver.decapsulate(&mut packet.clone(), 0, packet.len(), 0).is_err());
        prop_assert!(pair.receiver.decapsulate(&mut packet, usize::MAX, 9, 0).is_err());
    }
}

/// Both halves with SAs of these profiles, more of them than there is room for keys.
fn halves(profiles: &[Profile]) -> (Sender, Vec<u64>, Receiver) {
    let options = Options { contexts: 2, ..options() };
    let (mut sender, mut receiver) = (Sender::new(&options), Receiver::new(&options));
    let mut ids = Vec::new();
    for (serial, profile) in (0..).zip(profiles) {
        let sa = sa(profile.cipher(), SPI + serial as u32, 0);
        let profile = Arc::new(profile.clone());
        ids.push(sender.install(&profile, &sa, serial, 5 * SECOND).expect("installs"));
        receiver.install(&profile, &sa, 5 * SECOND).expect("installs");
    }
    (sender, ids, receiver)
}

/// Packets one after another in one buffer, each with room around it, and jobs for them.
fn laid_out(packets: &[(u64, Vec<u8>)]) -> (Vec<u8>, Vec<Job>) {
    let (mut buf, mut jobs) = (Vec::new(), Vec::new());
    for (sa, packet) in packets {
        jobs.push(Job::new(*sa, buf.len() + HEADROOM, packet.len()));
        buf.extend_from_slice(&in_buffer(packet));
    }
    (buf, jobs)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Batches that mix SAs, usual and not, keys pushed out by others, and copies of packets, against single calls.
    #[test]
    fn a_batch_does_what_single_calls_do(
        mut mixed in prop::collection::vec(profiles(), 1..5),
        inner in prop::collection::vec((0usize..6, inner_packets()), 1..80),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..120),
    ) {
        mixed.push(profile(gcm()));
        mixed.push(Profile { esn: false, ..profile(gcm()) });
        let [mut one, mut batch] = [(); 2].map(|()| halves(&mixed));
        let now = 6 * SECOND;
        let ids = one.1.clone();
        let packets: Vec<_> = inner.into_iter().map(|(at, packet)| (ids[at % ids.len()], packet)).collect();
        let (mut buf, mut jobs) = laid_out(&packets);
        batch.0.encapsulate_batch(&mut jobs, &mut buf, now);
        let mut sealed = Vec::new();
        for ((sa, packet), job) in packets.iter().zip(&jobs) {
            let mut alone = in_buffer(packet);
            let made = one.0.encapsulate(*sa, &mut alone, HEADROOM, packet.len(), now);
            prop_assert_eq!(made.err().map(|dropped| dropped.reason), job.reason);
            if let Ok(made) = made {
                prop_assert_eq!((made.len, made.sequence), (job.len, job.sequence));
                prop_assert_eq!(&alone[made.start..made.start + made.len], &buf[job.start..job.start + job.len]);
                sealed.push((0, buf[job.start..job.start + job.len].to_vec()));
            }
        }
        prop_assert_eq!(one.0.drops(), batch.0.drops());
        prop_assert_eq!(
            std::iter::from_fn(|| one.0.next_event()).collect::<Vec<_>>(),
            std::iter::from_fn(|| batch.0.next_event()).collect::<Vec<_>>()
        );
        prop_assume!(!sealed.is_empty());
        // Twice, with an SA in between that goes, and another that takes its place.
        for order in order.chunks(order.len().div_ceil(2)) {
            let packets: Vec<_> = order.iter().map(|at| at.get(&sealed).clone()).collect();
            let (mut buf, mut jobs) = laid_out(&packets);
            batch.2.decapsulate_batch(&mut jobs, &mut buf, now);
            for ((_, packet), job) in packets.iter().zip(&jobs) {
                let mut alone = in_buffer(packet);
                let opened = one.2.decapsulate(&mut alone, HEADROOM, packet.len(), now);
                prop_assert_eq!(opened.err(), job.reason);
                if let Ok(opened) = opened {
                    prop_assert_eq!((opened.len, opened.sa, opened.sequence), (job.len, job.sa, job.sequence));
                    let made = &alone[opened.start..opened.start + opened.len];
                    prop_assert_eq!(made, &buf[job.start..job.start + job.len]);
                }
            }
            prop_assert_eq!(one.2.drops(), batch.2.drops());
            for (serial, profile) in (0..).zip(&mixed) {
                prop_assert_eq!(one.2.state((SPI + serial).into()), batch.2.state((SPI + serial).into()));
                if serial < 2 {
                    let profile = Arc::new(profile.clone());
                    for half in [&mut one.2, &mut batch.2] {
                        half.remove((SPI + 1 - serial).into());
                        half.install(&profile, &sa(profile.cipher(), SPI + serial, 0), now).ok();
                    }
                }
            }
        }
        prop_assert_eq!(
            std::iter::from_fn(|| one.2.next_event()).collect::<Vec<_>>(),
            std::iter::from_fn(|| batch.2.next_event()).collect::<Vec<_>>()
        );
    }
}
