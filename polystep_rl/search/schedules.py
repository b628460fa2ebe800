"""Schedules: functions from the generation () int to a value (); any optax schedule serves as well."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from optax import Schedule
from optax import constant_schedule as constant

from polystep_rl.types import Array

__all__ = ["Schedule", "constant", "cosine", "cosine_restarts", "linear", "power"]


def _check_positive(name: str, what: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}: {what} was {value!r}, expected a number above 0")


def _time(step: ArrayLike) -> Array:
    """The step in the widest floating dtype that is switched on (int32 / int would always be float32)."""
    return jnp.asarray(step, float)


def linear(init: float, target: float, decay: float) -> Schedule:
    """Move from init towards target by `decay` a step, then stay at target.

    Args:
        init: value at step 0.
        target: value it ends at.
        decay: size of one step, above 0, whichever the direction.

    Raises:
        ValueError: decay not above 0.
    """
    _check_positive("linear", "decay", decay)
    if target <= init:
        return lambda step: jnp.maximum(init - decay * _time(step), target)
    return lambda step: jnp.minimum(init + decay * _time(step), target)


def cosine(init: float, target: float, total_steps: int) -> Schedule:
    """Half a cosine from init to target over total_steps, then target.

    Args:
        init: value at step 0.
        target: value from step total_steps on.
        total_steps: at least 1.

    Raises:
        ValueError: total_steps not above 0.
    """
    _check_positive("cosine", "total_steps", total_steps)

    def schedule(step: ArrayLike) -> Array:
        phase = jnp.minimum(_time(step) / total_steps, 1.0)
        return target + 0.5 * (init - target) * (1.0 + jnp.cos(np.pi * phase))

    return schedule


def cosine_restarts(init: float, target: float, period: int, shrink: float = 1.0) -> Schedule:
    """Cosine from init to target in every period, then again from the start (SGDR, arXiv:1608.03983).

    Args:
        init: value at step 0.
        target: value each period falls towards.
        period: steps in a period, at least 1.
        shrink: the height over target is multiplied by this at every restart.

    Raises:
        ValueError: period or shrink not above 0.
    """
    _check_positive("cosine_restarts", "period", period)
    _check_positive("cosine_restarts", "shrink", shrink)

    def schedule(step: ArrayLike) -> Array:
        count, within = jnp.divmod(_time(step), period)
        height = (init - target) * shrink**count
        return target + 0.5 * height * (1.0 + jnp.cos(np.pi * (within / period)))

    return schedule


def power(init: float, exponent: float, target: float = 0.0, time_scale: float = 1.0) -> Schedule:
    """target + (init - target) (1 + step / time_scale)**-exponent.

    Args:
        init: value at step 0.
        exponent: above 0.
        target: limit.
        time_scale: steps after which the decay sets in, above 0.

    Raises:
        ValueError: exponent or time_scale not above 0.
    """
    _check_positive("power", "exponent", exponent)
    _check_positive("power", "time_scale", time_scale)
    return lambda step: target + (init - target) * (1.0 + _time(step) / time_scale) ** -exponent
