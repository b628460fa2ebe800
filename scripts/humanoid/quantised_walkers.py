"""What quantisation alone costs float policies of G1: how long they stay up in int8 and in binary, before any repair.

    python scripts/humanoid/quantised_walkers.py docs/results/g1/float32{,_seed1,_seed2} \\
        --json docs/results/g1/quantised.json

Each policy plays some episodes, is quantised on what it saw as by `train --init`, and both are judged on the same
held-out episodes. Binary policies have several one-bit weights for each input.
"""

from __future__ import annotations

import functools
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import write_record

from polystep_rl.envs import make_any
from polystep_rl.machine import setup_jax
from polystep_rl.policies import mlp_policy
from polystep_rl.policies.quantisation.post_training import agreement, quantise
from polystep_rl.rollout.calibration import observations
from polystep_rl.rollout.host import HostEvaluator
from polystep_rl.runs.start import given_policy
from polystep_rl.runs.task import CALIBRATION_SEED
from polystep_rl.types import HostEnv, Params, PolicySpec

TASK = "G1JoystickFlatTerrain"
WANTED = (("int8", 1), ("binary", 4), ("binary", 8))  # precision, one-bit weights for each input


@dataclass
class Args:
    """Quantise float policies of G1 and judge them."""

    policies: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders or policy files."""
    json: Path | None = None
    """Write every figure, with hardware and versions, to this file."""
    episodes: int = 256
    """Held-out episodes."""
    seed: int = 9
    """Of these."""


def length(env: HostEnv, spec: PolicySpec, params: Params, args: Args) -> float:
    """Mean length of the held-out episodes."""
    with HostEvaluator(env, mlp_policy(spec), args.episodes) as evaluator:
        one = jax.tree.map(lambda x: jnp.asarray(x)[None], params)
        return float(np.mean(evaluator(jax.random.key(args.seed), one, lambda p: p).lengths))


def rows_of(path: Path, env: HostEnv, args: Args) -> list[dict[str, Any]]:
    """The float policy, and what becomes of it: length, and how far the actions are off in units of the box."""
    spec, params = given_policy(path)
    policy = mlp_policy(spec)
    seen = observations(
        env, jax.random.key(CALIBRATION_SEED), 16, functools.partial(policy.act_deployed, policy.deploy(params))
    )
    whole = length(env, spec, params, args)
    rows: list[dict[str, Any]] = [{"policy": str(path), "precision": "float32", "copies": 1, "length": whole}]
    for precision, copies in WANTED:
        began = time.perf_counter()
        made = quantise(spec, params, precision, seen, weight_copies=copies)
        seconds = time.perf_counter() - began
        off = agreement(spec, params, made.spec, made.params, seen)
        row = {"policy": str(path), "precision": precision, "copies": copies, "chosen": made.chosen, **off}
        rows.append({**row, "seconds": seconds, "length": length(env, made.spec, made.params, args)})
    return rows


def main(args: Args) -> None:
    warnings.simplefilter("ignore")
    setup_jax()
    env = make_any(TASK, "envpool")
    assert isinstance(env, HostEnv)
    rows = []
    print(f"{'policy':<30} {'precision':<10} {'bits':>4} {'length':>7} {'of float':>8} {'action off by':>13}")
    for path in args.policies:
        found = rows_of(path, env, args)
        rows += found
        for row in found:
            share, off = row["length"] / found[0]["length"], row.get("action_rmse", 0.0)
            name = f"{str(path)[-30:]:<30} {row['precision']:<10} {row['copies']:>4}"
            print(f"{name} {row['length']:>7.1f} {share:>8.0%} {off:>13.4f}", flush=True)
    write_record(args.json, {"rows": rows})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
