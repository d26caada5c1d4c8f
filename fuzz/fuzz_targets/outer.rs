//! Any octets as packets of an engine on their way to sockets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wesper_dataplane::group::{Groups, LinkEnd, LinkKind};
use wesper_dataplane::join::Piece;
use wesper_dataplane::outer::{Outer, is_alike};

fuzz_target!(|octets: &[u8]| {
    let links = [LinkKind::Udp4, LinkKind::Udp6, LinkKind::Raw4, LinkKind::Raw6].map(|kind| {
        let local = if kind.is_ipv6() { [0; 16].into() } else { [0; 4].into() };
        LinkEnd { kind, local, port: if kind.is_udp() { 4500 } else { 0 } }
    });
    let half = octets.len() / 2;
    let (one, other) = octets.split_at(half);
    if is_alike(one, other)
        && let (Some(one), Some(other)) = (Outer::of(one), Outer::of(other))
    {
        assert_eq!(one, other);
    }
    let mut groups = Groups::default();
    let mut taken = 0;
    for (at, len) in [(0, half), (half, octets.len() - half), (0, half)] {
        taken += usize::from(groups.push(octets, Piece { at, len }, &links, |_| true));
    }
    assert_eq!(groups.pieces.len(), taken);
    assert_eq!(groups.groups.iter().map(|group| group.pieces.len()).sum::<usize>(), taken);
    for group in &groups.groups {
        let sum: usize = groups.pieces[group.pieces.clone()].iter().map(|piece| piece.len).sum();
        assert_eq!(sum, group.octets);
    }
});
