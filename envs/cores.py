"""The cores that this process may use."""

from __future__ import annotations

import os

_limit: int | None = None


def limit_cores(count: int | None) -> None:
    """Use no more than so many from now on; None lifts the limit."""
    global _limit
    _limit = count


def usable_cores() -> list[int]:
    """Their numbers; where the system does not say (macOS, Windows), as many as there are."""
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    else:
        cores = list(range(os.cpu_count() or 1))
    return cores[:_limit]
