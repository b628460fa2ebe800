"""Draw learning curves of runs: evaluation return of the centre over env steps, a line a precision.

    python scripts/plot_curves.py runs/* --out docs/images/cartpole.png

The README's figure is of seeds 0 to 4 of three precisions, from this command:

    polystep-rl train --policy P --seed S --total-timesteps 400000 --stop-reward None \\
        --eval-freq 2000 --eval-episodes 64

Needs matplotlib (the `play` extra). Runs of one precision are its seeds: each is a thin line, their median the thick
one, drawn to where the last seed stops; a run that has stopped keeps its last return.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tyro

from polystep_rl.records.metrics import read_metrics
from polystep_rl.settings.run import load_yaml

# Okabe and Ito's colours, distinguishable without colour vision; the dashes do it in black and white.
STYLES = {
    "float32": ("#000000", "-"),
    "int8": ("#0072B2", "--"),
    "binary": ("#D55E00", "-"),
    "int8-act": ("#56B4E9", ":"),
    "binary-act": ("#E69F00", "-."),
}


@dataclass
class Args:
    """Draw learning curves."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders of one environment."""
    out: Path = Path("curves.png")
    """Picture to write; the ending names the format."""


def curve(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Env steps and evaluation returns of a run, (k,) each."""
    rows = [row for row in read_metrics(run / "metrics.csv") if row["eval/mean_reward"] is not None]
    return np.array([row["env_steps"] for row in rows], float), np.array([row["eval/mean_reward"] for row in rows])


def draw(groups: dict[str, list[tuple[np.ndarray, np.ndarray]]], title: str, out: Path) -> None:
    """One figure: groups maps a precision to the curves of its seeds."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name in (name for name in STYLES if name in groups):
        curves = groups[name]
        colour, dashes = STYLES[name]
        for steps, returns in curves:
            axes.plot(steps, returns, color=colour, linewidth=0.6, alpha=0.35)
        grid = np.geomspace(max(steps[0] for steps, _ in curves), max(steps[-1] for steps, _ in curves), 200)
        median = np.median([np.interp(grid, steps, returns) for steps, returns in curves], axis=0)
        axes.plot(grid, median, dashes, color=colour, linewidth=2, label=f"{name} ({len(curves)} seeds)")
    axes.set_xscale("log")
    axes.set_xlabel("environment steps, all candidates counted")
    axes.set_ylabel("return of the deployed policy")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(args: Args) -> None:
    """Read the runs and draw them."""
    groups: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    envs = set()
    for run in args.runs:
        config = load_yaml(run / "config.yaml")
        envs.add(config.env)
        groups.setdefault(config.policy, []).append(curve(run))
    if len(envs) != 1:
        raise SystemExit(f"the runs are of {', '.join(sorted(envs)) or 'no environment'}; give runs of one environment")
    draw(groups, f"{envs.pop()}: PolyStep, forward passes only", args.out)
    print(f"{args.out}: {len(args.runs)} runs")


if __name__ == "__main__":
    main(tyro.cli(Args))
