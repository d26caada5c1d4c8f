"""SAs of WESP, WESPv2 and EESP as key files have them: of the vectors, and made for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wesper.keying import Encapsulated, StaticSA
from wesper.keying.toml_file import read_toml
from wesper.vectors.esp_sa import read_pair
from wesper.vectors.fields import Fields

from .crossing import captured, encrypted

VECTORS = Path(__file__).parents[2] / "vectors"


def vectors(name: str) -> list[dict[str, Any]]:
    """The packets of vectors/<name>.json."""
    found: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())["vectors"]
    return found


def sa_of(vector: dict[str, Any], protocol: str, **changed: Any) -> StaticSA:
    """The SA of a vector's packet."""
    fields = Fields(vector)
    pair = read_pair(fields, fields.object("params"), protocol)
    shape = pair.shape
    given: dict[str, Any] = {
        "key": pair.key,
        "salt": pair.salt,
        "auth_key": pair.auth_key,
        "protocol": protocol,
        "mode": shape.mode,
        "inner": shape.inner,
        "encapsulation": Encapsulated.AS_SEEN,
        "esn": shape.esn,
        "window": 0,
        "sequence": int(vector["params"]["seq"], 16),
        "format": shape.format,
    }
    return StaticSA(shape.suite.name, pair.spi, **{**given, **changed})


def protected(vector: dict[str, Any]) -> bytes:
    """A vector's packet."""
    return bytes.fromhex(vector["protected_packet_hex"])


def key_file(
    protocol: str,
    text: str = "",
    around: str = "none",
    suite: str = "aes-gcm-16",
    spi: int = 0x3000,
    key_octets: int = 16,
) -> str:
    """A key file with one SA between two documentation addresses.   text: more of it.   key_octets: 32: a root key."""
    keys = [] if suite.startswith("null") else [f'key = "{"00" * key_octets}"']
    if "hmac" in suite:
        keys.append(f'auth_key = "{"0b" * 32}"')
    elif key_octets == 16:
        keys.append('salt = "00010203"')
    lines = [
        "[[sa]]",
        f"spi = {spi:#x}",
        f'suite = "{suite}"',
        f'protocol = "{protocol}"',
        'local = "203.0.113.1"',
        'remote = "203.0.113.2"',
        f'encapsulation = "{around}"',
        *keys,
        text,
    ]
    return "\n".join(lines) + "\n"


def sas_of(*arguments: str, **more: Any) -> list[StaticSA]:
    """What a `key_file` says."""
    return read_toml(key_file(*arguments, **more), "keys.toml")


def sent_by(sas: list[StaticSA], packets: list[bytes]) -> list[bytes]:
    """Packets, protected by the reference engine."""
    return [record.data for record in encrypted(captured(packets), sas, "reference").records]
