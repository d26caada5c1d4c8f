//! Every packet of `vectors/wespv2.json` and `vectors/eesp.json` through the two halves, whole packets out and in.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use wesper_core::aead::Provider;
use wesper_core::crypt_offset::{CryptOffset, Exposure};
use wesper_core::eesp::kdf::{MASTER_OCTETS, Sskdf};
use wesper_core::eesp::{self, Stateless, SubSas};
use wesper_core::flow_identifier::FlowPolicy;
use wesper_core::profile::{Df, Format, Inner, Mode, Options, Outer, Profile, Sa, UdpEncapsulation};
use wesper_core::protocol::Protocol;
use wesper_core::receiver::{Opened, Receiver};
use wesper_core::sender::{Dropped, HEADROOM, Sealed, Sender, TAILROOM};
use wesper_core::suite::Suite;
use wesper_core::verdict::DropReason;
use wesper_core::wespv2;

const WESPV2: &str = include_str!("../../../vectors/wespv2.json");
const EESP: &str = include_str!("../../../vectors/eesp.json");

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

fn list(text: &str, name: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(text).expect("JSON");
    let list = file[name].as_array().expect("the list is there").clone();
    assert!(!list.is_empty());
    list
}

fn address(value: &Value) -> IpAddr {
    value.as_str().expect("an address").parse().expect("an address")
}

fn options(params: &Value) -> Vec<(u8, Vec<u8>)> {
    let listed = params["options"].as_array().map(Vec::as_slice).unwrap_or_default();
    listed.iter().map(|option| (number(&option["type"]) as u8, octets(&option["data_hex"]))).collect()
}

/// Offsets of the vectors are what a sender takes, whatever is inside.
fn crypt_offset(words: u64) -> CryptOffset {
    CryptOffset { exposure: Exposure::Octets, octets: 4 * words as u8, expose_payload: true }
}

fn wespv2(params: &Value) -> wespv2::Settings {
    let words = params["crypt_offset"].as_u64().unwrap_or(0);
    let most = 4 * params["max_crypt_offset"].as_u64().unwrap_or(63) as u8;
    let mut options = options(params);
    let named = options.first().is_some_and(|(kind, _)| *kind == wespv2::FLOW_IDENTIFIER).then(|| options.remove(0));
    let flow_identifier = named.map(|(_, data)| {
        let flow = data.iter().fold(0, |flow, octet| flow << 8 | u64::from(*octet));
        (FlowPolicy::Fixed(flow), data.len() as u8)
    });
    wespv2::Settings {
        crypt_offset: if words == 0 { CryptOffset::default() } else { crypt_offset(words) },
        max_crypt_offset: most,
        crypt_offset_limit: most,
        flow_identifier,
        options,
    }
}

