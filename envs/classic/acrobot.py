"""Acrobot: swing a two-link pendulum up by torque on the middle joint (Sutton, 1996), equal to Acrobot-v1."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from polystep_rl.envs.classic.trig import sincos
from polystep_rl.types import Array, EnvSpec, Key, Step
from polystep_rl.xla import outlined

GRAVITY = 9.8  # m/s^2
MASS = 1.0  # kg, of each link
LENGTH = 1.0  # m, of the first link
CENTRE = 0.5  # m, joint to centre of mass, of each link
INERTIA = 1.0  # kg m^2, of each link
DT = 0.2  # s
MAX_VEL_1 = 4 * math.pi  # rad/s
MAX_VEL_2 = 9 * math.pi  # rad/s
RESET_BOUND = 0.1

# The mass matrix is [[d1, d2], [d2, M22]] with d1 = A + 2 B cos(theta2) and d2 = M22 + B cos(theta2).
A = MASS * CENTRE**2 + MASS * (LENGTH**2 + CENTRE**2) + 2 * INERTIA
B = MASS * LENGTH * CENTRE
M22 = MASS * CENTRE**2 + INERTIA
WEIGHT_1 = MASS * (CENTRE + LENGTH) * GRAVITY
WEIGHT_2 = MASS * CENTRE * GRAVITY


class AcrobotState(NamedTuple):
    """Every field is a scalar array (). The last four follow from the angles: the next step starts from them."""

    theta1: Array  # rad in [-pi, pi], 0 hangs down
    theta2: Array  # rad in [-pi, pi], relative to the first link
    dtheta1: Array  # rad/s
    dtheta2: Array  # rad/s
    sin1: Array
    cos1: Array
    sin2: Array
    cos2: Array


class Acrobot:
    """Acrobot-v1. Observation (6,): cos and sin of theta1, of theta2, then both velocities (rad/s).

    Action () integer 0, 1, 2: torque -1, 0, +1 N m on the middle joint. Reward -1 for every step, 0 for the one that
    brings the tip more than one link length above the fixed joint. One Runge-Kutta step of 0.2 s per action.
    Source: Sutton, "Generalization in reinforcement learning: successful examples using sparse coarse coding",
    NeurIPS 8, 1996, with the equations of motion of Sutton and Barto's book.
    """

    def __init__(self) -> None:
        high = np.array([1, 1, 1, 1, MAX_VEL_1, MAX_VEL_2], np.float32)
        self.spec = EnvSpec("Acrobot-v1", spaces.Box(-high, high, dtype=np.float32), spaces.Discrete(3), 500, -100.0)

    @staticmethod
    def state(theta1: Array, theta2: Array, dtheta1: Array, dtheta2: Array) -> AcrobotState:
        """The full state for given angles (rad, within ±pi) and velocities (rad/s), each ()."""
        return AcrobotState(theta1, theta2, dtheta1, dtheta2, *sincos(theta1), *sincos(theta2))

    def reset(self, key: Key) -> tuple[AcrobotState, Array]:
        """Both angles and both velocities uniform in ±0.1."""
        start = jax.random.uniform(key, (4,), minval=-RESET_BOUND, maxval=RESET_BOUND)
        state = self.state(start[0], start[1], start[2], start[3])
        return state, _observe(state)

    def step(self, state: AcrobotState, action: Array) -> Step:
        """Apply the torque for 0.2 s; terminates where -cos(theta1) - cos(theta1 + theta2) > 1."""
        q1, q2, v1, v2 = state[:4]
        torque = action.astype(q1.dtype) - 1

        # Classical Runge-Kutta. The velocity at a stage is also the slope of the angle there.
        a1, b1 = _accelerations(*state[4:], v1, v2, torque)
        v1_2, v2_2 = v1 + DT / 2 * a1, v2 + DT / 2 * b1
        a2, b2 = _accelerations(*sincos(q1 + DT / 2 * v1), *sincos(q2 + DT / 2 * v2), v1_2, v2_2, torque)
        v1_3, v2_3 = v1 + DT / 2 * a2, v2 + DT / 2 * b2
        a3, b3 = _accelerations(*sincos(q1 + DT / 2 * v1_2), *sincos(q2 + DT / 2 * v2_2), v1_3, v2_3, torque)
        v1_4, v2_4 = v1 + DT * a3, v2 + DT * b3
        a4, b4 = _accelerations(*sincos(q1 + DT * v1_3), *sincos(q2 + DT * v2_3), v1_4, v2_4, torque)

        # The weighted sum of the angle's slopes v + {0, a1/2, a2/2, a3} dt, in terms of the accelerations.
        new = self.state(
            _wrap(q1 + DT * v1 + DT**2 / 6 * (a1 + a2 + a3)),
            _wrap(q2 + DT * v2 + DT**2 / 6 * (b1 + b2 + b3)),
            jnp.clip(v1 + DT / 6 * (a1 + 2 * (a2 + a3) + a4), -MAX_VEL_1, MAX_VEL_1),
            jnp.clip(v2 + DT / 6 * (b1 + 2 * (b2 + b3) + b4), -MAX_VEL_2, MAX_VEL_2),
        )
        height = -new.cos1 - (new.cos1 * new.cos2 - new.sin1 * new.sin2)
        terminated = height > 1
        reward = jnp.where(terminated, 0.0, -1.0).astype(q1.dtype)
        return Step(new, _observe(new), reward, terminated, jnp.zeros_like(terminated), {})


@partial(outlined, kernel=True)
def _accelerations(
    sin1: Array, cos1: Array, sin2: Array, cos2: Array, v1: Array, v2: Array, torque: Array
) -> tuple[Array, Array]:
    """Angular accelerations (rad/s^2) of both joints: the 2 by 2 mass matrix solved with a single division."""
    d1 = A + 2 * B * cos2
    d2 = M22 + B * cos2
    phi2 = WEIGHT_2 * (sin1 * cos2 + cos1 * sin2)  # cos(theta1 + theta2 - pi/2) = sin(theta1 + theta2)
    phi1 = WEIGHT_1 * sin1 + phi2 - B * sin2 * v2 * (v2 + 2 * v1)
    rest = torque - B * sin2 * v1 * v1 - phi2
    scale = 1 / (M22 * d1 - d2 * d2)
    return -(d2 * rest + M22 * phi1) * scale, (d1 * rest + d2 * phi1) * scale


def _wrap(angle: Array) -> Array:
    """The same angle within ±pi."""
    return angle - 2 * math.pi * jnp.round(angle * (0.5 / math.pi))


def _observe(state: AcrobotState) -> Array:
    return jnp.stack([state.cos1, state.sin1, state.cos2, state.sin2, state.dtheta1, state.dtheta2])
