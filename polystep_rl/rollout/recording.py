"""Records episodes of one policy step by step: rewards, and what the environment measures beside them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polystep_rl.rollout.episodes import host_ticks, reset_seeds
from polystep_rl.types import Array, Env, HostEnv, Key, Params, Policy

CHUNK = 50  # steps on the device between two looks at who is left


class Recorded(NamedTuple):
    """Steps t of n episodes; what follows an episode's end is 0."""

    alive: np.ndarray  # (t, n) bool: the step was taken
    reward: np.ndarray  # (t, n)
    fell: np.ndarray  # (n,) bool: the episode was terminated, not cut
    metrics: dict[str, np.ndarray]  # each (t, n, ...)

    def only(self, episodes: np.ndarray) -> Recorded:
        """Some of the episodes, by their indices."""
        metrics = {name: values[:, episodes] for name, values in self.metrics.items()}
        return Recorded(self.alive[:, episodes], self.reward[:, episodes], self.fell[episodes], metrics)


def record(env: Env | HostEnv, policy: Policy, params: Params, episodes: int, key: Key) -> Recorded:
    """Roll out one policy for some episodes, all at once, each on its own seed: those of an evaluation with this key.

    Args:
        env: the environment; on the host its ``measuring()`` fills the metrics.
        policy, params: one policy, leaves without a candidate axis.
        episodes: n, at least 1.
        key: of the episodes.

    Raises:
        SimulatorError: a simulator on the host died.
    """
    deployed = policy.deploy(params)
    act = jax.jit(jax.vmap(lambda obs: policy.act_deployed(deployed, obs)))
    if isinstance(env, HostEnv):
        return _on_host(env, act, episodes, key)
    return _on_device(env, act, episodes, key)


def _on_host(env: HostEnv, act: Any, episodes: int, key: Key) -> Recorded:
    env = env.measuring()
    obs, fell = np.zeros((episodes, *env.spec.observation_space.shape), np.float32), np.zeros(episodes, bool)
    rows: list[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]] = []

    def choose(alive: np.ndarray, began: np.ndarray) -> np.ndarray:
        return np.asarray(act(obs))[alive]  # of all episodes: one shape to compile

    for tick in host_ticks(env, reset_seeds(key, episodes), choose):
        obs[tick.episodes] = tick.obs
        fell[tick.episodes] = tick.terminated
        if not tick.began.all():
            rows.append((tick.episodes, tick.reward, tick.metrics))

    def spread(values: list[np.ndarray], dtype: Any) -> np.ndarray:
        table = np.zeros((len(rows), episodes, *values[0].shape[1:]), dtype)
        for line, (who, _, _), value in zip(table, rows, values, strict=True):
            line[who] = value
        return table

    columns = {name: [metrics[name] for _, _, metrics in rows] for name in rows[0][2]}
    return Recorded(
        spread([np.ones(len(who), bool) for who, _, _ in rows], bool),
        spread([reward for _, reward, _ in rows], np.float64),
        fell,
        {name: spread(values, values[0].dtype) for name, values in columns.items()},
    )


def _on_device(env: Env, act: Any, episodes: int, key: Key) -> Recorded:
    horizon = env.spec.horizon

    def step(carry: Any, _: None) -> Any:
        state, obs, alive = carry
        out = jax.vmap(env.step)(state, act(obs))
        going = alive & ~(out.terminated | out.truncated)
        return (out.state, out.obs, going), (alive, out.reward, alive & out.terminated, out.metrics)

    def begin(keys: Array) -> Any:
        state, obs = jax.vmap(env.reset)(keys)
        return state, obs, jnp.ones(episodes, bool)

    chunk = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=min(CHUNK, horizon)))
    carry, parts = jax.jit(begin)(jax.random.split(key, episodes)), []
    for _ in range(0, horizon, CHUNK):
        carry, part = chunk(carry)
        parts.append(jax.device_get(part))
        if not carry[2].any():
            break
    alive, reward, fell, metrics = jax.tree.map(lambda *x: np.concatenate(x)[:horizon], *parts)
    length = int(alive.any(axis=1).sum())
    living = {name: np.where(_over(alive, value), value, 0)[:length] for name, value in metrics.items()}
    return Recorded(alive[:length], np.where(alive, reward, 0)[:length], fell.any(axis=0), living)


def _over(alive: np.ndarray, value: np.ndarray) -> np.ndarray:
    """``alive`` with as many axes as a value has."""
    return alive.reshape(*alive.shape, *(1,) * (value.ndim - alive.ndim))
