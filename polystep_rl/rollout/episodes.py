"""Whole episodes of a controller that is a function on the host, such as a compiled policy, in any environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from polystep_rl.rollout.bookkeeping import SimulatorError
from polystep_rl.rollout.host import MAX_SEED, asked
from polystep_rl.types import Env, HostEnv, Key

Controller = Callable[[np.ndarray], np.ndarray]  # observations (n, o) float32 -> actions (n,) int32, (n, a) or (n, g)


class Played(NamedTuple):
    """n episodes; N steps in all, those of the first step of every episode first, then those of the second."""

    obs: np.ndarray  # (N, o) float32, what was acted on
    actions: np.ndarray  # (N, ...)
    returns: np.ndarray  # (n,) float64
    lengths: np.ndarray  # (n,) int


def play(env: Env | HostEnv, act: Controller, episodes: int, key: Key) -> Played:
    """Roll out a controller for some episodes, all at once, each on its own seed.

    Args:
        env: the environment.
        act: the controller; called once a step with the observations of all episodes that still run.
        episodes: n, at least 1.
        key: of the episodes.

    Raises:
        SimulatorError: a simulator on the host died.
    """
    loop = _HostLoop(env, episodes, key) if isinstance(env, HostEnv) else _DeviceLoop(env, episodes, key)
    returns, lengths = np.zeros(episodes), np.zeros(episodes, int)
    seen, taken = [], []
    alive, obs = np.arange(episodes), loop.begin()
    try:
        for _ in range(env.spec.horizon):
            actions = act(obs)
            seen.append(obs)
            taken.append(actions)
            obs, reward, ended = loop.step(alive, actions)
            returns[alive] += reward
            lengths[alive] += 1
            alive, obs = alive[~ended], obs[~ended]
            if not alive.size:
                break
    finally:
        loop.close()
    return Played(np.concatenate(seen), np.concatenate(taken), returns, lengths)


class _DeviceLoop:
    """Environments in JAX, a step of all of them at a time; those that have ended go on unseen."""

    def __init__(self, env: Env, episodes: int, key: Key) -> None:
        self._keys = jax.random.split(key, episodes)
        self._reset, self._step = jax.jit(jax.vmap(env.reset)), jax.jit(jax.vmap(env.step))

    def begin(self) -> np.ndarray:
        self._state, obs = self._reset(self._keys)
        return np.asarray(obs, np.float32)

    def step(self, alive: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        everyone = np.zeros((len(self._keys), *actions.shape[1:]), actions.dtype)
        everyone[alive] = actions
        out = self._step(self._state, everyone)
        self._state = out.state
        ended = np.asarray(out.terminated | out.truncated)
        return np.asarray(out.obs, np.float32)[alive], np.asarray(out.reward, float)[alive], ended[alive]

    def close(self) -> None:
        """Nothing to give back."""


class _HostLoop:
    """Simulators on the host, a lane for each episode."""

    def __init__(self, env: HostEnv, episodes: int, key: Key) -> None:
        self._seeds = np.asarray(jax.random.randint(key, (episodes,), 0, MAX_SEED), np.int64)
        self._lanes = asked(env.lanes, episodes, 1, int(self._seeds[0]))
        space = env.spec.action_space
        self._nothing = np.stack([np.asarray(space.sample())] * episodes)  # a reset ignores it

    def begin(self) -> np.ndarray:
        return self._tick(np.arange(len(self._seeds)), self._nothing, self._seeds)[0]

    def step(self, alive: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._tick(alive, actions, np.full(len(alive), -1))

    def _tick(
        self, lanes: np.ndarray, actions: np.ndarray, seeds: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        asked(self._lanes.send, 0, lanes, actions, seeds)
        ticks = asked(self._lanes.recv, 0)
        if ticks.lost.any():
            raise SimulatorError(getattr(self._lanes, "last_fault", "") or "a simulator died")
        return np.array(ticks.obs, np.float32), ticks.reward, ticks.terminated | ticks.truncated

    def close(self) -> None:
        self._lanes.close()
