"""Runs on simulators of the host, killed and resumed: bit for bit the run that was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from support.cases import mostly_slow
from support.commands import done
from support.host_runs import CARTPOLE, Killed, results

from polystep_rl.records.metrics import read_metrics
from polystep_rl.runs.observer import RunObserver

RESUMED = [("gymnasium", "episodes"), ("gymnasium", "running"), ("envpool", "running")]


@pytest.mark.filterwarnings("ignore:.*Box .*precision lowered")  # EnvPool's own
@pytest.mark.parametrize("simulator, scale", mostly_slow(RESUMED, lambda case: case[1] == "running"))
def test_killed_and_resumed(
    simulator: str,
    scale: str,
    cli: Callable,
    assert_same_run: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if simulator == "envpool":
        pytest.importorskip("envpool")
    argv = (*CARTPOLE, "--simulator", simulator, "--workers", "0", "--observation-scale", scale,
            "--train-horizon", "10", "--train-horizon-final", "60")  # fmt: skip
    full = done(cli(*argv, "--run-dir", tmp_path / "whole"))
    rows = read_metrics(tmp_path / "whole" / "metrics.csv")
    assert rows[0]["rollout/ep_len_mean"] <= 10 < rows[-1]["rollout/ep_len_mean"]
    first = next(i for i, row in enumerate(rows) if row["eval/mean_reward"] is not None)
    assert first + 2 < len(rows)
    honest = RunObserver.generations
    logged: list[Any] = []

    def generations(self: RunObserver, new: list[Any]) -> None:
        honest(self, new)
        logged.extend(new)
        if len(logged) > first + 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "generations", generations)
        with pytest.raises(Killed):
            cli(*argv, "--run-dir", tmp_path / "cut")
    assert len(read_metrics(tmp_path / "cut" / "metrics.csv")) > first + 1
    resumed = done(cli("train", "--resume", tmp_path / "cut", "--quiet", "--json"))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert results(resumed) == results(full)
    ends = [safetensors.numpy.load_file(max((tmp_path / run / "checkpoints").iterdir())) for run in ("whole", "cut")]
    assert ends[0].keys() == ends[1].keys()
    assert all(np.array_equal(ends[0][name], ends[1][name], equal_nan=True) for name in ends[0])
