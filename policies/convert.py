"""Import of a foreign float network: any multilayer perceptron with tanh or relu units, as a float32 policy of ours.

A foreign policy in files is ``NAME.safetensors`` with ``layers.0.weight`` (m, k), ``layers.0.bias`` (m,), ``layers.1.``
and so on, first layer to last, and ``NAME.json``, an object with

activation   ``tanh`` or ``relu``, of the hidden layers
squash       of a box: ``tanh`` (action = mid + half * tanh(y)), or ``clip`` or ``none`` (action = y, cut at the box)
obs_offset, obs_scale    numbers, or lists (o,); default 0 and 1: the first layer reads (obs - obs_offset) / obs_scale.
             Observations that VecNormalize normalised: its mean, and the root of its variance plus epsilon
action_low, action_high  lists (a,), of a box; without them the action is the largest output
groups       list: of a MultiDiscrete action, the number of outputs of each part; the largest of each counts
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from polystep_rl.policies.io import _fail, _read
from polystep_rl.policies.precision import check_spec
from polystep_rl.types import PolicySpec

SQUASHES = ("none", "clip", "tanh")
FIELDS = ("activation", "squash", "obs_offset", "obs_scale", "action_low", "action_high", "groups")


class ForeignMLP(NamedTuple):
    """A float network as others describe it: y = W x + b, in the units of the environment."""

    weights: tuple[np.ndarray, ...]  # (m, k) each, first layer to last
    biases: tuple[np.ndarray, ...]  # (m,) each
    activation: str = "tanh"  # tanh | relu, of the hidden layers
    squash: str = "none"  # of a box: none | clip (action = y, cut at the box) | tanh (action = mid + half * tanh(y))
    obs_offset: Any = 0.0  # a number or (o,); the first layer reads (obs - obs_offset) / obs_scale
    obs_scale: Any = 1.0
    action_low: tuple[float, ...] = ()  # (a,) of a box; () is a discrete action, the largest output
    action_high: tuple[float, ...] = ()
    groups: tuple[int, ...] = ()  # of a MultiDiscrete action: outputs of each part


@np.errstate(over="ignore")  # what does not fit float32 is found below
def from_foreign(foreign: ForeignMLP) -> tuple[PolicySpec, dict[str, dict[str, np.ndarray]]]:
    """The float32 policy that acts like a foreign network, to float32 rounding.

    Latents are W * sqrt(fan-in). Where the action is y itself, the last layer is rescaled to (y - mid) / half, for
    our box head is clip(mid + half * y, low, high).

    Raises:
        ValueError: shapes, names or numbers that do not make such a network (one line).
    """
    weights, biases = ([np.array(v, np.float64) for v in values] for values in (foreign.weights, foreign.biases))
    _check_layers(weights, biases)
    if foreign.squash not in SQUASHES:
        raise ValueError(f"squash {str(foreign.squash)[:40]!r}: expected one of {', '.join(SQUASHES)}")
    obs_size, action_size = weights[0].shape[1], len(biases[-1])
    low, high = (
        tuple(float(v) for v in np.asarray(limit, np.float32)) for limit in (foreign.action_low, foreign.action_high)
    )
    head = "box" if low or high else ("multidiscrete" if foreign.groups else "discrete")
    if head != "box" and foreign.squash != "none":
        raise ValueError(
            f"squash {foreign.squash!r} needs a box: {action_size} numbers each in action_low, action_high"
        )
    spec = PolicySpec(
        obs_size=obs_size,
        hidden=tuple(len(b) for b in biases[:-1]),
        precision="float32",
        head=head,
        action_size=action_size,
        action_low=low,
        action_high=high,
        obs_offset=_vector("obs_offset", foreign.obs_offset, obs_size),
        obs_scale=_vector("obs_scale", foreign.obs_scale, obs_size),
        groups=tuple(foreign.groups),
        activation=foreign.activation,
        squash="clip" if head == "box" and foreign.squash != "tanh" else "tanh",
    )
    check_spec(spec)
    if spec.squash == "clip":
        bottom, top = np.asarray(low), np.asarray(high)
        half = (top - bottom) / 2
        weights[-1], biases[-1] = weights[-1] / half[:, None], (biases[-1] - (bottom + top) / 2) / half
    latents = {}
    for index, (w, b) in enumerate(zip(weights, biases, strict=True)):
        latents[str(index)] = {"w": (w * np.sqrt(w.shape[1])).astype(np.float32), "b": b.astype(np.float32)}
        if not all(np.all(np.isfinite(leaf)) for leaf in latents[str(index)].values()):
            raise ValueError(f"layer {index}: the weights are too large for float32")
    return spec, latents


def load_foreign(path: str | os.PathLike[str]) -> ForeignMLP:
    """Read ``NAME.safetensors`` and ``NAME.json``, as described above, from either name or the stem.

    Raises:
        PolicyFileError: a file that is missing, damaged or does not follow the layout (one line, the path first).
    """
    stem = Path(path)
    stem = stem.with_suffix("") if stem.suffix in (".json", ".safetensors") else stem
    tensor_path, json_path = stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".json")
    try:
        tensors = safetensors.numpy.load(_read(tensor_path))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        _fail(tensor_path, f"not a safetensors file of floats ({type(error).__name__}: {error})")
    try:
        described = json.loads(_read(json_path))
    except (ValueError, RecursionError) as error:
        _fail(json_path, f"not JSON ({type(error).__name__}: {error})")
    if not isinstance(described, dict):
        _fail(json_path, "expected an object")
    unknown = sorted(set(described) - set(FIELDS))
    if unknown or "activation" not in described:
        problem = f"unknown field {unknown[0]!r}" if unknown else "the field 'activation' is missing"
        _fail(json_path, f"{problem}; the fields are {', '.join(FIELDS)}")
    count = len(tensors) // 2
    names = {f"layers.{i}.{leaf}" for i in range(count) for leaf in ("weight", "bias")}
    if not count or set(tensors) != names:
        _fail(tensor_path, f"expected layers.0.weight, layers.0.bias and so on, found {', '.join(sorted(tensors)[:4])}")
    weights = tuple(tensors[f"layers.{i}.weight"] for i in range(count))
    biases = tuple(tensors[f"layers.{i}.bias"] for i in range(count))
    foreign = ForeignMLP(weights, biases, **{name: _plain(json_path, name, value) for name, value in described.items()})
    try:
        from_foreign(foreign)
    except (ValueError, TypeError, OverflowError) as error:
        _fail(json_path, str(error))
    return foreign


def _plain(path: Path, name: str, value: Any) -> Any:
    """A field of the right kind: a name, a number, or a tuple of numbers."""
    if name in ("activation", "squash"):
        if not isinstance(value, str):
            _fail(path, f"{name} must be a name")
        return value
    values = value if isinstance(value, list) else [value]
    scalar = name in ("obs_offset", "obs_scale") and not isinstance(value, list)
    kind: Any = int if name == "groups" else (int, float)
    if not all(isinstance(v, kind) and not isinstance(v, bool) for v in values) or (
        not scalar and not isinstance(value, list)
    ):
        _fail(path, f"{name} must be a list of {'integers' if name == 'groups' else 'numbers'}")
    return value if scalar else tuple(values)


def _check_layers(weights: list[np.ndarray], biases: list[np.ndarray]) -> None:
    if not weights or len(weights) != len(biases):
        raise ValueError(f"{len(weights)} weights and {len(biases)} biases: expected a pair for every layer")
    for index, (w, b) in enumerate(zip(weights, biases, strict=True)):
        if w.ndim != 2 or b.shape != w.shape[:1] or not w.size:
            raise ValueError(f"layer {index}: weight {w.shape} and bias {b.shape}: expected (m, k) and (m,)")
        if index and w.shape[1] != len(biases[index - 1]):
            raise ValueError(f"layer {index}: reads {w.shape[1]} units, the layer before has {len(biases[index - 1])}")
        if not (np.all(np.isfinite(w)) and np.all(np.isfinite(b))):
            raise ValueError(f"layer {index}: the weights must be finite")


def _vector(name: str, value: Any, size: int) -> tuple[float, ...]:
    vector = np.asarray(value, np.float32)
    if vector.shape not in ((), (size,)):
        raise ValueError(f"{name} must be a number or have {size} numbers, not {vector.shape}")
    return tuple(float(v) for v in np.broadcast_to(vector, (size,)))