fn eesp(params: &Value, stateless: Option<Stateless>, key_octets: usize) -> eesp::Settings {
    let most = params["max_crypt_offset"].as_u64().map(|words| 4 * words as u8);
    let sub_sas = params["sub_sa"].is_object().then(|| SubSas {
        kdf: Sskdf::by_name(params["sub_sa"]["sskdf"].as_str().expect("a name")).expect("a KDF"),
        max_id: number(&params["sub_sa"]["max_id"]) as u16,
        peer_max_id: number(&params["sub_sa"]["max_id"]) as u16,
        key_octets: key_octets as u8,
        first_port: 0,
    });
    let mut options = options(params);
    if stateless.is_some() {
        options.retain(|(kind, _)| *kind != eesp::STATELESS);
    }
    eesp::Settings {
        sequence_numbers: params["sn"] != "none",
        crypt_offset: params["crypt_offset"].as_u64().map(crypt_offset),
        max_crypt_offset: most,
        crypt_offset_limit: most.unwrap_or(0),
        session: FlowPolicy::Fixed(params["session_id"].as_u64().unwrap_or(0)),
        sub_sas,
        stateless,
        options,
        ip_protocol: params["ip_proto"].as_u64().map_or(eesp::IP_PROTOCOL, |number| number as u8),
    }
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
    fn of(protocol: Protocol, vector: &Value) -> Self {
        let params = &vector["params"];
        let suffix = if params["iv_mode"] == "implicit" { "-iiv" } else { "" };
        let name = format!("{}{suffix}", params["alg"].as_str().expect("a name"));
        let suite = Suite::by_name(&name).unwrap_or_else(|| panic!("no suite {name}"));
        let (mut local, mut remote): (IpAddr, IpAddr) = ([0, 0, 0, 0].into(), [0, 0, 0, 0].into());
        if params["outer"]["src"].is_string() {
            (local, remote) = (address(&params["outer"]["src"]), address(&params["outer"]["dst"]));
        }
        let mut profile = Profile { protocol, ..Profile::tunnel(suite.id, local, remote) };
        let outer = &params["outer"];
        profile.outer = Some(Outer {
            hop_limit: outer["ttl"].as_u64().unwrap_or(64) as u8,
            df: if outer["df"] == true { Df::Set } else { Df::Clear },
            identification: outer["id"].as_u64().map(|id| id as u16),
            flow_label: outer["flow"].as_u64().map(|label| label as u32),
            ..profile.outer.expect("a tunnel has it")
        });
        let protected = octets(&vector["protected_packet_hex"]);
        if let (true, [_, _, _, _, high, low, _, _, hops, _, _, _, a, b, c, d, e, f, g, h, ..]) =
            (params["dummy"] == true && outer.is_null(), &protected[..])
        {
            // A dummy has no packet whose header it could take.
            profile.outer = Some(Outer {
                local: [*a, *b, *c, *d].into(),
                remote: [*e, *f, *g, *h].into(),
                hop_limit: *hops,
                df: Df::Set,
                identification: Some(u16::from_be_bytes([*high, *low])),
                ..profile.outer.expect("a tunnel has it")
            });
        }
        profile.mode = match params["mode"].as_str().expect("a mode") {
            "tunnel" => Mode::Tunnel,
            "transport" => Mode::Transport,
            "beet" => Mode::Beet,
            "iptfs" => Mode::Iptfs,
            other => panic!("{other} is no mode"),
        };
        if profile.mode == Mode::Beet {
            let inner = Inner { local: address(&params["inner_src"]), remote: address(&params["inner_dst"]) };
            profile.inner = Some(inner);
        }
        if params["udp"].is_object() {
            profile.encapsulation = Some(UdpEncapsulation {
                local_port: number(&params["udp"]["sport"]) as u16,
                remote_port: number(&params["udp"]["dport"]) as u16,
                checksum: Some(params["udp"]["checksum"] == "computed"),
            });
        }
        profile.esn = protocol == Protocol::Eesp || params["esn"] == true;
        profile.window = params["replay"]["window"].as_u64().unwrap_or(0) as u32;
        let (mut key, mut salt) = (octets(&vector["key_hex"]), octets(&vector["salt_hex"]));
        let (mut sequence, mut iv) =
            (params["seq"].as_str().map_or(1, |_| number(&params["seq"])), octets(&params["iv_hex"]));
        let key_octets = key.len();
        let stateless = params["stateless"].is_object().then(|| {
            let told = &params["stateless"];
            let mut master = vec![0; MASTER_OCTETS];
            for root in told["root_keys_hex"].as_array().expect("root keys") {
                master.iter_mut().zip(octets(root)).for_each(|(place, octet)| *place ^= octet);
            }
            (key, salt, iv) = (master, Vec::new(), Vec::new());
            sequence = number(&told["epoch"]) << eesp::COUNTER_BITS | number(&told["counter"]);
            let device = u64::from_str_radix(told["device_id_hex"].as_str().expect("hex"), 16).expect("a device");
            Stateless { device, indexes: vec![number(&told["root_key_index"]) as u8] }
        });
        if params["sub_sa"].is_object() {
            (key, salt) = (octets(&params["sub_sa"]["root_key_hex"]), Vec::new());
        }
        profile.format = match protocol {
            Protocol::WespV2 => Format::WespV2(wespv2(params)),
            _ => Format::Eesp(eesp(params, stateless, key_octets)),
        };
        let preload = params["replay"]["preload"].as_array().map(|list| list.iter().map(number).collect());
        Self {
            profile: Arc::new(profile),
            spi: number(&params["spi"]) as u32,
            sequence,
            key,
            salt,
            auth_key: octets(&params["auth_key_hex"]),
            iv,
            preload: preload.unwrap_or_default(),
        }
    }

    fn sa(&self, sequence: u64) -> Sa<'_> {
        Sa {
            spi: self.spi,
            key: &self.key,
            salt: &self.salt,
            auth_key: &self.auth_key,
            sequence,
            multicast: &[],
            iv: if self.iv.is_empty() { None } else { Some(&self.iv) },
        }
    }

    /// The profile as the other end has it.
    fn mirrored(&self) -> Arc<Profile> {
        let mut profile = Profile::clone(&self.profile);
        if let Some(outer) = &mut profile.outer {
            (outer.local, outer.remote) = (outer.remote, outer.local);
        }
        if let Some(inner) = &mut profile.inner {
            (inner.local, inner.remote) = (inner.remote, inner.local);
        }
        if let Some(udp) = &mut profile.encapsulation {
            (udp.local_port, udp.remote_port) = (udp.remote_port, udp.local_port);
        }
        Arc::new(profile)
    }

    /// The number that a receiver reports.
    fn told(&self) -> u64 {
        match &self.profile.format {
            Format::Eesp(settings) if !settings.sequence_numbers => 0,
            _ => self.sequence,
        }
    }

    fn send(&self, provider: Provider, params: &Value, packet: &[u8]) -> (Vec<u8>, Result<Sealed, Dropped>) {
        let mut sender = Sender::new(&with(provider));
        let id = sender.install(&self.profile, &self.sa(self.sequence.saturating_sub(1)), 3, 0).expect("installs");
        let payload = if params["dummy"] == true { octets(&params["dummy_hex"]) } else { packet.to_vec() };
        let mut buf = [&[0; HEADROOM][..], &payload, &[0; TAILROOM]].concat();
        let sealed = if params["dummy"] == true {
            sender.dummy(id, &mut buf, HEADROOM, payload.len(), 0)
        } else {
            sender.encapsulate(id, &mut buf, HEADROOM, payload.len(), 0)
        };
        (buf, sealed)
    }
}

