"""Several seeds of one search side by side: the training loop of `train`, with one compiled program for all of them.

Every seed has its own budget and evaluations, and does what it does alone, bit for bit; only the wall clock is shared.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from polystep_rl.errors import TrainError
from polystep_rl.rollout.device import DeviceEvaluator, chunk_size
from polystep_rl.rollout.score import MAX_STEPS
from polystep_rl.training.programs import has_structure
from polystep_rl.training.seed_programs import chunk_function, merged_evaluator, taken
from polystep_rl.training.state import (
    Budget,
    Limits,
    Observer,
    Progress,
    Result,
    Row,
    Streams,
    book,
    book_evaluation,
    chunk_limits,
    evaluation_due,
    next_chunk,
    stop_reason,
)
from polystep_rl.types import Array, Evaluator, Key, Params, PyTree, State, Strategy

KEPT = 4  # programs


class Seed(NamedTuple):
    """One of the seeds that train."""

    keys: Streams
    progress: Progress
    observer: Observer = Observer()


class Centre(NamedTuple):
    """The numbers of an evaluation of the centre that are booked."""

    returns: np.ndarray  # (1, r)
    lengths: np.ndarray  # (1, r)
    env_steps: np.ndarray  # () int32


def seeds_at_once(strategy: Strategy, evaluate: Evaluator, evaluate_centre: Evaluator, state: State) -> tuple[int, str]:
    """How many seeds can train side by side, and, where it is one, why.

    Bit for bit as alone they can where what is simulated together is nothing but episodes: lanes do not keep the
    observations of seeds apart, nor their horizons. Their populations must fit into ``Layout.max_bytes`` at once.
    """
    if not isinstance(evaluate, DeviceEvaluator) or not isinstance(evaluate_centre, DeviceEvaluator):
        return 1, "the simulators run on the host"
    if evaluate.collect_moments:
        return 1, "the search keeps statistics of its observations"
    if evaluate.horizon.grows:
        return 1, "episodes grow with the budget that is spent"
    if has_structure(strategy, evaluate, state):
        return 1, "the policies are large, and their candidates are never built"
    candidates = jax.eval_shape(strategy.ask, jax.random.key(0), state).candidates
    n = jax.tree.leaves(candidates)[0].shape[0]
    devices = len(evaluate.layout.devices or jax.devices())
    fit = chunk_size(Partial(strategy.decode, state), evaluate.policy, candidates, evaluate.layout.max_bytes) // -(
        -n // devices
    )
    steps = n * evaluate.episodes * int(evaluate.horizon.at(0.0, evaluate.env.spec.horizon))
    return max(1, min(fit, MAX_STEPS // steps)), "the population of one fills the memory that candidates may take"


class SeedPrograms:
    """Compiled programs for a number of seeds of a search."""

    def __init__(self, strategy: Strategy, evaluate: DeviceEvaluator, evaluate_centre: DeviceEvaluator) -> None:
        self._chunk = chunk_function(strategy, evaluate)
        self._evaluate = jax.jit(functools.partial(_evaluate_centres, evaluate_centre))
        self._compiled: dict[int, Any] = {}
        self._seconds = 0.0
        self.state_of = jax.jit(taken)  # (states, seed) -> state

    def chunk(self, keys: Streams, states: State, limits: Limits) -> tuple[State, dict[str, Array], Array]:
        """Some generations of every seed, compiled ahead of time for the reason that `Programs.chunk` gives."""
        seeds = limits.generation.size
        if seeds not in self._compiled:
            began = time.perf_counter()
            self._compiled[seeds] = self._chunk.lower(keys, states, limits).compile()
            self._seconds = time.perf_counter() - began
        return self._compiled[seeds](keys, states, limits)

    def evaluate(self, keys: Key, numbers: np.ndarray, which: list[int], params: list[Params]) -> list[Centre]:
        """Evaluate the centres of the seeds ``which``; ``keys`` (S,) and ``numbers`` (S,) are of all seeds."""
        padding = [0] * (numbers.size - len(which))
        stacked = jax.tree.map(lambda *x: np.stack(x), *params, *(params[0] for _ in padding))
        order = np.array([*which, *padding], np.int32)
        returns, lengths = jax.device_get(self._evaluate(keys, numbers, order, stacked, np.int32(len(which))))
        found = zip(returns, lengths, which, strict=False)
        return [Centre(some, steps, steps.sum(dtype=np.int32)) for some, steps, _ in found]

    def take_seconds(self) -> float:
        """Seconds that the last call compiled for."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


seed_programs = functools.lru_cache(maxsize=KEPT)(SeedPrograms)


def _evaluate_centres(
    alone: DeviceEvaluator, keys: Key, numbers: Array, order: Array, params: Params, count: Array
) -> tuple[Array, Array]:
    own = jax.vmap(jax.random.fold_in)(keys, numbers)[order]
    one = jax.tree.map(lambda x: x[:, None], params)
    return merged_evaluator(alone)(own, one, Partial(lambda x: x), count)


