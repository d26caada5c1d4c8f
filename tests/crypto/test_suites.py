"""The suite table against esp.md §3, and known answers for what runs on it."""

from __future__ import annotations

import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from wesper.crypto import SUITES, InvalidTag, block_encrypt, cbc, hmac_tag, suite, transform
from wesper.errors import KeyMaterialError, UnsupportedError

PUBLISHED: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "vectors" / "esp.json").read_text())[
    "public_aead"
]

# name: (key octets, salt, IV as sent, ICV, block, auth key, IKEv2 ENCR, IKEv2 INTEG), as esp.md §3 has them.
AES = (16, 24, 32)
TABLE: dict[str, tuple[tuple[int, ...], int, int, int, int, int, int, int]] = {
    "aes-gcm-16": (AES, 4, 8, 16, 4, 0, 20, 0),
    "aes-gcm-12": (AES, 4, 8, 12, 4, 0, 19, 0),
    "aes-gcm-8": (AES, 4, 8, 8, 4, 0, 18, 0),
    "aes-gcm-16-iiv": (AES, 4, 0, 16, 4, 0, 30, 0),
    "chacha20-poly1305": ((32,), 4, 8, 16, 4, 0, 28, 0),
    "chacha20-poly1305-iiv": ((32,), 4, 0, 16, 4, 0, 31, 0),
    "aes-gmac": (AES, 4, 8, 16, 4, 0, 21, 0),
    "aes-ccm-8": (AES, 3, 8, 8, 4, 0, 14, 0),
    "aes-ccm-12": (AES, 3, 8, 12, 4, 0, 15, 0),
    "aes-ccm-16": (AES, 3, 8, 16, 4, 0, 16, 0),
    "aes-ccm-8-iiv": (AES, 3, 0, 8, 4, 0, 29, 0),
    "aes-cbc+hmac-sha2-256-128": (AES, 0, 16, 16, 16, 32, 12, 12),
    "aes-cbc+hmac-sha2-384-192": (AES, 0, 16, 24, 16, 48, 12, 13),
    "aes-cbc+hmac-sha2-512-256": (AES, 0, 16, 32, 16, 64, 12, 14),
    "null+hmac-sha2-256-128": ((0,), 0, 0, 16, 4, 32, 11, 12),
    "null+hmac-sha2-384-192": ((0,), 0, 0, 24, 4, 48, 11, 13),
    "null+hmac-sha2-512-256": ((0,), 0, 0, 32, 4, 64, 11, 14),
}


def test_table() -> None:
    found = {
        name: (
            s.key_octets,
            s.salt_octets,
            s.iv_octets,
            s.icv_octets,
            s.block,
            s.auth_key_octets,
            s.encr,
            s.integ,
        )
        for name, s in SUITES.items()
    }
    assert found == TABLE


def test_rows_say_what_follows_from_them() -> None:
    for name, row in SUITES.items():
        assert row.name == name
        assert row.implicit_iv is name.endswith("-iiv")
        assert row.is_aead is row.iv_from_counter is ("+" not in name)
        assert "RFC" in row.source


def test_unknown_suite_names_those_that_there_are() -> None:
    with pytest.raises(UnsupportedError, match=r"'3des'.*aes-gcm-16"):
        suite("3des")


@pytest.mark.parametrize("name", SUITES)
def test_wrong_lengths(name: str) -> None:
    row = SUITES[name]
    right = {
        "key": bytes(row.key_octets[0]),
        "salt": bytes(row.salt_octets),
        "auth_key": bytes(row.auth_key_octets),
    }
    transform(row, **right)
    for wrong in right:
        for octets in {len(right[wrong]) + 1, max(len(right[wrong]) - 1, 0)} - {len(right[wrong])}:
            with pytest.raises(KeyMaterialError, match="octets") as caught:
                transform(row, **{**right, wrong: b"\xd7" * octets})
            assert caught.value.key == wrong
            assert "d7" not in str(caught.value)


def aead(vector: dict[str, Any]) -> Any:
    names = {"aes-gcm": "aes-gcm-16"}
    key, salt = bytes.fromhex(vector["key_hex"]), bytes.fromhex(vector.get("salt_hex", ""))
    return transform(SUITES[names.get(vector["alg"], vector["alg"])], key, salt)


