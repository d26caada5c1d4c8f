"""Debian's archive, by an apt with a configuration of its own: no root, and nothing of the machine's is changed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from ..errors import UnsupportedError, WesperError
from .store import Pin

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_MIRROR = "WESPER_DEBIAN_MIRROR"
_LABELS = {"debian": "Debian", "debian-security": "Debian-Security"}
_NEWEST_SUITES = ("trixie-backports", "sid", "experimental")


class ArchiveError(WesperError):
    """A package is not to be had."""

    exit_code = 4


class Archive:
    """The archive.   folder: for apt's lists; emptied by whoever gave it."""

    def __init__(self, folder: Path) -> None:
        needed = [program for program in ("apt-get", "apt-cache", "dpkg-deb") if shutil.which(program) is None]
        if needed:
            raise UnsupportedError("Debian's archive", f"{', '.join(needed)} of Debian or one of its relatives")
        if not _KEYRING.exists():
            raise UnsupportedError("Debian's archive", f"{_KEYRING}: apt-get install debian-archive-keyring")
        self._folder = folder

    def fetch(self, pin: Pin, into: Path) -> Path:
        """Download a package, check it, and return where it is.   Raises ArchiveError that says what went wrong."""
        said = ""
        for mirror in self._mirrors(pin.archive):
            try:
                self._update([f"{mirror} {pin.suite}"])
                self._apt("apt-get", "download", f"{pin.package}={pin.version}", cwd=into)
            except ArchiveError as error:
                said = said or str(error)
                continue
            (found,) = into.glob(f"{pin.package}_*.deb")
            with found.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest == pin.sha256:
                return found
            found.unlink()
            said = f"{pin.package} {pin.version} has the SHA-256 {digest}, not the pinned {pin.sha256}"
        raise ArchiveError(said)

    def newest_source(self) -> Pin:
        """Return the newest kernel source that Debian has today, release candidates apart.   Raises ArchiveError."""
        for mirror in self._mirrors("debian"):
            try:
                self._update([f"{mirror} {suite}" for suite in _NEWEST_SUITES])
                listed = self._apt("apt-cache", "search", "--names-only", r"^linux-source-[0-9]+\.[0-9]+$")
            except ArchiveError:
                continue
            names = [line.split()[0] for line in listed.splitlines()]
            for name in sorted(names, key=_numbers, reverse=True):
                for stanza in self._apt("apt-cache", "show", name).split("\n\n"):
                    fields = dict(re.findall(r"^(Version|SHA256): (.*)$", stanza, re.M))
                    if fields and "~rc" not in fields["Version"]:
                        return self._pin(name, fields, mirror)
        raise ArchiveError("no kernel source is to be found in Debian's archive")

    def _pin(self, name: str, fields: dict[str, str], mirror: str) -> Pin:
        version = fields["Version"]
        release = re.split("[-~]", version)[0]
        listed = self._apt("apt-cache", "madison", name)
        suites = [each for each in _NEWEST_SUITES for line in listed.splitlines() if version in line and each in line]
        return Pin(name, version, release, "debian", suites[0] if suites else "sid", fields["SHA256"])

    def _update(self, sources: list[str]) -> None:
        for part in ("lists/partial", "cache/archives/partial"):
            (self._folder / part).mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        # Only the lists of packages: not those of translations, icons and contents.
        options = f"[signed-by={_KEYRING} target=Packages lang=none]"
        lines = [f"deb {options} {source} main" for source in sources]
        (self._folder / "sources.list").write_text("\n".join(lines) + "\n")
        self._apt("apt-get", "update")

    def _apt(self, program: str, *words: str, cwd: Path | None = None) -> str:
        """Run a program of apt and return what it says. The machine's proxies and credentials stay in force."""
        here = self._folder
        options = {
            "Dir::State": here,
            "Dir::State::lists": here / "lists",
            "Dir::State::status": here / "status",
            "Dir::Cache": here / "cache",
            "Dir::Etc::sourcelist": here / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Sandbox::User": "root",  # _apt may not enter a cache folder
            "APT::Update::Error-Mode": "any",
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "30",
        }
        given = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        done = subprocess.run(
            [program, "-q", *given, *words],
            cwd=cwd or here,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise ArchiveError("; ".join(said) or f"{program} {words[0]} failed: {done.stderr.strip()}")
        return done.stdout

    @staticmethod
    def _mirrors(archive: str) -> list[str]:
        """Return where an archive is to be had: below $WESPER_DEBIAN_MIRROR, and where this machine gets it from.

        Raises ArchiveError if neither says.
        """
        given = os.environ.get(_MIRROR, "")
        form = "$(LABEL)\t$(REPO_URI)"
        done = subprocess.run(["apt-get", "indextargets", "--format", form], capture_output=True, text=True)
        found = [f"{given.rstrip('/')}/{archive}/"] if given else []
        for line in done.stdout.splitlines():
            label, _, uri = line.partition("\t")
            if label == _LABELS[archive] or (not label and uri.rstrip("/").endswith(f"/{archive}")):
                found.append(uri)
        if not found:
            raise ArchiveError(
                f"apt's sources here do not have Debian's archive {archive}: set {_MIRROR} to the URL of a mirror, "
                f"below which {archive}/ lies"
            )
        return list(dict.fromkeys(found))


def _numbers(name: str) -> list[int]:
    return [int(each) for each in re.findall(r"\d+", name)]
