//! Packets into PSP's receiver: any octets, or an authentic packet of any version around any header bits and payload.
//!
//! Input: how (bit 0: authentic), then the packet; or Next Header, Hdr Ext Len, third and fourth octet, top of the SPI,
//! whether over IPv6, then extension and payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wesper_core::aead::Provider;
use wesper_core::ip;
use wesper_core::psp::engine::Options;
use wesper_core::psp::{Engine, Output, PORT, Version};
use wesper_core::verdict::DropReason;

/// IP and UDP around a PSP packet.
fn in_udp(psp: &[u8], is_ipv6: bool) -> Vec<u8> {
    let octets = psp.len() as u16 + 8;
    let mut head = vec![0; if is_ipv6 { 40 } else { 20 }];
    if is_ipv6 {
        (head[0], head[6]) = (0x60, 17);
        head[4..6].copy_from_slice(&octets.to_be_bytes());
    } else {
        (head[0], head[9]) = (0x45, 17);
        head[2..4].copy_from_slice(&(octets + 20).to_be_bytes());
    }
    let [a, b] = PORT.to_be_bytes();
    let [c, d] = octets.to_be_bytes();
    [&head[..], &[0xc0, 1, a, b, c, d, 0, 0], psp].concat()
}

fn authentic(engine: &Engine, bits: [u8; 6], rest: &[u8]) -> Option<Vec<u8>> {
    let [next_header, units, offset, flags, top, family] = bits;
    let flags = flags & 0b1100_1111 | 1;
    let version = Version::of(flags >> 2 & 15)?;
    let spi = u32::from(top) << 24 | 1;
    let key = engine.derive(spi, version)?;
    let psp = [&[next_header, units, offset, flags][..], &spi.to_be_bytes(), &[7; 8], rest].concat();
    let sealed = engine.seal(&key[..version.key_octets()], &psp)?;
    (sealed.len() < 60_000).then(|| in_udp(&sealed, family & 1 == 1))
}

fuzz_target!(|data: &[u8]| {
    let [how, data @ ..] = data else { return };
    let engine = Engine::new(Options {
        port: PORT,
        versions: 15,
        verify_checksum: how & 2 == 0,
        hash_key: [1; 16],
        provider: Provider::default(),
    });
    engine.set_device_key(0, Some(&[5; 32]));
    engine.set_device_key(1, Some(&[6; 32]));
    let packet = match data {
        [a, b, c, d, e, f, rest @ ..] if how & 1 == 1 => {
            let Some(packet) = authentic(&engine, [*a, *b, *c, *d, *e, *f], rest) else { return };
            packet
        }
        _ => data.to_vec(),
    };
    let (mut inner, mut extension) = (Output::default(), Vec::new());
    let opened = engine.decapsulate(&packet, &mut inner, &mut extension);
    let batch = engine.decapsulate_many(Vec::new(), &packet, &[0, packet.len() as u64]);
    let inner = inner.data();
    assert_eq!(batch.output.data(), inner, "a batch gives the same octets");
    match opened {
        Ok(opened) => {
            let reason = opened.reason;
            assert_eq!(batch.codes, [reason.map_or(0, |reason| reason as u8)]);
            if matches!(reason, None | Some(DropReason::PspSampled)) {
                assert_eq!(ip::parse(inner).map(|datagram| datagram.octets), Some(inner.len()));
                assert_eq!((batch.spis[0], batch.ivs[0], batch.flags[0]), (opened.spi, opened.iv, opened.flags));
            } else {
                assert!(inner.is_empty());
            }
        }
        Err(reason) => {
            assert!(inner.is_empty() && extension.is_empty(), "nothing of a packet that is not authentic gets out");
            assert_eq!(batch.codes, [reason as u8]);
        }
    }
});
