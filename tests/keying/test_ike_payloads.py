"""IKEv2 payloads from named fields, as RFC 5840 and the drafts' examples have them, and hostile octets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.errors import ConfigError
from wesper.keying.ike_payloads import (
    Attribute,
    MalformedPayload,
    Notify,
    Proposal,
    SAPayload,
    Transform,
    WESPv2Mode,
    eesp_proposal,
    max_crypt_offset_notify,
    max_crypt_offset_octets,
    max_sub_sa_id,
    max_sub_sa_id_notify,
    parse_notify,
    parse_sa,
    use_wesp_mode,
    wespv2_mode,
)

FIGURE_1 = (
    "000000400000003c01c90405052357bb0300000c01000014800e01000300000c01000014800e0080"
    "03000008f100000103000008f10000030000000805000400"
)


@pytest.mark.parametrize(
    ("notify", "octets"),
    [
        (use_wesp_mode(), "000000080000401f"),
        (WESPv2Mode(28, False).notify(), "000000090000a00c07"),
        (WESPv2Mode(252, True).notify(), "000000090000a00c7f"),
        (max_sub_sa_id_notify(15), "0000000a0000a00a000f"),
        (max_crypt_offset_notify(32), "000000090000a00b08"),
    ],
)
def test_notifies(notify: Notify, octets: str) -> None:
    assert notify.build().hex() == octets
    assert parse_notify(bytes.fromhex(octets)) == notify


def test_what_notifies_say() -> None:
    assert wespv2_mode(WESPv2Mode(252, True).notify()) == WESPv2Mode(252, True)
    assert wespv2_mode(Notify(40972)) == WESPv2Mode()  # no data: nothing is accepted
    assert wespv2_mode(Notify(40972, b"\x87more")) == WESPv2Mode(28)  # reserved bit and further octets are ignored
    assert max_sub_sa_id(max_sub_sa_id_notify(65535)) == 65535
    assert max_crypt_offset_octets(max_crypt_offset_notify(252)) == 252
    for octets in (b"", b"\0", b"\0\0\0"):
        with pytest.raises(MalformedPayload):
            max_sub_sa_id(Notify(40970, octets))
    for octets in (b"", b"\x40", b"\1\1"):
        with pytest.raises(MalformedPayload):
            max_crypt_offset_octets(Notify(40971, octets))
    for make in (lambda: max_crypt_offset_notify(0), lambda: max_sub_sa_id_notify(65536), WESPv2Mode(30).notify):
        with pytest.raises(ConfigError):
            make()


def test_proposal_of_the_drafts_first_figure() -> None:
    suites, kdfs = [("aes-gcm-16", 32), ("aes-gcm-16", 16)], ["hkdf-sha2-256", "hkdf-sha2-512"]
    payload = SAPayload((eesp_proposal(1, 0x052357BB, suites, kdfs),))
    assert payload.build().hex() == FIGURE_1
    assert parse_sa(bytes.fromhex(FIGURE_1)) == payload


def test_what_can_not_be_proposed() -> None:
    for suites, numbers in (
        ([("aes-gcm-16-iiv", 32)], False),
        ([("aes-gcm-16", 17)], True),
        ([("aes-cbc+hmac-sha2-256-128", 32)], True),
    ):
        with pytest.raises(ConfigError):
            eesp_proposal(1, 0x1000, suites, sequence_numbers=numbers)


attributes = st.builds(Attribute, st.integers(0, 0x7FFF), st.integers(0, 0xFFFF) | st.binary(max_size=9))
transforms = st.builds(
    Transform, st.integers(0, 255), st.integers(0, 65535), st.lists(attributes, max_size=3).map(tuple)
)
proposals = st.builds(
    Proposal,
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=8),
    st.lists(transforms, max_size=4).map(tuple),
)
payloads = st.one_of(
    st.builds(SAPayload, st.lists(proposals, min_size=1, max_size=3).map(tuple), st.integers(0, 255), st.booleans()),
    st.builds(Notify, st.integers(0, 65535), st.binary(max_size=20), st.integers(0, 255), st.binary(max_size=8)),
)


@given(payloads)
def test_round_trip_and_truncation(payload: SAPayload | Notify) -> None:
    octets = payload.build()
    parse = parse_sa if isinstance(payload, SAPayload) else parse_notify
    assert parse(octets) == payload
    for end in range(len(octets)):
        with pytest.raises(MalformedPayload):
            parse(octets[:end])


@given(st.binary(max_size=80))
def test_hostile_octets(octets: bytes) -> None:
    """A value or MalformedPayload, and a value builds what its own parser reads the same."""
    sized = octets[:2] + len(octets).to_bytes(2, "big") + octets[4:] if len(octets) > 3 else octets
    for parse in (parse_sa, parse_notify):
        try:
            found = parse(sized)
        except MalformedPayload:
            continue
        assert parse(found.build()) == found
