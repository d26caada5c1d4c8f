//! Joining against cutting: what is put together stands for what came in.

use super::*;
use crate::cut::Cut;
use crate::samples::{Fields, Sample, is_right, super_packets};
use proptest::prelude::*;

fn parts(sample: &Sample) -> Vec<Vec<u8>> {
    let cut = Cut::plan(&sample.packet, &sample.vnet).expect("a super-packet");
    (0..cut.count())
        .map(|index| {
            let mut place = vec![0; cut.octets(index)];
            cut.write(index, &sample.packet, &mut place);
            place
        })
        .collect()
}

/// Joins packets, and returns what would be written.
fn join(packets: &[Vec<u8>], join_udp: bool) -> Vec<Sample> {
    let mut joiner = Joiner::new(join_udp);
    join_with(&mut joiner, packets)
}

fn join_with(joiner: &mut Joiner, packets: &[Vec<u8>]) -> Vec<Sample> {
    let (mut buf, mut done) = (vec![0xee; 9], Vec::new());
    for packet in packets {
        let at = buf.len();
        buf.extend(packet);
        joiner.push(&buf, Piece { at, len: packet.len() });
    }
    joiner.drain(|joined| {
        let (packets, octets) = (joined.count(), joined.octets());
        let (vnet, head, pieces) = joined.finish();
        let packet = [head.to_vec(), pieces.iter().flat_map(|piece| piece.of(&buf).to_vec()).collect()].concat();
        let sample = Sample { packet, vnet };
        let all = if vnet.gso == Gso::None { vec![sample.packet.clone()] } else { parts(&sample) };
        assert_eq!((packets, octets), (all.len(), all.iter().map(Vec::len).sum()));
        done.push(sample);
    });
    done
}

/// How many packets each of the results stands for.
fn counts(packets: &[Vec<u8>]) -> Vec<usize> {
    join(packets, true).iter().map(|one| if one.vnet.gso == Gso::None { 1 } else { parts(one).len() }).collect()
}

fn tcp(sequence: u32, octets: usize) -> Fields {
    Fields { sequence, payload: vec![0x5a; octets], size: 9999, id: (sequence / 100) as u16, ..Fields::default() }
}

/// The one packet that a super-packet of one part is.
fn packet(fields: &Fields) -> Vec<u8> {
    parts(&fields.sample()).remove(0)
}

#[test]
fn a_gap_a_flag_and_a_shorter_one_end_it() {
    let next = |at: u32| packet(&tcp(at * 100, 100));
    assert_eq!(counts(&[next(1), next(2), next(3)]), [3]);
    assert_eq!(counts(&[next(1), next(3), next(4)]), [1, 2]);
    assert_eq!(counts(&[next(2), next(1), next(2)]), [1, 2]);
    assert_eq!(counts(&[next(1), packet(&tcp(200, 60)), packet(&tcp(260, 60))]), [2, 1]);
    assert_eq!(counts(&[next(1), packet(&tcp(200, 101))]), [1, 1]);
    let push = |at: u32| packet(&Fields { flags: 0x18, ..tcp(at * 100, 100) });
    assert_eq!(counts(&[next(1), push(2), next(3)]), [2, 1]);
    assert_eq!(counts(&[push(1), next(2)]), [1, 1]);
    for flags in [0x11, 0x12, 0x14, 0x30, 0x90, 0x50] {
        let other = packet(&Fields { flags, ..tcp(200, 100) });
        assert_eq!(counts(&[next(1), other, next(3)]), [1, 1, 1], "flags {flags:#x}");
    }
}

#[test]
fn headers_that_differ_are_not_lost() {
    let first = packet(&tcp(100, 100));
    let second = packet(&tcp(200, 100));
    assert_eq!(counts(&[first.clone(), second.clone()]), [2]);
    // Traffic class, number, DF, TTL; acknowledgement, window, urgent pointer.
    for (at, bit) in [(1, 4), (5, 4), (6, 0x40), (8, 1), (31, 1), (35, 1), (39, 1)] {
        let mut other = second.clone();
        other[at] ^= bit;
        // With its checksums made right again, so that nothing but the difference speaks against it.
        let fixed = rewrite_checksums(other);
        assert!(is_right(&fixed));
        assert_eq!(counts(&[first.clone(), fixed]), [1, 1], "octet {at}");
    }
    let with = |option: u8| packet(&Fields { options: vec![1, 1, 1, option], ..tcp(200, 100) });
    let before = packet(&Fields { options: vec![1, 1, 1, 0], ..tcp(100, 100) });
    assert_eq!(counts(&[before.clone(), with(0)]), [2]);
    assert_eq!(counts(&[before.clone(), with(1)]), [1, 1]);
    assert_eq!(counts(&[before, second]), [1, 1]);
}

