"""Env steps per second of host evaluation, beside the same simulator driven with constant actions in the same run.

    python scripts/bench/host.py --json docs/results/bench_host.json

Two simulators are driven in turns, several times, by `HostEvaluator` with a population of linear policies, and by
their own vector interface with constant actions: EnvPool with as many lanes and one thread per core, and for
Gymnasium's worker processes `gymnasium.vector.AsyncVectorEnv` with as many lanes. Both sides count living steps only (a
reset is no step) and reset on their own. A turn's ratio is that of ours to the mean of the simulator's own speed right
before and right after; the median of the turns counts. For information EnvPool is also driven as `HostEvaluator`
drives it: two pools in turns, which share the threads, and which are faster than one where steps are cheap.
"""

from __future__ import annotations

import functools
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import write_record

from polystep_rl.envs import make_any
from polystep_rl.machine import setup_jax, usable_cores
from polystep_rl.policies import make_policy
from polystep_rl.rollout.host import HostEvaluator, HostLayout
from polystep_rl.types import HostEnv, Params


class Case(NamedTuple):
    """What is measured: a population of linear policies, and the share of the simulator's speed it should reach."""

    env: str
    simulator: str
    lanes: int
    candidates: int
    episodes: int
    bar: float  # 0: for information
    crn: bool = False  # with them EnvPool makes its lanes anew for every wave of episodes


CASES = (
    Case("Hopper-v5", "envpool", 256, 256, 8, 0.9),
    Case("Humanoid-v5", "envpool", 128, 128, 8, 0.9),
    Case("CartPole-v1", "envpool", 2048, 4096, 8, 0.8),
    Case("Hopper-v5", "gymnasium", 16, 64, 2, 0.85),
    Case("CartPole-v1", "gymnasium", 16, 128, 4, 0.85),
    Case("Hopper-v5", "envpool", 256, 256, 8, 0.0, crn=True),
    Case("HalfCheetah-v5", "envpool", 256, 256, 2, 0.0),
    Case("HalfCheetah-v5", "envpool", 256, 256, 2, 0.0, crn=True),
)


@dataclass
class Args:
    """Measure host evaluation against the simulators' own speed."""

    json: Path | None = None
    """Write every figure, with hardware and versions, to this file."""
    turns: int = 7
    """Measurements of each side; the median of the ratios counts."""
    seconds: float = 2.0
    """Length of a measurement of the simulator alone."""
    only: str = ""
    """Part of a name, such as Hopper or envpool."""


def as_they_are(candidates: Params) -> Params:
    """The decoding of candidates that are parameters: one function, so that it is compiled once."""
    return candidates


def evaluation_rate(evaluator: HostEvaluator, params: Params, turn: int) -> float:
    """Living steps per second of one evaluation of a population."""
    began = time.perf_counter()
    found = evaluator(jax.random.key(turn), params, as_they_are)
    return float(found.env_steps) / (time.perf_counter() - began)


def envpool_rate(env_id: str, lanes: int, groups: int, seconds: float, **options: Any) -> Callable[[], float]:
    """EnvPool alone: zero actions, pools that take turns, as many threads as cores."""
    import envpool

    lanes, threads = lanes // groups, -(-len(usable_cores()) // groups)
    options = {"env_type": "gymnasium", "num_envs": lanes, "num_threads": threads, **options}
    pools = [envpool.make(env_id, **options) for _ in range(groups)]
    space = pools[0].action_space
    action = np.zeros((lanes, *space.shape), space.dtype if space.shape else np.int32)
    everyone = np.arange(lanes, dtype=np.int32)

    def step(pool: Any) -> tuple:
        found = pool.recv()
        pool.send(action, everyone)
        return found

    for pool in pools:
        pool.reset()
        pool.send(action, everyone)
    return lambda: _drive([functools.partial(step, pool) for pool in pools], lanes, seconds)


