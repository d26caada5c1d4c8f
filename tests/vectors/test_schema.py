"""All that the schema can say is understood: every suite, mode, family and option, beyond what esp.json uses.

The packets come out of an engine here, so these tests say nothing about octets: those of esp.json do.
"""

from __future__ import annotations

import itertools
from ipaddress import ip_address
from typing import Any

import pytest

from wesper.crypto import SUITES
from wesper.engine import open_engine
from wesper.protocols.ip import checksum
from wesper.sa import DF, SA, Direction, Inner, Mode, Outer, Profile, UDPEncapsulation
from wesper.vectors.ip_packets import ip_packet
from wesper.verdict import Delivered
from wesper.wire.ipv4 import IPv4

from .conftest import Run, failed, reasons
from .mutate import Document

OUTER: dict[int, dict[str, Any]] = {
    4: {"version": 4, "src": "203.0.113.1", "dst": "203.0.113.2", "ttl": 17, "id": 0x4242, "df": False},
    6: {"version": 6, "src": "2001:db8:f::1", "dst": "2001:db8:f::2", "ttl": 200, "flow": 0xABCDE},
}
INNER = {4: ("192.0.2.10", "198.51.100.20"), 6: ("2001:db8:1::10", "2001:db8:2::20")}
SPI = 0x00C0FFEE


def document(*vectors: dict[str, Any], **lists: list[dict[str, Any]]) -> Document:
    return {"format": "esp-family-vectors/1", "protocol": "esp", "vectors": list(vectors), **lists}


def vector(suite: str, key_octets: int | None = None, *, inside: int = 4, **params: Any) -> dict[str, Any]:
    """Return a vector whose packets an engine made.   params: of the vector, instead of the plain ones."""
    cipher = SUITES[suite]
    key = bytes(range(key_octets if key_octets is not None else cipher.key_octets[0]))
    iv = bytes(range(cipher.iv_octets))
    values: dict[str, Any] = {
        "mode": "tunnel",
        "alg": suite.removesuffix("-iiv"),
        "esn": True,
        "seq": "0x700000007",
        "spi": f"{SPI:#010x}",
        "iv_mode": "implicit" if cipher.implicit_iv else "explicit",
        "key_bits": 8 * len(key),
        "outer": OUTER[4],
    }
    if cipher.iv_octets:
        values["iv_hex"] = iv.hex()
    if cipher.auth_key_octets:
        values["auth_key_hex"] = bytes(range(cipher.auth_key_octets)).hex()
    if params.get("mode") == "beet":
        values["inner_src"], values["inner_dst"] = INNER[inside]
    values |= params
    values = {name: value for name, value in values.items() if value is not None}

    plaintext = inner_packet(inside)
    o, u = values.get("outer"), values.get("udp")
    profile = Profile(
        suite,
        Mode(values["mode"]),
        o
        and Outer(
            ip_address(o["src"]),
            ip_address(o["dst"]),
            o["ttl"],
            DF.SET if o.get("df") else DF.CLEAR,
            flow_label=o.get("flow"),
            identification=o.get("id"),
        ),
        Inner(*map(ip_address, INNER[inside])) if values["mode"] == "beet" else None,
        u and UDPEncapsulation(u["sport"], u["dport"], u["checksum"] == "computed"),
        esn=values["esn"],
    )
    salt, auth_key = bytes(range(cipher.salt_octets)), bytes(range(cipher.auth_key_octets))
    sequence = int(values["seq"], 16)
    engine = open_engine("reference")
    sa = engine.install(
        SA(profile, Direction.OUT, SPI, key, salt, auth_key, sequence=sequence - 1, iv=iv if iv else None)
    )
    if values.get("dummy"):
        verdict, plaintext = engine.dummy(sa, bytes.fromhex(values["dummy_hex"] + values.get("tfc_hex", "")), 0), b""
    else:
        verdict = engine.encapsulate(sa, plaintext, 0, tfc=bytes.fromhex(values.get("tfc_hex", "")))
    assert isinstance(verdict, Delivered)
    return {
        "params": values,
        "key_hex": key.hex(),
        "salt_hex": salt.hex(),
        "plaintext_packet_hex": plaintext.hex(),
        "protected_packet_hex": verdict.packet.hex(),
        "expect": "ok",
        "direction": "both",
    }


