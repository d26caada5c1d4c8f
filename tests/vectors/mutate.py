"""Changed copies of vector documents: one field at a time, in every other entry that has it.

So one run shows that the changed cases fail and that the cases beside them do not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]
Change = Callable[[dict[str, Any], str], None]

INFORMATIVE = {"name", "source", "description", "note", "case", "meaning"}


@dataclass
class Mutation:
    """A document with one list, changed.   entries: the indexes that were changed."""

    field: str
    document: Document
    list: str
    entries: set[int]


def objects(entry: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield an entry and all objects inside with their dotted paths; "[]" stands for any index."""
    yield path, entry
    for key, value in entry.items():
        inside = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from objects(value, inside)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, dict):
                    yield from objects(item, inside + "[]")


def fields(entry: dict[str, Any]) -> dict[str, None]:
    """Return the dotted paths of all fields that a runner has to look at."""
    return dict.fromkeys(
        f"{path}.{key}" if path else key for path, inside in objects(entry) for key in inside if key not in INFORMATIVE
    )


def mutations(
    document: Document,
    name: str,
    change: Change,
    *,
    wanted: Callable[[str, dict[str, Any]], bool] = lambda field, entry: True,
) -> Iterator[Mutation]:
    """Yield, for each field of a list's entries, copies in which every other entry has it changed.

    wanted: says of (field, entry) whether it takes part.
    """
    paths = dict.fromkeys(path for entry in document[name] for path in fields(entry))
    for path in paths:
        having = [i for i, entry in enumerate(document[name]) if path in fields(entry) and wanted(path, entry)]
        for chosen in (having[::2], having[1::2]):
            if chosen:
                changed = copy.deepcopy(document[name])
                for index in chosen:
                    _change(changed[index], path, change)
                yield Mutation(path, only(document, name, changed), name, set(chosen))


def only(document: Document, name: str, entries: list[Any]) -> Document:
    """Return a document with its head and this one list."""
    head = {key: document[key] for key in ("format", "protocol") if key in document}
    return {**head, name: entries}


def flip_last_octet(inside: dict[str, Any], key: str) -> None:
    """Change the last octet of a hex string."""
    octets = bytearray.fromhex(inside[key])
    octets[-1] ^= 0xFF
    inside[key] = octets.hex()


def _change(entry: dict[str, Any], path: str, change: Change) -> None:
    parent, _, key = path.rpartition(".")
    for place, inside in list(objects(entry)):
        if place == parent and key in inside:
            change(inside, key)
