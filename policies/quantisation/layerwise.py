"""Layer-wise post-training quantisation: the latents of a float32 policy turned into those of a quantised one.

Calibration observations decide all scales; no gradient is used. Layer by layer, with z the quantised inputs of the
layer in units of y (integer / nominal size):

1. Each float input t_j (a tanh or relu unit) is read off its quantised stand-in by a least-squares line, t_j ~ g_j z_j
   + c_j. The slope goes into the weights that read it, W_ij g_j, and the intercept into the bias, with the mean error
   that is left ("bias correction", Nagel and others 2019, arXiv:1906.04721). Ridge regression of the float
   pre-activations on z then moves the weights (``refit``).
2. The scales alpha, which change nothing in a float network of the same shape, are chosen from a grid. An int8 hidden
   unit computes clip(96 alpha y, -127, 127) where the float one has tanh(y) (from 0 for relu): alpha is chosen for each
   unit, to minimise the residual of step 1 for that unit. It weighs the shape of the saturation against the rounding
   and the clipping of weights. Box outputs are chosen likewise, with the action itself for criterion. The outputs of
   a Discrete head share one alpha, which minimises the share of disagreeing actions on the calibration observations,
   ties broken by the error of the centred outputs up to a positive factor.
3. Binary weights are sign(w), with mean |w| as the scale of the row (XNOR-Net, arXiv:1603.05279). A sign unit
   does not see that scale, so only its bias is divided by it. The scales of different actions should differ and
   cannot: expect a binary policy made in this way to be bad; `binarise.py` does better.

int8-act needs nothing but units in [0, 1] for relu (they are cut there); binary-act needs step 1, with sign for z.
"""

from __future__ import annotations

import numpy as np

from polystep_rl.policies.forward import (
    accumulate,
    activate,
    activation,
    finite,
    float_targets,
    normalised,
    quantised_input,
    squash,
)
from polystep_rl.policies.precision import LayerPlan, bias_gain, layer_sizes, plan, weight_unit
from polystep_rl.types import INPUT_UNIT, QMAX, Params, PolicySpec

ALPHAS = np.geomspace(1 / 16, 16, 49)
RIDGE = 1e-3  # of the mean variance of the inputs
RANGE = 99.9  # percentile of a relu unit that int8-act maps to 1

Layers = dict[str, dict[str, np.ndarray]]


def layerwise(
    float_spec: PolicySpec, params: Params, spec: PolicySpec, observations: np.ndarray, refit: bool = True
) -> Layers:
    """Latents of a quantised policy that acts as nearly as it can like a float32 one.

    Args:
        float_spec, params: the float32 policy, its last layer divided by the gain of the quantised one.
        spec: the quantised policy, of the same sizes and input scales.
        observations: (n, o) calibration observations, n at least 1; those that are not finite are left out.
        refit: regress the weights anew on the quantised inputs of each layer.

    Returns:
        {"0": {"w": (m, k), "b": (m,)}, ...}, NumPy float32.

    Raises:
        ValueError: no finite observation.
    """
    obs = finite(observations, spec.obs_size)
    latents = {key: {name: np.array(v, np.float32) for name, v in layer.items()} for key, layer in params.items()}
    if spec.precision == "float32":
        return latents
    targets = float_targets(float_spec, params, obs)
    if spec.precision == "int8-act":
        return latents if float_spec.activation == "tanh" else _unit_range(latents, targets)
    plans = plan(spec)
    integer = normalised(spec, obs) if spec.precision == "binary-act" else quantised_input(spec, obs)
    z = integer if spec.precision == "binary-act" else integer / INPUT_UNIT
    t = normalised(spec, obs)  # what the float layer reads
    result: Layers = {}
    for index, (fan_in, _) in enumerate(layer_sizes(spec)):
        w = latents[str(index)]["w"].astype(np.float64) / np.sqrt(fan_in)
        last = index == len(spec.hidden)
        y = targets[index]
        if index:
            w = w * slope(z, t)
            w = ridge(w, z, y) if refit else w
        b = (y - z @ w.T).mean(axis=0) / bias_gain(spec, index)
        if spec.precision == "binary-act":
            result[str(index)] = {"w": w * np.sqrt(fan_in), "b": b}
            z = np.where(z @ w.T + b >= 0, 1.0, -1.0)
        else:
            layer = plans[index]
            box = squash(float_spec, y * spec.gain) if last and spec.head == "box" else None
            if layer.weight_max == 1:
                chosen = _binary(w, y, z, bias_gain(spec, index), layer.activation == "none")
            else:
                chosen = _scaled(layer, w, b, y, integer, activation(float_spec, y), box, spec.groups if last else ())
            result[str(index)] = chosen
            integer = activate(layer, accumulate(layer, chosen["w"], chosen["b"], integer))
            z = integer if last else integer / input_rms(spec, index + 1)
        t = activation(float_spec, y)
    return {key: {name: v.astype(np.float32) for name, v in layer.items()} for key, layer in result.items()}


