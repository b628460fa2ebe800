"""Several searches of one kind as one program: their candidates meet in one rollout.

A search asks, decodes and tells by itself, one after the other in a loop within the program, so that it rounds as it
does alone; only episodes are simulated together, and what an episode returns depends on no other. Searches that pause
or have ended come last, and are in no loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from polystep_rl.rollout.device import DeviceEvaluator
from polystep_rl.rollout.population import Episodes, rollout
from polystep_rl.rollout.score import outcome
from polystep_rl.rollout.sharding import everywhere, mesh_of, pad, repeated, spread
from polystep_rl.training.programs import log_row, observed
from polystep_rl.training.state import MAX_CHUNK, Limits, kept
from polystep_rl.types import Array, Evaluation, Info, Key, Moments, PyTree, State, Strategy

WAITING = 0.5  # fraction of the seeds that are through with a chunk before the others pause, too

MergedEvaluator = Callable[[Key, PyTree, Partial, Array], tuple[Array, Array]]


def merged_evaluator(alone: DeviceEvaluator) -> MergedEvaluator:
    """(keys (S,), candidates with leaves (S, n, ...), decode, count) -> returns and lengths (S, n, r).

    The first ``count`` searches are evaluated, and the rest is zero. ``decode`` is a Partial whose arguments have
    leaves (S, ...). The candidates of every search are split over the devices, or, where there are fewer of them than
    devices, its episodes, so that devices have equal shares of whatever goes on.
    """
    env, policy, episodes, horizon = alone.env, alone.policy, alone.episodes, alone.horizon
    mesh = mesh_of(alone.layout.devices)
    limit = int(horizon.at(0.0, env.spec.horizon))

    def roll_out(decode: Partial, candidates: PyTree, real: Array, keys: Key, count: Array) -> Episodes:
        def ready(decode: Partial, candidates: PyTree) -> tuple[PyTree, Info]:
            return jax.vmap(policy.deploy)(decode(candidates)), {}

        deployed, _ = each(ready, (decode, candidates), count)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), deployed)
        return rollout(env, policy, flat, keys, alone.layout.rollout, False, real.sum(), limit, horizon.over, count)

    def evaluate(keys: Key, candidates: PyTree, decode: Partial, count: Array) -> tuple[Array, Array]:
        n = jax.tree.leaves(candidates)[0].shape[1]
        starts = jax.vmap(lambda key: jax.random.split(key, episodes))(keys)
        by_candidate = n >= mesh.size
        if by_candidate:
            candidates = jax.tree.map(lambda x: pad(x, mesh.size, 1), candidates)
            real = pad(jnp.ones(n, bool), mesh.size)
        else:
            real = jnp.ones(n, bool)
            starts = starts[:, repeated(episodes, mesh.size)]
        axes = (None, *((1, 0, None) if by_candidate else (None, None, 1)), None)
        given = (decode, candidates, real, starts, count)
        parts = spread(roll_out, mesh, axes)(*(everywhere(given, mesh) if mesh.size > 1 else given))
        axis = 1 if by_candidate else 2
        join = lambda x: jnp.concatenate(list(x), axis=axis)[:, :n, :episodes]  # noqa: E731
        return join(parts.returns), join(parts.lengths)

    return evaluate


def taken(tree: PyTree, index: Array) -> PyTree:
    """Row or rows ``index`` of every leaf."""
    return jax.tree.map(lambda x: x[index], tree)


def each(function: Callable[..., tuple[PyTree, Info]], rows: tuple[PyTree, ...], count: Array) -> tuple[PyTree, Info]:
    """function(*row) for row 0, ..., ``count`` - 1, one after the other, as leaves (S, ...) with zeros behind.

    What it reads and its first result are buffers of the loop, and its second one is stored at once: so are state and
    log of a single search. Were the former slices of larger ones, it would be fused with these, and round differently.
    """
    size = jax.tree.leaves(rows)[0].shape[0]
    first = taken(rows, jnp.int32(0))
    shapes = jax.eval_shape(function, *first)
    store = lambda tree, i, new: jax.tree.map(lambda x, y: x.at[i].set(y), tree, new)  # noqa: E731

    def turn(i: Array, carry: tuple) -> tuple:
        stored, log, row, last = carry
        stored = store(stored, jnp.maximum(i - 1, 0), last)
        found, logged = function(*row)
        return stored, store(log, i, logged), taken(rows, jnp.minimum(i + 1, size - 1)), found

    stored, log = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), shapes)
    last = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[0])
    stored, log, _, last = jax.lax.fori_loop(0, count, turn, (stored, log, first, last))
    return store(stored, jnp.maximum(count - 1, 0), last), log


def judged(alone: DeviceEvaluator, returns: Array, lengths: Array, spent: Array) -> Evaluation:
    """The evaluation of one search, from its returns and lengths (n, r)."""
    zeros = jnp.zeros(len(alone.policy.spec.obs_offset), returns.dtype)
    return outcome(returns, lengths, alone.penalty, spent, Moments(zeros[0], zeros, zeros))


class _Given(NamedTuple):
    """Arguments of a chunk; what belongs to the searches has leaves (S, ...)."""

    keys: Any  # Streams
    limits: Any  # Limits
    ask: Callable[..., tuple[PyTree, Info]]
    evaluate: MergedEvaluator
    decode: Callable[[State, PyTree], PyTree]
    tell: Callable[..., tuple[State, Info]]


class _Chunk(NamedTuple):
    """Where a chunk stands; all but i for every search."""

    i: Array  # () int32, generations so far of the searches that still run
    states: State  # leaves (S, ...)
    used: Array  # (S,) int32, env steps
    last: Array  # (S,) int32, of the last generation
    stop: Array  # (S,) bool
    over: Array  # (S,) bool, whether the last generation did not fit into the budget and was undone
    log: dict[str, Array]  # (MAX_CHUNK, S)


def chunk_function(strategy: Strategy, alone: DeviceEvaluator) -> jax.stages.Wrapped:
    """Jitted (keys, states, limits), leaves (S, ...): some generations of S searches -> (states, log, over).

    As `programs`' chunk of one search, with leaves (MAX_CHUNK, S) of the log; every search runs from the first
    generation of the chunk on, without a pause. The chunk ends once as many as `WAITING` have reached their limits.
    """
    ask, tell, evaluate = partial(_ask, strategy), partial(_tell, strategy, alone), merged_evaluator(alone)

    def run(keys: Any, states: State, limits: Limits) -> tuple[State, dict[str, Array], Array]:
        given = _Given(keys, limits, ask, evaluate, strategy.decode, tell)
        start = _beginning(states, limits)
        start = start._replace(log=_empty_log(given, start, alone))
        began = _running(start, limits).sum()

        def go_on(now: _Chunk) -> Array:
            running = _running(now, limits).sum()
            return (running > 0) & ((now.i == 0) | (running > (1 - WAITING) * began))

        end = jax.lax.while_loop(go_on, partial(_generation, given), start)
        return end.states, end.log, end.over

    return jax.jit(run)


def _beginning(states: State, limits: Limits) -> _Chunk:
    last = jnp.asarray(limits.last_steps)
    no = jnp.zeros(last.shape, bool)
    return _Chunk(jnp.int32(0), states, jnp.zeros_like(last), last, no, no, {})


def _running(now: _Chunk, limits: Limits) -> Array:
    """(S,) bool, which searches have another generation to do."""
    return limits.go_on(now.i, now.used, now.last) & ~now.stop


def _generation(given: _Given, now: _Chunk) -> _Chunk:
    """One generation of every search that runs; they come first in ``order``."""
    running = _running(now, given.limits)
    count, order = running.sum(dtype=jnp.int32), jnp.argsort(~running, stable=True)
    keys, limits, states, used = taken((given.keys, given.limits, now.states, now.used), order)
    numbers = limits.generation + now.i
    candidates, _ = each(given.ask, (keys.strategy, numbers, states), count)
    episode_keys = jax.vmap(jax.random.fold_in)(keys.episodes, numbers)
    returns, lengths = given.evaluate(episode_keys, candidates, Partial(given.decode, states), count)
    states, rows = each(given.tell, (keys.strategy, states, returns, lengths, limits, numbers, used), count)
    index = jnp.where(jnp.arange(order.size) < count, order, order.size)  # out of range is dropped
    put = lambda x, new: x.at[index].set(new, mode="drop")  # noqa: E731
    return now._replace(
        i=now.i + 1,
        states=jax.tree.map(put, now.states, states),
        used=put(now.used, used + rows["_steps"]),
        last=put(now.last, rows["_steps"]),
        stop=put(now.stop, rows["_failed"] | rows["_over"]),
        over=put(now.over, rows["_over"]),
        log={name: now.log[name].at[now.i, index].set(rows[name], mode="drop") for name in now.log},
    )


def _ask(strategy: Strategy, key: Key, number: Array, state: State) -> tuple[PyTree, Info]:
    return strategy.ask(jax.random.fold_in(key, number), state).candidates, {}


def _tell(
    strategy: Strategy,
    alone: DeviceEvaluator,
    key: Key,
    before: State,
    returns: Array,
    lengths: Array,
    limits: Limits,
    number: Array,
    used: Array,
) -> tuple[State, Info]:
    """A search after its generation, which is undone where the budget has no room for it, and its row of the log.

    It asks once more: what the compiler fuses of that into tell rounds as it does in the program of a single search.
    """
    proposal = strategy.ask(jax.random.fold_in(key, number), before)
    found = judged(alone, returns, lengths, limits.spent(used))
    state, info = strategy.tell(before, proposal, found.cost)
    row = log_row(info, found)
    over = limits.exceeded(used + row["_steps"], number)
    return kept(over, before, observed(strategy, state, found.obs_moments)), row | {"_ran": ~over, "_over": over}


def _empty_log(given: _Given, now: _Chunk, alone: DeviceEvaluator) -> dict[str, Array]:
    def row() -> dict[str, Array]:
        s = jnp.int32(0)
        state, limits = taken((now.states, given.limits), s)
        candidates, _ = given.ask(given.keys.strategy[s], s, state)
        shape = (jax.tree.leaves(candidates)[0].shape[0], alone.episodes)
        return given.tell(given.keys.strategy[s], state, jnp.zeros(shape), jnp.zeros(shape, jnp.int32), limits, s, s)[1]

    return {name: jnp.zeros((MAX_CHUNK, *now.used.shape, *x.shape), x.dtype) for name, x in jax.eval_shape(row).items()}
