"""Population strategies by name, from plain settings; any other name is a class of evosax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from polystep_rl.baselines.eggroll import eggroll
from polystep_rl.baselines.evosax_es import evosax_strategy
from polystep_rl.baselines.hill_climbing import hill_climbing
from polystep_rl.baselines.spsa import DescentState, spsa
from polystep_rl.types import Params, Strategy

Settings = Mapping[str, Any]
Builder = Callable[[Settings], Strategy]


def _schedule(settings: Settings, name: str) -> optax.Schedule:
    """A setting over generations: constant, or a cosine to its `*_final`."""
    start, end = settings[name], settings.get(f"{name}_final")
    if end is None:
        return optax.constant_schedule(start)
    return optax.cosine_decay_schedule(start, settings["schedule_generations"], alpha=end / start)


def _adam(settings: Settings) -> optax.GradientTransformation:
    return optax.adam(_schedule(settings, "learning_rate"))


def _scheduled(name: str) -> Builder:
    """An evosax algorithm with an optimizer and a schedule for sigma."""
    return lambda s: evosax_strategy(name, s["population"], _schedule(s, "sigma"), _adam(s))


def _plain(name: str) -> Builder:
    """An evosax algorithm that only wants to know how wide to begin."""
    return lambda s: evosax_strategy(name, s["population"], s["sigma"])


STRATEGIES: dict[str, Builder] = {
    "open_es": _scheduled("Open_ES"),  # antithetic, centred ranks
    "cma_es": _plain("CMA_ES"),
    "sep_cma_es": _plain("Sep_CMA_ES"),
    "snes": lambda s: evosax_strategy("SNES", s["population"], s["sigma"], optax.sgd(s["learning_rate"])),
    "pgpe": lambda s: evosax_strategy("PGPE", s["population"], s["sigma"], optax.adam(s["learning_rate"])),
    "ars": lambda s: evosax_strategy(
        "ARS",
        s["population"],
        _schedule(s, "sigma"),
        optax.sgd(_schedule(s, "learning_rate")),
        attributes={"elite_ratio": s["elite_ratio"]},
    ),
    "eggroll": lambda s: eggroll(s["population"], _schedule(s, "sigma"), s["rank"], _adam(s)),
    "spsa": lambda s: spsa(_pairs(s["population"]), _schedule(s, "sigma"), _adam(s), s["distribution"]),
    "hill_climbing": lambda s: hill_climbing(s["population"], s["sigma"]),
    "random_search": _plain("RandomSearch"),
}


def _pairs(population: int) -> int:
    if population % 2:
        raise ValueError(f"population={population}: expected an even number, the candidates come in pairs")
    return population // 2


def make_strategy(name: str, settings: Settings) -> Strategy:
    """A strategy by name.

    Args:
        name: one of `STRATEGIES`, or the class name of an evosax algorithm.
        settings: `population`, `sigma` and what else the algorithm takes; for an evosax class also `options`, a
            sequence of "name=value".

    Raises:
        ValueError: an unknown name, or settings that do not fit.
    """
    if name in STRATEGIES:
        return STRATEGIES[name](settings)
    rate = settings.get("learning_rate")
    optimizer = None if rate is None else optax.adam(rate)
    options = dict(_option(text) for text in settings.get("options", ()))
    return evosax_strategy(name, settings["population"], settings.get("sigma"), optimizer, options)


def shift(state: Any, change: Params) -> Any:
    """Add a change to the centre of a strategy with an optimizer, and leave everything else as it is.

    Args:
        state: a state of open_es, ars, eggroll or spsa.
        change: a pytree like the parameters.
    """
    if isinstance(state, DescentState):
        return state._replace(centre=jax.tree.map(jnp.add, state.centre, change))
    flat, _ = jax.flatten_util.ravel_pytree(change)  # as evosax keeps its mean
    return state._replace(inner=state.inner.replace(mean=state.inner.mean + flat))


def _option(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"option {text!r}: expected name=number, such as std_lr=0.1") from None
