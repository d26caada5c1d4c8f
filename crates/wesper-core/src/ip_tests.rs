use proptest::prelude::*;

use super::*;

/// An IPv6 packet with this chain of extension headers, each 8 octets, and a TCP payload.
fn ipv6(chain: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x6a, 0xb0, 0x12, 0x34, 0, 0, 0, 64];
    packet.extend([1; 16].into_iter().chain([2; 16]));
    let mut link = 6;
    for number in chain {
        packet[link] = *number;
        link = packet.len();
        packet.extend([0; 8]);
    }
    packet[link] = number::TCP;
    packet.extend([0x13; 24]);
    let octets = packet.len() - IPV6_HEADER;
    packet[4..6].copy_from_slice(&(octets as u16).to_be_bytes());
    packet
}

const IPV4: [u8; 28] =
    [0x46, 0xb9, 0, 26, 0, 7, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 0, 0, 53, 0xff, 0xff];

#[test]
fn ipv4_headers_are_read_and_what_follows_the_packet_is_not() {
    let datagram = parse(&IPV4).expect("IP");
    let place = Place { protocol: number::UDP, at: 24, link: 9 };
    assert_eq!((datagram.version, datagram.octets), (4, 26));
    assert_eq!((datagram.first, datagram.upper), (place, place));
    assert!(datagram.dont_fragment && !datagram.fragment);
    assert_eq!((datagram.traffic_class, datagram.ecn(), datagram.flow_label), (0xb9, 1, 0));
    assert_eq!(addresses(&IPV4), Some(([10, 0, 0, 1].into(), [10, 0, 0, 2].into())));
    assert_eq!(flow(&IPV4).expect("IP").ports, None, "two octets are not two ports");
    for octets in 0..26 {
        assert_eq!(parse(&IPV4[..octets]), None, "{octets}");
    }
    for (at, octet) in [(0, 0x44), (0, 0x56), (0, 0x4f), (3, 23), (3, 29)] {
        let mut bad = IPV4;
        bad[at] = octet;
        assert_eq!(parse(&bad), None, "octet {at} = {octet:#x}");
    }
    for (flags, fragment, offset) in
        [(0x2000u16, true, 0), (0x0001, true, 8), (0x3fff, true, 65528), (0x8000, false, 0)]
    {
        let mut cut = IPV4;
        cut[6..8].copy_from_slice(&flags.to_be_bytes());
        let datagram = parse(&cut).expect("IP");
        assert_eq!((datagram.fragment, datagram.offset), (fragment, offset), "{flags:#x}");
    }
}

#[test]
fn ipv6_chains_are_walked_and_destination_options_belong_inside_unless_routing_follows() {
    let (hop, dst, routing) = (number::HOP_BY_HOP, number::DESTINATION_OPTIONS, number::ROUTING);
    let rows: [(&[u8], usize, usize); 6] = [
        (&[], 40, 40),
        (&[hop], 48, 48),
        (&[hop, dst], 48, 56),
        (&[dst, routing], 56, 56),
        (&[dst], 40, 48),
        (&[hop, dst, routing, dst], 64, 72),
    ];
    for (chain, first, upper) in rows {
        let packet = ipv6(chain);
        let datagram = parse(&packet).expect("IP");
        assert_eq!(
            (datagram.first.at, datagram.upper.at, datagram.upper.protocol),
            (first, upper, number::TCP),
            "{chain:?}"
        );
        assert_eq!(packet[datagram.first.link], datagram.first.protocol, "{chain:?}");
        assert_eq!((datagram.traffic_class, datagram.flow_label), (0xab, 0x1234));
        assert!(datagram.dont_fragment && !datagram.fragment);
        for octets in 0..packet.len() {
            assert_eq!(parse(&packet[..octets]), None, "{octets}");
        }
    }
}

