"""A policy from a run folder, or from a policy file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from polystep_rl.errors import ConfigError
from polystep_rl.policies import mlp_policy
from polystep_rl.policies.io import POLICY, SavedPolicy, find_policy, read_policy
from polystep_rl.runs.task import Task, make_env
from polystep_rl.settings.run import load_yaml
from polystep_rl.types import Env, HostEnv, Params, Policy


class LoadedRun(NamedTuple):
    """A policy from a run folder, or from a policy file of its own."""

    path: Path
    task: Task
    env: Env | HostEnv
    policy: Policy
    params: Params
    seed: int
    meta: dict[str, Any]


def load_run(path: Path, which: str | None = None) -> LoadedRun:
    """Load the best or the last policy of a run folder (default: the one it deploys), or a policy file's pair.

    Raises:
        ConfigError: nothing of that name.
        ValueError: damaged or foreign files.
    """
    bundle = (path / f"{POLICY}.json").exists() and not (path / "config.yaml").exists()
    try:
        path, folder = find_policy(path, which), path
    except ValueError as error:
        if path.is_dir():
            load_yaml(path / "config.yaml")  # says so where it is no run at all
        raise ConfigError(str(error)) from None
    seed = load_yaml(folder / "config.yaml").seed if folder.is_dir() and not bundle else 0
    saved: SavedPolicy = read_policy(path)
    if not isinstance(saved.meta.get("env"), str):
        raise ValueError(f"{path}: does not say for which environment it is")
    task = Task.of(saved.meta)
    return LoadedRun(path, task, make_env(task), mlp_policy(saved.spec), saved.params, seed, saved.meta)
