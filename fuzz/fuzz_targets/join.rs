//! Any octets as packets that were opened, each behind its length: joined, cut again, and nothing has changed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wesper_dataplane::cut::Cut;
use wesper_dataplane::join::{Joiner, Piece};
use wesper_dataplane::vnet::Gso;

fuzz_target!(|octets: &[u8]| {
    let mut joiner = Joiner::new(true);
    let (mut rest, mut at) = (octets, 0);
    let mut packets: Vec<&[u8]> = Vec::new();
    while let Some(([a, b], behind)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([*a, *b]) & 0x7ff).min(behind.len());
        joiner.push(octets, Piece { at: at + 2, len });
        packets.push(&behind[..len]);
        rest = &behind[len..];
        at += 2 + len;
    }
    let mut after = Vec::new();
    joiner.drain(|joined| {
        let (vnet, head, pieces) = joined.finish();
        let whole = [head.to_vec(), pieces.iter().flat_map(|piece| piece.of(octets).to_vec()).collect()].concat();
        if vnet.gso == Gso::None {
            return after.push(whole);
        }
        let cut = Cut::plan(&whole, &vnet).expect("what is joined can be cut");
        for index in 0..cut.count() {
            let mut part = vec![0; cut.octets(index)];
            cut.write(index, &whole, &mut part);
            after.push(part);
        }
    });
    let mut before: Vec<_> = packets.into_iter().map(|packet| unnumbered(packet.to_vec())).collect();
    let mut after: Vec<_> = after.into_iter().map(unnumbered).collect();
    // Flows may overtake each other.
    before.sort();
    after.sort();
    assert_eq!(before, after);
});

/// Takes out the number of an atomic datagram, which may stand still, and what it does to the checksum (RFC 6864 §4.1).
fn unnumbered(mut packet: Vec<u8>) -> Vec<u8> {
    if packet.len() >= 20 && packet[0] == 0x45 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}
