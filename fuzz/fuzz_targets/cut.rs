//! Any octets as what a device with offloads reads: header, packet, cut; and the parts joined again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wesper_dataplane::cut::{Cut, complete_checksum};
use wesper_dataplane::join::{Joiner, Piece};
use wesper_dataplane::vnet::Vnet;

fuzz_target!(|octets: &[u8]| {
    let Some((header, packet)) = octets.split_first_chunk() else { return };
    let Some(vnet) = Vnet::read(header, 0) else { return };
    if let Some((start, offset)) = vnet.checksum {
        let _ = complete_checksum(&mut packet.to_vec(), start, offset);
    }
    let Ok(cut) = Cut::plan(packet, &vnet) else { return };
    let (mut buf, mut joiner) = (Vec::new(), Joiner::new(true));
    let mut payload = Vec::new();
    let mut parts = Vec::new();
    for index in 0..cut.count() {
        let at = buf.len();
        buf.resize(at + cut.octets(index), 0);
        cut.write(index, packet, &mut buf[at..]);
        payload.extend_from_slice(&buf[at + cut.header()..]);
        parts.push(Piece { at, len: buf.len() - at });
    }
    assert_eq!(payload, packet[cut.header()..]);
    for part in &parts {
        joiner.push(&buf, *part);
    }
    let (mut packets, mut octets) = (0, 0);
    joiner.drain(|joined| {
        packets += joined.count();
        octets += joined.octets();
    });
    assert_eq!((packets, octets), (parts.len(), buf.len()));
});
