"""The walk through a packet's open headers: link layer, IP and its extensions, UDP, TCP, ICMP.

What protects packets is read by others (`esp_inside`, `psp_inside`), who say here what they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..protocols import ip
from ..wire import numbers
from ..wire.format import Header
from ..wire.ipv4 import IPv4
from ..wire.ipv6 import IPv6, IPv6Extension, IPv6Fragment
from ..wire.link import VLAN, Ethernet
from ..wire.transport import ICMP, TCP
from ..wire.udp import UDP
from .dissection import Dissection, Layer, data_layer, noted, read_layer
from .link import LinkType, ip_offset, link_type_name

MAX_DEPTH: Final = 16
"""Packets inside packets: deeper ones are shown as data."""

Reader = Callable[[int, int, Layer], None]
"""Reads what stands in [at, end) behind an IP header."""
UDPReader = Callable[[int, int, Layer, Layer], bool]
"""The same for what is in UDP, whose header comes last; returns whether it is this reader's business."""

_EXTENSIONS = {
    numbers.HOP_BY_HOP: ("ipv6.hopopts", "IPv6 hop-by-hop options", "RFC 8200 §4.3"),
    numbers.ROUTING: ("ipv6.routing", "IPv6 routing header", "RFC 8200 §4.4"),
    numbers.DESTINATION_OPTIONS: ("ipv6.dstopts", "IPv6 destination options", "RFC 8200 §4.6"),
    numbers.MOBILITY: ("mipv6", "Mobility header", "RFC 6275 §6.1"),
}
_VLAN_TPIDS = frozenset((0x8100, 0x88A8, 0x9100, 0x9200))
_ETHERTYPES = {4: 0x0800, 6: 0x86DD}


