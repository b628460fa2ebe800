"""Training that is shaped: a penalty for each step, and shorter episodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from support.commands import done
from support.host_runs import SMALL

from polystep_rl.records.metrics import read_metrics


@pytest.mark.parametrize("simulator", ["jax", "gymnasium"])
def test_only_training_is_cut(simulator: str, cli: Callable, tmp_path: Path) -> None:
    argv = ("train", "--env", "Pendulum-v1", "--simulator", simulator, "--workers", "0", *SMALL, "--generations", "2")
    cut = done(cli(*argv, "--train-horizon", "7", "--max-episode-steps", "20", "--run-dir", tmp_path / "run"))
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert [row["rollout/ep_len_mean"] for row in rows] == [7, 7]
    assert cut["eval"]["mean_length"] == 20 and cut["env_steps"] == 7 * cut["episodes"]


@pytest.mark.parametrize("simulator", ["jax", "gymnasium"])
def test_a_step_penalty_is_never_reported(simulator: str, cli: Callable, tmp_path: Path) -> None:
    """CartPole pays 1 a step: returns stay lengths, and a penalty of 1 leaves the search nothing to go by."""
    argv = ("train", "--env", "CartPole-v1", "--simulator", simulator, "--workers", "0", *SMALL, "--policy", "float32",
            "--generations", "3", "--eval-freq", "1", "--shaping", "none")  # fmt: skip
    runs = {penalty: tmp_path / f"run{penalty}" for penalty in ("0", "1", "2")}
    found = {p: done(cli(*argv, "--step-penalty", p, "--run-dir", run)) for p, run in runs.items()}
    for penalty, run in runs.items():
        summary = found[penalty]
        assert summary["eval"]["mean_return"] == summary["eval"]["mean_length"] > 0
        for row in read_metrics(run / "metrics.csv"):
            assert row["rollout/ep_rew_mean"] == row["rollout/ep_len_mean"] > 0
            assert row["eval/mean_reward"] == row["eval/mean_ep_length"] > 0
            assert penalty != "1" or row["search/displacement"] < 1e-6
        assert done(cli("eval", run, "--episodes", 4, "--json")) == summary["eval"]
    first = [read_metrics(run / "metrics.csv")[0] for run in runs.values()]
    assert len({row["rollout/ep_rew_mean"] for row in first}) == 1, "the first generation is the same"
    weights = [safetensors.numpy.load_file(run / "policy.safetensors") for run in runs.values()]
    assert any(not np.array_equal(weights[0][name], weights[2][name]) for name in weights[0])