def inner_packet(version: int) -> bytes:
    """Return a packet that BEET mode gives back whole, also over IPv6: with DF (RFC 7402 §B.1.5)."""
    packet = ip_packet(*map(ip_address, INNER[version]), b"something to protect")
    if version == 6:
        return packet
    header = IPv4.parse(packet)
    header.df, header.checksum = 1, 0
    header.checksum = checksum(header.build())
    return header.build() + packet[20:]


def passes(run: Run, content: Document, *names: str) -> None:
    report = run(content, *names)
    assert reasons(report) == ""
    assert report.passed == len(report.records) > 0


def test_every_suite_and_key_length(run: Run, engine_name: str) -> None:
    vectors = [
        vector(name, octets, esn=esn, seq="0x7" if not esn else "0x700000007")
        for name, suite in SUITES.items()
        for octets in suite.key_octets
        for esn in (False, True)
    ]
    passes(run, document(*vectors), engine_name)


def test_every_mode_and_family(run: Run, engine_name: str) -> None:
    udp = {"sport": 4501, "dport": 4500}
    vectors = [
        vector("aes-gcm-16", inside=inside, mode=mode, outer=outer, udp=encapsulation)
        for mode, inside, encapsulation in itertools.product(
            ("tunnel", "transport", "beet"), (4, 6), (None, udp | {"checksum": "zero"}, udp | {"checksum": "computed"})
        )
        for outer in ([None] if mode == "transport" else OUTER.values())
    ]
    assert len(vectors) == 30
    passes(run, document(*vectors), engine_name)


def test_options_of_the_sender(run: Run, engine_name: str) -> None:
    vectors = [
        vector("aes-gcm-16", tfc_hex="00" * 40),
        vector("aes-gcm-16", dummy=True, dummy_hex="0123456789"),
        vector("aes-gcm-16", dummy=True, dummy_hex="0123", tfc_hex="00" * 8),
        vector("aes-gcm-16", dummy=False),
        vector("aes-gcm-16", ip_proto=50, auth_key_hex=""),
        vector("aes-gcm-16-iiv", iv_hex=""),
        vector("null+hmac-sha2-256-128", iv_hex=""),
        vector("aes-gcm-16", seq="0xffffffffffffffff"),
        vector("aes-gcm-16", esn=False, seq="0xffffffff"),
        vector("aes-gcm-16", udp=None, tfc_hex=None, replay=None),
    ]
    passes(run, document(*vectors), engine_name)


@pytest.mark.parametrize(
    ("esn", "seq", "preload"),
    [
        (False, "0x64", []),
        (False, "0x64", ["0x63"]),
        (False, "0x64", ["0x65", "0x80", "0x66"]),
        (True, "0x64", ["0x1", "0x63"]),
        (True, "0x100000000", ["0xffffffff", "0x100000001", "0xfffffff0"]),
        (True, "0x700000007", ["0x5", "0x700000003", "0x700000001"]),  # a jump that inference can't bridge
        (True, "0xffffffffffffffff", ["0xfffffffffffffffe"]),
    ],
)
@pytest.mark.parametrize("window", [32, 64, 1 << 20])
def test_preloaded_windows(esn: bool, seq: str, preload: list[str], window: int, run: Run, engine_name: str) -> None:
    good = vector("aes-gcm-16", esn=esn, seq=seq, replay={"window": window, "preload": preload})
    again = vector("aes-gcm-16", esn=esn, seq=seq, replay={"window": window, "preload": [*preload, seq]})
    passes(run, document(good, again | {"expect": "error:replay", "direction": "decode"}), engine_name)


@pytest.mark.parametrize("preload", [["0x5", "0x5"], ["0x64", "0x24"], ["0x0"]])
def test_preload_that_no_window_accepts_is_refused(preload: list[str], run: Run) -> None:
    case = vector("aes-gcm-16", esn=False, seq="0x80", replay={"window": 64, "preload": preload})
    assert "params.replay.preload[" in reasons(run(document(case)))


