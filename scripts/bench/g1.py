"""Env steps per second of whole PolyStep generations on G1, beside EnvPool's own in the same run.

    python scripts/bench/g1.py --json docs/results/bench_g1.json

A generation is everything: asking, decoding, episodes, telling. At the start of a search its policy is zero, so that
episodes are about as long as those of EnvPool alone, which is driven with zero actions, as many lanes and a thread per
core. A turn's ratio is that of a generation to the mean of EnvPool's speed right before and right after; the median of
the turns counts. With common random numbers the lanes are made anew for every wave of episodes, which costs the more,
the shorter these are: the last two lines are generations around a policy that stays up, as most of a search is. Both
sides have the robot without its meshes, which is as fast to step, and quicker to make.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from jax.tree_util import Partial

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import ROOT
from bench.host import beside, conclude, envpool_rate

from polystep_rl.envs import make_any
from polystep_rl.envs.robots.locomotion import gait_sides
from polystep_rl.envs.robots.playground_models import tree_without_visuals
from polystep_rl.machine import setup_jax
from polystep_rl.policies import make_policy, mlp_policy
from polystep_rl.policies.io import read_policy
from polystep_rl.rollout.host import HostEvaluator, HostLayout
from polystep_rl.runs.polystep import build_strategy
from polystep_rl.settings.algorithms import SearchConfig
from polystep_rl.types import HostEnv

TASK = "G1JoystickFlatTerrain"
BAR = 0.9


@dataclass
class Args:
    """Measure PolyStep's generations on G1 against EnvPool's own speed."""

    json: Path | None = None
    """Write every figure, with hardware and versions, to this file."""
    turns: int = 7
    """Generations; the median of the ratios counts."""
    seconds: float = 5.0
    """Length of a measurement of EnvPool alone."""
    lanes: int = 256
    """Simulator lanes."""
    episodes: int = 8
    """Per candidate, of which there are 64; of the trained policy, a fourth."""
    trained: Path = ROOT / "docs" / "results" / "g1" / "float32"
    """A policy of the task that stays up."""


def generation(env: HostEnv, args: Args, trained: bool) -> tuple[Callable[[int], float], Callable[[], None]]:
    """A function that runs a generation and gives its env steps per second, and one that gives the lanes back."""
    if trained:
        saved = read_policy(args.trained)
        policy, start = mlp_policy(saved.spec), jax.tree.map(jnp.asarray, saved.params)
        episodes = max(1, args.episodes // 4)
    else:
        policy, episodes = make_policy(env.spec, (), "float32", sides=gait_sides(TASK)), args.episodes
        start = jax.tree.map(jnp.zeros_like, policy.init(jax.random.key(0)))
    strategy = build_strategy(SearchConfig(subspace_size=32, particle_dim=32, probe_radius=0.1, step_radius=0.1))
    state = strategy.init(jax.random.key(1), start)
    ask, tell = jax.jit(strategy.ask), jax.jit(strategy.tell)
    evaluator = HostEvaluator(env, policy, episodes, HostLayout(lanes=args.lanes))

    def run(turn: int) -> float:
        began = time.perf_counter()
        proposal = ask(jax.random.key(turn), state)
        found = evaluator(jax.random.key(turn), proposal.candidates, Partial(strategy.decode, state))
        jax.block_until_ready(tell(state, proposal, jnp.asarray(found.cost)))
        return float(found.env_steps) / (time.perf_counter() - began)

    return run, evaluator.close


def measure(crn: bool, trained: bool, args: Args) -> dict[str, Any]:
    """With or without common random numbers, at the start or later on, in turns with EnvPool alone."""
    import envpool

    env = make_any(TASK, "envpool", crn=crn)
    assert isinstance(env, HostEnv)
    models = tree_without_visuals(envpool.make_spec(f"{TASK}-v1").config.base_path)
    alone = envpool_rate(f"{TASK}-v1", args.lanes, 1, args.seconds, base_path=models)
    run, close = generation(env, args, trained)
    found = beside(run, alone, args.turns)
    close()
    row = {"env": TASK, "crn": crn, "trained": trained, "lanes": args.lanes}
    return {**row, **found, "met": found["ratio"] >= BAR}


def main(args: Args) -> None:
    warnings.simplefilter("ignore")
    setup_jax()
    load_before, rows = os.getloadavg(), []
    print(f"{'common random numbers':<22} {'policy':<8} {'lanes':>5} {'ours/s':>8} {'alone/s':>8} {'ratio':>6}  bar")
    for crn, trained in ((False, False), (True, False), (False, True), (True, True)):
        row = measure(crn, trained, args)
        rows.append(row)
        verdict = f"{BAR} {'met' if row['met'] else 'MISSED'}"
        speeds = f"{row['ours']:>8,.0f} {row['alone']:>8,.0f} {row['ratio']:>6.2f}"
        name = "trained" if trained else "zero"
        print(f"{str(crn):<22} {name:<8} {args.lanes:>5} {speeds}  {verdict}", flush=True)
    conclude(rows, load_before, args.json)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
