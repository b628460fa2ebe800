"""Opens the folder of a run, new or resumed."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polystep_rl.errors import ConfigError
from polystep_rl.processes import from_leader, leads, processes
from polystep_rl.records.checkpoint import load_tree, save_tree
from polystep_rl.records.folder import RunDir
from polystep_rl.settings.run import TrainConfig, to_plain
from polystep_rl.training.state import Budget, Progress
from polystep_rl.types import Env, HostEnv


@dataclass(frozen=True)
class Destination:
    """Where a run is kept."""

    run_dir: Path | None = None  # its own folder; refused if it holds anything. None: a new one in `runs`
    runs: Path = Path("runs")  # where new run folders are made
    resume: Path | None = None  # the folder of a run that goes on
    track: bool = False  # log to Weights & Biases, too


def with_threshold(config: TrainConfig, env: Env | HostEnv) -> TrainConfig:
    """The configuration with `stop_at_threshold` turned into a stop reward."""
    if not config.stop_at_threshold:
        return config
    threshold = env.spec.reward_threshold
    if threshold is None:
        raise ConfigError(f"`stop_at_threshold`: {config.env} has no reward threshold; give `stop_reward`")
    stop = threshold if config.stop_reward is None else min(config.stop_reward, threshold)
    return dataclasses.replace(config, stop_reward=stop)


def new_run(config: TrainConfig, to: Destination) -> RunDir:
    """A new run folder, open for writing."""
    run = RunDir.create(
        env=config.env,
        algo=config.algo,
        policy=config.policy,
        seed=config.seed,
        config=to_plain(config),
        root=to.runs,
        run_dir=to.run_dir,
    )
    run.start(track=to.track)
    return run


def budget_of(config: TrainConfig, env: Env | HostEnv) -> Budget:
    """When a run evaluates and stops. ConfigError where nothing would stop it."""
    stop_reward = with_threshold(config, env).stop_reward
    if config.total_timesteps is None and config.generations is None and config.wall_seconds is None:
        raise ConfigError("no budget: give `total_timesteps`, `generations` or `wall_seconds`")
    return Budget(
        config.total_timesteps,
        config.generations,
        config.wall_seconds,
        config.eval_freq,
        stop_reward,
    )


def _open(config: TrainConfig, to: Destination, progress: Progress) -> tuple[RunDir, Progress, float]:
    """A new run folder, or the one that is resumed with its progress."""
    if to.resume is None:
        return new_run(config, to), progress, 0.0
    run = RunDir.open(to.resume, finished_ok=True)
    wall = 0.0
    if run.latest_checkpoint() is not None:
        progress, meta = run.load_checkpoint(progress)
        wall = float(meta.get("wall_seconds", 0.0))
    if to_plain(config) != run.config:  # other budgets
        if any(getattr(config, name) != run.config.get(name) for name in ("stop_reward", "stop_at_threshold")):
            progress = progress._replace(streak=np.zeros((), np.int32))
        run.extend(to_plain(config))
    run.start(generation=int(progress.generation), env_steps=int(progress.env_steps), track=to.track)
    return run, progress, wall


def open_run(config: TrainConfig, to: Destination, progress: Progress) -> tuple[RunDir | None, Progress, float]:
    """The folder of a new or a resumed run, its progress, and the seconds spent on it so far.

    Of several processes the leader opens it; the others have no folder, and hear from it where the run stands.
    """
    run, wall = None, 0.0
    if leads():
        run, progress, wall = _open(config, to, progress)
    if processes() > 1 and to.resume is not None:
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
