"""Mergeable moments of observations, and the input scales that follow from them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from polystep_rl.types import Array, Moments

GRID = (
    32.0  # an integer policy resolves 1 / 32 of a scale: offsets sit on that grid, so that rounding agrees everywhere
)


LEAST = 1e-6  # a deviation below this share of the mean's size is rounding, not variation


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
    varied = std > LEAST * (1 + jnp.abs(moments.mean))
    scale = (jnp.where(varied, std, 1.0) * unit).astype(jnp.float32)
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
            mean = rows.mean(axis=0)
            seen: Any = (np.float64(len(rows)), mean, ((rows - mean) ** 2).sum(axis=0))  # NumPy's, in float64
            self.moments = merge(self.moments, Moments(*seen))

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
