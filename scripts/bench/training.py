"""Seconds to a trained policy, to the first generation, and on one device and all of them.

    python scripts/bench/training.py --json docs/results/bench_training.json

*Training*: Acrobot with binary policies and the tuned preset, until two evaluations in a row return -85, once per seed.
`warm` is the search alone, its programs compiled (they are the same for all seeds), its evaluations included; `command`
is all of `polystep-rl train`, from the start of Python to the final report, with a filled compilation cache. Beside
them: what the published `polystep` package needs for as many living steps, at the rate at which its evaluator simulates
random policies, without its search, its start and its evaluations.

*Seeds*: as many seeds side by side, and one after the other, in turns; both searches alone, their programs compiled,
evaluations included, until CartPole's two evaluations in a row of 500 and Acrobot's of -85. The best time of each
counts.

*Start*: the same command twice, from an empty compilation cache: seconds to the line of its first generation, and to
its end after one generation, with the final report.

*Devices*: one population on one host device and on one per core, in turns; the best time of each counts. `cores` is CPU
time over wall time.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import COMMAND, options, write_record
from bench import rollout
from bench.measuring.cases import cpu_model, measure
from bench.peers.process import POLYSTEP, Peer
from bench.peers.protocol import timed

from polystep_rl.envs import make
from polystep_rl.machine import setup_jax
from polystep_rl.policies import make_policy
from polystep_rl.rollout.device import DeviceEvaluator, Layout
from polystep_rl.runs.parts import make_parts
from polystep_rl.settings.presets import preset
from polystep_rl.training import loop
from polystep_rl.training.programs import initial_progress
from polystep_rl.training.seeds import Seed, train_seeds
from polystep_rl.training.state import Budget, Progress

ENV, PRECISION, RETURN = "Acrobot-v1", "binary", -85.0
FASTER, SECONDS, SCALING = 200, 5.0, 1.8  # bars: times the peer, to the first generation, times one device
STARTS = (("CartPole-v1", "polystep"), ("Acrobot-v1", "polystep"), ("CartPole-v1", "open_es"))


@dataclass
class Args:
    """Measure training, its start, and what devices add."""

    json: Path | None = None
    """Write every figure, with hardware and versions, to this file."""
    seeds: int = 10
    """Training runs."""
    candidates: int = 8192
    """Policies of the population that devices share."""
    turns: int = 7
    """Measurements of each number of devices; the best one counts."""
    peer: bool = True
    """Also measure the published package."""
    envs_dir: Path = rollout.Args.envs_dir
    """Where the virtual environments of the peers are kept."""


def warm(seed: int) -> dict[str, Any]:
    """A search, in a process that may have compiled it before."""
    config = dataclasses.replace(preset(ENV, PRECISION), seed=seed)
    parts = make_parts(config)
    progress = initial_progress(parts.strategy, parts.start, parts.keys.strategy)
    settings = Budget(config.total_timesteps, eval_freq=config.eval_freq, stop_reward=RETURN)
    began = time.perf_counter()
    found = loop.train(parts.strategy, parts.evaluate, parts.evaluate_centre, parts.keys, progress, settings)
    seconds = time.perf_counter() - began
    steps = int(found.progress.env_steps), int(found.progress.eval_env_steps)
    best = float(found.progress.best_return)
    return {"seed": seed, "warm": seconds, "env_steps": steps[0], "eval_env_steps": steps[1], "best_return": best}


def command(folder: str, cache: str, env: str, algo: str, seed: int, *flags: str) -> tuple[float, float]:
    """Seconds of a `polystep-rl train` to the line of its first generation, and to its end."""
    run = [*COMMAND, "train", "--env", env, "--algo", algo, "--policy", PRECISION]
    run += ["--seed", str(seed), "--runs", folder, *flags]
    variables = os.environ | {"POLYSTEP_RL_CACHE": cache, "PYTHONUNBUFFERED": "1"}
    began, first, line = time.perf_counter(), None, ""
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables) as process:
        for line in process.stdout:
            if first is None and line.startswith("gen "):
                first = time.perf_counter() - began
    if process.returncode or first is None:
        raise SystemExit(f"{' '.join(run)} failed: {line.strip()}")
    return first, time.perf_counter() - began


def peer_rate(args: Args, folder: str) -> float:
    """Living steps per second of the published package's evaluator on random float32 policies."""
    policy = make_policy(make(ENV).spec, (16,), "float32")
    params = jax.vmap(policy.init)(jax.random.split(jax.random.key(1), 16))
    weights = rollout.plain_weights(policy.spec, jax.device_get(jax.vmap(policy.deploy)(params)))
    peer = Peer(POLYSTEP, args.envs_dir)
    case = peer.case(ENV, "random", "default", weights, rollout.Args(turns=3), folder)
    measure([case])
    peer.process.stdin.close()
    peer.process.wait()
    return 1e6 * case.rate("living")


