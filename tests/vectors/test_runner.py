from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wesper.engine import open_engine
from wesper.errors import KeyMaterialError
from wesper.vectors import Record, run_file
from wesper.vectors.case import Case
from wesper.vectors.fields import Fields
from wesper.vectors.kind import CaseList, Kind

from .conftest import Run, reasons
from .mutate import Document, only

HEAD = {"format": "esp-family-vectors/1", "protocol": "esp"}


@pytest.mark.parametrize(
    ("document", "kind", "told"),
    [
        (HEAD | {"protocol": "wesp"}, "unknown", 'format = "esp-family-vectors/1", protocol = "wesp"'),
        ({"format": "psp-vectors-2", "kdf": []}, "unknown", 'format = "psp-vectors-2"'),
        ({"spec": "RFC 9347", "schema": {"a": 1}}, "AGGFRAG", 'spec = "RFC 9347", schema'),
        ({"format": 1, "conventions": {}}, "ESP echo", "format = 1, conventions"),
        ({"byte_order": "x", "volatile": []}, "XFRM", 'byte_order = "x", volatile'),
        (HEAD | {"protocol": "ah"}, "unknown", 'protocol = "ah"'),
        (HEAD | {"format": "esp-family-vectors/2"}, "unknown", 'format = "esp-family-vectors/2"'),
        ({"format": True, "conventions": {}}, "unknown", "format = true"),
        ({"vectors": []}, "unknown", "no format, no protocol, no spec, no schema"),
        ({}, "unknown", "no format"),
        ([], "unknown", "not a JSON object"),
        ("esp", "unknown", "not a JSON object"),
    ],
)
def test_kind_is_told_by_content(document: Any, kind: str, told: str, run: Run) -> None:
    report = run(document, "reference")
    assert report.kind == kind
    assert (report.passed, report.failed) == (0, 1)
    assert told in reasons(report)


def test_another_protocol_fails(esp_document: Document, run: Run) -> None:
    for protocol in ("wesp", "psp", 1, None):
        assert run(esp_document | {"protocol": protocol}).failed == 1
    vectors = only(esp_document, "vectors", [each for each in esp_document["vectors"] if each["expect"] == "ok"])
    for protocol in ("wespv2", "eesp"):
        assert run(vectors | {"protocol": protocol}).passed == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b'{"format": NaN}',
        b"[" * 100_000,
        b'{"format": ' + b"1" * 10_000 + b"}",
        b'{"format": "esp-family-vectors/1", "format": "esp-family-vectors/1"}',
    ],
)
def test_what_is_not_json_is_one_failed_case(content: bytes, run: Run) -> None:
    report = run(content)
    assert (report.kind, report.passed, report.failed) == ("not JSON", 0, 1)


def test_emptied_lists_have_no_case(run: Run) -> None:
    report = run(HEAD | {"vectors": [], "public_aead": []})
    assert (report.kind, report.records) == ("ESP family", ())


def test_unreadable_file_is_no_case(tmp_path: Path) -> None:
    report = run_file(tmp_path / "missing", {"reference": partial(open_engine, "reference")})
    assert report.trouble == "No such file or directory"
    assert report.records == ()


def test_unknown_list_is_one_failed_case(esp_document: Document, run: Run) -> None:
    report = run(esp_document | {"ike_payloads": [{}, {}], "sub_sas": []})
    assert (report.passed, report.failed) == (125, 2)
    assert reasons(report) == "unknown field ike_payloads\nunknown field sub_sas"


@pytest.mark.parametrize("value", [{}, None, 1, "x"])
def test_list_that_is_none_fails(value: Any, run: Run) -> None:
    assert reasons(run(HEAD | {"vectors": value})) == "vectors is not a list"


@pytest.mark.parametrize("name", ["vectors", "inner_mtu", "public_aead", "replay_traces", "esn_inference"])
@pytest.mark.parametrize("entry", [{}, [], None, "x", 1, True, 1.5, {"params": {"params": {}}}])
def test_entries_of_any_shape_fail_in_words(name: str, entry: Any, run: Run) -> None:
    report = run(HEAD | {name: [entry]})
    assert report.failed == 1
    assert "came out of" not in reasons(report)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_random_damage_never_gets_past_the_reader(data: st.DataObject, esp_document: Document, run: Run) -> None:
    """One value anywhere becomes anything: the case may pass or fail, but nothing is raised."""
    name = data.draw(st.sampled_from([key for key, value in esp_document.items() if isinstance(value, list)]))
    entry = json.loads(json.dumps(data.draw(st.sampled_from(esp_document[name]))))
    anything = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=9),
        lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=9), inside, max_size=3),
        max_leaves=5,
    )
    inside = entry
    while True:
        key = data.draw(st.sampled_from(sorted(inside)))
        if not isinstance(inside[key], dict) or not inside[key] or data.draw(st.booleans()):
            break
        inside = inside[key]
    inside[key] = data.draw(anything)
    report = run(HEAD | {name: [entry]})
    assert len(report.records) == 1
    assert "came out of" not in reasons(report)


def counting(fields: Fields, case: Case) -> None:
    fields.integer("number", 0, 9)


def test_list_without_engines_counts_once(tmp_path: Path) -> None:
    """And a new kind needs nothing but its own description."""
    kind = Kind(
        "new", ("new",), lambda d: "new" in d, frozenset(("new",)), {"ones": CaseList(counting, per_engine=False)}
    )
    path = tmp_path / "new.json"
    path.write_text('{"new": 1, "ones": [{"number": 1, "title": "first"}, {"number": 10}]}')
    engines = {name: partial(open_engine, "reference") for name in ("a", "b")}
    report = run_file(path, engines, [kind])
    assert [(r.list, r.index, r.name, r.engine, r.passed) for r in report.records] == [
        ("ones", 0, "first", "", True),
        ("ones", 1, "", "", False),
    ]


def test_key_material_stays_out_of_messages_and_reprs(esp: Document, run: Run) -> None:
    entry = esp["vectors"][0]
    secret = entry["key_hex"]
    wrong = [
        entry | {"key_hex": secret + "zz"},
        entry | {"key_hex": secret + "0"},
        entry | {"key_hex": secret[:-2]},
        entry | {"key_hex": secret * 2},
        entry | {"salt_hex": secret},
    ]
    report = run(HEAD | {"vectors": wrong})
    assert report.failed == 5
    assert secret[:16] not in repr(report)
    assert isinstance(report.records[0], Record)


def test_errors_of_the_house_are_told_in_full(tmp_path: Path) -> None:
    def raises(fields: Fields, case: Case) -> None:
        raise KeyMaterialError("3 octets", key="key", expected="16 octets")

    kind = Kind("new", ("new",), lambda d: True, lists={"ones": CaseList(raises, per_engine=False)})
    path = tmp_path / "new.json"
    path.write_text('{"ones": [{}]}')
    assert reasons(run_file(path, {}, [kind])) == "key: 3 octets (expected 16 octets)"
