//! Every packet of `vectors/esp.json` through the two halves, whole packets out and in.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use wesper_core::aead::Provider;
use wesper_core::profile::{Df, Mode, Options, Outer, Profile, Sa, UdpEncapsulation};
use wesper_core::receiver::Receiver;
use wesper_core::sender::{Besides, Dropped, HEADROOM, Sender, TAILROOM};
use wesper_core::suite::Suite;
use wesper_core::verdict::DropReason;

fn octets(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

fn number(value: &Value) -> u64 {
    value.as_str().map_or_else(
        || value.as_u64().expect("a number"),
        |text| u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a hex number"),
    )
}

fn list(name: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../../../vectors/esp.json")).expect("JSON");
    let list = file[name].as_array().expect("the list is there").clone();
    assert!(!list.is_empty());
    list
}

struct Case {
    profile: Arc<Profile>,
    spi: u32,
    sequence: u64,
    key: Vec<u8>,
    salt: Vec<u8>,
    auth_key: Vec<u8>,
    iv: Vec<u8>,
    preload: Vec<u64>,
}

impl Case {
    fn of(vector: &Value) -> Self {
        let params = &vector["params"];
        let suffix = if params["iv_mode"] == "implicit" { "-iiv" } else { "" };
        let name = format!("{}{suffix}", params["alg"].as_str().expect("a name"));
        let suite = Suite::by_name(&name).unwrap_or_else(|| panic!("no suite {name}"));
        let (mut local, mut remote): (IpAddr, IpAddr) = ([0, 0, 0, 0].into(), [0, 0, 0, 0].into());
        if let Some(source) = params["outer"]["src"].as_str() {
            local = source.parse().expect("an address");
            remote = params["outer"]["dst"].as_str().expect("an address").parse().expect("an address");
        }
        let mut profile = Profile::tunnel(suite.id, local, remote);
        if params["mode"] == "transport" {
            (profile.mode, profile.outer) = (Mode::Transport, None);
        } else {
            let outer = &params["outer"];
            profile.outer = Some(Outer {
                hop_limit: number(&outer["ttl"]) as u8,
                df: if outer["df"] == true { Df::Set } else { Df::Clear },
                identification: outer["id"].as_u64().map(|id| id as u16),
                flow_label: outer["flow"].as_u64().map(|label| label as u32),
                ..profile.outer.expect("a tunnel has it")
            });
        }
        if params["udp"].is_object() {
            profile.encapsulation = Some(UdpEncapsulation {
                local_port: number(&params["udp"]["sport"]) as u16,
                remote_port: number(&params["udp"]["dport"]) as u16,
                checksum: Some(params["udp"]["checksum"] == "computed"),
            });
        }
        profile.esn = params["esn"] == true;
        profile.window = params["replay"]["window"].as_u64().unwrap_or(0) as u32;
        let preload = params["replay"]["preload"].as_array().map(|list| list.iter().map(number).collect());
        Self {
            profile: Arc::new(profile),
            spi: number(&params["spi"]) as u32,
            sequence: number(&params["seq"]),
            key: octets(&vector["key_hex"]),
            salt: octets(&vector["salt_hex"]),
            auth_key: octets(&params["auth_key_hex"]),
            iv: octets(&params["iv_hex"]),
            preload: preload.unwrap_or_default(),
        }
    }

    fn sa(&self, sequence: u64, spi: u32) -> Sa<'_> {
        Sa {
            spi,
            key: &self.key,
            salt: &self.salt,
            auth_key: &self.auth_key,
            sequence,
            multicast: &[],
            iv: if self.iv.is_empty() { None } else { Some(&self.iv) },
        }
    }
}

fn options(provider: Provider) -> Options {
    Options { provider, ..Options::new([7; 16]) }
}

fn in_buffer(packet: &[u8]) -> Vec<u8> {
    [&[0; HEADROOM][..], packet, &[0; TAILROOM]].concat()
}

#[test]
fn packets_go_out_octet_for_octet() {
    let mut run = 0;
    for vector in list("vectors").iter().filter(|vector| vector["direction"] == "both") {
        for provider in Provider::ALL {
            let (case, params) = (Case::of(vector), &vector["params"]);
            let mut sender = Sender::new(&options(*provider));
            let sa = case.sa(case.sequence - 1, case.spi);
            let id = sender.install(&case.profile, &sa, 3, 0).expect("installs");
            assert_eq!(id, (1 << 40) + 3);
            let tfc = octets(&params["tfc_hex"]);
            let mut buf;
            let sealed = if params["dummy"] == true {
                let payload = octets(&params["dummy_hex"]);
                buf = in_buffer(&payload);
                sender.dummy(id, &mut buf, HEADROOM, payload.len(), 0)
            } else {
                let packet = octets(&vector["plaintext_packet_hex"]);
                buf = in_buffer(&packet);
                buf.resize(buf.len() + tfc.len(), 0);
                sender.encapsulate_with(id, &mut buf, HEADROOM, packet.len(), Besides { tfc: &tfc, mark: 0 }, 0)
            }
            .unwrap_or_else(|dropped| panic!("{}: {dropped:?}", vector["name"]));
            let made = &buf[sealed.start..sealed.start + sealed.len];
            assert_eq!(made, octets(&vector["protected_packet_hex"]), "{} by {}", vector["name"], provider.name());
            assert_eq!(sealed.sequence, case.sequence);
            assert_eq!(sender.state(id).map(|state| (state.sequence, state.packets)), Some((case.sequence, 1)));
        }
        run += 1;
    }
    assert!(run >= 20, "{run}");
}

