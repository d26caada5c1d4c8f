"""ESP, WESP, WESPv2 and EESP in a dissection: all that is in clear, and with its key all of it."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Final

from ..keying import StaticSA
from ..protocols import PROTOCOLS, Arrived, looks_like_eesp
from ..protocols.options import walk as walk_options
from ..protocols.udp import content
from ..sa import EESPFormat, Profile
from ..verdict import DropReason
from ..wire import numbers, wesp, wespv2
from ..wire.eesp import DRAFT, PayloadInfo, StatelessIV
from ..wire.eesp import IP_PROTOCOL as EESP_PROTOCOL
from ..wire.esp import ESP, BEETPseudoHeader, ESPTrailer
from ..wire.format import Field
from ..wire.layout import Layout, Options
from ..wire.layouts import LAYOUTS
from ..wire.udp import IPSEC_NAT_T_PORT, WESP_IDENTIFIER
from .dissection import Layer, added, noted, read_layer
from .headers import Walk
from .keyring import Keyring


def _octets(name: str, wire_name: str, source: str, meaning: str) -> Field:
    return Field(name, wire_name, 0, source, meaning, form="hex", raw=True, variable=True)


_PADDING: Final = _octets("padding", "pad", "RFC 4303 §2.4", "1, 2, 3, ...")
_ICV: Final = _octets("icv", "icv", "RFC 4303 §2.8", "integrity check value")
_TFC: Final = _octets("tfc_padding", "tfc_pad", "RFC 4303 §2.7", "behind the inner packet")
_ZEROS: Final = _octets("padding", "pad", f"{DRAFT} §2.6", "zeros")
_EESP_ICV: Final = _octets("icv", "icv", f"{DRAFT} §2.7", "integrity check value")
_SOURCES: Final = {"esp": "RFC 4303 §2.3", "wesp": "RFC 4303 §2.3", "wespv2": wespv2.DRAFT, "eesp": DRAFT}


class ESPInside:
    """Reads ESP and its kin in a walk.   keys: to look inside."""

    def __init__(self, walk: Walk, keys: Keyring | None) -> None:
        self._walk, self._keys = walk, keys
        self._ports = frozenset((IPSEC_NAT_T_PORT,)) | (frozenset() if keys is None else keys.udp_ports)
        walk.upper[numbers.ESP] = lambda at, end, header: self._read("esp", at, end, header)
        walk.upper[numbers.WESP] = self._wesp
        for number in (EESP_PROTOCOL, *(() if keys is None else keys.ip_protocols)):
            walk.upper[number] = lambda at, end, header: self._read("eesp", at, end, header)
        walk.in_udp.append(self._udp)

    def _udp(self, at: int, end: int, header: Layer, udp: Layer) -> bool:
        walk = self._walk
        ports = udp.value("source_port"), udp.value("destination_port")
        if self._ports.isdisjoint(ports):
            return False
        octets = walk.data[at:end]
        found = content(walk.data[udp.at : end])
        if octets[:4] == WESP_IDENTIFIER:
            walk.rest(at, at + 4, "RFC 5840 §2.1", title="WESP identifier")
            self._wesp(at + 4, end, header, in_udp=True)
        elif found is DropReason.KEEPALIVE:
            walk.rest(at, end, "RFC 3948 §2.3", title="NAT keepalive")
        elif found is DropReason.NOT_FOR_US:
            walk.rest(at, at + 4, "RFC 3948 §2.2", title="Non-ESP marker")
            walk.rest(at + 4, end, "RFC 7296 §3.1", title="IKE")
        elif len(octets) < ESP.SIZE:
            if ports[1] in self._ports:
                walk.result.fail(f"too short for ESP: {len(octets)} octets")
            walk.rest(at, end, "RFC 3948 §2.1", title="Too short for ESP")
        else:
            self._read("eesp" if self._is_eesp(octets) else "esp", at, end, header, in_udp=True)
        return True

    def _is_eesp(self, octets: bytes) -> bool:
        """Whether what comes in UDP is EESP, and not ESP with such an SPI: the key file knows, else by its look."""
        if self._keys is not None and octets[0] & 0x80:
            if self._keys.has("eesp", int.from_bytes(octets[4:8], "big")):
                return True
            if self._keys.has("esp", int.from_bytes(octets[:4], "big")):
                return False
        return looks_like_eesp(octets)

    def _wesp(self, at: int, end: int, header: Layer, *, in_udp: bool = False) -> None:
        """Read what has WESP's number: the version says which of the two it is."""
        version = self._walk.data[at + 3] >> 6 if at + 3 < end else wesp.VERSION
        self._read("wespv2" if version == wespv2.VERSION else "wesp", at, end, header, in_udp=in_udp)

    def _read(self, name: str, at: int, end: int, header: Layer, *, in_udp: bool = False) -> None:
        """Read a packet of one of these protocols."""
        walk, keys = self._walk, self._keys
        if not walk.nest():
            walk.rest(at, end, "")
            return
        located, sa = PROTOCOLS[name].locate(walk.data[at:end]), None
        if keys is not None and not isinstance(located, DropReason):
            sa = keys.find(name, located.spi, header.value("source"), header.value("destination"))
        first = len(walk.result.layers)
        read = self._headers(LAYOUTS[name], at, end, None if keys is None or sa is None else keys.terms(sa))
        if read is None:
            return
        known, payload_at = read
        if isinstance(located, DropReason):
            walk.result.fail(f"{name}: {located.sentence}")
            walk.rest(payload_at, end, _SOURCES[name], title="Encrypted")
        elif keys is None:
            self._without_key(LAYOUTS[name], known, at, payload_at, end, header)
        elif sa is None:
            walk.result.fail(f"no SA in the key file for SPI {located.spi:#010x}")
            self._without_key(LAYOUTS[name], known, at, payload_at, end, header)
        else:
            heads = walk.result.layers[first:]
            for layer in heads:
                noted(layer, "spi", sa.title if sa.name else sa.suite)
            if not self._with_key(keys, sa, heads, at, end, header, in_udp=in_udp):
                self._without_key(LAYOUTS[name], known, at, payload_at, end, header)

    def _with_key(
        self, keys: Keyring, sa: StaticSA, heads: list[Layer], at: int, end: int, header: Layer, *, in_udp: bool
    ) -> bool:
        """Show a payload, and return whether it could be opened.   heads: the protocol's headers."""
        walk, name, terms = self._walk, sa.protocol, keys.terms(sa)
        body, version = walk.data[at:end], 6 if header.name == "ipv6" else 4
        arrived = terms.ways.read(terms, body, version, in_udp, looking=True)
        if isinstance(arrived, DropReason):
            no_room = arrived is DropReason.TRUNCATED
            what = "no room for IV, whole blocks, trailer and ICV" if no_room else arrived.sentence
            walk.result.fail(f"{name}: {what} of {sa.suite}" if no_room else f"{name}: {what}")
            return False
        spi = next(layer.value("spi") for layer in heads if layer.value("spi") is not None)
        opened = keys.open(sa, spi, arrived)
        if opened is None:
            whose, numbered = ("eesp", "sequence_numbers") if name == "eesp" else ("esp", "esn")
            has_them = sa.esn if whose == "esp" else arrived.number is not None
            walk.result.fail(
                f"{whose}.icv does not fit: another key, other settings (suite {sa.suite}, "
                f"{numbered} {str(has_them).lower()}), or changed octets"
            )
            return False
        content, sequence = opened
        if sa.esn and not terms.ways.whole_numbers:
            noted(heads[-1], "sequence", f"with its high half {sequence}")
        if isinstance(terms.format, EESPFormat) and terms.format.stateless is not None:
            walk.read(StatelessIV, at + arrived.payload_at - len(arrived.iv), at + arrived.payload_at)
        refused = terms.ways.read(terms, body, version, in_udp)
        if isinstance(refused, DropReason):
            walk.result.fail(f"{name}: {refused.sentence}")
        self._show(name, at + arrived.payload_at, end, arrived, content, header)
        if sa.mode is not None:
            reason = terms.ways.unwrap(terms, arrived, content).reason
            # Padding that is not what it has to be has its note.
            if reason is not None and reason is not DropReason.BAD_PADDING:
                walk.result.fail(f"{name}: {reason.sentence}")
        return True

    def _show(self, name: str, at: int, end: int, arrived: Arrived, content: bytes, header: Layer) -> None:
        """Go on with what was encrypted, put where it stood.   at: where the payload begins."""
        walk, stop, hidden = self._walk, at + len(content), at + arrived.crypt_offset_octets
        outside, before = walk.data, walk.hidden_from
        walk.data = outside[:at] + content + outside[stop:]
        walk.hidden_from = hidden if before is None else before
        (self._eesp_payload if name == "eesp" else self._esp_payload)(at, hidden, stop, end, header, "right")
        walk.data, walk.hidden_from = outside, before

    def _headers(self, layout: Layout, at: int, end: int, terms: Profile | None) -> tuple[SimpleNamespace, int] | None:
        """Read headers that follow each other.   Returns their fields, and where the payload begins; None: cut."""
        known = SimpleNamespace()
        for part in layout.parts:
            # Only the SA knows these; without one an IV is shown with what is encrypted.
            lengths = {"iv": 0, **part.negotiated}
            if terms is not None:
                lengths["iv"] = terms.cipher.iv_octets
                lengths |= dict.fromkeys(part.negotiated, 8 if terms.ways.sends_numbers(terms) else 0)
            else:
                lengths |= {name: compute(known) for name, compute in part.lengths.items()}
            layer = self._walk.read(part.header, at, end, lengths=lengths)
            if layer is None:
                return None
            known.__dict__.update((value.field.name, value.value) for value in layer.values)
            for field in part.header.FIELDS:
                known.__dict__.setdefault(field.name, b"")  # of no octets, so no layer has it
            if part.options is not None:
                place = next((v.bit // 8 for v in layer.values if v.field.name == part.options.field), at)
                self._options(part.options, layer, known, place)
            at += layer.octets
        return known, at

    def _options(self, options: Options, layer: Layer, known: SimpleNamespace, at: int) -> None:
        found = walk_options(known.__dict__[options.field])
        if found is None:
            self._walk.result.fail(f"{layer.name}: options that do not fill their place")
            return
        for option in found:
            declaration = options.known.get(option.type)
            if declaration is not None:
                inside = self._walk.read(declaration, at + option.at, at + option.at + 2 + len(option.data))
                if inside is not None:
                    known.__dict__.update((value.field.name, value.value) for value in inside.values)

    def _without_key(
        self, layout: Layout, known: SimpleNamespace, start: int, at: int, end: int, header: Layer
    ) -> None:
        """Show of a payload what stands in clear.   start: of the first header; at: behind the last one."""
        walk = self._walk
        if layout.name == "wesp" and not known.encrypted:
            payload_at, stop = start + known.hdrlen, end - known.trailerlen
            if at <= payload_at <= stop - ESPTrailer.SIZE:
                walk.rest(at, payload_at, "RFC 4303 §2.3", title="Initialization vector")
                self._esp_payload(payload_at, payload_at, stop, end, header, "")
                return
            walk.result.fail("wesp: HdrLen and TrailerLen leave no room for a payload")
        clear = at
        if layout.clear is not None:
            with contextlib.suppress(AttributeError):  # the option that would say so is not there
                clear = min(max(start + layout.clear(known), at), end)
        if layout.name == "wespv2":
            walk.in_clear(known.next_header, at, clear, header)
            at = clear
        elif layout.name == "eesp" and clear > at:
            at = self._eesp_in_clear(start + 4 * known.payload_offset_words, at, clear, header)
        walk.rest(at, end, _SOURCES[layout.name], title="Encrypted")

    def _eesp_in_clear(self, payload_at: int, at: int, clear: int, header: Layer) -> int:
        """Show what the Crypt Offset option leaves in clear.   Returns where that ends."""
        walk = self._walk
        if not at <= payload_at <= clear:
            return at
        walk.rest(at, payload_at, f"{DRAFT} §2.3.2", title="Initialization vector")
        if payload_at + PayloadInfo.SIZE > clear:
            return payload_at
        info = walk.read(PayloadInfo, payload_at, clear)
        if info is not None:
            walk.in_clear(info.value("next_header"), payload_at + PayloadInfo.SIZE, clear, header)
        return clear

    def _content(self, next_header: int, at: int, end: int, header: Layer, dummy: str) -> int:
        """Read what a Next Header inside names, and return where it ends.   dummy: the section that has dummies."""
        walk = self._walk
        if next_header == numbers.BEET_PSEUDO_HEADER:
            beet = walk.read(BEETPseudoHeader, at, end)
            if beet is not None:
                walk.payload(beet.value("next_header"), at + beet.octets, end, header)
        elif next_header == numbers.NO_NEXT_HEADER:
            walk.rest(at, end, dummy, title="Dummy packet")
        elif next_header == numbers.AGGFRAG:
            walk.rest(at, end, "RFC 9347 §6.1", title="AGGFRAG payload")
        else:
            end = walk.tunnelled(next_header, at, end, header)
        return end

    def _esp_payload(self, at: int, hidden: int, stop: int, end: int, header: Layer, note: str) -> None:
        """Read payload, padding, trailer and ICV.

        hidden: where what was encrypted begins.   stop: behind the trailer.   note: what is known of the ICV.
        """
        walk = self._walk
        pad, next_header = walk.data[stop - 2], walk.data[stop - 1]
        payload_end = stop - ESPTrailer.SIZE - pad
        if payload_end < hidden:
            walk.result.fail(f"esp.pad_len is {pad}, and {stop - 2 - hidden} octets stand before it")
            payload_end = hidden
        inner_end = self._content(next_header, at, payload_end, header, "RFC 4303 §2.6")
        trailer, _ = read_layer(ESPTrailer, walk.data, stop - ESPTrailer.SIZE, stop)
        tail = Layer(trailer.name, trailer.title, trailer.source, inner_end, declaration=ESPTrailer)
        added(tail, _TFC, walk.data[inner_end:payload_end], inner_end)
        padding = walk.data[payload_end : stop - ESPTrailer.SIZE]
        added(tail, _PADDING, padding, payload_end)
        if padding != bytes(range(1, len(padding) + 1)):
            noted(tail, "padding", "not 1, 2, 3, ...")
        tail.values += trailer.values
        tail.octets = end - inner_end
        added(tail, _ICV, walk.data[stop:end], stop)
        noted(tail, "icv", note)
        walk.add(tail)

    def _eesp_payload(self, at: int, hidden: int, stop: int, end: int, header: Layer, note: str) -> None:
        """Read payload, padding and ICV; arguments as of `_esp_payload`, stop is where the ICV begins."""
        walk, nibble = self._walk, self._walk.data[at] >> 4
        if nibble in (4, 6):
            payload_end = walk.tunnelled(numbers.IPV4 if nibble == 4 else numbers.IPV6, at, stop, header)
        elif nibble:
            walk.result.fail("eesp: the payload begins with neither an IP header nor a Payload Info Header")
            walk.rest(at, stop, f"{DRAFT} §2.4")
            payload_end = stop
        else:
            payload_end = self._eesp_full(at, stop, header)
        tail = Layer("eesp", "EESP padding and ICV", f"{DRAFT} §2.6", payload_end, octets=end - payload_end)
        padding = walk.data[payload_end:stop]
        added(tail, _ZEROS, padding, payload_end)
        if any(padding):
            noted(tail, "padding", "not zeros")
        added(tail, _EESP_ICV, walk.data[stop:end], stop)
        noted(tail, "icv", note)
        walk.add(tail)

    def _eesp_full(self, at: int, stop: int, header: Layer) -> int:
        """Read Payload Info Header and payload, and return where the padding begins."""
        walk = self._walk
        info = walk.read(PayloadInfo, at, stop)
        if info is None:
            return stop
        at += PayloadInfo.SIZE
        pad = info.value("pad_length")
        payload_end: int = stop - pad
        if payload_end < at:
            walk.result.fail(f"eesp.info.pad_len is {pad}, and {stop - at} octets stand before the ICV")
            payload_end = at
        inner_end = self._content(info.value("next_header"), at, payload_end, header, f"{DRAFT} §4.5.4.1")
        walk.rest(inner_end, payload_end, f"{DRAFT} §2.4", title="Behind the inner packet")
        return payload_end
