"""Lengths as formulas: what a declaration computes from its fields, read as text instead of as a number.

A declaration writes the length of a variable field as a function of the fields before it. Called with a header it gives
octets; called with `Symbols` it gives the formula, from which dissectors are written and by which a layout can say
what moves a field. So such a function may add, subtract, multiply and divide (`//`), and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Formula:
    """Arithmetic over fields.   text: with `h.field` for a field.   fields: names, in order of appearance."""

    text: str
    fields: tuple[str, ...] = ()

    def __add__(self, other: Formula | int) -> Formula:
        return self._joined("{} + {}", other)

    def __radd__(self, other: int) -> Formula:
        return _formula(other) + self

    def __sub__(self, other: Formula | int) -> Formula:
        return self._joined("{} - {}", other)

    def __rsub__(self, other: int) -> Formula:
        return _formula(other) - self

    def __mul__(self, other: Formula | int) -> Formula:
        return self._joined("{} * {}", other)

    def __rmul__(self, other: int) -> Formula:
        return _formula(other) * self

    def __floordiv__(self, other: Formula | int) -> Formula:
        return self._joined("math.floor({} / {})", other)

    def __bool__(self) -> bool:
        raise TypeError("a length that depends on a condition can't be written as a formula: multiply by the flag")

    def _joined(self, form: str, other: Formula | int) -> Formula:
        right = _formula(other)
        names = self.fields + tuple(name for name in right.fields if name not in self.fields)
        return Formula(f"({form.format(self.text, right.text)})", names)


class Symbols:
    """Stands in for a header: every field is a formula."""

    def __getattr__(self, name: str) -> Formula:
        return Formula(f"h.{name}", (name,))


def formula(compute: Callable[[Any], Any]) -> Formula:
    """Return what compute does, as a formula.   Raises TypeError if it does more than arithmetic."""
    made = compute(Symbols())
    if not isinstance(made, (Formula, int)):
        raise TypeError(f"{compute} is more than arithmetic over fields")
    return _formula(made)


def _formula(value: Formula | int) -> Formula:
    return value if isinstance(value, Formula) else Formula(str(value))
