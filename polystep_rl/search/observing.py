"""Observation statistics that grow during a search (as in ARS V2, arXiv:1803.07055).

A strategy is wrapped: its state then carries the moments of all observations that were acted on, its candidates carry
the input scales that follow from them, the same for a whole generation. Scales travel in the parameters under
"input", which every policy reads; `policies.frozen` makes constants of them when a policy is saved.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polystep_rl.types import Array, Info, Moments, Params, Proposal, PyTree, Strategy

INPUT = "input"
GRID = (
    32.0  # an integer policy resolves 1 / 32 of a scale: offsets sit on that grid, so that rounding agrees everywhere
)
LEAST = 1e-6  # a deviation below this share of the mean's size is rounding, not variation


class Observed(NamedTuple):
    """State of a strategy with statistics."""

    inner: Any
    moments: Moments


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


def observing(strategy: Strategy, prior: Moments, unit: float = 1.0) -> Strategy:
    """The same search with growing observation statistics.

    Args:
        strategy: any strategy over a dict of layers.
        prior: moments before the first generation, such as those of random actions; leaves (), (o,), (o,).
        unit: what the scales are multiplied by.

    Returns:
        a Strategy whose parameters also hold "input", and whose ``observe`` merges what a generation has seen.
    """
    prior = Moments(*(jnp.asarray(x, jnp.float32) for x in prior))
    return Strategy(
        init=lambda key, params: Observed(strategy.init(key, params), prior),
        ask=lambda key, state: strategy.ask(key, state.inner),
        decode=partial(_decode, strategy, unit),
        tell=partial(_tell, strategy),
        params=lambda state: {**strategy.params(state.inner), INPUT: input_scales(state.moments, unit)},
        observe=lambda state, seen: state._replace(moments=_grown(state.moments, seen)),
    )


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


def _decode(strategy: Strategy, unit: float, state: Observed, candidates: PyTree) -> Params:
    params = strategy.decode(state.inner, candidates)
    n = jax.tree.leaves(params)[0].shape[0]
    scales = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), input_scales(state.moments, unit))
    return {**params, INPUT: scales}


def _tell(strategy: Strategy, state: Observed, proposal: Proposal, cost: Array) -> tuple[Observed, Info]:
    inner, info = strategy.tell(state.inner, proposal, cost)
    return state._replace(inner=inner), info


def _grown(moments: Moments, seen: Moments) -> Moments:
    """Moments with those of a generation, unless a simulator went mad in it."""
    seen = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), seen)
    sane = jnp.all(jnp.isfinite(seen.mean)) & jnp.all(jnp.isfinite(seen.m2))
    return jax.tree.map(lambda new, old: jnp.where(sane, new, old), merge(moments, seen), moments)
