"""Post-training quantisation: the latents of a float32 policy turned into those of a quantised one.

Calibration observations (those that the float policy met last in training) decide all scales; no gradient is used.
Layer by layer, with z the quantised inputs of the layer in units of y (integer / nominal size):

1. Each float input t_j (a tanh unit) is read off its quantised stand-in by a least-squares line, t_j ~ g_j z_j + c_j.
   The slope goes into the weights that read it, W_ij g_j, and the intercept into the bias, with the mean error that is
   left ("bias correction", Nagel and others 2019, arXiv:1906.04721).
2. The scales alpha, which change nothing in a float network of the same shape, are chosen from a grid. An int8 hidden
   unit computes clip(96 alpha y, -127, 127) where the float one has tanh(y): alpha is chosen for each unit, to
   minimise the residual of step 1 for that unit. It weighs the shape of the saturation against the rounding and the
   clipping of weights. Box outputs are chosen likewise, with the action itself for criterion. The outputs of a
   Discrete head share one alpha, which minimises the share of disagreeing actions on the calibration observations,
   ties broken by the error of the centred outputs up to a positive factor.
3. Binary weights are sign(w), with mean |w| as the scale of the row (XNOR-Net, arXiv:1603.05279). A sign unit
   does not see that scale, so only its bias is divided by it. The scales of different actions should differ and
   cannot: expect a binary policy made in this way to be bad. It is the honest baseline, not a trick that fails.

int8-act needs nothing (its units are the float ones, rounded); binary-act needs step 1, with sign for z.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from polystep_rl.types import Params, PolicySpec

# Constants of the policy arithmetic (polystep_rl.policies); a test compares them.
QMAX = 127
INPUT_UNIT = 32
WEIGHT_UNIT = 32
INPUT_LIMIT = 1e6

ALPHAS = np.geomspace(1 / 16, 16, 49)
RIDGE = 1e-3  # of the mean variance of the inputs


class LayerLike(Protocol):
    """The static integers of one layer; `polystep_rl.policies.precision.LayerPlan` is one."""

    @property
    def weight_max(self) -> int: ...
    @property
    def bias_unit(self) -> float: ...
    @property
    def bias_max(self) -> int: ...
    @property
    def activation(self) -> str: ...
    @property
    def mult(self) -> int: ...
    @property
    def shift(self) -> int: ...


class Static(NamedTuple):
    """The static numbers of an integer policy, handed in because baselines do not import policies.

    ``Static(plan(spec), input_plan(spec), action_plan(spec) if spec.head == "box" else None)`` with the functions of
    `polystep_rl.policies.precision`; the default will do for the float precisions.
    """

    plans: Sequence[LayerLike] = ()
    inputs: Any = None  # (multiplier (o,), zero_point (o,))
    box: Any = None  # (mid, step, low, high), each (a,), or None


def layer_sizes(spec: PolicySpec) -> tuple[tuple[int, int], ...]:
    """(fan-in, fan-out) of every layer, first to last."""
    sizes = (spec.obs_size, *spec.hidden, spec.action_size)
    return tuple(zip(sizes[:-1], sizes[1:], strict=True))


def quantise(params: Params, spec: PolicySpec, static: Static, observations: np.ndarray) -> Params:
    """Latents of a quantised policy that acts as nearly as it can like a float32 one.

    Args:
        params: latents of the float32 policy of the same sizes.
        spec: the quantised policy.
        static: its static integers.
        observations: (n, o) calibration observations, n at least 1; those that are not finite are left out.

    Returns:
        {"0": {"w": (m, k), "b": (m,)}, ...}, NumPy float32.
    """
    obs = np.asarray(observations, np.float32).reshape(-1, spec.obs_size)
    obs = obs[np.isfinite(obs).all(axis=1)]
    if not len(obs):
        raise ValueError("post-training quantisation needs at least one finite observation")
    latents = {key: {name: np.array(v, np.float32) for name, v in layer.items()} for key, layer in params.items()}
    if spec.precision in ("float32", "int8-act"):
        return latents
    t = _normalised(spec, obs)  # what the float layer reads
    if spec.precision == "binary-act":
        z, integer = t, t
    else:
        integer = quantised_input(static, obs)
        z = integer / INPUT_UNIT
    result: dict[str, dict[str, np.ndarray]] = {}
    for index, (fan_in, _) in enumerate(layer_sizes(spec)):
        w = latents[str(index)]["w"].astype(np.float64) / np.sqrt(fan_in)
        b = latents[str(index)]["b"].astype(np.float64)
        last = index == len(spec.hidden)
        y = t @ w.T + b  # the target, (n, m)
        w = _refit(w * _slope(z, t), z, y) if index else w
        b = (y - z @ w.T).mean(axis=0)
        if spec.precision == "binary-act":
            result[str(index)] = {"w": w * np.sqrt(fan_in), "b": b}
            z = np.where(z @ w.T + b >= 0, 1.0, -1.0)
        else:
            plan = static.plans[index]
            chosen = _binary(plan, w, b, y, z) if plan.weight_max == 1 else _int8(plan, w, b, y, integer, last, spec)
            result[str(index)] = chosen
            acc = accumulate(plan, chosen["w"], chosen["b"], integer)
            integer = activate(plan, acc)
            z = integer / _input_rms(static, index + 1, spec) if not last else integer
        t = np.tanh(y)
    return {key: {name: v.astype(np.float32) for name, v in layer.items()} for key, layer in result.items()}


def _normalised(spec: PolicySpec, obs: np.ndarray) -> np.ndarray:
    x = (obs.astype(np.float64) - np.asarray(spec.obs_offset)) / np.asarray(spec.obs_scale)
    return np.clip(x, -INPUT_LIMIT, INPUT_LIMIT)


def _input_rms(static: Static, index: int, spec: PolicySpec) -> float:
    """Nominal size of one integer input of a layer: its deviation is sqrt(fan-in) * weight unit * that size."""
    plan, fan_in = static.plans[index], layer_sizes(spec)[index][0]
    return plan.bias_unit / (np.sqrt(fan_in) * (WEIGHT_UNIT if plan.weight_max > 1 else 1))


def _slope(z: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Slope (k,) of the least-squares line from z to t, each (n, k); 0 where z does not vary."""
    z, t = z - z.mean(axis=0), t - t.mean(axis=0)
    variance = (z * z).sum(axis=0)
    return np.where(variance > 0, (z * t).sum(axis=0) / np.where(variance > 0, variance, 1.0), 0.0)


