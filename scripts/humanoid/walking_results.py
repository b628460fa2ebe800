"""Judge runs of a walking robot, and draw how long their policies stayed up over env steps.

    python scripts/humanoid/walking_results.py runs/* --into docs/results/g1

Each run's deployed policy is judged as by `polystep-rl eval` (256 held-out episodes), which takes minutes for one that
stays up; runs that were judged before, at the same number of env steps, are not judged again. `results.json` has
everything, `table.md` a line for each algorithm and precision, `curves.svg` and `.png` the mean length of the held-out
episodes during training: every seed a thin line, their mean a thick one. Runs may end at different env steps: the
table's first columns compare them on their curves, at the most that all of them have. Needs matplotlib (`play`).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import write_record
from _curves import draw, panels

from polystep_rl.analysis.curves import common_grid
from polystep_rl.analysis.palette import algo_order, precision_order, style
from polystep_rl.machine import setup_jax
from polystep_rl.records.metrics import read_metrics
from polystep_rl.runs.load import load_run
from polystep_rl.settings.run import load_yaml
from polystep_rl.walking import judge as walking

Run = dict[str, Any]


@dataclass
class Args:
    """Judge runs of a walking robot."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Run folders of one task; none: only draw what is there."""
    into: Path = Path("docs/results/g1")
    """Where results.json, table.md and curves go; what is there stays unless the same run comes again."""
    episodes: int = 256
    """Held-out episodes."""


def judged(folder: Path, episodes: int, before: Iterable[Run]) -> Run:
    """A run's settings, curve, and judgement."""
    config, rows = dataclasses.asdict(load_yaml(folder / "config.yaml")), read_metrics(folder / "metrics.csv")
    evaluated = [row for row in rows if row["eval/mean_ep_length"] is not None]
    names = ("env", "algo", "policy", "seed")
    run: Run = {name: config[name] for name in names} | {"env_steps": rows[-1]["env_steps"]}
    run["curve"] = {
        "env_steps": [row["env_steps"] for row in evaluated],
        "length": [row["eval/mean_ep_length"] for row in evaluated],
        "return": [row["eval/mean_reward"] for row in evaluated],
    }
    run["settings"] = {name: value for name, value in config.items() if name not in names}
    for old in before:
        if all(old[name] == run[name] for name in (*names, "env_steps")) and old["judged"]["episodes"] == episodes:
            return run | {"judged": old["judged"]}
    loaded = load_run(folder, None)
    return run | {"judged": walking.judge(loaded, episodes, loaded.seed)}


def cells(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """Runs by precision and algorithm, in the order of all figures."""
    runs = list(runs)
    policies, algos = (precision_order({run["policy"] for run in runs}), algo_order({run["algo"] for run in runs}))
    found = {(p, a): [run for run in runs if (run["policy"], run["algo"]) == (p, a)] for p in policies for a in algos}
    return {cell: members for cell, members in found.items() if members}


def table(runs: Iterable[Run]) -> str:
    """A line for each precision and algorithm: means over the seeds, and every seed's length."""
    runs = list(runs)
    common = min((run["curve"]["env_steps"][-1] for run in runs if run["curve"]["env_steps"]), default=0)
    lines = [
        f"| policy | algorithm | at {common / 1e6:.1f} M: length | each seed | judged at | length | each seed | falls "
        "| stands for 500 | not pushed | return |",
        "|---|---|--:|---|--:|--:|---|--:|--:|--:|--:|",
    ]
    for (policy, algo), members in cells(runs).items():
        members.sort(key=lambda run: run["seed"])
        found = [run["judged"] for run in members]
        length, falls, returns = (
            np.mean([one[k] for one in found]) for k in ("mean_length", "fall_rate", "mean_return")
        )
        stands = np.mean([one["standing"]["long_rate"] for one in found])
        calm = np.mean([one["without_pushes"]["mean_length"] for one in found])
        steps = np.mean([run["env_steps"] for run in members]) / 1e6
        each = ", ".join(f"{one['mean_length']:.0f}" for one in found)
        curves = [run["curve"] for run in members if run["curve"]["env_steps"]]
        then = [np.interp(common, curve["env_steps"], curve["length"]) for curve in curves] or [np.nan]
        lines.append(
            f"| {policy} | {algo} | {np.mean(then):.1f} | {', '.join(f'{one:.0f}' for one in then)} | {steps:.1f} M "
            f"| {length:.1f} | {each} | {falls:.0%} | {stands:.0%} | {calm:.1f} | {returns:.1f} |"
        )
    return "\n".join(lines) + "\n"


def picture(runs: Iterable[Run], stem: Path) -> None:
    """A panel for each precision, mean length of held-out episodes over env steps."""
    found = cells(runs)
    policies = list(dict.fromkeys(policy for policy, _ in found))
    y_label = "steps until the episode ends (of 1,000)"
    with panels(policies, stem, "env steps, millions", y_label, sharey=True) as row:
        for axes, policy in zip(row, policies, strict=True):
            for (_, algo), members in ((cell, runs) for cell, runs in found.items() if cell[0] == policy):
                curves = [run["curve"] for run in members if run["curve"]["env_steps"]]
                if curves:
                    last = min(curve["env_steps"][-1] for curve in curves)
                    grid = np.array([step for step in common_grid(curves, 100) if step <= last])
                    mean = np.mean([np.interp(grid, curve["env_steps"], curve["length"]) for curve in curves], axis=0)
                    seeds = [(np.array(curve["env_steps"]) / 1e6, np.array(curve["length"])) for curve in curves]
                    draw(axes, f"{algo} ({len(curves)})", style(algo), (grid / 1e6, mean), seeds)
            axes.set_ylim(0, None)


def main(args: Args) -> None:
    setup_jax()
    document = args.into / "results.json"
    runs: list[Run] = json.loads(document.read_text())["runs"] if document.exists() else []
    for folder in args.runs:
        new = judged(folder, args.episodes, runs)
        same = [run for run in runs if all(run[name] == new[name] for name in ("env", "algo", "policy", "seed"))]
        runs = [run for run in runs if run not in same] + [new]
        print(
            walking.described(f"{folder}: {new['algo']} {new['policy']} seed {new['seed']}", new["judged"]), flush=True
        )
        write_record(document, {"runs": runs})
    (args.into / "table.md").write_text(table(runs))
    picture(runs, args.into / "curves")
    print(table(runs), end="")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