def gymnasium_rate(case: Case, seconds: float) -> Callable[[], float]:
    """Gymnasium's own worker processes, one per lane, with zero actions."""
    vector = gymnasium.vector.AsyncVectorEnv([lambda: gymnasium.make(case.env)] * case.lanes)
    action = np.zeros(vector.action_space.shape, vector.action_space.dtype)
    vector.reset(seed=0)
    return lambda: _drive([lambda: vector.step(action)], case.lanes, seconds)


def _drive(steps: list[Callable[[], tuple]], lanes: int, seconds: float) -> float:
    """Living steps per second of pools that are stepped in turn: the tick after an episode's end is its reset."""
    living, over, began = 0, [np.zeros(lanes, bool) for _ in steps], time.perf_counter()
    while time.perf_counter() - began < seconds:
        for index, step in enumerate(steps):
            _, _, terminated, truncated, _ = step()
            living += lanes - int(over[index].sum())
            over[index] = terminated | truncated
    return living / (time.perf_counter() - began)


def beside(ours: Callable[[int], float], alone: Callable[[], float], turns: int) -> dict[str, Any]:
    """Env steps per second of ours, and of the simulator alone right before and right after each, in turns.

    Returns:
        Medians ``ours``, ``alone`` and ``ratio``, and every one of the ``ratios``.
    """
    ours(0)  # compiles
    alone()
    rates = []
    for turn in range(1, turns + 1):
        before = alone()
        rates.append((ours(turn), (before + alone()) / 2))
    ratios = [one / other for one, other in rates]
    medians = dict(zip(("ours", "alone"), map(statistics.median, zip(*rates, strict=True)), strict=True))
    return {**medians, "ratio": statistics.median(ratios), "ratios": ratios}


def conclude(rows: list[dict[str, Any]], load_before: tuple[float, float, float], path: Path | None) -> None:
    """Print how busy the machine was, and write the record where it is wanted."""
    print(f"load average {load_before[0]:.2f} before, {os.getloadavg()[0]:.2f} after; {os.cpu_count()} cores")
    write_record(path, {"load_average": [load_before, os.getloadavg()], "cases": rows})


def measure(case: Case, args: Args) -> dict[str, Any]:
    """One case, in turns."""
    env = make_any(case.env, case.simulator, crn=case.crn)
    assert isinstance(env, HostEnv)
    policy = make_policy(env.spec, (), "float32")
    params = jax.vmap(policy.init)(jax.random.split(jax.random.key(0), case.candidates))
    params = jax.tree.map(lambda x: 0 * x, params)  # acts like the constant action, so that episodes are alike
    pooled = case.simulator == "envpool"
    in_groups = functools.partial(envpool_rate, case.env, case.lanes, seconds=args.seconds)
    alone = in_groups(1) if pooled else gymnasium_rate(case, args.seconds)
    with HostEvaluator(env, policy, case.episodes, HostLayout(lanes=case.lanes)) as evaluator:
        found = beside(functools.partial(evaluation_rate, evaluator, params), alone, args.turns)
    if pooled:
        in_turns = in_groups(HostLayout().groups)
        found["alone_in_turns"] = statistics.median(in_turns() for _ in range(args.turns))
    return {**case._asdict(), **found, "met": found["ratio"] >= case.bar}


def main(args: Args) -> None:
    warnings.simplefilter("ignore")
    setup_jax()
    load_before = os.getloadavg()
    rows = []
    print(
        f"{'environment':<14} {'simulator':<11} {'lanes':>5} {'ours/s':>10} {'alone/s':>10} {'in turns/s':>10} "
        f"{'ratio':>6}  bar"
    )
    for case in CASES:
        if args.only.lower() not in f"{case.env} {case.simulator}".lower():
            continue
        row = measure(case, args)
        rows.append(row)
        verdict = f"{case.bar} {'met' if row['met'] else 'MISSED'}" if case.bar else "-"
        print(
            f"{case.env:<14} {case.simulator + ' crn' * case.crn:<11} {case.lanes:>5} {row['ours']:>10,.0f} "
            f"{row['alone']:>10,.0f} {row.get('alone_in_turns', math.nan):>10,.0f} {row['ratio']:>6.2f}  {verdict}",
            flush=True,
        )
    conclude(rows, load_before, args.json)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
