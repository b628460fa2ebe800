"""PPO and DQN by the command line: the same run folder, budget and files as any search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import assert_one_line

pytest.importorskip("stable_baselines3")

from polystep_rl.policies import mlp_policy, read_policy
from polystep_rl.records.metrics import read_metrics

SHORT = ("--env", "CartPole-v1", "--policy", "int8", "--eval-freq", 1000, "--eval-episodes", 16, "--quiet", "--json")


@pytest.mark.parametrize("algo", ["ppo", "ppo-ste", "ppo-ptq", "dqn-ste"])
def test_a_run_leaves_what_every_run_leaves(algo: str, cli: Callable, tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = cli("train", "--algo", algo, *SHORT, "--total-timesteps", 3001, "--run-dir", out)
    assert outcome.code == 0, outcome.err
    summary = outcome.json
    assert 0.98 * 3001 <= summary["env_steps"] <= 3001
    assert (summary["candidates"], summary["generations"]) == (None, None)
    assert summary["eval"]["episodes"] == 256 and summary["episodes"] > 0
    rows = read_metrics(out / "metrics.csv")
    assert [row["env_steps"] // 1000 for row in rows][:3] == [1, 2, 3]
    assert all(row["eval/mean_reward"] is not None for row in rows)
    for name in ("policy", "best_policy"):
        saved = read_policy(out / name)
        assert saved.spec.precision == "int8" and mlp_policy(saved.spec).spec == saved.spec
    assert {"DONE", "summary.json", "config.yaml", "system_info.json"} <= {path.name for path in out.iterdir()}
    assert cli("eval", out, "--episodes", 16, "--json").code == 0


@pytest.mark.parametrize("algo, scale", [("ppo-ste", "bounds"), ("ppo-ste", "running"), ("ppo-ptq", "running")])
def test_deploy_last_and_best(algo: str, scale: str, cli: Callable, tmp_path: Path) -> None:
    """The reported return is that of the file that the settings deploy."""
    for deploy, file in (("last", "policy"), ("best", "best_policy")):
        out = tmp_path / deploy
        flags = ("--total-timesteps", 4000, "--run-dir", out, "--deploy", deploy, "--seed", 3)
        summary = cli("train", "--algo", algo, "--observation-scale", scale, *SHORT, *flags).json
        again = cli("eval", out / f"{file}.json", "--seed", 3, "--json").json
        assert again["mean_return"] == summary["eval"]["mean_return"]


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--resume", "x"), "no such run folder"),
        (("--generations", 3), "takes its budget in env steps"),
        (("--env", "Pendulum-v1", "--algo", "dqn"), "DQN needs a Discrete action space"),
        (("--learning-rate", -1), "learning_rate was -1.0"),
        (("--gamma", 2), "gamma was 2.0, expected at most 1"),
        (
            ("--train-horizon", 100),
            "train_horizon was 100 with ppo, which is one run on the environment's own episodes",
        ),
        (("--step-penalty", 0.5), "step_penalty was 0.5 with ppo"),
        (("--starts", 3), "starts was 3 with ppo, which is one run"),
        (("--policy", "binary", "--weight-copies", 4), "weight_copies was 4 with ppo"),
    ],
)
def test_what_does_not_fit(flags: tuple, said: str, cli: Callable, tmp_path: Path) -> None:
    outcome = cli("train", "--algo", "ppo", "--runs", tmp_path, "--total-timesteps", 3000, *flags)
    assert outcome.code in (1, 2) and said in outcome.err and outcome.err.count("\n") == 1, outcome.err


def test_the_best_policy_is_the_start_until_something_is_better(cli: Callable, tmp_path: Path) -> None:
    """As in a search: going on from a good policy with steps that only do harm."""
    flags = ("--env", "CartPole-v1", "--policy", "float32", "--hidden", 4, "--generations", 20, "--quiet", "--json")
    assert cli("train", *flags, "--stop-reward", 450, "--run-dir", tmp_path / "good").code == 0
    harm = ("--algo", "ppo", "--policy", "float32", "--learning-rate", 10, "--total-timesteps", 3000)
    outcome = cli("train", *SHORT, *harm, "--init", tmp_path / "good", "--run-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert rows[0]["env_steps"] == 0 and outcome.json["best_eval_return"] == rows[0]["eval/mean_reward"] > 300
    assert rows[-1]["eval/mean_reward"] < 300
    best, given = (read_policy(tmp_path / name) for name in ("run/best_policy", "good/best_policy"))
    assert np.array_equal(best.params["0"]["w"], given.params["0"]["w"])


TINY = ("--policy", "float32", "--quiet", "--json", "--n-envs", 4, "--n-steps", 32, "--batch-size", 64,
        "--total-timesteps", 512, "--eval-freq", 256, "--eval-episodes", 8, "--test-episodes", 8)  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "simulators"),
    [
        (("--env", "Catch-v0"), ("envpool", "envpool")),  # Gymnasium has no such task
        (("--env", "CartPole-v1", "--simulator", "envpool", "--no-crn"), ("envpool", "envpool")),
        (("--env", "CartPole-v1"), ("jax", "gymnasium")),
        (("--env", "Pendulum-v1", "--simulator", "envpool", "--algo", "sac"), ("envpool", "envpool")),
        (("--env", "FrozenLake-v1", "--workers", "0"), ("gymnasium", "gymnasium")),
    ],
)
def test_what_it_trains_on(flags: tuple, simulators: tuple, cli: Callable, tmp_path: Path, recwarn) -> None:
    if "gymnasium" not in simulators:
        pytest.importorskip("envpool")
    tiny = TINY if "sac" not in flags else (*TINY[:4], *TINY[10:])
    outcome = cli("train", "--algo", "ppo", *tiny, *flags, "--run-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert (outcome.json["simulator"], outcome.json["train_simulator"]) == simulators
    again = cli("train", "--algo", "ppo", *tiny, *flags, "--run-dir", tmp_path / "again")
    assert again.json["eval"] == outcome.json["eval"]
    files = [(tmp_path / run / "policy.safetensors").read_bytes() for run in ("run", "again")]
    assert files[0] == files[1]


def test_the_options_of_the_task_reach_its_lanes(cli: Callable, tmp_path: Path, recwarn) -> None:
    pytest.importorskip("envpool")
    flags = ("train", "--algo", "ppo", *TINY, "--env", "Catch-v0", "--env-kwarg")
    summary = cli(*flags, "height=5", "--run-dir", tmp_path / "low").json
    assert summary["episodes"] == 512 // 4  # it falls a row a step
    summary = cli(*flags, "height=5", "--max-episode-steps", 2, "--run-dir", tmp_path / "cut").json
    assert summary["episodes"] == 512 // 2 and summary["eval"]["mean_length"] == 2
    outcome = cli(*flags, "hight=5", "--simulator", "envpool", "--run-dir", tmp_path / "wrong")
    assert outcome.code == 2 and "EnvPool's Catch-v0 has no option 'hight': did you mean 'height'?" in outcome.err


def test_a_simulator_that_fails_ends_in_one_line(cli: Callable, tmp_path: Path, recwarn, monkeypatch) -> None:
    pytest.importorskip("envpool")
    from polystep_rl.envs.envpool_env import EnvPoolLanes

    def mad(lanes: EnvPoolLanes, group: int) -> Any:
        ticks = recv(lanes, group)
        return ticks if lanes.together else ticks._replace(reward=ticks.reward * np.nan)

    recv = EnvPoolLanes.recv
    monkeypatch.setattr(EnvPoolLanes, "recv", mad)
    outcome = cli("train", "--algo", "ppo", *TINY, "--env", "Catch-v0", "--run-dir", tmp_path / "run")
    assert_one_line(outcome, 1, "an episode was lost 5 times in a row", "its rewards are not finite")
