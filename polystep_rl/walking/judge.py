"""How ``polystep-rl eval`` judges policies that track velocity commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from polystep_rl.envs.robots.locomotion import commanded
from polystep_rl.rollout.recording import Recorded, record
from polystep_rl.runs.judging import simulator_facts
from polystep_rl.runs.task import keyword_arguments, make_env
from polystep_rl.training.state import streams
from polystep_rl.walking.pictures import COMMANDS
from polystep_rl.walking.tracking import tracking

if TYPE_CHECKING:
    from polystep_rl.runs.load import LoadedRun
    from polystep_rl.types import Env, HostEnv

SECONDS_PER_STEP = 0.02  # of the tasks' own control
LONG = 500  # steps: ten seconds


def seconds_per_step(loaded: LoadedRun) -> float:
    """Seconds between two actions in a run's task."""
    return float(keyword_arguments(loaded.task.env_kwarg).get("ctrl_dt", SECONDS_PER_STEP))


def varied(loaded: LoadedRun, options: Mapping[str, Any]) -> Env | HostEnv:
    """The environment of a run with some options of the task changed."""
    if not options:
        return loaded.env
    kept = [text for text in loaded.task.env_kwarg if text.partition("=")[0] not in options]
    return make_env(loaded.task._replace(env_kwarg=(*kept, *(f"{name}={value}" for name, value in options.items()))))


def judge(loaded: LoadedRun, episodes: int, seed: int) -> dict[str, Any]:
    """The task as it is, then without pushes, then told to stand without pushes; on episodes of the test stream."""
    seconds = seconds_per_step(loaded)

    def run(options: Mapping[str, Any]) -> Recorded:
        return record(varied(loaded, options), loaded.policy, loaded.params, episodes, streams(seed).test)

    recorded = run({})
    report = tracking(recorded, seconds)
    returns = recorded.reward.sum(axis=0)
    others = {"without_pushes": run({"push_enable": False}), "standing": run(commanded(COMMANDS["stand"]))}
    return {
        **report,
        "std_return": float(returns.std()),
        **{name: survival(found) for name, found in others.items()},
        **simulator_facts(loaded.env),
    }


def survival(recorded: Recorded) -> dict[str, float]:
    """How long episodes last: mean steps, the share that falls, the share of at least 500 steps."""
    length = recorded.alive.sum(axis=0)
    return {
        "mean_length": float(length.mean()),
        "fall_rate": float(recorded.fell.mean()),
        "long_rate": float(np.mean(length >= LONG)),
    }


def described(name: str, report: Mapping[str, Any]) -> str:
    """The report as lines for a terminal."""

    def within(key: str, digits: int) -> str:
        low, high = report[f"{key}_interval"]
        return f"{report[key]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    lines = [
        f"{name}: {report['episodes']} episodes, means and 95 % intervals",
        f"  task return          {within('mean_return', 2)}",
        f"  length, steps        {within('mean_length', 1)}",
        f"  falls                {within('fall_rate', 2)}",
    ]
    for title, key in (("without pushes", "without_pushes"), ("told to stand", "standing")):
        found = report[key]
        lines.append(
            f"  {title:<20} length {found['mean_length']:.1f}, falls {found['fall_rate']:.2f}, "
            f"{LONG} steps or more {found['long_rate']:.2f}"
        )
    for direction, found in report["directions"].items():
        if found["seconds"]:
            lines.append(
                f"  {direction:<20} error {found['linear_error']:.2f} m/s, {found['yaw_error']:.2f} rad/s "
                f"in {found['seconds']:.0f} s"
            )
    terms = sorted(report["reward_terms"].items(), key=lambda item: -abs(item[1]))
    if terms:
        lines.append("  reward terms         " + ", ".join(f"{name} {value:+.2f}" for name, value in terms[:6]))
    lines.append(f"  power                {report['power']:.0f} W")
    lines.append(f"  height of the pelvis {report['height']:.2f} m")
    return "\n".join(lines)
