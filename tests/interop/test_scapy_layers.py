"""Our Scapy layers: every vector's packet parsed, and built again from the values alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.needs_module("scapy")

VECTORS = Path(__file__).parents[2] / "vectors"
PSP_VECTORS = json.loads((VECTORS / "psp.json").read_text())


@pytest.mark.parametrize("vector", PSP_VECTORS["vectors"] + PSP_VECTORS["own_vectors"], ids=lambda v: v["name"])
def test_psp(vector: dict[str, Any]) -> None:
    from scapy.layers.l2 import Ether

    from wesper.scapy import PSP

    octets = bytes.fromhex(vector["encrypted_packet_hex"])
    seen = Ether(octets)[PSP]
    assert (seen.spi, seen.version, seen.cryptoffset) == (
        int(vector["spi"], 16),
        vector["version"],
        vector["crypt_offset"],
    )
    assert seen.iv == int(vector["iv_hex"], 16)
    assert seen.nexthdr == vector["next_header"]
    values = {f.name: seen.getfieldval(f.name) for f in seen.fields_desc}
    values.update(hdrextlen=None, is_virt=None)
    assert bytes(PSP(**values) / seen.payload) == octets[-len(bytes(seen)) :]


def test_lengths_are_worked_out() -> None:
    from wesper.scapy import PSP

    built = bytes(PSP(spi=7, vc=bytes(8), ext=bytes(16)))
    assert built[1] == 4
    assert built[3] & 2
    assert len(built) == 40


def test_a_length_that_no_header_can_say_is_refused() -> None:
    from wesper.scapy import PSP

    with pytest.raises(ValueError, match="no hdrextlen says 3 octets"):
        bytes(PSP(ext=bytes(3)))


def test_agrees_with_scapys_own() -> None:
    from scapy.contrib import psp as contrib

    from wesper.scapy import PSP

    for vector in PSP_VECTORS["vectors"]:
        octets = bytes.fromhex(vector["encrypted_packet_hex"])
        at = 14 + (20 if vector["ip_version"] == 4 else 40) + 8
        ours, theirs = PSP(octets[at:]), contrib.PSP(octets[at:])
        for name in ("nexthdr", "hdrextlen", "cryptoffset", "sample", "drop", "version", "spi"):
            assert ours.getfieldval(name) == theirs.getfieldval(name), name
        assert ours.iv.to_bytes(8, "big") == bytes(theirs.iv)
