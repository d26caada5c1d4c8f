"""The other end of a guest's wire: a router that answers ARP and neighbour discovery, and behind it a host of ours."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import pack
from typing import Any

from wesper.engine import Engine, Options, open_engine
from wesper.kernel import Guest
from wesper.kernel.guest import MAC
from wesper.kernel.xfrm import Policy, Selector, State, Xfrm
from wesper.sa import SA, Direction, Inner, Mode, Outer, Profile, UDPEncapsulation
from wesper.verdict import Delivered, Verdict

from ..engine import oracle
from ..engine.packets import ICMP, ICMPV6, UDP, icmp, ipv4, ipv6, pseudo, sum16, udp

Address = IPv4Address | IPv6Address
GATEWAY4, GUEST4 = ip_address("192.0.2.1"), ip_address("192.0.2.2")
GATEWAY6, GUEST6 = ip_address("2001:db8:1::1"), ip_address("2001:db8:1::2")
HERE4, HERE6 = ip_address("198.51.100.1"), ip_address("2001:db8:2::1")
INNER_HERE4, INNER_GUEST4 = ip_address("10.1.0.1"), ip_address("10.2.0.2")
INNER_HERE6, INNER_GUEST6 = ip_address("2001:db8:a::1"), ip_address("2001:db8:b::2")
OURS = {4: (HERE4, GUEST4), 6: (HERE6, GUEST6)}
INNER = {4: (INNER_HERE4, INNER_GUEST4), 6: (INNER_HERE6, INNER_GUEST6)}

ESP = 50
_MAC = bytes((2, 0, 0, 0, 0, 1))
_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD
_SOLICITATION, _ADVERTISEMENT = 135, 136
PATIENCE_S = 10.0
"""How long a test waits for a packet that must come; nothing is measured by it."""


class Wire:
    """Packets to and from a guest. What came before the last test is gone."""

    def __init__(self, frames: socket.socket) -> None:
        self._frames = frames
        frames.settimeout(0)
        while self._frame() is not None:
            pass

    def send(self, packet: bytes) -> None:
        """Send an IP packet as the gateway forwards it."""
        kind = _IPV4 if packet[0] >> 4 == 4 else _IPV6
        self._frames.settimeout(PATIENCE_S)
        self._frames.send(MAC + _MAC + kind.to_bytes(2, "big") + packet)

    def receive(self, seconds: float = PATIENCE_S) -> bytes | None:
        """Return the next IP packet that the gateway would forward, None if none comes in time."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._frames.settimeout(left)
            frame = self._frame()
            if frame is None:
                return None
            kind, body = int.from_bytes(frame[12:14], "big"), frame[14:]
            if kind == _ARP and body[24:28] == GATEWAY4.packed:
                self._frames.send(frame[6:12] + _MAC + frame[12:20] + b"\0\2" + _MAC + GATEWAY4.packed + body[8:18])
            elif kind == _IPV6 and body[6] == ICMPV6 and body[40] == _SOLICITATION:
                self._advertise(frame)
            elif kind == _IPV4 and body[16] >> 4 != 0xE:  # nothing to do with multicast
                return body[: int.from_bytes(body[2:4], "big")]  # without the padding of short frames
            elif kind == _IPV6 and body[24] != 0xFF:
                return body
        return None

    def _advertise(self, frame: bytes) -> None:
        solicitation = frame[14:]
        if solicitation[48:64] != GATEWAY6.packed:
            return
        # RFC 4861 §4.4: router, solicited, override; target link-layer address
        data = b"\xe0\0\0\0" + GATEWAY6.packed + b"\2\1" + _MAC
        answer = icmp(_ADVERTISEMENT, 0, data, ends=(GATEWAY6, ip_address(solicitation[8:24])))
        packet = ipv6(answer, ICMPV6, source=GATEWAY6, destination=ip_address(solicitation[8:24]), hop_limit=255)
        self._frames.send(frame[6:12] + _MAC + frame[12:14] + packet)

    def _frame(self) -> bytes | None:
        try:
            return self._frames.recv(1 << 16)
        except (TimeoutError, BlockingIOError):
            return None


