"""Gymnasium's spaces as the search sees them: observations flat, actions of three plain kinds.

An observation becomes one row of float32: a Box of any shape and dtype in C order, Discrete, MultiBinary and
MultiDiscrete as Gymnasium flattens them (one-hot; bits; one-hots), Dict and Tuple concatenated in Gymnasium's own key
order, however nested. A policy acts in Discrete(n) from 0, a bounded flat Box, or MultiDiscrete from 0. This module
imports no JAX: worker processes use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatten, flatten_space

PolicySpace = spaces.Discrete | spaces.Box | spaces.MultiDiscrete
_LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)


def flat_observations(space: spaces.Space[Any]) -> tuple[spaces.Box, Callable[[Any], np.ndarray]]:
    """The flat Box (o,) float32 of an observation space, and the function that flattens an observation to (o,) float32.

    Raises ValueError, one line, for a space that has no fixed number of numbers (Text, Graph, Sequence, OneOf, ...).
    """
    unfit = _unfit(space)
    if unfit is not None:
        raise ValueError(
            f"observation space {_name(unfit)} cannot be flattened; expected Box, Discrete, MultiBinary, MultiDiscrete,"
            " or Dict and Tuple of these; wrap it with an observation wrapper: `wrapper` 'module:Class'"
        )
    flat = flatten_space(space)
    assert isinstance(flat, spaces.Box)
    with np.errstate(over="ignore"):  # the ends of float64 become infinite
        box = spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)
    size = box.shape[0]

    def plain(observation: Any) -> np.ndarray:
        row = np.asarray(observation, np.float32).ravel()
        if row.size != size:  # one number would be broadcast to the whole row, silently
            raise ValueError(f"the observation has {row.size} numbers, the observation space {size}")
        return row

    def nested(observation: Any) -> np.ndarray:
        return plain(flatten(space, observation))

    return box, plain if isinstance(space, spaces.Box | spaces.MultiBinary) else nested


def policy_actions(space: spaces.Space[Any]) -> tuple[PolicySpace, Callable[[np.ndarray], Any]]:
    """The space in which a policy acts for an action space, and the function from its actions to the environment's.

    The function takes one action (int32, (a,) float32 or (m,) int32) or many at once (leading axes are kept) and
    returns new arrays of the environment's own offset, shape and dtype. It clips to the box; NaN becomes the middle.

    Raises ValueError, one line, for any other space and for a Box without finite bounds.
    """
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n)), _shifted(np.asarray(space.start), (), space.dtype)
    if isinstance(space, spaces.MultiDiscrete):
        kind = spaces.MultiDiscrete(space.nvec.ravel())
        return kind, _shifted(space.start.ravel(), space.shape, space.dtype)
    if isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
        return spaces.MultiDiscrete([2] * size), _shifted(np.zeros(size, np.int64), space.shape, space.dtype)
    if isinstance(space, spaces.Box):
        return _box(space)
    raise ValueError(
        f"action space {_name(space)} is not one that a policy can act in; expected Discrete, a bounded Box,"
        " MultiDiscrete or MultiBinary; wrap it with an action wrapper: `wrapper` 'module:Class'"
    )


def _box(space: spaces.Box) -> tuple[spaces.Box, Callable[[np.ndarray], Any]]:
    with np.errstate(over="ignore"):
        low, high = space.low.astype(np.float32).ravel(), space.high.astype(np.float32).ravel()
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(
            f"action space {_name(space)} is not bounded; expected finite low and high; give it bounds with a"
            " gymnasium.ActionWrapper of your own: `wrapper` 'module:Class' (ClipAction removes bounds, and"
            " RescaleAction needs them)"
        )
    wide = np.promote_types(space.dtype, np.float32)  # float64 boxes and integer boxes are clipped at their own bounds
    own_low, own_high = space.low.ravel().astype(wide), space.high.ravel().astype(wide)
    middle = own_low + (own_high - own_low) / 2
    integral = np.issubdtype(space.dtype, np.integer)

    def convert(action: np.ndarray) -> np.ndarray:
        action = np.asarray(action)
        own = np.minimum(np.maximum(action, own_low), own_high)  # keeps NaN
        own = np.where(np.isnan(own), middle, own)
        if integral:
            own = np.rint(own)
        return own.astype(space.dtype).reshape(action.shape[:-1] + space.shape)

    return spaces.Box(low, high, dtype=np.float32), convert


def _shifted(start: np.ndarray, shape: tuple[int, ...], dtype: Any) -> Callable[[np.ndarray], Any]:
    """Shift integers from 0 to integers from ``start``; the last axis, where there is one, is brought to ``shape``."""

    def convert(action: np.ndarray) -> Any:
        own = np.add(action, start, dtype=dtype, casting="unsafe")
        if start.ndim:
            own = own.reshape(own.shape[:-1] + shape)
        return own  # for one action of a Discrete a NumPy integer, as its sample() is

    return convert


def _unfit(space: spaces.Space[Any]) -> spaces.Space[Any] | None:
    """The first part of a space that is not of a fixed number of numbers."""
    if isinstance(space, spaces.Dict):
        parts = list(space.spaces.values())
    elif isinstance(space, spaces.Tuple):
        parts = list(space.spaces)
    else:
        return None if isinstance(space, _LEAVES) else space
    if not parts:
        return space
    return next((unfit for unfit in map(_unfit, parts) if unfit is not None), None)


def _name(space: spaces.Space[Any]) -> str:
    """A space in one line of moderate length."""
    text = " ".join(repr(space).split())
    return text if len(text) <= 100 else text[:97] + "..."
