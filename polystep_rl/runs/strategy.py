"""The population search that a configuration names, from its entry in `settings.algorithms`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from polystep_rl.errors import ConfigError, did_you_mean
from polystep_rl.search.wrappers import averaged, transformed, within
from polystep_rl.settings.algorithms import ALGORITHMS, AlgorithmSettings, Population, entry_of
from polystep_rl.types import Strategy


def make_strategy(algo: str, settings: AlgorithmSettings) -> Strategy:
    """The strategy of an algorithm's entry, kept within its weight limit and averaged where the settings say so.

    Raises:
        ConfigError: an algorithm whose package is not installed.
        ValueError: an unknown name, or settings that do not fit.
    """
    entry, plain = entry_of(algo), dataclasses.asdict(settings)
    try:
        if algo in ALGORITHMS:
            strategy = _found(entry.build)(plain)
        else:
            _check_class(algo)
            strategy = _found(entry.build)(algo, plain)
    except ModuleNotFoundError as error:
        raise ConfigError(f"`algo` {algo} needs {error.name}: pip install 'polystep-rl[baselines]'") from None
    if entry.shift and plain["weight_limit"] is not None:
        strategy = transformed(strategy, _found(entry.shift), within(plain["weight_limit"]))
    averaging = cast(Population, settings).averaging
    return averaged(strategy, averaging) if averaging > 0 else strategy


def _check_class(algo: str) -> None:
    """ConfigError for a name that is neither in `ALGORITHMS` nor a class of evosax."""
    from polystep_rl.baselines.evosax_es import REFUSED, class_names

    known = [*ALGORITHMS, *class_names()]
    if algo not in known and algo not in REFUSED:  # of those, evosax_es says why
        hint = did_you_mean(algo, known, f"expected one of {', '.join(ALGORITHMS)}")
        raise ConfigError(f"unknown algorithm {algo!r}: {hint} (or the class name of one of evosax's)")


def _found(where: str) -> Callable[..., Any]:
    """The function that an entry names. ModuleNotFoundError where an extra is missing."""
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


def episodes_per_candidate(settings: AlgorithmSettings) -> int:
    """Episodes that a population search gives to each candidate."""
    return cast(Population, settings).episodes
