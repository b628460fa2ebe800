"""The policies in NumPy: forward passes of all five precisions without compiling anything.

Integers are exact in float64, so an int8 or binary policy acts here bit for bit as in JAX (a test says so); the float
precisions agree to rounding. Calibration and measurements use it, where a network is run once or twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from polystep_rl.policies.deployed import INPUT_LIMIT, integer_weights
from polystep_rl.policies.precision import LayerPlan, bias_gain, input_plan, layer_sizes, tanh_table
from polystep_rl.policies.sides import features, first, integer_features
from polystep_rl.types import INPUT_UNIT, QMAX, Params, PolicySpec


def finite(observations: np.ndarray, size: int) -> np.ndarray:
    """The finite ones of the observations (n, size), float32; ValueError if there is none."""
    obs = np.asarray(observations, np.float32).reshape(-1, size)
    obs = obs[np.isfinite(obs).all(axis=1)]
    if not len(obs):
        raise ValueError("post-training quantisation needs at least one finite observation")
    return obs


def normalised(spec: PolicySpec, obs: np.ndarray) -> np.ndarray:
    """Inputs of the first layer of a float policy (n, o), from finite observations; of S sides (S * n, f)."""
    offset, scale = np.asarray(spec.obs_offset), np.asarray(spec.obs_scale)

    def read(obs: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
        x = (obs.astype(np.float64) - offset[rows]) / scale[rows]
        return np.where(np.isnan(obs), 0.0, np.clip(x, -INPUT_LIMIT, INPUT_LIMIT))

    if spec.sides is None:
        return read(obs, slice(None))
    rows = first(spec.sides)
    return np.concatenate(features(np, spec.sides, obs.T, lambda own: read(own.T, rows).T), axis=1).T


def activation(float_spec: PolicySpec, y: np.ndarray) -> np.ndarray:
    """Hidden activations of a float policy."""
    if float_spec.precision == "binary-act":
        return np.where(y >= 0, 1.0, -1.0)
    if float_spec.precision == "int8-act":
        return np.rint(QMAX * (np.tanh(y) if float_spec.activation == "tanh" else np.clip(y, 0.0, 1.0))) / QMAX
    return np.tanh(y) if float_spec.activation == "tanh" else np.maximum(y, 0.0)


def squash(float_spec: PolicySpec, y: np.ndarray) -> np.ndarray:
    """Box actions of the float policy in units of the box, in [-1, 1]."""
    return np.tanh(y) if float_spec.squash == "tanh" else np.clip(y, -1.0, 1.0)


def float_layers(float_spec: PolicySpec, params: Params) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (m, k) and biases (m,) of every layer of a float policy, in float64."""
    found = []
    for index, (fan_in, _) in enumerate(layer_sizes(float_spec)):
        w, b = (np.asarray(params[str(index)][name], np.float32).astype(np.float64) for name in ("w", "b"))
        found.append((w / np.sqrt(fan_in), b * bias_gain(float_spec, index)))
    return found


def pre_activations(
    float_spec: PolicySpec, layers: list[tuple[np.ndarray, np.ndarray]], obs: np.ndarray
) -> list[np.ndarray]:
    """y (n, m) of every layer of a float policy, of its `float_layers`."""
    t, found = normalised(float_spec, obs), []
    for w, b in layers:
        found.append(t @ w.T + b)
        t = activation(float_spec, found[-1])
    return found


def float_targets(float_spec: PolicySpec, params: Params, obs: np.ndarray) -> list[np.ndarray]:
    """Pre-activations y (n, m) of every layer of a float policy (not of an integer one)."""
    return pre_activations(float_spec, float_layers(float_spec, params), obs)


def quantised_input(spec: PolicySpec, obs: np.ndarray) -> np.ndarray:
    """Integers (n, o) in [-127, 127], as float64, of finite observations (n, o) float32; of S sides (S * n, f)."""
    multiplier, zero = input_plan(spec)

    def read(obs: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
        with np.errstate(over="ignore"):
            product = np.rint(obs * multiplier[rows]).astype(np.float64)
        q = np.clip(product, zero[rows] - QMAX, zero[rows] + QMAX) - zero[rows]
        return np.where(np.isnan(obs), 0.0, q)

    if spec.sides is None:
        return read(obs, slice(None))
    rows = first(spec.sides)
    seen = integer_features(np, spec.sides, obs.T, lambda own: read(own.T, rows).T, INPUT_UNIT)
    return np.concatenate(seen, axis=1).T


def accumulate(layer: LayerPlan, w: Any, b: Any, x: np.ndarray) -> np.ndarray:
    """Integer accumulators (n, m) of latents w (m, k), b (m,) and integer inputs x (n, k), exact in float64."""
    weight, bias = integer_weights(layer, w, b)
    return x @ weight.T + bias


def activate(layer: LayerPlan, acc: np.ndarray) -> np.ndarray:
    """The layer's activation of integer accumulators, same shape."""
    if layer.activation == "sign":
        return np.where(acc >= 0, 1.0, -1.0)
    if layer.activation == "none":
        return acc
    low = 0 if layer.activation == "requant_relu" else -QMAX
    q = np.clip(np.floor((acc * layer.mult + (2**layer.shift >> 1)) / 2**layer.shift), low, QMAX)
    return tanh_table(layer)[q.astype(int) + QMAX] if layer.activation == "requant_tanh" else q
