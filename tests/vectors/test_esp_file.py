"""vectors/esp.json passes, and fails as soon as anything that is compared is changed (one list at a time)."""

from __future__ import annotations

import copy
import re
from functools import partial
from typing import Any

import pytest

from wesper.engine import open_engine
from wesper.vectors import FileReport

from .conftest import Run, failed, reasons
from .mutate import Document, fields, flip_last_octet, mutations, only

LISTS = ("vectors", "inner_mtu", "public_aead", "replay_traces", "esn_inference", "ecn_decapsulation")
EXPECTED_HEX = {
    "nonce_hex",
    "aad_hex",
    "ciphertext_hex",
    "icv_hex",
    "esp_packet_hex",
    "plaintext_packet_hex",
    "protected_packet_hex",
}
# The one field without which a case is still valid and still passes: some numbers are fresh in any window.
CAN_GO = {("vectors", "params.replay")}


def test_every_case_passes(esp: Document, run: Run, engine_name: str) -> None:
    report = run(esp, engine_name)
    assert reasons(report) == ""
    assert report.passed == sum(len(esp[name]) for name in LISTS) == 125
    assert report.kind == "ESP family"
    assert {record.engine for record in report.records} == {engine_name}


def test_cases_count_once_per_engine(esp: Document, run: Run) -> None:
    two = {"one": partial(open_engine, "reference"), "other": partial(open_engine, "reference")}
    assert run(esp, engines=two).passed == 250


def is_compared(field: str, entry: dict[str, Any]) -> bool:
    return (
        field in EXPECTED_HEX and bool(entry[field]) and not entry["expect"].startswith("error:")  # inputs there
    )


@pytest.mark.parametrize("name", ["vectors", "public_aead"])
def test_flipping_an_expected_octet_fails_that_case_alone(
    name: str, esp_document: Document, run: Run, engine_name: str
) -> None:
    seen = set()
    for mutation in mutations(esp_document, name, flip_last_octet, wanted=is_compared):
        seen.add(mutation.field)
        assert failed(run(mutation.document, engine_name)) == mutation.entries, mutation.field
    assert seen == EXPECTED_HEX & {field for entry in esp_document[name] for field in fields(entry)}


def test_flipping_one_case_leaves_the_rest_of_the_file(esp: Document, run: Run, engine_name: str) -> None:
    flip_last_octet(esp["vectors"][3], "protected_packet_hex")
    report = run(esp, engine_name)
    assert (report.passed, report.failed) == (124, 1)
    (record,) = [r for r in report.records if not r.passed]
    assert (record.list, record.index, record.name) == ("vectors", 3, "tunnel-v4-gcm16-iiv")


def test_swapped_error_kind_fails(esp: Document, run: Run, engine_name: str) -> None:
    errors = [entry for entry in esp["vectors"] if entry["expect"].startswith("error:")]
    kinds = sorted({entry["expect"] for entry in errors} | {"error:not_for_us", "error:bad_inner"})
    for entry in errors:
        for kind in kinds:
            if kind != entry["expect"]:
                report = run(only(esp, "vectors", [entry | {"expect": kind}]), engine_name)
                assert "verdict" in reasons(report), (entry["name"], kind)
        assert run(only(esp, "vectors", [entry | {"expect": "ok"}]), engine_name).failed == 1
    assert len(errors) == 11


def test_ok_case_is_no_error(esp: Document, run: Run, engine_name: str) -> None:
    for entry in esp["vectors"]:
        if entry["expect"] == "ok":
            entry["expect"] = "error:auth"
    report = run(esp, engine_name)
    assert report.failed == 25


