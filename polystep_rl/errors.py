"""Errors that a user can mend: one line with what was given, what is expected, and what to do."""

from __future__ import annotations

import difflib
from typing import Any


class ConfigError(ValueError):
    """A setting that cannot be used: one line with what was given and what is expected."""


def _suggest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


USAGE = 2


class UsageError(ValueError):
    """The command was called wrongly. One line with what was given and what is expected."""


# --- simulators on the host --------------------------------------------------------------------------------------
class SimulatorError(RuntimeError):
    """The simulators of an environment cannot go on. One line saying why."""