def train_seeds(
    strategy: Strategy,
    evaluate: Evaluator,
    evaluate_centre: Evaluator,
    seeds: Sequence[Seed],
    settings: Budget,
    places: int | None = None,
) -> Iterator[tuple[int, Result | TrainError]]:
    """Train seeds until each has spent its budget: their positions and results, in the order in which they end.

    Args:
        strategy, evaluate, evaluate_centre, settings: as `train` takes them, common to all seeds.
        seeds: one or more.
        places: seeds that the programs are compiled for, at least as many as there are; None: just those.

    Returns:
        an iterator that trains; a seed that fails has a TrainError for a result. Wall-clock times are of all seeds.

    Raises:
        ValueError: seeds that cannot train side by side.
    """
    most, why = seeds_at_once(strategy, evaluate, evaluate_centre, seeds[0].progress.state)
    if most < len(seeds):
        raise ValueError(f"{len(seeds)} seeds side by side: at most {most} can be" + f", since {why}" * (most == 1))
    return _SeedLoop(seed_programs(strategy, evaluate, evaluate_centre), strategy, seeds, settings, places).run()


class _SeedLoop:
    """The state of `train_seeds`."""

    def __init__(
        self, compiled: SeedPrograms, strategy: Strategy, seeds: Sequence[Seed], settings: Budget, places: int | None
    ) -> None:
        self.compiled, self.strategy, self.settings = compiled, strategy, settings
        self.seeds = seeds
        self.progress = [seed.progress for seed in seeds]
        self.full = [False] * len(seeds)
        self.going = dict.fromkeys(range(len(seeds)))
        of_all = [*range(len(seeds)), *[0] * ((places or len(seeds)) - len(seeds))]
        self.places = len(of_all)
        self.keys = _stacked([seeds[s].keys for s in of_all])
        self.states = _stacked([seeds[s].progress.state for s in of_all])

    def run(self) -> Iterator[tuple[int, Result | TrainError]]:
        began, chunk = time.perf_counter(), 1
        while True:
            yield from self.ended(time.perf_counter() - began)
            if not self.going:
                return
            since = time.perf_counter()
            self.states, log, over = self.compiled.chunk(self.keys, self.states, self.limits(chunk))
            compiling = self.compiled.take_seconds()
            log, over = jax.device_get((log, over))
            spent = time.perf_counter() - since - compiling
            ran = yield from self.book(log, over, spent)
            chunk = next_chunk(chunk, max(ran, 1), spent)

    def ended(self, wall: float) -> Iterator[tuple[int, Result | TrainError]]:
        """The results of the seeds that are to stop here."""
        for s in list(self.going):
            progress, observer = self.progress[s], self.seeds[s].observer
            if stopped_by := stop_reason(progress, self.settings, wall, self.full[s], observer.interrupted()):
                del self.going[s]
                yield s, Result(self.whole(s), stopped_by, wall)

    def whole(self, s: int) -> Progress:
        """The progress of a seed with its state, which is otherwise only among those of all seeds."""
        return self.progress[s]._replace(state=self.compiled.state_of(self.states, s))

    def limits(self, chunk: int) -> Limits:
        """Limits for every place; finished seeds get no generation."""
        found = []
        for s in range(self.places):
            of_one = chunk_limits(self.progress[s if s in self.going else 0], self.settings, chunk)
            found.append(of_one if s in self.going else of_one._replace(generations=np.int32(0)))
        return jax.tree.map(lambda *values: np.array(values, np.int32), *found)

    def book(
        self, log: dict[str, np.ndarray], over: np.ndarray, spent: float
    ) -> Generator[tuple[int, Result | TrainError], None, int]:
        """Bring every seed up to date with a chunk; returns the most generations that a seed ran."""
        most, due = 0, []
        for s in list(self.going):
            before, self.full[s] = self.progress[s], bool(over[s])
            try:
                progress, rows = book(before, before.state, {name: column[:, s] for name, column in log.items()})
            except TrainError as error:
                del self.going[s]
                yield s, error
                continue
            fps = float(progress.env_steps - before.env_steps) / spent
            rows = [{**row, "time/fps": fps} for row in rows]
            most, self.progress[s] = max(most, len(rows)), progress
            if evaluation_due(before, progress, self.settings):
                due.append((s, rows))
            elif rows:
                self.seeds[s].observer.generations(rows)
        if due:
            self.evaluate(due)
        return most

    def evaluate(self, due: list[tuple[int, list[Row]]]) -> None:
        """Evaluate the centres of the seeds that are due, all at once."""
        whole = [self.whole(s) for s, _ in due]
        params = [self.strategy.params(progress.state) for progress in whole]
        numbers = np.zeros(self.places, np.int32)
        for s, progress in enumerate(self.progress):
            numbers[s] = progress.evaluations
        found = self.compiled.evaluate(self.keys.evaluation, numbers, [s for s, _ in due], jax.device_get(params))
        for (s, rows), progress, centre, result in zip(due, whole, params, found, strict=True):
            self.progress[s], rows[-1] = book_evaluation(progress, rows[-1], centre, result, self.settings)
            self.seeds[s].observer.generations(rows)
            self.seeds[s].observer.checkpoint(self.progress[s])


def _stacked(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)