fn rewrite_checksums(mut packet: Vec<u8>) -> Vec<u8> {
    packet[10..12].fill(0);
    let sum = wesper_core::ip::checksum(&packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet[36..38].fill(0);
    let total = pseudo_header(&packet[12..20], 6, packet.len() - 20) + sum_of(&packet[20..]);
    packet[36..38].copy_from_slice(&(!fold(total)).to_be_bytes());
    packet
}

fn sum_of(octets: &[u8]) -> u32 {
    u32::from(!wesper_core::ip::checksum(octets))
}

#[test]
fn wrong_checksums_stay_wrong() {
    let next = |at: u32| packet(&tcp(at * 100, 100));
    let mut wrong = next(2);
    wrong[60] ^= 1;
    let joined = join(&[next(1), wrong.clone(), next(3), next(4)], true);
    assert_eq!(joined[1].packet, wrong);
    assert_eq!(joined.iter().map(|one| parts_or_one(one).len()).collect::<Vec<_>>(), [1, 1, 2]);
    let joined = join(&[wrong.clone(), next(3)], true);
    assert_eq!((joined.len(), &joined[0].packet), (2, &wrong));
    let mut header = next(2);
    header[10] ^= 1;
    assert_eq!(join(&[next(1), header.clone()], true)[1].packet, header);
}

fn parts_or_one(one: &Sample) -> Vec<Vec<u8>> {
    if one.vnet.gso == Gso::None { vec![one.packet.clone()] } else { parts(one) }
}

#[test]
fn flows_go_beside_each_other_and_order_holds_in_each() {
    let one = |at: u32, port: u16| packet(&Fields { port, ..tcp(at * 100, 100) });
    let ports = |port: u16| (1..4).map(move |at| one(at, port)).collect::<Vec<_>>();
    let mixed: Vec<_> = ports(1).into_iter().zip(ports(2)).flat_map(|(a, b)| [a, b]).collect();
    assert_eq!(counts(&mixed), [3, 3]);
    // More flows than may be open: the oldest are closed, and nothing is lost or overtaken.
    let many: Vec<_> = (1..=2_u32).flat_map(|at| (0..9).map(move |port| one(at, port))).collect();
    let joined = join(&many, true);
    assert_eq!(joined.iter().map(|one| parts_or_one(one).len()).sum::<usize>(), 18);
    // A bare acknowledgement stays where it was in its flow.
    let ack = packet_of_no_payload();
    assert_eq!(counts(&[one(1, 1000), one(2, 1000), ack, one(3, 1000), one(4, 1000)]), [2, 1, 2]);
}

fn packet_of_no_payload() -> Vec<u8> {
    let mut packet = packet(&tcp(300, 1));
    packet.pop();
    packet[3] = 40;
    rewrite_checksums(packet)
}

#[test]
fn udp_is_joined_only_where_it_may_and_never_without_checksum() {
    let one = |id: u16, octets: usize| {
        packet(&Fields { is_udp: true, id, payload: vec![7; octets], size: 9999, ..Fields::default() })
    };
    assert_eq!(counts(&[one(1, 50), one(2, 50), one(3, 20), one(4, 50)]), [3, 1]);
    assert_eq!(join(&[one(1, 50), one(2, 50)], false).len(), 2);
    let mut none = one(2, 50);
    none[26..28].fill(0);
    assert_eq!(counts(&[one(1, 50), none, one(3, 50)]), [1, 1, 1]);
    let many: Vec<_> = (0..100).map(|id| one(id, 50)).collect();
    assert_eq!(counts(&many), [64, 36]);
}

#[test]
fn numbers_stand_still_only_with_df() {
    let still = |sequence: u32| Fields { id: 0, ..tcp(sequence, 100) };
    assert_eq!(counts(&[packet(&still(100)), packet(&still(200)), packet(&still(300))]), [3]);
    let without = |sequence: u32| {
        let mut packet = packet(&still(sequence));
        packet[6] = 0;
        rewrite_checksums(packet)
    };
    assert_eq!(counts(&[without(100), without(200)]), [1, 1]);
}

#[test]
fn no_super_packet_is_longer_than_an_ip_packet() {
    let many: Vec<_> = (0..60_u32).map(|at| packet(&Fields { id: 0, ..tcp(at * 1400, 1400) })).collect();
    for one in join(&many, true) {
        assert!(one.packet.len() <= 65535);
    }
    assert_eq!(counts(&many).iter().sum::<usize>(), 60);
}

proptest! {
    #[test]
    fn cut_then_joined_is_as_before(fields in super_packets()) {
        let sample = fields.sample();
        let joined = join(&parts(&sample), true);
        prop_assert_eq!(joined.len(), 1);
        prop_assert_eq!(&joined[0].packet, &sample.packet);
        prop_assert_eq!(joined[0].vnet, sample.vnet);
    }

    #[test]
    fn mixed_flows_come_out_whole_and_in_order(
        flows in prop::collection::vec(super_packets(), 1..5),
        order in prop::collection::vec(any::<prop::sample::Index>(), 400),
    ) {
        let mut queues: Vec<_> = flows
            .iter()
            .enumerate()
            .map(|(port, fields)| parts(&Fields { port: port as u16, payload: fields.payload.clone(), options: fields.options.clone(), ..*fields }.sample()))
            .collect();
        let before = queues.clone();
        let mut mixed = Vec::new();
        for index in order {
            let port = index.index(queues.len());
            if !queues[port].is_empty() {
                mixed.push(queues[port].remove(0));
            }
        }
        mixed.extend(queues.into_iter().flatten());
        let after: Vec<_> = join(&mixed, true).iter().flat_map(parts_or_one).collect();
        prop_assert_eq!(after.len(), mixed.len());
        for (port, packets) in before.iter().enumerate() {
            let of_port = |packet: &&Vec<u8>| {
                let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
                packet[at..at + 2] == (port as u16).to_be_bytes()
            };
            prop_assert_eq!(&after.iter().filter(of_port).cloned().collect::<Vec<_>>(), packets);
        }
    }

    #[test]
    fn no_octets_make_it_panic(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 1..20)) {
        let mut joiner = Joiner::new(true);
        let joined = join_with(&mut joiner, &packets);
        prop_assert_eq!(joined.len(), packets.len());
        // Its memory is used again.
        prop_assert_eq!(join_with(&mut joiner, &packets[..1]).len(), 1);
    }
}
