"""The list `sub_sa_derivation`: keys of EESP's Sub SAs out of IKEv2's KEYMAT."""

from __future__ import annotations

from typing import Final

from ..crypto import SUITES
from ..protocols.eesp_keys import SSKDFS, split_root_keys
from .case import Case
from .fields import FieldError, Fields

_DIRECTIONS: Final = ("initiator-to-responder", "responder-to-initiator")


def run(entry: Fields, case: Case) -> None:
    """Cut KEYMAT into root keys and derive one Sub SA's key and salt."""
    kdf = entry.word("sskdf", tuple(SSKDFS))
    suite = SUITES[entry.word("alg", tuple(SUITES))]
    bits = entry.integer("key_bits", 0, 8 * max(suite.key_octets))
    if bits // 8 not in suite.key_octets or bits % 8:
        raise FieldError(f"key_bits is {bits}, which {suite.name} does not take")
    session_id = entry.integer("session_id", 0, 0xFFFF)
    way = _DIRECTIONS.index(entry.word("direction", _DIRECTIONS))
    root_key = split_root_keys(kdf, entry.octets("keymat_hex", secret=True))[way]
    key, salt = case.engine().algorithms.sub_sa_key(kdf, root_key, session_id, bits // 8, suite.salt_octets)
    case.equal("root key", entry.octets("root_key_hex", secret=True), root_key, secret=True)
    case.equal("info", entry.octets("info_hex"), session_id.to_bytes(2, "big"))
    case.equal("length", entry.integer("length", 0, 255), len(key) + len(salt))
    case.equal("key", entry.octets("key_hex", secret=True), key, secret=True)
    case.equal("salt", entry.octets("salt_hex", secret=True), salt, secret=True)