#[test]
fn an_ipv6_chain_stops_where_it_is_cut_and_at_later_fragments() {
    let mut packet = ipv6(&[number::FRAGMENT, number::DESTINATION_OPTIONS]);
    assert!(!parse(&packet).expect("IP").fragment, "a fragment header alone makes none");
    packet[43] = 1;
    let datagram = parse(&packet).expect("IP");
    assert_eq!((datagram.fragment, datagram.offset, datagram.upper.at), (true, 0, 56));
    packet[42] = 1;
    let datagram = parse(&packet).expect("IP");
    assert_eq!((datagram.fragment, datagram.offset, datagram.upper.at), (true, 256, 48));
    assert_eq!(datagram.upper.protocol, number::DESTINATION_OPTIONS);
    let mut long = ipv6(&[number::HOP_BY_HOP]);
    long[41] = 200;
    let datagram = parse(&long).expect("IP");
    assert_eq!((datagram.upper.protocol, datagram.upper.at, datagram.upper.link), (number::HOP_BY_HOP, 40, 6));
}

#[test]
fn checksums_are_those_of_rfc_1071() {
    // RFC 1071 §3's octets sum to ddf2.
    assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    assert_eq!((checksum(&[]), checksum(&[0; 4]), checksum(&[0xff; 2])), (0xffff, 0xffff, 0));
    assert_eq!(checksum(&[1]), !0x0100, "an odd octet is the upper half of a word");
}

#[test]
fn flows_show_ports_types_and_hidden_fields() {
    let mut packet = vec![0x45, 0, 0, 24, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x34, 0x00, 0x50];
    let flow_of = |packet: &[u8]| flow(packet).expect("IP");
    assert_eq!(flow_of(&packet).ports, Some((0x1234, 80)));
    assert_eq!((flow_of(&packet).source, flow_of(&packet).destination), (0x0a00_0001, 0x0a00_0002));
    packet[9] = number::ICMP;
    assert_eq!(flow_of(&packet).ports, Some((0x12, 0x34)));
    packet[9] = number::MOBILITY;
    assert_eq!(flow_of(&packet).ports, Some((0, 0)));
    packet[9] = 47;
    assert_eq!(flow_of(&packet).ports, None);
    (packet[9], packet[7]) = (6, 1);
    assert_eq!(flow_of(&packet).ports, None, "a later fragment shows no ports");
}

proptest! {
    #[test]
    fn no_octets_make_it_panic(mut packet in prop::collection::vec(any::<u8>(), 0..120), six in any::<bool>()) {
        if let Some(first) = packet.first_mut() {
            *first = *first & 15 | if six { 0x60 } else { 0x40 };
        }
        if let Some(datagram) = parse(&packet) {
            prop_assert!(datagram.octets <= packet.len());
            prop_assert!(datagram.first.at <= datagram.upper.at && datagram.upper.at <= datagram.octets);
            prop_assert!(datagram.upper.link < datagram.octets);
            prop_assert!(flow(&packet).is_some() && addresses(&packet).is_some());
        }
    }

    #[test]
    fn a_checksum_adjusted_is_one_computed_anew(
        mut octets in prop::collection::vec(any::<[u8; 2]>(), 4..40), new in any::<[u8; 4]>(), at in 0usize..3,
    ) {
        let mut flat = octets.concat();
        let old = checksum(&flat);
        let removed = flat[2 * at..2 * at + 4].to_vec();
        flat[2 * at..2 * at + 4].copy_from_slice(&new);
        octets.clear();
        // Both zeros of ones' complement are one number.
        prop_assert_eq!(adjust_checksum(old, &removed, &new) % 0xffff, checksum(&flat) % 0xffff);
    }

    #[test]
    fn the_sum_of_wide_words_is_that_of_16_bits(octets in prop::collection::vec(any::<u8>(), 0..200)) {
        let words = octets.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
        let mut sum = words.sum::<u32>();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        prop_assert_eq!(fold(super::sum(&octets)), sum as u16);
    }
}
