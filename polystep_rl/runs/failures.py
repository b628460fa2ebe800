"""One line and an exit code for whatever ended a command."""

from __future__ import annotations

import re

from polystep_rl.errors import ConfigError, SettingsFileError, SimulatorError, TrainError

USAGE = 2  # exit code of bad usage
_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)`")


def as_flags(text: str) -> str:
    """A message of the library, with flags (--env-kwarg) for the arguments that it names (`env_kwarg`)."""
    return _ARGUMENT.sub(lambda found: f"--{found[1].replace('_', '-')}", text)


def failure(error: BaseException) -> tuple[str | None, int]:
    """The message and the exit code of a command that an exception ended; no message for a bug: show its traceback."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror or error}", 1
    if isinstance(error, MemoryError):
        return f"out of memory ({error}); use fewer candidates, episodes or hidden units", 1
    said = as_flags(str(error)) if isinstance(error, Exception) and _expected(error) else None
    return said, USAGE if isinstance(error, ConfigError) and not isinstance(error, SettingsFileError) else 1


def _expected(error: Exception) -> bool:
    """Whether an error is one of ours, and one line, or XLA's for want of memory; any other is a bug to be seen."""
    from jax.errors import JaxRuntimeError

    return isinstance(error, (ValueError, TrainError, SimulatorError, JaxRuntimeError))
