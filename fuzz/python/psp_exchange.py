"""The PSP exchange: one side greeted, with connections, and whatever octets a peer sends after that."""

from __future__ import annotations

import sys

import numpy as np

from wesper import psp
from wesper.psp import exchange_messages as messages
from wesper.psp.exchange import Exchange
from wesper.psp.exchange_events import Ended, Offered, Terms
from wesper.psp.exchange_messages import Kind

_TERMS = Terms(raw=True, most_associations=64, most_batch=16)
_HELLO = messages.hello(frozenset({0, 1, 2, 3}), 1000, 64, 16)
_OPEN = messages.open_(Kind.RAW, 0, 1, None, np.arange(1, 5, dtype=np.uint32), np.zeros((4, 16), np.uint8))


def one_input(data: bytes) -> None:
    """The first octet says where the exchange stands, the others are what comes then."""
    device = psp.Device(engine="reference")
    table = psp.TransmitTable(device, [psp.Profile(version=version) for version in range(4)])
    exchange = Exchange(device, table, _TERMS, now=0)
    if data[:1] > b"\x40":
        exchange.receive(_HELLO + _OPEN, 1)
    if data[:1] > b"\x80":
        device.rotate()
        exchange.rotated(2)
    exchange.receive(data[1:] or b"\0", 3)
    ends = 0
    while (event := exchange.next_event()) is not None:
        if isinstance(event, Offered) and not exchange.ended:
            exchange.prepare(event, 3)
            exchange.confirm(event)
        ends += isinstance(event, Ended)
    assert ends <= 1
    assert exchange.connections <= _TERMS.most_associations
    assert len(table) == exchange.connections
    assert exchange.waiting_octets < 1 << 20


def main() -> None:
    """Fuzz until libFuzzer's arguments say stop."""
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
