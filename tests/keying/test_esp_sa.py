"""Wireshark's esp_sa lines: read, refused, written."""

from __future__ import annotations

import pytest
from hypothesis import given

from wesper.errors import ConfigError
from wesper.keying import Encapsulated, StaticSA, read_esp_sa, write_esp_sa
from wesper.keying.esp_sa import NEW_NAMES
from wesper.sa import AddressRange

from .strategies import static_sas

KEY = "000102030405060708090a0b0c0d0e0f"
GCM = "AES-GCM with 16 octet ICV [RFC4106]"
NEVER = "ANY 128 bit authentication [no checking]"
SHA2 = "HMAC-SHA-256-128 [RFC4868]"


def line(**fields: str) -> str:
    given = {
        "family": "IPv4",
        "source": "192.0.2.1",
        "destination": "192.0.2.2",
        "spi": "0x00001000",
        "encryption": GCM,
        "key": f"0x{KEY}a0a1a2a3",
        "authentication": "NULL",
        "auth_key": "0x",
        **fields,
    }
    return ",".join(f'"{value}"' for value in given.values())


def one(text: str) -> StaticSA:
    (sa,) = read_esp_sa(text, "esp_sa")
    return sa


def test_a_line() -> None:
    assert one(line()) == StaticSA(
        "aes-gcm-16",
        0x1000,
        bytes.fromhex(KEY),
        bytes.fromhex("a0a1a2a3"),
        mode=None,
        local=AddressRange.parse("192.0.2.1"),
        remote=AddressRange.parse("192.0.2.2"),
        encapsulation=Encapsulated.AS_SEEN,
        esn=False,
    )


SUITES = [
    ("AES-GCM with 8 octet ICV [RFC4106]", "NULL", "aes-gcm-8"),
    ("AES-GCM with 12 octet ICV [RFC4106]", "NULL", "aes-gcm-12"),
    (GCM, NEVER, "aes-gcm-16"),
    # What strongSwan's save-keys plugin writes
    ("AES-GCM [RFC4106]", "ANY 64 bit authentication [no checking]", "aes-gcm-8"),
    ("AES-GCM [RFC4106]", "ANY 96 bit authentication [no checking]", "aes-gcm-12"),
    ("AES-GCM [RFC4106]", NEVER, "aes-gcm-16"),
]


@pytest.mark.parametrize(("encryption", "authentication", "suite"), SUITES)
def test_gcm(encryption: str, authentication: str, suite: str) -> None:
    assert one(line(encryption=encryption, authentication=authentication)).suite == suite


@pytest.mark.parametrize(
    ("bits", "octets", "suite"), [("256-128", 32, "256"), ("384-192", 48, "384"), ("512-256", 64, "512")]
)
@pytest.mark.parametrize("encryption", ["AES-CBC [RFC3602]", "NULL"])
def test_separate_integrity(encryption: str, bits: str, octets: int, suite: str) -> None:
    auth_key = bytes(range(octets))
    sa = one(
        line(
            encryption=encryption,
            key=f"0x{KEY}" if encryption != "NULL" else "",
            authentication=f"HMAC-SHA-{bits} [RFC4868]",
            auth_key=f"0x{auth_key.hex()}",
        )
    )
    assert sa.suite == f"{'null' if encryption == 'NULL' else 'aes-cbc'}+hmac-sha2-{bits}"
    assert (len(sa.key), sa.auth_key) == (0 if encryption == "NULL" else 16, auth_key)


def test_wildcards() -> None:
    assert one(line(spi="*")).spi is None
    assert one(line(source="*")).local == AddressRange.parse("0.0.0.0/0")
    assert one(line(family="IPv6", source="*", destination="*")).remote == AddressRange.parse("::/0")
    assert one(line(family="Any", source="*", destination="*")).remote is None
    assert one(line(destination="192.0.*.*")).remote == AddressRange.parse("192.0.0.0/16")


def test_extended_numbers() -> None:
    plain, extended = one(line(number="32-bit", high="0")), one(line(number="64-bit", high="1f"))
    assert (plain.esn, plain.sequence) == (False, 0)
    assert (extended.esn, extended.sequence) == (True, 0x1F << 32)


def test_other_text() -> None:
    text = f"# comment\n\n  {line(spi='4096')}  \r\n"
    assert one(text.replace("\r\n", "\n")).spi == 0x1000
    # Text that does not begin with 0x is the key itself; \x22 is a quotation mark
    assert one(line(key="0123456789abcde\\x22salt")).key == b'0123456789abcde"'
    # An odd number of digits has a zero before it
    assert one(line(key=f"0x{KEY[1:]}a0a1a2a3")).key == bytes.fromhex(KEY)


