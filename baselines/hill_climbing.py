"""Hill climbing: try a few Gaussian steps from the centre, and take the best one if it is strictly better.

This is the floor of a comparison: a method worth its machinery beats it. The centre is a candidate of every
generation, so that it meets the same episodes as its rivals (common random numbers). Where the episodes are drawn anew,
a step taken by luck of its episodes is not taken back by itself.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from polystep_rl.baselines import spsa
from polystep_rl.baselines.optimisers import Settings
from polystep_rl.baselines.spsa import Members
from polystep_rl.baselines.weights import finite
from polystep_rl.types import Array, Info, Key, Params, Proposal, Strategy

RANGE = 1000.0  # the adapted scale stays between 1 / RANGE and RANGE: no run of luck makes it 0 or infinite


class HillState(NamedTuple):
    """State of a hill climber."""

    step: Array  # () int32, generations told
    key: Key  # all perturbations are drawn from it, a seed and a number
    centre: Params
    scale: Array  # () float32, adapted factor of sigma


class _Search(NamedTuple):
    """The checked parts of the strategy."""

    population: int
    sigma: optax.Schedule
    grow: float
    shrink: float


def _init(key: Key, params: Params) -> HillState:
    centre = spsa.checked("hill_climbing", params)
    return HillState(jnp.zeros((), jnp.int32), key, centre, jnp.ones((), jnp.float32))


def _ask(search: _Search, key: Key, state: HillState) -> Proposal:
    index = jnp.arange(search.population, dtype=jnp.int32)
    seed = jnp.broadcast_to(jax.random.bits(key, (), jnp.uint32), index.shape)
    return Proposal(Members(seed, index, jnp.minimum(index, 1)), ())  # member 0 has sign 0: the centre


def _sigma(search: _Search, state: HillState) -> Array:
    return jnp.asarray(search.sigma(state.step) * state.scale, jnp.float32)


def _decode(search: _Search, state: HillState, members: Members) -> Params:
    sigma = _sigma(search, state)

    def one(member: Members) -> Params:
        z = spsa.noise(spsa.gaussian, spsa.perturbation_key(state.key, member), state.centre)
        return jax.tree.map(lambda c, e: c + (member.sign * sigma).astype(c.dtype) * e, state.centre, z)

    return jax.vmap(one)(members)


def _tell(search: _Search, state: HillState, proposal: Proposal, cost: Array) -> tuple[HillState, Info]:
    comparable = finite(cost)
    best = jnp.argmin(comparable)
    better = comparable[best] < comparable[0]
    winner = _decode(search, state, jax.tree.map(lambda leaf: leaf[best][None], proposal.candidates))
    centre = jax.tree.map(lambda new, old: jnp.where(better, new[0], old), winner, state.centre)
    scale = jnp.clip(state.scale * jnp.where(better, search.grow, search.shrink), 1 / RANGE, RANGE)
    info = {
        "step_norm": spsa.norm(jax.tree.map(jnp.subtract, centre, state.centre)),
        "improved": better.astype(jnp.float32),
        "sigma": _sigma(search, state),
        **spsa.spread(cost),
    }
    return HillState(state.step + 1, state.key, centre, scale), info


def hill_climbing(
    population: int = 32,
    sigma: float | optax.Schedule = 0.1,
    grow: float = 1.0,
    shrink: float = 1.0,
) -> Strategy:
    """Hill climbing as a Strategy: the centre and population - 1 Gaussian steps from it. Ties keep the centre.

    Args:
        population: n, at least 2.
        sigma: standard deviation of a step per parameter, above 0, or a schedule over generations.
        grow: factor of sigma after a generation that moved the centre, at least 1.
        shrink: factor of sigma after one that did not, above 0 and at most 1. The product of these factors is kept
            within [1 / 1000, 1000].

    Returns:
        a Strategy whose candidates are `Members`, the centre first. `tell` reports step_norm, improved (0 or 1), sigma,
        cost_best/mean/worst.

    Raises:
        ValueError: a setting out of range, or, from init, parameters that are not floating point.
    """
    if population < 2:
        raise ValueError(f"hill_climbing: population was {population!r}, expected at least 2")
    if not grow >= 1:
        raise ValueError(f"hill_climbing: grow was {grow!r}, expected at least 1")
    if not 0 < shrink <= 1:
        raise ValueError(f"hill_climbing: shrink was {shrink!r}, expected a number above 0 and at most 1")
    search = _Search(population, spsa.schedule_of("hill_climbing", sigma), grow, shrink)
    return Strategy(
        init=_init,
        ask=partial(_ask, search),
        decode=partial(_decode, search),
        tell=partial(_tell, search),
        params=lambda state: state.centre,
    )


def build(settings: Settings) -> Strategy:
    """Hill climbing from plain settings, with a constant deviation."""
    return hill_climbing(settings["population"], settings["sigma"])
