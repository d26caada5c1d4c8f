"""Connections of a PSP exchange, kept as they were agreed on: many in one message, many in one run of arrays."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .exchange_messages import BadMessage, EndReason, Ids, Kind, Ports, SPIs


@dataclass(eq=False, slots=True)
class Run:
    """Connections that were agreed on in one message, with ids in a row.

    ours: this side has opened them.   ports: of each, service port and the opener's; None for raw.
    rows: of the transmit table.   spis: what the peer sends with.   fresh: what it is asked to send with instead, or 0.
    alive: which of them are not closed.
    """

    ours: bool
    first_id: int
    kind: Kind
    version: int
    ports: Ports | None
    rows: NDArray[np.uint64]
    spis: SPIs
    generation: int
    fresh: SPIs
    alive: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.spis)

    def ids(self, places: NDArray[np.intp]) -> Ids:
        """Return the ids at places."""
        return places.astype(np.uint64) + np.uint64(self.first_id)


class Space:
    """The runs that one side has opened, in order of their ids."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._runs: list[Run] = []
        self.last = 0

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self._runs))

    def add(self, run: Run) -> None:
        place = bisect.bisect(self._firsts, run.first_id)
        self._firsts.insert(place, run.first_id)
        self._runs.insert(place, run)

    def remove(self, run: Run) -> None:
        place = bisect.bisect_left(self._firsts, run.first_id)
        del self._firsts[place], self._runs[place]

    def find(self, ids: Ids) -> list[tuple[Run, NDArray[np.intp]]]:
        """Return where ids are, closed ones left out.   Raises BadMessage for an id that never was."""
        ordered = np.unique(ids) if len(ids) > 1 else ids
        if len(ordered) and int(ordered[-1]) > self.last:
            raise BadMessage(EndReason.BAD_ID, f"connection {int(ordered[-1])}")
        found: list[tuple[Run, NDArray[np.intp]]] = []
        at = 0
        while at < len(ordered):
            first = int(ordered[at])
            place = bisect.bisect(self._firsts, first) - 1
            run = self._runs[place] if place >= 0 else None
            if run is None or first >= run.first_id + len(run):
                at += 1
                continue
            beyond = run.first_id + len(run)
            end = at + 1 if at + 1 == len(ordered) else int(np.searchsorted(ordered, np.uint64(beyond)))
            places = (ordered[at:end] - np.uint64(run.first_id)).astype(np.intp)
            places = places[run.alive[places]]
            if len(places):
                found.append((run, places))
            at = end
        return found