LEGACY = [
    "TripleDES-CBC [RFC2451]",
    "DES-CBC [RFC2405]",
    "CAST5-CBC [RFC2144]",
    "BLOWFISH-CBC [RFC2451]",
    "TWOFISH-CBC",
]
LEGACY_INTEGRITY = [
    "HMAC-SHA-1-96 [RFC2404]",
    "HMAC-SHA-256-96 [draft-ietf-ipsec-ciph-sha-256-00]",
    "HMAC-MD5-96 [RFC2403]",
    "MAC-RIPEMD-160-96 [RFC2857]",
]
WRONG = [
    *(
        ({"encryption": name, "authentication": SHA2}, f"encryption: {name} is a legacy algorithm, which wesper")
        for name in LEGACY
    ),
    *(
        ({"encryption": "AES-CBC [RFC3602]", "authentication": name}, f"authentication: {name} is a legacy algorithm")
        for name in LEGACY_INTEGRITY
    ),
    ({"encryption": "AES-CTR [RFC3686]"}, "encryption: 'AES-CTR [RFC3686]', which wesper does not have"),
    ({"encryption": "ROT13"}, "encryption: 'ROT13', which wesper does not have"),
    ({"encryption": "AES-GCM [RFC4106]"}, "encryption: AES-GCM [RFC4106] with NULL (expected an ICV length"),
    ({"authentication": SHA2}, "authentication: HMAC-SHA-256-128 [RFC4868] beside an AEAD (expected NULL)"),
    ({"encryption": "AES-CBC [RFC3602]", "authentication": "NULL"}, "authentication: AES-CBC [RFC3602] with 'NULL'"),
    ({"encryption": "AES-CBC [RFC3602]", "authentication": NEVER}, "authentication: AES-CBC [RFC3602] with 'ANY 128"),
    ({"encryption": "NULL", "authentication": "NULL"}, "authentication: NULL with 'NULL'"),
    ({"key": f"0x{KEY}"}, "encryption key: 12 octets for aes-gcm-16 (expected 16 or 24 or 32 octets and 4 of salt beh"),
    ({"key": "0xzz"}, "encryption key: not hexadecimal"),
    (
        {"encryption": "NULL", "authentication": SHA2, "auth_key": "0x00"},
        "authentication key: 1 octets for null+hmac-sha2-256-128 (expected 32 octets)",
    ),
    ({"family": "IPX"}, "family: 'IPX' (expected IPv4, IPv6 or Any)"),
    ({"source": "192.0.2.*.1"}, "source: '192.0.2.*.1'"),
    ({"source": "192.*.2.1"}, "source: '192.*.2.1'"),
    ({"source": "2001:db8::1"}, "source: '2001:db8::1' (expected an IPv4 address or *)"),
    ({"source": "192.0.2.0/24"}, "source: '192.0.2.0/24'"),
    ({"spi": "0x0000100*"}, "spi: '0x0000100*' (expected a number like 0x00001000, or * for any)"),
    ({"spi": "0x10"}, "spi: SPI 0x10 (expected 0x100..0xffffffff)"),
    ({"number": "16-bit", "high": "0"}, "sequence number: '16-bit' (expected 32-bit or 64-bit)"),
    ({"number": "64-bit", "high": "100000000"}, "high half: '100000000'"),
    ({"number": "64-bit"}, "high half: 9 good fields (expected 8 or 10 fields"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_refused(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_esp_sa(f"{line()}\n{line(**fields)}\n", "esp_sa")
    assert f"esp_sa:2: {message}" in str(caught.value)
    assert caught.value.exit_code == 2
    assert KEY[2:] not in str(caught.value)


@pytest.mark.parametrize("text", ['"IPv4"', '"IPv4","', "IPv4,a", f"{line()} x", f"{line()},"])
def test_no_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"esp_sa:1: .*good fields"):
        read_esp_sa(text, "esp_sa")


def test_written_line() -> None:
    text, left_out = write_esp_sa([one(line())])
    assert text.splitlines()[1:] == [line()]
    assert left_out == []


def test_notes_about_wireshark() -> None:
    sa = StaticSA("chacha20-poly1305", 0x1000, bytes(32), bytes(4), esn=True, sequence=5 << 32 | 7)
    text, _ = write_esp_sa([sa])
    notes = [each for each in text.splitlines() if each.startswith("#")]
    assert len(notes) == 3
    lines = [each for each in text.splitlines() if not each.startswith("#")]
    # No address tells the family: a line for each
    assert [each.split(",")[:4] for each in lines] == [
        ['"IPv4"', '"*"', '"*"', '"0x00001000"'],
        ['"IPv6"', '"*"', '"*"', '"0x00001000"'],
    ]
    assert all(each.endswith(',"NULL","0x","64-bit","5"') for each in lines)


@given(static_sas())
def test_written_and_read_again(sa: StaticSA) -> None:
    text, left_out = write_esp_sa([sa])
    if sa.suite in ("aes-gmac", "aes-ccm-8", "aes-ccm-12", "aes-ccm-16", "aes-ccm-8-iiv"):
        assert left_out == [sa]
        assert read_esp_sa(text, "esp_sa") == []
        return
    for read in read_esp_sa(text, "esp_sa"):
        assert (read.suite, read.spi, read.key, read.salt, read.auth_key) == (
            sa.suite,
            sa.spi,
            sa.key,
            sa.salt,
            sa.auth_key,
        )
        assert (read.esn, read.sequence) == (sa.esn, sa.sequence >> 32 << 32 if sa.esn else 0)
        for theirs, ours in ((read.source, sa.source), (read.destination, sa.destination)):
            if ours is not None and ours.first == ours.last:
                assert theirs == ours
            elif ours is not None:
                assert theirs is not None
                assert theirs.first <= ours.first <= ours.last <= theirs.last
    assert (sa.suite in NEW_NAMES) == ("do not know" in text)
