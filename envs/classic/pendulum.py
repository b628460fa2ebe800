"""Pendulum: swing up and hold an underactuated pendulum, equal to Gymnasium's Pendulum-v1."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from polystep_rl.envs.classic.trig import sincos
from polystep_rl.types import Array, EnvSpec, Key, Step

MASS = 1.0  # kg
LENGTH = 1.0  # m
DT = 0.05  # s
MAX_SPEED = 8.0  # rad/s
MAX_TORQUE = 2.0  # N m
RESET_SPEED = 1.0  # rad/s


class PendulumState(NamedTuple):
    """Every field is a scalar array (). The sine follows from the angle: the next step starts from it."""

    theta: Array  # rad, 0 is upright; grows without bound, as in Gymnasium
    theta_dot: Array  # rad/s
    sin: Array


class Pendulum:
    """Pendulum-v1. Observation (3,): cos theta, sin theta, theta_dot. Action (1,): torque, clipped to ±2 N m.

    Reward -(theta^2 + 0.1 theta_dot^2 + 0.001 torque^2) of the state before the step, with theta within ±pi. Never
    terminates. ``g`` is gravity in m/s^2. Source: Gymnasium's Pendulum-v1, a rod that turns about its end.
    """

    def __init__(self, g: float = 10.0):
        self.g = g
        high = np.array([1.0, 1.0, MAX_SPEED], np.float32)
        box = spaces.Box(-MAX_TORQUE, MAX_TORQUE, (1,), np.float32)
        self.spec = EnvSpec("Pendulum-v1", spaces.Box(-high, high, dtype=np.float32), box, 200, None)

    @staticmethod
    def state(theta: Array, theta_dot: Array) -> PendulumState:
        """The full state for a given angle (rad) and velocity (rad/s), each ()."""
        return PendulumState(theta, theta_dot, sincos(theta)[0])

    def reset(self, key: Key) -> tuple[PendulumState, Array]:
        """Angle uniform in ±pi, velocity uniform in ±1 rad/s."""
        start = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        theta, theta_dot = math.pi * start[0], RESET_SPEED * start[1]
        sin, cos = sincos(theta)
        return PendulumState(theta, theta_dot, sin), jnp.stack([cos, sin, theta_dot])

    def step(self, state: PendulumState, action: Array) -> Step:
        """Apply the torque for 0.05 s (semi-implicit Euler)."""
        torque = jnp.clip(action[0].astype(state.theta.dtype), -MAX_TORQUE, MAX_TORQUE)
        turns = jnp.floor(state.theta * (0.5 / math.pi) + 0.5)
        angle = state.theta - 2 * math.pi * turns
        reward = -(angle * angle + 0.1 * state.theta_dot * state.theta_dot + 0.001 * torque * torque)

        acceleration = 3 * self.g / (2 * LENGTH) * state.sin + 3 / (MASS * LENGTH**2) * torque
        theta_dot = jnp.clip(state.theta_dot + acceleration * DT, -MAX_SPEED, MAX_SPEED)
        theta = state.theta + theta_dot * DT
        sin, cos = sincos(theta)
        never = jnp.zeros_like(theta, dtype=bool)
        return Step(PendulumState(theta, theta_dot, sin), jnp.stack([cos, sin, theta_dot]), reward, never, never, {})
