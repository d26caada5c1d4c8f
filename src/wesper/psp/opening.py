"""Which engine: by name, or the fastest that is built."""

from __future__ import annotations

from ..engine import native_is_built
from ..errors import ConfigError, UnsupportedError
from .gateway import Gateway
from .interface import Engine, Options


def open_engine(name: str | None = None, options: Options | None = None) -> Engine:
    """Return a new engine without device keys.   name: "reference", "native", or None for the fastest one built.

    Raises UnsupportedError if native is asked for and not built, ConfigError if there is no such engine.
    """
    if name is None:
        name = "native" if native_is_built() else "reference"
    if name == "reference":
        from .reference import ReferenceEngine

        return ReferenceEngine(options)
    if name != "native":
        raise ConfigError(f"engine {name!r}", key="engine", expected="reference or native")
    if not native_is_built():
        raise UnsupportedError("the native engine", "install a Rust toolchain and run `make build`")
    from .native import NativeEngine

    return NativeEngine(options)


def open_gateway(name: str | None = None, options: Options | None = None) -> Gateway:
    """Return a new gateway without device keys and associations.   name, Raises: as `open_engine`."""
    engine = open_engine(name, options)
    if engine.name == "native":
        from .native_gateway import NativeGateway

        return NativeGateway(options)
    from .reference_gateway import ReferenceGateway

    return ReferenceGateway(engine)
