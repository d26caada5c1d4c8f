"""The outbound SPD of a file: an engine takes the first entry that matches, so the narrowest has to stand first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..sa import AddressRange, Policy


def ordered(policies: Iterable[Policy]) -> list[Policy]:
    """Return entries that carry the same traffic, by how narrow their peer addresses are; equal ones stay in order.

    A network within another tunnel's network thus goes to its own tunnel, as its route would have it. A policy with
    networks of several sizes becomes an entry for each.
    """
    found: list[tuple[int, Policy]] = []
    for policy in policies:
        sizes: dict[int, Policy] = {}
        for selector in policy.selectors:
            for narrow in selector.remote or (None,):
                single = selector if narrow is None else replace(selector, remote=(narrow,))
                size = _size(narrow)
                entry = sizes.get(size, replace(policy, selectors=()))
                sizes[size] = replace(entry, selectors=(*entry.selectors, single))
        found += sizes.items() if sizes else [(_size(None), policy)]
    return [policy for _, policy in sorted(found, key=lambda entry: entry[0])]


def _size(addresses: AddressRange | None) -> int:
    """Return how many bits of an address are free, at least.   None: any address of either version."""
    return 129 if addresses is None else (addresses.last - addresses.first).bit_length()
