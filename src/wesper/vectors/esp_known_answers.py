"""The list `public_aead`: published vectors of the algorithms and of ESP's packet layout."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from ..crypto import SUITES, Kind, Suite
from ..engine import Engine
from ..protocols import ip
from ..sa import SA, Direction, Outer, Profile
from ..verdict import Delivered
from ..wire.esp import ESP
from .case import Case, outcome
from .esp_sa import read_sequence
from .fields import FieldError, Fields

_IN: Final = "decapsulate"
_CBC: Final = "aes-cbc"
_HMACS: Final = {name.removeprefix("null+"): name for name, suite in SUITES.items() if suite.kind is Kind.NULL_HMAC}
_AEADS: Final = tuple(name for name, suite in SUITES.items() if suite.is_aead)
_AES_KEYS: Final = (16, 24, 32)


def run(entry: Fields, case: Case) -> None:
    """Test an algorithm by itself: many published plaintexts are no IP packets."""
    alg = entry.word("alg", (*_AEADS, _CBC, *_HMACS))
    entry.word("expect", ("ok",))
    engine = case.engine()
    if alg == _CBC:
        _run_cbc(entry, case, engine)
    elif alg in _HMACS:
        _run_hmac(entry, case, engine, _HMACS[alg])
    else:
        _run_aead(entry, case, engine, SUITES[alg])


def _run_cbc(entry: Fields, case: Case, engine: Engine) -> None:
    """Encryption without integrity, which no SA may have (RFC 4303 §3.2)."""
    key, iv, plaintext = entry.octets("key_hex", secret=True), entry.octets("iv_hex"), entry.octets("plaintext_hex")
    entry.flag("esn")
    _expect_length(entry, "key_hex", key, _AES_KEYS)
    _expect_length(entry, "iv_hex", iv, (16,))
    _expect_length(entry, "salt_hex", entry.octets("salt_hex"), (0,))
    _expect_length(entry, "icv_hex", entry.octets("icv_hex"), (0,))
    if not plaintext or len(plaintext) % 16:
        raise FieldError(f"plaintext_hex has {len(plaintext)} octets, not whole blocks of 16")
    encrypted = engine.algorithms.cbc(key, iv, plaintext)
    ciphertext = entry.octets("ciphertext_hex")
    if case.equal("ciphertext", ciphertext, encrypted):
        case.equal("plaintext", plaintext, engine.algorithms.cbc(key, iv, ciphertext, decrypt=True))


def _run_hmac(entry: Fields, case: Case, engine: Engine, suite: str) -> None:
    key, data = entry.octets("key_hex", secret=True), entry.octets("data_hex")
    _expect_length(entry, "salt_hex", entry.octets("salt_hex"), (0,))
    mac = engine.algorithms.hmac(suite, key, data)
    case.equal("ICV", entry.octets("icv_hex"), mac)


def _run_aead(entry: Fields, case: Case, engine: Engine, suite: Suite) -> None:
    key, salt, iv = entry.octets("key_hex", secret=True), entry.octets("salt_hex", secret=True), entry.octets("iv_hex")
    _expect_length(entry, "key_hex", key, suite.key_octets)
    _expect_length(entry, "salt_hex", salt, (suite.salt_octets,))
    _expect_length(entry, "iv_hex", iv, (8,))
    esn, spi = entry.flag("esn"), entry.number("spi", 32)
    sequence = read_sequence(entry, "seq", esn=esn)
    plaintext = entry.octets("plaintext_hex")
    algorithms = engine.algorithms

    associated = algorithms.associated(suite.name, spi, sequence, esn, iv)
    sealed = algorithms.seal(suite.name, key, salt, b"", iv, associated, plaintext)
    nonce, aad = entry.octets("nonce_hex"), entry.octets("aad_hex")
    ciphertext, icv = entry.octets("ciphertext_hex"), entry.octets("icv_hex")
    case.equal("nonce", nonce, salt + iv)
    # RFC 4543 §3.3: GMAC encrypts nothing; all that it covers is associated data.
    case.equal("AAD", aad, associated + plaintext if suite.kind is Kind.GMAC else associated)
    case.equal("ciphertext", ciphertext, sealed[: -suite.icv_octets])
    case.equal("ICV", icv, sealed[-suite.icv_octets :])

    def opened(what: str, octets: bytes) -> None:
        found = algorithms.open(suite.name, key, salt, b"", iv, associated, octets)
        case.equal(what, plaintext, "refused" if found is None else found)

    opened("opened plaintext", ciphertext + icv)
    for bit in range(8 * len(icv)):
        if algorithms.open(suite.name, key, salt, b"", iv, associated, ciphertext + _flipped(icv, bit)) is not None:
            case.fail(f"opened although bit {bit} of the ICV is wrong")

    header = ESP(spi, sequence & 0xFFFFFFFF, iv[: suite.iv_octets])
    built = header.build() + sealed
    packet = entry.octets("esp_packet_hex")
    case.equal("ESP packet", packet, built)
    if len(packet) < ESP.SIZE + suite.iv_octets + suite.icv_octets:
        case.fail(f"the ESP packet has {len(packet)} octets, too few to be parsed")
    else:
        parsed = ESP.parse(packet, iv=suite.iv_octets)
        case.equal("header of the ESP packet", header.build(), parsed.build())
        opened("plaintext of the ESP packet", packet[len(parsed) :])
    if entry.has("protected_packet_hex") or entry.has("plaintext_packet_hex"):
        protected = entry.octets("protected_packet_hex")
        receiver = case.engine()
        receiver.install(_receiver(suite, esn, protected, spi, key, salt, sequence))
        _run_packet(entry, case, receiver, protected, suite.icv_octets)


def _run_packet(entry: Fields, case: Case, engine: Engine, protected: bytes, icv_octets: int) -> None:
    """Decapsulate a published packet as a whole, first with each bit of its ICV wrong."""
    for bit in range(8 * icv_octets):
        forged = protected[:-icv_octets] + _flipped(protected[-icv_octets:], bit)
        answer = outcome(engine.decapsulate(forged, 0))
        case.equal(f"verdict with bit {bit} of the ICV wrong", "auth", answer, _IN)
    verdict = engine.decapsulate(protected, 0)
    plaintext = entry.octets("plaintext_packet_hex")
    case.equal("verdict", "delivered", outcome(verdict), _IN)
    if isinstance(verdict, Delivered):
        case.equal("packet", plaintext, verdict.packet, _IN)


def _receiver(suite: Suite, esn: bool, packet: bytes, spi: int, key: bytes, salt: bytes, sequence: int) -> SA:
    """Return the SA of the host that a tunnel packet is for."""
    datagram = ip.parse(packet)
    if datagram is None:
        raise FieldError("protected_packet_hex is no IP packet")
    ends = Outer(ip_address(datagram.header.destination), ip_address(datagram.header.source))
    profile = Profile(suite.name, outer=ends, esn=esn, window=0, resynchronise=False)
    return SA(profile, Direction.IN, spi, key, salt, sequence=sequence)


def _expect_length(entry: Fields, key: str, octets: bytes, allowed: tuple[int, ...]) -> None:
    if len(octets) not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise FieldError(f"{entry.name(key)} has {len(octets)} octets, not {wanted}")


def _flipped(octets: bytes, bit: int) -> bytes:
    """Return octets with one bit changed, counted from the first octet's highest."""
    changed = bytearray(octets)
    changed[bit // 8] ^= 0x80 >> bit % 8
    return bytes(changed)
