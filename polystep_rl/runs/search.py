"""One training run from settings to a finished run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from polystep_rl.errors import UsageError
from polystep_rl.policies import load_policy, mlp_policy, save_policy
from polystep_rl.processes import everyone, from_leader, leads, processes, same_everywhere
from polystep_rl.records.checkpoint import load_tree, save_tree
from polystep_rl.records.folder import RunDir
from polystep_rl.runs.judging import close, evaluate_on_test, simulator_facts
from polystep_rl.runs.observer import RunObserver, Watcher, best_return, interruptible
from polystep_rl.runs.opening import new_run, with_threshold
from polystep_rl.runs.parts import Parts, make_parts
from polystep_rl.runs.start import FILE as INIT_FILE
from polystep_rl.runs.strategy import episodes_per_candidate
from polystep_rl.runs.task import Task
from polystep_rl.settings.run import TrainConfig, to_plain
from polystep_rl.training import loop
from polystep_rl.training.programs import programs
from polystep_rl.training.state import Progress, Result, Settings, initial_progress


def settings_of(config: TrainConfig, parts: Parts) -> Settings:
    stop_reward = with_threshold(config, parts.env).stop_reward
    if config.total_timesteps is None and config.generations is None and config.wall_seconds is None:
        raise UsageError("no budget: give --total-timesteps, --generations or --wall-seconds")
    return Settings(
        config.total_timesteps,
        config.generations,
        config.wall_seconds,
        config.eval_freq,
        stop_reward,
    )


def _open(config: TrainConfig, output: Any, progress: Progress) -> tuple[RunDir, Progress, float]:
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


def _open_together(config: TrainConfig, output: Any, progress: Progress) -> tuple[RunDir | None, Progress, float]:
    """`_open` by the leader; the others have no folder, and hear from it where the run stands."""
    run, wall = None, 0.0
    if leads():
        run, progress, wall = _open(config, output, progress)
    if processes() > 1 and output.resume is not None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "progress.safetensors"
            if leads():
                save_tree(file, progress, {"wall_seconds": wall})
            data = from_leader(file.read_bytes() if leads() else None)
            if data is not None and not leads():
                file.write_bytes(data)
                progress, meta = load_tree(file, progress)
                wall = meta["wall_seconds"]
    return run, progress, wall


def _saved_start(config: TrainConfig, output: Any) -> TrainConfig:
    """With --resume, the settings with the start that the run has saved: it may have been quantised, or moved since."""
    saved = None if output.resume is None else Path(output.resume) / f"{INIT_FILE}.json"
    if config.init is None or saved is None or not saved.exists():
        return config
    return dataclasses.replace(config, init=str(saved), init_widen=1)


def judge_start(
    run: RunDir | None, parts: Parts, config: TrainConfig, progress: Progress
) -> tuple[Progress, dict[str, Any]]:
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
    file = None if run is None else run.path / INIT_FILE
    saved = load_policy(file).meta["init"] if file is not None and file.with_suffix(".json").exists() else None
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


def summarised(observer: Watcher, result: Result, evaluation: dict[str, Any]) -> dict[str, Any]:
    """What `--json` prints of a run and `summary.json` holds."""
    progress, parts = result.progress, observer.parts
    return {
        "run_dir": None if observer.run is None else str(observer.run.path),
        "env_steps": int(progress.env_steps),
        "candidates": int(progress.candidates),
        "episodes": int(progress.candidates) * episodes_per_candidate(observer.config),
        "generations": int(progress.generation),
        "eval_env_steps": int(progress.eval_env_steps),
        "wall_seconds": observer.wall_seconds,
        "stopped_by": result.stopped_by,
        "reward_threshold": parts.env.spec.reward_threshold,
        **simulator_facts(parts.env),
        "best_eval_return": best_return(progress),
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
    """Train as the settings say; returns the summary that `--json` prints and `summary.json` holds.

    Of several processes that do the run, the leader alone has a folder.
    """
    parts = make_parts(_saved_start(config, output))
    settings = settings_of(config, parts)
    if parts.initial is not None:
        config = dataclasses.replace(config, hidden=parts.policy.spec.hidden)
    if not same_everywhere(parts.start, str(parts.policy.spec)):
        raise UsageError(
            f"the processes have made different policies for {config.env}: give them machines of one kind, with the "
            "same software, and fix the input scales (--observation-scale bounds or none) where episodes are not seeded"
        )
    progress = initial_progress(parts.strategy, parts.start, parts.keys.strategy)
    run, progress, wall_before = _open_together(config, output, progress)
    if run is None:
        observer = Watcher(parts, config, wall_before)
    else:
        observer = RunObserver(run, parts, config, stream, output.quiet, wall_before)
    if settings.wall_seconds is not None:
        settings = settings._replace(wall_seconds=settings.wall_seconds - wall_before)
    guard = interruptible(observer) if install_handler else contextlib.nullcontext()
    try:
        given: dict[str, Any] = {}
        if parts.initial is not None:
            progress, given = judge_start(run, parts, config, progress)
        with guard:
            result = loop.train(
                parts.strategy, parts.evaluate, parts.evaluate_centre, parts.keys, progress, settings, observer
            )
            progress = result.progress
            best = observer.finish(progress)
            evaluation = evaluate_on_test(parts.env, parts.policy, best, config.test_episodes, config.seed)
        summary = {**summarised(observer, result, evaluation), **given}
        if run is not None and result.stopped_by != "interrupt":
            run.finish(summary)
    finally:
        if run is not None:
            run.close()
        close(parts.evaluate, parts.evaluate_centre)
    return summary
