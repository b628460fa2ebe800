"""The training loop: generations in compiled chunks, evaluation of the centre, budgets, and resuming.

All randomness is a function of the key and of the generation's number, so a loop that continues from a saved
`Progress` does what an uninterrupted one does, whatever the chunks were.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import jax

from polystep_rl.processes import agreed
from polystep_rl.training.programs import programs
from polystep_rl.training.state import (
    Budget,
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
from polystep_rl.types import Evaluation, Evaluator, Key, Params, Strategy


def train(
    strategy: Strategy,
    evaluate: Evaluator,
    evaluate_centre: Evaluator,
    keys: Streams,
    progress: Progress,
    settings: Budget = Budget(),
    observer: Observer | None = None,
) -> Result:
    """Run generations until a budget is spent.

    A generation is started only if one as long as the last would fit into the budget of env steps, and one that then
    does not fit is undone: the result is that of the steps that are reported, which are never more than the budget
    (only the first generation is kept whatever its length). Processes that share the run all call it: the clock of the
    leader counts, and an interrupt of any of them.

    Args:
        strategy: the search.
        evaluate: evaluator of candidates.
        evaluate_centre: evaluator of the point to deploy, on held-out episodes.
        keys: random streams.
        progress: from `initial_progress`, or where another run left off.
        settings: budgets and evaluation interval.
        observer: hears of metrics and checkpoints, and may interrupt.

    Raises:
        ValueError: no budget is set, or eval_freq is below 1.
        TrainError: more than half of the returns of a generation were not finite.
    """
    if settings.total_timesteps is None and settings.generations is None and settings.wall_seconds is None:
        raise ValueError("no budget: set total_timesteps, generations or wall_seconds")
    if settings.eval_freq < 1:
        raise ValueError(f"eval_freq={settings.eval_freq}: expected at least 1 env step between evaluations")
    observer = observer or Observer()
    compiled = programs(strategy, evaluate, evaluate_centre)
    began, chunk, full = time.perf_counter(), 1, False
    while True:
        now = time.perf_counter() - began
        wall, chunk, interrupted = agreed(now, chunk, observer.interrupted())
        if stopped_by := stop_reason(progress, settings, wall, full, interrupted):
            return Result(progress, stopped_by, wall)
        before, limits = progress, chunk_limits(progress, settings, chunk)
        state, log, over = compiled.chunk(keys, progress.state, limits)
        compiling = compiled.take_seconds()
        progress, rows = book(progress, state, jax.device_get(log))
        full = bool(over)
        if not rows:
            continue
        spent = time.perf_counter() - began - now - compiling
        fps = float(progress.env_steps - before.env_steps) / spent
        if evaluation_due(before, progress, settings):
            progress, rows[-1] = _evaluate_centre(progress, rows[-1], compiled.evaluate, keys, strategy, settings)
            observer.generations([{**row, "time/fps": fps} for row in rows])
            observer.checkpoint(progress)
        else:
            observer.generations([{**row, "time/fps": fps} for row in rows])
        chunk = next_chunk(chunk, len(rows), spent)


def _evaluate_centre(
    progress: Progress,
    row: Row,
    run_eval: Callable[[Key, Params], Evaluation],
    keys: Streams,
    strategy: Strategy,
    settings: Budget,
) -> tuple[Progress, Row]:
    """Evaluate the point to deploy on episodes of its own, and keep it if it is the best so far."""
    params = strategy.params(progress.state)
    result = jax.device_get(run_eval(jax.random.fold_in(keys.evaluation, progress.evaluations), params))
    return book_evaluation(progress, row, params, result, settings)
