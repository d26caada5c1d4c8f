"""PSP's files: key derivation, packets of google/psp's reference, and packets that must be dropped."""

from __future__ import annotations

from typing import Final

import numpy as np

from .. import psp
from ..crypto.psp import VERSIONS
from ..protocols import ip
from ..protocols.modes import Mode
from ..protocols.psp import FIXED, UDP_HEADER
from ..verdict import Dropped, DropReason
from ..wire.psp import ICV, PSP
from .case import Case
from .fields import FieldError, Fields
from .kind import CaseList, Kind

_OUT: Final = "encapsulate"
_IN: Final = "decapsulate"
_LINK: Final = 14  # octets of the Ethernet header, which passes unchanged
_COUNTERS: Final = ("rx_auth_fail", "rx_error", "rx_bad")
_SAMPLE: Final = "deliver and sample"
_DROP: Final = "sample, then drop"


def _run_kdf(entry: Fields, case: Case) -> None:
    """Derive one key, alone and among others."""
    engine = _device(entry, case)
    version, spi = entry.integer("version", 0, 3), entry.number("spi", 32)
    blocks = engine.input_blocks(spi, version)
    key = engine.derive_key(spi, version)
    among = np.array([spi ^ 1, spi, spi ^ 0x80000000, spi ^ 0x55], np.uint32)
    rows = engine.derive_keys(among, version)
    case.equal("device key", entry.integer("selected_master_key", 0, 1), spi >> 31)
    expected = entry.octets_list("input_blocks_hex")
    case.equal("input blocks", b"".join(expected), b"".join(blocks))
    case.equal("number of input blocks", len(expected), len(blocks))
    derived = entry.octets("derived_key_hex", secret=True)
    case.equal("derived key", derived, key, secret=True)
    case.equal("derived key, in a batch", derived, rows[1].tobytes(), secret=True)


def _run_packet(entry: Fields, case: Case) -> None:
    """Encapsulate by google/psp's own rules, and open with the two device keys alone."""
    engine = _device(entry, case)
    version, spi = entry.integer("version", 0, 3), entry.number("spi", 32)
    bits = entry.integer("sd_bits", 0, 3) if entry.has("sd_bits") else 0
    reserved = entry.integer("r_bits", 0, 3) if entry.has("r_bits") else 0
    extension = entry.octets("ext_hex") if entry.has("ext_hex") else b""
    cookie = entry.octets("vc") if entry.has("vc") else None
    profile = psp.Profile(
        Mode(entry.word("mode", ("transport", "tunnel"))),
        version,
        entry.integer("crypt_offset", 0, 63),
        cookie,
        extension,
        source_port=psp.SourcePort.XOR,
        sample=bool(bits & 2),
        drop=bool(bits & 1),
        reserved=reserved,
    )
    frame = entry.octets("cleartext_packet_hex")
    iv = entry.octets("iv_hex")
    if len(iv) != 8:
        raise FieldError(f"iv_hex has {len(iv)} octets, not 8")
    key = engine.derive_key(spi, version)
    sent = engine.encapsulate(profile, frame[_LINK:], spi, key, int.from_bytes(iv, "big"))
    case.equal("derived key", entry.octets("derived_key_hex", secret=True), key, secret=True)
    protected = entry.octets("encrypted_packet_hex")
    if isinstance(sent, Dropped):
        case.equal("verdict", "sent", sent.reason.verdict, _OUT)
    else:
        case.equal("packet", protected, frame[:_LINK] + sent, _OUT)
        case.equal("IP version", entry.integer("ip_version", 4, 6), sent[0] >> 4, _OUT)
        case.equal("Next Header", entry.integer("next_header", 0, 255), _header(sent).next_header, _OUT)

    before = engine.counters()
    verdict = engine.decapsulate(protected[_LINK:])
    after = engine.counters()
    expected = entry.word("after_open", (_SAMPLE, _DROP)) if entry.has("after_open") else ""
    if expected == _DROP:
        sampled = verdict.opened if isinstance(verdict, psp.SampledDrop) else None
        reason = verdict.reason.verdict if isinstance(verdict, Dropped) else "delivered"
        case.equal("verdict", DropReason.PSP_SAMPLED.verdict, reason, _IN)
        verdict = sampled or verdict
    if isinstance(verdict, Dropped):
        case.equal("verdict", "delivered", verdict.reason.verdict, _IN)
        return
    case.equal("packet", frame, protected[:_LINK] + verdict.packet, _IN)
    case.equal("SPI", spi, verdict.spi, _IN)
    case.equal("IV", iv, verdict.iv.to_bytes(8, "big"), _IN)
    case.equal("version", version, verdict.version, _IN)
    case.equal("cookie", cookie, verdict.cookie, _IN)
    case.equal("extension", extension, verdict.extension, _IN)
    case.equal("sampled", int(expected in (_SAMPLE, _DROP)), int(verdict.sample), _IN)
    case.equal("packets counted", 1, after["rx_packets"] - before["rx_packets"], _IN)
    for counter in _COUNTERS:
        case.equal(f"counter {counter}", before[counter], after[counter], _IN)


