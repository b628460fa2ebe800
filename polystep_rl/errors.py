"""Errors that a user can mend: one line with what was given, what is expected, and what to do."""

from __future__ import annotations

import difflib
from typing import Any


class ConfigError(ValueError):
    """A setting that cannot be used: one line with what was given, what is expected, and what to do.

    Where it names an argument, it does so in backticks and as Python has it: `env_kwarg`. The command line shows the
    flag instead.
    """


class SettingsFileError(ConfigError):
    """A file of settings that cannot be read, or is damaged."""


def _suggest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


# --- simulators on the host --------------------------------------------------------------------------------------
class SimulatorError(RuntimeError):
    """The simulators of an environment cannot go on. One line saying why."""


class TrainError(RuntimeError):
    """Training cannot go on. One line saying why."""
