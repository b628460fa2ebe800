"""Opens the folder of a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polystep_rl.errors import UsageError
from polystep_rl.records.folder import RunDir
from polystep_rl.settings.run import TrainConfig, to_plain
from polystep_rl.types import Env, HostEnv


def with_threshold(config: TrainConfig, env: Env | HostEnv) -> TrainConfig:
    """The configuration with `stop_at_threshold` turned into a stop reward."""
    if not config.stop_at_threshold:
        return config
    threshold = env.spec.reward_threshold
    if threshold is None:
        raise UsageError(f"--stop-at-threshold: {config.env} has no reward threshold; give --stop-reward")
    stop = threshold if config.stop_reward is None else min(config.stop_reward, threshold)
    return dataclasses.replace(config, stop_reward=stop)


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


@dataclass(frozen=True)
class Output:
    """Where a run goes and what it prints."""

    run_dir: Path | None = None
    """This run's own folder; refused if it holds anything. By default a new one under --runs."""
    runs: Path = Path("runs")
    """Where new run folders are made."""
    seeds: str | None = None
    """Train these seeds, such as 0-9 or 0,3,7-9, each with a run folder of its own as --seed would write it: side by
    side where they can be, or one after the other. Wall-clock times are then those of all."""
    resume: Path | None = None
    """Continue this run; only budgets may be given anew."""
    track: bool = False
    """Log to Weights & Biases, too."""
    quiet: bool = False
    """No progress line."""
    json: bool = False
    """Print one JSON object as the last line of standard output, and nothing else there."""
    show_config: bool = False
    """Print the resolved settings as YAML and stop."""
    cores: int | None = None
    """CPU cores to use; all by default."""
    coordinator: str | None = None
    """One run by several processes, here or on many machines, each given the same command: host:port where process 0
    will listen, or auto under Slurm, Open MPI, Kubernetes or on TPUs. See docs/scale.md."""
    num_processes: int | None = None
    """With --coordinator: how many."""
    process_id: int | None = None
    """With --coordinator: which one this is, from 0; process 0 writes the run folder."""
