use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;
use crate::profile::Profile;
use crate::suite::SuiteId;

const ROOM: usize = HEADROOM;

fn ends(is_ipv6: bool, net: u8) -> (IpAddr, IpAddr) {
    let end = |host: u8| match is_ipv6 {
        true => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, net.into(), 0, 0, 0, 0, host.into())),
        false => [10, net, 0, host].into(),
    };
    (end(1), end(2))
}

fn outer(is_ipv6: bool) -> Outer {
    let (local, remote) = ends(is_ipv6, 9);
    Profile::tunnel(SuiteId::AesGcm16, local, remote).outer.expect("a tunnel has it")
}

fn inner(is_ipv6: bool) -> Inner {
    let (local, remote) = ends(is_ipv6, 5);
    Inner { local, remote }
}

/// A packet from the inner pair's local end, in a buffer with room.
fn in_buffer(is_ipv6: bool, options: &[u8], payload: &[u8]) -> (Vec<u8>, usize) {
    let (local, remote) = ends(is_ipv6, 5);
    let fields = Fields { traffic_class: 0xb8, hops: 33, identification: 0x1234, df: true, flow_label: 0x54321 };
    let mut head = [0; 80];
    let len = write_header(&mut head, &fields, local, remote, options, number::UDP, payload.len());
    let packet = [&head[..len], payload].concat();
    ([&[0; ROOM][..], &packet, &[0; 32]].concat(), packet.len())
}

/// Encloses, finishes as with an empty protocol, and releases at the other end.
fn round_trip(mode: Mode, buf: &mut [u8], octets: usize, outer: &Outer, inner: &Inner) -> Result<Vec<u8>, DropReason> {
    let datagram = ip::parse(&buf[ROOM..ROOM + octets]).expect("IP");
    let enclosed = enclose(mode, &datagram, buf, ROOM, Some(outer), Some(inner))?;
    let (end, head) = (ROOM + octets, enclosed.head.len());
    let to = enclosed.payload - head;
    enclosed.head.place(buf, to, end, 50).expect("room");
    let sent = ip::parse(&buf[to..end]).expect("IP");
    assert_eq!((sent.octets, sent.upper.protocol, sent.upper.at), (end - to, 50, head));
    assert!(sent.version != 4 || ip::checksum(&buf[to..to + head]) == 0);
    if mode == Mode::Beet {
        assert_eq!(ip::addresses(&buf[to..end]), Some((outer.local, outer.remote)));
    }
    let payload = Payload {
        next_header: enclosed.next_header,
        at: enclosed.payload,
        octets: end - enclosed.payload,
        start: to,
        head,
        link: sent.upper.link,
    };
    // The other end's pair is the mirror of ours.
    let mirrored = Inner { local: inner.remote, remote: inner.local };
    let mirrored = (mode == Mode::Beet).then_some(&mirrored);
    let (start, len) = release(mode, &sent, buf, payload, mirrored)?;
    Ok(buf[start..start + len].to_vec())
}

#[test]
fn beet_gives_back_the_packet_in_all_four_pairs_of_versions() {
    for (inside, outside) in [(false, false), (false, true), (true, false), (true, true)] {
        for options in [&[][..], &[1; 4], &[1; 8], &[1; 40]] {
            if inside && !options.is_empty() {
                continue;
            }
            let (mut buf, octets) = in_buffer(inside, options, &[0x77; 30]);
            let before = buf[ROOM..ROOM + octets].to_vec();
            let after = round_trip(Mode::Beet, &mut buf, octets, &outer(outside), &inner(inside)).expect("its pair");
            let mut expected = before.clone();
            if inside != outside && inside {
                // IPv4 has no place for a flow label.
                (expected[1], expected[2], expected[3]) = (0x80, 0, 0);
            }
            if inside != outside && !inside {
                // Nor IPv6 for an identification: 0 comes back, with DF set.
                expected[4..6].fill(0);
                let head = 20 + options.len();
                complete(&mut expected[..head], before.len(), 9, number::UDP);
            }
            assert_eq!(after, expected, "{inside} in {outside}, {} octets of options", options.len());
        }
    }
}

