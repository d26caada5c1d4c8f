"""A guest at a link of a lab: its frames cross like a host's, impairment and all."""

from __future__ import annotations

import pytest

from wesper.errors import UnsupportedError
from wesper.kernel import Guest, Kernel, find
from wesper.lab import Lab

from .conftest import KERNELS


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    try:
        return find(request.param)
    except UnsupportedError as error:
        pytest.skip(str(error))


def test_frames_are_an_end_of_the_wire() -> None:
    try:
        lab = Lab()
    except UnsupportedError as error:
        pytest.skip(str(error))
    with lab:
        a, b = lab.host("a"), lab.host("b")
        link = lab.link(a, b, addresses={"a": ["192.0.2.1/24"]}, offloads=False)
        with link.end(a).frames() as one, link.end(b).frames() as other:
            other.settimeout(10)
            frame = link.end(b).mac + link.end(a).mac + b"\x88\xb5" + b"a local experiment of IEEE 802"
            one.send(frame)
            assert other.recv(2000) == frame
            # Its own frames do not come back to it.
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(2000)


@pytest.mark.parametrize("impaired", [{}, {"delay": "5ms", "mtu": 1400}], ids=["plain", "impaired"])
def test_a_guest_in_a_lab(kernel: Kernel, impaired: dict[str, object]) -> None:
    try:
        lab = Lab()
    except UnsupportedError as error:
        pytest.skip(str(error))
    with lab:
        a, k = lab.host("a"), lab.host("k")
        offloads = {} if impaired else {"offloads": False}
        ends = ["192.0.2.1/24", "2001:db8:1::1/64"]
        link = lab.link(a, k, addresses={"a": ends}, **offloads, **impaired)  # type: ignore[arg-type]
        card = link.end(k)
        with card.frames() as frames, Guest(kernel, frames=frames, mac=card.mac, mtu=link.mtu) as guest:
            guest.add_address("192.0.2.2/24")
            guest.add_address("2001:db8:1::2/64")
            for each in ("192.0.2.2", "2001:db8:1::2"):
                times = a.ping(each, count=3, octets=1000, timeout=10)
                assert None not in times
                assert not impaired or min(each for each in times if each is not None) >= 0.010
