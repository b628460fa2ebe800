"""Binary weights from a float network, layer by layer: sign codes, and greedy sign flips on calibration observations.

A binary unit has no scale, only signs and an integer bias, so what a float weight says beyond its sign must come from
somewhere else. Layer by layer, with z the +-1 outputs of the binary layer before:

1. Ridge regression of the float pre-activations on z gives the weights that are to be binarised. The outputs of a
   discrete head are first taken less their mean over the actions, which no argmax sees.
2. Each float unit becomes ``copies`` binary ones. Their signs are sign(w + dither), the dither spread evenly over +-the
   range of the row: the mean of the copies is the multi-bit weight, and the mean of their outputs a soft unit (a
   residual code; one copy is the plain sign).
3. Coordinate descent over the signs of a hidden layer: a sign is flipped where the mean of the copies then comes nearer
   to the float activation, over the calibration observations. As z**2 = 1, that is a gain of E[z r] with r what the
   other copies leave over. The best bias is found exactly, by sorting.

The output layer is binarised by step 1 alone; `descent.py` goes on from there with all layers at once.
"""

from __future__ import annotations

import numpy as np

from polystep_rl.policies.forward import activation, finite, float_targets, normalised, quantised_input, squash
from polystep_rl.policies.precision import LayerPlan, plan
from polystep_rl.policies.quantisation.layerwise import Layers, ridge, slope
from polystep_rl.types import INPUT_UNIT, QMAX, Params, PolicySpec

SWEEPS = 3  # over all signs of a layer
ROUNDS = 2  # over the copies of a unit
SMALLEST = 0.05  # of the root mean square: the least size of a latent, so that a sign is never a matter of rounding


def binarise(
    float_spec: PolicySpec,
    params: Params,
    spec: PolicySpec,
    observations: np.ndarray,
    copies: int = 1,
    greedy: bool = True,
) -> Layers:
    """Latents of a binary policy that imitates a float32 one.

    Args:
        float_spec, params: the float32 policy.
        spec: the binary policy, of the same input scales; each of its hidden layers is ``copies`` times as wide.
        observations: (n, o) calibration observations; those that are not finite are left out.
        copies: binary units for every float one.
        greedy: step 3; without it the biases alone are fitted.

    Returns:
        {"0": {"w": (m, k), "b": (m,)}, ...} NumPy float32; the size of a latent is that of the float weight, with root
        mean square 1 over the layer (over the row of a sign unit).
    """
    obs = finite(observations, spec.obs_size)
    plans, targets = plan(spec), float_targets(float_spec, params, obs)
    x = quantised_input(spec, obs)
    z, t = x / INPUT_UNIT, normalised(float_spec, obs)
    result: Layers = {}
    for index, layer in enumerate(plans):
        y = targets[index]
        w = np.asarray(params[str(index)]["w"], np.float64) / np.sqrt(t.shape[1])
        if layer.activation == "none":
            w, y = (_centred(v, spec.groups, axis) for v, axis in ((w, 0), (y, 1)))
        if index:
            w = ridge(np.tile(w, (1, copies)) / copies * slope(z, np.tile(t, (1, copies))), z, y)
        if layer.activation == "sign":
            w, signs, bias, x = _hidden(layer, w, x, _unit(activation(float_spec, y)), copies, greedy)
            z = x
        else:
            signs = np.where(w >= 0, 1.0, -1.0)
            bias = _output_bias(layer, signs, w, z, y, squash(float_spec, y) if layer.activation == "requant" else None)
        result[str(index)] = sized(layer, signs, bias, w)
        t = activation(float_spec, y)
    return result


def sized(layer: LayerPlan, signs: np.ndarray, bias: np.ndarray, w: np.ndarray) -> dict[str, np.ndarray]:
    """Latents that deploy to these signs (m, k) and integer biases (m,), as large as the float weights w (m, k)."""
    size = np.abs(w).astype(np.float64) + 1e-30
    axis = 1 if layer.activation == "sign" else (0, 1)
    size = np.maximum(size / np.sqrt((size**2).mean(axis=axis, keepdims=True)), SMALLEST)
    size = size / np.sqrt((size**2).mean(axis=axis, keepdims=True))
    return {"w": (signs * size).astype(np.float32), "b": (bias / layer.bias_unit).astype(np.float32)}


def _centred(v: np.ndarray, groups: tuple[int, ...], axis: int) -> np.ndarray:
    """Less the mean over the actions of each group along an axis."""
    parts = np.split(v, np.cumsum(groups)[:-1], axis=axis) if groups else [v]
    return np.concatenate([part - part.mean(axis=axis, keepdims=True) for part in parts], axis=axis)