class Peer:
    """A pair of SAs between an engine of ours and a guest.

    inner, outer: IP versions; of transport mode the same.   key_octets: None is the suite's longest.
    sequence: the number before the first one of both directions.   options: of the Profile.
    """

    def __init__(
        self,
        guest: Guest,
        xfrm: Xfrm,
        engine_name: str,
        suite: str = "aes-gcm-16",
        *,
        mode: Mode = Mode.TUNNEL,
        inner: int = 4,
        outer: int = 4,
        in_udp: bool = False,
        key_octets: int | None = None,
        sequence: int = 0,
        spi: int = 0x1000,
        **options: Any,
    ) -> None:
        self.guest, self.wire, self._xfrm = guest, Wire(guest.frames), xfrm
        self.engine: Engine = open_engine(engine_name, Options())
        self.here, self.there = OURS[outer]
        self.inner_here, self.inner_there = self.ends = OURS[outer] if mode is Mode.TRANSPORT else INNER[inner]
        self.profile = Profile(
            suite,
            mode=mode,
            outer=None if mode is Mode.TRANSPORT else Outer(self.here, self.there),
            inner=Inner(*self.ends) if mode is Mode.BEET else None,
            encapsulation=self.encapsulation_of(in_udp),
            **options,
        )
        keys = oracle.Keys.of(suite, key_octets)
        secrets = {"key": keys.key, "salt": keys.salt, "auth_key": keys.auth_key, "sequence": sequence}
        self.sa_out = SA(self.profile, Direction.OUT, spi, **secrets)
        self.sa_in = SA(self.profile, Direction.IN, spi + 1, **secrets)
        ends = {"here": self.here, "there": self.there}
        self.to_guest = State.of_peer(self.sa_out, reqid=spi, **ends)
        self.to_us = State.of_peer(self.sa_in, reqid=spi, **ends)
        xfrm.add(self.to_guest, self.to_us)
        xfrm.allow(*self.policies(spi))
        self.out = self.engine.install(self.sa_out)
        self.engine.install(self.sa_in)
        self.keys = keys
        self._echo = 0

    def change(self, state: State, **changes: Any) -> State:
        """Put another SA of the guest in the place of one: with other fields, or those of its `sa` or its profile."""
        fields = {each: changes.pop(each) for each in ("selector", "may_wrap") if each in changes}
        ours = {each: changes.pop(each) for each in ("key", "spi") if each in changes}
        sa = replace(state.sa, profile=replace(state.sa.profile, **changes), **ours)
        new = replace(state, sa=sa, **fields)
        self._xfrm.delete(state)
        self._xfrm.add(new)
        return new

    def policies(self, reqid: int) -> tuple[Policy, ...]:
        """The guest's, both ways."""
        near, far = (f"{each}/{each.max_prefixlen}" for each in self.ends)
        wire = {} if self.profile.mode is Mode.TRANSPORT else {"source": self.here, "destination": self.there}
        back = {} if not wire else {"source": self.there, "destination": self.here}
        return (
            Policy("in", Selector(near, far), self.profile.mode, reqid, **wire),
            Policy("out", Selector(far, near), self.profile.mode, reqid, **back),
        )

    @staticmethod
    def encapsulation_of(in_udp: bool) -> UDPEncapsulation | None:
        return UDPEncapsulation() if in_udp else None

    def allow(self, policy: Policy) -> None:
        """Add a policy of the guest's."""
        self._xfrm.allow(policy)

    def with_selectors(self, *selectors: Any) -> Profile:
        """The profile with what the SA may carry, as the guest sees it."""
        return replace(self.profile, selectors=selectors)

    def in_place_of_the_guest(self) -> Engine:
        """An engine of the same kind with the guest's SAs and addresses."""
        profile = self.profile
        if profile.outer is not None:
            profile = replace(profile, outer=Outer(self.there, self.here))
        if profile.inner is not None:
            profile = replace(profile, inner=Inner(self.inner_there, self.inner_here))
        engine = open_engine(self.engine.name, Options())
        engine.install(replace(self.sa_out, profile=profile, direction=Direction.IN))
        engine.install(replace(self.sa_in, profile=profile, direction=Direction.OUT))
        return engine

    # One packet

    def seal(self, packet: bytes) -> bytes:
        """Protect a packet for the guest."""
        verdict = self.engine.encapsulate(self.out, packet, time.monotonic_ns())
        assert isinstance(verdict, Delivered), verdict
        return verdict.packet

    def opened(self, seconds: float = PATIENCE_S) -> Verdict | None:
        """What becomes of the next packet from the guest."""
        packet = self.wire.receive(seconds)
        return None if packet is None else self.engine.decapsulate(packet, time.monotonic_ns())

    def forged(self, sequence: int, plaintext: bytes) -> bytes:
        """A packet with this number and plaintext, trailer included, sealed without any engine, in its IP header."""
        profile = self.profile
        iv = pack(">Q", sequence).rjust(16 if profile.cipher.iv_octets == 16 else 8, b"\x07")
        return self.around(oracle.seal_plaintext(self.keys, self.sa_out.spi, sequence, profile.esn, iv, plaintext))

    def around(self, esp: bytes) -> bytes:
        """What comes from us to the guest with this behind the IP header, and UDP header if the SA has one."""
        protocol = ESP
        if self.profile.encapsulation is not None:
            protocol, esp = UDP, udp(esp, 4500, 4500, ends=(self.here, self.there))
        build = ipv4 if self.here.version == 4 else ipv6
        return build(esp, protocol, source=self.here, destination=self.there)

    # Echoes

    def echo_request(self, data: bytes = b"are you there?") -> bytes:
        """An inner packet that the guest answers."""
        self._echo += 1
        head = pack(">HH", 0x5057, self._echo)
        if self.inner_here.version == 4:
            return ipv4(icmp(8, 0, head + data), ICMP, source=self.inner_here, destination=self.inner_there)
        message = icmp(128, 0, head + data, ends=self.ends)
        return ipv6(message, ICMPV6, source=self.inner_here, destination=self.inner_there)

    def is_answered(self, data: bytes = b"are you there?", seconds: float = PATIENCE_S) -> bool:
        """Send one echo request to the guest and tell whether the right answer comes back."""
        request = self.echo_request(data)
        self.wire.send(self.seal(request))
        packet = self.wire.receive(seconds)
        if packet is None:
            return False
        verdict = self.engine.decapsulate(packet, time.monotonic_ns())
        assert isinstance(verdict, Delivered), (verdict, packet.hex())
        return echoed(request) == body(verdict.packet)

    def answer(self, count: int) -> list[bytes]:
        """Answer so many echo requests of the guest, and return the packets that they came in."""
        packets = []
        while len(packets) < count:
            packet = self.wire.receive()
            assert packet is not None, "the guest sent nothing"
            verdict = self.engine.decapsulate(packet, time.monotonic_ns())
            assert isinstance(verdict, Delivered), (verdict, packet.hex())
            packets.append(packet)
            inner = verdict.packet
            reply = echoed(inner)
            if inner[0] >> 4 == 4:
                back = ipv4(reply, ICMP, source=self.inner_here, destination=self.inner_there)
            else:
                back = ipv6(reply, ICMPV6, source=self.inner_here, destination=self.inner_there)
            self.wire.send(self.seal(back))
        return packets

    def ping_from_guest(self, count: int = 2, octets: int = 56) -> list[bytes]:
        """Have the guest ping us, and return its packets; every one must be answered to its satisfaction."""
        call = self.guest.start(guest_ping, str(self.inner_there), str(self.inner_here), count, octets)
        packets = self.answer(count)
        assert call.result() == count
        return packets


