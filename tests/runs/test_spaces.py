"""Environments of the user's own: spaces of parts, wrappers, limits and arguments, in every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest
from support.commands import done
from support.host_runs import OWN, SMALL

from polystep_rl.envs.host.single import make_single
from polystep_rl.policies import mlp_policy
from polystep_rl.policies.io import read_policy
from polystep_rl.runs.task import keyword_arguments


def test_ppo_trains_on_spaces_that_are_flattened(cli: Callable, own_module: Path, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    flags = ("--algo", "ppo-ste", "--policy", "int8", "--hidden", "16", "--gamma", "0.5", "--learning-rate", "0.003")
    budget = ("--max-episode-steps", "5", "--total-timesteps", "12000", "--eval-freq", "6000", "--eval-episodes", "16")
    run = ("train", "--env", "own_host_envs:Mine", *flags, *budget, "--workers", "0", "--run-dir", tmp_path / "run")
    assert done(cli(*run, "--quiet", "--json"))["eval"]["mean_return"] > 8.5  # of 10; 4.2 by chance


def test_an_own_class_with_parts_and_groups(cli: Callable, own_module: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = ("train", "--env", "own_host_envs:Mine", "--env-kwarg", "pay=0.5", *OWN, "--policy", "int8")
    summary = done(cli(*argv, "--total-timesteps", "12000", "--eval-episodes", "32", "--run-dir", run))
    saved = read_policy(run / "best_policy")
    assert saved.spec.obs_size == 5 and saved.spec.groups == (3, 2) and saved.spec.head == "multidiscrete"
    # 5 steps of 0.5 for each part: guessing pays 5 * 0.5 * (1/3 + 1/2) = 2.1, knowing both 5.
    assert summary["best_eval_return"] > 3 and summary["eval"]["mean_length"] == 5
    assert done(cli("eval", run, "--episodes", 4, "--json")) == summary["eval"]
    pytest.importorskip("PIL.Image")
    played = done(cli("play", run, "--episodes", 2, "--seed", 3, "--gif", tmp_path / "film.gif", "--json"))
    assert played["lengths"] == [5, 5] and (tmp_path / "film.gif").stat().st_size > 0
    single = make_single("own_host_envs:Mine", {"pay": 0.5}, (), 5)
    act = jax.jit(mlp_policy(saved.spec).act)
    for seed, played_return in zip((3, 4), played["returns"], strict=True):
        obs, total, over = single.reset(seed=seed)[0], 0.0, False
        while not over:
            row = gymnasium.spaces.flatten(single.observation_space, obs).astype(np.float32)
            obs, reward, _, over, _ = single.step(np.asarray(act(saved.params, row)))
            total += float(reward)
        assert total == played_return


def test_wrappers_and_limits_reach_every_command(cli: Callable, own_module: Path, tmp_path: Path) -> None:
    wrapper = "RescaleAction(min_action=-1, max_action=3)"
    run = tmp_path / "run"
    argv = ("train", "--env", "own_host_envs:Slider", "--wrapper", wrapper, *OWN, "--policy", "int8")
    summary = done(cli(*argv, "--max-episode-steps", "7", "--run-dir", run))
    saved = read_policy(run / "best_policy")
    assert saved.spec.action_low == (-1,) and saved.spec.action_high == (3,)
    assert saved.meta["wrapper"] == [wrapper] and saved.meta["max_episode_steps"] == 7
    assert summary["eval"]["mean_length"] == 7
    assert done(cli("eval", run, "--episodes", 4, "--json")) == summary["eval"]
    assert done(cli("play", run, "--json"))["lengths"] == [7]
    # The search finds the target, which is at 5 of -2 to 6, hence at 2.5 of -1 to 3.
    assert summary["best_eval_return"] > 7 * -2.0


def test_environment_arguments_one_by_one(cli: Callable) -> None:
    shown = cli("train", "--env-kwarg", "a=1", "--env-kwarg", "b=x", "--show-config", "--json")
    assert done(shown)["env_kwarg"] == ["a=1", "b=x"]


def test_environment_arguments_are_values() -> None:
    """Above all, "false" is no text: a text is true."""
    given = ("a=false", "b=True", "c=NONE", "d=0.5", "e='false'", "f=hard", "g=x=y")
    expected = {"a": False, "b": True, "c": None, "d": 0.5, "e": "false", "f": "hard", "g": "x=y"}
    assert keyword_arguments(given) == expected


@pytest.mark.parametrize("env", ["own_host_envs:mine/Mine-v0", "own_host_envs:limited"])
def test_ids_and_functions_of_a_module(env: str, cli: Callable, own_module: Path, tmp_path: Path) -> None:
    argv = ("train", "--env", env, "--workers", "0", *SMALL, "--generations", "1", "--runs", tmp_path)
    assert done(cli(*argv))["simulator"] == "gymnasium"


@pytest.mark.parametrize("env", ["own_host_envs:mine/Mine-v0", "own_host_envs:limited"])
def test_ids_and_functions_of_a_module_when_gymnasium_is_named(
    env: str, cli: Callable, own_module: Path, tmp_path: Path
) -> None:
    argv = ("train", "--env", env, "--simulator", "gymnasium", "--workers", "0", *SMALL, "--generations", "1")
    assert done(cli(*argv, "--runs", tmp_path))["simulator"] == "gymnasium"