def changed_numbers(entry: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return copies of an entry, each with one expected number or word changed."""
    if name == "inner_mtu":
        return [entry | {"inner_mtu": entry["inner_mtu"] + step} for step in (-1, 1, 4)]
    if name == "esn_inference":
        others = ({"none", "0x0", "0x1", "0x2", "0xffffffff"}) - {entry["expect_seq_high"]}
        return [entry | {"expect_seq_high": other} for other in others]
    if name == "ecn_decapsulation":
        return [entry | {"result": other} for other in (0, 1, 2, 3, "drop") if other != entry["result"]] + [
            entry | {"alarm": other} for other in ("", "possible", "always") if other != entry["alarm"]
        ]
    changed = []
    for index, step in enumerate(entry["steps"]):
        for other in ("accept", "replay", "auth"):
            if other != step["expect"]:
                copied = copy.deepcopy(entry)
                copied["steps"][index]["expect"] = other
                changed.append(copied)
        if "inferred_seq" in step:
            for value in ("0x200000001", "0x100000000", None):
                copied = copy.deepcopy(entry)
                copied["steps"][index]["inferred_seq"] = value
                changed.append(copied)
    return changed


@pytest.mark.parametrize("name", ["inner_mtu", "esn_inference", "ecn_decapsulation", "replay_traces"])
def test_changed_expectation_fails(name: str, esp_document: Document, run: Run, engine_name: str) -> None:
    entries = [changed for entry in esp_document[name] for changed in changed_numbers(entry, name)]
    report = run(only(esp_document, name, entries), engine_name)
    assert report.passed == 0
    assert report.failed == len(entries) > len(esp_document[name])


def remove(inside: dict[str, Any], key: str) -> None:
    del inside[key]


def nullify(inside: dict[str, Any], key: str) -> None:
    inside[key] = None


@pytest.mark.parametrize("change", [remove, nullify])
@pytest.mark.parametrize("name", LISTS)
def test_removed_field_fails(name: str, change: Any, esp_document: Document, run: Run) -> None:
    for mutation in mutations(esp_document, name, change):
        report = run(mutation.document)
        assert failed(report) <= mutation.entries
        if (name, mutation.field) not in CAN_GO:
            assert failed(report) == mutation.entries, mutation.field


def add_unknown(inside: dict[str, Any], key: str) -> None:
    inside["unheard_of"] = 1


@pytest.mark.parametrize("name", LISTS)
def test_added_field_fails_wherever_it_stands(name: str, esp_document: Document, run: Run) -> None:
    """One added field beside each field, so in every object."""
    for mutation in mutations(esp_document, name, add_unknown):
        report = run(mutation.document)
        assert failed(report) == mutation.entries, mutation.field
        parent, dot, _ = mutation.field.rpartition(".")
        told = re.sub(r"\[\d+\]", "[]", reasons(report))
        assert f"unknown field {parent}{dot}unheard_of" in told


def wrong_type(inside: dict[str, Any], key: str) -> None:
    value = inside[key]
    inside[key] = str(value) if isinstance(value, (int, bool)) else 1.5


def other_type(inside: dict[str, Any], key: str) -> None:
    inside[key] = [] if isinstance(inside[key], dict) else {}


def odd_digits(inside: dict[str, Any], key: str) -> None:
    inside[key] = "0" if key.endswith("_hex") else [{}]


def no_word(inside: dict[str, Any], key: str) -> None:
    inside[key] = " 00 " if key.endswith("_hex") else "unheard of"


@pytest.mark.parametrize("change", [wrong_type, other_type, odd_digits, no_word])
@pytest.mark.parametrize("name", LISTS)
def test_wrong_value_fails(name: str, change: Any, esp_document: Document, run: Run) -> None:
    for mutation in mutations(esp_document, name, change):
        report = run(mutation.document)
        assert failed(report) == mutation.entries, mutation.field
        assert "came out of" not in reasons(report), mutation.field  # told by the reader, not by a crash


def test_informative_fields_are_not_compared(esp: Document, run: Run) -> None:
    for name in LISTS:
        for entry in esp[name]:
            entry |= dict.fromkeys(("name", "id", "title", "description", "desc", "basis", "cite", "why"), 17)
            entry |= {key: ["anything"] for key in ("source", "note", "meaning")}
    for entry in esp["inner_mtu"]:
        entry["case"] = None
    assert run(esp).passed == 125


@pytest.mark.parametrize("key", ["name", "description", "source", "note", "case"])
def test_informative_fields_may_be_absent(key: str, esp: Document, run: Run) -> None:
    for name in LISTS:
        for entry in esp[name]:
            entry.pop(key, None)
    report: FileReport = run(esp)
    assert report.passed == 125
