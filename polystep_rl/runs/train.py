"""Trains what a configuration describes, into a run folder: the one way into training, for library and command line."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from polystep_rl.errors import ConfigError
from polystep_rl.machine import ensure_jax
from polystep_rl.policies import mlp_policy, read_policy, save_policy
from polystep_rl.policies.runtime import NumpyPolicy, load
from polystep_rl.processes import everyone, same_everywhere
from polystep_rl.records.metrics import Value, read_metrics
from polystep_rl.runs.display import Display, shown
from polystep_rl.runs.judging import evaluate_on_test
from polystep_rl.runs.observer import RunObserver, Watcher, best_return, interruptible
from polystep_rl.runs.opening import Destination, budget_of, open_run
from polystep_rl.runs.parts import Parts, make_parts
from polystep_rl.runs.start import FILE as INIT_FILE
from polystep_rl.runs.start import saved_start
from polystep_rl.runs.strategy import episodes_per_candidate
from polystep_rl.runs.summary import summarised
from polystep_rl.runs.task import Task
from polystep_rl.settings.algorithms import GRADIENT
from polystep_rl.settings.run import TrainConfig
from polystep_rl.training import loop
from polystep_rl.training.programs import initial_progress, programs
from polystep_rl.training.state import Progress, Result


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has ended, finished or interrupted."""

    path: Path | None
    """Its folder; None in a process that shares the run and does not lead it."""
    summary: dict[str, Any]
    """The contents of `summary.json`: env_steps, stopped_by, best_eval_return, eval, ..."""

    @cached_property
    def policy(self) -> NumpyPolicy:
        """The deployed policy as a controller: observations (o,) or (n, o) -> actions. Needs NumPy alone."""
        return load(self._folder())

    @cached_property
    def metrics(self) -> list[dict[str, Value]]:
        """A row for each generation, or evaluation of a gradient method: name -> number, or None."""
        return read_metrics(self._folder() / "metrics.csv")

    def _folder(self) -> Path:
        if self.path is None:
            raise ConfigError("the leading process alone has the folder of the run")
        return self.path

    def __repr__(self) -> str:
        found = self.summary["eval"]
        return f"Run({str(self.path)!r}, mean return {found['mean_return']:.2f} over {found['episodes']} episodes)"


def train(
    config: TrainConfig,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    runs: str | os.PathLike[str] = "runs",
    resume: str | os.PathLike[str] | None = None,
    track: bool = False,
    quiet: bool = False,
    display: Display | None = None,
    handle_interrupt: bool = True,
) -> Run:
    """Train as the settings say, by a population search or a gradient method.

    Of several processes that do the run, all call it and the leader alone has a folder.

    Args:
        config: the settings, such as `preset` gives them.
        run_dir: this run's own folder; refused if it holds anything. None: a new one in ``runs``.
        runs: where new run folders are made.
        resume: the folder of a run that goes on; its settings must be ``config``, but for the budgets.
        track: log to Weights & Biases, too.
        quiet: show nothing while it goes on.
        display: what shows it; by default a bar in a terminal or a notebook, and lines on standard error elsewhere.
        handle_interrupt: in the main thread, let the first Ctrl-C end the run after the current generations and save
            it; the second one ends the process.

    Raises:
        ConfigError: settings that do not fit together, an unknown environment, or an extra that is not installed.
        TrainError: more than half of the returns of a generation were not finite.
        SimulatorError: the simulators cannot go on.
        RunDirError: a run folder that cannot be created or used.
    """
    ensure_jax()
    to = Destination(_path(run_dir), Path(runs), _path(resume), track)
    with contextlib.ExitStack() as stack:
        display = display or stack.enter_context(shown(config.total_timesteps, quiet))
        if config.algo in GRADIENT:
            from polystep_rl.runs.gradient import run_gradient

            summary = run_gradient(config, to, display, handle_interrupt)
            return Run(Path(summary["run_dir"]), summary)
        parts = make_parts(saved_start(config, to.resume))
        stack.callback(parts.close)
        config, budget = _agreed(config, parts), budget_of(config, parts.env)
        progress = initial_progress(parts.strategy, parts.start, parts.keys.strategy)
        folder, progress, wall_before = open_run(config, to, progress)
        observer = Watcher(parts, config, wall_before)
        if folder is not None:
            stack.callback(folder.close)
            observer = RunObserver(folder, parts, config, display, wall_before)
        if budget.wall_seconds is not None:
            budget = budget._replace(wall_seconds=budget.wall_seconds - wall_before)
        progress, given = judge_start(observer, progress)
        stack.enter_context(interruptible(observer, handle_interrupt))
        result = loop.train(
            parts.strategy, parts.evaluate, parts.evaluate_centre, parts.keys, progress, budget, observer
        )
        return Run(None if folder is None else folder.path, conclude(observer, result, given))


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given)