def body(packet: bytes) -> bytes:
    """What stands behind an IP header."""
    return packet[4 * (packet[0] & 15) :] if packet[0] >> 4 == 4 else packet[40:]


def echoed(request: bytes) -> bytes:
    """The ICMP message that answers an echo request."""
    data = body(request)[4:]
    if request[0] >> 4 == 4:
        return icmp(0, 0, data)
    source, destination = ip_address(request[8:24]), ip_address(request[24:40])
    head = pack(">BBH", 129, 0, 0)
    return head[:2] + pack(">H", sum16(pseudo(destination, source, ICMPV6, 4 + len(data)) + head + data)) + data


def guest_ping(source: str, to: str, count: int, octets: int) -> int:
    """In the guest: ping, and return how many answers came that were right to the octet."""
    import os
    import socket

    six = ":" in to
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    right = 0
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        sock.bind((source, 0))
        sock.settimeout(10)
        for number in range(count):
            data = b"\x12\x34" + number.to_bytes(2, "big") + os.urandom(octets)
            head = bytes((128 if six else 8, 0, 0, 0))
            if not six:
                words = head + data + b"\0" * (len(data) % 2)
                total = sum(int.from_bytes(words[at : at + 2], "big") for at in range(0, len(words), 2))
                while total >> 16:
                    total = (total & 0xFFFF) + (total >> 16)
                head = head[:2] + (total ^ 0xFFFF).to_bytes(2, "big")
            sock.sendto(head + data, (to, 0))
            while True:
                try:
                    packet = sock.recv(65536)
                except TimeoutError:
                    break
                message = packet if six else packet[(packet[0] & 15) * 4 :]
                if message[0] == (129 if six else 0):
                    right += message[4:] == data
                    break
    return right


def send_datagram(source: str, to: str) -> None:
    """In the guest: send one datagram; whether the kernel then tells of an error is all the same."""
    import contextlib
    import socket

    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.bind((source, 0))
        sock.sendto(b"datagram", (to, 4711))
