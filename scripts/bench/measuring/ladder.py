"""Every precision and size on three tasks: living steps per second, and which part of the arithmetic limit that is.

Random policies, as many as keep all devices busy for a fraction of a second, all of them and the limit in turns; the
best turn of each counts. Operations are those of `operations`: what the policy and the simulator of one lane need for
one living step, and nothing for lanes that idle, refills, results, or the copies of weights; the limit is that of
`peak`, in the same minutes.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from typing import Any, NamedTuple

import jax
from bench.measuring import operations, peak
from bench.peers.protocol import timed

from polystep_rl.envs import make
from polystep_rl.policies import make_policy
from polystep_rl.rollout.device import DeviceEvaluator
from polystep_rl.types import PRECISIONS

ENVS = {"CartPole-v1": 22, "Acrobot-v1": 480, "Pendulum-v1": 200}  # and about how long random policies last, steps
HIDDEN = (16, 64, 256)
EPISODES = 8
SECONDS = {"cpu": 0.25}  # that a turn should take, at a fifth of RATE operations per second on each device
RATE = {"cpu": 8e10}
OTHER_SECONDS, OTHER_RATE = 0.5, 4e13


class Settings(NamedTuple):
    """How much of it."""

    envs: tuple[str, ...] = tuple(ENVS)
    precisions: tuple[str, ...] = PRECISIONS
    hidden: tuple[int, ...] = HIDDEN
    turns: int = 4
    scale: float = 1.0  # of the populations


def measure(settings: Settings = Settings()) -> dict[str, Any]:
    """{"limit": operations per second, "limit_times", "rows": a dictionary per case}."""
    limit, work = peak.prepare()
    cases = [
        _prepare(env, precision, hidden, settings.scale)
        for env in settings.envs
        for precision in settings.precisions
        for hidden in settings.hidden
    ]
    limits: list[dict[str, float]] = []
    for _ in range(settings.turns):
        for index, (run, row) in enumerate(cases):
            if index % 5 == 0:
                limits.append(timed(limit))
            row["times"].append(timed(run))
    fastest = work / min(t["wall"] for t in limits)
    for _, row in cases:
        best = min(row["times"], key=lambda t: t["wall"])
        row["cores"] = best["cpu"] / best["wall"]
        row["living_per_second"] = row["living"] / best["wall"]
        row["operations_per_second"] = row["living_per_second"] * sum(row["operations"].values())
        row["of_limit"] = row["operations_per_second"] / fastest
    return {"limit": fastest, "limit_times": limits, "rows": [row for _, row in cases]}


def _prepare(env_id: str, precision: str, hidden: int, scale: float) -> tuple[Any, dict[str, Any]]:
    """A call that evaluates a population, compiled, and what is known of it."""
    env = make(env_id)
    policy = make_policy(env.spec, (hidden,), precision)
    counted = operations.of_a_step(env, policy)
    n = _candidates(env_id, sum(counted.values()), scale)
    params = jax.block_until_ready(jax.jit(jax.vmap(policy.init))(jax.random.split(jax.random.key(1), n)))
    evaluator = DeviceEvaluator(env, policy, EPISODES)
    evaluate = jax.jit(lambda key, params: evaluator(key, params, lambda x: x))
    call = functools.partial(lambda params: jax.block_until_ready(evaluate(jax.random.key(0), params)), params)
    began = time.perf_counter()
    found = call()
    row = {
        "env": env_id,
        "precision": precision,
        "hidden": hidden,
        "candidates": n,
        "episodes": EPISODES,
        "operations": counted,
        "living": int(found.env_steps),
        "share": int(found.env_steps) / float(found.lane_steps),
        "first_call": time.perf_counter() - began,  # compiles, unless that is cached
        "times": [],
    }
    print(f"{env_id} {precision} {hidden}: ready after {row['first_call']:.1f} s", file=sys.stderr, flush=True)
    return call, row


def _candidates(env_id: str, each: int, scale: float) -> int:
    """Policies that take about the wanted time; a power of 2, at least 64 and at most what 1 GiB of weights allows."""
    backend = jax.default_backend()
    seconds, rate = SECONDS.get(backend, OTHER_SECONDS), RATE.get(backend, OTHER_RATE) / 5
    wanted = scale * seconds * rate * jax.device_count() / (each * ENVS[env_id] * EPISODES)
    most = 18 - max(0, math.log2(each / 1024))
    return 2 ** int(max(6, min(round(math.log2(wanted)), most)))


def table(found: dict[str, Any]) -> str:
    """One line a case."""
    head = f"{'':28}{'policies':>9}{'steps/s':>12}{'share':>7}{'operations':>12}{'G/s':>8}{'of limit':>10}"
    lines = [f"arithmetic limit {found['limit'] / 1e9:,.0f} G operations/s", head + f"{'cores':>7}{'first call':>12}"]
    for row in found["rows"]:
        name = f"{row['env']} {row['precision']} {row['hidden']}"
        line = f"{name:28}{row['candidates']:>9,}{row['living_per_second']:>12,.0f}{row['share']:>7.3f}"
        line += (
            f"{sum(row['operations'].values()):>12,}{row['operations_per_second'] / 1e9:>8.2f}{row['of_limit']:>10.1%}"
        )
        lines.append(line + f"{row['cores']:>7.2f}{row['first_call']:>11.1f}s")
    return "\n".join(lines)


def markdown(found: dict[str, Any]) -> str:
    """A line per task and precision, for the docs: million living steps per second, and the part of the limit."""
    cell = lambda row: f"{row['living_per_second'] / 1e6:.3g} ({row['of_limit']:.0%})"  # noqa: E731
    sizes = sorted({row["hidden"] for row in found["rows"]})
    lines = ["| | " + " | ".join(f"{size} units" for size in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for env, precision in dict.fromkeys((row["env"], row["precision"]) for row in found["rows"]):
        own = {row["hidden"]: row for row in found["rows"] if (row["env"], row["precision"]) == (env, precision)}
        lines.append(f"| {env} {precision} | " + " | ".join(cell(own[size]) for size in sizes) + " |")
    return "\n".join(lines)
