"""One training run from settings to a finished run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from rich.console import Console

from polystep_rl import train as loop
from polystep_rl.cli import UsageError
from polystep_rl.cli.assemble import Parts, episodes_per_candidate, make_parts
from polystep_rl.cli.initial import FILE as INIT_FILE
from polystep_rl.cli.simulate import Task, close, evaluate_on_test, simulator_facts
from polystep_rl.config import TrainConfig, to_plain
from polystep_rl.policies import frozen, load_policy, mlp_policy, save_policy
from polystep_rl.policies.io import BEST_POLICY, POLICY
from polystep_rl.programs import programs
from polystep_rl.rundir import RunDir
from polystep_rl.settings import GRADIENT
from polystep_rl.types import Env, HostEnv

LINE_SECONDS = 0.5  # between two updates of the progress line


class RunObserver(loop.Observer):
    """Writes metrics, checkpoints and policies to the run folder, and shows the progress line."""

    def __init__(self, run: RunDir, parts: Parts, config: TrainConfig, stream: TextIO, quiet: bool) -> None:
        self.run, self.parts, self.config = run, parts, config
        self.console = Console(file=stream, highlight=False, soft_wrap=True)
        self.quiet, self.stop = quiet, False
        self.began, self.wall_before = time.perf_counter(), 0.0
        self._shown, self._last_eval = 0.0, None
        # Where the rate behind the ETA is measured from: after the first chunk, then after the first evaluation,
        # since both of them compile.
        self._warm: tuple[float, int] | None = None
        self._warm_eval = False

    @property
    def wall_seconds(self) -> float:
        """Seconds spent on this run, by all processes that worked on it."""
        return self.wall_before + time.perf_counter() - self.began

    def generations(self, rows: list[loop.Row]) -> None:
        for row in rows:
            values = {name: value for name, value in row.items() if name not in ("generation", "env_steps")}
            self.run.log(row["generation"], row["env_steps"], {**values, "time/seconds": self.wall_seconds})
            if row["eval/mean_reward"] is not None:
                self._last_eval = row["eval/mean_reward"]
        now = time.perf_counter()
        evaluated = rows[-1]["eval/mean_reward"] is not None
        if self._warm is None or (evaluated and not self._warm_eval):
            self._warm, self._warm_eval = (now, rows[-1]["env_steps"]), evaluated
        if not self.quiet and (evaluated or now - self._shown > LINE_SECONDS):
            self._shown = now
            self.console.print(self._line(rows[-1]))

    def _line(self, row: loop.Row) -> str:
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

    def checkpoint(self, progress: loop.Progress) -> None:
        self.run.save_checkpoint(progress, int(progress.generation), {"wall_seconds": self.wall_seconds})
        self._save(BEST_POLICY, progress.best_params, progress, _best(progress))

    def _save(self, name: str, params: loop.Params, progress: loop.Progress, value: float | None) -> None:
        spec, params = frozen(self.parts.policy.spec, params)
        save_policy(self.run.path / name, spec, params, {**self._meta(progress), "eval_return": value})

    def finish(self, progress: loop.Progress) -> loop.Params:
        """Write a checkpoint and both policies, the last and the best; returns the one that the settings deploy."""
        last = jax.device_get(self.parts.strategy.params(progress.state))
        best = progress.best_params if np.isfinite(progress.best_return) else last  # nothing was evaluated yet
        if progress.generation > 0:
            self.run.save_checkpoint(progress, int(progress.generation), {"wall_seconds": self.wall_seconds})
        self._save(POLICY, last, progress, None)
        self._save(BEST_POLICY, best, progress, _best(progress))
        return best if self.config.deploy == "best" else last

    def _meta(self, progress: loop.Progress) -> dict[str, Any]:
        return {
            **Task.of(self.config)._asdict(),
            **simulator_facts(self.parts.env),
            "seed": self.config.seed,
            "generation": int(progress.generation),
            "env_steps": int(progress.env_steps),
        }

    def interrupted(self) -> bool:
        return self.stop


def _best(progress: loop.Progress) -> float | None:
    """Return of the best evaluation so far; None before the first one."""
    return float(progress.best_return) if np.isfinite(progress.best_return) else None


@contextlib.contextmanager
def interruptible(observer: Any) -> Iterator[None]:
    """The first Ctrl-C ends the run after the current chunk and saves it; a second one ends the process."""

    def handle(signum: int, frame: Any) -> None:
        observer.stop = True
        signal.signal(signum, previous)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def with_threshold(config: TrainConfig, env: Env | HostEnv) -> TrainConfig:
    """The configuration with `stop_at_threshold` turned into a stop reward."""
    if not config.stop_at_threshold:
        return config
    threshold = env.spec.reward_threshold
    if threshold is None:
        raise UsageError(f"--stop-at-threshold: {config.env} has no reward threshold; give --stop-reward")
    stop = threshold if config.stop_reward is None else min(config.stop_reward, threshold)
    return dataclasses.replace(config, stop_reward=stop)


def _settings(config: TrainConfig, parts: Parts) -> loop.Settings:
    stop_reward = with_threshold(config, parts.env).stop_reward
    if config.total_timesteps is None and config.generations is None and config.wall_seconds is None:
        raise UsageError("no budget: give --total-timesteps, --generations or --wall-seconds")
    return loop.Settings(
        config.total_timesteps,
        config.generations,
        config.wall_seconds,
        config.eval_freq,
        stop_reward,
    )


def new_run(config: TrainConfig, output: Any) -> RunDir:
    """A new run folder, open for writing."""
    run = RunDir.create(
        env=config.env,
        algo=config.algo,
        policy=config.policy,
        seed=config.seed,
        config=to_plain(config),
        root=output.runs,
        run_dir=output.run_dir,
    )
    run.start(track=output.track)
    return run


def _open(config: TrainConfig, output: Any, progress: loop.Progress) -> tuple[RunDir, loop.Progress, float]:
    """A new run folder, or the one that is resumed with its progress."""
    if output.resume is None:
        return new_run(config, output), progress, 0.0
    run = RunDir.open(output.resume, finished_ok=True)
    wall = 0.0
    if run.latest_checkpoint() is not None:
        progress, meta = run.load_checkpoint(progress)
        wall = float(meta.get("wall_seconds", 0.0))
    if to_plain(config) != run.config:  # other budgets
        if any(getattr(config, name) != run.config.get(name) for name in ("stop_reward", "stop_at_threshold")):
            progress = progress._replace(streak=np.zeros((), np.int32))
        run.extend(to_plain(config))
    run.start(generation=int(progress.generation), env_steps=int(progress.env_steps), track=output.track)
    return run, progress, wall


def run_any(config: TrainConfig, output: Any, stream: TextIO, install_handler: bool = True) -> dict[str, Any]:
    """Train with whatever algorithm the settings name; returns the summary."""
    if config.algo in GRADIENT:
        from polystep_rl.cli.gradient import run_gradient

        return run_gradient(config, output, stream, install_handler)
    return run_training(config, output, stream, install_handler)


def _saved_start(config: TrainConfig, output: Any) -> TrainConfig:
    """With --resume, the settings with the start that the run has saved: it may have been quantised, or moved since."""
    saved = None if output.resume is None else Path(output.resume) / f"{INIT_FILE}.json"
    if config.init is None or saved is None or not saved.exists():
        return config
    return dataclasses.replace(config, init=str(saved), init_widen=1)


def _judge_start(
    run: RunDir, parts: Parts, config: TrainConfig, progress: loop.Progress
) -> tuple[loop.Progress, dict[str, Any]]:
    """Evaluate the policy that the search starts at, before and after quantisation, and keep it: while nothing does
    better, it is the best. Returns the progress and the `init` object of the summary."""
    assert parts.initial is not None
    if progress.generation == 0:  # no checkpoint knows it yet
        compiled = programs(parts.strategy, parts.evaluate, parts.evaluate_centre)
        found = jax.device_get(compiled.evaluate(parts.keys.evaluation, parts.initial.params))
        mean = found.returns.mean(dtype=np.float64)
        progress = progress._replace(
            best_return=np.asarray(mean if np.isfinite(mean) else -np.inf, np.float32),
            eval_env_steps=np.asarray(progress.eval_env_steps + found.env_steps, np.int64),
        )
    file = run.path / INIT_FILE
    if file.with_suffix(".json").exists():
        return progress, {"init": load_policy(file).meta["init"]}
    judge = partial(evaluate_on_test, parts.env, episodes=config.test_episodes, seed=config.seed)
    spec, params = parts.initial.given
    start = judge(parts.policy, parts.initial.params)["mean_return"]
    report = {
        "policy": config.init,
        "given_precision": spec.precision,
        "given_return": judge(mlp_policy(spec), params)["mean_return"] if parts.initial.report else start,
        "start_return": start,
        **parts.initial.report,
    }
    save_policy(file, parts.initial.spec, parts.initial.params, {**Task.of(config)._asdict(), "init": report})
    return progress, {"init": report}


def summarised(observer: RunObserver, result: loop.Result, evaluation: dict[str, Any]) -> dict[str, Any]:
    """What `--json` prints of a run and `summary.json` holds."""
    progress, parts = result.progress, observer.parts
    return {
        "run_dir": str(observer.run.path),
        "env_steps": int(progress.env_steps),
        "candidates": int(progress.candidates),
        "episodes": int(progress.candidates) * episodes_per_candidate(observer.config),
        "generations": int(progress.generation),
        "eval_env_steps": int(progress.eval_env_steps),
        "wall_seconds": observer.wall_seconds,
        "stopped_by": result.stopped_by,
        "reward_threshold": parts.env.spec.reward_threshold,
        **simulator_facts(parts.env),
        "best_eval_return": _best(progress),
        "eval": evaluation,
    }


def told(summary: dict[str, Any]) -> str:
    """The line about a run that has ended."""
    result = summary["eval"]
    return (
        f"{summary['run_dir']}: mean return {result['mean_return']:.2f} over {result['episodes']} fresh episodes; "
        f"{summary['env_steps']:,} env steps, "
        f"{summary['wall_seconds']:.1f} s, stopped by {summary['stopped_by']}"
    )


def run_training(config: TrainConfig, output: Any, stream: TextIO, install_handler: bool = True) -> dict[str, Any]:
    """Train as the settings say; returns the summary that `--json` prints and `summary.json` holds."""
    parts = make_parts(_saved_start(config, output))
    settings = _settings(config, parts)
    if parts.initial is not None:
        config = dataclasses.replace(config, hidden=parts.policy.spec.hidden)
    progress = loop.start(parts.strategy, parts.start, parts.keys.strategy)
    run, progress, wall_before = _open(config, output, progress)
    observer = RunObserver(run, parts, config, stream, output.quiet)
    observer.wall_before = wall_before
    if settings.wall_seconds is not None:
        settings = settings._replace(wall_seconds=settings.wall_seconds - wall_before)
    guard = interruptible(observer) if install_handler else contextlib.nullcontext()
    try:
        given: dict[str, Any] = {}
        if parts.initial is not None:
            progress, given = _judge_start(run, parts, config, progress)
        with guard:
            result = loop.train(
                parts.strategy, parts.evaluate, parts.evaluate_centre, parts.keys, progress, settings, observer
            )
            progress = result.progress
            best = observer.finish(progress)
            evaluation = evaluate_on_test(parts.env, parts.policy, best, config.test_episodes, config.seed)
        summary = {**summarised(observer, result, evaluation), **given}
        if result.stopped_by != "interrupt":
            run.finish(summary)
    finally:
        run.close()
        close(parts.evaluate, parts.evaluate_centre)
    return summary
