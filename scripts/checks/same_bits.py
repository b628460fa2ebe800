"""Fingerprints short runs of every algorithm, precision and simulator, to show that a change leaves them as they are.

    python scripts/checks/same_bits.py --json before.json                        # with the version before the change
    python scripts/checks/same_bits.py --json after.json --against before.json   # with the version after it

Each case is one command line, run as a process of the installed package. Its fingerprints are the SHA-256 of
`policy.safetensors`, of `policy.json`, and of `metrics.csv` without its time columns. Fingerprints belong to one
machine and one set of package versions: compare only such as were made on the same ones. Exits with 1 where a case
fails or differs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

SHORT = ("--eval-freq", "6000", "--eval-episodes", "8", "--test-episodes", "8", "--total-timesteps", "20000",
         "--stop-reward", "None")  # fmt: skip
HOST = ("--eval-freq", "2000", "--eval-episodes", "4", "--test-episodes", "4", "--total-timesteps", "4000",
        "--stop-reward", "None")  # fmt: skip
GRADIENT = ("--eval-freq", "1000", "--eval-episodes", "4", "--test-episodes", "4", "--total-timesteps", "3000")
CARTPOLE, PENDULUM, ACROBOT = ("--env", "CartPole-v1"), ("--env", "Pendulum-v1"), ("--env", "Acrobot-v1")
ONE_DEVICE = ("--cores", "1")


class Case(NamedTuple):
    """One fingerprinted command line, or several that follow each other in the same folder."""

    commands: tuple[tuple[str, ...], ...]  # flags of `train`
    runs: tuple[str, ...] = ("run",)  # folders that are fingerprinted


def one(*flags: str) -> Case:
    """A case of one run."""
    return Case(((*flags, "--run-dir", "run"),))


def searched(algo: str, *flags: str) -> Case:
    """A population search on CartPole."""
    return one(*CARTPOLE, *SHORT, "--algo", algo, *flags)


CASES: dict[str, Case] = {
    **{f"polystep_{name}": one(*CARTPOLE, *SHORT, "--policy", name)
       for name in ("float32", "int8", "binary", "int8-act", "binary-act")},
    **{algo: searched(algo) for algo in ("open_es", "cma_es", "sep_cma_es", "snes", "pgpe", "ars", "eggroll", "spsa",
                                         "hill_climbing", "random_search", "LM_MA_ES")},
    **{algo: one(*CARTPOLE, *GRADIENT, "--algo", algo, "--policy", "int8")
       for algo in ("ppo", "ppo-ste", "ppo-ptq", "dqn", "dqn-ste", "dqn-ptq")},
    **{algo: one(*PENDULUM, *GRADIENT, "--algo", algo, "--policy", "int8", "--learning-starts", "500")
       for algo in ("sac", "sac-ste", "td3", "td3-ptq")},
    "acrobot_paper": one(*ACROBOT, *SHORT, "--preset", "paper"),
    "pendulum_box": one(*PENDULUM, *SHORT, "--policy", "int8"),
    "mountain_car_box": one("--env", "MountainCarContinuous-v0", *SHORT, "--policy", "float32"),
    "running_statistics": one(*CARTPOLE, *SHORT, "--policy", "float32", "--observation-scale", "running"),
    "races": one(*CARTPOLE, *SHORT, "--starts", "3", "--start-generations", "2"),
    "adam_averaged": one(*PENDULUM, *SHORT, "--optimizer", "adam", "--averaging", "0.5", "--momentum", "0.0"),
    "amortised_sinkhorn": one(*CARTPOLE, *SHORT, "--amortise", "3", "--plan", "sinkhorn", "--probes", "2"),
    "factored_large": one(*PENDULUM, *SHORT, "--policy", "float32", "--hidden", "64", "64", "--subspace", "factored"),
    "full_simplex_kl": one(*CARTPOLE, *SHORT, "--hidden", "4", "--subspace", "full", "--polytope", "simplex",
                           "--plan", "kl"),
    "weight_copies": one(*CARTPOLE, *SHORT, "--weight-copies", "4", "--weight-limit", "1.0"),
    "growing_episodes": one(*CARTPOLE, *SHORT, "--train-horizon", "50", "--train-horizon-final", "200",
                            "--step-penalty", "0.5", "--step-penalty-final", "0.0"),
    "gymnasium": one(*CARTPOLE, *HOST, "--simulator", "gymnasium", "--workers", "0"),
    "gymnasium_workers": one(*ACROBOT, *HOST, "--simulator", "gymnasium", "--workers", "2"),
    "gymnasium_moving": one("--env", "Pendulum-v1", *HOST, "--simulator", "gymnasium", "--workers", "0",
                            "--train-env-kwarg", "g=5.0:10.0"),
    "mujoco_envpool": one("--env", "Hopper-v4", *HOST, "--simulator", "envpool"),
    "mujoco_workers": one("--env", "HalfCheetah-v5", *HOST, "--simulator", "gymnasium", "--workers", "2"),
    "humanoid_envpool": one("--env", "G1JoystickFlatTerrain", *HOST, "--simulator", "envpool"),
    "humanoid_gait": one("--env", "G1JoystickFlatTerrain", *HOST, "--simulator", "envpool", "--structure", "gait",
                         "--policy", "int8"),
    "playground_jax": one("--env", "G1JoystickFlatTerrain", "--simulator", "jax", "--observation-scale", "none",
                          "--max-episode-steps", "4", "--generations", "1", "--total-timesteps", "None",
                          "--subspace-size", "4", "--particle-dim", "4", "--episodes", "1", "--eval-freq", "20",
                          "--eval-episodes", "1", "--test-episodes", "1"),
    "seeds": Case(((*CARTPOLE, *SHORT, "--seeds", "0-2", "--runs", "all"),), ("all/*__0__*", "all/*__1__*",
                                                                              "all/*__2__*")),
    "init": Case(((*CARTPOLE, *SHORT, "--policy", "float32", "--run-dir", "first"),
                  (*CARTPOLE, *SHORT, "--policy", "int8", "--init", "first", "--run-dir", "run"))),
    "resume": Case(((*CARTPOLE, *SHORT, "--run-dir", "run"), ("--resume", "run", "--total-timesteps", "40000"))),
    "resume_host": Case(((*ACROBOT, *HOST, "--simulator", "gymnasium", "--workers", "0", "--run-dir", "run"),
                         ("--resume", "run", "--total-timesteps", "30000"))),
    "two_devices": one(*CARTPOLE, *SHORT, "--cores", "2"),
    "one_device": one(*CARTPOLE, *SHORT, *ONE_DEVICE),
    "one_device_es": one(*PENDULUM, *SHORT, "--algo", "open_es", "--policy", "int8", *ONE_DEVICE),
}  # fmt: skip


def without_times(path: Path) -> bytes:
    """The columns of a metrics.csv that do not depend on the clock, as text."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    kept = [i for i, name in enumerate(rows[0]) if not name.startswith("time/") or name == "time/total_timesteps"]
    return "\n".join(",".join(row[i] for i in kept) for row in rows).encode()


