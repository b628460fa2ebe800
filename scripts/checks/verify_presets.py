"""Train, export and verify a policy of every environment with a preset: does what is deployed act like the trained one?

    python scripts/checks/verify_presets.py --json docs/results/deploy/verify.json
    python scripts/checks/verify_presets.py --envs G1JoystickFlatTerrain --timesteps 20000 --json ...

Trains with the presets for ``--timesteps`` env steps at most (whether a policy is good does not matter here), writes
each bundle, and verifies it as `polystep-rl verify` does. Rows in the JSON file are replaced, others stay.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import COMMAND, write_record

ENVS = (
    "CartPole-v1",
    "Acrobot-v1",
    "Pendulum-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "LunarLander-v3",
    "HalfCheetah-v5",
    "Swimmer-v5",
    "Hopper-v5",
    "Humanoid-v5",
    "G1JoystickFlatTerrain",
    "G1JoystickRoughTerrain",
)


@dataclass
class Args:
    """Train, export and verify a policy of every environment with a preset."""

    envs: tuple[str, ...] = ENVS
    """Environments."""
    policies: tuple[str, ...] = ("float32", "int8", "binary")
    """Precisions."""
    timesteps: int = 200_000
    """Env steps of training, at most."""
    seed: int = 0
    """Of training."""
    random: int = 1_000_000
    """Random observations."""
    on_policy: int = 100_000
    """Observations met in the environment, at least."""
    episodes: int = 100
    """Episodes of the closed loop."""
    json: Path | None = None
    """Write the verdicts to this file, with versions."""


def command(*given: object) -> dict[str, Any]:
    """The JSON object that a command prints; an exit code of 1 with one is a verdict, too."""
    done = subprocess.run([*COMMAND, *map(str, given), "--json"], capture_output=True, text=True)
    if done.returncode not in (0, 1) or not done.stdout:
        raise SystemExit(f"polystep-rl {' '.join(map(str, given))}: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout.splitlines()[-1])


def row(env: str, policy: str, args: Args) -> dict[str, Any]:
    """One policy from training to its verdict."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        run = Path(work) / "run"
        budget = ("--total-timesteps", args.timesteps) if args.timesteps else ()
        trained = command("train", "--env", env, "--policy", policy, "--seed", args.seed, "--run-dir", run, *budget)
        exported = command("export", run, "--episodes", min(args.episodes, 20))
        checked = ("--random", args.random, "--on-policy", args.on_policy, "--episodes", args.episodes)
        found = command("verify", run / "bundle", *checked)
    exported.pop("files")
    return {
        "env": env,
        "policy": policy,
        "env_steps": trained.get("env_steps"),
        **{name: found[name] for name in ("verdict", "return_deployed", "return_trained", "skipped", "checks")},
        "export": exported,
        "seconds": round(time.monotonic() - started, 1),
    }


def main(args: Args) -> int:
    """Entry point; 1 where anything differs."""
    rows: dict[str, Any] = {}
    if args.json is not None and args.json.exists():
        rows = json.loads(args.json.read_text(encoding="utf-8"))["rows"]
    different = False
    for env in args.envs:
        for policy in args.policies:
            found = row(env, policy, args)
            rows[f"{env} {policy}"] = found
            different |= found["verdict"] == "different"
            observations = sum(check["observations"] for check in found["checks"].values())
            print(f"{env:<26} {policy:<8} {found['verdict']:<12} {observations:,} comparisons", flush=True)
            write_record(args.json, {"rows": dict(sorted(rows.items()))})
    return int(different)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
