"""`wesper wireshark`: dissectors for Wireshark and tshark."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from ..wireshark import dissectors, plugin_folder
from ..wireshark import install as install_into


def install(*, folder: Path | None = None) -> int:
    """Write the dissectors where Wireshark and tshark find them.

    Older ones of wesper's are replaced. Wireshark reads plugins when it starts, or by Analyze, Reload Lua Plugins.

    Parameters
    ----------
    folder
        Where to; this user's plugin folder unless given.
    """
    for path in install_into(folder or plugin_folder()):
        print(path)
    return 0


def show(protocol: str, /) -> int:
    """Print one dissector.

    Parameters
    ----------
    protocol
        Its name in filters, as psp.
    """
    texts = {name.removeprefix("wesper-").removesuffix(".lua"): text for name, text in dissectors().items()}
    if protocol not in texts:
        raise ConfigError(f"no dissector for {protocol!r}", key="protocol", expected=" or ".join(texts))
    print(texts[protocol], end="")
    return 0