def fingerprints(folder: Path) -> dict[str, str]:
    """File -> SHA-256 of what a run of a given seed determines."""
    contents = {
        "policy.safetensors": (folder / "policy.safetensors").read_bytes(),
        "policy.json": (folder / "policy.json").read_bytes(),
        "metrics.csv": without_times(folder / "metrics.csv"),
    }
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def run(case: Case) -> dict[str, dict[str, str]]:
    """Run folder -> fingerprints. RuntimeError with what a command said where it failed."""
    with tempfile.TemporaryDirectory() as name:
        for flags in case.commands:
            command = [sys.executable, "-P", "-m", "polystep_rl", "train", *flags, "--quiet"]
            ended = subprocess.run(command, cwd=name, capture_output=True, text=True)
            if ended.returncode:
                raise RuntimeError(ended.stderr.strip().splitlines()[-1] if ended.stderr.strip() else "no word")
        found = {}
        for pattern in case.runs:
            (folder,) = Path(name).glob(pattern)
            found[pattern] = fingerprints(folder)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the fingerprints here")
    parser.add_argument("--against", type=Path, help="fingerprints to compare with")
    parser.add_argument("--only", nargs="+", choices=list(CASES), help="these cases alone")
    args = parser.parse_args()
    earlier = json.loads(args.against.read_text()) if args.against else {}
    found: dict[str, dict[str, dict[str, str]]] = {}
    bad = []
    for name in args.only or CASES:
        try:
            found[name] = run(CASES[name])
        except (RuntimeError, OSError, ValueError) as error:
            verdict, good = f"FAILED: {error}", False
        else:
            good = not args.against or earlier.get(name) == found[name]
            verdict = "recorded" if not args.against else "equal" if good else "DIFFERS"
        bad += [] if good else [name]
        print(f"{name:<24} {verdict}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found)} cases run" + (f", {len(bad)} failed or differ: {', '.join(bad)}" if bad else ", none failed"
                                       + (" or differs" if args.against else "")))  # fmt: skip
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
