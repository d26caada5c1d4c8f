"""vectors/wespv2.json and eesp.json pass, and fail as soon as anything that is compared is changed."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from .conftest import VECTORS, Run, failed, reasons
from .mutate import Document, flip_last_octet, mutations, only

CASES = {"wespv2": 34 + 32 + 3, "eesp": 49 + 28 + 3 + 6}
EXPECTED_HEX = {"plaintext_packet_hex", "protected_packet_hex", "params.options_hex"}
# Without these a case is another one, and may be as right: null and absent mean the same, and some numbers are fresh in
# any window; what a sender would do is nothing to a case that only receives.
CAN_GO = {
    ("vectors", f"params.{field}")
    for field in ("replay", "crypt_offset", "max_crypt_offset", "sub_sa", "stateless", "dummy", "dummy_hex", "tfc_hex")
} | {("inner_mtu", "params.crypt_offset"), ("inner_mtu", "params.max_crypt_offset")}

# Engines that have these protocols.
NAMES = ["reference", pytest.param("native", marks=pytest.mark.needs_native)]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Name of the engine under test."""
    found: str = request.param
    return found


def lists(document: Document) -> list[str]:
    return [key for key in ("vectors", "inner_mtu", "ike_payloads") if key in document]


def test_every_case_passes(family_document: Document, run: Run, name: str) -> None:
    report = run(family_document, name)
    assert reasons(report) == ""
    assert report.passed == CASES[family_document["protocol"]]
    assert report.kind == "ESP family"


def is_compared(field: str, entry: dict[str, Any]) -> bool:
    if field not in EXPECTED_HEX or entry["expect"] != "ok":  # of an error they are inputs
        return False
    return bool(entry["params"]["options_hex"] if field.startswith("params.") else entry[field])


def test_flipping_an_expected_octet_fails_that_case_alone(family_document: Document, run: Run, name: str) -> None:
    seen = set()
    for mutation in mutations(family_document, "vectors", flip_last_octet, wanted=is_compared):
        seen.add(mutation.field)
        assert failed(run(mutation.document, name)) == mutation.entries, mutation.field
    assert seen == EXPECTED_HEX


def test_payloads_of_other_lengths_fail(family_document: Document, run: Run) -> None:
    changed = []
    for entry in family_document["ike_payloads"]:
        payload = entry["payload_hex"]
        changed += [entry | {"payload_hex": other} for other in (payload + "00", payload[:-2], payload[:6], "")]
    assert run(only(family_document, "ike_payloads", changed)).passed == 0


def test_swapped_error_kind_fails(family_document: Document, run: Run, name: str) -> None:
    errors = [entry for entry in family_document["vectors"] if entry["expect"].startswith("error:")]
    kinds = sorted({entry["expect"] for entry in errors} | {"error:not_for_us", "error:truncated"})
    swapped = [entry | {"expect": kind} for entry in errors for kind in kinds if kind != entry["expect"]]
    report = run(only(family_document, "vectors", swapped), name)
    assert report.passed == 0
    assert report.failed == len(errors) * (len(kinds) - 1)
    assert run(only(family_document, "vectors", [entry | {"expect": "ok"} for entry in errors]), name).passed == 0
    assert len(errors) == {"wespv2": 14, "eesp": 21}[family_document["protocol"]]


def test_ok_case_is_no_error(family_document: Document, run: Run, name: str) -> None:
    entries = [entry | {"expect": "error:auth"} for entry in family_document["vectors"] if entry["expect"] == "ok"]
    assert run(only(family_document, "vectors", entries), name).passed == 0


def test_other_inner_mtu_fails(family_document: Document, run: Run, name: str) -> None:
    entries = [
        entry | {"inner_mtu": entry["inner_mtu"] + step}
        for entry in family_document["inner_mtu"]
        for step in (-1, 1, 4)
    ]
    assert run(only(family_document, "inner_mtu", entries), name).passed == 0


def remove(inside: dict[str, Any], key: str) -> None:
    del inside[key]


def add_unknown(inside: dict[str, Any], key: str) -> None:
    inside["unheard_of"] = 1


def wrong_type(inside: dict[str, Any], key: str) -> None:
    value = inside[key]
    inside[key] = str(value) if isinstance(value, (int, bool)) else 1.5


def no_word(inside: dict[str, Any], key: str) -> None:
    inside[key] = " 00 " if key.endswith("_hex") else "unheard of"


def test_removed_field_fails(family_document: Document, run: Run) -> None:
    for list_name in lists(family_document):
        for mutation in mutations(family_document, list_name, remove):
            report = run(mutation.document)
            assert failed(report) <= mutation.entries
            assert "came out of" not in reasons(report), mutation.field
            if (list_name, mutation.field) not in CAN_GO:
                assert failed(report) == mutation.entries, mutation.field


@pytest.mark.parametrize("change", [add_unknown, wrong_type, no_word])
def test_added_or_wrong_field_fails(change: Any, family_document: Document, run: Run) -> None:
    for list_name in lists(family_document):
        for mutation in mutations(family_document, list_name, change):
            report = run(mutation.document)
            assert failed(report) == mutation.entries, mutation.field
            assert "came out of" not in reasons(report), mutation.field  # told by the reader, not by a crash


@pytest.fixture
def derivation() -> Document:
    """Return the document with the derivation of Sub SA keys alone, to be changed at will."""
    document: Document = json.loads((VECTORS / "eesp.json").read_text())
    return {key: document[key] for key in ("format", "protocol", "sub_sa_derivation")}


@pytest.mark.parametrize("field", ["root_key_hex", "info_hex", "key_hex", "salt_hex"])
def test_other_derived_key_fails(field: str, derivation: Document, run: Run, name: str) -> None:
    for entry in derivation["sub_sa_derivation"]["sub_sas"]:
        flip_last_octet(entry, field)
    assert (run(derivation, name).passed, run(derivation, name).failed) == (0, 6)


@pytest.mark.parametrize("field", ["keymat_hex", "sskdf", "alg", "key_bits"])
def test_derivations_share_fields(field: str, derivation: Document, run: Run) -> None:
    inside = derivation["sub_sa_derivation"]
    assert run(derivation).passed == 6
    value = inside.pop(field)
    assert run(derivation).passed == 0
    inside |= {field: value, "unheard_of": 1}
    assert run(derivation).passed == 0
    del inside["unheard_of"]
    inside["sub_sas"][2][field] = value  # said twice
    assert failed(run(derivation)) == {2}
    for wrong in (inside["sub_sas"], {**inside, "sub_sas": {}}, 5):
        assert run(derivation | {"sub_sa_derivation": wrong}).passed == 0


def test_length_and_direction_are_compared(derivation: Document, run: Run) -> None:
    inside = derivation["sub_sa_derivation"]["sub_sas"]
    inside[0]["length"] -= 1
    inside[1]["direction"] = "responder-to-initiator"
    inside[2]["session_id"] += 1
    assert failed(run(derivation)) == {0, 1, 2}


def test_keys_that_do_not_follow_from_the_root_key_fail(run: Run, name: str) -> None:
    document: Document = json.loads((VECTORS / "eesp.json").read_text())
    derived = [v for v in document["vectors"] if v["params"]["sub_sa"] or v["params"].get("stateless")]
    assert len(derived) == 7
    for field in ("key_hex", "salt_hex"):
        changed = copy.deepcopy(derived)
        for entry in changed:
            flip_last_octet(entry, field)
        report = run(only(document, "vectors", changed), name)
        assert report.passed == 0
        assert f"derived {field.removesuffix('_hex')}" in reasons(report)
