"""Encrypting a capture: plain packets become those that an SA would have sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..engine import Engine, Options, Packets, open_engine
from ..errors import ConfigError
from ..keying import StaticSA
from ..protocols import ip
from ..sa import Direction, Mode, Selector
from ..verdict import REASON_BY_CODE
from .batch import Batches
from .carry import Carrier
from .link import ip_offset
from .record import Block, Interface, Record
from .relink import outgoing_link_type, relink
from .tally import Tally
from .writer import CaptureWriter


class Chooser:
    """The outbound SAs of a key file in an engine, and which of them a packet is for.

    The first whose selectors match; a transport SA's addresses are selectors. One without any takes what is left, and
    there may be only one such. Raises ConfigError.
    """

    def __init__(self, sas: Sequence[StaticSA], engine: Engine, sequence: int | None = None) -> None:
        outbound = [sa for sa in sas if sa.direction is Direction.OUT]
        if not outbound:
            path = sas[0].path if sas else None
            raise ConfigError(
                "no outbound SA", path=path, key="direction", expected='one [[sa]] with direction = "out"'
            )
        last = None if sequence is None else sequence - 1
        self.by_id: dict[int, StaticSA] = {}
        self._rules: list[tuple[tuple[Selector, ...], int]] = []
        self._rest: int | None = None
        for sa in outbound:
            number = engine.install(sa.sender(sequence=last))
            self.by_id[number] = sa
            selectors = sa.selectors
            if not selectors and sa.mode is Mode.TRANSPORT and sa.local and sa.remote:
                selectors = (Selector((sa.local,), (sa.remote,)),)
            if selectors:
                self._rules.append((selectors, number))
            elif self._rest is None:
                self._rest = number
            else:
                wrong = ConfigError(
                    "a second outbound SA without selectors", key="selectors", expected="what it is for"
                )
                raise sa.at_fault(wrong)

    def choose(self, packet: bytes) -> int | None:
        """Return the id of the SA for a packet, None if there is none.   packet: from its IP header."""
        if not self._rules:
            return self._rest
        datagram = ip.parse(packet)
        if datagram is None:
            return self._rest
        flow = ip.flow(datagram)
        for selectors, number in self._rules:
            if any(selector.matches(flow, outbound=True) for selector in selectors):
                return number
        return self._rest


def encrypt(
    batches: Batches,
    out: CaptureWriter,
    sas: Sequence[StaticSA],
    tally: Tally,
    *,
    engine: str | None = None,
    sequence: int | None = None,
    protected_only: bool = False,
    progress: Callable[[Tally], None] | None = None,
) -> None:
    """Protect every IP packet that an outbound SA is for; times and link-layer headers stay.

    sequence: the number of the first packet of each SA, instead of what the file says. Numbers and with them IVs must
    never come again under the same key.   protected_only: leave out all other packets, which are carried through else.
    A packet that its SA can't take is dropped and counted, never written in the clear. tally: counts as it goes.
    Raises ConfigError, CaptureError, and what opening the engine raises.
    """
    opened = open_engine(engine, Options(events=1))
    chooser = Chooser(sas, opened, sequence)
    run = _Run(out, opened, chooser, Carrier(batches.capture, out, _for_any_version), tally, protected_only)
    for batch in batches:
        run.batch(batch)
        if progress is not None:
            progress(tally)


class _Run:
    def __init__(
        self,
        out: CaptureWriter,
        engine: Engine,
        chooser: Chooser,
        carrier: Carrier,
        tally: Tally,
        protected_only: bool,
    ) -> None:
        self._out, self._engine, self._chooser, self._carrier = out, engine, chooser, carrier
        self._tally, self._protected_only = tally, protected_only

    def batch(self, batch: list[Record | Block]) -> None:
        offsets: dict[int, int] = {}
        packets, ids = [], []
        for place, record in enumerate(batch):
            at = ip_offset(record.link_type, record.data) if isinstance(record, Record) else None
            if at is None or isinstance(record, Block):
                continue
            number = self._chooser.choose(record.data[at:])
            if number is not None:
                offsets[place] = at
                packets.append(record.data[at:])
                ids.append(number)
        results = self._engine.encapsulate_many(np.array(ids, np.uint64), Packets.of(packets), 0)
        index = 0
        for place, record in enumerate(batch):
            if isinstance(record, Block):
                self._carrier.block(record)
            elif place in offsets:
                self._tally.packets += 1
                code, sa = int(results.codes[index]), self._chooser.by_id[ids[index]]
                if code:
                    self._tally.drop(REASON_BY_CODE[code])
                    self._tally.cut += record.original_octets > len(record.data)
                else:
                    self._tally.count(sa, sa.spi or 0, len(packets[index]), int(results.sequences[index]))
                    self._write(record, offsets[place], results.packets[index])
                index += 1
            else:
                self._tally.packets += 1
                self._tally.other += 1
                if not self._protected_only:
                    self._carrier.record(record)

    def _write(self, record: Record, at: int, packet: bytes) -> None:
        self._out.write(
            relink(record.link_type, record.data[:at], packet),
            record.timestamp_ns,
            interface=self._carrier.interface(record.interface),
            options=record.options,
        )


def _for_any_version(interface: Interface) -> Interface:
    return replace(interface, link_type=outgoing_link_type(interface.link_type), snap_octets=0)
