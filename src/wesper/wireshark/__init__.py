"""Dissectors for Wireshark, written from the declarations in `wire`."""

from .lua import dissector, dissectors
from .plugins import install, plugin_folder

__all__ = ["dissector", "dissectors", "install", "plugin_folder"]
