//! Cutting against what a super-packet stands for, written out plainly.

use super::*;
use crate::samples::{Fields, is_right, plain_sum, super_packets};
use proptest::prelude::*;

fn cut(packet: &[u8], vnet: &Vnet) -> Vec<Vec<u8>> {
    let cut = Cut::plan(packet, vnet).expect("a super-packet");
    (0..cut.count())
        .map(|index| {
            let mut place = vec![0xee; cut.octets(index)];
            cut.write(index, packet, &mut place);
            place
        })
        .collect()
}

#[test]
fn tcp_flags_numbers_and_lengths_are_those_of_each_part() {
    let fields = Fields { flags: 0xd9, ..Fields::default() }; // CWR, ECE, ACK, PSH, FIN
    let sample = fields.sample();
    let parts = cut(&sample.packet, &sample.vnet);
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [140, 140, 90]);
    assert_eq!(parts.iter().map(|part| part[33]).collect::<Vec<_>>(), [0xd0, 0x50, 0x59]);
    let number = |part: &Vec<u8>, at: usize| u16::from_be_bytes([part[at], part[at + 1]]);
    assert_eq!(parts.iter().map(|part| number(part, 2)).collect::<Vec<_>>(), [140, 140, 90]);
    assert_eq!(parts.iter().map(|part| number(part, 4)).collect::<Vec<_>>(), [7, 8, 9]);
    let sequences: Vec<_> =
        parts.iter().map(|part| u32::from_be_bytes([part[24], part[25], part[26], part[27]])).collect();
    assert_eq!(sequences, [0xffff_ff00, 0xffff_ff64, 0xffff_ffc8]);
    assert!(parts.iter().all(|part| is_right(part)));
}

#[test]
fn udp_parts_have_headers_of_their_own() {
    let fields = Fields { is_udp: true, is_ipv6: true, ..Fields::default() };
    let sample = fields.sample();
    let parts = cut(&sample.packet, &sample.vnet);
    assert_eq!(parts.iter().map(|part| part[45]).collect::<Vec<_>>(), [108, 108, 58]);
    assert!(parts.iter().all(|part| is_right(part) && part[4] == 0));
}

#[test]
fn a_udp_checksum_that_is_zero_is_written_as_ones() {
    // The payload's last word makes the sum come out as 0xffff.
    let mut fields = Fields { is_udp: true, payload: vec![0; 4], size: 2, ..Fields::default() };
    let sample = fields.sample();
    let first = &cut(&sample.packet, &sample.vnet)[0];
    let sum = u16::from_be_bytes([first[26], first[27]]);
    fields.payload = [sum.to_be_bytes(), [0, 0]].concat();
    let sample = fields.sample();
    let first = &cut(&sample.packet, &sample.vnet)[0];
    assert_eq!((&first[26..28], is_right(first)), (&[0xff, 0xff][..], true));
}

#[test]
fn one_packet_gets_its_checksum() {
    for is_udp in [false, true] {
        let mut sample = Fields { is_udp, ..Fields::default() }.sample();
        let (start, offset) = sample.vnet.checksum.expect("one");
        assert_eq!(complete_checksum(&mut sample.packet, start, offset), Ok(()));
        assert!(is_right(&sample.packet));
    }
    assert_eq!(complete_checksum(&mut [0; 30], 20, 9), Err(Unfit));
    assert_eq!(complete_checksum(&mut [0; 30], 31, 0), Err(Unfit));
    assert_eq!(complete_checksum(&mut [0; 30], 20, u16::MAX), Err(Unfit));
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let sample = Fields::default().sample();
    let refused = |vnet: Vnet, packet: &[u8]| assert_eq!(Cut::plan(packet, &vnet), Err(Unfit));
    refused(Vnet { gso_size: 0, ..sample.vnet }, &sample.packet);
    refused(Vnet { checksum: None, ..sample.vnet }, &sample.packet);
    refused(Vnet { checksum: Some((24, 16)), ..sample.vnet }, &sample.packet);
    refused(Vnet { gso: Gso::None, ..sample.vnet }, &sample.packet);
    refused(Vnet { gso: Gso::TcpV6, ..sample.vnet }, &sample.packet);
    refused(sample.vnet, &sample.packet[..40]);
    let mut short = sample.packet.clone();
    short[32] = 0x40;
    refused(sample.vnet, &short);
    short[32] = 0xf0;
    refused(sample.vnet, &short[..60]);
}

proptest! {
    #[test]
    fn parts_have_the_payload_in_order_and_right_checksums(fields in super_packets()) {
        let sample = fields.sample();
        let parts = cut(&sample.packet, &sample.vnet);
        let header = usize::from(sample.vnet.header_octets);
        let payload: Vec<u8> = parts.iter().flat_map(|part| part[header..].to_vec()).collect();
        prop_assert_eq!(payload, fields.payload);
        for part in &parts {
            prop_assert!(is_right(part));
            prop_assert_eq!(wesper_core::ip::parse(part).map(|datagram| datagram.octets), Some(part.len()));
        }
        prop_assert!(parts.iter().rev().skip(1).all(|part| part.len() == header + usize::from(fields.size)));
    }

    #[test]
    fn no_octets_make_it_panic(
        packet in prop::collection::vec(any::<u8>(), 0..200),
        first in prop::sample::select(vec![0x45_u8, 0x60, 0x4f]),
        header in any::<[u8; 10]>(),
        kind in prop::sample::select(vec![0_u8, 1, 4, 5]),
        start in 0_u16..60,
    ) {
        let mut packet = packet;
        if let Some(place) = packet.first_mut() {
            *place = first;
        }
        let mut header = header;
        header[1] = kind;
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        if let Some(vnet) = Vnet::read(&header, 0) {
            if let Ok(cut) = Cut::plan(&packet, &vnet) {
                let total: usize = (0..cut.count()).map(|index| cut.octets(index) - cut.header()).sum();
                prop_assert_eq!(total, packet.len() - cut.header());
                for index in 0..cut.count() {
                    let mut place = vec![0; cut.octets(index)];
                    cut.write(index, &packet, &mut place);
                }
            }
            if let Some((start, offset)) = vnet.checksum {
                let _ = complete_checksum(&mut packet, start, offset);
            }
        }
    }
}

#[test]
fn the_plain_sum_is_that_of_the_engine() {
    let octets: Vec<u8> = (0..=255).collect();
    assert_eq!(!plain_sum(&[&octets]), wesper_core::ip::checksum(&octets));
}
