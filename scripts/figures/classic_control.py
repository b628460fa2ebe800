"""README's two figures of classic control: PolyStep in three precisions, and figure 4 of arXiv:2605.01928.

    python scripts/figures/classic_control.py            # everything; resumable, finished runs are kept
    python scripts/figures/classic_control.py --quick    # a small version of all of it, in minutes
    python scripts/figures/classic_control.py --only precisions --picture docs/images/cartpole.png

`precisions` trains CartPole with five seeds in each precision and draws the return of the centre over env steps: each
seed is a thin line, their median a thick one. The two others are comparisons (`polystep-rl compare`) of CartPole and
Acrobot in float32, int8 and binary, method by method: `equal`, with one budget per environment for every method, and
`long`, with ten times that for the population methods, whose schedules are stretched with it. Every method has the
`compare` preset that scripts/studies/tune.py found for it on other seeds (PPO and DQN: the settings of RL Baselines3
Zoo, see the preset files). Their results, tables and figures go to `--publish`; run folders stay under `--out`.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import COMMAND, finished, run_configs
from _curves import Curve, draw, logarithmic, panels

from polystep_rl.analysis import palette
from polystep_rl.analysis.results import record
from polystep_rl.settings.grid import Grid
from polystep_rl.settings.presets import preset
from polystep_rl.settings.run import TrainConfig, to_plain

LOOKS = {
    "float32": palette.Style(palette.BLACK, palette.SOLID, "", ""),
    "int8": palette.Style(palette.BLUE, palette.DASHED, "", ""),
    "binary": palette.Style(palette.VERMILLION, palette.SOLID, "", ""),
}
POPULATION = ("polystep", "open_es", "cma_es", "eggroll")
GRADIENT = ("ppo", "ppo-ste", "ppo-ptq", "dqn")
EQUAL = Grid(
    envs=("CartPole-v1", "Acrobot-v1"),
    algos=POPULATION + GRADIENT,
    policies=("float32", "int8", "binary"),
    seeds=10,
    seeds_for=tuple(f"{algo}=3" for algo in GRADIENT),
    budget_for=("CartPole-v1=500000", "Acrobot-v1=1000000"),
)
LONG = Grid(
    envs=EQUAL.envs,
    algos=POPULATION,
    policies=EQUAL.policies,
    seeds=10,
    budget_for=("CartPole-v1=5000000", "Acrobot-v1=10000000"),
    schedules=10.0,
)
GRIDS = {"equal": EQUAL, "long": LONG}
FILES = ("results.json", "table.md", "table.csv", "figures/curves.svg", "figures/bars.svg", "figures/profiles.svg")
FILES += ("figures/curves.png", "figures/bars.png", "figures/profiles.png")


@dataclass
class Args:
    """Figures of classic control."""

    out: Path = Path("compare")
    """Where the run folders go; what is finished there is kept."""
    publish: Path | None = None
    """Where results, tables and figures are copied, such as docs/results; nowhere by default."""
    picture: Path | None = None
    """Where the learning curves of `precisions` go, a PNG file; by default in `--out`."""
    only: tuple[Literal["precisions", "equal", "long"], ...] = ("precisions", "equal", "long")
    """Which of the three."""
    jobs: int | None = None
    """Runs side by side; all cores by default."""
    quick: bool = False
    """A seed each, small budgets, `long` in binary only: shows that it all runs, not who is better."""


def quickly(grid: Grid) -> Grid:
    """The same algorithms and environments with one seed each and budgets that hold any first generation."""
    policies = grid.policies if grid is EQUAL else ("binary",)
    budgets = ("CartPole-v1=25000", "Acrobot-v1=150000")
    return dataclasses.replace(grid, seeds=1, seeds_for=(), budget_for=budgets, policies=policies)


def compare(name: str, args: Args) -> int:
    """One comparison; returns the exit code of the command."""
    grid = quickly(GRIDS[name]) if args.quick else GRIDS[name]
    out = args.out / (f"{name}-quick" if args.quick else name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.yaml"
        file.write_text(yaml.safe_dump(to_plain(grid)))
        jobs = [] if args.jobs is None else ["--jobs", str(args.jobs)]
        code = subprocess.run([*COMMAND, "compare", str(file), "--out", str(out), *jobs], check=False).returncode
    if args.publish is not None:
        target = args.publish / f"fig4_{name}"
        target.mkdir(parents=True, exist_ok=True)
        for source in FILES:
            shutil.copy(out / source, target / Path(source).name)
    return code


def precision_config(precision: str, seed: int, quick: bool) -> TrainConfig:
    """CartPole without an early stop, often evaluated."""
    budget = {"total_timesteps": 25_000 if quick else 400_000, "stop_reward": None}
    return dataclasses.replace(preset("CartPole-v1", precision), seed=seed, eval_freq=2000, eval_episodes=64, **budget)


def precisions(args: Args) -> int:
    """The learning curves of CartPole in each precision; returns an exit code."""
    out = args.out / ("precisions-quick" if args.quick else "precisions")
    seeds = range(1 if args.quick else 5)
    folders = {precision: [out / f"{precision}__{seed}" for seed in seeds] for precision in LOOKS}
    run_configs(
        {
            folder: precision_config(precision, seed, args.quick)
            for precision, some in folders.items()
            for seed, folder in enumerate(some)
        },
        args.jobs,
        out,
    )
    curves: dict[str, list[Curve]] = {}
    for precision, some in folders.items():
        runs = [finished(folder, record) for folder in some]
        if None in runs:
            return 1
        found = [run["curve"] for run in runs if run is not None]
        curves[precision] = [(np.array(curve["env_steps"], float), np.array(curve["return"])) for curve in found]
    draw_precisions(curves, args.picture or out / "cartpole.png")
    return 0


def draw_precisions(curves: dict[str, list[Curve]], path: Path) -> None:
    """One panel; a median is drawn to where the last seed stops, a run that has stopped keeping its last return."""
    title, x = "CartPole-v1: PolyStep, forward passes only", "environment steps, all candidates counted"
    with panels([title], path.with_suffix(""), x, "return of the deployed policy") as [axes]:
        for precision, seeds in curves.items():
            grid = np.geomspace(max(steps[0] for steps, _ in seeds), max(steps[-1] for steps, _ in seeds), 200)
            median = np.median([np.interp(grid, steps, returns) for steps, returns in seeds], axis=0)
            draw(axes, f"{precision} ({len(seeds)} seeds)", LOOKS[precision], (grid, median), seeds)
        logarithmic(axes)
    path.with_suffix(".svg").unlink()  # it is shown as PNG


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    sys.exit(
        max(precisions(arguments) if name == "precisions" else compare(name, arguments) for name in arguments.only)
    )
