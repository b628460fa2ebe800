"""Rollouts of many candidates at once, on one device, inside one compiled loop.

A *lane* simulates one episode of one candidate at a time. Lanes are the trailing axis of every array in the loop,
which is what lets XLA turn a step of all lanes into a few vectorised passes. A lane whose episode ended is refilled
with the next (candidate, episode) pair, so that short episodes do not wait for long ones. What a pair returns depends
on the pair alone, never on the lane or on the number of lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

from polystep_rl.types import Array, Env, Key, Moments, Policy, PyTree

# float32 lanes in the widest vector register. One or two lanes alone would be compiled to scalar code, which rounds
# differently (fused multiply-adds), and a result would depend on how many others there are.
WIDTH = 16
# Lanes by kind of device. On a CPU a power of 2 puts the weights of a lane into one cache set; a GPU wants thousands.
LANES = {"cpu": 320}
OTHER_LANES = 8192


class RolloutConfig(NamedTuple):
    """How the loop is laid out. None of it changes a return or a length; the moments of the observations are sums in
    another order, and differ in their last bits."""

    lanes: int | None = None  # simulated at once on one device, rounded up to a multiple of WIDTH; None: LANES
    block: int = 8  # steps between two looks at which lanes have finished
    idle: float = 0.25  # share of finished lanes at which they are refilled


class Episodes(NamedTuple):
    """Outcome per candidate and episode."""

    returns: Array  # (n, r) float
    lengths: Array  # (n, r) int32
    obs_moments: Moments


class _Lanes(NamedTuple):
    pair: Array  # (L,) int32: candidate * r + episode; n * r where the lane has no work
    alive: Array  # (L,) bool
    state: PyTree  # (..., L)
    obs: Array  # (o, L)
    ret: Array  # (L,)
    length: Array  # (L,) int32
    moments: tuple[Array, Array]  # (o, L) sums of x and x*x over living steps, x = obs - obs_offset; () when unused


class _Loop(NamedTuple):
    lanes: _Lanes
    next_pair: Array  # () int32
    returns: Array  # (n * r,)
    lengths: Array  # (n * r,) int32


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
) -> Episodes:
    """Roll out n candidates for r episodes each; episode j starts from ``keys[j]`` for every candidate.

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
    """
    n = jax.tree.leaves(deployed)[0].shape[0]
    r = keys.shape[0]
    pairs = n * r
    limit = env.spec.horizon if limit is None else limit
    todo = jnp.int32(pairs) if count is None else jnp.asarray(count * r, jnp.int32)
    lanes = config.lanes or LANES.get(jax.default_backend(), OTHER_LANES)
    n_lanes = -(-min(lanes, pairs) // WIDTH) * WIDTH
    start_state, start_obs = jax.vmap(env.reset, out_axes=-1)(keys)
    vstep = jax.vmap(env.step, in_axes=-1, out_axes=-1)
    act = _outlined(policy.act_deployed)
    offset = jnp.asarray(policy.spec.obs_offset, start_obs.dtype)[:, None]

    def step(weights: PyTree, lanes: _Lanes) -> _Lanes:
        out = vstep(lanes.state, act(weights, lanes.obs))
        length = lanes.length + lanes.alive
        ended = out.terminated | out.truncated | (length >= limit) | over(out.metrics)
        moments = lanes.moments
        if collect_moments:
            x = jnp.where(lanes.alive, lanes.obs - offset, 0)
            moments = (moments[0] + x, moments[1] + x * x)
        return _Lanes(
            pair=lanes.pair,
            alive=lanes.alive & ~ended,
            state=out.state,
            obs=out.obs,
            ret=lanes.ret + jnp.where(lanes.alive, out.reward, 0),
            length=length,
            moments=moments,
        )

    max_idle = int(config.idle * n_lanes)

    def busy(lanes: _Lanes) -> Array:
        n_alive = lanes.alive.sum()
        return (n_alive > 0) & (n_lanes - n_alive <= max_idle)

    def turn(loop: _Loop) -> _Loop:
        loop = _refill(loop, start_state, start_obs, r, todo)
        candidate = jnp.minimum(loop.lanes.pair // r, n - 1)
        weights = jax.tree.map(lambda x: jnp.moveaxis(x[candidate], 0, -1), deployed)
        block = lambda lanes: jax.lax.fori_loop(0, config.block, lambda _, x: step(weights, x), lanes)  # noqa: E731
        # Near the end there is nothing left to refill with: run until the last lane has finished.
        drained = loop.next_pair >= todo
        lanes = jax.lax.while_loop(lambda x: jnp.where(drained, x.alive.any(), busy(x)), block, loop.lanes)
        return loop._replace(lanes=lanes)

    def unfinished(loop: _Loop) -> Array:
        return (loop.next_pair < todo) | loop.lanes.alive.any()

    loop = _empty_loop(start_state, start_obs, pairs, n_lanes, collect_moments)
    loop = _store(jax.lax.while_loop(unfinished, turn, loop))
    return Episodes(loop.returns.reshape(n, r), loop.lengths.reshape(n, r), _moments(loop, offset, collect_moments))


def _outlined(function: Callable[..., Array]) -> Callable[..., Array]:
    """The same function, on a CPU compiled as a call that is not inlined.

    XLA's CPU backend then fuses the policy for itself, and not with the simulator that reads its action (measured: 15
    to 30 % more steps per second). ``envs.classic.outlined`` says more; neither folder may import the other.
    """
    compiled = jax.jit(function)

    def call(*args: PyTree) -> Array:
        with set_xla_metadata(inlineable="false"):
            return compiled(*args)

    return lambda *args: jax.lax.platform_dependent(*args, cpu=call, default=function)


def _empty_loop(start_state: PyTree, start_obs: Array, pairs: int, n_lanes: int, collect_moments: bool) -> _Loop:
    idle_lane = lambda x: jnp.broadcast_to(x[..., :1], (*x.shape[:-1], n_lanes))  # noqa: E731
    obs = idle_lane(start_obs)
    zeros = jnp.zeros(n_lanes, start_obs.dtype)
    lanes = _Lanes(
        pair=jnp.full(n_lanes, pairs, jnp.int32),
        alive=jnp.zeros(n_lanes, bool),
        state=jax.tree.map(idle_lane, start_state),
        obs=obs,
        ret=zeros,
        length=jnp.zeros(n_lanes, jnp.int32),
        moments=(jnp.zeros_like(obs), jnp.zeros_like(obs)) if collect_moments else (zeros[:0], zeros[:0]),
    )
    return _Loop(lanes, jnp.int32(0), jnp.zeros(pairs, start_obs.dtype), jnp.zeros(pairs, jnp.int32))


def _store(loop: _Loop) -> _Loop:
    """Write the results of the lanes that have finished."""
    lanes = loop.lanes
    where = jnp.where(lanes.alive, loop.returns.shape[0], lanes.pair)  # out of range is dropped
    return loop._replace(
        returns=loop.returns.at[where].set(lanes.ret, mode="drop"),
        lengths=loop.lengths.at[where].set(lanes.length, mode="drop"),
    )


def _refill(loop: _Loop, start_state: PyTree, start_obs: Array, r: int, todo: Array) -> _Loop:
    """Store what has finished and hand the next of the pairs to do to the idle lanes."""
    loop = _store(loop)
    lanes, pairs = loop.lanes, loop.returns.shape[0]
    idle = ~lanes.alive
    offered = loop.next_pair + jnp.cumsum(idle) - 1
    pair = jnp.where(idle, jnp.where(offered < todo, offered, pairs), lanes.pair).astype(jnp.int32)
    episode = pair % r
    fresh = lambda now, start: jnp.where(idle, start[..., episode], now)  # noqa: E731
    return loop._replace(
        lanes=lanes._replace(
            pair=pair,
            alive=lanes.alive | (pair < pairs),
            state=jax.tree.map(fresh, lanes.state, start_state),
            obs=fresh(lanes.obs, start_obs),
            ret=jnp.where(idle, 0, lanes.ret),
            length=jnp.where(idle, 0, lanes.length),
        ),
        next_pair=jnp.minimum(loop.next_pair + idle.sum(dtype=jnp.int32), todo),
    )


def _moments(loop: _Loop, offset: Array, collected: bool) -> Moments:
    o = offset.shape[0]
    if not collected:
        zero = jnp.zeros(o, loop.returns.dtype)
        return Moments(jnp.zeros((), loop.returns.dtype), zero, zero)
    count = loop.lengths.sum().astype(loop.returns.dtype)
    first, second = (m.sum(-1) for m in loop.lanes.moments)
    mean = first / jnp.maximum(count, 1)
    return Moments(count, offset[:, 0] + mean, jnp.maximum(second - count * mean * mean, 0))  # rounding, below 0
