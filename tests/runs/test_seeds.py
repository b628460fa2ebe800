"""``train --seeds``: the runs that ``train --seed`` would have written, whatever can be merged."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cases import mostly_slow
from support.commands import assert_one_line, done

from polystep_rl.cli.options import parse_seeds
from polystep_rl.records.metrics import read_metrics

HEED_CTRL_C = ("env", "--default-signal=INT")  # a shell's background jobs ignore it


def folders(root: Path) -> dict[int, Path]:
    """Run folders by their seed."""
    return {int(path.name.split("__")[2]): path for path in root.iterdir()}


CASES = {
    "side by side": ("--stop-reward", "100"),
    "open_es": ("--algo", "open_es", "--policy", "float32"),
    "one by one": ("--observation-scale", "running", "--total-timesteps", "16000"),
}


@pytest.mark.parametrize("name", mostly_slow(CASES, lambda case: case == "side by side"))
def test_seeds_write_the_runs_of_each_alone(
    name: str, cli: Callable, short: tuple[str, ...], assert_same_run: Callable, tmp_path: Path
) -> None:
    flags = (*short, "--test-episodes", "8", *CASES[name], "--json")
    printed = done(cli("train", *flags, "--seeds", "0,2-3", "--runs", tmp_path / "together"))
    together = folders(tmp_path / "together")
    assert sorted(together) == [0, 2, 3] and printed["failed"] == []
    assert len({len(read_metrics(run / "metrics.csv")) for run in together.values()}) > 1, "they end at different times"
    returns = []
    for seed, summary in zip((0, 2, 3), printed["runs"], strict=True):
        alone = tmp_path / "alone" / str(seed)
        expected = done(cli("train", *flags, "--seed", seed, "--run-dir", alone))
        run = together[seed]
        assert_same_run(run, alone)
        assert (run / "DONE").exists()
        assert (run / "config.yaml").read_bytes() == (alone / "config.yaml").read_bytes()
        assert sorted(x.name for x in (run / "checkpoints").iterdir()) == sorted(
            x.name for x in (alone / "checkpoints").iterdir()
        )
        own = {"seed": seed, "run_dir": str(run), "wall_seconds": summary["wall_seconds"]}
        assert summary == expected | own
        assert {"seed": seed} | json.loads((run / "summary.json").read_text()) == summary
        returns.append(summary["eval"]["mean_return"])
    assert printed["mean_return"] == pytest.approx(sum(returns) / 3) and printed["worst_return"] == min(returns)


def test_batches_where_not_all_fit(
    cli: Callable, short: tuple[str, ...], assert_same_run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three seeds in two places: the last one has an empty place beside it."""
    from polystep_rl.runs import seeds

    monkeypatch.setattr(seeds, "MOST", 2)
    flags = (*short, "--stop-reward", "100", "--test-episodes", "8")
    told = cli("train", *(x for x in flags if x != "--quiet"), "--seeds", "0,2-3", "--runs", tmp_path / "runs")
    lines = told.out.splitlines()
    assert told.code == 0 and lines[-1].startswith("3 seeds: mean return"), told
    assert any(line.startswith("seed   2  gen ") for line in lines) and "eval" in lines[0]
    assert sum("fresh episodes" in line for line in lines) == 3
    done(cli("train", *flags, "--seed", 3, "--run-dir", tmp_path / "alone", "--json"))
    assert_same_run(folders(tmp_path / "runs")[3], tmp_path / "alone")


def test_ctrl_c_saves_every_seed_and_each_goes_on_alone(
    cli: Callable, assert_same_run: Callable, tmp_path: Path
) -> None:
    flags = "--env CartPole-v1 --stop-reward None --eval-freq 20000 --eval-episodes 8 --test-episodes 8 --cores 2"
    argv = ["train", *flags.split(), "--json", "--seeds", "0-1", "--total-timesteps", "1000000000"]
    process = subprocess.Popen(
        [*HEED_CTRL_C, sys.executable, "-m", "polystep_rl", *argv, "--runs", str(tmp_path / "runs")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while len(list((tmp_path / "runs").glob("*/checkpoints/*.safetensors"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err, err
    runs = folders(tmp_path / "runs")
    for summary in json.loads(out)["runs"]:
        run = runs[summary["seed"]]
        assert summary["stopped_by"] == "interrupt" and not (run / "DONE").exists()
        assert f"seed {summary['seed']} interrupted; continue with: polystep-rl train --resume {run}" in err
        assert read_metrics(run / "metrics.csv")[-1]["env_steps"] == summary["env_steps"] > 0
    budget = json.loads(out)["runs"][1]["env_steps"] + 40_000
    resumed = done(cli("train", "--resume", runs[1], "--total-timesteps", budget, "--json", "--quiet"))
    assert resumed["stopped_by"] == "total_timesteps" and (runs[1] / "DONE").exists()
    alone = tmp_path / "alone"
    same = (*flags.split(), "--total-timesteps", budget, "--seed", 1, "--json", "--quiet")
    done(cli("train", *same, "--run-dir", alone))
    assert_same_run(runs[1], alone)


def test_lists_of_seeds() -> None:
    assert parse_seeds("0-3") == [0, 1, 2, 3] and parse_seeds("7") == [7]
    assert parse_seeds("0,3,7-9") == [0, 3, 7, 8, 9] and parse_seeds("9, 2") == [9, 2]


BAD = {
    "5-2": "--seeds 5-2: expected such as 0-9 or 0,3,7-9",
    "": "--seeds : expected such as 0-9 or 0,3,7-9",
    "a": "--seeds a: expected such as 0-9 or 0,3,7-9",
    "-3": "--seeds -3: expected such as 0-9 or 0,3,7-9",
    "1,,2": "--seeds 1,,2: expected such as",
    "0-2,1": "each of them once",
    "4294967296": "of at most 4294967295",
    "0-4294967295": "at most 10,000 of them",
}


@pytest.mark.parametrize("given", BAD)
def test_bad_lists(given: str, cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(cli("train", "--generations", 1, f"--seeds={given}"), 2, BAD[given])
    assert not list(tmp_path.iterdir())


def test_what_excludes_seeds(cli: Callable, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for flags in (("--seed", "3"), ("--seed=0",), ("--run-dir", "x"), ("--resume", str(trained)), ("--track",)):
        said = f"--seeds and {flags[0].split('=')[0]} exclude each other"
        assert_one_line(cli("train", "--seeds", "0-1", *flags), 2, said)
    no_budget = ("train", "--seeds", "0-1", "--total-timesteps", "None")
    assert_one_line(cli(*no_budget), 2, "no budget: give --total-timesteps")
    assert not list(tmp_path.iterdir())


def test_a_seed_that_fails_is_named(cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sometimes.py").write_text(
        "import jax.numpy as jnp\n"
        "from polystep_rl.envs import make\n"
        "class Env:\n"
        "    def __init__(self):\n"
        "        self.inner = make('probe/Bandit-v0'); self.spec = self.inner.spec\n"
        "    def reset(self, key):\n"
        "        return self.inner.reset(key)\n"
        "    def step(self, state, action):\n"
        "        return self.inner.step(state, action)._replace(reward=jnp.float32(jnp.nan))\n"
    )
    monkeypatch.chdir(tmp_path)
    argv = ("train", "--env", "sometimes:Env", "--generations", 1, "--seeds", "4-5", "--test-episodes", 4, "--quiet")
    outcome = cli(*argv)
    assert outcome.code == 1 and outcome.err.count("\n") == 1, outcome.err
    assert "seed 4: generation 1: more than half" in outcome.err and "seed 5: generation 1" in outcome.err