fn with(provider: Provider) -> Options {
    Options { provider, ..Options::new([7; 16]) }
}

fn vectors() -> Vec<(Protocol, Value)> {
    let wespv2 = list(WESPV2, "vectors").into_iter().map(|vector| (Protocol::WespV2, vector));
    wespv2.chain(list(EESP, "vectors").into_iter().map(|vector| (Protocol::Eesp, vector))).collect()
}

#[test]
fn packets_go_out_octet_for_octet() {
    let mut run = 0;
    for (protocol, vector) in vectors().iter().filter(|(_, vector)| vector["direction"] == "both") {
        for provider in Provider::ALL {
            let case = Case::of(*protocol, vector);
            let packet = octets(&vector["plaintext_packet_hex"]);
            let (buf, sealed) = case.send(*provider, &vector["params"], &packet);
            let sealed = sealed.unwrap_or_else(|dropped| panic!("{}: {dropped:?}", vector["name"]));
            let made = &buf[sealed.start..sealed.start + sealed.len];
            assert_eq!(made, octets(&vector["protected_packet_hex"]), "{} by {}", vector["name"], provider.name());
            assert!(sealed.sequence == case.sequence || case.told() == 0, "{}", vector["name"]);
        }
        run += 1;
    }
    assert_eq!(run, 45);
}

#[test]
fn packets_come_in_octet_for_octet_or_are_dropped_for_their_reason() {
    let mut run = 0;
    for (protocol, vector) in &vectors() {
        for provider in Provider::ALL {
            check_inbound(*protocol, vector, *provider);
        }
        run += 1;
    }
    assert_eq!(run, 83);
}

fn receive(receiver: &mut Receiver, packet: &[u8]) -> (Vec<u8>, Result<Opened, DropReason>) {
    let mut buf = [&[0; HEADROOM][..], packet].concat();
    let opened = receiver.decapsulate(&mut buf, HEADROOM, packet.len(), 0);
    (buf, opened)
}

