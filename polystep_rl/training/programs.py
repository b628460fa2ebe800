"""Compiled programs of a search: a chunk of generations, the evaluation of the centre, the initial state."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from polystep_rl.processes import jitted, own_copy, replicated
from polystep_rl.rollout.device import evaluate_params
from polystep_rl.training.state import MAX_CHUNK, Limits, Progress, Streams, kept
from polystep_rl.types import (
    Array,
    Evaluation,
    Evaluator,
    Info,
    Key,
    Moments,
    Params,
    Proposal,
    State,
    Strategy,
)

STRUCTURED = 4096  # parameters from which candidates are not built: below, a product of matrices gains nothing
KEPT = 4  # searches whose programs are kept, for further seeds

StepFn = Callable[[Key, Key, State, Array], tuple[State, Info, Evaluation]]


def make_step(strategy: Strategy, evaluate: Evaluator) -> StepFn:
    """One generation: (strategy key, episode key, state, fraction of the budget spent) -> (state, info, evaluation)."""

    def step(strategy_key: Key, episode_key: Key, state: State, spent: Array) -> tuple[State, Info, Evaluation]:
        proposal = strategy.ask(strategy_key, state)
        evaluation = evaluate(episode_key, proposal.candidates, _decoder(strategy, evaluate, state), spent)
        state, info = strategy.tell(state, proposal, evaluation.cost)
        return observed(strategy, state, evaluation.obs_moments), info, evaluation

    return step


def has_structure(strategy: Strategy, evaluate: Evaluator, state: State) -> bool:
    """Whether candidates are never built: those of large policies, where search and policy allow it."""
    size = sum(x.size for x in jax.tree.leaves(strategy.params(state)))
    return strategy.structure is not None and evaluate.structured and size >= STRUCTURED


def _decoder(strategy: Strategy, evaluate: Evaluator, state: State) -> Partial:
    """The function that makes policies of candidates."""
    make = strategy.structure if has_structure(strategy, evaluate, state) else strategy.decode
    return Partial(make, state)  # type: ignore[arg-type]


def observed(strategy: Strategy, state: State, moments: Moments) -> State:
    """The state after the observations of a generation, where the strategy keeps statistics of them."""
    return state if strategy.observe is None else strategy.observe(state, moments)


def log_row(info: Info, evaluation: Evaluation) -> dict[str, Any]:
    """The row that is logged of a generation; names that begin with _ are for the loop."""
    return {
        # By candidates first: the sum over all pairs would round as the devices, or several seeds, lay them out.
        "rollout/ep_rew_mean": evaluation.returns.mean(axis=1).mean(),
        "rollout/ep_len_mean": evaluation.lengths.mean(dtype=np.float32),
        "rollout/nonfinite": evaluation.nonfinite,
        **{f"search/{name}": value for name, value in info.items()},
        "_steps": evaluation.env_steps.astype(np.int32),
        "_candidates": np.int32(evaluation.cost.shape[0]),
        "_failed": evaluation.nonfinite * 2 > evaluation.returns.size,
    }


def _chunk_function(step: StepFn, row_shapes: dict[str, Any]) -> jax.stages.Wrapped:
    """Jitted (keys, state, limits): some generations -> (state, log, over).

    The log's leaves are (MAX_CHUNK,), with `_ran` true where a generation ran; over is whether the one after did not
    fit into the budget and was undone.
    """

    def run(keys: Streams, state: State, limits: Limits) -> tuple[State, dict[str, Array], Array]:
        empty = {name: jnp.zeros((MAX_CHUNK, *x.shape), x.dtype) for name, x in row_shapes.items()}

        def go_on(carry: tuple) -> Array:
            _, i, used, last, stop, _, _ = carry
            return limits.go_on(i, used, last) & ~stop

        def body(carry: tuple) -> tuple:
            before, i, used, _, _, _, log = carry
            number = limits.generation + i
            own, episodes = (jax.random.fold_in(key, number) for key in (keys.strategy, keys.episodes))
            after, info, evaluation = step(own, episodes, before, limits.spent(used))
            row = log_row(info, evaluation)
            steps = row["_steps"]
            over = limits.exceeded(used + steps, number)
            state = kept(over, before, after)
            row = row | {"_ran": ~over}
            log = {name: log[name].at[i].set(row[name]) for name in log}
            return state, i + 1, used + steps, steps, row["_failed"] | over, over, log

        zero, no = jnp.int32(0), jnp.bool_(False)
        carry = (state, zero, zero, jnp.asarray(limits.last_steps), no, no, empty)
        state, _, _, _, _, over, log = jax.lax.while_loop(go_on, body, carry)
        return state, log, over

    return jax.jit(run, **replicated())


class Programs:
    """The compiled programs of a search, common to all its seeds."""

    def __init__(self, strategy: Strategy, evaluate: Evaluator, evaluate_centre: Evaluator) -> None:
        self.evaluate = jitted(partial(evaluate_params, evaluate_centre))
        self._step = jax.jit(make_step(strategy, evaluate), inline=True)  # traced once, for its shapes and in the loop
        self._compiled: dict[Any, Any] = {}
        self._seconds = 0.0

    def chunk(self, keys: Streams, state: State, limits: Limits) -> tuple[State, dict[str, Array], Array]:
        """Run a chunk, compiled ahead of time: by calling, it would be compiled anew once the state comes back spread
        over the devices."""
        leaves, structure = jax.tree.flatten(state)
        shapes = (structure, tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves))
        if shapes not in self._compiled:
            began = time.perf_counter()
            _, info, evaluation = jax.eval_shape(self._step, keys.strategy, keys.episodes, state, jnp.float32(0))
            row_shapes = {**jax.eval_shape(log_row, info, evaluation), "_ran": jax.ShapeDtypeStruct((), bool)}
            chunk = _chunk_function(self._step, row_shapes)
            self._compiled[shapes] = chunk.lower(keys, state, limits).compile()
            self._seconds = time.perf_counter() - began
        return own_copy(self._compiled[shapes](keys, state, limits))

    def take_seconds(self) -> float:
        """Seconds that the last call compiled for."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class HostPrograms:
    """The same for evaluators that run on the host: the search is compiled, the loop around it is not."""

    def __init__(self, strategy: Strategy, evaluate: Evaluator, evaluate_centre: Evaluator) -> None:
        self.evaluate = partial(evaluate_params, evaluate_centre)
        self._strategy, self._evaluate, self._evaluate_centre = strategy, evaluate, evaluate_centre
        self._ask, self._tell = _host_functions(strategy)

    def chunk(self, keys: Streams, state: State, limits: Limits) -> tuple[State, dict[str, Any], bool]:
        """`Programs.chunk`, generation by generation; the log's leaves are as long as generations ran."""
        rows: list[dict[str, Any]] = []
        limits = Limits(*map(int, limits))
        used, last = 0, limits.last_steps
        while limits.go_on(len(rows), used, last):
            number = limits.generation + len(rows)
            proposal = self._ask(jax.random.fold_in(keys.strategy, number), state)
            episode_key = jax.random.fold_in(keys.episodes, number)
            decode = _decoder(self._strategy, self._evaluate, state)
            found = self._evaluate(episode_key, proposal.candidates, decode, limits.spent(used))
            last = int(found.env_steps)
            if limits.exceeded(used + last, number):
                return state, _columns(rows), True
            state, info = self._tell(state, proposal, found.cost, found.obs_moments)
            rows.append({**log_row(jax.device_get(info), found), **self._faults(), "_ran": np.bool_(True)})
            used += last
            if rows[-1]["_failed"]:
                break
        return state, _columns(rows), False

    def _faults(self) -> dict[str, Any]:
        """Simulators that died so far, in training and in evaluations of the centre."""
        found = self._evaluate.faults + self._evaluate_centre.faults
        return {"rollout/faults": np.int32(found)}

    def take_seconds(self) -> float:
        """Compilation is not told apart."""
        return 0.0


