"""Labs ready-made. Each takes the options of `Lab.link`, for all its links: `with routed(delay="10ms") as lab: ...`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .lab import Lab


def pair(name: str | None = None, **link: Any) -> Lab:
    """Make a lab of two hosts, a and b, and the link between them."""
    return _filled(name, lambda lab: lab.link(lab.host("a"), lab.host("b"), **link))


def routed(name: str | None = None, **link: Any) -> Lab:
    """Make a lab of two hosts, a and b, and a router r between them; `lab["r"].capture(...)` is what r sees."""

    def fill(lab: Lab) -> None:
        a, r, b = lab.host("a"), lab.router("r"), lab.host("b")
        lab.link(a, r, **link)
        lab.link(r, b, **link)

    return _filled(name, fill)


def third_host(name: str | None = None, **link: Any) -> Lab:
    """Make `routed` with a host c more at the router, for floods and forged packets; its own link is a plain one."""

    def fill(lab: Lab) -> None:
        a, r, b, c = lab.host("a"), lab.router("r"), lab.host("b"), lab.host("c")
        lab.link(a, r, **link)
        lab.link(r, b, **link)
        lab.link(c, r, mtu=link.get("mtu", 1500))

    return _filled(name, fill)


def nat(name: str | None = None, random_ports: bool = False, **link: Any) -> Lab:
    """Make a lab of a host a behind a NAT n, and a host b that sees only n's address.   Raises UnsupportedError.

    random_ports: `lab["n"].forget_flows()` then gives a's flows other ports.
    """

    def fill(lab: Lab) -> None:
        a, n, b = lab.host("a"), lab.router("n"), lab.host("b")
        lab.link(a, n, **link)
        n.masquerade(lab.link(n, b, **link), random_ports=random_ports)

    return _filled(name, fill)


TOPOLOGIES: Mapping[str, Callable[..., Lab]] = {
    "pair": pair,
    "routed": routed,
    "third-host": third_host,
    "nat": nat,
}
"""By the name that `wesper lab run` knows them by."""


def _filled(name: str | None, fill: Callable[[Lab], Any]) -> Lab:
    lab = Lab(name)
    try:
        fill(lab)
        lab.settle()
    except BaseException:
        lab.close()
        raise
    return lab
