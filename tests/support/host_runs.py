"""Commands on simulators of the host, as short as they can be, and what of their results does not depend on time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polystep_rl.records.metrics import read_metrics

SMALL = ("--hidden", "4", "--episodes", "2", "--eval-episodes", "4", "--test-episodes", "4", "--stop-reward", "None",
         "--quiet", "--json")  # fmt: skip
CARTPOLE = ("train", "--env", "CartPole-v1", "--simulator", "gymnasium", *SMALL, "--policy", "int8",
            "--observation-scale", "running", "--max-episode-steps", "60", "--total-timesteps", "9000",
            "--eval-freq", "2000")  # fmt: skip
CALIBRATION_LANES = 32
OWN = ("--max-episode-steps", "5", "--workers", "0", *SMALL, "--total-timesteps", "3000", "--eval-freq", "1000")
SLIDER = ("--env", "own_host_envs:Slider", "--max-episode-steps", "5")
BROKEN = ("train", "--env", "own_host_envs:Broken", "--max-episode-steps", "5", *SMALL, "--generations", "3")


class Killed(BaseException):
    """Raised where a power cut would be."""


def results(summary: dict[str, Any]) -> dict[str, Any]:
    """The part of a summary that does not depend on when and where."""
    return {name: value for name, value in summary.items() if name not in ("run_dir", "wall_seconds")}


def rows_without(run: Path, *names: str) -> list[str]:
    rows = read_metrics(run / "metrics.csv")
    return [repr({k: v for k, v in row.items() if not k.startswith("time/") and k not in names}) for row in rows]
