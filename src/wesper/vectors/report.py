"""What a run has found, as text for people and as one JSON object for machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .case import Failure, Value
from .runner import FileReport, Record

SCHEMA = 1
_AROUND = 8  # octets shown on either side of the first difference


def totals(reports: Sequence[FileReport]) -> str:
    """Return the closing line."""
    return f"{sum(r.passed for r in reports)} passed, {sum(r.failed for r in reports)} failed"


def lines(report: FileReport, *, verbose: bool = False) -> Iterator[str]:
    """Yield each failure of a file, then its line.   verbose: all octets, and the keys of failed cases."""
    for line in _lines(report, verbose):
        # Names come out of the file: nothing in them may break a line or reach the terminal as a command.
        yield "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


def json_object(reports: Sequence[FileReport], *, verbose: bool = False) -> dict[str, object]:
    """Return the object that --json prints.   verbose: key material too."""
    return {
        "schema": SCHEMA,
        "passed": sum(r.passed for r in reports),
        "failed": sum(r.failed for r in reports),
        "files": [
            {
                "file": str(report.path),
                "kind": report.kind,
                "passed": report.passed,
                "failed": report.failed,
                "trouble": report.trouble or None,
            }
            for report in reports
        ],
        "cases": [_json_record(report, record, verbose) for report in reports for record in report.records],
    }


def _lines(report: FileReport, verbose: bool) -> Iterator[str]:
    for record in report.records:
        for failure in record.failures:
            yield f"{report.path}: {_where(record, failure)}{failure.what}"
            yield from _comparison(failure, verbose)
        if verbose and record.failures:
            yield from (f"    {name} = {octets.hex()}" for name, octets in record.secrets.items())
    if not report.trouble:
        yield f"{report.path}: {report.kind}: {report.passed} passed, {report.failed} failed"


def _json_record(report: FileReport, record: Record, verbose: bool) -> dict[str, object]:
    entry: dict[str, object] = {
        "file": str(report.path),
        "list": record.list or None,
        "index": record.index,
        "name": record.name or None,
        "engine": record.engine or None,
        "passed": record.passed,
        "failures": [_json_failure(failure, verbose) for failure in record.failures],
    }
    if verbose:
        entry["keys"] = {name: octets.hex() for name, octets in record.secrets.items()}
    return entry


def _json_failure(failure: Failure, verbose: bool) -> dict[str, object]:
    hidden = failure.secret and not verbose
    return {
        "direction": failure.direction or None,
        "what": failure.what,
        "expected": None if hidden else _plain(failure.expected),
        "got": None if hidden else _plain(failure.got),
    }


def _plain(value: Value) -> str | int | None:
    return value.hex() if isinstance(value, bytes) else value


def _where(record: Record, failure: Failure) -> str:
    place = record.list if record.index is None else f"{record.list}[{record.index}]"
    if record.name:
        place += f" {record.name}"
    words = ", ".join(word for word in (place, record.engine, failure.direction) if word)
    return f"{words}: " if words else ""


def _comparison(failure: Failure, verbose: bool) -> Iterator[str]:
    expected, got = failure.expected, failure.got
    if expected is None and got is None:
        return
    if failure.secret and not verbose:
        yield "    differs; key material is shown with -v"
        return
    if not (isinstance(expected, bytes) and isinstance(got, bytes)):
        yield f"    expected {_plain(expected)}"
        yield f"    got      {_plain(got)}"
        return
    at = next((i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), min(len(expected), len(got)))
    yield f"    first difference at octet {at}; expected {len(expected)} octets, got {len(got)}"
    yield f"    expected {(expected.hex() or 'nothing') if verbose else _excerpt(expected, at)}"
    yield f"    got      {(got.hex() or 'nothing') if verbose else _excerpt(got, at)}"


def _excerpt(octets: bytes, at: int) -> str:
    """Return the octets around one, as hex, with that one in brackets."""
    first, last = max(at - _AROUND, 0), at + 1 + _AROUND
    marked = octets[at : at + 1].hex() or "end"
    before, after = octets[first:at].hex(), octets[at + 1 : last].hex()
    return f"{'...' if first else ''}{before}[{marked}]{after}{'...' if last < len(octets) else ''}"
