"""Mergeable moments of observations, and the input scales that follow from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from polystep_rl.types import Array, Moments

# An integer policy resolves 1 / 32 of a scale: offsets sit on that grid, so that rounding agrees everywhere.
GRID = 32.0
LEAST = 1e-6  # a deviation below this fraction of the mean's size is rounding, not variation


def moments_of(rows: np.ndarray) -> Moments:
    """Moments of observations (n, o), n at least 1; NumPy, float64."""
    x = np.asarray(rows, np.float64)
    mean = x.mean(axis=0)
    found: Any = (np.float64(len(x)), mean, ((x - mean) ** 2).sum(axis=0))
    return Moments(*found)


def moments_of_sums(count: Any, sums: Any, offset: Any, larger: Callable[[Any, Any], Any]) -> Moments:
    """Moments from the sums of x and x * x over ``count`` observations, x = obs - offset, of JAX or of NumPy.

    Args:
        count: () in the dtype of the sums.
        sums: of x and of x * x, (o,) each.
        offset: (o,), which keeps the sums small.
        larger: the maximum of two, `numpy.maximum` or `jax.numpy.maximum`.
    """
    first, second = sums
    mean = first / larger(count, 1)
    return Moments(count, offset + mean, larger(second - count * mean * mean, 0))  # rounding, below 0


def varied(deviation: Any, mean: Any) -> Any:
    """Whether a standard deviation is more than rounding of numbers of that mean, elementwise."""
    return deviation > LEAST * (1 + abs(mean))


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of two samples together (Chan, Golub and LeVeque 1979), of JAX or of NumPy; either may be empty."""
    weight = a.weight + b.weight
    share = b.weight / (weight + (weight == 0))
    delta = b.mean - a.mean
    m2 = a.m2 + b.m2 + delta**2 * a.weight * share
    return Moments(weight, a.mean + delta * share, m2)


def input_scales(moments: Moments, unit: float = 1.0) -> dict[str, Array]:
    """Offset and scale of every feature: mean and standard deviation times ``unit``.

    Args:
        moments: of observations (o,).
        unit: what the scale is multiplied by.

    Returns:
        {"offset": (o,), "scale": (o,)} float32; the offset is a multiple of scale / 32, and a feature that never
        varied has scale 1.
    """
    std = jnp.sqrt(moments.m2 / jnp.maximum(moments.weight, 1))
    scale = (jnp.where(varied(std, moments.mean), std, 1.0) * unit).astype(jnp.float32)
    offset = jnp.rint(moments.mean * (GRID / scale)) * (scale / GRID)
    return {"offset": offset.astype(jnp.float32), "scale": scale}


class RunningScales:
    """The same statistics for a single learner, observation by observation, in float64.

    Args:
        prior: moments before the first observation; leaves (), (o,), (o,).
        unit: what the scales are multiplied by.
    """

    def __init__(self, prior: Moments, unit: float = 1.0) -> None:
        start: Any = (np.asarray(x, np.float64) for x in prior)
        self.moments = Moments(*start)
        self.unit = unit

    def add(self, obs: np.ndarray) -> None:
        """Take in observations (n, o); rows that are not finite are left out."""
        rows = np.asarray(obs, np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        if len(rows):
            self.moments = merge(self.moments, moments_of(rows))

    def scales(self) -> dict[str, np.ndarray]:
        """As `input_scales` has them: {"offset": (o,), "scale": (o,)}, NumPy float32."""
        return {name: np.asarray(value) for name, value in input_scales(self.moments, self.unit).items()}


def merge_moments(parts: Moments) -> Moments:
    """Merge moments along their leading axis (Chan, Golub and LeVeque 1979): leaves (k, ...) -> (...)."""
    count = parts.weight.sum()
    safe = jnp.maximum(count, 1)
    weight = parts.weight[:, None]
    mean = (weight * parts.mean).sum(0) / safe
    m2 = (parts.m2 + weight * (parts.mean - mean) ** 2).sum(0)
    return Moments(count, mean, m2)
