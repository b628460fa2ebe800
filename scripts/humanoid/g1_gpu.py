"""G1 on a GPU: raw stepping rate of MJX, ours inside a population rollout, and training that goes on where it was.

    python scripts/humanoid/g1_gpu.py --out g1_gpu     # in calls of at most ten minutes, as often as wanted
    python scripts/humanoid/g1_gpu.py --task CartpoleBalance --environments 64 --steps 20 --generations 2   # on a CPU

One command, repeated: it measures the rates that are not in OUT/rates.json yet, and then trains in OUT/run-POLICY until
the time is up, from the checkpoint if there is one. Raw is a scan over Playground's own step function with zero
actions, of robots that have fallen as of those that stand; ours counts the living steps of whole evaluations. Training
has the preset's settings but for a population that fills a GPU: 256 directions and 16 episodes, 8,192 robots at once.
No GPU was at hand when this was written: on a CPU it was run on CartpoleBalance only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import COMMAND, write_record

from polystep_rl.envs import make
from polystep_rl.envs.robots.locomotion import gait_sides, is_tracked
from polystep_rl.machine import setup_jax
from polystep_rl.policies import make_policy
from polystep_rl.rollout.device import DeviceEvaluator, Layout
from polystep_rl.rollout.population import RolloutConfig
from polystep_rl.rollout.score import Horizon
from polystep_rl.types import Env

TASK = "G1JoystickFlatTerrain"
CANDIDATES = 64


@dataclass
class Args:
    """Measure and train G1 on a GPU, a call at a time."""

    out: Path = Path("g1_gpu")
    """Where rates.json and the run are; the next call goes on from there."""
    minutes: float = 9.0
    """Of this call."""
    environments: tuple[int, ...] = (1024, 4096, 16384)
    """Simulated at once."""
    task: str = TASK
    """Of Playground's."""
    steps: int = 200
    """Of an episode, at most, while rates are measured."""
    impl: str = "jax"
    """MJX's implementation: jax, or warp where warp-lang is installed."""
    policy: str = "float32"
    """Precision of the training run."""
    train: bool = True
    """Train once the rates are there."""
    total_timesteps: int = 300_000_000
    """Budget of the training run."""
    generations: int | None = None
    """Another bound on it."""
    directions: int = 256
    """Half as many candidates as a generation has."""
    episodes: int = 16
    """Per candidate."""


def raw_rate(env: Env, count: int, steps: int) -> float:
    """Steps per second of the simulator alone."""
    actions = jnp.zeros((count, *env.spec.action_space.shape))

    def step(state: Any, _: None) -> tuple[Any, None]:
        return jax.vmap(env.step)(state, actions).state, None

    run = jax.jit(lambda state: jax.lax.scan(step, state, None, length=steps)[0])
    state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), count))[0]
    state = jax.block_until_ready(run(state))
    began = time.perf_counter()
    jax.block_until_ready(run(state))
    return count * steps / (time.perf_counter() - began)


def our_rate(env: Env, count: int, steps: int) -> float:
    """Living steps per second of evaluations, as many lanes, two episodes for each of them."""
    sides = gait_sides(env.spec.id) if is_tracked(env.spec.id) else None
    policy = make_policy(env.spec, (), "float32", sides=sides)
    one = jax.tree.map(jnp.zeros_like, policy.init(jax.random.key(0)))
    params = jax.tree.map(lambda x: jnp.broadcast_to(x, (CANDIDATES, *x.shape)), one)
    layout = Layout(RolloutConfig(lanes=count))
    evaluator = DeviceEvaluator(env, policy, max(1, 2 * count // CANDIDATES), layout, horizon=Horizon(steps))
    run = jax.jit(lambda key: evaluator(key, params, lambda x: x).env_steps)
    jax.block_until_ready(run(jax.random.key(1)))
    began = time.perf_counter()
    living = int(run(jax.random.key(2)))
    return living / (time.perf_counter() - began)


def measure(args: Args, deadline: float) -> None:
    """The rates that are not there yet, while there is time."""
    file = args.out / "rates.json"
    rates = json.loads(file.read_text())["rates"] if file.exists() else []
    there = {(row["environments"], row["impl"], row["steps"]) for row in rates}
    missing = [count for count in args.environments if (count, args.impl, args.steps) not in there]
    if not missing:
        return
    env = make(args.task, impl=args.impl)
    for count in missing:
        if time.monotonic() > deadline:
            return
        raw, ours = raw_rate(env, count, args.steps), our_rate(env, count, args.steps)
        row = {"environments": count, "impl": args.impl, "steps": args.steps, "raw": raw, "ours": ours}
        rates.append(row | {"ratio": ours / raw})
        write_record(file, {"rates": rates})
        print(f"{count:>6} environments: raw {raw:,.0f} steps/s, ours {ours:,.0f}, {ours / raw:.2f} of it", flush=True)


def train(args: Args, seconds: float) -> int:
    """A training run until the time is up."""
    run = args.out / f"run-{args.policy}"
    command = [*COMMAND, "train"]
    if (run / "config.yaml").exists():
        spent = json.loads((args.out / "spent.json").read_text())
        command += ["--resume", str(run)]
    else:
        spent = 0.0
        command += ["--env", args.task, "--simulator", "jax", "--env-kwarg", f"impl={args.impl}"]
        command += ["--policy", args.policy, "--run-dir", str(run), "--total-timesteps", str(args.total_timesteps)]
        command += ["--subspace-size", str(args.directions), "--particle-dim", str(args.directions)]
        command += ["--episodes", str(args.episodes), "--generations", str(args.generations)]
    command += ["--wall-seconds", str(spent + seconds)]
    (args.out / "spent.json").write_text(json.dumps(spent + seconds))
    return subprocess.run(command, check=False).returncode


def main(args: Args) -> int:
    began = time.monotonic()
    setup_jax()
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"{jax.default_backend()}: {jax.devices()[0].device_kind}", flush=True)
    measure(args, began + 60 * args.minutes)
    left = 60 * args.minutes - (time.monotonic() - began)
    return train(args, left) if args.train and left > 60 else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