def _refit(w: np.ndarray, z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights (m, k) near w with which z (n, k) gives y (n, m) up to a constant: ridge regression towards w."""
    z, y = z - z.mean(axis=0), y - y.mean(axis=0)
    gram = z.T @ z
    ridge = RIDGE * max(float(np.trace(gram)) / len(gram), 1e-9)
    return w + np.linalg.solve(gram + ridge * np.eye(len(gram)), z.T @ (y - z @ w.T)).T


def quantised_input(static: Static, obs: np.ndarray) -> np.ndarray:
    """Integers (n, o) in [-127, 127], as float64, of finite observations (n, o) float32."""
    multiplier, zero = (np.asarray(v) for v in static.inputs[:2])
    with np.errstate(over="ignore"):
        product = np.rint(obs * multiplier.astype(np.float32)).astype(np.float64)
    return np.clip(product, zero - QMAX, zero + QMAX) - zero


def accumulate(plan: LayerLike, w: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Integer accumulators (n, m) of latents w (m, k), b (m,) and integer inputs x (n, k), exact in float64."""
    w, b = np.asarray(w, np.float32), np.asarray(b, np.float32)
    weight = np.clip(np.rint(w * WEIGHT_UNIT), -QMAX, QMAX) if plan.weight_max > 1 else np.where(w >= 0, 1.0, -1.0)
    bias = np.clip(np.rint(b * np.float32(plan.bias_unit)), -plan.bias_max, plan.bias_max)
    return x @ weight.astype(np.float64).T + bias.astype(np.float64)


def activate(plan: LayerLike, acc: np.ndarray) -> np.ndarray:
    """The layer's activation of integer accumulators, same shape."""
    if plan.activation == "sign":
        return np.where(acc >= 0, 1.0, -1.0)
    if plan.activation == "requant":
        return np.clip(np.floor((acc * plan.mult + (2**plan.shift >> 1)) / 2**plan.shift), -QMAX, QMAX)
    return acc


def _int8(
    plan: LayerLike, w: np.ndarray, b: np.ndarray, y: np.ndarray, x: np.ndarray, last: bool, spec: PolicySpec
) -> dict[str, np.ndarray]:
    """Latents alpha (w sqrt(k)), alpha b with alpha from the grid: for each unit, or one for a Discrete head."""
    latent = w * np.sqrt(w.shape[1])
    alphas = ALPHAS
    if last and spec.head == "discrete":  # only the order counts: around the scale that just uses the whole range
        alphas = ALPHAS * (QMAX / WEIGHT_UNIT / max(float(np.abs(latent).max()), 1e-30))
    outputs = [activate(plan, accumulate(plan, a * latent, a * b, x)) for a in alphas]
    if last and spec.head == "discrete":
        best = np.full(len(b), np.argmin([_ranking_error(q, y) for q in outputs]))
    elif last:
        best = np.argmin([((q / QMAX - np.tanh(y)) ** 2).mean(axis=0) for q in outputs], axis=0)
    else:
        best = np.argmin([_line_error(q, np.tanh(y)) for q in outputs], axis=0)
    alpha = alphas[best]
    return {"w": alpha[:, None] * latent, "b": alpha * b}


def _binary(plan: LayerLike, w: np.ndarray, b: np.ndarray, y: np.ndarray, z: np.ndarray) -> dict[str, np.ndarray]:
    """Latents of sign(w): the rows' scales are mean |w|, and the bias is corrected for what the signs got wrong."""
    signs = np.where(w >= 0, 1.0, -1.0)
    scale = np.abs(w).mean(axis=1)
    if plan.activation == "none":  # actions are compared with one another: one scale for all of them
        scale = np.full_like(scale, scale.mean())
    scale = np.where(scale > 0, scale, 1.0) * np.sqrt(w.shape[1])  # y ~ scale * (signs / sqrt(k)) z
    bias = (y / scale - z @ signs.T / np.sqrt(w.shape[1])).mean(axis=0)
    return {"w": w * np.sqrt(w.shape[1]), "b": bias}


def _line_error(q: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Mean squared residual (m,) of the best line from q to t, each (n, m)."""
    slope = _slope(q, t)
    q, t = q - q.mean(axis=0), t - t.mean(axis=0)
    return ((t - slope * q) ** 2).mean(axis=0)


def _ranking_error(q: np.ndarray, y: np.ndarray) -> float:
    """Share of rows in which q (n, a) prefers another action than y, plus at most 1 / (2 n) for the error of q.

    The error is that of the outputs less their mean over actions, up to the best positive factor: 1 - cos**2.
    """
    disagree = float((np.argmax(q, axis=1) != np.argmax(y, axis=1)).mean())
    q, y = q - q.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    norm = float((q * q).sum() * (y * y).sum())
    cosine = max(0.0, float((q * y).sum())) / np.sqrt(norm) if norm > 0 else 0.0
    return disagree + (1.0 - cosine**2) / (2 * len(q))