#[test]
fn packets_come_in_octet_for_octet_or_are_dropped_for_their_reason() {
    let mut run = 0;
    for vector in &list("vectors") {
        for provider in Provider::ALL {
            check_inbound(vector, *provider);
        }
        run += 1;
    }
    assert!(run >= 36, "{run}");
}

fn check_inbound(vector: &Value, provider: Provider) {
    let case = Case::of(vector);
    let mut receiver = Receiver::new(&options(provider));
    let top = match case.preload.iter().max() {
        Some(top) => *top,
        // Without a window, a receiver under ESN knows the high half.
        None if case.profile.window == 0 && case.profile.esn => case.sequence.saturating_sub(1),
        None => 0,
    };
    // A preloaded number counts as seen: one that is the window's top is told by sealing and opening it.
    let start = if case.preload.is_empty() { top } else { top - 1 };
    let sa = case.sa(start, case.spi);
    let id = receiver.install(&case.profile, &sa, 0).expect("installs");
    for preload in &case.preload {
        let mut sender = Sender::new(&options(provider));
        let out = sender.install(&case.profile, &case.sa(preload - 1, case.spi), 0, 0).expect("installs");
        let packet = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let mut buf = in_buffer(&packet);
        let sealed = sender.encapsulate(out, &mut buf, HEADROOM, packet.len(), 0).expect("goes out");
        let opened = receiver.decapsulate(&mut buf, sealed.start, sealed.len, 0).expect("comes in");
        assert_eq!(opened.sequence, *preload);
    }
    let packet = octets(&vector["protected_packet_hex"]);
    let mut buf = in_buffer(&packet);
    let opened = receiver.decapsulate(&mut buf, HEADROOM, packet.len(), 0);
    let what = format!("{} by {}", vector["name"], provider.name());
    let expect = vector["expect"].as_str().expect("a verdict");
    let plaintext = octets(&vector["plaintext_packet_hex"]);
    let reason = match expect {
        "ok" if plaintext.is_empty() => DropReason::Dummy,
        "ok" => {
            let opened = opened.unwrap_or_else(|reason| panic!("{what}: {reason:?}"));
            assert_eq!(&buf[opened.start..opened.start + opened.len], plaintext, "{what}");
            assert_eq!((opened.sa, opened.sequence), (id, case.sequence), "{what}");
            return;
        }
        "error:auth" => DropReason::Auth,
        "error:no_sa" => DropReason::NoSa,
        "error:replay" => DropReason::Replay,
        "error:bad_padding" => DropReason::BadPadding,
        "error:fragment" => DropReason::Fragment,
        "error:truncated" if packet.len() < 28 => DropReason::TruncatedHeader,
        "error:truncated" => DropReason::Truncated,
        other => panic!("{other} is not known here"),
    };
    assert_eq!(opened, Err(reason), "{what}");
    assert_eq!(receiver.drops()[reason as usize], 1, "{what}");
}

#[test]
fn the_largest_inner_packet_is_what_the_vectors_say_and_what_fits() {
    for row in list("inner_mtu") {
        let mut vector = row.clone();
        let params = &mut vector["params"];
        if params["alg"].is_null() {
            params["alg"] = "aes-gcm-16".into();
        }
        params["mode"] = "tunnel".into();
        params["spi"] = 0x1000.into();
        params["seq"] = 1.into();
        if params["outer"].is_null() {
            params["outer"] = serde_json::json!({"version": 4, "src": "192.0.2.1", "dst": "192.0.2.2", "ttl": 64});
        }
        let is_cbc = params["alg"].as_str().is_some_and(|name| name.contains("cbc"));
        if is_cbc {
            params["auth_key_hex"] = "00".repeat(32).into();
        }
        vector["key_hex"] = "00".repeat(16).into();
        vector["salt_hex"] = if is_cbc { "" } else { "00000000" }.into();
        let mut case = Case::of(&vector);
        let profile = Profile { mtu: number(&row["outer_mtu"]) as u16, ..Profile::clone(&case.profile) };
        case.profile = Arc::new(profile);
        let mut sender = Sender::new(&options(Provider::AwsLc));
        let id = sender.install(&case.profile, &case.sa(0, 0x1000), 0, 0).expect("installs");
        let largest = number(&row["inner_mtu"]) as usize;
        assert_eq!(sender.inner_mtu(id, 0), Some(largest), "{row}");
        for octets in [largest, largest + 1] {
            let mut packet = vec![0; octets];
            packet[..4].copy_from_slice(&[0x45, 0, (octets >> 8) as u8, octets as u8]);
            let mut buf = in_buffer(&packet);
            let sealed = sender.encapsulate(id, &mut buf, HEADROOM, octets, 0);
            if octets == largest {
                let outer_mtu = number(&row["outer_mtu"]) as usize;
                assert!(sealed.is_ok_and(|sealed| sealed.len <= outer_mtu), "{row}");
            } else {
                assert_eq!(sealed, Err(Dropped { reason: DropReason::OutTooBig, mtu: largest }), "{row}");
            }
        }
    }
}