def test_bad_padding_counts_in_the_window(run: Run, engine_name: str, esp_document: Document) -> None:
    """RFC 4303 §3.4.3: what is authentic has been seen, whatever is wrong with it inside."""
    cases = [v for v in esp_document["vectors"] if v["expect"] == "error:bad_padding"]
    for case in cases:
        case["params"] = case["params"] | {"replay": {"window": 64, "preload": ["0x4"]}}
    assert len(cases) == 2
    passes(run, document(*cases), engine_name)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ip_proto": 253}, "params.ip_proto is 253"),
        ({"sn": "64"}, "unknown field params.sn"),
        ({"crypt_offset": None}, "unknown field params.crypt_offset"),
        ({"key_bits": 192}, "params.key_bits is 192, and key_hex has 128 bits"),
        ({"spi": "0xff"}, "spi"),
        ({"spi": "4096"}, "params.spi is '4096', not a number like 0x1f"),
        ({"spi": "0x100000000"}, "params.spi"),
        ({"seq": "0x0"}, "params.seq"),
        ({"seq": "0x10000000000000000"}, "params.seq"),
        ({"esn": False}, "params.seq is 0x700000007, not within"),
        ({"esn": 1}, "params.esn is a whole number, not true or false"),
        ({"alg": "aes-gcm-16-iiv"}, "params.alg is 'aes-gcm-16-iiv'"),
        ({"alg": "aes-gcm-8", "iv_mode": "implicit"}, "has no such form"),
        ({"iv_mode": "implicit"}, "params.iv_hex has 8 octets, and aes-gcm-16-iiv takes 0"),
        ({"iv_hex": "00" * 16}, "params.iv_hex has 16 octets"),
        ({"auth_key_hex": "00" * 32}, "auth_key"),
        ({"mode": "iptfs"}, "params.mode is 'iptfs'"),
        ({"mode": "transport"}, "unknown field params.outer"),
        ({"mode": "beet"}, "missing field params.inner_src"),
        ({"inner_src": "192.0.2.1"}, "unknown field params.inner_src"),
        ({"dummy_hex": "00"}, "unknown field params.dummy_hex"),
        ({"dummy": True, "dummy_hex": "00"}, "a dummy"),
        ({"outer": OUTER[4] | {"flow": 0}}, "unknown field params.outer.flow"),
        ({"outer": OUTER[6] | {"id": 0}}, "unknown field params.outer.id"),
        ({"outer": OUTER[6] | {"version": 4}}, "params.outer.src is '2001:db8:f::1', not an IPv4 address"),
        ({"outer": OUTER[4] | {"version": 5}}, "params.outer.version is 5"),
        ({"outer": OUTER[6] | {"src": "fe80::1%eth0"}}, "params.outer.src"),
        ({"outer": OUTER[4] | {"ttl": 256}}, "params.outer.ttl is 256, not within 1..255"),
        ({"udp": {"sport": 1, "dport": 2, "checksum": "none"}}, "params.udp.checksum is 'none'"),
        ({"udp": {"sport": 1, "dport": 65536, "checksum": "zero"}}, "params.udp.dport"),
        ({"replay": {"window": 48, "preload": []}}, "window 48"),
        ({"replay": {"window": 0, "preload": []}}, "params.replay.window"),
        ({"replay": {"window": 64, "preload": [5]}}, "params.replay.preload[0] is a whole number"),
        ({"tfc_hex": "0 0 "}, "params.tfc_hex is not hex: digit 1"),
    ],
)
def test_contradictions_are_told(change: dict[str, Any], told: str, run: Run) -> None:
    case = vector("aes-gcm-16")
    case["params"] = case["params"] | change
    report = run(document(case, vector("aes-gcm-16")))
    assert failed(report) == {0}
    assert told in reasons(report)


def test_an_empty_plaintext_is_a_dummy(run: Run, engine_name: str) -> None:
    case = vector("aes-gcm-16", dummy=True, dummy_hex="0123456789")
    params = {name: value for name, value in case["params"].items() if not name.startswith("dummy")}
    bare = case | {"params": params}
    passes(run, document(bare | {"direction": "decode"}), engine_name)
    assert "a dummy has params.dummy" in reasons(run(document(bare)))
    delivered = vector("aes-gcm-16") | {"plaintext_packet_hex": "", "direction": "decode"}
    assert "verdict" in reasons(run(document(delivered), engine_name))


def test_errors_are_only_decapsulated(run: Run, engine_name: str) -> None:
    """Direction "both" with an error, and a plaintext that means nothing."""
    case = vector("aes-gcm-16") | {"expect": "error:auth", "plaintext_packet_hex": "00"}
    case["protected_packet_hex"] = case["protected_packet_hex"][:-2] + "00"
    passes(run, document(case), engine_name)


def changed_octets(case: dict[str, Any], at: int, value: int) -> str:
    octets = bytearray.fromhex(case["protected_packet_hex"])
    octets[at] = value
    return octets.hex()


