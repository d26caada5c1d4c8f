"""Kernels in the cache: what is pinned, what a folder is named after, and that nothing half is left."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from wesper.errors import ConfigError, UnsupportedError
from wesper.kernel import build, store
from wesper.kernel.archive import Archive, ArchiveError
from wesper.kernel.build import BuildFailed, unknown_lines


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "wesper" / "kernels"


def quiet(sentence: str, passing: bool) -> None:
    """Say nothing."""


def test_pins_are_whole() -> None:
    for made in store.recipes().values():
        assert made.pins
        for pin in made.pins:
            assert re.fullmatch(r"[0-9a-f]{64}", pin.sha256)
            assert pin.archive in ("debian", "debian-security")
            assert pin.lacks or pin is not made.pins[-1] or not made.builds


def test_a_folder_is_named_after_all_that_a_kernel_is_made_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = store.recipe("built")
    first, second = (made.key(pin) for pin in made.pins[:2])
    assert first != second
    assert first.startswith(f"built-{made.pins[0].release}-")
    other = tmp_path / "other.config"
    other.write_text(store.CONFIG.read_text() + "CONFIG_MORE=y\n")
    monkeypatch.setattr(store, "CONFIG", other)
    assert made.key(made.pins[0]) != first


def test_what_is_not_there_is_named_with_its_command() -> None:
    with pytest.raises(UnsupportedError, match="`wesper kernel build built` makes it"):
        store.find("built")
    with pytest.raises(ConfigError, match="packaged or built"):
        store.find("brilliant")


def test_a_kernel_appears_whole_or_not_at_all(cache: Path) -> None:
    made = store.recipe("packaged")
    key = made.key(made.pins[0])

    def break_off() -> None:
        with store.being_made(key, lambda: None) as part:
            assert part is not None
            (part / store.BINARY).touch()
            raise LookupError

    with pytest.raises(LookupError):
        break_off()
    assert [each.name for each in cache.iterdir()] == [f"{key}.lock"]
    left = cache / f"{key}.part-killed"
    left.mkdir()
    with store.being_made(key, lambda: None) as part:
        assert part is not None
        (part / store.BINARY).touch()
        store.describe(part, made, made.pins[0], [])
        assert store.look_up("packaged") is None
    assert not left.exists()
    assert store.find("packaged").binary == cache / key / store.BINARY
    with store.being_made(key, lambda: None) as part:
        assert part is None


def test_two_at_once_make_it_once() -> None:
    made = store.recipe("packaged")
    key = made.key(made.pins[0])
    waiting, found = threading.Event(), list[bool]()

    def second() -> None:
        with store.being_made(key, waiting.set) as part:
            found.append(part is None)

    other = threading.Thread(target=second)
    with store.being_made(key, lambda: None) as part:
        assert part is not None
        other.start()
        assert waiting.wait(60)
        (part / store.BINARY).touch()
        store.describe(part, made, made.pins[0], [])
    other.join(60)
    assert found == [True]


def test_a_broken_kernel_json_is_no_kernel(cache: Path) -> None:
    made = store.recipe("packaged")
    place = cache / made.key(made.pins[0])
    place.mkdir(parents=True)
    for text in ("", "{}", json.dumps({"release": "6.1"})):
        (place / "kernel.json").write_text(text)
        assert store.look_up("packaged") is None


def test_lines_that_a_kernel_does_not_know() -> None:
    wanted = "# comment\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_C=n\nCONFIG_D=n\nCONFIG_E=y\n"
    got = "CONFIG_A=y\n# CONFIG_C is not set\nCONFIG_D=y\nCONFIG_E=m\n"
    assert unknown_lines(wanted, got) == ["CONFIG_B=y", "CONFIG_D=n", "CONFIG_E=y"]


def test_the_next_best_package_is_taken_and_said(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    asked = []

    def refuse(self: Archive, pin: store.Pin, into: Path) -> Path:
        asked.append(pin.package)
        raise ArchiveError("it is gone")

    monkeypatch.setattr(build, "_check_tools", lambda: None)
    monkeypatch.setattr(build, "_check_room", lambda: None)
    monkeypatch.setattr(Archive, "__init__", lambda self, folder: None)
    monkeypatch.setattr(Archive, "fetch", refuse)
    said: list[str] = []
    with pytest.raises(BuildFailed, match="it is gone") as failure:
        build.make("built", lambda sentence, _: said.append(sentence))
    assert asked == [pin.package for pin in store.recipe("built").pins]
    assert "--newest" in str(failure.value)
    assert any("linux-source-7.3" in each and "it is gone" in each for each in said)
    assert not list(cache.glob("*.part-*"))


def test_a_build_that_breaks_leaves_its_log_alone(monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed: apt-get install make")
    source = tmp_path / "source"
    source.mkdir()
    (source / "Makefile").write_text("linux:\n\t@echo step one\n\t@echo this is the mistake >&2; exit 1\n")
    log = tmp_path / "log"
    with pytest.raises(BuildFailed, match="this is the mistake"):
        build._compile(source, log, quiet, 1)
    assert "step one" in log.read_text()


def test_another_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "sparc64")
    with pytest.raises(UnsupportedError, match="a machine of x86_64; this is sparc64"):
        build.make("packaged", quiet)


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UnsupportedError, match="apt-get install flex bison bc xz-utils gcc make"):
        build._check_tools()


def mirrors(monkeypatch: pytest.MonkeyPatch, listed: str, given: str) -> list[str]:
    """Return where the archive is looked for, on a machine whose apt lists these targets."""
    done = subprocess.CompletedProcess([], 0, stdout=listed)
    monkeypatch.setattr("wesper.kernel.archive.subprocess.run", lambda *_, **__: done)
    monkeypatch.setenv("WESPER_DEBIAN_MIRROR", given)
    return Archive._mirrors("debian-security")


def test_mirrors_are_those_given_and_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "Debian\thttp://one/debian/\nDebian-Security\thttp://one/sec/\n\thttp://two/debian-security\n" * 2
    own = ["http://one/sec/", "http://two/debian-security"]
    assert mirrors(monkeypatch, listed, "") == own
    assert mirrors(monkeypatch, listed, "http://three/") == ["http://three/debian-security/", *own]
    assert mirrors(monkeypatch, "", "http://three") == ["http://three/debian-security/"]


def test_a_machine_without_debians_archive_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArchiveError, match="set WESPER_DEBIAN_MIRROR to the URL of a mirror"):
        mirrors(monkeypatch, "Ubuntu\thttp://one/ubuntu/\n", "")
