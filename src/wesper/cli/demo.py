"""`wesper demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from . import CHECK_FAILED
from .demo_capture import protect_a_capture
from .packet_view import console_for_packets


def demo(*, output: Annotated[Path, Parameter(name=("--output", "-o"))] = Path("wesper-demo")) -> int:
    """Protect real traffic with ESP and open it again with both engines.

    Makes TCP, UDP and ICMP traffic over IPv4 and IPv6 in a network namespace of its own, captures it, protects the
    capture with three SAs of three suites, draws packets before and after, has each engine open everything, compares
    octet for octet, and prints the speed of each. No root needed. Exits with 1 if anything differs.

    Parameters
    ----------
    output
        Folder for the captures and the keys.
    """
    return CHECK_FAILED if protect_a_capture(console_for_packets(), output) else 0