def test_every_error_kind_of_esp(run: Run, engine_name: str) -> None:
    """Kinds that esp.json has no case of, and what is counted for them."""
    plain, udp = vector("aes-gcm-16"), vector("aes-gcm-16", udp={"sport": 4500, "dport": 4500, "checksum": "zero"})
    # An authentic packet whose trailer says IPv4 and whose payload is IPv6.
    algorithms = open_engine("reference").algorithms
    cipher = SUITES["aes-gcm-16"]
    key, salt, iv = bytes(range(16)), bytes(range(4)), bytes(range(8))
    inner = ip_packet(*map(ip_address, INNER[6]), b"12")
    associated = algorithms.associated(cipher.name, SPI, 0x700000007, True, iv)
    sealed = algorithms.seal(cipher.name, key, salt, b"", iv, associated, inner + b"\x00\x04")
    outside = [ip_address(OUTER[4][end]) for end in ("src", "dst")]
    esp = SPI.to_bytes(4, "big") + bytes((0, 0, 0, 7)) + iv + sealed
    cases = [
        plain | {"expect": "error:not_for_us", "protected_packet_hex": plain["plaintext_packet_hex"]},
        udp | {"expect": "error:not_for_us", "protected_packet_hex": changed_octets(udp, 22, 0x12)},
        plain | {"expect": "error:encap_mismatch", "protected_packet_hex": udp["protected_packet_hex"]},
        plain | {"expect": "error:bad_ip", "protected_packet_hex": plain["protected_packet_hex"][:-2]},
        plain | {"expect": "error:bad_ip", "protected_packet_hex": ""},
        plain | {"expect": "error:truncated", "protected_packet_hex": ip_packet(*outside, b"123", protocol=50).hex()},
        plain | {"expect": "error:truncated", "protected_packet_hex": ip_packet(*outside, esp[:34], protocol=50).hex()},
        plain | {"expect": "error:bad_inner", "protected_packet_hex": ip_packet(*outside, esp, protocol=50).hex()},
    ]
    passes(run, document(*(case | {"direction": "decode"} for case in cases)), engine_name)


def test_inner_mtu_takes_all_parameters(run: Run, engine_name: str) -> None:
    entries = [
        {"params": {"alg": "chacha20-poly1305", "iv_mode": "implicit", "key_bits": 256}, "inner_mtu": 1454},
        {"params": {"alg": "aes-ccm-8", "esn": True, "outer": OUTER[4]}, "inner_mtu": 1454},
        {"params": {"mode": "transport"}, "inner_mtu": 1466},
        {"params": {"mode": "beet", "inner_src": INNER[6][0], "inner_dst": INNER[6][1], "outer": OUTER[6]}},
        {"params": {"mode": "tunnel", "ip_proto": 50}, "inner_mtu": 1446},
    ]
    entries[3]["inner_mtu"] = 1466
    entries = [entry | {"outer_mtu": 1500} for entry in entries]
    passes(run, document(inner_mtu=entries), engine_name)


def test_known_answers_of_any_suite(run: Run, engine_name: str) -> None:
    """Published vectors of other suites fit in too: here made by an engine."""
    algorithms = open_engine("reference").algorithms
    entries = []
    for name, suite in SUITES.items():
        if not suite.is_aead:
            continue
        key, salt, iv, plaintext = (
            bytes(range(suite.key_octets[-1])),
            bytes(suite.salt_octets),
            bytes(8),
            b"twelve octet",
        )
        associated = algorithms.associated(name, 0x1000, 5, False, iv)
        sealed = algorithms.seal(name, key, salt, b"", iv, associated, plaintext)
        head = bytes.fromhex("0000100000000005") + iv[: suite.iv_octets]
        entries.append(
            {
                "alg": name,
                "key_hex": key.hex(),
                "salt_hex": salt.hex(),
                "iv_hex": iv.hex(),
                "nonce_hex": (salt + iv).hex(),
                "esn": False,
                "spi": "0x1000",
                "seq": "0x5",
                "aad_hex": (associated + plaintext if name == "aes-gmac" else associated).hex(),
                "plaintext_hex": plaintext.hex(),
                "ciphertext_hex": sealed[: -suite.icv_octets].hex(),
                "icv_hex": sealed[-suite.icv_octets :].hex(),
                "esp_packet_hex": (head + sealed).hex(),
                "expect": "ok",
            }
        )
    passes(run, document(public_aead=entries), engine_name)