KNOWN = [v for v in PUBLISHED if v["alg"] in SUITES and SUITES[v["alg"]].is_aead]


@pytest.mark.parametrize("vector", KNOWN, ids=lambda v: str(v.get("name", v["alg"])))
def test_published_aeads(vector: dict[str, Any]) -> None:
    """draft-mcgrew-gcm-test-01, RFC 7634 appendix A."""
    keys = aead(vector)
    iv, aad = bytes.fromhex(vector["iv_hex"]), bytes.fromhex(vector["aad_hex"])
    plain, icv = bytes.fromhex(vector["plaintext_hex"]), bytes.fromhex(vector["icv_hex"])
    sealed = bytes.fromhex(vector["ciphertext_hex"]) + icv
    if vector["alg"] == "aes-gmac":
        sealed = plain + icv
        aad = aad.removesuffix(plain)
    assert keys.seal(iv, aad, plain) == sealed
    assert keys.open(iv, aad, sealed) == plain
    for at in range(len(sealed)):
        with pytest.raises(InvalidTag):
            keys.open(iv, aad, sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :])


def test_there_are_published_aeads() -> None:
    assert {v["alg"] for v in KNOWN} >= {"aes-gcm-16", "aes-gmac", "chacha20-poly1305"}


def test_published_cbc_and_hmac() -> None:
    """RFC 3602 §4 cases 1 and 2, RFC 4868 §2.7.2.1 case 1 of each hash."""
    for key, iv, plain, sealed in (
        (
            "06a9214036b8a15b512e03d534120006",
            "3dafba429d9eb430b422da802c9fac41",
            b"Single block msg".hex(),
            "e353779c1079aeb82708942dbe77181a",
        ),
        (
            "c286696d887c9aa0611bbb3e2025a45a",
            "562e17996d093d28ddb3ba695a2e6f58",
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
        ),
    ):
        octets = [bytes.fromhex(text) for text in (key, iv, plain, sealed)]
        assert cbc(*octets[:3]) == octets[3]
        assert cbc(octets[0], octets[1], octets[3], decrypt=True) == octets[2]
    for name, tag in (
        ("null+hmac-sha2-256-128", "198a607eb44bfbc69903a0f1cf2bbdc5"),
        ("null+hmac-sha2-384-192", "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973"),
        ("null+hmac-sha2-512-256", "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8"),
    ):
        row = SUITES[name]
        assert hmac_tag(row, b"\x0b" * row.auth_key_octets, b"Hi There").hex() == tag


def test_block_encrypt() -> None:
    """FIPS 197 appendix C.1."""
    key, block = bytes(range(16)), bytes.fromhex("00112233445566778899aabbccddeeff")
    assert block_encrypt(key, block).hex() == "69c4e0d86a7b0430d8cdb78070b4c55a"


@pytest.mark.parametrize("name", [n for n in SUITES if not SUITES[n].is_aead])
def test_encrypt_then_mac(name: str) -> None:
    """The MAC is over what is sent and the suffix that is not; it is checked before anything is decrypted."""
    row = SUITES[name]
    key, auth = bytes(range(row.key_octets[0])), bytes(range(row.auth_key_octets))
    iv = bytes(row.iv_octets)
    keys, front, plain = transform(row, key, b"", auth), b"SPI.SEQ." + iv, bytes(32)
    sealed = keys.seal(iv, front, plain, b"high")
    if key:
        encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
        ciphertext = encryptor.update(plain) + encryptor.finalize()
    else:
        ciphertext = plain
    expected = hmac.digest(auth, front + ciphertext + b"high", row.hash_name)[: row.icv_octets]
    assert sealed == ciphertext + expected
    assert keys.open(iv, front, sealed, b"high") == plain
    for other in (b"", b"hihg"):
        with pytest.raises(InvalidTag):
            keys.open(iv, front, sealed, other)
    with pytest.raises(InvalidTag):
        keys.open(iv, front, sealed[1:], b"high")


def test_no_repr_shows_a_key() -> None:
    for row in SUITES.values():
        keys = transform(row, b"\xd7" * row.key_octets[0], b"\xd7" * row.salt_octets, b"\xd7" * row.auth_key_octets)
        assert "d7" not in repr(keys).replace(f"{id(keys):x}", "")
