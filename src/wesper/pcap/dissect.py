"""The walk through a packet: link layer, IP and its extensions, UDP, TCP, ICMP, ESP, PSP and what is in them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from types import SimpleNamespace

from ..crypto import InvalidTag, Transform, transform
from ..keying import PSPKeys, StaticSA
from ..protocols import ip
from ..protocols.esp import authenticated, implicit_iv
from ..protocols.options import walk as walk_options
from ..protocols.psp import INDEX_MASK, header_version
from ..protocols.udp import content
from ..sa import infer_sequence
from ..verdict import DropReason
from ..wire import numbers, wespv2
from ..wire.eesp import EESP
from ..wire.eesp import IP_PROTOCOL as EESP_PROTOCOL
from ..wire.esp import ESP, BEETPseudoHeader, ESPTrailer
from ..wire.format import Field, Header
from ..wire.ipv4 import IPv4
from ..wire.ipv6 import IPv6, IPv6Extension, IPv6Fragment
from ..wire.layout import Layout, Part
from ..wire.layouts import LAYOUTS
from ..wire.link import VLAN, Ethernet
from ..wire.psp import ICV as PSP_ICV
from ..wire.psp import PORT, PSP
from ..wire.transport import ICMP, TCP
from ..wire.udp import IPSEC_NAT_T_PORT, UDP, WESP_IDENTIFIER
from ..wire.wesp import WESP
from .dissection import Dissection, Layer, added, data_layer, noted, read_layer
from .link import LinkType, ip_offset, link_type_name
from .opener import HALVES
from .psp_keyring import PSPKeyring

MAX_DEPTH = 16
"""Packets inside packets: deeper ones are shown as data."""

_PADDING = Field("padding", "pad", 0, "RFC 4303 §2.4", "1, 2, 3, ...", form="hex", raw=True, variable=True)
_ICV = Field("icv", "icv", 0, "RFC 4303 §2.8", "integrity check value", form="hex", raw=True, variable=True)
_TFC = Field(
    "tfc_padding", "tfc_pad", 0, "RFC 4303 §2.7", "behind the inner packet", form="hex", raw=True, variable=True
)
_PSP_ICV = Field("icv", "icv", 0, "PSP Trailer", "integrity check value", form="hex", raw=True, variable=True)
_PSP_SOURCE = "PSP NIC Receive Processing"
_EXTENSIONS = {
    numbers.HOP_BY_HOP: ("ipv6.hopopts", "IPv6 hop-by-hop options", "RFC 8200 §4.3"),
    numbers.ROUTING: ("ipv6.routing", "IPv6 routing header", "RFC 8200 §4.4"),
    numbers.DESTINATION_OPTIONS: ("ipv6.dstopts", "IPv6 destination options", "RFC 8200 §4.6"),
    numbers.MOBILITY: ("mipv6", "Mobility header", "RFC 6275 §6.1"),
}
_VLAN_TPIDS = frozenset((0x8100, 0x88A8, 0x9100, 0x9200))
_ETHERTYPES = {4: 0x0800, 6: 0x86DD}


class Keyring:
    """SAs that open ESP packets, and PSP's keys.

    It follows each SA's sequence number, so that the high half is known.
    """

    def __init__(self, sas: Sequence[StaticSA], psp: PSPKeys | None = None) -> None:
        self._sas = sas
        self.psp = PSPKeyring(psp or PSPKeys())
        self._transforms: dict[int, Transform] = {}
        self._tops: dict[tuple[int, int], int] = {}

    def find(self, spi: int, source: bytes, destination: bytes) -> StaticSA | None:
        """Return the SA for an SPI between two addresses."""
        ends = ip.address(source), ip.address(destination)
        return next((sa for sa in self._sas if sa.protocol == "esp" and sa.carries(spi, *ends)), None)

    def has(self, spi: int) -> bool:
        """Whether an ESP SA of the file has this SPI by name."""
        return any(sa.spi == spi and sa.protocol == "esp" for sa in self._sas)

    def open(self, sa: StaticSA, body: bytes, spi: int, low: int) -> tuple[bytes, int] | None:
        """Return plaintext with its trailer, and all 64 bits of the number; None if the ICV does not fit."""
        top = self._tops.get((id(sa), spi))
        if not sa.esn:
            candidates = [low]
        elif top is not None:
            candidates = [infer_sequence(top, 0, low) or low]
        else:
            candidates = [half << 32 | low for half in ((sa.sequence >> 32) + step for step in HALVES) if half >= 0]
        for sequence in candidates:
            plaintext = self._try(sa, body, spi, sequence)
            if plaintext is not None:
                self._tops[id(sa), spi] = max(top or 0, sequence)
                return plaintext, sequence
        return None

    def _try(self, sa: StaticSA, body: bytes, spi: int, sequence: int) -> bytes | None:
        suite, keys = sa.cipher, self._transforms.get(id(sa))
        if keys is None:
            keys = self._transforms[id(sa)] = transform(suite, sa.key, sa.salt, sa.auth_key)
        iv = body[ESP.SIZE : ESP.SIZE + suite.iv_octets]
        associated, suffix = authenticated(suite, spi, sequence, sa.esn, iv)
        try:
            used = implicit_iv(sequence, sa.esn) if suite.implicit_iv else iv
            return keys.open(used, associated, body[ESP.SIZE + len(iv) :], suffix)
        except InvalidTag:
            return None


def dissect(
    packet: bytes,
    link_type: int = LinkType.RAW,
    keys: Keyring | None = None,
    psp_ports: Collection[int] = frozenset((PORT,)),
) -> Dissection:
    """Take a packet apart.

    packet: any octets, from the link-layer header of link_type on.   keys: to look into ESP and PSP.   psp_ports: UDP
    destination ports that are PSP's, besides those that keys name.   Never raises for what the octets are.
    """
    walk = _Walk(packet, keys, psp_ports)
    walk.link(link_type)
    return walk.result


class _Walk:
    """One packet's walk.   data: the octets being read, in which ciphertext has given way to plaintext."""

    def __init__(self, packet: bytes, keys: Keyring | None, psp_ports: Collection[int]) -> None:
        self.result = Dissection(packet)
        self._keys, self._data = keys, packet
        self._psp_ports = frozenset(psp_ports) | (keys.psp.ports if keys is not None else frozenset())
        self._decrypted = False
        self._depth = 0
        self._upper: dict[int, Callable[[int, int, Layer], None]] = {
            numbers.UDP: self._udp,
            numbers.TCP: self._tcp,
            numbers.ICMP: self._icmp,
            numbers.ICMPV6: self._icmp,
            numbers.ESP: self._esp,
            numbers.WESP: self._wesp,
            EESP_PROTOCOL: lambda at, end, _: self._wrapped(LAYOUTS["eesp"], at, end),
        }

    def link(self, link_type: int) -> None:
        """Read the link-layer header and go on with IP."""
        data = self._data
        at = ip_offset(link_type, data)
        if link_type == LinkType.ETHERNET:
            last = self._read(Ethernet, 0, len(data))
            end = last.octets if last is not None else len(data)
            while last is not None and last.value("ethertype") in _VLAN_TPIDS:
                last = self._read(VLAN, end, len(data))
                end += last.octets if last is not None else 0
            if last is None:
                return
            if at is None or at < end:
                wanted = {number: version for version, number in _ETHERTYPES.items()}.get(last.value("ethertype"))
                if wanted and end < len(data):
                    self.result.fail(f"the Ethertype says IPv{wanted}, the octet behind it {data[end] >> 4}")
                self._rest(end, len(data), "")
                return
            if at > end:
                self._rest(end, at, "", title="Headers before IP")
        elif at is None and link_type in (LinkType.RAW, LinkType.RAW_12, LinkType.RAW_14, LinkType.IPV4, LinkType.IPV6):
            self.result.fail(f"IP version {data[0] >> 4}" if data else "no octets")
            self._rest(0, len(data), "")
            return
        elif at is None or at > 0:
            title = f"Link layer {link_type_name(link_type)}"
            self._rest(0, len(data) if at is None else at, "draft-ietf-opsawg-pcaplinktype", title=title)
            if at is None:
                return
        self._ip(at or 0, len(data))

    def _read(self, kind: type[Header], at: int, end: int, **more: object) -> Layer | None:
        """Read a header and add it; None if it is not whole."""
        layer, problem = read_layer(kind, self._data, at, end, **more)  # type: ignore[arg-type]
        layer.decrypted = self._decrypted
        self.result.layers.append(layer)
        if problem:
            self.result.fail(problem)
            return None
        return layer

    def _rest(self, at: int, end: int, source: str, *, title: str = "Data") -> None:
        if end > at:
            layer = data_layer(self._data[at:end], at, source, title=title)
            layer.decrypted = self._decrypted
            self.result.layers.append(layer)

    def _ip(self, at: int, end: int) -> None:
        self._depth += 1
        version = self._data[at] >> 4 if at < end else 0
        if self._depth > MAX_DEPTH or version not in (4, 6):
            self.result.fail(f"IP version {version}" if version not in (4, 6) else "packets nested too deeply")
            self._rest(at, end, "")
        elif version == 4:
            self._ipv4(at, end)
        else:
            self._ipv6(at, end)

    def _ipv4(self, at: int, end: int) -> None:
        layer = self._read(IPv4, at, end)
        if layer is None:
            return
        head = self._data[at : at + layer.octets]
        self._check(layer, head[:10] + b"\0\0" + head[12:])
        stop = at + layer.value("total_length")
        if not layer.octets <= stop - at <= end - at:
            self.result.fail(f"ip.len is {stop - at}, and there are {end - at} octets")
        stop = min(max(stop, at + layer.octets), end)
        if layer.value("fragment_offset"):
            self._rest(at + layer.octets, stop, "RFC 791 §3.2", title="Fragment")
        else:
            self._payload(layer.value("protocol"), at + layer.octets, stop, layer)
        self._trailing(stop, end)

    def _ipv6(self, at: int, end: int) -> None:
        header = self._read(IPv6, at, end)
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
                layer = self._read(IPv6Fragment, at, stop)
            else:
                name, title, _ = _EXTENSIONS[protocol]
                layer = self._read(IPv6Extension, at, stop, name=name, title=title)
            if layer is None:
                return
            at += layer.octets
            protocol = layer.value("next_header")
            if layer.value("fragment_offset"):
                self._rest(at, stop, "RFC 8200 §4.5", title="Fragment")
                self._trailing(stop, end)
                return
        self._payload(protocol, at, stop, header)
        self._trailing(stop, end)

    def _trailing(self, at: int, end: int) -> None:
        if not self._decrypted:
            self._rest(at, end, "", title="Behind the packet")

    def _payload(self, protocol: int, at: int, end: int, header: Layer) -> None:
        if protocol in (numbers.IPV4, numbers.IPV6):
            self._ip(at, end)
        elif protocol in self._upper:
            self._upper[protocol](at, end, header)
        elif protocol != numbers.NO_NEXT_HEADER or end > at:
            self._rest(at, end, "", title=numbers.PROTOCOL_NAMES.get(protocol, f"Protocol {protocol}"))

    def _check(self, layer: Layer, zeroed: bytes) -> None:
        found, right = layer.value("checksum"), ip.checksum(zeroed)
        noted(layer, "checksum", "right" if found in (right, right or 0xFFFF) else f"wrong, {right:#06x} computed")

    def _with_pseudo(self, layer: Layer, header: Layer, at: int, end: int, protocol: int, place: int) -> None:
        """Check a checksum that covers addresses too, if all that it covers is there."""
        if self.result.problem or header.value("mf"):
            return
        body = self._data[at : at + place] + b"\0\0" + self._data[at + place + 2 : end]
        ends = header.value("source"), header.value("destination")
        self._check(layer, ip.pseudo_header(*ends, protocol, end - at) + body)

    def _udp(self, at: int, end: int, header: Layer) -> None:
        layer = self._read(UDP, at, end)
        if layer is None:
            return
        octets = layer.value("length")
        if not UDP.SIZE <= octets <= end - at:
            self.result.fail(f"udp.length is {octets}, and there are {end - at} octets")
            self._rest(at + UDP.SIZE, end, "RFC 768")
            return
        if layer.value("checksum") == 0:
            noted(layer, "checksum", "none")
        else:
            self._with_pseudo(layer, header, at, at + octets, numbers.UDP, 6)
        inside = at + UDP.SIZE
        if layer.value("destination_port") in self._psp_ports:
            self._psp(inside, at + octets, header, layer.value("destination_port"))
            return
        if IPSEC_NAT_T_PORT not in (layer.value("source_port"), layer.value("destination_port")):
            self._rest(inside, at + octets, "RFC 768")
            return
        if self._data[inside : inside + 4] == WESP_IDENTIFIER:
            self._rest(inside, inside + 4, "RFC 5840 §2.1", title="WESP identifier")
            self._wesp(inside + 4, at + octets, header)
            return
        if self._data[inside : inside + 1] >= b"\x80" and octets - UDP.SIZE >= EESP.SIZE and self._is_eesp(inside):
            self._wrapped(LAYOUTS["eesp"], inside, at + octets)
            return
        found = content(self._data[at : at + octets])
        if found is DropReason.KEEPALIVE:
            self._rest(inside, at + octets, "RFC 3948 §2.3", title="NAT keepalive")
        elif found is DropReason.NOT_FOR_US:
            self._rest(inside, inside + 4, "RFC 3948 §2.2", title="Non-ESP marker")
            self._rest(inside + 4, at + octets, "RFC 7296 §3.1", title="IKE")
        elif octets - UDP.SIZE < ESP.SIZE:
            if layer.value("destination_port") == IPSEC_NAT_T_PORT:
                self.result.fail(f"too short for ESP: {octets - UDP.SIZE} octets")
            self._rest(inside, at + octets, "RFC 3948 §2.1", title="Too short for ESP")
        else:
            self._esp(inside, at + octets, header)

    def _tcp(self, at: int, end: int, header: Layer) -> None:
        layer = self._read(TCP, at, end)
        if layer is not None:
            self._with_pseudo(layer, header, at, end, numbers.TCP, 16)
            self._rest(at + layer.octets, end, "RFC 9293 §3.1")

    def _icmp(self, at: int, end: int, header: Layer) -> None:
        six = header.name == "ipv6"
        title = "Internet Control Message Protocol version 6" if six else ""
        layer = self._read(ICMP, at, end, name="icmpv6" if six else "icmp", title=title)
        if layer is None:
            return
        if six:
            self._with_pseudo(layer, header, at, end, numbers.ICMPV6, 2)
        elif not self.result.problem and not header.value("mf"):
            self._check(layer, self._data[at : at + 2] + b"\0\0" + self._data[at + 4 : end])
        self._rest(at + layer.octets, end, layer.source)

    def _esp(self, at: int, end: int, header: Layer) -> None:
        spi = int.from_bytes(self._data[at : at + 4], "big")
        addresses = header.value("source"), header.value("destination")
        whole = end - at >= ESP.SIZE
        sa = self._keys.find(spi, *addresses) if self._keys is not None and whole else None
        iv = 0 if sa is None else min(sa.cipher.iv_octets, max(end - at - ESP.SIZE, 0))
        layer = self._read(ESP, at, end, lengths={"iv": iv})
        if layer is None:
            return
        if sa is None or self._keys is None:
            if self._keys is not None:
                self.result.fail(f"no SA in the key file for SPI {spi:#010x}")
            self._rest(at + layer.octets, end, "RFC 4303 §2.3", title="Encrypted")
            return
        noted(layer, "spi", sa.title if sa.name else sa.suite)
        suite, sealed = sa.cipher, end - at - ESP.SIZE - iv - sa.cipher.icv_octets
        if sealed < suite.block or sealed % suite.block:
            self.result.fail(f"esp: no room for IV, whole blocks, trailer and ICV of {suite.name}")
            self._rest(at + layer.octets, end, "RFC 4303 §2.3", title="Encrypted")
            return
        opened = self._keys.open(sa, self._data[at:end], spi, layer.value("sequence"))
        if opened is None:
            self.result.fail(
                f"esp.icv does not fit: another key, other settings (suite {suite.name}, "
                f"esn {str(sa.esn).lower()}), or changed octets"
            )
            self._rest(at + layer.octets, end, "RFC 4303 §2.3", title="Encrypted")
            return
        plaintext, sequence = opened
        if sa.esn:
            noted(layer, "sequence", f"with its high half {sequence}")
        self._inside(at + layer.octets, end, plaintext, sa, header)

    def _is_eesp(self, at: int) -> bool:
        """Whether what comes in UDP with the first bit set is EESP, and not ESP with such an SPI."""
        octet, optlen = self._data[at], self._data[at + 1]
        return octet == 0x80 and optlen % 4 == 0 and not self._has_sa(int.from_bytes(self._data[at : at + 4], "big"))

    def _has_sa(self, spi: int) -> bool:
        return self._keys is not None and self._keys.has(spi)

    def _wesp(self, at: int, end: int, header: Layer) -> None:
        """Read what has WESP's number: the version says which of the two it is."""
        version = self._data[at + 3] >> 6 if at + 3 < end else 0
        if version == wespv2.VERSION:
            self._wrapped(LAYOUTS["wespv2"], at, end)
            return
        layer = self._read(WESP, at, end)
        if layer is None:
            return
        if layer.value("version"):
            self.result.fail(f"wesp.ver is {layer.value('version')}")
            self._rest(at + layer.octets, end, layer.source)
        else:
            self._esp(at + layer.octets, end, header)

    def _wrapped(self, layout: Layout, at: int, end: int) -> None:
        """Read headers that follow each other, and what stands in clear behind them."""
        start, known = at, SimpleNamespace()
        for part in layout.parts:
            lengths = {"iv": 0, **part.negotiated}  # only the SA knows it: it is shown with what is encrypted
            lengths |= {name: compute(known) for name, compute in part.lengths.items()}
            layer = self._read(part.header, at, end, lengths=lengths)
            if layer is None:
                return
            known.__dict__.update((value.field.name, value.value) for value in layer.values)
            for field in part.header.FIELDS:
                known.__dict__.setdefault(field.name, b"")  # of no octets, so no layer has it
            if part.options is not None:
                place = next((v.bit // 8 for v in layer.values if v.field.name == part.options.field), at)
                self._options(part, known, place)
            at += layer.octets
        clear = at
        if layout.clear is not None:
            with contextlib.suppress(AttributeError):  # the option that would say so is not there
                clear = min(max(start + layout.clear(known), at), end)
        if clear > at:
            self._rest(at, clear, layout.source, title="Payload in the clear")
        self._rest(clear, end, layout.source, title="Encrypted")

    def _options(self, part: Part, known: SimpleNamespace, at: int) -> None:
        assert part.options is not None
        area = known.__dict__[part.options.field]
        found = walk_options(area)
        if found is None:
            self.result.fail(f"{part.header.NAME}: options that do not fill their place")
            return
        for option in found:
            declaration = part.options.known.get(option.type)
            if declaration is not None:
                layer = self._read(declaration, at + option.at, at + option.at + 2 + len(option.data))
                if layer is not None:
                    known.__dict__.update((value.field.name, value.value) for value in layer.values)

    def _inside(self, at: int, end: int, plaintext: bytes, sa: StaticSA, header: Layer) -> None:
        """Go on with what was encrypted, put where it stood."""
        outside, before = self._data, self._decrypted
        self._data = outside[:at] + plaintext + outside[at + len(plaintext) :]
        self._decrypted = True
        stop = at + len(plaintext)
        pad, next_header = plaintext[-2], plaintext[-1]
        payload_end = stop - 2 - pad
        if payload_end < at:
            self.result.fail(f"esp.pad_len is {pad}, and {len(plaintext) - 2} octets stand before it")
            payload_end = at
        inner_end = payload_end
        if next_header in (numbers.IPV4, numbers.IPV6):
            inner_end = min(payload_end, at + (self._told_length(at) or payload_end - at))
            self._ip(at, inner_end)
        elif next_header == numbers.BEET_PSEUDO_HEADER:
            beet = self._read(BEETPseudoHeader, at, payload_end)
            if beet is not None:
                self._payload(beet.value("next_header"), at + beet.octets, payload_end, header)
        elif next_header == numbers.NO_NEXT_HEADER:
            self._rest(at, payload_end, "RFC 4303 §2.6", title="Dummy packet")
        else:
            self._payload(next_header, at, payload_end, header)
        trailer, _ = read_layer(ESPTrailer, self._data, stop - 2, stop)
        trailer.decrypted = True
        head = Layer(trailer.name, trailer.title, trailer.source, inner_end, declaration=ESPTrailer, decrypted=True)
        added(head, _TFC, self._data[inner_end:payload_end], inner_end)
        padding = self._data[payload_end : stop - 2]
        added(head, _PADDING, padding, payload_end)
        if padding != bytes(range(1, len(padding) + 1)):
            noted(head, "padding", "not 1, 2, 3, ...")
        head.values += trailer.values
        head.octets = end - inner_end
        self._decrypted = before
        added(head, _ICV, self._data[stop:end], stop)
        noted(head, "icv", "right")
        self.result.layers.append(head)
        self._data = outside

    def _psp(self, at: int, end: int, header: Layer, port: int) -> None:
        """Read a PSP packet: all that is in clear, and with its key all of it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.result.fail("packets nested too deeply")
            self._rest(at, end, "")
            return
        sealed = self._data[at:end]
        used = header_version(sealed)
        if isinstance(used, DropReason):
            layer, problem = read_layer(PSP, self._data, at, end)
            layer.decrypted = self._decrypted
            self.result.layers.append(layer)
            self.result.fail(problem or f"psp: {used.sentence}")
            self._rest(at + layer.octets, end, _PSP_SOURCE)
            return
        behind, icv_at = at + 8 * (sealed[1] + 1), end - PSP_ICV
        clear_end = icv_at if used.gmac else at + PSP.SIZE + 4 * (sealed[2] & 63)
        spi = int.from_bytes(sealed[4:8], "big")
        # Cookie and extension are shown with the header where they stand in clear, else with what is opened.
        layer, _ = read_layer(PSP, self._data, at, behind if behind <= clear_end else at + PSP.SIZE)
        layer.decrypted = self._decrypted
        layer.octets = min(layer.octets, behind - at)
        self.result.layers.append(layer)
        if not spi & INDEX_MASK:
            self.result.fail("psp.spi is reserved: its low 31 bits are zero")
        if used.gmac and layer.value("crypt_offset_words"):
            noted(layer, "crypt_offset_words", "ignored: nothing is encrypted")
        whose, opened = "", None
        if self._keys is not None:
            ends = header.value("source"), header.value("destination")
            whose, opened = self._keys.psp.open(spi, used, *ends, port, sealed)
            noted(layer, "spi", whose)
            if opened is None:
                missing = f"no key in the key file for PSP's SPI {spi:#010x} of version {used.code}"
                self.result.fail("psp.icv does not fit: another key, or changed octets" if whose else missing)
        note = "" if self._keys is None or not whose else "right" if opened is not None else "wrong"
        if opened is not None:
            self._psp_inside(at, behind, icv_at, opened, header)
        else:
            if behind > clear_end:
                self._rest(at + PSP.SIZE, clear_end, layer.source, title="Extension in clear")
            elif used.gmac:
                self._psp_payload(sealed[0], behind, icv_at, header)
            else:
                self._in_clear(sealed[0], behind, clear_end, header)
            self._rest(clear_end, icv_at, _PSP_SOURCE, title="Encrypted")
        trailer = Layer("psp", "PSP trailer", "PSP Trailer", icv_at, octets=PSP_ICV, decrypted=self._decrypted)
        added(trailer, _PSP_ICV, self._data[icv_at:end], icv_at)
        noted(trailer, "icv", note)
        self.result.layers.append(trailer)

    def _psp_inside(self, at: int, behind: int, icv_at: int, opened: bytes, header: Layer) -> None:
        """Go on with a PSP packet in clear, put where it stood.   behind: where the payload begins."""
        outside, before = self._data, self._decrypted
        self._data, self._decrypted = outside[:at] + opened + outside[icv_at:], True
        if self.result.layers[-1].octets < behind - at:
            whole, _ = read_layer(PSP, self._data, at, behind)
            inside = [value for value in whole.values if value.bit >= 8 * (at + PSP.SIZE)]
            place, octets = at + PSP.SIZE, behind - at - PSP.SIZE
            layer = Layer("psp", "PSP extension", whole.source, place, inside, octets, PSP, decrypted=True)
            self.result.layers.append(layer)
        self._psp_payload(opened[0], behind, icv_at, header)
        self._data, self._decrypted = outside, before

    def _psp_payload(self, next_header: int, at: int, end: int, header: Layer) -> None:
        if next_header not in (numbers.IPV4, numbers.IPV6) or at == end:
            self._payload(next_header, at, end, header)
            return
        inner_end = min(end, at + (self._told_length(at) or end - at))
        self._ip(at, inner_end)
        self._rest(inner_end, end, _PSP_SOURCE, title="Behind the inner packet")

    def _in_clear(self, next_header: int, at: int, end: int, header: Layer) -> None:
        """Show headers that Crypt Offset leaves in clear, as far as they go: that they end there is no fault."""
        if at == end:
            return
        part = _Walk(self._data[:end], None, ())
        part._depth, part._decrypted = self._depth, self._decrypted
        part.result.fail("checksums cover what is not there")
        part._payload(next_header, at, end, header)
        for layer in part.result.layers:
            layer.title += ", its part in clear"
        self.result.layers += part.result.layers

    def _told_length(self, at: int) -> int | None:
        """Return the length that an inner IP packet tells: what is behind it is TFC padding."""
        version = self._data[at] >> 4
        if version == 4:
            return self._data[at + 2] << 8 | self._data[at + 3]
        return 40 + (self._data[at + 4] << 8 | self._data[at + 5]) if version == 6 else None
