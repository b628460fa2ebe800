"""A run that was killed and resumed, or extended, is bit for bit the run that was not."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.cases import mostly_slow

from polystep_rl.records.metrics import read_metrics
from polystep_rl.runs.observer import RunObserver

PAPER = ("--preset", "paper", "--episodes", "4", "--total-timesteps", "150000", "--eval-freq", "30000")
ADAM = ("--optimizer", "adam", "--learning-rate", "0.2", "--redraw-every", "0", "--subspace", "projection",
        "--subspace-size", "16", "--total-timesteps", "120000", "--eval-freq", "12000")  # fmt: skip
CMA = ("--algo", "cma_es", "--population", "6", "--episodes", "1", "--total-timesteps", "60000", "--eval-freq", "6000")
EGGROLL = ("--algo", "eggroll", *CMA[2:])
RACE = ("--starts", "3", "--start-generations", "5", "--observation-scale", "running", *CMA[-4:])
COMMON = ("train", "--env", "CartPole-v1", "--eval-episodes", "16", "--test-episodes", "16", "--stop-reward", "None",
          "--quiet", "--json")  # fmt: skip


class Killed(BaseException):
    """Raised where a power cut would be."""


def killed_after(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die between the metrics and the checkpoint of some generation."""
    logged = []
    honest = RunObserver.generations

    def generations(self: RunObserver, new: list) -> None:
        honest(self, new)
        logged.extend(new)
        if len(logged) >= rows:
            raise Killed

    monkeypatch.setattr(RunObserver, "generations", generations)


def within(rows: list[dict], budget: int) -> list[dict]:
    """The generations that a budget of env steps has room for: each begins only where one as long as the last fits."""
    steps = np.diff([0, *(row["env_steps"] for row in rows)])
    fits = [i == 0 or rows[i - 1]["env_steps"] + max(steps[i - 1], steps[i]) <= budget for i in range(len(rows))]
    return rows[: fits.index(False)]


@pytest.mark.parametrize(
    "settings",
    mostly_slow([(PAPER,), (ADAM,), (CMA,), (EGGROLL,), (RACE,)], lambda case: case[0] is RACE),
    ids=["paper", "adam", "cma_es", "eggroll", "race"],
)
def test_killed_and_resumed_then_extended(
    settings: tuple[str, ...], cli: Callable, assert_same_run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    full = cli(*COMMON, *settings, "--run-dir", whole)
    assert full.code == 0, full.err
    total = int(settings[settings.index("--total-timesteps") + 1])
    half = [str(total // 2) if x == str(total) else x for x in settings]
    first_half = within(read_metrics(whole / "metrics.csv"), total // 2)
    with monkeypatch.context() as patch:
        killed_after(len(first_half) - 1, patch)
        with pytest.raises(Killed):
            cli(*COMMON, *half, "--run-dir", cut)
    saved = [int(file.stem[11:]) for file in (cut / "checkpoints").iterdir()]
    assert max(saved) < len(read_metrics(cut / "metrics.csv")), "rows that the checkpoint does not know"
    finished = cli("train", "--resume", cut, "--quiet", "--json")
    assert finished.code == 0, finished.err
    assert finished.json["env_steps"] <= total // 2 and (cut / "DONE").exists()
    extended = cli("train", "--resume", cut, "--total-timesteps", total, "--quiet", "--json")
    assert extended.code == 0, extended.err
    assert_same_run(whole, cut)
    for key in ("env_steps", "candidates", "generations", "eval_env_steps", "stopped_by", "eval", "best_eval_return"):
        assert extended.json[key] == full.json[key]
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in (whole, cut)]
    assert configs[0] == configs[1]


def test_resuming_a_finished_run_changes_nothing(
    cli: Callable, assert_same_run: Callable, trained: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    again = cli("train", "--resume", copy, "--quiet", "--json")
    assert again.code == 0, again.err
    assert_same_run(trained, copy)


def test_a_killed_run_without_a_checkpoint_starts_over(
    cli: Callable, assert_same_run: Callable, trained: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    for file in [*(copy / "checkpoints").iterdir(), copy / "DONE", copy / "summary.json", *copy.glob("*policy.*")]:
        file.unlink()
    assert cli("train", "--resume", copy, "--quiet", "--json").code == 0
    assert_same_run(trained, copy)


def test_a_damaged_newest_checkpoint_costs_only_what_came_after_the_one_before(
    cli: Callable, assert_same_run: Callable, trained: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    newest = max((copy / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-100])
    assert cli("train", "--resume", copy, "--quiet", "--json").code == 0
    assert_same_run(trained, copy)


def test_wall_seconds_count_all_processes(cli: Callable, trained: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    outcome = cli(
        "train", "--resume", copy, "--total-timesteps", "None", "--wall-seconds", "0.001", "--quiet", "--json"
    )
    assert outcome.code == 0, outcome.err
    assert outcome.json["stopped_by"] == "wall_seconds"
    assert len(read_metrics(copy / "metrics.csv")) == len(read_metrics(trained / "metrics.csv"))


def test_another_stop_reward_forgets_the_streak(cli: Callable, short: tuple[str, ...], tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = cli("train", *short, "--run-dir", run, "--stop-reward", "5", "--json")
    assert first.json["stopped_by"] == "stop_reward"
    more = cli("train", "--resume", run, "--stop-reward", "499.5", "--quiet", "--json")
    assert more.json["stopped_by"] == "total_timesteps" and more.json["env_steps"] > first.json["env_steps"]
    assert yaml.safe_load((run / "config.yaml").read_text())["stop_reward"] == 499.5


@pytest.mark.slow
def test_sigkill_at_any_moment(cli: Callable, assert_same_run: Callable, tmp_path: Path) -> None:
    """Killed three times at random moments, then left to finish."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = ("--total-timesteps", "3000000", "--eval-freq", "15000")
    assert cli(*COMMON, *settings, "--run-dir", whole).code == 0
    base = [sys.executable, "-m", "polystep_rl"]
    start = [*base, *COMMON, *settings, "--run-dir", str(cut), "--cores", "2"]
    resume = [*base, "train", "--resume", str(cut), "--quiet", "--json", "--cores", "2"]
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng, kills = random.Random(seed), 0
    for attempt in range(3):
        process = subprocess.Popen(start if attempt == 0 else resume, stdout=subprocess.DEVNULL)
        known = len(list((cut / "checkpoints").glob("*"))) and max((cut / "checkpoints").glob("*"))
        while process.poll() is None:  # until it has come further, or at least has begun
            files = list((cut / "checkpoints").glob("*.safetensors"))
            if files and max(files) != known:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.6))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
    assert kills > 0, "the run is too short to be killed"
    done = subprocess.run(resume, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same_run(whole, cut)
