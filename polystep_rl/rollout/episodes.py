"""Whole episodes of one controller, a lane for each, step by step: what an evaluation would not keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from polystep_rl.errors import SimulatorError
from polystep_rl.rollout.bookkeeping import MAX_LOSSES
from polystep_rl.rollout.host import asked
from polystep_rl.types import MAX_RESET_SEED, Env, HostEnv, Key

Controller = Callable[[np.ndarray], np.ndarray]  # observations (n, o) float32 -> actions (n,) int32, (n, a) or (n, g)
# (episodes (k,), whether each is about to be reset (k,)) -> actions (k, ...); a reset ignores its action
Choose = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Tick(NamedTuple):
    """One reset or step of k of the episodes."""

    episodes: np.ndarray  # (k,) int, increasing
    began: np.ndarray  # (k,) bool: it was reset, not stepped
    lost: np.ndarray  # (k,) bool: its simulator died, and the episode begins anew
    obs: np.ndarray  # (k, o) float32
    reward: np.ndarray  # (k,), 0 after a reset
    terminated: np.ndarray  # (k,) bool
    truncated: np.ndarray  # (k,) bool
    metrics: dict[str, np.ndarray]  # each (k, ...)

    @property
    def over(self) -> np.ndarray:
        """(k,) bool, whether the environment has ended the episode."""
        return self.terminated | self.truncated


def reset_seeds(key: Key, episodes: int) -> np.ndarray:
    """(n,) int64, the seeds that the episodes of an evaluation with this key have on the host."""
    return np.asarray(jax.random.randint(key, (episodes,), 0, MAX_RESET_SEED), np.int64)


def host_ticks(
    env: HostEnv, seeds: np.ndarray, choose: Choose, steps: int | None = None, again: bool = False
) -> Iterator[Tick]:
    """Reset and step episodes on host simulators, all at once, until each has ended.

    Args:
        env: the environment.
        seeds: (n,) of the resets; one for each episode.
        choose: is asked for actions before every tick.
        steps: after which an episode is cut; the environment's own limit by default.
        again: begin an episode anew whose simulator died, up to `MAX_LOSSES` times, instead of ending.

    Raises:
        SimulatorError: a simulator died, and died too often where that is borne.
    """
    n, limit = len(seeds), env.spec.horizon if steps is None else steps
    alive, fresh = np.arange(n), np.ones(n, bool)
    taken, losses = np.zeros(n, int), np.zeros(n, int)
    lanes = asked(env.lanes, n, 1, int(seeds[0]))
    try:
        while alive.size:
            began = fresh[alive]
            asked(lanes.send, 0, alive, choose(alive, began), np.where(began, seeds[alive], -1))
            out = asked(lanes.recv, 0)
            losses[alive] += out.lost
            if out.lost.any() and (not again or losses.max() >= MAX_LOSSES):
                raise SimulatorError(lanes.last_fault or "a simulator died")
            taken[alive] = np.where(out.lost, 0, taken[alive] + ~began)
            fresh[alive] = out.lost
            obs = np.asarray(out.obs, np.float32)
            tick = Tick(alive, began, out.lost, obs, out.reward, out.terminated, out.truncated, out.metrics)
            yield tick
            alive = alive[(~tick.over) & (taken[alive] < limit)]
    finally:
        lanes.close()


def device_ticks(env: Env, key: Key, episodes: int, choose: Choose) -> Iterator[Tick]:
    """As `host_ticks`, of an environment in JAX; episodes that have ended are stepped on unseen."""
    reset, step = jax.jit(jax.vmap(env.reset)), jax.jit(jax.vmap(env.step))
    alive, no = np.arange(episodes), np.zeros(episodes, bool)
    state, obs = reset(jax.random.split(key, episodes))
    yield Tick(alive, ~no, no, np.asarray(obs, np.float32), np.zeros(episodes), no, no, {})
    for _ in range(env.spec.horizon):
        actions = choose(alive, no[alive])
        everyone = np.zeros((episodes, *actions.shape[1:]), actions.dtype)
        everyone[alive] = actions
        out = step(state, everyone)
        state = out.state
        obs, reward, terminated, truncated = (
            np.asarray(x)[alive] for x in (out.obs, out.reward, out.terminated, out.truncated)
        )
        metrics = {name: np.asarray(value)[alive] for name, value in out.metrics.items()}
        none = no[alive]
        tick = Tick(alive, none, none, obs.astype(np.float32), reward.astype(float), terminated, truncated, metrics)
        yield tick
        alive = alive[~tick.over]
        if not alive.size:
            return


class Played(NamedTuple):
    """n episodes; N steps in all, those of the first step of every episode first, then those of the second."""

    obs: np.ndarray  # (N, o) float32, what was acted on
    actions: np.ndarray  # (N, ...)
    returns: np.ndarray  # (n,) float64
    lengths: np.ndarray  # (n,) int


def play(env: Env | HostEnv, act: Controller, episodes: int, key: Key) -> Played:
    """Roll out a controller on the host, such as a compiled policy, for some episodes, each on its own seed.

    Args:
        env: the environment.
        act: the controller; called once a step with the observations of all episodes that still run.
        episodes: n, at least 1.
        key: of the episodes.

    Raises:
        SimulatorError: a simulator on the host died.
    """
    returns, lengths = np.zeros(episodes), np.zeros(episodes, int)
    obs = np.zeros((episodes, *env.spec.observation_space.shape), np.float32)
    nothing = np.stack([np.asarray(env.spec.action_space.sample())] * episodes)  # a reset ignores it
    seen, taken = [], []

    def choose(alive: np.ndarray, began: np.ndarray) -> np.ndarray:
        if began.any():
            return nothing
        seen.append(obs[alive])
        taken.append(act(obs[alive]))
        return taken[-1]

    if isinstance(env, HostEnv):
        ticks = host_ticks(env, reset_seeds(key, episodes), choose)
    else:
        ticks = device_ticks(env, key, episodes, choose)
    for tick in ticks:
        obs[tick.episodes] = tick.obs
        returns[tick.episodes] += tick.reward
        lengths[tick.episodes] += ~tick.began
    return Played(np.concatenate(seen), np.concatenate(taken), returns, lengths)
