"""Environments that crash or return no numbers: one line, in every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.cases import mostly_slow
from support.commands import assert_one_line, done
from support.host_runs import BROKEN

from polystep_rl.policies.io import read_policy, save_policy


def test_check(cli: Callable, own_module: Path) -> None:
    mine = ("envs", "--check", "own_host_envs:Mine")
    assert_one_line(cli(*mine), (2,), "no time limit", "--max-episode-steps")
    assert done(cli(*mine, "--max-episode-steps", "5", "--env-kwarg", "pay=2", "--json"))["ok"] is True
    assert_one_line(cli(*mine, "--max-episode-steps", "5", "--env-kwarg", "play=2"), (2,), "play")
    slider = ("envs", "--check", "own_host_envs:Slider", "--max-episode-steps", "5", "--wrapper")
    assert done(cli(*slider, "RescaleAction(min_action=-1, max_action=1)", "--json"))["ok"] is True
    broken = ("envs", "--check", "own_host_envs:Broken", "--max-episode-steps", "5", "--env-kwarg")
    assert_one_line(cli(*broken, "how=nan observation"), (1,), "finite")
    assert_one_line(cli(*broken, "how=nan reward"), (1,), "the reward must be finite")


@pytest.mark.parametrize("how", ["reset", "step"])
def test_check_finds_what_raises(how: str, cli: Callable, own_module: Path) -> None:
    argv = ("envs", "--check", "own_host_envs:Broken", "--max-episode-steps", "5", "--env-kwarg", f"how={how}")
    assert_one_line(cli(*argv), (1,), "the joint is broken")


@pytest.mark.parametrize(
    "workers, how, scale",
    mostly_slow(
        [
            ("0", "reset", "none"),
            ("0", "step", "none"),
            ("2", "reset", "none"),
            ("2", "step", "none"),
            ("2", "step", "episodes"),
            ("0", "reset", "episodes"),
            ("0", "step", "episodes"),
            ("2", "reset", "episodes"),
        ],
        lambda case: (
            case
            in {("0", "step", "none"), ("2", "step", "none"), ("0", "reset", "episodes"), ("2", "reset", "episodes")}
        ),
    ),
)
def test_a_crashing_environment(
    workers: str, how: str, scale: str, cli: Callable, own_module: Path, tmp_path: Path
) -> None:
    argv = (*BROKEN, "--env-kwarg", f"how={how}", "--workers", workers, "--observation-scale", scale)
    outcome = cli(*argv, "--runs", tmp_path)
    assert_one_line(outcome, (1, 2), "own_host_envs:Broken", f"failed in {how}: RuntimeError: the joint is broken")
    assert ("5 times in a row" in outcome.err) == (workers == "2")


def test_a_crashing_environment_under_ppo(cli: Callable, own_module: Path, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    argv = ("train", "--env", "own_host_envs:Broken", "--max-episode-steps", "5", "--algo", "ppo", "--quiet", "--json")
    flags = ("--env-kwarg", "how=step", "--observation-scale", "none", "--workers", "0", "--total-timesteps", "3000")
    assert_one_line(cli(*argv, *flags, "--runs", tmp_path), (1,), "failed in step: RuntimeError: the joint is broken")


def test_rewards_that_are_no_numbers(cli: Callable, own_module: Path, tmp_path: Path) -> None:
    argv = (*BROKEN, "--env-kwarg", "how=nan reward", "--workers", "0", "--runs", tmp_path)
    assert_one_line(cli(*argv), (1,), "more than half of the returns were NaN", "polystep-rl envs --check")


def test_an_environment_that_crashes_in_play(cli: Callable, own_module: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done(cli(*BROKEN, "--env-kwarg", "how=well", "--workers", "0", "--generations", "1", "--run-dir", run))
    saved = read_policy(run / "policy")
    for how in ("reset", "step"):
        save_policy(tmp_path / how, saved.spec, saved.params, {**saved.meta, "env_kwarg": [f"how={how}"]})
        assert_one_line(cli("play", tmp_path / f"{how}.json"), (1,), f"in {how}: RuntimeError: the joint is broken")
