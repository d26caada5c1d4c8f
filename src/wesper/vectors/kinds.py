"""All kinds of vector files, in the order in which a file is tried against them.

A kind that can be run is a file of its own with its lists; the others are only recognised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from . import esp_family, psp, psp_netlink
from .kind import Kind


def _aggfrag(document: Mapping[str, object]) -> bool:
    return document.get("spec") == "RFC 9347" and "schema" in document


def _esp_echo(document: Mapping[str, object]) -> bool:
    return type(document.get("format")) is int and document["format"] == 1 and "conventions" in document


def _xfrm(document: Mapping[str, object]) -> bool:
    return "byte_order" in document and "volatile" in document


KINDS: Final[tuple[Kind, ...]] = (
    *esp_family.KINDS,
    psp.KIND,
    psp_netlink.KIND,
    Kind("AGGFRAG", ("spec", "schema"), _aggfrag),
    Kind("ESP echo", ("format", "conventions"), _esp_echo),
    Kind("XFRM", ("byte_order", "volatile"), _xfrm),
)
