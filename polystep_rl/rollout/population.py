"""Rollouts of many candidates at once, on one device, inside one compiled loop.

A *lane* simulates one episode of one candidate at a time. LaneStates are the trailing axis of every array in the loop,
which is what lets XLA turn a step of all lanes into a few vectorised passes. A lane whose episode ended is refilled
with the next (candidate, episode) pair, so that short episodes do not wait for long ones. Once no pair is left and
most lanes are idle, those that still live go on in a loop of few lanes. What a pair returns depends on the pair alone,
never on the lane or on the number of lanes, nor on other groups of candidates that share them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from polystep_rl.moments import moments_of_sums
from polystep_rl.rollout import order as pairs_of
from polystep_rl.rollout.lanes import LaneStates, Loop, Source, WeightsOf, hand_over, no_weights, no_work, stored
from polystep_rl.rollout.order import WIDTH, padded
from polystep_rl.rollout.table import table
from polystep_rl.types import Array, Env, Key, Moments, Policy, PyTree
from polystep_rl.xla import outlined

# Lanes by kind of device. On a CPU a power of 2 puts the weights of a lane into one cache set; a GPU wants thousands.
LIGHT = 64  # numbers of 32 bits of a candidate up to which it is light
LANES = {"cpu": (768, 320)}  # of light candidates, and of others
OTHER_LANES = (8192, 8192)
IDLE = 0.025  # of the lane steps, wait for the next pair; where all episodes are equally long, up to twice as many
LONGEST_BLOCK = 32  # steps
TAILED = ("cpu",)  # where the last episodes get a loop of their own, of a tenth of the lanes ...
TAIL, LEFT = 10, 5  # ... once as many as 5 times these, half of the lanes, live
TAIL_EQUATIONS = 2000  # of a simulator's program, beyond which to compile it twice costs more than idle lanes


Carry = tuple[LaneStates, tuple[Array, ...]]  # the lanes, and sums over the observations


class RolloutConfig(NamedTuple):
    """How the loop is laid out. None of it changes a return or a length; the moments of the observations are sums in
    another order, and differ in their last bits."""

    lanes: int | None = None  # simulated at once on one device, rounded up to a multiple of WIDTH; None: LANES
    idle: float | None = None  # fraction of lane steps that may wait for the next pair; None: IDLE
    tail: int | None = None  # lanes for the last episodes, rounded up likewise; 0: all; None: by device and simulator


class Episodes(NamedTuple):
    """Outcome per candidate and episode; of g groups, returns and lengths are (g, n, r)."""

    returns: Array  # (n, r) float
    lengths: Array  # (n, r) int32
    obs_moments: Moments
    lane_steps: Array  # () float, steps simulated; those beyond the sum of the lengths were idle


def rollout(
    env: Env,
    policy: Policy,
    deployed: PyTree,
    keys: Key,
    config: RolloutConfig = RolloutConfig(),
    collect_moments: bool = False,
    count: Array | None = None,
    limit: Array | int | None = None,
    over: Callable[[dict[str, Array]], Array | bool] = lambda metrics: False,
    groups: Array | None = None,
) -> Episodes:
    """Roll out n candidates for r episodes each; episode j starts from ``keys[j]`` for every candidate.

    Or g groups of n candidates, each with reset keys of its own: ``keys`` (g, r), ``deployed`` (g * n, ...). All
    groups share the lanes, and each returns what it would by itself.

    Args:
        env: a functional environment; its ``spec.horizon`` truncates.
        policy: the policy; ``policy.act_deployed`` is called on all lanes at once.
        deployed: ``policy.deploy`` of every candidate, leaves (n, ...).
        keys: (r,) reset keys, common to all candidates (common random numbers).
        config: layout of the loop.
        collect_moments: also accumulate observation moments over living steps.
        count: () int32, candidates to roll out, the first ones; the rest is padding: zeros, and in no moment.
        limit: () int, steps after which an episode is cut; the environment's own by default.
        over: whether the metrics of a step, each (L,), cut the episode.
        groups: () int32, groups to roll out, the first ones, where there are any; the rest costs nothing.
    """
    n = jax.tree.leaves(deployed)[0].shape[0]
    r = keys.shape[-1]
    pairs = n * r
    limit = env.spec.horizon if limit is None else limit
    start = pairs_of.starts(env, keys)
    items = pairs_of.items(keys, n, count, groups)
    starts, dtype = table(start), start[1].dtype
    vstep = jax.vmap(env.step, in_axes=-1, out_axes=-1)
    weights = table(deployed)
    offset = jnp.asarray(policy.spec.obs_offset, dtype)[:, None]
    idle = IDLE if config.idle is None else config.idle
    # Not fused with the simulator that reads the action (measured: 15 to 30 % more steps per second).
    act = outlined(policy.act_deployed)

    def step(
        own: PyTree, _: Array, carry: tuple[LaneStates, tuple[Array, ...]]
    ) -> tuple[LaneStates, tuple[Array, ...]]:
        lanes, moments = carry
        out = vstep(lanes.state, act(own, lanes.obs))
        length = lanes.length + lanes.alive
        ended = out.terminated | out.truncated | (length >= limit) | over(out.metrics)
        if collect_moments:
            x = jnp.where(lanes.alive, lanes.obs - offset, 0)
            moments = (moments[0] + x, moments[1] + x * x)
        ret = lanes.ret + jnp.where(lanes.alive, out.reward, 0)
        return LaneStates(lanes.pair, lanes.alive & ~ended, out.state, out.obs, ret, length), moments

    def weights_of(pair: Array) -> PyTree:
        return weights.split(weights.columns(jnp.minimum(pair // r, n - 1)))

    simulate = partial(_simulate, weights_of=weights_of, step=step, idle=idle)

    def first(item: Array) -> LaneStates:
        """The start of a pair."""
        pair = items.pair(item)
        state, obs = starts.split(starts.columns(items.start(pair)))
        return LaneStates(pair, pair < pairs, state, obs, jnp.zeros(item.shape, dtype), jnp.zeros_like(item))

    heavy = sum(row[0].size for row in weights.rows) > LIGHT
    lanes = padded(min(config.lanes or LANES.get(jax.default_backend(), OTHER_LANES)[heavy], pairs))
    # 0 for few lanes: the tail would take most of the episodes, one after another.
    most = lanes // TAIL // WIDTH * WIDTH
    tail = (most if most and _has_tail(env, keys.reshape(-1)[0]) else 0) if config.tail is None else config.tail
    tail = 0 if padded(tail) >= lanes else padded(tail)
    zero = jnp.zeros((), dtype)
    results = (jnp.zeros(pairs, dtype), jnp.zeros(pairs, jnp.int32))
    empty = no_work(first, lanes, pairs)
    loop = Loop(empty, _no_moments(empty.obs, collect_moments), jnp.int32(0), *results, zero, zero, zero)
    loop = stored(simulate(loop, Source(items.todo, first), LEFT * tail))
    sums = [m.sum(-1) for m in loop.moments]
    if tail:
        left = loop.lanes
        order = jnp.argsort(~left.alive, stable=True)
        again = lambda item: jax.tree.map(lambda x: x[..., order[item]], left)  # noqa: E731
        empty = no_work(again, tail, pairs)
        loop = loop._replace(lanes=empty, moments=_no_moments(empty.obs, collect_moments), next_item=jnp.int32(0))
        loop = stored(simulate(loop, Source(left.alive.sum(dtype=jnp.int32), again), 0))
        sums = [a + m.sum(-1) for a, m in zip(sums, loop.moments, strict=True)]
    moments = _moments(loop.lengths, offset[:, 0], sums)
    shape = (n, r) if keys.ndim == 1 else (keys.shape[0], n // keys.shape[0], r)
    return Episodes(loop.returns.reshape(shape), loop.lengths.reshape(shape), moments, loop.simulated)


def _simulate(
    loop: Loop,
    source: Source,
    leave: int,
    weights_of: WeightsOf,
    step: Callable[..., tuple[LaneStates, tuple[Array, ...]]],
    idle: float,
) -> Loop:
    """Hand over and step, until every item is taken and at most ``leave`` lanes live.

    Args:
        loop, source, leave: where it stands, what there is to take, and when to end.
        weights_of: pairs (L,) -> what the policy needs on these lanes.
        step: (that, number of the step, (lanes, moments)) -> lanes, moments.
        idle: fraction of the lane steps that may wait for the next pair.
    """
    width = loop.lanes.alive.shape[0]

    def turn(held: tuple[Loop, PyTree]) -> tuple[Loop, PyTree]:
        loop, own = hand_over(*held, source, weights_of)
        # An episode that ends within a block of k steps waits for (k - 1) / 2 of them on average.
        block = jnp.clip(1 + 2 * idle * loop.living / jnp.maximum(loop.ended, 1), 1, LONGEST_BLOCK)
        block = block.astype(jnp.int32)
        drained = loop.next_item >= source.todo

        def go_on(carry: tuple[Array, LaneStates, tuple]) -> Array:
            alive = carry[1].alive.sum()
            few = jnp.where(drained, alive <= leave, width - alive > int(idle * width))
            return (carry[0] == 0) | ~few

        def run(carry: tuple[Array, LaneStates, tuple]) -> tuple[Array, LaneStates, tuple]:
            lanes, moments = jax.lax.fori_loop(0, block, partial(step, own), carry[1:])
            return carry[0] + 1, lanes, moments

        blocks, lanes, moments = jax.lax.while_loop(go_on, run, (jnp.int32(0), loop.lanes, loop.moments))
        return loop._replace(lanes=lanes, moments=moments, simulated=loop.simulated + width * block * blocks), own

    def unfinished(held: tuple[Loop, PyTree]) -> Array:
        return (held[0].next_item < source.todo) | (held[0].lanes.alive.sum() > leave)

    return jax.lax.while_loop(unfinished, turn, (loop, no_weights(weights_of, width)))[0]


def _has_tail(env: Env, key: Key) -> bool:
    """Whether the last episodes get a loop of their own: where that is worth its compilation."""
    if jax.default_backend() not in TAILED:
        return False
    state, _ = jax.eval_shape(env.reset, key)
    action = env.spec.action_space
    given = jax.ShapeDtypeStruct(action.shape or (), np.float32 if action.dtype.kind == "f" else np.int32)
    return _equations(jax.make_jaxpr(env.step)(state, given).jaxpr) <= TAIL_EQUATIONS


def _equations(jaxpr: Any) -> int:
    """How many there are, those of inner programs included."""
    inner = (p for equation in jaxpr.eqns for p in jaxprs_in_params(equation.params))
    return len(jaxpr.eqns) + sum(map(_equations, inner))


def _no_moments(obs: Array, collect: bool) -> tuple[Array, ...]:
    return (jnp.zeros_like(obs), jnp.zeros_like(obs)) if collect else ()


def _moments(lengths: Array, offset: Array, sums: list[Array]) -> Moments:
    """Moments from the sums of x and x * x, x = obs - offset; zeros where there are none."""
    if not sums:
        return Moments(jnp.zeros((), offset.dtype), jnp.zeros_like(offset), jnp.zeros_like(offset))
    return moments_of_sums(lengths.sum().astype(offset.dtype), sums, offset, jnp.maximum)
