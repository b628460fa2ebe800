"""Figure 4 of arXiv:2605.01928 at equal budgets: CartPole and Acrobot in float32, int8 and binary, method by method.

    python scripts/fig4_classical_control.py            # everything; resumable, finished runs are kept
    python scripts/fig4_classical_control.py --quick    # a small version of all of it, in minutes

Two comparisons (`polystep-rl compare`): `equal`, with one budget per environment for every method, and `long`, with
ten times that for the population methods, whose schedules are stretched with it. Every method has the `compare` preset
that scripts/tune.py found for it on other seeds (PPO and DQN: the settings of RL Baselines3 Zoo, see the preset files).
Results, tables and figures go to `--publish`; the run folders stay under `--out`.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
import yaml

from polystep_rl.cli import main
from polystep_rl.settings.grid import Grid
from polystep_rl.settings.run import to_plain

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
FILES = ("results.json", "table.md", "table.csv", "figures/curves.svg", "figures/bars.svg", "figures/profiles.svg")
FILES += ("figures/curves.png", "figures/bars.png", "figures/profiles.png")


@dataclass
class Args:
    """Figure 4 at equal budgets."""

    out: Path = Path("compare")
    """Where the run folders go; what is finished there is kept."""
    publish: Path | None = None
    """Where results, tables and figures are copied, such as docs/results; nowhere by default."""
    only: tuple[str, ...] = ("equal", "long")
    """Which of the two comparisons."""
    jobs: int | None = None
    """Runs side by side; all cores by default."""
    quick: bool = False
    """A seed each, small budgets, `long` in binary only: shows that it all runs, not who is better."""


def quickly(grid: Grid) -> Grid:
    """The same algorithms and environments with one seed each and budgets that hold any first generation."""
    policies = grid.policies if grid is EQUAL else ("binary",)
    budgets = ("CartPole-v1=25000", "Acrobot-v1=150000")
    return dataclasses.replace(grid, seeds=1, seeds_for=(), budget_for=budgets, policies=policies)


def compare(name: str, grid: Grid, args: Args) -> int:
    """One comparison; returns the exit code of the command."""
    out = args.out / (f"{name}-quick" if args.quick else name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.yaml"
        file.write_text(yaml.safe_dump(to_plain(grid)))
        jobs = [] if args.jobs is None else ["--jobs", str(args.jobs)]
        code = main(["compare", str(file), "--out", str(out), *jobs])
    if args.publish is not None:
        target = args.publish / f"fig4_{name}"
        target.mkdir(parents=True, exist_ok=True)
        for source in FILES:
            shutil.copy(out / source, target / Path(source).name)
    return code


if __name__ == "__main__":
    arguments = tyro.cli(Args)
    grids = {"equal": EQUAL, "long": LONG}
    codes = [compare(n, quickly(grids[n]) if arguments.quick else grids[n], arguments) for n in arguments.only]
    sys.exit(max(codes))
