"""Quantise and repair: a float policy trained by gradients becomes int8 and binary, and the search repairs it.

    python scripts/studies/repair.py --out repair --publish docs/results/repair.json   # the table of docs/repair.md

Per environment and seed: PPO trains a float32 policy; `train --init` quantises it (post-training, calibrated on its own
observations) and searches from there by returns alone; beside it, PPO with straight-through gradients goes on from the
same quantised policy. Both deploy the last policy: to choose by evaluations would be further training data. Every
return is the mean over `--episodes` fresh episodes. Runs share out the cores, and finished ones are kept.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import finished, run_configs, summary, write_record

from polystep_rl.analysis.stats import iqm
from polystep_rl.settings.algorithms import PPOConfig
from polystep_rl.settings.presets import preset
from polystep_rl.settings.run import TrainConfig

PRECISIONS = ("int8", "binary")


@dataclass
class Args:
    """Train, quantise, repair."""

    out: Path = Path("repair")
    """Where the run folders go; what is finished there is kept."""
    publish: Path | None = None
    """Write the table as JSON to this file."""
    envs: tuple[str, ...] = ("Acrobot-v1", "HalfCheetah-v5", "Hopper-v5")
    """Environments."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the float policies and of the searches."""
    float_steps: int = 1_000_000
    """Env steps of PPO for a float policy; a fifth of them on Acrobot."""
    hidden: tuple[int, ...] | None = None
    """Hidden layers of the float policies; by default one of 16 units, of 32 on Hopper, where 16 signs are too few."""
    repair_steps: int | None = None
    """Env steps of a repair; by default those of the preset, at most 3 million."""
    ste_steps: int = 300_000
    """Env steps of straight-through fine-tuning."""
    episodes: int = 128
    """Fresh episodes behind every return."""
    jobs: int = 2
    """Runs side by side."""
    ste: bool = True
    """Also fine-tune with straight-through gradients."""


def float_config(env: str, seed: int, args: Args) -> TrainConfig:
    """PPO on float32."""
    steps = args.float_steps // 5 if env == "Acrobot-v1" else args.float_steps
    return dataclasses.replace(
        preset(env, "float32", "tuned", "ppo"),
        seed=seed,
        hidden=((32,) if env == "Hopper-v5" else (16,)) if args.hidden is None else args.hidden,
        total_timesteps=steps,
        eval_freq=steps // 10,
        eval_episodes=32,
        test_episodes=args.episodes,
    )


def repair_config(env: str, precision: str, seed: int, start: Path, args: Args) -> TrainConfig:
    """The search from a quantised float policy."""
    config = preset(env, precision, "repair")
    steps = args.repair_steps or config.total_timesteps
    assert steps is not None
    return dataclasses.replace(
        config,
        seed=seed,
        init=str(start),
        total_timesteps=steps,
        eval_freq=steps // 20,
        eval_episodes=32,
        stop_reward=None,
        deploy="last",
        test_episodes=args.episodes,
    )


def ste_config(env: str, precision: str, seed: int, start: Path, args: Args) -> TrainConfig:
    """Straight-through fine-tuning from the same quantised policy, with a smaller step."""
    config = preset(env, precision, "tuned", "ppo-ste")
    assert isinstance(config.search, PPOConfig)
    return dataclasses.replace(
        config,
        seed=seed,
        init=str(start),
        total_timesteps=args.ste_steps,
        eval_freq=args.ste_steps // 20,
        eval_episodes=32,
        deploy="last",
        test_episodes=args.episodes,
        search=dataclasses.replace(config.search, log_std_init=-2.0),
    )


def rows(args: Args) -> list[dict[str, Any]]:
    """A row per environment and precision: IQM over the seeds of every return."""
    found = []
    for env in args.envs:
        for precision in PRECISIONS:
            runs = []
            for seed in args.seeds:
                repaired = finished(args.out / f"{env}__repair-{precision}__{seed}", summary)
                tuned = finished(args.out / f"{env}__ste-{precision}__{seed}", summary)
                if repaired is not None:
                    runs.append(
                        {
                            "seed": seed,
                            "float": repaired["init"]["given_return"],
                            "quantised": repaired["init"]["start_return"],
                            "chosen": repaired["init"].get("chosen"),
                            "repaired": repaired["eval"]["mean_return"],
                            "env_steps": repaired["env_steps"],
                            "ste": None if tuned is None else tuned["eval"]["mean_return"],
                        }
                    )
            if runs:
                row: dict[str, Any] = {"env": env, "policy": precision, "runs": runs}
                for name in ("float", "quantised", "repaired", "ste", "env_steps"):
                    values = [r[name] for r in runs if r[name] is not None]
                    row[name] = float(iqm(np.array(values))) if values else None
                found.append(row)
    return found


def table(found: list[dict[str, Any]]) -> str:
    """The rows as Markdown; a share is 1 + (repaired - float) / |float|, as some returns are negative."""
    heads = ("environment", "precision", "float", "quantised", "repaired", "of float", "env steps", "straight-through")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in found:
        share = 1 + (row["repaired"] - row["float"]) / abs(row["float"])
        ste = "-" if row["ste"] is None else f"{row['ste']:,.1f}"
        returns = f"{row['float']:,.1f} | {row['quantised']:,.1f} | **{row['repaired']:,.1f}** | {100 * share:.0f} %"
        lines.append(f"| {row['env']} | {row['policy']} | {returns} | {row['env_steps']:,.0f} | {ste} |")
    return "\n".join(lines) + "\n"


def main(args: Args) -> None:
    starts = {(env, seed): args.out / f"{env}__float__{seed}" for env in args.envs for seed in args.seeds}
    run_configs({folder: float_config(*key, args) for key, folder in starts.items()}, args.jobs, args.out)
    later: dict[Path, TrainConfig] = {}
    for (env, seed), start in starts.items():
        for precision in PRECISIONS:
            later[args.out / f"{env}__repair-{precision}__{seed}"] = repair_config(env, precision, seed, start, args)
            if args.ste:
                later[args.out / f"{env}__ste-{precision}__{seed}"] = ste_config(env, precision, seed, start, args)
    run_configs(later, args.jobs, args.out)
    found = rows(args)
    print(table(found), end="")
    write_record(args.publish, {"rows": found})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
