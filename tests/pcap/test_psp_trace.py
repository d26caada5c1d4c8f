"""PSP packets followed through the stages, and counted in a capture without keys."""

from __future__ import annotations

import io
import json
from ipaddress import ip_address
from pathlib import Path

import pytest

from wesper.cli import app
from wesper.keying import PSPAssociation, PSPDevice, PSPKeys
from wesper.pcap import Interface, LinkType, create_capture, open_capture
from wesper.pcap import info as info_module
from wesper.pcap.info import Info, read_info
from wesper.pcap.psp_sender import PSPSender
from wesper.pcap.trace import Trace, Tracer
from wesper.protocols.modes import Mode
from wesper.protocols.psp import Profile, SourcePort
from wesper.vectors.ip_packets import ip_packet
from wesper.verdict import DropReason

ENGINES = ["reference", pytest.param("native", marks=pytest.mark.needs_native)]
HERE, THERE = ip_address("10.0.0.1"), ip_address("10.0.0.2")
UDP = ip_packet(HERE, THERE, bytes.fromhex("9c400035000a00006869"), protocol=17)
K0, K1 = bytes(range(32)), bytes(range(32, 64))
DEVICE = PSPDevice((K0, K1), "b")


def association(spi: int = 7, iv: int = 0, **more: object) -> PSPAssociation:
    profile = Profile(**more)  # type: ignore[arg-type]
    key = DEVICE.derive(spi, profile.version)
    assert key is not None
    return PSPAssociation(profile, spi, key, "to b", iv=iv)


def texts(trace: Trace) -> dict[str, str]:
    return {step.stage.name: step.text for step in trace.steps}


@pytest.mark.parametrize("engine", ENGINES)
def test_out_and_in_again(engine: str) -> None:
    sender = Tracer([], engine, PSPKeys([association(crypt_offset_words=1)]))
    out = sender.outbound(UDP)
    assert out.reason is None
    assert texts(out)["association"] == "to b, AES-128-GCM"
    assert (texts(out)["iv"], texts(out)["offset"]) == ("0x0000000000000001", "4 octets")
    assert texts(sender.outbound(UDP))["iv"] == "0x0000000000000002"
    receiver = Tracer([], engine, PSPKeys((), [DEVICE]))
    back = receiver.inbound(out.result)
    assert (back.reason, back.result) == (None, UDP)
    assert texts(back)["inside"] == "10.0.0.1 → 10.0.0.2, UDP, 30 octets"
    assert texts(back)["key"].startswith("b: SPI 0x00000007, which is device key 0's")
    forged = receiver.inbound(out.result[:-1] + bytes([out.result[-1] ^ 1]))
    assert (forged.reason, forged.as_json()["dropped_at"]) == (DropReason.PSP_AUTH, "icv")
    assert texts(forged)["key"].startswith("b: SPI 0x00000007")
    stranger = Tracer([], engine, PSPKeys([association(9)])).inbound(out.result)
    assert (stranger.reason, stranger.as_json()["dropped_at"]) == (DropReason.PSP_NO_DEVICE_KEY, "key")
    refused = sender.outbound(UDP[:6] + b"\x20\0" + UDP[8:])
    assert (refused.reason, refused.as_json()["dropped_at"]) == (DropReason.PSP_OUT_MODE, "mode")
    sampled = Tracer([], engine, PSPKeys([association(sample=True, drop=True)])).outbound(UDP)
    thrown = receiver.inbound(sampled.result)
    assert (thrown.reason, thrown.result, thrown.as_json()["dropped_at"]) == (DropReason.PSP_SAMPLED, b"", "sample")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[device]]\nname = "b"\nkeys = ["{K0.hex()}"]\n[[association]]\nspi = 7\ndevice = "b"\n')
    keys.chmod(0o600)
    with pytest.raises(SystemExit) as ended:
        app(["trace", UDP.hex(), "--keys", str(keys), "--outbound", "--json"])
    assert ended.value.code == 0
    (packet,) = json.loads(capsys.readouterr().out)["packets"]
    assert [step["stage"] for step in packet["steps"]][:3] == ["iv", "ip", "association"]
    assert packet["verdict"] == "delivered"


def captured(frames: list[bytes]) -> bytes:
    out = io.BytesIO()
    with create_capture(out, format="pcap") as writer:
        interface = writer.add_interface(Interface(LinkType.RAW))
        for stamp, frame in enumerate(frames):
            writer.write(frame, stamp, interface=interface)
    return out.getvalue()


def info_of(frames: list[bytes], **more: object) -> Info:
    info = Info(**more)  # type: ignore[arg-type]
    with open_capture(io.BytesIO(captured(frames))) as capture:
        read_info(capture, info)
    return info


def sealed(count: int, sender: PSPAssociation) -> list[bytes]:
    done = PSPSender([sender], "reference").protect([UDP] * count, [sender] * count)
    return [packet for _, packet, _ in done]


def test_info_without_keys() -> None:
    first = sealed(40, association(7, 99, crypt_offset_words=1))
    second = sealed(
        2, association(0x80000001, version=3, mode=Mode.TUNNEL, cookie=bytes(8), source_port=SourcePort.XOR)
    )
    again = [*first[:20], first[5], *first[20:], first[1]]
    info = info_of([*again, *second, UDP])
    assert info.protocols == {"IPv4 PSP": 44, "IPv4 UDP": 1}
    one, two = (seen.as_json() for seen in info.psp.values())
    assert one == {
        "spi": "0x00000007",
        "src": "10.0.0.1",
        "dst": "10.0.0.2",
        "version": 0,
        "cipher": "AES-128-GCM",
        "device_key": 0,
        "crypt_offset_words": 1,
        "cookie": False,
        "packets": 42,
        "octets": 42 * 10,
        "first_iv": 100,
        "highest_iv": 139,
        "backwards": 2,
        "twice": 1,
        "sampled": 0,
    }
    assert (two["device_key"], two["cipher"], two["cookie"], two["packets"]) == (1, "AES-256-GMAC", True, 2)
    assert info.as_json()["psp"] == [one, two]


def test_info_of_another_port_and_of_what_only_looks_so(monkeypatch: pytest.MonkeyPatch) -> None:
    at_4000 = sealed(1, association(port=4000))
    assert info_of(at_4000).protocols == {"IPv4 UDP": 1}
    assert info_of(at_4000, psp_ports=[4000]).protocols == {"IPv4 PSP": 1}
    chatter = UDP[:22] + (1000).to_bytes(2, "big") + UDP[24:]
    assert info_of([chatter]).protocols == {"IPv4 UDP": 1}
    monkeypatch.setattr(info_module, "MAX_SAS", 2)
    many = info_of([packet for spi in range(1, 6) for packet in sealed(1, association(spi))])
    assert (len(many.psp), many.unlisted) == (2, 3)
