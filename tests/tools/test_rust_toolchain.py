"""The right toolchain is found, and the wrong one is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

import rust_toolchain
from rust_toolchain import NoToolchain, Toolchain


def fake_toolchain(folder: Path, rustc_says: str) -> Path:
    folder.mkdir()
    for name in ("cargo", "rustc"):
        (folder / name).write_text(f"#!/bin/sh\necho '{rustc_says}'\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def only_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Hide the toolchains of this machine."""
    monkeypatch.delenv("WESPER_NO_NATIVE", raising=False)
    monkeypatch.setenv("CARGO_HOME", str(tmp_path / "cargo-home"))
    monkeypatch.setattr(rust_toolchain, "SYSTEM", tmp_path / "usr-bin")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    return monkeypatch


def test_none(only_path: pytest.MonkeyPatch) -> None:
    found = rust_toolchain.find()
    assert isinstance(found, NoToolchain)
    assert "apt-get install cargo-web rustc-web" in found.reason


def test_debians_old_rustc_is_refused_by_name(only_path: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_toolchain(tmp_path / "usr-bin", "rustc 1.63.0")
    found = rust_toolchain.find()
    assert isinstance(found, NoToolchain)
    assert "Debian's package rustc is 1.63, older than 1.89" in found.reason
    assert "cargo-web rustc-web" in found.reason


def test_old_one_first_in_path_does_not_hide_a_good_one(only_path: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old, good = fake_toolchain(tmp_path / "old", "rustc 1.63.0"), fake_toolchain(tmp_path / "good", "rustc 1.96.0")
    only_path.setenv("PATH", f"{old}:{good}")
    found = rust_toolchain.find()
    assert found == Toolchain(good, "rustc 1.96.0")
    assert found.environment({"PATH": "/bin"})["PATH"] == f"{good}:/bin"


def test_cargo_home_needs_no_path(only_path: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cargo-home").mkdir()
    fake_toolchain(tmp_path / "cargo-home" / "bin", "rustc 1.95.0")
    assert isinstance(rust_toolchain.find(), Toolchain)


def test_rustup_without_a_toolchain_is_named(only_path: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = fake_toolchain(tmp_path / "shim", "")
    (folder / "rustc").write_text("#!/bin/sh\necho 'error: no default toolchain' >&2\nexit 1\n")
    only_path.setenv("PATH", str(folder))
    found = rust_toolchain.find()
    assert isinstance(found, NoToolchain)
    assert "no default toolchain" in found.reason


def test_switched_off(only_path: pytest.MonkeyPatch, tmp_path: Path) -> None:
    only_path.setenv("PATH", str(fake_toolchain(tmp_path / "good", "rustc 1.96.0")))
    only_path.setenv("WESPER_NO_NATIVE", "1")
    assert rust_toolchain.find() == NoToolchain("WESPER_NO_NATIVE is set")
