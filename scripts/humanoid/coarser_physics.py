"""What coarser physics costs and saves: env steps per second of G1, and how long a policy stays up in it.

    python scripts/humanoid/coarser_physics.py --json docs/results/g1/coarser_physics.json

The task steps its physics by 2 ms, ten times a control step. Training may step it fewer times
(`--train-env-kwarg sim_dt=0.005`); this says what a policy that was found at 2 ms does at other steps. Speeds are of
EnvPool alone, with zero actions, on all cores, in turns; lengths are of held-out episodes with pushes and noise.
"""

from __future__ import annotations

import statistics
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import ROOT, write_record
from bench.host import envpool_rate

from polystep_rl.envs.robots.playground_models import tree_without_visuals
from polystep_rl.machine import setup_jax
from polystep_rl.runs.judging import evaluate_on_test
from polystep_rl.runs.load import load_run
from polystep_rl.runs.task import make_env

TASK = "G1JoystickFlatTerrain"
STEPS = (0.002, 0.004, 0.005)  # s; at 0.01 the simulation is unstable


@dataclass
class Args:
    """Measure speed and episode length of G1 at several steps of its physics."""

    json: Path | None = None
    """Write every figure, with hardware and versions, to this file."""
    policy: Path = ROOT / "docs" / "results" / "g1" / "float32"
    """A policy of the task that stays up."""
    episodes: int = 256
    """Held-out episodes."""
    turns: int = 5
    """Measurements of speed, of which the median counts."""
    seconds: float = 3.0
    """Length of each."""


def main(args: Args) -> None:
    import envpool

    warnings.simplefilter("ignore")
    setup_jax()
    models = tree_without_visuals(envpool.make_spec(f"{TASK}-v1").config.base_path)
    alone = {dt: envpool_rate(f"{TASK}-v1", 256, 1, args.seconds, base_path=models, sim_dt=dt) for dt in STEPS}
    speeds: dict[float, list[float]] = {dt: [] for dt in STEPS}
    for _ in range(args.turns):
        for dt in STEPS:
            speeds[dt].append(alone[dt]())
    loaded, rows = load_run(args.policy), []
    print(f"{'physics step':>12} {'env steps/s':>11} {'length':>7} {'return':>7}")
    for dt in STEPS:
        env = make_env(loaded.task._replace(env_kwarg=(*loaded.task.env_kwarg, f"sim_dt={dt}")))
        found = evaluate_on_test(env, loaded.policy, loaded.params, args.episodes, loaded.seed)
        row: dict[str, Any] = {"sim_dt": dt, "steps_per_second": statistics.median(speeds[dt]), **found}
        rows.append(row)
        print(
            f"{dt:>10} s {row['steps_per_second']:>11,.0f} {row['mean_length']:>7.1f} {row['mean_return']:>7.1f}",
            flush=True,
        )
    write_record(args.json, {"task": TASK, "policy": args.policy.name, "rows": rows})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
