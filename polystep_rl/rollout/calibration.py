"""Observation scales: the unit of each input of a policy, fixed before the search and stored with the policy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from polystep_rl.observations import observations
from polystep_rl.search.observing import LEAST
from polystep_rl.types import Env, HostEnv, Key, Moments

INPUT_RANGE = 127 / 32  # an integer policy resolves x = (obs - offset) / scale in 1/32 within +- this many units
MODES = ("episodes", "bounds", "none")


def random_action_moments(env: Env | HostEnv, key: Key, episodes: int = 32) -> Moments:
    """Moments of the observations of episodes of uniformly random actions, living steps only: mean (o,), m2 (o,)."""
    rows = observations(env, key, episodes).astype(np.float64)
    mean = rows.mean(0)
    m2 = ((rows - mean) ** 2).sum(0)
    return Moments(*(jnp.asarray(x, jnp.float32) for x in (len(rows), mean, m2)))


def observation_scale(
    env: Env | HostEnv, key: Key, mode: str = "episodes", unit: float = 1.0, episodes: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Offset and scale of every observation feature: a policy sees (obs - offset) / scale.

    Args:
        env: an environment with a flat Box observation.
        key: for the random episodes.
        mode: ``episodes``: mean and standard deviation over episodes of random actions. ``bounds``: the middle and
            the half-width of the observation space over `INPUT_RANGE`, so that an integer policy resolves exactly the
            space; a feature without finite bounds is treated as in ``episodes``. ``none``: 0 and 1.
        unit: what the scale is multiplied by; below 1, an integer policy resolves more finely over a smaller range.
        episodes: random episodes, at least 1.

    Returns:
        offset (o,), scale (o,) float32; a feature that varied by no more than rounding has scale 1.

    Raises:
        ValueError: an unknown mode, or a unit not above 0.
    """
    if mode not in MODES:
        raise ValueError(f"observation scale {mode!r}: expected one of {', '.join(MODES)}")
    if not unit > 0:
        raise ValueError(f"observation unit {unit!r}: expected a number above 0")
    space = env.spec.observation_space
    if mode == "none":
        return np.zeros(space.shape, np.float32), np.full(space.shape, unit, np.float32)
    moments = jax.tree.map(np.asarray, random_action_moments(env, key, episodes))
    offset, scale = moments.mean, np.sqrt(moments.m2 / moments.weight)
    if mode == "bounds":
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        bounded = np.isfinite(low) & np.isfinite(high) & (high - low < 1e6)
        with np.errstate(over="ignore", invalid="ignore"):
            offset = np.where(bounded, (low + high) / 2, offset)
            scale = np.where(bounded, (high - low) / 2 / INPUT_RANGE, scale)
    scale = np.where(scale > LEAST * (1 + np.abs(offset)), scale, 1.0) * unit
    return offset.astype(np.float32), scale.astype(np.float32)
