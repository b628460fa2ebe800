"""Policies and observations shared by the tests, and an integer policy that knows NumPy int32 alone."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from polystep_rl.policies import mlp_policy
from polystep_rl.types import Params, Policy, PolicySpec


def spec(
    precision: str,
    hidden: tuple[int, ...] = (16,),
    head: str = "discrete",
    obs_size: int = 4,
    action_size: int = 3,
    activation: str = "tanh",
) -> PolicySpec:
    """A specification with uneven input scales, offsets and box limits; a multidiscrete one has a group of 2 first."""
    rng = np.random.default_rng(obs_size)
    box = head == "box"
    return PolicySpec(
        obs_size,
        hidden,
        precision,
        head,
        action_size,
        tuple(-1.7 + 0.1 * i for i in range(action_size)) if box else (),
        tuple(0.3 + 1.1 * i for i in range(action_size)) if box else (),
        tuple(rng.normal(size=obs_size).tolist()),
        tuple(np.exp(rng.normal(size=obs_size)).tolist()),
        (2, action_size - 2) if head == "multidiscrete" else (),
        activation,
    )


def random_policy(seed: int, *args: Any, **kwargs: Any) -> tuple[Policy, Params]:
    """A policy and latents of ordinary size, biases included."""
    policy = mlp_policy(spec(*args, **kwargs))
    params = policy.init(jax.random.key(seed))
    return policy, {i: {"w": p["w"], "b": 8 * p["b"]} for i, p in params.items()}


def observations(policy_spec: PolicySpec, count: int, seed: int = 0) -> np.ndarray:
    """(count, o) float32: normal ones, wide ones, rounding ties of the quantiser, and a few that are not numbers."""
    rng = np.random.default_rng(seed)
    shape = (count, policy_spec.obs_size)
    scale, offset = np.asarray(policy_spec.obs_scale), np.asarray(policy_spec.obs_offset)
    obs = offset + scale * rng.normal(size=shape) * 10.0 ** rng.uniform(-2, 2, size=(count, 1))
    ties = (rng.integers(-300, 300, size=shape) + 0.5) * scale / 32
    obs = np.where(rng.random(shape) < 0.1, ties, obs)
    odd = np.array([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-40, 0.0, -0.0, 6e5, -6e5])
    return np.where(rng.random(shape) < 0.02, rng.choice(odd, size=shape), obs).astype(np.float32)


def numpy_int32_actions(integers: dict[str, Any], obs: np.ndarray) -> np.ndarray:
    """Actions (count,), (count, a) or (count, groups) for observations (count, o), from the documented integers alone.

    The one float operation is the multiplication of each feature; everything after is int32.
    """
    zero = integers["input"]["zero_point"]
    with np.errstate(over="ignore", under="ignore"):
        product = np.rint(obs * integers["input"]["multiplier"])
    finite = np.where(np.isnan(product), 0, product)
    x = np.clip(finite, (zero - 127).astype(np.float32), (zero + 127).astype(np.float32)).astype(np.int32) - zero
    x[np.isnan(obs)] = 0
    for layer in integers["layers"]:
        acc = np.tile(x, integers["weight_copies"]) @ layer["weight"].astype(np.int32).T + layer["bias"]
        assert acc.dtype == np.int32 and np.abs(acc).max() <= layer["acc_bound"]
        if layer["activation"] == "sign":
            x = np.where(acc < 0, np.int32(-1), np.int32(1))
        elif layer["activation"] in ("requant", "requant_relu", "requant_tanh"):
            half = 1 << (layer["shift"] - 1) if layer["shift"] else 0
            low = np.int32(0 if layer["activation"] == "requant_relu" else -127)
            assert layer["low"] == low
            x = np.clip((acc * np.int32(layer["mult"]) + np.int32(half)) >> layer["shift"], low, 127)
            x = x if layer["table"] is None else layer["table"].astype(np.int32)[x + 127]
        else:
            x = acc
    if integers["head"] == "discrete":
        return np.argmax(x, axis=1).astype(np.int32)
    if integers["head"] == "multidiscrete":
        starts = np.cumsum((0, *integers["groups"]))
        return np.stack([np.argmax(x[:, a:b], axis=1) for a, b in zip(starts, starts[1:], strict=False)], 1).astype(
            "i4"
        )
    return np.stack([row[x[:, i] + 127] for i, row in enumerate(integers["action_table"])], axis=1)
