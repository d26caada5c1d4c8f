"""vectors/psp-netlink.json passes, and fails as soon as anything that is compared is changed."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from .conftest import VECTORS, Run, failed, reasons
from .mutate import Document, flip_last_octet, mutations, only


@pytest.fixture(scope="module")
def document() -> Document:
    """Return what the file holds.   Not to be changed."""
    loaded: Document = json.loads((VECTORS / "psp-netlink.json").read_text())
    return loaded


def wanted(field: str, entry: dict[str, Any]) -> bool:
    return not (field == "pair" and entry["direction"] == "notification")


def test_every_case_passes(document: Document, run: Run) -> None:
    report = run(document)
    assert reasons(report) == ""
    assert report.passed == len(document["messages"]) == 63
    assert {record.engine for record in report.records} == {""}, "it needs no engine, and counts once"


def test_a_flipped_octet_fails(document: Document, run: Run) -> None:
    # What a refusal quotes of its request is another case's to compare.
    quotes = {"dev-get unknown id"}
    entries = copy.deepcopy(document["messages"])
    changed = {i for i, entry in enumerate(entries) if not ("error" in entry["decoded"] and entry["name"] in quotes)}
    for index in changed:
        flip_last_octet(entries[index], "hex")
    assert failed(run(only(document, "messages", entries))) == changed


@pytest.mark.parametrize(("octet", "bits"), [(0, 0x20), (6, 1), (18, 1)])
def test_a_changed_header_fails(octet: int, bits: int, document: Document, run: Run) -> None:
    """Length; the flag that a message is a request; a reserved field, or an error's number."""
    entries = copy.deepcopy(document["messages"])
    for entry in entries:
        octets = bytearray.fromhex(entry["hex"])
        octets[octet] ^= bits
        entry["hex"] = octets.hex()
    # To an error or an end the flag says nothing.
    changed = {i for i, e in enumerate(entries) if octet != 6 or "cmd" in e["decoded"]}
    assert failed(run(only(document, "messages", entries))) == changed


def remove(inside: dict[str, Any], key: str) -> None:
    del inside[key]


def another(inside: dict[str, Any], key: str) -> None:
    value = inside[key]
    if isinstance(value, bool):
        inside[key] = not value
    elif isinstance(value, int):
        inside[key] = value ^ 1
    elif isinstance(value, str) and value.startswith("0x"):
        inside[key] = f"{int(value, 16) ^ 1:#010x}"
    elif key == "key":
        flip_last_octet(inside, key)
    elif isinstance(value, str):
        inside[key] = "EIO" if key == "error" else "dev-add-ntf" if key == "cmd" else value + "?"
    elif isinstance(value, list):
        inside[key] = value * 2
    else:
        inside[key] = {**value, "spi": "0x00000001", "id": 7}


def wrong_type(inside: dict[str, Any], key: str) -> None:
    inside[key] = str(inside[key]) if isinstance(inside[key], int) else 1.5


@pytest.mark.parametrize("change", [remove, another, wrong_type])
def test_changed_fields_fail(change: Any, document: Document, run: Run) -> None:
    for mutation in mutations(document, "messages", change, wanted=wanted):
        if (change, mutation.field) in ((another, "pair"), (another, "direction"), (another, "hex")):
            continue  # another pair is as good; the others have tests of their own
        report = run(mutation.document)
        assert failed(report) == mutation.entries, mutation.field
        assert "came out of" not in reasons(report), mutation.field


def test_an_added_field_fails(document: Document, run: Run) -> None:
    for place in ("", "decoded", "attrs"):
        entries = copy.deepcopy(document["messages"])
        changed = set()
        for i, entry in enumerate(entries):
            inside = {"": entry, "decoded": entry["decoded"], "attrs": entry["decoded"].get("attrs")}[place]
            if inside is not None:
                inside["unheard-of"] = 1
                changed.add(i)
        assert failed(run(only(document, "messages", entries))) == changed


def test_truncated_messages_fail(document: Document, run: Run) -> None:
    for octets in (0, 1, 15, 16, 18, 19):
        entries = [entry | {"hex": entry["hex"][: 2 * octets]} for entry in document["messages"]]
        report = run(only(document, "messages", entries))
        assert report.failed == len(entries)
        assert "came out of" not in reasons(report), octets


def test_a_request_said_to_be_a_response_fails(document: Document, run: Run) -> None:
    swapped = {"request": "response", "response": "request"}
    entries = [e | {"direction": swapped.get(e["direction"], "request"), "pair": 1} for e in document["messages"]]
    assert run(only(document, "messages", entries)).failed == len(entries)
