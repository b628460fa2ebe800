"""``polystep-rl verify BUNDLE``: whether all that a bundle holds acts like the policy that was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from polystep_rl.cli.options import parse_options, print_json
from polystep_rl.deploy.verify import Checks, verified
from polystep_rl.errors import ConfigError
from polystep_rl.machine import setup_jax
from polystep_rl.types import INTEGER_PRECISIONS


@dataclass(frozen=True)
class VerifyArgs:
    """Show that the C, the ONNX graph and NumPy's policy of a bundle act exactly like the policy in JAX."""

    bundle: Annotated[Path, tyro.conf.Positional]
    """Folder that `export --to bundle` wrote."""
    random: int = 1_000_000
    """Random observations: those of an integer policy on the ties of its quantiser, infinite and NaN, too."""
    on_policy: int = 100_000
    """Observations that the compiled policy meets in the environment, at least."""
    episodes: int = 100
    """Episodes of the closed loop, in which the actions of the compiled policy are compared with those of JAX."""
    sanitize: bool = True
    """Also build with -fsanitize=address,undefined."""
    seed: int = 0
    """Seed of the random observations."""
    json: bool = False
    """Print one JSON object as the last line of standard output, and nothing else there."""


def run(argv: list[str]) -> int:
    """Entry point; returns the exit code: 1 where anything differs."""
    args = parse_options(VerifyArgs, "verify", argv)
    for name in ("random", "on_policy", "episodes"):
        if getattr(args, name) < (1 if name == "episodes" else 0):
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(args, name)}: expected a positive number")
    if not args.bundle.is_dir():
        raise ConfigError(f"{args.bundle}: no such folder; expected one that `polystep-rl export RUN` wrote")

    setup_jax()
    checks = Checks(args.random, args.on_policy, args.episodes, args.sanitize, args.seed)
    found = verified(args.bundle, checks)
    if args.json:
        print_json(found)
    else:
        _print(found)
    return 0 if found["verdict"] != "different" else 1


def _print(result: dict[str, Any]) -> None:
    fine = "bit-exact" if result["precision"] in INTEGER_PRECISIONS else "within 1e-5"
    print(f"{result['env']} {result['precision']}: {result['bundle']}")
    for key, check in result["checks"].items():
        said = fine if not check["wrong"] else f"{check['wrong']} differ; the first: {check['first']}"
        print(f"  {key:<28} {check['observations']:>9,} observations  {said}")
    for reason in result["skipped"]:
        print(f"  not checked: {reason}")
    mismatches = result["selftest_mismatches"]
    print(f"  {'C self-test':<28} {'right' if not mismatches else f'{mismatches} mismatches'}")
    print(
        f"  mean return over {result['episodes']} episodes: deployed {result['return_deployed']:.6g}, "
        f"trained {result['return_trained']:.6g}",
    )
    print(result["verdict"])
