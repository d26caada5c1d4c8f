"""Fields at fixed places, against offsets counted by hand in the documents' drawings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from wesper.wire.arithmetic import Formula, Symbols, formula
from wesper.wire.format import Header, bits, octets
from wesper.wire.layout import Layout, Options, Part, places
from wesper.wire.layouts import LAYOUTS

# protocol, field, octet from the start of the outer header: over IPv4, IPv6, UDP over IPv4, UDP over IPv6.
FIXED = [
    ("esp", "esp.spi", 20, 40, 28, 48),
    ("esp", "esp.sequence", 24, 44, 32, 52),
    ("wesp", "wesp.ver", 23, 43, 35, 55),
    ("wespv2", "wespv2.hdrlen", 21, 41, 33, 53),
    ("wespv2", "wespv2.cryptoffset", 22, 42, 34, 54),
    ("wespv2", "wespv2.flow.identifier", 26, 46, 38, 58),
    ("eesp", "eesp.session_id", 22, 42, 30, 50),
    ("eesp", "eesp.spi", 24, 44, 32, 52),
    ("psp", "psp.nexthdr", None, None, 28, 48),
    ("psp", "psp.cryptoffset", None, None, 30, 50),
    ("psp", "psp.spi", None, None, 32, 52),
    ("psp", "psp.iv", None, None, 36, 56),
    ("psp", "psp.vc", None, None, 44, 64),
]


@pytest.mark.parametrize("row", FIXED, ids=lambda row: row[1])
def test_a_field_stands_where_the_drawing_has_it(row: tuple[Any, ...]) -> None:
    name, field, *octets_ = row
    for (version, udp), octet in zip(((4, False), (6, False), (4, True), (6, True)), octets_, strict=True):
        if octet is None:
            with pytest.raises(ValueError, match="over UDP alone"):
                places(LAYOUTS[name], version, udp)
            continue
        found = {place.name: place for place in places(LAYOUTS[name], version, udp)}
        assert found[field].octet == octet


def test_what_moves_says_why() -> None:
    found = {place.name: place for place in places(LAYOUTS["psp"], 4, True)}
    assert found["psp.ext"].bit is None
    assert found["psp.ext"].why == "behind cookie, whose length is in cookie_present"
    found = {place.name: place for place in places(LAYOUTS["wespv2"], 6, False)}
    assert found["esp.spi"].why == "behind options, whose length is in optlen"
    assert found["wespv2.flow.identifier"].only_if == "WESPv2 flow identifier option is the first option"
    found = {place.name: place for place in places(LAYOUTS["eesp"], 4, True)}
    assert found["eesp.sequence"].why == "behind options, whose length is in opt_len"


def test_what_one_field_moves_can_be_found_by_it() -> None:
    """RFC 5840 §2: 4 octets of padding if P is set; WESPv2 §2.1: OptLen octets of options."""
    for name, version, udp, octet, by, by_octet, unit in (
        ("wesp", 4, False, 24, "padding_present", 23, 4),
        ("wesp", 6, True, 56, "padding_present", 55, 4),
        ("wespv2", 4, True, 36, "optlen", 35, 1),
    ):
        found = {place.name: place for place in places(LAYOUTS[name], version, udp)}
        shift = found["esp.spi"].shift
        assert shift is not None
        assert (shift.bit, shift.by.name, shift.by_bit // 8, shift.octets) == (8 * octet, by, by_octet, unit)
        assert found["esp.sequence"].shift == replace(shift, bit=8 * octet + 32)
        assert all(place.shift is None for place in found.values() if place.bit is not None)
    assert {place.name: place for place in places(LAYOUTS["eesp"], 4, True)}["eesp.iv"].shift is None


class Probe(Header, name="probe", title="A probe", source="RFC 0 §1"):
    kind: int = bits(4, "RFC 0 §1", "what it is")
    size: int = bits(12, "RFC 0 §1", "how long", unit="octets")
    number: bytes = octets("RFC 0 §1", "which one, or nothing")
    secret: bytes = octets("RFC 0 §1", "as long as the SA says")
    tail: bytes = octets("RFC 0 §1", "the rest", length=lambda h: 4 * (h.size - 1) // 2 + 2 - h.kind)


def test_negotiated_fields_and_hidden_lengths_move_what_is_behind_them() -> None:
    layout = Layout("probe", "A probe", "RFC 0", (Part(Probe, negotiated={"number": 8}), Part(Probe)), ip_protocol=253)
    found = places(layout, 4, False)
    assert [place.bit for place in found[:3]] == [160, 164, 176]
    assert found[3].why == "behind number, which is there only if both ends agreed so"
    hidden = places(
        Layout("probe", "A probe", "RFC 0", (Part(Probe, lengths={"number": lambda h: 8}),), ip_protocol=253), 4, False
    )
    assert hidden[3].octet == 30
    assert hidden[4].why == "behind secret, whose length only the SA knows"


def test_lengths_read_as_formulas_and_count_as_numbers() -> None:
    compute = next(f.length for f in Probe.FIELDS if f.name == "tail")
    assert compute is not None
    assert formula(compute) == Formula("(((math.floor((4 * (h.size - 1)) / 2)) + 2) - h.kind)", ("size", "kind"))
    assert compute(Probe(kind=1, size=5)) == 9
    assert formula(lambda h: 3) == Formula("3")
    assert formula(lambda h: 10 - h.size + (2 - h.size)).text == "((10 - h.size) + (2 - h.size))"
    assert formula(lambda h: 1 + h.size * h.size).fields == ("size",)


def test_lengths_that_hang_on_a_condition_are_refused() -> None:
    with pytest.raises(TypeError, match="condition"):
        formula(lambda h: 8 if h.kind else 0)
    with pytest.raises(TypeError, match="more than arithmetic"):
        formula(lambda h: str(Symbols()))


def test_options_default_to_pads_alone() -> None:
    assert Options("options").known == {}
