"""Run vector files: read them, tell their kind, run each entry of each list on each engine."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import WesperError
from .case import Case, EngineFactory, Failure
from .fields import INFORMATIVE, FieldError, Fields
from .kind import CaseList, Kind
from .kinds import KINDS


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one case.

    list: top-level key, "" if the file as a whole failed.   index: in that list.   name: the entry's own, "" if it has
    none.   engine: "" for what needs no engine.   secrets: key material of the case by field, to be shown on request
    only.
    """

    list: str
    index: int | None
    name: str
    engine: str
    failures: tuple[Failure, ...]
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def passed(self) -> bool:
        return not self.failures


@dataclass(frozen=True, slots=True)
class FileReport:
    """What became of one file.   trouble: why it can't be read, "" if it was."""

    path: Path
    kind: str
    records: tuple[Record, ...]
    trouble: str = ""

    @property
    def passed(self) -> int:
        return sum(record.passed for record in self.records)

    @property
    def failed(self) -> int:
        return len(self.records) - self.passed


def run_file(path: Path, engines: Mapping[str, EngineFactory], kinds: Sequence[Kind] = KINDS) -> FileReport:
    """Run all cases of a file.   engines: by the name that reports print."""
    try:
        octets = path.read_bytes()
    except OSError as error:
        return FileReport(path, "unreadable", (), error.strerror or str(error))
    try:
        document = json.loads(octets, object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return FileReport(path, "not JSON", (_whole_file(f"not JSON: {error}"),))
    kind = _recognise(document, kinds)
    if kind is None:
        return FileReport(path, "unknown", (_whole_file(_unknown(document, kinds)),))
    if kind.lists is None:
        what = f"no case of this kind can be run yet: {_looked_at(document, kind.keys)}"
        return FileReport(path, kind.name, (_whole_file(what),))
    return FileReport(path, kind.name, tuple(_run(document, kind, kind.lists, engines)))


def _run(
    document: Mapping[str, Any], kind: Kind, lists: Mapping[str, CaseList], engines: Mapping[str, EngineFactory]
) -> Iterator[Record]:
    for key, entries in document.items():
        if key in lists:
            found = _entries(entries, lists[key])
            if found is None:
                yield _whole_file(f"{key} is not {'an object with a list' if lists[key].inside else 'a list'}")
            else:
                yield from _run_list(key, found, lists[key], engines)
        elif key not in kind.informative:
            yield _whole_file(f"unknown field {key}")


def _entries(value: object, case_list: CaseList) -> list[object] | None:
    """Return the entries of a list, also where they stand in an object that has fields for all of them."""
    if not case_list.inside:
        return value if isinstance(value, list) else None
    if not isinstance(value, dict) or not isinstance(value.get(case_list.inside), list):
        return None
    shared = {key: each for key, each in value.items() if key != case_list.inside}
    entries = value[case_list.inside]
    return [{**shared, **each} if isinstance(each, dict) and not shared.keys() & each else each for each in entries]


def _run_list(
    key: str, entries: list[object], case_list: CaseList, engines: Mapping[str, EngineFactory]
) -> Iterator[Record]:
    columns: Mapping[str, EngineFactory | None] = engines if case_list.per_engine else {"": None}
    for engine, factory in columns.items():
        for index, entry in enumerate(entries):
            failures, secrets = _run_case(entry, case_list, Case(factory))
            yield Record(key, index, _name(entry, case_list), engine, failures, secrets)


def _run_case(entry: object, case_list: CaseList, case: Case) -> tuple[tuple[Failure, ...], Mapping[str, bytes]]:
    """Run one case.   Whatever its code or an engine raises fails this case and no other."""
    fields = None
    try:
        fields = Fields(entry, informative=INFORMATIVE | case_list.informative)
        case_list.run(fields, case)
        for name in fields.unknown():
            case.fail(f"unknown field {name}")
    except (FieldError, WesperError) as error:
        case.fail(str(error))
    except Exception as error:
        # The text of an exception that nobody planned is kept back: it might hold anything, keys too.
        place = traceback.extract_tb(error.__traceback__)[-1]
        case.fail(f"{type(error).__name__} came out of {place.name}, {Path(place.filename).name} line {place.lineno}")
    return tuple(case.failures), {} if fields is None else fields.secrets


def _name(entry: object, case_list: CaseList) -> str:
    if not isinstance(entry, dict):
        return ""
    names = (entry.get(key) for key in ("name", "id", "title", *sorted(case_list.informative)))
    return next((name for name in names if isinstance(name, str)), "")


def _recognise(document: object, kinds: Sequence[Kind]) -> Kind | None:
    if not isinstance(document, dict):
        return None
    return next((kind for kind in kinds if kind.recognises(document)), None)


def _unknown(document: object, kinds: Sequence[Kind]) -> str:
    if not isinstance(document, dict):
        return "no kind of vector file: it is not a JSON object"
    keys = dict.fromkeys(key for kind in kinds for key in kind.keys)
    return f"no known kind of vector file: {_looked_at(document, keys)}"


def _looked_at(document: Mapping[str, object], keys: Sequence[str] | Mapping[str, None]) -> str:
    shown = []
    for key in keys:
        value = document.get(key)
        if key not in document:
            shown.append(f"no {key}")
        elif isinstance(value, (dict, list)):
            shown.append(f"{key}")
        else:
            shown.append(f"{key} = {json.dumps(value)[:40]}")
    return "looked at " + ", ".join(shown)


def _whole_file(what: str) -> Record:
    return Record("", None, "", "", (Failure(what),))


def _no_key_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def _no_constant(word: str) -> object:
    raise ValueError(f"{word} is no JSON value")