def training(args: Args, folder: str) -> dict[str, Any]:
    """Every seed, and how much longer the peer needs for the same steps."""
    warm(100)  # compiles
    runs = [warm(seed) for seed in range(args.seeds)]
    cache = str(Path(folder) / "cache")
    for seed in (100, *range(min(3, args.seeds))):
        _, seconds = command(folder, cache, ENV, "polystep", seed, f"--stop-reward={RETURN}")
        if seed < args.seeds:
            runs[seed]["command"] = seconds
    rate = peer_rate(args, folder) if args.peer else float("nan")
    for run in runs:
        run["peer"] = run["env_steps"] / rate
        run["faster"] = run["peer"] / run["warm"]
        line = f"seed {run['seed']}: {run['env_steps']:>9,} steps (and {run['eval_env_steps']:,} of evaluations), "
        line += f"return {run['best_return']:.1f}, {run['warm']:.3f} s warm, peer {run['peer']:.1f} s: "
        print(line + f"{run['faster']:.0f} times" + (f"; command {run['command']:.2f} s" if "command" in run else ""))
    seconds = sum(run["warm"] for run in runs)
    faster = sum(run["peer"] for run in runs) / seconds
    everything = sum(run["env_steps"] + run["eval_env_steps"] for run in runs) / rate / seconds
    print(f"all seeds: {faster:.0f} times, bar {FASTER}: {'met' if faster >= FASTER else 'MISSED'} ", end="")
    print(f"({everything:.0f} times, were the peer to simulate the evaluations, too)")
    times = {"faster": faster, "faster_with_evaluations": everything, "bar": FASTER}
    return {"runs": runs, "peer_living_per_second": rate, **times}


def side_by_side(args: Args) -> list[dict[str, Any]]:
    """All seeds at once, against one after the other."""
    found = []
    for env, stop in (("CartPole-v1", 500.0), (ENV, RETURN)):
        config = preset(env, PRECISION)
        settings = Budget(config.total_timesteps, eval_freq=config.eval_freq, stop_reward=stop)
        made = [make_parts(dataclasses.replace(config, seed=seed)) for seed in range(args.seeds)]
        common = made[0].strategy, made[0].evaluate, made[0].evaluate_centre

        def start(parts: Any) -> Progress:
            return initial_progress(parts.strategy, parts.start, parts.keys.strategy)

        def alone() -> list[int]:
            results = [loop.train(*common, parts.keys, start(parts), settings) for parts in made]  # noqa: B023
            return [int(result.progress.env_steps) for result in results]

        def together() -> list[int]:
            seeds = [Seed(parts.keys, start(parts)) for parts in made]  # noqa: B023
            results = dict(train_seeds(*common, seeds, settings))  # noqa: B023
            return [int(results[seed].progress.env_steps) for seed in range(len(made))]  # noqa: B023

        same = alone() == together()  # compiles
        turns = [(timed(alone), timed(together)) for _ in range(args.turns)]
        one, many = (min(times, key=lambda t: t["wall"]) for times in zip(*turns, strict=True))
        ratio = one["wall"] / many["wall"]
        line = f"{env}: {args.seeds} seeds {many['wall']:.2f} s side by side, {one['wall']:.2f} s one after the other: "
        print(f"{line}{ratio:.2f} times (CPU time {one['cpu'] / many['cpu']:.2f}), same steps: {same}")
        found.append({"env": env, "seeds": args.seeds, "alone": one, "together": many, "ratio": ratio, "same": same})
    return found


def starts(folder: str) -> list[dict[str, Any]]:
    """Of every case the first and the second start."""
    found = []
    for env, algo in STARTS:
        cache = tempfile.mkdtemp(dir=folder)
        first, second = (command(folder, cache, env, algo, 0, "--generations", "1") for _ in range(2))
        line = f"{env} {algo}: first generation after {first[0]:.2f} s, the second time after {second[0]:.2f} s "
        print(f"{line}(end {second[1]:.2f} s), bar {SECONDS}: {'met' if second[0] < SECONDS else 'MISSED'}")
        found.append({"env": env, "algo": algo, "first": first, "second": second, "bar": SECONDS})
    return found


def devices(args: Args) -> list[dict[str, Any]]:
    """One host device, and one per core."""
    found, key = [], jax.random.key(0)
    for env_id in ("CartPole-v1", "Acrobot-v1"):
        env = make(env_id)
        policy = make_policy(env.spec, (16,), PRECISION)
        params = jax.vmap(policy.init)(jax.random.split(jax.random.key(1), args.candidates))
        calls, costs = [], []
        for some in (jax.devices()[:1], jax.devices()):
            evaluator = DeviceEvaluator(env, policy, 8, Layout(devices=tuple(some)))
            evaluate = jax.jit(functools.partial(evaluator, key, decode=lambda x: x))
            costs.append(np.asarray(evaluate(params).cost))
            calls.append(functools.partial(lambda f, params: jax.block_until_ready(f(params)), evaluate, params))
        turns = [[timed(call) for call in calls] for _ in range(args.turns)]
        one, many = (min(times, key=lambda t: t["wall"]) for times in zip(*turns, strict=True))
        ratio, same = one["wall"] / many["wall"], bool((costs[0] == costs[1]).all())
        cores = " and ".join(f"{t['cpu'] / t['wall']:.2f}" for t in (one, many))
        line = f"{env_id}: {jax.device_count()} devices {ratio:.2f} times one (cores {cores}), same costs: {same}; "
        print(f"{line}bar {SCALING}: {'met' if ratio >= SCALING else 'MISSED'}")
        found.append({"env": env_id, "devices": jax.device_count(), "one": one, "many": many, "ratio": ratio})
        found[-1] |= {"same_costs": same, "bar": SCALING}
    return found


def main(args: Args) -> None:
    """Measure and print."""
    setup_jax()
    with tempfile.TemporaryDirectory() as folder:
        record = {
            "devices": devices(args),
            "seeds": side_by_side(args),
            "starts": starts(folder),
            "training": training(args, folder),
        }
    write_record(args.json, {"args": options(args), **record}, cpu=cpu_model(), load_average=os.getloadavg())


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
