"""Where a search stands: random streams, budgets, progress, and its bookkeeping."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from polystep_rl.errors import TrainError
from polystep_rl.types import Array, Key, Params, PyTree, State

MAX_CHUNK = 64  # generations in one compiled call, at most
CHUNK_SECONDS = 0.5  # that a chunk should take: the latency of the progress line and of an interrupt


class Streams(NamedTuple):
    """Independent random streams of one seed."""

    policy: Key  # the starting point
    strategy: Key  # what the strategy asks for
    episodes: Key  # training episodes
    evaluation: Key  # held-out episodes during training
    test: Key  # episodes of the final report: training never draws from it


def streams(seed: int) -> Streams:
    """The random streams of a seed."""
    root = jax.random.key(seed)
    return Streams(*(jax.random.fold_in(root, i) for i in range(len(Streams._fields))))


class Budget(NamedTuple):
    """When to evaluate and when to stop. A budget of None is no limit; at least one must be set."""

    total_timesteps: int | None = 1_000_000  # living env steps of training rollouts, all candidates counted
    generations: int | None = None
    wall_seconds: float | None = None
    eval_freq: int = 50_000  # env steps between evaluations of the centre
    stop_reward: float | None = None  # stop when the evaluation return is at least this twice in a row


class Progress(NamedTuple):
    """Where a run stands: all that a checkpoint holds beside the configuration."""

    state: State
    generation: np.ndarray  # () int32, completed; this and the other counters live on the host
    env_steps: np.ndarray  # () int64
    candidates: np.ndarray  # () int64
    eval_env_steps: np.ndarray  # () int64, counted apart
    last_steps: np.ndarray  # () int32, env steps of the last generation
    evaluations: np.ndarray  # () int32
    streak: np.ndarray  # () int32, evaluations in a row at or above stop_reward
    best_return: np.ndarray  # () float32, of the best evaluation so far
    best_params: Params


class Limits(NamedTuple):
    """Bounds of a chunk of generations; of several seeds, every field is (S,)."""

    generation: Any  # () int32, the first of the chunk
    last_steps: Any  # () int32, env steps of the generation before it
    generations: Any  # () int32
    total: Any  # () int32, env steps of the budget
    room: Any  # () int32, of them, those that are left
    due: Any  # () int32, env steps until the next evaluation

    def go_on(self, ran: Any, used: Any, last: Any) -> Any:
        """() bool, whether another generation starts after ``ran`` of them took ``used`` env steps.

        It does where one as long as the ``last`` would fit into the budget.
        """
        return (ran < self.generations) & (used + last <= self.room) & (used < self.due)

    def exceeded(self, used: Any, number: Any) -> Any:
        """() bool, whether generation ``number`` did not fit: ``used`` includes its env steps. The first one does."""
        return (used > self.room) & (number > 0)

    def spent(self, used: Any) -> Any:
        """() float, the fraction of the budget that is spent once a chunk has used so many env steps."""
        return (self.total - self.room + used) / self.total


def kept(over: Array, before: PyTree, after: PyTree) -> PyTree:
    """The state after a generation, or the one before where it did not fit into the budget."""
    return jax.tree.map(lambda old, new: jax.lax.select(over, old, new), before, after)


Row = dict[str, Any]  # name -> number, or None where this generation has none


EVAL_COLUMNS = ("eval/mean_reward", "eval/std_reward", "eval/mean_ep_length", "eval/env_steps")


class Observer:
    """Hears of a run. This one is deaf; override what you need."""

    def generations(self, rows: list[Row]) -> None:
        """Metrics of the generations of a chunk, in order; the last may carry an evaluation."""

    def checkpoint(self, progress: Progress) -> None:
        """The loop can continue from here."""

    def interrupted(self) -> bool:
        """Whether to stop after this chunk."""
        return False


class Result(NamedTuple):
    """The end of a run."""

    progress: Progress
    stopped_by: str  # total_timesteps | generations | wall_seconds | stop_reward | interrupt
    wall_seconds: float  # of this call


def stop_reason(progress: Progress, settings: Budget, wall: float, full: bool, interrupted: bool) -> str | None:
    """Why a run ends here, in the words of `Result`; None: it goes on. ``full``: a generation did not fit."""
    if interrupted:
        return "interrupt"
    if settings.stop_reward is not None and progress.streak >= 2:
        return "stop_reward"
    total = settings.total_timesteps
    if full or (total is not None and progress.generation > 0 and progress.env_steps + progress.last_steps > total):
        return "total_timesteps"
    if settings.generations is not None and progress.generation >= settings.generations:
        return "generations"
    if settings.wall_seconds is not None and wall >= settings.wall_seconds:
        return "wall_seconds"
    return None


def next_chunk(chunk: int, ran: int, seconds: float) -> int:
    """Generations of the next chunk, given that ``ran`` of them took so many seconds: never over twice the last."""
    return int(np.clip(CHUNK_SECONDS * ran / seconds, 1, min(MAX_CHUNK, 2 * chunk)))


def evaluation_due(before: Progress, now: Progress, settings: Budget) -> bool:
    """Whether a multiple of `eval_freq` lies between two progresses."""
    return bool(now.env_steps // settings.eval_freq > before.env_steps // settings.eval_freq)


def chunk_limits(progress: Progress, settings: Budget, chunk: int) -> Limits:
    """The bounds of a chunk of at most so many generations; () each."""
    unlimited = np.iinfo(np.int32).max
    left = unlimited if settings.total_timesteps is None else settings.total_timesteps - int(progress.env_steps)
    to_go = chunk if settings.generations is None else settings.generations - int(progress.generation)
    due = settings.eval_freq - int(progress.env_steps) % settings.eval_freq
    as_int32 = lambda x: np.int32(min(x, unlimited))  # noqa: E731
    return Limits(
        generation=progress.generation,
        last_steps=progress.last_steps,
        generations=as_int32(min(chunk, to_go)),
        total=as_int32(settings.total_timesteps or unlimited),
        room=as_int32(left),
        due=as_int32(due),
    )


def book(progress: Progress, state: State, log: dict[str, np.ndarray]) -> tuple[Progress, list[Row]]:
    """Bring the counters up to date and make one row of metrics a generation."""
    rows: list[Row] = []
    for i in range(int(log["_ran"].sum())):
        steps = log["_steps"][i]
        progress = progress._replace(
            generation=np.asarray(progress.generation + 1, np.int32),
            env_steps=np.asarray(progress.env_steps + steps, np.int64),
            candidates=np.asarray(progress.candidates + log["_candidates"][i], np.int64),
            last_steps=np.asarray(steps, np.int32),
        )
        row: Row = {"generation": int(progress.generation), "env_steps": int(progress.env_steps)}
        row |= {name: value[i].item() for name, value in log.items() if not name.startswith("_")}
        rows.append(row | dict.fromkeys(EVAL_COLUMNS))
        if log["_failed"][i]:
            raise TrainError(
                f"generation {progress.generation}: more than half of the returns were NaN or infinite; "
                "check the environment (polystep-rl envs --check), or bound its reward"
            )
    return progress._replace(state=state), rows


def streak_after(streak: Any, mean: float, goal: float | None) -> Any:
    """Evaluations in a row at or above a goal, one of ``mean`` included."""
    return streak + 1 if goal is not None and mean >= goal else 0


def book_evaluation(
    progress: Progress, row: Row, params: Params, result: Any, settings: Budget
) -> tuple[Progress, Row]:
    """Book an evaluation of the centre ``params`` in the progress and in its generation's row."""
    mean = result.returns.mean(dtype=np.float64)  # not finite where the environment is not: never the best
    if np.isfinite(mean) and mean >= progress.best_return:
        progress = progress._replace(best_return=np.asarray(mean, np.float32), best_params=jax.device_get(params))
    progress = progress._replace(
        evaluations=np.asarray(progress.evaluations + 1, np.int32),
        eval_env_steps=np.asarray(progress.eval_env_steps + result.env_steps, np.int64),
        streak=np.asarray(streak_after(progress.streak, mean, settings.stop_reward), np.int32),
    )
    with np.errstate(invalid="ignore"):
        std = result.returns.std(dtype=np.float64)
    values = (mean, std, result.lengths.mean(), int(progress.eval_env_steps))
    return progress, row | {name: float(value) for name, value in zip(EVAL_COLUMNS, values, strict=True)}
