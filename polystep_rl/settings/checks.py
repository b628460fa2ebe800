"""Ranges that stand beside the fields that they bound, and the one check that reads them."""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from polystep_rl.errors import ConfigError


class Range(NamedTuple):
    """The numbers that a field may hold; each entry of a tuple, and any value but None, is looked at."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf  # and not this number itself
    below: float = math.inf  # and not this number itself
    infinite: bool = False  # whether the infinities count as numbers

    def check(self, name: str, value: float) -> None:
        """Raise ConfigError, naming the setting, for a number out of range."""
        if math.isnan(value) or (math.isinf(value) and not self.infinite):
            raise ConfigError(f"{name} was {value}, expected a finite number")
        for wrong, expected in (
            (self.above > -math.inf and not value > self.above, f"a number above {self.above:g}"),
            (value < self.least, f"at least {self.least}"),
            (value > self.most, f"at most {self.most}"),
            (value >= self.below and self.below < math.inf, f"a number below {self.below:g}"),
        ):
            if wrong:
                raise ConfigError(f"{name} was {value}, expected {expected}")


ANY = Range()
Count = Annotated[int, Range(least=1)]
Natural = Annotated[int, Range(least=0)]  # 0 is never, or none
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
Fraction = Annotated[float, Range(least=0, most=1)]
Decay = Annotated[float, Range(least=0, below=1)]


class Config:
    """Base of every dataclass of settings: its ranges are checked once, where one is made."""

    def __post_init__(self) -> None:
        """Raise ConfigError, naming the setting, for the first value that is out of range."""
        for name, hint in _hints(type(self)).items():  # type: ignore[arg-type]
            _check(name, getattr(self, name), hint)

    @classmethod
    def prepared(cls, values: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """Types of the fields (without ranges), and plain values with what they leave out; a class may refine both."""
        return typing.get_type_hints(cls), values


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(cls)}  # type: ignore[arg-type]


def _check(name: str, value: Any, hint: Any) -> None:
    bounds = next((note for note in _notes(hint) if isinstance(note, Range)), ANY)
    for item in value if isinstance(value, tuple) else (value,):
        if type(item) in (int, float):
            bounds.check(name, item)
    options = _options(hint)
    if options and value not in options:
        raise ConfigError(f"{name} was {value!r}, expected {' or '.join(map(str, options))}")


def _notes(hint: Any) -> Iterator[Any]:
    """All annotations within a type, outermost first."""
    yield from getattr(hint, "__metadata__", ())
    for part in typing.get_args(hint):
        yield from _notes(part)


def _options(hint: Any) -> tuple[Any, ...]:
    """The values of a Literal, whatever notes it has; () for any other type."""
    while typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
