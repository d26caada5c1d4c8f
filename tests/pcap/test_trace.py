from __future__ import annotations

import json
from pathlib import Path

import pytest

from wesper.cli import app
from wesper.keying import StaticSA, save_keys
from wesper.pcap import Interface, LinkType, create_capture
from wesper.pcap.trace import Tracer
from wesper.sa import AddressRange, Direction, Selector
from wesper.verdict import DropReason

ECHO = bytes.fromhex("4500001c0000400040016ba90a0000010a00000208004f5600013005")
HERE, THERE = AddressRange.parse("192.0.2.1"), AddressRange.parse("192.0.2.2")
INSIDE = AddressRange.parse("10.0.0.0/24")
KEYS = StaticSA(
    "aes-gcm-16", 0x1000, bytes(range(16)), b"salt", name="office", direction=Direction.OUT, local=HERE, remote=THERE,
    selectors=(Selector((INSIDE,), (INSIDE,)),),
)  # fmt: skip
ENGINES = ["reference", pytest.param("native", marks=pytest.mark.needs_native)]


def texts(trace: object) -> dict[str, str]:
    return {step.stage.name: step.text for step in trace.steps}  # type: ignore[attr-defined]


@pytest.mark.parametrize("engine", ENGINES)
def test_out_and_in_again(engine: str) -> None:
    tracer = Tracer([KEYS], engine)
    out = tracer.outbound(ECHO)
    assert out.reason is None
    assert texts(out)["sa"] == "office, aes-gcm-16, ESN on"
    assert texts(out)["number"] == "1"
    back = tracer.inbound(out.result)
    assert (back.reason, back.result) == (None, ECHO)
    assert texts(back)["mode"] == "tunnel mode: 10.0.0.1 → 10.0.0.2, ICMP, 28 octets"
    assert texts(back)["replay"] == "number 1"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_drop_says_what_is_known_besides_the_reason(engine: str) -> None:
    tracer = Tracer([KEYS], engine)
    first, second = tracer.outbound(ECHO).result, tracer.outbound(ECHO).result
    assert tracer.inbound(second).reason is None
    assert texts(tracer.inbound(first))["replay"] == "number 1; the highest number so far is 2"
    again = tracer.inbound(first)
    assert again.reason is DropReason.REPLAY
    assert texts(again)["replay"].endswith("the highest number so far is 2")
    assert texts(again)["icv"] == ""
    third = tracer.outbound(ECHO).result
    forged = tracer.inbound(third[:-1] + bytes([third[-1] ^ 1]))
    assert forged.reason is DropReason.AUTH
    assert texts(forged)["sa"] == "office, aes-gcm-16, ESN on"
    stranger = tracer.inbound(third[:20] + b"\xff" + third[21:])
    assert stranger.reason is DropReason.NO_SA
    assert stranger.as_json()["dropped_at"] == "sa"


@pytest.mark.parametrize("engine", ENGINES)
def test_what_no_sa_is_for_and_what_is_no_packet(engine: str) -> None:
    tracer = Tracer([KEYS], engine)
    assert tracer.outbound(ECHO[:16] + bytes([192, 0, 2, 9]) + ECHO[20:]).reason is DropReason.OUT_NO_SA
    assert tracer.outbound(b"nonsense").reason is DropReason.OUT_BAD_PACKET
    assert tracer.inbound(b"nonsense").reason is DropReason.BAD_IP
    assert tracer.inbound(ECHO).reason is DropReason.NOT_FOR_US


def run(arguments: list[str]) -> int:
    result: int = app(["trace", *arguments], exit_on_error=False, result_action="return_value")
    return result


def test_command_follows_a_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys, path = tmp_path / "keys.toml", tmp_path / "esp.pcapng"
    save_keys([KEYS], keys)
    packet = Tracer([KEYS]).outbound(ECHO).result
    with create_capture(path) as writer:
        writer.add_interface(Interface(LinkType.RAW))
        for _ in range(2):
            writer.write(packet, 1_000_000_000, interface=0)
    assert run([str(path), "--keys", str(keys)]) == 1
    shown = capsys.readouterr().out
    assert "delivered, 28 octets" in shown
    assert "dropped: replay" in shown
    assert "XfrmInStateSeqError" in shown
    assert run([str(path), "--keys", str(keys), "--json", "--count", "1"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["schema"] == 1
    assert [packet["verdict"] for packet in printed["packets"]] == ["delivered"]
    assert run([ECHO.hex(), "--keys", str(keys), "--outbound"]) == 0
    assert "protected" in capsys.readouterr().out
