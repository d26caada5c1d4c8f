"""One case while it runs: fresh engines for its code, and what its checks have found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..engine import Engine, Options
from ..verdict import Bypassed, Dropped, Verdict

Value = bytes | str | int | None
EngineFactory = Callable[[Options], Engine]


@dataclass(frozen=True, slots=True)
class Failure:
    """One check that did not hold.

    what: was compared, or is wrong with the case itself.   expected, got: None where there is nothing to show.
    direction: "encapsulate", "decapsulate" or "".   secret: expected and got are key material.
    """

    what: str
    expected: Value = None
    got: Value = None
    direction: str = ""
    secret: bool = False


class Case:
    """What a case's code works with.   open_engine: None for lists that need no engine."""

    def __init__(self, open_engine: EngineFactory | None) -> None:
        self._open_engine = open_engine
        self.failures: list[Failure] = []

    def engine(self) -> Engine:
        """Return a new engine, empty, the same in each run."""
        assert self._open_engine is not None
        return self._open_engine(Options(iv_key=bytes(16)))

    def equal(self, what: str, expected: Value, got: Value, direction: str = "", *, secret: bool = False) -> bool:
        """Compare octet for octet; a difference fails the case."""
        if expected == got:
            return True
        self.failures.append(Failure(what, expected, got, direction, secret))
        return False

    def fail(self, what: str, direction: str = "") -> None:
        """Fail the case."""
        self.failures.append(Failure(what, direction=direction))


def outcome(verdict: Verdict) -> str:
    """Return "delivered", "bypassed" or the verdict name of the drop."""
    if isinstance(verdict, Dropped):
        return verdict.reason.verdict
    return "bypassed" if isinstance(verdict, Bypassed) else "delivered"
