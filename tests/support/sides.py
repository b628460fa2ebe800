"""A body of two sides, and policies whose sides share a network."""

import jax
import numpy as np

from polystep_rl.policies import mlp_policy
from polystep_rl.types import PolicySpec, Sides

# Observations: 0 forward, 1 left, 2 and 3 a joint of each side, 4 to 7 cosines and sines. Actions: a joint of each side
# that is mirrored without a change of sign, one that changes it, and 4, turning, which both sides have a part in.
SIDES = Sides(
    inputs=((0, 1, 2, 3), (0, 1, 3, 2)),
    input_signs=((1, 1, 1, 1), (1, -1, 1, 1)),
    phase=((4, 6), (5, 7)),
    outputs=((0, 1, 4), (2, 3, 4)),
    output_signs=((1, 1, 1), (1, -1, -1)),
)
MIRROR_OBS, MIRROR_SIGN = np.array([0, 1, 3, 2, 5, 4, 7, 6]), np.array([1, -1, 1, 1, 1, 1, 1, 1])
MIRROR_ACT, MIRROR_ACT_SIGN = np.array([2, 3, 0, 1, 4, 5]), np.array([1, -1, 1, -1, -1, 1])
PRECISIONS = ("float32", "int8", "binary")


def spec(precision, hidden=(16,), sides=SIDES):
    """Six actions, of which the last is nobody's."""
    box = (-1.0,) * 6, (1.0,) * 6
    unit = (0.5, 0.25, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0)
    return PolicySpec(8, hidden, precision, "box", 6, *box, (0.1, 0.2, -0.3, 0.4, *(0.0,) * 4), unit, sides=sides)


def policy_and_params(precision, hidden=(16,), seed=0):
    policy = mlp_policy(spec(precision, hidden))
    params = policy.init(jax.random.key(seed))
    return policy, {i: {"w": p["w"], "b": 8 * p["b"]} for i, p in params.items()}


def phases(obs, seed=1):
    """With cosines and sines of phases half a stride apart where they belong."""
    angle = np.random.default_rng(seed).uniform(-np.pi, np.pi, len(obs))
    obs[:, 4:] = np.stack([np.cos(angle), -np.cos(angle), np.sin(angle), -np.sin(angle)], axis=1)
    return obs.astype(np.float32)
