"""Where Wireshark looks for plugins of one user, and putting ours there."""

from __future__ import annotations

from pathlib import Path

from .lua import dissectors


def plugin_folder() -> Path:
    """Return the folder of this user's Lua plugins (Wireshark User's Guide, appendix "Plugin folders")."""
    return Path.home() / ".local" / "lib" / "wireshark" / "plugins"


def install(folder: Path) -> list[Path]:
    """Write every dissector into folder, which is made if need be.   Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in dissectors().items():
        path = folder / name
        path.write_text(text)
        written.append(path)
    return written
