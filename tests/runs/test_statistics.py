"""Running statistics of the observations, on any simulator: they are saved with the policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest
import safetensors.numpy
import yaml
from support.commands import done
from support.host_runs import CARTPOLE, SMALL

from polystep_rl.moments import input_scales
from polystep_rl.policies import mlp_policy
from polystep_rl.policies.io import read_policy
from polystep_rl.records.metrics import read_metrics
from polystep_rl.rollout.calibration import random_action_moments
from polystep_rl.runs.task import CALIBRATION_SEED, Task, make_env
from polystep_rl.types import Moments

SIMULATORS = {
    "jax": ("--env", "Pendulum-v1", "--max-episode-steps", "50"),
    "gymnasium": ("--env", "CartPole-v1", "--simulator", "gymnasium", "--workers", "0"),
    "envpool": ("--env", "Pendulum-v1", "--simulator", "envpool", "--max-episode-steps", "50"),
    "envpool-no-crn": ("--env", "Pendulum-v1", "--simulator", "envpool", "--max-episode-steps", "50", "--no-crn"),
}
DEFAULT = (("jax", "int8"), ("gymnasium", "binary"), ("envpool", "float32"), ("envpool-no-crn", "int8"))
CASES = [
    pytest.param(simulator, policy, marks=() if (simulator, policy) in DEFAULT else pytest.mark.slow)
    for simulator in SIMULATORS
    for policy in ("float32", "int8", "binary")
]


@pytest.mark.filterwarnings("ignore:.*Box .*precision lowered")  # EnvPool's own
@pytest.mark.parametrize("simulator, policy", CASES)
def test_statistics_are_saved_with_the_policy(simulator: str, policy: str, cli: Callable, tmp_path: Path) -> None:
    if simulator.startswith("envpool"):
        pytest.importorskip("envpool")
    run = tmp_path / "run"
    argv = ("train", *SIMULATORS[simulator], *SMALL, "--policy", policy, "--observation-scale", "running")
    summary = done(cli(*argv, "--total-timesteps", "6000", "--eval-freq", "2000", "--run-dir", run))
    assert summary["simulator"] == simulator.partition("-")[0] and summary["crn"] is ("--no-crn" not in argv)

    tensors = safetensors.numpy.load_file(max((run / "checkpoints").iterdir()))
    moments = Moments(*(_one(tensors, f".moments.{name}") for name in Moments._fields))
    scales = input_scales(moments, yaml.safe_load((run / "config.yaml").read_text())["observation_unit"])
    last = read_policy(run / "policy")
    assert last.spec.obs_offset == tuple(np.asarray(scales["offset"]).tolist())
    assert last.spec.obs_scale == tuple(np.asarray(scales["scale"]).tolist())
    assert set(last.params) == {"0", "1"}, "constants, no parameters"

    env = make_env(load_task(run), "0")
    prior = random_action_moments(env, jax.random.key(CALIBRATION_SEED))
    assert float(moments.weight) == float(prior.weight) + summary["env_steps"], "living steps, and only those"

    again = done(cli("eval", run, "--episodes", 4, "--json"))
    assert again == summary["eval"]
    assert done(cli("eval", run / "best_policy.json", "--episodes", 4, "--json")) == summary["eval"]
    best, final = read_policy(run / "best_policy"), np.float32(final_evaluation(run))
    assert best.spec.obs_offset != last.spec.obs_offset or summary["best_eval_return"] == final


def _one(tensors: dict[str, np.ndarray], ending: str) -> np.ndarray:
    found = [value for name, value in tensors.items() if name.endswith(ending)]
    assert len(found) == 1, sorted(tensors)
    return found[0]


def final_evaluation(run: Path) -> float:
    return [row["eval/mean_reward"] for row in read_metrics(run / "metrics.csv") if row["eval/mean_reward"]][-1]


def load_task(run: Path) -> Task:
    return Task.of(read_policy(run / "policy").meta)


def test_a_binary_policy_in_gymnasium_needs_no_other_normaliser(cli: Callable, tmp_path: Path) -> None:
    """The policy in the file acts on the raw observations of Gymnasium's own loop, to the return that play reports."""
    run = tmp_path / "run"
    done(cli(*CARTPOLE, "--policy", "binary", "--workers", "0", "--observation-scale", "running", "--run-dir", run))
    saved, env = read_policy(run / "best_policy"), gymnasium.make("CartPole-v1", 60)
    act = jax.jit(mlp_policy(saved.spec).act)
    obs, _ = env.reset(seed=5)
    total, over = 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(int(act(saved.params, np.float32(obs))))
        total, over = total + float(reward), terminated or truncated
    assert done(cli("play", run, "--seed", 5, "--json"))["returns"] == [total]
