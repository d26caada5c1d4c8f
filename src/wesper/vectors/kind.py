"""What a kind of vector file is: how it is recognised, and the lists of cases in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .case import Case
from .fields import Fields

CaseCode = Callable[[Fields, Case], None]


@dataclass(frozen=True, slots=True)
class CaseList:
    """A list of cases.

    run: judges one entry: reads it, does its work, tells the case what differs.   per_engine: run it once for each
    engine; False: it tests what is not in the engines.   informative: further keys of an entry that are not compared.
    inside: the list stands in an object under this name, and each entry has the object's other fields too.
    """

    run: CaseCode
    per_engine: bool = True
    informative: frozenset[str] = frozenset()
    inside: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of vector file.

    name: as reports print it.   keys: top-level keys that tell the kind, looked at by recognises.   informative:
    top-level keys that are not compared.   lists: by top-level key; None: this kind can't be run yet.
    """

    name: str
    keys: tuple[str, ...]
    recognises: Callable[[Mapping[str, object]], bool]
    informative: frozenset[str] = frozenset()
    lists: Mapping[str, CaseList] | None = None
