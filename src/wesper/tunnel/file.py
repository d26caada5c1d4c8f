"""The tunnel file: TOML in, settings out, every default in one place, every mistake with line and key.

[interface]
addresses = ["10.8.0.1/24"]

[[tunnel]]
peer = "198.51.100.7"
networks = ["10.8.0.2/32", "10.20.0.0/16"]

[[tunnel.sa]]
spi_out = 0x5a3e0001
spi_in = 0x5a3e0002
key_out = "office-1.out.key"
key_in = "office-1.in.key"
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Literal

from ..engine import ENGINES
from ..engine.interface import split_keys
from ..errors import ConfigError, KeyMaterialError
from ..host.places import default_run_dir, default_state_dir
from ..host.tun import IPV6_MIN_MTU, DeviceKind
from ..keying.strict_toml import read_strict
from ..keying.text_file import read_text
from ..keying.toml_lines import LineIndex
from ..protocols import Format
from ..protocols.ip import IPAddress
from ..psp.gateway import GatewayProfile, GatewaySA
from ..psp.interface import check_key
from ..sa import (
    DF,
    SA,
    AddressRange,
    Direction,
    Inner,
    Lifetime,
    Mode,
    Outer,
    Profile,
    Selector,
    UDPEncapsulation,
)
from ..wire.psp import PORT as PSP_PORT
from ..wire.udp import IPSEC_NAT_T_PORT
from .family_settings import check_first_bits, check_suite, format_of
from .key_row import named_row
from .psp_settings import DeviceKeys, PSPSettings, check_one_device, derived, device_keys_of, psp_of
from .scrape import parse_listen
from .tables import (
    EXPECTED,
    TABLES,
    FileTable,
    LifetimeTable,
    PairTable,
    PortsTable,
    SelectorTable,
    TunnelTable,
)

Network = IPv4Network | IPv6Network
BROADCAST = ipaddress.ip_address("255.255.255.255")
ANY = {4: ipaddress.ip_address("0.0.0.0"), 6: ipaddress.ip_address("::")}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_PORT_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_SOFT_PERCENT = 80  # of a hard lifetime: when the next keys are asked for


@dataclass(frozen=True, slots=True)
class SAPair:
    """The two SAs of a pair, as this end sees them.   row_out, row_in: key, salt and auth key in a row.

    PSP: row_in is derived from the device keys of this end.
    """

    spi_out: int
    spi_in: int
    row_out: bytes = field(repr=False)
    row_in: bytes = field(repr=False)

    @property
    def title(self) -> str:
        """What people call it."""
        return f"SPI {self.spi_out:#010x} out, {self.spi_in:#010x} in"


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """One tunnel to one peer.

    protocol: esp, wesp, wespv2, eesp or psp.   format: what it has alone; None: by default.   psp: of PSP; else None.
    local: an address of this host; unspecified: any.   peer: None: open, known when it has been heard.
    encapsulation: ports of UDP; None: an IP protocol of its own.
    networks: behind the peer.   path_mtu: octets; 0: the route's.
    keepalive: seconds of silence after which a NAT keepalive goes out; 0: never.   probe: send dummies until the peer
    is heard.   roaming: follow the peer where its authentic packets come from.
    option_errors: tell the peer by ICMP of options that are not known here and ask for it.
    """

    name: str
    local: IPAddress
    peer: IPAddress | None
    mode: Mode
    encapsulation: UDPEncapsulation | None
    suite: str
    networks: tuple[Network, ...]
    selectors: tuple[Selector, ...]
    routes: bool
    inner: Inner | None
    esn: bool
    window: int
    dscp: int | None
    df: DF
    hop_limit: int
    pad_to: int
    path_mtu: int
    roaming: bool
    keepalive: int
    probe: bool
    option_errors: bool
    hard: Lifetime
    pairs: tuple[SAPair, ...]
    protocol: str = "esp"
    format: Format | None = None
    psp: PSPSettings | None = None

    @property
    def ip_protocol(self) -> int:
        """The number in the outer IP header where there is no UDP."""
        profile = self.profile(self.local, None, None, 1500)
        assert isinstance(profile, Profile)
        return profile.ways.ip_protocol(profile)

    @property
    def sending_from(self) -> tuple[IPAddress, tuple[int, ...]]:
        """The address and UDP ports that PSP sends from, as the file has them; none: those that the kernel gives."""
        return self.local, () if self.psp is None else self.psp.source_ports

    def routed(self) -> tuple[Network, ...]:
        """Return the networks whose packets have to come to the interface."""
        if not self.routes:
            return ()
        if self.mode is Mode.TRANSPORT and self.peer is not None:
            return (ipaddress.ip_network(self.peer),)
        if self.mode is Mode.BEET and self.inner is not None:
            return (ipaddress.ip_network(self.inner.remote),)
        return self.networks

    def profile(
        self, local: IPAddress, peer: IPAddress | None, port: int | None, mtu: int, ports: tuple[int, ...] = ()
    ) -> Profile | GatewayProfile:
        """Return what its SAs share.

        peer, port: where the peer is now, None: as in the file.   mtu: of the path.   ports: that PSP sends from.
        """
        around = self.encapsulation
        if around is not None and port is not None:
            around = UDPEncapsulation(around.local_port, port)
        remote = peer or self.peer or ANY[local.version]
        hard = self.hard
        soft = Lifetime(
            *(
                None if each is None else max(each * _SOFT_PERCENT // 100, 1)
                for each in (hard.seconds, hard.octets, hard.packets)
            )
        )
        outer = Outer(local, remote, self.hop_limit, self.df, self.dscp)
        if self.psp is not None:
            assert around is not None
            return self.psp.profile(self.mode, outer, around.remote_port, ports, mtu, self.selectors, soft, hard)
        return Profile(
            self.suite,
            self.mode,
            outer,
            self.inner,
            around,
            self.protocol,
            esn=self.esn,
            window=self.window,
            pad_to=self.pad_to,
            mtu=min(mtu, 65535),
            selectors=self.selectors,
            soft=soft,
            hard=hard,
            format=self.format,
        )

    def sa(self, pair: SAPair, direction: Direction, profile: Profile | GatewayProfile) -> SA | GatewaySA:
        """Return one SA of a pair, at its first number."""
        spi, row = (pair.spi_out, pair.row_out) if direction is Direction.OUT else (pair.spi_in, pair.row_in)
        if isinstance(profile, GatewayProfile):
            return GatewaySA(profile, direction, spi, row)
        key, salt, auth = split_keys(profile, len(row))
        return SA(profile, direction, spi, row[:key], row[key : key + salt], row[key + salt : key + salt + auth])


@dataclass(frozen=True, slots=True)
class TunnelFile:
    """All that a file says.   table: as written, with defaults.   given: the keys that are written."""

    path: Path
    name: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    mtu: int
    kind: DeviceKind
    engine: str | None
    offloads: bool
    workers: int
    state_dir: Path
    run_dir: Path
    log_format: Literal["text", "json"]
    log_file: Path | None
    metrics: str
    tunnels: tuple[TunnelSettings, ...]
    device_keys: DeviceKeys = field(repr=False)
    table: FileTable = field(repr=False)
    given: LineIndex = field(repr=False)

    @property
    def protocol(self) -> str:
        """What its first tunnel runs."""
        return self.tunnels[0].protocol

    @property
    def is_psp(self) -> bool:
        """Whether its tunnels run PSP; else each runs a protocol of the ESP family."""
        return self.tunnels[0].psp is not None

    @property
    def psp_port(self) -> int:
        """UDP port that PSP comes to."""
        around = self.tunnels[0].encapsulation
        return PSP_PORT if around is None else around.local_port

    def check_mtu(self, mtu: int) -> None:
        """Refuse IPv6 on an interface that has no room for it.   mtu: of the interface.

        Raises ConfigError.   Source: RFC 8200 §5.
        """
        found = [(f"interface.addresses[{place}]", each) for place, each in enumerate(self.addresses)]
        inside = [
            (f"tunnel[{place}].networks", each) for place, tunnel in enumerate(self.tunnels) for each in tunnel.routed()
        ]
        for key, each in (*found, *inside):
            if each.version == 6 and mtu < IPV6_MIN_MTU:
                raise ConfigError(
                    f"{each} on an interface of MTU {mtu}, which is what the narrowest path leaves", path=self.path,
                    line=self.given.line(key), key=key,
                    expected=f"no IPv6 inside, or a path that leaves {IPV6_MIN_MTU} octets (RFC 8200 §5)",
                )  # fmt: skip


def load_file(path: Path | str) -> TunnelFile:
    """Read a tunnel file and the key files that it names.

    Raises ConfigError or KeyMaterialError with file, line, key and what would be right; OSError.
    """
    path = Path(path)
    text = read_text(path, "a tunnel file")
    table, lines = read_strict(text, path, FileTable, tables=TABLES, expected=EXPECTED)
    return _Reader(path, lines).file(table)


class _Reader:
    def __init__(self, path: Path, lines: LineIndex) -> None:
        self._path, self._lines, self._at = path, lines, ""
        self._device_keys: DeviceKeys | None = None

    def file(self, table: FileTable) -> TunnelFile:
        self._at = "interface"
        own = table.interface
        name = own.name or self._path.name.removesuffix(".toml")
        if not _NAME.fullmatch(name):
            raise self._wrong("name", f"{name!r} is no interface's name", "1 to 15 letters, digits and _.-")
        if own.mtu and not 576 <= own.mtu <= 65535:
            raise self._wrong("mtu", f"MTU {own.mtu}", "576..65535, or 0: what the path leaves")
        if not 1 <= own.workers <= 64:
            raise self._wrong("workers", f"{own.workers} workers", "1..64")
        addresses = tuple(self._interface(f"addresses[{i}]", each) for i, each in enumerate(own.addresses))
        for i, address in enumerate(addresses):
            if address.ip in {earlier.ip for earlier in addresses[:i]}:
                raise self._wrong(f"addresses[{i}]", f"{address.ip} twice", "each address once")
        if own.mtu and own.mtu < IPV6_MIN_MTU and any(each.version == 6 for each in addresses):
            raise self._wrong("mtu", f"MTU {own.mtu} with an IPv6 address", "at least 1280 (RFC 8200 §5)")
        if table.metrics.listen:
            self._at = "metrics"
            try:
                parse_listen(table.metrics.listen)
            except ConfigError as error:
                raise self._wrong("listen", error.what, error.expected) from None
        if not table.tunnel:
            self._at = ""
            raise self._wrong("tunnel", "no tunnel", EXPECTED["tunnel"])
        tunnels = []
        self._at = ""
        self._device_keys = device_keys_of(table, self._path.parent, self._wrong)
        for place, each in enumerate(table.tunnel):
            self._at = f"tunnel[{place}]"
            tunnels.append(self._tunnel(place, each))
        self._check_together(tunnels)
        self._check_traffic(tunnels, table.tunnel)
        self._at = ""
        check_first_bits(tunnels, self._wrong)
        engine = None if own.engine == "auto" else own.engine
        assert engine is None or engine in ENGINES
        return TunnelFile(
            path=self._path,
            name=name,
            addresses=addresses,
            mtu=own.mtu,
            kind=own.kind,
            engine=engine,
            offloads=own.offloads == "auto",
            workers=own.workers,
            state_dir=self._place(own.state_dir) or default_state_dir(),
            run_dir=self._place(own.run_dir) or default_run_dir(),
            log_format=table.log.format,
            log_file=self._place(table.log.file),
            metrics=table.metrics.listen,
            tunnels=tuple(tunnels),
            device_keys=self._device_keys or (None, None),
            table=table,
            given=self._lines,
        )

    def _place(self, text: str) -> Path | None:
        return (self._path.parent / text).absolute() if text else None

    def _tunnel(self, place: int, given: TunnelTable) -> TunnelSettings:
        psp = psp_of(given, lambda key: self._lines.has(f"{self._at}.{key}"), self._wrong)
        settings_alone = format_of(given, self._wrong)
        check_suite(given.suite, self._wrong)
        mode = Mode(given.mode)
        peer = None if given.peer == "any" else self._address("peer", given.peer, 'an address, or "any"')
        local = self._local(given, peer)
        self._check_ends(local, peer)
        around = self._encapsulation(given)
        if peer is None and (around is None or mode is Mode.TRANSPORT):
            raise self._wrong("peer", "an open peer", "an address: only UDP in tunnel or BEET mode tells where it is")
        if peer is None and given.roaming is False:
            raise self._wrong("roaming", "an open peer that is not followed", 'true, or an address as "peer"')
        roaming = given.roaming if given.roaming is not None else peer is None
        if roaming and (around is None or mode is Mode.TRANSPORT or not given.window):
            raise self._wrong("roaming", "a peer that may move", "UDP, tunnel or BEET mode, and a replay window")
        inner = None
        if given.inner is not None:
            ends = (self._address("inner.local", given.inner.local), self._address("inner.peer", given.inner.peer))
            inner = Inner(*ends)
        if given.keepalive and around is None:
            raise self._wrong("keepalive", "a NAT keepalive without UDP", "0")
        for key, value, low, high in (
            ("keepalive", given.keepalive, 0, 3600),
            ("path_mtu", given.path_mtu, 0, 65535),
            ("dscp", 0 if given.dscp == "copy" else given.dscp, 0, 63),
        ):
            if not low <= int(value) <= high:
                raise self._wrong(key, f"{key} {value}", f"{low}..{high}")
        networks = tuple(self._network(f"networks[{i}]", each) for i, each in enumerate(given.networks))
        if networks and mode is not Mode.TUNNEL:
            raise self._wrong("networks", f"networks in {mode.value} mode", "tunnel mode")
        settings = TunnelSettings(
            name=given.name or f"tunnel-{place + 1}",
            local=local,
            peer=peer,
            mode=mode,
            encapsulation=around,
            suite=given.suite if psp is None else psp.suite,
            networks=networks,
            selectors=self._selectors(given, mode, networks, local, peer, inner),
            routes=given.routes,
            inner=inner if mode is not Mode.TUNNEL else None,
            esn=given.esn,
            window=given.window,
            dscp=None if given.dscp == "copy" else int(given.dscp),
            df=DF(given.df),
            hop_limit=given.hop_limit,
            pad_to=given.pad_to,
            path_mtu=given.path_mtu,
            roaming=roaming,
            keepalive=given.keepalive,
            probe=given.probe is not False,
            option_errors=given.option_errors,
            hard=self._lifetime(given.lifetime),
            pairs=(),
            protocol=given.protocol,
            format=settings_alone,
            psp=psp,
        )
        try:
            profile = settings.profile(local, None, None, given.path_mtu or 1500)
        except ConfigError as error:
            raise self._wrong(error.key.removeprefix("outer."), error.what, error.expected) from None
        if isinstance(profile, Profile) and mode is Mode.TUNNEL and not profile.ways.can_send_dummies(profile):
            if given.probe:
                raise self._wrong("probe", "dummies in EESP's optimized format", "false, or eesp.crypt_offset")
            settings = replace(settings, probe=False)
        given.probe = settings.probe  # for who shows every default
        if not given.sa:
            raise self._wrong("sa", "no SAs", EXPECTED["sa"])
        pairs = tuple(self._pair(f"sa[{i}]", each, settings, profile) for i, each in enumerate(given.sa))
        return replace(settings, pairs=pairs)

    def _local(self, given: TunnelTable, peer: IPAddress | None) -> IPAddress:
        if given.local == "any":
            return ANY[4 if peer is None else peer.version]
        local = self._address("local", given.local, 'an address of this host, or "any"')
        if peer is not None and local.version != peer.version:
            raise self._wrong("local", f"IPv{local.version} to a peer of IPv{peer.version}", "one version")
        return local

    def _check_ends(self, local: IPAddress, peer: IPAddress | None) -> None:
        """Refuse outer addresses that no single host has."""
        for key, address in (("local", local if int(local) else None), ("peer", peer)):
            if address is None:
                continue
            kind = "a multicast" if address.is_multicast else "a broadcast" if address == BROADCAST else ""
            if address.is_unspecified or kind:
                what = f"{address} is {kind} address" if kind else f"{address} stands for no address"
                raise self._wrong(key, what, "the address of one host")
        if peer is not None and peer == local:
            raise self._wrong("peer", f"{peer} is this end's own address, too", "the address of another host")

    def _encapsulation(self, table: TunnelTable) -> UDPEncapsulation | None:
        if table.encapsulation == "none":
            return None
        usual = PSP_PORT if table.protocol == "psp" else IPSEC_NAT_T_PORT
        ports = PortsTable() if isinstance(table.encapsulation, str) else table.encapsulation
        local, remote = (usual if port is None else port for port in (ports.local_port, ports.peer_port))
        for key, port in (("local_port", local), ("peer_port", remote)):
            if not 0 < port < 65536:
                raise self._wrong(f"encapsulation.{key}", f"port {port}", "1..65535")
        ports.local_port, ports.peer_port = local, remote  # for who shows every default
        return UDPEncapsulation(local, remote)

    def _selectors(
        self,
        given: TunnelTable,
        mode: Mode,
        networks: Sequence[Network],
        local: IPAddress,
        peer: IPAddress | None,
        inner: Inner | None,
    ) -> tuple[Selector, ...]:
        """Return what the tunnel is for: what the file says, else what follows from mode and networks."""
        if given.selectors:
            return tuple(self._selector(f"selectors[{i}]", each) for i, each in enumerate(given.selectors))
        if mode is Mode.TRANSPORT and peer is not None:
            return (Selector((_only(local),) if int(local) else (), (_only(peer),)),)
        if mode is Mode.BEET and inner is not None:
            return (Selector((_only(inner.local),), (_only(inner.remote),)),)
        ranges = tuple(AddressRange.parse(str(each)) for each in networks)
        return (Selector((), ranges),) if ranges else ()

    def _selector(self, at: str, given: SelectorTable) -> Selector:
        if given.protocol is not None and not 0 <= given.protocol <= 255:
            raise self._wrong(f"{at}.protocol", f"protocol {given.protocol}", "0..255")
        return Selector(
            self._ranges(f"{at}.local", given.local),
            self._ranges(f"{at}.peer", given.peer),
            given.protocol,
            self._ports(f"{at}.local_ports", given.local_ports),
            self._ports(f"{at}.peer_ports", given.peer_ports),
        )

    def _ranges(self, key: str, texts: Sequence[str]) -> tuple[AddressRange, ...]:
        try:
            return tuple(map(AddressRange.parse, texts))
        except ConfigError as error:
            raise self._wrong(key, error.what, error.expected) from None

    def _ports(self, key: str, value: int | str | None) -> tuple[int, int] | None:
        if value is None:
            return None
        found = _PORT_RANGE.fullmatch(str(value))
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < 65536:
            raise self._wrong(key, f"ports {value!r}", 'a port, or "first-last"')
        return first, last

    def _lifetime(self, given: LifetimeTable) -> Lifetime:
        try:
            return Lifetime(given.seconds, given.octets, given.packets, given.idle_seconds)
        except ConfigError as error:
            raise self._wrong(f"lifetime.{error.key}", error.what, error.expected) from None

    def _pair(self, at: str, given: PairTable, settings: TunnelSettings, profile: Profile | GatewayProfile) -> SAPair:
        rows = []
        for key, name in (("key_out", given.key_out), ("key_in", given.key_in)):
            if settings.psp is not None and key == "key_in":
                if name:
                    raise self._wrong(f"{at}.{key}", "with PSP", "none: it follows from the device keys")
                assert self._device_keys is not None
                where = f"{at}.spi_in"
                rows.append(derived(self._device_keys, given.spi_in, settings.psp.version, where, self._wrong))
                continue
            if not name:
                raise self._wrong(f"{at}.{key}", "missing", EXPECTED[key])
            row = named_row(self._path.parent, name, f"{at}.{key}", EXPECTED[key], self._wrong)
            try:
                if isinstance(profile, GatewayProfile):
                    check_key(row, profile.look.version)
                else:
                    split_keys(profile, len(row))
            except ConfigError as error:
                what = f"{len(row)} octets in {name} for {settings.suite}"
                expected = f"{error.expected.removesuffix(' octets')} octets"
                raise self._wrong(f"{at}.{key}", what, expected, KeyMaterialError) from None
            rows.append(row)
        if rows[0] == rows[1]:
            raise self._wrong(
                f"{at}.key_in", "the same key both ways", "a key of its own for every SA", KeyMaterialError
            )
        pair = SAPair(given.spi_out, given.spi_in, rows[0], rows[1])
        for key, direction in (("spi_out", Direction.OUT), ("spi_in", Direction.IN)):
            try:
                settings.sa(pair, direction, profile)
            except ConfigError as error:
                raise self._wrong(f"{at}.{key}", error.what, error.expected, type(error)) from None
        return pair

    def _check_traffic(self, tunnels: Sequence[TunnelSettings], tables: Sequence[TunnelTable]) -> None:
        """Refuse the same traffic in two tunnels: only one would ever get it. Handwritten selectors may overlap."""
        taken: dict[tuple[tuple[AddressRange, ...], AddressRange], str] = {}
        for place, (each, table) in enumerate(zip(tunnels, tables, strict=True)):
            if table.selectors:
                continue
            self._at = f"tunnel[{place}]"
            for selector in each.selectors:
                for number, addresses in enumerate(selector.remote):
                    other = taken.setdefault((selector.local, addresses), each.name)
                    if other == each.name:
                        continue
                    if each.mode is Mode.TUNNEL:
                        key, what = f"networks[{number}]", str(each.networks[number])
                    else:
                        key = "peer" if each.mode is Mode.TRANSPORT else "inner.peer"
                        what = str(ipaddress.ip_address(addresses.first))
                    what = f"{what} is in {other} and in {each.name}"
                    raise self._wrong(key, what, "each in one tunnel; one within the other's is fine")

    def _check_together(self, tunnels: Sequence[TunnelSettings]) -> None:
        names, spis, rows = set[str](), set[int](), set[bytes]()
        for place, each in enumerate(tunnels):
            self._at = f"tunnel[{place}]"
            check_one_device(each.psp, each.encapsulation, tunnels[0].psp, tunnels[0].encapsulation, self._wrong)
            if each.name in names:
                raise self._wrong("name", f"two tunnels named {each.name}", "a name of its own")
            names.add(each.name)
            for number, pair in enumerate(each.pairs):
                if pair.spi_in in spis:
                    what = f"SPI {pair.spi_in:#x} twice"
                    raise self._wrong(f"sa[{number}].spi_in", what, "an SPI of its own for each inbound SA")
                spis.add(pair.spi_in)
                for key, row in (("key_out", pair.row_out), ("key_in", pair.row_in)):
                    if row in rows:  # two SAs would use the same nonces
                        raise self._wrong(f"sa[{number}].{key}", "the key of another SA", "a key of its own for each")
                    rows.add(row)

    def _address(self, key: str, text: str, expected: str = "an address") -> IPAddress:
        try:
            return ipaddress.ip_address(text)
        except ValueError:
            raise self._wrong(key, f"{text!r} is no address", expected) from None

    def _interface(self, key: str, text: str) -> IPv4Interface | IPv6Interface:
        try:
            found = ipaddress.ip_interface(text)
        except ValueError:
            raise self._wrong(key, f"{text!r} is no address", '"10.8.0.1/24" and the like') from None
        if "/" not in text:
            expected = f'"{found}", or the length of its network'
            raise self._wrong(key, f"{text!r} has no prefix length", expected)
        return found

    def _network(self, key: str, text: str) -> Network:
        try:
            return ipaddress.ip_network(text)
        except ValueError:
            expected = '"10.20.0.0/16" and the like'
            with contextlib.suppress(ValueError):
                expected = f'"{ipaddress.ip_interface(text).network}"'  # its host bits are not zero
            raise self._wrong(key, f"{text!r} is no network", expected) from None

    def _wrong(self, key: str, what: str, expected: str, kind: type[ConfigError] = ConfigError) -> ConfigError:
        key = f"{self._at}.{key}" if self._at else key
        return kind(what, path=self._path, line=self._lines.line(key), key=key, expected=expected)


def _only(address: IPAddress) -> AddressRange:
    return AddressRange(address.version, int(address), int(address))
