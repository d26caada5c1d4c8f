//! Any octets as an IP packet: its header chain, its flow, its addresses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wesper_core::ip;

fuzz_target!(|packet: &[u8]| {
    let Some(datagram) = ip::parse(packet) else {
        assert!(ip::flow(packet).is_none());
        return;
    };
    let ip::Datagram { octets, first, upper, .. } = datagram;
    assert!(octets <= packet.len() && first.at <= upper.at && upper.at <= octets && upper.link < octets);
    assert_eq!(packet[upper.link], upper.protocol);
    assert_eq!(packet[first.link], first.protocol);
    // What follows the packet is not part of it.
    assert_eq!(ip::parse(&packet[..octets]), Some(datagram));
    assert_eq!(ip::flow(&packet[..octets]), ip::flow(packet));
    assert!(ip::addresses(packet).is_some());
});
