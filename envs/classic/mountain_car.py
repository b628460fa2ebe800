"""Mountain car (Moore, 1990), equal to Gymnasium's MountainCar-v0 and MountainCarContinuous-v0."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from polystep_rl.envs.classic.trig import sincos
from polystep_rl.types import Array, EnvSpec, Key, Step

MIN_POSITION = -1.2  # m
MAX_POSITION = 0.6  # m
MAX_SPEED = 0.07  # m per step
GRAVITY = 0.0025
RESET_LOW, RESET_HIGH = -0.6, -0.4  # m


class MountainCarState(NamedTuple):
    """Every field is a scalar array ()."""

    position: Array  # m
    velocity: Array  # m per step


class MountainCar:
    """MountainCar-v0. Observation (2,): position, velocity. Action () integer 0, 1, 2: push left, none, right.

    Reward -1 for every step. Terminates at position 0.5 with at least ``goal_velocity``. Source: Moore, "Efficient
    memory-based learning for robot control", PhD thesis, Cambridge, 1990, with the constants of Sutton (1996).
    """

    GOAL_POSITION = 0.5
    FORCE = 0.001

    def __init__(self, goal_velocity: float = 0.0):
        self.goal_velocity = goal_velocity
        self.spec = EnvSpec("MountainCar-v0", _observation_space(), spaces.Discrete(3), 200, -110.0)

    def reset(self, key: Key) -> tuple[MountainCarState, Array]:
        """Position uniform in [-0.6, -0.4], at rest."""
        return _reset(key)

    def step(self, state: MountainCarState, action: Array) -> Step:
        """Push for one step."""
        new = _move(state, (action.astype(state.position.dtype) - 1) * self.FORCE)
        terminated = (new.position >= self.GOAL_POSITION) & (new.velocity >= self.goal_velocity)
        reward = -jnp.ones_like(new.position)
        return Step(new, jnp.stack(new), reward, terminated, jnp.zeros_like(terminated), {})


class MountainCarContinuous:
    """MountainCarContinuous-v0. Observation (2,): position, velocity. Action (1,): force, clipped to ±1.

    Reward -0.1 action^2 (of the action as given, before the clip, as in Gymnasium), and +100 for the step that
    reaches position 0.45 with at least ``goal_velocity``, which terminates. Source: as MountainCar.
    """

    GOAL_POSITION = 0.45
    POWER = 0.0015

    def __init__(self, goal_velocity: float = 0.0):
        self.goal_velocity = goal_velocity
        box = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.spec = EnvSpec("MountainCarContinuous-v0", _observation_space(), box, 999, 90.0)

    def reset(self, key: Key) -> tuple[MountainCarState, Array]:
        """Position uniform in [-0.6, -0.4], at rest."""
        return _reset(key)

    def step(self, state: MountainCarState, action: Array) -> Step:
        """Push for one step."""
        force = action[0].astype(state.position.dtype)
        new = _move(state, jnp.clip(force, -1.0, 1.0) * self.POWER)
        terminated = (new.position >= self.GOAL_POSITION) & (new.velocity >= self.goal_velocity)
        reward = jnp.where(terminated, 100.0, 0.0).astype(force.dtype) - 0.1 * force * force
        return Step(new, jnp.stack(new), reward, terminated, jnp.zeros_like(terminated), {})


def _observation_space() -> spaces.Box:
    low, high = np.array([[MIN_POSITION, -MAX_SPEED], [MAX_POSITION, MAX_SPEED]], np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def _reset(key: Key) -> tuple[MountainCarState, Array]:
    position = jax.random.uniform(key, (), minval=RESET_LOW, maxval=RESET_HIGH)
    state = MountainCarState(position, jnp.zeros_like(position))
    return state, jnp.stack(state)


def _move(state: MountainCarState, push: Array) -> MountainCarState:
    """One step under the push (m per step^2); the left wall stops the car."""
    _, cos = sincos(3 * state.position)
    velocity = jnp.clip(state.velocity + push - GRAVITY * cos, -MAX_SPEED, MAX_SPEED)
    position = jnp.clip(state.position + velocity, MIN_POSITION, MAX_POSITION)
    velocity = jnp.where((position <= MIN_POSITION) & (velocity < 0), 0, velocity)
    return MountainCarState(position, velocity)
