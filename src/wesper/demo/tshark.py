"""What tshark makes of the capture of the wire, where there is one: it opens ESP, and it names the others' fields."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import WesperError
from ..keying import PSPKeys, StaticSA, save_keys
from ..keying.esp_sa import NEW_NAMES
from ..pcap.dissect import Keyring, dissect
from ..wire.layouts import LAYOUTS
from ..wireshark import dissectors, install

MISSING = "tshark is not here (apt-get install tshark)"

_OPENING = ("esp.enable_encryption_decode", "esp.enable_authentication_check")
_LIMIT_S = 120


def is_here() -> bool:
    """Whether there is a tshark."""
    return shutil.which("tshark") is not None


def second_opinion(sas: Sequence[StaticSA], source: Path) -> tuple[int, int] | None:
    """Have tshark open a capture of ESP too.

    Returns how many ESP packets it saw and how many it opened; None where there is no tshark, or an SA is of a suite
    that not every tshark knows.   Raises WesperError if it fails.
    """
    if not is_here() or any(sa.suite in NEW_NAMES for sa in sas):
        return None
    with TemporaryDirectory() as home:
        folder = Path(home) / ".config" / "wireshark"
        folder.mkdir(parents=True)
        if save_keys(sas, folder / "esp_sa", "esp_sa"):
            return None
        options = [word for flag in _OPENING for word in ("-o", f"{flag}:TRUE")]
        lines = _run(home, source, *options, "-Y", "esp", "-e", "esp.icv_good", "-e", "_ws.col.Protocol")
    return len(lines), sum(not line.rstrip().endswith("ESP") for line in lines)


def has_dissector(protocol: str) -> bool:
    """Whether wesper writes tshark's dissector for a protocol; for ESP it has its own."""
    return f"wesper-{protocol}.lua" in dissectors()


def declared_fields(protocol: str, packet: bytes, keys: Sequence[StaticSA] | PSPKeys) -> list[str]:
    """Return the names of all fields of a protocol that a packet of it shows without a key, in wire order.

    packet: from its IP header.   keys: tell how long the fields are that only the SA knows, the IV above all.
    """
    layout = LAYOUTS[protocol]
    ring = Keyring([], keys) if isinstance(keys, PSPKeys) else Keyring(keys)
    known = [option for part in layout.parts if part.options for option in part.options.known.values()]
    headers = {each.NAME for each in (*(part.header for part in layout.parts), *known)}
    fields = {
        value.name: None
        for layer in dissect(packet, keys=ring).layers
        if layer.name in headers and not layer.decrypted
        for value in layer.values
        if value.bits
    }
    return list(fields)


def named_fields(protocol: str, source: Path, names: Sequence[str]) -> dict[str, int] | None:
    """Return in how many packets of a capture tshark shows each field, with wesper's dissectors and no other plugins.

    names: of fields.   None where there is no tshark.   Raises WesperError if it fails, or knows a name not at all.
    """
    if not is_here():
        return None
    with TemporaryDirectory() as home:
        # Where a plugin folder is under the home folder (Wireshark User's Guide, appendix "Plugin folders").
        install(Path(home) / ".local" / "lib" / "wireshark" / "plugins")
        wanted = [word for name in names for word in ("-e", name)]
        rows = [line.split("\t") for line in _run(home, source, "-Y", protocol, "-E", "occurrence=f", *wanted)]
    return {name: sum(bool(row[place]) for row in rows) for place, name in enumerate(names)}


def _run(home: str, source: Path, *options: str) -> list[str]:
    """Return what tshark prints of fields, a line a packet.   home: folder with all that it may find of a user's."""
    environment = {**os.environ, "HOME": home, "XDG_CONFIG_HOME": f"{home}/.config"}
    environment.pop("WIRESHARK_CONFIG_DIR", None)
    command = ["tshark", "-n", "-r", str(source), "-T", "fields", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False, env=environment)
    if done.returncode:
        raise WesperError(f"tshark failed: {done.stderr.strip()}")
    return done.stdout.splitlines()
