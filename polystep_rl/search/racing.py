"""Several searches from the same start, taking turns, until the best of them goes on alone.

Returns of controllers have local optima, and which one a search ends in is often decided by its first directions. So
several searches share the first part of the budget, and the rest belongs to the one that is then ahead: successive
halving (arXiv:1502.07943) with a single cut.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polystep_rl.search.wrappers import wrap
from polystep_rl.types import Array, Info, Key, Moments, Params, Proposal, State, Strategy

MEMORY = 0.5  # decay of the moving average of a search's mean cost


class RaceState(NamedTuple):
    """The states of all searches, and how they stand."""

    inner: Any  # leaves (k, ...)
    scores: Array  # (k,) float32, moving average of the mean cost of a search's generations; inf before the first
    told: Array  # () int32, generations of all searches together


def racing(strategy: Strategy, starts: int, generations: int) -> Strategy:
    """Run ``starts`` searches in turns, ``generations`` generations of each; from then on the best one alone.

    Each is the same as by itself: it is told of its own generations only, has its own observation statistics, and its
    schedules count its own generations. What the winner ends at is therefore what it would have found alone in
    ``generations`` plus all that come after the race.

    Args:
        strategy: the search.
        starts: searches, at least 2.
        generations: of each in the race, at least 1.

    Returns:
        a Strategy whose parameters are those of the search with the lowest moving average (decay 1/2) of its mean cost,
        and whose log says which search a generation was of ("start").

    Raises:
        ValueError: fewer than two starts, or no generation.
    """
    if starts < 2 or generations < 1:
        raise ValueError(f"racing: {starts} starts of {generations} generations, expected at least 2 and 1")

    def turn(state: RaceState, generation: Array) -> Array:
        """Whose generation it is: after the race the winner's, whose score no longer changes."""
        return jnp.where(generation < starts * generations, generation % starts, jnp.argmin(state.scores))

    def of(state: RaceState, index: Array) -> State:
        return jax.tree.map(lambda leaf: leaf[index], state.inner)

    def put(state: RaceState, index: Array, inner: State) -> State:
        return jax.tree.map(lambda leaf, new: leaf.at[index].set(new), state.inner, inner)

    def init(key: Key, params: Params) -> RaceState:
        inner = jax.vmap(strategy.init, in_axes=(0, None))(jax.random.split(key, starts), params)
        return RaceState(inner, jnp.full(starts, jnp.inf, jnp.float32), jnp.int32(0))

    def asked(state: RaceState) -> State:
        return of(state, turn(state, state.told))

    def tell(state: RaceState, proposal: Proposal, cost: Array) -> tuple[RaceState, Info]:
        index = turn(state, state.told)
        inner, info = strategy.tell(of(state, index), proposal, cost)
        old, mean = state.scores[index], cost.mean().astype(jnp.float32)
        score = jnp.where(jnp.isinf(old), mean, MEMORY * old + (1 - MEMORY) * mean)
        score = jnp.where(state.told < starts * generations, score, old)  # the winner stays the winner
        after = RaceState(put(state, index, inner), state.scores.at[index].set(score), state.told + 1)
        return after, {**info, "start": index}

    def params(state: RaceState) -> Params:
        return strategy.params(of(state, jnp.argmin(state.scores)))

    def observe(state: RaceState, seen: Moments) -> RaceState:
        assert strategy.observe is not None
        index = turn(state, state.told - 1)  # it was told already
        return state._replace(inner=put(state, index, strategy.observe(of(state, index), seen)))

    return wrap(
        strategy, asked, init=init, tell=tell, params=params, observe=None if strategy.observe is None else observe
    )
