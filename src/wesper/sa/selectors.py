"""Selectors: which packets a policy or an SA is for (RFC 4301 §4.4.1.1)."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import Final

from ..errors import ConfigError
from ..protocols.ip import Flow
from ..wire.numbers import ICMP, ICMPV6, MOBILITY


class Opaque(enum.Enum):
    """The field must not be visible: no such field, or hidden in a fragment (RFC 4301 §4.4.1.1)."""

    OPAQUE = "opaque"


OPAQUE: Final = Opaque.OPAQUE


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Addresses first..last, both included, of one version."""

    version: int
    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> AddressRange:
        """Read "192.0.2.0/24", "2001:db8::1" or "192.0.2.1-192.0.2.9".   Raises ConfigError."""
        try:
            if "-" in text:
                low, high = (ip_address(part.strip()) for part in text.split("-", 1))
                if low.version == high.version and int(low) <= int(high):
                    return cls(low.version, int(low), int(high))
            else:
                net = ip_network(text)
                return cls(net.version, int(net.network_address), int(net.broadcast_address))
        except ValueError:
            pass
        raise ConfigError(
            f"{text!r} is no address range", expected="an address, a network with its host bits zero, or first-last"
        )

    def holds(self, version: int, address: int) -> bool:
        return version == self.version and self.first <= address <= self.last


@dataclass(frozen=True, slots=True)
class Selector:
    """One set of traffic.   Empty and None mean ANY.

    local, remote: address ranges.   protocol: next layer, 0..255.
    local_ports, remote_ports: (first, last), or OPAQUE. For ICMP either is the range of 256 x type + code
    (RFC 7296 §3.13.1), for the mobility header of 256 x MH type.
    """

    local: tuple[AddressRange, ...] = ()
    remote: tuple[AddressRange, ...] = ()
    protocol: int | None = None
    local_ports: tuple[int, int] | Opaque | None = None
    remote_ports: tuple[int, int] | Opaque | None = None

    def __post_init__(self) -> None:
        if self.protocol is not None and not 0 <= self.protocol <= 255:
            raise ConfigError(f"protocol {self.protocol}", key="protocol", expected="0..255")
        for key, ports in (("local_ports", self.local_ports), ("remote_ports", self.remote_ports)):
            if isinstance(ports, tuple) and not 0 <= ports[0] <= ports[1] <= 0xFFFF:
                raise ConfigError(f"ports {ports[0]}-{ports[1]}", key=key, expected="first-last in 0..65535")

    def matches(self, flow: Flow, *, outbound: bool) -> bool:
        """Whether the flow of a packet is in this set.   outbound: local is the source, else the destination."""
        local, remote = (flow.source, flow.destination) if outbound else (flow.destination, flow.source)
        if self.protocol is not None and flow.protocol != self.protocol:
            return False
        if self.local and not any(r.holds(flow.version, local) for r in self.local):
            return False
        if self.remote and not any(r.holds(flow.version, remote) for r in self.remote):
            return False
        if self.local_ports is None and self.remote_ports is None:
            return True
        local_port, remote_port = local_and_remote_ports(flow, outbound=outbound)
        return _port(self.local_ports, local_port) and _port(self.remote_ports, remote_port)


def local_and_remote_ports(flow: Flow, *, outbound: bool) -> tuple[int | None, int | None]:
    """Return the two port values of a flow as selectors see them, None where OPAQUE."""
    if flow.protocol in (ICMP, ICMPV6, MOBILITY):
        both = None if flow.first is None else flow.first << 8 | (flow.second or 0)
        return both, both
    return (flow.first, flow.second) if outbound else (flow.second, flow.first)


def _port(wanted: tuple[int, int] | Opaque | None, found: int | None) -> bool:
    if wanted is None:
        return True
    if isinstance(wanted, Opaque):
        return found is None
    return found is not None and wanted[0] <= found <= wanted[1]


class Action(enum.Enum):
    """What policy does with a packet (RFC 4301 §4.4.1)."""

    PROTECT = "protect"
    BYPASS = "bypass"
    DISCARD = "discard"


@dataclass(frozen=True, slots=True)
class Policy:
    """One SPD entry.

    selectors: sets of traffic, any of which matches; empty matches all.
    sas: for PROTECT outbound the SAs that may carry it, as (DSCP values or None for all, id): the first whose DSCP set
    holds the packet's (RFC 4301 §4.1).
    populate_from_packet: names out of "local", "remote", "protocol", "local_ports", "remote_ports" whose value an SA
    to be made takes from the packet (PFP flags, RFC 4301 §4.4.1.2).
    """

    action: Action
    selectors: tuple[Selector, ...] = ()
    sas: tuple[tuple[frozenset[int] | None, int], ...] = ()
    name: str = ""
    populate_from_packet: frozenset[str] = field(default_factory=frozenset)

    def matches(self, flow: Flow, *, outbound: bool) -> bool:
        return not self.selectors or any(s.matches(flow, outbound=outbound) for s in self.selectors)

    def sa_for(self, flow: Flow) -> int | None:
        """Return the SA that carries this flow's packets."""
        return next((sa for dscp, sa in self.sas if dscp is None or flow.dscp in dscp), None)

    def selector_for(self, flow: Flow) -> Selector:
        """Return the selector of an SA to be made for this flow: the entry's, narrowed where PFP says so."""
        base = next((s for s in self.selectors if s.matches(flow, outbound=True)), Selector())
        if not self.populate_from_packet:
            return base
        local_port, remote_port = local_and_remote_ports(flow, outbound=True)
        taken = self.populate_from_packet
        return replace(
            base,
            local=(_single(flow.version, flow.source),) if "local" in taken else base.local,
            remote=(_single(flow.version, flow.destination),) if "remote" in taken else base.remote,
            protocol=flow.protocol if "protocol" in taken else base.protocol,
            local_ports=_exactly(local_port) if "local_ports" in taken else base.local_ports,
            remote_ports=_exactly(remote_port) if "remote_ports" in taken else base.remote_ports,
        )


def _single(version: int, address: int) -> AddressRange:
    return AddressRange(version, address, address)


def _exactly(port: int | None) -> tuple[int, int] | Opaque:
    return OPAQUE if port is None else (port, port)


def find(policies: tuple[Policy, ...], flow: Flow, *, outbound: bool) -> tuple[int, Policy] | None:
    """Return place and policy of the first entry that matches: the SPD is ordered (RFC 4301 §4.4.1)."""
    return next(((i, p) for i, p in enumerate(policies) if p.matches(flow, outbound=outbound)), None)