class Walk:
    """One packet's walk.

    data: the octets being read, in which ciphertext has given way to plaintext.
    hidden_from: where what was ciphertext begins, None if nothing was: layers that reach beyond it are decrypted.
    upper, in_udp: who reads what IP or UDP carries.   keyless: begins a walk through other octets without any key.
    """

    def __init__(self, packet: bytes, keyless: Callable[[bytes], Walk]) -> None:
        self.result = Dissection(packet)
        self.data = packet
        self.hidden_from: int | None = None
        self.depth = 0
        self._keyless = keyless
        self.upper: dict[int, Reader] = {
            numbers.UDP: self._udp,
            numbers.TCP: self._tcp,
            numbers.ICMP: self._icmp,
            numbers.ICMPV6: self._icmp,
        }
        self.in_udp: list[UDPReader] = []

    def link(self, link_type: int) -> None:
        """Read the link-layer header and go on with IP."""
        data = self.data
        at = ip_offset(link_type, data)
        if link_type == LinkType.ETHERNET:
            last = self.read(Ethernet, 0, len(data))
            end = last.octets if last is not None else len(data)
            while last is not None and last.value("ethertype") in _VLAN_TPIDS:
                last = self.read(VLAN, end, len(data))
                end += last.octets if last is not None else 0
            if last is None:
                return
            if at is None or at < end:
                wanted = {number: version for version, number in _ETHERTYPES.items()}.get(last.value("ethertype"))
                if wanted and end < len(data):
                    self.result.fail(f"the Ethertype says IPv{wanted}, the octet behind it {data[end] >> 4}")
                self.rest(end, len(data), "")
                return
            if at > end:
                self.rest(end, at, "", title="Headers before IP")
        elif at is None and link_type in (LinkType.RAW, LinkType.RAW_12, LinkType.RAW_14, LinkType.IPV4, LinkType.IPV6):
            self.result.fail(f"IP version {data[0] >> 4}" if data else "no octets")
            self.rest(0, len(data), "")
            return
        elif at is None or at > 0:
            title = f"Link layer {link_type_name(link_type)}"
            self.rest(0, len(data) if at is None else at, "draft-ietf-opsawg-pcaplinktype", title=title)
            if at is None:
                return
        self.ip(at or 0, len(data))

    def read(self, kind: type[Header], at: int, end: int, **more: object) -> Layer | None:
        """Read a header and add it; None if it is not whole."""
        layer, problem = read_layer(kind, self.data, at, end, **more)  # type: ignore[arg-type]
        self.add(layer)
        if problem:
            self.result.fail(problem)
            return None
        return layer

    def rest(self, at: int, end: int, source: str, *, title: str = "Data") -> None:
        """Show octets that nothing here looks into."""
        if end > at:
            self.add(data_layer(self.data[at:end], at, source, title=title))

    def ip(self, at: int, end: int) -> None:
        """Read an IP packet."""
        self.depth += 1
        version = self.data[at] >> 4 if at < end else 0
        if self.depth > MAX_DEPTH or version not in (4, 6):
            self.result.fail(f"IP version {version}" if version not in (4, 6) else "packets nested too deeply")
            self.rest(at, end, "")
        elif version == 4:
            self._ipv4(at, end)
        else:
            self._ipv6(at, end)

    def _ipv4(self, at: int, end: int) -> None:
        layer = self.read(IPv4, at, end)
        if layer is None:
            return
        head = self.data[at : at + layer.octets]
        self._check(layer, head[:10] + b"\0\0" + head[12:])
        stop = at + layer.value("total_length")
        if not layer.octets <= stop - at <= end - at:
            self.result.fail(f"ip.len is {stop - at}, and there are {end - at} octets")
        stop = min(max(stop, at + layer.octets), end)
        if layer.value("fragment_offset"):
            self.rest(at + layer.octets, stop, "RFC 791 §3.2", title="Fragment")
        else:
            self.payload(layer.value("protocol"), at + layer.octets, stop, layer)
        self._trailing(stop, end)

    def _ipv6(self, at: int, end: int) -> None:
        header = self.read(IPv6, at, end)
        if header is None:
            return
        stop = at + IPv6.SIZE + header.value("payload_length")
        if stop > end:
            self.result.fail(f"ipv6.plen is {stop - at - IPv6.SIZE}, and {end - at - IPv6.SIZE} octets follow")
        stop = min(stop, end)
        at += IPv6.SIZE
        protocol, layer = header.value("next_header"), None
        while protocol in _EXTENSIONS or protocol == numbers.FRAGMENT:
            if protocol == numbers.FRAGMENT:
                layer = self.read(IPv6Fragment, at, stop)
            else:
                name, title, _ = _EXTENSIONS[protocol]
                layer = self.read(IPv6Extension, at, stop, name=name, title=title)
            if layer is None:
                return
            at += layer.octets
            protocol = layer.value("next_header")
            if layer.value("fragment_offset"):
                self.rest(at, stop, "RFC 8200 §4.5", title="Fragment")
                self._trailing(stop, end)
                return
        self.payload(protocol, at, stop, header)
        self._trailing(stop, end)

    def _trailing(self, at: int, end: int) -> None:
        if self.hidden_from is None:
            self.rest(at, end, "", title="Behind the packet")

    def payload(self, protocol: int, at: int, end: int, header: Layer) -> None:
        """Read what an IP header, or what stands for one, names.   header: the IP header in front."""
        if protocol in (numbers.IPV4, numbers.IPV6):
            self.ip(at, end)
        elif protocol in self.upper:
            self.upper[protocol](at, end, header)
        elif protocol != numbers.NO_NEXT_HEADER or end > at:
            self.rest(at, end, "", title=numbers.PROTOCOL_NAMES.get(protocol, f"Protocol {protocol}"))

    def _check(self, layer: Layer, zeroed: bytes) -> None:
        found, right = layer.value("checksum"), ip.checksum(zeroed)
        noted(layer, "checksum", "right" if found in (right, right or 0xFFFF) else f"wrong, {right:#06x} computed")

    def _with_pseudo(self, layer: Layer, header: Layer, at: int, end: int, protocol: int, place: int) -> None:
        """Check a checksum that covers addresses too, if all that it covers is there."""
        if self.result.problem or header.value("mf"):
            return
        body = self.data[at : at + place] + b"\0\0" + self.data[at + place + 2 : end]
        ends = header.value("source"), header.value("destination")
        self._check(layer, ip.pseudo_header(*ends, protocol, end - at) + body)

    def _udp(self, at: int, end: int, header: Layer) -> None:
        layer = self.read(UDP, at, end)
        if layer is None:
            return
        octets = layer.value("length")
        if not UDP.SIZE <= octets <= end - at:
            self.result.fail(f"udp.length is {octets}, and there are {end - at} octets")
            self.rest(at + UDP.SIZE, end, "RFC 768")
            return
        if layer.value("checksum") == 0:
            noted(layer, "checksum", "none")
        else:
            self._with_pseudo(layer, header, at, at + octets, numbers.UDP, 6)
        if not any(read(at + UDP.SIZE, at + octets, header, layer) for read in self.in_udp):
            self.rest(at + UDP.SIZE, at + octets, "RFC 768")

    def _tcp(self, at: int, end: int, header: Layer) -> None:
        layer = self.read(TCP, at, end)
        if layer is not None:
            self._with_pseudo(layer, header, at, end, numbers.TCP, 16)
            self.rest(at + layer.octets, end, "RFC 9293 §3.1")

    def _icmp(self, at: int, end: int, header: Layer) -> None:
        six = header.name == "ipv6"
        title = "Internet Control Message Protocol version 6" if six else ""
        layer = self.read(ICMP, at, end, name="icmpv6" if six else "icmp", title=title)
        if layer is None:
            return
        if six:
            self._with_pseudo(layer, header, at, end, numbers.ICMPV6, 2)
        elif not self.result.problem and not header.value("mf"):
            self._check(layer, self.data[at : at + 2] + b"\0\0" + self.data[at + 4 : end])
        self.rest(at + layer.octets, end, layer.source)

    def add(self, layer: Layer) -> None:
        """Add a layer; it is a decrypted one if any octet of it was ciphertext."""
        layer.decrypted = self.hidden_from is not None and layer.at + max(layer.octets, 1) > self.hidden_from
        self.result.layers.append(layer)

    def nest(self) -> bool:
        """Go one packet deeper.   Returns False, and says so, if that is too deep."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.result.fail("packets nested too deeply")
        return self.depth <= MAX_DEPTH

    def in_clear(self, next_header: int, at: int, end: int, header: Layer) -> None:
        """Show headers that a crypt offset leaves in clear, as far as they go: that they end there is no fault."""
        if at >= end:
            return
        part = self._keyless(self.data[:end])
        part.depth, part.hidden_from = self.depth, self.hidden_from
        part.result.fail("checksums cover what is not there")
        part.payload(next_header, at, end, header)
        for layer in part.result.layers:
            layer.title += ", its part in clear"
        self.result.layers += part.result.layers
        # A field that is cut is no field.
        shown = max((value.bit + value.bits for layer in part.result.layers for value in layer.values), default=8 * at)
        self.rest((shown + 7) // 8, end, "", title="Part of a field in clear")

    def tunnelled(self, next_header: int, at: int, end: int, header: Layer) -> int:
        """Read what a Next Header names, and return where it ends: an inner IP packet tells its length itself."""
        if next_header not in (numbers.IPV4, numbers.IPV6) or at == end:
            self.payload(next_header, at, end, header)
            return end
        inner_end = min(end, at + (self.told_length(at) or end - at))
        self.ip(at, inner_end)
        return inner_end

    def told_length(self, at: int) -> int | None:
        """Return the length that an inner IP packet tells: what is behind it is padding."""
        version = self.data[at] >> 4
        if version == 4:
            return int.from_bytes(self.data[at + 2 : at + 4], "big")
        return IPv6.SIZE + int.from_bytes(self.data[at + 4 : at + 6], "big") if version == 6 else None
