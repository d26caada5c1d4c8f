"""Keys that EESP derives: of Sub SAs from a root key, of stateless senders from a group's root keys.

Source: draft-ietf-ipsecme-eesp-03 §5, draft-ietf-ipsecme-eesp-ikev2-02 §4; EESP-SL-1 (docs/eesp.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..crypto.hkdf import hkdf_expand
from ..errors import ConfigError, KeyMaterialError

# IKEv2 transform numbers of the SSKDFs (draft-ietf-ipsecme-eesp-ikev2-02 §3.5), hash and root key octets.
SSKDFS: Final[dict[str, tuple[int, str, int]]] = {
    "hkdf-sha2-256": (1, "sha256", 32),
    "hkdf-sha2-384": (2, "sha384", 48),
    "hkdf-sha2-512": (3, "sha512", 64),
}
MASTER: Final = 32  # octets
_STATELESS_LABEL: Final = b"EESP-SL-1"
_STATELESS_KEY: Final = 32
_STATELESS_SALT: Final = 4


def sub_sa_key(kdf: str, root_key: bytes, info: bytes, key_octets: int, salt_octets: int) -> tuple[bytes, bytes]:
    """Return a Sub SA's key and salt.

    kdf: of SSKDFS.   root_key: as long as its hash.   info: the Session ID, 2 octets.
    """
    _, hash_name, size = SSKDFS[kdf]
    if len(root_key) != size:
        raise KeyMaterialError(f"root key of {len(root_key)} octets for {kdf}", key="key", expected=f"{size} octets")
    material = hkdf_expand(hash_name, root_key, info, key_octets + salt_octets)
    return material[:key_octets], material[key_octets:]


def split_root_keys(kdf: str, keymat: bytes) -> tuple[bytes, bytes]:
    """Return the root keys out of IKEv2's KEYMAT: initiator to responder, and back.   Raises KeyMaterialError."""
    size = SSKDFS[kdf][2]
    if len(keymat) != 2 * size:
        raise KeyMaterialError(f"{len(keymat)} octets of KEYMAT", key="keymat", expected=f"{2 * size} octets for {kdf}")
    return keymat[:size], keymat[size:]


def master_key(root_keys: Sequence[bytes]) -> bytes:
    """Return a stateless group's master key: all its root keys of one index, XORed.

    root_keys: 32 octets each, no two alike: they would cancel.   Raises KeyMaterialError.
    """
    if not root_keys or any(len(key) != MASTER for key in root_keys):
        raise KeyMaterialError("root keys of other lengths", key="root_keys", expected=f"{MASTER} octets each")
    if len(set(root_keys)) < len(root_keys):
        raise KeyMaterialError("a root key twice", key="root_keys", expected="different ones: equal ones cancel")
    master = 0
    for key in root_keys:
        master ^= int.from_bytes(key, "big")
    if master == 0:
        raise KeyMaterialError("root keys that cancel", key="root_keys", expected="independent random ones")
    return master.to_bytes(MASTER, "big")


def stateless_key(master: bytes, context: bytes) -> tuple[bytes, bytes]:
    """Return key and salt of a device's epoch.   context: SPI (4 octets), DeviceID (8), epoch (2)."""
    if len(context) != 14:
        raise ConfigError(f"context of {len(context)} octets", key="context", expected="14 octets")
    material = hkdf_expand("sha256", master, _STATELESS_LABEL + context, _STATELESS_KEY + _STATELESS_SALT)
    return material[:_STATELESS_KEY], material[_STATELESS_KEY:]
