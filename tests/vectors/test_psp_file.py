"""vectors/psp.json passes, and fails as soon as anything that is compared is changed (one list at a time)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import VECTORS, Run, failed, reasons
from .mutate import Document, fields, mutations, only

LISTS = ("kdf", "own_kdf", "vectors", "own_vectors", "negative", "psp_only")
COMPARED = {"derived_key_hex", "encrypted_packet_hex", "cleartext_packet_hex", "encrypted_psp_hex"}
INFORMATIVE = {"base_vector", "counter_basis", "reference_decryptor", "why"}
MAY_BE_NULL = {"vc"}  # no cookie: then the key may as well not be there


@pytest.fixture(scope="module")
def document() -> Document:
    """Return what the file holds.   Not to be changed."""
    loaded: Document = json.loads((VECTORS / "psp.json").read_text())
    return loaded


def wanted(field: str, entry: dict[str, Any]) -> bool:
    return field not in INFORMATIVE and not (field in MAY_BE_NULL and entry[field] is None)


def test_every_case_passes(document: Document, run: Run, engine_name: str) -> None:
    report = run(document, engine_name)
    assert reasons(report) == ""
    assert report.passed == sum(len(document[name]) for name in LISTS) == 86
    assert report.kind == "PSP"
    assert {record.engine for record in report.records} == {engine_name}


def flip_last(inside: dict[str, Any], key: str) -> None:
    octets = bytearray.fromhex(inside[key])
    octets[-1] ^= 0xFF
    inside[key] = octets.hex()


@pytest.mark.parametrize("name", ["kdf", "own_kdf", "vectors", "own_vectors", "psp_only"])
def test_flipping_an_expected_octet_fails_that_case_alone(
    name: str, document: Document, run: Run, engine_name: str
) -> None:
    seen = set()
    for mutation in mutations(document, name, flip_last, wanted=lambda field, entry: field in COMPARED):
        seen.add(mutation.field)
        assert failed(run(mutation.document, engine_name)) == mutation.entries, mutation.field
    assert seen == COMPARED & {field for entry in document[name] for field in fields(entry)}


def test_flipping_an_input_block_fails(document: Document, run: Run, engine_name: str) -> None:
    entries = copy.deepcopy(document["kdf"])
    for entry in entries:
        entry["input_blocks_hex"][-1] = entry["input_blocks_hex"][-1][:-2] + "ff"
    assert run(only(document, "kdf", entries), engine_name).failed == len(entries)
    for entry in entries:
        entry["input_blocks_hex"] = document["kdf"][0]["input_blocks_hex"] * 3
    assert run(only(document, "kdf", entries), engine_name).failed == len(entries)


def test_swapped_counters_and_packets_that_are_good_fail(document: Document, run: Run, engine_name: str) -> None:
    for counter in ("rx_auth_fail", "rx_error", "rx_bad"):
        entries = [entry | {"counter": counter} for entry in document["negative"]]
        others = {i for i, entry in enumerate(document["negative"]) if entry["counter"] != counter}
        assert others
        assert failed(run(only(document, "negative", entries), engine_name)) == others
    good = [
        {
            "master_key0_hex": entry["master_key0_hex"],
            "master_key1_hex": entry["master_key1_hex"],
            "expect": "drop",
            "counter": "rx_error",
            "packet_hex": entry["encrypted_packet_hex"],
        }
        for entry in document["vectors"]
    ]
    report = run(only(document, "negative", good), engine_name)
    assert report.failed == len(good)
    assert "verdict" in reasons(report)


def test_a_sampled_packet_has_to_be_sampled(document: Document, run: Run, engine_name: str) -> None:
    for word in (None, "deliver and sample", "sample, then drop"):
        entries = [entry | {"after_open": word} for entry in document["own_vectors"]]
        right = {i for i, entry in enumerate(document["own_vectors"]) if entry.get("after_open") == word}
        assert failed(run(only(document, "own_vectors", entries), engine_name)) == set(range(len(entries))) - right


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("version", lambda value: value ^ 1),
        ("crypt_offset", lambda value: value ^ 1),
        ("spi", lambda value: f"{int(value, 16) ^ 2:#010x}"),
        ("mode", lambda value: "tunnel" if value == "transport" else "transport"),
        ("ip_version", lambda value: value ^ 2),
        ("next_header", lambda value: value ^ 1),
        ("vc", lambda value: "00000000000000ff" if value is None else None),
        ("master_key0_hex", lambda value: "00" * 32),
        ("master_key1_hex", lambda value: "11" * 32),
    ],
)
def test_another_input_makes_another_packet(
    field: str, change: Callable[[Any], Any], document: Document, run: Run, engine_name: str
) -> None:
    changed = [entry | {field: change(entry[field])} for entry in document["vectors"]]
    matters = set(range(len(changed)))
    if field.startswith("master_key"):
        matters = {i for i, e in enumerate(document["vectors"]) if int(e["spi"], 16) >> 31 == int(field[10])}
    assert failed(run(only(document, "vectors", changed), engine_name)) == matters


def remove(inside: dict[str, Any], key: str) -> None:
    del inside[key]


def add_unknown(inside: dict[str, Any], key: str) -> None:
    inside["unheard_of"] = 1


def wrong_type(inside: dict[str, Any], key: str) -> None:
    value = inside[key]
    inside[key] = str(value) if isinstance(value, int) else 1.5


def no_word(inside: dict[str, Any], key: str) -> None:
    value = inside[key]
    inside[key] = ["0"] if isinstance(value, list) else " 00 " if isinstance(value, str) else 255


@pytest.mark.parametrize("change", [remove, wrong_type, no_word])
@pytest.mark.parametrize("name", LISTS)
def test_removed_and_wrong_fields_fail(name: str, change: Any, document: Document, run: Run) -> None:
    for mutation in mutations(document, name, change, wanted=wanted):
        report = run(mutation.document)
        assert failed(report) == mutation.entries, mutation.field
        assert "came out of" not in reasons(report), mutation.field  # told by the reader, not by a crash


@pytest.mark.parametrize("name", LISTS)
def test_an_added_field_fails(name: str, document: Document, run: Run) -> None:
    entries = copy.deepcopy(document[name])
    for entry in entries:
        add_unknown(entry, "")
    report = run(only(document, name, entries))
    assert report.failed == len(entries)
    assert "unknown field unheard_of" in reasons(report)


def test_short_keys_and_packets_are_told(document: Document, run: Run) -> None:
    for field in ("master_key0_hex", "cleartext_packet_hex", "encrypted_packet_hex", "iv_hex"):
        for octets in (0, 1, 7) if field == "iv_hex" else (0, 1, 13, 14, 15):
            entries = [entry | {field: entry[field][: 2 * octets]} for entry in document["vectors"]]
            report = run(only(document, "vectors", entries))
            assert report.failed == len(entries)
            assert "came out of" not in reasons(report), (field, octets)
    entry = document["psp_only"][0]
    for octets in (0, 15, 16, 31):
        for field in ("cleartext_psp_hex", "encrypted_psp_hex"):
            report = run(only(document, "psp_only", [entry | {field: entry[field][: 2 * octets]}]))
            assert report.failed == 1
            assert "came out of" not in reasons(report), (field, octets)
