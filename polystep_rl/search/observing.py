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

from polystep_rl.moments import input_scales, merge
from polystep_rl.search.wrappers import wrap
from polystep_rl.types import INPUT, Array, Info, Moments, Params, Proposal, PyTree, Strategy


class Observed(NamedTuple):
    """State of a strategy with statistics."""

    inner: Any
    moments: Moments


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
    return wrap(
        strategy,
        lambda state: state.inner,
        init=lambda key, params: Observed(strategy.init(key, params), prior),
        decode=partial(_decode, strategy, unit),
        structure=None,  # a policy that acts by the structure of its candidates has constant input scales
        tell=partial(_tell, strategy),
        params=lambda state: {**strategy.params(state.inner), INPUT: input_scales(state.moments, unit)},
        observe=lambda state, seen: state._replace(moments=_grown(state.moments, seen)),
    )


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
