"""WESPv2's and EESP's own settings in a key file: the tables `wespv2` and `eesp` of an SA."""

from __future__ import annotations

import json
from typing import Any, Final, Literal

import msgspec

from ..errors import ConfigError
from ..protocols import Format
from ..sa import (
    CryptOffset,
    EESPFormat,
    Exposure,
    FlowKind,
    FlowPolicy,
    Option,
    StatelessGroup,
    SubSAs,
    WESPv2Format,
)

_Shown = Literal["none", "l3", "l3+l4"] | int
_Named = Literal["5-tuple", "dscp", "mark"] | int
FAMILY_WORDS: Final = {
    "crypt_offset": "none, l3, l3+l4 or a number of octets",
    "flow_identifier": "5-tuple, dscp, mark or a number",
    "session": "5-tuple, dscp, mark or a number",
}


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class OptionTable(_Strict):
    """An option.   data: hex."""

    type: int
    data: str = ""


class SubSAsTable(_Strict):
    """EESP's Sub SAs."""

    kdf: str = "hkdf-sha2-256"
    max_id: int = 65535
    peer_max_id: int | None = None
    key_octets: int = 32
    first_port: int = 0


class StatelessTable(_Strict):
    """A stateless group.   device_id: hex."""

    device_id: str
    indexes: list[int]


class WESPv2Table(_Strict):
    """Settings of WESPv2.   cpus: names flows by CPU instead, so many."""

    crypt_offset: _Shown = "none"
    expose_payload: bool = False
    max_crypt_offset_octets: int = 0
    peer_max_crypt_offset_octets: int | None = None
    flow_identifier: _Named | None = None
    cpus: int | None = None
    flow_identifier_octets: int = 8
    options: list[OptionTable] = []


class EESPTable(_Strict):
    """Settings of EESP.   cpus: chooses sessions by CPU instead, so many."""

    sequence_numbers: bool = True
    crypt_offset: _Shown | None = None
    expose_payload: bool = False
    max_crypt_offset_octets: int | None = None
    peer_max_crypt_offset_octets: int | None = None
    session: _Named = 0
    cpus: int | None = None
    sub_sas: SubSAsTable | None = None
    stateless: StatelessTable | None = None
    options: list[OptionTable] = []
    ip_protocol: int = 253


def read_format(table: WESPv2Table | EESPTable) -> Format:
    """Return the settings that a table describes.   Raises ConfigError."""
    options = tuple(Option(each.type, _octets("options", each.data)) for each in table.options)
    shown = _crypt_offset(table.crypt_offset, table.expose_payload)
    if isinstance(table, WESPv2Table):
        return WESPv2Format(
            shown or CryptOffset(),
            table.max_crypt_offset_octets,
            table.peer_max_crypt_offset_octets,
            _policy(table.flow_identifier, table.cpus),
            table.flow_identifier_octets,
            options,
        )
    sub, group = table.sub_sas, table.stateless
    return EESPFormat(
        table.sequence_numbers,
        shown,
        table.max_crypt_offset_octets,
        table.peer_max_crypt_offset_octets,
        _policy(table.session, table.cpus) or FlowPolicy(),
        None if sub is None else SubSAs(sub.kdf, sub.max_id, sub.peer_max_id, sub.key_octets, sub.first_port),
        None if group is None else StatelessGroup(_device(group.device_id), tuple(group.indexes)),
        options,
        table.ip_protocol,
    )


def write_format(settings: Format, table: str = "sa") -> list[str]:
    """Return the TOML lines of a table with these settings; what is as by default is left out.

    table: the one that it stands in.
    """
    if not isinstance(settings, (WESPv2Format, EESPFormat)):
        return []
    default = type(settings)()
    values: dict[str, Any] = {}
    shown = settings.crypt_offset
    if shown is not None and shown != default.crypt_offset:
        values["crypt_offset"] = shown.octets if shown.exposure is Exposure.OCTETS else shown.exposure.value
        values["expose_payload"] = shown.expose_payload
    named = settings.flow_identifier if isinstance(settings, WESPv2Format) else settings.session
    key = "flow_identifier" if isinstance(settings, WESPv2Format) else "session"
    if named is not None and named.kind is FlowKind.CPU:
        values["cpus"] = named.value
    elif named is not None:
        values[key] = named.value if named.kind is FlowKind.FIXED else named.kind.value
    for key in ("max_crypt_offset_octets", "peer_max_crypt_offset_octets", "flow_identifier_octets", "ip_protocol"):
        values[key] = getattr(settings, key, None)
    if isinstance(settings, EESPFormat):
        values["sequence_numbers"] = settings.sequence_numbers
        if (sub := settings.sub_sas) is not None:
            names = ("kdf", "max_id", "peer_max_id", "key_octets", "first_port")
            values["sub_sas"] = {name: getattr(sub, name) for name in names}
        if (group := settings.stateless) is not None:
            values["stateless"] = {"device_id": f"{group.device_id:016x}", "indexes": list(group.indexes)}
    if settings.options:
        values["options"] = [{"type": option.type, "data": option.data.hex()} for option in settings.options]
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    return ["", f"[{table}.{settings.protocol}]", *lines]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        inside = ", ".join(f"{key} = {_toml(each)}" for key, each in value.items() if each is not None)
        return f"{{ {inside} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


def _crypt_offset(shown: str | int | None, expose_payload: bool) -> CryptOffset | None:
    if shown is None:
        return None
    if isinstance(shown, int):
        return CryptOffset(Exposure.OCTETS, shown, expose_payload)
    return CryptOffset(Exposure(shown), expose_payload=expose_payload)


def _policy(named: str | int | None, cpus: int | None) -> FlowPolicy | None:
    if cpus is not None:
        return FlowPolicy(FlowKind.CPU, cpus)
    if named is None:
        return None
    return FlowPolicy(value=named) if isinstance(named, int) else FlowPolicy(FlowKind(named))


def _octets(key: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError("not hex", key=key, expected="pairs of hex digits") from None


def _device(text: str) -> int:
    octets = _octets("stateless.device_id", text)
    if len(octets) != 8:
        raise ConfigError(f"{len(octets)} octets", key="stateless.device_id", expected="8 octets in hex")
    return int.from_bytes(octets, "big")
