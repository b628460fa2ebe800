"""How well a walking policy tracks its velocity commands, as roboticists measure it."""

from __future__ import annotations

from typing import Any

import numpy as np

from polystep_rl.analysis.stats import mean, stratified_bootstrap
from polystep_rl.rollout.recording import Recorded
from polystep_rl.types import TERM

DIRECTIONS = ("stand", "forward", "backward", "sideways", "turn")
AXES = ("x", "y", "yaw")
NEEDED = tuple(f"{kind}_{axis}" for kind in ("command", "velocity") for axis in AXES)
STANDING = 0.01  # a command shorter than this is to stand, as in the task's own reward


def direction(command: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Classify commands by what they mostly ask for: indices in ``DIRECTIONS``.

    Args:
        command: (..., 3), forward and left in m/s, turn in rad/s.
        reach: (3,), the largest command of each kind, with which they are compared.

    Returns:
        (...), int.
    """
    size = np.abs(command) / reach
    largest = size.argmax(-1)
    moving = np.select([largest == 1, largest == 2, command[..., 0] >= 0], [3, 4, 1], 2)
    return np.where(np.linalg.norm(command, axis=-1) < STANDING, 0, moving)


def tracking(recorded: Recorded, seconds_per_step: float, seed: int = 0) -> dict[str, Any]:
    """Task return, survival and tracking errors of some episodes, with 95 % bootstrap intervals over episodes.

    Args:
        recorded: with the metrics of `envs.locomotion.measured`.
        seconds_per_step: of control.
        seed: of the bootstrap.

    Returns:
        ``mean_return``, ``mean_length`` (steps), ``fall_rate``, each with its ``*_interval``; ``directions``: by name
        ``seconds`` alive under such commands and the root mean square error of the velocity, ``linear_error`` (m/s, of
        both horizontal components together) and ``yaw_error`` (rad/s), None where there was no such second; ``power``
        (W, mean while alive), ``height`` (m, of the pelvis, mean while alive); ``reward_terms``: what each term of the
        reward adds to the mean return.

    Raises:
        ValueError: the environment measures no velocities.
    """
    missing = [name for name in NEEDED if name not in recorded.metrics]
    if missing:
        raise ValueError(f"tracking needs the metrics {', '.join(NEEDED)}; the environment has no {missing[0]}")
    alive, m = recorded.alive, recorded.metrics
    episodes = {
        "mean_return": recorded.reward.sum(axis=0),
        "mean_length": alive.sum(axis=0).astype(float),
        "fall_rate": recorded.fell.astype(float),
    }
    report: dict[str, Any] = {"episodes": int(alive.shape[1])}
    for name, values in episodes.items():
        report[name] = float(values.mean())
        report[f"{name}_interval"] = list(stratified_bootstrap(values[:, None], mean, seed=seed))
    command, velocity = (np.stack([m[f"{kind}_{axis}"] for axis in AXES], -1) for kind in ("command", "velocity"))
    reach = np.maximum(np.abs(command[alive]).max(axis=0, initial=0.0), STANDING)
    kind, error = direction(command, reach), velocity - command
    report["directions"] = {
        name: _errors(error[alive & (kind == index)], seconds_per_step) for index, name in enumerate(DIRECTIONS)
    }
    for name in ("power", "height"):
        if name in m:
            report[name] = float(m[name][alive].mean())
    sums = {name.removeprefix(TERM): m[name].sum(axis=0).mean() for name in m if name.startswith(TERM)}
    report["reward_terms"] = {name: float(total) * seconds_per_step for name, total in sums.items()}
    return report


def _errors(error: np.ndarray, seconds_per_step: float) -> dict[str, float | None]:
    """Errors (k, 3) of the steps under one kind of command."""
    if not len(error):
        return {"seconds": 0.0, "linear_error": None, "yaw_error": None}
    square = (error**2).mean(axis=0)
    return {
        "seconds": len(error) * seconds_per_step,
        "linear_error": float(np.sqrt(square[0] + square[1])),
        "yaw_error": float(np.sqrt(square[2])),
    }
