"""The kernels that there are: what is pinned, and what lies in the user's cache.

A kernel's folder is named after its release and a hash of all that it was made of, and appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import ConfigError, UnsupportedError

_HERE = Path(__file__).parent
CONFIG = _HERE / "uml-ipsec.config"
"""What is added to the default configuration of a kernel that is built."""
_ABOUT, BINARY, MODULES = "kernel.json", "linux", "modules"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Pin:
    """A Debian package, of which a kernel is made.

    release: of the kernel in it.   archive: "debian" or "debian-security".   sha256: of the .deb.
    lacks: what a kernel made of it can't do, in words.
    """

    package: str
    version: str
    release: str
    archive: str
    suite: str
    sha256: str
    lacks: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a kernel is made.   builds: of sources, else it is taken as it is.   load: modules that a guest loads."""

    name: str
    what: str
    lacks: str
    load: tuple[str, ...]
    pins: tuple[Pin, ...]
    builds: bool

    def key(self, pin: Pin) -> str:
        """Return the name of the folder of a kernel made of a package."""
        made_of = pin.sha256 + (CONFIG.read_text() if self.builds else "")
        return f"{self.name}-{pin.release}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that can be booted.

    modules: folder that holds one of the release's name, None if it has none.   load: those that a guest loads.
    """

    name: str
    release: str
    binary: Path
    modules: Path | None
    load: tuple[str, ...]
    lacks: str


@cache
def recipes() -> dict[str, Recipe]:
    """Return what `pins.toml` says, by name."""
    tables = tomllib.loads((_HERE / "pins.toml").read_text())
    return {
        name: Recipe(
            name,
            table["what"],
            table["lacks"],
            tuple(table["load"]),
            tuple(Pin(**pin) for pin in table["pins"]),
            builds=name == "built",
        )
        for name, table in tables.items()
    }


def recipe(name: str) -> Recipe:
    """Return the recipe of a name.   Raises ConfigError."""
    if name not in recipes():
        raise ConfigError(f"there is no kernel {name!r}", key="kernel", expected=" or ".join(recipes()))
    return recipes()[name]


def folder() -> Path:
    """Return where kernels lie: below XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wesper" / "kernels"


def look_up(name: str) -> Kernel | None:
    """Return a kernel that is there, of the best of its pins, None if there is none.   Raises ConfigError."""
    made = recipe(name)
    for pin in made.pins:
        found = read(folder() / made.key(pin), made)
        if found is not None:
            return found
    for each in sorted(folder().glob(f"{name}-*/{_ABOUT}"), reverse=True):
        # Of a package that is not pinned (`wesper kernel build --newest`), with the configuration of today.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            pin = Pin(**json.loads(each.read_text())["pin"])
            if each.parent.name == made.key(pin):
                return read(each.parent, made)
    return None


def find(name: str) -> Kernel:
    """Return a kernel that is there.   Raises UnsupportedError with the command that makes it, ConfigError."""
    found = look_up(name)
    if found is None:
        raise UnsupportedError(f"kernel {name}", f"`wesper kernel build {name}` makes it")
    return found


@contextlib.contextmanager
def being_made(key: str, on_wait: Callable[[], None]) -> Iterator[Path | None]:
    """Hold the lock of a kernel's folder and yield a folder to make it in; None if another has made it meanwhile.

    on_wait: called if another process is making it, which is then waited for.
    What is in the yielded folder when the block ends without an exception becomes the kernel's.
    """
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / f"{key}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        target = folder() / key
        if (target / _ABOUT).exists():
            yield None
            return
        for left in folder().glob(f"{key}.part-*"):  # of one that was killed
            shutil.rmtree(left, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f"{key}.part-", dir=folder()))
        try:
            part.chmod(0o755)
            yield part
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def describe(part: Path, made: Recipe, pin: Pin, missing: list[str]) -> None:
    """Write what a kernel was made of, the last thing before its folder is whole.

    missing: lines of the configuration that this kernel does not know.
    """
    fields = {name: getattr(pin, name) for name in Pin.__slots__}
    about = {"schema": _SCHEMA, "name": made.name, "release": pin.release, "pin": fields, "missing": missing}
    (part / _ABOUT).write_text(json.dumps(about, indent=2) + "\n")


def read(place: Path, made: Recipe) -> Kernel | None:
    """Return the kernel in a folder, None if it is not whole."""
    try:
        about = json.loads((place / _ABOUT).read_text())
        modules = place / MODULES
        lacks = ", ".join(filter(None, (made.lacks, about["pin"]["lacks"])))
        return Kernel(
            made.name,
            about["release"],
            place / BINARY,
            modules if modules.is_dir() else None,
            made.load,
            lacks,
        )
    except (OSError, ValueError, KeyError):
        return None
