"""Security associations and policies of a guest's kernel, through its XFRM netlink, for what a peer needs.

Constants and structures: include/uapi/linux/xfrm.h. Numbers are host order, but for SPIs and ports.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Self

from ..crypto.suites import Kind, Suite
from ..errors import UnsupportedError
from ..host.netlink import Netlink, attribute
from ..protocols.ip import IPAddress
from ..protocols.udp import UDPEncapsulation
from ..sa import SA, Direction, Lifetime, Mode
from .guest import Guest

NETLINK_XFRM = 6
_NEWSA, _DELSA, _GETSA, _NEWPOLICY, _FLUSHSA, _FLUSHPOLICY = 16, 17, 18, 19, 28, 29
_ALG_CRYPT, _ENCAP, _TMPL, _ALG_AEAD, _ALG_AUTH_TRUNC, _REPLAY_ESN, _SA_DIR = 2, 4, 5, 18, 20, 23, 33
_EXTRA_FLAGS, _OSEQ_MAY_WRAP = 24, 2
_STATE_ESN, _STATE_DECAP_DSCP, _STATE_AF_UNSPEC = 128, 2, 32
_ESP, _ENCAP_ESPINUDP, _NO_LIMIT = socket.IPPROTO_ESP, 2, (1 << 64) - 1
_MODES = {Mode.TRANSPORT: 0, Mode.TUNNEL: 1, Mode.BEET: 4}
_MAX_WINDOW = 4096
_DIRECTIONS = {"in": 0, "out": 1, "fwd": 2}
_SA_INFO, _SA_STATS, _POLICY_INFO = 224, 192, 168
_ANY = 0xFFFFFFFF
_PATIENCE_S = 60  # a guest may share its cores with many

AEADS = {
    Kind.GCM: "rfc4106(gcm(aes))",
    Kind.CCM: "rfc4309(ccm(aes))",
    Kind.GMAC: "rfc4543(gcm(aes))",
    Kind.CHACHA20_POLY1305: "rfc7539esp(chacha20,poly1305)",
}
"""What the kernel calls a suite with an ICV of its own."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Which packets: networks of source and destination, as "10.0.0.0/8"; both of one IP version."""

    source: str
    destination: str

    def pack(self) -> bytes:
        """Return struct xfrm_selector."""
        source, destination = ip_network(self.source), ip_network(self.destination)
        octets = _address(destination.network_address) + _address(source.network_address) + bytes(8)
        family = _family(source.network_address)
        return octets + struct.pack("HBBB3xiI", family, destination.prefixlen, source.prefixlen, 0, 0, 0)

    @property
    def family(self) -> int:
        """Of its addresses."""
        return _family(ip_network(self.source).network_address)


@dataclass(frozen=True, slots=True)
class State:
    """One SA of the kernel's.

    sa: what it has of keys, SPI, suite, mode, numbers, lifetime and ESN, direction as the kernel sees it.
    source, destination: of the packets on the wire.   selector: None is any packet.
    reqid: that policies find it by.   may_wrap: let the number come round again, as RFC 4303 §3.3.3 lets one that
    does no anti-replay.
    """

    sa: SA
    source: IPAddress
    destination: IPAddress
    reqid: int
    selector: Selector | None = None
    may_wrap: bool = False

    @classmethod
    def of_peer(cls, ours: SA, *, reqid: int, here: IPAddress | None = None, there: IPAddress | None = None) -> Self:
        """Return what a peer needs to talk with an SA of ours.

        here, there: our address and the peer's on the wire, for transport mode; else the profile's.
        """
        profile = ours.profile
        if here is None or there is None:
            assert profile.outer is not None
            here, there = profile.outer.local, profile.outer.remote
        to_us = ours.direction is Direction.IN
        selector = None
        if profile.mode is Mode.BEET and profile.inner is not None:
            ends = [f"{each}/{each.max_prefixlen}" for each in (profile.inner.local, profile.inner.remote)]
            selector = Selector(*(reversed(ends) if to_us else ends))
        mirrored = SA(
            profile=profile,
            direction=Direction.OUT if to_us else Direction.IN,
            spi=ours.spi,
            key=ours.key,
            salt=ours.salt,
            auth_key=ours.auth_key,
            sequence=ours.sequence,
        )
        return cls(mirrored, there if to_us else here, here if to_us else there, reqid, selector)


@dataclass(frozen=True, slots=True)
class Policy:
    """One entry of the kernel's SPD: it wants ESP, or lets nothing through.

    direction: "in", "out" or "fwd".   source, destination: of the packets on the wire; None in transport mode.
    """

    direction: str
    selector: Selector
    mode: Mode
    reqid: int
    source: IPAddress | None = None
    destination: IPAddress | None = None
    block: bool = False


