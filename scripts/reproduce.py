"""Train with the presets on the reported seeds and compare with the bars that this project sets itself.

    python scripts/reproduce.py                      # every environment and precision, seeds 0 to 4
    python scripts/reproduce.py --envs CartPole-v1   # one environment
    python scripts/reproduce.py --json results.json  # with hardware and versions, as in docs/results/

Each run is that of `polystep-rl train --env E --policy P --seed S`; the return is the mean over 256 held-out episodes
from a stream that training never draws from. Exits with 1 if any run misses its bar.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _common import write_record

import polystep_rl

# environment -> (lowest mean return, most env steps, precisions, seeds)
ALL = ("float32", "int8", "binary", "int8-act", "binary-act")
BARS = {
    "CartPole-v1": (500.0, 1_000_000, ALL, 5),
    "Acrobot-v1": (-85.0, 15_000_000, ALL, 5),
    "Pendulum-v1": (-200.0, None, ("float32", "binary"), 3),
    "MountainCar-v0": (-120.0, None, ("float32", "binary"), 3),
    "MountainCarContinuous-v0": (90.0, None, ("float32", "binary"), 3),
}


@dataclass
class Args:
    """Train with the presets and compare with the bars."""

    envs: tuple[str, ...] = tuple(BARS)
    """Environments."""
    policies: tuple[str, ...] | None = None
    """Precisions; by default those that the environment's bar names."""
    first_seed: int = 0
    """The first of the seeds. The reported ones begin at 0."""
    seeds: int | None = None
    """How many seeds; by default as many as the environment's bar names."""
    json: Path | None = None
    """Write the results here."""
    runs: Path | None = None
    """Keep the run folders here."""


def train(env: str, policy: str, seed: int, runs: Path) -> dict:
    """One run, and its summary."""
    config = dataclasses.replace(polystep_rl.preset(env, policy), seed=seed)
    return polystep_rl.train(config, runs=runs, quiet=True).summary


def run(args: Args, runs: Path) -> list[dict]:
    """All runs, a line each as they end."""
    rows = []
    for env in args.envs:
        lowest, most_steps, policies, seeds = BARS[env]
        for policy in args.policies or policies:
            for seed in range(args.first_seed, args.first_seed + (args.seeds or seeds)):
                result = train(env, policy, seed, runs)
                value = result["eval"]["mean_return"]
                good = value >= lowest and (most_steps is None or result["env_steps"] <= most_steps)
                rows.append({"env": env, "policy": policy, "seed": seed, "bar": lowest, "ok": good, **result})
                print(
                    f"{env:<25} {policy:<10} seed {seed:>3}: {value:>8.2f} (bar {lowest:g}) in "
                    f"{result['env_steps']:>9,} env steps, {result['wall_seconds']:>5.1f} s, "
                    f"{result['stopped_by']:<15} {'ok' if good else 'MISSED'}",
                    flush=True,
                )
    return rows


def table(results: list[dict]) -> str:
    """A Markdown table: a line per environment and precision."""
    lines = [
        "| environment | precision | bar | worst seed | mean | env steps, median | seconds, median | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, float], list[dict]] = {}
    for row in results:
        groups.setdefault((row["env"], row["policy"], row["bar"]), []).append(row)
    for (env, policy, bar), rows in groups.items():
        returns = [row["eval"]["mean_return"] for row in rows]
        lines.append(
            f"| {env} | {policy} | {bar:g} | {min(returns):.1f} | {mean(returns):.1f} "
            f"| {median(row['env_steps'] for row in rows):,.0f} "
            f"| {median(row['wall_seconds'] for row in rows):.1f} | {len(rows)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    arguments = tyro.cli(Args)
    with tempfile.TemporaryDirectory() as folder:
        results = run(arguments, arguments.runs or Path(folder))
    missed = [row for row in results if not row["ok"]]
    print(table(results))
    print(f"{len(results) - len(missed)} of {len(results)} runs met their bar")
    for row in results:
        row.pop("run_dir")
    write_record(arguments.json, {"runs": results})
    sys.exit(1 if missed else 0)
