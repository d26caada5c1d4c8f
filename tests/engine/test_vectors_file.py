"""vectors/esp.json through the engine itself; `wesper vectors run` reads the same file strictly and whole."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from wesper import (
    DF,
    SA,
    Delivered,
    Direction,
    Dropped,
    DropReason,
    Engine,
    Mode,
    Outer,
    Profile,
    UDPEncapsulation,
    open_engine,
)

FILE: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "esp.json").read_text())
VECTORS: list[dict[str, Any]] = FILE["vectors"]


def octets(text: str | None) -> bytes:
    return bytes.fromhex(text or "")


def install(engine: Engine, vector: dict[str, Any], direction: Direction, sequence: int, window: int) -> int:
    params = vector["params"]
    shown, around = params.get("outer"), params.get("udp")
    outer = encapsulation = None
    if shown:
        ends = ip_address(shown["src"]), ip_address(shown["dst"])
        outer = Outer(
            *(ends if direction is Direction.OUT else ends[::-1]),
            hop_limit=shown["ttl"],
            df=DF.SET if shown.get("df") else DF.CLEAR,
            identification=shown.get("id"),
            flow_label=shown.get("flow"),
        )
    if around:
        ports = around["sport"], around["dport"]
        encapsulation = UDPEncapsulation(
            *(ports if direction is Direction.OUT else ports[::-1]), around["checksum"] == "computed"
        )
    suite = params["alg"] + ("-iiv" if params["iv_mode"] == "implicit" else "")
    profile = Profile(suite, Mode(params["mode"]), outer, encapsulation=encapsulation, esn=params["esn"], window=window)
    return engine.install(
        SA(
            profile,
            direction,
            int(params["spi"], 16),
            octets(vector["key_hex"]),
            octets(vector["salt_hex"]),
            octets(params.get("auth_key_hex")),
            sequence=sequence,
            iv=octets(params.get("iv_hex")) or None if direction is Direction.OUT else None,
        )
    )


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["direction"] == "both"], ids=lambda v: str(v["name"]))
def test_sender(engine_name: str, vector: dict[str, Any]) -> None:
    params, engine = vector["params"], open_engine(engine_name)
    sequence = int(params["seq"], 16)
    sa = install(engine, vector, Direction.OUT, sequence - 1, 1024)
    if params.get("dummy"):
        verdict = engine.dummy(sa, octets(params["dummy_hex"]), 0)
    else:
        verdict = engine.encapsulate(sa, octets(vector["plaintext_packet_hex"]), 0, tfc=octets(params.get("tfc_hex")))
    assert verdict == Delivered(octets(vector["protected_packet_hex"]), sa, sequence)


@pytest.mark.parametrize("vector", [v for v in VECTORS if not v["params"].get("replay")], ids=lambda v: str(v["name"]))
def test_receiver(engine_name: str, vector: dict[str, Any]) -> None:
    params, engine = vector["params"], open_engine(engine_name)
    sequence = int(params["seq"], 16)
    sa = install(engine, vector, Direction.IN, sequence, 0)
    verdict = engine.decapsulate(octets(vector["protected_packet_hex"]), 0)
    if vector["expect"] != "ok":
        assert isinstance(verdict, Dropped)
        assert f"error:{verdict.reason.verdict}" == vector["expect"]
    elif vector["plaintext_packet_hex"]:
        assert verdict == Delivered(octets(vector["plaintext_packet_hex"]), sa, sequence)
    else:
        assert verdict == Dropped(DropReason.DUMMY)


@pytest.mark.parametrize("case", FILE["esn_inference"], ids=lambda c: f"{c['window']}-{c['highest']}-{c['seq_low']}")
def test_inference(engine_name: str, case: dict[str, Any]) -> None:
    engine = open_engine(engine_name)
    here = ip_address("192.0.2.1")
    profile = Profile("aes-gcm-16", outer=Outer(here, here), window=case["window"])
    sa = engine.install(SA(profile, Direction.IN, 256, bytes(16), bytes(4), sequence=int(case["highest"], 16)))
    low = int(case["seq_low"], 16)
    high = case["expect_seq_high"]
    assert engine.infer(sa, low) == (None if high == "none" else int(high, 16) << 32 | low)
