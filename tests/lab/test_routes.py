"""Shortest paths over nodes that forward."""

from __future__ import annotations

from ipaddress import ip_interface

from wesper.lab.routes import End, routes_of


def link(one: str, other: str, net: int, masqueraded: str = "") -> tuple[End, End]:
    def end(node: str, place: int) -> End:
        addresses = (ip_interface(f"10.0.{net}.{place}/24"), ip_interface(f"fd00:{net}::{place}/64"))
        return End(node, f"to-{net}", addresses, node == masqueraded)

    return end(one, 1), end(other, 2)


def seen(node: str, links: list[tuple[End, End]], forwarding: str) -> dict[str, str]:
    """Return gateway by IPv4 network; IPv6 must say the same."""
    routes = routes_of(node, links, forwarding.split())
    v4 = {str(each.network): str(each.gateway.ip) for each in routes if each.network.version == 4}
    v6 = {str(each.network): str(each.gateway.ip) for each in routes if each.network.version == 6}
    assert {f"fd00:{net.split('.')[2]}::/64" for net in v4} == set(v6)
    return v4


def test_pair_needs_no_route() -> None:
    assert seen("a", [link("a", "b", 1)], "") == {}


def test_hosts_reach_each_other_over_a_router() -> None:
    links = [link("a", "r", 1), link("r", "b", 2)]
    assert seen("a", links, "r") == {"10.0.2.0/24": "10.0.1.2"}
    assert seen("b", links, "r") == {"10.0.1.0/24": "10.0.2.1"}
    assert seen("r", links, "r") == {}


def test_a_host_is_no_way() -> None:
    assert seen("a", [link("a", "h", 1), link("h", "b", 2)], "") == {}


def test_the_shorter_way_wins_and_the_first_of_equal_ones() -> None:
    links = [link("a", "r", 1), link("a", "s", 2), link("r", "t", 3), link("t", "b", 4), link("s", "b", 5)]
    found = seen("a", links, "r s t")
    assert found["10.0.5.0/24"] == "10.0.2.2"
    assert found["10.0.4.0/24"] == "10.0.1.2"
    assert found["10.0.3.0/24"] == "10.0.1.2"
    square = [link("a", "r", 1), link("a", "s", 2), link("r", "b", 3), link("s", "b", 4), link("b", "c", 5)]
    assert seen("a", square, "r s b")["10.0.5.0/24"] == "10.0.1.2"


def test_a_ring_of_routers_ends() -> None:
    links = [link("r", "s", 1), link("s", "t", 2), link("t", "r", 3), link("r", "a", 4)]
    assert seen("a", links, "r s t") == dict.fromkeys(("10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"), "10.0.4.1")


def test_nothing_leads_behind_a_masquerade() -> None:
    links = [link("a", "n", 1), link("n", "b", 2, masqueraded="n"), link("b", "c", 3)]
    assert seen("a", links, "n b") == dict.fromkeys(("10.0.2.0/24", "10.0.3.0/24"), "10.0.1.2")
    assert seen("b", links, "n b") == {}
    assert seen("c", links, "n b") == {"10.0.2.0/24": "10.0.3.1"}


def test_a_family_that_the_gateway_lacks_has_no_route() -> None:
    only_v4 = tuple(End(end.node, end.interface, end.addresses[:1]) for end in link("a", "r", 1))
    routes = routes_of("a", [(only_v4[0], only_v4[1]), link("r", "b", 2)], {"r"})
    assert [str(each.network) for each in routes] == ["10.0.2.0/24"]
