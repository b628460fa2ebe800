"""``polystep-rl eval RUN``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from polystep_rl.cli.options import parse_options, print_json
from polystep_rl.errors import ConfigError
from polystep_rl.machine import setup_jax
from polystep_rl.runs.load import load_run


@dataclass(frozen=True)
class EvalArgs:
    """Evaluate a trained policy on fresh episodes."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder, or a policy file."""
    episodes: int = 256
    """Episodes to average over."""
    seed: int | None = None
    """Seed of the test episodes; the run's own by default. Training never draws from this stream."""
    which: Literal["best", "last"] | None = None
    """The best policy by held-out evaluation during training, or the last; by default the one that the run deploys."""
    figure: Path | None = None
    """For a task that tracks velocities: draw commanded against measured velocity here, as .svg and as .png."""
    json: bool = False
    """Print one JSON object as the last line of standard output, and nothing else there."""


def run(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    args = parse_options(EvalArgs, "eval", argv)
    from polystep_rl.envs.robots.locomotion import G1, is_tracked
    from polystep_rl.runs.judging import check_test, evaluate_on_test

    setup_jax()
    loaded = load_run(args.run, args.which)
    seed = loaded.seed if args.seed is None else args.seed
    tracked = is_tracked(loaded.task.env)
    if args.figure is not None and not tracked:
        raise ConfigError(f"--figure: {loaded.task.env} tracks no velocity commands; expected one of {', '.join(G1)}")
    if tracked:
        from polystep_rl.walking import judge as walking

        check_test(args.episodes, seed)
        result = walking.judge(loaded, args.episodes, seed)
        if args.figure is not None:
            from polystep_rl.walking.demonstrate import draw

            result["figure"] = [str(path) for path in draw(loaded, args.figure, seed)]
    else:
        result = evaluate_on_test(loaded.env, loaded.policy, loaded.params, args.episodes, seed)
    if args.json:
        print_json(result)
    elif tracked:
        print(walking.described(f"{loaded.task.env} {loaded.policy.spec.precision}", result))
        if args.figure is not None:
            print(f"  figure               {', '.join(result['figure'])}")
    else:
        print(
            f"{loaded.task.env} {loaded.policy.spec.precision}: mean return {result['mean_return']:.2f} "
            f"+- {result['std_return']:.2f} (std), mean length {result['mean_length']:.1f}, "
            f"{result['episodes']} episodes"
        )
    return 0
