"""Cost shaping: what the transport plan sees instead of raw costs (step 5 of arXiv:2605.01928).

A shaping is a pure function of the cost matrix (P, V), probes already averaged, to scaled costs (P, V), all finite.
Every shaping is blind to a constant added to all costs.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from polystep_rl.types import Array

Shaping = Callable[[Array], Array]  # (P, V) raw -> (P, V) scaled


def finite(cost: Array) -> Array:
    """Replace NaN and infinities by 2 max|finite| + 1 (by 1 where nothing is finite).

    Args:
        cost: any shape.

    Returns:
        same shape, all finite.
    """
    ok = jnp.isfinite(cost)
    worst = 2.0 * jnp.max(jnp.where(ok, jnp.abs(cost), 0.0)) + 1.0
    return jnp.where(ok, cost, worst)


def _recentred(cost: Array) -> Array:
    cost = finite(cost)
    return cost - jnp.min(cost)  # C <- C - min C


def _over(cost: Array, scale: Array) -> Array:
    """Divide, leaving a constant matrix alone."""
    return cost / jnp.where(scale > 0, scale, 1.0)


def none(cost: Array) -> Array:
    """C - min C: raw units, non-finite entries replaced. (P, V) -> (P, V)."""
    return _recentred(cost)


def mean(cost: Array) -> Array:
    """(C - min C) / mean|C - min C|. (P, V) -> (P, V)."""
    cost = _recentred(cost)
    return _over(cost, jnp.mean(jnp.abs(cost)))


def max(cost: Array) -> Array:
    """(C - min C) / max|C - min C|. (P, V) -> (P, V)."""
    cost = _recentred(cost)
    return _over(cost, jnp.max(jnp.abs(cost)))


def standardised(cost: Array) -> Array:
    """(C - mean C) / std C. (P, V) -> (P, V) of zero mean and unit variance (zeros for a constant matrix)."""
    cost = _recentred(cost)
    return _over(cost - jnp.mean(cost), jnp.std(cost))


def centred_ranks(cost: Array) -> Array:
    """Ranks scaled to [-1/2, 1/2]; ties share their mean rank. (P, V) -> (P, V).

    Shared ranks matter where many candidates reach the same return: they then weigh the same.
    """
    flat = finite(cost).ravel()
    ordered = jnp.sort(flat)
    below = jnp.searchsorted(ordered, flat, side="left")  # how many are smaller
    upto = jnp.searchsorted(ordered, flat, side="right")  # how many are smaller or equal
    rank = (below + upto - 1).astype(cost.dtype) / 2.0
    return (rank / jnp.maximum(flat.size - 1, 1).astype(cost.dtype) - 0.5 * (flat.size > 1)).reshape(cost.shape)


def per_row(shaping: Shaping) -> Shaping:
    """Apply a shaping to every particle's row by itself, so that each particle has its own scale.

    Args:
        shaping: any shaping.

    Returns:
        a shaping, (P, V) -> (P, V).
    """

    def rows(cost: Array) -> Array:
        return jax.vmap(lambda row: shaping(row[None, :])[0])(cost)

    return rows
