"""Do EnvPool and Playground on MJX simulate the same G1? Means over episodes of both, and whether they agree.

    python scripts/humanoid/g1_agreement.py --json docs/results/g1/agreement.json

Resets are random: both simulators draw from the same distribution, each with its own generator, so that means are
compared, not episodes. A difference is given in standard errors (Welch's). Two policies that know nothing: zero actions
and one fixed linear policy. MJX simulates tens of steps a second on a CPU; all of it takes a quarter of an hour there.
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import write_record

from polystep_rl.envs import make_any
from polystep_rl.envs.robots.locomotion import gait_sides
from polystep_rl.machine import setup_jax
from polystep_rl.policies import make_policy
from polystep_rl.rollout.recording import Recorded, record
from polystep_rl.types import TERM
from polystep_rl.walking.judge import SECONDS_PER_STEP

TASK = "G1JoystickFlatTerrain"
SIMULATORS = ("envpool", "jax")
LIMIT = 3.0  # standard errors


@dataclass
class Args:
    """Compare the two simulators of G1."""

    json: Path | None = None
    """Write every figure, with hardware and versions, to this file."""
    episodes: int = 256
    """Of each simulator and policy."""
    batch: int = 256
    """Episodes at once."""
    seed: int = 0
    """Of the resets."""


def sums(recorded: Recorded) -> dict[str, np.ndarray]:
    """What is compared, of every episode: length, return, and what each term adds to the return."""
    terms = {name: values.sum(axis=0) * SECONDS_PER_STEP for name, values in recorded.metrics.items() if TERM in name}
    return {"length": recorded.alive.sum(axis=0), "return": recorded.reward.sum(axis=0), **terms}


def episodes_of(simulator: str, gain: float, args: Args) -> tuple[dict[str, np.ndarray], float]:
    """The sums of all episodes, and env steps per second, compilation excluded where there is more than one batch."""
    env = make_any(TASK, simulator, {} if simulator == "envpool" else {"impl": "jax"})
    policy = make_policy(env.spec, (), "float32", sides=gait_sides(TASK))
    params = jax.tree.map(lambda x: gain * x, policy.init(jax.random.key(7)))
    found, began = [], time.perf_counter()
    for batch in range(0, args.episodes, args.batch):
        key = jax.random.fold_in(jax.random.key(args.seed), batch)
        found.append(sums(record(env, policy, params, min(args.batch, args.episodes - batch), key)))
    seconds = time.perf_counter() - began
    values = {name: np.concatenate([part[name] for part in found]).astype(float) for name in found[0]}
    return values, values["length"].sum() / seconds


def compared(ours: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Two samples: means, and their difference in standard errors; 0 where both are one and the same constant."""
    error = np.sqrt(ours.var(ddof=1) / len(ours) + other.var(ddof=1) / len(other))
    apart = float(ours.mean() - other.mean())
    if error == 0:
        return {"means": [ours.mean(), other.mean()], "standard_errors": 0.0 if apart == 0 else float("inf")}
    return {"means": [float(ours.mean()), float(other.mean())], "standard_errors": apart / float(error)}


def main(args: Args) -> None:
    warnings.simplefilter("ignore")
    setup_jax()
    rows = []
    for policy, gain in (("zero", 0.0), ("linear", 1.0)):
        found = {simulator: episodes_of(simulator, gain, args) for simulator in SIMULATORS}
        (ours, _), (other, _) = (found[simulator] for simulator in SIMULATORS)
        names = sorted(ours.keys() & other.keys(), key=lambda name: (name.startswith(TERM), name))
        print(f"{policy} policy, {args.episodes} episodes: {'EnvPool':>21} {'MJX':>10} {'difference in SE':>18}")
        for name in names:
            row = compared(ours[name], other[name])
            if row["means"] == [0.0, 0.0]:
                continue
            agree = abs(row["standard_errors"]) <= LIMIT
            rows.append({"policy": policy, "quantity": name, **row, "agree": agree})
            (a, b), apart = row["means"], row["standard_errors"]
            print(f"  {name:<40} {a:>10.4f} {b:>10.4f} {apart:>12.2f}  {'' if agree else 'APART'}", flush=True)
        for simulator in SIMULATORS:
            print(f"  {simulator}: {found[simulator][1]:,.0f} env steps/s, compilation included")
        missing = sorted(ours.keys() ^ other.keys())
        if missing:
            print(f"  only in one of them: {', '.join(missing)}")
    write_record(args.json, {"rows": rows})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
