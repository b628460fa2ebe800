"""Deploys a policy in NumPy: the exact integers of an int8 or binary policy, the scaled floats of the others.

Everything that runs a policy elsewhere reads this alone: the exports, and `runtime.NumpyPolicy`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from polystep_rl.policies import precision
from polystep_rl.policies.precision import LayerPlan
from polystep_rl.types import INPUT, INTEGER_PRECISIONS, QMAX, Params, PolicySpec

INPUT_LIMIT = 1e6  # float policies cut the normalised observation here, so that an infinite one gives an action too


def floats32(values: Any, size: int) -> tuple[float, ...]:
    """A number, or (size,) of them, as that many float32 values."""
    return tuple(float(v) for v in np.broadcast_to(np.asarray(values, np.float32), (size,)))


def frozen(spec: PolicySpec, params: Params) -> tuple[PolicySpec, Params]:
    """The same policy with the input scales of the parameters, if they carry any, as constants of the specification."""
    if INPUT not in params:
        return spec, params
    layers_only = {name: leaf for name, leaf in params.items() if name != INPUT}
    offset, scale = (floats32(params[INPUT][name], spec.obs_size) for name in ("offset", "scale"))
    return spec._replace(obs_offset=offset, obs_scale=scale), layers_only


def deployed(spec: PolicySpec, params: Params) -> dict[str, Any]:
    """`integers` of an int8 or binary policy, `floats` of the others."""
    return (integers if spec.precision in INTEGER_PRECISIONS else floats)(spec, params)


def integers(spec: PolicySpec, params: Params) -> dict[str, Any]:
    """The exact integers of an int8 or binary policy, all that export and an implementation elsewhere need.

    Returns:
        ``precision``, ``head``, ``groups``; ``input``: ``multiplier`` (o,) float32 and ``zero_point`` (o,) int32 (those
        that the parameters carry, if they do); ``layers``, each with ``weight`` (m, k) int8, ``bias`` (m,) int32,
        ``activation`` (requant, requant_relu, requant_tanh, sign or none), ``mult``, ``shift``, ``low`` (0 for
        requant_relu, else -127), ``table`` (255,) int8 of requant_tanh, else None, ``acc_bound``; ``action_table``
        (a, 255) float32 by q + 127, or None; ``weight_copies`` c: the weight of a binary layer is (m, c k), c one-bit
        weights for each input, which it reads c times over. The arithmetic:

        q = 0 where obs is NaN, else clip(rint(obs * multiplier), zero_point - 127, zero_point + 127) - zero_point;
        acc = bias + weight @ q in int32, then for requant* clip((acc * mult + (2**shift >> 1)) >> shift, low, 127) with
        an arithmetic shift, and for requant_tanh the table at that + 127; for sign 1 if acc >= 0 else -1, for none the
        integers themselves; the action is the first largest of them (within each group of consecutive ones where there
        are ``groups``), or the row of the action table at q + 127. ``sides`` (types.Sides, or None): the layers then
        run once for each side, on features of what it sees, quantised by the multipliers and zero points of the first
        side's observations (``policies.sides.integer_features``); the last accumulators of all sides are summed before
        they are requantised by their size: sign(acc) clip((abs(acc) * mult + (2**shift >> 1)) >> shift, 0, 127).

    Raises:
        ValueError: the policy is not an integer one.
    """
    spec, params = frozen(spec, params)
    if spec.precision not in INTEGER_PRECISIONS:
        raise ValueError(f"a {spec.precision} policy has no integers: only {', '.join(INTEGER_PRECISIONS)} do")
    inputs = precision.input_plan(spec)
    described = []
    for index, layer in enumerate(precision.plan(spec)):
        weight, bias = integer_weights(layer, *_layer(spec, params, index))
        if spec.weight_copies > 1:  # of the sum, as many are 1 as make it up, those of the lowest thresholds
            ones = (weight + layer.weight_max) / 2
            weight = np.concatenate([np.where(copy < ones, 1, -1) for copy in range(layer.weight_max)], axis=1)
        described.append(
            {
                "weight": weight.astype(np.int8),
                "bias": bias.astype(np.int32),
                "activation": layer.activation,
                "mult": layer.mult,
                "shift": layer.shift,
                "low": 0 if layer.activation == "requant_relu" else -QMAX,
                "table": precision.tanh_table(layer).astype(np.int8) if layer.activation == "requant_tanh" else None,
                "acc_bound": layer.acc_bound,
            }
        )
    return {
        "precision": spec.precision,
        "head": spec.head,
        "groups": spec.groups,
        "sides": spec.sides,
        "weight_copies": spec.weight_copies,
        "input": {"multiplier": inputs.multiplier, "zero_point": inputs.zero_point},
        "layers": described,
        "action_table": precision.action_plan(spec).table() if spec.head == "box" else None,
    }


def integer_weights(layer: LayerPlan, w: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    """The integers of latents w (m, k), b (m,), as float64: what the policy deploys."""
    w, b = np.asarray(w, np.float32), np.asarray(b, np.float32)
    with np.errstate(over="ignore"):
        weight = precision.integer_weight(np, w, layer.weight_max)
        bias = np.rint(np.where(np.isnan(b), np.float32(0), b) * np.float32(layer.bias_unit))
    return weight.astype(np.float64), np.clip(bias, -layer.bias_max, layer.bias_max).astype(np.float64)


def floats(spec: PolicySpec, params: Params) -> dict[str, Any]:
    """The float32 numbers of a float32, int8-act or binary-act policy.

    Returns:
        ``precision``, ``head``, ``groups``, ``sides``; ``input``: ``offset`` and ``scale`` (o,), what to subtract and
        then to multiply by; ``layers``, each with ``weight`` (m, k), ``bias`` (m,) and ``activation`` (tanh, relu,
        sign, round_tanh, round_relu, or none of the last); ``squash`` and ``action``: ``mid``, ``half``, ``low`` and
        ``high`` (a,) of a box head, else None. The arithmetic:

        x = 0 where obs is NaN, else clip((obs - offset) * scale, -1e6, 1e6); y = bias + weight @ x; then tanh(y),
        max(y, 0), 1 if y >= 0 else -1, rint(127 tanh(y)) or rint(127 clip(y, 0, 1)); the action is the first largest
        (of every group), or clip(mid + half * t, low, high) with t = tanh(y), or y itself where squash is clip. Sides
        see, and are joined, as in ``policies.sides``.

    Raises:
        ValueError: the policy is an integer one.
    """
    spec, params = frozen(spec, params)
    if spec.precision in INTEGER_PRECISIONS:
        raise ValueError(f"a {spec.precision} policy has integers, not floats")
    rounds = "round_" if spec.precision == "int8-act" else ""
    hidden = "sign" if spec.precision == "binary-act" else rounds + spec.activation
    described = []
    for index, (fan_in, _) in enumerate(precision.layer_sizes(spec)):
        w, b = _layer(spec, params, index)
        scale = np.float32(1.0 / ((QMAX if index > 0 and rounds else 1) * np.sqrt(fan_in)))
        described.append(
            {
                "weight": w * scale,
                "bias": b * np.float32(precision.bias_gain(spec, index)),
                "activation": hidden if index < len(spec.hidden) else "none",
            }
        )
    low, high = np.asarray(spec.action_low, np.float32), np.asarray(spec.action_high, np.float32)
    half = np.float32(0.5)
    return {
        "precision": spec.precision,
        "head": spec.head,
        "groups": spec.groups,
        "sides": spec.sides,
        "input": {
            "offset": np.asarray(spec.obs_offset, np.float32),
            "scale": (1.0 / np.asarray(spec.obs_scale, np.float64)).astype(np.float32),
        },
        "layers": described,
        "squash": spec.squash,
        "action": {"mid": high * half + low * half, "half": high * half - low * half, "low": low, "high": high}
        if spec.head == "box"
        else None,
    }


def _layer(spec: PolicySpec, params: Params, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The latents w (m, k), b (m,) of a layer; ValueError where they do not fit the policy."""
    fan_in, fan_out = precision.layer_sizes(spec)[index]
    w, b = (np.asarray(params[str(index)][name], np.float32) for name in ("w", "b"))
    if w.shape != (fan_out, fan_in) or b.shape != (fan_out,):
        raise ValueError(f"layer {index}: parameters of shape {w.shape}, {b.shape} do not fit the policy")
    return w, b
