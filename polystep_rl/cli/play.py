"""``polystep-rl play RUN``: the policy in the original Gymnasium environment, or a robot at fixed commands."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from polystep_rl.cli.options import parse_options, print_json
from polystep_rl.errors import ConfigError
from polystep_rl.machine import setup_jax
from polystep_rl.runs.load import load_run
from polystep_rl.walking.pictures import write_film

if TYPE_CHECKING:
    from polystep_rl.runs.load import LoadedRun


@dataclass(frozen=True)
class PlayArgs:
    """Roll a trained policy in the Gymnasium environment of its id.

    A robot that tracks velocities (G1) is told to stand, to walk forward, backward and left, and to turn, instead, each
    in 64 episodes, whatever --episodes says; the first of them is written.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder, or a policy file."""
    gif: Path | None = None
    """Write the episode here; the ending says whether as .gif or as .mp4."""
    episodes: int = 1
    """Episodes to play; the first is the one that is written."""
    seed: int = 0
    """Seed of the first episode; the next ones count up."""
    max_steps: int | None = None
    """Steps to write at most; the horizon by default."""
    every: int = 2
    """Write every so many steps as a frame."""
    width: int | None = None
    """Width of the picture in pixels: 300 by default, 900 for a robot at all commands side by side."""
    which: Literal["best", "last"] | None = None
    """The best policy by held-out evaluation during training, or the last; by default the one that the run deploys."""
    json: bool = False
    """Print one JSON object as the last line of standard output, and nothing else there."""


def play_episode(env: Any, act: Any, seed: int, every: int = 0) -> tuple[float, int, list[Any]]:
    """One episode: (return, length, frames); every = 0 renders nothing. SimulatorError where the environment raises."""
    from polystep_rl.runs.task import its_own_error

    with its_own_error("reset"):
        obs, _ = env.reset(seed=seed)
    total, length = 0.0, 0
    frames: list[Any] = []
    while True:
        if every and length % every == 0:
            frames.append(env.render())
        action = act(obs)
        with its_own_error("step"):
            obs, reward, terminated, truncated, _ = env.step(action)
        total, length = total + float(reward), length + 1
        if terminated or truncated:
            return total, length, frames


def run(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    args = parse_options(PlayArgs, "play", argv)
    for name, least in (("episodes", 1), ("every", 1), ("width", 2), ("max_steps", 1), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: expected at least {least}")
    if args.gif is not None and args.gif.suffix.lower() not in (".gif", ".mp4"):
        raise ConfigError(f"--gif {args.gif}: expected a name that ends in .gif or .mp4")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # rendering needs no screen
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # which is read when MuJoCo is imported
    import gymnasium
    import jax
    import numpy as np

    from polystep_rl.envs.host.single import make_single
    from polystep_rl.envs.host.spaces import flat_observations, policy_actions
    from polystep_rl.envs.robots.locomotion import is_tracked
    from polystep_rl.runs.task import keyword_arguments

    setup_jax()
    loaded = load_run(args.run, args.which)
    task = loaded.task
    if is_tracked(task.env):
        return _play_walker(args, loaded)
    env = make_single(
        task.env,
        keyword_arguments(task.env_kwarg),
        task.wrapper,
        task.max_episode_steps,
        render_mode="rgb_array" if args.gif else None,
    )
    flatten, convert = flat_observations(env.observation_space)[1], policy_actions(env.action_space)[1]
    deployed = loaded.policy.deploy(loaded.params)
    controller = jax.jit(lambda obs: loaded.policy.act_deployed(deployed, obs))

    def act(obs: Any) -> Any:
        return convert(np.asarray(controller(flatten(obs))))

    results: list[tuple[float, int]] = []
    frames: list[Any] = []
    for episode in range(args.episodes):
        every = args.every if args.gif and episode == 0 else 0
        try:
            total, length, shown = play_episode(env, act, args.seed + episode, every)
        except gymnasium.error.DependencyNotInstalled as error:
            raise ValueError(f"rendering needs more packages: pip install 'polystep-rl[play]' ({error})") from None
        results.append((total, length))
        frames = frames or shown
    if args.gif:
        limit = None if args.max_steps is None else max(1, args.max_steps // args.every)
        write_film(args.gif, frames[:limit], args.every / env.metadata.get("render_fps", 30), args.width or 300)
    report: dict[str, Any] = {
        "env": task.env,
        "returns": [total for total, _ in results],
        "lengths": [length for _, length in results],
        "file": str(args.gif) if args.gif else None,
    }
    if args.json:
        print_json(report)
    else:
        mean = sum(report["returns"]) / len(results)
        where = f", written to {args.gif}" if args.gif else ""
        print(f"{task.env}: mean return {mean:.2f} over {len(results)} episode(s) of Gymnasium's own{where}")
    return 0


def _play_walker(args: PlayArgs, loaded: LoadedRun) -> int:
    """A robot at fixed commands."""
    from polystep_rl.walking.demonstrate import show
    from polystep_rl.walking.judge import seconds_per_step
    from polystep_rl.walking.pictures import Look

    look = Look(args.width or 900, args.every, args.max_steps or Look().steps) if args.gif else None
    frames, report = show(loaded, look, args.seed)
    if args.gif:
        write_film(args.gif, frames, args.every * seconds_per_step(loaded), frames[0].shape[1])
    if args.json:
        print_json({"env": loaded.task.env, "commands": report, "file": str(args.gif) if args.gif else None})
        return 0
    for name, found in report.items():
        print(
            f"{name:<10} return {found['mean_return']:7.2f}  length {found['mean_length']:6.1f}  "
            f"falls {found['fall_rate']:.2f}  ({found['episodes']} episodes without pushes)"
        )
    if args.gif:
        print(f"written to {args.gif}")
    return 0
