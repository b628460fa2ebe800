"""Where a search stands: random streams, budgets, progress, and its bookkeeping."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from polystep_rl.training.programs import Limits, compiled_init
from polystep_rl.types import Key, Params, State, Strategy


class TrainError(RuntimeError):
    """Training cannot go on. One line saying why."""


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


class Settings(NamedTuple):
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


Row = dict[str, Any]  # name -> number, or None where this generation has none


EVAL_COLUMNS = ("eval/mean_reward", "eval/std_reward", "eval/mean_ep_length", "eval/env_steps")


class Observer:
    """What a caller wants to hear about. This one is deaf; override what you need."""

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


def initial_progress(strategy: Strategy, params: Params, key: Key) -> Progress:
    """Progress before the first generation."""
    state = compiled_init(strategy)(key, params)
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


def stop_reason(progress: Progress, settings: Settings, wall: float, full: bool, interrupted: bool) -> str | None:
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


def chunk_limits(progress: Progress, settings: Settings, chunk: int) -> Limits:
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


def book_evaluation(
    progress: Progress, row: Row, params: Params, result: Any, settings: Settings
) -> tuple[Progress, Row]:
    """What an evaluation of the centre ``params`` found, booked and in the generation's row."""
    mean = result.returns.mean(dtype=np.float64)  # not finite where the environment is not: never the best
    if np.isfinite(mean) and mean >= progress.best_return:
        progress = progress._replace(best_return=np.asarray(mean, np.float32), best_params=jax.device_get(params))
    reached = settings.stop_reward is not None and mean >= settings.stop_reward
    progress = progress._replace(
        evaluations=np.asarray(progress.evaluations + 1, np.int32),
        eval_env_steps=np.asarray(progress.eval_env_steps + result.env_steps, np.int64),
        streak=np.asarray(progress.streak + 1 if reached else 0, np.int32),
    )
    with np.errstate(invalid="ignore"):
        std = result.returns.std(dtype=np.float64)
    values = (mean, std, result.lengths.mean(), int(progress.eval_env_steps))
    return progress, row | {name: float(value) for name, value in zip(EVAL_COLUMNS, values, strict=True)}