class Xfrm:
    """SAs and policies of a guest.   Raises NetlinkError with the kernel's own words."""

    def __init__(self, guest: Guest) -> None:
        self._netlink: Netlink = guest.netlink(NETLINK_XFRM)
        self._has_direction = guest.version >= (6, 10)

    def add(self, *states: State) -> None:
        """Install SAs."""
        for each in states:
            self._netlink.request(f"SA {each.sa.spi:#x}", _NEWSA, 0, self._state(each))

    def delete(self, state: State) -> None:
        """Delete an SA."""
        family = _family(state.destination)
        body = _address(state.destination) + struct.pack(">I", state.sa.spi) + struct.pack("HBx", family, _ESP)
        self._netlink.request(f"SA {state.sa.spi:#x}", _DELSA, 0, body)

    def sequence(self, state: State) -> tuple[int, int]:
        """Return the last number sent and the highest one received of an SA with ESN."""
        answer = self._read(state)
        at = _SA_INFO
        while at + 4 <= len(answer):
            octets, kind = struct.unpack_from("HH", answer, at)
            if kind == _REPLAY_ESN:
                _, sent, received, sent_high, received_high = struct.unpack_from("5I", answer, at + 4)
                return sent_high << 32 | sent, received_high << 32 | received
            at += max((octets + 3) & ~3, 4)
        raise UnsupportedError("sequence numbers of an SA", "it must have been added with its window")

    def refused(self, state: State) -> tuple[int, int]:
        """Return how many packets of an SA were replays, and of how many the ICV did not fit."""
        replay, integrity = struct.unpack_from("II", self._read(state), _SA_STATS + 4)
        return replay, integrity

    def allow(self, *policies: Policy) -> None:
        """Add entries to the SPD."""
        for each in policies:
            info = each.selector.pack() + _lifetime(Lifetime()) + bytes(32)
            info += struct.pack("IIBBBB4x", 0, 0, _DIRECTIONS[each.direction], int(each.block), 0, 0)
            assert len(info) == _POLICY_INFO
            templates = b"" if each.block else attribute(_TMPL, _template(each))
            what = f"policy {each.direction} {each.selector.source} {each.selector.destination}"
            self._netlink.request(what, _NEWPOLICY, 0, info + templates)

    def flush(self) -> None:
        """Delete all SAs and policies."""
        self._netlink.request("policies", _FLUSHPOLICY, 0, b"")
        self._netlink.request("SAs", _FLUSHSA, 0, struct.pack("B", 0))

    def _read(self, state: State) -> bytes:
        family = _family(state.destination)
        body = _address(state.destination) + struct.pack(">I", state.sa.spi) + struct.pack("HBx", family, _ESP)
        return self._netlink.request(f"SA {state.sa.spi:#x}", _GETSA, 0, body)

    def _state(self, state: State) -> bytes:
        sa, profile = state.sa, state.sa.profile
        selector = state.selector.pack() if state.selector else bytes(56)
        flags = (_STATE_ESN if profile.esn else 0) | (0 if state.selector else _STATE_AF_UNSPEC)
        if profile.mode is Mode.TRANSPORT:
            flags &= ~_STATE_AF_UNSPEC
        if profile.outer is not None and profile.outer.take_dscp and sa.direction is Direction.IN:
            flags |= _STATE_DECAP_DSCP
        info = selector + _address(state.destination) + struct.pack(">I", sa.spi) + struct.pack("B3x", _ESP)
        info += _address(state.source) + _lifetime(profile.hard) + bytes(32 + 12)
        info += struct.pack("IIHBBB7x", 0, state.reqid, _family(state.destination), _MODES[profile.mode], 0, flags)
        assert len(info) == _SA_INFO
        info += algorithms(profile.cipher, sa.key, sa.salt, sa.auth_key)
        if profile.encapsulation is not None:
            info += attribute(_ENCAP, _encapsulation(profile.encapsulation, sa.direction))
        info += attribute(_REPLAY_ESN, self._replay(state))
        if self._has_direction:
            info += attribute(_SA_DIR, bytes((1 if sa.direction is Direction.IN else 2,)))
        if state.may_wrap:
            info += attribute(_EXTRA_FLAGS, struct.pack("I", _OSEQ_MAY_WRAP))
        return info

    def _replay(self, state: State) -> bytes:
        """Return struct xfrm_replay_state_esn; it serves SAs without ESN too."""
        sa, profile = state.sa, state.sa.profile
        incoming = sa.direction is Direction.IN
        # Before directions there were, an SA with ESN needed a window whichever way it went.
        window = min(profile.window, _MAX_WINDOW) if incoming or not self._has_direction else 0
        words = (window + 31) // 32
        sent, received = (0, sa.sequence) if incoming else (sa.sequence, 0)
        low = 0xFFFFFFFF
        head = struct.pack("6I", words, sent & low, received & low, sent >> 32, received >> 32, window)
        return head + bytes(4 * words)


