"""A robot that tracks velocities, shown: the film of ``polystep-rl play`` and the figure of ``polystep-rl eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polystep_rl.envs.robots.locomotion import commanded, poses
from polystep_rl.envs.robots.playground_models import scene
from polystep_rl.rollout.recording import Recorded, record
from polystep_rl.training.state import streams
from polystep_rl.walking.judge import seconds_per_step, survival, varied
from polystep_rl.walking.pictures import COMMANDS, Look, film, obeying, velocities

if TYPE_CHECKING:
    from polystep_rl.runs.load import LoadedRun

EPISODES = 64  # of each command, of which some are told something else
SECONDS = 10.0  # of the figure: after that the task gives another command


def demonstrate(loaded: LoadedRun, seed: int) -> dict[str, Recorded]:
    """Episodes of the test stream under each of the fixed commands, with noise and without pushes."""
    found = {}
    for name, command in COMMANDS.items():
        env = varied(loaded, commanded(command))
        recorded = record(env, loaded.policy, loaded.params, EPISODES, streams(seed).test)
        found[name] = recorded.only(obeying(recorded, command))
    return found


def draw(loaded: LoadedRun, path: Path, seed: int) -> list[Path]:
    """Draw commanded against measured velocity; PATH.svg and PATH.png, whichever of the two endings is given."""
    stem = path.with_suffix("") if path.suffix in (".svg", ".png") else path
    return velocities(demonstrate(loaded, seed), stem, seconds_per_step(loaded), SECONDS)


def show(loaded: LoadedRun, look: Look | None, seed: int) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The frames of a film (None: no film) of the first episode under each command, and what became of all of them."""
    shown = demonstrate(loaded, seed)
    report = {
        name: {
            "episodes": len(found.fell),
            "mean_return": float(found.reward.sum(axis=0).mean()),
            **survival(found),
        }
        for name, found in shown.items()
    }
    if look is None:
        return [], report
    model = scene(loaded.task.env)
    default = model.keyframe("knees_bent").qpos[7:]
    walks = {}
    for name, found in shown.items():
        length = int(found.alive[:, 0].sum())
        first = {metric: values[:length, 0] for metric, values in found.metrics.items()}
        walks[name] = poses(first, default, seconds_per_step(loaded))
    return film(model, walks, look), report
