"""Cases of which a few are tried by default, and the rest with ``-m slow``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def mostly_slow(cases: Iterable[Any], quick: Callable[[Any], bool]) -> list[Any]:
    """The cases as parameters, slow but for the quick ones: those stand for all, which obey one law."""
    return [pytest.param(*_values(case), marks=() if quick(case) else pytest.mark.slow) for case in cases]


def _values(case: Any) -> tuple[Any, ...]:
    """The arguments of a case; one that is a tuple itself is given in a tuple."""
    return case if isinstance(case, tuple) else (case,)
