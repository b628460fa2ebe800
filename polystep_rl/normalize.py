"""Observation scales: the unit of each input of a policy, fixed before the search and stored with the policy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from polystep_rl.evaluate import merge_moments
from polystep_rl.types import Array, Env, Key, Moments

INPUT_RANGE = 127 / 32  # an integer policy resolves x = (obs - offset) / scale in 1/32 within +- this many units
MODES = ("episodes", "bounds", "none")


def random_action(env: Env, key: Key) -> Array:
    """One action drawn uniformly from the action space."""
    space = env.spec.action_space
    if isinstance(space, spaces.Discrete):
        return jax.random.randint(key, (), 0, int(space.n))
    low, high = jnp.asarray(space.low), jnp.asarray(space.high)
    return jax.random.uniform(key, space.shape, low.dtype, low, high)


def random_action_moments(env: Env, key: Key, episodes: int = 32) -> Moments:
    """Moments of the observations of episodes of uniformly random actions, living steps only: mean (o,), m2 (o,)."""

    def episode(key: Key) -> Moments:
        reset_key, action_key = jax.random.split(key)
        state, obs = env.reset(reset_key)

        def step(carry, key):  # type: ignore[no-untyped-def]
            state, obs, alive = carry
            out = env.step(state, random_action(env, key))
            return (out.state, out.obs, alive & ~(out.terminated | out.truncated)), (obs, alive)

        keys = jax.random.split(action_key, env.spec.horizon)
        _, (seen, alive) = jax.lax.scan(step, (state, obs, jnp.bool_(True)), keys)
        weight = alive.astype(seen.dtype)[:, None]  # (t, 1)
        count = weight.sum()
        mean = jnp.where(alive[:, None], seen, 0).sum(0) / count
        return Moments(count, mean, jnp.where(alive[:, None], (seen - mean) ** 2, 0).sum(0))

    return merge_moments(jax.jit(jax.vmap(episode))(jax.random.split(key, episodes)))


def observation_scale(
    env: Env, key: Key, mode: str = "episodes", unit: float = 1.0, episodes: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Offset and scale of every observation feature: a policy sees (obs - offset) / scale.

    Args:
        env: a functional environment with a flat Box observation.
        key: for the random episodes.
        mode: ``episodes``: mean and standard deviation over episodes of random actions. ``bounds``: the middle and
            the half-width of the observation space over `INPUT_RANGE`, so that an integer policy resolves exactly the
            space; a feature without finite bounds is treated as in ``episodes``. ``none``: 0 and 1.
        unit: what the scale is multiplied by; below 1, an integer policy resolves more finely over a smaller range.
        episodes: random episodes, at least 1.

    Returns:
        offset (o,), scale (o,) float32; a feature that never varied has scale 1.

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
    scale = np.where(scale > 0, scale, 1.0) * unit
    return offset.astype(np.float32), scale.astype(np.float32)
