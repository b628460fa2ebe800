"""What ended a command, as one line and an exit code."""

from __future__ import annotations

from polystep_rl.errors import USAGE, UsageError


def failure(error: BaseException) -> tuple[str | None, int]:
    """What a command says that ended with an exception, and its exit code; None for a bug, whose traceback is shown."""
    if isinstance(error, UsageError):
        return str(error), USAGE
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror or error}", 1
    if isinstance(error, MemoryError):
        return f"out of memory ({error}); use fewer candidates, episodes or hidden units", 1
    return (str(error) if isinstance(error, Exception) and _expected(error) else None), 1


def _expected(error: Exception) -> bool:
    """Whether an error is one of ours, and one line, or XLA's for want of memory; any other is a bug to be seen."""
    from jax.errors import JaxRuntimeError

    from polystep_rl.rollout.host import SimulatorError
    from polystep_rl.training.state import TrainError

    return isinstance(error, (ValueError, TrainError, SimulatorError, JaxRuntimeError))
