"""Guests for tests: one of each kernel for all tests of a process, or a skip with the command that makes it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wesper.errors import UnsupportedError
from wesper.kernel import Guest, find
from wesper.kernel.xfrm import Xfrm, open_encapsulation_port

from .peer import GATEWAY4, GATEWAY6, GUEST4, GUEST6, HERE4, HERE6, INNER_GUEST4, INNER_GUEST6, INNER_HERE4, INNER_HERE6

KERNELS = ("packaged", "built")
ENGINES = ("reference", pytest.param("native", marks=pytest.mark.needs_native))


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    """Name of the engine under test: each test that asks for it runs once on each."""
    name: str = request.param
    return name


@pytest.fixture(scope="session", params=KERNELS)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A guest with a card whose frames the tests have, addresses, and routes to ours by a gateway."""
    try:
        booted = Guest(find(request.param), card=True)
    except UnsupportedError as error:
        pytest.skip(str(error))
    with booted:
        for inner in (INNER_GUEST4, INNER_GUEST6):
            booted.add_address(f"{inner}/{inner.max_prefixlen}", "lo")
        booted.add_address(f"{GUEST4}/24")
        booted.add_address(f"{GUEST6}/64")
        for there, gateway in ((HERE4, GATEWAY4), (HERE6, GATEWAY6), (INNER_HERE4, GATEWAY4), (INNER_HERE6, GATEWAY6)):
            booted.add_route(f"{there}/{there.max_prefixlen}", str(gateway))
        open_encapsulation_port(booted, 4500)
        yield booted


@pytest.fixture
def xfrm(guest: Guest) -> Iterator[Xfrm]:
    """The guest's SAs and policies, none at the beginning."""
    each = Xfrm(guest)
    each.flush()
    yield each
    each.flush()
