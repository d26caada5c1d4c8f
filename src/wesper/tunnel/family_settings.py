"""What a tunnel of the ESP family runs: ESP, WESP, WESPv2 or EESP, and the settings that its protocol has alone."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ..crypto import SUITES
from ..errors import ConfigError
from ..keying.family_toml import read_format
from ..keying.static import legacy_word
from ..protocols import Format
from ..sa import EESPFormat
from .psp_settings import Wrong
from .tables import TunnelTable

if TYPE_CHECKING:
    from .file import TunnelSettings

FAMILY_TABLES: Final = ("wespv2", "eesp")
"""Tables of a tunnel that belong to the protocol of the same name."""


def format_of(table: TunnelTable, wrong: Wrong) -> Format | None:
    """Return the settings that the tunnel's protocol has alone; None: as they are by default.

    Raises ConfigError, also for a table or setting of another protocol.
    """
    if table.option_errors and table.protocol != "wespv2":
        raise wrong(
            "option_errors", f"messages about options with protocol {table.protocol}", 'false, or protocol = "wespv2"'
        )
    found = None
    for name in FAMILY_TABLES:
        given = getattr(table, name)
        if given is None:
            continue
        if table.protocol != name:
            raise wrong(name, f"settings of {name} with protocol {table.protocol}", f'protocol = "{name}"')
        try:
            found = read_format(given)
        except ConfigError as error:
            raise wrong(f"{name}.{error.key}", error.what, error.expected, type(error)) from None
    if isinstance(found, EESPFormat) and found.sub_sas is not None and found.sub_sas.first_port:
        raise wrong("eesp.sub_sas.first_port", "UDP ports of Sub SAs", "0: a tunnel sends from one port")
    return found


def check_first_bits(tunnels: Sequence[TunnelSettings], wrong: Wrong) -> None:
    """Refuse SPIs of ESP that look like EESP's first bit on one UDP port (draft-ietf-ipsecme-eesp-03 §6).

    Raises ConfigError.
    """
    ports = {each.encapsulation.local_port for each in tunnels if each.protocol == "eesp" and each.encapsulation}
    for place, each in enumerate(tunnels):
        if each.protocol != "esp" or each.encapsulation is None or each.encapsulation.local_port not in ports:
            continue
        for number, pair in enumerate(each.pairs):
            if pair.spi_in >> 31:
                key, what = f"tunnel[{place}].sa[{number}].spi_in", f"SPI {pair.spi_in:#x} of ESP on a UDP port of EESP"
                raise wrong(key, what, "below 0x80000000, or another port")


def check_suite(name: str, wrong: Wrong) -> None:
    """Raise ConfigError if there is no such suite."""
    if name in SUITES:
        return
    if legacy_word(name):
        raise wrong("suite", f"{name!r} is a legacy suite, which wesper refuses", ", ".join(SUITES))
    near = difflib.get_close_matches(name, SUITES, 1)
    raise wrong("suite", f"no suite {name!r}", near[0] if near else ", ".join(SUITES))