fn check_inbound(protocol: Protocol, vector: &Value, provider: Provider) {
    let case = Case::of(protocol, vector);
    let profile = case.mirrored();
    let what = format!("{} by {}", vector["name"], provider.name());
    let mut receiver = Receiver::new(&with(provider));
    let top = match case.preload.iter().max() {
        Some(top) => top - 1,
        // Without a window, a receiver under ESN knows the high half.
        None if case.profile.window == 0 && case.profile.esn => case.sequence.saturating_sub(1),
        None => 0,
    };
    let id = receiver.install(&profile, &case.sa(top), 0).expect("installs");
    for preload in &case.preload {
        let mut sender = Sender::new(&with(provider));
        let out = sender.install(&case.profile, &case.sa(preload - 1), 0, 0).expect("installs");
        let packet = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let mut buf = [&[0; HEADROOM][..], &packet, &[0; TAILROOM]].concat();
        let sealed = sender.encapsulate(out, &mut buf, HEADROOM, packet.len(), 0).expect("goes out");
        let (_, opened) = receive(&mut receiver, &buf[sealed.start..sealed.start + sealed.len]);
        assert_eq!(opened.map(|opened| opened.sequence), Ok(*preload), "{what}");
    }
    let packet = octets(&vector["protected_packet_hex"]);
    let (buf, opened) = receive(&mut receiver, &packet);
    let plaintext = octets(&vector["plaintext_packet_hex"]);
    let reason = match vector["expect"].as_str().expect("a verdict") {
        "ok" if plaintext.is_empty() => DropReason::Dummy,
        "ok" => {
            let opened = opened.unwrap_or_else(|reason| panic!("{what}: {reason:?}"));
            assert_eq!(&buf[opened.start..opened.start + opened.len], plaintext, "{what}");
            assert_eq!((opened.sa, opened.sequence), (id, case.told()), "{what}");
            return;
        }
        "error:auth" => DropReason::Auth,
        "error:bad_crypt_offset" => DropReason::BadCryptOffset,
        "error:bad_hdrlen" => DropReason::BadHdrlen,
        "error:bad_inner" => DropReason::BadInner,
        "error:bad_next_header" => DropReason::BadNextHeader,
        "error:bad_option" => DropReason::BadOption,
        "error:bad_optlen" => DropReason::BadOptlen,
        "error:bad_padding" => DropReason::BadPadding,
        "error:bad_payload_info" => DropReason::BadPayloadInfo,
        "error:bad_payload_offset" => DropReason::BadPayloadOffset,
        "error:bad_reserved" => DropReason::BadReserved,
        "error:bad_session" => DropReason::BadSession,
        "error:bad_version" => DropReason::BadVersion,
        "error:format_mismatch" => DropReason::FormatMismatch,
        "error:fragment" => DropReason::Fragment,
        "error:not_eesp" => DropReason::NotEesp,
        "error:replay" => DropReason::Replay,
        "error:unknown_option" => DropReason::UnknownOption,
        other => panic!("{other} is not known here"),
    };
    assert_eq!(opened, Err(reason), "{what}");
    assert_eq!(receiver.drops()[reason as usize], 1, "{what}");
}

#[test]
fn sub_sas_have_the_keys_that_the_draft_derives() {
    let file: Value = serde_json::from_str(EESP).expect("JSON");
    let told = &file["sub_sa_derivation"];
    let kdf = Sskdf::by_name(told["sskdf"].as_str().expect("a name")).expect("a KDF");
    for sub_sa in told["sub_sas"].as_array().expect("Sub SAs") {
        let mut made = vec![0; number(&sub_sa["length"]) as usize];
        kdf.derive(&octets(&sub_sa["root_key_hex"]), number(&sub_sa["session_id"]) as u16, &mut made);
        assert_eq!(made, [octets(&sub_sa["key_hex"]), octets(&sub_sa["salt_hex"])].concat(), "{sub_sa}");
    }
}

#[test]
fn the_largest_inner_packet_is_what_the_vectors_say_and_what_fits() {
    for (protocol, text) in [(Protocol::WespV2, WESPV2), (Protocol::Eesp, EESP)] {
        for row in list(text, "inner_mtu") {
            let mut vector = row.clone();
            let params = &mut vector["params"];
            if params["alg"].is_null() {
                params["alg"] = "aes-gcm-16".into();
            }
            params["mode"] = "tunnel".into();
            params["spi"] = 0x1000.into();
            if params["outer"].is_null() {
                params["outer"] = serde_json::json!({"src": "192.0.2.1", "dst": "192.0.2.2"});
            }
            let is_cbc = params["alg"].as_str().is_some_and(|name| name.contains("cbc"));
            if is_cbc {
                params["auth_key_hex"] = "00".repeat(32).into();
            }
            vector["key_hex"] = "00".repeat(16).into();
            vector["salt_hex"] = if is_cbc { "" } else { "00000000" }.into();
            let mut case = Case::of(protocol, &vector);
            let profile = Profile { mtu: number(&row["outer_mtu"]) as u16, ..Profile::clone(&case.profile) };
            case.profile = Arc::new(profile);
            let largest = number(&row["inner_mtu"]) as usize;
            for octets in [largest, largest + 1] {
                let mut packet = vec![0; octets];
                packet[..4].copy_from_slice(&[0x45, 0, (octets >> 8) as u8, octets as u8]);
                let (_, sealed) = case.send(Provider::AwsLc, &vector["params"], &packet);
                if octets == largest {
                    let outer_mtu = number(&row["outer_mtu"]) as usize;
                    assert!(sealed.is_ok_and(|sealed| sealed.len <= outer_mtu), "{row}");
                } else {
                    assert_eq!(sealed, Err(Dropped { reason: DropReason::OutTooBig, mtu: largest }), "{row}");
                }
            }
        }
    }
}