def _run_negative(entry: Fields, case: Case) -> None:
    """One counter rises, the others stand still, nothing comes out."""
    engine = _device(entry, case)
    packet = entry.octets("packet_hex")
    before = engine.counters()
    verdict = engine.decapsulate(packet[_LINK:])
    after = engine.counters()
    entry.word("expect", ("drop",))
    wanted = entry.word("counter", _COUNTERS)
    case.equal("verdict", "dropped", "dropped" if isinstance(verdict, Dropped) else "delivered", _IN)
    octets = {f"{counter}_bytes" for counter in _COUNTERS}
    for counter, count in after.items():
        if counter not in octets:
            case.equal(f"counter {counter}", before[counter] + (counter == wanted), count, _IN)


def _run_psp_only(entry: Fields, case: Case) -> None:
    """Seal and open PSP header and payload, no IP or UDP around them."""
    engine = psp.open_engine(case.engine().name)
    version, key = entry.integer("version", 0, 3), entry.octets("derived_key_hex", secret=True)
    if len(key) != VERSIONS[version].key_octets:
        raise FieldError(f"derived_key_hex has {len(key)} octets, not {VERSIONS[version].key_octets}")
    clear = entry.octets("cleartext_psp_hex")
    if len(clear) < FIXED or PSP.parse(clear[:FIXED] + bytes(2048)).version != version:
        raise FieldError(f"cleartext_psp_hex is no PSP packet of version {version}")
    sealed = engine.seal(key, clear)
    expected = entry.octets("encrypted_psp_hex")
    case.equal("packet", expected, sealed, _OUT)
    opened = engine.open(key, expected)
    case.equal("packet", clear, "refused" if opened is None else opened, _IN)
    for octet in (0, 4, 15, len(expected) - ICV, len(expected) - 1):
        forged = bytearray(expected)
        forged[octet] ^= 1
        case.equal(f"packet with octet {octet} changed", None, engine.open(key, bytes(forged)), _IN)


def _device(entry: Fields, case: Case) -> psp.Engine:
    engine = psp.open_engine(case.engine().name)
    for slot in (0, 1):
        engine.set_device_key(slot, entry.octets(f"master_key{slot}_hex", secret=True))
    return engine


def _header(packet: bytes) -> PSP:
    datagram = ip.parse(packet)
    assert datagram is not None
    return PSP.parse(packet[datagram.upper_at + UDP_HEADER :])


_PACKET: Final = CaseList(_run_packet, informative=frozenset(("reference_decryptor",)))
KIND: Final = Kind(
    "PSP",
    ("format",),
    lambda document: document.get("format") == "psp-vectors-1",
    frozenset(("format", "note")),
    {
        "kdf": CaseList(_run_kdf),
        "own_kdf": CaseList(_run_kdf),
        "vectors": _PACKET,
        "own_vectors": _PACKET,
        "negative": CaseList(
            _run_negative, informative=frozenset(("base_vector", "counter_basis", "reference_decryptor"))
        ),
        "psp_only": CaseList(_run_psp_only),
    },
)
