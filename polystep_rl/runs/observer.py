"""Observers of a training run: they write metrics, checkpoints and policies, show progress, and heed Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import jax
import numpy as np

from polystep_rl.errors import TrainError
from polystep_rl.policies import frozen, save_policy
from polystep_rl.policies.io import BEST_POLICY, POLICY
from polystep_rl.processes import same_everywhere
from polystep_rl.records.folder import RunDir
from polystep_rl.runs.display import Display
from polystep_rl.runs.judging import simulator_facts
from polystep_rl.runs.parts import Parts
from polystep_rl.runs.task import Task
from polystep_rl.settings.run import TrainConfig
from polystep_rl.training.state import Observer, Progress, Row
from polystep_rl.types import Params


class Watcher(Observer):
    """Observer of every process of a run: can be interrupted, and knows which policy is deployed. Writes nothing."""

    run: RunDir | None = None

    def __init__(self, parts: Parts, config: TrainConfig, wall_before: float = 0.0) -> None:
        self.parts, self.config, self.stop = parts, config, False
        self.began, self.wall_before = time.perf_counter(), wall_before

    @property
    def wall_seconds(self) -> float:
        """Seconds spent on this run, by all processes that worked on it one after another."""
        return self.wall_before + time.perf_counter() - self.began

    def last_and_best(self, progress: Progress) -> tuple[Params, Params]:
        """The centre where it is, and where it was best."""
        last = jax.device_get(self.parts.strategy.params(progress.state))
        return last, progress.best_params if np.isfinite(progress.best_return) else last  # nothing was evaluated yet

    def checkpoint(self, progress: Progress) -> None:
        if not same_everywhere(progress.state):
            raise TrainError(
                f"generation {progress.generation}: the processes have come to different states of the search; "
                "give them machines of one kind, with the same software"
            )

    def finish(self, progress: Progress) -> Params:
        """The policy that the settings deploy."""
        last, best = self.last_and_best(progress)
        return best if self.config.deploy == "best" else last

    def interrupted(self) -> bool:
        return self.stop


class RunObserver(Watcher):
    """Writes metrics, checkpoints and policies to the run folder, and shows the progress line."""

    run: RunDir

    def __init__(
        self,
        run: RunDir,
        parts: Parts,
        config: TrainConfig,
        display: Display,
        wall_before: float = 0.0,
    ) -> None:
        super().__init__(parts, config, wall_before)
        self.run, self.display = run, display
        self._last_eval = None
        # Where the rate behind the ETA is measured from: after the first chunk, then after the first evaluation,
        # since both of them compile.
        self._warm: tuple[float, int] | None = None
        self._warm_eval = False

    def generations(self, rows: list[Row]) -> None:
        for row in rows:
            values = {name: value for name, value in row.items() if name not in ("generation", "env_steps")}
            self.run.log(row["generation"], row["env_steps"], {**values, "time/seconds": self.wall_seconds})
            if row["eval/mean_reward"] is not None:
                self._last_eval = row["eval/mean_reward"]
        now = time.perf_counter()
        evaluated = rows[-1]["eval/mean_reward"] is not None
        if self._warm is None or (evaluated and not self._warm_eval):
            self._warm, self._warm_eval = (now, rows[-1]["env_steps"]), evaluated
        self.display(self._line(rows[-1]), rows[-1]["env_steps"], evaluated)

    def _line(self, row: Row) -> str:
        steps, total = row["env_steps"], self.config.total_timesteps
        evaluated = "-" if self._last_eval is None else f"{self._last_eval:.1f}"
        parts = [
            f"gen {row['generation']:>5}",
            f"steps {steps:>10,}",
            f"{row['time/fps']:>11,.0f}/s",
            f"population {row['rollout/ep_rew_mean']:>8.1f}",
            f"eval {evaluated:>7}",
        ]
        if "search/ess" in row:
            parts.append(f"ess {row['search/ess']:>5.2f}")
        if total is not None:
            parts.append(f"eta {self._eta(steps, total)}")
        return "  ".join(parts)

    def _eta(self, steps: int, total: int) -> str:
        """Time to the budget at the rate since compilation, evaluations included."""
        if self._warm is None or steps <= self._warm[1]:
            return "-"
        since, done = self._warm
        seconds = (time.perf_counter() - since) / (steps - done) * max(total - steps, 0)
        return str(timedelta(seconds=round(seconds)))

    def checkpoint(self, progress: Progress) -> None:
        super().checkpoint(progress)
        self.run.save_checkpoint(progress, int(progress.generation), {"wall_seconds": self.wall_seconds})
        self._save(BEST_POLICY, progress.best_params, progress, best_return(progress))

    def _save(self, name: str, params: Params, progress: Progress, value: float | None) -> None:
        spec, params = frozen(self.parts.policy.spec, params)
        save_policy(self.run.path / name, spec, params, {**self._meta(progress), "eval_return": value})

    def finish(self, progress: Progress) -> Params:
        """Write a checkpoint and both policies, the last and the best; returns the one that the settings deploy."""
        last, best = self.last_and_best(progress)
        if progress.generation > 0:
            self.run.save_checkpoint(progress, int(progress.generation), {"wall_seconds": self.wall_seconds})
        self._save(POLICY, last, progress, None)
        self._save(BEST_POLICY, best, progress, best_return(progress))
        return super().finish(progress)

    def _meta(self, progress: Progress) -> dict[str, Any]:
        return {
            **Task.of(self.config)._asdict(),
            **simulator_facts(self.parts.env),
            "seed": self.config.seed,
            "generation": int(progress.generation),
            "env_steps": int(progress.env_steps),
        }


def best_return(progress: Progress) -> float | None:
    """Return of the best evaluation so far; None before the first one."""
    return float(progress.best_return) if np.isfinite(progress.best_return) else None


@contextlib.contextmanager
def interruptible(observer: Any, wanted: bool = True) -> Iterator[None]:
    """Let the first Ctrl-C end the run after the current chunk and save it; a second one ends the process.

    Nothing changes where that is not ``wanted``, or outside the main thread, which alone can have signal handlers.
    """
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(signum: int, frame: Any) -> None:
        observer.stop = True
        signal.signal(signum, previous)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
