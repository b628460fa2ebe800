"""The lanes of a host environment as a stable-baselines3 `VecEnv`: many episodes side by side, each in a lane."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from polystep_rl.errors import SimulatorError
from polystep_rl.types import MAX_RESET_SEED, HostEnv, Lanes

MAX_LOSSES = 5  # of one lane, no episode of which has ended in between


class LanesVecEnv(VecEnv):
    """A `VecEnv` over lanes: where an episode ends in a lane, the next one begins there at once.

    ``step`` returns the first observation of the next episode, as stable-baselines3 has it; the last one of the episode
    that has ended is the ``terminal_observation`` of its ``info``, beside ``TimeLimit.truncated`` (cut, and not over:
    its value counts) and ``episode`` (return, length and time, as `Monitor` has them). Episodes are cut at the horizon
    of ``env.spec``, as in an evaluation, even where the simulator itself does not. An episode whose simulator died,
    or paid what is not finite, ends before that step, as if it were cut; it is not counted among the episodes.

    What a lane does depends on the seed and on the actions that it is sent, whatever the others do. The pool is made at
    the first reset, and made anew at one that has a new seed.

    Args:
        env: the environment; its lanes must not be reset all together, as those with common random numbers of EnvPool.
        n_envs: lanes.

    Raises:
        SimulatorError: from a reset or a step, where the simulators cannot go on.
    """

    def __init__(self, env: HostEnv, n_envs: int) -> None:
        super().__init__(n_envs, env.spec.observation_space, env.spec.action_space)
        self._env, self._began = env, time.time()
        self._lanes: Lanes | None = None
        self._every, self._going_on = np.arange(n_envs), np.full(n_envs, -1, np.int64)
        self._streams: list[np.random.Generator] = []
        self._obs = np.zeros((n_envs, *self.observation_space.shape), np.float32)
        self._returns, self._lengths = np.zeros(n_envs), np.zeros(n_envs, np.int64)
        self._losses = np.zeros(n_envs, np.int64)

    def reset(self) -> np.ndarray:
        """Begin an episode in every lane; returns the first observations (n, o)."""
        if self._lanes is None and self._seeds[0] is None:
            self.seed()
        seed = self._seeds[0]
        if seed is not None:
            self.close()
            self._streams = [np.random.default_rng((seed, lane)) for lane in range(self.num_envs)]
            self._lanes = self._asked(self._env.lanes, self.num_envs, 1, seed)
            if self._lanes.together:
                raise ValueError(f"{self._env.spec.id}: lanes that can only begin together cannot be trained on")
            self._reset_seeds()
        self._losses[:] = 0
        self._begin(self._every)
        return self._obs.copy()

    def step_async(self, actions: np.ndarray) -> None:
        """Send actions (n,) or (n, a)."""
        kind = np.float32 if isinstance(self.action_space, spaces.Box) else np.int32
        self._asked(self._pool.send, 0, self._every, np.asarray(actions).astype(kind), self._going_on)

    def step_wait(self) -> VecEnvStepReturn:
        """Return observations (n, o), rewards (n,), whether an episode has ended (n,), and its info."""
        ticks = self._asked(self._pool.recv, 0)
        lost = ticks.lost | ~np.isfinite(ticks.reward)
        reward = np.where(lost, 0.0, ticks.reward)
        self._obs = np.where(lost[:, None], self._obs, ticks.obs)
        self._returns += reward
        self._lengths += ~lost
        over = (ticks.terminated | ticks.truncated | (self._lengths >= self._env.spec.horizon)) & ~lost
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in self._every]
        for lane in np.flatnonzero(over | lost):
            cut = bool(lost[lane] or not ticks.terminated[lane])
            infos[lane] = {"TimeLimit.truncated": cut, "terminal_observation": self._obs[lane].copy()}
            if over[lane]:
                found = {"r": float(self._returns[lane]), "l": int(self._lengths[lane])}
                infos[lane]["episode"] = {**found, "t": round(time.time() - self._began, 6)}
        self._count(over, lost)
        self._begin(np.flatnonzero(over | lost))
        return self._obs.copy(), reward.astype(np.float32), over | lost, infos

    def _count(self, over: np.ndarray, lost: np.ndarray) -> None:
        """Count the losses of each lane; SimulatorError after MAX_LOSSES in a row."""
        self._losses[over] = 0
        self._losses[lost] += 1
        if self._losses.max() >= MAX_LOSSES:
            why = self._pool.last_fault or "its simulator died, or its rewards are not finite"
            raise SimulatorError(f"an episode was lost {MAX_LOSSES} times in a row: {why}")

    def _begin(self, lanes: np.ndarray) -> None:
        """Begin an episode in some lanes; lanes that are lost meanwhile begin again."""
        while lanes.size:
            seeds = np.array([self._streams[lane].integers(MAX_RESET_SEED) for lane in lanes], np.int64)
            kind, shape = self.action_space.dtype, self.action_space.shape or ()
            self._asked(self._pool.send, 0, lanes, np.zeros((len(lanes), *shape), kind), seeds)
            ticks = self._asked(self._pool.recv, 0)
            self._obs[lanes], self._returns[lanes], self._lengths[lanes] = ticks.obs, 0.0, 0
            lost = np.zeros(self.num_envs, bool)
            lost[lanes] = ticks.lost
            self._count(np.zeros_like(lost), lost)
            lanes = lanes[ticks.lost]

    @property
    def _pool(self) -> Lanes:
        if self._lanes is None:
            raise ValueError("the lanes were stepped before their first reset, or after they were closed")
        return self._lanes

    @staticmethod
    def _asked(call: Any, *args: Any) -> Any:
        try:
            return call(*args)
        except RuntimeError as error:
            raise SimulatorError(" ".join(str(error).split())) from error

    def close(self) -> None:
        """Close the simulators; closing twice is no error."""
        if self._lanes is not None:
            self._lanes.close()
            self._lanes = None

    # --- what a VecEnv has for environments that are Python objects ---
    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """``render_mode`` is None; a lane has no other attributes."""
        if attr_name != "render_mode":
            raise AttributeError(f"a lane has no attribute {attr_name!r}")
        return [None for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """A lane has no attributes."""
        raise AttributeError(f"a lane has no attribute {attr_name!r}")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """A lane has no methods."""
        raise AttributeError(f"a lane has no method {method_name!r}")

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> Sequence[bool]:
        """A lane has no wrappers."""
        return [False for _ in self._get_indices(indices)]