@functools.lru_cache(maxsize=KEPT)
def _host_functions(strategy: Strategy) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Jitted ask, and tell followed by observe."""

    def tell(state: State, proposal: Proposal, cost: Array, moments: Moments) -> tuple[State, Info]:
        state, info = strategy.tell(state, proposal, cost)
        return observed(strategy, state, moments), info

    return jax.jit(strategy.ask), jax.jit(tell)


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = rows[0] if rows else {"_ran": None}
    return {name: np.array([row[name] for row in rows]) for name in names}


_device_programs = functools.lru_cache(maxsize=KEPT)(Programs)


def programs(strategy: Strategy, evaluate: Evaluator, evaluate_centre: Evaluator) -> Programs | HostPrograms:
    """The programs of a search, for the kind of its evaluators."""
    if evaluate.on_host:
        return HostPrograms(strategy, evaluate, evaluate_centre)
    return _device_programs(strategy, evaluate, evaluate_centre)


@functools.lru_cache(maxsize=KEPT)
def _compiled_init(strategy: Strategy) -> Callable[[Key, Params], State]:
    return jax.jit(strategy.init)


def initial_progress(strategy: Strategy, params: Params, key: Key) -> Progress:
    """Progress before the first generation."""
    state = _compiled_init(strategy)(key, params)
    return Progress(
        state=state,
        generation=np.zeros((), np.int32),
        env_steps=np.zeros((), np.int64),
        candidates=np.zeros((), np.int64),
        eval_env_steps=np.zeros((), np.int64),
        last_steps=np.zeros((), np.int32),
        evaluations=np.zeros((), np.int32),
        streak=np.zeros((), np.int32),
        best_return=np.full((), -np.inf, np.float32),
        best_params=jax.tree.map(np.asarray, strategy.params(state)),
    )
