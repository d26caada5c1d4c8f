"""What a daemon tells: events with fixed names, one line each, as text or JSON, without secrets.

An event of a kind that anybody on the wire can cause is told once in ten seconds, with how many there were.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final, Literal, TextIO

EVENTS: Final = {
    "started": "the daemon carries packets",
    "stopped": "the daemon has ended, and removed what it made",
    "failed": "the daemon can't go on, and ends",
    "reloaded": "the file was read again",
    "reload_refused": "the file was read again and not taken",
    "pair_added": "a pair of SAs is there, for receiving first",
    "pair_proven": "an authentic packet came on the pair: the peer has it too",
    "pair_sending": "data leaves by this pair from now on",
    "pair_removed": "a pair of SAs is gone",
    "pair_ending": "a pair has reached a soft limit: time for new keys (`wesper keygen`, `wesper reload`)",
    "pair_expired": "a pair has reached a hard limit",
    "peer_heard": "the first authentic packet of a peer, or the first one after a silence",
    "peer_silent": "nothing has come from a peer for a while, though packets went out to it",
    "peer_moved": "an authentic packet came from a new address or port; packets go there now",
    "peer_elsewhere": "the same, but the tunnel does not follow (roaming = false)",
    "no_sa": "a packet wants an SA that is not there",
    "mtu_changed": "the path's MTU was learnt, or has aged",
    "ecn_alarm": "an ECN combination that no known ingress makes",
    "resynchronised": "the high half of the sequence number was found again",
    "unknown_option": "an authentic packet has an option that is not known here, and asks for an ICMP message",
    "broken_agreement": "an authentic packet shows more in clear than was agreed on: its pair of SAs has ended",
    "lost": "packets were dropped, by name, since this was told last",
    "state_not_saved": "the state can't be written; numbers that are reserved already last a while",
    "state_saved": "the state can be written again",
    "no_icmp": "ICMP messages about the path's MTU can't be read here, or those about options not sent",
    "events_lost": "the engine had more to tell than there was room for",
}
"""Every event, and what it says."""

KEPT: Final = 256


class EventLog:
    """Tells events to a stream and to whoever listens, and remembers the last ones.

    stream: None tells nobody.   counted: how many of each there were.
    """

    def __init__(self, stream: TextIO | None, form: Literal["text", "json"] = "text") -> None:
        self._stream, self._form = stream, form
        self.last: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.counted: Counter[str] = Counter()
        self.listeners: list[Callable[[dict[str, Any]], bool]] = []

    def tell(self, event: str, **fields: Any) -> None:
        """Tell one event.   event: of EVENTS.   fields: what JSON can hold."""
        assert event in EVENTS, event
        told = {"time_ns": time.time_ns(), "event": event, **fields}
        self.counted[event] += 1
        self.last.append(told)
        self.listeners = [listen for listen in self.listeners if listen(told)]
        if self._stream is None:
            return
        try:
            self._stream.write((json.dumps(told) if self._form == "json" else as_text(told)) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # a full disk, a reader that went away: no reason to stop carrying packets
            pass


def as_text(told: dict[str, Any]) -> str:
    """Return an event as a line for people: time, name, fields, and what the name means."""
    seconds, nanoseconds = divmod(told["time_ns"], 1_000_000_000)
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds // 1_000_000:03d}Z"
    fields = " ".join(f"{key}={_value(value)}" for key, value in told.items() if key not in ("time_ns", "event"))
    return f"{at} {told['event']}{' ' if fields else ''}{fields} ({EVENTS[told['event']]})"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}:{each}" for key, each in value.items())
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)
