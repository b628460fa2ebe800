"""Turns the costs of a population into the weights of an evolution strategy. Lower cost, lower weight.

A shaping is a pure function (n,) -> (n,) of mean zero, blind to a constant added to all costs. Costs that are not
finite count as the worst finite one.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from polystep_rl.types import Array

Shaping = Callable[[Array], Array]  # cost (n,) -> weight (n,)


def finite(cost: Array) -> Array:
    """Replace NaN and infinite costs by the worst finite one (by 0 if none is finite). (n,) -> (n,)."""
    ok = jnp.isfinite(cost)
    worst = jnp.max(jnp.where(ok, cost, -jnp.inf))
    return jnp.where(ok, cost, jnp.where(jnp.isfinite(worst), worst, 0.0))


def _unit_variance(x: Array) -> Array:
    """Scale to mean zero and variance one; a constant becomes zeros."""
    x = x - jnp.mean(x)
    std = jnp.std(x)
    return x / jnp.where(std > 0, std, 1.0)


def centred(cost: Array) -> Array:
    """C - mean C: the units of the cost, and the only linear shaping. (n,) -> (n,)."""
    cost = finite(cost)
    return cost - jnp.mean(cost)


def standardised(cost: Array) -> Array:
    """(C - mean C) / std C, zeros where all costs are equal. (n,) -> (n,)."""
    cost = finite(cost)
    # From the minimum: rounding must not give equal costs a tiny, and then magnified, spread.
    return _unit_variance(cost - jnp.min(cost))


def centred_ranks(cost: Array) -> Array:
    """Ranks of mean 0 and variance 1; ties share their mean rank, so equal costs weigh the same. (n,) -> (n,).

    The ranks are those of OpenAI-ES (arXiv:1703.03864, there scaled to [-1/2, 1/2]). They do not change under an
    increasing transform of the cost; where all costs are equal every weight is 0.
    """
    cost = finite(cost)
    ordered = jnp.sort(cost)
    below = jnp.searchsorted(ordered, cost, side="left")  # how many are smaller
    upto = jnp.searchsorted(ordered, cost, side="right")  # how many are smaller or equal
    # Twice the rank, counted from the middle: an integer, so that ties of everything are exactly 0.
    return _unit_variance((below + upto - cost.size).astype(cost.dtype))
