"""The tables of a tunnel file as they are written: every key, its type, its default, and what is right."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..host.tun import DeviceKind
from ..keying.family_toml import FAMILY_WORDS, EESPTable, OptionTable, StatelessTable, SubSAsTable, WESPv2Table
from ..sa.replay import DEFAULT_WINDOW


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class InterfaceTable(_Strict):
    """`[interface]`: the interface of this host, and what runs it."""

    name: str = ""
    addresses: list[str] = []
    mtu: int = 0
    kind: DeviceKind = "auto"
    engine: Literal["auto", "native", "reference"] = "auto"
    offloads: Literal["auto", "off"] = "auto"
    workers: int = 1
    state_dir: str = ""
    run_dir: str = ""


class LogTable(_Strict):
    """`[log]`: how events are told, and where.   file: "": standard error, or NAME.log in the run directory."""

    format: Literal["text", "json"] = "text"
    file: str = ""


class MetricsTable(_Strict):
    """`[metrics]`.   listen: address and port for scrapers; "": none."""

    listen: str = ""


class DeviceTable(_Strict):
    """`[psp]`: this end as a PSP device.   device_keys: a file with device key 0, or both in a row."""

    device_keys: str = ""


class PortsTable(_Strict):
    """`encapsulation` as a table: ports of UDP; none: the protocol's."""

    local_port: int | None = None
    peer_port: int | None = None


class PSPTable(_Strict):
    """`psp` of a tunnel: how its packets look, and what is done about such as come twice.

    source_ports: a range, or a list; none: as the kernel gives them.   window: of "bitmap".   margin_ms: of "time".
    """

    version: int = 0
    crypt_offset: int = 0
    cookie: str = ""
    source_ports: list[int] | str = []
    replay: Literal["none", "time", "bitmap"] = "none"
    window: int | None = None
    margin_ms: int | None = None


class InnerTable(_Strict):
    """`inner`: the pair of addresses inside, of BEET mode; in transport mode those before NAT."""

    local: str
    peer: str


class SelectorTable(_Strict):
    """`[[tunnel.selectors]]`: one set of traffic."""

    local: list[str] = []
    peer: list[str] = []
    protocol: int | None = None
    local_ports: int | str | None = None
    peer_ports: int | str | None = None


class LifetimeTable(_Strict):
    """`lifetime`: hard limits of each SA."""

    seconds: int | None = None
    octets: int | None = None
    packets: int | None = None
    idle_seconds: int | None = None


class PairTable(_Strict):
    """`[[tunnel.sa]]`: two SAs, one each way, with their key files.   key_in: not PSP's, which has device keys."""

    spi_out: int
    spi_in: int
    key_out: str
    key_in: str = ""


class TunnelTable(_Strict):
    """`[[tunnel]]`: one peer."""

    peer: str
    sa: list[PairTable]
    name: str = ""
    protocol: Literal["esp", "wesp", "wespv2", "eesp", "psp"] = "esp"
    local: str = "any"
    mode: Literal["tunnel", "transport", "beet"] = "tunnel"
    encapsulation: PortsTable | Literal["udp", "none"] = "udp"
    suite: str = "aes-gcm-16"
    wespv2: WESPv2Table | None = None
    eesp: EESPTable | None = None
    psp: PSPTable | None = None
    networks: list[str] = []
    selectors: list[SelectorTable] = []
    routes: bool = True
    inner: InnerTable | None = None
    esn: bool = True
    window: int = DEFAULT_WINDOW
    dscp: int | Literal["copy"] = "copy"
    df: Literal["copy", "set", "clear"] = "copy"
    hop_limit: int = 64
    pad_to: int = 0
    path_mtu: int = 0
    roaming: bool | None = None
    keepalive: int = 0
    probe: bool | None = None
    option_errors: bool = False
    lifetime: LifetimeTable = msgspec.field(default_factory=LifetimeTable)


class FileTable(_Strict):
    """The whole file."""

    tunnel: list[TunnelTable]
    interface: InterfaceTable = msgspec.field(default_factory=InterfaceTable)
    log: LogTable = msgspec.field(default_factory=LogTable)
    metrics: MetricsTable = msgspec.field(default_factory=MetricsTable)
    psp: DeviceTable = msgspec.field(default_factory=DeviceTable)


TABLES: dict[str, type[msgspec.Struct]] = {
    "": FileTable,
    "interface": InterfaceTable,
    "log": LogTable,
    "metrics": MetricsTable,
    "psp": DeviceTable,
    "tunnel": TunnelTable,
    "tunnel.encapsulation": PortsTable,
    "tunnel.inner": InnerTable,
    "tunnel.psp": PSPTable,
    "tunnel.wespv2": WESPv2Table,
    "tunnel.wespv2.options": OptionTable,
    "tunnel.eesp": EESPTable,
    "tunnel.eesp.options": OptionTable,
    "tunnel.eesp.sub_sas": SubSAsTable,
    "tunnel.eesp.stateless": StatelessTable,
    "tunnel.selectors": SelectorTable,
    "tunnel.lifetime": LifetimeTable,
    "tunnel.sa": PairTable,
}
EXPECTED: dict[str, str] = {
    **FAMILY_WORDS,
    "device_keys": "the name of a key file, as keygen makes",
    "df": "copy, set or clear",
    "dscp": "copy or 0..63",
    "encapsulation": "udp, none or a table of local_port and peer_port",
    "engine": "auto, native or reference",
    "format": "text or json",
    "key_in": "the name of a key file, as keygen makes",
    "key_out": "the name of a key file, as keygen makes",
    "kind": "auto, tun or veth",
    "mode": "tunnel, transport or beet",
    "offloads": "auto or off",
    "replay": "none, time or bitmap",
    "protocol": "esp, wesp, wespv2, eesp or psp",
    "sa": "a [[tunnel.sa]] table for each pair of SAs",
    "source_ports": '16 ports or more: a list, or "first-last"',
    "spi_in": "a number, 0x100..0xffffffff",
    "spi_out": "a number, 0x100..0xffffffff",
    "tunnel": "a [[tunnel]] table for each peer",
    "tunnel.peer": 'an address, or "any"',
}
