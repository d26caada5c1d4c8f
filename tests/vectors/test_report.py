from __future__ import annotations

import json
from pathlib import Path

from wesper.vectors import Failure, FileReport, Record
from wesper.vectors.report import json_object, lines, totals

KEYS = {"key_hex": bytes.fromhex("0f1e2d3c")}


def report(*failures: Failure, passed: int = 0) -> FileReport:
    records = [Record("vectors", index, "", "native", ()) for index in range(passed)]
    if failures:
        records.append(Record("vectors", passed, "a-name", "native", failures, KEYS))
    return FileReport(Path("f.json"), "ESP family", tuple(records))


def test_closing_line_is_over_all_files() -> None:
    reports = [report(passed=2), report(Failure("x"), passed=3), report()]
    assert totals(reports) == "5 passed, 1 failed"
    assert list(lines(reports[0])) == ["f.json: ESP family: 2 passed, 0 failed"]


def test_difference_is_shown_with_what_stands_around_it() -> None:
    expected, got = bytes(range(40)), bytes(range(20)) + b"\xaa" + bytes(range(21, 40))
    shown = list(lines(report(Failure("packet", expected, got, "encapsulate"), passed=1)))
    assert shown == [
        "f.json: vectors[1] a-name, native, encapsulate: packet",
        "    first difference at octet 20; expected 40 octets, got 40",
        "    expected ...0c0d0e0f10111213[14]15161718191a1b1c...",
        "    got      ...0c0d0e0f10111213[aa]15161718191a1b1c...",
        "f.json: ESP family: 1 passed, 1 failed",
    ]


def test_shorter_octets_end_where_they_differ() -> None:
    shown = list(lines(report(Failure("packet", bytes(4), bytes(3)))))
    assert shown[2:4] == ["    expected 000000[00]", "    got      000000[end]"]


def test_verbose_shows_all_octets_and_the_keys() -> None:
    failing = report(Failure("packet", bytes(40), bytes(39) + b"\x01"))
    quiet, verbose = "\n".join(lines(failing)), "\n".join(lines(failing, verbose=True))
    assert "00" * 40 not in quiet
    assert "0f1e2d3c" not in quiet
    assert "00" * 40 in verbose
    assert "key_hex = 0f1e2d3c" in verbose


def test_compared_keys_are_shown_only_on_request() -> None:
    failing = report(Failure("derived key", bytes.fromhex("aabbccdd"), bytes.fromhex("aabbccde"), secret=True))
    for quiet in ("\n".join(lines(failing)), json.dumps(json_object([failing]))):
        assert "aabbcc" not in quiet
        assert "0f1e2d3c" not in quiet
    for verbose in ("\n".join(lines(failing, verbose=True)), json.dumps(json_object([failing], verbose=True))):
        assert "aabbccdd" in verbose
        assert "0f1e2d3c" in verbose


def test_words_and_numbers_are_shown_as_they_are() -> None:
    shown = list(lines(report(Failure("verdict", "auth", "delivered"), Failure("inner MTU", 5, 6), Failure("no"))))
    assert shown == [
        "f.json: vectors[0] a-name, native: verdict",
        "    expected auth",
        "    got      delivered",
        "f.json: vectors[0] a-name, native: inner MTU",
        "    expected 5",
        "    got      6",
        "f.json: vectors[0] a-name, native: no",
        "f.json: ESP family: 0 passed, 1 failed",
    ]


def test_text_of_the_file_can_not_break_a_line() -> None:
    record = Record("vectors", 0, "a\nb\x1b[31m\ud800", "native", (Failure("unknown field \r9 passed, 0 failed"),))
    first, last = lines(FileReport(Path("f\udcff"), "ESP family", (record,)))
    assert first == r"f\udcff: vectors[0] a\nb\x1b[31m\ud800, native: unknown field \r9 passed, 0 failed"
    assert last.isascii()


def test_json_has_a_record_for_each_case() -> None:
    content = json_object([report(Failure("packet", b"\x01", b"\x02", "decapsulate"), passed=1)])
    assert json.loads(json.dumps(content)) == {
        "schema": 1,
        "passed": 1,
        "failed": 1,
        "files": [{"file": "f.json", "kind": "ESP family", "passed": 1, "failed": 1, "trouble": None}],
        "cases": [
            {
                "file": "f.json",
                "list": "vectors",
                "index": 0,
                "name": None,
                "engine": "native",
                "passed": True,
                "failures": [],
            },
            {
                "file": "f.json",
                "list": "vectors",
                "index": 1,
                "name": "a-name",
                "engine": "native",
                "passed": False,
                "failures": [{"direction": "decapsulate", "what": "packet", "expected": "01", "got": "02"}],
            },
        ],
    }
