"""Post-training quantisation: the best of a few documented candidates, measured on held-out observations.

A quarter of the calibration observations, drawn with a fixed seed, is held out; the others calibrate. Candidates:

int8    ``round`` takes the float latents as they are; ``scaled`` chooses a scale for every unit and keeps the mean
        pre-activation (`layerwise.py` without regression); ``refit`` regresses each layer on its quantised inputs too.
        ``descent`` goes on from the best of those with all layers at once (`descent.py`).
binary  ``sign`` is XNOR-Net's sign(w) (`layerwise.py`); ``bias`` regresses, centres the outputs and finds the best
        thresholds (`binarise.py` without flips); ``greedy`` flips signs layer by layer; ``descent`` goes on from the
        two best of those.
float   (int8-act, binary-act) ``round`` and ``refit``.

Each is also tried with other input scales: ``+range``, where the float policy's are too narrow or too wide, lets the
integers just span the observations (0.1 to 99.9 per cent); for a binary policy ``+columns`` is tried too: each input is
scaled by the norm of the float weights that read it, since a weight of +-1 cannot say how important its input is. The
float policy is the same function under any of them. Box heads are tried with a gain, too, which makes room for weights
that are larger than the integers reach (``+gain``), and where actions are the tanh of the outputs with a table of 255
integers that makes them so (``+table``), which the others can only approach by a line that is cut.

With several one-bit weights for each input (``weight_copies``) a binary policy has the candidates of int8. Where the
sides of a body share a network, a side's own outputs are imitated, and the input scales stay as they are: what the
network reads are products of observations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from polystep_rl.policies.deployed import frozen, integer_weights
from polystep_rl.policies.forward import finite, float_targets, squash
from polystep_rl.policies.precision import GAINS, check_precision, check_spec, plan, weight_unit
from polystep_rl.policies.quantisation.binarise import binarise, sized
from polystep_rl.policies.quantisation.descent import TRIALS, descend
from polystep_rl.policies.quantisation.layerwise import Layers, layerwise
from polystep_rl.policies.runtime import Network, actions, choices
from polystep_rl.types import INPUT_UNIT, INTEGER_PRECISIONS, QMAX, Params, PolicySpec

HELD_OUT = 4  # one in so many observations
STARTS = {"int8": 1, "binary": 2}  # candidates that `descend` goes on from
SHARES = (1.0, 0.7, 0.5)  # of the gain at which the largest weight just fits: gains that are tried
SPAN = (0.1, 99.9)  # percentiles of the observations that the integers are to resolve


class Quantised(NamedTuple):
    """A quantised policy, and how each candidate did on the held-out observations."""

    spec: PolicySpec
    params: Layers
    chosen: str
    measured: dict[
        str, dict[str, float]
    ]  # by candidate: "agreement" (discrete heads) or "action_rmse" (box), see `agreement`


def quantise(
    spec: PolicySpec,
    params: Params,
    precision: str,
    observations: np.ndarray,
    hidden_multiple: int = 1,
    trials: int = TRIALS,
    weight_copies: int = 1,
    free_head: bool = True,
) -> Quantised:
    """A float32 policy as a policy of another precision that acts as nearly as it can like it.

    Args:
        spec, params: the float32 policy.
        precision: the precision wanted.
        observations: (n, o) observations that the policy meets, n at least 1, a few thousand to be good.
        hidden_multiple: binary only: units of each hidden layer for each of the float policy's.
        trials: changes that ``descent`` may try; int8 and binary only.
        weight_copies: binary only: one-bit weights for each input.
        free_head: whether a box head may have a gain and a table of tanh.

    Raises:
        ValueError: a policy that is not float32, an unknown precision, no finite observation, or a multiple or copies
            that do not fit.
    """
    spec, params = frozen(spec, params)
    check_spec(spec)
    check_precision(precision)
    if spec.precision != "float32":
        raise ValueError(f"only a float32 policy can be quantised, not a {spec.precision} one")
    if hidden_multiple < 1 or (hidden_multiple > 1 and precision != "binary"):
        raise ValueError(f"hidden_multiple {hidden_multiple}: at least 1, and above 1 only for binary")
    if hidden_multiple > 1 and weight_copies > 1:
        raise ValueError(f"hidden_multiple {hidden_multiple} and weight_copies {weight_copies}: give one of them")
    params = jax.tree.map(np.asarray, params)
    obs = finite(observations, spec.obs_size)
    order = np.random.default_rng(0).permutation(len(obs))
    held = obs[order[: len(obs) // HELD_OUT]] if len(obs) >= 2 * HELD_OUT else obs
    fit = obs[order[len(obs) // HELD_OUT :]] if len(obs) >= 2 * HELD_OUT else obs
    found: dict[str, tuple[PolicySpec, Layers]] = {}
    measured: dict[str, dict[str, float]] = {}

    def add(name: str, candidate: PolicySpec, latents: Layers) -> None:
        found[name] = candidate, latents
        measured[name] = agreement(spec, params, candidate, latents, held)

    for name, float_spec, float_params in _input_scales(spec, params, precision, fit):
        target = _target_spec(float_spec, precision, hidden_multiple, weight_copies)
        try:
            check_spec(target)
        except ValueError:
            if not name:
                raise
            continue  # scales whose zero points would not be exact
        for mark, head, head_params in _heads(target, float_spec, float_params, free_head):
            for method, build in _methods(float_spec, head_params, head, fit, hidden_multiple).items():
                add(method + name + mark, head, _snapped(head, build()))
    if precision in INTEGER_PRECISIONS:
        starts = sorted(found, key=lambda name: _badness(measured[name]))[: STARTS[precision]]
        for start in starts:
            target, latents = found[start]
            wanted = _wanted(spec, params, fit)
            add(f"descent from {start}", target, descend(target, latents, fit, wanted, trials))
    chosen = min(measured, key=lambda name: _badness(measured[name]))
    return Quantised(*found[chosen], chosen, measured)


def agreement(
    spec: PolicySpec, params: Params, other: PolicySpec, other_params: Params, observations: np.ndarray
) -> dict[str, float]:
    """How alike two policies act on observations (n, o).

    Returns:
        ``agreement``: share of equal choices, of all groups of a multidiscrete head; or ``action_rmse``: root mean
        square difference of box actions in units of the half-width of the box.
    """
    one, two = (actions(s, p, observations) for s, p in ((spec, params), (other, other_params)))
    if spec.head != "box":
        return {"agreement": float((one == two).mean())}
    low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
    return {"action_rmse": float(np.sqrt((((one - two) / ((high - low) / 2)) ** 2).mean()))}


def _badness(measured: dict[str, float]) -> float:
    return measured["action_rmse"] if "action_rmse" in measured else -measured["agreement"]


def _target_spec(spec: PolicySpec, precision: str, multiple: int, copies: int) -> PolicySpec:
    integer, binary = precision in INTEGER_PRECISIONS, precision in ("binary", "binary-act")
    return spec._replace(
        precision=precision,
        hidden=tuple(h * multiple for h in spec.hidden),
        activation="tanh" if binary else spec.activation,
        squash="tanh" if integer else spec.squash,
        weight_copies=copies,
    )


def _methods(
    float_spec: PolicySpec, params: Params, target: PolicySpec, obs: np.ndarray, multiple: int
) -> dict[str, Callable[[], Layers]]:
    """Name -> candidate."""
    if target.precision == "binary" and target.weight_copies == 1:
        sign = {"sign": partial(layerwise, float_spec, params, target, obs)} if multiple == 1 else {}
        return sign | {
            "bias": partial(binarise, float_spec, params, target, obs, multiple, greedy=False),
            "greedy": partial(binarise, float_spec, params, target, obs, multiple),
        }
    found: dict[str, Callable[[], Layers]] = {"round": lambda: params}
    if target.precision in INTEGER_PRECISIONS:
        found["scaled"] = partial(layerwise, float_spec, params, target, obs, refit=False)
    return found | {"refit": partial(layerwise, float_spec, params, target, obs)}


def _input_scales(
    spec: PolicySpec, params: Params, precision: str, obs: np.ndarray
) -> Iterator[tuple[str, PolicySpec, Params]]:
    """(mark, specification, parameters) of the same float policy under other input scales."""
    yield "", spec, params
    if precision not in INTEGER_PRECISIONS or spec.sides is not None:
        return
    limit = QMAX / INPUT_UNIT
    low, high = np.percentile(obs.astype(np.float64), SPAN, axis=0)
    middle, half = (low + high) / 2, (high - low) / 2
    old = np.asarray(spec.obs_scale, np.float64)
    varies = half > 1e-6 * old
    offset = np.asarray(spec.obs_offset, np.float64)
    used = np.maximum(np.abs(low - offset), np.abs(high - offset)) / old  # of the range of the integers, +-limit
    if np.any((used > limit) | (varies & (used < limit / 4))):
        yield "+range", *rescaled(spec, params, middle, np.where(varies, half, old) / limit)
    if precision == "binary":
        norm = np.sqrt((np.asarray(params["0"]["w"], np.float64) ** 2).mean(axis=0)) / old  # of one unit of observation
        norm = np.maximum(norm, 1e-3 * float(norm.max()) + 1e-30)
        span = np.where(varies, half * norm, 0.0).max()
        if span > 0:
            yield "+columns", *rescaled(spec, params, middle, span / limit / norm)


def rescaled(spec: PolicySpec, params: Params, offset: np.ndarray, scale: np.ndarray) -> tuple[PolicySpec, Params]:
    """The same float policy with other input scales (o,): the first layer takes over the difference."""
    old_offset, old_scale = (np.asarray(v, np.float64) for v in (spec.obs_offset, spec.obs_scale))
    offset, scale = (np.asarray(v, np.float32).astype(np.float64) for v in (offset, scale))
    w = np.asarray(params["0"]["w"], np.float64)
    b = params["0"]["b"] + w @ ((offset - old_offset) / old_scale) / np.sqrt(w.shape[1])
    first = {"w": (w * (scale / old_scale)).astype(np.float32), "b": b.astype(np.float32)}
    return spec._replace(obs_offset=tuple(offset.tolist()), obs_scale=tuple(scale.tolist())), {**params, "0": first}


def _heads(
    target: PolicySpec, float_spec: PolicySpec, params: Params, free: bool
) -> Iterator[tuple[str, PolicySpec, Params]]:
    """(mark, target, the float policy's parameters with the last layer divided by the target's gain)."""
    yield "", target, params
    layers, last = plan(target), str(len(float_spec.hidden))
    if not free or target.head != "box" or not layers or layers[-1].weight_max == 1:
        return
    reach = layers[-1].weight_max / weight_unit(layers[-1].weight_max)
    fits = float(np.abs(params[last]["w"]).max()) / reach  # the gain at which the largest weight just fits
    gains = sorted({float(np.float32(np.clip(share * fits, 1.0, GAINS[1]))) for share in SHARES})
    for gain, shape in itertools.product(gains, ("tanh", "table") if float_spec.squash == "tanh" else ("tanh",)):
        mark = (f"+gain {gain:.3g}" if gain != 1 else "") + ("+table" if shape == "table" else "")
        if mark:
            scaled = {**params, last: {name: leaf / np.float32(gain) for name, leaf in params[last].items()}}
            yield mark, target._replace(squash=shape, gain=gain), scaled


def _snapped(spec: PolicySpec, latents: Layers) -> Layers:
    """Latents on the integers that they deploy to, of the same policy; binary ones keep their relative sizes."""
    if spec.precision not in INTEGER_PRECISIONS:
        return {i: {name: np.asarray(leaf, np.float32) for name, leaf in layer.items()} for i, layer in latents.items()}
    result = {}
    for index, layer in enumerate(plan(spec)):
        old = latents[str(index)]
        w, b = integer_weights(layer, old["w"], old["b"])
        if layer.weight_max == 1:
            result[str(index)] = sized(layer, w, b, old["w"])
            continue
        w = w / weight_unit(layer.weight_max)
        result[str(index)] = {"w": w.astype(np.float32), "b": (b / layer.bias_unit).astype(np.float32)}
    return result


def _wanted(spec: PolicySpec, params: Params, obs: np.ndarray) -> np.ndarray:
    """Targets of `descend`: choices (n, groups), or actions in units of the box: (n, a), of sides (S, n, m)."""
    if spec.sides is not None:
        y = float_targets(spec, params, obs)[-1]
        return squash(spec, y).astype(np.float32).reshape(len(spec.sides.inputs), len(obs), -1)
    y = Network(spec, params).outputs(obs)
    return squash(spec, y).astype(np.float32) if spec.head == "box" else choices(spec, y)
