"""Engines: one interface, the readable reference and the fast native one behind it."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import ConfigError, UnsupportedError
from .batch import Packets, Results
from .events import Event, EventKind
from .interface import Engine, Options

ENGINES = ("reference", "native")


def native_is_built() -> bool:
    """Whether the native engine is part of this installation."""
    return find_spec("wesper._native") is not None


def open_engine(name: str | None = None, options: Options | None = None) -> Engine:
    """Return a new engine.   name: "reference", "native", or None for the fastest one built.

    Raises UnsupportedError if native is asked for and not built, ConfigError if there is no such engine.
    """
    if name is None:
        name = "native" if native_is_built() else "reference"
    if name == "reference":
        from .reference import ReferenceEngine

        return ReferenceEngine(options)
    if name != "native":
        raise ConfigError(f"engine {name!r}", key="engine", expected=" or ".join(ENGINES))
    if not native_is_built():
        raise UnsupportedError(
            "the native engine", "install Rust (rustup, or Debian's cargo-web and rustc-web) and run `make build`"
        )
    from .native import NativeEngine

    return NativeEngine(options)


__all__ = ["ENGINES", "Engine", "Event", "EventKind", "Options", "Packets", "Results", "native_is_built", "open_engine"]