#[test]
fn beet_takes_its_pair_alone_and_whole_datagrams() {
    let (mut buf, octets) = in_buffer(false, &[], &[1; 20]);
    let wrong = Inner { local: [10, 5, 0, 3].into(), ..inner(false) };
    assert_eq!(round_trip(Mode::Beet, &mut buf, octets, &outer(false), &wrong), Err(DropReason::OutMode));
    assert_eq!(round_trip(Mode::Beet, &mut buf, octets, &outer(false), &inner(true)), Err(DropReason::OutMode));
    buf[ROOM + 6] = 0x20;
    for mode in [Mode::Beet, Mode::Transport] {
        assert_eq!(round_trip(mode, &mut buf, octets, &outer(false), &inner(false)), Err(DropReason::OutMode));
    }
}

#[test]
fn transport_mode_keeps_header_and_options() {
    for (is_ipv6, options) in [(false, &[][..]), (false, &[1; 8]), (true, &[])] {
        let (mut buf, octets) = in_buffer(is_ipv6, options, &[3; 25]);
        let before = buf[ROOM..ROOM + octets].to_vec();
        let after = round_trip(Mode::Transport, &mut buf, octets, &outer(false), &inner(false)).expect("whole");
        assert_eq!(after, before);
    }
}

#[test]
fn templates_fill_what_the_packet_decides() {
    let taken = Taken { traffic_class: 0b1011_1001, df: DF, flow_label: 0x12345 };
    let written = |outer: &Outer, taken| {
        let mut packet = [0xee; 100];
        let template = Template::new(outer, 50);
        template.write(&mut packet, 100, taken, 0xabcd);
        assert!(outer.local.is_ipv6() || ip::checksum(&packet[..20]) == 0);
        assert_eq!(ip::addresses(&packet), Some((outer.local, outer.remote)));
        assert_eq!(packet[template.len()..], [0xee; 100][template.len()..]);
        packet
    };
    let v4 = outer(false);
    let head = |outer: &Outer, taken| {
        let packet = written(outer, taken);
        let [a, b, c, d] = [1, 4, 5, 6].map(|at| packet[at]);
        assert_eq!((packet[0], &packet[2..4], packet[8], packet[9]), (0x45, &[0, 100][..], 64, 50));
        (a, u16::from_be_bytes([b, c]), d)
    };
    assert_eq!(head(&v4, taken), (0b1011_1001, 0, 0x40));
    assert_eq!(head(&v4, Taken { df: 0, ..taken }), (0b1011_1001, 0xabcd, 0));
    assert_eq!(head(&Outer { df: Df::Set, ..v4 }, Taken { df: 0, ..taken }), (0b1011_1001, 0, 0x40));
    assert_eq!(head(&Outer { df: Df::Clear, ..v4 }, taken), (0b1011_1001, 0xabcd, 0));
    assert_eq!(head(&Outer { identification: Some(7), ..v4 }, taken), (0b1011_1001, 7, 0x40));
    assert_eq!(head(&Outer { dscp: Some(1), ..v4 }, taken), (0b101, 0, 0x40));
    assert_eq!(head(&Outer { copy_ecn: false, ..v4 }, taken), (0b1011_1000, 0, 0x40));
    let v6 = outer(true);
    let head = |outer: &Outer| {
        let packet = written(outer, taken);
        assert_eq!((&packet[4..6], packet[6], packet[7]), (&[0, 60][..], 50, 64));
        u32::from_be_bytes(*packet.first_chunk().expect("four"))
    };
    assert_eq!(head(&v6), 0x6b91_2345);
    assert_eq!(head(&Outer { flow_label: Some(0xf), dscp: Some(0), copy_ecn: false, ..v6 }), 0x6000_000f);
}

#[test]
fn a_tunnels_inner_packet_takes_ecn_and_dscp_with_its_checksum_mended() {
    for (outer, take_dscp, expected) in [(0b0000_0111, false, 0b1011_1011), (0b0000_0110, true, 0b0000_0110)] {
        let (mut buf, octets) = in_buffer(false, &[], &[0; 8]);
        let packet = &mut buf[ROOM..ROOM + octets];
        (packet[1], packet[10], packet[11]) = (0b1011_1010, 0, 0);
        let sum = ip::checksum(&packet[..20]).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        let released = release_tunnel(packet, Arrived { traffic_class: outer, take_dscp });
        assert_eq!(released, Released { is_dropped: false, alarm: Alarm::None, inner_ecn: 2 });
        assert_eq!((packet[1], ip::checksum(&packet[..20])), (expected, 0));
    }
    let (mut buf, octets) = in_buffer(true, &[], &[0; 8]);
    let packet = &mut buf[ROOM..ROOM + octets];
    assert!(release_tunnel(packet, Arrived { traffic_class: 3, take_dscp: false }).is_dropped, "CE on Not-ECT");
    release_tunnel(packet, Arrived { traffic_class: 0xfd, take_dscp: true });
    assert_eq!(packet[..4], [0x6f, 0xc5, 0x43, 0x21]);
}

