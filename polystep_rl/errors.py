"""Errors that a user can mend: one line with what was given, what is expected, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A setting that cannot be used: one line with what was given, what is expected, and what to do.

    Where it names an argument, it does so in backticks and as Python has it: `env_kwarg`. The command line shows the
    flag instead.
    """


class SettingsFileError(ConfigError):
    """A file of settings that cannot be read, or is damaged."""


def did_you_mean(
    name: str,
    known: Iterable[str],
    otherwise: str = "",
    *,
    most: int = 1,
    cutoff: float = 0.6,
    before: str = "",
    quoted: bool = True,
) -> str:
    """The hint of a message about an unknown name: "did you mean 'x'?", or another text where nothing is close.

    Args:
        name: as it was given; its case does not count.
        known: the names that there are.
        otherwise: the hint where none of them is close.
        most: names that are suggested.
        cutoff: 0 to 1, how alike they must be; 0 always finds one.
        before: stands before a hint that is found.
        quoted: whether the names have quotation marks.
    """
    by_lower = {str(x).lower(): str(x) for x in known}
    close = [by_lower[x] for x in difflib.get_close_matches(name.lower(), by_lower, n=most, cutoff=cutoff)]
    said = " or ".join(map(repr if quoted else str, close))
    return f"{before}did you mean {said}?" if close else otherwise


def in_brackets(name: str, known: Iterable[str]) -> str:
    """The hint as an addition to a sentence: " (did you mean 'x'?)", or nothing."""
    hint = did_you_mean(name, known)
    return f" ({hint})" if hint else ""


# --- simulators on the host --------------------------------------------------------------------------------------
class SimulatorError(RuntimeError):
    """The simulators of an environment cannot go on. One line saying why."""


class TrainError(RuntimeError):
    """Training cannot go on. One line saying why."""
