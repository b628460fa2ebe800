"""The numbers behind each precision: ranges, static scales, requantisation, and the bound that keeps lanes exact.

An integer policy is *defined* by integer arithmetic. It runs in float32 lanes, which is the same thing while every
intermediate is an integer below 2**24; :func:`plan` chooses all static scales and enforces that bound.

Latents (what the search moves) are O(1) in every layer, so one search radius fits all of them:

========== ================================= ===================================================
precision  weight                            bias (k = fan-in, s = nominal input size, see below)
========== ================================= ===================================================
float      latent / sqrt(k)                  latent
int8       clip(rint(32 latent), -127, 127)  rint(latent * sqrt(k) * 32 * s), at most 4 of those
binary     sign_pm1(latent)                  rint(latent * sqrt(k) * s), at most 4 of those
========== ================================= ===================================================

A binary policy may have c one-bit weights for each input (``weight_copies``): sign_pm1(latent - t) for c thresholds t
around 0, 2 / sqrt(c) apart; k then counts every one of them. Over sqrt(c) they sum to the nearest value to the latent.

Where the sides of a body share a linear policy, its bias latents count 1 / sqrt(k) of that (`bias_gain`). ``s`` is the
root mean square of one input in integer units: 32 for a quantised observation (x = 1 is 32), 80 for an int8 hidden
activation (a normal of deviation 96 cut at 127; 57 where relu cuts it at 0 too), 1 for a binary one. So one unit of a
bias latent is one standard deviation of the accumulator of a random policy, at every fan-in. An int8 requantisation
maps that deviation to 96, so that a hidden unit saturates at 1.3 deviations: the saturation is the nonlinearity
("tanh"), or the upper end of that of a relu unit.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from polystep_rl.errors import did_you_mean
from polystep_rl.policies.sides import check_sides, meeting, side_inputs
from polystep_rl.types import INPUT_UNIT, INTEGER_PRECISIONS, PRECISIONS, QMAX, WEIGHT_UNIT, PolicySpec

HEADS = ("discrete", "box", "multidiscrete")
ACTIVATIONS = ("tanh", "relu")
SQUASHES = ("tanh", "clip", "table")

REQUANT_STD = 96  # integer value of one accumulator standard deviation after an int8 requantisation
TABLE_STD = 48  # the same before a table of tanh, which then spans 2.6 deviations
HIDDEN_RMS = {"tanh": 80, "relu": 57}  # root mean square of N(0, 96) cut to [-127, 127] or to [0, 127]
BIAS_LIMIT = 4.0  # bias latents beyond this many accumulator deviations have no further effect
EXACT = 2**24  # float32 holds every integer below this
MULT_MAX = 255  # requantisation multipliers fit a byte


MAX_COPIES = 16  # of a one-bit weight
GAINS = (1 / 16, 16)


def thresholds(copies: int) -> np.ndarray:
    """(c,) where the one-bit weights of a latent change their sign, ascending: 0 for one, -3/2 to 3/2 for four."""
    return (np.arange(1 - copies, copies, 2) / math.sqrt(copies)).astype(np.float32)


def weight_unit(weight_max: int) -> float:
    """The integer that a weight latent of 1 stands for; ``weight_max`` as in `integer_weight`."""
    return WEIGHT_UNIT if weight_max == QMAX else math.sqrt(weight_max)


def integer_weight(xp: ModuleType, latent: Any, weight_max: int) -> Any:
    """The integers of float32 weight latents, in [-weight_max, weight_max]; NaN counts as 0 in int8, else as -inf.

    Args:
        xp: ``numpy`` or ``jax.numpy``.
        latent: any shape.
        weight_max: 127 for int8, else the one-bit weights that each input has, whose sum this is.
    """
    if weight_max == QMAX:
        return xp.clip(xp.rint(xp.where(xp.isnan(latent), 0, latent) * WEIGHT_UNIT), -QMAX, QMAX)
    return sum(xp.where(latent >= t, 1, -1).astype(latent.dtype) for t in thresholds(weight_max))


class LayerPlan(NamedTuple):
    """The static integers of one layer of an integer policy."""

    fan_in: int
    fan_out: int
    input_max: int  # largest |input|
    weight_max: int  # 127 (int8), or the one-bit weights of an input (binary)
    deviation: float  # of the accumulator of a random policy
    bias_unit: float  # that times `bias_gain`, in float32: bias = clip(rint(latent * bias_unit), -bias_max, bias_max)
    bias_max: int
    activation: str  # requant | requant_relu | requant_tanh (and then `tanh_table`) | sign | none (they go to argmax)
    mult: int  # requant*: clip((acc * mult + half) >> shift, low, 127), half = 2**shift >> 1, low = -127 or 0 (relu)
    shift: int
    unit: float  # requant*: the integer after it that stands for an output of 1, a deviation over the spec's gain
    acc_bound: int  # largest |accumulator|, bias, every partial sum, and the sum of sides included
    bound: int  # largest |intermediate| of the layer, below 2**24


class InputPlan(NamedTuple):
    """Observation quantiser: q = clip(rint(obs * multiplier) - zero_point, -127, 127), and 0 where obs is NaN."""

    multiplier: np.ndarray  # (o,) float32, 32 / obs_scale
    zero_point: np.ndarray  # (o,) int32, rint(obs_offset * multiplier)


class ActionPlan(NamedTuple):
    """Integer output q in [-127, 127] to a box: action = clip(mid + q * step, low, high), all (a,) float32.

    ``step`` has at most 17 significant bits, so ``q * step`` is exact and a fused multiply-add cannot differ from a
    product and a sum. It is rounded up, so q = +-127 gives exactly high and low, and q = 0 gives mid.
    """

    mid: np.ndarray
    step: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def table(self) -> np.ndarray:
        """Every action by q + 127: (a, 255) float32."""
        q = np.arange(-QMAX, QMAX + 1, dtype=np.float32)
        with np.errstate(over="ignore"):  # the largest boxes may pass float32's end before the clip
            raw = self.mid[:, None] + q[None, :] * self.step[:, None]
        return np.clip(raw, self.low[:, None], self.high[:, None]).astype(np.float32)


def tanh_table(layer: LayerPlan) -> np.ndarray:
    """(255,) float32, the integers 127 tanh(q / unit) by q + 127, of a layer with the activation requant_tanh."""
    q = np.arange(-QMAX, QMAX + 1)
    return np.rint(QMAX * np.tanh(q / layer.unit)).astype(np.float32)


def layer_sizes(spec: PolicySpec) -> tuple[tuple[int, int], ...]:
    """(fan-in, fan-out) of every layer, first to last."""
    first = spec.obs_size if spec.sides is None else side_inputs(spec.sides)
    last = spec.action_size if spec.sides is None else len(spec.sides.outputs[0])
    sizes = (first, *spec.hidden, last)
    return tuple(zip(sizes[:-1], sizes[1:], strict=True))


def bias_gain(spec: PolicySpec, layer: int) -> float:
    """Factor of a bias latent: 1, but that of a weight where sides share a linear policy.

    There a constant is one more feature, and the search moves it no further than the others. The biases of hidden units
    are thresholds: signs need different ones to tell how large something is.
    """
    return 1.0 if spec.sides is None or spec.hidden else 1.0 / math.sqrt(layer_sizes(spec)[0][0])


def check_precision(name: str) -> str:
    """Return ``name``, or raise a one-line ValueError that gives the closest known precision."""
    if name in PRECISIONS:
        return name
    hint = did_you_mean(str(name), PRECISIONS, cutoff=0.0)
    raise ValueError(f"unknown precision {name!r}: {hint} Known: {', '.join(PRECISIONS)}")


def check_spec(spec: PolicySpec) -> None:
    """Raise a one-line ValueError if a specification is inconsistent, or if its integers would not be exact."""
    check_precision(spec.precision)
    integer = spec.precision in INTEGER_PRECISIONS
    _check_names(spec)
    check_sides(spec)
    for name, size in (
        ("obs_size", spec.obs_size),
        ("action_size", spec.action_size),
        ("weight_copies", spec.weight_copies),
        *(("hidden", h) for h in spec.hidden),
        *(("groups", g) for g in spec.groups),
    ):
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise ValueError(f"{name} must be a positive integer, not {size!r}")
    if spec.weight_copies > (MAX_COPIES if spec.precision == "binary" else 1):
        raise ValueError(
            f"weight_copies was {spec.weight_copies} with precision {spec.precision}, expected at most {MAX_COPIES} of "
            "a binary policy, and 1 of others"
        )
    if (spec.head == "multidiscrete") != bool(spec.groups) or (spec.groups and sum(spec.groups) != spec.action_size):
        raise ValueError(f"groups {spec.groups}: a multidiscrete head has some that sum to action_size, others none")
    box = spec.action_size if spec.head == "box" else 0
    for name, want in (
        ("obs_offset", spec.obs_size),
        ("obs_scale", spec.obs_size),
        ("action_low", box),
        ("action_high", box),
    ):
        got = getattr(spec, name)
        if len(got) != want:
            raise ValueError(f"{name} must have {want} numbers, not {len(got)}")
        with np.errstate(over="ignore"):
            if not np.all(np.isfinite(np.asarray(got, np.float32))):
                raise ValueError(f"{name} must be finite in float32, not {tuple(got)}")
    with np.errstate(over="ignore", divide="ignore"):
        inverse = np.asarray(INPUT_UNIT / np.asarray(spec.obs_scale, np.float64), np.float32)
    if not (np.all(np.isfinite(inverse)) and np.all(inverse > np.finfo(np.float32).tiny)):
        raise ValueError(f"obs_scale must be positive and neither tiny nor huge, not {tuple(spec.obs_scale)}")
    if not GAINS[0] <= spec.gain <= GAINS[1] or (spec.gain != 1 and not (integer and spec.head == "box")):
        raise ValueError(f"gain was {spec.gain}, expected {GAINS[0]} to {GAINS[1]} of an integer box head, 1 of others")
    if any(not low < high for low, high in zip(spec.action_low, spec.action_high, strict=True)):
        raise ValueError("action_low must be below action_high in every dimension")
    if integer:
        input_plan(spec)
        plan(spec)


def _check_names(spec: PolicySpec) -> None:
    """Head, activation and squash, by name and together."""
    for name, known in (("head", HEADS), ("activation", ACTIVATIONS), ("squash", SQUASHES)):
        if getattr(spec, name) not in known:
            raise ValueError(f"unknown {name} {getattr(spec, name)!r}: expected one of {', '.join(known)}")
    if spec.activation != "tanh" and spec.precision in ("binary", "binary-act"):
        raise ValueError(
            f"activation {spec.activation!r}: the units of a {spec.precision} policy are signs; leave 'tanh'"
        )
    integer = spec.precision in INTEGER_PRECISIONS
    if spec.squash != "tanh" and (spec.head != "box" or integer != (spec.squash == "table")):
        raise ValueError(
            f"squash {spec.squash!r}: only {'an integer' if spec.squash == 'table' else 'a float'} policy with a box "
            "head has it; use 'tanh' (integers are then linear and saturate at the box by themselves)"
        )


def input_plan(spec: PolicySpec) -> InputPlan:
    """The observation quantiser. ValueError if an offset is so large that its zero point is not exact in float32."""
    multiplier = np.asarray(INPUT_UNIT / np.asarray(spec.obs_scale, np.float64), np.float32)
    zero = np.rint(np.asarray(spec.obs_offset, np.float64) * multiplier.astype(np.float64))
    worst = int(np.argmax(np.abs(zero)))
    if abs(zero[worst]) + QMAX >= EXACT:
        raise ValueError(
            f"input {worst}: zero point {zero[worst]:.0f} reaches 2**24; shift the observation or raise its obs_scale"
        )
    return InputPlan(multiplier, zero.astype(np.int32))


def action_plan(spec: PolicySpec) -> ActionPlan:
    """The map from the integer output to the box."""
    low, high = np.asarray(spec.action_low, np.float32), np.asarray(spec.action_high, np.float32)
    mid = ((low.astype(np.float64) + high.astype(np.float64)) / 2).astype(np.float32) + np.float32(0)
    half = np.maximum(high.astype(np.float64) - mid, mid - low.astype(np.float64))
    mantissa, exponent = np.frexp(half / QMAX)
    step = np.ldexp(np.ceil(mantissa * 2**17), exponent - 17)
    return ActionPlan(mid, step.astype(np.float32), low, high)


def _requant(gain: float, acc_bound: int) -> tuple[int, int]:
    """(mult, shift) with mult / 2**shift near ``gain``: the most precise pair whose products stay exact in float32."""
    for shift in range(23, -1, -1):
        mult = round(gain * 2**shift)
        if 1 <= mult <= MULT_MAX and acc_bound * mult + (2**shift >> 1) < EXACT:
            return mult, shift
    return 1, max(0, round(-math.log2(gain)))  # too wide: the caller's bound check refuses it


def plan(spec: PolicySpec) -> tuple[LayerPlan, ...]:
    """All static integers of an int8 or binary policy, layer by layer; () for the float precisions.

    Raises:
        ValueError: a layer could leave float32's exact integers (one line: layer, bound, what to do).
    """
    if spec.precision not in INTEGER_PRECISIONS:
        return ()
    int8 = spec.precision == "int8"
    weight_max = QMAX if int8 else spec.weight_copies
    plans = []
    for index, (fan_in, fan_out) in enumerate(layer_sizes(spec)):
        first, last = index == 0, index == len(spec.hidden)
        input_max = QMAX if first or int8 else 1
        input_rms = INPUT_UNIT if first else (HIDDEN_RMS[spec.activation] if int8 else 1)
        deviation = float(np.float32(math.sqrt(fan_in) * weight_unit(weight_max) * input_rms))
        bias_max = int(np.rint(BIAS_LIMIT * deviation))
        bias_unit = float(np.float32(deviation * bias_gain(spec, index)))
        acc_bound = fan_in * weight_max * input_max + bias_max
        if last and spec.sides is not None:
            acc_bound *= meeting(spec.sides)
        hidden = {"tanh": "requant", "relu": "requant_relu"}[spec.activation] if int8 else "sign"
        box = "requant_tanh" if spec.squash == "table" else "requant"
        activation = (box if spec.head == "box" else "none") if last else hidden
        gain = spec.gain if last else 1.0
        unit = (TABLE_STD if activation == "requant_tanh" else REQUANT_STD) * gain
        mult, shift = _requant(unit / deviation, acc_bound) if "requant" in activation else (1, 0)
        unit = deviation * mult / 2**shift / gain
        bound = acc_bound * mult + (2**shift >> 1)
        if bound >= EXACT:
            raise ValueError(
                f"layer {index}: an intermediate may reach {bound}, float32 lanes are exact below {EXACT}; "
                f"use a fan-in below {fan_in}"
            )
        plans.append(
            LayerPlan(
                *(fan_in, fan_out, input_max, weight_max, deviation, bias_unit, bias_max, activation, mult, shift),
                *(unit, acc_bound, bound),
            )
        )
    return tuple(plans)


def bounds(spec: PolicySpec) -> tuple[int, ...]:
    """The largest |intermediate| of every layer of an integer policy, each below 2**24; () for float precisions."""
    return tuple(layer.bound for layer in plan(spec))
