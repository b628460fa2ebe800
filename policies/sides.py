"""Networks that the sides of a body share: what each side sees, and the actions that all sides make together.

A legged robot is its own mirror image, so one network serves both legs: half the weights, and a gait that is symmetric
by construction. Multiplying what a side sees by the cosine and sine of its gait phase gives a linear network gains that
change over the stride. Every function works on the first axis, for NumPy and JAX alike; batch axes follow.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from polystep_rl.types import PolicySpec, Sides

PHASE_UNIT = 127  # integer policies hold the cosine and the sine of the phase as rint(127 c)


def check_sides(spec: PolicySpec) -> None:
    """Raise a one-line ValueError where the sides do not fit each other or the rest of a specification."""
    sides = spec.sides
    if sides is None:
        return
    if spec.head != "box":
        raise ValueError(f"sides need a box head, not {spec.head}")
    count = len(sides.inputs)
    if count == 0 or any(len(part) != count for part in sides):
        raise ValueError(f"sides must say {', '.join(Sides._fields)} for the same number of sides, at least one")
    for name, values, limit in (
        ("inputs", sides.inputs, spec.obs_size),
        ("phase", sides.phase, spec.obs_size),
        ("outputs", sides.outputs, spec.action_size),
    ):
        if len({len(row) for row in values}) != 1 or not values[0]:
            raise ValueError(f"sides.{name} must have rows of one length, at least 1")
        if any(
            isinstance(i, bool) or not isinstance(i, (int, np.integer)) or not 0 <= i < limit for i in _flat(values)
        ):
            raise ValueError(f"sides.{name} must hold integers from 0 to {limit - 1}")
    if len(sides.phase[0]) != 2:
        raise ValueError("sides.phase must name two observations a side: the cosine and the sine")
    for name, signs, like in (
        ("input_signs", sides.input_signs, sides.inputs),
        ("output_signs", sides.output_signs, sides.outputs),
    ):
        if [len(row) for row in signs] != [len(row) for row in like] or not set(_flat(signs)) <= {-1, 1}:
            raise ValueError(f"sides.{name} must hold a 1 or -1 for each of sides.{name[:-6]}s")


def _flat(rows: Any) -> list[Any]:
    return [value for row in rows for value in row]


def meeting(sides: Sides) -> int:
    """The most outputs that are summed in one action."""
    flat = _flat(sides.outputs)
    return max(flat.count(action) for action in flat)


def side_inputs(sides: Sides) -> int:
    """Features of a side: k + 2 (k + 1)."""
    return 3 * len(sides.inputs[0]) + 2


def features(xp: ModuleType, sides: Sides, obs: Any, read: Callable[[Any], Any]) -> list[Any]:
    """Inputs of the network of a float policy, for each side.

    Args:
        xp: ``numpy`` or ``jax.numpy``.
        obs: (o, *b) observations.
        read: what a side sees (k, *b), normalised; by the scales of the first side (`first`), so that sides are alike.

    Returns:
        For each side (f, *b).
    """
    found = []
    for own, c, s in _seen(xp, sides, obs):
        x = read(own)
        c, s = (xp.broadcast_to(p, (1, *x.shape[1:])) for p in (c, s))
        found.append(xp.concatenate([x, c, c * x, s, s * x]))
    return found


def integer_features(xp: ModuleType, sides: Sides, obs: Any, read: Callable[[Any], Any], one: int) -> list[Any]:
    """The same of an integer policy, all of them integers in [-127, 127].

    A product is (phase * x + 64) >> 7, as an arithmetic shift; the phase alone is its product with ``one``.

    Args:
        xp: ``numpy`` or ``jax.numpy``.
        obs: (o, *b) observations.
        read: what a side sees (k, *b), as integers in [-127, 127], held as floats.
        one: the integer that stands for an observation of 1.
    """
    found = []
    for own, *phase in _seen(xp, sides, obs):
        x = read(own)
        c, s = (xp.broadcast_to(xp.rint(p * PHASE_UNIT), (1, *x.shape[1:])) for p in phase)
        products = [xp.floor((p * y + 64) / 128) for p in (c, s) for y in (one, x)]
        found.append(xp.concatenate([x, *products]))
    return found


def first(sides: Sides) -> np.ndarray:
    """(k,) the observations whose scales all sides have."""
    return np.array(sides.inputs[0])


def _seen(xp: ModuleType, sides: Sides, obs: Any) -> list[tuple[Any, Any, Any]]:
    """For each side what it sees (k, *b), and cosine and sine (1, *b), bounded whatever the observations are."""
    found = []
    for rows, signs, (c, s) in zip(sides.inputs, sides.input_signs, sides.phase, strict=True):
        own = obs[np.array(rows)] * xp.asarray(signs, obs.dtype).reshape(-1, *(1,) * (obs.ndim - 1))
        phase = (xp.clip(xp.where(xp.isnan(obs[i]), 0.0, obs[i]), -1, 1)[None] for i in (c, s))
        found.append((own, *phase))
    return found


def joined(xp: ModuleType, sides: Sides, outputs: list[Any], actions: int) -> Any:
    """Outputs of the sides, each (m, *b), as those of all actions (a, *b): summed where they meet, else 0."""
    total = [xp.zeros_like(outputs[0][0]) for _ in range(actions)]
    for y, where, signs in zip(outputs, sides.outputs, sides.output_signs, strict=True):
        for row, action, sign in zip(y, where, signs, strict=True):
            total[action] = total[action] + sign * row
    return xp.stack(total)