def _unit(t: np.ndarray) -> np.ndarray:
    """Activations (n, m) as sign units can follow them: less their mean, and cut to [-1, 1] at the 99th percentile."""
    t = t - t.mean(axis=0)
    reach = np.percentile(np.abs(t), 99, axis=0)
    return np.clip(t / np.where(reach > 0, reach, 1.0), -1.0, 1.0)


def _hidden(
    layer: LayerPlan, w: np.ndarray, x: np.ndarray, t: np.ndarray, copies: int, greedy: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(float weights, signs, integer biases, outputs) of ``copies`` blocks of as many sign units as t has."""
    x, t = x.astype(np.float32), t.astype(np.float32)
    reach = np.percentile(np.abs(w), 90, axis=1, keepdims=True)
    dither = np.random.default_rng(0).permuted(
        np.broadcast_to(((2 * np.arange(copies) + 1 - copies) / copies)[:, None, None], (copies, *w.shape)), axis=0
    )
    signs = np.where(w + reach * dither >= 0, np.float32(1), np.float32(-1))  # (copies, m, k)
    bias, z = np.zeros(signs.shape[:2], np.float32), np.zeros((copies, *t.shape), np.float32)
    for r in range(copies):
        bias[r], z[r] = _best_bias(x @ signs[r].T, t, layer.bias_max)
    for _ in range(ROUNDS if copies > 1 else 1):
        for r in range(copies):
            rest = copies * t - (z.sum(axis=0) - z[r])
            if greedy:
                signs[r] = _flip(x, signs[r], bias[r], rest, layer.bias_max)
            bias[r], z[r] = _best_bias(x @ signs[r].T, rest, layer.bias_max)
    flat = (-1, x.shape[1])
    outputs = np.moveaxis(z, 0, 1).reshape(len(x), -1).astype(np.float64)
    return np.tile(w, (copies, 1)), signs.reshape(flat).astype(np.float64), bias.ravel().astype(np.float64), outputs


def _flip(x: np.ndarray, signs: np.ndarray, bias: np.ndarray, t: np.ndarray, bias_max: int) -> np.ndarray:
    """Signs (m, k) after coordinate descent: each is flipped where E[z t] of its unit gains, all units at a time."""
    signs, acc = signs.copy(), x @ signs.T
    best = (np.where(acc + bias >= 0, t, -t)).mean(axis=0)
    for _ in range(SWEEPS):
        before = best.copy()
        for j in range(x.shape[1]):
            moved = acc - 2 * x[:, j : j + 1] * signs[:, j]
            gain = np.where(moved + bias >= 0, t, -t).mean(axis=0)
            better = gain > best + 1e-6
            acc[:, better], best[better] = moved[:, better], gain[better]
            signs[better, j] *= -1
        bias, z = _best_bias(acc, t, bias_max)
        best = (z * t).mean(axis=0)
        if np.all(best <= before + 1e-6):
            break
    return signs


def _best_bias(acc: np.ndarray, t: np.ndarray, bias_max: int) -> tuple[np.ndarray, np.ndarray]:
    """(biases (m,), outputs (n, m)) of sign units with integer accumulators (n, m) that gain most of E[z t]: exact."""
    order = np.argsort(acc, axis=0)
    a, below = np.take_along_axis(acc, order, 0), np.cumsum(np.take_along_axis(t, order, 0), axis=0)
    below = np.concatenate([np.zeros((1, acc.shape[1])), below[:-1]]).astype(np.float64)  # sum of t that would be at -1
    below[1:][a[1:] == a[:-1]] = np.inf  # equal accumulators are on the same side
    first = np.argmin(below, axis=0)
    column = np.arange(acc.shape[1])
    at = a[first, column]
    previous = np.where(first > 0, a[np.maximum(first - 1, 0), column], at)
    bias = np.clip(-np.ceil((at + previous) / 2), -bias_max, bias_max).astype(np.float32)
    return bias, np.where(acc + bias >= 0, np.float32(1), np.float32(-1))


def _output_bias(
    layer: LayerPlan, signs: np.ndarray, w: np.ndarray, z: np.ndarray, y: np.ndarray, box: np.ndarray | None
) -> np.ndarray:
    """Integer biases (m,) of the output layer, which keep the mean output."""
    linear = z @ signs.T / np.sqrt(w.shape[1])
    if box is None:
        scale = max(float(np.abs(w).mean()), 1e-30) * np.sqrt(w.shape[1])
        bias = (y / scale - linear).mean(axis=0)
    else:
        unit = layer.unit / QMAX  # of the box, for one unit of y
        bias = (box / unit - linear).mean(axis=0)
    return np.clip(np.rint(bias * layer.deviation), -layer.bias_max, layer.bias_max)
