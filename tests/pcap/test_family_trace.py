"""Walks of WESP, WESPv2 and EESP packets, traced with the SAs of a key file."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.engine.walk import look
from wesper.pcap.trace import Trace, Tracer
from wesper.sa import Direction, UDPEncapsulation
from wesper.vectors.ip_packets import ip_packet
from wesper.verdict import DropReason

from .family import sas_of

HERE, THERE = ip_address("192.0.2.10"), ip_address("198.51.100.20")
INNER = ip_packet(HERE, THERE, struct.pack(">HHHH", 4000, 443, 24, 0) + bytes(16), protocol=17)
ENGINES = ["reference", pytest.param("native", marks=pytest.mark.needs_native)]
TITLES = {"wesp": "Wrapped Encapsulating Security Payload", "wespv2": "WESP version 2"}
TITLES["eesp"] = "Enhanced Encapsulating Security Payload"
SHOWN = "low half of the sequence number 1"


def texts(trace: Trace) -> dict[str, str]:
    return {step.stage.name: step.text for step in trace.steps}


def stopped(trace: Trace) -> tuple[DropReason | None, str | None]:
    return trace.reason, trace.as_json()["dropped_at"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("around", ["none", "udp"])
@pytest.mark.parametrize(
    ("protocol", "text", "header"),
    [
        ("wesp", "", SHOWN),
        ("wespv2", "", SHOWN),
        ("wespv2", "[sa.wespv2]\nflow_identifier = 258", f"{SHOWN}, flow identifier 0x102"),
        ("eesp", "[sa.eesp]\nsession = 7", "Session ID 7"),
        ("eesp", "window = 0\n[sa.eesp]\nsequence_numbers = false", "Session ID 0"),
    ],
)
def test_out_and_in_again(engine: str, around: str, protocol: str, text: str, header: str) -> None:
    tracer = Tracer(sas_of(protocol, text, around), engine)
    out = tracer.outbound(INNER)
    assert out.reason is None
    back = tracer.inbound(out.result)
    assert (back.reason, back.result) == (None, INNER)
    found = texts(back)
    assert found["header"] == f"SPI 0x00003000, {header}"
    assert found["demultiplex"].endswith(f", {TITLES[protocol]}")
    assert found["encapsulation"] == ("UDP, port 4500 to port 4500" if around == "udp" else "without UDP")
    numbered = "sequence_numbers" not in text
    assert found["replay"] == ("number 1" if numbered else "there are no numbers")
    assert found["sa"] == f"SPI 0x00003000, aes-gcm-16{'' if protocol == 'eesp' else ', ESN on'}"
    again = tracer.inbound(out.result)
    assert stopped(again) == ((DropReason.REPLAY, "replay") if numbered else (None, None))


@pytest.mark.parametrize("engine", ENGINES)
def test_each_sub_sa_has_numbers_of_its_own(engine: str) -> None:
    text = '[sa.eesp]\nsession = 2\nsub_sas = { kdf = "hkdf-sha2-256", key_octets = 16, max_id = 3 }'
    sas = sas_of("eesp", text, key_octets=32)
    other = sas_of("eesp", text.replace("session = 2", "session = 3"), key_octets=32)
    tracer, sender, second = Tracer(sas, engine), Tracer(sas, engine), Tracer(other, engine)
    packets = [sender.outbound(INNER).result for _ in range(3)]
    assert texts(tracer.inbound(packets[0]))["replay"] == "number 1"
    assert texts(tracer.inbound(packets[2]))["replay"] == "number 3; the highest number so far is 1"
    assert texts(tracer.inbound(second.outbound(INNER).result))["replay"] == "number 1"
    assert texts(tracer.inbound(packets[1]))["replay"] == "number 2; the highest number so far is 3"


@pytest.mark.parametrize("engine", ENGINES)
def test_drops_end_where_they_belong(engine: str) -> None:
    wespv2 = sas_of("wespv2", "[sa.wespv2]\noptions = [{ type = 92 }]")
    tracer = Tracer(wespv2, engine)
    sent = tracer.outbound(INNER).result
    assert stopped(tracer.inbound(sent)) == (DropReason.UNKNOWN_OPTION, "unknown options")
    assert stopped(tracer.inbound(sent[:21] + b"\0" + sent[22:])) == (DropReason.BAD_HDRLEN, "fields")
    eesp = Tracer(sas_of("eesp"), engine)
    sent = eesp.outbound(INNER).result
    assert stopped(eesp.inbound(sent[:20] + b"\x81" + sent[21:])) == (DropReason.BAD_RESERVED, "header")
    assert stopped(eesp.inbound(sent[:-1] + bytes((sent[-1] ^ 1,)))) == (DropReason.AUTH, "icv")
    assert stopped(eesp.inbound(sent[:24] + b"\1" + sent[25:])) == (DropReason.NO_SA, "sa")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("around", ["none", "udp"])
def test_first_packets_are_known_by_what_the_file_expects(engine: str, around: str) -> None:
    """No SA is in the engine before a packet of its own came; the reason is the receiver's all the same."""
    sent = {name: Tracer(sas_of(name, "", around)).outbound(INNER).result for name in ("esp", "wesp", "wespv2", "eesp")}
    at = 28 if around == "udp" else 20
    for name in ("wesp", "wespv2", "eesp"):
        tracer = Tracer(sas_of(name, "", around, spi=0x4000), engine)
        assert stopped(tracer.inbound(sent[name])) == (DropReason.NO_SA, "sa")
        assert stopped(tracer.inbound(sent["esp"])) == (DropReason.NO_SA, "sa")
        other = {"wesp": "wespv2", "wespv2": "wesp", "eesp": "wesp"}[name]
        wanted = DropReason.NOT_FOR_US if name == "eesp" else DropReason.BAD_VERSION
        assert tracer.inbound(sent[other]).reason is wanted
    cut = sent["eesp"][:at] + b"\x88" + sent["eesp"][at + 1 :]
    assert Tracer(sas_of("eesp", "", around), engine).inbound(cut).reason is DropReason.BAD_VERSION


def test_eesp_elsewhere() -> None:
    (numbered,) = sas_of("eesp", "[sa.eesp]\nip_protocol = 200")
    (plain,) = sas_of("eesp")
    for sa in (numbered, replace(plain, encapsulation=UDPEncapsulation(7000, 7001))):
        tracer = Tracer([sa])
        assert texts(tracer.inbound(tracer.outbound(INNER).result))["header"] == "SPI 0x00003000, Session ID 0"


def test_look_believes_what_is_expected() -> None:
    """The same octets in UDP: ESP's SPI, or the beginning of EESP."""
    packet = Tracer(sas_of("eesp", "[sa.eesp]\nsession = 7", "udp")).outbound(INNER).result
    as_eesp, as_esp = "SPI 0x00003000, Session ID 7", "SPI 0x80000007, low half of the sequence number 12288"
    assert look(Direction.IN, packet)["header"] == as_eesp
    assert look(Direction.IN, packet, "eesp")["header"] == as_eesp
    assert look(Direction.IN, packet, "esp")["header"] == as_esp


@given(st.binary(max_size=90), st.sampled_from([50, 141, 200, 253, 17]), st.sampled_from(["", "esp", "wespv2", "eesp"]))
def test_look_takes_any_octets(octets: bytes, number: int, expected: str) -> None:
    if number == 17:
        octets = bytes.fromhex("11941194") + (8 + len(octets)).to_bytes(2, "big") + bytes(2) + octets
    look(Direction.IN, ip_packet(HERE, THERE, octets, protocol=number), expected)
