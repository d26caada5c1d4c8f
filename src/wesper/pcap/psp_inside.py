"""PSP in a dissection: all that is in clear, and with its key all of it."""

from __future__ import annotations

from collections.abc import Collection

from ..protocols.psp import INDEX_MASK, header_version
from ..verdict import DropReason
from ..wire.format import Field
from ..wire.psp import ICV as PSP_ICV
from ..wire.psp import PSP
from .dissection import Layer, added, noted, read_layer
from .headers import Walk
from .psp_keyring import PSPKeyring

_SOURCE = "PSP NIC Receive Processing"
_ICV = Field("icv", "icv", 0, "PSP Trailer", "integrity check value", form="hex", raw=True, variable=True)


class PSPInside:
    """Reads PSP in a walk.   keys: to look inside.   ports: UDP destination ports that are PSP's."""

    def __init__(self, walk: Walk, keys: PSPKeyring | None, ports: Collection[int]) -> None:
        self._walk, self._keys, self._ports = walk, keys, ports
        walk.in_udp.append(self._udp)

    def _udp(self, at: int, end: int, header: Layer, udp: Layer) -> bool:
        port = udp.value("destination_port")
        if port not in self._ports:
            return False
        self.read(at, end, header, port)
        return True

    def read(self, at: int, end: int, header: Layer, port: int) -> None:
        """Read a PSP packet: all that is in clear, and with its key all of it."""
        walk = self._walk
        if not walk.nest():
            walk.rest(at, end, "")
            return
        sealed = walk.data[at:end]
        used = header_version(sealed)
        if isinstance(used, DropReason):
            layer, problem = read_layer(PSP, walk.data, at, end)
            walk.add(layer)
            walk.result.fail(problem or f"psp: {used.sentence}")
            walk.rest(at + layer.octets, end, _SOURCE)
            return
        behind, icv_at = at + 8 * (sealed[1] + 1), end - PSP_ICV
        clear_end = icv_at if used.gmac else at + PSP.SIZE + 4 * (sealed[2] & 63)
        spi = int.from_bytes(sealed[4:8], "big")
        # Cookie and extension are shown with the header where they stand in clear, else with what is opened.
        layer, _ = read_layer(PSP, walk.data, at, behind if behind <= clear_end else at + PSP.SIZE)
        layer.octets = min(layer.octets, behind - at)
        walk.add(layer)
        if not spi & INDEX_MASK:
            walk.result.fail("psp.spi is reserved: its low 31 bits are zero")
        if used.gmac and layer.value("crypt_offset_words"):
            noted(layer, "crypt_offset_words", "ignored: nothing is encrypted")
        whose, opened = "", None
        if self._keys is not None:
            ends = header.value("source"), header.value("destination")
            whose, opened = self._keys.open(spi, used, *ends, port, sealed)
            noted(layer, "spi", whose)
            if opened is None:
                missing = f"no key in the key file for PSP's SPI {spi:#010x} of version {used.code}"
                walk.result.fail("psp.icv does not fit: another key, or changed octets" if whose else missing)
        note = "" if self._keys is None or not whose else "right" if opened is not None else "wrong"
        if opened is not None:
            self._inside(at, behind, icv_at, opened, header)
        else:
            if behind > clear_end:
                walk.rest(at + PSP.SIZE, clear_end, layer.source, title="Extension in clear")
            elif used.gmac:
                self._payload(sealed[0], behind, icv_at, header)
            else:
                walk.in_clear(sealed[0], behind, clear_end, header)
            walk.rest(clear_end, icv_at, _SOURCE, title="Encrypted")
        trailer = Layer("psp", "PSP trailer", "PSP Trailer", icv_at, octets=PSP_ICV)
        added(trailer, _ICV, walk.data[icv_at:end], icv_at)
        noted(trailer, "icv", note)
        walk.add(trailer)

    def _inside(self, at: int, behind: int, icv_at: int, opened: bytes, header: Layer) -> None:
        """Go on with a PSP packet in clear, put where it stood.   behind: where the payload begins."""
        walk = self._walk
        outside, before = walk.data, walk.hidden_from
        walk.data, walk.hidden_from = outside[:at] + opened + outside[icv_at:], at
        if walk.result.layers[-1].octets < behind - at:
            whole, _ = read_layer(PSP, walk.data, at, behind)
            inside = [value for value in whole.values if value.bit >= 8 * (at + PSP.SIZE)]
            place, octets = at + PSP.SIZE, behind - at - PSP.SIZE
            walk.add(Layer("psp", "PSP extension", whole.source, place, inside, octets, PSP))
        self._payload(opened[0], behind, icv_at, header)
        walk.data, walk.hidden_from = outside, before

    def _payload(self, next_header: int, at: int, end: int, header: Layer) -> None:
        inner_end = self._walk.tunnelled(next_header, at, end, header)
        self._walk.rest(inner_end, end, _SOURCE, title="Behind the inner packet")
