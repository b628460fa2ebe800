"""``polystep-rl envs``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from polystep_rl.cli.options import parse_options


@dataclass(frozen=True)
class EnvsArgs:
    """List the environments, or check one of your own."""

    check: str | None = None
    """Run the checker on this id, or on module:ClassName."""
    simulator: Literal["auto", "jax", "envpool", "gymnasium"] = "auto"
    """With --check: what simulates, as in train."""
    env_kwarg: tuple[str, ...] = ()
    """With --check: keyword arguments of the environment, as name=value."""
    wrapper: tuple[str, ...] = ()
    """With --check: wrappers, innermost first, as in train."""
    max_episode_steps: int | None = None
    """With --check: steps after which an episode is cut; the environment's own limit by default."""
    json: bool = False
    """Print one JSON object as the last line of standard output, and nothing else there."""


def describe(env_id: str) -> dict[str, Any]:
    """The facts of one environment, for the table and for --json."""
    from polystep_rl.runs.task import make_env

    spec = make_env(env_id).spec
    return {
        "id": env_id,
        "observation": list(spec.observation_space.shape),
        "action": str(spec.action_space),
        "horizon": spec.horizon,
        "reward_threshold": spec.reward_threshold,
    }


def run(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    args = parse_options(EnvsArgs, "envs", argv)
    from polystep_rl.cli.options import print_json
    from polystep_rl.envs import check_env, registered_ids
    from polystep_rl.runs.task import Task, make_env

    if args.check is not None:
        task = Task(args.check, args.simulator, args.env_kwarg, args.wrapper, args.max_episode_steps)
        check_env(make_env(task))
        if args.json:
            print_json({"id": args.check, "ok": True})
        else:
            print(f"{args.check}: ok")
        return 0
    rows = [describe(env_id) for env_id in registered_ids()]
    if args.json:
        print_json({"envs": rows})
        return 0
    print(f"{'id':<26} {'observation':>11} {'horizon':>7} {'threshold':>9}  action")
    for row in rows:
        threshold = "-" if row["reward_threshold"] is None else f"{row['reward_threshold']:g}"
        shape = "x".join(map(str, row["observation"]))
        print(f"{row['id']:<26} {shape:>11} {row['horizon']:>7} {threshold:>9}  {row['action']}")
    return 0
