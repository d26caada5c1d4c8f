"""Encrypting a capture: plain packets become those that an SA would have sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from ..engine import Engine, Options, Packets, open_engine
from ..errors import ConfigError
from ..keying import PSPAssociation, StaticSA
from ..protocols import ip
from ..sa import Direction, Mode, Selector
from ..verdict import REASON_BY_CODE
from .batch import Batches
from .carry import Carrier
from .link import ip_offset
from .psp_sender import PSPSender, Sent
from .record import Block, Interface, Record
from .relink import outgoing_link_type, relink
from .tally import Tally
from .writer import CaptureWriter

Sending = StaticSA | PSPAssociation


class Chooser:
    """The outbound SAs and PSP associations of a key file, and which of them a packet is for.

    The first whose selectors match; addresses of a transport SA are selectors. One without any takes what is left, and
    there may be only one such. ESP's are installed in an engine.   sequence: of each SA's first packet.
    Raises ConfigError.
    """

    def __init__(
        self,
        sas: Sequence[StaticSA],
        engine: Engine,
        sequence: int | None = None,
        psp: Sequence[PSPAssociation] = (),
    ) -> None:
        esp = [sa for sa in sas if sa.direction is Direction.OUT]
        self.psp = [each for each in psp if each.direction is Direction.OUT]
        if not esp and not self.psp:
            every: list[Sending] = [*sas, *psp]
            path = every[0].path if every else None
            raise ConfigError(
                "no outbound SA", path=path, key="direction", expected='one [[sa]] with direction = "out"'
            )
        last = None if sequence is None else sequence - 1
        self.numbers = {id(sa): engine.install(sa.sender(sequence=last)) for sa in esp}
        """Ids of ESP's in the engine, by id of the SA."""
        self._rules: list[tuple[tuple[Selector, ...], Sending]] = []
        self._rest: Sending | None = None
        for sa in esp:
            self._add(sa, sa.mode is Mode.TRANSPORT)
        for each in self.psp:
            self._add(each, each.profile.mode is Mode.TRANSPORT)

    def _add(self, sa: Sending, transport: bool) -> None:
        selectors = sa.selectors
        if not selectors and transport and sa.local and sa.remote:
            selectors = (Selector((sa.local,), (sa.remote,)),)
        if selectors:
            self._rules.append((selectors, sa))
        elif self._rest is None:
            self._rest = sa
        else:
            wrong = ConfigError("a second outbound SA without selectors", key="selectors", expected="what it is for")
            raise sa.at_fault(wrong)

    def choose(self, packet: bytes) -> Sending | None:
        """Return the SA or association for a packet, None if there is none.   packet: from its IP header."""
        if not self._rules:
            return self._rest
        datagram = ip.parse(packet)
        if datagram is None:
            return self._rest
        flow = ip.flow(datagram)
        for selectors, sa in self._rules:
            if any(selector.matches(flow, outbound=True) for selector in selectors):
                return sa
        return self._rest


def encrypt(
    batches: Batches,
    out: CaptureWriter,
    sas: Sequence[StaticSA],
    tally: Tally,
    *,
    psp: Sequence[PSPAssociation] = (),
    engine: str | None = None,
    sequence: int | None = None,
    protected_only: bool = False,
    progress: Callable[[Tally], None] | None = None,
) -> None:
    """Protect every IP packet that an outbound SA or association is for; times and link-layer headers stay.

    sequence: the number, of PSP the IV, of the first packet of each SA, instead of what the file says. Numbers and with
    them IVs must never come again under the same key.   protected_only: leave out all other packets, which are carried
    through else. A packet that its SA can't take is dropped and counted, never written in the clear.
    tally: counts as it goes.
    Raises ConfigError, CaptureError, and what opening the engine raises.
    """
    opened = open_engine(engine, Options(events=1))
    chooser = Chooser(sas, opened, sequence, psp)
    sender = PSPSender(chooser.psp, engine, sequence) if chooser.psp else None
    run = _Run(out, opened, sender, chooser, Carrier(batches.capture, out, _for_any_version), tally, protected_only)
    for batch in batches:
        run.batch(batch)
        if progress is not None:
            progress(tally)
    if sender is not None:
        tally.psp_counters = sender.engine.counters()


class _Run:
    def __init__(
        self,
        out: CaptureWriter,
        engine: Engine,
        sender: PSPSender | None,
        chooser: Chooser,
        carrier: Carrier,
        tally: Tally,
        protected_only: bool,
    ) -> None:
        self._out, self._engine, self._sender, self._chooser = out, engine, sender, chooser
        self._carrier, self._tally, self._protected_only = carrier, tally, protected_only

    def batch(self, batch: list[Record | Block]) -> None:
        offsets: dict[int, int] = {}
        chosen: dict[int, Sending] = {}
        for place, record in enumerate(batch):
            at = ip_offset(record.link_type, record.data) if isinstance(record, Record) else None
            if at is None or isinstance(record, Block):
                continue
            sa = self._chooser.choose(record.data[at:])
            if sa is not None:
                offsets[place], chosen[place] = at, sa
        packets = {place: cast(Record, batch[place]).data[at:] for place, at in offsets.items()}
        sent = self._protect_esp(packets, chosen) | self._protect_psp(packets, chosen)
        for place, record in enumerate(batch):
            if isinstance(record, Block):
                self._carrier.block(record)
                continue
            self._tally.packets += 1
            if place not in sent:
                self._tally.other += 1
                if not self._protected_only:
                    self._carrier.record(record)
                continue
            reason, packet, number = sent[place]
            if reason is not None:
                self._tally.drop(reason)
                self._tally.cut += record.original_octets > len(record.data)
            else:
                sa = chosen[place]
                self._tally.count(sa, sa.spi or 0, len(packets[place]), number)
                self._write(record, offsets[place], packet)

    def _protect_esp(self, packets: Mapping[int, bytes], chosen: Mapping[int, Sending]) -> dict[int, Sent]:
        places = [place for place, sa in chosen.items() if isinstance(sa, StaticSA)]
        ids = np.array([self._chooser.numbers[id(chosen[place])] for place in places], np.uint64)
        results = self._engine.encapsulate_many(ids, Packets.of(packets[place] for place in places), 0)
        return {
            place: (REASON_BY_CODE[code] if code else None, results.packets[index], int(results.sequences[index]))
            for index, (place, code) in enumerate(zip(places, results.codes.tolist(), strict=True))
        }

    def _protect_psp(self, packets: Mapping[int, bytes], chosen: Mapping[int, Sending]) -> dict[int, Sent]:
        theirs = {place: sa for place, sa in chosen.items() if isinstance(sa, PSPAssociation)}
        if self._sender is None or not theirs:
            return {}
        done = self._sender.protect([packets[place] for place in theirs], list(theirs.values()))
        return dict(zip(theirs, done, strict=True))

    def _write(self, record: Record, at: int, packet: bytes) -> None:
        self._out.write(
            relink(record.link_type, record.data[:at], packet),
            record.timestamp_ns,
            interface=self._carrier.interface(record.interface),
            options=record.options,
        )


def _for_any_version(interface: Interface) -> Interface:
    return replace(interface, link_type=outgoing_link_type(interface.link_type), snap_octets=0)
