"""Training with arguments of the environment that change from stage to stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from support.cases import mostly_slow
from support.commands import done
from support.host_runs import OWN, results

from polystep_rl.policies.io import read_policy
from polystep_rl.records.metrics import read_metrics


@pytest.mark.parametrize("pay", mostly_slow(["1.0", "1:8", "3:3"], lambda case: case == "1:8"))
def test_training_has_arguments_of_its_own(pay: str, cli: Callable, own_module: Path, tmp_path: Path) -> None:
    """Paid more in training, from stage to stage, candidates rank as before: the same policies, the same reports."""
    argv = ("train", "--env", "own_host_envs:Mine", "--env-kwarg", "pay=0.5", *OWN, "--policy", "float32")
    found, rows, weights = [], [], []
    for name, more in (("plain", ()), ("paid", ("--train-env-kwarg", f"pay={pay}"))):
        run = tmp_path / name
        found.append(results(done(cli(*argv, *more, "--run-dir", run))))
        rows.append(read_metrics(run / "metrics.csv"))
        weights.append(safetensors.numpy.load_file(run / "policy.safetensors"))
        assert read_policy(run / "policy").meta["env_kwarg"] == ["pay=0.5"]
    assert found[0] == found[1] and 0 < found[0]["eval"]["mean_return"] <= 5
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    before, paid, (first, _, last) = 0, set(), pay.partition(":")
    for plain, more in zip(*rows, strict=True):
        stage = min(8 * before // 3000, 7)
        now = float(first) if not last else round(float(first) + (float(last) - float(first)) * stage / 7)
        assert more["rollout/ep_rew_mean"] == pytest.approx(now / 0.5 * plain["rollout/ep_rew_mean"])
        before, paid = int(plain["env_steps"]), {*paid, now}
    assert len(paid) == (8 if pay == "1:8" else 1), "every stage had its turn"
