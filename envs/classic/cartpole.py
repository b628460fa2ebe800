"""CartPole: balance a pole on a cart (Barto, Sutton and Anderson, 1983), equal to Gymnasium's CartPole-v1."""

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
CART_MASS = 1.0  # kg
POLE_MASS = 0.1  # kg
HALF_LENGTH = 0.5  # m, pivot to the pole's centre of mass
FORCE = 10.0  # N
DT = 0.02  # s
X_LIMIT = 2.4  # m
THETA_LIMIT = 12 * 2 * math.pi / 360  # to the last bit: math.radians(12) is another number
RESET_BOUND = 0.05

TOTAL_MASS = CART_MASS + POLE_MASS
POLE_MOMENT = POLE_MASS * HALF_LENGTH  # mass times length, not plus, as some ports have it


class CartPoleState(NamedTuple):
    """Every field is a scalar array ()."""

    x: Array  # m
    x_dot: Array  # m/s
    theta: Array  # rad, 0 is upright
    theta_dot: Array  # rad/s


class CartPole:
    """CartPole-v1. Observation (4,): x, x_dot, theta, theta_dot. Action () integer: 0 pushes left, 1 pushes right.

    Explicit Euler on the frictionless equations of motion. The reward is 1 for every step, the last one included;
    with ``sutton_barto_reward`` it is 0, and -1 for the step that terminates. Source: Barto, Sutton and Anderson,
    "Neuronlike adaptive elements that can solve difficult learning control problems", IEEE Trans. SMC 13(5), 1983.
    """

    def __init__(self, sutton_barto_reward: bool = False):
        self.sutton_barto_reward = sutton_barto_reward
        high = np.array([2 * X_LIMIT, np.inf, 2 * THETA_LIMIT, np.inf], np.float32)
        self.spec = EnvSpec("CartPole-v1", spaces.Box(-high, high, dtype=np.float32), spaces.Discrete(2), 500, 475.0)

    def reset(self, key: Key) -> tuple[CartPoleState, Array]:
        """Each of the four state variables uniform in ±0.05."""
        start = jax.random.uniform(key, (4,), minval=-RESET_BOUND, maxval=RESET_BOUND)
        return CartPoleState(start[0], start[1], start[2], start[3]), start

    def step(self, state: CartPoleState, action: Array) -> Step:
        """Push for one interval of 0.02 s; terminates beyond ±2.4 m or ±12 degrees."""
        theta_acc, x_acc = _accelerations(state.theta, state.theta_dot, action)
        new = CartPoleState(
            state.x + DT * state.x_dot,
            state.x_dot + DT * x_acc,
            state.theta + DT * state.theta_dot,
            state.theta_dot + DT * theta_acc,
        )
        terminated = (jnp.abs(new.x) > X_LIMIT) | (jnp.abs(new.theta) > THETA_LIMIT)
        reward = jnp.ones_like(new.theta)
        if self.sutton_barto_reward:
            reward = jnp.where(terminated, -reward, 0)
        return Step(new, jnp.stack(new), reward, terminated, jnp.zeros_like(terminated), {})


@partial(outlined, kernel=True)
def _accelerations(theta: Array, theta_dot: Array, action: Array) -> tuple[Array, Array]:
    """Accelerations of the pole (rad/s^2) and of the cart (m/s^2)."""
    sin, cos = sincos(theta)
    force = jnp.where(action == 1, FORCE, -FORCE).astype(theta.dtype)
    push = (force + POLE_MOMENT * theta_dot * theta_dot * sin) * (1 / TOTAL_MASS)
    inertia = HALF_LENGTH * (4 / 3 - POLE_MASS / TOTAL_MASS * cos * cos)
    theta_acc = (GRAVITY * sin - cos * push) / inertia
    return theta_acc, push - POLE_MOMENT / TOTAL_MASS * theta_acc * cos
