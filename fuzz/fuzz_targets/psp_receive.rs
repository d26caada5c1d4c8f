//! Packets into PSP's receiver: any octets, or an authentic packet of any version around any header bits and payload.
//!
//! Input: how (bit 0: authentic), then the packet; or Next Header, Hdr Ext Len, third and fourth octet, top of the SPI,
//! whether over IPv6, then extension and payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wesper_core::aead::Provider;
use wesper_core::ip;
use wesper_core::profile::Lifetime;
use wesper_core::psp::engine::Options;
use wesper_core::psp::gateway::{Gateway, GatewayProfile};
use wesper_core::psp::guard::Rule;
use wesper_core::psp::{Engine, Mode, Opened, Output, PORT, Profile, Version};
use wesper_core::replay::ReplayWindow;
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

/// A gateway opens where the packet lies, and comes to the same; what is for none of its associations it keeps.
fn in_place(options: &Options, engine: &Engine, packet: &[u8], opened: &Result<Opened, DropReason>, inner: &[u8]) {
    let gateway = Gateway::new(options, 4);
    for (slot, key) in [5, 6].into_iter().enumerate() {
        gateway.receiver().set_device_key(slot, Some(&[key; 32]));
    }
    let decapsulate = |gateway: &Gateway| {
        let mut buf = packet.to_vec();
        let found = gateway.receiver().decapsulate(&mut buf, 0, packet.len());
        found.map(|found| buf[found.start..found.start + found.len].to_vec())
    };
    let refused = match opened {
        Err(reason) => *reason,
        Ok(opened) => opened.reason.unwrap_or(DropReason::PspNoDeviceKey),
    };
    assert_eq!(decapsulate(&gateway), Err(refused));
    let Ok(opened) = opened else { return };
    let Some(version) = Version::of(opened.flags >> 2 & 15).filter(|_| opened.reason.is_none()) else { return };
    let mut delivered_by = 0;
    for mode in [Mode::Transport, Mode::TunnelCopied] {
        let cookie = (opened.flags & 2 != 0).then_some(opened.cookie);
        let profile = GatewayProfile {
            look: Profile { mode, version, cookie, ..Profile::default() },
            local: [192, 0, 2, 1].into(),
            remote: [192, 0, 2, 2].into(),
            selectors: Vec::new(),
            soft: Lifetime::default(),
            hard: Lifetime::default(),
            replay: Some(Rule::Exact(ReplayWindow::new(64).expect("a fine size"))),
        };
        let key = engine.derive(opened.spi, version).expect("it has just been derived");
        let key = &key[..version.key_octets()];
        gateway.receiver().install(&profile, opened.spi, key, 0).expect("a fine association");
        match decapsulate(&gateway) {
            Ok(delivered) => {
                assert_eq!(delivered, inner);
                delivered_by += 1;
            }
            Err(reason) => assert_eq!(reason, DropReason::SelectorMismatch),
        }
        assert_eq!(decapsulate(&gateway), Err(DropReason::PspReplay));
        let state = gateway.receiver().state(opened.spi.into()).expect("it is there");
        assert_eq!((state.packets, state.sequence, state.replay), (1, opened.iv, 1));
        assert!(gateway.receiver().remove(opened.spi.into()));
    }
    assert_eq!(delivered_by, 1, "a packet is of one mode");
}

fuzz_target!(|data: &[u8]| {
    let [how, data @ ..] = data else { return };
    let options = Options {
        port: PORT,
        versions: 15,
        verify_checksum: how & 2 == 0,
        hash_key: [1; 16],
        provider: Provider::default(),
    };
    let engine = Engine::new(options.clone());
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
    in_place(&options, &engine, &packet, &opened, inner);
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
