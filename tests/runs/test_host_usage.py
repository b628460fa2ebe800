"""Bad usage of environments of the host is one line, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import assert_one_line
from support.host_runs import SLIDER

USAGE = {
    "env": (("--env", "CartPol-v1", "--simulator", "gymnasium"), "unknown environment 'CartPol-v1'", "CartPole-v1"),
    "env of nobody": (("--env", "Xyzzy-v1"), "unknown environment 'Xyzzy-v1'"),
    "simulator": (("--simulator", "gymnaisum"), "'gymnaisum'", "gymnasium"),
    "not in JAX": (("--env", "Hopper-v5", "--simulator", "jax"), "unknown environment 'Hopper-v5'"),
    "no value": ((*SLIDER, "--env-kwarg", "size"), "--env-kwarg size: expected name=value"),
    "no name": ((*SLIDER, "--env-kwarg", "=3"), "--env-kwarg =3: expected name=value"),
    "keyword": ((*SLIDER, "--env-kwarg", "size=3"), "'own_host_envs:Slider' cannot be made from these arguments"),
    "keyword of JAX": (("--env-kwarg", "size=3"), "'CartPole-v1' cannot be made from these arguments", "size"),
    "keyword missing": (("--env", "own_host_envs:Broken", *SLIDER[2:]), "cannot be made from these arguments", "how"),
    "no plain value": ((*SLIDER, "--env-kwarg", "size={1, 2}"), "must be plain values"),
    "wrapper": ((*SLIDER, "--wrapper", "RescaleActoin"), "unknown wrapper 'RescaleActoin': did you mean RescaleAction"),
    "wrapper syntax": ((*SLIDER, "--wrapper", "RescaleAction(1"), "must look like 'Name'"),
    "wrapper arguments": ((*SLIDER, "--wrapper", "RescaleAction(size=3)"), "cannot be put on", "size"),
    "wrapper of JAX": (
        ("--simulator", "jax", "--wrapper", "ClipAction"),
        "--wrapper needs --simulator gymnasium: jax has no wrappers",
    ),
    "own wrapper": ((*SLIDER, "--wrapper", "nowhere_at_all:W"), "cannot import wrapper 'nowhere_at_all:W'"),
    "no limit": (SLIDER[:2], "'own_host_envs:Slider' has no time limit of its own", "--max-episode-steps"),
    "limit 0": ((*SLIDER[:2], "--max-episode-steps", "0"), "max_episode_steps was 0, expected at least 1"),
    "unbounded": (("--env", "own_host_envs:Unbounded", *SLIDER[2:]), "is not bounded", "--wrapper"),
    "keyword of training": ((*SLIDER, "--train-env-kwarg", "size=3"), "cannot be made from these arguments"),
    "other spaces in training": (
        ("--env", "own_host_envs:Spaced", *SLIDER[2:], "--train-env-kwarg", "most=3"),
        "train_env_kwarg was most=3, expected arguments that leave the spaces of own_host_envs:Spaced as they are",
    ),
    "moving on a device": (
        ("--env", "CartPole-v1", "--simulator", "jax", "--train-env-kwarg", "size=1:2"),
        "train_env_kwarg was size=1:2, expected fixed values on this simulator",
        "--simulator envpool or gymnasium",
    ),
    "copies of bytes": (
        (*SLIDER, "--policy", "int8", "--weight-copies", "2"),
        "weight_copies was 2 with precision int8, expected at most 16 of a binary policy",
    ),
    "moving for ever": (
        (*SLIDER, "--train-env-kwarg", "size=1:2", "--total-timesteps", "None"),
        "train_env_kwarg was size=1:2 without total_timesteps: give both",
    ),
    "workers": ((*SLIDER, "--workers", "many"), "--workers many: expected auto, 0 (this process)"),
    "workers below": ((*SLIDER, "--workers", "-1"), "--workers -1: expected auto"),
    "workers half": ((*SLIDER, "--workers", "1.5"), "--workers 1.5: expected auto"),
    "workers of JAX": (
        ("--simulator", "jax", "--workers", "2"),
        "--workers 2 needs --simulator gymnasium: jax has no worker processes",
    ),
    "workers of nobody": (("--simulator", "jax", "--workers", "many"), "--workers many: expected auto"),
    "horizon": ((*SLIDER, "--train-horizon", "0"), "train_horizon was 0, expected at least 1"),
    "widen nothing": ((*SLIDER, "--init-widen", "2"), "init_widen was 2 without init"),
    "too long to grow": (
        (*SLIDER, "--train-horizon", "5", "--train-horizon-final", "9", "--total-timesteps", "3000000000"),
        "expected at most 2147483647 with train_horizon_final",
    ),
    "horizon to nowhere": ((*SLIDER, "--train-horizon-final", "9"), "train_horizon_final was 9 without train_horizon"),
    "penalty": ((*SLIDER, "--step-penalty", "nan"), "step_penalty was nan, expected a finite number"),
    "nan observations": (
        ("--env", "own_host_envs:Broken", *SLIDER[2:], "--workers", "0", "--env-kwarg", "how=nan observation"),
        "not one finite observation",
    ),
}


@pytest.mark.parametrize("argv, said", [(argv, said) for argv, *said in USAGE.values()], ids=USAGE)
def test_bad_usage(argv: tuple[str, ...], said: list[str], cli: Callable, own_module: Path) -> None:
    assert_one_line(cli("train", "--generations", "1", *argv), (2,), *said)
    assert {path.name for path in own_module.iterdir()} <= {"own_host_envs.py", "__pycache__"}, "nothing was written"