def input_rms(spec: PolicySpec, index: int) -> float:
    """Nominal size of one integer input of a layer: its deviation is sqrt(fan-in) * weight unit * that size."""
    layer = plan(spec)[index]
    return layer.deviation / (np.sqrt(layer.fan_in) * weight_unit(layer.weight_max))


def slope(z: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Slope (k,) of the least-squares line from z to t, each (n, k); 0 where z does not vary."""
    z, t = z - z.mean(axis=0), t - t.mean(axis=0)
    variance = (z * z).sum(axis=0)
    return np.where(variance > 0, (z * t).sum(axis=0) / np.where(variance > 0, variance, 1.0), 0.0)


def ridge(w: np.ndarray, z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights (m, k) near w with which z (n, k) gives y (n, m) up to a constant: ridge regression towards w."""
    z, y = z - z.mean(axis=0), y - y.mean(axis=0)
    gram = z.T @ z
    weight = RIDGE * max(float(np.trace(gram)) / len(gram), 1e-9)
    return w + np.linalg.solve(gram + weight * np.eye(len(gram)), z.T @ (y - z @ w.T)).T


def ranking_error(q: np.ndarray, y: np.ndarray, groups: tuple[int, ...] = ()) -> float:
    """Share of rows in which q (n, a) prefers another action than y, plus at most 1 / (2 n) for the error of q.

    The error is that of the outputs less their mean over actions, up to the best positive factor: 1 - cos**2. Of a
    multidiscrete head it is the mean over the groups.
    """
    if groups:
        ends = np.cumsum(groups)
        parts = [ranking_error(q[:, e - g : e], y[:, e - g : e]) for g, e in zip(groups, ends, strict=True)]
        return float(np.mean(parts))
    disagree = float((np.argmax(q, axis=1) != np.argmax(y, axis=1)).mean())
    q, y = q - q.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    norm = float((q * q).sum() * (y * y).sum())
    cosine = max(0.0, float((q * y).sum())) / np.sqrt(norm) if norm > 0 else 0.0
    return disagree + (1.0 - cosine**2) / (2 * len(q))


def _scaled(
    layer: LayerPlan,
    w: np.ndarray,
    b: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    t: np.ndarray,
    box: np.ndarray | None,
    groups: tuple[int, ...],
) -> dict[str, np.ndarray]:
    """Latents alpha (w sqrt(k)), alpha b with alpha from the grid: for each unit, or one for a Discrete head."""
    latent = w * np.sqrt(w.shape[1])
    alphas = ALPHAS
    if layer.activation == "none":  # only the order counts: around the scale that just uses the whole range
        alphas = ALPHAS * (layer.weight_max / weight_unit(layer.weight_max) / max(float(np.abs(latent).max()), 1e-30))
    outputs = [activate(layer, accumulate(layer, a * latent, a * b, x)) for a in alphas]
    if layer.activation == "none":
        best = np.full(len(b), np.argmin([ranking_error(q, y, groups) for q in outputs]))
    elif box is not None:
        best = np.argmin([((q / QMAX - box) ** 2).mean(axis=0) for q in outputs], axis=0)
    else:
        best = np.argmin([_line_error(q, t) for q in outputs], axis=0)
    alpha = alphas[best]
    return {"w": alpha[:, None] * latent, "b": alpha * b}


def _binary(w: np.ndarray, y: np.ndarray, z: np.ndarray, gain: float, compared: bool) -> dict[str, np.ndarray]:
    """Latents of sign(w): the rows' scales are mean |w|, and the bias is corrected for what the signs got wrong.

    Args:
        w: (m, k) weights in units of y.
        y, z: (n, m) float pre-activations, (n, k) inputs.
        gain: of a bias latent (`bias_gain`).
        compared: the outputs are compared with one another, and need one scale.
    """
    signs = np.where(w >= 0, 1.0, -1.0)
    scale = np.abs(w).mean(axis=1)
    if compared:
        scale = np.full_like(scale, scale.mean())
    scale = np.where(scale > 0, scale, 1.0) * np.sqrt(w.shape[1])  # y ~ scale * (signs / sqrt(k)) z
    bias = (y / scale - z @ signs.T / np.sqrt(w.shape[1])).mean(axis=0)
    return {"w": w * np.sqrt(w.shape[1]), "b": bias / gain}


def _unit_range(latents: Layers, targets: list[np.ndarray]) -> Layers:
    """The same relu network with hidden units in [0, 1]: each divided by its range, which its readers take over."""
    for index in range(len(targets) - 1):
        reach = np.percentile(np.maximum(targets[index], 0.0), RANGE, axis=0)
        reach = np.where(reach > 0, reach, 1.0).astype(np.float32)
        layer, reader = latents[str(index)], latents[str(index + 1)]
        layer["w"], layer["b"] = layer["w"] / reach[:, None], layer["b"] / reach
        reader["w"] = reader["w"] * reach
    return latents


def _line_error(q: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Mean squared residual (m,) of the best line from q to t, each (n, m)."""
    g = slope(q, t)
    q, t = q - q.mean(axis=0), t - t.mean(axis=0)
    return ((t - g * q) ** 2).mean(axis=0)
