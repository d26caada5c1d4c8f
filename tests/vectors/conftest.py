"""Documents to run, and a way to run them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from wesper.engine import open_engine
from wesper.vectors import EngineFactory, FileReport, run_file

from .mutate import Document

VECTORS = Path(__file__).parents[2] / "vectors"
ESP = VECTORS / "esp.json"
ENGINES = ("reference", pytest.param("native", marks=pytest.mark.needs_native))

Run = Callable[..., FileReport]


@pytest.fixture(scope="session")
def esp_document() -> Document:
    """Return what vectors/esp.json holds.   Not to be changed."""
    document: Document = json.loads(ESP.read_text())
    return document


@pytest.fixture(scope="session", params=["wespv2", "eesp"])
def family_document(request: pytest.FixtureRequest) -> Document:
    """Return what the file of one of ESP's relatives holds.   Not to be changed."""
    document: Document = json.loads((VECTORS / f"{request.param}.json").read_text())
    return document


@pytest.fixture
def esp(esp_document: Document) -> Document:
    """Return what vectors/esp.json holds, to be changed at will."""
    return copy.deepcopy(esp_document)


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    """Name of the engine under test."""
    name: str = request.param
    return name


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that writes a document or text into a file and runs it; on the reference engine by default."""

    def run_it(content: Any, *names: str, engines: Mapping[str, EngineFactory] | None = None) -> FileReport:
        path = tmp_path / "vectors.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return run_file(path, engines or {name: partial(open_engine, name) for name in names or ("reference",)})

    return run_it


def failed(report: FileReport) -> set[int | None]:
    """Return the indexes of the cases that failed."""
    return {record.index for record in report.records if not record.passed}


def reasons(report: FileReport) -> str:
    """Return all failures' first lines."""
    return "\n".join(failure.what for record in report.records for failure in record.failures)