def _agreed(config: TrainConfig, parts: Parts) -> TrainConfig:
    """The settings with the layers of a given policy; ConfigError where processes have made different policies."""
    if not same_everywhere(parts.start, str(parts.policy.spec)):
        raise ConfigError(
            f"the processes have made different policies for {config.env}: give them machines of one kind, with the "
            "same software, and fix the input scales (`observation_scale` bounds or none) where episodes are not seeded"
        )
    return config if parts.initial is None else dataclasses.replace(config, hidden=parts.policy.spec.hidden)


def conclude(observer: Watcher, result: Result, given: dict[str, Any]) -> dict[str, Any]:
    """Evaluate what is deployed on fresh episodes, and finish the folder unless the run was interrupted.

    Returns:
        the summary, with what is ``given`` of the policy that the search started at.
    """
    parts, config, progress = observer.parts, observer.config, result.progress
    deployed = observer.finish(progress)
    evaluation = evaluate_on_test(parts.env, parts.policy, deployed, config.test_episodes, config.seed)
    counts = {
        "env_steps": int(progress.env_steps),
        "candidates": int(progress.candidates),
        "episodes": int(progress.candidates) * episodes_per_candidate(config.search),
        "generations": int(progress.generation),
        "eval_env_steps": int(progress.eval_env_steps),
        "wall_seconds": observer.wall_seconds,
    }
    folder = None if observer.run is None else observer.run.path
    summary = summarised(parts.env, folder, result.stopped_by, evaluation, counts, best_return(progress))
    summary |= given
    if observer.run is not None and result.stopped_by != "interrupt":
        observer.run.finish(summary)
    return summary


def judge_start(observer: Watcher, progress: Progress) -> tuple[Progress, dict[str, Any]]:
    """Evaluate the policy that the search starts at, before and after quantisation, where one is given.

    While nothing does better, it is the best.

    Returns:
        the progress, and the `init` object of the summary; {} for a random start.
    """
    parts, config = observer.parts, observer.config
    if parts.initial is None:
        return progress, {}
    if progress.generation == 0:  # no checkpoint knows it yet
        compiled = programs(parts.strategy, parts.evaluate, parts.evaluate_centre)
        found = jax.device_get(compiled.evaluate(parts.keys.evaluation, parts.initial.params))
        mean = found.returns.mean(dtype=np.float64)
        progress = progress._replace(
            best_return=np.asarray(mean if np.isfinite(mean) else -np.inf, np.float32),
            eval_env_steps=np.asarray(progress.eval_env_steps + found.env_steps, np.int64),
        )
    file = None if observer.run is None else observer.run.path / INIT_FILE
    saved = read_policy(file).meta["init"] if file is not None and file.with_suffix(".json").exists() else None
    if everyone(np.bool_(saved is not None))[0]:
        return progress, {"init": saved}
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
    if file is not None:
        save_policy(file, parts.initial.spec, parts.initial.params, {**Task.of(config)._asdict(), "init": report})
    return progress, {"init": report}
