"""Address ranges, selectors and policies by themselves; tests/engine/test_policy.py has them at work."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from wesper import OPAQUE, Action, AddressRange, ConfigError, Policy, Selector
from wesper.protocols.ip import Flow
from wesper.sa.selectors import find

FLOW = Flow(4, int(ip_address("10.0.0.1")), int(ip_address("10.0.0.2")), 17, 1000, 2000, 46)


@pytest.mark.parametrize(
    ("text", "version", "first", "last"),
    [
        ("192.0.2.0/24", 4, "192.0.2.0", "192.0.2.255"),
        ("192.0.2.7", 4, "192.0.2.7", "192.0.2.7"),
        ("192.0.2.1-192.0.2.9", 4, "192.0.2.1", "192.0.2.9"),
        ("192.0.2.1 - 192.0.2.9", 4, "192.0.2.1", "192.0.2.9"),
        ("2001:db8::/32", 6, "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("::1-::5", 6, "::1", "::5"),
        ("0.0.0.0/0", 4, "0.0.0.0", "255.255.255.255"),
    ],
)
def test_ranges(text: str, version: int, first: str, last: str) -> None:
    found = AddressRange.parse(text)
    assert found == AddressRange(version, int(ip_address(first)), int(ip_address(last)))
    assert found.holds(version, found.first)
    assert found.holds(version, found.last)
    assert not found.holds(version, found.last + 1)
    assert not found.holds(10 - version, found.first)


@pytest.mark.parametrize(
    "text", ["", "192.0.2.1/24", "192.0.2.9-192.0.2.1", "192.0.2.1-::1", "host", "1.2.3", "-", "1.1.1.1-", "::/129"]
)
def test_no_ranges(text: str) -> None:
    with pytest.raises(ConfigError, match="no address range"):
        AddressRange.parse(text)


@pytest.mark.parametrize("settings", [{"protocol": 256}, {"protocol": -1}])
def test_protocols_out_of_range(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Selector(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("ports", [(0, 65536), (-1, 5), (9, 8)])
def test_ports_out_of_range(ports: tuple[int, int]) -> None:
    for key in ("local_ports", "remote_ports"):
        with pytest.raises(ConfigError) as caught:
            Selector(**{key: ports})  # type: ignore[arg-type]
        assert caught.value.key == key


def test_directions() -> None:
    """Local is the source of what goes out, and the destination of what comes in."""
    here = Selector(local=(AddressRange.parse("10.0.0.1"),), local_ports=(1000, 1000), remote_ports=(2000, 2000))
    assert here.matches(FLOW, outbound=True)
    assert not here.matches(FLOW, outbound=False)
    back = Flow(4, FLOW.destination, FLOW.source, 17, 2000, 1000, 0)
    assert here.matches(back, outbound=False)


def test_icmp_type_and_code() -> None:
    for protocol in (1, 58):
        ping = Flow(4, 1, 2, protocol, 8, 0, 0)
        assert Selector(local_ports=(0x800, 0x8FF)).matches(ping, outbound=True)
        assert Selector(remote_ports=(0x800, 0x8FF)).matches(ping, outbound=False)
        assert not Selector(local_ports=(0x801, 0x8FF)).matches(ping, outbound=True)


def test_opaque() -> None:
    hidden = Flow(4, 1, 2, 17, None, None, 0)
    assert Selector(local_ports=OPAQUE, remote_ports=OPAQUE).matches(hidden, outbound=True)
    assert not Selector(local_ports=OPAQUE).matches(FLOW, outbound=True)
    assert not Selector(local_ports=(0, 65535)).matches(hidden, outbound=True)
    assert Selector().matches(hidden, outbound=True)


def test_policies_are_ordered() -> None:
    first, second = Policy(Action.BYPASS, (Selector(protocol=17),)), Policy(Action.DISCARD)
    assert find((first, second), FLOW, outbound=True) == (0, first)
    assert find((second, first), FLOW, outbound=True) == (0, second)
    assert find((Policy(Action.BYPASS, (Selector(protocol=6),)),), FLOW, outbound=True) is None
    assert find((), FLOW, outbound=True) is None


def test_sa_by_dscp() -> None:
    policy = Policy(Action.PROTECT, sas=((frozenset({0}), 1), (frozenset({46, 47}), 2), (None, 3)))
    assert policy.sa_for(FLOW) == 2
    assert Policy(Action.PROTECT, sas=((frozenset({0}), 1),)).sa_for(FLOW) is None


def test_selector_of_an_sa_to_be_made() -> None:
    """The first selector that matches is narrowed, not another one."""
    tcp, wide = Selector(protocol=6), Selector(protocol=17, remote_ports=(0, 4000))
    policy = Policy(Action.PROTECT, (tcp, wide), populate_from_packet=frozenset({"remote", "remote_ports"}))
    assert policy.selector_for(FLOW) == Selector(
        remote=(AddressRange(4, FLOW.destination, FLOW.destination),), protocol=17, remote_ports=(2000, 2000)
    )
    assert Policy(Action.PROTECT, (tcp, wide)).selector_for(FLOW) == wide
