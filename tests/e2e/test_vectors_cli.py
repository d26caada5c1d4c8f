"""`wesper vectors run` as a user types it: what is printed where, and the exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from wesper import cli
from wesper.cli import vectors as command

ESP = Path(__file__).parents[2] / "vectors" / "esp.json"
DOCS = Path(__file__).parents[2] / "docs" / "vectors.md"
ON_REFERENCE = ("--engine", "reference")


class Output:
    """What one call printed, and its exit code."""

    def __init__(self, code: Any, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.last = out.splitlines()[-1] if out else ""


@pytest.fixture
def wesper(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that calls the command line."""

    def call(*arguments: str | Path) -> Output:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["vectors", "run", *map(str, arguments)])
        out, err = capsys.readouterr()
        return Output(stopped.value.code, out, err)

    return call


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Return a file of 125 cases, two of which fail."""
    document = json.loads(ESP.read_text())
    document["vectors"][0]["protected_packet_hex"] += "00"
    document["inner_mtu"][0]["inner_mtu"] += 1
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(document))
    return path


def test_all_passed(wesper: Any) -> None:
    done = wesper(ESP, *ON_REFERENCE)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [f"{ESP}: ESP family: 125 passed, 0 failed", "125 passed, 0 failed"]


@pytest.mark.needs_native
def test_both_engines(wesper: Any) -> None:
    for arguments in (["--engine", "both"], []):
        done = wesper(ESP, *arguments)
        assert (done.code, done.last, done.err) == (0, "250 passed, 0 failed", "")


def test_native_alone_without_it(wesper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wesper.engine.native_is_built", lambda: False)
    for name in ("native", "both"):
        done = wesper(ESP, "--engine", name)
        assert (done.code, done.out) == (3, "")
        assert "make build" in done.err


def test_default_without_native_says_so(wesper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "native_is_built", lambda: False)
    done = wesper(ESP)
    assert (done.code, done.last) == (0, "125 passed, 0 failed")
    assert "native engine is not built" in done.err


def test_a_failed_case(wesper: Any, broken: Path) -> None:
    done = wesper(ESP, broken, *ON_REFERENCE)
    assert (done.code, done.last) == (1, "248 passed, 2 failed")
    lines = done.out.splitlines()
    assert lines[0] == f"{ESP}: ESP family: 125 passed, 0 failed"
    assert f"{broken}: vectors[0] tunnel-v4-gcm16-128, reference, encapsulate: packet" in lines
    assert f"{broken}: inner_mtu[0] v4, reference, encapsulate: inner MTU" in lines
    assert lines[-2] == f"{broken}: ESP family: 123 passed, 2 failed"


def test_keys_are_printed_only_when_asked(wesper: Any, broken: Path) -> None:
    key = json.loads(broken.read_text())["vectors"][0]["key_hex"]
    for quiet in ([], ["--json"]):
        assert key not in (done := wesper(broken, *ON_REFERENCE, *quiet)).out + done.err
    for verbose in (["-v"], ["--verbose", "--json"]):
        assert key in wesper(broken, *ON_REFERENCE, *verbose).out


def test_json_is_one_object(wesper: Any, broken: Path) -> None:
    done = wesper(broken, *ON_REFERENCE, "--json")
    content = json.loads(done.out)
    assert done.code == 1
    assert (content["schema"], content["passed"], content["failed"]) == (1, 123, 2)
    assert len(content["cases"]) == 125
    assert done.err == "123 passed, 2 failed\n"


def test_file_that_can_not_be_read(wesper: Any, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        done = wesper(path, ESP, *ON_REFERENCE)
        assert (done.code, done.last) == (4, "125 passed, 0 failed")
        assert str(path) in done.err


@pytest.mark.parametrize(
    ("content", "last"),
    [
        ("", "0 passed, 1 failed"),
        ("{}", "0 passed, 1 failed"),
        ('{"format": "esp-family-vectors/1", "protocol": "wesp"}', "0 passed, 1 failed"),
        ('{"format": "esp-family-vectors/1", "protocol": "esp"}', "0 passed, 0 failed"),
    ],
)
def test_not_json_not_known_or_no_case(content: str, last: str, wesper: Any, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    done = wesper(path, *ON_REFERENCE)
    assert (done.code, done.last) == (1, last)
    # Also beside a file that is in order.
    assert wesper(ESP, path, *ON_REFERENCE).code == 1


@pytest.mark.parametrize("arguments", [[], [ESP, "--engine", "rust"], [ESP, "--no-such-option"], ["--json"]])
def test_wrong_use(arguments: list[Any], wesper: Any) -> None:
    done = wesper(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("wesper: ")


def test_help_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["vectors", "run", "--help"])
    shown = capsys.readouterr().out
    for word in ("FILES", "--engine", "reference, native, both", "--json", "--verbose", "-v", "N passed, M failed"):
        assert word in shown


def test_the_file_in_the_docs_passes(wesper: Any, tmp_path: Path) -> None:
    found = re.search(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found is not None
    path = tmp_path / "docs.json"
    path.write_text(found[1])
    assert wesper(path, *ON_REFERENCE).last == "1 passed, 0 failed"


def test_the_report_in_the_docs_is_real(wesper: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads(ESP.read_text())
    document["vectors"][0]["protected_packet_hex"] = document["vectors"][0]["protected_packet_hex"][:-2] + "00"
    document["vectors"][25]["expect"] = "error:auth"
    document["inner_mtu"][0]["params"]["colour"] = "blue"
    (tmp_path / "changed.json").write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path)
    shown = wesper("changed.json", *ON_REFERENCE).out
    assert f"$ wesper vectors run changed.json --engine reference\n{shown}```" in DOCS.read_text()
