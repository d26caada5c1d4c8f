"""The PSP exchange, sans-I/O: one side of a control connection on which two hosts agree on associations.

Octets and `now` go in; octets, events and the next deadline come out. What the peer sends never raises: it ends the
exchange, with a reason that the peer is told. An association's receiver makes it, so each side hands the other what to
send with; what comes from the peer goes straight into the transmit table.
Source: docs/psp-exchange.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..wire.psp_exchange import VERSION, Frame
from . import exchange_messages as messages
from .device import Device, SPIsExhausted
from .exchange_events import (
    Agreed,
    Closed,
    Ended,
    Event,
    ExchangeEnded,
    Fresh,
    Greeted,
    Offered,
    Refused,
    Released,
    Terms,
)
from .exchange_messages import BadMessage, CloseReason, EndReason, Keys, Kind, Ports, RefuseReason, SPIs, Type
from .exchange_runs import Run, Space
from .table import TransmitTable

SECOND: Final = 1_000_000_000
HELLO_TIME: Final = 10 * SECOND  # for the first message
ANSWER_TIME: Final = 30 * SECOND  # for an answer to anything
QUIET_TIME: Final = 30 * SECOND  # before a PING
MOST_OUTPUT: Final = 16 << 20  # octets that wait for a peer that does not read
ENOUGH_OUTPUT: Final = 1 << 20  # octets behind which re-keying waits
MOST_SPIS: Final = 1 << 25  # of one generation of the device key that one peer can use up: a 64th of them
MOST_UNANSWERED: Final = 1024  # OPENs


class Exchange:
    """One side.   Not for several threads.

    device: makes what the peer sends with.   table: has what this side sends with; its profile n is of PSP version n.
    now: integer nanoseconds on a monotonic axis.
    """

    def __init__(self, device: Device, table: TransmitTable, terms: Terms | None = None, *, now: int) -> None:
        self._device, self._table, self.terms = device, table, terms or Terms()
        self._in = bytearray()
        self._out: deque[bytes] = deque()
        self._waiting_octets = 0
        self._events: deque[Event] = deque()
        self._spaces = {True: Space(), False: Space()}  # ours, the peer's
        self._unanswered: dict[int, tuple[Offered, SPIs, int]] = {}  # ours, by first id; and when they were asked for
        self._offers: dict[int, Offered] = {}  # the peer's, until they are answered
        self._prepared: dict[int, tuple[Run, Keys]] = {}  # what is ready for those
        self._due: deque[tuple[Run, NDArray[np.intp]]] = deque()  # to be re-keyed
        self._rekeys: deque[tuple[int, Run, NDArray[np.intp]]] = deque()  # on their way, and since when
        self._rows: dict[int, tuple[Run, int]] = {}  # of connections with kinds, for limits of theirs
        self._raw: set[Run] = set()  # they may be millions: their rows are searched where one is near a limit
        self._live = {True: 0, False: 0}
        self._spent, self._spent_generation = 0, device.generation
        self._heard, self._pinged = now, 0
        self._begun = now
        self.peer: Greeted | None = None
        self.ended: Ended | None = None
        self._send(
            messages.hello(
                self.terms.psp_versions, self.terms.udp_port, self.terms.most_associations, self.terms.most_batch
            )
        )

    def __repr__(self) -> str:
        return f"<PSP exchange, {self._live[True]} connections of ours, {self._live[False]} of the peer's>"

    @property
    def connections(self) -> int:
        """How many there are, both sides' together."""
        return self._live[True] + self._live[False]

    @property
    def waiting_octets(self) -> int:
        """What has not been taken by `take_output`."""
        return self._waiting_octets

    def take_output(self) -> bytes:
        """Return what is to be sent now.   Where much is to be done, the rest comes when this has been taken."""
        out = b"".join(self._out)
        self._out.clear()
        self._waiting_octets = 0
        return out

    def next_event(self) -> Event | None:
        """Return the oldest event not yet fetched."""
        return self._events.popleft() if self._events else None

    # What this side wants

    def open(
        self, kind: Kind, version: int, *, count: int = 1, ports: Ports | None = None, now: int
    ) -> tuple[int, SPIs]:
        """Ask for connections; return the first id, and the SPIs that the peer will send with.

        ports: (count, 2), service port and our own.   `Agreed` or `Refused` follows.
        Raises ExchangeEnded, ConfigError for what the peer has said it does not take, SPIsExhausted.
        """
        peer = self._greeted()
        if version not in peer.psp_versions:
            have = ", ".join(map(str, sorted(peer.psp_versions)))
            raise ConfigError(f"PSP version {version}", key="version", expected=f"one that the peer has: {have}")
        if not 0 < count <= peer.most_batch or (ports is None) != (kind is Kind.RAW):
            raise ConfigError(f"{count} connections", key="count", expected=f"1..{peer.most_batch}, with their ports")
        if self._live[True] + self._asked() + count > peer.most_associations:
            raise ConfigError("the peer takes no more", key="count", expected=f"{peer.most_associations} at a time")
        if len(self._unanswered) >= MOST_UNANSWERED:
            raise ConfigError("the peer has not answered so far", key="count", expected="answers first")
        spis, keys = self._device.allocate_many(count, version, now)
        space = self._spaces[True]
        first_id, space.last = space.last + 1, space.last + count
        offer = Offered(kind, version, first_id, ports, spis, keys[:0])
        self._unanswered[first_id] = offer, spis, now
        self._send(messages.open_(kind, version, first_id, ports, spis, keys))
        return first_id, spis

    def prepare(self, offer: Offered, now: int) -> Run:
        """Make ready what the peer has asked for, to `confirm` it, or `refuse` it after all.

        Raises ExchangeEnded, ConfigError if it is answered, SPIsExhausted; the peer is told of the last.
        """
        self._greeted()
        if self._offers.get(offer.first_id) is not offer:
            raise ConfigError(f"offer {offer.first_id}", key="offer", expected="one that is not answered")
        try:
            spis, keys = self._device.allocate_many(len(offer), offer.version, now)
        except SPIsExhausted:
            self.refuse(offer, RefuseReason.NO_SPIS, "no SPI is left")
            raise
        run = self._take_up(False, offer, spis, offer.spis, offer.keys, now)
        self._prepared[offer.first_id] = run, keys
        return run

    def confirm(self, offer: Offered) -> None:
        """Agree to what is prepared.   Raises ExchangeEnded, ConfigError if nothing is."""
        self._greeted()
        run, keys = self._prepared.pop(offer.first_id, (None, None))
        if run is None or keys is None or self._offers.pop(offer.first_id, None) is None:
            raise ConfigError(f"offer {offer.first_id}", key="offer", expected="one that is prepared")
        self._send(messages.accept(offer.version, offer.first_id, run.spis, keys))

    def refuse(self, offer: Offered, reason: RefuseReason, sentence: str) -> None:
        """Do not agree, though it be prepared.   Raises ExchangeEnded, ConfigError if it is answered."""
        self._greeted()
        if self._offers.pop(offer.first_id, None) is None:
            raise ConfigError(f"offer {offer.first_id}", key="offer", expected="one that is not answered")
        run, _ = self._prepared.pop(offer.first_id, (None, None))
        if run is not None:
            self._let_go(run, np.arange(len(run)))
        self._send(messages.refuse(reason, offer.first_id, len(offer), sentence))

    def close(self, run: Run, places: Iterable[int] | None = None, reason: CloseReason = CloseReason.DONE) -> None:
        """Close connections; their rows are removed.   places: in the run; None: all.   Closed ones are passed over."""
        if self.ended:
            return
        if places is None:
            wanted = run.alive.nonzero()[0]
        else:
            wanted = np.unique(np.array(list(places), np.intp))
            wanted = wanted[run.alive[wanted]]
        if len(wanted):
            self._send(messages.listed(Type.CLOSE, run.ours, run.ids(wanted), reason))
            self._let_go(run, wanted)

    def rotated(self, now: int) -> None:
        """Give the peer fresh associations for all that the device's former key has made.

        To be called after each rotation of the device; a second one before the peer has answered ends what it uses.
        """
        if self.ended or self.peer is None:
            return
        self._send(messages.token(Type.ROTATED, self._device.generation))
        for space in self._spaces.values():
            for run in space:
                if run.first_id in self._prepared and not run.ours:
                    continue
                if run.generation != self._device.generation:
                    self._due.append((run, np.flatnonzero(run.alive)))
                    run.generation = self._device.generation
        self._rekey_due(now)

    def wanted(self, rows: Sequence[int]) -> None:
        """Ask the peer for fresh associations in the places of rows, as the table's SOFT_EXPIRED says.

        Rows that are none of this exchange's are passed over.   Cost: O(raw connections) where there are such.
        """
        if self.ended:
            return
        for run, place in filter(None, map(self._rows.get, rows)):
            self._want(run, np.array([place], np.intp))
        asked = np.array(rows, np.uint64)
        for run in self._raw:
            self._want(run, np.flatnonzero(np.isin(run.rows, asked) & run.alive))

    def _want(self, run: Run, places: NDArray[np.intp]) -> None:
        if len(places):
            self._send(messages.listed(Type.WANTED, run.ours, run.ids(places)))

    def end(self, reason: EndReason = EndReason.STOPPED, sentence: str = "the host goes away") -> None:
        """End the exchange."""
        if not self.ended:
            self._send(messages.error(reason, sentence))
            self._finish(Ended(reason, sentence, by_peer=False))

    # What the peer sends

    def receive(self, octets: bytes, now: int) -> None:
        """Take octets of the stream; b"" is its end."""
        if self.ended:
            return
        if not octets:
            self._finish(Ended(EndReason.CLOSED, "the control connection has ended", by_peer=True))
            return
        self._in += octets
        try:
            self._read(now)
        except BadMessage as error:
            self.end(error.reason, error.sentence)

    def _read(self, now: int) -> None:
        at = 0
        size = Frame.SIZE
        try:
            while not self.ended and len(self._in) - at >= size:
                frame = Frame.parse(self._in, at)
                if self.peer is None and frame.type not in (Type.HELLO, Type.ERROR):
                    # Rubbish is told from a message out of order by its first octets alone.
                    raise BadMessage(EndReason.NOT_PSPX, "the first message is no HELLO")
                if frame.length > (messages.LONGEST if self.peer else messages.LONGEST_HELLO):
                    raise BadMessage(EndReason.BAD_MESSAGE, f"a message of {frame.length} octets")
                if len(self._in) - at < size + frame.length:
                    break
                body = bytes(self._in[at + size : at + size + frame.length])
                at += size + frame.length
                self._heard, self._pinged = now, 0
                self._handle(messages.parse(frame.type, body), now)
        finally:
            self._in[:at] = bytes(at)  # keys were in it
            del self._in[:at]

    def _handle(self, message: messages.Message, now: int) -> None:
        match message:
            case None:
                return
            case messages.ErrorMessage():
                reason = EndReason(message.code) if message.code in list(EndReason) else EndReason.STOPPED
                self._finish(Ended(reason, f"the peer says: {message.sentence}", by_peer=True))
            case messages.HelloMessage():
                self._greet(message)
            case messages.OpenMessage():
                self._offer(message, now)
            case messages.AcceptMessage():
                self._agree(message, now)
            case messages.RefuseMessage():
                self._refused(message)
            case messages.RekeyMessage():
                self._rekeyed(message, now)
            case messages.ListMessage():
                self._list(message, now)
            case messages.TokenMessage(Type.PING, token):
                self._send(messages.token(Type.PONG, token))
            case messages.TokenMessage():
                return  # PONG: that something came is enough; ROTATED: REKEYs follow

    def _greet(self, hello: messages.HelloMessage) -> None:
        if self.peer is not None:
            raise BadMessage(EndReason.OUT_OF_ORDER, "a second HELLO")
        if not hello.minimum <= VERSION <= hello.maximum:
            raise BadMessage(
                EndReason.NO_COMMON_VERSION,
                f"versions {hello.minimum} to {hello.maximum} of the exchange, and only {VERSION} here",
            )
        common = hello.psp_versions & self.terms.psp_versions
        if not common:
            raise BadMessage(EndReason.NO_COMMON_PSP_VERSION, "no version of PSP that both sides have")
        self.peer = Greeted(common, hello.udp_port, hello.most_associations, hello.most_batch)
        self._events.append(self.peer)

    def _offer(self, message: messages.OpenMessage, now: int) -> None:
        count, space = len(message.spis), self._spaces[False]
        if message.first_id <= space.last:
            raise BadMessage(EndReason.BAD_ID, f"connection {message.first_id} for a second time")
        space.last = message.first_id + count - 1
        offer = Offered(message.kind, message.version, message.first_id, message.ports, message.spis, message.keys)
        self._offers[offer.first_id] = offer
        if message.version not in self.terms.psp_versions:
            self.refuse(offer, RefuseReason.NO_VERSION, f"PSP version {message.version} is not received here")
        elif count > self.terms.most_batch or self._live[False] + count > self.terms.most_associations:
            self.refuse(offer, RefuseReason.TOO_MANY, f"{self.terms.most_associations} connections at a time")
        elif not self._may_spend(count):
            self.refuse(offer, RefuseReason.TOO_MANY, "too many associations until the device key is next rotated")
        elif message.kind is not Kind.RAW:
            self._events.append(offer)
        elif not self.terms.raw:
            self.refuse(offer, RefuseReason.NOT_ALLOWED, "no raw connections here")
        else:
            try:
                run = self.prepare(offer, now)
            except SPIsExhausted:
                return
            self.confirm(offer)
            self._events.append(Agreed(run))

    def _agree(self, message: messages.AcceptMessage, now: int) -> None:
        asked = self._unanswered.pop(message.first_id, None)
        if asked is None or len(asked[1]) != len(message.spis) or asked[0].version != message.version:
            raise BadMessage(EndReason.BAD_ID, f"an ACCEPT of {message.first_id}, which was not asked for so")
        offer, spis, _ = asked
        self._events.append(Agreed(self._take_up(True, offer, spis, message.spis, message.keys, now)))

    def _refused(self, message: messages.RefuseMessage) -> None:
        asked = self._unanswered.pop(message.first_id, None)
        if asked is None or len(asked[1]) != message.count:
            raise BadMessage(EndReason.BAD_ID, f"a REFUSE of {message.first_id}, which was not asked for so")
        self._events.append(Refused(message.first_id, message.count, message.reason, message.sentence))

    def _take_up(self, ours: bool, offer: Offered, receive: SPIs, send: SPIs, keys: Keys, now: int) -> Run:
        count = len(receive)
        if count == 1:  # the usual one costs a call, and no arrays
            row = self._table.install(int(send[0]), keys[0].tobytes(), now, profile=offer.version)
            rows = np.array([row], np.uint64)
        else:
            rows = self._table.install_many(send, keys, now, profile=offer.version)
        run = Run(
            ours,
            offer.first_id,
            offer.kind,
            offer.version,
            offer.ports,
            rows,
            receive,
            self._device.generation,
            np.zeros(count, np.uint32),
            np.ones(count, np.bool_),
        )
        self._spaces[ours].add(run)
        self._live[ours] += count
        if offer.kind is Kind.RAW:
            self._raw.add(run)
        else:
            self._rows.update((row, (run, place)) for place, row in enumerate(rows.tolist()))
        if ours and receive.size and int(receive[0]) >> 31 != self._device.generation & 1:
            self._rekey(run, np.arange(count), now)  # the device has rotated since they were asked for
        return run

    def _rekeyed(self, message: messages.RekeyMessage, now: int) -> None:
        by_id = dict(zip(message.ids.tolist(), range(len(message.ids)), strict=True))
        ours = not message.by_sender
        done = []
        for run, places in self._spaces[ours].find(message.ids):
            if run.version != message.version:
                raise BadMessage(EndReason.BAD_MESSAGE, "a REKEY of another version")
            for place in places.tolist():
                at = by_id[run.first_id + place]
                self._table.replace(int(run.rows[place]), int(message.spis[at]), message.keys[at].tobytes(), now)
            done.append(run.ids(places))
        if done:
            self._send(messages.listed(Type.REKEYED, ours, np.concatenate(done)))

    def _list(self, message: messages.ListMessage, now: int) -> None:
        for run, places in self._spaces[not message.by_sender].find(message.ids):
            if message.type is Type.CLOSE:
                self._let_go(run, places)
                self._events.append(Closed(run, places, message.reason))
            elif message.type is Type.WANTED:
                if self._may_spend(len(places)):
                    self._rekey(run, places, now)
            else:
                places = places[run.fresh[places] != 0]
                if len(places):
                    old = run.spis[places].copy()
                    run.spis[places] = run.fresh[places]
                    run.fresh[places] = 0
                    self._events.append(Released(run, places, old))
                    self._still_old(run, places, now)

    def _rekey(self, run: Run, places: NDArray[np.intp], now: int) -> None:
        """Give the peer fresh associations, in turn."""
        if len(places):
            self._due.append((run, places))
            self._rekey_due(now)

    def _rekey_due(self, now: int) -> None:
        """Re-key what is due, as long as not much waits to be sent; not what has a fresh association on its way."""
        most = self.peer.most_batch if self.peer else 1
        while self._due and self._waiting_octets < ENOUGH_OUTPUT and not self.ended:
            run, places = self._due.popleft()
            places = places[run.alive[places] & (run.fresh[places] == 0)]
            part, rest = places[:most], places[most:]
            if len(rest):
                self._due.appendleft((run, rest))
            if not len(part):
                continue
            try:
                spis, keys = self._device.allocate_many(len(part), run.version, now)
            except SPIsExhausted:
                self._due.clear()  # the device tells of it; the next rotation brings new ones
                return
            run.fresh[part] = spis
            self._rekeys.append((now, run, part))
            self._events.append(Fresh(run, part, spis))
            self._send(messages.rekey(run.ours, run.version, run.ids(part), spis, keys))

    def _still_old(self, run: Run, places: NDArray[np.intp], now: int) -> None:
        """Re-key again what was made before the last rotation, while that was on its way."""
        slot = self._device.generation & 1
        self._rekey(run, places[run.spis[places] >> np.uint32(31) != slot], now)

    def _let_go(self, run: Run, places: NDArray[np.intp]) -> None:
        run.alive[places] = False
        self._live[run.ours] -= len(places)
        for row in run.rows[places].tolist():
            self._table.remove(row)
            self._rows.pop(row, None)
        if not np.count_nonzero(run.alive):
            self._spaces[run.ours].remove(run)
            self._raw.discard(run)

    def _may_spend(self, count: int) -> bool:
        """Whether the peer may cause so many more SPIs to be given away under this device key."""
        if self._spent_generation != self._device.generation:
            self._spent, self._spent_generation = 0, self._device.generation
        if self._spent + count > MOST_SPIS:
            return False
        self._spent += count
        return True

    # Time

    def deadline(self) -> int | None:
        """Return when `handle_timeout` is next wanted; None: never."""
        if self.ended:
            return None
        if self.peer is None:
            return self._begun + HELLO_TIME
        if self._due and self._waiting_octets < ENOUGH_OUTPUT:
            return 0
        times = [self._pinged + ANSWER_TIME if self._pinged else self._heard + QUIET_TIME]
        if self._rekeys:
            times.append(self._rekeys[0][0] + ANSWER_TIME)
        if self._unanswered:
            times.append(next(iter(self._unanswered.values()))[2] + ANSWER_TIME)
        return min(times)

    def handle_timeout(self, now: int) -> None:
        """Do what time asks for."""
        if self.ended:
            return
        if self.peer is None:
            if now >= self._begun + HELLO_TIME:
                self.end(EndReason.TOO_SLOW, "no HELLO in time")
            return
        self._rekey_due(now)
        for first_id, (offer, _, asked) in list(self._unanswered.items()):
            if now < asked + ANSWER_TIME:
                break
            # An ACCEPT that comes later would be one that was not asked for: better an end than a doubt.
            self.end(EndReason.TOO_SLOW, f"no answer to the OPEN of {first_id}, {len(offer)} connections")
            return
        while self._rekeys and now >= self._rekeys[0][0] + ANSWER_TIME:
            _, run, places = self._rekeys.popleft()
            if (run.fresh[places[run.alive[places]]] != 0).any():
                self.end(EndReason.TOO_SLOW, "no REKEYED in time")
                return
        if self._pinged and now >= self._pinged + ANSWER_TIME:
            self.end(EndReason.TOO_SLOW, "no answer to a PING")
        elif not self._pinged and now >= self._heard + QUIET_TIME:
            self._pinged = now
            self._send(messages.token(Type.PING, now & (1 << 64) - 1))

    # Inside

    def _greeted(self) -> Greeted:
        if self.ended:
            raise ExchangeEnded(self.ended.reason, self.ended.sentence)
        if self.peer is None:
            raise ConfigError("the peer has not said HELLO", key="peer", expected="Greeted first")
        return self.peer

    def _asked(self) -> int:
        return sum(len(spis) for _, spis, _ in self._unanswered.values())

    def _send(self, octets: bytes) -> None:
        self._out.append(octets)
        self._waiting_octets += len(octets)
        if self._waiting_octets > MOST_OUTPUT and not self.ended:
            self._finish(Ended(EndReason.TOO_SLOW, "the peer does not read", by_peer=False))

    def _finish(self, ended: Ended) -> None:
        """Let go of everything."""
        self.ended = ended
        for space in self._spaces.values():
            for run in space:
                self._let_go(run, np.flatnonzero(run.alive))
        self._in[:] = bytes(len(self._in))
        self._in.clear()
        self._unanswered.clear()
        self._offers.clear()
        self._prepared.clear()
        self._due.clear()
        self._rekeys.clear()
        self._events.append(ended)
