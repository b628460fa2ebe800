"""Gymnasium environments on the host: ``GymnasiumEnv("Hopper-v5", workers=8)`` is a HostEnv whose lanes are stepped in
this process or in worker processes, with the same results bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polystep_rl.envs.host.ray_cluster import ray_address
from polystep_rl.envs.host.ray_lanes import RayLanes
from polystep_rl.envs.host.single import LOST, TERMINATED, TRUNCATED, EnvSet, Recipe, horizon_of, make_single
from polystep_rl.envs.host.spaces import flat_observations, policy_actions
from polystep_rl.envs.host.workers import WorkerLanes
from polystep_rl.types import EnvSpec, Lanes, Ticks

__all__ = ["GymnasiumEnv", "InProcessLanes", "make_single"]


class GymnasiumEnv:
    """A Gymnasium environment, flat in its observations and plain in its actions (see spaces.py).

    Args:
        env_id: a Gymnasium id, "module:Id-v0" for one that a package registers when it is imported, or
            "module:ClassName" or "module:function" of a gymnasium.Env of your own.
        env_kwargs: its keyword arguments; plain values (they are handed to workers and written to config files).
        wrappers: put on in this order; each the name of one of gymnasium.wrappers or "module:Class", optionally with
            arguments: "RescaleAction(min_action=-1, max_action=1)".
        max_episode_steps: truncate episodes here, instead of where the id says.
        workers: processes that step the lanes; 0 steps them in this process; "ray" or "ray:ADDRESS" steps them in the
            actors of a Ray cluster (see ray_lanes.py).

    Raises ValueError with one line that says what to do.
    """

    simulator = "gymnasium"
    crn = True  # reset(seed) gives the same episode again
    measures = False

    def __init__(
        self,
        env_id: str,
        env_kwargs: Mapping[str, Any] | None = None,
        wrappers: Sequence[str] = (),
        max_episode_steps: int | None = None,
        workers: int | str = 0,
    ) -> None:
        if isinstance(workers, str):
            ray_address(workers)
        elif workers < 0:
            raise ValueError(f"workers must be at least 0 (0: step in this process), got {workers}")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
        self.workers = workers
        self.recipe = Recipe(env_id, _plain(env_kwargs), tuple(wrappers), max_episode_steps)
        env = make_single(*self.recipe)
        try:
            self.spec = _spec(env, env_id, max_episode_steps)
        finally:
            env.close()

    def lanes(self, width: int, groups: int, seed: int) -> Lanes:
        """A new pool of ``groups`` groups of ``width`` lanes; ``seed`` is not needed, for every reset has its own."""
        if width < 1 or groups < 1:
            raise ValueError(f"width and groups must be at least 1, got {width} and {groups}")
        if self.workers == 0:
            return InProcessLanes(self.recipe, self.spec, width, groups)
        if isinstance(self.workers, str):
            return RayLanes(self.recipe, self.spec, width, groups, ray_address(self.workers))
        return WorkerLanes(self.recipe, self.spec, width, groups, self.workers)

    def measuring(self) -> GymnasiumEnv:
        """The same environment: nothing more is measured."""
        return self


class InProcessLanes:
    """A pool in this process: ``send`` steps the lanes, one after another; one environment object per lane."""

    faults = 0  # what dies here takes the process with it
    last_fault = ""
    together = False

    def __init__(self, recipe: Recipe, spec: EnvSpec, width: int, groups: int) -> None:
        self.groups = groups
        self.width = width
        self._size = spec.observation_space.shape[0]
        self._envs = EnvSet(recipe)
        self._ticks: dict[int, Ticks] = {}

    def send(self, group: int, lanes: np.ndarray, actions: np.ndarray, seeds: np.ndarray) -> None:
        """See types.Lanes. Raises RuntimeError, one line, where an environment raises."""
        if group in self._ticks:
            raise ValueError(f"group {group} was sent twice without being received")
        k = len(lanes)
        obs, reward = np.zeros((k, self._size), np.float32), np.zeros(k)
        flags = np.zeros(k, np.uint8)
        jobs = list(zip(range(k), [(group, lane) for lane in lanes.tolist()], seeds.tolist(), strict=True))
        self._envs.tick(jobs, actions, (obs, reward, flags, np.zeros((), np.int64)))
        if (flags == LOST).any():
            raise ValueError(f"lane {int(lanes[flags == LOST][0])} of group {group} was stepped before its first reset")
        lost = np.zeros(k, bool)
        self._ticks[group] = Ticks(obs, reward, flags & TERMINATED > 0, flags & TRUNCATED > 0, lost)

    def recv(self, group: int) -> Ticks:
        """See types.Lanes."""
        if group not in self._ticks:
            raise ValueError(f"group {group} was not sent")
        return self._ticks.pop(group)

    def close(self) -> None:
        """Close the environments."""
        self._envs.close()


def _spec(env: Any, env_id: str, max_episode_steps: int | None) -> EnvSpec:
    horizon = max_episode_steps or horizon_of(env)
    if horizon is None:
        raise ValueError(f"environment {env_id!r} has no time limit of its own: give one with `max_episode_steps`")
    return EnvSpec(
        id=env_id,
        observation_space=flat_observations(env.observation_space)[0],
        action_space=policy_actions(env.action_space)[0],
        horizon=horizon,
        reward_threshold=None if env.spec is None else env.spec.reward_threshold,
    )


def _plain(env_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The values as JSON returns them (tuples are lists), as workers receive and config files hold them."""
    try:
        return json.loads(json.dumps(dict(env_kwargs or {})))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"env_kwargs must be plain values (numbers, strings, lists, dictionaries): {error};"
            " for others write a function that makes the environment, and give 'module:function' as its id"
        ) from error
