"""Observations that scales and quantisers are calibrated on, and the input scales that follow from them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from polystep_rl.moments import moments_of, varied
from polystep_rl.rollout.episodes import host_ticks, reset_seeds
from polystep_rl.types import Array, Env, HostEnv, Key, Moments

INPUT_RANGE = 127 / 32  # an integer policy resolves x = (obs - offset) / scale in 1/32 within +- this many units
MODES = ("episodes", "bounds", "none")


def random_action_moments(env: Env | HostEnv, key: Key, episodes: int = 32) -> Moments:
    """Moments of the observations of episodes of uniformly random actions, living steps only: mean (o,), m2 (o,)."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), moments_of(observations(env, key, episodes)))


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
    scale = np.where(varied(scale, offset), scale, 1.0) * unit
    return offset.astype(np.float32), scale.astype(np.float32)


Act = Callable[[Array], Array]  # one observation (o,) -> an action


def random_action(env: Env | HostEnv, key: Key) -> Array:
    """One action drawn uniformly from the action space."""
    space = env.spec.action_space
    if isinstance(space, spaces.Discrete):
        return jax.random.randint(key, (), 0, int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return jax.random.randint(key, space.shape, 0, jnp.asarray(space.nvec, jnp.int32))
    low, high = jnp.asarray(space.low), jnp.asarray(space.high)
    return jax.random.uniform(key, space.shape, low.dtype, low, high)


def observations(env: Env | HostEnv, key: Key, episodes: int = 32, act: Act | None = None) -> np.ndarray:
    """Every observation that was acted on in some episodes.

    Args:
        env: an environment with a flat Box observation.
        key: for the episodes.
        episodes: at least 1.
        act: the policy; uniformly random actions by default.

    Returns:
        (N, o), living steps only, episode by episode (on the host: step by step), rows that are not finite left out.

    Raises:
        ValueError: no observation was finite.
    """
    rows = _on_host(env, key, episodes, act) if isinstance(env, HostEnv) else _on_device(env, key, episodes, act)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not len(rows):
        raise ValueError(f"{env.spec.id}: not one finite observation in {episodes} episodes")
    return rows


def _on_device(env: Env, key: Key, episodes: int, act: Act | None) -> np.ndarray:
    def episode(key: Key) -> tuple[Array, Array]:
        reset_key, action_key = jax.random.split(key)
        state, obs = env.reset(reset_key)

        def step(carry, key):  # type: ignore[no-untyped-def]
            state, obs, alive = carry
            out = env.step(state, random_action(env, key) if act is None else act(obs))
            return (out.state, out.obs, alive & ~(out.terminated | out.truncated)), (obs, alive)

        keys = jax.random.split(action_key, env.spec.horizon)
        return jax.lax.scan(step, (state, obs, jnp.bool_(True)), keys)[1]

    seen, alive = jax.jit(jax.vmap(episode))(jax.random.split(key, episodes))
    return np.asarray(seen)[np.asarray(alive)]


def _on_host(env: HostEnv, key: Key, episodes: int, act: Act | None) -> np.ndarray:
    """An episode per lane, each with its own seed and random actions; those of lanes that were lost are run again."""
    seeds = reset_seeds(key, episodes)
    many = None if act is None else jax.jit(jax.vmap(act))
    draws = [_Draws(env, seed) for seed in seeds]
    seen: list[list[np.ndarray]] = [[] for _ in seeds]
    last: np.ndarray | None = None  # observations of all episodes: the batch keeps its shape

    def choose(alive: np.ndarray, began: np.ndarray) -> np.ndarray:
        if many is None or last is None:
            return np.stack([draws[episode]() for episode in alive])
        return np.asarray(many(last))[alive]

    for tick in host_ticks(env, seeds, choose, steps=env.spec.horizon - 1, again=True):
        last = np.zeros((episodes, tick.obs.shape[1]), np.float32) if last is None else last
        last[tick.episodes] = tick.obs
        for episode in tick.episodes[tick.lost]:
            seen[episode], draws[episode] = [], _Draws(env, seeds[episode])
        going = ~tick.over & ~tick.lost
        for episode, obs in zip(tick.episodes[going], tick.obs[going], strict=True):
            seen[episode].append(obs)
    rows = [obs for episode in seen for obs in episode]
    return np.stack(rows) if rows else np.zeros((0, *env.spec.observation_space.shape), np.float32)


class _Draws:
    """Uniformly random actions of one lane, the same ones for the same seed."""

    def __init__(self, env: HostEnv, seed: int) -> None:
        self.space, self.rng = env.spec.action_space, np.random.default_rng(seed)

    def __call__(self) -> np.ndarray:
        if isinstance(self.space, spaces.Box):
            return self.rng.uniform(self.space.low, self.space.high).astype(np.float32)
        choices = self.space.n if isinstance(self.space, spaces.Discrete) else self.space.nvec
        return np.asarray(self.rng.integers(choices), np.int32)
