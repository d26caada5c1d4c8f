"""ECN through tunnels (RFC 6040).   Codepoints by number: 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE."""

from __future__ import annotations

import enum
from typing import Final

NOT_ECT: Final = 0
ECT_1: Final = 1
ECT_0: Final = 2
CE: Final = 3


class Alarm(enum.Enum):
    """How a combination that no known ingress makes is to be taken (RFC 6040 §4.2)."""

    NONE = ""
    POSSIBLE = "possible"
    ALWAYS = "always"


def decapsulate(inner: int, outer: int) -> tuple[int | None, Alarm]:
    """Return the codepoint to deliver, None for a drop, and the alarm.

    Source: RFC 6040 §4.2, figure 4.
    """
    return _TABLE[inner][outer]


# Rows: inner; columns: outer, both by number.
_TABLE: Final[tuple[tuple[tuple[int | None, Alarm], ...], ...]] = (
    ((NOT_ECT, Alarm.NONE), (NOT_ECT, Alarm.ALWAYS), (NOT_ECT, Alarm.ALWAYS), (None, Alarm.ALWAYS)),
    ((ECT_1, Alarm.NONE), (ECT_1, Alarm.NONE), (ECT_1, Alarm.POSSIBLE), (CE, Alarm.NONE)),
    ((ECT_0, Alarm.NONE), (ECT_1, Alarm.NONE), (ECT_0, Alarm.NONE), (CE, Alarm.NONE)),
    ((CE, Alarm.NONE), (CE, Alarm.ALWAYS), (CE, Alarm.NONE), (CE, Alarm.NONE)),
)
