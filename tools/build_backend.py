"""Build backend (PEP 517, PEP 660): maturin where a Rust toolchain is found, else hatchling and a pure-Python wheel.

So `pip install .` works everywhere; without Rust it brings the reference engine alone.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import rust_toolchain

Settings = dict[str, Any] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """Return what the builder for this machine needs."""
    return ["hatchling>=1.33"] if _pure_reason() else ["maturin>=1.16,<2"]


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """Return what the builder for this machine needs."""
    return get_requires_for_build_wheel(config_settings)


def get_requires_for_build_sdist(config_settings: Settings = None) -> list[str]:
    """Return what the source archive needs: it is the same with and without Rust, so always hatchling."""
    return ["hatchling>=1.33"]


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Build a wheel into wheel_directory and return its file name."""
    name: str = _builder().build_wheel(wheel_directory, config_settings, metadata_directory)
    return name


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build an editable wheel (edits to src/ count at once) and return its file name."""
    name: str = _builder().build_editable(wheel_directory, config_settings, metadata_directory)
    return name


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """Build the source archive and return its file name."""
    import hatchling.build

    return hatchling.build.build_sdist(sdist_directory, config_settings)


def _pure_reason() -> str:
    """Return why the wheel has to be pure, "" if the native engine can be built."""
    found = rust_toolchain.find()
    return found.reason if isinstance(found, rust_toolchain.NoToolchain) else ""


def _builder() -> Any:
    """Return the module of the builder for this machine, its environment prepared."""
    found = rust_toolchain.find()
    if isinstance(found, rust_toolchain.NoToolchain):
        print(f"wesper: reference engine only: {found.reason}", file=sys.stderr)
        import hatchling.build

        return hatchling.build
    os.environ.update(found.environment())
    import maturin  # type: ignore[import-untyped]

    return maturin
