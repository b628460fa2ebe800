"""Observations of whole episodes, by random actions or by a policy: what scales and quantisers are calibrated on."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from polystep_rl.rollout.bookkeeping import MAX_LOSSES, SimulatorError
from polystep_rl.rollout.host import asked
from polystep_rl.types import Array, Env, HostEnv, Key

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
    seeds = np.asarray(jax.random.randint(key, (episodes,), 0, 2**31 - 1), np.int64)
    many = None if act is None else jax.jit(jax.vmap(act))
    draws = [_Draws(env, seed) for seed in seeds]
    lanes = asked(env.lanes, episodes, 1, int(seeds[0]))
    seen: list[list[np.ndarray]] = [[] for _ in seeds]
    alive, fresh = np.arange(episodes), np.ones(episodes, bool)
    losses = np.zeros(episodes, int)
    last: np.ndarray | None = None  # observations of every lane: the batch keeps its shape
    try:
        while alive.size:
            if many is None or last is None:
                actions = np.stack([draws[lane]() for lane in alive])
            else:
                actions = np.asarray(many(last))[alive]
            asked(lanes.send, 0, alive, actions, np.where(fresh[alive], seeds[alive], -1))
            ticks = asked(lanes.recv, 0)
            last = np.zeros((episodes, ticks.obs.shape[1]), np.float32) if last is None else last
            last[alive] = ticks.obs
            fresh[alive] = ticks.lost
            for lane in alive[ticks.lost]:
                seen[lane], draws[lane] = [], _Draws(env, seeds[lane])
                losses[lane] += 1
                if losses[lane] >= MAX_LOSSES:
                    raise SimulatorError(getattr(lanes, "last_fault", "a simulator died") or "a simulator died")
            going = ~(ticks.terminated | ticks.truncated)
            for lane, obs in zip(alive[going & ~ticks.lost], ticks.obs[going & ~ticks.lost], strict=True):
                seen[lane].append(obs)
            alive = np.array([lane for lane in alive[going] if len(seen[lane]) < env.spec.horizon], int)
    finally:
        lanes.close()
    rows = [obs for lane in seen for obs in lane]
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