def algorithms(suite: Suite, key: bytes, salt: bytes, auth_key: bytes) -> bytes:
    """Return the attributes of a suite with its keys.   Raises UnsupportedError for those that the kernel has not."""
    if suite.implicit_iv:
        raise UnsupportedError(f"suite {suite.name} in Linux", "the kernel sends every IV; take one without -iiv")
    if suite.is_aead:
        secret = key + salt
        head = struct.pack("64sII", AEADS[suite.kind].encode(), 8 * len(secret), 8 * suite.icv_octets)
        return attribute(_ALG_AEAD, head + secret)
    cipher = "cbc(aes)" if suite.kind is Kind.CBC_HMAC else "ecb(cipher_null)"
    crypt = attribute(_ALG_CRYPT, struct.pack("64sI", cipher.encode(), 8 * len(key)) + key)
    head = struct.pack("64sII", f"hmac({suite.hash_name})".encode(), 8 * len(auth_key), 8 * suite.icv_octets)
    return crypt + attribute(_ALG_AUTH_TRUNC, head + auth_key)


def open_encapsulation_port(guest: Guest, port: int) -> None:
    """Have a guest take ESP in UDP at a port from now on, over IPv4 and IPv6.   Raises TimeoutError.

    The kernel looks for it in datagrams to a socket that says so (UDP_ENCAP, include/uapi/linux/udp.h). Those datagrams
    themselves need no ESP, whatever the SPD says of the hosts: the socket has a policy of its own, as IKE's have.
    """
    guest.start(_hold_encapsulation_port, port)
    until = time.monotonic() + _PATIENCE_S
    while any(f":{port:04X} " not in guest.read(table) for table in ("/proc/net/udp", "/proc/net/udp6")):
        if time.monotonic() > until:
            raise TimeoutError(f"the guest has not opened UDP port {port}")
        time.sleep(0.02)


def _hold_encapsulation_port(port: int) -> None:
    """In the guest, for good."""
    import socket
    import struct
    import time

    held = []
    for family, address, level, xfrm_policy in (
        (socket.AF_INET, "0.0.0.0", socket.IPPROTO_IP, 17),
        (socket.AF_INET6, "::", socket.IPPROTO_IPV6, 35),
    ):
        opened = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for direction in (0, 1):
            # struct xfrm_userpolicy_info of 168 octets: a selector of any packet, allow, without templates
            info = bytes(40) + struct.pack("H", family) + bytes(118) + bytes((direction,)) + bytes(7)
            opened.setsockopt(level, xfrm_policy, info)
        opened.setsockopt(socket.IPPROTO_UDP, 100, 2)
        opened.bind((address, port))  # last: who sees the port finds all of this done
        held.append(opened)
    while True:
        time.sleep(3600)


def _template(policy: Policy) -> bytes:
    """Return struct xfrm_user_tmpl."""
    family = policy.selector.family if policy.source is None else _family(policy.source)
    octets = _address(policy.destination) + struct.pack("4xB3xHxx", _ESP, family) + _address(policy.source)
    return octets + struct.pack("IBBBxIII", policy.reqid, _MODES[policy.mode], 0, 0, _ANY, _ANY, _ANY)


def _encapsulation(encapsulation: UDPEncapsulation, direction: Direction) -> bytes:
    """Return struct xfrm_encap_tmpl.   encapsulation: as our end sees it.   direction: as the kernel does."""
    ports = encapsulation.local_port, encapsulation.remote_port
    source, destination = ports if direction is Direction.IN else reversed(ports)
    return struct.pack("H", _ENCAP_ESPINUDP) + struct.pack(">HHxx", source, destination) + bytes(16)


def _lifetime(limit: Lifetime) -> bytes:
    octets, packets = limit.octets or _NO_LIMIT, limit.packets or _NO_LIMIT
    return struct.pack("8Q", _NO_LIMIT, octets, _NO_LIMIT, packets, 0, limit.seconds or 0, 0, 0)


def _family(address: IPAddress) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _address(address: IPAddress | None) -> bytes:
    return (address.packed if address is not None else b"").ljust(16, b"\0")


__all__ = ["AEADS", "NETLINK_XFRM", "Policy", "Selector", "State", "Xfrm", "algorithms", "open_encapsulation_port"]