#[test]
fn lengths_of_inner_packets_are_held_to_next_header_and_payload() {
    let v4 = in_buffer(false, &[], &[0; 8]).0[ROOM..ROOM + 40].to_vec();
    assert_eq!((inner_length(4, &v4), inner_length(41, &v4), inner_length(17, &v4)), (Some(28), None, None));
    assert_eq!(inner_length(4, &v4[..27]), None);
    let v6 = in_buffer(true, &[], &[0; 8]).0[ROOM..ROOM + 60].to_vec();
    assert_eq!((inner_length(41, &v6), inner_length(4, &v6), inner_length(41, &v6[..47])), (Some(48), None, None));
}

#[test]
fn checksums_made_before_nat_are_mended() {
    // A UDP datagram whose checksum was made with 10.5.0.1 and 10.5.0.2; it arrives between other addresses.
    let segment = [0u8, 1, 0, 2, 0, 12, 0, 0, 9, 8, 7, 6];
    let sum = |addresses: &[u8], segment: &[u8]| {
        !ip::fold(ip::pseudo_header_sum(addresses, number::UDP, segment.len()) + ip::sum(segment))
    };
    let mut sent = segment;
    sent[6..8].copy_from_slice(&sum(&[10, 5, 0, 1, 10, 5, 0, 2], &segment).to_be_bytes());
    let mut buf = [[0x45; 20].as_slice(), &sent].concat();
    buf[12..20].copy_from_slice(&[192, 0, 2, 1, 198, 51, 100, 7]);
    let payload = Payload { next_header: number::UDP, at: 20, octets: 12, start: 0, head: 20, link: 9 };
    let original = Inner { local: [10, 5, 0, 2].into(), remote: [10, 5, 0, 1].into() };
    undo_nat(&mut buf, &payload, &original).expect("mended");
    assert_eq!(sum(&[192, 0, 2, 1, 198, 51, 100, 7], &buf[20..]), 0);
    buf[26..28].fill(0);
    assert_eq!(undo_nat(&mut buf, &payload, &original), None, "no checksum, nothing to mend");
    assert_eq!(undo_nat(&mut buf, &Payload { octets: 7, ..payload }, &original), None, "too short for one");
}

proptest! {
    #[test]
    fn no_pseudo_header_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..80), is_ipv4 in any::<bool>()) {
        if let Some(pseudo) = PseudoHeader::parse(&body, is_ipv4) {
            prop_assert!(is_ipv4 && pseudo.octets <= body.len() && pseudo.options.len() <= 40);
        }
    }

    #[test]
    fn no_payload_makes_a_release_panic(
        mut packet in prop::collection::vec(any::<u8>(), 20..120), six in any::<bool>(), beet in any::<bool>(),
        inside in any::<bool>(), next_header in prop::sample::select(vec![4u8, 6, 17, 41, 59, 94]), cut in 0usize..60,
    ) {
        packet[0] = if six { 0x60 } else { 0x45 };
        let octets = packet.len() as u16;
        let (at, told) = if six { (4, octets.saturating_sub(40)) } else { (2, octets) };
        packet[at..at + 2].copy_from_slice(&told.to_be_bytes());
        let Some(datagram) = ip::parse(&packet) else { return Ok(()) };
        let upper = datagram.upper;
        let mut buf = [&[0; 12][..], &packet].concat();
        let at = (12 + upper.at + 8 + cut).min(buf.len());
        let payload =
            Payload { next_header, at, octets: buf.len() - at, start: 12, head: upper.at, link: upper.link };
        let mode = if beet { Mode::Beet } else { Mode::Transport };
        if let Ok((start, len)) = release(mode, &datagram, &mut buf, payload, Some(&inner(inside))) {
            prop_assert!(ip::parse(&buf[start..start + len]).is_some());
        }
    }
}
