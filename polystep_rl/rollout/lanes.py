"""The lanes of a rollout: where each stands, and how those whose episode has ended take up the next pairs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polystep_rl.types import Array, PyTree
from polystep_rl.xla import outlined


class LaneStates(NamedTuple):
    """Every lane simulates a pair of a candidate and an episode."""

    pair: Array  # (L,) int32: candidate * r + episode, (group * n + candidate) * r + episode; past the end: no work
    alive: Array  # (L,) bool
    state: PyTree  # (..., L)
    obs: Array  # (o, L)
    ret: Array  # (L,)
    length: Array  # (L,) int32


class Loop(NamedTuple):
    """Where a rollout stands."""

    lanes: LaneStates
    moments: tuple[Array, ...]  # (o, L) sums of x and x*x over living steps, x = obs - obs_offset; () when unused
    next_item: Array  # () int32
    returns: Array  # (n * r,)
    lengths: Array  # (n * r,) int32
    ended: Array  # () float, episodes
    living: Array  # () float, their steps
    simulated: Array  # () float, lane steps


class Source(NamedTuple):
    """Source of the items that idle lanes take up: 0, 1, ..."""

    todo: Array  # () int32, how many
    take: Callable[[Array], LaneStates]  # items (k,) -> lanes, k of them


WeightsOf = Callable[[Array], PyTree]  # pairs (k,) -> what the policy needs on that many lanes, leaves (..., k)


def no_work(take: Callable[[Array], LaneStates], lanes: int, pairs: int) -> LaneStates:
    """LaneStates that wait for their first item."""
    idle = take(jnp.zeros(lanes, jnp.int32))
    return idle._replace(pair=jnp.full(lanes, pairs, jnp.int32), alive=jnp.zeros(lanes, bool))


def no_weights(weights_of: WeightsOf, lanes: int) -> PyTree:
    """Zeros, in the shapes of what so many lanes need."""
    shapes = jax.eval_shape(weights_of, jax.ShapeDtypeStruct((lanes,), np.int32))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def hand_over(loop: Loop, own: PyTree, source: Source, weights_of: WeightsOf) -> tuple[Loop, PyTree]:
    """Store what the lanes have finished, and give the next items to the idle ones, the first ones first.

    Args:
        loop, own: where it stands, and the weights of every lane, leaves (..., L).
        source: what there is to take.
        weights_of: the weights of pairs.

    Returns:
        both afterwards. The weights of lanes that do not live are anything.
    """
    one_by_one = outlined(partial(_one_by_one, take=source.take, weights_of=weights_of), kernel=True)
    at_once = partial(_at_once, take=source.take, weights_of=weights_of)
    return jax.lax.platform_dependent(loop, own, source.todo, cpu=one_by_one, default=at_once)


def _one_by_one(
    loop: Loop, own: PyTree, todo: Array, take: Callable[[Array], LaneStates], weights_of: WeightsOf
) -> tuple[Loop, PyTree]:
    """`hand_over` in loops over the lanes that it concerns, a few of them: for a CPU."""
    lanes, pairs = loop.lanes, loop.returns.shape[0]
    no_pair = jnp.full(1, pairs, jnp.int32)

    def store(k: Array, results: tuple[Array, ...]) -> tuple[Array, ...]:
        returns, lengths, living, pair = results
        lane = finished[k]
        ret, length, at = lanes.ret[lane], lanes.length[lane], lanes.pair[lane]
        return _put(returns, ret[None], at), _put(lengths, length[None], at), living + length, _put(pair, no_pair, lane)

    finished, ended = _flagged(~lanes.alive & (lanes.pair < pairs))
    results = (loop.returns, loop.lengths, jnp.int32(0), lanes.pair)
    returns, lengths, living, pair = jax.lax.fori_loop(0, ended, store, results)

    def give(k: Array, held: tuple[LaneStates, PyTree]) -> tuple[LaneStates, PyTree]:
        fresh = take((loop.next_item + k)[None])
        return jax.tree.map(lambda now, new: _put(now, new, idle[k]), held, (fresh, weights_of(fresh.pair)))

    idle, count = _flagged(~lanes.alive)
    count = jnp.clip(todo - loop.next_item, 0, count)
    lanes, own = jax.lax.fori_loop(0, count, give, (lanes._replace(pair=pair), own))
    loop = loop._replace(lanes=lanes, returns=returns, lengths=lengths, next_item=loop.next_item + count)
    return loop._replace(ended=loop.ended + ended, living=loop.living + living), own


def _flagged(flags: Array) -> tuple[Array, Array]:
    """(L,) int32, the numbers of the flagged lanes in ascending order, then anything; and () int32, how many."""

    def note(lane: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        numbers, count = found
        return _put(numbers, lane[None], count), count + flags[lane]

    width = flags.shape[0]
    return jax.lax.fori_loop(0, width, note, (jnp.zeros(width, jnp.int32), jnp.int32(0)))


def _put(now: Array, new: Array, at: Array) -> Array:
    """``now`` (..., L) with ``new`` (..., 1) in one place of the last axis."""
    return jax.lax.dynamic_update_slice_in_dim(now, new, at, now.ndim - 1)


def _at_once(
    loop: Loop, own: PyTree, todo: Array, take: Callable[[Array], LaneStates], weights_of: WeightsOf
) -> tuple[Loop, PyTree]:
    """`hand_over` in passes over all lanes: for a GPU. ``own`` is not read: all weights are gathered again."""
    loop = stored(loop)
    lanes = loop.lanes
    item = loop.next_item + jnp.cumsum(~lanes.alive, dtype=jnp.int32) - 1
    takes = ~lanes.alive & (item < todo)
    fresh = take(jnp.minimum(item, jnp.maximum(todo - 1, 0)))
    lanes = jax.tree.map(lambda now, new: jnp.where(takes, new, now), lanes, fresh)
    return loop._replace(lanes=lanes, next_item=loop.next_item + takes.sum(dtype=jnp.int32)), weights_of(lanes.pair)


def stored(loop: Loop) -> Loop:
    """With the results of the lanes that have finished."""
    lanes, pairs = loop.lanes, loop.returns.shape[0]
    where = jnp.where(lanes.alive, pairs, lanes.pair)  # out of range is dropped
    finished = where < pairs
    return loop._replace(
        lanes=lanes._replace(pair=jnp.where(finished, pairs, lanes.pair)),
        returns=loop.returns.at[where].set(lanes.ret, mode="drop"),
        lengths=loop.lengths.at[where].set(lanes.length, mode="drop"),
        ended=loop.ended + finished.sum(),
        living=loop.living + jnp.where(finished, lanes.length, 0).sum(),
    )
